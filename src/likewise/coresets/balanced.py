"""Balanced random: equally many images of each class, or of each cluster, drawn at random within it.

The baselines for anything that claims to even out a long tail: balanced over classes with labels (an oracle, for
the pool has none), over clusters without.
"""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, centred, check
from likewise.coresets.clusters import cluster
from likewise.coresets.turns import after, by_turns, shuffled
from likewise.types import Selection


def class_balanced(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    labels: Int[Tensor, " n"],
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
) -> Selection:
    """Draw equally many images of each class, as far as it has them. An oracle: needs labels for the whole pool.

    Images `chosen` already count for their class. Images without a label (-1) come last. Gains are zero.
    """
    chosen = check(len(x), budget, chosen)
    line = after(shuffled(len(x), seed, keys, "class-balanced").numpy(), chosen)
    groups = labels.cpu().numpy()
    turns = by_turns(line, groups)
    turns = turns[np.argsort(groups[turns] < 0, kind="stable")]
    return _selection(turns, chosen, budget)


def cluster_balanced(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
    n_clusters: int | None = None,
) -> Selection:
    """Draw equally many images of each k-means cluster, as far as it has them, by the Euclidean distance of x as given.

    `n_clusters` defaults to the square root of the number of images. Images `chosen` already count for their cluster.
    Gains are zero.
    """
    chosen = check(len(x), budget, chosen)
    cells = cluster(centred(x, memory), n_clusters, seed=seed, keys=keys).cell
    line = after(shuffled(len(x), seed, keys, "cluster-balanced").numpy(), chosen)
    return _selection(by_turns(line, cells.cpu().numpy()), chosen, budget)


def _selection(turns: np.ndarray, chosen: Tensor, budget: int) -> Selection:
    picks = turns[~np.isin(turns, chosen.cpu().numpy())][:budget]
    return Selection(picks, np.zeros(budget))
