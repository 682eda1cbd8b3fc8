"""The two networks of DrLIM (Hadsell, Chopra, LeCun, 2006): maps from images to a few coordinates.

Both see images at the side they were built for (others are resized to it) and end in a linear layer of `dim` outputs:
the features are the map. Subsampling is a plain average; LeNet's had a trainable scale and offset per map.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.encoders.normalise import Normalise
from likewise.types import DataInfo, Encoder, Images

SMALLEST = 32  # pixels, on which the third layer's 9 x 9 kernel sees all of the second


class MNISTNet(Encoder):
    """15 maps of 6 x 6 kernels, 3 x 3 averages, 30 maps of 9 x 9 kernels, a linear layer; tanh between them.

    Images below 32 pixels are padded to that with the colour of their edge, as 28 are by 2 on each side.
    """

    def __init__(self, data: DataInfo, dim: int) -> None:
        super().__init__()
        self.normalise = Normalise(data.channels)
        self.side, self.dim = data.size, dim
        self.c1 = nn.Conv2d(data.channels, 15, 6)
        self.c3 = nn.Conv2d(15, 30, 9)
        self.f = nn.Linear(30 * ((max(self.side, SMALLEST) - 5) // 3 - 8) ** 2, dim)

    def dense(self, images: Images) -> list[Float[Tensor, "b _ _ _"]]:
        """The maps of every layer, finest first."""
        x = _at(self.side, self.normalise(images))
        missing = max(0, SMALLEST - self.side)
        x = F.pad(x, (missing // 2, missing - missing // 2) * 2, mode="replicate")
        c1 = self.c1(x).tanh()
        s2 = F.avg_pool2d(c1, 3)
        c3 = self.c3(s2).tanh()
        return [c1, s2, c3, self.f(c3.flatten(1))[..., None, None]]

    def forward(self, images: Images) -> Float[Tensor, "b dim"]:
        return self.dense(images)[-1].flatten(1)


class NORBNet(Encoder):
    """20 hidden units that see every pixel, tanh, and a linear layer."""

    def __init__(self, data: DataInfo, dim: int, hidden: int) -> None:
        super().__init__()
        self.normalise = Normalise(data.channels)
        self.side, self.dim = data.size, dim
        self.hidden = nn.Linear(data.channels * self.side**2, hidden)
        self.f = nn.Linear(hidden, dim)

    def dense(self, images: Images) -> list[Float[Tensor, "b _ _ _"]]:
        """Both layers, as maps of one pixel."""
        hidden = self.hidden(_at(self.side, self.normalise(images)).flatten(1)).tanh()
        return [hidden[..., None, None], self.f(hidden)[..., None, None]]

    def forward(self, images: Images) -> Float[Tensor, "b dim"]:
        return self.dense(images)[-1].flatten(1)


def drlim_mnist(data: DataInfo, *, dim: int = 2) -> MNISTNet:
    """DrLIM's network for MNIST: 37 thousand parameters and `dim` features, 2 in the paper."""
    return MNISTNet(data, dim)


def drlim_norb(data: DataInfo, *, dim: int = 3, hidden_units: int = 20) -> NORBNet:
    """DrLIM's network for NORB: `hidden_units` that see every pixel and `dim` features, 3 in the paper."""
    return NORBNet(data, dim, hidden_units)


def _at(side: int, images: Images) -> Float[Tensor, "b c i j"]:
    if images.shape[2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
