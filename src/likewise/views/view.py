"""A view: what is done to an image before an encoder sees it. Its repr is the recipe."""

from dataclasses import dataclass, replace

import torch

from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.types import Images, Source
from likewise.views.colour import Colour
from likewise.views.geometry import Geometry, Maps, sample

CHUNK = 2**18  # values that are prepared together: on a CPU they stay in its cache


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

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"size={self.size}: a view needs at least 1 pixel a side")
        if self.fill not in ("border", "zeros"):
            raise UsageError(f"fill={self.fill!r}: expected 'border' or 'zeros'")
        if self.versions < 0:
            raise UsageError(f"versions={self.versions}: expected 0 (fresh every epoch) or more")

    def __call__(self, source: Source, draws: Draws) -> Images:
        if self.versions:
            draws = draws.fixed(self.versions)
        b, c, height, width = source.pixels.shape
        maps = torch.eye(3, device=source.pixels.device).expand(b, 3, 3)
        for i, operation in enumerate(self.geometry):
            maps = maps @ operation(source.sizes, draws.child(f"geometry{i}"))
        images = torch.empty(b, c, self.size, self.size, device=source.pixels.device)
        chunk = max(1, CHUNK // (c * max(height * width, self.size**2)))
        for rows in map(slice, range(0, b, chunk), range(chunk, b + chunk, chunk)):
            part = Source(source.pixels[rows], source.sizes[rows])
            images[rows] = self._look(part, maps[rows], replace(draws, keys=draws.keys[rows]))
        return images

    def _look(self, source: Source, maps: Maps, draws: Draws) -> Images:
        images = sample(source, maps, self.size, self.fill)
        for i, change in enumerate(self.colour):
            images = change(images, draws.child(f"colour{i}"))
        return images
