"""BYOL (Grill et al., 2020): predict a slow teacher's view of the same image; no negatives.

arXiv 2006.07733. The teacher's momentum rises from `teacher_momentum` to 1 along a cosine.
"""

from collections.abc import Sequence

import torch

from likewise.methods.base import Method
from likewise.methods.parts import Teacher, cosine_distance, cosine_ramp, mlp, spread
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig
from likewise.views import View


class BYOL(Method):
    """Student: encoder -> projector -> predictor; teacher: encoder -> projector; mean of 2 - 2 cos over both ways."""

    family = "distillation"
    default_views = "asymmetric"

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        teacher_momentum: float = 0.99,
        hidden_dim: int = 1024,
        output_dim: int = 256,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.teacher_momentum = encoder, views, teacher_momentum
        self.projector = mlp(encoder.dim, hidden_dim, output_dim)
        self.predictor = mlp(output_dim, hidden_dim, output_dim)
        self.teacher = Teacher(self.encoder, self.projector)

    def step(self, batch: Batch) -> Step:
        images = torch.cat(list(batch.views))
        z = self.projector(self.encoder(images))
        p1, p2 = self.predictor(z).chunk(2)
        t1, t2 = self.teacher(images).chunk(2)
        loss = (cosine_distance(p1, t2) + cosine_distance(p2, t1)) / 2
        return Step({"distance": loss.mean()}, {"spread": spread(z)}, loss.detach())

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, cosine_ramp(self.teacher_momentum, 1.0, progress))


RECIPE = TrainConfig(epochs=100, batch_size=256, optimizer="adamw", lr=2e-3, weight_decay=1e-4)
