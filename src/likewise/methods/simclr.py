"""SimCLR (Chen et al., 2020): two views of an image find each other among all the other views of the batch.

arXiv 2002.05709. The loss is NT-Xent; the head's output layer has no batch normalisation. With more than two views
it is the mean over every large view and each other one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise.methods.base import Method
from likewise.methods.parts import encode, full_precision, mlp, pairs, unit
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig, gather, rank
from likewise.views import View


@full_precision
def nt_xent(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], temperature: float) -> Float[Tensor, " n"]:
    """The loss of each image: its two views must find each other among the 2n - 1 other views."""
    a, b = unit(a), unit(b)
    n, all_a, all_b = len(a), gather(a), gather(b)
    m = len(all_a)
    mine = torch.arange(n, device=a.device) + rank() * n
    keys = torch.cat([all_a, all_b])

    def one_side(z: Float[Tensor, "n d"], itself: Tensor, other: Tensor) -> Float[Tensor, " n"]:
        # A view must not find itself: a similarity of minus infinity, from adding to its own logit.
        logits = (z @ keys.T / temperature).scatter(1, itself.unsqueeze(1), float("-inf"))
        return nn.functional.cross_entropy(logits, other, reduction="none")

    return (one_side(a, mine, mine + m) + one_side(b, mine + m, mine)) / 2


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
