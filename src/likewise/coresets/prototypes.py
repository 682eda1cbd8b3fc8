"""SSL prototypes (Sorscher et al. 2022): how far an image is from the nearest k-means centroid is how hard it is.

Keep the hardest when images are plentiful, the easiest when they are scarce. arXiv:2206.14486.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, check, unit
from likewise.coresets.clusters import cluster
from likewise.coresets.ucs import toward
from likewise.errors import UsageError
from likewise.types import Selection


def prototypes(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
    keep: str = "hard",
    n_clusters: int | None = None,
    balance: float = 0.0,
) -> Selection:
    """Keep the images least similar to the nearest centroid ("hard"), or most ("easy"), by cosine similarity.

    `n_clusters` (the paper: the number of classes) defaults to the square root of the number of images. At every
    prefix, each cluster has at least `balance` times an equal share of the picks, as far as it has images, and gives
    its best ones; those `chosen` already count. 0 looks at difficulty alone, 1 shares equally. `gains` are the
    differences in difficulty to the end that is not wanted.
    """
    if not 0 <= balance <= 1:
        raise UsageError(f"balance={balance}: must be between 0 and 1")
    chosen = check(len(x), budget, chosen)
    difficulty, cell = hardness(x, n_clusters, seed=seed, memory=memory, keys=keys)
    wanted = toward(difficulty, keep)
    order = wanted.argsort(descending=True, stable=True)
    line = order[~torch.isin(order, chosen.to(order.device))].cpu().numpy()
    if balance:
        line = _with_shares(line, cell.cpu().numpy(), chosen.cpu().numpy(), balance, budget)
    picks = line[:budget]
    return Selection(picks, (wanted[picks] - wanted.min()).cpu().numpy())


def hardness(
    x: Float[Tensor, "n d"],
    n_clusters: int | None,
    *,
    seed: int,
    memory: int,
    keys: Int[Tensor, " n"] | None,
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """1 - cosine to the nearest centroid, which needs no label and no training; and the cluster of each image."""
    rows = unit(x, memory)
    found = cluster(rows, n_clusters, seed=seed, keys=keys)
    centres = unit(found.centres, memory)[:]
    parts = [1 - (block * centres[found.cell[span]]).sum(1) for span, block in rows.blocks(2 * x.shape[1])]
    return torch.cat(parts).round(decimals=9), found.cell  # equal images are equally hard, to the last bit


def _with_shares(line: np.ndarray, cell: np.ndarray, held: np.ndarray, balance: float, budget: int) -> np.ndarray:
    """The line, with images moved ahead just before their cluster would fall below its share.

    The q-th image of each of k clusters is due when q k / balance images are picked. The line goes on as it stands
    while it can; then the clusters that are behind send their next ones, the best first.
    """
    k = int(cell.max()) + 1
    counts = np.bincount(cell[held], minlength=k)
    of_line = cell[line]
    queues = [line[of_line == c].tolist()[::-1] for c in range(k)]
    position = np.empty(len(cell), np.int64)
    position[line] = np.arange(len(line))
    taken = np.zeros(len(cell), dtype=bool)
    picks: list[int] = []
    rest = iter(line.tolist())
    while len(picks) < min(budget, len(line)):
        total = len(held) + len(picks)
        quota = math.floor(balance * total / k) + 1
        for queue in queues:
            while queue and taken[queue[-1]]:
                queue.pop()
        behind = [(counts[c], queue[-1]) for c, queue in enumerate(queues) if queue and counts[c] < quota]
        least = min((count for count, _ in behind), default=quota - 1)  # below that where the chosen are one-sided
        # With nobody behind the line goes on, even where rounding says that the next share is due already.
        n_free = max(math.ceil(quota * k / balance) - total - len(behind), 0 if behind else 1)
        if n_free > 0 and least == quota - 1:
            batch: list[int] = []
            while len(batch) < n_free and (i := next(rest, None)) is not None:
                if not taken[i]:
                    batch.append(i)
        else:
            batch = sorted((i for count, i in behind if count == least), key=lambda i: position[i])
        for i in batch:
            taken[i] = True
            counts[cell[i]] += 1
        picks += batch
    return np.array(picks, dtype=np.int64)
