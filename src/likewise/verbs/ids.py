"""Ids of images as people hand them over: a selection, or a file that lists them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from likewise.errors import DataError, UsageError
from likewise.images.sources import read_csv


def read_ids(path: Path, argument: str, n: int, paths: Sequence[str] | None = None) -> Int[np.ndarray, " m"]:
    """The ids in a selection folder, a .csv with a column `id`, or a text file with one id a line, in that order.

    `n` is the number of images there are, `paths` are theirs, where they have any. An image that is listed with its
    path is found by that, since ids shift when a file joins or leaves.

    Raises UsageError, naming `argument`, for what is none of these or holds an id twice, and DataError for an image
    that is not there.
    """
    path = Path(path)
    file = path / "selection.csv" if path.is_dir() else path
    names: list[str] = []
    try:
        if file.suffix.lower() == ".csv":
            rows = read_csv(file, ("id",))
            words, names = [row["id"] for row in rows], [row.get("path", "") for row in rows]
        else:
            words = file.read_text(encoding="utf-8-sig").split()
        ids = np.array([int(word) for word in words], dtype=np.int64)
    except (OSError, UnicodeDecodeError, ValueError, OverflowError, DataError):
        raise UsageError(
            f"{argument} {path}: expected a selection folder, a .csv with a column id, or one id a line"
        ) from None
    if paths is not None and all(names) and names:
        place = {name: i for i, name in enumerate(paths)}
        missing = next((name for name in names if name not in place), None)
        if missing is not None:
            raise DataError(
                f"{argument} {path}: names {missing}, which is not among the {n:,} images; expected paths of theirs, "
                "or ids alone"
            )
        where = [i if 0 <= i < n and paths[i] == name else place[name] for i, name in zip(ids, names, strict=True)]
        ids = np.array(where, dtype=np.int64)
    if len(np.unique(ids)) < len(ids) or (len(ids) and ids.min() < 0):
        raise UsageError(f"{argument} {path}: ids must be distinct and not below 0")
    if len(ids) and ids.max() >= n:
        raise DataError(f"{argument} {path}: names image {ids.max()}, but the set has {n}")
    return ids
