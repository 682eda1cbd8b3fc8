"""Colour operations: (images in [0, 1], draws) -> images in [0, 1], batched, one draw per image.

Grey images (one channel) pass through what concerns hue and saturation unchanged.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from likewise.draws import Draws
from likewise.types import Images

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as Pillow and torchvision have it
Factor = Float[Tensor, "b 1 1 1"]


class Colour(Protocol):
    """(images, draws) -> images of the same shape."""

    def __call__(self, images: Images, draws: Draws) -> Images: ...


@dataclass(frozen=True)
class Jitter:
    """Brightness, contrast, saturation and hue, each moved by an even draw around "unchanged".

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
        u = (draws.image("jitter", 4) * 2 - 1) * (draws.image("apply") < self.p).unsqueeze(1)
        b, c, s, turn = u.reshape(-1, 4, 1, 1, 1).unbind(1)
        b = (1 + b * self.brightness).clamp(min=0)
        c = (1 + c * self.contrast).clamp(min=0)
        s = (1 + s * self.saturation).clamp(min=0)
        grey = _grey(images)
        mean = grey.mean((2, 3), keepdim=True)
        if images.shape[1] == 1:
            return (images * (b * c)).add_(b * (1 - c) * mean).clamp_(0, 1)
        # b(c(sx + (1 - s)g) + (1 - c)m), with g the grey image and m its mean
        images = (images * (b * c * s)).add_(grey.mul_(b * c * (1 - s)).add_(b * (1 - c) * mean))
        if self.hue:
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
        return hsv_to_rgb(hsv)


@dataclass(frozen=True)
class PCAContrast:
    """Each principal component of an image's colours multiplied by its own factor (Exemplar-CNN, 2014).

    The components are those of the image's own pixels, around their mean.
    """

    factor: tuple[float, float] = (0.5, 2.0)

    def __call__(self, images: Images, draws: Draws) -> Images:
        b, c, h, w = images.shape
        low, high = math.log(self.factor[0]), math.log(self.factor[1])
        factor = torch.exp(_between(draws.image("factor", 3)[:, :c], low, high))
        pixels = images.reshape(b, c, h * w)
        mean = pixels.mean(2, keepdim=True)
        centred = pixels - mean
        axes = torch.linalg.eigh(centred @ centred.transpose(1, 2))[1]
        stretch = (axes * factor.unsqueeze(1)) @ axes.transpose(1, 2)
        return (stretch @ centred).add_(mean).clamp_(0, 1).reshape(b, c, h, w)


@dataclass(frozen=True)
class Grey:
    """All channels become the luma with probability `p`."""

    p: float = 0.2

    def __call__(self, images: Images, draws: Draws) -> Images:
        if images.shape[1] == 1:
            return images
        return _some(images, draws.image("apply") < self.p, lambda x, _: _grey(x).expand_as(x))


@dataclass(frozen=True)
class Blur:
    """Gaussian blur of a standard deviation drawn evenly from `sigma` (pixels), with probability `p`.

    The kernel spans `kernel` of the side, at least three pixels (SimCLR: a tenth); edges are mirrored.
    """

    p: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: float = 0.1

    def __call__(self, images: Images, draws: Draws) -> Images:
        sigma = _between(draws.image("sigma"), *self.sigma)

        def blur(x: Images, rows: Bool[Tensor, " b"]) -> Images:
            down = _blur_matrix(x.shape[2], sigma[rows], self.kernel)
            across = down if x.shape[3] == x.shape[2] else _blur_matrix(x.shape[3], sigma[rows], self.kernel)
            return down.unsqueeze(1) @ x @ across.transpose(1, 2).unsqueeze(1)

        return _some(images, draws.image("apply") < self.p, blur)


@dataclass(frozen=True)
class Solarise:
    """Values at or above `threshold` are inverted, with probability `p`."""

    p: float = 0.2
    threshold: float = 0.5

    def __call__(self, images: Images, draws: Draws) -> Images:
        apply = draws.image("apply") < self.p
        return _some(images, apply, lambda x, _: torch.where(x >= self.threshold, 1 - x, x))


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


def turn_hue(images: Images, turn: Factor) -> Images:
    """Shift the hue of colour images by a part of a full turn; values may lie outside [0, 1]."""
    red, green, blue = images.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    span = high - torch.minimum(torch.minimum(red, green), blue)
    hue = _hue(red, green, blue, high, span).add_(turn.squeeze(1) + 2)  # positive, so that frac is the remainder
    turned = torch.empty_like(images)
    for channel, place in enumerate((5 / 6, 3 / 6, 1 / 6)):
        # high - span * clamp(min(k, 4 - k), 0, 1), where k is the place on the colour circle in sixths
        fall = (hue + place).frac_().mul_(6).sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
        torch.addcmul(high, fall, span, value=-1, out=turned[:, channel])
    return turned


def rgb_to_hsv(images: Images) -> Images:
    """Hue in turns, saturation and value, each in [0, 1]."""
    red, green, blue = images.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    span = high - torch.minimum(torch.minimum(red, green), blue)
    saturation = span / high.clamp(min=1e-8)
    return torch.stack([_hue(red, green, blue, high, span).remainder_(1), saturation, high], 1)


def hsv_to_rgb(images: Images) -> Images:
    """The inverse of `rgb_to_hsv`."""
    hue, saturation, value = images.unbind(1)
    span = value * saturation
    falls = [
        (hue + place).remainder_(1).mul_(6).sub_(2).abs_().neg_().add_(2).clamp_(0, 1) for place in (5 / 6, 0.5, 1 / 6)
    ]
    return torch.stack([value - span * fall for fall in falls], 1)


def _hue(
    red: Float[Tensor, "b h w"],
    green: Float[Tensor, "b h w"],
    blue: Float[Tensor, "b h w"],
    high: Float[Tensor, "b h w"],
    span: Float[Tensor, "b h w"],
) -> Float[Tensor, "b h w"]:
    """Hue in turns, from -1/6 to 5/6; 0 for greys."""
    scale = 1 / (6 * span.clamp(min=1e-8))
    hue = (red - green).mul_(scale).add_(4 / 6)
    hue = torch.where(high == green, (blue - red).mul_(scale).add_(2 / 6), hue)
    return torch.where(high == red, (green - blue).mul_(scale), hue)


def _grey(images: Images) -> Float[Tensor, "b 1 h w"]:
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = images.split(1, 1)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + u * (high - low)


def _some(images: Images, apply: Bool[Tensor, " b"], change) -> Images:  # type: ignore[no-untyped-def]
    """`change(images, rows)` on some images; a copy of the rest."""
    if not bool(apply.any()):
        return images
    images = images.clone()
    images[apply] = change(images[apply], apply)
    return images


def _blur_matrix(side: int, sigma: Float[Tensor, " b"], kernel: float) -> Float[Tensor, "b side side"]:
    """The blur of one axis as a matrix, mirrored at the edges (the edge pixel itself is not repeated)."""
    radius = min(max(int(side * kernel) // 2, 1), side - 1)
    reach = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (reach / sigma.unsqueeze(1)) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    source = (torch.arange(side, device=sigma.device).unsqueeze(1) + reach).abs()
    source = torch.where(source >= side, 2 * (side - 1) - source, source)
    matrix = torch.zeros(len(sigma), side, side, device=sigma.device)
    index = source.expand(len(sigma), side, -1)
    return matrix.scatter_add_(2, index, weights.unsqueeze(1).expand(-1, side, -1).contiguous())
