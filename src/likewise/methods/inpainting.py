"""Context encoder (Pathak et al., 2016): parts of an image are missing, and the network draws them.

arXiv 1604.07379. Blocks of a sixteenth to an eighth of the image, three tenths of it together, are filled with grey;
the loss is on them only. The paper's adversarial term, which makes drawings sharper, is left out.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.drawing import Decoder, shown, squared_error
from likewise.methods.masking import rectangles
from likewise.methods.parts import full_precision
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View

GREY = 0.5


@full_precision
def missing_error(drawn: Images, images: Images, missing: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
    """The mean squared error over the missing pixels of each image."""
    error = squared_error(drawn, images).mean(1, keepdim=True)
    return (error * missing).sum((1, 2, 3)) / missing.sum((1, 2, 3)).clamp(min=1)


class ContextEncoder(Method):
    """One view "b c h w" with grey blocks -> encoder -> decoder -> mean squared error on the blocks."""

    family = "pretext"
    default_views = "weak"

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        n_missing: int = 4,
        missing_area: tuple[float, float] = (0.0625, 0.125),
        drawing_width: int = 16,
    ) -> None:
        super().__init__()
        if n_missing < 1:
            raise UsageError(f"n_missing={n_missing}: expected at least 1")
        if not 0 < missing_area[0] <= missing_area[1] < 1:
            raise UsageError(f"missing_area={list(missing_area)}: expected two rising shares between 0 and 1")
        self.encoder, self.views, self.n_missing, self.missing_area = encoder, views, n_missing, missing_area
        self.decoder = Decoder(encoder.dim, data, drawing_width)

    def missing(self, images: Images, draws: Draws) -> Bool[Tensor, "b 1 h w"]:
        h, w = images.shape[2:]
        return rectangles(draws, h, w, self.n_missing, area=self.missing_area).any(1).unflatten(1, (1, h, w))

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        missing = self.missing(images, batch.draws)
        error = missing_error(self.decoder(self.encoder(torch.where(missing, GREY, images))), images, missing)
        return Step({"reconstruction": error.mean()}, score=error.detach())

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Images]:
        (images,) = batch.views
        missing = self.missing(images, batch.draws)
        holed = torch.where(missing, GREY, images)
        drawn = shown(self.decoder(self.encoder(holed)))
        return {"image": images, "missing": holed, "drawn": torch.where(missing, drawn, images)}


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
