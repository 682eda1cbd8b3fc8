"""Supervised (the frame of every table, 1986): cross-entropy on labels, to see what labels would have given.

Images without a label take part in the views and not in the loss.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.parts import encode
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig, gather, world
from likewise.views import View


class Supervised(Method):
    """One view "b c h w" -> encoder -> linear classifier -> cross-entropy."""

    family = "supervised"
    needs = ("labels",)
    default_views = "weak"
    multi_crop = True
    labels: Tensor

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        labels: Int[Tensor, " n"] | None = None,
        smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        if labels is None or int(labels.max()) < 1:
            raise UsageError("method supervised: needs labels of two classes or more; pass --labels folders or a CSV")
        self.encoder, self.views, self.smoothing = encoder, views, smoothing
        self.register_buffer("labels", labels, persistent=False)
        self.classifier = nn.Linear(encoder.dim, int(labels.max()) + 1)

    def step(self, batch: Batch) -> Step:
        labels = self.labels[batch.ids.flatten()].repeat(len(batch.views))
        logits = torch.cat(encode(lambda images: self.classifier(self.encoder(images)), batch.views)).float()
        known = labels >= 0
        n_known = gather(known.sum().unsqueeze(0)).sum().clamp(min=1) / world()  # as many weigh as much on each process
        loss = (
            F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=self.smoothing, reduction="sum") / n_known
        )
        right = (logits.argmax(1) == labels)[known].float().mean() if bool(known.any()) else loss.detach() * 0
        return Step({"cross-entropy": loss}, {"accuracy": right})


RECIPE = TrainConfig(
    epochs=50, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
