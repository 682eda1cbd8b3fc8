"""SimCLR (Chen et al., 2020): two views of an image find each other among all the other views of the batch.

arXiv 2002.05709. The loss is NT-Xent; the head's output layer has no batch normalisation. With more than two views
it is the mean over every large view and each other one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from likewise.methods.base import Method
from likewise.methods.parts import encode, full_precision, in_blocks, mlp, pairs, unit
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig, gather, rank
from likewise.views import View


@full_precision
def nt_xent(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], temperature: float) -> Float[Tensor, " n"]:
    """The loss of each image: its two views must find each other among the 2n - 1 other views."""
    n, a, b = len(a), unit(a), unit(b)
    keys = torch.cat([gather(a), gather(b)])
    first = torch.arange(n, device=a.device) + rank() * n
    second = first + len(keys) // 2

    def rows(z: Float[Tensor, "r d"], itself: Int[Tensor, " r"], other: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        # A view must not find itself: its similarity is minus infinity.
        logits = (z @ keys.T).scatter_(1, itself.unsqueeze(1), float("-inf"))
        return F.cross_entropy(logits, other, reduction="none")

    views = torch.cat([a, b]) / temperature
    loss = in_blocks(rows, views, torch.cat([first, second]), torch.cat([second, first]))
    return (loss[:n] + loss[n:]) / 2


class SimCLR(Method):
    """Views "b c h w" -> encoder -> projector -> NT-Xent at `temperature`."""

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
        met = [nt_xent(z[i], z[j], self.temperature) for i, j in pairs(batch.views) if i < j]
        loss = torch.stack(met).mean(0)
        return Step({"contrast": loss.mean()}, score=loss.detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
