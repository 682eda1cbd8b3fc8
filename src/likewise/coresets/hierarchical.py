"""Hierarchical k-means curation (Vo et al. 2024): a sample that is even over what there is, not over how often.

k-means gives frequent concepts the most clusters. Clustering the centroids again, and again, flattens that towards
uniform over the support of the data. Then sample from the top down: every node shares its budget evenly among its
children, as far as they have images.

arXiv:2405.15613, from the paper. All levels here come from one flat k-means each, while the authors split their
largest.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, Rows, centred, check
from likewise.coresets.clusters import Clusters, assign, cluster
from likewise.coresets.turns import after, by_turns, places, shuffled
from likewise.errors import UsageError
from likewise.types import Selection

LEAVES = ("random", "nearest")
POWERS = (0.7, 0.6, 0.5)  # of the number of images: the numbers of clusters


def hierarchical(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
    levels: list[int] | None = None,
    n_resamplings: int = 10,
    leaf: str = "random",
) -> Selection:
    """Share the budget evenly over a tree of k-means clusters, by the Euclidean distance of x as given.

    `levels`: the numbers of clusters, falling, the last one about the number of concepts that shall share equally; by
    default n^0.7, n^0.6, n^0.5 (10,000 images: 631, 251, 100). Above the lowest level, centres are placed anew
    `n_resamplings` times on the points nearest each of them, half of an average cluster, which takes density out of
    their places. In a lowest cluster images are picked at `random`, or the `nearest` to its centre first. Nodes take
    turns, so any prefix is the smaller sample; images `chosen` already had their turn. Gains are zero.
    """
    if leaf not in LEAVES:
        raise UsageError(f"leaf={leaf!r}: must be one of {', '.join(LEAVES)}")
    if n_resamplings < 0:
        raise UsageError(f"n_resamplings={n_resamplings}: must be at least 0")
    n = len(x)
    chosen = check(n, budget, chosen)
    if levels is None:
        levels = [max(round(n**power), 1) for power in POWERS]
    if not levels or any(k < 1 for k in levels) or levels != sorted(levels, reverse=True):
        raise UsageError(f"levels={levels}: expected falling numbers of clusters, each at least 1")
    rows = centred(x, memory)
    lowest = cluster(rows, levels[0], seed=seed, keys=keys)
    line = shuffled(n, seed, keys, "hierarchical").numpy()
    if leaf == "nearest":
        line = line[np.argsort(lowest.distance.cpu().numpy()[line].round(12), kind="stable")]
    line = after(line, chosen)

    nodes, centres = lowest.cell, lowest.centres
    line = after(by_turns(line, nodes.cpu().numpy()), chosen)
    for k in levels[1:]:
        used, nodes = nodes.unique(return_inverse=True)
        found = _level(centres[used], k, n_resamplings, seed, memory)
        nodes, centres = found.cell[nodes], found.centres
        line = after(by_turns(line, nodes.cpu().numpy()), chosen)
    picks = line[~np.isin(line, chosen.cpu().numpy())][:budget]
    return Selection(picks, np.zeros(budget))


def _level(points: Float[Tensor, "m d"], k: int, n_resamplings: int, seed: int, memory: int) -> Clusters:
    """Clusters of the centres below, their own centres placed again and again on what lies nearest to them."""
    rows = Rows(points, memory)
    found = cluster(rows, k, seed=seed)
    per_cluster = max(len(points) // (2 * k), 1)
    for _ in range(n_resamplings):
        farthest = found.distance.max().clamp(min=1e-300)
        line = (found.distance / farthest).round(decimals=9).argsort(stable=True).cpu().numpy()
        near = line[places(line, found.cell.cpu().numpy()) < per_cluster]
        found = assign(rows, cluster(Rows(points[torch.from_numpy(near)], memory), k, seed=seed).centres)
    return found
