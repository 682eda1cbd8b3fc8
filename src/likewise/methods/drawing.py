"""What methods that draw images share: a network from features to pixels."""

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from likewise.methods.parts import full_precision
from likewise.types import DataInfo, Images

WIDEST = 256


def doubled(width: int, n: int) -> list[int]:
    """The channels of `n` maps, each with twice as many as the one before, up to WIDEST or a larger `width`."""
    return [max(width, min(WIDEST, width * 2**i)) for i in range(n)]


class Decoder(nn.Module):
    """Features "b dim" -> an image "b c size size": a map of at most 7 x 7 cells, doubled until it is large enough.

    Nearest neighbours and a convolution double it, which draws no chequers as transposed convolutions do. A matrix, not
    a convolution, makes the pixels: no normalisation follows, so that its scale has to be learned (see `Muon`).
    """

    def __init__(self, dim: int, data: DataInfo, width: int) -> None:
        super().__init__()
        n = max(0, math.ceil(math.log2(data.size / 7)))
        widths = doubled(width, n + 1)[::-1]
        self.size, self.cells = data.size, math.ceil(data.size / 2**n)
        self.enter = nn.Linear(dim, widths[0] * self.cells**2, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
        for before, after in pairwise(widths):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, 1, 1, bias=False)]
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.draw, self.leave = nn.Sequential(*layers), nn.Linear(widths[-1], data.channels)

    def forward(self, features: Float[Tensor, "b dim"]) -> Images:
        cells = self.enter(features).unflatten(1, (-1, self.cells, self.cells))
        drawn = self.draw(cells)[:, :, : self.size, : self.size]
        return self.leave(drawn.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@full_precision
def squared_error(drawn: Images, images: Images) -> Float[Tensor, "b c h w"]:
    """Of each value of each pixel."""
    return (drawn - images).square()


def shown(drawn: Images) -> Images:
    """A drawing as an image to look at."""
    return drawn.float().clamp(0, 1)
