"""The contract of a method: it owns its views, its loss and its training defaults, and nothing else."""

import inspect
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor, nn

from likewise.draws import Draws
from likewise.encoders.vit import Block
from likewise.errors import UsageError
from likewise.types import Batch, Encoder, Images, Step, TrainConfig
from likewise.views import View


class Method(nn.Module):
    """One self-supervised method. A subclass sets `encoder` and `views` and writes `step`; the rest has defaults.

    Its constructor takes the encoder, a `DataInfo`, `views`, and its hyper-parameters as keywords with defaults;
    a keyword `labels` (one per image, -1 where unknown) is filled by `pretrain` when there are labels.
    Its file begins with one line, "Name (authors, year): the idea in a sentence.", and ends with `RECIPE`.
    """

    family: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()  # "a ViT encoder", "labels": for people, in `likewise list methods`
    default_views: ClassVar[str] = "strong"  # a name in `likewise.views.RECIPES`
    multi_crop: ClassVar[bool] = False  # takes any number of views, small ones last; else as many as its default views
    least_views: ClassVar[int] = 2  # where any number is taken, unless the default is one
    looks: ClassVar[bool] = False  # whether `look` is shown every image before the first epoch
    patches: ClassVar[int] = 0  # that `pretrain` draws from the images, unless asked; 0: it sees the images

    encoder: Encoder
    views: Sequence[View]

    def step(self, batch: Batch) -> Step:
        """The weighted terms of the loss on one batch; the loop sums them."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """What follows an update of the weights: teachers, prototypes."""

    def look(self, batch: Batch) -> None:
        """The first view of each image once, without gradient, before anything is learned: to fill a bank."""

    def begin_epoch(self, epoch: int, draws: Draws) -> None:
        """Before an epoch's first step, and not again when the epoch is resumed: fill banks, cluster them.

        `draws` are those of the whole set, image i in row i.
        """

    def order(self, epoch: int, draws: Draws) -> Int[Tensor, "m k"]:
        """The epoch's images in rows of ids that must meet in a batch. By default all once, in a keyed shuffle.

        A resumed epoch asks again: it must depend only on what `begin_epoch` left behind and on per-image draws.
        """
        return draws.bits("order").argsort().unsqueeze(1)

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameters for the optimiser; biases, norms and other vectors are not decayed.

        A group may have a `weight_decay` of its own, a `rate` that multiplies the learning rate, `steady`: True for a
        rate that neither warms up nor falls, and `inner`: True for the matrices inside a transformer (see `Muon`).
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        blocks = [part for part in self.modules() if isinstance(part, Block)]
        inner = {id(p) for block in blocks for p in block.parameters() if p.ndim == 2}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1 and id(p) not in inner]},
            {"params": [p for p in parameters if id(p) in inner], "inner": True},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def pictures(self, batch: Batch) -> dict[str, Images]:
        """Images worth looking at, by name: reconstructions, colourings, tiles."""
        return {}


def reads_labels(method: type[Method]) -> bool:
    """Whether it learns from labels where there are some."""
    return "labels" in inspect.signature(method).parameters


def recipe(method: type[Method]) -> TrainConfig:
    """The training defaults at the end of the method's file."""
    module = sys.modules[method.__module__]
    if not isinstance(getattr(module, "RECIPE", None), TrainConfig):
        raise UsageError(
            f"method {method.__name__}: {module.__name__} has no RECIPE; expected RECIPE = TrainConfig(...)"
        )
    return module.RECIPE


def title(method: type[Method]) -> str:
    """The first line of the method's file: "Name (authors, year): the idea in a sentence."."""
    return (sys.modules[method.__module__].__doc__ or "").strip().splitlines()[0]
