"""What the selectors share: rows in float64, block by block, distances and ties.

Selection is decided in float64: rounding is then a billion times smaller than the 1e-6 within which two
candidates count as equal, so neither the block size nor the number of threads can change what is picked.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.errors import UsageError

TIE = 1e-6  # relative; candidates closer than this are equal, and the lower id wins
MEMORY = 2 << 30  # bytes of work space beyond x itself
_CACHED = 32 << 20  # bytes; blocks larger than this gain nothing


class Rows:
    """(x - shift) * scale in float64. Held whole when that fits in half the memory, else made block by block."""

    def __init__(
        self,
        x: Float[Tensor, "n d"],
        memory: int,
        *,
        shift: Float[Tensor, " d"] | None = None,
        scale: Float[Tensor, " n"] | None = None,
    ) -> None:
        self.x, self.shift, self.scale, self.memory = x, shift, scale, memory
        self.whole: Tensor | None = None
        if x.numel() * 8 <= memory // 2:
            self.whole = self[torch.arange(len(x), device=x.device)]

    def __getitem__(self, ids: Int[Tensor, " m"] | slice | list[int]) -> Float[Tensor, "m d"]:
        if self.whole is not None:
            return self.whole[ids]
        rows = self.x[ids].double()
        if self.shift is not None:
            rows = rows - self.shift
        return rows if self.scale is None else rows * self.scale[ids, None]

    def blocks(self, width: int) -> Iterator[tuple[slice, Float[Tensor, "m d"]]]:
        """All rows in order. `width`: how many numbers the caller makes of each row."""
        for span in spans(len(self.x), width + 2 * self.x.shape[1], self.memory // 2):
            yield span, self[span]


def spans(n: int, width: int, memory: int) -> Iterator[slice]:
    """Slices that cover n rows, each of at most `memory` bytes when a row has `width` float64 numbers."""
    step = max(min(memory, _CACHED) // (8 * max(width, 1)), 1)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def squared_norms(x: Float[Tensor, "n d"], memory: int = MEMORY) -> Float[Tensor, " n"]:
    """Squared length of each row, in float64."""
    parts = [x[span].double().square().sum(1) for span in spans(len(x), 2 * x.shape[1], memory)]
    return torch.cat(parts)


def centred(x: Float[Tensor, "n d"], memory: int = MEMORY) -> Rows:
    """Rows minus their mean: distances stay, and no digits are lost to a common offset."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for span in spans(len(x), 2 * x.shape[1], memory):
        total += x[span].double().sum(0)
    return Rows(x, memory, shift=total / len(x))


def unit(x: Float[Tensor, "n d"], memory: int = MEMORY) -> Rows:
    """Rows of length 1. A zero row stays zero: its cosine similarity to everything is 0."""
    norms = squared_norms(x, memory).sqrt()
    return Rows(x, memory, scale=torch.where(norms > 0, 1 / norms, 0.0))


def squared_distances(
    rows: Float[Tensor, "m d"], centres: Float[Tensor, "k d"], squares: Float[Tensor, " k"]
) -> Float[Tensor, "m k"]:
    """Squared Euclidean distances; below a millionth of the lengths involved they are zero.

    `squares` are the squared lengths of the centres.
    """
    own = rows.square().sum(1, keepdim=True)
    distances = torch.addmm(squares, rows, centres.T, alpha=-2).add_(own)
    floor = 1e-12 * (own + squares.max())
    return distances.masked_fill_(distances < floor, 0.0)


def lowest_tie(values: Float[Tensor, " n"], tie: float = TIE) -> tuple[int, float]:
    """Position of the first value within the tie of the largest one, and the largest."""
    top = float(values.max())
    return int((values >= top - tie * abs(top)).nonzero()[0, 0]), top


def largest(values: Float[Tensor, " n"], n: int) -> tuple[Int[Tensor, " m"], float]:
    """Ids, in order, of the n largest values, and the largest of all other values."""
    if len(values) <= n:
        return torch.arange(len(values), device=values.device), -torch.inf
    top, ids = values.topk(n + 1)
    return ids[:-1].sort().values, float(top[-1])


def check(n: int, budget: int, chosen: Int[Tensor, " m"] | None) -> Int[Tensor, " m"]:
    """The ids already chosen (none: empty), after checking that `budget` more can be had."""
    if chosen is None:
        chosen = torch.empty(0, dtype=torch.int64)
    if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= n or len(chosen.unique()) < len(chosen)):
        raise UsageError(f"chosen: ids must be distinct and between 0 and {n - 1}")
    free = n - len(chosen)
    if not 1 <= budget <= free:
        left = f"{free} of {n} are not chosen yet" if len(chosen) else f"there are {n}"
        raise UsageError(f"budget {budget}: must be between 1 and the number of images, and {left}")
    return chosen.long()
