"""Pairs of images through descriptors: the loop."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from likewise.errors import DataError, UsageError
from likewise.evaluation.matching.descriptors import Describe
from likewise.evaluation.matching.ellipses import Ellipses, overlap, transport
from likewise.evaluation.matching.pairs import Pair, read_image
from likewise.evaluation.matching.regions import EXTENT, MOST, frames, patches, regions
from likewise.evaluation.matching.score import distances, match_precision, possible_matches
from likewise.images.imageset import as_channels

OVERLAP = 0.5  # from which on two regions are one
SIDE = 64


class Compared(NamedTuple):
    """One pair: average precision by descriptor, or the reason why there is none."""

    pair: Pair
    ap: dict[str, float]
    regions: tuple[int, int]  # of either image, in the part that both show
    possible: int  # right matches
    reason: str = ""


class Described(NamedTuple):
    """One image: its size, regions and their descriptors."""

    height: int
    width: int
    ellipses: Ellipses
    vectors: dict[str, Float[Tensor, "n d"]]


def compare(
    pairs: Sequence[Pair],
    describers: Sequence[Describe],
    *,
    side: int = SIDE,
    extent: float = EXTENT,
    most: int = MOST,
) -> Iterator[Compared]:
    """The average precision of every descriptor on every pair, in order (protocol match-v1).

    Regions whose centres lie outside of the other image are left out. A match is right when the ellipse of its first
    region, carried over by the local affine map, and that of its second overlap by half or more. A coloured image
    beside a grey one stands for its luminance. A pair without regions, or without any right match, has no average
    precision but a reason.
    """
    check_patches(side, extent, most)
    if not describers:
        raise UsageError("descriptors: none was given")
    path: Path | None = None
    known: dict[int, Described] = {}  # of a scene's first image, by the channels it is compared in
    for pair in pairs:
        if pair.first != path:
            path, first, known = pair.first, read_image(pair.first), {}
        second = read_image(pair.second)
        channels = min(len(first), len(second))
        if channels not in known:
            known[channels] = describe(as_channels(first, channels), describers, side=side, extent=extent, most=most)
        other = describe(as_channels(second, channels), describers, side=side, extent=extent, most=most)
        yield _compared(pair, known[channels], other)


def check_patches(side: int, extent: float, most: int) -> None:
    """Raise a UsageError for what `compare` cannot measure with."""
    if side < 8:
        raise UsageError(f"side={side}: a patch needs at least 8 pixels a side")
    if most < 1 or not extent > 0:
        raise UsageError(f"most={most}, extent={extent}: both must be positive")


def describe(
    image: UInt8[np.ndarray, "c h w"],
    describers: Sequence[Describe],
    *,
    side: int = SIDE,
    extent: float = EXTENT,
    most: int = MOST,
) -> Described:
    """The regions of an image and what each describer says of their patches, or a DataError if that is not finite."""
    ellipses = regions(image, most=most)
    parts: dict[str, list[Tensor]] = {}
    for some in patches(image, frames(image, ellipses, extent=extent), side):
        for describer in describers:
            for name, vectors in describer(some).items():
                if not vectors.isfinite().all():
                    raise DataError(f"descriptor {name!r}: gives values that are not finite")
                parts.setdefault(name, []).append(vectors)
    return Described(
        image.shape[1], image.shape[2], ellipses, {name: torch.cat(vectors) for name, vectors in parts.items()}
    )


def _compared(pair: Pair, first: Described, second: Described) -> Compared:
    for image, path in ((first, pair.first), (second, pair.second)):
        if not len(image.ellipses.centre):
            return Compared(pair, {}, (0, 0), 0, f"{path.name} has no region")
    rows = np.flatnonzero(_inside(pair.warp.forward(first.ellipses.centre), second))
    columns = np.flatnonzero(_inside(pair.warp.inverse(second.ellipses.centre), first))
    counts = len(rows), len(columns)
    if not all(counts):
        return Compared(pair, {}, counts, 0, "the images have no region in the part that both show")
    right = overlap(transport(first.ellipses.rows(rows), pair.warp), second.ellipses.rows(columns), least=OVERLAP) > 0
    possible = possible_matches(right)
    if not possible:
        return Compared(pair, {}, counts, 0, "no region of one image is found in the other")
    ap = {
        name: match_precision(distances(vectors[rows], second.vectors[name][columns]), right, possible)
        for name, vectors in first.vectors.items()
    }
    return Compared(pair, ap, counts, possible)


def _inside(points: Float[np.ndarray, "n 2"], image: Described) -> Bool[np.ndarray, " n"]:
    """NaN is outside."""
    within = (points >= 0) & (points <= np.array([image.width - 1, image.height - 1]))
    return within[:, 0] & within[:, 1]
