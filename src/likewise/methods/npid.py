"""NPID (Wu et al., 2018): every image is a class of its own, and a memory of all images is the classifier.

arXiv 1805.01978. Departures: where the memory is larger than `n_negatives`, the softmax over all images is estimated
from rows drawn anew each step and shared by the batch, in place of the paper's noise-contrastive estimation, and there
is no proximal term; the head has two layers, the paper's one; the memory begins with what the untrained network makes
of each image, not with noise, beside which a ViT collapses. One view of an image is enough; of the two that a recipe
gives, the second is not made.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from likewise.methods.base import Method
from likewise.methods.parts import full_precision, mlp, unit
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig, gather
from likewise.views import View


@full_precision
def instance_loss(
    z: Float[Tensor, "n d"],
    ids: Int[Tensor, " n"],
    bank: Float[Tensor, "m d"],
    rows: Int[Tensor, " r"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """The cross-entropy of each image's own row of the bank against all others, of which `rows` are a sample.

    Where `rows` lists every image once this is the softmax over the bank itself.
    """
    z = unit(z) / temperature
    own = (z * bank[ids]).sum(1, keepdim=True)
    others = (z @ bank[rows].T).masked_fill(rows == ids.unsqueeze(1), float("-inf"))
    others = others + math.log(len(bank) / len(rows))  # each drawn row stands for so many
    return F.cross_entropy(torch.cat([own, others], 1), torch.zeros_like(ids), reduction="none")


class NPID(Method):
    """One view "b c h w" -> encoder -> head -> a softmax over the bank; the bank follows by `bank_momentum`."""

    family = "contrastive"
    least_views = 1
    looks = True
    bank: Tensor

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        temperature: float = 0.1,
        bank_momentum: float = 0.5,
        n_negatives: int = 4096,
        hidden_dim: int = 512,
        output_dim: int = 128,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.temperature = encoder, views[:1], temperature
        self.bank_momentum, self.n_negatives = bank_momentum, n_negatives
        self.head = mlp(encoder.dim, hidden_dim, output_dim)
        self.register_buffer("bank", torch.zeros(data.n_images, output_dim))

    def look(self, batch: Batch) -> None:
        z = self.head(self.encoder(batch.views[0])).float()
        self.bank[gather(batch.ids.flatten())] = gather(unit(z))

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        z, ids, n = self.head(self.encoder(images)).float(), batch.ids.flatten(), len(self.bank)
        rows = torch.arange(n, device=ids.device)
        if n > self.n_negatives:
            rows = (batch.draws.step("negatives", self.n_negatives) * n).long()
        loss = instance_loss(z, ids, self.bank, rows, self.temperature)
        if self.training:
            ids, z = gather(ids), unit(gather(z.detach()))
            self.bank[ids] = unit(torch.lerp(z, self.bank[ids], self.bank_momentum))
        return Step({"instance": loss.mean()}, score=loss.detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
