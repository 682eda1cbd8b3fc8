"""Swap refinement for facility location (Schubert and Rousseeuw 2021, FasterPAM): exchange a pick for another image.

The value of a swap needs, of each image, its best and its second best pick: an image that loses its best falls back to
the second, or to the newcomer. Only images closer to the newcomer than to their second best can tell, so short lists of
such pairs are enough to value every swap, and no matrix is held. Any swap that helps is made at once.
"""

import numpy as np
import torch
from jaxtyping import Float, Int

from likewise.coresets.blocks import Rows, spans
from likewise.coresets.pairs import Pairs
from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.progress import bar

RANK = 4  # pairs are listed down to an image's fourth best pick: so deep its second best may sink before a new list
PASSES = 20  # at most; a pass that finds nothing ends it
SHAKEN = 5  # a further round replaces one pick in so many
LEAST = 1e-9  # of the number of images: what a swap must gain


def check_memory(n: int, n_picks: int, memory: int) -> None:
    """Raises UsageError if the pairs of n images that such swaps are valued by will not fit."""
    expected = n**2 * min(RANK / n_picks, 1.0)
    if expected > memory // 48:
        raise UsageError(
            f"swaps: listing pairs of {n:,} images for {n_picks:,} picks takes about {48 * expected / 1e9:.1f} GB; "
            "give more memory or a larger budget"
        )


def refine(
    rows: Rows, picks: Int[np.ndarray, " k"], fixed: Int[np.ndarray, " m"], *, n_rounds: int = 1, seed: int = 0
) -> tuple[Int[np.ndarray, " k"], int]:
    """Swap picks for other images as long as the sum of best cosines rises; the `fixed` ones stay.

    Each further round replaces a fifth of the picks by images drawn from `seed`, and goes on from there until no swap
    helps; the better picks are kept.

    Returns the picks (a newcomer takes the place of the one that it replaces), and the number of swaps.
    """
    best, n_swaps = None, 0
    with bar("swaps", n_rounds) as progress:
        for number in range(n_rounds):
            start = picks if best is None else _shaken(best.ids[len(fixed) :], fixed, len(rows), f"{seed}/{number}")
            state = _Swaps(rows, np.concatenate([fixed, start]), len(fixed))
            state.settle()
            n_swaps += state.n_swaps
            if best is None or state.best.sum() > best.best.sum() + LEAST * len(rows):
                best = state
            progress.update(number + 1, f"{n_swaps} swaps")
    assert best is not None
    return best.ids[len(fixed) :], n_swaps


def _shaken(picks: Int[np.ndarray, " k"], fixed: Int[np.ndarray, " m"], n: int, name: str) -> Int[np.ndarray, " k"]:
    """The picks with a fifth of them replaced by images that are not among them."""
    draws = Draws(0, epoch=0, number=0, keys=torch.empty(0, dtype=torch.int64))
    free = np.setdiff1d(np.arange(n), np.concatenate([picks, fixed]))
    size = min(max(len(picks) // SHAKEN, 1), len(free))
    out = draws.step(f"coreset/swaps/{name}/out", len(picks)).argsort(stable=True).numpy()[:size]
    new = draws.step(f"coreset/swaps/{name}/new", len(free)).argsort(stable=True).numpy()[:size]
    shaken = picks.copy()
    shaken[out] = free[new]
    return shaken


class _Swaps:
    def __init__(self, rows: Rows, ids: Int[np.ndarray, " k"], n_fixed: int) -> None:
        self.rows, self.ids, self.n_fixed, self.n_swaps = rows, ids.copy(), n_fixed, 0
        self.device = rows.x.device
        self.picked = rows[self._to(self.ids)].clone()
        n = len(rows)
        self.first, self.second = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self.best, self.next = np.full(n, -1.0), np.full(n, -1.0)
        self.floor = np.full(n, -1.0)
        self._look_up(np.arange(n), floor=True)
        self.pairs: Pairs | None = None

    def settle(self) -> None:
        """Swap until no swap helps."""
        for _ in range(PASSES):
            before = self.n_swaps
            self.sweep()
            if self.n_swaps == before:
                break

    def sweep(self) -> None:
        """Value all swaps once, in the order of the images, and make those that help."""
        if self.pairs is None or bool((self.next < self.floor).any()):
            self._list()
        assert self.pairs is not None
        images, starts = self.pairs.images, self.pairs.starts
        for j in self._hopeful():
            span = slice(starts[j], starts[j + 1])
            near, s = images[span], self.similarity[span]
            best, next_, first = self.best[near], self.next[near], self.first[near]
            gain = np.maximum(s - best, 0).sum()
            kept = np.maximum(np.minimum(s, best) - next_, 0)  # what the newcomer saves of a loss
            value = gain - self.losses
            np.add.at(value, first, kept)
            value[: self.n_fixed] = -np.inf
            out = int(value.argmax())
            if value[out] > LEAST * len(self.rows):
                self._swap(out, int(j), near, s)

    def _hopeful(self) -> Int[np.ndarray, " m"]:
        """The images for which some swap may help, at the picks of now."""
        pairs = self.pairs
        assert pairs is not None
        which = np.repeat(np.arange(len(self.rows)), np.diff(pairs.starts))
        near, s = pairs.images, self.similarity
        most = np.bincount(which, np.maximum(s - self.next[near], 0), minlength=len(self.rows))
        most -= self.losses[self.n_fixed :].min()
        most[self.ids] = -np.inf
        return np.flatnonzero(most > LEAST * len(self.rows))

    def _swap(self, out: int, j: int, near: np.ndarray, s: np.ndarray) -> None:
        orphans = np.flatnonzero((self.first == out) | (self.second == out))
        self.ids[out], self.picked[out] = j, self.rows[[j]][0]
        self._look_up(orphans)
        others = ~np.isin(near, orphans)
        near, s = near[others], s[others]
        wins = s > self.best[near]
        to = near[wins]
        self.second[to], self.next[to] = self.first[to], self.best[to]
        self.first[to], self.best[to] = out, s[wins]
        places = ~wins & (s > self.next[near])
        self.second[near[places]], self.next[near[places]] = out, s[places]
        self.n_swaps += 1
        self._count_losses()

    def _look_up(self, images: np.ndarray, floor: bool = False) -> None:
        """The two best picks of some images, from all picks."""
        depth = min(RANK, len(self.ids))
        for span in spans(len(images), 3 * len(self.ids) + 2 * self.rows.x.shape[1], self.rows.memory // 3):
            part = images[span]
            found = (self.rows[self._to(part)] @ self.picked.T).topk(depth, dim=1)
            values, where = found.values.cpu().numpy(), found.indices.cpu().numpy()
            self.best[part], self.first[part] = values[:, 0], where[:, 0]
            if depth > 1:
                self.next[part], self.second[part] = values[:, 1], where[:, 1]
            if floor:
                self.floor[part] = values[:, -1] if depth == RANK else -1.0
        self._count_losses()

    def _list(self) -> None:
        self._look_up(np.arange(len(self.rows)), floor=True)
        self.pairs = pairs = Pairs(self.rows, self.floor)
        which = np.repeat(np.arange(len(self.rows)), np.diff(pairs.starts))
        found = [np.zeros(0)]
        for span in spans(len(which), 4 * self.rows.x.shape[1], self.rows.memory // 3):
            left, right = (self.rows[self._to(ids[span])] for ids in (which, pairs.images))
            found.append((left * right).sum(1).cpu().numpy())
        self.similarity: Float[np.ndarray, " m"] = np.concatenate(found)  # in float64
        pairs.similarity = np.zeros(0, dtype=np.float32)

    def _count_losses(self) -> None:
        """What removing each pick would cost."""
        self.losses = np.bincount(self.first, self.best - self.next, minlength=len(self.ids))

    def _to(self, ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(ids).long().to(self.device)
