"""RotNet (Gidaris et al., 2018): an image is turned by 0, 90, 180 or 270 degrees, and the network says by how much.

arXiv 1803.07728. All four turns of an image are in one batch. To name a turn one must know what is shown and how it
usually stands. The head has a hidden layer, so that the features need not be made for the pretext alone.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from likewise.methods.base import Method
from likewise.methods.parts import encode, full_precision, mlp
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View

TURNS = 4


def turned(images: Images) -> Float[Tensor, "tb c h w"]:
    """All images as they are, then all turned by 90 degrees anticlockwise, by 180, by 270. They must be square."""
    return torch.cat([torch.rot90(images, turn, (2, 3)) for turn in range(TURNS)])


@full_precision
def told_turns(logits: Float[Tensor, "tb t"]) -> Float[Tensor, " b"]:
    """The cross-entropy of an image's turns, averaged over the four; rows in the order of `turned`."""
    turns = torch.arange(TURNS, device=logits.device).repeat_interleave(len(logits) // TURNS)
    return F.cross_entropy(logits, turns, reduction="none").unflatten(0, (TURNS, -1)).mean(0)


class RotNet(Method):
    """Views "b c h h" -> four turns of each -> encoder -> head -> cross-entropy over the turns."""

    family = "pretext"
    default_views = "weak"
    multi_crop = True
    least_views = 1

    def __init__(self, encoder: Encoder, data: DataInfo, *, views: Sequence[View], hidden_dim: int = 512) -> None:
        super().__init__()
        self.encoder, self.views = encoder, views
        self.head = mlp(encoder.dim, hidden_dim, TURNS)

    def step(self, batch: Batch) -> Step:
        made = encode(lambda images: self.head(self.encoder(images)), [turned(view) for view in batch.views])
        loss = torch.stack([told_turns(logits) for logits in made]).mean(0)
        turns = torch.arange(TURNS, device=loss.device).unsqueeze(1)
        wrong = [logits.argmax(1).unflatten(0, (TURNS, -1)) != turns for logits in made]
        error = torch.stack(wrong).float().mean()
        return Step({"cross-entropy": loss.mean()}, {"error": error}, loss.detach())

    def pictures(self, batch: Batch) -> dict[str, Images]:
        view = batch.views[0]
        return {f"turned by {90 * turn}": torch.rot90(view, turn, (2, 3)) for turn in range(TURNS)}


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
