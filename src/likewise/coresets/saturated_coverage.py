"""Saturated coverage (Lin and Bilmes 2011): every image covered by the picks together, up to a share.

Maximises F(S) = sum over images i of min(sum over picks j of s_ij, share * sum over all j of s_ij), with
s = (1 + cos) / 2, which is monotone and submodular. An image with room for a whole pick adds its similarity to a gain,
and these sum to one product; one without room adds nothing; only those between are looked at one by one.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, check, parts, rounding, spans, unit
from likewise.coresets.checkpoint import Checkpoint
from likewise.coresets.greedy import Gains, Ids, maximise
from likewise.errors import UsageError
from likewise.types import Selection


def saturated_coverage(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    checkpoint: Checkpoint | None = None,
    share: float | None = None,
    maximiser: str = "lazy",
    epsilon: float = 0.1,
) -> Selection:
    """Pick `budget` images that together cover each image evenly, by cosine similarity.

    An image is covered once its similarities to the picks add up to `share` of those to the whole pool (default: the
    share of the pool that is picked, which follows the budget: only with a `share` of one's own is a prefix the smaller
    selection). `maximiser` and `epsilon` are as for facility location. `gains` are the rises of F.
    """
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"share={share}: must be above 0 and at most 1")
    taken = check(len(x), budget, chosen).cpu().numpy()
    objective = SaturatedCoverage(x, memory, (budget + len(taken)) / len(x) if share is None else share)
    picks, rises = maximise(
        objective, budget, taken, maximiser=maximiser, epsilon=epsilon, seed=seed, checkpoint=checkpoint
    )
    return Selection(picks, rises)


class SaturatedCoverage:
    """F, by the room that each image has left."""

    monotone = True

    def __init__(self, x: Float[Tensor, "n d"], memory: int = MEMORY, share: float = 0.1) -> None:
        self.n, self.memory = len(x), memory
        self.rows = unit(x, memory)
        every = torch.arange(self.n, device=x.device)
        self.room = share * (self.n + self.rows.dot(every, self.rows.total())) / 2
        self._sort_out()

    def gains(self, ids: Ids) -> tuple[Gains, Gains]:
        error = int(self.partly.sum()) * (rounding(self.rows.x.shape[1]) / 2 + 2e-7)
        return self._gains(ids, self.rows.single), np.full(len(ids), error)

    def exact(self, ids: Ids) -> Gains:
        return self._gains(ids, self.rows.__getitem__)

    def _gains(self, ids: Ids, read: Callable[[Tensor], Tensor]) -> Gains:
        """`read` gives rows, in the precision of the products with images that have room for a part."""
        at, some = torch.from_numpy(ids).to(self.rows.x.device), self.partly.nonzero()[:, 0]
        sums = (self.n_open + self.rows.dot(at, self.total)) / 2
        for part in parts(len(ids) if len(some) else 0):
            candidates = read(at[part]).T
            for span in spans(len(some), 3 * candidates.shape[1] + 2 * len(candidates), self.memory // 3):
                images = some[span]
                shared = (read(images) @ candidates).add_(1).div_(2)
                room = self.room[images, None].to(shared.dtype)
                sums[part] += torch.minimum(shared, room, out=shared).sum(0, dtype=torch.float64)
        return sums.cpu().numpy()

    def add(self, at: int) -> float:
        every = torch.arange(self.n, device=self.room.device)
        shared = (1 + self.rows.dot(every, self.rows[[at]][0])) / 2
        gain = float(torch.minimum(shared, self.room).sum())
        self.room = (self.room - shared).clamp(min=0)
        self._sort_out()
        return gain

    def _sort_out(self) -> None:
        """Which images have room for a whole pick, which for a part of one."""
        whole = self.room >= 1
        self.n_open = int(whole.sum())
        self.partly = (self.room > 0) & ~whole
        self.total = torch.zeros(self.rows.x.shape[1], dtype=torch.float64, device=whole.device)
        for span, block in self.rows.blocks(0):
            self.total += block[whole[span]].sum(0)
