"""Neighbour relations: which images are alike, and nothing more.

A relation is an equivalence with edges: images fall into groups, all images of a group are alike, and so are all
images of two groups that are paired; every other pair is dissimilar. That is enough for k nearest neighbours (each
image its own group), for labels (no pairs), for known transformations (the copies of an image are a group), and for
the closure of the first under the last (the copies' groups keep the pairs of their originals), and it stays small: a
million transformed copies cost no more pairs than their originals.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise.errors import DataError, UsageError
from likewise.progress import bar

MEMORY = 256 << 20  # bytes of work space of `nearest`, beside the features
SPARE = 11  # candidates beyond k that are kept in single precision, then measured exactly
PART = 4096  # rows that are brought to double precision together
TILE = 16  # distances that compete as one before the nearest are sought
COLUMNS = ("id_a", "id_b", "similar")


@dataclass(frozen=True, eq=False)
class Relation:
    """Image i belongs to group `groups[i]`; `pairs` are the pairs of different groups whose images are alike.

    Groups are numbered from 0. Pairs may come in any order and direction and more than once. Raises DataError for a
    group that is not there.
    """

    groups: Int[Tensor, " n"]
    pairs: Int[Tensor, "p 2"]

    def __post_init__(self) -> None:
        count = self.n_groups
        if len(self.groups) and int(self.groups.min()) < 0:
            raise DataError(f"relation: group {int(self.groups.min())} is unknown; groups are numbered from 0")
        if len(self.pairs) and not (int(self.pairs.min()) >= 0 and int(self.pairs.max()) < count):
            wrong = int(self.pairs.max()) if int(self.pairs.min()) >= 0 else int(self.pairs.min())
            raise DataError(f"relation: group {wrong} of a pair is unknown; there are groups 0 to {count - 1}")
        low, high = self.pairs.amin(1), self.pairs.amax(1)
        codes = (low * count + high)[low != high].unique()
        object.__setattr__(self, "pairs", torch.stack([codes // max(count, 1), codes % max(count, 1)], 1))

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def n_groups(self) -> int:
        return int(self.groups.max()) + 1 if len(self.groups) else 0

    @property
    def n_pairs(self) -> int:
        """Unordered pairs of different images, alike or not."""
        return len(self) * (len(self) - 1) // 2

    @cached_property
    def n_similar(self) -> int:
        """Unordered pairs of different images that are alike."""
        sizes = self._sizes
        return int((sizes * (sizes - 1) // 2).sum() + (sizes[self.pairs[:, 0]] * sizes[self.pairs[:, 1]]).sum())

    def similar(self, ids: Int[Tensor, " b"]) -> Bool[Tensor, "b b"]:
        """Which of some images are alike. An image is like itself."""
        groups, place = self.groups[ids].unique(return_inverse=True)
        row_of = torch.full((self.n_groups,), -1)
        row_of[groups] = torch.arange(len(groups))
        starts, others = self._edges
        rows, edges = _ranges(starts[groups], starts[groups + 1])
        columns = row_of[others[edges]]
        alike = torch.zeros(len(groups), len(groups), dtype=torch.bool)
        alike[rows[columns >= 0], columns[columns >= 0]] = True
        return alike[place][:, place]

    def draw(self, ids: Int[Tensor, " b"], u: Float[Tensor, "b k"]) -> Int[Tensor, "b k"]:
        """Images like each of `ids`, one for each uniform draw in (0, 1); every such image is as likely as another.

        An image that is like no other gets itself.
        """
        starts, others = self._edges
        sizes = self._sizes
        first, members = self._members
        reach = torch.cat([torch.zeros(1, dtype=torch.int64), sizes[others].cumsum(0)])  # images before each edge
        low, high = reach[starts[self.groups[ids]]], reach[starts[self.groups[ids] + 1]]
        # The own group is the first edge. Of its images the seed itself is left out, where there is any other.
        itself = low + self._position[ids]
        many = (high - low - 1).clamp(min=0)
        place = low.unsqueeze(1) + (u.double() * many.unsqueeze(1)).long().clamp(
            max=(many - 1).clamp(min=0).unsqueeze(1)
        )
        place += place >= itself.unsqueeze(1)
        place = torch.where(many.unsqueeze(1) > 0, place, itself.unsqueeze(1))
        edge = torch.searchsorted(reach, place, right=True) - 1
        return members[first[others[edge]] + place - reach[edge]]

    def copied(self, originals: Int[Tensor, " m"]) -> "Relation":
        """Closed under transformations: image i of the new set is a copy, somehow transformed, of `originals[i]`.

        Copies are alike if they are of one original or of originals that are alike, whatever was done to either.
        """
        check_ids(originals, len(self), "originals")
        used, groups = self.groups[originals].unique(return_inverse=True)
        number = torch.full((self.n_groups,), -1)
        number[used] = torch.arange(len(used))
        pairs = number[self.pairs]
        return Relation(groups, pairs[(pairs >= 0).all(1)])

    @cached_property
    def _sizes(self) -> Int[Tensor, " g"]:
        return self.groups.bincount(minlength=self.n_groups)

    @cached_property
    def _members(self) -> tuple[Int[Tensor, " h"], Int[Tensor, " n"]]:
        """Where each group begins in the list of images sorted by group, and that list."""
        return _starts(self._sizes), self.groups.argsort(stable=True)

    @cached_property
    def _position(self) -> Int[Tensor, " n"]:
        """The position of each image within its group."""
        first, members = self._members
        position = torch.empty_like(members)
        position[members] = torch.arange(len(members)) - first[self.groups[members]]
        return position

    @cached_property
    def _edges(self) -> tuple[Int[Tensor, " h"], Int[Tensor, " e"]]:
        """Where the edges of each group begin in a list of groups, and that list: itself, then those paired with it."""
        own = torch.arange(self.n_groups)
        a = torch.cat([own, self.pairs[:, 0], self.pairs[:, 1]])
        b = torch.cat([own, self.pairs[:, 1], self.pairs[:, 0]])
        return _starts(a.bincount(minlength=self.n_groups)), b[a.argsort(stable=True)]


def alone(n: int) -> Relation:
    """Every image is like itself alone, and like its transformed copies."""
    return Relation(torch.arange(n), torch.empty(0, 2, dtype=torch.int64))


def from_neighbours(neighbours: Int[Tensor, "n k"]) -> Relation:
    """Row i lists images like image i; the relation goes both ways."""
    n, k = neighbours.shape
    if k == 0 or n < 2:
        raise DataError(f"relation: {n} images with {k} neighbours each relate nothing; expected at least 2 and 1")
    check_ids(neighbours.flatten(), n, "neighbours")
    pairs = torch.stack([torch.arange(n).repeat_interleave(k), neighbours.flatten()], 1)
    return _not_empty(Relation(torch.arange(n), pairs), "neighbours")


def from_labels(labels: Int[Tensor, " n"]) -> Relation:
    """Images of one class are alike; one without a label (-1) is like no other."""
    _, groups = torch.where(labels < 0, -1 - torch.arange(len(labels)), labels).unique(return_inverse=True)
    return _not_empty(Relation(groups, torch.empty(0, 2, dtype=torch.int64)), "labels")


def from_pairs(pairs: Int[Tensor, "p 2"], similar: Bool[Tensor, " p"], n: int, source: str = "pairs") -> Relation:
    """Pairs of n images that are alike, or said not to be; a pair that is not listed is dissimilar.

    Raises DataError for an unknown id, an image paired with itself, a pair that is listed as both, and where no pair
    is similar.
    """
    check_ids(pairs.flatten(), n, source)
    same = pairs[:, 0] == pairs[:, 1]
    if bool(same.any()):
        raise DataError(f"{source}: pairs image {int(pairs[same][0, 0])} with itself; expected two different ids")
    codes = pairs.amin(1) * n + pairs.amax(1)
    both = codes[similar].unique()
    both = both[torch.isin(both, codes[~similar])]
    if len(both):
        a, b = int(both[0]) // n, int(both[0]) % n
        raise DataError(f"{source}: says both 1 and 0 of the pair {a},{b}; expected one of them")
    return _not_empty(Relation(torch.arange(n), pairs[similar]), source)


def read_pairs(path: Path | str, n: int) -> Relation:
    """The relation of n images in a .csv with the columns id_a, id_b (their numbers, from 0) and similar (1 or 0)."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, header = [(reader.line_num, row) for row in reader], reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a .csv ({error})") from None
    if missing := [column for column in COLUMNS if column not in header]:
        raise DataError(f"{path}: has the columns {', '.join(header) or 'none'}; expected one named {missing[0]}")
    numbers = []
    for line, row in rows:
        a, b, similar = ((row[column] or "").strip() for column in COLUMNS)
        if not (a.isdecimal() and b.isdecimal() and similar in ("0", "1") and max(len(a), len(b)) < 19):
            raise DataError(f"{path}, line {line}: {a},{b},{similar}; expected two ids (0 to {n - 1}) and 1 or 0")
        numbers.append((int(a), int(b), int(similar)))
    table = torch.tensor(numbers, dtype=torch.int64).reshape(-1, 3)
    return from_pairs(table[:, :2], table[:, 2] == 1, n, str(path))


def nearest(x: Float[Tensor, "n d"], k: int, *, memory: int = MEMORY) -> Int[Tensor, "n k"]:
    """The k nearest other rows of each row by Euclidean distance, nearest first; the lower id among equals.

    Exact, in bounded memory: pairs of blocks are compared once, in single precision, for either side; k and a few
    spare candidates of each row are then measured in double precision. Where the error of single precision might have
    hidden a neighbour, the row is compared with all others in double precision.
    """
    n = len(x)
    if not 1 <= k < n:
        raise UsageError(f"neighbours={k}: expected 1 to {n - 1}, of {n} images")
    if not bool(torch.isfinite(x).all()):
        raise DataError("neighbours: some features are not finite")
    x = x.float()
    mean = _middle(x).float()
    half = torch.cat([(part - mean).square_().sum(1) for part in x.split(PART)]) / 2
    n_kept = min(k + SPARE, n - 1)
    score = torch.full((n, n_kept), -torch.inf)  # <x, y> - |y|^2 / 2, largest for the nearest y
    which = torch.full((n, n_kept), -1)
    side = max(TILE, int((memory / 4 / 4) ** 0.5) // TILE * TILE)  # a block of products and what is made of it
    blocks = [slice(start, min(start + side, n)) for start in range(0, n, side)]
    with bar("neighbours", len(blocks) * (len(blocks) + 1) // 2) as progress:
        for i, rows in enumerate(blocks):
            a = x[rows] - mean
            for j, columns in enumerate(blocks[i:], i):
                products = a @ (x[columns] - mean).T
                if i == j:
                    products.fill_diagonal_(-torch.inf)
                else:
                    _keep(products.T - half[rows], rows.start, score[columns], which[columns])
                _keep(products.sub_(half[columns]), columns.start, score[rows], which[rows])
                progress.update(i * len(blocks) - i * (i - 1) // 2 + j - i + 1)
    return _exactly(x, half, score, which, k)


def _keep(scores: Float[Tensor, "a b"], start: int, best: Float[Tensor, "a c"], which: Int[Tensor, "a c"]) -> None:
    """Bring the largest of new scores, whose columns are numbered from `start`, into the best of each row, in place.

    A tile of columns holds one of them only if its largest is among the largest, so most drop out in one pass.
    """
    a, b = scores.shape
    c, whole = best.shape[1], b // TILE * TILE
    columns = torch.arange(b).expand(a, b)
    if whole > 2 * TILE * c:
        tiles = scores[:, :whole].unflatten(1, (-1, TILE)).amax(2).topk(c, dim=1, sorted=False).indices
        columns = torch.cat([(tiles.unsqueeze(2) * TILE + torch.arange(TILE)).flatten(1), columns[:, whole:]], 1)
        scores = scores.gather(1, columns)
    values, order = torch.cat([best, scores], 1).topk(c, dim=1, sorted=False)
    which.copy_(torch.cat([which, columns + start], 1).gather(1, order))
    best.copy_(values)


def _exactly(
    x: Float[Tensor, "n d"],
    half: Float[Tensor, " n"],
    score: Float[Tensor, "n c"],
    which: Int[Tensor, "n c"],
    k: int,
) -> Int[Tensor, "n k"]:
    """The k nearest among the candidates, in double precision; rows that single precision cannot settle, among all."""
    n, d = x.shape
    found = torch.empty(n, k, dtype=torch.int64)
    settled = torch.ones(n, dtype=torch.bool)
    unseen = 2 * (half.double() - score.amin(1).double())  # squared distance that all other rows exceed, nearly
    error = 2.0**-23 * (d + 8) * (2 * half.double().sqrt() * 2 * half.max().double().sqrt() + 2 * half.max().double())
    step = max(1, (16 << 20) // (8 * d * which.shape[1]))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        ids = which[rows].sort(1).values
        distances = (x[ids].double() - x[rows].double().unsqueeze(1)).square().sum(2)
        near, order = distances.sort(dim=1, stable=True)
        found[rows] = ids.gather(1, order[:, :k])
        settled[rows] = near[:, k - 1] < unseen[rows] - error[rows]
    if which.shape[1] < n - 1 or not bool(half.isfinite().all()):
        unsettled = (~settled).nonzero().flatten()
        distinct, which = x[unsettled].unique(dim=0, return_inverse=True)
        for number, near in enumerate(_in_double(distinct, x, k + 1)):
            ids = unsettled[which == number]  # copies have the same neighbours, but for themselves
            others = near != ids.unsqueeze(1)
            others[others.all(1), k] = False
            found[ids] = near.expand(len(ids), -1)[others].unflatten(0, (-1, k))
    return found


def _in_double(rows: Float[Tensor, "m d"], x: Float[Tensor, "n d"], k: int) -> Iterator[Int[Tensor, " k"]]:
    """For each of some rows the k rows of x that are nearest, nearest first; the lower id among equals.

    Candidates come from products in double precision; where even these are too close to tell, all rows are measured.
    """
    n, d = x.shape
    middle = _middle(x)
    squares = torch.cat([(part - middle).square_().sum(1) for part in x.split(PART)])
    n_kept = min(k + SPARE, n)
    for some in rows.double().split(max(8, (64 << 20) // (8 * n))):
        products = torch.cat([(some - middle) @ (part - middle).T for part in x.split(PART)], 1)
        own = (some - middle).square().sum(1)
        apart, ids = products.mul_(-2).add_(squares).topk(n_kept, dim=1, largest=False)
        error = 2.0**-52 * (d + 8) * (2 * own.sqrt() * squares.max().sqrt() + squares.max() + own)
        ids = ids.sort(1).values
        near, order = (x[ids] - some.unsqueeze(1)).square().sum(2).sort(dim=1, stable=True)
        sure = (near[:, k - 1] < apart.amax(1) + own - error) | torch.tensor(n_kept == n)
        for row, these, enough in zip(some, ids.gather(1, order[:, :k]), sure.tolist(), strict=True):
            if enough:
                yield these
            else:
                distances = torch.cat([(part - row).square().sum(1) for part in x.split(PART)])
                yield distances.sort(stable=True).indices[:k]


def _middle(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    return torch.stack([part.double().sum(0) for part in x.split(PART)]).sum(0) / len(x)


def check_ids(ids: Int[Tensor, " m"], n: int, source: str) -> None:
    """Raises DataError for an id that is not one of n images."""
    wrong = ids[(ids < 0) | (ids >= n)]
    if len(wrong):
        raise DataError(f"{source}: image {int(wrong[0])} is unknown; there are images 0 to {n - 1}")


def _not_empty(relation: Relation, source: str) -> Relation:
    if relation.n_similar == 0:
        raise DataError(f"{source}: the relation is empty, since no two images are similar; expected at least one pair")
    return relation


def _starts(sizes: Int[Tensor, " g"]) -> Int[Tensor, " h"]:
    return torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])


def _ranges(low: Int[Tensor, " m"], high: Int[Tensor, " m"]) -> tuple[Int[Tensor, " r"], Int[Tensor, " r"]]:
    """(row, place) for every place from low to high, high excluded, of every row."""
    sizes = high - low
    rows = torch.arange(len(low)).repeat_interleave(sizes)
    return rows, torch.arange(len(rows)) - (_starts(sizes)[:-1] - low).repeat_interleave(sizes)
