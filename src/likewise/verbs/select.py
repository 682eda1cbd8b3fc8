"""The verb `select`: from embeddings, a run or a plain .npy to a selection folder, and copies of its files."""

import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from likewise.coresets import select
from likewise.embedding import embed, load_with_config
from likewise.errors import DataError, UsageError
from likewise.files import new_folder
from likewise.images import ImageSet, open_images
from likewise.images.labels import read_labels
from likewise.images.sources import read_csv
from likewise.types import Embeddings, Selection

SELECTION_FILES = ("selection.csv", "selection.json")


def choose(
    source: str | Path,
    out: Path,
    *,
    method: str = "k-center",
    budget: str | float | int = "10%",
    chosen: Path | None = None,
    target: Path | None = None,
    scores: Path | None = None,
    labels: str | None = None,
    memory: str = "2GB",
    seed: int = 0,
    copy_to: Path | None = None,
    link_to: Path | None = None,
    data: str | None = None,
    overwrite: bool = False,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Select, save to `out`, and copy or link the chosen files. Returns what `--json` prints."""
    import resource

    x, paths, where = _features(Path(source), data)
    given: dict[str, Any] = {
        "chosen": _chosen(chosen),
        "target": None if target is None else _features(target, None)[0],
        "scores": None if scores is None else _scores(scores, paths),
        "labels": None if labels is None else _labels(labels, x, paths),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    selection = select(x, method, budget, seed=seed, memory=memory, **given, **_typed(options or {}))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    folder = new_folder(out, SELECTION_FILES, overwrite=overwrite)
    named = {"target": target, "scores": scores, "labels": labels}
    about = {**selection.meta, "embeddings": str(source), "data": where, "peak_memory_mb": peak}
    about |= {argument: str(value) for argument, value in named.items() if value is not None}
    saved = Selection(selection.indices, selection.gains, selection.weights, selection.quality, about)
    saved.save(folder, paths)
    for target, put in ((copy_to, shutil.copy2), (link_to, _link)):
        if target is not None:
            _place(selection, paths, where, new_folder(target, (), argument="--copy-to/--link-to"), put)
    return {
        "selection": str(folder),
        "method": method,
        "n": len(selection),
        "budget": budget,
        "seconds": selection.meta["seconds"],
        "peak_memory_mb": peak,
        "quality": dict(selection.quality),
        "random_quality": dict(selection.meta["random_quality"]),
        "stopped": selection.meta.get("stopped"),
    }


def _features(source: Path, data: str | None) -> tuple[Any, list[str] | None, str | None]:
    """Features, the paths of the images, and the folder they are relative to."""
    if source.suffix == ".npy":
        return _array(source), None, None
    if (source / "x.npy").is_file():
        table = Embeddings.load(source)
        return table, list(table.paths), data or table.meta.get("data")
    if (source / "resolved.toml").is_file():
        where = data or tomllib.loads((source / "resolved.toml").read_text())["data"]
        images = open_images(where)
        encoder, config = load_with_config(source)
        table = embed(encoder, _with(images, config["channels"]), size=config["size"])
        return table, list(table.paths), where
    raise DataError(f"{source}: expected an embeddings folder, a run folder, or an .npy file")


def _with(images: ImageSet, channels: int) -> ImageSet:
    return images if images.channels == channels else images.with_channels(channels)


def _chosen(path: Path | None) -> list[int] | None:
    """The ids of a selection folder, or of a text file with one id a line."""
    if path is None:
        return None
    if path.is_dir():
        return Selection.load(path).indices.tolist()
    try:
        return [int(line) for line in path.read_text().split()]
    except (OSError, ValueError):
        raise UsageError(f"--chosen {path}: expected a selection folder, or a text file with one id a line") from None


def _scores(file: Path, paths: list[str] | None) -> np.ndarray:
    """One number per image: an array, a run's scores.npy, or the column `score` of a .csv, in order or by `path`."""
    file = file / "scores.npy" if file.is_dir() else file
    if file.suffix == ".npy":
        return _array(file)
    if file.suffix != ".csv":
        raise UsageError(f"--scores {file}: expected an .npy, a .csv with a column score, or a run")
    rows = read_csv(file, ("score",))
    try:
        values = [float(row["score"]) for row in rows]
    except (TypeError, ValueError):
        raise DataError(f"{file}: the column score holds what is no number") from None
    if not rows or "path" not in rows[0] or paths is None:
        return np.array(values)
    by_path = {row["path"].removeprefix("./"): value for row, value in zip(rows, values, strict=True)}
    missing = next((path for path in paths if path not in by_path), None)
    if missing is not None:
        raise DataError(f"{file}: has no score for {missing}")
    return np.array([by_path[path] for path in paths])


def _labels(labels: str, x: Any, paths: list[str] | None) -> np.ndarray:
    """One class per image: the embeddings' own, by folders, from a .csv of path,label, or an array of numbers."""
    if labels.endswith(".npy"):
        return _array(Path(labels))
    if labels == "own":
        if getattr(x, "labels", None) is None:
            raise UsageError("--labels own: the embeddings have no labels")
        return np.asarray(x.labels)
    if paths is None:
        raise UsageError(f"--labels {labels}: an array of features has no paths; expected an .npy of whole numbers")
    return read_labels(labels, paths)[0]


def _array(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: is not an array that can be read ({error})") from None


def _place(selection: Selection, paths: list[str] | None, where: str | None, target: Path, put: Any) -> None:
    if paths is None or where is None or not Path(where).is_dir():
        raise UsageError(f"--copy-to/--link-to {target}: the images are not files in a folder (data: {where})")
    digits = len(str(len(selection)))
    for rank, i in enumerate(selection.indices):
        file = Path(where) / paths[i]
        put(file, target / f"{rank:0{digits}d}-{file.name}")


def _link(file: Path, target: Path) -> None:
    os.symlink(file.resolve(), target)


def _typed(options: dict[str, Any]) -> dict[str, Any]:
    """Words from the command line as numbers where they are numbers."""
    made: dict[str, Any] = {}
    for key, value in options.items():
        try:
            made[key] = tomllib.loads(f"value = {value}")["value"] if isinstance(value, str) else value
        except tomllib.TOMLDecodeError:
            made[key] = value
    return made
