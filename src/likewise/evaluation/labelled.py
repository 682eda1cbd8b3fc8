"""What the supervised protocols share: finite features, labels that mean the same on both sides."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.errors import DataError, UsageError
from likewise.types import Embeddings

BLOCK = 1 << 16  # rows that are brought to float64 at once: never a second table of that size


class Labelled(NamedTuple):
    """The images of train and test that have a label, and the number of classes of both together."""

    x: Float[Tensor, "n d"]
    y: Int[Tensor, " n"]
    keys: Int[Tensor, " n"]
    x_test: Float[Tensor, "m d"]
    y_test: Int[Tensor, " m"]
    n_classes: int


def labelled(train: Embeddings, test: Embeddings) -> Labelled:
    """Both sides with one numbering of the classes: by name where they have names, else by number.

    Images without a label (-1) are left out. Raises UsageError where labels are missing or train has fewer than two
    classes, DataError where features are not finite, or the two sides differ in dimensions, or one alone has names.
    """
    if train.x.shape[1] != test.x.shape[1]:
        raise DataError(f"train has {train.x.shape[1]} dimensions and test {test.x.shape[1]}: not of one encoder")
    x, y = features(train, "train"), _labels(train, "train")
    x_test, y_test = features(test, "test"), _labels(test, "test")
    if (train.classes is None) != (test.classes is None):
        named, bare = ("train", "test") if test.classes is None else ("test", "train")
        raise DataError(
            f"classes: {named} has names of classes and {bare} none, so that nobody can tell which are which"
        )
    if train.classes is not None and test.classes is not None:
        number = {name: i for i, name in reversed([*enumerate(train.classes)])}  # the first of a name that comes twice
        new = dict.fromkeys(name for name in test.classes if name not in number)
        number |= {name: i for i, name in enumerate(new, len(train.classes))}
        y_test = np.where(y_test >= 0, np.array([number[name] for name in test.classes])[y_test], -1)
    known, n_known = y >= 0, len(np.unique(y[y >= 0]))
    if n_known < 2:
        raise UsageError(f"labels: the train images have {n_known} class; this protocol needs at least 2")
    known_test = y_test >= 0
    if not np.isin(y_test[known_test], y[known]).any():
        raise UsageError("labels: no class of the test images occurs among the train images")
    return Labelled(
        x[torch.from_numpy(known)],
        torch.from_numpy(y[known]),
        torch.from_numpy(np.array(train.keys, dtype=np.int64)[known]),
        x_test[torch.from_numpy(known_test)],
        torch.from_numpy(y_test[known_test]),
        int(max(y.max(), y_test.max())) + 1,
    )


def mean(x: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The mean of the rows, in float64."""
    return torch.stack([block.double().sum(0) for block in x.split(BLOCK)]).sum(0) / len(x)


def features(embeddings: Embeddings, side: str) -> Float[Tensor, "n d"]:
    """A copy of the features as float32, all finite, or a DataError that counts the rows that are not."""
    x = torch.from_numpy(np.array(embeddings.x, dtype=np.float32))
    if not len(x):
        raise DataError(f"{side}: there are no images")
    n_bad = int((~x.isfinite().all(1)).sum())
    if n_bad:
        raise DataError(f"{side}: the features of {n_bad} of {len(x)} images hold NaN or infinity")
    return x


def _labels(embeddings: Embeddings, side: str) -> np.ndarray:
    labels = embeddings.labels
    if labels is None or not (np.asarray(labels) >= 0).any():
        raise UsageError(
            f"labels: the {side} images have none, and this protocol needs them (--labels folders|FILE.csv)"
        )
    return np.array(labels, dtype=np.int64)
