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
from likewise.types import Embeddings, Selection

SELECTION_FILES = ("selection.csv", "selection.json")


def choose(
    source: str | Path,
    out: Path,
    *,
    method: str = "k-center",
    budget: str | float | int = "10%",
    chosen: Path | None = None,
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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    selection = select(x, method, budget, seed=seed, memory=memory, chosen=_chosen(chosen), **_typed(options or {}))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    folder = new_folder(out, SELECTION_FILES, overwrite=overwrite)
    about = {**selection.meta, "embeddings": str(source), "data": where, "peak_memory_mb": peak}
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
    }


def _features(source: Path, data: str | None) -> tuple[Any, list[str] | None, str | None]:
    """Features, the paths of the images, and the folder they are relative to."""
    if source.suffix == ".npy":
        try:
            return np.load(source, mmap_mode="r", allow_pickle=False), None, None
        except (OSError, ValueError) as error:
            raise DataError(f"{source}: is not an array that can be read ({error})") from None
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
