"""What several methods are built from: heads, teachers, and the two forms of loss that the field shares."""

import copy
import functools
import math
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from likewise.types import Crops, Images, Scalar, gather, rank

BLOCK = 256  # rows of a large matrix that are made at a time


def mlp(*widths: int, norm: bool = True, last_norm: bool = False) -> nn.Sequential:
    """Linear layers with batch normalisation and ReLU between them: `mlp(512, 2048, 128)` has two layers.

    Without `norm` there is ReLU alone; with `last_norm` the output is batch-normalised too, without a learned scale.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        layers.append(nn.Linear(before, after, bias=not last_norm if last else not norm))
        if not last:
            layers += [nn.BatchNorm1d(after), nn.ReLU(inplace=True)] if norm else [nn.ReLU(inplace=True)]
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


def encode(encoder: Callable[[Images], Tensor], views: Crops) -> list[Tensor]:
    """What an encoder makes of each view; neighbours of equal size (the two global crops, the local ones) go together.

    Batch normalisation then sees the global views in one batch and the local ones in another, as in SwAV and DINO; the
    authors of BYOL, MoCo v3, Barlow Twins and VICReg give each view a batch of its own.
    """
    made: list[Tensor] = []
    for _, alike in groupby(views, key=lambda view: view.shape):
        group = list(alike)
        made += encoder(torch.cat(group)).chunk(len(group))
    return made


def large(views: Crops) -> list[Tensor]:
    """The views of the first one's size: of a multi-crop, the global ones, which teachers and clusterings see."""
    return [view for view in views if view.shape == views[0].shape]


def pairs(views: Crops) -> list[tuple[int, int]]:
    """(i, j) for each large view i and each other view j, large or small, that must agree with it (SwAV, 2020)."""
    return [(i, j) for i in range(len(large(views))) for j in range(len(views)) if i != j]


def off_global(z: Float[Tensor, "v n d"], n_global: int) -> Float[Tensor, " n"]:
    """The squared distance of an image's views from the mean of its first `n_global`, averaged over views and numbers.

    Nothing is held still: the mean takes gradient too.
    """
    return (z - z[:n_global].mean(0)).square().mean((0, 2))


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute a loss in float32: autocast would bring even float32 matrices to bfloat16 before it multiplies them."""

    @functools.wraps(loss)
    def exact(*inputs: Any, **options: Any) -> Tensor:
        inputs = tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
        device = next(x.device.type for x in inputs if isinstance(x, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*inputs, **options)

    return exact


@full_precision
def cosine_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """2 - 2 cos(a, b): the squared distance of the directions."""
    return 2 - 2 * F.cosine_similarity(a, b, dim=1)


def unit(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length one."""
    return F.normalize(x, dim=1)


@full_precision
def spread(z: Float[Tensor, "n d"]) -> Scalar:
    """The deviation of unit rows per dimension, times the root of d: about 1 when healthy, 0 when collapsed."""
    return unit(z.detach()).std(0).mean() * math.sqrt(z.shape[1])


@full_precision
def info_nce(queries: Float[Tensor, "n d"], keys: Float[Tensor, "n d"], temperature: float) -> Float[Tensor, " n"]:
    """The cross-entropy of each query's own key among the keys of the whole batch (arXiv 1807.03748)."""
    own = torch.arange(len(queries), device=queries.device) + rank() * len(queries)
    logits = unit(queries) @ gather(unit(keys)).T / temperature
    return F.cross_entropy(logits, own, reduction="none")


def in_blocks(loss: Callable[..., Tensor], *rows: Tensor) -> Float[Tensor, " n"]:
    """`loss(*rows)`, one number a row, a block of rows at a time, for losses that compare each row with all others.

    The backward pass computes a block again, so that no n x n matrix is ever held: less memory, and less time too,
    because a block stays in the processor's cache.
    """
    made = [
        checkpoint(loss, *part, use_reentrant=False, preserve_rng_state=False)
        for part in zip(*(x.split(BLOCK) for x in rows), strict=True)
    ]
    return torch.cat(made)


@full_precision
def cross_entropy(targets: Float[Tensor, "n k"], logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """-sum_k targets_k log softmax(logits)_k of each row. Targets are probabilities and take no gradient."""
    return -(targets.detach() * logits.log_softmax(1)).sum(1)


@full_precision
def cosines(x: Float[Tensor, "n d"], directions: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    """The cosine of each row of `x` with each direction."""
    return unit(x) @ unit(directions).T


@full_precision
def crossed(targets: Float[Tensor, "g n k"], logits: Float[Tensor, "v n k"]) -> Float[Tensor, " n"]:
    """The cross-entropy of each view's prediction with each large view's target but its own, averaged over those pairs.

    The large views come first in `logits`. Targets are probabilities and take no gradient.
    """
    each = -torch.einsum("gnk,vnk->gvn", targets.detach(), logits.log_softmax(2))
    others = ~torch.eye(*each.shape[:2], dtype=torch.bool, device=each.device)
    return each[others].mean(0)


class Prototypes(nn.Module):
    """`n` learned directions; the output is an input's cosine with each.

    That is SwAV's layer of prototypes, renormalised after every step, and DINO's weight-normalised last layer. They
    learn from `thaw` on, a share of the training: until then the encoder must come to them.
    """

    def __init__(self, dim: int, n: int, thaw: float = 0.0) -> None:
        super().__init__()
        self.directions, self.thaw = nn.Parameter(unit(torch.randn(n, dim))), thaw

    def forward(self, x: Float[Tensor, "n d"], progress: float = 1.0) -> Float[Tensor, "n k"]:
        return cosines(x, self.directions if progress >= self.thaw else self.directions.detach())


@torch.no_grad()
@full_precision
def sinkhorn(scores: Float[Tensor, "n k"], epsilon: float, n_iterations: int = 3) -> Float[Tensor, "n k"]:
    """Probabilities near softmax(scores / epsilon) that use all columns equally (Cuturi, 2013; SwAV).

    Columns, over the rows of all processes, and rows are brought to equal sums in turn, rows last; by logarithms, which
    no small `epsilon` makes underflow.
    """
    log_q = scores / epsilon
    for _ in range(n_iterations):
        log_q = (log_q - gather(log_q.logsumexp(0, keepdim=True)).logsumexp(0)).log_softmax(1)
    return log_q.exp()


@torch.no_grad()
@full_precision
def mean_row(x: Float[Tensor, "n d"], empty: Float[Tensor, " d"] | None = None) -> Float[Tensor, " d"]:
    """The mean over the rows of all processes, which need not have equally many; `empty` if none has any."""
    sums = gather(torch.cat([x.sum(0), x.new_tensor([len(x)])]).unsqueeze(0)).sum(0)
    mean = sums[:-1] / sums[-1].clamp(min=1)
    return mean if empty is None else torch.where(sums[-1] > 0, mean, empty)


class Queue(nn.Module):
    """The newest `size` rows that were pushed, in no order."""

    kept: Tensor
    n_pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(size, dim))
        self.register_buffer("n_pushed", torch.zeros((), dtype=torch.int64))

    def rows(self) -> Float[Tensor, "n d"]:
        """What is there: fewer than `size` rows at first."""
        return self.kept[: min(int(self.n_pushed), len(self.kept))]

    @torch.no_grad()
    def push(self, x: Float[Tensor, "n d"]) -> None:
        """Put rows, of all processes, in the place of the oldest."""
        x = gather(x)[-len(self.kept) :] if len(self.kept) else x[:0]
        place = (self.n_pushed + torch.arange(len(x), device=x.device)) % max(1, len(self.kept))
        self.kept[place] = x.to(self.kept.dtype)
        self.n_pushed += len(x)


class Teacher(nn.Module):
    """A slow copy of an encoder and its head: it follows by exponential averages and is never trained."""

    encoder: Any  # a ViT can say more than `forward`
    head: Any

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = copy.deepcopy(encoder), copy.deepcopy(head)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Images) -> Float[Tensor, "b d"]:
        return self.head(self.encoder(images))

    @torch.no_grad()
    def follow(self, encoder: nn.Module, head: nn.Module, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, for parameters."""
        fast: list[Tensor] = [*encoder.parameters(), *head.parameters()]
        torch._foreach_lerp_(list(self.parameters()), fast, 1 - momentum)


def sharpness(temperatures: tuple[float, float], progress: float) -> float:
    """A teacher's temperature (Caron et al., 2021): it rises from the first to the second over 30 % of the training."""
    start, end = temperatures
    return start + (end - start) * min(1.0, progress / 0.3)


def cosine_ramp(start: float, end: float, progress: float) -> float:
    """From start to end along half a cosine, as training progresses from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
