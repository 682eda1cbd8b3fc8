"""Facility location (Mirzasoleiman et al. 2020): every image should have a close relative among the picks.

Maximises F(S) = sum over all images i of max over j in S of (1 + cos(i, j)) / 2, which is monotone and submodular with
F(nothing) = 0, so greedy reaches at least 1 - 1/e of the best. The mean over all images of the best cosine, which
`quality` reports, is 2 F / n - 1.

No matrix of similarities is ever held. The first gains have a closed form, (n + x_j . sum of x) / 2. A pick then
changes the gains of others only through the images that it is closest to, so the gains of all candidates are kept up to
date from those images alone: after a few picks they are few. As soon as the pairs that still matter, those closer than
an image and its pick, fit in memory, they are listed once; from then on a gain is the sum of a short list.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, check, parts, rounding, spans, unit
from likewise.coresets.greedy import Gains, Ids, maximise
from likewise.coresets.pairs import Pairs
from likewise.types import Selection

DENSE = 32  # pairs are listed once fewer than a 32nd of all matter: gathering one costs more than its product


def facility_location(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    maximiser: str = "lazy",
    epsilon: float = 0.1,
) -> Selection:
    """Pick `budget` images that represent all others best, by cosine similarity.

    `maximiser`: lazy, naive (the same picks, slower), stochastic or threshold (`epsilon` from the best; only stochastic
    draws anything, from `seed`). `gains` are the rises of F: with nothing `chosen` before, they add up to F(S).
    `weights` are the numbers of images that each pick represents (those not as close to an earlier pick or to a chosen
    one), itself included: they add up to n when nothing was chosen.
    """
    taken = check(len(x), budget, chosen).cpu().numpy()
    objective = FacilityLocation(x, memory)
    picks, rises = maximise(objective, budget, taken, maximiser=maximiser, epsilon=epsilon, seed=seed)
    cell = objective.cell - len(taken)
    return Selection(picks, rises, np.bincount(cell[cell >= 0], minlength=budget).astype(np.float64))


class FacilityLocation:
    """F, with the gains of all candidates kept up to date."""

    monotone = True

    def __init__(self, x: Float[Tensor, "n d"], memory: int = MEMORY) -> None:
        self.n, self.memory = len(x), memory
        self.rows = unit(x, memory)
        self.unit_error = rounding(x.shape[1])  # of one similarity
        self.best = np.full(self.n, -1.0)  # cosine to the closest pick
        self.cell = np.zeros(self.n, dtype=np.int64)  # the rank of that pick
        self.size = 0
        every = torch.arange(self.n, device=x.device)
        # Sums of cosines: twice the gains.
        self.twice = self.n + self.rows.dot(every, self.rows.total()).cpu().numpy()
        self.error = 0.0  # of all of these
        self.pairs: Pairs | None = None
        self.listed = 0  # how many picks there were when they were

    def gains(self, ids: Ids) -> tuple[Gains, Gains]:
        if self.pairs is None:
            return self.twice[ids] / 2, np.full(len(ids), self.error / 2 + self.n * 1e-14)
        sums, counts = self.pairs.rises(ids, self.best)
        return sums / 2, counts * ((self.unit_error + 1e-7) / 2)

    def exact(self, ids: Ids) -> Gains:
        if self.error == 0:
            return self.twice[ids] / 2
        if self.pairs is None:
            twice = np.zeros(len(ids))
            candidates = self.rows[self._on_device(ids)].T
            for span, block in self.rows.blocks(2 * len(ids)):
                best = torch.from_numpy(self.best[span]).to(block.device)[:, None]
                twice += (block @ candidates).sub_(best).clamp_(min=0).sum(0).cpu().numpy()
            return twice / 2
        flat, which = self.pairs.places(ids)
        images = self.pairs.images[flat]
        rises = self._similarity(images, ids[which]) - self.best[images]
        return np.bincount(which, weights=np.maximum(rises, 0), minlength=len(ids)) / 2

    def add(self, at: int) -> float:
        if self.pairs is None:
            images = np.arange(self.n)
            one = self.rows[[at]][0]
            similarity = np.concatenate([(block @ one).cpu().numpy() for _, block in self.rows.blocks(1)])
        else:
            images = self.pairs.images[self.pairs.places(np.array([at]))[0]]
            similarity = self._similarity(images, np.full(len(images), at))
        old = self.best[images]
        closer = similarity > old
        images, old, new = images[closer], old[closer], similarity[closer]
        self.best[images] = new
        self.cell[images[new > old + 1e-9]] = self.size  # a copy stays with the earlier pick
        self.size += 1
        if self.pairs is None:
            self._lower(images, old, new)
            self._list_pairs()
        elif self.size >= 2 * self.listed:
            self.listed = self.size
            self.pairs.keep(self.best)
        return float((new - old).sum()) / 2

    def _lower(self, images: np.ndarray, old: np.ndarray, new: np.ndarray) -> None:
        """Lower all gains by what the rise of these images' best takes from them."""
        for part in parts(len(images)):
            others = self.rows.single(self._on_device(images[part]))
            low, high = (torch.from_numpy(v[part].astype(np.float32)).to(others.device) for v in (old, new))
            rest = float(old[part].sum())
            for span, block in self.rows.products(others):
                self.twice[span] -= torch.clamp(block, low, high, out=block).sum(1).double().cpu().numpy() - rest
        self.error += (self.unit_error + 2e-7) * len(images)

    def _list_pairs(self) -> None:
        """List the pairs that still matter, if they are few enough."""
        most = min(self.memory // 32, self.n * self.n // DENSE)
        sample = torch.arange(0, self.n, max(self.n // 64, 1), device=self.rows.x.device)
        best = torch.from_numpy(self.best[sample.cpu().numpy()].astype(np.float32)).to(sample.device)
        seen = sum(int((block > best).sum()) for _, block in self.rows.products(self.rows.single(sample)))
        if seen / len(sample) * self.n <= most and self.rows.whole_single is not None:
            self.pairs, self.listed = Pairs(self.rows, self.best), self.size

    def _similarity(self, images: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Cosines of pairs, exactly."""
        found = [np.zeros(0)]
        for part in spans(len(images), 4 * self.rows.x.shape[1], self.memory // 3):
            left, right = (self.rows[self._on_device(ids[part])] for ids in (images, others))
            found.append((left * right).sum(1).cpu().numpy())
        return np.concatenate(found)

    def _on_device(self, ids: np.ndarray) -> Tensor:
        return torch.from_numpy(ids).to(self.rows.x.device)
