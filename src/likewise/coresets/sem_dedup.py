"""SemDeDup (Abbas et al. 2023): of images that mean the same, keep one.

k-means cells make the search for near-copies affordable. Of the images of one meaning the one least like its centroid
is kept, the "hard" one: an image goes when one that is preferred to it is more similar than 1 - eps.

arXiv:2303.09540. The paper compares within cells only and so misses pairs across a border; here these are found too.
What eps means is up to the features: those of an encoder hardly trained are all alike, and little would be left.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, check, unit
from likewise.coresets.clusters import cluster
from likewise.coresets.near import compared
from likewise.coresets.ucs import toward
from likewise.errors import DataError, UsageError
from likewise.types import Selection


def sem_dedup(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
    eps: float | None = 0.05,
    n_clusters: int | None = None,
    keep: str = "hard",
) -> Selection:
    """Leave out each image that has a cosine similarity above 1 - `eps` to one that is preferred to it.

    Preferred are images `chosen` already, then those least similar to their centroid (keep="hard"), or most ("easy").
    Picks come in order of novelty: those with the least similarity to any preferred image first, which is what a larger
    eps would keep. At most `budget` images are picked (100% gives the pool without its duplicates); `meta["stopped"]`
    says when fewer are left. With eps=None near-copies come last instead of being left out. `gains` are 1 - similarity
    to the most similar preferred image, compared within the cell and, as far as eps, across its borders. Raises
    DataError if all are near-copies of images chosen.
    """
    if eps is not None and not 0 <= eps < 1:
        raise UsageError(f"eps={eps}: must be at least 0 and below 1, or none")
    n = len(x)
    chosen = check(n, budget, chosen).to(x.device)
    rows = unit(x, memory)
    cells = cluster(rows, n_clusters, seed=seed, keys=keys)
    directions = unit(cells.centres, memory)[:]
    spread = [1 - (block * directions[cells.cell[span]]).sum(1) for span, block in rows.blocks(2 * x.shape[1])]
    wanted = toward(torch.cat(spread).round(decimals=9), keep)
    wanted[chosen] = torch.inf
    precedence = torch.empty(n, dtype=torch.int64, device=x.device)
    precedence[wanted.argsort(descending=True, stable=True)] = torch.arange(n, device=x.device)

    closest = torch.full((n,), -1.0, dtype=torch.float64, device=x.device)  # cosine to the preferred ones
    for ids, others, cosine in compared(rows, cells, eps or 0.0):
        before = precedence[ids, None] < precedence[others]
        _raise(closest, others, cosine.masked_fill(~before, -1.0).amax(0))
        if cells.cell[ids[0]] != cells.cell[others[0]]:  # a pair of two cells comes only once
            _raise(closest, ids, cosine.masked_fill(before, -1.0).amax(1))
    novelty = (1 - closest).round(decimals=9).clamp(min=0)
    novelty[chosen] = -1
    line = torch.from_numpy(np.lexsort((precedence.cpu().numpy(), -novelty.cpu().numpy())))
    line = line[: n - len(chosen)]
    meta = {}
    if eps is not None:
        line = line[(novelty[line] >= eps).cpu()]
        if not len(line):
            raise DataError(f"sem-dedup, eps={eps}: every image is a near-copy of one chosen; nothing is left to pick")
        if len(line) < budget:
            meta["stopped"] = f"only {len(line):,} images are left without near-copies"
    picks = line[:budget]
    return Selection(picks.numpy(), novelty.cpu()[picks].numpy(), meta=meta)


def _raise(values: Tensor, ids: Tensor, to: Tensor) -> None:
    values[ids] = torch.maximum(values[ids], to)
