"""W-MSE (Ermolov et al., 2020): views agree after whitening, which alone keeps the embeddings from collapsing.

arXiv 2007.06346. Each view is whitened in slices of `slice_size` images, drawn anew each step and alike for all views;
of several processes each whitens its own. The covariance is brought `shrinkage` of the way to the identity times its
mean variance, so that it has an inverse in small batches too: whitening says something when a slice has twice as many
images as dimensions, of which there are no more than half as many as images in all. What is shrunk is not whitened, and
there a network can hide: at 0.001 all but one direction vanished (LOG.md). So it is tiny, and computed in float64.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from likewise.methods.base import Method
from likewise.methods.parts import cosine_distance, encode, full_precision, mlp
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig
from likewise.views import View


@full_precision
def whiten(z: Float[Tensor, "n d"], shrinkage: float) -> Float[Tensor, "n d"]:
    """Mean zero and covariance the identity, by the inverse of the covariance's Cholesky factor.

    Rows that are not finite, or a covariance without an inverse, give rows that are not finite.
    """
    exact = z if z.device.type == "mps" else z.double()  # which has no float64
    exact = exact - exact.mean(0)
    covariance = exact.T @ exact / max(1, len(z) - 1)
    eye = torch.eye(z.shape[1], device=z.device, dtype=exact.dtype)
    variance = covariance.diagonal().mean().clamp(min=1e-12)
    factor, failed = torch.linalg.cholesky_ex(torch.lerp(covariance, eye * variance, shrinkage))
    factor = factor.masked_fill(failed > 0, math.nan)
    return torch.linalg.solve_triangular(factor, exact.T, upper=False).T.to(z.dtype)


class WMSE(Method):
    """Views "b c h w" -> encoder -> projector -> whitened slices -> squared distance of directions, over all pairs."""

    family = "information maximisation"
    multi_crop = True
    needs = ("batches of 128 images or more",)

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        slice_size: int = 128,
        shrinkage: float = 1e-8,
        hidden_dim: int = 512,
        output_dim: int = 64,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.slice_size, self.shrinkage = encoder, views, slice_size, shrinkage
        self.projector = mlp(encoder.dim, hidden_dim, max(2, min(output_dim, data.n_images // 2)))

    def step(self, batch: Batch) -> Step:
        projected = encode(lambda images: self.projector(self.encoder(images)).float(), batch.views)
        shuffled = batch.draws.bits("slices").argsort()
        slices = shuffled.tensor_split(max(1, len(shuffled) // self.slice_size))
        white = [torch.cat([whiten(z[rows], self.shrinkage) for rows in slices]) for z in projected]
        met = [cosine_distance(a, b) for a, b in combinations(white, 2)]
        loss = torch.stack(met).mean(0)[shuffled.argsort()]
        return Step({"distance": loss.mean()}, score=loss.detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
