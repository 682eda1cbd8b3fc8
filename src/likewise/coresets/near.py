"""Near-duplicates by features: all pairs above a similarity, found exactly and without a matrix of all pairs.

The images are cut into k-means cells. Two images that lie closer than some distance are in the same cell, or both lie
that close to the plane halfway between their cells' centres; so each cell is compared with itself and with the visitors
that lie close enough to its border. All pairs are found, whatever the cells; the cells only save the others.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, Rows, squared_distances, unit
from likewise.coresets.clusters import Clusters, cluster, members, tiles
from likewise.errors import UsageError

_SAMPLE = 2_000  # images that tell how many are near the border of a cell
_LINKS = 1 << 20  # of images to others of their group, from which on they are made fewer
_VISIT = 64  # bytes that one of these takes while the lists are made


def near_pairs(
    x: Float[Tensor, "n d"], similarity: float, *, memory: int = MEMORY, keys: Int[Tensor, " n"] | None = None
) -> tuple[Int[np.ndarray, "p 2"], Float[np.ndarray, " p"]]:
    """All pairs of images whose cosine similarity is at least `similarity`, the lower id first; and the similarities.

    The result takes 24 bytes a pair beyond `memory`. Raises UsageError unless 0 < similarity <= 1.
    """
    check_similarity(similarity)
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


def _visitors(rows: Rows, cells: Clusters, reach: float) -> Iterator[Int[Tensor, " v"]]:
    """Of each cell, in order, the images of lower cells within reach of the border between the two.

    An image is (d(other)^2 - d(own)^2) / (2 |other - own|) away from the plane halfway between two centres. Cells are
    served some at a time, so many that by a sample of the images their lists take an eighth of the memory.
    """
    n, k = len(rows), len(cells.centres)
    sample = torch.arange(0, n, n // min(n, _SAMPLE, max(rows.memory // (128 * k), 1)), device=rows.x.device)
    few = 8 * k**2 <= rows.memory // 8
    between = squared_distances(cells.centres, cells.centres, cells.centres.square().sum(1)).sqrt() if few else None
    seen = int(_close(rows[sample], sample, slice(0, k), cells, between, reach).sum())
    most = max(int(rows.memory // 8 / (_VISIT * max(n * seen / len(sample), 1)) * k), 1)
    for start in range(0, k, most):
        hosts = slice(start, min(start + most, k))
        guests, hosted = [], []
        for span, block in rows.blocks(6 * (hosts.stop - start), hold=False):
            ids = torch.arange(span.start, span.stop, device=block.device)
            where = _close(block, ids, hosts, cells, between, reach).nonzero()
            guests.append(ids[where[:, 0]])
            hosted.append(where[:, 1])
        ids = torch.cat(guests)
        for order in members(torch.cat(hosted), hosts.stop - start):
            yield ids[order]


def _close(
    block: Float[Tensor, "m d"],
    ids: Int[Tensor, " m"],
    hosts: slice,
    cells: Clusters,
    between: Float[Tensor, "k k"] | None,
    reach: float,
) -> Bool[Tensor, "m h"]:
    """Which images, of lower cells, lie within reach of which hosts' borders."""
    centres, own = cells.centres[hosts], cells.cell[ids]
    squares = centres.square().sum(1)
    beyond = squared_distances(block, centres, squares) - cells.distance[ids, None]
    if between is None:
        gaps = squared_distances(cells.centres[own], centres, squares).sqrt()
    else:
        gaps = between[own, hosts]
    close = beyond <= 2 * (reach + 1e-9) * gaps + 1e-9
    return close & (torch.arange(hosts.start, hosts.stop, device=own.device) > own[:, None])


def near_groups(
    x: Float[Tensor, "n d"], similarity: float, *, memory: int = MEMORY, keys: Int[Tensor, " n"] | None = None
) -> list[tuple[Int[np.ndarray, " m"], float]]:
    """The images that `near_pairs` joins, directly or through others, and the lowest similarity of such a pair.

    Pairs are joined as they are found, so that even a pool of one image many times over fits in `memory`.
    """
    check_similarity(similarity)
    rows = unit(x, memory)
    cells = cluster(rows, keys=keys)

    def found() -> Iterator[tuple[Int[np.ndarray, "p 2"], Float[np.ndarray, " p"]]]:
        for one, other, cosine in compared(rows, cells, 1 - similarity):
            close = cosine >= similarity - 1e-9
            if one is other:
                close.fill_diagonal_(False)
            a, b = close.nonzero().T
            yield torch.stack([one[a], other[b]], 1).cpu().numpy(), cosine[a, b].cpu().numpy()

    return joined(found(), len(x))


def joined(
    found: Iterable[tuple[Int[np.ndarray, "p 2"], Float[np.ndarray, " p"]]], n: int
) -> list[tuple[Int[np.ndarray, " m"], float]]:
    """As `with_lowest`, of pairs that come some at a time and are not kept."""
    kept, held, most = [(np.empty((0, 2), np.int64), np.empty(0))], 0, _LINKS
    for pairs, values in found:
        if len(pairs):
            kept.append(_links(pairs, values))
            held += len(kept[-1][0])
        if held > most:
            kept = [_links(*_all(kept))]
            held = len(kept[0][0])
            most = max(_LINKS, 2 * held)
    return with_lowest(*_all(kept), n)


def _all(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([pairs for pairs, _ in parts]), np.concatenate([values for _, values in parts])


def _links(
    pairs: Int[np.ndarray, "p 2"], values: Float[np.ndarray, " p"]
) -> tuple[Int[np.ndarray, "m 2"], Float[np.ndarray, " m"]]:
    """One link to the first of its part for each image, whatever the number of pairs; the lowest value of the part."""
    names, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(-1, 2)
    lowest = _lowest(places, len(names))
    low = np.full(len(names), np.inf)
    np.minimum.at(low, lowest[places[:, 0]], values)
    return np.stack([names[lowest], names], 1), low[lowest]


def with_lowest(
    pairs: Int[np.ndarray, "p 2"], values: Float[np.ndarray, " p"], n: int
) -> list[tuple[Int[np.ndarray, " m"], float]]:
    """The groups that pairs make of n images, each with the lowest value of its pairs."""
    found = groups(pairs, n)
    number = np.full(n, -1)
    for i, group in enumerate(found):
        number[group] = i
    low = np.full(len(found), np.inf)
    np.minimum.at(low, number[pairs[:, 0]], values)
    return list(zip(found, low.tolist(), strict=True))


def groups(pairs: Int[np.ndarray, "p 2"], n: int) -> list[Int[np.ndarray, " m"]]:
    """Images joined by pairs, directly or through others: the ids of each group, in increasing order.

    >>> [group.tolist() for group in groups(np.array([[0, 3], [3, 4], [1, 5]]), 6)]
    [[0, 3, 4], [1, 5]]
    """
    lowest = _lowest(pairs, n)
    ids = np.unique(pairs)
    ids = ids[np.argsort(lowest[ids], kind="stable")]
    starts = np.flatnonzero(np.diff(lowest[ids], prepend=-1))
    return np.split(ids, starts[1:]) if len(ids) else []


def _lowest(pairs: Int[np.ndarray, "p 2"], n: int) -> Int[np.ndarray, " n"]:
    """The lowest id that each image is joined to, itself where it is joined to none."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    part = connected_components(graph, directed=False)[1]
    first = np.full(n, n)
    np.minimum.at(first, part, np.arange(n))
    return first[part]


def check_similarity(similarity: float) -> None:
    if not 0 < similarity <= 1:
        raise UsageError(f"similarity={similarity}: must be above 0 and at most 1")
