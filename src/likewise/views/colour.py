"""Colour operations: (images in [0, 1], draws) -> images in [0, 1], batched, one draw per image.

Grey images (one channel) pass through what concerns hue and saturation unchanged.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.types import Images
from likewise.views.rows import sum_rows

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as Pillow and torchvision have it
Planes = Float[Tensor, "b h w"]


@runtime_checkable
class Colour(Protocol):
    """(images, draws) -> images of the same shape."""

    def __call__(self, images: Images, draws: Draws) -> Images: ...


@dataclass(frozen=True)
class Jitter:
    """Brightness, contrast, saturation and hue, each moved by an even draw around "unchanged".

    A strength b is that of factors from 1 - b, or from 0 where b is above 1, to 1 + b, as torchvision has it.

    Brightness, contrast and saturation are linear and commute, so they are one linear map; hue (in turns) follows,
    and the result is clipped once. Tools that clip after each operation, in a random order, differ where colours
    leave the gamut on the way.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    p: float = 0.8

    def __call__(self, images: Images, draws: Draws) -> Images:
        applied = (draws.image("apply") < self.p).reshape(-1, 1, 1)
        *u, turn = (draws.image("jitter", 4) * 2 - 1).reshape(-1, 4, 1, 1).unbind(1)
        strengths = (self.brightness, self.contrast, self.saturation)
        b, c, s = (torch.where(applied, _factor(*drawn), 1.0) for drawn in zip(u, strengths, strict=True))
        turn = turn * applied
        pixels = images.flatten(2)
        luma = _luma(images)
        # b(c(sx + (1 - s)g) + (1 - c)m), with g the grey of a pixel and m the mean grey
        colours = b * c * (s * torch.eye(len(luma), device=images.device) + (1 - s) * luma)
        mean = luma @ pixels.mean(2, keepdim=True)
        images = torch.baddbmm(b * (1 - c) * mean, colours, pixels).view_as(images)
        if self.hue and images.shape[1] == 3:
            images = turn_hue(images, turn * self.hue)
        return images.clamp_(0, 1)


@dataclass(frozen=True)
class HSV:
    """Saturation and value raised to a power, multiplied and shifted, hue shifted (Exemplar-CNN, 2014).

    Saturation and value draw their own triple; the power is drawn evenly in the logarithm.
    """

    power: tuple[float, float] = (0.25, 4.0)
    multiply: tuple[float, float] = (0.7, 1.4)
    add: tuple[float, float] = (-0.1, 0.1)
    hue: float = 0.1

    def __post_init__(self) -> None:
        if min(self.power) <= 0:
            raise UsageError(f"{self}: expected powers above 0")

    def __call__(self, images: Images, draws: Draws) -> Images:
        u = draws.image("hsv", 2, 3).unsqueeze(-1).unsqueeze(-1)  # "b 2 3 1 1"
        power = torch.exp(_between(u[:, :, 0], math.log(self.power[0]), math.log(self.power[1])))
        multiply, add = _between(u[:, :, 1], *self.multiply), _between(u[:, :, 2], *self.add)
        if images.shape[1] == 1:
            return (images.pow(power[:, 1:]) * multiply[:, 1:] + add[:, 1:]).clamp_(0, 1)
        hsv = rgb_to_hsv(images)
        turn = (draws.image("hue") * 2 - 1).reshape(-1, 1, 1, 1) * self.hue
        hsv[:, :1] = (hsv[:, :1] + turn).remainder_(1)
        hsv[:, 1:] = (hsv[:, 1:].pow(power) * multiply + add).clamp_(0, 1)
        return hsv_to_rgb(hsv).clamp_(0, 1)


@dataclass(frozen=True)
class PCAContrast:
    """Each principal component of an image's colours multiplied by its own factor (Exemplar-CNN, 2014).

    The components are those of the image's own pixels, around their mean.
    """

    factor: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        if min(self.factor) <= 0:
            raise UsageError(f"{self}: expected factors above 0")

    def __call__(self, images: Images, draws: Draws) -> Images:
        b, c, h, w = images.shape
        low, high = math.log(self.factor[0]), math.log(self.factor[1])
        factor = torch.exp(_between(draws.image("factor", 3)[:, :c], low, high))
        pixels = images.reshape(b, c, h * w)
        mean = pixels.mean(2, keepdim=True)
        centred = pixels - mean
        scatter = centred @ centred.transpose(1, 2)
        axes = torch.linalg.eigh(scatter.cpu() if scatter.device.type == "mps" else scatter)[1].to(scatter.device)
        stretch = (axes * factor.unsqueeze(1)) @ axes.transpose(1, 2)
        return (stretch @ centred).add_(mean).clamp_(0, 1).reshape(b, c, h, w)


@dataclass(frozen=True)
class Grey:
    """All channels become the luma with probability `p`."""

    p: float = 0.2

    def __call__(self, images: Images, draws: Draws) -> Images:
        if images.shape[1] == 1:
            return images
        rows = _applied(draws, self.p)
        x = images.index_select(0, rows)
        grey = (_luma(x)[0] @ x.flatten(2)).reshape(len(x), 1, *x.shape[2:])
        return images.index_copy(0, rows, grey.clamp_(0, 1).expand_as(x))


@dataclass(frozen=True)
class Blur:
    """Gaussian blur of a standard deviation drawn evenly from `sigma` (pixels), with probability `p`.

    The kernel spans `kernel` of the side, at least three pixels (SimCLR: a tenth); edges are mirrored.
    """

    p: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: float = 0.1

    def __call__(self, images: Images, draws: Draws) -> Images:
        rows = _applied(draws, self.p)
        sigma = _between(draws.image("sigma"), *self.sigma)[rows]
        x = images.index_select(0, rows)
        x = sum_rows(x, *_bell(x.shape[2], sigma, self.kernel)).transpose(2, 3)
        x = sum_rows(x, *_bell(x.shape[2], sigma, self.kernel)).transpose(2, 3)
        return images.index_copy(0, rows, x.clamp(0, 1))


@dataclass(frozen=True)
class Solarise:
    """Values at or above `threshold` are inverted, with probability `p`."""

    p: float = 0.2
    threshold: float = 0.5

    def __call__(self, images: Images, draws: Draws) -> Images:
        rows = _applied(draws, self.p)
        x = images.index_select(0, rows)
        return images.index_copy(0, rows, torch.where(x >= self.threshold, 1 - x, x))


@dataclass(frozen=True)
class Erase:
    """A random box becomes mid-grey with probability `p` (random erasing, Zhong et al., 2017)."""

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def __call__(self, images: Images, draws: Draws) -> Images:
        _, _, h, w = images.shape
        u = draws.image("box", 4).unsqueeze(-1)
        area = _between(u[:, 0], *self.scale) * h * w
        ratio = torch.exp(_between(u[:, 1], math.log(self.ratio[0]), math.log(self.ratio[1])))
        width, height = (area * ratio).sqrt().clamp(max=w), (area / ratio).sqrt().clamp(max=h)
        x = torch.arange(w, device=images.device) + 0.5
        y = torch.arange(h, device=images.device) + 0.5
        left, top = u[:, 2] * (w - width), u[:, 3] * (h - height)
        inside_x = (x >= left) & (x < left + width)
        inside_y = (y >= top) & (y < top + height)
        apply = (draws.image("apply") < self.p).reshape(-1, 1, 1)
        box = (inside_y.unsqueeze(2) & inside_x.unsqueeze(1) & apply).unsqueeze(1)
        return torch.where(box, 0.5, images)


def _factor(u: Float[Tensor, "b 1 1"], strength: float) -> Float[Tensor, "b 1 1"]:
    """An even draw from -1 to 1, as one from 1 - strength (or 0) to 1 + strength."""
    return 1 + u * strength if strength <= 1 else (1 + u) / 2 * (1 + strength)


def turn_hue(images: Images, turn: Float[Tensor, "b 1 1"]) -> Images:
    """Shift the hue of colour images by a part of a full turn; values may lie outside [0, 1]."""
    high = images.amax(1)
    span = high - images.amin(1)
    return _colours(_hue(images, high, span) + turn, span, high)


def rgb_to_hsv(images: Images) -> Images:
    """Hue in turns, saturation and value, each in [0, 1]."""
    high = images.amax(1)
    span = high - images.amin(1)
    return torch.stack([_hue(images, high, span).remainder_(1), span / high.clamp(min=1e-8), high], 1)


def hsv_to_rgb(images: Images) -> Images:
    """The inverse of `rgb_to_hsv`."""
    hue, saturation, value = images.unbind(1)
    return _colours(hue, value * saturation, value)


def _hue(images: Images, high: Planes, span: Planes) -> Planes:
    """Hue in turns, from -1/2 to 1/2; 0 for greys.

    On either side of the line from red to cyan, the hue is the sum of how far red is, and green and blue are not,
    below the highest: of the three, one is 0, one is 1, and the middle one moves.
    """
    red, green, blue = images.unbind(1)
    sixths = (green + blue).sub_(red).sub_(high).add_(span, alpha=2).div_(span.clamp(min=1e-8))
    return sixths.copysign_(green - blue).div_(6)


def _colours(hue: Planes, span: Planes, high: Planes) -> Images:
    """Each channel lies below the highest by `span`, times how far the hue is from its own colour: 0 up to a sixth
    of a turn, 1 from a third on."""
    away = torch.tensor([2, 2 - 1 / 3, 2 + 1 / 3], device=hue.device).reshape(3, 1, 1)  # 2 keeps them positive
    near = (hue.unsqueeze(1) + away).frac_().sub_(0.5).abs_().clamp_(1 / 6, 1 / 3)  # half a turn less the distance
    return near.mul_((6 * span).unsqueeze(1)).add_((high - 2 * span).unsqueeze(1))


def _luma(images: Images) -> Float[Tensor, "c c"]:
    """The matrix that takes the colours of a pixel to its grey in every channel."""
    c = images.shape[1]
    return torch.tensor(GREY if c == 3 else (1.0,), device=images.device).expand(c, c)


def _applied(draws: Draws, p: float) -> Int[Tensor, " n"]:
    """Which images of the batch an operation of probability `p` is for."""
    return (draws.image("apply") < p).nonzero().squeeze(1)


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + u * (high - low)


def _bell(
    side: int, sigma: Float[Tensor, " b"], kernel: float
) -> tuple[Int[Tensor, "b side t"], Float[Tensor, "b side t"]]:
    """Taps and weights of a Gaussian, mirrored at the edges (the edge pixel itself is not repeated)."""
    radius = min(max(int(side * kernel) // 2, 1), side - 1)
    reach = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (reach / sigma.unsqueeze(1)) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    taps = (torch.arange(side, device=sigma.device).unsqueeze(1) + reach).abs()
    taps = torch.where(taps >= side, 2 * (side - 1) - taps, taps)
    shape = len(sigma), side, len(reach)
    return taps.expand(shape), weights.unsqueeze(1).expand(shape)
