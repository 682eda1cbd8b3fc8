"""data2vec (Baevski et al., 2022): from a masked image predict the averaged layers of a slow teacher that sees it all.

arXiv 2202.03555. Targets are the outputs of the teacher's last `n_layers` blocks (or all), each normalised, then
averaged: they speak of the whole image, not of one patch. Masked patches go through the encoder as mask tokens, in
blocks. Views are crops and flips without the paper's colour jitter.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from likewise.draws import Draws
from likewise.encoders.vit import ViT
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.masking import averaged, block_mask, hidden_error, only, vit
from likewise.methods.parts import Teacher, cosine_ramp, spread
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View


class Data2Vec(Method):
    """One view "b c h w"; student: masked image -> encoder -> linear; teacher: whole image -> its last layers."""

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
        hidden_share: float = 0.6,
        n_layers: int = 3,
        beta: float = 2.0,
        teacher_momentum: float = 0.99,
    ) -> None:
        super().__init__()
        if not 0 < hidden_share < 1:
            raise UsageError(f"hidden_share={hidden_share}: expected a number between 0 and 1")
        self.encoder, self.views, self.teacher_momentum = vit(encoder, "data2vec"), views, teacher_momentum
        self.hidden_share, self.n_layers, self.beta = hidden_share, n_layers, beta
        self.mask_token = nn.Parameter(torch.randn(encoder.dim) * 0.02)
        self.predictor = nn.Linear(encoder.dim, encoder.dim)
        self.teacher = Teacher(self.encoder, nn.Identity())

    def mask(self, images: Images, draws: Draws) -> Bool[Tensor, "b t"]:
        p = self.encoder.patch
        h, w = images.shape[2] // p, images.shape[3] // p
        share = torch.full((len(images),), max(self.hidden_share, 1 / (h * w)), device=images.device)
        return block_mask(draws, h, w, share)

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        mask = self.mask(images, batch.draws)
        with torch.no_grad():
            target = averaged(torch.stack(self.teacher.encoder.hidden(images, layers=self.n_layers))[:, :, 1:])
        predicted = self.predictor(self.encoder.tokens(images, replace=(mask, self.mask_token))[:, 1:])
        error = hidden_error(predicted, target, mask, self.beta)
        return Step({"prediction": error.mean()}, {"spread": spread(target.mean(1))}, error.detach())

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, nn.Identity(), cosine_ramp(self.teacher_momentum, 1.0, progress))

    def pictures(self, batch: Batch) -> dict[str, Images]:
        (images,) = batch.views
        return {"image": images, "masked": only(images, ~self.mask(images, batch.draws), self.encoder.patch)}


RECIPE = TrainConfig(
    epochs=200, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.05, betas=(0.9, 0.98), warmup=0.1
)
