"""Taking turns: a balance that nests.

Images wait in line within their groups, and the groups take turns: first everybody's first image, then everybody's
second. Any prefix then holds equally many of each group, as far as the group has them, which is what "give each group
min(size, c), with c such that the budget is used up" asks for: the smaller coreset is the start of the larger one.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from likewise.draws import Draws


def shuffled(n: int, seed: int, keys: Int[Tensor, " n"] | None, name: str) -> Int[Tensor, " n"]:
    """All ids in an order drawn by (seed, key, name); `keys` default to row numbers."""
    keys = torch.arange(n) if keys is None else keys.cpu()
    return Draws(seed, epoch=0, number=0, keys=keys).bits(f"coreset/{name}").argsort(stable=True)


def places(line: Int[np.ndarray, " m"], groups: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Of the images as they stand in `line`, the place of each within its group, from 0.

    >>> places(np.array([3, 0, 1, 2]), np.array([7, 7, 5, 7])).tolist()
    [0, 1, 2, 0]
    """
    mine = groups[line]
    order = np.argsort(mine, kind="stable")
    first = np.r_[True, mine[order][1:] != mine[order][:-1]] if len(mine) else np.zeros(0, bool)
    start = np.maximum.accumulate(np.where(first, np.arange(len(mine)), 0))
    place = np.empty(len(mine), np.int64)
    place[order] = np.arange(len(mine)) - start
    return place


def by_turns(line: Int[np.ndarray, " m"], groups: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """The line with groups taking turns; within a turn as they stood.

    >>> by_turns(np.array([0, 1, 2, 3]), np.array([7, 7, 7, 5])).tolist()
    [0, 3, 1, 2]
    """
    return line[np.argsort(places(line, groups), kind="stable")]


def after(line: Int[np.ndarray, " n"], chosen: Int[Tensor, " m"]) -> Int[np.ndarray, " n"]:
    """The line with the chosen images at its head: what is picked next then continues from them."""
    held = chosen.cpu().numpy()
    return np.concatenate([held, line[~np.isin(line, held)]])
