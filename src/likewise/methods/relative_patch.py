"""Relative patch (Doersch et al., 2015): given the middle tile of an image and another, tell where the other lies.

arXiv 1505.05192. All eight pairs of an image are in one batch; the paper draws one. Against solutions that need no
understanding tiles lie anywhere in their cells, which are larger than they, so that few edges meet, and colours are
dropped: of each tile one channel is kept and the others become noise, since lenses shift colours towards the rim.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from likewise.draws import Draws, normal
from likewise.methods.base import Method
from likewise.methods.parts import mlp
from likewise.methods.tiles import N_TILES, Tiles, tile_size, tiles, together
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View

MIDDLE = N_TILES // 2


def without_colour(cut: Tiles, draws: Draws) -> Tiles:
    """One channel of each tile, by lot, and in the others noise around its mean, a hundredth as strong as it varies."""
    kept = (draws.image("channel", N_TILES) * cut.shape[2]).long()[..., None, None, None]
    channel = cut.gather(2, kept.expand(-1, -1, 1, *cut.shape[3:]))
    noise = normal(draws.image("noise", *cut.shape[1:]))
    other = channel.mean((3, 4), keepdim=True) + 0.01 * channel.std((3, 4), keepdim=True) * noise
    itself = torch.arange(cut.shape[2], device=cut.device).reshape(-1, 1, 1) == kept
    return torch.where(itself, cut, other.clamp(0, 1))


class RelativePatch(Method):
    """One view "b c h w" -> nine tiles -> encoder -> (middle, other) -> head -> which of the eight places."""

    family = "pretext"
    default_views = "weak"

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        drop_colours: bool = True,
        hidden_dim: int = 512,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.tile = encoder, views, tile_size(encoder, data)
        self.drop_colours = drop_colours
        self.head = mlp(2 * encoder.dim, hidden_dim, hidden_dim, N_TILES - 1)

    def cut(self, batch: Batch) -> Tiles:
        (images,) = batch.views
        cut = tiles(images, self.tile, batch.draws)
        return without_colour(cut, batch.draws) if self.drop_colours else cut

    def step(self, batch: Batch) -> Step:
        parts = self.encoder(self.cut(batch).flatten(0, 1)).unflatten(0, (-1, N_TILES))
        middle = parts[:, MIDDLE : MIDDLE + 1].expand(-1, N_TILES - 1, -1)
        others = torch.cat([parts[:, :MIDDLE], parts[:, MIDDLE + 1 :]], 1)
        logits = self.head(torch.cat([middle, others], 2).flatten(0, 1)).float()
        places = torch.arange(N_TILES - 1, device=logits.device).repeat(len(parts))
        loss = F.cross_entropy(logits, places, reduction="none").unflatten(0, (len(parts), -1)).mean(1)
        return Step(
            {"cross-entropy": loss.mean()}, {"error": (logits.argmax(1) != places).float().mean()}, loss.detach()
        )

    def pictures(self, batch: Batch) -> dict[str, Images]:
        return {"view": batch.views[0], "tiles": together(self.cut(batch))}


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
