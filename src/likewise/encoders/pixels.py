"""The pixels themselves as features: the baseline that a learned encoder has to beat."""

from jaxtyping import Float
from torch import Tensor

from likewise.encoders.normalise import Normalise
from likewise.types import DataInfo, Encoder, Images


class Pixels(Encoder):
    """Flattens an image of `size` x `size` pixels. Nothing is learned."""

    def __init__(self, data: DataInfo) -> None:
        super().__init__()
        self.normalise = Normalise(data.channels)
        self.dim = data.channels * data.size**2

    def forward(self, images: Images) -> Float[Tensor, "b dim"]:
        return self.normalise(images).flatten(1)
