"""SimMIM (Xie et al., 2021): squares of an image are hidden, and one linear layer makes their pixels of the tokens.

arXiv 2111.09886. Hidden patches go through the encoder as mask tokens, there is no decoder, and the loss is the
absolute error on what is hidden, of pixels normalised as the encoder's input is.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from likewise.draws import Draws
from likewise.encoders.vit import ViT
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.masking import hidden_error, only, vit, whole
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View


class SimMIM(Method):
    """One view "b c h w", a share of its squares replaced by a mask token -> encoder -> linear -> pixels of those."""

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
        hidden_side: int = 2,
    ) -> None:
        super().__init__()
        if not 0 < hidden_share < 1:
            raise UsageError(f"hidden_share={hidden_share}: expected a number between 0 and 1")
        self.encoder, self.views, self.hidden_share = vit(encoder, "SimMIM"), views, hidden_share
        if not 1 <= hidden_side < self.encoder.grid:
            raise UsageError(
                f"hidden_side={hidden_side}: expected from 1 to {self.encoder.grid - 1} patches, as an image has "
                f"{self.encoder.grid} a side"
            )
        self.side = hidden_side
        self.mask_token = nn.Parameter(torch.randn(encoder.dim) * 0.02)
        self.draw = nn.Linear(encoder.dim, data.channels * self.encoder.patch**2)

    def hidden(self, images: Images, draws: Draws) -> Bool[Tensor, "b t"]:
        """Squares of `hidden_side` patches a side, some of them but not all; those at the rim may be cut."""
        h, w = images.shape[2] // self.encoder.patch, images.shape[3] // self.encoder.patch
        down, across = math.ceil(h / self.side), math.ceil(w / self.side)
        n = min(max(1, round(self.hidden_share * down * across)), down * across - 1)
        squares = draws.image("hidden", down * across).argsort(1).argsort(1) < n
        spread = squares.unflatten(1, (down, across)).repeat_interleave(self.side, 1).repeat_interleave(self.side, 2)
        return spread[:, :h, :w].flatten(1)

    def drawn(self, images: Images, hidden: Bool[Tensor, "b t"]) -> Float[Tensor, "b t p"]:
        return self.draw(self.encoder.tokens(images, replace=(hidden, self.mask_token))[:, 1:])

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        hidden = self.hidden(images, batch.draws)
        patches = self.encoder.patches(self.encoder.normalise(images))
        error = hidden_error(self.drawn(images, hidden), patches, hidden, beta=0.0)
        return Step({"reconstruction": error.mean()}, score=error.detach())

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Images]:
        (images,) = batch.views
        hidden, normalise = self.hidden(images, batch.draws), self.encoder.normalise
        patches = torch.where(
            hidden.unsqueeze(2), self.drawn(images, hidden).float(), self.encoder.patches(normalise(images))
        )
        rebuilt = whole(patches, images, self.encoder.patch) * normalise.std.reshape(-1, 1, 1)
        rebuilt = (rebuilt + normalise.mean.reshape(-1, 1, 1)).clamp(0, 1)
        return {"image": images, "masked": only(images, ~hidden, self.encoder.patch), "rebuilt": rebuilt}


RECIPE = TrainConfig(
    epochs=200, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.05, betas=(0.9, 0.98), warmup=0.1
)
