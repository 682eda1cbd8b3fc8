"""ResNet (He et al., 2015, arXiv 1512.03385), with torchvision's tensor names, so that its weights load.

With `stem="small"` (Chen et al., 2020, for CIFAR) the first convolution is 3 x 3 with stride 1 and nothing is pooled
before the first stage; "large" is the original for 224 pixels. The stride of a bottleneck sits on its 3 x 3
convolution, as in torchvision.
"""

from jaxtyping import Float
from torch import Tensor, nn

from likewise.encoders.normalise import Normalise
from likewise.errors import UsageError
from likewise.types import DataInfo, Encoder, Images


class _Block(nn.Module):
    """conv1, bn1, ..., and the downsampling of the shortcut; `expansion` is 1 (two 3 x 3) or 4 (bottleneck)."""

    def __init__(self, inner: int, before: int, stride: int, expansion: int) -> None:
        super().__init__()
        after = inner * expansion
        self.bottleneck = expansion > 1
        if self.bottleneck:
            self.conv1 = nn.Conv2d(before, inner, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(inner, after, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(after)
        else:
            self.conv1 = nn.Conv2d(before, inner, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(inner, inner, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(inner)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x))
        if self.bottleneck:
            x = self.bn3(self.conv3(x.relu()))
        return (x + shortcut).relu()


class ResNet(Encoder):
    """Features are the average of the last stage's maps."""

    def __init__(self, data: DataInfo, blocks: tuple[int, ...], expansion: int, stem: str, width: int) -> None:
        super().__init__()
        if stem not in ("small", "large"):
            raise UsageError(f"stem={stem!r}: expected 'small' or 'large'")
        self.normalise = Normalise(data.channels)
        small = stem == "small"
        self.conv1 = nn.Conv2d(
            data.channels, width, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        before = width
        for stage, depth in enumerate(blocks):
            inner, stride = width * 2**stage, 1 if stage == 0 else 2
            parts = []
            for i in range(depth):
                parts.append(_Block(inner, before, stride if i == 0 else 1, expansion))
                before = inner * expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*parts))
        self.n_stages, self.dim = len(blocks), before
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def dense(self, images: Images) -> list[Float[Tensor, "b _ _ _"]]:
        """The maps of the stem and of every stage, finest first."""
        maps = [self.maxpool(self.bn1(self.conv1(self.normalise(images))).relu())]
        for stage in range(1, self.n_stages + 1):
            maps.append(self.get_submodule(f"layer{stage}")(maps[-1]))
        return maps

    def forward(self, images: Images) -> Float[Tensor, "b dim"]:
        return self.dense(images)[-1].mean((2, 3))


def resnet18(data: DataInfo, *, stem: str | None = None, width: int = 64) -> ResNet:
    """11 M parameters, 512 features. `stem` is "small" up to 64 pixels and "large" beyond, unless given."""
    return ResNet(data, (2, 2, 2, 2), 1, stem or _stem(data), width)


def resnet34(data: DataInfo, *, stem: str | None = None, width: int = 64) -> ResNet:
    """21 M parameters, 512 features."""
    return ResNet(data, (3, 4, 6, 3), 1, stem or _stem(data), width)


def resnet50(data: DataInfo, *, stem: str | None = None, width: int = 64) -> ResNet:
    """24 M parameters, 2,048 features."""
    return ResNet(data, (3, 4, 6, 3), 4, stem or _stem(data), width)


def _stem(data: DataInfo) -> str:
    return "small" if data.size <= 64 else "large"
