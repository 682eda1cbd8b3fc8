"""NNCLR (Dwibedi et al., 2021): a view's nearest neighbour among earlier images takes its place as the positive.

arXiv 2104.14548. The support set is a queue of earlier projections, started from draws; it holds at most half as many
as there are images, since one that held all would make most images their own neighbours, as they were before. With more
than two views the large ones have neighbours, which every other view is to find.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from likewise.draws import Draws, normal
from likewise.methods.base import Method
from likewise.methods.parts import Queue, encode, full_precision, info_nce, large, mlp, pairs, spread, unit
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig
from likewise.views import View


@full_precision
def neighbours(z: Float[Tensor, "n d"], support: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
    """For each row the row of the support set with the largest cosine; no gradient flows through the choice."""
    return support[(unit(z.detach()) @ support.T).argmax(1)]


class NNCLR(Method):
    """Views -> encoder -> projector -> z -> predictor -> p; InfoNCE of z1's neighbour with p2, and of z2's with p1."""

    family = "contrastive"
    multi_crop = True

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        temperature: float = 0.1,
        queue_size: int = 4096,
        hidden_dim: int = 1024,
        output_dim: int = 256,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.temperature = encoder, views, temperature
        self.projector = mlp(encoder.dim, hidden_dim, hidden_dim, output_dim, last_norm=True)
        self.predictor = mlp(output_dim, hidden_dim, output_dim)
        self.support = Queue(max(1, min(queue_size, data.n_images // 2)), output_dim)

    def begin_epoch(self, epoch: int, draws: Draws) -> None:
        if epoch == 0:
            self.support.push(unit(normal(draws.step("support", *self.support.kept.shape))))

    def step(self, batch: Batch) -> Step:
        z = encode(lambda images: self.projector(self.encoder(images)).float(), batch.views)
        p = [self.predictor(x) for x in z]
        near = [neighbours(x, self.support.rows()) for x in z[: len(large(batch.views))]]
        met = [info_nce(near[i], p[j], self.temperature) for i, j in pairs(batch.views)]
        loss = torch.stack(met).mean(0)
        if self.training:
            self.support.push(unit(z[0].detach()))
        return Step({"contrast": loss.mean()}, {"spread": spread(z[0])}, loss.detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
