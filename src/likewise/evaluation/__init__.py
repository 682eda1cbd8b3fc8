"""How good features are: one file per protocol, each from the embeddings of train and test to flat figures.

    evaluation(train: Embeddings, test: Embeddings, *, <options>) -> {"version": "knn-v1", "accuracy": 0.71, ...}

`PROBES` are those that need the encoder and images: (encoder, train, test, *, size, draws) -> figures.
"""

from collections.abc import Callable
from typing import Any

from likewise.evaluation.few_label import few_label
from likewise.evaluation.health import alignment, health
from likewise.evaluation.invariance import invariance
from likewise.evaluation.knn import knn
from likewise.evaluation.linear import linear
from likewise.evaluation.maps import map2d
from likewise.evaluation.svm import caltech101, cifar10, cifar10_400, stl10, svm
from likewise.evaluation.verdict import describe

EVALUATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "few-label": few_label,
    "health": health,
    "knn": knn,
    "linear": linear,
}
PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "caltech101": caltech101,
    "cifar10": cifar10,
    "cifar10-400": cifar10_400,
    "invariance": invariance,
    "stl10": stl10,
    "svm": svm,
}
LABEL_FREE = ("health", "invariance")  # all others need labels
WHOLE = ("caltech101", "cifar10", "cifar10-400", "stl10", "svm")  # probes that see whole images, larger than a model's

__all__ = [
    "EVALUATIONS",
    "LABEL_FREE",
    "PROBES",
    "WHOLE",
    "alignment",
    "describe",
    "few_label",
    "health",
    "invariance",
    "knn",
    "linear",
    "map2d",
    "svm",
]
