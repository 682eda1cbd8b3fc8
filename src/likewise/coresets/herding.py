"""Herding (Welling 2009): picks whose mean stays as close as can be to the mean of all.

Each pick is the image most in the direction of what the picks so far lack: argmax <w, x>, then w += mean - x. The mean
of b picks then differs from the mean of all by about 1 / b, that of b random ones by 1 / sqrt(b).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, Rows, check, squared_norms
from likewise.coresets.checkpoint import Checkpoint
from likewise.types import Selection


def herding(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Selection:
    """Pick `budget` images that keep the mean, of x as given; no image twice.

    Nothing is drawn, so `seed` has no effect. Images `chosen` already count among the picks. `gains` are the distances
    from the mean of all images to that of the picks so far, each included: they shrink, though not at every pick.
    One pass over x per pick.
    """
    chosen = check(len(x), budget, chosen)
    rows = Rows(x, memory)
    mean = sum((block.sum(0) for _, block in rows.blocks(0)), torch.zeros_like(rows[[0]][0])) / len(x)
    along = torch.cat([block @ mean for _, block in rows.blocks(1)])
    slack = 1e-10 * float(squared_norms(x, memory).max())  # beyond rounding; what lies within is equal
    held = rows[chosen.to(x.device)].sum(0)
    wanted = torch.cat([block @ ((len(chosen) + 1) * mean - held) for _, block in rows.blocks(1)])
    wanted[chosen.to(x.device)] = -torch.inf

    picks: list[int] = []
    gains: list[float] = []
    if checkpoint is not None and checkpoint.kept:
        kept = checkpoint.kept
        picks, gains = kept["picks"].tolist(), kept["gains"].tolist()
        held, wanted = (torch.from_numpy(kept[name]).to(x.device) for name in ("held", "wanted"))
    for count in range(len(chosen) + len(picks) + 1, len(chosen) + budget + 1):
        at = int((wanted >= wanted.max() - slack).nonzero()[0, 0])
        one = rows[[at]][0]
        held += one
        picks.append(at)
        gains.append(float((held / count - mean).norm()))
        for span, block in rows.blocks(1):
            wanted[span] += along[span] - block @ one
        wanted[at] = -torch.inf
        if checkpoint is not None:
            checkpoint.keep(picks=picks, gains=gains, held=held, wanted=wanted)
    return Selection(np.array(picks, dtype=np.int64), np.array(gains))
