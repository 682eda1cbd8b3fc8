"""SupCon (Khosla et al., 2020): all images of one class are each other's positives.

arXiv 2004.11362, the loss with the sum outside the logarithm. Images without a label, and all of them where there
are no labels, are a class of their own; then it is SimCLR. More than two views are brought together as there.
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
def supervised_contrast(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], labels: Int[Tensor, " n"], temperature: float
) -> Float[Tensor, " n"]:
    """The loss of each image: its views must find each view of its class among the 2n - 1 other views."""
    n, a, b = len(a), unit(a), unit(b)
    keys, classes = torch.cat([gather(a), gather(b)]), gather(labels).repeat(2)
    first = torch.arange(n, device=a.device) + rank() * n

    def rows(z: Float[Tensor, "r d"], itself: Int[Tensor, " r"], label: Int[Tensor, " r"]) -> Float[Tensor, " r"]:
        logits, itself = z @ keys.T, itself.unsqueeze(1)
        positive = (classes == label.unsqueeze(1)).float().scatter_(1, itself, 0)
        mean = (logits * positive).sum(1) / positive.sum(1)
        return logits.scatter(1, itself, float("-inf")).logsumexp(1) - mean

    views = torch.cat([a, b]) / temperature
    loss = in_blocks(rows, views, torch.cat([first, first + len(keys) // 2]), labels.repeat(2))
    return (loss[:n] + loss[n:]) / 2


class SupCon(Method):
    """Views "b c h w" -> encoder -> projector -> the supervised contrastive loss at `temperature`."""

    family = "contrastive"
    multi_crop = True
    needs = ("labels to differ from SimCLR",)
    labels: Tensor

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        labels: Int[Tensor, " n"] | None = None,
        temperature: float = 0.1,
        hidden_dim: int = 512,
        output_dim: int = 128,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.temperature = encoder, views, temperature
        self.projector = mlp(encoder.dim, hidden_dim, output_dim)
        alone = -1 - torch.arange(data.n_images)  # a class for each image, unlike any label
        self.register_buffer("labels", alone if labels is None else alone.where(labels < 0, labels), persistent=False)

    def step(self, batch: Batch) -> Step:
        z, labels = (
            encode(lambda images: self.projector(self.encoder(images)), batch.views),
            self.labels[batch.ids.flatten()],
        )
        met = [supervised_contrast(z[i], z[j], labels, self.temperature) for i, j in pairs(batch.views) if i < j]
        loss = torch.stack(met).mean(0)
        return Step({"contrast": loss.mean()}, score=loss.detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
