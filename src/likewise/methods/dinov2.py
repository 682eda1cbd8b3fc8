"""DINOv2 (Oquab et al., 2023): iBOT, with classes used equally (Sinkhorn) and features spread apart (KoLeo).

arXiv 2304.07193. The recipe at small scale: images and patches share a head; there is no layer-wise decay of the rate,
no drop path and no finish at a higher resolution.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from likewise.methods.ibot import IBOT, told
from likewise.methods.parts import crossed, full_precision, sharpness, sinkhorn, spread, unit
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig, gather, rank
from likewise.views import View


@full_precision
def koleo(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """-log of the distance from each direction to the nearest other (Sablayrolles et al., 2018, arXiv 1806.03198)."""
    x = unit(x)
    everybody = gather(x)
    own = torch.arange(len(x), device=x.device) + rank() * len(x)
    nearest = (x.detach() @ everybody.detach().T).scatter(1, own.unsqueeze(1), -2.0).argmax(1)
    return -((x - everybody[nearest]).norm(dim=1) + 1e-8).log()


class DINOv2(IBOT):
    """As iBOT; the teacher's targets come from Sinkhorn's algorithm over the batch instead of from a centre."""

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        koleo_weight: float = 0.1,
        least_hidden: float = 0.1,
        most_hidden: float = 0.5,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        final_teacher_temperature: float = 0.07,
        teacher_momentum: float = 0.98,
        n_prototypes: int = 1024,
        thaw: float = 0.01,
        hidden_dim: int = 512,
        output_dim: int = 128,
    ) -> None:
        super().__init__(
            encoder,
            data,
            views=views,
            least_hidden=least_hidden,
            most_hidden=most_hidden,
            temperature=temperature,
            teacher_temperature=teacher_temperature,
            final_teacher_temperature=final_teacher_temperature,
            teacher_momentum=teacher_momentum,
            n_prototypes=n_prototypes,
            thaw=thaw,
            hidden_dim=hidden_dim,
            output_dim=output_dim,
        )
        self.koleo_weight = koleo_weight

    def step(self, batch: Batch) -> Step:
        seen, sharp = self.see(batch), sharpness(self.sharp, batch.progress)
        targets = sinkhorn(seen.teacher.flatten(0, 1), sharp).view_as(seen.teacher)
        image = crossed(targets, seen.student / self.temperature)
        patches = sinkhorn(seen.teacher_patches, sharp)
        patch = (
            told(seen.student_patches, patches, seen.hidden, self.temperature).reshape(len(seen.teacher), -1).mean(0)
        )
        apart = torch.stack([koleo(x).mean() for x in seen.features]).sum()
        terms = {"images": image.mean(), "patches": patch.mean(), "koleo": self.koleo_weight * apart}
        return Step(terms, {"spread": spread(seen.features[0])}, (image + patch).detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.05, betas=(0.9, 0.98), warmup=0.1
)
