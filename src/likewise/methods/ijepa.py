"""I-JEPA (Assran et al., 2023): from the visible part of an image predict what a slow teacher says of hidden blocks.

arXiv 2301.08243. Features are predicted, not pixels, and no colour jitter is needed. `n_targets` blocks are hidden; of
the rest a share of all patches is seen, `context_share`, the same number for every image (where less is left, hidden
patches are given back). All blocks are predicted at once, and the class token is seen too. Targets are averaged over
the teacher's last `n_layers` blocks (or all), as in data2vec; the paper's are those of the last.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from likewise.draws import Draws
from likewise.encoders.vit import ViT
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.masking import Predictor, averaged, hidden_error, only, rectangles, vit, width_of_heads
from likewise.methods.parts import Teacher, cosine_ramp, spread
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View


class IJEPA(Method):
    """One view "b c h w"; student: visible patches -> encoder -> predictor; teacher: all patches -> encoder."""

    family = "masked image modelling"
    needs = ("a ViT encoder",)
    default_views = "weak"
    encoder: ViT

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        n_targets: int = 4,
        context_share: float = 0.4,
        n_layers: int = 3,
        teacher_momentum: float = 0.996,
        predictor_width: int = 64,
        predictor_depth: int = 2,
    ) -> None:
        super().__init__()
        if not 0 < context_share < 1:
            raise UsageError(f"context_share={context_share}: expected a number between 0 and 1")
        self.encoder, self.views, self.teacher_momentum = vit(encoder, "I-JEPA"), views, teacher_momentum
        self.n_targets, self.context_share, self.n_layers = n_targets, context_share, n_layers
        self.predictor = Predictor(
            encoder.dim, width_of_heads("predictor_width", predictor_width), predictor_depth, encoder.dim
        )
        self.teacher = Teacher(self.encoder, nn.Identity())

    def masks(self, draws: Draws, h: int, w: int) -> tuple[Int[Tensor, "b t"], int, Bool[Tensor, "b t"]]:
        """The patches in an order in which those that are seen come first, how many they are, and the hidden ones."""
        covered = rectangles(draws, h, w, self.n_targets, area=(0.15, 0.2)).any(1)
        shuffled = (covered + draws.image("context", h * w)).argsort(1)
        n_seen = min(h * w - 1, max(1, round(self.context_share * h * w)))
        return shuffled, n_seen, covered.scatter(1, shuffled[:, :n_seen], False)

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        grid = images.shape[2] // self.encoder.patch, images.shape[3] // self.encoder.patch
        shuffled, n_seen, hidden = self.masks(batch.draws, *grid)
        with torch.no_grad():
            target = averaged(torch.stack(self.teacher.encoder.hidden(images, layers=self.n_layers))[:, :, 1:])
        predicted = self.predictor(self.encoder.tokens(images, keep=shuffled[:, :n_seen]), shuffled, grid)
        error = hidden_error(predicted, target, hidden)
        return Step({"prediction": error.mean()}, {"spread": spread(target.mean(1))}, error.detach())

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, nn.Identity(), cosine_ramp(self.teacher_momentum, 1.0, progress))

    def pictures(self, batch: Batch) -> dict[str, Images]:
        (images,) = batch.views
        p = self.encoder.patch
        shuffled, n_seen, hidden = self.masks(batch.draws, images.shape[2] // p, images.shape[3] // p)
        seen = torch.zeros_like(hidden).scatter(1, shuffled[:, :n_seen], True)
        return {"image": images, "seen": only(images, seen, p), "to predict": only(images, hidden, p)}


RECIPE = TrainConfig(
    epochs=200, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.05, betas=(0.9, 0.98), warmup=0.1
)
