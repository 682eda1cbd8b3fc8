"""Labels are never guessed: they come from folders, a .csv or an array, when asked for."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from likewise.errors import DataError, UsageError
from likewise.images.sources import read_csv
from likewise.progress import say

MOST = 1_000_000  # classes, named by numbers: more are ids, and no classes
Labels = tuple[Int[np.ndarray, " n"], list[str]]


def read_labels(labels: Any, paths: Sequence[str]) -> Labels:
    """(labels, classes) for images with these paths, -1 where unknown.

    `labels` is "folders" (the first folder below the root), a .csv with the columns path and label, or an array of
    integers, one per image.
    """
    if isinstance(labels, str) and labels == "folders":
        return _from_folders(paths)
    if isinstance(labels, str | os.PathLike):
        if Path(labels).suffix.lower() != ".csv":
            raise UsageError(f"labels={labels}: expected folders, or a .csv with the columns path and label")
        return _from_csv(Path(labels), paths)
    try:
        values = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)
    except ValueError:  # lists of several lengths
        raise UsageError(f"labels: not all of one shape; expected {len(paths)} integers, one per image") from None
    if values.shape != (len(paths),) or not np.issubdtype(values.dtype, np.integer):
        raise UsageError(f"labels: shape {values.shape}, {values.dtype}; expected {len(paths)} integers, one per image")
    return from_numbers(values, "labels")


def from_numbers(values: Integer[np.ndarray, " n"], what: str) -> Labels:
    """Numbers of classes, -1 where unknown, and their names, which are these numbers."""
    n_classes = int(values.max()) + 1 if len(values) else 0
    if len(values) and values.min() < -1:
        raise UsageError(f"{what}: hold {values.min()}; expected numbers of classes, and -1 where one is unknown")
    if n_classes > MOST:
        raise UsageError(f"{what}: go up to {n_classes - 1}; expected numbers of classes, from 0 to {MOST - 1} at most")
    return values.astype(np.int64), [str(i) for i in range(n_classes)]


def from_names(names: Sequence[str]) -> Labels:
    """Class names, one per image ("" where unknown), as numbers in sorted order: 2 before 10 where all are numbers."""
    known = set(names) - {""}
    numbers = all(name.isdecimal() for name in known)
    classes = sorted(known, key=lambda name: (int(name) if numbers else 0, name))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number.get(name, -1) for name in names], np.int64), classes


def _from_folders(paths: Sequence[str]) -> Labels:
    for path in paths:
        if "/" not in path.strip("/"):
            raise DataError(f"labels=folders: {path} lies in no folder of its own; expected a folder per class")
    names = [path.strip("/").split("/")[0] for path in paths]
    if ".." in names:
        raise DataError(f"labels=folders: {paths[names.index('..')]} begins with no class; expected a folder per class")
    return from_names(names)


def _from_csv(file: Path, paths: Sequence[str]) -> Labels:
    rows = read_csv(file, ("path", "label"), "labels=")
    given: dict[str, str] = {}
    for row in rows:
        path, label = row["path"].removeprefix("./"), row["label"].strip()
        if given.setdefault(path, label) != label:
            raise DataError(f"{file}: {path} is labelled both {given[path]!r} and {label!r}; expected one of them")
    names = [given.get(path, "") for path in paths]
    if not any(names):
        first = next(iter(given), "nothing")
        raise DataError(f"{file}: labels none of the images; it names {first}, the images are named like {paths[0]}")
    n, missing = len(names), names.count("")
    unused = len(given.keys() - set(paths))
    if missing or unused:
        say(f"{file}: labels {n - missing:,} of the {n:,} images; {unused:,} of its rows name none of them")
    return from_names(names)
