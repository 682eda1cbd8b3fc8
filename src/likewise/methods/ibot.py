"""iBOT (Zhou et al., 2021): DINO, and what is hidden from the student it must tell as the slow teacher sees it.

arXiv 2111.07832. Images and patches share a head and its batch normalisation (see `likewise.methods.dino`). Half of the
large views have patches hidden, in blocks; the share is drawn between `least_hidden` and `most_hidden`. The image as a
whole is what the encoder gives out: its class token or, by default here, the mean of its patches. The centre of the
patches follows the hidden ones, as in DINOv2; the authors' code takes all.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from likewise.draws import Draws
from likewise.encoders.vit import ViT
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.dino import distilled
from likewise.methods.masking import block_mask, only, vit
from likewise.methods.parts import (
    Prototypes,
    Teacher,
    cosine_ramp,
    cross_entropy,
    encode,
    full_precision,
    large,
    mean_row,
    mlp,
    sharpness,
    spread,
)
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View


@full_precision
def told(
    student: Float[Tensor, "m k"], targets: Float[Tensor, "m k"], hidden: Bool[Tensor, "b t"], temperature: float
) -> Float[Tensor, " b"]:
    """The mean cross-entropy of each image's hidden patches (rows in the order of `hidden`); 0 if it has none."""
    error = cross_entropy(targets, student / temperature)
    image = hidden.nonzero()[:, 0]
    return error.new_zeros(len(hidden)).index_add(0, image, error) / hidden.sum(1).clamp(min=1)


class Seen(NamedTuple):
    """What student and teacher say of one batch: scores of whole views and of hidden patches, and whole features."""

    features: Float[Tensor, "g n d"]
    student: Float[Tensor, "v n k"]
    teacher: Float[Tensor, "g n k"]
    hidden: Bool[Tensor, "gn t"]
    student_patches: Float[Tensor, "m k"]
    teacher_patches: Float[Tensor, "m k"]


class IBOT(Method):
    """Student: views, the large ones with hidden patches -> ViT -> head; teacher: large views, whole."""

    family = "distillation"
    needs = ("a ViT encoder",)
    default_views = "multi-crop"
    multi_crop = True
    encoder: ViT
    centre: Tensor
    patch_centre: Tensor

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        least_hidden: float = 0.1,
        most_hidden: float = 0.5,
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
        if not 0 < least_hidden <= most_hidden < 1:
            raise UsageError(f"least_hidden={least_hidden}, most_hidden={most_hidden}: expected 0 < least <= most < 1")
        self.encoder, self.views, self.temperature = vit(encoder, "iBOT"), views, temperature
        self.share, self.sharp = (least_hidden, most_hidden), (teacher_temperature, final_teacher_temperature)
        self.teacher_momentum, self.centre_momentum = teacher_momentum, centre_momentum
        self.mask_token = nn.Parameter(torch.randn(encoder.dim) * 0.02)
        self.projector = mlp(encoder.dim, hidden_dim, hidden_dim, output_dim, last_norm=True)
        self.prototypes = Prototypes(output_dim, n_prototypes, thaw)
        self.teacher = Teacher(self.encoder, nn.Sequential(self.projector, self.prototypes))
        self.register_buffer("centre", torch.zeros(n_prototypes))
        self.register_buffer("patch_centre", torch.zeros(n_prototypes))

    def mask(self, images: Images, draws: Draws) -> Bool[Tensor, "b t"]:
        """Every other image, by chance, has patches hidden."""
        p, (low, high) = self.encoder.patch, self.share
        masked, share = draws.image("share", 2).unbind(1)
        share = torch.where(masked < 0.5, low + (high - low) * share, 0.0)
        return block_mask(draws, images.shape[2] // p, images.shape[3] // p, share)

    def see(self, batch: Batch) -> Seen:
        whole = large(batch.views)
        hidden = torch.cat([self.mask(view, batch.draws.child(f"mask{i}")) for i, view in enumerate(whole)])
        images, n = torch.cat(whole), len(whole)

        def scores(encoder: ViT, head: Callable[[Tensor], Tensor], **options: Any) -> tuple[Tensor, Tensor, Tensor]:
            tokens = encoder.tokens(images, **options)
            features = encoder.pooled(tokens)
            both = head(torch.cat([features, tokens[:, 1:][hidden]]))
            return features, both[: len(features)], both[len(features) :]

        def head(x: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
            return self.prototypes(self.projector(x), batch.progress)

        features, student, patches = scores(self.encoder, head, replace=(hidden, self.mask_token))
        small = encode(lambda view: head(self.encoder(view)), batch.views[n:])
        with torch.no_grad():
            _, teacher, taught_patches = scores(self.teacher.encoder, self.teacher.head)
        features, student = torch.stack(features.chunk(n)), torch.stack([*student.chunk(n), *small])
        return Seen(features, student, torch.stack(teacher.chunk(n)), hidden, patches, taught_patches)

    def step(self, batch: Batch) -> Step:
        seen, sharp = self.see(batch), sharpness(self.sharp, batch.progress)
        image = distilled(seen.student, seen.teacher, self.centre, self.temperature, sharp)
        targets = ((seen.teacher_patches - self.patch_centre) / sharp).softmax(1)
        patch = (
            told(seen.student_patches, targets, seen.hidden, self.temperature).reshape(len(seen.teacher), -1).mean(0)
        )
        if self.training:
            self.centre.lerp_(mean_row(seen.teacher.flatten(0, 1)), 1 - self.centre_momentum)
            self.patch_centre.lerp_(mean_row(seen.teacher_patches, self.patch_centre), 1 - self.centre_momentum)
        terms = {"images": image.mean(), "patches": patch.mean()}
        return Step(terms, {"spread": spread(seen.features[0])}, (image + patch).detach())

    def after_step(self, progress: float) -> None:
        momentum = cosine_ramp(self.teacher_momentum, 1.0, progress)
        self.teacher.follow(self.encoder, nn.Sequential(self.projector, self.prototypes), momentum)

    def pictures(self, batch: Batch) -> dict[str, Images]:
        view = batch.views[0]
        return {"view": view, "masked": only(view, ~self.mask(view, batch.draws.child("mask0")), self.encoder.patch)}


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.05, betas=(0.9, 0.98), warmup=0.1
)
