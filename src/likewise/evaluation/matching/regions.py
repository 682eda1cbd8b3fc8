"""Regions that are found again (MSER, Matas et al., 2002), and the patches of pixels that stand for them.

A region becomes the ellipse of its second moments; the square around `EXTENT` times that ellipse, turned so that the
main gradient points to the right, is sampled into a patch. So patches of one thing agree up to what the local affine
map cannot undo. Every descriptor sees the same patches.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from likewise.errors import UsageError
from likewise.evaluation.matching.ellipses import Ellipses, distinct, of_region
from likewise.images.imageset import as_channels
from likewise.types import Images, Source
from likewise.views.geometry import sample

EXTENT = 3.0  # half the side of a patch, in radii of its ellipse: what is around a region tells it from others
MOST = 1000  # regions of an image
MARGINS = (5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 56)  # grey values over which a region has to be stable
SMALLEST, LARGEST = 60, 14_400  # pixels of a region
DIVERSE = 0.8  # regions that overlap by as much are one
ORIENTATION_SIDE, BINS = 41, 36
TOGETHER = 256  # patches

Frames = Float[np.ndarray, "n 2 3"]  # from the square [-1, 1] x [-1, 1] of a patch to the pixels of its image


def opencv() -> Any:
    """OpenCV, or an error that says how to install it."""
    try:
        import cv2
    except ImportError:
        raise UsageError("matching needs OpenCV: pip install 'likewise[matching]'") from None
    return cv2


def regions(image: UInt8[np.ndarray, "c h w"], *, most: int = MOST) -> Ellipses:
    """Ellipses of the maximally stable extremal regions of the image's luminance, dark ones and bright ones.

    OpenCV's defaults: 60 to 14,400 pixels (and at most half of the image), growing by at most a quarter over the margin
    of 5 grey values. Of those that overlap by 0.8 or more the largest is kept (what OpenCV itself drops for little
    diversity differs from version to version). When more than `most` are left, the margin is raised until at most so
    many are, the ones of most contrast; where that leaves none, they are the largest of those at the margin before.
    """
    cv2 = opencv()
    grey = np.ascontiguousarray(as_channels(image, 1)[0])
    found = Ellipses(np.zeros((0, 2)), np.zeros((0, 2, 2)))
    largest = min(LARGEST, grey.size // 2)
    for margin in MARGINS if largest > SMALLEST else ():
        detector = cv2.MSER_create(margin, SMALLEST, largest, min_diversity=0.0)
        sets = detector.detectRegions(grey)[0]
        if not len(sets):
            break
        centres, shapes = zip(*(of_region(pixels.astype(np.int64)) for pixels in sets), strict=True)
        found = distinct(Ellipses(np.array(centres), np.array(shapes)), least=DIVERSE)
        if len(found.centre) <= most:
            break
    return found.rows(np.arange(min(most, len(found.centre))))


def frames(image: UInt8[np.ndarray, "c h w"], ellipses: Ellipses, *, extent: float = EXTENT) -> Frames:
    """Where the patch of each ellipse lies: its square root, widened, and turned to the main gradient."""
    squares, axes = np.linalg.eigh(ellipses.shape)
    root = (axes * np.sqrt(squares)[:, None]) @ axes.transpose(0, 2, 1)
    upright = np.concatenate([extent * root, ellipses.centre[:, :, None]], 2)
    grey = as_channels(image, 1)
    parts = [orientation(part) for part in patches(grey, upright, ORIENTATION_SIDE)]
    angle = torch.cat(parts).double().numpy() if parts else np.zeros(0)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1).reshape(-1, 2, 2)
    return np.concatenate([upright[:, :, :2] @ turn, upright[:, :, 2:]], 2)


def orientation(grey: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
    """The angle of the main gradient of each patch, in radians from x towards y (Lowe, 2004).

    A histogram of 36 directions, each pixel with its gradient and a bell of half the patch's radius around the middle,
    smoothed; the top of the parabola through its highest bin and the neighbours.
    """
    x = F.pad(grey, (1, 1, 1, 1), mode="replicate")[:, 0]
    across, down = x[:, 1:-1, 2:] - x[:, 1:-1, :-2], x[:, 2:, 1:-1] - x[:, :-2, 1:-1]
    side = grey.shape[-1]
    away = (torch.arange(side) * 2 + 1) / side - 1
    bell = torch.exp(-(away[:, None] ** 2 + away**2) / (2 * 0.5**2))
    weight = (torch.hypot(across, down) * bell).flatten(1)
    place = torch.atan2(down, across).flatten(1) / (2 * math.pi) * BINS
    low = place.floor()
    share = place - low
    bins = torch.zeros(len(grey), BINS)
    for corner, part in ((0, 1 - share), (1, share)):
        bins.scatter_add_(1, (low.to(torch.int64) + corner).remainder(BINS), weight * part)
    for _ in range(6):
        bins = (bins.roll(1, 1) + bins + bins.roll(-1, 1)) / 3
    top = bins.argmax(1, keepdim=True)
    before, at, after = (bins.gather(1, (top + step).remainder(BINS)) for step in (-1, 0, 1))
    offset = (before - after) / (2 * (before - 2 * at + after)).clamp(max=-1e-12)
    return ((top + offset.clamp(-0.5, 0.5)) * (2 * math.pi / BINS)).squeeze(1)


def patches(image: UInt8[np.ndarray, "c h w"], where: Frames, side: int) -> Iterator[Images]:
    """The patches of an image at `side` pixels in [0, 1], in order, some at a time.

    Each is sampled from the pixels around it alone. What lies outside of the image repeats its edge.
    """
    pixels = torch.from_numpy(image)
    height, width = pixels.shape[1:]
    for start in range(0, len(where), TOGETHER):
        part = torch.from_numpy(np.ascontiguousarray(where[start : start + TOGETHER]))
        reach = part[:, :, :2].abs().sum(2)
        low = (part[:, :, 2] - reach).floor().to(torch.int64) - 1
        high = (part[:, :, 2] + reach).ceil().to(torch.int64) + 2
        edge = torch.tensor([width, height])
        low = torch.minimum(low.clamp(min=0), edge - 1)
        high = torch.maximum(torch.minimum(high, edge), low + 1)
        images = torch.empty(len(part), len(pixels), side, side)
        for rows in reach.amax(1).argsort(stable=True).split(32):  # of like size
            w, h = (high - low)[rows].amax(0).tolist()
            corner = torch.minimum(low[rows], edge - torch.tensor([w, h]))
            boxes = torch.stack([pixels[:, y : y + h, x : x + w] for x, y in corner.tolist()])
            # From pixels to the frame of `sample`: the largest centred square of a box is [-1, 1] x [-1, 1].
            maps = torch.eye(3, dtype=part.dtype).repeat(len(rows), 1, 1)
            maps[:, :2] = part[rows]
            maps[:, :2, 2] += 0.5 - corner - torch.tensor([w, h]) / 2
            maps[:, :2] /= min(w, h) / 2
            sizes = torch.tensor([[h, w]]).expand(len(rows), 2)
            images[rows] = sample(Source(boxes, sizes), maps.float(), side, "border")
        yield images
