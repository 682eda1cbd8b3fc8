"""The verb `select`: from embeddings, a run or a plain .npy to a selection folder, and copies of its files."""

import inspect
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from likewise.coresets import SELECTORS, parse_budget, parse_memory, select
from likewise.coresets.checkpoint import Checkpoint
from likewise.coresets.estimate import estimate
from likewise.embedding import embed, load_with_config
from likewise.errors import DataError, UsageError
from likewise.files import claim, empty_folder, new_folder
from likewise.images import ImageSet, open_images
from likewise.images.labels import read_labels
from likewise.images.scan import locate
from likewise.images.sources import read_csv
from likewise.signals import stop_signals
from likewise.types import Embeddings, Selection, pick
from likewise.verbs.ids import read_ids
from likewise.verbs.originals import Originals

STATE = "state.safetensors"  # of a selection that is not finished
SELECTION_FILES = ("selection.csv", "selection.json", "thumbs")
N_THUMBS, THUMB_SIDE = 120, 48  # as many as the report shows


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
    resume: bool = False,
    options: dict[str, Any] | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Select, save to `out` with small pictures of the first picks, and copy or link the chosen images.

    Copies and links are named by rank. Returns what `--json` prints. With `dry_run` nothing is selected nor written:
    the answer is what it would cost.

    Every half a minute, and when SIGTERM or SIGINT asks to stop (then Stopped is raised), a method that can be taken up
    again leaves in `out` what it has; with `resume` it goes on from there, to the same bits with the same `memory` and
    number of threads, to the same picks with any. Of a finished selection, `resume` gives the answer again.
    """
    import resource

    x, paths, where = _features(Path(source), data)
    options = _typed(options or {})
    if dry_run:
        return _cost(x, method, budget, memory, options)
    named = {"target": target, "scores": scores, "labels": labels}
    if resume and (out / "selection.json").is_file() and not (out / STATE).is_file():
        asked = {"method": method, "budget": parse_budget(budget, len(x)), "seed": seed, "embeddings": str(source)}
        asked |= {"options": {"metric": "cosine", **options}}
        asked |= {argument: None if value is None else str(value) for argument, value in named.items()}
        return _answer(out, _finished(out, asked), budget)
    if (out / STATE).is_file() and not (resume or overwrite):
        raise UsageError(f"--out {out}: holds a selection that was stopped; go on with --resume, or pass --overwrite")
    originals = _originals(where, paths, asked=copy_to or link_to)
    if originals is not None and link_to is not None and not originals.linkable:
        raise UsageError(f"--link-to {link_to}: the images of {where} are no files of their own; expected --copy-to")
    copies = None if copy_to is None else empty_folder(copy_to, "--copy-to")
    links = None if link_to is None else empty_folder(link_to, "--link-to")
    given: dict[str, Any] = {
        "chosen": None if chosen is None else read_ids(chosen, "--chosen"),
        "target": None if target is None else _features(target, None)[0],
        "scores": None if scores is None else _scores(scores, paths),
        "labels": None if labels is None else _labels(labels, x, paths),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pick(SELECTORS, method, "selector")
    parse_budget(budget, len(x))
    claim(out, "selection", (*SELECTION_FILES, STATE), overwrite=overwrite or resume)  # before the work, not after it
    if not resume:
        (out / STATE).unlink(missing_ok=True)
    with _checkpoint(method, out / STATE) as checkpoint:
        selection = select(x, method, budget, seed=seed, memory=memory, checkpoint=checkpoint, **given, **options)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    folder = new_folder(out, "selection", SELECTION_FILES, overwrite=True)
    about = {**selection.meta, "embeddings": str(source), "data": where, "peak_memory_mb": peak}
    about |= {argument: str(value) for argument, value in named.items() if value is not None}
    saved = Selection(selection.indices, selection.gains, selection.weights, selection.quality, about)
    saved.save(folder, paths)
    (folder / STATE).unlink(missing_ok=True)
    if originals is not None and paths is not None:
        picked = [(int(i), paths[i]) for i in selection.indices]
        _save_thumbs(originals, picked, folder / "thumbs")
        for rank, (_, path) in enumerate(picked):
            name = f"{rank:0{len(str(len(picked)))}d}-{Path(path).name}"
            if copies is not None:
                originals.copy(path, copies / name)
            if links is not None:
                originals.link(path, links / name)
    return _answer(folder, saved, budget)


@contextmanager
def _checkpoint(method: str, file: Path) -> Iterator[Checkpoint | None]:
    """For a method that can be taken up again. Only then are signals waited for: others would gain nothing by it."""
    if "checkpoint" in inspect.signature(pick(SELECTORS, method, "selector")).parameters:
        with stop_signals() as stopping:
            yield Checkpoint(file, stopping=stopping)
    else:
        yield None


def _finished(out: Path, asked: dict[str, Any]) -> Selection:
    """The selection that is there already, if it is the one asked for."""
    selection = Selection.load(out)
    for name, value in asked.items():
        if selection.meta.get(name) != value:
            raise UsageError(
                f"--resume: {out} holds a finished selection with {name}={selection.meta.get(name)!r}, not {value!r}; "
                "pass --overwrite, or choose another"
            )
    return selection


def _answer(folder: Path, selection: Selection, budget: str | float | int) -> dict[str, Any]:
    return {
        "selection": str(folder),
        "method": selection.meta["method"],
        "n": len(selection),
        "budget": budget,
        "seconds": selection.meta["seconds"],
        "peak_memory_mb": selection.meta["peak_memory_mb"],
        "quality": dict(selection.quality),
        "random_quality": dict(selection.meta["random_quality"]),
        "approximation": selection.meta.get("approximation"),
        "of_best": selection.meta.get("of_best"),
        "stopped": selection.meta.get("stopped"),
    }


def _cost(x: Any, method: str, budget: str | float | int, memory: str, options: dict[str, Any]) -> dict[str, Any]:
    """Estimates in `seconds` and `memory_mb`, which are None for a method whose cost hangs on more than sizes."""
    n, d = (x.x if isinstance(x, Embeddings) else x).shape
    pick(SELECTORS, method, "selector")
    n_picks = parse_budget(budget, n)
    cost = estimate(method, n, d, n_picks, parse_memory(memory), options)
    return {
        "selection": None,
        "method": method,
        "images": n,
        "n": n_picks,
        "budget": budget,
        "seconds": cost.seconds if cost else None,
        "memory_mb": cost.memory / 1e6 if cost else None,
        "estimate": str(cost) if cost else f"unknown for {method}: it hangs on more than the number of images",
    }


def _features(source: Path, data: str | None) -> tuple[Any, list[str] | None, str | None]:
    """Features, the paths of the images, and the folder they are relative to."""
    if source.suffix == ".npy":
        x = _array(source)
        if data is None:
            return x, None, None
        paths = locate(data).paths
        if len(paths) != len(x):
            raise DataError(f"--data {data}: has {len(paths)} images, and {source} {len(x)} rows")
        return x, paths, data
    if (source / "x.npy").is_file():
        table = Embeddings.load(source)
        return table, list(table.paths), data or table.meta.get("data")
    if (source / "resolved.toml").is_file():
        where = data or tomllib.loads((source / "resolved.toml").read_text())["data"]
        images = open_images(where, max_bad=1.0)  # what the run tolerated is none of our business here
        encoder, config = load_with_config(source)
        table = embed(encoder, _with(images, config["channels"]), size=config["size"])
        return table, list(table.paths), where
    raise DataError(f"{source}: expected an embeddings folder, a run folder, or an .npy file")


def _with(images: ImageSet, channels: int) -> ImageSet:
    return images if images.channels == channels else images.with_channels(channels)


def _originals(where: str | None, paths: list[str] | None, asked: Path | None) -> Originals | None:
    """The images to copy, link to or show. Only if that was asked for is it an error that they are not there."""
    if paths is None or where is None:
        if asked is not None:
            raise UsageError(f"--copy-to/--link-to {asked}: an array has no images; pass --data")
        return None
    try:
        return Originals(where)
    except (DataError, UsageError):
        if asked is not None:
            raise
        return None


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


def _save_thumbs(originals: Originals, picked: list[tuple[int, str]], folder: Path) -> None:
    """Small pictures of the first picks, named by id as those of embeddings are."""
    folder.mkdir()
    for i, path in picked[:N_THUMBS]:
        with suppress(DataError):  # the data may have changed since; then there is nothing to show
            picture = originals.image(path)
            picture.thumbnail((4 * THUMB_SIDE, THUMB_SIDE))
            picture.save(folder / f"{i:06d}.webp", quality=80)


def _typed(options: dict[str, Any]) -> dict[str, Any]:
    """Words from the command line as numbers where they are numbers."""
    made: dict[str, Any] = {}
    for key, value in options.items():
        try:
            made[key] = tomllib.loads(f"value = {value}")["value"] if isinstance(value, str) else value
        except tomllib.TOMLDecodeError:
            made[key] = value
    return made
