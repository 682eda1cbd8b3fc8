"""k-center greedy (Gonzalez 1985; Sener and Savarese 2018): pick, again and again, the image farthest from all picked.

The largest distance from any image to its nearest pick (the radius) is at most twice the smallest possible.

The textbook passes over all images once per pick. Distances to the nearest pick only ever fall, so an old value is
an upper bound: here the farthest candidates form a small pool that is kept up to date, and all other images are
brought up to date, many picks at once, only when one of their old values could beat the pool. The picks are the same.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, TIE, Rows, centred, check, largest, lowest_tie, squared_distances
from likewise.errors import UsageError
from likewise.types import Selection

POOL = 1024  # candidates kept up to date; changes the speed, never the picks
_TIE = 2 * TIE  # of squared distances


def k_center(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    quantile: float = 1.0,
) -> Selection:
    """Pick `budget` images far from each other, by the Euclidean distance of x as given.

    Nothing is drawn, so `seed` has no effect: the first pick is the image nearest the mean, unless some ids are
    `chosen` already (they are not returned). `gains` are the distances at which the images were picked, that is the
    radius before each pick; they never rise. The very first pick, which has no distance, gets the diameter of the
    ball around the mean that holds all images.

    k-center likes outliers. With `quantile` below 1 the pick is the image at that quantile of the distances instead
    of the farthest, so that such a share of extremes is left alone; each pick then costs a full pass.
    """
    if not 0 < quantile <= 1:
        raise UsageError(f"quantile={quantile}: must be above 0 and at most 1")
    chosen = check(len(x), budget, chosen)
    rows = centred(x, memory)
    squares = torch.cat([block.square().sum(1) for _, block in rows.blocks(x.shape[1])])
    near = torch.full_like(squares, torch.inf)  # squared distance to the nearest pick; -1 for the picks themselves
    picks: list[int] = []
    gains: list[float] = []  # squared
    pending = chosen.tolist()
    if not pending:
        slack = _TIE * squares.min() + 1e-12 * squares.max()
        picks.append(int((squares <= squares.min() + slack).nonzero()[0, 0]))
        gains.append(4 * float(squares.max()))
        pending = picks[:]

    while len(picks) < budget:
        _catch_up(near, rows, squares, pending)
        pending = []
        ids, bar = largest(near, POOL)
        pool, reach = rows[ids], near[ids]
        while len(picks) < budget:
            if quantile < 1:
                at, top = _at_quantile(near, quantile)
            else:
                where, top = lowest_tie(reach, _TIE)
                at = int(ids[where])
                if bar >= top * (1 - _TIE):  # an image outside the pool may be as far, as far as its old value tells
                    if pending:
                        break
                    at, top = lowest_tie(near, _TIE)
                    if top == 0:  # only copies of what is picked are left: they go by id
                        rest = (near >= 0).nonzero()[: budget - len(picks), 0].tolist()
                        return _selection(picks + rest, gains + [0.0] * len(rest))
            picks.append(at)
            gains.append(top)
            pending.append(at)
            if quantile < 1:
                break
            reach = torch.minimum(reach, squared_distances(pool, rows[[at]], squares[[at]])[:, 0])
            reach[ids == at] = -1
    return _selection(picks, gains)


def _catch_up(near: Tensor, rows: Rows, squares: Tensor, picks: list[int]) -> None:
    at = torch.tensor(picks, device=near.device)
    centres = rows[at]
    for span, block in rows.blocks(2 * len(picks)):
        near[span] = torch.minimum(near[span], squared_distances(block, centres, squares[at]).amin(1))
    near[at] = -1


def _at_quantile(near: Tensor, quantile: float) -> tuple[int, float]:
    free = near[near >= 0]
    value = free.kthvalue(max(round(quantile * len(free)), 1)).values
    return lowest_tie(torch.where(near <= value * (1 + _TIE), near, -1.0), _TIE)[0], float(value)


def _selection(picks: list[int], squared: list[float]) -> Selection:
    return Selection(np.array(picks, dtype=np.int64), np.sqrt(np.array(squared)))
