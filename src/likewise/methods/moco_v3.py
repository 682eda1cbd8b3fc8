"""MoCo v3 (Chen et al., 2021): both views are predicted from each other; the batch's teacher keys are the negatives.

arXiv 2104.02057. No queue; the loss is scaled by twice the temperature, as in the paper. A ViT's patch projection
stays at its random start (`freeze_patches`), which keeps training from spiking. With more than two views the teacher
sees the large ones.
"""

from collections.abc import Sequence

import torch

from likewise.encoders.vit import ViT
from likewise.methods.base import Method
from likewise.methods.parts import Teacher, cosine_ramp, encode, info_nce, large, mlp, pairs, spread
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig
from likewise.views import View


class MoCoV3(Method):
    """Student: encoder -> projector -> predictor; teacher: encoder -> projector; InfoNCE both ways."""

    family = "contrastive"
    default_views = "asymmetric"
    multi_crop = True

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        temperature: float = 0.2,
        teacher_momentum: float = 0.99,
        freeze_patches: bool = True,
        hidden_dim: int = 1024,
        output_dim: int = 256,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.temperature = encoder, views, temperature
        self.teacher_momentum = teacher_momentum
        depth = 2 if isinstance(encoder, ViT) else 1  # hidden layers of the projector
        self.projector = mlp(encoder.dim, *[hidden_dim] * depth, output_dim, last_norm=True)
        self.predictor = mlp(output_dim, hidden_dim, output_dim, last_norm=True)
        self.teacher = Teacher(self.encoder, self.projector)
        if isinstance(encoder, ViT) and freeze_patches:
            encoder.embed.requires_grad_(False)

    def step(self, batch: Batch) -> Step:
        q = encode(lambda images: self.predictor(self.projector(self.encoder(images))), batch.views)
        k = encode(self.teacher, large(batch.views))
        met = [info_nce(q[j], k[i], self.temperature) for i, j in pairs(batch.views)]
        loss = 4 * self.temperature * torch.stack(met).mean(0)  # twice the temperature, and both ways
        return Step({"contrast": loss.mean()}, {"spread": spread(q[0])}, loss.detach())

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, cosine_ramp(self.teacher_momentum, 1.0, progress))


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
