"""Geometry composes: every operation is an affine map, a view multiplies them, and the pixels are sampled once.

The frame of all maps is a square of [-1, 1] x [-1, 1], x to the right and y down. For the source image it is the
largest centred square: one unit is half of the short side, and the rest of the image lies outside of it. Each
operation gives, for every image, the 3 x 3 matrix that takes a point of its output frame to its input frame, so
that the matrices of a view, in the order listed, multiply to the map from the view to the source.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.types import Images, Source
from likewise.views.rows import parts, sum_rows

Maps = Float[Tensor, "b 3 3"]
Sizes = Int[Tensor, "b 2"]


@runtime_checkable
class Geometry(Protocol):
    """(true sizes of the images, draws) -> one affine map per image."""

    def __call__(self, sizes: Sizes, draws: Draws) -> Maps: ...


@dataclass(frozen=True)
class ResizedCrop:
    """A box of random area and aspect at a random place, as in Inception (Szegedy et al., 2014).

    `scale` is the range of the area as a share of the image, `ratio` the range of width over height (drawn evenly
    in the logarithm). Of ten boxes the first that fits is taken; if none fits, the largest centred box of the
    nearest ratio.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, sizes: Sizes, draws: Draws) -> Maps:
        height, width = sizes.to(torch.float32).unsqueeze(-1).unbind(1)  # each "b 1"
        u = draws.image("box", 10, 2)
        area = height * width * (self.scale[0] + u[..., 0] * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = torch.exp(low + u[..., 1] * (high - low))
        w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
        fits = (w <= width) & (h <= height)
        first = fits.to(torch.uint8).argmax(1, keepdim=True)
        nearest = (width / height).clamp(*self.ratio)
        found = fits.any(1, keepdim=True)
        w = torch.where(found, w.gather(1, first), torch.minimum(width, height * nearest))
        h = torch.where(found, h.gather(1, first), torch.minimum(height, width / nearest))
        place = draws.image("place", 2) - 0.5
        centre = torch.where(found, place, 0.0) * torch.cat([width - w, height - h], 1)
        unit = torch.minimum(width, height) / 2
        maps = _identity(sizes)
        maps[:, 0, 0] = (w / 2 / unit).squeeze(1)
        maps[:, 1, 1] = (h / 2 / unit).squeeze(1)
        maps[:, :2, 2] = centre / unit
        return maps


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with probability `p`."""

    p: float = 0.5

    def __call__(self, sizes: Sizes, draws: Draws) -> Maps:
        maps = _identity(sizes)
        maps[:, 0, 0] = torch.where(draws.image("flip") < self.p, -1.0, 1.0)
        return maps


@dataclass(frozen=True)
class Rotate:
    """Turn by an even draw from -degrees to +degrees."""

    degrees: float

    def __call__(self, sizes: Sizes, draws: Draws) -> Maps:
        angle = (2 * draws.image("angle") - 1) * math.radians(self.degrees)
        maps = _identity(sizes)
        maps[:, 0, 0] = maps[:, 1, 1] = angle.cos()
        maps[:, 0, 1] = -angle.sin()
        maps[:, 1, 0] = angle.sin()
        return maps


@dataclass(frozen=True)
class Translate:
    """Shift each axis by an even draw of up to `share` of the view's side."""

    share: float

    def __call__(self, sizes: Sizes, draws: Draws) -> Maps:
        maps = _identity(sizes)
        maps[:, :2, 2] = (2 * draws.image("shift", 2) - 1) * 2 * self.share
        return maps


@dataclass(frozen=True)
class Scale:
    """Multiply the side of what is seen by a factor drawn evenly in the logarithm; above 1 zooms out."""

    factor: tuple[float, float]

    def __post_init__(self) -> None:
        if min(self.factor) <= 0:
            raise UsageError(f"{self}: expected factors above 0")

    def __call__(self, sizes: Sizes, draws: Draws) -> Maps:
        low, high = math.log(self.factor[0]), math.log(self.factor[1])
        factor = torch.exp(low + draws.image("factor") * (high - low))
        maps = _identity(sizes)
        maps[:, 0, 0] = maps[:, 1, 1] = factor
        return maps


def _identity(sizes: Sizes) -> Maps:
    return torch.eye(3, device=sizes.device).repeat(len(sizes), 1, 1)


def sample(source: Source, maps: Maps, size: int, fill: str) -> Images:
    """Views of `size` x `size` pixels in [0, 1], each source sampled once through its map.

    Maps without rotation use the separable triangle filter that Pillow calls antialiased bilinear; the others are
    sampled bilinearly on a grid fine enough not to skip source pixels (up to 8 x 8 points a pixel; beyond, some are),
    then averaged. `fill` says what lies outside the image: "border" repeats its edge, "zeros" is black. An image's view
    depends on its own map alone; where maps rotate, its last bits also on how far the batch is padded (about 1e-5).
    """
    straight = (maps[:, 0, 1] == 0) & (maps[:, 1, 0] == 0)
    if bool(straight.all()):
        return _resample(source, maps, size, fill)
    fineness = _pixels_per_output(source.sizes, maps, size).sub(0.01).ceil().clamp(1, 8).to(torch.int64)
    fineness[straight] = 0
    images = torch.empty(len(maps), source.pixels.shape[1], size, size, device=maps.device)
    for k in fineness.unique().tolist():
        rows = (fineness == k).nonzero().squeeze(1)
        part = Source(source.pixels[rows], source.sizes[rows])
        images[rows] = _resample(part, maps[rows], size, fill) if k == 0 else _warp(part, maps[rows], size, fill, k)
    return images


def _pixels_per_output(sizes: Sizes, maps: Maps, size: int) -> Float[Tensor, " b"]:
    reach: Tensor = maps[:, :2, :2].norm(dim=1)
    return reach.amax(1) * sizes.amin(1) / size


def _resample(source: Source, maps: Maps, size: int, fill: str) -> Images:
    b, c, height, width = source.pixels.shape
    across = _taps(maps[:, 0, 0], maps[:, 0, 2], source.sizes, 1, size, fill)
    down = _taps(maps[:, 1, 1], maps[:, 1, 2], source.sizes, 0, size, fill)
    images = torch.empty(b, c, size, size, device=maps.device)
    for part in parts(b, c * max(height, size) * max(width, size), maps.device):
        columns = source.pixels[part].transpose(2, 3).contiguous().to(torch.float32)
        rows = sum_rows(columns, across[0][part], across[1][part]).transpose(2, 3).contiguous()
        torch.clamp(sum_rows(rows, down[0][part], down[1][part] / 255), 0, 1, out=images[part])
    return images


def _taps(
    slope: Float[Tensor, " b"], offset: Float[Tensor, " b"], sizes: Sizes, axis: int, size: int, fill: str
) -> tuple[Int[Tensor, "b size t"], Float[Tensor, "b size t"]]:
    """Which source pixels each output pixel sums along one axis, and their weights."""
    true = sizes[:, axis].to(torch.float32).reshape(-1, 1, 1)
    unit = sizes.amin(1).to(torch.float32).reshape(-1, 1, 1) / 2
    slope, offset = slope.reshape(-1, 1, 1), offset.reshape(-1, 1, 1)
    steps = (torch.arange(size, device=slope.device).unsqueeze(1) * 2 + 1) / size - 1
    centre = true / 2 + unit * (slope * steps + offset)  # in source pixels
    if fill == "border":
        centre = torch.minimum(centre.clamp(min=0.5), true - 0.5)
    support = (slope.abs() * unit * 2 / size).clamp(min=1)
    n_taps = math.ceil(2 * max(support.flatten().tolist(), default=1.0))
    pixel = (centre - support + 0.5).floor() + torch.arange(n_taps, device=slope.device)
    weights = (1 - (pixel + 0.5 - centre).abs() / support).clamp(min=0)
    inside = weights * ((pixel >= 0) & (pixel < true))
    weights = inside / (inside if fill == "border" else weights).sum(2, keepdim=True)
    return torch.minimum(pixel.clamp(min=0), true - 1).to(torch.int64), weights


def _warp(source: Source, maps: Maps, size: int, fill: str, k: int) -> Images:
    b, c, height, width = source.pixels.shape
    padded = torch.tensor([width, height], device=maps.device).reshape(1, 2, 1)
    true = source.sizes.flip(1).unsqueeze(2) / padded  # as a share of the padded source: "b 2 1"
    unit = source.sizes.amin(1).reshape(-1, 1, 1) / padded
    to_grid = torch.cat([unit * maps[:, :2, :2], unit * maps[:, :2, 2:] + true - 1], 2)  # grids are in [-1, 1]
    to_grid = to_grid.reshape(b, 2, 3, 1, 1)
    steps = (torch.arange(size * k, device=maps.device) * 2 + 1) / (size * k) - 1
    images = torch.zeros(b, c, size, size, device=maps.device)
    for part in parts(b, c * max(height * width, size**2), maps.device):
        pixels = _surrounded(source.pixels[part].to(torch.float32), source.sizes[part], fill)
        across, down, shift = to_grid[part].unbind(2)
        for i, j in itertools.product(range(k), range(k)):  # one point in every output pixel at a time
            grid = across * steps[j::k] + (down * steps[i::k].unsqueeze(1) + shift)
            images[part] += F.grid_sample(pixels, grid.permute(0, 2, 3, 1), padding_mode=fill, align_corners=False)
    return images.div_(255 * k * k).clamp_(0, 1)


def _surrounded(pixels: Float[Tensor, "b c H W"], sizes: Sizes, fill: str) -> Float[Tensor, "b c H W"]:
    """The images with what lies outside of them in the place of their padding."""
    for axis in (0, 1):
        place = torch.arange(pixels.shape[2 + axis], device=pixels.device)
        inside = place < sizes[:, axis : axis + 1]
        if bool(inside.all()):
            continue
        shape = (-1, 1, len(place), 1) if axis == 0 else (-1, 1, 1, len(place))
        if fill == "zeros":
            pixels = pixels * inside.reshape(shape)
        else:
            last = torch.minimum(place, sizes[:, axis : axis + 1] - 1)
            pixels = pixels.gather(2 + axis, last.reshape(shape).expand_as(pixels))
    return pixels
