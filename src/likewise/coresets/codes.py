"""All pairs of 64-bit codes that differ in a few bits only, by multi-index hashing (Norouzi, Punjani, Fleet 2012).

Of two codes that differ in at most r bits, one of four 16-bit parts differs in at most r / 4 (rounded down). So codes
are put in buckets by each part in turn, and only those in the same or in neighbouring buckets are compared.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt64

from likewise.errors import UsageError

_PARTS, _BITS = 4, 16
_ONES = np.array([bin(i).count("1") for i in range(1 << _BITS)], dtype=np.uint8)
_BLOCK = 1 << 21  # comparisons at a time


def near_codes(codes: UInt64[np.ndarray, " n"], distance: int) -> tuple[Int[np.ndarray, "p 2"], Int[np.ndarray, " p"]]:
    """Pairs (the lower id first) of codes that differ in at most `distance` bits, and in how many.

    Equal codes are each paired with the first of them alone, and only that one with others: n copies make n - 1 pairs.
    Raises UsageError unless 0 <= distance <= 15.
    """
    pairs, bits = zip(*code_pairs(codes, distance), strict=True)
    found, at = np.unique(np.concatenate(pairs), axis=0, return_index=True)
    return found, np.concatenate(bits)[at]


def code_pairs(
    codes: UInt64[np.ndarray, " n"], distance: int
) -> Iterator[tuple[Int[np.ndarray, "p 2"], Int[np.ndarray, " p"]]]:
    """The same some at a time, where a pair may come up to four times."""
    if not 0 <= distance <= 15:
        raise UsageError(f"distance={distance}: must be from 0 to 15 bits of 64")
    distinct, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[inverse] != np.arange(len(codes)))
    yield np.stack([first[inverse[copies]], copies], 1), np.zeros(len(copies), dtype=np.int64)
    for part in range(_PARTS):
        keys = (distinct >> np.uint64(_BITS * part) & np.uint64((1 << _BITS) - 1)).astype(np.int64)
        for one, other in _candidates(keys, distance // _PARTS):
            differing = _count(distinct[one] ^ distinct[other])
            keep = differing <= distance
            yield np.sort(np.stack([first[one[keep]], first[other[keep]]], 1), axis=1), differing[keep]


def _candidates(keys: Int[np.ndarray, " n"], radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of ids whose keys differ in at most `radius` bits, each once, a block at a time."""
    order = np.argsort(keys, kind="stable")
    ends = np.cumsum(np.bincount(keys, minlength=1 << _BITS))
    starts = ends - np.bincount(keys, minlength=1 << _BITS)
    sorted_keys = keys[order]
    place = np.arange(len(keys))
    for flips in itertools.chain.from_iterable(itertools.combinations(range(_BITS), r) for r in range(radius + 1)):
        mask = sum(1 << bit for bit in flips)
        partner = sorted_keys ^ mask
        low = starts[partner] if mask else place + 1  # in its own bucket: those behind it
        size = np.where(partner >= sorted_keys, ends[partner] - low, 0)
        total = np.cumsum(size)
        begin = 0
        while begin < len(keys):
            done = int(total[begin - 1]) if begin else 0
            end = max(int(np.searchsorted(total, done + _BLOCK, side="right")), begin + 1)
            count = size[begin:end]
            offset = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            if len(offset):
                yield order[np.repeat(place[begin:end], count)], order[np.repeat(low[begin:end], count) + offset]
            begin = end


def _count(words: UInt64[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How many bits are set."""
    return _ONES[words.view(np.uint16).reshape(-1, _PARTS)].sum(1, dtype=np.int64)
