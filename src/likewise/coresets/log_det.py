"""Log-determinant, greedy MAP of a determinantal point process (Chen, Zhang and Zhou 2018): picks that span the most.

Maximises F(S) = log det(I + K / noise), K the cosines between the picks: the information that they hold about a linear
function seen through noise (Krause et al. 2008). It is monotone and submodular. As K is a product of rows, F is also
log det A with A = I + sum of x x^T / noise over the picks, a matrix of d x d; a gain is log(1 + x^T A^-1 x / noise).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, check, spans, unit
from likewise.coresets.checkpoint import Checkpoint
from likewise.coresets.greedy import Gains, Ids, maximise
from likewise.errors import UsageError
from likewise.types import Selection

LEAST = 1e-10  # noise; float64 holds the inverse of A to a millionth then


def log_det(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    checkpoint: Checkpoint | None = None,
    noise: float = 0.1,
    maximiser: str = "lazy",
    epsilon: float = 0.1,
) -> Selection:
    """Pick `budget` images whose features span the largest volume, by cosine similarity.

    The smaller the `noise`, the less two alike images are worth together. `maximiser` and `epsilon` are as for facility
    location. `gains` are the rises of F.
    """
    if noise < LEAST:
        raise UsageError(f"noise={noise}: must be at least {LEAST}")
    taken = check(len(x), budget, chosen).cpu().numpy()
    objective = LogDet(x, memory, noise)
    picks, rises = maximise(
        objective, budget, taken, maximiser=maximiser, epsilon=epsilon, seed=seed, checkpoint=checkpoint
    )
    return Selection(picks, rises)


class LogDet:
    """F, by the inverse of A."""

    monotone = True

    def __init__(self, x: Float[Tensor, "n d"], memory: int = MEMORY, noise: float = 0.1) -> None:
        self.n, self.noise, self.memory = len(x), noise, memory
        self.rows = unit(x, memory)
        self.inverse = torch.eye(x.shape[1], dtype=torch.float64, device=x.device)

    def gains(self, ids: Ids) -> tuple[Gains, Gains]:
        return self.exact(ids), np.zeros(len(ids))

    def exact(self, ids: Ids) -> Gains:
        at, found = torch.from_numpy(ids).to(self.rows.x.device), [np.zeros(0)]
        for part in spans(len(ids), 3 * self.rows.x.shape[1], self.memory // 3):
            rows = self.rows[at[part]]
            found.append(((rows @ self.inverse) * rows).sum(1).div_(self.noise).log1p_().cpu().numpy())
        return np.concatenate(found)

    def add(self, at: int) -> float:
        row = self.rows[[at]][0]
        pulled = self.inverse @ row
        share = float(row @ pulled) / self.noise
        self.inverse -= torch.outer(pulled, pulled) / (self.noise * (1 + share))  # Sherman and Morrison
        return float(np.log1p(share))
