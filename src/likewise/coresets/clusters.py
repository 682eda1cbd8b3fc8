"""k-means clusters as a means to an end: cells for balance, latent classes, and neighbours that need no full search.

The selector that picks one prototype per cluster is in k_means.py.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import TIE, Rows, spans, squared_distances
from likewise.coresets.turns import shuffled
from likewise.draws import Draws
from likewise.errors import UsageError

FIT = 64  # images per cluster that place its centre; more of them hardly move it
SIDE = 1024  # of a tile; larger ones gain nothing
START = 16  # images per cluster among which the first centres are sought


class Clusters(NamedTuple):
    centres: Float[Tensor, "k d"]
    cell: Int[Tensor, " n"]  # the nearest centre of each image, the lower number among equals
    distance: Float[Tensor, " n"]  # squared, to that centre


def cluster(
    rows: Rows,
    n_clusters: int | None = None,
    *,
    seed: int = 0,
    keys: Int[Tensor, " n"] | None = None,
    n_iterations: int = 10,
) -> Clusters:
    """Lloyd's algorithm from k-means++ starts; `n_clusters` defaults to the square root of the number of images.

    With more than 64 images per cluster, that many (the first drawn) place the centres, and then all images find
    their nearest. A cluster that runs empty stays where it was.
    """
    n = len(rows.x)
    k = max(round(n**0.5), 1) if n_clusters is None else min(n_clusters, n)
    if k < 1:
        raise UsageError(f"n_clusters={n_clusters}: must be at least 1")
    order = shuffled(n, seed, keys, "clusters").to(rows.x.device)
    fit = order[: FIT * k]
    centres = rows[_starts(rows, fit[: START * k], k, seed, keys)].clone()
    before = None
    for _ in range(n_iterations):
        sums, sizes, cells = torch.zeros_like(centres), torch.zeros_like(centres[:, 0]), []
        squares = centres.square().sum(1)
        for part in parts(fit, rows, 3 * k):
            block = rows[part]
            cell = nearest(block, centres, squares)[0]
            sums.index_add_(0, cell, block)
            sizes.index_add_(0, cell, torch.ones_like(block[:, 0]))
            cells.append(cell)
        now = torch.cat(cells)
        if before is not None and torch.equal(now, before):
            break
        before = now
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centres)
    return assign(rows, centres)


def _starts(rows: Rows, ids: Int[Tensor, " m"], k: int, seed: int, keys: Int[Tensor, " n"] | None) -> Int[Tensor, " k"]:
    """k-means++ (Arthur and Vassilvitskii 2007): the next start is drawn by the squared distance to those before.

    Each image has one waiting time, exponential and drawn by (seed, key), and the first in a race at the speed of its
    squared distance is next. Small clusters far away, which uniform starts would miss, so get a centre of their own.
    """
    named = ids.cpu() if keys is None else keys.cpu()[ids.cpu()]
    draws = Draws(seed, epoch=0, number=0, keys=named)
    waiting = -draws.image("coreset/clusters/race").reshape(-1).double().log().to(ids.device)
    starts = [int(ids[0])]
    distance = torch.full_like(waiting, torch.inf)
    pieces = parts(ids, rows, 3)
    held = [rows[piece] for piece in pieces] if 8 * len(ids) * rows.x.shape[1] <= rows.memory // 4 else None
    for _ in range(k - 1):
        last = rows[[starts[-1]]]
        square = last.square().sum(1)
        blocks = held or (rows[piece] for piece in pieces)
        new = torch.cat([squared_distances(block, last, square)[:, 0] for block in blocks])
        distance = torch.minimum(distance, new)
        distance[ids == starts[-1]] = -1
        starts.append(int(ids[(distance / waiting).argmax()]))
    return torch.tensor(starts, device=ids.device)


def assign(rows: Rows, centres: Float[Tensor, "k d"]) -> Clusters:
    """Every image to its nearest centre."""
    squares = centres.square().sum(1)
    found = [nearest(block, centres, squares) for _, block in rows.blocks(3 * len(centres))]
    return Clusters(centres, torch.cat([cell for cell, _ in found]), torch.cat([least for _, least in found]))


def nearest(
    block: Float[Tensor, "m d"], centres: Float[Tensor, "k d"], squares: Float[Tensor, " k"]
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """The nearest centre of each row, and the squared distance to it."""
    distances = squared_distances(block, centres, squares)
    least = distances.amin(1, keepdim=True)
    return (distances <= least * (1 + 2 * TIE)).view(torch.uint8).argmax(1), least[:, 0]


def parts(ids: Int[Tensor, " m"], rows: Rows, width: int) -> list[Int[Tensor, " b"]]:
    """The ids in pieces whose rows, with `width` numbers made of each, fit in half the memory."""
    return [ids[span] for span in spans(len(ids), width + 2 * rows.x.shape[1], rows.memory // 2)]


def tiles(ids: Int[Tensor, " m"], rows: Rows) -> list[Int[Tensor, " b"]]:
    """The ids in pieces such that all similarities between two pieces, a few times over, fit in half the memory."""
    side = min(math.isqrt(rows.memory // 64), rows.memory // (32 * rows.x.shape[1]), SIDE)
    return list(ids.split(max(side, 1))) if len(ids) else []


def members(cell: Int[Tensor, " n"], n_clusters: int) -> list[Int[Tensor, " m"]]:
    """The ids in each cell, in increasing order."""
    order = cell.argsort(stable=True)
    return list(order.split(torch.bincount(cell, minlength=n_clusters).tolist()))
