"""Weighted sums of the rows of images: the one kernel under resizing and blurring.

Either gives an output row as a short sum of input rows, so a sparse sum of whole rows is all the work there is; the
columns of an image are the rows of its transpose.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


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
