"""Seed patches for surrogate classes (Exemplar-CNN, Dosovitskiy et al., 2014): squares where something is to be seen.

A patch is drawn from an image, at several scales at once, in proportion to the mean squared gradient inside it. What is
kept of it is more than the patch: it lies in the middle of a square `CONTEXT` times as wide, so that shifts, rotations
and zooms out bring in real pixels of its neighbourhood. Beyond the image its edge is repeated.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8

from likewise.draws import Draws
from likewise.errors import DataError, UsageError
from likewise.images.decode import MIN_SIDE, shrink
from likewise.images.imageset import ImageSet, as_channels, open_images
from likewise.progress import bar, say

CONTEXT = 2.25  # a shift of a fifth, a zoom out of 1.4 and a turn of 20 degrees reach 2.2 patches wide
SCALES = (1.0, 0.75, 0.5)


def patches(images: ImageSet, n: int, seed: int = 0, *, size: int = 32, scales: Sequence[float] = SCALES) -> ImageSet:
    """`n` seed patches of `size` x `size` pixels as a set of their own, whose images hold them in their middle.

    Every image gives as many patches as any other, give or take one. Within it, a place and one of the `scales` (by
    which the image is shrunk first) are drawn in proportion to the mean squared gradient of the grey patch there; an
    image's k-th patch depends on its content, the seed and k alone. A path says where its patch lies:
    "image.jpg@x,y,side", its left, top and side in pixels of that image. Patches have no labels.

    Images smaller than a patch or of one grey give none, which is said. DataError if no other is left.
    """
    if n < 2:
        raise UsageError(f"patches={n}: expected at least 2")
    if size < MIN_SIDE:
        raise UsageError(f"size={size}: a patch needs at least {MIN_SIDE} pixels a side")
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise UsageError(f"scales={tuple(scales)}: expected one or more factors above 0 and at most 1")
    usable = _usable(images, size, max(scales))
    draws = Draws(seed, 0, 0, torch.from_numpy(images.keys[usable])).child("patches")
    margin = math.ceil((CONTEXT - 1) / 2 * size)
    side, each, rest = size + 2 * margin, n // len(usable), n % len(usable)
    one_more = draws.bits("order").argsort(stable=True).argsort(stable=True).numpy() < rest
    last = len(usable) * each + one_more.cumsum() - 1  # every image's first patch, then every image's second, ...
    pixels, paths = np.empty((n, images.channels, side, side), np.uint8), [""] * n
    with bar("patches", n) as progress:
        done = 0
        for row, i in enumerate(usable.tolist()):
            n_mine = each + int(one_more[row])
            if n_mine == 0:
                continue
            whole = _pixels(images, i)
            levels = _levels(whole, size, scales)
            own = replace(draws, keys=draws.keys[row : row + 1])
            for k, (level, top, left) in enumerate(_places(levels, size, n_mine, own)):
                at = k * len(usable) + row if k < each else int(last[row])
                padded = np.pad(levels[level], ((0, 0), (margin, margin), (margin, margin)), mode="edge")
                pixels[at] = padded[:, top : top + side, left : left + side]
                scale = whole.shape[1] / levels[level].shape[1]
                paths[at] = f"{images.paths[i]}@" + ",".join(f"{value * scale:.0f}" for value in (left, top, size))
            done += n_mine
            progress.update(done)
    made = open_images(pixels, name=f"{images.name}, {n} patches of {size}", channels=images.channels)
    return replace(made, paths=paths, context=side / size)


def _usable(images: ImageSet, size: int, scale: float) -> np.ndarray:
    """The ids of images that are large enough and not all of one grey; says how many are not."""
    kept, n_small, n_flat = [], 0, 0
    for i in range(len(images)):
        pixels = as_channels(_pixels(images, i), 1)
        if round(min(pixels.shape[1:]) * scale) < size:
            n_small += 1
        elif pixels.min() == pixels.max():
            n_flat += 1
        else:
            kept.append(i)
    why = [f"{n_small:,} smaller than a patch of {size} x {size} pixels"] if n_small else []
    why += [f"{n_flat:,} of one grey, without any gradient"] if n_flat else []
    if not kept:
        raise DataError(f"patches: no image of {images.name} can give any: {' and '.join(why)}")
    if why:
        say(f"no patches from {n_small + n_flat:,} of {len(images):,} images: {' and '.join(why)}")
    return np.array(kept)


def _pixels(images: ImageSet, i: int) -> UInt8[np.ndarray, "c h w"]:
    return as_channels(images.store[int(images.rows[i])], images.channels)


def _levels(pixels: UInt8[np.ndarray, "c h w"], size: int, scales: Sequence[float]) -> list[UInt8[np.ndarray, "c _ _"]]:
    """The image at every scale at which a patch fits into it."""
    sides = [round(min(pixels.shape[1:]) * scale) for scale in scales]
    return [shrink(pixels, side, "").pixels for side in sides if side >= size]


def _places(
    levels: Sequence[UInt8[np.ndarray, "c _ _"]], size: int, n: int, draws: Draws
) -> list[tuple[int, int, int]]:
    """(level, top, left) of n patches, each drawn in proportion to the gradient inside."""
    weights = [gradient(level, size) for level in levels]
    ends = np.concatenate([weight.reshape(-1) for weight in weights]).cumsum()
    if ends[-1] <= 0:  # what little there was is gone at these scales
        ends = np.arange(1.0, len(ends) + 1)
    starts = np.cumsum([0] + [weight.size for weight in weights])
    found = []
    for k in range(n):
        u = float(draws.image(f"place{k}")[0])
        at = int(np.searchsorted(ends, u * ends[-1], side="right"))
        level = int(np.searchsorted(starts, at, side="right")) - 1
        top, left = divmod(at - int(starts[level]), weights[level].shape[1])
        found.append((level, top, left))
    return found


def gradient(pixels: UInt8[np.ndarray, "c h w"], size: int) -> Float[np.ndarray, "y x"]:
    """The mean squared gradient (central differences of the grey image) inside every patch, by its top left corner."""
    grey = as_channels(pixels, 1)[0].astype(np.float64)
    down, across = np.gradient(grey)
    sums = np.pad((down**2 + across**2).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    return inside.clip(min=0) / size**2
