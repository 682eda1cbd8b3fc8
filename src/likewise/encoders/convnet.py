"""A small convolutional network made for CPUs: few, dense 3 x 3 convolutions, early strides, batch normalisation.

Its shape comes from measurements on two cores (LOG.md): strides are cheaper than pooling, and a strided stem and plain
blocks learn more per minute than a full-size stem or residual blocks.
"""

import functools

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.encoders.normalise import Normalise
from likewise.errors import UsageError
from likewise.types import DataInfo, Encoder, Images


class ConvNet(Encoder):
    """Stages of one strided convolution and `n_blocks` more; features are averages of the last maps on a grid of
    `grid` x `grid` cells (1: over all of it)."""

    def __init__(self, data: DataInfo, widths: tuple[int, ...], n_blocks: int, stem: int, grid: int) -> None:
        super().__init__()
        self.normalise = Normalise(data.channels)
        before, stages = data.channels, []
        for stage, width in enumerate(widths):
            layers = _layer(before, width, 2 if stage else stem)
            for _ in range(n_blocks if stage else 0):
                layers += _layer(width, width, 1)
            stages.append(nn.Sequential(*layers))
            before = width
        side = functools.reduce(lambda side, stride: -(-side // stride), [stem, *[2] * (len(widths) - 1)], data.size)
        if grid > side:
            raise UsageError(f"grid={grid}: expected at most {side}, the side of the last maps of {data.size} pixels")
        self.stages, self.grid, self.dim = nn.ModuleList(stages), grid, before * grid**2
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def dense(self, images: Images) -> list[Float[Tensor, "b _ _ _"]]:
        """The maps of every stage, finest first."""
        x, maps = self.normalise(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, images: Images) -> Float[Tensor, "b dim"]:
        return F.adaptive_avg_pool2d(self.dense(images)[-1], self.grid).flatten(1)


def convnet(
    data: DataInfo, *, width: int = 64, n_stages: int = 3, n_blocks: int = 1, stem: int = 2, grid: int = 1
) -> ConvNet:
    """A small network made for CPUs: 1.1 M parameters, 256 features. Widths double from stage to stage.

    `stem` is the stride of the first convolution. `grid` 2 keeps where things are, for centred things such as clothes.
    """
    return ConvNet(data, tuple(width * 2**i for i in range(n_stages)), n_blocks, stem, grid)


def _layer(before: int, after: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
