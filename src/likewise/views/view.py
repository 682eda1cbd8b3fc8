"""A view: what is done to an image before an encoder sees it. Its repr is the recipe."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.types import Images, Source
from likewise.views.colour import Colour
from likewise.views.geometry import Geometry, sample
from likewise.views.rows import parts


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
            draws = replace(draws.fixed(self.versions), scopes=("",))  # views alike share an image's fates
        maps = torch.eye(3, device=source.pixels.device).expand(len(source.pixels), 3, 3)
        for i, operation in enumerate(self.geometry):
            maps = maps @ operation(source.sizes, draws.child(f"geometry{i}"))
        if (
            not self.geometry
            and source.pixels.shape[2:] == (self.size,) * 2
            and bool((source.sizes == self.size).all())
        ):
            images = source.pixels / 255  # nothing to resample
        else:
            images = sample(source, maps, self.size, self.fill)
        made: dict[tuple, Tensor] = {}
        for rows in parts(len(images), images.shape[1] * self.size**2, images.device) if self.colour else []:
            part, some = images[rows], _Some(**vars(draws), rows=rows, made=made)
            for i, change in enumerate(self.colour):
                part = change(part, some.child(f"colour{i}"))
            images[rows] = part
        return images


@dataclass(frozen=True, kw_only=True)
class _Some(Draws):
    """The draws of some rows of a batch, made once for all of them: a small tensor costs as much as a large one."""

    rows: slice
    made: dict[tuple, Tensor]

    def bits(self, name: str) -> Int[Tensor, " n"]:
        return super().bits(name)[self.rows]

    def image(self, name: str, *shape: int) -> Float[Tensor, "n *shape"]:
        what = self.scopes, name, shape
        if what not in self.made:
            whole = Draws(self.seed, self.epoch, self.number, self.keys, self.scopes)
            self.made[what] = whole.image(name, *shape)
        return self.made[what][self.rows]
