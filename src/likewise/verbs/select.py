"""The verb `select`: from embeddings, a run or a plain .npy to a selection folder, and copies of its files."""

import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from likewise.coresets import SELECTORS, parse_budget, parse_memory, select
from likewise.coresets.checkpoint import Checkpoint, fingerprint
from likewise.coresets.estimate import estimate
from likewise.coresets.select import read_options
from likewise.embedding import array_hash, check_alike, embed, images_hash
from likewise.encoders import imported
from likewise.errors import DataError, UsageError
from likewise.files import check_claim, check_empty, claim, empty_folder, new_folder, read_array, read_toml
from likewise.images.labels import read_labels
from likewise.images.scan import lasting, locate
from likewise.images.sources import read_csv
from likewise.memory import peak_memory_mb
from likewise.progress import say
from likewise.signals import stop_signals
from likewise.types import Embeddings, Selection, pick, read_word
from likewise.verbs.evaluate import open_for
from likewise.verbs.ids import read_ids
from likewise.verbs.originals import Originals

STATE = "state.safetensors"  # of a selection that is not finished
SELECTION_FILES = ("selection.csv", "selection.json", "thumbs")
MOST_BYTES = 255  # of a file's name, on the usual disks
_CONTENT = {"features": "from other features", "contents": "with another target, scores or labels in their files"}
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
    device: str = "cpu",
    copy_to: Path | None = None,
    link_to: Path | None = None,
    data: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    options: dict[str, Any] | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Select, save to `out` with small pictures of the first picks, and copy or link the chosen images.

    `method` is the name of a selector, or "package.module:function" of one like them, with options as words.
    `device` is where the encoder of a run embeds its images; what is selected does not hang on it otherwise. Copies and
    links are named by rank. Returns what `--json` prints. With `dry_run` nothing is selected nor written:
    the answer is what it would cost.

    Every half a minute, and when SIGTERM or SIGINT asks to stop (then Stopped is raised), a method that can be taken up
    again leaves in `out` what it has; with `resume` it goes on from there, to the same bits with the same `memory` and
    number of threads, to the same picks with any. Others start over, and say so. Of a finished selection `resume` gives
    the answer again, and copies or links where that is asked.
    """
    own = {"metric": "cosine", **(options or {})}
    metric = own.pop("metric")
    if ":" in method:
        selector, own = imported(method, "selector"), {key: read_word(value) for key, value in own.items()}
        if not inspect.isfunction(selector):
            raise UsageError(f"selector {method!r}: is no function; expected 'package.module:function'")
    else:
        selector = pick(SELECTORS, method, "selector")
    options = read_options(method, selector, own)
    if not dry_run:  # what can be said before the work
        if (out / STATE).is_file() and not (resume or overwrite):
            raise UsageError(
                f"--out {out}: holds a selection that was stopped; go on with --resume, or pass --overwrite"
            )
        check_claim(out, "selection", overwrite=overwrite or resume)
        if not resume:
            _places(out, copy_to, link_to, check_empty)
    x, paths, where = _features(Path(source), data, device)
    n_picks = parse_budget(budget, len(x))
    if dry_run:
        return _cost(x, method, n_picks, budget, memory, options)
    features = _identity(x)
    named = {"target": target, "scores": scores, "labels": labels}
    held = None if chosen is None else read_ids(chosen, "--chosen", len(x), paths)
    begun_with = None if held is None else f"{len(held)} images, hash {fingerprint([held])[:12]}"
    aim = None if target is None else _features(target, None, device)[0]
    if isinstance(aim, Embeddings) and isinstance(x, Embeddings):
        check_alike(x, aim, str(source), f"--target {target}")
    given: dict[str, Any] = {
        "target": aim,
        "scores": None if scores is None else _scores(scores, x, paths),
        "labels": None if labels is None else _labels(labels, x, paths),
    }
    contents = " ".join("none" if value is None else _identity(value) for value in given.values())
    finished = None
    if resume and (out / "selection.json").is_file() and not (out / STATE).is_file():
        asked = {"method": method, "budget": n_picks, "seed": seed, "features": features, "contents": contents}
        asked |= {"options": {"metric": metric, **options}, "chosen": begun_with}
        asked |= {argument: None if value is None else str(value) for argument, value in named.items()}
        finished = _finished(out, asked)
    originals = _originals(where, paths, asked=copy_to or link_to, given=data is not None)
    if originals is not None and link_to is not None and not originals.linkable:
        raise UsageError(f"--link-to {link_to}: the images of {where} are no files of their own; expected --copy-to")
    if originals is not None and paths is not None and data is not None:
        _check_same(originals, x, paths, range(min(1, len(paths))))
    if finished is not None:
        _bring(originals, x, paths, finished, copy_to, link_to)
        return _answer(out, finished, budget)
    _places(out, copy_to, link_to, empty_folder)  # what cannot be made is told before anything is replaced
    before = peak_memory_mb()
    claim(out, "selection", overwrite=overwrite or resume)
    if not resume:
        (out / STATE).unlink(missing_ok=True)
    with _checkpoint(selector, out / STATE) as checkpoint:
        if resume and not (checkpoint and (out / STATE).is_file()):
            say(f"--resume: {out} holds nothing that {method} could go on from; it starts over")
        how: dict[str, Any] = {"metric": metric, "seed": seed, "memory": memory, "checkpoint": checkpoint}
        selection = select(x, selector, budget, chosen=held, **how, **given, **options)
    peak = peak_memory_mb() - before
    folder = new_folder(out, "selection", SELECTION_FILES, overwrite=True)
    about = {**selection.meta, "embeddings": str(Path(source).absolute()), "features": features}
    about["contents"] = contents
    about["data"] = None if where is None else lasting(where)
    about |= {"method": method, "peak_memory_mb": peak}
    about |= {argument: str(value) for argument, value in named.items() if value is not None}
    if begun_with is not None:
        about["chosen"] = begun_with
    saved = Selection(selection.indices, selection.gains, selection.weights, selection.quality, about)
    saved.save(folder, paths)
    (folder / STATE).unlink(missing_ok=True)
    if originals is not None and paths is not None:
        _save_thumbs(originals, x, paths, saved.indices[:N_THUMBS].tolist(), folder / "thumbs")
    _bring(originals, x, paths, saved, copy_to, link_to)
    return _answer(folder, saved, budget)


def _places(out: Path, copy_to: Path | None, link_to: Path | None, take: Callable[[Path, str], Path]) -> None:
    """Check the folders for copies and links (`take` is check_empty), or make them too (empty_folder)."""
    if copy_to is not None and link_to is not None and copy_to.resolve() == link_to.resolve():
        raise UsageError(f"--link-to {link_to}: is where the copies go, too; expected another folder")
    given = [(folder, name) for folder, name in ((copy_to, "--copy-to"), (link_to, "--link-to")) if folder is not None]
    for folder, argument in given:
        if folder.resolve() == out.resolve():
            raise UsageError(f"{argument} {folder}: is where the selection goes; expected another folder")
    for folder, argument in given:
        take(folder, argument)


def _bring(
    originals: Originals | None,
    x: Any,
    paths: list[str] | None,
    picks: Selection,
    copy_to: Path | None,
    link_to: Path | None,
) -> None:
    """Copy the picked files, or link to them, named by rank; those that are there from a first try are left alone."""
    if originals is None or paths is None or (copy_to is None and link_to is None):
        return
    _check_same(originals, x, paths, picks.indices.tolist())
    width = len(str(len(picks)))
    named = {_ranked(f"{r:0{width}d}-", paths[i], originals.suffix): paths[i] for r, i in enumerate(picks.indices)}
    for folder, argument, place in ((copy_to, "--copy-to", originals.copy), (link_to, "--link-to", originals.link)):
        if folder is None:
            continue
        there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
        if not there:
            empty_folder(folder, argument)
        elif other := sorted(there - set(named)):
            raise UsageError(f"{argument} {folder}: holds {other[0]}, which is none of these picks; choose another")
        for name, path in named.items():
            if name not in there:
                place(path, folder / name)


def _check_same(originals: Originals, x: Any, paths: list[str], ids: Iterable[int]) -> None:
    """Raise a DataError where an image is another than that which was embedded; of an array nobody knows."""
    for i in ids:
        if isinstance(x, Embeddings) and originals.differs(paths[i], int(x.keys[i])):
            raise DataError(f"{originals.data}: its {paths[i]} is not the image that was embedded; expected its --data")


def _ranked(rank: str, path: str, suffix: str) -> str:
    """The name of a copy: where that would be too long for a disk, the image's own is cut before its ending."""
    stem, ending = os.path.splitext(Path(path).name + suffix)
    if len(ending) > 10:  # is none
        stem, ending = stem + ending, ""
    while len(os.fsencode(rank + stem + ending)) > MOST_BYTES:
        stem = stem[:-1]
    return rank + stem + ending


@contextmanager
def _checkpoint(selector: Callable[..., Selection], file: Path) -> Iterator[Checkpoint | None]:
    """For a method that can be taken up again. Only then are signals waited for: others would gain nothing by it."""
    if "checkpoint" in inspect.signature(selector).parameters:
        with stop_signals() as stopping:
            yield Checkpoint(file, stopping=stopping)
    else:
        yield None


def _finished(out: Path, asked: dict[str, Any]) -> Selection:
    """The selection that is there already, if it is the one asked for."""
    selection = Selection.load(out)
    for name, value in asked.items():
        had = selection.meta.get(name, value if name in _CONTENT else None)  # older ones do not say of which
        if had != value:
            what = _CONTENT.get(name, f"with {name}={had!r}, not {value!r}")
            raise UsageError(f"--resume: {out} holds a finished selection {what}; pass --overwrite, or choose another")
    return selection


def _identity(x: Any) -> str:
    """What tells features from others: of embeddings the encoder and the images in their order, else their bits."""
    if isinstance(x, Embeddings) and "encoder_hash" in x.meta:
        return f"{x.meta['encoder_hash']} {fingerprint([np.asarray(x.keys)])} {x.meta.get('size')}"
    return fingerprint([np.asarray(x.x if isinstance(x, Embeddings) else x)])


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


def _cost(
    x: Any, method: str, n_picks: int, budget: str | float | int, memory: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Estimates in `seconds` and `memory_mb`, which are None for a method whose cost hangs on more than sizes."""
    n, d = (x.x if isinstance(x, Embeddings) else x).shape
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


def _features(source: Path, data: str | None, device: str) -> tuple[Any, list[str] | None, str | None]:
    """Features, the paths of the images, and the folder they are relative to."""
    if source.suffix == ".npy":
        x = read_array(source)
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
        saved = read_toml(source / "resolved.toml")
        where = data or saved["data"]
        encoder, images, size = open_for(source, where, max_bad=1.0)  # what the run tolerated is no business of ours
        if not saved.get("patches") and saved.get("images_hash") != images_hash(images.keys):
            say(f"{source} was trained on {saved['n_images']:,} images; {where} has {len(images):,}, not the same")
        table = embed(encoder, images, size=size, device=device)
        return table, list(table.paths), where
    raise DataError(f"{source}: expected an embeddings folder, a run folder, or an .npy file")


def _originals(where: str | None, paths: list[str] | None, *, asked: Path | None, given: bool) -> Originals | None:
    """The images to copy, link to or show. Only if they were `asked` for or `given` is it an error that they are not
    there."""
    if paths is None or where is None:
        if asked is not None:
            raise UsageError(f"--copy-to/--link-to {asked}: an array has no images; pass --data")
        return None
    try:
        return Originals(where)
    except (DataError, UsageError):
        if asked is not None or given:
            raise
        return None


def _scores(file: Path, x: Any, paths: list[str] | None) -> np.ndarray:
    """One number per image: an array, a run's scores.npy, or the column `score` of a .csv, in order or by `path`."""
    if (file / "resolved.toml").is_file() and isinstance(x, Embeddings):
        order = read_toml(file / "resolved.toml").get("order_hash")
        if order not in (None, array_hash(x.keys)):
            raise DataError(f"--scores {file}: is of other images, or of these in another order (by their names)")
    file = file / "scores.npy" if file.is_dir() else file
    if file.suffix == ".npy":
        return read_array(file)
    if file.suffix != ".csv":
        raise UsageError(f"--scores {file}: expected an .npy, a .csv with a column score, or a run")
    rows = read_csv(file, ("score",), "--scores ")
    try:
        values = [float(row["score"]) for row in rows]
    except (TypeError, ValueError):
        raise DataError(f"{file}: the column score holds what is no number") from None
    if not rows or "path" not in rows[0] or paths is None:
        return np.array(values)
    by_path: dict[str, float] = {}
    for row, value in zip(rows, values, strict=True):
        path = row["path"].removeprefix("./")
        if by_path.setdefault(path, value) != value:
            raise DataError(f"{file}: {path} has the scores {by_path[path]} and {value}; expected one of them")
    missing = next((path for path in paths if path not in by_path), None)
    if missing is not None:
        raise DataError(f"{file}: has no score for {missing}")
    return np.array([by_path[path] for path in paths])


def _labels(labels: str, x: Any, paths: list[str] | None) -> np.ndarray:
    """One class per image: the embeddings' own, by folders, from a .csv of path,label, or an array of numbers."""
    if labels.endswith(".npy"):
        return read_array(Path(labels))
    if labels == "own":
        if getattr(x, "labels", None) is None:
            raise UsageError("--labels own: the embeddings have no labels")
        return np.asarray(x.labels)
    if paths is None:
        raise UsageError(f"--labels {labels}: an array of features has no paths; expected an .npy of whole numbers")
    return read_labels(labels, paths)[0]


def _save_thumbs(originals: Originals, x: Any, paths: list[str], ids: list[int], folder: Path) -> None:
    """Small pictures of the first picks, named by id as those of embeddings are."""
    folder.mkdir()
    for i in ids:
        with suppress(DataError):  # the data may have changed since; then there is nothing to show
            _check_same(originals, x, paths, [i])
            picture = originals.image(paths[i])
            picture.thumbnail((4 * THUMB_SIDE, THUMB_SIDE))
            picture.save(folder / f"{i:06d}.webp", quality=80)
