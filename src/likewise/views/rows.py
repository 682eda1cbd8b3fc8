"""Weighted sums of the rows of images: the one kernel under resizing and blurring.

Either gives an output row as a short sum of input rows, so a sparse sum of whole rows is all the work there is; the
columns of an image are the rows of its transpose.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

TOGETHER = 2**19  # values of a tensor that a CPU works on together: they stay in its cache


def parts(n: int, values: int, device: torch.device) -> list[slice]:
    """Cut n images of so many values each into parts that suit the device's cache."""
    size = max(1, TOGETHER // values if device.type == "cpu" else n)
    return [slice(start, start + size) for start in range(0, n, size)]


def sum_rows(
    images: Float[Tensor, "b c h w"], taps: Int[Tensor, "b n t"], weights: Float[Tensor, "b n t"]
) -> Float[Tensor, "b c n w"]:
    """Row i of an image becomes the sum of its rows `taps[i]`, times `weights[i]`."""
    b, c, h, w = images.shape
    first = torch.arange(0, b * c * h, h, device=images.device).reshape(b, c, 1, 1)  # row of each plane
    rows = (first + taps.unsqueeze(1)).flatten(0, 2)
    shares = weights.unsqueeze(1).expand(-1, c, -1, -1).flatten(0, 2)
    table = images.reshape(b * c * h, w)
    return F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum").reshape(b, c, taps.shape[1], w)
