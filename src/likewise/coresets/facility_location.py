"""Facility location, lazy greedy (Minoux 1978; Mirzasoleiman et al. 2020): every image should have a close relative.

Maximises F(S) = sum over all images i of max over j in S of (1 + cos(i, j)) / 2, which is monotone and submodular with
F(nothing) = 0, so greedy reaches at least 1 - 1/e of the best. The mean over all images of the best cosine, which
`quality` reports, is 2 F / n - 1.

Lazy: gains only ever fall, so an old gain is an upper bound. The best candidates form a small pool whose gains are kept
up to date; all others are brought up to date only when one of their old gains could beat the pool. Either way
only those images count that have found a closer pick since, soon a handful. The first gains have a closed form,
(n + x_j . sum of x) / 2, and no matrix of similarities is ever held. The picks are those of the naive greedy.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, TIE, Rows, check, largest, lowest_tie, unit
from likewise.types import Selection

POOL = 256  # candidates kept up to date; changes the speed, never the picks


def facility_location(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
) -> Selection:
    """Pick `budget` images that represent all others best, by cosine similarity.

    Nothing is drawn, so `seed` has no effect. `gains` are the rises of F: with nothing `chosen` before, they add up to
    F(S). `weights` are the numbers of images that each pick represents (those not as close to an earlier pick or
    to a chosen one), itself included: they add up to n when nothing was chosen.
    """
    n = len(x)
    chosen = check(n, budget, chosen)
    rows = unit(x, memory)
    best = torch.full((n,), -1.0, dtype=torch.float64, device=x.device)  # cosine to the closest pick
    cell = torch.full((n,), -1 if len(chosen) else 0, device=x.device)  # the pick that represents each image
    taken = torch.zeros(n, dtype=torch.bool, device=x.device)
    total = sum((block.sum(0) for _, block in rows.blocks(0)), torch.zeros_like(rows[[0]][0]))
    gains = torch.cat([(n + block @ total) / 2 for _, block in rows.blocks(1)])  # exact as of `then`
    then = best.clone()
    for at in chosen.tolist():
        _represent(rows, at, best)
        taken[at] = True

    picks: list[int] = []
    rises: list[float] = []
    while len(picks) < budget:
        changed = (best > then).nonzero()[:, 0]
        relatives, old, new = rows[changed], then[changed], best[changed]
        for span, block in rows.blocks(2 * len(changed)):
            gains[span] -= _lost(block, relatives, old, new)
        then = best.clone()
        gains.clamp_(min=0)[taken] = -1

        ids, bar = largest(gains, POOL)
        pool, fresh = rows[ids], gains[ids]
        certain = True  # every gain is up to date, not only the pool's
        while len(picks) < budget:
            where, top = lowest_tie(fresh)
            at = int(ids[where])
            if bar >= top * (1 - TIE):  # a candidate outside the pool may be as good, as far as its old gain tells
                if not certain:
                    break
                at, top = lowest_tie(gains)
            if top <= 1e-12 * n:  # all that is left has a copy among the picks: it goes by id
                rest = (~taken).nonzero()[: budget - len(picks), 0].tolist()
                picks, rises = picks + rest, rises + [0.0] * len(rest)
                break
            closer, old, new = _represent(rows, at, best)
            cell[closer[new > old + 1e-9]] = len(picks)  # a copy stays with the earlier pick
            picks.append(at)
            rises.append(top)
            taken[at], certain = True, False
            fresh = (fresh - _lost(pool, rows[closer], old, new)).clamp_(min=0)
            fresh[taken[ids]] = -1
    weights = torch.bincount(cell[cell >= 0], minlength=budget).cpu().double().numpy()
    return Selection(np.array(picks, dtype=np.int64), np.array(rises), weights)


def _represent(rows: Rows, at: int, best: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Let one more pick represent the images: those that it is closer to, with their old and new best cosine."""
    one = rows[[at]][0]
    similarity = torch.cat([block @ one for _, block in rows.blocks(1)])
    closer = (similarity > best).nonzero()[:, 0]
    old, new = best[closer], similarity[closer]
    best[closer] = new
    return closer, old, new


def _lost(candidates: Tensor, images: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """What the candidates' gains lose when the images' best cosine rises from old to new."""
    similarity = candidates @ images.T
    return (torch.clamp(similarity, old, new, out=similarity).sum(1) - old.sum()) / 2
