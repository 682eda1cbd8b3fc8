"""Linear support vector machines on the pooled maps of all layers, as in Exemplar-CNN (Dosovitskiy et al., 2014).

Protocol svm-v1: every layer of the encoder runs over the whole image, resized to about `side` x `side` pixels with its
aspect kept (bilinear, antialiased); the maximum of each map in each cell of the grids of `pyramid` ((2,): four
quadrants; (1, 2, 4): a three-level pyramid); features standardised by the train images; one-versus-all SVMs with
squared hinge and l2 penalty, the bias included: the objective of scikit-learn's LinearSVC, for all classes at once by
L-BFGS in float32, much faster than liblinear on features that are dense. C is the best of eight values in
cross-validation on the first draw's training images, the smaller among equals, and kept for the other draws (three
folds by the images' keys; of more than 10,000 images, one fold of a fifth). An encoder without `dense` gives its
features as they are, of images squeezed to `size` x `size`, the side it looks at.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.evaluation.labelled import Labelled, labelled
from likewise.evaluation.linear import standardise
from likewise.images import ImageSet, stl10_folds
from likewise.progress import bar
from likewise.types import Embeddings, Encoder, Images, in_eval_mode

C = tuple(10 ** (-5.5 + i / 2) for i in range(8))  # from strong to weak: each solution starts the next
N_FOLDS, MANY = 3, 10_000
AT_ONCE = 2**20  # pixels that go through the encoder together
MAX_ITERATIONS, MAX_IN_SEARCH = 200, 50  # of L-BFGS; the search for C compares solutions that are nearly there


def svm(
    encoder: Encoder,
    train: ImageSet,
    test: ImageSet,
    *,
    size: int,
    draws: Draws,
    side: int | None = None,
    pyramid: tuple[int, ...] = (2,),
    per_class: int | None = None,
    n_draws: int = 1,
    device: str = "cpu",
    precision: str = "fp32",
) -> dict[str, Any]:
    """SVMs on the maxima of all layers' maps in four quadrants: any labelled images, as large as they are.

    `accuracy` on test, with all of train, or its mean and `spread` over `n_draws` of `per_class` images each. `side` in
    pixels; None: the median short side of the training images as they are kept.
    """
    if per_class is None and n_draws != 1:
        raise UsageError(f"n_draws={n_draws}: draws are of so many images of each class; give per_class too")
    if side is not None and side < 1:
        raise UsageError(f"side={side}: expected at least 1 pixel")
    folds = None if per_class is None else balanced(train, per_class, n_draws, draws)
    side = _side(encoder, side or int(np.median(_sizes(train).min(1))), size)
    return {"version": "svm-v1", **judge(encoder, train, test, side, pyramid, folds, draws, device, precision)}


def stl10(
    encoder: Encoder,
    train: ImageSet,
    test: ImageSet,
    *,
    size: int,
    draws: Draws,
    device: str = "cpu",
    precision: str = "fp32",
) -> dict[str, Any]:
    """STL-10: an SVM for each of the ten predefined folds of 1,000 images, mean and spread on the 8,000 test images."""
    if train.name not in ("stl10", "stl10:train"):
        raise UsageError(f"protocol stl10: its folds are those of stl10:train, not of {train.name}; expected svm there")
    figures = judge(encoder, train, test, _side(encoder, 96, size), (2,), stl10_folds(), draws, device, precision)
    return {"version": "stl10-v1", **figures}


def cifar10(
    encoder: Encoder,
    train: ImageSet,
    test: ImageSet,
    *,
    size: int,
    draws: Draws,
    device: str = "cpu",
    precision: str = "fp32",
) -> dict[str, Any]:
    """CIFAR-10 as in Exemplar-CNN: images at 64 pixels, four quadrants, one SVM on all training images."""
    side = _side(encoder, 64, size)
    return {"version": "cifar10-v1", **judge(encoder, train, test, side, (2,), None, draws, device, precision)}


def cifar10_400(
    encoder: Encoder,
    train: ImageSet,
    test: ImageSet,
    *,
    size: int,
    draws: Draws,
    per_class: int = 400,
    n_draws: int = 10,
    device: str = "cpu",
    precision: str = "fp32",
) -> dict[str, Any]:
    """CIFAR-10(400): images at 64 pixels, four quadrants, ten draws of 400 training images a class, mean and spread."""
    folds, side = balanced(train, per_class, n_draws, draws), _side(encoder, 64, size)
    return {"version": "cifar10-400-v1", **judge(encoder, train, test, side, (2,), folds, draws, device, precision)}


def caltech101(
    encoder: Encoder,
    train: ImageSet,
    test: ImageSet,
    *,
    size: int,
    draws: Draws,
    per_class: int = 30,
    n_draws: int = 10,
    device: str = "cpu",
    precision: str = "fp32",
) -> dict[str, Any]:
    """Caltech-101: about 150 pixels, a pyramid of 1 + 4 + 16 cells, ten draws of 30 training images a class.

    `accuracy` is the mean over classes, on at most 50 test images of each. Of train images that are no more than one
    draw there is one draw.
    """
    folds = balanced(train, per_class, n_draws, draws)
    if len(folds[0]) == len(train):
        folds = folds[:1]
    (tested,) = balanced(test, 50, 1, draws, fewer=True)
    side, test = _side(encoder, 150, size), test.subset(tested)
    figures = judge(encoder, train, test, side, (1, 2, 4), folds, draws, device, precision, by_class=True)
    return {"version": "caltech101-v1", **figures}


def balanced(
    images: ImageSet, per_class: int, n_draws: int, draws: Draws, *, fewer: bool = False
) -> list[Int[np.ndarray, " _"]]:
    """Ids of `per_class` images of each class, drawn by their keys; of smaller classes all, if `fewer` are allowed."""
    if per_class < 1 or n_draws < 1:
        raise UsageError(f"per_class={per_class}, n_draws={n_draws}: both must be at least 1")
    labels = _labels(images)
    counts = np.bincount(labels[labels >= 0])
    if not fewer and counts[counts > 0].min(initial=per_class) < per_class:
        raise UsageError(
            f"per_class={per_class}: the smallest class of {images.name} has {counts[counts > 0].min()} images"
        )
    found = []
    for draw in range(n_draws):
        mine = Draws(draws.seed, draw, 0, torch.from_numpy(images.keys)).child("svm")
        order = mine.bits("train").argsort(stable=True).numpy()
        order = order[labels[order] >= 0]
        places = np.zeros(len(order), np.int64)
        for label in np.unique(labels[order]):
            rows = labels[order] == label
            places[rows] = np.arange(rows.sum())
        found.append(np.sort(order[places < per_class]))
    return found


def judge(
    encoder: Encoder,
    train: ImageSet,
    test: ImageSet,
    side: int,
    pyramid: Sequence[int],
    folds: Sequence[Int[np.ndarray, " _"]] | None,
    draws: Draws,
    device: str = "cpu",
    precision: str = "fp32",
    *,
    by_class: bool = False,
) -> dict[str, Any]:
    """Features of the images that any fold needs, then an SVM for each fold (ids of `train`; None: all labelled)."""
    folds = [np.flatnonzero(_labels(train) >= 0)] if folds is None else folds
    test = test.subset(_labels(test) >= 0)
    needed = np.unique(np.concatenate(list(folds)))
    pair = []
    for images in (train.subset(needed), test):
        x = pooled(encoder, images, side, pyramid, device=device, precision=precision)
        pair.append(Embeddings(x, images.keys, images.paths, images.labels, images.classes))
    rows = [np.searchsorted(needed, fold) for fold in folds]
    return over_folds(pair[0], pair[1], rows, seed=draws.seed, by_class=by_class)


def over_folds(
    train: Embeddings,
    test: Embeddings,
    folds: Sequence[Int[np.ndarray, " _"]],
    *,
    seed: int = 0,
    by_class: bool = False,
) -> dict[str, Any]:
    """The same on features: an SVM on each fold's rows of `train`, its figures on `test`."""
    accuracies, c = [], None
    for fold in folds:
        data = standardise(labelled(train.rows(fold), test))
        c = choose_c(data, seed) if c is None else c
        weights = fit_svm(data.x, data.y, data.n_classes, c)
        right = (scores(weights, data.x_test).argmax(1) == data.y_test).double()
        if by_class:
            right = torch.stack([right[data.y_test == label].mean() for label in data.y_test.unique()])
        accuracies.append(float(right.mean()))
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    figures = {"c": c, "dim": train.x.shape[1], "draws": len(folds), "labels": len(folds[0]), "test": len(test)}
    return {"accuracy": float(np.mean(accuracies)), "spread": spread, **figures}


def choose_c(data: Labelled, seed: int) -> float:
    """The smallest C that is best on held-out folds of the training rows; the search ends when two more are worse."""
    order = Draws(seed, epoch=0, number=0, keys=data.keys).bits("svm/validation").argsort(stable=True)
    parts = list(order.chunk(N_FOLDS)) if len(order) <= MANY else [order[: len(order) // 5]]
    right = torch.zeros(len(C))
    starts: list[Tensor | None] = [None] * len(parts)
    for i, c in enumerate(C):
        for fold, held_out in enumerate(parts):
            rest = torch.ones(len(order), dtype=torch.bool)
            rest[held_out] = False
            weights = fit_svm(data.x[rest], data.y[rest], data.n_classes, c, starts[fold], MAX_IN_SEARCH)
            starts[fold] = weights
            right[i] += (scores(weights, data.x[held_out]).argmax(1) == data.y[held_out]).sum()
        if i >= 2 and right[i] < right[: i - 1].max() and right[i - 1] < right[: i - 1].max():
            break
    return C[int(right.argmax())]


def fit_svm(
    x: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    n_classes: int,
    c: float,
    start: Float[Tensor, "e k"] | None = None,
    iterations: int = MAX_ITERATIONS,
) -> Float[Tensor, "e k"]:
    """Weights of an SVM per class, the last row their biases: |w|^2 / 2 + c sum of max(0, 1 - y f(x))^2 is least."""
    signs = F.one_hot(y, n_classes).to(x.dtype) * 2 - 1
    weights = torch.zeros(x.shape[1] + 1, n_classes) if start is None else start.clone()
    weights.requires_grad_()
    share = 1 / (c * len(x))  # divided by c n, so that gradients are about 1 whatever the size
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=iterations,
        history_size=10,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        hinge = F.relu(1 - signs * scores(weights, x))
        value = hinge.square().sum() / len(x) + share / 2 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


def scores(weights: Float[Tensor, "e k"], x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
    return torch.addmm(weights[-1], x, weights[:-1])


def pooled(
    encoder: Encoder,
    images: ImageSet,
    side: int,
    pyramid: Sequence[int],
    *,
    device: str = "cpu",
    precision: str = "fp32",
) -> Float[np.ndarray, "n d"]:
    """The maxima of all maps of all layers in the cells of each grid, row i for image i."""
    encoder = encoder.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    sizes = _sizes(images)
    table: np.ndarray | None = None
    done, cell = 0, getattr(encoder, "patch", 1)  # a ViT takes whole patches
    with in_eval_mode(encoder), torch.inference_mode(), bar("pool", len(images)) as progress:
        for height, width in np.unique(sizes, axis=0).tolist():
            size = side, side
            if hasattr(encoder, "dense"):
                scale = side / (height * width) ** 0.5
                size = max(1, round(height * scale / cell)) * cell, max(1, round(width * scale / cell)) * cell
            alike = np.flatnonzero((sizes == (height, width)).all(1))
            for ids in np.array_split(alike, min(len(alike), -(-len(alike) * size[0] * size[1] // AT_ONCE))):
                x = images.source(ids).pixels.to(device).float() / 255
                if size != (height, width):
                    x = F.interpolate(x, size, mode="bilinear", antialias=True)
                with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                    rows = _maxima(encoder, x.clamp(0, 1), pyramid).float().cpu().numpy()
                table = np.empty((len(images), rows.shape[1]), np.float32) if table is None else table
                table[ids] = rows
                done += len(ids)
                progress.update(done)
    return np.zeros((0, 0), np.float32) if table is None else table


def _maxima(encoder: Encoder, images: Images, pyramid: Sequence[int]) -> Float[Tensor, "b d"]:
    if not hasattr(encoder, "dense"):
        return encoder(images)
    maps: list[Tensor] = encoder.dense(images)  # type: ignore[operator]
    return torch.cat([F.adaptive_max_pool2d(m, grid).flatten(1) for m in maps for grid in pyramid], 1)


def _labels(images: ImageSet) -> Int[np.ndarray, " n"]:
    if images.labels is None or not (images.labels >= 0).any():
        raise UsageError(f"labels: {images.name} has none, and this protocol needs them (--labels folders|FILE.csv)")
    return images.labels


def _sizes(images: ImageSet) -> Int[np.ndarray, "n 2"]:
    """Height and width of each image as it is kept, in pixels."""
    return images.store.shapes[images.rows, 1:]


def _side(encoder: Encoder, side: int, size: int) -> int:
    return side if hasattr(encoder, "dense") else size
