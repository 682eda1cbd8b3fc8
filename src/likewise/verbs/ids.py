"""Ids of images as people hand them over: a selection, or a file that lists them."""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from likewise.errors import DataError, UsageError
from likewise.images.sources import read_csv
from likewise.types import Selection


def read_ids(path: Path, argument: str, n: int | None = None) -> Int[np.ndarray, " m"]:
    """The ids in a selection folder, a .csv with a column `id`, or a text file with one id a line, in that order.

    Raises UsageError, naming `argument`, for what is none of these, holds an id twice, or one that is not below `n`.
    """
    path = Path(path)
    if path.is_dir():
        ids = Selection.load(path).indices
    else:
        try:
            if path.suffix.lower() == ".csv":
                words = [row["id"] for row in read_csv(path, ("id",))]
            else:
                words = path.read_text(encoding="utf-8-sig").split()
            ids = np.array([int(word) for word in words], dtype=np.int64)
        except (OSError, UnicodeDecodeError, TypeError, ValueError, DataError):
            raise UsageError(
                f"{argument} {path}: expected a selection folder, a .csv with a column id, or one id a line"
            ) from None
    if len(np.unique(ids)) < len(ids) or (len(ids) and ids.min() < 0):
        raise UsageError(f"{argument} {path}: ids must be distinct and not below 0")
    if n is not None and len(ids) and ids.max() >= n:
        raise DataError(f"{argument} {path}: names image {ids.max()}, but the set has {n}")
    return ids
