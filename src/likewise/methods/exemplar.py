"""Exemplar-CNN (Dosovitskiy et al., 2014): every image is a class of its own, to be told from any of its transforms.

arXiv 1406.6909. The images are seed patches (`likewise.images.patches`); a softmax over N surrogate classes follows the
encoder. Departures: the per-pixel mean is learned as training sees it, and taken off only in training, since a network
that runs over whole images has no positions; no validation error is looked at, since the loop promises bits for a
recipe (`reproduce exemplar` lets the rate fall to a third at fixed places, `schedule="thirds"`). Transforms are fresh
every epoch, so that the `error` of a step is that of transforms never seen, though with dropout, which adds to it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.parts import encode
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig, gather
from likewise.views import View


def decompose(logits: Float[Tensor, "a b c"], classes: Int[Tensor, " b"]) -> tuple[Float[Tensor, " b"], ...]:
    """Cross-entropy of a transforms of each of b seeds, averaged over the transforms, in two parts that add up to it.

    The first is a logistic regression on the seed's mean features (the softmax layer is affine, so that its logits are
    the mean logits). The second is how much the logits' normaliser varies over the transforms: never negative, and zero
    if and only if transforms change a seed's logits by constants alone.
    """
    mean = logits.mean(0)
    logistic = F.cross_entropy(mean, classes, reduction="none")
    return logistic, logits.logsumexp(2).mean(0) - mean.logsumexp(1)


class Exemplar(Method):
    """Views of seeds "b c h w" -> encoder -> dropout -> softmax over the seeds -> cross-entropy.

    `merged` gives the surrogate class of each image, by id, where it is not its own (see `merge`; -1: left out).
    With `first_classes` training starts on so many seeds, twice as many every `grow_epochs` epochs; epochs grow alike.
    """

    family = "pretext"
    default_views = "exemplar"
    multi_crop = True
    patches = 8_000
    active: Tensor
    surrogates: Tensor
    position_mean: Tensor
    n_averaged: Tensor

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        dropout: float = 0.5,
        first_classes: int | None = None,
        grow_epochs: int = 10,
        pixel_mean: bool = True,
        merged: Int[Tensor, " n"] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout={dropout}: expected a number from 0 to below 1")
        if first_classes is not None and first_classes < 2:
            raise UsageError(f"first_classes={first_classes}: expected at least 2")
        if grow_epochs < 1:
            raise UsageError(f"grow_epochs={grow_epochs}: expected at least 1")
        if merged is not None and len(merged) != data.n_images:
            raise UsageError(f"merged: {len(merged)} classes for {data.n_images} images; expected one per image")
        if merged is not None and int(merged.max()) < 1:
            raise UsageError("merged: has no two classes; expected their numbers, -1 where a seed belongs to none")
        surrogates = torch.arange(data.n_images) if merged is None else merged.to(torch.int64)
        self.encoder, self.views, self.dropout, self.pixel_mean = encoder, views, dropout, pixel_mean
        self.first_classes, self.grow_epochs = first_classes, grow_epochs
        self.classifier = nn.Linear(encoder.dim, int(surrogates.max()) + 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self.register_buffer("surrogates", surrogates)
        self.register_buffer("active", torch.ones(self.classifier.out_features, dtype=torch.bool))
        self.register_buffer("position_mean", torch.zeros(data.channels, views[0].size, views[0].size))
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))

    def step(self, batch: Batch) -> Step:
        ids = batch.ids.flatten()
        classes = self.surrogates[ids]
        features = torch.cat(encode(lambda images: self.encoder(self.centred(images)), batch.views))
        if self.training and self.dropout:
            kept = batch.draws.image("dropout", len(batch.views), self.encoder.dim).transpose(0, 1).flatten(0, 1)
            features = features * (kept > self.dropout) / (1 - self.dropout)
        logits = self.classifier(features).float()
        if not bool(self.active.all()):
            logits = logits.masked_fill(~self.active, float("-inf"))
        loss = F.cross_entropy(logits, classes.repeat(len(batch.views)), reduction="none")
        loss = loss.unflatten(0, (len(batch.views), -1)).mean(0)
        with torch.no_grad():
            logits = logits.detach().unflatten(0, (len(batch.views), -1))
            logistic, invariance = decompose(logits, classes)
            error = (logits.argmax(2) != classes).float().mean()
        shown = {"logistic": logistic.mean(), "invariance": invariance.mean(), "error": error}
        return Step({"cross-entropy": loss.mean()}, shown, loss.detach())

    def centred(self, images: Images) -> Images:
        """What is usual at each position, beyond the mean of its channel, taken off; training averages it."""
        if not self.pixel_mean or images.shape[1:] != self.position_mean.shape:
            return images
        if self.training:
            mean = gather(images.detach().mean(0, keepdim=True)).mean(0)
            self.n_averaged += 1
            self.position_mean += (mean - mean.mean((1, 2), keepdim=True) - self.position_mean) / self.n_averaged
        return images - self.position_mean.clone()  # a later view of the step moves it

    def n_active(self, epoch: int) -> int:
        """How many classes take part in an epoch."""
        n = self.classifier.out_features
        return n if self.first_classes is None else min(n, self.first_classes * 2 ** min(epoch // self.grow_epochs, 40))

    def begin_epoch(self, epoch: int, draws: Draws) -> None:
        self.active.copy_(self._ranks(draws) < self.n_active(epoch))

    def order(self, epoch: int, draws: Draws) -> Int[Tensor, "m k"]:
        """The seeds of the classes that take part, in a keyed shuffle."""
        order = draws.bits("order").argsort()
        if self.first_classes is None and not bool((self.surrogates < 0).any()):
            return order.unsqueeze(1)
        surrogates = self.surrogates.to(order.device)[order]
        active = self._ranks(draws) < self.n_active(epoch)
        return order[(surrogates >= 0) & active[surrogates]].unsqueeze(1)

    def _ranks(self, draws: Draws) -> Int[Tensor, " c"]:
        """The place of each class in the order in which they join: that of the first of its seeds in a shuffle."""
        bits = replace(draws, epoch=-1).bits("class")
        surrogates = self.surrogates.to(bits.device)
        first = torch.full((self.classifier.out_features,), torch.iinfo(torch.int64).max, device=bits.device)
        first = first.scatter_reduce(0, surrogates.clamp(min=0), torch.where(surrogates >= 0, bits, first[0]), "amin")
        return first.argsort(stable=True).argsort(stable=True)


def merge(features: Float[np.ndarray, "n d"], n_classes: int, *, drop: float = 0.1, seed: int = 0) -> Int[Tensor, " n"]:
    """Surrogate classes from what a trained encoder makes of seeds: those it cannot tell apart become one class.

    k-means on features of length one (the paper clusters too); the seeds of the loosest clusters, up to a share `drop`
    of all, belong to no class (-1). For the keyword `merged` of the method, with which training starts again.
    """
    from sklearn.cluster import KMeans

    if not 2 <= n_classes <= len(features):
        raise UsageError(f"n_classes={n_classes}: expected from 2 to the number of seeds, {len(features)}")
    if not 0 <= drop < 1:
        raise UsageError(f"drop={drop}: expected at least 0 and less than 1")
    x = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    found = KMeans(n_classes, n_init=1, max_iter=50, random_state=seed).fit(x)
    sizes = np.bincount(found.labels_, minlength=n_classes)
    spread = np.bincount(found.labels_, ((x - found.cluster_centers_[found.labels_]) ** 2).sum(1), n_classes)
    loosest = np.argsort(-spread / np.maximum(sizes, 1), kind="stable")
    dropped = loosest[sizes[loosest].cumsum() <= drop * len(x)]
    kept = np.setdiff1d(np.flatnonzero(sizes), dropped)
    number = np.full(n_classes, -1)
    number[kept] = np.arange(len(kept))
    return torch.from_numpy(number[found.labels_].astype(np.int64))


RECIPE = TrainConfig(
    epochs=100, batch_size=128, optimizer="muon", lr=0.02, weight_decay=0.0, betas=(0.9, 0.98), warmup=0.05
)
