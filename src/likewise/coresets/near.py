"""Near-duplicates by features: all pairs above a similarity, found exactly and without a matrix of all pairs.

The images are cut into k-means cells. Two images that lie closer than some distance are in the same cell, or both lie
that close to the plane halfway between their cells' centres; so each cell is compared with itself and with the visitors
that lie close enough to its border. All pairs are found, whatever the cells; the cells only save the others.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, Rows, squared_distances, unit
from likewise.coresets.clusters import Clusters, cluster, members, tiles
from likewise.errors import UsageError


def near_pairs(
    x: Float[Tensor, "n d"], similarity: float, *, memory: int = MEMORY, keys: Int[Tensor, " n"] | None = None
) -> tuple[Int[np.ndarray, "p 2"], Float[np.ndarray, " p"]]:
    """All pairs of images whose cosine similarity is at least `similarity`, the lower id first; and the similarities.

    The result takes 24 bytes a pair beyond `memory`. Raises UsageError unless 0 < similarity <= 1.
    """
    if not 0 < similarity <= 1:
        raise UsageError(f"similarity={similarity}: must be above 0 and at most 1")
    rows = unit(x, memory)
    cells = cluster(rows, keys=keys)
    pairs, cosines = [], []
    for one, other, cosine in compared(rows, cells, 1 - similarity):
        where = (cosine >= similarity - 1e-9).nonzero()
        a, b = one[where[:, 0]], other[where[:, 1]]
        once = (a < b) | (cells.cell[a] != cells.cell[b])
        pairs.append(torch.stack([torch.minimum(a, b), torch.maximum(a, b)], 1)[once])
        cosines.append(cosine[where[:, 0], where[:, 1]][once])
    found, values = torch.cat(pairs).cpu().numpy(), torch.cat(cosines).cpu().numpy()
    order = np.lexsort((found[:, 1], found[:, 0]))
    return found[order], values[order]


def compared(
    rows: Rows, cells: Clusters, apart: float
) -> Iterator[tuple[Int[Tensor, " a"], Int[Tensor, " b"], Float[Tensor, "a b"]]]:
    """Squares (ids, other ids, cosines) that hold all pairs of one cell, and of all others those with 1 - cosine at
    most `apart`. A pair of one cell comes in one square (where both ids are the same tensor) or twice, in either order;
    a pair of two cells comes once. `rows` are of length 1, or 0."""
    inside = members(cells.cell, len(cells.centres))
    for ids, visitors in zip(inside, _visitors(rows, cells, (2 * apart) ** 0.5), strict=True):
        pieces = tiles(ids, rows)
        for piece in pieces:
            block = rows[piece]
            for other in pieces:
                yield piece, other, block @ (block if other is piece else rows[other]).T
            for guests in tiles(visitors, rows):
                yield guests, piece, rows[guests] @ block.T


def _visitors(rows: Rows, cells: Clusters, reach: float) -> list[Int[Tensor, " v"]]:
    """Of each cell the images of lower cells within reach of the border between the two.

    An image is (d(other)^2 - d(own)^2) / (2 |other - own|) away from the plane halfway between two centres.
    """
    centres, cell = cells.centres, cells.cell
    squares = centres.square().sum(1)
    ids, hosts = [], []
    for span, block in rows.blocks(6 * len(centres)):
        own = cell[span]
        beyond = squared_distances(block, centres, squares) - cells.distance[span, None]
        gaps = squared_distances(centres[own], centres, squares).sqrt()
        close = beyond <= 2 * (reach + 1e-9) * gaps + 1e-9
        close &= torch.arange(len(centres), device=own.device) > own[:, None]
        where = close.nonzero()
        ids.append(where[:, 0] + span.start)
        hosts.append(where[:, 1])
    host = torch.cat(hosts)
    return [torch.cat(ids)[order] for order in members(host, len(centres))]


def groups(pairs: Int[np.ndarray, "p 2"], n: int) -> list[Int[np.ndarray, " m"]]:
    """Images joined by pairs, directly or through others: the ids of each group, in increasing order.

    >>> [group.tolist() for group in groups(np.array([[0, 3], [3, 4], [1, 5]]), 6)]
    [[0, 3, 4], [1, 5]]
    """
    lowest = np.arange(n)
    while True:
        joined = np.minimum(lowest[pairs[:, 0]], lowest[pairs[:, 1]])
        before = lowest.copy()
        np.minimum.at(lowest, pairs[:, 0], joined)
        np.minimum.at(lowest, pairs[:, 1], joined)
        lowest = lowest[lowest]
        if np.array_equal(lowest, before):
            break
    ids = np.unique(pairs)
    ids = ids[np.argsort(lowest[ids], kind="stable")]
    starts = np.flatnonzero(np.diff(lowest[ids], prepend=-1))
    return np.split(ids, starts[1:]) if len(ids) else []
