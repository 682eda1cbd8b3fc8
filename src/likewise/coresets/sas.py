"""SAS (Joshi and Mirzasoleiman 2023): within each latent class, the images most similar to the rest of it.

For contrastive learning those images matter most whose augmentations are like those of others of their class. Of each
class V the subset S maximises F(S) = sum over i in V without S and j in S of s_ij, with s_ij the cosine similarity
where it is positive. `sas_cut` is that greedy. The released code instead subtracts what turns out to be always zero,
which amounts to sorting each class by its total similarities: `sas_rowsum` is that.

arXiv:2302.09195. Latent classes are labels, if given, or k-means clusters. The double greedy that refines the result
in the paper is left out.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, Rows, check, lowest_tie, unit
from likewise.coresets.clusters import cluster, members, parts, tiles
from likewise.coresets.turns import after, places
from likewise.errors import UsageError
from likewise.types import Selection

NOISE = 1e-12  # of the number of images of a class: gains closer than this are equal, even those next to zero

Rank = Callable[[Rows, Tensor, Tensor, int], tuple[list[int], list[float]]]


def sas_cut(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
    labels: Int[Tensor, " n"] | None = None,
    n_clusters: int | None = None,
) -> Selection:
    """Maximise the graph cut of the paper greedily in each latent class, which all give the same share of their images.

    The classes are `labels` (known for all images: none is -1), or else `n_clusters` (default: the square root of the
    number of images) k-means clusters.
    `gains` are the rises of F, in pick order; F is not monotone, so late ones may be negative. Images `chosen` already
    are part of S.
    """
    return _sas(x, budget, _cut, seed, memory, chosen, keys, labels, n_clusters)


def sas_rowsum(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
    labels: Int[Tensor, " n"] | None = None,
    n_clusters: int | None = None,
) -> Selection:
    """In each latent class the images with the largest total similarity to it: what the released code computes.

    As `sas_cut`, but nothing is subtracted for what S has already, so near-copies follow each other. `gains` are the
    totals.
    """
    return _sas(x, budget, _rowsum, seed, memory, chosen, keys, labels, n_clusters)


def _sas(
    x: Tensor,
    budget: int,
    rank: Rank,
    seed: int,
    memory: int,
    chosen: Tensor | None,
    keys: Tensor | None,
    labels: Tensor | None,
    n_clusters: int | None,
) -> Selection:
    chosen = check(len(x), budget, chosen).to(x.device)
    rows = unit(x, memory)
    if labels is None:
        cell = cluster(rows, n_clusters, seed=seed, keys=keys).cell
    elif bool((labels < 0).any()):
        unknown = int((labels < 0).sum())
        raise UsageError(
            f"labels: {unknown} of {len(x)} are below 0 (unknown); expected a class for each image, or none"
        )
    else:
        cell = labels.to(x.device).unique(return_inverse=True)[1]
    slots = _slots(cell.cpu().numpy(), chosen, budget)
    wanted = np.bincount(slots, minlength=int(cell.max()) + 1)
    picks, gains = np.empty(budget, np.int64), np.empty(budget)
    for c, ids in enumerate(members(cell, len(wanted))):
        if wanted[c]:
            held = torch.isin(ids, chosen)
            picked, rises = rank(rows, ids, held, int(wanted[c]))
            picks[slots == c], gains[slots == c] = picked, rises
    return Selection(picks, gains)


def _slots(cell: np.ndarray, chosen: Tensor, budget: int) -> np.ndarray:
    """The class of each pick. All classes give the same share: the r-th of m images is at (r + 1/2) / m of its class.

    This is Sainte-Lague's apportionment, and any prefix of it is that of the smaller budget.
    """
    line = after(np.arange(len(cell)), chosen)
    share = (places(line, cell) + 0.5) / np.bincount(cell)[cell[line]]
    order = np.lexsort((cell[line], share))
    order = order[order >= len(chosen)]
    return cell[line][order][:budget]


def _totals(rows: Rows, ids: Tensor) -> Tensor:
    """The sum of each image's positive similarities to the others of its class."""
    totals = []
    for piece in tiles(ids, rows):
        block = rows[piece]
        total = -(block * block).sum(1)  # not to itself
        for other in tiles(ids, rows):
            total = total + (block @ rows[other].T).clamp_(min=0).sum(1)
        totals.append(total)
    return torch.cat(totals)


def _rowsum(rows: Rows, ids: Tensor, held: Tensor, n_picks: int) -> tuple[list[int], list[float]]:
    totals = _totals(rows, ids).clamp(min=0).round(decimals=9)
    order = totals.masked_fill(held, -1).argsort(descending=True, stable=True)[:n_picks]
    return ids[order].tolist(), totals[order].tolist()


def _cut(rows: Rows, ids: Tensor, held: Tensor, n_picks: int) -> tuple[list[int], list[float]]:
    gains = _totals(rows, ids)
    for at in held.nonzero()[:, 0].tolist():
        _join(rows, ids, gains, at)
    picks, rises = [], []
    for _ in range(n_picks):
        at, top = lowest_tie(gains, noise=NOISE * len(ids))
        picks.append(int(ids[at]))
        rises.append(top)
        _join(rows, ids, gains, at)
    return picks, rises


def _join(rows: Rows, ids: Tensor, gains: Tensor, at: int) -> None:
    """One image joins S: what the others would gain falls by twice their similarity to it."""
    one, start = rows[ids[[at]]][0], 0
    for piece in parts(ids, rows, 2):
        gains[start : start + len(piece)] -= 2 * (rows[piece] @ one).clamp_(min=0)
        start += len(piece)
    gains[at] = -torch.inf
