"""CCS, coverage-centric selection (Zheng et al. 2023): leave out the hardest, and spread the picks over all difficulty.

Keeping only hard images leaves dense regions bare, and the very hardest are often wrong. So drop a share of the
hardest, cut the range of the scores into strata of equal width, and give each the same number of picks, as far as it
has images.

arXiv:2210.15809. The paper scores by a trained classifier's margins; without `scores` the difficulty here is that of
prototypes.py, which needs no label.
"""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, check
from likewise.coresets.prototypes import hardness
from likewise.coresets.turns import after, by_turns, shuffled
from likewise.errors import UsageError
from likewise.types import Selection


def ccs(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
    scores: Float[Tensor, " n"] | None = None,
    n_clusters: int | None = None,
    drop: float = 0.3,
    n_strata: int = 50,
) -> Selection:
    """Draw as many images from each stratum of difficulty, at random within it, and none of the hardest.

    `scores`: higher is harder; by default the distance to the nearest of `n_clusters` centroids. `drop`: the share of
    the hardest that is left out (0.3 suits budgets near 10 %, less does larger ones, says the paper); when nothing else
    is left they follow, easiest first. Images `chosen` already count for their stratum. Gains are zero.
    """
    if not 0 <= drop < 1:
        raise UsageError(f"drop={drop}: must be at least 0 and below 1")
    if n_strata < 1:
        raise UsageError(f"n_strata={n_strata}: must be at least 1")
    n = len(x)
    chosen = check(n, budget, chosen)
    if scores is None:
        scores, _ = hardness(x, n_clusters, seed=seed, memory=memory, keys=keys)
    hard = scores.double().cpu()
    by_ease = hard.argsort(stable=True).numpy()
    kept = by_ease[: max(n - int(drop * n + 1e-9), 1)]
    values = hard.numpy()
    low, high = values[kept[0]], values[kept[-1]]
    width = (high - low) / n_strata or 1.0
    stratum = np.clip((values - low) / width, 0, n_strata - 1).astype(np.int64)
    line = after(shuffled(n, seed, keys, "ccs").numpy(), chosen)
    dropped = by_ease[len(kept) :]
    turns = by_turns(line[np.isin(line, kept)], stratum)
    order = np.concatenate([turns, dropped])
    picks = order[~np.isin(order, chosen.cpu().numpy())][:budget]
    return Selection(picks, np.zeros(budget))
