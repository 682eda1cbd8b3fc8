"""LeJEPA (Balestriero and LeCun, 2025): views agree with the global ones, and every projection is a normal sample.

arXiv 2511.08544. No teacher, no stop-gradient, no predictor, and one weight. SIGReg holds the embeddings' distribution
to N(0, I): along random directions, their characteristic function is brought to that of the normal distribution.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from likewise.draws import normal
from likewise.methods.base import Method
from likewise.methods.parts import encode, full_precision, large, mlp, off_global, unit
from likewise.types import Batch, DataInfo, Encoder, Scalar, Step, TrainConfig, gather
from likewise.views import View


@full_precision
def sigreg(z: Float[Tensor, "n d"], directions: Float[Tensor, "k d"]) -> Scalar:
    """The Epps-Pulley statistic of the projections of `z` on unit `directions`, averaged: 1.05 expected for N(0, I).

    The squared distance of the characteristic functions, on 17 frequencies from 0 to 3, weighted by a normal window.
    """
    t = torch.linspace(0, 3, 17, device=z.device)
    target = torch.exp(-t.square() / 2)
    weights = 2 * target * 3 / 16  # for frequencies below zero too; times the window; times the step
    weights[[0, -1]] /= 2  # the trapezium rule
    angle = (z @ directions.T).unsqueeze(2) * t  # "n k 17"
    error = (angle.cos().mean(0) - target).square() + angle.sin().mean(0).square()
    return len(z) * (error @ weights).mean()


class LeJEPA(Method):
    """Two global and some local views -> encoder -> projector -> (1 - weight) invariance + weight SIGReg."""

    family = "information maximisation"
    default_views = "multi-crop"
    multi_crop = True

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        sigreg_weight: float = 0.05,
        n_directions: int = 256,
        hidden_dim: int = 512,
        output_dim: int = 64,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.weight = encoder, views, sigreg_weight
        self.n_directions = n_directions
        self.projector = mlp(encoder.dim, hidden_dim, hidden_dim, output_dim)

    def step(self, batch: Batch) -> Step:
        z = torch.stack(encode(lambda images: self.projector(self.encoder(images)).float(), batch.views))  # "v n d"
        apart = off_global(z, len(large(batch.views)))
        directions = unit(normal(batch.draws.step("directions", self.n_directions, z.shape[2])))
        normality = torch.stack([sigreg(gather(view), directions) for view in z]).mean()
        terms = {"invariance": (1 - self.weight) * apart.mean(), "normality": self.weight * normality}
        return Step(terms, score=apart.detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
