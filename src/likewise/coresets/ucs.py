"""UCS (Ju et al. 2021): rank images by a score that training gave them, and keep one end.

A run whose method gives scores leaves them in scores.npy (for contrastive methods each image's mean loss): the hardest
are those that training never made agree with themselves. Any other number per image does as well.

arXiv:2103.03574. The paper adds up losses over epochs and keeps the highest.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, check
from likewise.errors import UsageError
from likewise.types import Selection

ENDS = ("hard", "easy")


def ucs(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    scores: Float[Tensor, " n"],
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    keep: str = "hard",
) -> Selection:
    """Keep the images with the highest scores ("hard") or the lowest ("easy"), the lower id among equals.

    x is not looked at, and nothing is drawn. `gains` are the distances of the scores from the end that is not wanted.
    """
    chosen = check(len(x), budget, chosen)
    wanted = toward(scores.double(), keep)
    line = wanted.argsort(descending=True, stable=True)
    picks = line[~torch.isin(line, chosen.to(line.device))][:budget]
    return Selection(picks.cpu().numpy(), (wanted[picks] - wanted.min()).cpu().numpy().astype(np.float64))


def toward(scores: Float[Tensor, " n"], keep: str) -> Float[Tensor, " n"]:
    """Scores whose highest are kept: as they are for "hard", with the sign changed for "easy"."""
    if keep not in ENDS:
        raise UsageError(f"keep={keep!r}: must be one of {', '.join(ENDS)}")
    return scores if keep == "hard" else -scores
