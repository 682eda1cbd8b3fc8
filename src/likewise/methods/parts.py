"""What several methods are built from: heads, teachers, and the two forms of loss that the field shares."""

import copy
import functools
import math
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.types import Crops, Images, Scalar


def mlp(*widths: int, last_norm: bool = False) -> nn.Sequential:
    """Linear layers with batch normalisation and ReLU between them: `mlp(512, 2048, 128)` has two layers.

    With `last_norm` the output is batch-normalised too, without a learned scale.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        layers.append(nn.Linear(before, after, bias=last and not last_norm))
        if not last:
            layers += [nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


def encode(encoder: Callable[[Images], Tensor], views: Crops) -> list[Tensor]:
    """What an encoder makes of each view; neighbours of equal size (the two global crops, the local ones) go together.

    Batch normalisation then sees the global views in one batch and the local ones in another, as in SwAV and DINO.
    """
    made: list[Tensor] = []
    for _, alike in groupby(views, key=lambda view: view.shape):
        group = list(alike)
        made += encoder(torch.cat(group)).chunk(len(group))
    return made


def large(views: Crops) -> list[Tensor]:
    """The views of the first one's size: of a multi-crop, the global ones, which teachers and clusterings see."""
    return [view for view in views if view.shape == views[0].shape]


def pairs(views: Crops) -> list[tuple[int, int]]:
    """(i, j) for each large view i and each other view j, large or small, that must agree with it (SwAV, 2020)."""
    return [(i, j) for i in range(len(large(views))) for j in range(len(views)) if i != j]


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute a loss in float32: autocast would bring even float32 matrices to bfloat16 before it multiplies them."""

    @functools.wraps(loss)
    def exact(*inputs: Any, **options: Any) -> Tensor:
        inputs = tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
        device = next(x.device.type for x in inputs if isinstance(x, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*inputs, **options)

    return exact


@full_precision
def cosine_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """2 - 2 cos(a, b): the squared distance of the directions."""
    return 2 - 2 * F.cosine_similarity(a, b, dim=1)


def unit(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length one."""
    return F.normalize(x, dim=1)


@full_precision
def spread(z: Float[Tensor, "n d"]) -> Scalar:
    """The deviation of unit rows per dimension, times the root of d: about 1 when healthy, 0 when collapsed."""
    return unit(z.detach()).std(0).mean() * math.sqrt(z.shape[1])


class Teacher(nn.Module):
    """A slow copy of an encoder and its head: it follows by exponential averages and is never trained."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = copy.deepcopy(encoder), copy.deepcopy(head)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Images) -> Float[Tensor, "b d"]:
        return self.head(self.encoder(images))

    @torch.no_grad()
    def follow(self, encoder: nn.Module, head: nn.Module, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, for parameters."""
        for mine, theirs in ((self.encoder, encoder), (self.head, head)):
            pairs = zip(mine.parameters(), theirs.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 1 - momentum)


def cosine_ramp(start: float, end: float, progress: float) -> float:
    """From start to end along half a cosine, as training progresses from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
