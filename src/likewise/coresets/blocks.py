"""What the selectors share: rows block by block, exact and fast, distances and ties.

Selection is decided in float64: rounding is then a billion times smaller than the 1e-6 within which two
candidates count as equal, so neither the block size nor the number of threads can change what is picked. Where most of
the time goes, products are taken in float32, whose error is bounded (`rounding`): only what such a product cannot
tell apart is computed again in float64.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.errors import UsageError

TIE = 1e-6  # relative; candidates closer than this are equal, and the lower id wins
MEMORY = 2 << 30  # bytes of work space beyond x itself
METRICS = ("cosine", "euclidean")
_CACHED = 32 << 20  # bytes; blocks larger than this gain nothing
_COLUMNS = 2048  # of a block of products, and its size in bytes: what a core's own cache holds
_BLOCK = 2 << 20


class Rows:
    """x * scale - shift, in float64 as `rows[ids]`, in float32 as `rows.single(ids)`.

    Either is held whole once asked for in blocks, if it fits in a third of the memory, else made block by block.
    """

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
        self.whole_single: Tensor | None = None
        if shift is None and scale is None and x.dtype == torch.float32:
            self.whole_single = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, ids: Int[Tensor, " m"] | slice | list[int]) -> Float[Tensor, "m d"]:
        if self.whole is not None:
            return self.whole[ids]
        rows = self.x[ids].double()
        if self.scale is not None:
            rows = rows * self.scale[ids, None]
        return rows if self.shift is None else rows - self.shift

    def single(self, ids: Int[Tensor, " m"] | slice | list[int]) -> Float[Tensor, "m d"]:
        """Some rows in float32: rounded from float64 after the shift and the scale."""
        if self.whole_single is None and self.x.numel() * 4 <= self.memory // 3:
            held = torch.empty(self.x.shape, dtype=torch.float32, device=self.x.device)
            for span in spans(len(self.x), 3 * self.x.shape[1], self.memory // 3):
                held[span] = self[span].float()
            self.whole_single = held
        return self[ids].float() if self.whole_single is None else self.whole_single[ids]

    def blocks(self, width: int, *, hold: bool = True) -> Iterator[tuple[slice, Float[Tensor, "m d"]]]:
        """All rows in float64, in order. `width`: how many numbers the caller makes of each row.

        With `hold` they are kept for the next time, if they fit.
        """
        if hold and self.whole is None and self.x.numel() * 8 <= self.memory // 3:
            held = torch.empty(self.x.shape, dtype=torch.float64, device=self.x.device)
            for span in spans(len(self.x), 3 * self.x.shape[1], self.memory // 3):
                held[span] = self[span]
            self.whole = held
        for span in spans(len(self.x), width + 2 * self.x.shape[1], self.memory // 3):
            yield span, self[span]

    def products(self, others: Float[Tensor, "k d"]) -> Iterator[tuple[slice, Float[Tensor, "m k"]]]:
        """All rows times `others`, in float32, block by block. Each block overwrites the one before."""
        columns = others.T.contiguous()
        row = 4 * max(len(others), 1)
        step = max(min(max(_BLOCK // row, 64), self.memory // 3 // (row + 16 * self.x.shape[1])), 1)
        kept = torch.empty(min(step, len(self)), len(others), device=self.x.device)
        for start in range(0, len(self), step):
            span = slice(start, min(start + step, len(self)))
            yield span, torch.mm(self.single(span), columns, out=kept[: span.stop - start])

    def matches(
        self, others: Float[Tensor, "k d"], offsets: Float[Tensor, " k"] | None = None
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
        """For each row which of the others has the largest product (less its offset), in float32, and the two largest.

        Of one other the second largest is minus infinity.
        """
        n, device = len(self), self.x.device
        where = torch.empty(n, dtype=torch.int64, device=device)
        first, second = (torch.full((n,), -torch.inf, device=device) for _ in range(2))
        for part in parts(len(others)):
            columns = None if offsets is None else offsets[part]
            for span, block in self.products(others[part]):
                if columns is not None:
                    block -= columns
                at = _argmax(block)[:, None]
                top = block.gather(1, at)[:, 0]
                block.scatter_(1, at, -torch.inf)
                next_ = torch.maximum(block.amax(1), torch.minimum(top, first[span]))
                where[span] = torch.where(top > first[span], at[:, 0] + part.start, where[span])
                first[span], second[span] = torch.maximum(first[span], top), torch.maximum(second[span], next_)
        return where, first, second

    def dot(self, ids: Int[Tensor, " m"], vector: Float[Tensor, " d"]) -> Float[Tensor, " m"]:
        """Some rows times one vector, in float64."""
        parts = spans(len(ids), 2 * self.x.shape[1], self.memory // 3)
        return torch.cat([vector.new_empty(0), *(self[ids[part]] @ vector for part in parts)])

    def total(self) -> Float[Tensor, " d"]:
        """The sum of all rows, in float64."""
        zero = torch.zeros(self.x.shape[1], dtype=torch.float64, device=self.x.device)
        return sum((block.sum(0) for _, block in self.blocks(0, hold=False)), zero)


def spans(n: int, width: int, memory: int) -> Iterator[slice]:
    """Slices that cover n rows, each of at most `memory` bytes when a row has `width` float64 numbers."""
    step = max(min(memory, _CACHED) // (8 * max(width, 1)), 1)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def parts(n: int) -> Iterator[slice]:
    """Slices that cover n columns, of a good size for a block of products."""
    return (slice(start, min(start + _COLUMNS, n)) for start in range(0, n, _COLUMNS))


def rounding(d: int) -> float:
    """A bound on the error of the product of two float32 rows of length at most 1, whose numbers were rounded too.

    Blocked sums err like the square root of d; a test holds the products of this machine to half of this.
    """
    return 2.0**-24 * (4 + 3 * d**0.5)


def _argmax(block: Float[Tensor, "m k"]) -> Int[Tensor, " m"]:
    """The position of the largest number of each row: numpy finds it several times faster than torch on a processor."""
    return torch.from_numpy(block.numpy().argmax(1)) if block.device.type == "cpu" else block.argmax(1)


def squared_norms(x: Float[Tensor, "n d"], memory: int = MEMORY) -> Float[Tensor, " n"]:
    """Squared length of each row, in float64."""
    return torch.cat([x[span].double().square().sum(1) for span in spans(len(x), 2 * x.shape[1], memory)])


def centred(x: Float[Tensor, "n d"], memory: int = MEMORY, metric: str = "euclidean") -> Rows:
    """Rows minus their mean: distances stay, and no digits are lost to a common offset.

    By the metric "cosine" the rows have length 1 before the mean is taken.
    """
    rows = measured(x, memory, metric)
    return Rows(x, memory, scale=rows.scale, shift=rows.total() / len(x))


def unit(x: Float[Tensor, "n d"], memory: int = MEMORY) -> Rows:
    """Rows of length 1. A zero row stays zero: its cosine similarity to everything is 0."""
    norms = squared_norms(x, memory).sqrt()
    return Rows(x, memory, scale=torch.where(norms > 0, 1 / norms, 0.0))


def measured(x: Float[Tensor, "n d"], memory: int, metric: str) -> Rows:
    """Rows between which the Euclidean distance is meant: of length 1 ("cosine") or as given ("euclidean")."""
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r}: must be one of {', '.join(METRICS)}")
    return unit(x, memory) if metric == "cosine" else Rows(x, memory)


def squared_distances(
    rows: Float[Tensor, "m d"], centres: Float[Tensor, "k d"], squares: Float[Tensor, " k"]
) -> Float[Tensor, "m k"]:
    """Squared Euclidean distances; below a millionth of the two lengths they are zero.

    `squares` are the squared lengths of the centres.
    """
    own = rows.square().sum(1, keepdim=True)
    distances = torch.addmm(squares, rows, centres.T, alpha=-2).add_(own)
    return distances.masked_fill_(distances < 1e-12 * (own + squares), 0.0)


def lowest_tie(values: Float[Tensor, " n"], tie: float = TIE, noise: float = 0.0) -> tuple[int, float]:
    """Position of the first value within the tie of the largest one, or within the noise of it, and the largest."""
    top = float(values.max())
    return int((values >= top - tie * abs(top) - noise).nonzero()[0, 0]), top


def largest(values: Float[Tensor, " n"], n: int) -> tuple[Int[Tensor, " m"], float]:
    """Ids, in order, of the n largest values that are not minus infinity, and the largest of all other values."""
    if len(values) <= n:
        return (values > -torch.inf).nonzero()[:, 0], -torch.inf
    top, ids = values.topk(n + 1)
    return ids[:-1][top[:-1] > -torch.inf].sort().values, float(top[-1])


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
