"""The networks of Exemplar-CNN (Dosovitskiy et al., 2014, arXiv 1406.6909), fully convolutional.

Convolutions without padding, ReLU, 2 x 2 maxima after the first and the second, and a fully connected layer that is a
convolution as wide as the last map of a patch: on a patch of the net's own side (32 pixels; 64 for the matching net)
its map is 1 x 1, on a larger image it is the layer at every place. Smaller images are surrounded by their edge first.
Strides, padding and sides that the paper leaves open follow from 32 -> 28 -> 14 -> 10 -> 5 -> 1.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.encoders.normalise import Normalise
from likewise.types import DataInfo, Encoder, Images


class ExemplarNet(Encoder):
    """Features are the fully connected layer's, averaged over places; on a patch there is one place.

    `convolutions` lists (channels, kernel, stride), `side` is that of a patch in pixels. With `norm` each layer is
    batch-normalised before its ReLU: at test time it is the same network, and it trains faster.
    """

    def __init__(
        self, data: DataInfo, convolutions: tuple[tuple[int, int, int], ...], dim: int, side: int, norm: bool
    ) -> None:
        super().__init__()
        self.normalise = Normalise(data.channels)
        self.side, self.dim = side, dim
        layers, before, left = [], data.channels, side
        for i, (width, kernel, stride) in enumerate(convolutions):
            layers.append(_layer(before, width, kernel, stride, norm))
            before, left = width, (left - kernel) // stride + 1
            left = left // 2 if i < 2 else left
        layers.append(_layer(before, dim, left, 1, norm))
        self.layers = nn.ModuleList(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def dense(self, images: Images) -> list[Float[Tensor, "b _ _ _"]]:
        """The maps of every layer after its ReLU, before pooling; the fully connected one is the last."""
        x, maps = self._surrounded(self.normalise(images)), []
        for i, layer in enumerate(self.layers):
            maps.append(layer(x))
            x = F.max_pool2d(maps[-1], 2) if i < 2 else maps[-1]
        return maps

    def forward(self, images: Images) -> Float[Tensor, "b dim"]:
        x = self._surrounded(self.normalise(images))
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = F.max_pool2d(x, 2) if i < 2 else x
        return x.mean((2, 3))

    def _surrounded(self, images: Images) -> Float[Tensor, "b c _ _"]:
        height, width = (max(0, self.side - images.shape[axis]) for axis in (2, 3))
        if not height and not width:
            return images
        return F.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2), mode="replicate")


def exemplar_small(data: DataInfo, *, norm: bool = False) -> ExemplarNet:
    """64c5-64c5-128f: 312,000 parameters, 128 features, 256 maps in all."""
    return ExemplarNet(data, ((64, 5, 1), (64, 5, 1)), 128, 32, norm)


def exemplar_medium(data: DataInfo, *, norm: bool = False) -> ExemplarNet:
    """64c5-128c5-256c5-512f: 1.2 M parameters, 512 features, 960 maps in all."""
    return ExemplarNet(data, ((64, 5, 1), (128, 5, 1), (256, 5, 1)), 512, 32, norm)


def exemplar_large(data: DataInfo, *, norm: bool = False) -> ExemplarNet:
    """92c5-256c5-512c5-1024f: 4.4 M parameters, 1,024 features, 1,884 maps in all."""
    return ExemplarNet(data, ((92, 5, 1), (256, 5, 1), (512, 5, 1)), 1024, 32, norm)


def exemplar_matching(data: DataInfo, *, norm: bool = False) -> ExemplarNet:
    """64c7s2-128c5-256c5-512f, for patches of 64 pixels: descriptors that are compared between images."""
    return ExemplarNet(data, ((64, 7, 2), (128, 5, 1), (256, 5, 1)), 512, 64, norm)


def _layer(before: int, after: int, kernel: int, stride: int, norm: bool) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, stride, bias=not norm)
    return (
        nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU()) if norm else nn.Sequential(convolution, nn.ReLU())
    )
