"""Graph cut: picks that are like all images but unlike each other.

Maximises F(S) = sum over images i and picks j of s_ij - redundancy * sum over pairs of picks j, k of s_jk, with
s = (1 + cos) / 2. It is submodular, and monotone up to a redundancy of 1/2. Sums of cosines are products with one
vector, so a gain costs no more than one row.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, check, squared_norms, unit
from likewise.coresets.checkpoint import Checkpoint
from likewise.coresets.greedy import Gains, Ids, maximise
from likewise.errors import UsageError
from likewise.types import Selection


def graph_cut(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    checkpoint: Checkpoint | None = None,
    redundancy: float = 0.5,
    maximiser: str = "lazy",
    epsilon: float = 0.1,
) -> Selection:
    """Pick `budget` images that are like the pool and unlike each other, by cosine similarity.

    `redundancy` weighs the second wish; above 1/2 gains may become negative and greedy has no guarantee. `maximiser`
    and `epsilon` are as for facility location. `gains` are the rises of F.
    """
    if not 0 <= redundancy <= 1:
        raise UsageError(f"redundancy={redundancy}: must be between 0 and 1")
    taken = check(len(x), budget, chosen).cpu().numpy()
    objective = GraphCut(x, memory, redundancy)
    picks, rises = maximise(
        objective, budget, taken, maximiser=maximiser, epsilon=epsilon, seed=seed, checkpoint=checkpoint
    )
    return Selection(picks, rises)


class GraphCut:
    """F, by the sum of all rows and the sum of the picked ones."""

    def __init__(self, x: Float[Tensor, "n d"], memory: int = MEMORY, redundancy: float = 0.5) -> None:
        self.n, self.redundancy, self.monotone = len(x), redundancy, redundancy <= 0.5
        self.rows = unit(x, memory)
        self.lengths = squared_norms(x, memory).sign()  # a zero row is like nothing, itself included
        self.total = self.rows.total()
        self.picked = torch.zeros_like(self.total)
        self.size = 0

    def gains(self, ids: Ids) -> tuple[Gains, Gains]:
        return self.exact(ids), np.zeros(len(ids))

    def exact(self, ids: Ids) -> Gains:
        r, at = self.redundancy, torch.from_numpy(ids).to(self.rows.x.device)
        itself = (1 + self.lengths[at]) / 2
        cosines = self.rows.dot(at, self.total - 2 * r * self.picked)
        return ((self.n - 2 * r * self.size + cosines) / 2 - r * itself).cpu().numpy()

    def add(self, at: int) -> float:
        gain = float(self.exact(np.array([at]))[0])
        self.picked += self.rows[[at]][0]
        self.size += 1
        return gain
