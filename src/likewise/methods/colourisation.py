"""Colourisation (Zhang et al., 2016): from an image in grey, tell the colour of each place as one of many classes.

arXiv 1603.08511. Colours are a and b of CIE Lab, in bins of 10 x 10; a place's target is spread over the five nearest,
and rare colours weigh more. The classes are the 260 bins that colours of 40 levels a channel fall into (the authors
list 313); how frequent each is, is measured while training. Places are told from the last maps of the encoder.
"""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.encoders.vit import ViT
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.parts import full_precision, mean_row
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig, device_of, in_eval_mode
from likewise.views import View

BIN = 10.0  # in units of Lab, where a and b run from about -110 to 110
NEAREST, SPREAD = 5, 5.0
SHARPENED = 0.38  # the temperature of the annealed mean, which makes one colour of a distribution

TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)  # D65


@full_precision
def to_lab(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """sRGB in [0, 1] to CIE Lab (D65): lightness from 0 to 100, then a and b."""
    linear = torch.where(images > 0.04045, ((images.clamp(min=0) + 0.055) / 1.055) ** 2.4, images / 12.92)
    xyz = torch.einsum("ij,bjhw->bihw", linear.new_tensor(TO_XYZ), linear) / linear.new_tensor(WHITE).reshape(3, 1, 1)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


@full_precision
def to_rgb(lab: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The way back; colours that no screen shows are clipped."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    root = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(root > 0.2068966, root**3, (root - 4 / 29) / 7.787) * root.new_tensor(WHITE).reshape(3, 1, 1)
    linear = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(xyz.new_tensor(TO_XYZ)), xyz).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055, 12.92 * linear)


@functools.lru_cache
def bins() -> Float[Tensor, "q 2"]:
    """The middles (a, b) of the bins that some colour of 40 levels a channel falls into."""
    levels = torch.linspace(0, 1, 40)
    every = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, -1, 1)
    return ((to_lab(every)[0, 1:, :, 0].T / BIN).round().unique(dim=0)) * BIN


def nearest_bins(
    colours: Float[Tensor, "m 2"], middles: Float[Tensor, "q 2"]
) -> tuple[Int[Tensor, "m 5"], Float[Tensor, "m 5"]]:
    """The five nearest bins of each colour, the nearest first, and their shares: normal in the distance."""
    squared = (colours[:, :1] - middles[:, 0]).square() + (colours[:, 1:] - middles[:, 1]).square()
    squared, which = squared.topk(NEAREST, largest=False)
    return which, (-squared / (2 * SPREAD**2)).softmax(1)


@full_precision
def told_colours(
    logits: Float[Tensor, "m q"], which: Int[Tensor, "m 5"], share: Float[Tensor, "m 5"], weight: Float[Tensor, " q"]
) -> Float[Tensor, " m"]:
    """The cross-entropy of each place, times the weight of its nearest bin."""
    return -(share * logits.log_softmax(1).gather(1, which)).sum(1) * weight[which[:, 0]]


@full_precision
def rebalanced(frequency: Float[Tensor, " q"], mixed: float) -> Float[Tensor, " q"]:
    """Weights inverse to how frequent a colour is, mixed with equal shares; 1 on average over colours as they come."""
    weight = 1 / ((1 - mixed) * frequency + mixed / len(frequency))
    return weight / (frequency * weight).sum()


def last_map(encoder: Encoder, images: Images) -> Float[Tensor, "b d i j"]:
    """What is averaged to be the features, before it is."""
    if not isinstance(encoder, ViT):
        maps: list[Tensor] = encoder.dense(images)  # type: ignore[operator]
        return maps[-1]
    h, w = images.shape[2] // encoder.patch, images.shape[3] // encoder.patch
    return encoder.tokens(images)[:, 1:].transpose(1, 2).unflatten(2, (h, w))


class Colourisation(Method):
    """One view "b 3 h w" -> lightness -> encoder's last map -> head -> class of colour at a quarter of the size."""

    family = "pretext"
    needs = ("images in colour", "an encoder with maps")
    default_views = "weak"
    middles: Tensor
    frequency: Tensor
    n_averaged: Tensor

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        equal_share: float = 0.5,
        hidden_dim: int = 128,
    ) -> None:
        super().__init__()
        if data.channels != 3:
            raise UsageError(f"method colourisation: needs images in colour; these have channels={data.channels}")
        if not hasattr(encoder, "dense") or (isinstance(encoder, ViT) and encoder.pool == "cls"):
            raise UsageError(
                "encoder: colourisation needs one with maps that its features are made of (convnet, resnet18, vit-nano "
                "with pool=mean, ...)"
            )
        if not 0 < equal_share <= 1:
            raise UsageError(f"equal_share={equal_share}: expected a share above 0, and at most 1")
        self.encoder, self.views, self.equal_share = encoder, views, equal_share
        self.side = max(1, data.size // 4)
        self.register_buffer("middles", bins().clone(), persistent=False)
        n_bins = len(self.middles)
        self.register_buffer("frequency", torch.full((n_bins,), 1 / n_bins))
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))
        with in_eval_mode(encoder), torch.no_grad():
            black = torch.zeros(1, data.channels, data.size, data.size, device=device_of(encoder))
            width, *places = last_map(encoder, black).shape[1:]
        if places == [1, 1]:
            raise UsageError(
                f"encoder: its last map of an image of {data.size} pixels is a single place; colourisation needs more"
            )
        self.enter = nn.Sequential(nn.Conv2d(width, hidden_dim, 1, bias=False), nn.BatchNorm2d(hidden_dim), nn.ReLU())
        around = nn.Conv2d(hidden_dim, hidden_dim, 3, 1, 1, bias=False)
        self.mix = nn.Sequential(around, nn.BatchNorm2d(hidden_dim), nn.ReLU())
        self.leave = nn.Linear(hidden_dim, n_bins)

    def tell(self, lightness: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b i j q"]:
        """The score of each class of colour at each place; lightness is from 0 to 1."""
        place = self.enter(last_map(self.encoder, lightness.expand(-1, 3, -1, -1)))
        place = F.interpolate(place, (self.side, self.side), mode="bilinear", align_corners=False)
        return self.leave(self.mix(place).permute(0, 2, 3, 1))

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        lab = to_lab(images)
        colours = F.adaptive_avg_pool2d(lab[:, 1:], self.side).permute(0, 2, 3, 1).flatten(0, 2)  # "bij 2"
        which, share = nearest_bins(colours, self.middles)
        logits = self.tell(lab[:, :1] / 100).flatten(0, 2)
        weight = rebalanced(self.frequency, self.equal_share)
        loss = told_colours(logits, which, share, weight).unflatten(0, (len(images), -1)).mean(1)
        if self.training:
            found = torch.zeros_like(self.frequency).index_add(0, which.flatten(), share.flatten()) / len(which)
            self.n_averaged += 1
            self.frequency += (mean_row(found.unsqueeze(0)) - self.frequency) / self.n_averaged
        return Step({"cross-entropy": loss.mean()}, score=loss.detach())

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Images]:
        """The image, its lightness, and the lightness with the colours told (their annealed mean)."""
        (images,) = batch.views
        lightness = to_lab(images)[:, :1]
        share = (self.tell(lightness / 100).float() / SHARPENED).softmax(3)
        colours = torch.einsum("bijq,qc->bcij", share, self.middles)
        colours = F.interpolate(colours, images.shape[2:], mode="bilinear", align_corners=False)
        grey = (lightness / 100).expand(-1, 3, -1, -1).clamp(0, 1)
        return {"image": images, "lightness": grey, "coloured": to_rgb(torch.cat([lightness, colours], 1)).clamp(0, 1)}


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
