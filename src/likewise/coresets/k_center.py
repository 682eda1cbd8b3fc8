"""k-center greedy (Gonzalez 1985; Sener and Savarese 2018): pick, again and again, the image farthest from all picked.

The largest distance from any image to its nearest pick (the radius) is at most twice the smallest possible.

The textbook passes over all images once per pick. Distances to the nearest pick only ever fall, so an old value is
an upper bound: here the farthest candidates form a small pool that is kept up to date, and all other images are
brought up to date, many picks at once, only when one of their old values could beat the pool. Distances are in float32
with a bound on their error; those that could be the largest are measured again in float64. The picks are the same.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import (
    MEMORY,
    TIE,
    Rows,
    centred,
    check,
    largest,
    lowest_tie,
    rounding,
    spans,
    squared_distances,
)
from likewise.coresets.checkpoint import Checkpoint
from likewise.errors import UsageError
from likewise.progress import bar
from likewise.types import Selection

POOL = 1024  # candidates kept up to date, or a 256th of all if that is more; changes the speed, never the picks
_TIE = 2 * TIE  # of squared distances


def k_center(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    checkpoint: Checkpoint | None = None,
    quantile: float = 1.0,
    metric: str = "euclidean",
) -> Selection:
    """Pick `budget` images far from each other, by the Euclidean distance of x as given ("cosine": of its directions).

    Nothing is drawn, so `seed` has no effect: the first pick is the image nearest the mean, unless some ids are
    `chosen` already (they are not returned). `gains` are the distances at which the images were picked, that is the
    radius before each pick; they never rise. The very first pick, which has no distance, gets the diameter of the
    ball around the mean that holds all images.

    k-center likes outliers. With `quantile` below 1 the pick is the image at that quantile of the distances instead
    of the farthest, so that such a share of extremes is left alone; each pick then costs a full pass. Its
    gain, the distance at the quantile, is then no radius, and may rise.

    The picks themselves are kept in float64, beyond `memory`.
    """
    if not 0 < quantile <= 1:
        raise UsageError(f"quantile={quantile}: must be above 0 and at most 1")
    chosen = check(len(x), budget, chosen).to(x.device)
    reach = _Reach(centred(x, memory, metric), budget + len(chosen))
    for at in chosen.tolist():
        reach.add(at)
    if checkpoint is not None and checkpoint.kept:
        reach.go_on(checkpoint.kept)
    elif not len(chosen):
        squares = reach.squares
        slack = _TIE * squares.min() + 1e-12 * squares.max()
        reach.add(int((squares <= squares.min() + slack).nonzero()[0, 0]))

    with bar("k-center", budget) as progress:
        while len(reach.ids) < len(reach.picks):
            at = reach.farthest() if quantile == 1 else reach.at_quantile(quantile)
            if at is None:  # only copies of what is picked are left: they go by id
                for copy in reach.free()[: len(reach.picks) - len(reach.ids)]:
                    reach.add(copy)
                break
            reach.add(at)
            progress.update(len(reach.ids) - len(chosen))
            if checkpoint is not None:
                checkpoint.keep(ids=reach.ids, near=reach.near, n_seen=reach.n_seen)
    return Selection(np.array(reach.ids[len(chosen) :], dtype=np.int64), reach.gains(len(chosen)).cpu().numpy())


class _Reach:
    """Squared distances to the nearest pick: up to date for a pool of images, upper bounds for the others."""

    def __init__(self, rows: Rows, n_picks: int) -> None:
        self.rows = rows
        self.squares = torch.cat([block.square().sum(1) for _, block in rows.blocks(rows.x.shape[1], hold=False)])
        self.near = torch.full_like(self.squares, torch.inf)  # -inf for the picks themselves
        self.picks = self.near.new_zeros((n_picks, rows.x.shape[1]))  # in float64
        self.pick_squares = self.near.new_zeros(n_picks)
        self.ids: list[int] = []
        self.n_seen = 0  # picks that all images know of
        self.n_pooled = 0  # picks that the pool knows of
        lengths = self.squares.sqrt()
        self.error = 2 * (rounding(rows.x.shape[1]) + 2**-22) * lengths * lengths.max() + 2**-22 * lengths.max() ** 2
        self.pool = torch.empty(0, dtype=torch.int64, device=rows.x.device)
        self.pool_near = self.pool_error = self.near[:0]
        self.others = torch.inf  # the largest upper bound outside the pool

    def add(self, at: int) -> None:
        self.picks[len(self.ids)] = self.rows[[at]][0]
        self.pick_squares[len(self.ids)] = self.squares[at]
        self.ids.append(at)

    def go_on(self, state: dict[str, np.ndarray]) -> None:
        """Take up what need not be found again. The pool is made anew: it changes no pick."""
        for at in state["ids"][len(self.ids) :].tolist():
            self.add(at)
        self.near, self.n_seen = torch.from_numpy(state["near"]).to(self.near.device), int(state["n_seen"])

    def free(self) -> list[int]:
        left = torch.ones(len(self.near), dtype=torch.bool)
        left[self.ids] = False
        return left.nonzero()[:, 0].tolist()

    def gains(self, n_chosen: int) -> Float[Tensor, " k"]:
        """At what distance from those before it each pick was made, but for the `n_chosen` first."""
        found = [self.near.new_empty(0)]
        for part in spans(len(self.ids) - n_chosen, 3 * len(self.ids), self.rows.memory // 3):
            start, stop = part.start + n_chosen, part.stop + n_chosen
            distances = squared_distances(self.picks[start:stop], self.picks[:stop], self.pick_squares[:stop])
            before = torch.ones_like(distances, dtype=torch.bool).tril_(start - 1)
            found.append(distances.masked_fill_(~before, torch.inf).amin(1))
        gains = torch.cat(found)
        return torch.where(gains.isinf(), 4 * self.squares.max(), gains).sqrt()

    def farthest(self) -> int | None:
        """The image farthest from all picks, of equals the lowest id; none if all others are copies of picks."""
        if len(self.pool):
            self._refresh_pool()
            high, error = self.pool_near, self.pool_error
            floor = float((high - error).max())
            if self.others < floor * (1 - _TIE):
                return self._best(self.pool, high + error, floor)
        self._catch_up()
        ids = torch.arange(len(self.near), device=self.near.device)
        found = self._best(ids, self.near + self.error, float((self.near - self.error).max()))
        self.pool, _ = largest(self.near, max(POOL, len(self.near) // 256))
        outside = self.near + self.error
        outside[self.pool] = -torch.inf
        self.others = float(outside.max())
        self.pool_near, self.pool_error = self.near[self.pool], self.error[self.pool]
        self.pool_rows, self.pool_squares = self.rows.single(self.pool), self.squares[self.pool]
        return found

    def at_quantile(self, quantile: float) -> int | None:
        """The image at a quantile of the distances of all that are not picked."""
        for span, block in self.rows.blocks(2 * (len(self.ids) - self.n_seen)):
            self.near[span] = torch.minimum(self.near[span], self._exact(block, self.n_seen))
        self.n_seen = len(self.ids)
        self.near[self.ids] = -torch.inf
        left = self.near[self.near >= 0]
        value = left.kthvalue(max(round(quantile * len(left)), 1)).values
        if left.max() == 0:
            return None
        return lowest_tie(torch.where(self.near <= value * (1 + _TIE), self.near, -torch.inf), _TIE)[0]

    def _best(self, ids: Tensor, high: Tensor, floor: float) -> int | None:
        """Of these images the farthest; `floor` is a lower bound of its squared distance."""
        rivals = ids[high >= floor * (1 - _TIE)]
        if len(rivals) == 1 and floor > 0:
            return int(rivals[0])
        exact = [self.near.new_empty(0)]
        for part in spans(len(rivals), 2 * len(self.ids) + 2 * self.rows.x.shape[1], self.rows.memory // 3):
            exact.append(self._exact(self.rows[rivals[part]], 0))
        where, top = lowest_tie(torch.cat(exact), _TIE)
        return int(rivals[where]) if top > 0 else None

    def _exact(self, block: Tensor, start: int) -> Tensor:
        some = slice(start, len(self.ids))
        return squared_distances(block, self.picks[some], self.pick_squares[some]).amin(1)

    def _refresh_pool(self) -> None:
        for at in range(self.n_pooled, len(self.ids)):
            row = self.rows.single([self.ids[at]])[0]
            new = self.pool_squares - 2 * (self.pool_rows @ row) + self.squares[self.ids[at]]
            self.pool_near = torch.minimum(self.pool_near, new)
            self.pool_near[self.pool == self.ids[at]] = -torch.inf
        self.n_pooled = len(self.ids)

    def _catch_up(self) -> None:
        """Let all images know of the latest picks."""
        ids = torch.tensor(self.ids[self.n_seen :], device=self.near.device)
        if len(ids):
            halves = (self.squares[ids] / 2).float()
            for span, block in self.rows.products(self.rows.single(ids)):
                nearest = block.sub_(halves).amax(1).double()
                self.near[span] = torch.minimum(self.near[span], self.squares[span] - 2 * nearest)
            self.near[ids] = -torch.inf
        self.n_seen = self.n_pooled = len(self.ids)
