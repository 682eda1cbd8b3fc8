"""ProbCover (Yehuda et al. 2022): which images to label first, so that most others lie close to one of them.

Around every image a ball; pick the one whose ball holds the most images not covered yet. The radius is the largest at
which most balls hold images of one kind only, k-means clusters standing in for kinds.

arXiv:2205.11320. No graph is kept: each image is covered once, and only then is it taken off the counts of all balls
that hold it, so that the whole greedy costs two passes over all pairs.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, TIE, Rows, centred, check, squared_distances
from likewise.coresets.checkpoint import Checkpoint
from likewise.coresets.clusters import cluster, tiles
from likewise.coresets.turns import shuffled
from likewise.errors import UsageError
from likewise.types import Selection

PURE = 0.95  # of the balls, at the radius sought
QUERIES = 2000  # balls by which the purity is estimated


def probcover(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    checkpoint: Checkpoint | None = None,
    keys: Int[Tensor, " n"] | None = None,
    radius: float | None = None,
    n_clusters: int | None = None,
) -> Selection:
    """Cover as many images as possible with balls of `radius`, by the Euclidean distance of x as given.

    By default the radius is the largest at which 95 % of the balls lie within one of `n_clusters` clusters, and is in
    `meta`. `gains` are the numbers of images newly covered; equals go by an order drawn by (seed, key). What lies near
    images `chosen` already is covered. When all is covered, the rest is picked at random.
    """
    if radius is not None and radius < 0:
        raise UsageError(f"radius={radius}: must be at least 0")
    n = len(x)
    chosen = check(n, budget, chosen).to(x.device)
    rows = centred(x, memory)
    order = shuffled(n, seed, keys, "probcover").to(x.device)
    if radius is None:
        radius = _pure_radius(rows, cluster(rows, n_clusters, seed=seed, keys=keys).cell, order[:QUERIES])
    reach = radius**2 * (1 + 2 * TIE)
    everything = torch.arange(n, device=x.device)
    first = torch.empty_like(everything)
    first[order] = everything.flip(0)  # the earlier in the order, the larger
    uncovered = torch.ones(n, dtype=torch.bool, device=x.device)
    taken = ~uncovered
    for at in chosen.tolist():
        uncovered[_ball(rows, at, reach)] = False
    taken[chosen] = True
    picks: list[int] = []
    gains: list[int] = []
    if checkpoint is not None and checkpoint.kept:
        kept = checkpoint.kept
        picks, gains = kept["picks"].tolist(), kept["gains"].tolist()
        uncovered, counts = (torch.from_numpy(kept[name]).to(x.device) for name in ("uncovered", "counts"))
        taken[picks] = True
    else:
        counts = _counts(rows, everything[uncovered], reach)
    while len(picks) < budget:
        at = int((counts * n + first).masked_fill_(taken, -1).argmax())
        if not counts[at]:
            rest = order[~taken[order]][: budget - len(picks)].tolist()
            picks, gains = picks + rest, gains + [0] * len(rest)
            break
        picks.append(at)
        gains.append(int(counts[at]))
        taken[at] = True
        ball = _ball(rows, at, reach)
        new = ball[uncovered[ball]]
        uncovered[new] = False
        counts -= _counts(rows, new, reach)
        if checkpoint is not None:
            checkpoint.keep(picks=picks, gains=gains, uncovered=uncovered, counts=counts)
    return Selection(np.array(picks, dtype=np.int64), np.array(gains, dtype=np.float64), meta={"radius": radius})


def _ball(rows: Rows, at: int, reach: float) -> Int[Tensor, " m"]:
    one = rows[[at]]
    square = one.square().sum(1)
    inside = [squared_distances(block, one, square)[:, 0] <= reach for _, block in rows.blocks(3)]
    return torch.cat(inside).nonzero()[:, 0]


def _counts(rows: Rows, ids: Int[Tensor, " m"], reach: float) -> Int[Tensor, " n"]:
    """How many of the images `ids` lie within reach of each image."""
    counts = torch.zeros(len(rows.x), dtype=torch.int64, device=ids.device)
    for piece in tiles(ids, rows):
        some = rows[piece]
        squares = some.square().sum(1)
        for span, block in rows.blocks(3 * len(some)):
            counts[span] += (squared_distances(block, some, squares) <= reach).sum(1)
    return counts


def _pure_radius(rows: Rows, cell: Int[Tensor, " n"], queries: Int[Tensor, " q"]) -> float:
    """A ball is pure up to the nearest image of another cluster: the radius is a quantile of those distances."""
    nearest = []
    for mine in tiles(queries, rows):
        block, least = rows[mine], torch.full((len(mine),), torch.inf, dtype=torch.float64, device=cell.device)
        for span, others in rows.blocks(3 * len(mine)):
            squares = squared_distances(block, others, others.square().sum(1))
            squares.masked_fill_(cell[mine, None] == cell[span], torch.inf)
            least = torch.minimum(least, squares.amin(1))
        nearest.append(least)
    ordered = torch.cat(nearest).sort().values
    edge = ordered[int((1 - PURE) * len(ordered))]
    short = edge * (1 - 8 * TIE)  # two images that are each other's nearest have the same distance, to a tie
    below = torch.cat([short[None], ordered[ordered < short]])[-1]
    between = torch.stack([below, edge]).sqrt().mean()
    if between.isfinite():
        return float(between)
    return 2 * max(float(block.square().sum(1).max()) for _, block in rows.blocks(rows.x.shape[1])) ** 0.5
