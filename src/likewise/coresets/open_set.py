"""Open-set selection: of a large pool, the images most like a small target set that one wants to do well on.

- `top_k`: for every target image in turn its nearest pool images, exactly. The yardstick.
- `simcore` (Kim, Bae, Yun 2023, arXiv:2303.11101): the same for centroids of the target, in rounds, until a round
  brings images much less similar than the first did.
- `bloom` (Singh et al. 2025, arXiv:2412.16942): top-k among those pool images whose binary code passes a Bloom filter
  that holds the target's codes.

Similarity is cosine. Similarities are told apart to 2^-26; below that the lower id is the more similar.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, Rows, check, unit
from likewise.coresets.clusters import cluster, parts
from likewise.draws import Draws, mix, normal, word
from likewise.errors import UsageError
from likewise.types import Selection

_STEPS = 1 << 26  # of similarity, each way from 0
_IDS = (1 << 32) - 1


def top_k(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    target: Float[Tensor, "t d"],
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
) -> Selection:
    """The nearest pool image of every target image, then every second nearest, and so on, each image once.

    Within a rank the most similar come first. Nothing is drawn. `gains` are (1 + cosine) / 2 to the target image that
    brought the pick.
    """
    chosen = check(len(x), budget, chosen)
    free = torch.ones(len(x), dtype=torch.bool, device=x.device)
    free[chosen] = False
    return _by_rank(unit(x, memory), unit(target, memory)[:], free, budget)


def simcore(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    target: Float[Tensor, "t d"],
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    n_centroids: int = 100,
    stop: float | None = 0.95,
) -> Selection:
    """In each round every centroid of the target takes its most similar pool image that is not taken yet.

    The k-means centroids (of target rows drawn by `seed`) stand for the target. Two centroids may take the same image.
    It ends before the budget is used up when the mean similarity of a round is below `stop` times that of the first
    one, if that was above 0; `meta["stopped"]` then says so. None never stops. Within a round the most similar come
    first. `gains` are (1 + cosine) / 2 to the centroid.

    The paper's code can take another round than the first as the reference (its patience); here it is the first.
    """
    if stop is not None and not 0 < stop <= 1:
        raise UsageError(f"stop={stop}: must be above 0 and at most 1, or none")
    if n_centroids < 1:
        raise UsageError(f"n_centroids={n_centroids}: must be at least 1")
    chosen = check(len(x), budget, chosen)
    rows = unit(x, memory)
    centroids = cluster(unit(target, memory), n_centroids, seed=seed).centres
    centroids = unit(centroids, memory)[:]
    free = torch.ones(len(x), dtype=torch.bool, device=x.device)
    free[chosen] = False
    picks: list[int] = []
    gains: list[float] = []
    meta: dict[str, Any] = {}
    first = None
    for number, (taken, similarity) in enumerate(_rounds(rows, centroids, free, budget), 1):
        mean = float(similarity.mean())
        first = mean if first is None else first
        if stop is not None and first > 0 and mean < stop * first:
            meta["stopped"] = f"round {number} was less than {stop} times as similar as the first"
            break
        meta["rounds"] = number
        order = np.lexsort((taken, -similarity))
        taken, similarity = taken[order], similarity[order]
        once = np.sort(np.unique(taken, return_index=True)[1])
        picks += taken[once].tolist()
        gains += ((1 + similarity[once]) / 2).tolist()
        if len(picks) >= budget:
            break
    return Selection(np.array(picks[:budget], np.int64), np.array(gains[:budget]), meta=meta)


def bloom(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    target: Float[Tensor, "t d"],
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    code_length: int | None = 16,
    false_positive_rate: float = 0.01,
) -> Selection:
    """`top_k` among the pool images whose binary code passes a Bloom filter that holds the codes of the target.

    A code is the signs of the image on `code_length` directions drawn by `seed`; None takes the signs of the features
    themselves, as the paper does, though so long a code is hardly ever shared by two images. Signs are told by the
    features as given: take the mean off those that are hardly ever negative (behind a ReLU) first. The filter has the
    textbook size for the target's distinct codes at `false_positive_rate`. Fewer than `budget` images come back when
    fewer pass.

    `meta` has the `pass_rate` of the pool and the `match_rate`, the share of the pool whose code the target really has.
    What passes beyond it passed by accident of hashing, and is as good as random.
    """
    if not 0 < false_positive_rate < 1:
        raise UsageError(f"false_positive_rate={false_positive_rate}: must be between 0 and 1")
    if code_length is not None and code_length < 1:
        raise UsageError(f"code_length={code_length}: must be at least 1, or none for the features' own signs")
    chosen = check(len(x), budget, chosen)
    rows, wanted = unit(x, memory), unit(target, memory)
    axes = _axes(x.shape[1], code_length, seed).to(x.device)
    inside = torch.cat([_codes(block, axes) for _, block in wanted.blocks(3 * len(axes))]).unique()
    codes = torch.cat([_codes(block, axes) for _, block in rows.blocks(3 * len(axes))])
    n_cells, n_hashes = filter_size(len(inside), false_positive_rate)
    passes = _passes(codes, inside, n_cells, n_hashes)
    free = passes.clone()
    free[chosen] = False
    n_free = int(free.sum())
    meta: dict[str, Any] = {
        "pass_rate": float(passes.double().mean()),
        "match_rate": float(torch.isin(codes, inside).double().mean()),
        "cells": n_cells,
        "hashes": n_hashes,
    }
    if n_free == 0 and passes.any():
        raise UsageError(f"chosen: holds all {int(passes.sum())} images that pass the filter; expected fewer of them")
    if n_free == 0:
        raise UsageError(
            f"code_length={code_length}: no image of the pool passes the filter; expected a shorter code or a higher "
            f"false_positive_rate than {false_positive_rate}"
        )
    if n_free < budget:
        meta["stopped"] = f"{n_free} images pass the filter"
    found = _by_rank(rows, wanted[:], free, min(budget, n_free))
    return Selection(found.indices, found.gains, meta=meta)


def filter_size(n_items: int, false_positive_rate: float) -> tuple[int, int]:
    """Cells and hash functions of a Bloom filter (Bloom 1970): -n ln p / (ln 2)^2, and ln 2 times the cells per item.

    >>> filter_size(1000, 0.01)
    (9586, 7)
    """
    n_cells = math.ceil(-n_items * math.log(false_positive_rate) / math.log(2) ** 2)
    return n_cells, max(round(n_cells / n_items * math.log(2)), 1)


def _axes(d: int, code_length: int | None, seed: int) -> Float[Tensor, "l d"]:
    if code_length is None:
        return torch.eye(d, dtype=torch.float64)
    draws = Draws(seed, epoch=0, number=0, keys=torch.empty(0, dtype=torch.int64))
    return normal(draws.step("coreset/bloom", code_length, d)).double()


def _codes(block: Float[Tensor, "m d"], axes: Float[Tensor, "l d"]) -> Int[Tensor, " m"]:
    """The signs on each axis, in one 64-bit word: the bits themselves up to 32 of them, a hash of them beyond."""
    bits = (block @ axes.T > 0).long()
    code = torch.zeros(len(block), dtype=torch.int64, device=block.device)
    for start in range(0, bits.shape[1], 32):
        part = bits[:, start : start + 32]
        value = (part << torch.arange(part.shape[1], device=block.device)).sum(1)
        code = mix(code + value) if bits.shape[1] > 32 else value
    return code


def _passes(codes: Int[Tensor, " n"], inside: Int[Tensor, " m"], n_cells: int, n_hashes: int) -> Bool[Tensor, " n"]:
    """Which codes test positive in a filter that holds those `inside`: all of these, and some by accident."""
    cells = torch.zeros(n_cells, dtype=torch.bool, device=codes.device)
    passes = torch.ones(len(codes), dtype=torch.bool, device=codes.device)
    for number in range(n_hashes):
        cells[mix(inside + word("bloom", number)).remainder(n_cells)] = True
    for number in range(n_hashes):
        passes &= cells[mix(codes + word("bloom", number)).remainder(n_cells)]
    return passes


def _by_rank(rows: Rows, queries: Float[Tensor, "q d"], free: Bool[Tensor, " n"], budget: int) -> Selection:
    """Every query's nearest, then every query's second nearest, and so on, until `budget` distinct ids are there."""
    n_free = int(free.sum())
    depth = min(2 * -(-budget // len(queries)), n_free)
    while True:
        # Of each image the first place that it has with any query: rank, then how far its similarity is from the best.
        place = np.full(len(free), np.iinfo(np.int64).max)
        for ids, similarity in _ranked(rows, queries, free, depth):
            places = (np.arange(depth) << 32) + (_STEPS * (1 - similarity)).astype(np.int64)
            np.minimum.at(place, ids.ravel(), places.ravel())
        found = np.flatnonzero(place < np.iinfo(np.int64).max)
        if len(found) >= budget or depth == n_free:
            picks = found[np.argsort(place[found], kind="stable")][:budget]
            return Selection(picks, 1 - (place[picks] & _IDS) / (2 * _STEPS))
        depth = 2 * depth if 8 * depth < n_free else n_free


def _rounds(
    rows: Rows, queries: Float[Tensor, "q d"], free: Bool[Tensor, " n"], budget: int
) -> Iterator[tuple[Int[np.ndarray, " q"], Float[np.ndarray, " q"]]]:
    """In each round the nearest free image of every query, and its similarity; they are not free in the next."""
    free = free.clone()
    depth = max(4 * -(-budget // len(queries)), 16)
    while free.any():
        blocks = _ranked(rows, queries, free, min(depth, int(free.sum())))
        ids, similarity = (np.concatenate(part) for part in zip(*blocks, strict=True))
        taken = np.zeros(len(rows.x), dtype=bool)
        at = np.zeros(len(ids), dtype=np.int64)
        while True:
            for q in range(len(ids)):
                while at[q] < ids.shape[1] and taken[ids[q, at[q]]]:
                    at[q] += 1
            if (at == ids.shape[1]).any():
                break  # a list is used up: search again among those that are still free
            found = ids[np.arange(len(ids)), at]
            taken[found] = True
            yield found, similarity[np.arange(len(ids)), at]
        free[torch.from_numpy(taken).to(free.device)] = False
        depth *= 2


def _ranked(
    rows: Rows, queries: Float[Tensor, "q d"], free: Bool[Tensor, " n"], depth: int
) -> Iterator[tuple[Int[np.ndarray, "q m"], Float[np.ndarray, "q m"]]]:
    """The `depth` free images most similar to each query, best first, and the similarities; some queries at a time.

    Similarity and id make one whole number, so that no two are equal and the size of a block cannot matter.
    """
    everyone = free.nonzero()[:, 0]
    for some in queries.split(max(rows.memory // (16 * (len(everyone) + 8 * depth)), 1)):
        numbers = torch.empty((len(some), len(everyone)), dtype=torch.int64, device=queries.device)
        start = 0
        for ids in parts(everyone, rows, 4 * len(some)):
            steps = (some @ rows[ids].T * _STEPS).round().long()
            numbers[:, start : start + len(ids)] = (steps << 32) | (_IDS - ids)
            start += len(ids)
        best = numbers.topk(depth).values
        yield (_IDS - (best & _IDS)).cpu().numpy(), (best >> 32).cpu().numpy() / _STEPS
