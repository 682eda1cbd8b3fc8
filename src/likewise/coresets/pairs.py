"""Pairs of a candidate and an image, as one list after the other: those more alike than a threshold of the image."""

import numpy as np
import torch
from jaxtyping import Float, Int

from likewise.coresets.blocks import Rows, rounding

Ids = Int[np.ndarray, " m"]


class Pairs:
    """Of each candidate the images more similar to it than `floor` of the image, by unit rows.

    Similarities are in float32: off by at most `error`, within which of the floor no pair is missed.
    """

    def __init__(self, rows: Rows, floor: Float[np.ndarray, " n"]) -> None:
        self.error = rounding(rows.x.shape[1])
        n = len(rows)
        bars = torch.from_numpy((floor - self.error).astype(np.float32)).to(rows.x.device)
        counts, images, similarity = [], [], []
        for _, block in rows.products(rows.single(slice(None))):
            places, values = _above(block, bars)
            rows_at = np.searchsorted(places, np.arange(len(block) + 1) * n)
            counts.append(np.diff(rows_at))
            images.append((places - np.repeat(np.arange(len(block)) * n, counts[-1])).astype(np.int32))
            similarity.append(values)
        self.starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        self.images, self.similarity = np.concatenate(images), np.concatenate(similarity)

    def places(self, ids: Ids) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
        """Where the lists of some candidates are, one after the other, and whose each place is (0, 1, ...)."""
        counts = self.starts[ids + 1] - self.starts[ids]
        which = np.repeat(np.arange(len(ids)), counts)
        return np.arange(len(which)) + (self.starts[ids] - (np.cumsum(counts) - counts))[which], which

    def rises(self, ids: Ids, best: Float[np.ndarray, " n"]) -> tuple[Float[np.ndarray, " m"], Int[np.ndarray, " m"]]:
        """What each candidate has above `best`, summed over its images, and how many images that may be."""
        flat, which = self.places(ids)
        rises = self.similarity[flat] - best[self.images[flat]]
        some = rises > -self.error
        which, rises = which[some], rises[some]
        sums = np.bincount(which, weights=np.maximum(rises, 0), minlength=len(ids))
        return sums, np.bincount(which, minlength=len(ids))

    def keep(self, floor: Float[np.ndarray, " n"]) -> None:
        """Drop the pairs that are no longer above the floor."""
        kept = np.flatnonzero(self.similarity > (floor - self.error).astype(np.float32)[self.images])
        self.starts = np.searchsorted(kept, self.starts)
        self.images, self.similarity = self.images[kept], self.similarity[kept]


def _above(block: torch.Tensor, bars: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Where in the block, row by row, numbers are above the bar of their column, and these numbers."""
    if block.device.type == "cpu":  # numpy compares and finds several times faster
        places = np.flatnonzero(block.numpy() > bars.numpy())
        return places, block.numpy().reshape(-1)[places]
    found = (block > bars).flatten().nonzero()[:, 0]
    return found.cpu().numpy(), block.flatten()[found].cpu().numpy()
