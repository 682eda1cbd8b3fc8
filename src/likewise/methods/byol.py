"""BYOL (Grill et al., 2020): predict a slow teacher's view of the same image; no negatives.

arXiv 2006.07733. The teacher's momentum rises from `teacher_momentum` to 1 along a cosine. With more than two views the
teacher sees the large ones, and every other view predicts each of them.
"""

from collections.abc import Sequence

import torch

from likewise.methods.base import Method
from likewise.methods.parts import Teacher, cosine_distance, cosine_ramp, encode, large, mlp, pairs, spread
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig
from likewise.views import View


class BYOL(Method):
    """Student: encoder -> projector -> predictor; teacher: encoder -> projector; mean of 2 - 2 cos over both ways."""

    family = "distillation"
    default_views = "asymmetric"
    multi_crop = True

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
        p = encode(lambda images: self.predictor(self.projector(self.encoder(images))), batch.views)
        t = encode(self.teacher, large(batch.views))
        loss = torch.stack([cosine_distance(p[j], t[i]) for i, j in pairs(batch.views)]).mean(0)
        return Step({"distance": loss.mean()}, {"spread": spread(t[0])}, loss.detach())

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, cosine_ramp(self.teacher_momentum, 1.0, progress))


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
