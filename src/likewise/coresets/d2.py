"""D2 pruning (Maharana et al. 2023): difficulty and diversity by messages on a graph of neighbours.

Each image's difficulty first grows by that of its neighbours, weighted by exp(-gamma distance): dense hard regions
stand out. Then the image with the highest score is picked, and its neighbours' scores fall by its own, weighted alike,
so that the next pick is elsewhere.

arXiv:2310.07931. The paper scores by a trained classifier; without `scores` the difficulty here is that of
prototypes.py. Scores are scaled to [0, 1] first, since messages would otherwise depend on where their zero is.
"""

import heapq

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, TIE, centred, check
from likewise.coresets.clusters import cluster, members
from likewise.coresets.neighbours import k_nearest
from likewise.coresets.prototypes import hardness
from likewise.errors import UsageError
from likewise.types import Selection

EXACT = 100_000  # images; beyond, neighbours are sought within clusters


def d2(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
    scores: Float[Tensor, " n"] | None = None,
    n_clusters: int | None = None,
    n_neighbours: int = 5,
    gamma: float = 0.1,
) -> Selection:
    """Pick what is hard and not yet represented, by the Euclidean distance of x as given.

    `scores`: higher is harder; by default the distance to the nearest of `n_clusters` centroids. Images `chosen`
    already send their messages first, in the order given. `gains` are the scores at the time of the pick, at least 0.
    Up to 100,000 images neighbours are exact; beyond that they are the nearest within the image's k-means cluster, and
    `meta` says so.
    """
    if n_neighbours < 1:
        raise UsageError(f"n_neighbours={n_neighbours}: must be at least 1")
    if not 0 <= gamma < float("inf"):
        raise UsageError(f"gamma={gamma}: must be at least 0")
    n = len(x)
    chosen = check(n, budget, chosen)
    if scores is None:
        scores, _ = hardness(x, n_clusters, seed=seed, memory=memory, keys=keys)
    values = scores.double().cpu().numpy()
    spread = values.max() - values.min()
    values = (values - values.min()) / spread if spread > 0 else np.zeros(n)
    rows = centred(x, memory)
    whole = n <= EXACT
    groups = [torch.arange(n)]
    if not whole:
        found = cluster(rows, n_clusters, seed=seed, keys=keys)
        groups = members(found.cell.cpu(), len(found.centres))
    near = np.full((n, n_neighbours), -1)
    weight = np.zeros((n, n_neighbours))
    for ids in groups:
        if len(ids) > 1:
            others, distance = k_nearest(rows, ids.to(x.device), n_neighbours)
            near[ids, : others.shape[1]] = ids[others.cpu()].numpy()
            weight[ids, : others.shape[1]] = torch.exp(-gamma * distance).cpu().numpy()

    score = values + (weight * values[near]).sum(1)
    taken = np.zeros(n, dtype=bool)
    for i in chosen.tolist():
        taken[i] = True
        np.subtract.at(score, near[i], weight[i] * max(score[i], 0.0))
    waiting = [(-_step(score[i]), i) for i in np.flatnonzero(~taken).tolist()]
    heapq.heapify(waiting)
    picks: list[int] = []
    gains: list[float] = []
    while len(picks) < budget:
        old, i = heapq.heappop(waiting)
        if taken[i]:
            continue
        now = -_step(score[i])
        if now != old:  # fell since it was put in line
            heapq.heappush(waiting, (now, i))
            continue
        picks.append(i)
        gains.append(max(float(score[i]), 0.0))
        taken[i] = True
        np.subtract.at(score, near[i], weight[i] * max(score[i], 0.0))
    meta = {} if whole else {"neighbours": f"within clusters, for {n:,} images are more than {EXACT:,}"}
    return Selection(np.array(picks, dtype=np.int64), np.array(gains), meta=meta)


def _step(score: float) -> int:
    """Scores that differ by less than a tie are equal."""
    return round(score / TIE)
