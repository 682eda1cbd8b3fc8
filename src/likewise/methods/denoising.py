"""Denoising autoencoder (Vincent et al., 2008): from an image of which a part was destroyed, draw the whole one.

ICML 2008. With `destroyed=0` and `noise=0` it is a plain autoencoder.
"""

from collections.abc import Sequence

import torch

from likewise.draws import Draws, normal
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.drawing import Decoder, shown, squared_error
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View


class Denoising(Method):
    """One view "b c h w", a share of its pixels black, or with noise -> encoder -> decoder -> mean squared error."""

    family = "generative"
    default_views = "weak"

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        destroyed: float = 0.3,
        noise: float = 0.0,
        drawing_width: int = 16,
    ) -> None:
        super().__init__()
        if not 0 <= destroyed < 1:
            raise UsageError(f"destroyed={destroyed}: expected a share from 0 to below 1")
        if noise < 0:
            raise UsageError(f"noise={noise}: expected a deviation of 0 or more")
        self.encoder, self.views, self.destroyed, self.noise = encoder, views, destroyed, noise
        self.decoder = Decoder(encoder.dim, data, drawing_width)

    def corrupt(self, images: Images, draws: Draws) -> Images:
        """Pixels go black by lot, all their channels together; then normal noise is added."""
        kept = draws.image("destroyed", 1, *images.shape[2:]) > self.destroyed
        images = images * kept
        return images + self.noise * normal(draws.image("noise", *images.shape[1:])) if self.noise else images

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        error = squared_error(self.decoder(self.encoder(self.corrupt(images, batch.draws))), images).flatten(1).mean(1)
        return Step({"reconstruction": error.mean()}, score=error.detach())

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Images]:
        (images,) = batch.views
        corrupted = self.corrupt(images, batch.draws)
        drawn = self.decoder(self.encoder(corrupted))
        return {"image": images, "corrupted": shown(corrupted), "drawn": shown(drawn)}


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
