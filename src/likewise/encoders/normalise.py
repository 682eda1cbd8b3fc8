"""What every encoder does first: bring pixels in [0, 1] to mean 0 and deviation 1 per channel."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from likewise.errors import UsageError
from likewise.types import Encoder, Images


class Normalise(nn.Module):
    """Mean and deviation are buffers: they travel with the weights, and nobody has to remember them."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((channels,), 0.5))
        self.register_buffer("std", torch.full((channels,), 0.25))

    def set(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take the statistics of a set of images, per channel; a constant channel is only centred."""
        self.mean.copy_(torch.tensor(mean))
        self.std.copy_(torch.tensor([s if s > 1e-4 else 1.0 for s in std]))

    @property
    def channels(self) -> int:
        return len(self.mean)

    def forward(self, images: Images) -> Images:
        if not images.is_floating_point():
            raise UsageError(f"images: {images.dtype}; expected floats in [0, 1]")
        return (images - self.mean.reshape(-1, 1, 1)) / self.std.reshape(-1, 1, 1)


def normaliser(encoder: Encoder) -> Normalise:
    """The part of an encoder that normalises; it knows the mean, the deviation and the number of channels."""
    for part in encoder.children():
        if isinstance(part, Normalise):
            return part
    raise UsageError(f"encoder {type(encoder).__name__}: has no Normalise of its own; wrap the module in External")
