"""Barlow Twins (Zbontar et al., 2021): the correlations of two views' dimensions should be the identity.

arXiv 2103.03230. The terms are divided by the number of dimensions, so that one rate suits heads of every width.
More than two views are brought together in pairs.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from likewise.methods.base import Method
from likewise.methods.parts import encode, full_precision, mlp, pairs
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig, gather
from likewise.views import View


@full_precision
def twins(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, "2"]:
    """How far the correlations of a with b are from the identity: squares on the diagonal, squares off it, over d."""
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (a, b))
    c = a.T @ b / len(a)
    diagonal = c.diagonal()
    return torch.stack([(1 - diagonal).square().sum(), c.square().sum() - diagonal.square().sum()]) / len(c)


class BarlowTwins(Method):
    """Views "b c h w" -> encoder -> projector -> correlations; ones on the diagonal, zeros elsewhere."""

    family = "information maximisation"
    default_views = "asymmetric"
    multi_crop = True

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        redundancy_weight: float = 0.0051,
        hidden_dim: int = 1024,
        output_dim: int = 1024,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.redundancy_weight = encoder, views, redundancy_weight
        self.projector = mlp(encoder.dim, hidden_dim, hidden_dim, output_dim)

    def step(self, batch: Batch) -> Step:
        z = [gather(x) for x in encode(lambda images: self.projector(self.encoder(images)).float(), batch.views)]
        met = torch.stack([twins(z[i], z[j]) for i, j in pairs(batch.views) if i < j])
        invariance, redundancy = met.mean(0)
        return Step({"invariance": invariance, "redundancy": self.redundancy_weight * redundancy})


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
