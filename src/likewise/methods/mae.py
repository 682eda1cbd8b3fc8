"""MAE (He et al., 2021): hide three quarters of the patches, encode the rest, rebuild the hidden pixels.

arXiv 2111.06377. The target is each patch's pixels, brought to mean 0 and deviation 1; the loss is on hidden patches
only. Positions are computed, not learned (see `likewise.encoders.vit`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.encoders.vit import ViT
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.masking import Predictor, vit, whole, width_of_heads
from likewise.methods.parts import full_precision
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View


@full_precision
def rebuilt_error(
    drawn: Float[Tensor, "b t p"], patches: Float[Tensor, "b t p"], hidden: Int[Tensor, "b m"]
) -> Float[Tensor, " b"]:
    """The mean squared error on an image's hidden patches, the pixels of each brought to mean 0 and deviation 1."""
    target = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + 1e-6).sqrt()
    return (drawn - target).square().mean(2).gather(1, hidden).mean(1)


class MAE(Method):
    """One view "b c h w" -> patches; a share `mask_ratio` is hidden; decoder -> mean squared error on those."""

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
        mask_ratio: float = 0.75,
        decoder_width: int = 64,
        decoder_depth: int = 2,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise UsageError(f"mask_ratio={mask_ratio}: expected a number between 0 and 1")
        self.encoder, self.views, self.mask_ratio = vit(encoder, "MAE"), views, mask_ratio
        n_pixels = data.channels * self.encoder.patch**2
        if n_pixels < 2:
            raise UsageError("patch=1: MAE brings each patch to deviation 1, and a grey one of one pixel has none")
        width = width_of_heads("decoder_width", decoder_width)
        self.decoder = Predictor(encoder.dim, width, decoder_depth, n_pixels)

    def rebuild(self, images: Images, noise: Float[Tensor, "b t"]) -> tuple[Float[Tensor, "b t p"], Int[Tensor, "b m"]]:
        """All patches as the decoder draws them, and which were hidden. `noise` decides what is kept."""
        t = noise.shape[1]
        shuffled = noise.argsort(1)
        n_kept = min(max(1, round(t * (1 - self.mask_ratio))), t - 1)
        kept, hidden = shuffled[:, :n_kept], shuffled[:, n_kept:]
        grid = images.shape[2] // self.encoder.patch, images.shape[3] // self.encoder.patch
        drawn = self.decoder(self.encoder.tokens(images, keep=kept), shuffled, grid)
        return drawn, hidden

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        patches = self.encoder.patches(images)
        noise = batch.draws.image("mask", patches.shape[1])
        drawn, hidden = self.rebuild(images, noise)
        error = rebuilt_error(drawn, patches, hidden)
        return Step({"reconstruction": error.mean()}, score=error.detach())

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Images]:
        (images,) = batch.views
        patches = self.encoder.patches(images)
        drawn, hidden = self.rebuild(images, batch.draws.image("mask", patches.shape[1]))
        drawn = drawn.float() * (patches.var(2, keepdim=True) + 1e-6).sqrt() + patches.mean(2, keepdim=True)
        index = hidden.unsqueeze(2).expand(-1, -1, patches.shape[2])
        masked = patches.scatter(1, index, 0.5)
        rebuilt = patches.scatter(1, index, drawn.gather(1, index))
        masked, rebuilt = (whole(x, images, self.encoder.patch).clamp(0, 1) for x in (masked, rebuilt))
        return {"image": images, "masked": masked, "rebuilt": rebuilt}


RECIPE = TrainConfig(
    epochs=200, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.05, betas=(0.9, 0.98), warmup=0.1
)
