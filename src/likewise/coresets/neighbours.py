"""Exact nearest neighbours within a set, in bounded memory."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import Rows, squared_distances
from likewise.coresets.clusters import parts, tiles

_STEPS = (1 << 31) - 1  # of the logarithm of squared distance, up to the largest there can be
_RANGE = 64  # what the logarithm falls by down to step 0


def k_nearest(rows: Rows, ids: Int[Tensor, " m"], k: int) -> tuple[Int[Tensor, "m k"], Float[Tensor, "m k"]]:
    """Of each image its k nearest others among `ids`, nearest first, as positions in `ids`; and the distances.

    Squared distances that differ by less than 3e-8 of themselves tie, and the lower position goes first; below a
    millionth of the lengths involved a distance is 0.
    """
    k = min(k, len(ids) - 1)
    places = torch.arange(len(ids), device=ids.device)
    top = max((float(rows[piece].square().sum(1).max()) for piece in parts(ids, rows, 2)), default=1.0) or 1.0
    found, lengths = [], []
    for mine in tiles(places, rows):
        block = rows[ids[mine]]
        best = torch.empty((len(mine), 0), dtype=torch.int64, device=ids.device)
        for other in tiles(places, rows):
            candidates = rows[ids[other]]
            squares = squared_distances(block, candidates, candidates.square().sum(1))
            steps = (squares.div_(4 * top).log_() / _RANGE + 1).clamp_(0, 1).mul_(_STEPS).round_().long()
            numbers = (steps << 32) | other
            numbers[mine[:, None] == other] = torch.iinfo(torch.int64).max  # not itself
            best = torch.cat([best, numbers], 1)
            best = best.topk(min(k + 1, best.shape[1]), largest=False).values
        near = (best[:, :k] & ((1 << 32) - 1)).long()
        found.append(near)
        lengths.append(torch.stack([(rows[ids[column]] - block).norm(dim=1) for column in near.T], 1))
    return torch.cat(found), torch.cat(lengths)
