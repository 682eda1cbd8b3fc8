"""A small convolutional network made for CPUs: few, dense 3 x 3 convolutions, early strides, batch normalisation.

Its shape comes from measurements (docs/results): on two cores a strided stem and one residual block per stage learn
more per minute than deeper or wider networks.
"""

from jaxtyping import Float
from torch import Tensor, nn

from likewise.encoders.normalise import Normalise
from likewise.types import DataInfo, Encoder, Images


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


class ConvNet(Encoder):
    """Stages of one strided convolution and `n_blocks` residual blocks; features are the average of the last maps."""

    def __init__(self, data: DataInfo, widths: tuple[int, ...], n_blocks: int, stem: int) -> None:
        super().__init__()
        self.normalise = Normalise(data.channels)
        before, stages = data.channels, []
        for stage, width in enumerate(widths):
            stride = stem if stage == 0 else 2
            conv = nn.Conv2d(before, width, 3, stride, 1, bias=False)
            blocks = [_Residual(width) for _ in range(n_blocks if stage else 0)]
            stages.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(), *blocks))
            before = width
        self.stages, self.dim = nn.ModuleList(stages), before
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def dense(self, images: Images) -> list[Float[Tensor, "b c i j"]]:
        """The maps of every stage, finest first."""
        x, maps = self.normalise(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, images: Images) -> Float[Tensor, "b dim"]:
        return self.dense(images)[-1].mean((2, 3))


def convnet(data: DataInfo, *, width: int = 64, n_stages: int = 3, n_blocks: int = 1, stem: int = 2) -> ConvNet:
    """Widths double from stage to stage; `stem` is the stride of the first convolution."""
    return ConvNet(data, tuple(width * 2**i for i in range(n_stages)), n_blocks, stem)
