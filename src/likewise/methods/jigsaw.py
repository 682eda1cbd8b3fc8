"""Jigsaw (Noroozi and Favaro, 2016): nine tiles of an image are shuffled, and the network says how.

arXiv 1603.09246. A tile is encoded alone, so that the encoder learns parts and the head how they lie. Shuffles are of a
fixed list, far from each other. Tiles lie anywhere in their cells and each is brought to the same mean and deviation,
as in the paper, so that neither edges nor brightness solve the puzzle.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.parts import mlp
from likewise.methods.tiles import N_TILES, evened, tile_size, tiles, together
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View


@functools.lru_cache
def permutations(n: int) -> Int[np.ndarray, "n 9"]:
    """`n` orders of nine tiles, each as far from those before it as can be: the most places differ from the nearest
    of them, then from all together, then the first in the alphabet. Each takes some 6 ms to find."""
    every = np.array(list(itertools.permutations(range(N_TILES))), dtype=np.int8)
    columns, chosen = every.T.copy(), [0]  # a column at a time is twelve times as fast
    nearest, total = np.full(len(every), N_TILES, dtype=np.int64), np.zeros(len(every), dtype=np.int64)
    for _ in range(n - 1):
        distance = sum((column != column[chosen[-1]]).view(np.int8) for column in columns)
        nearest, total = np.minimum(nearest, distance), total + distance
        chosen.append(int((nearest * (N_TILES * n) + total).argmax()))
    return every[chosen].astype(np.int64)


class Jigsaw(Method):
    """One view "b c h w" -> nine tiles, shuffled -> encoder -> a layer a tile -> head -> which shuffle it was."""

    family = "pretext"
    default_views = "weak"
    orders: Tensor

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        n_permutations: int = 100,
        tile_dim: int = 64,
        hidden_dim: int = 512,
    ) -> None:
        super().__init__()
        if not 2 <= n_permutations <= 10_000:
            raise UsageError(f"n_permutations={n_permutations}: expected from 2 to 10,000")
        self.encoder, self.views, self.tile = encoder, views, tile_size(encoder, data)
        self.enter = mlp(encoder.dim, tile_dim, last_norm=True)
        self.head = mlp(N_TILES * tile_dim, hidden_dim, n_permutations)
        self.register_buffer("orders", torch.tensor(permutations(n_permutations)), persistent=False)

    def shuffle(self, batch: Batch) -> tuple[Tensor, Int[Tensor, " b"]]:
        """Tiles "b 9 c s s" as they lie after the shuffle, and the number of the shuffle."""
        (images,) = batch.views
        which = (batch.draws.image("shuffle") * len(self.orders)).long()
        cut = evened(tiles(images, self.tile, batch.draws))
        return cut[torch.arange(len(cut), device=cut.device).unsqueeze(1), self.orders[which]], which

    def step(self, batch: Batch) -> Step:
        cut, which = self.shuffle(batch)
        parts = self.enter(self.encoder(cut.flatten(0, 1))).relu().unflatten(0, (len(cut), N_TILES))
        logits = self.head(parts.flatten(1))
        loss = F.cross_entropy(logits.float(), which, reduction="none")
        return Step(
            {"cross-entropy": loss.mean()}, {"error": (logits.argmax(1) != which).float().mean()}, loss.detach()
        )

    def pictures(self, batch: Batch) -> dict[str, Images]:
        return {
            "tiles": together(tiles(batch.views[0], self.tile, batch.draws)),
            "shuffled": together(self.shuffle(batch)[0]),
        }


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
