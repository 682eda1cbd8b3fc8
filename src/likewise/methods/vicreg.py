"""VICReg (Bardes et al., 2021): views agree, every dimension varies, no two dimensions say the same.

arXiv 2105.04906. Three terms and no negatives, teacher or stop-gradient. With more than two views, each must agree with
the large ones, vary, and say different things.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from likewise.methods.base import Method
from likewise.methods.parts import encode, full_precision, mlp, pairs
from likewise.types import Batch, DataInfo, Encoder, Scalar, Step, TrainConfig, gather
from likewise.views import View


@full_precision
def variance(z: Float[Tensor, "n d"]) -> Scalar:
    """How far each dimension's deviation falls short of 1, on average."""
    return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()


@full_precision
def covariance(z: Float[Tensor, "n d"]) -> Scalar:
    """The squares of the covariances between different dimensions, summed and divided by d."""
    z = z - z.mean(0)
    squares = (z.T @ z / (len(z) - 1)).square()
    return (squares.sum() - squares.diagonal().sum()) / z.shape[1]


class VICReg(Method):
    """Views "b c h w" -> encoder -> projector -> invariance + variance + covariance."""

    family = "information maximisation"
    default_views = "asymmetric"
    multi_crop = True

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        hidden_dim: int = 512,
        output_dim: int = 512,
    ) -> None:
        super().__init__()
        self.encoder, self.views = encoder, views
        self.weights = invariance_weight, variance_weight, covariance_weight
        self.projector = mlp(encoder.dim, hidden_dim, hidden_dim, output_dim)

    def step(self, batch: Batch) -> Step:
        z = encode(lambda images: self.projector(self.encoder(images)).float(), batch.views)
        apart = torch.stack([(z[i] - z[j]).square().mean(1) for i, j in pairs(batch.views) if i < j]).mean(0)
        everybody = [gather(x) for x in z]
        invariance, vary, together = self.weights
        terms = {
            "invariance": invariance * apart.mean(),
            "variance": vary * torch.stack([variance(x) for x in everybody]).mean(),
            "covariance": together * 2 * torch.stack([covariance(x) for x in everybody]).mean(),
        }
        return Step(terms, score=apart.detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
