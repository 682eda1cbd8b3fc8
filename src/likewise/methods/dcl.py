"""DCL (Yeh et al., 2021): SimCLR whose loss leaves the positive pair out of the denominator.

arXiv 2110.06848. So pulling two views together never weakens the push from the others, and small batches learn as well
as large ones. The paper's weighted variant, DCLW, is left out. More than two views are brought together as in SimCLR.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.methods.base import Method
from likewise.methods.parts import encode, full_precision, in_blocks, mlp, pairs, unit
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig, gather, rank
from likewise.views import View


@full_precision
def decoupled(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], temperature: float) -> Float[Tensor, " n"]:
    """The loss of each image: minus its views' similarity, plus the log of the summed others, the 2n - 2 negatives."""
    n, a, b = len(a), unit(a), unit(b)
    keys = torch.cat([gather(a), gather(b)])
    first = torch.arange(n, device=a.device) + rank() * n
    second = first + len(keys) // 2

    def rows(z: Float[Tensor, "r d"], pair: Int[Tensor, "r 2"]) -> Float[Tensor, " r"]:
        logits = z @ keys.T
        positive = logits.gather(1, pair[:, 1:]).squeeze(1)
        return logits.scatter(1, pair, float("-inf")).logsumexp(1) - positive

    views = torch.cat([a, b]) / temperature
    places = torch.stack([torch.cat([first, second]), torch.cat([second, first])], 1)  # of itself and of its other view
    loss = in_blocks(rows, views, places)
    return (loss[:n] + loss[n:]) / 2


class DCL(Method):
    """Views "b c h w" -> encoder -> projector -> the decoupled loss at `temperature`."""

    family = "contrastive"
    multi_crop = True

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        temperature: float = 0.1,
        hidden_dim: int = 512,
        output_dim: int = 128,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.temperature = encoder, views, temperature
        self.projector = mlp(encoder.dim, hidden_dim, output_dim)

    def step(self, batch: Batch) -> Step:
        z = encode(lambda images: self.projector(self.encoder(images)), batch.views)
        met = [decoupled(z[i], z[j], self.temperature) for i, j in pairs(batch.views) if i < j]
        loss = torch.stack(met).mean(0)
        return Step({"contrast": loss.mean()}, score=loss.detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
