"""Greedy maximisers of an objective: pick, again and again, the image that raises it most.

For a monotone submodular objective, whose gains only ever fall, greedy reaches at least 1 - 1/e of the best value that
as many images can have (Nemhauser, Wolsey and Fisher 1978).

- `naive` asks for all gains before every pick: the reference.
- `lazy` (Minoux 1978) takes old gains for upper bounds and asks again only for those that might be the largest: the
  same picks.
- `stochastic` (Mirzasoleiman et al. 2015) looks at (n / budget) ln(1 / epsilon) random candidates per pick: at least
  1 - 1/e - epsilon on average.
- `threshold` (Badanidiyuru and Vondrak 2014) streams over the candidates in order and takes whatever gains at least a
  threshold, which falls by the factor 1 - epsilon from pass to pass: at least 1 - 1/e - epsilon.

An objective may give gains with an error that it bounds. Where this leaves open which is the largest, the gains in
question are asked for exactly, so errors never change a pick.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from likewise.coresets.blocks import TIE, largest
from likewise.coresets.checkpoint import Checkpoint
from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.progress import bar
from likewise.types import did_you_mean

POOL = 512  # candidates that `lazy` looks at before all others; changes the speed, never the picks
NOISE = 1e-12  # of the number of images: a gain this small is rounding

Ids = Int[np.ndarray, " m"]
Gains = Float[np.ndarray, " m"]


@runtime_checkable
class Objective(Protocol):
    """A function F of a set of images that grows by `add`."""

    n: int
    monotone: bool  # no image ever lowers F

    def gains(self, ids: Ids) -> tuple[Gains, Gains]:
        """What F would gain by each of these images alone, and bounds on the errors of these values."""
        ...

    def exact(self, ids: Ids) -> Gains:
        """The same without error (but for that of float64)."""
        ...

    def add(self, at: int) -> float:
        """Add an image, and say what F gained."""
        ...


def maximise(
    objective: Objective,
    budget: int,
    taken: Ids,
    *,
    maximiser: str = "lazy",
    epsilon: float = 0.1,
    seed: int = 0,
    show: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Add `taken` to an empty objective, then pick `budget` more images. Returns the picks and what each gained.

    `show` is told how many picks there are; by default a bar shows it. Picks that the checkpoint holds are added again
    without a search, and keep what they gained.
    """
    if maximiser not in MAXIMISERS:
        known = ", ".join(sorted(MAXIMISERS))
        raise UsageError(f"maximiser {maximiser!r} is unknown{did_you_mean(maximiser, MAXIMISERS)}; known: {known}")
    check_epsilon(epsilon)
    with contextlib.ExitStack() as stack:
        show = show or stack.enter_context(bar("select", budget)).update
        state = Picks(objective, budget, taken, show, checkpoint)
        MAXIMISERS[maximiser](state, epsilon, seed)
    return np.array(state.picks, dtype=np.int64), np.array(state.rises)


def check_epsilon(epsilon: float) -> None:
    if not 0 < epsilon < 1:
        raise UsageError(f"epsilon={epsilon}: must be between 0 and 1")


class Picks:
    """The picks so far, and the candidates left."""

    def __init__(
        self,
        objective: Objective,
        budget: int,
        taken: Ids,
        show: Callable[[int], None],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.objective, self.budget, self.show, self.checkpoint = objective, budget, show, checkpoint
        self.free = np.ones(objective.n, dtype=bool)
        self.picks: list[int] = []
        self.rises: list[float] = []
        self.level = (np.nan, np.nan)  # the first and the present threshold, for a maximiser that has them
        for at in taken.tolist():
            objective.add(at)
            self.free[at] = False
        if checkpoint is not None and checkpoint.kept:
            self.picks, self.rises = checkpoint.kept["picks"].tolist(), checkpoint.kept["rises"].tolist()
            self.level = tuple(checkpoint.kept["level"].tolist())
            for at in self.picks:
                objective.add(at)
                self.free[at] = False

    @property
    def left(self) -> int:
        return self.budget - len(self.picks)

    def add(self, at: int) -> None:
        self.picks.append(at)
        self.rises.append(self.objective.add(at))
        self.free[at] = False
        self.show(len(self.picks))
        if self.checkpoint is not None:
            self.checkpoint.keep(picks=self.picks, rises=self.rises, level=self.level)

    def add_best(self, ids: Ids, low: Gains, high: Gains) -> int:
        """Add the candidate that gains most: of equals the lowest id. The ids are in order; `high` is sharpened."""
        floor = float(low.max())
        rivals = np.flatnonzero(high >= floor - self.slack(floor))
        if len(rivals) > 1:
            exact = high[rivals] = self.objective.exact(ids[rivals])
            top = float(exact.max())
            rivals = rivals[exact >= top - self.slack(top)]
        self.add(int(ids[rivals[0]]))
        return int(ids[rivals[0]])

    def finish(self, largest: float) -> bool:
        """If no candidate gains anything any more: take those with the lowest ids."""
        done = self.objective.monotone and largest <= NOISE * self.objective.n
        if done:
            for at in np.flatnonzero(self.free)[: self.left].tolist():
                self.add(at)
        return done

    def slack(self, top: float) -> float:
        """By how much a gain may fall short of the largest and yet count as equal."""
        return TIE * abs(top) + NOISE * self.objective.n


def naive(state: Picks, epsilon: float, seed: int) -> None:
    while state.left:
        ids = np.flatnonzero(state.free)
        values, errors = state.objective.gains(ids)
        state.add_best(ids, values - errors, values + errors)


def lazy(state: Picks, epsilon: float, seed: int) -> None:
    ids = np.flatnonzero(state.free)
    high = np.full(len(state.free), -np.inf)
    values, errors = state.objective.gains(ids)
    high[ids] = values + errors
    size = POOL
    while state.left and not state.finish(float(high.max())):
        best, others = largest(torch.from_numpy(high), size)
        pool = best.numpy()
        size *= 2  # unless this pool gives a pick
        while state.left and len(pool):
            fresh, low = _refresh(state.objective, pool, high)
            floor = float(low.max())
            if others >= floor - state.slack(floor):
                break  # a candidate outside the pool may be as good, as far as its old gain tells
            ids = pool[fresh]
            sharp = high[ids]
            at = state.add_best(ids, low[fresh], sharp)
            high[ids] = sharp
            high[at] = -np.inf
            pool = pool[pool != at]
            size = POOL
            if float(sharp.max()) <= NOISE * len(high):
                break


def _refresh(objective: Objective, pool: Ids, high: Float[np.ndarray, " n"]) -> tuple[Bool[np.ndarray, " m"], Gains]:
    """Bring those of the pool up to date that may be the largest. Says which they are, and lower bounds of theirs."""
    fresh, low = np.zeros(len(pool), dtype=bool), np.full(len(pool), -np.inf)
    width = 16
    while True:
        floor = float(low.max())
        floor -= TIE * abs(floor) + NOISE * objective.n if np.isfinite(floor) else 0.0
        stale = np.flatnonzero(~fresh & (high[pool] >= floor))
        if not len(stale):
            return fresh, low
        if len(stale) > width:
            stale = np.sort(stale[np.argpartition(-high[pool[stale]], width)[:width]])
        values, errors = objective.gains(pool[stale])
        high[pool[stale]] = np.minimum(high[pool[stale]], values + errors)
        low[stale], fresh[stale] = values - errors, True
        width *= 2


def stochastic(state: Picks, epsilon: float, seed: int) -> None:
    n = int(state.free.sum()) + len(state.picks)
    size = min(max(math.ceil(n / state.budget * math.log(1 / epsilon)), 1), n)
    draws = Draws(seed, epoch=0, number=0, keys=torch.empty(0, dtype=torch.int64))
    while state.left:
        free = np.flatnonzero(state.free)
        number = draws.step(f"coreset/stochastic/{len(state.picks)}", len(free))
        ids = np.sort(free[number.argsort(stable=True)[:size].numpy()])
        values, errors = state.objective.gains(ids)
        state.add_best(ids, values - errors, values + errors)


def threshold(state: Picks, epsilon: float, seed: int) -> None:
    ids = np.flatnonzero(state.free)
    high = np.full(len(state.free), -np.inf)
    values, errors = state.objective.gains(ids)
    high[ids] = values + errors
    first, level = state.level
    if np.isnan(first):  # nothing was picked before
        first = level = float(state.objective.exact(ids[[int(values.argmax())]])[0])
    last = epsilon / state.objective.n * first
    while state.left:
        waiting = np.flatnonzero(state.free & (high >= level))
        while len(waiting) and state.left:
            part = waiting[:POOL]
            values, errors = state.objective.gains(part)
            for k in np.flatnonzero(np.abs(values - level) <= errors):
                values[k], errors[k] = state.objective.exact(part[[k]])[0], 0.0
            high[part] = np.minimum(high[part], values + errors)
            enough = np.flatnonzero(values >= level)
            if len(enough):
                state.level = (first, level)
                state.add(int(part[enough[0]]))
                high[part[enough[0]]] = -np.inf
                waiting = waiting[enough[0] + 1 :]
            else:
                waiting = waiting[len(part) :]
        level = level * (1 - epsilon) if level * (1 - epsilon) > last else -np.inf


MAXIMISERS: dict[str, Callable[[Picks, float, int], None]] = {
    "lazy": lazy,
    "naive": naive,
    "stochastic": stochastic,
    "threshold": threshold,
}
