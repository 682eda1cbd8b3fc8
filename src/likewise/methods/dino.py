"""DINO (Caron et al., 2021): every crop predicts what a slow teacher sees in the large crops, as soft classes.

arXiv 2104.14294. The teacher's outputs are centred, so that no class takes all, and sharpened, so that they are not all
alike: together they keep from collapse. The head has batch normalisation, after its last layer too, unlike the paper's:
images then differ from the first step, where a short training would otherwise stay at equal classes for all (LOG.md).
Classes learn from `thaw` on.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise.methods.base import Method
from likewise.methods.parts import (
    Prototypes,
    Teacher,
    cosine_ramp,
    crossed,
    encode,
    full_precision,
    large,
    mean_row,
    mlp,
    sharpness,
    spread,
)
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig
from likewise.views import View


@full_precision
def distilled(
    student: Float[Tensor, "v n k"],
    teacher: Float[Tensor, "g n k"],
    centre: Float[Tensor, " k"],
    temperature: float,
    teacher_temperature: float,
) -> Float[Tensor, " n"]:
    """The loss of each image, from the scores of its views; the large ones, which the teacher sees too, come first."""
    return crossed(((teacher - centre) / teacher_temperature).softmax(2), student / temperature)


class DINO(Method):
    """Student and teacher: views -> encoder -> head -> cosines with K classes; cross-entropy of their softmaxes.

    The teacher's temperature rises from `teacher_temperature` to `final_teacher_temperature` over the first 30 %.
    """

    family = "distillation"
    default_views = "multi-crop"
    multi_crop = True
    centre: Tensor

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        final_teacher_temperature: float = 0.07,
        teacher_momentum: float = 0.98,
        centre_momentum: float = 0.9,
        n_prototypes: int = 1024,
        thaw: float = 0.01,
        hidden_dim: int = 512,
        output_dim: int = 128,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.temperature = encoder, views, temperature
        self.sharp = teacher_temperature, final_teacher_temperature
        self.teacher_momentum, self.centre_momentum = teacher_momentum, centre_momentum
        self.projector = mlp(encoder.dim, hidden_dim, hidden_dim, output_dim, last_norm=True)
        self.prototypes = Prototypes(output_dim, n_prototypes, thaw)
        self.teacher = Teacher(self.encoder, nn.Sequential(self.projector, self.prototypes))
        self.register_buffer("centre", torch.zeros(n_prototypes))

    def step(self, batch: Batch) -> Step:
        z = encode(lambda images: self.projector(self.encoder(images)), batch.views)
        scores = torch.stack([self.prototypes(x, batch.progress) for x in z])
        taught = torch.stack(encode(self.teacher, large(batch.views)))
        loss = distilled(scores, taught, self.centre, self.temperature, sharpness(self.sharp, batch.progress))
        if self.training:
            self.centre.lerp_(mean_row(taught.flatten(0, 1)), 1 - self.centre_momentum)
        return Step({"cross-entropy": loss.mean()}, {"spread": spread(z[0])}, loss.detach())

    def after_step(self, progress: float) -> None:
        momentum = cosine_ramp(self.teacher_momentum, 1.0, progress)
        self.teacher.follow(self.encoder, nn.Sequential(self.projector, self.prototypes), momentum)


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
