"""TypiClust (Hacohen, Dekel, Weinshall 2022): which images to label first, when there are few labels.

As many clusters as there will be labels; of each, the largest that have none yet first, the most typical image: the one
whose neighbours are nearest on average.

arXiv:2202.02794.
"""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, centred, check
from likewise.coresets.clusters import cluster, members
from likewise.coresets.neighbours import k_nearest
from likewise.coresets.turns import after, by_turns
from likewise.errors import UsageError
from likewise.types import Selection

NEIGHBOURS = 20
SMALL = 5  # images; smaller clusters are left for last


def typiclust(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
    max_clusters: int = 500,
) -> Selection:
    """Pick typical images of clusters that have none, by the Euclidean distance of x as given.

    There are as many clusters as picks and images `chosen` already, at most `max_clusters`; then clusters take turns.
    The number of clusters follows the budget, so up to `max_clusters` a prefix is not what a smaller budget gives.
    `gains` are the typicalities, 1 / (1e-5 + mean distance to the nearest in the cluster: 20, or half of a
    smaller cluster).
    """
    n = len(x)
    chosen = check(n, budget, chosen)
    if max_clusters < 1:
        raise UsageError(f"max_clusters={max_clusters}: must be at least 1")
    rows = centred(x, memory)
    k = min(len(chosen) + budget, max_clusters, n)
    cell = cluster(rows, k, seed=seed, keys=keys).cell
    typical = np.zeros(n)
    for ids in members(cell, k):
        if len(ids) > 1:
            _, distance = k_nearest(rows, ids, min(NEIGHBOURS, max(len(ids) // 2, 1)))
            typical[ids.cpu()] = (1 / (distance.mean(1) + 1e-5)).cpu().numpy()
    cells = cell.cpu().numpy()
    size = np.bincount(cells, minlength=k)[cells]
    line = np.lexsort((np.arange(n), -typical.round(6), cells, -size))
    turns = by_turns(after(line, chosen), cells)
    turns = turns[np.argsort(size[turns] < SMALL, kind="stable")]
    picks = turns[~np.isin(turns, chosen.cpu().numpy())][:budget]
    return Selection(picks, typical[picks])
