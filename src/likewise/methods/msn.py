"""MSN (Assran et al., 2022): a view with half its patches left out gets the prototypes that the whole view gets.

arXiv 2204.07141. Large views take turns as target; as anchors they lose a share `mask_ratio` of their patches, small
views none. The mean prediction is pushed to use all prototypes equally, and targets are sharpened; no centre is needed.
The authors' code balances the targets by Sinkhorn's algorithm too.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.encoders.vit import ViT
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.masking import only, vit
from likewise.methods.parts import Prototypes, Teacher, cosine_ramp, crossed, encode, full_precision, large, mlp, spread
from likewise.types import Batch, DataInfo, Encoder, Images, Scalar, Step, TrainConfig, gather
from likewise.views import View


@full_precision
def imbalance(logits: Float[Tensor, "n k"]) -> Scalar:
    """log k minus the entropy of the mean prediction: 0 when all prototypes are used equally, log k when one is."""
    mean = gather(logits.softmax(1).mean(0, keepdim=True)).mean(0)
    return math.log(len(mean)) + (mean * mean.clamp(min=1e-30).log()).sum()


@full_precision
def matched(
    anchors: Float[Tensor, "v n k"], targets: Float[Tensor, "g n k"], temperature: float, sharpening: float
) -> Float[Tensor, " n"]:
    """The loss of each image, from cosines with the prototypes; `sharpening` below 1 makes targets surer."""
    return crossed((targets / (temperature * sharpening)).softmax(2), anchors / temperature)


class MSN(Method):
    """Student: views, the large ones with patches left out -> ViT -> projector -> prototypes; teacher: large views."""

    family = "clustering"
    needs = ("a ViT encoder",)
    default_views = "multi-crop"
    multi_crop = True
    encoder: ViT

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        mask_ratio: float = 0.5,
        temperature: float = 0.1,
        sharpening: float = 0.25,
        balance_weight: float = 1.0,
        teacher_momentum: float = 0.99,
        n_prototypes: int = 512,
        hidden_dim: int = 512,
        output_dim: int = 128,
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise UsageError(f"mask_ratio={mask_ratio}: expected a number from 0 to below 1")
        self.encoder, self.views, self.mask_ratio = vit(encoder, "MSN"), views, mask_ratio
        self.temperature, self.sharpening, self.balance_weight = temperature, sharpening, balance_weight
        self.teacher_momentum = teacher_momentum
        self.projector = mlp(encoder.dim, hidden_dim, hidden_dim, output_dim)
        self.prototypes = Prototypes(output_dim, n_prototypes)
        self.teacher = Teacher(self.encoder, self.projector)

    def kept(self, batch: Batch, i: int) -> Int[Tensor, "b k"]:
        """The patches of large view i that the student sees."""
        t = (batch.views[i].shape[2] // self.encoder.patch) * (batch.views[i].shape[3] // self.encoder.patch)
        return batch.draws.image(f"mask{i}", t).argsort(1)[:, : max(1, round(t * (1 - self.mask_ratio)))]

    def step(self, batch: Batch) -> Step:
        whole = large(batch.views)
        n, keep = len(whole), torch.cat([self.kept(batch, i) for i in range(len(whole))])
        features = self.encoder.pooled(self.encoder.tokens(torch.cat(whole), keep=keep))
        z = [*self.projector(features).chunk(n)]
        z += encode(lambda images: self.projector(self.encoder(images)), batch.views[n:])
        anchors = torch.stack([self.prototypes(x) for x in z])
        with torch.no_grad():
            targets = torch.stack([self.prototypes(x) for x in encode(self.teacher, whole)])
        loss = matched(anchors, targets, self.temperature, self.sharpening)
        uneven = imbalance(anchors.flatten(0, 1) / self.temperature)
        terms = {"cross-entropy": loss.mean(), "imbalance": self.balance_weight * uneven}
        return Step(terms, {"spread": spread(z[0])}, loss.detach())

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, cosine_ramp(self.teacher_momentum, 1.0, progress))

    def pictures(self, batch: Batch) -> dict[str, Images]:
        view, keep = batch.views[0], self.kept(batch, 0)
        t = (view.shape[2] // self.encoder.patch) * (view.shape[3] // self.encoder.patch)
        seen = torch.zeros(len(view), t, dtype=torch.bool, device=view.device).scatter(1, keep, True)
        return {"view": view, "seen": only(view, seen, self.encoder.patch)}


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.05, betas=(0.9, 0.98), warmup=0.1
)
