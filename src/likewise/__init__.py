"""Image self-supervised learning and coreset search in one small tool.

The verbs are here: open_images, scan, pretrain, embed, evaluate, match, select, write_report, and load for what a run
has learned. Names are imported when they are first used, so that `import likewise` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from likewise.coresets import select
    from likewise.embedding import embed, load
    from likewise.images import ImageSet, open_images
    from likewise.report import write_report
    from likewise.types import Embeddings, Selection, TrainConfig
    from likewise.verbs.evaluate import evaluate
    from likewise.verbs.match import match
    from likewise.verbs.pretrain import pretrain
    from likewise.verbs.scan import scan

_HOME = {
    "Embeddings": "types",
    "ImageSet": "images",
    "Selection": "types",
    "TrainConfig": "types",
    "embed": "embedding",
    "evaluate": "verbs.evaluate",
    "load": "embedding",
    "match": "verbs.match",
    "open_images": "images",
    "pretrain": "verbs.pretrain",
    "scan": "verbs.scan",
    "select": "coresets",
    "write_report": "report",
}

__all__ = [
    "Embeddings",
    "ImageSet",
    "Selection",
    "TrainConfig",
    "embed",
    "evaluate",
    "load",
    "match",
    "open_images",
    "pretrain",
    "scan",
    "select",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'likewise' has no attribute {name!r}")
    value = getattr(import_module(f"likewise.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
