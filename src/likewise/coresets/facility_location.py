"""Facility location (Mirzasoleiman et al. 2020): every image should have a close relative among the picks.

Maximises F(S) = sum over all images i of max over j in S of (1 + cos(i, j)) / 2, which is monotone and submodular with
F(nothing) = 0, so greedy reaches at least 1 - 1/e of the best. The mean over all images of the best cosine, which
`quality` reports, is 2 F / n - 1.

No matrix of similarities is ever held. The first gains have a closed form, (n + x_j . sum of x) / 2. A pick then
changes the gains of others only through the images that it is closest to, so the gains of all candidates are kept up to
date from those images alone: after a few picks they are few. As soon as the pairs that still matter, those closer than
an image and its pick, fit in memory, they are listed once; from then on a gain is the sum of a short list.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, TIE, Rows, check, parts, rounding, spans, unit
from likewise.coresets.checkpoint import Checkpoint
from likewise.coresets.clusters import cluster, members
from likewise.coresets.greedy import NOISE, Gains, Ids, check_epsilon, maximise
from likewise.coresets.pairs import Pairs
from likewise.coresets.swaps import check_memory, refine
from likewise.errors import UsageError
from likewise.progress import bar
from likewise.types import Selection

EXACT = 60_000  # images up to which all pairs are looked at by default
CELL = 4096  # images of a cell otherwise
SAME = 1e-9  # by which a pick must be more similar than those before it to represent an image
DENSE = 48  # pairs are listed once fewer than one in 48 matters: gathering one costs more than its product


def facility_location(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    checkpoint: Checkpoint | None = None,
    keys: Int[Tensor, " n"] | None = None,
    maximiser: str = "lazy",
    epsilon: float = 0.1,
    swaps: int = 0,
    cells: int | None = None,
) -> Selection:
    """Pick `budget` images that represent all others best, by cosine similarity.

    `maximiser`: lazy, naive (the same picks, slower), stochastic or threshold (`epsilon` from the best; stochastic
    draws from `seed`). `swaps=1` exchanges picks for other images until no exchange helps, or 20 passes are made:
    better, but no longer in an order whose prefixes are good; each further round starts anew from a part of the best
    picks so far. `gains` are the rises of F: with nothing `chosen` before, they add up to F(S). `weights` are the
    numbers of images that each pick represents (those not as close to an earlier pick or to a chosen one), itself
    included: they add up to n when nothing was chosen, but for images of cells without a pick.

    With more than one of `cells` (default: one up to 60,000 images, then one for about 4,096), images look for
    relatives only in their own k-means cell (drawn by `seed` and `keys`); see `_by_cells`. `meta["approximation"]` then
    says so. With one, `meta["of_best"]` is how near greedy's value is to the best there is, at least: no image could
    still gain more than the last pick did.
    """
    taken = check(len(x), budget, chosen).cpu().numpy()
    n_cells = (1 if len(x) <= EXACT else math.ceil(len(x) / CELL)) if cells is None else cells
    if swaps < 0:
        raise UsageError(f"swaps={swaps}: must be 0 or a number of rounds")
    if n_cells < 1:
        raise UsageError(f"cells={cells}: must be at least 1")
    check_epsilon(epsilon)
    if n_cells > 1:
        if swaps or maximiser != "lazy":
            raise UsageError(f"cells={n_cells}: goes with maximiser=lazy and without swaps only; cells=1 with all")
        return _by_cells(x, budget, taken, n_cells, memory, seed, keys, checkpoint)
    if swaps:
        check_memory(len(x), budget + len(taken), memory)
    objective = FacilityLocation(x, memory)
    picks, rises = maximise(
        objective, budget, taken, maximiser=maximiser, epsilon=epsilon, seed=seed, checkpoint=checkpoint
    )
    cell = objective.cell
    meta: dict[str, float] = {}
    if swaps:
        objective.pairs = None  # to make room
        picks, meta["swaps"] = refine(objective.rows, picks, taken, n_rounds=swaps, seed=seed)
        at = torch.from_numpy(np.concatenate([taken, picks])).to(x.device)
        cell = _first_nearest(objective.rows, at).cpu().numpy()
        rises = _rises(objective.rows, picks, taken)
    elif maximiser in ("lazy", "naive"):
        meta["of_best"] = _of_best(objective.value(), budget, rises)
    cell = cell - len(taken)
    return Selection(picks, rises, np.bincount(cell[cell >= 0], minlength=budget).astype(np.float64), meta=meta)


def _of_best(value: float, budget: int, rises: np.ndarray) -> float:
    """No other picks can reach more than the value and, for each of them, what the last pick gained."""
    return value / (value + budget * float(rises[-1]))


def _rises(rows: Rows, picks: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """What each pick gains after those before it."""
    at = torch.from_numpy(np.concatenate([taken, picks])).to(rows.x.device)
    total, columns = np.zeros(len(at)), rows[at].T
    for _, block in rows.blocks(3 * len(at)):
        best = (block @ columns).cummax(1).values
        best[:, 1:] -= best[:, :-1].clone()
        best[:, 0] += 1
        total += best.sum(0).cpu().numpy()
    return total[len(taken) :] / 2


class _Cell(NamedTuple):
    """The greedy picks of one cell, as ids of the pool."""

    ids: np.ndarray
    held: np.ndarray  # places of those chosen already
    picks: np.ndarray
    gains: np.ndarray


def _by_cells(
    x: Tensor,
    budget: int,
    taken: np.ndarray,
    n_cells: int,
    memory: int,
    seed: int,
    keys: Tensor | None,
    checkpoint: Checkpoint | None,
) -> Selection:
    """Facility location on the graph that joins each image with those of its k-means cell.

    This F counts similarities within cells only, and so is never more than the true one. It is a sum over cells: its
    greedy is that of each cell alone, merged by gain. Each cell makes as many picks as its share of the budget may
    need, and goes on only if its last gain would still have had a place.
    """
    parts = members(cluster(unit(x, memory), n_cells, seed=seed, keys=keys).cell, n_cells)
    cells: list[_Cell] = []
    done = _unpacked(checkpoint.kept) if checkpoint is not None and checkpoint.kept else []
    with bar("cells", n_cells) as progress:
        for number, ids in enumerate(parts):
            own = ids.cpu().numpy()
            held = np.flatnonzero(np.isin(own, taken))
            if number < len(done):
                cells.append(_Cell(own, held, *done[number]))
                continue
            cells.append(_greedy_in(x, own, held, 16 + math.ceil(2 * budget * len(own) / len(x)), budget, memory))
            progress.update(number + 1)
            if checkpoint is not None:
                checkpoint.keep(**_packed(cells))
    enough = np.sort(np.concatenate([cell.gains for cell in cells]))[::-1][budget - 1 : budget]
    for number, cell in enumerate(cells):
        while 0 < len(cell.picks) < min(len(cell.ids) - len(cell.held), budget) and (
            not len(enough) or cell.gains[-1] > enough[0] * (1 - TIE)
        ):
            cell = cells[number] = _greedy_in(x, cell.ids, cell.held, 2 * len(cell.picks), budget, memory)

    gains = np.concatenate([cell.gains for cell in cells])
    rank = np.concatenate([np.arange(len(cell.picks)) for cell in cells])
    picks = np.concatenate([cell.picks for cell in cells])
    order = np.lexsort((picks, rank, -gains.round(9)))[:budget]
    picks, gains = picks[order], gains[order]
    meta = {
        "approximation": (
            f"each image is compared with its own of {n_cells} k-means cells only: at least 1 - 1/e of the best value "
            "of that F, which is never more than the true one"
        ),
    }
    return Selection(picks, gains, _weights(x, cells, picks, memory), meta=meta)


def _packed(cells: list[_Cell]) -> dict[str, np.ndarray]:
    return {
        "picks": np.concatenate([cell.picks for cell in cells]),
        "gains": np.concatenate([cell.gains for cell in cells]),
        "sizes": np.array([len(cell.picks) for cell in cells]),
    }


def _unpacked(kept: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    ends = np.cumsum(kept["sizes"])[:-1]
    picks, gains = np.split(kept["picks"], ends), np.split(kept["gains"], ends)
    return list(zip(picks, gains, strict=True))


def _greedy_in(x: Tensor, ids: np.ndarray, held: np.ndarray, size: int, budget: int, memory: int) -> _Cell:
    size = min(size, len(ids) - len(held), budget)
    if size <= 0:
        return _Cell(ids, held, ids[:0], np.zeros(0))
    objective = FacilityLocation(x[torch.from_numpy(ids).to(x.device)], memory)
    picks, gains = maximise(objective, size, held, show=lambda _: None)  # the bar is that of the cells
    gains = np.minimum.accumulate(gains)
    return _Cell(ids, held, ids[picks], np.where(gains > NOISE * len(ids), gains, 0.0))


def _weights(x: Tensor, cells: list[_Cell], picks: np.ndarray, memory: int) -> np.ndarray:
    """How many images of its cell each pick represents."""
    place = np.full(len(x), -1)
    place[picks] = np.arange(len(picks))
    weights = np.zeros(len(picks))
    for cell in cells:
        some = cell.picks[place[cell.picks] >= 0]
        mine = np.concatenate([cell.ids[cell.held], some])
        if len(some):
            rows = unit(x[torch.from_numpy(cell.ids).to(x.device)], memory)
            nearest = _first_nearest(rows, torch.from_numpy(np.searchsorted(cell.ids, mine)).to(x.device))
            counts = np.bincount(nearest.cpu().numpy(), minlength=len(mine))[len(cell.held) :]
            weights[place[some]] = counts
    return weights


def _first_nearest(rows: Rows, at: Tensor) -> Tensor:
    """Which of the rows `at` is the most similar to each row: of equals the first, as when they are picked in turn."""
    found, first, second = rows.matches(rows.single(at))
    unsure = (first - second <= 2 * (rounding(rows.x.shape[1]) + SAME)).nonzero()[:, 0]
    others = rows[at].T
    for part in spans(len(unsure), 3 * len(at) + 2 * rows.x.shape[1], rows.memory // 3):
        cosines = rows[unsure[part]] @ others
        found[unsure[part]] = (cosines >= cosines.amax(1, keepdim=True) - SAME).view(torch.uint8).argmax(1)
    return found


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
        self.look = 1  # at how many picks to see next whether they can be

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

    def value(self) -> float:
        """F of what was added."""
        return float((1 + self.best).sum()) / 2

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
        self.cell[images[new > old + SAME]] = self.size  # a copy stays with the earlier pick
        self.size += 1
        if self.pairs is None:
            self._lower(images, old, new)
            if self.size >= self.look:
                self.look = self.size + 1 + self.size // 4
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
