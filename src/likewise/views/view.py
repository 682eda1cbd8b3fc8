"""A view: what is done to an image before an encoder sees it. Its repr is the recipe."""

from dataclasses import dataclass, replace

import torch

from likewise.draws import Draws
from likewise.types import Images, Source
from likewise.views.colour import Colour
from likewise.views.geometry import Geometry, sample

CHUNK = 64  # images that are prepared together on a CPU: their planes stay in its cache


@dataclass(frozen=True)
class View:
    """Geometry, composed into one map and sampled once, then colour operations in the order given.

    Without geometry a view is the largest centred square, resized to `size`: what evaluation uses.
    `versions`, when positive, gives each image that many fates in all, instead of fresh ones every epoch.

    >>> import torch
    >>> from likewise.views import Flip
    >>> source = Source(torch.full((2, 3, 8, 10), 51, dtype=torch.uint8), torch.tensor([[8, 10], [8, 10]]))
    >>> draws = Draws(seed=0, epoch=0, number=0, keys=torch.tensor([1, 2]))
    >>> View(4, geometry=(Flip(),))(source, draws).unique()
    tensor([0.2000])
    """

    size: int
    geometry: tuple[Geometry, ...] = ()
    colour: tuple[Colour, ...] = ()
    fill: str = "border"  # what lies outside the image: border | zeros
    versions: int = 0

    def __call__(self, source: Source, draws: Draws) -> Images:
        if self.versions:
            draws = draws.fixed(self.versions)
        n = len(source.pixels)
        chunk = CHUNK if source.pixels.device.type == "cpu" else n
        parts = []
        for start in range(0, n, chunk):
            rows = slice(start, start + chunk)
            part = Source(source.pixels[rows], source.sizes[rows])
            parts.append(self._view(part, replace(draws, keys=draws.keys[rows])))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _view(self, source: Source, draws: Draws) -> Images:
        maps = torch.eye(3, device=source.pixels.device).expand(len(source.pixels), 3, 3)
        for i, operation in enumerate(self.geometry):
            maps = maps @ operation(source.sizes, draws.child(f"geometry{i}"))
        images = sample(source, maps, self.size, self.fill)
        for i, change in enumerate(self.colour):
            images = change(images, draws.child(f"colour{i}"))
        return images
