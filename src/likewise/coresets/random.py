"""Random: a uniform draw without replacement, the baseline that every selector must beat.

Each image draws its own number from (seed, key); the smallest numbers are picked. So adding or renaming images
moves no other image in the order, and any prefix is the smaller draw.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, check
from likewise.draws import Draws
from likewise.types import Selection


def random(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keys: Int[Tensor, " n"] | None = None,
) -> Selection:
    """Draw `budget` images. Gains are zero; each image stands for an equal share of the pool.

    `keys` are the images' keys (default: row numbers); `chosen` are ids that must not be drawn again.
    """
    chosen = check(len(x), budget, chosen)
    keys = torch.arange(len(x)) if keys is None else keys.cpu()
    order = Draws(seed, epoch=0, number=0, keys=keys).bits("coreset/random").argsort(stable=True)
    picked = order[~torch.isin(order, chosen.cpu())][:budget].numpy()
    return Selection(picked, np.zeros(budget), np.full(budget, len(x) / budget))
