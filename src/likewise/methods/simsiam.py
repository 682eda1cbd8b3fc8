"""SimSiam (Chen and He, 2020): predict one view from the other and stop the gradient: no negatives, no teacher.

arXiv 2011.10566. The predictor's learning rate stays at its height. The loss is 2 - 2 cos where the paper has -cos, the
same but for scale and shift. With more than two views each large one is predicted from every other.
"""

from collections.abc import Sequence
from typing import Any

import torch

from likewise.methods.base import Method
from likewise.methods.parts import cosine_distance, encode, mlp, pairs, spread
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig
from likewise.views import View


class SimSiam(Method):
    """Views -> encoder -> projector -> z -> a narrow predictor -> p; p1 meets z2 and p2 meets z1, both held still."""

    family = "distillation"
    multi_crop = True

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        hidden_dim: int = 1024,
        output_dim: int = 1024,
        bottleneck: int = 256,
    ) -> None:
        super().__init__()
        self.encoder, self.views = encoder, views
        self.projector = mlp(encoder.dim, hidden_dim, hidden_dim, output_dim, last_norm=True)
        self.predictor = mlp(output_dim, bottleneck, output_dim)

    def step(self, batch: Batch) -> Step:
        z = encode(lambda images: self.projector(self.encoder(images)), batch.views)
        p = [self.predictor(x) for x in z]
        met = [cosine_distance(p[j], z[i].detach()) for i, j in pairs(batch.views)]
        loss = torch.stack(met).mean(0)
        return Step({"distance": loss.mean()}, {"spread": spread(z[0])}, loss.detach())

    def param_groups(self) -> list[dict[str, Any]]:
        predictor = {id(p) for p in self.predictor.parameters()}
        groups = []
        for group in super().param_groups():
            kept = [p for p in group["params"] if id(p) not in predictor]
            steady = [p for p in group["params"] if id(p) in predictor]
            groups += [{**group, "params": kept}, {**group, "params": steady, "steady": True}]
        return groups


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
