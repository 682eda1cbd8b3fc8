"""The verb `evaluate`: a model or embeddings, with data, through one or more protocols, into one JSON line."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from likewise.draws import Draws
from likewise.embedding import EMBEDDINGS_FILES, check_alike, embed, images_hash, load_with_config, opening_side
from likewise.encoders import Pixels, normaliser
from likewise.errors import DataError, LikewiseError, UsageError
from likewise.evaluation import EVALUATIONS, LABEL_FREE, PROBES, WHOLE, alignment, describe
from likewise.files import append_line, read_toml
from likewise.images import DATASETS, SPLITS, ImageSet, open_images
from likewise.images.scan import contents_of, share
from likewise.progress import say
from likewise.types import Embeddings, Encoder, in_eval_mode, pick
from likewise.verbs.settings import checked_size
from likewise.views import weak

PIXELS = "pixels"  # the model that is none, whatever folders there are
PIXELS_SIDE = 32  # images are compared as they are at this side, unless asked otherwise
WHOLE_SIDE = 256  # the short side at which images are kept for probes that see whole ones
N_ALIGNED = 2_000
USUAL = ("knn", "linear", "health")


def evaluate(
    model: Any,
    data: Any = None,
    *,
    protocols: Sequence[str] | str | None = None,
    test: Any = None,
    labels: Any = None,
    test_labels: Any = None,
    size: int | None = None,
    trained: bool = True,
    seed: int = 0,
    device: str = "cpu",
    max_bad: float | str = 0.01,
) -> dict[str, Any]:
    """How good a representation is. Returns {"model", "kind", "data", "test_data", "protocols": {name: figures},
    "verdict"}, and for "train" and "test" how many images there are, how many of them are "labelled", and their
    "images_hash" and "labels_hash". "test_data" is None where the test images are held out of the data.

    `model` is a run, a saved encoder, "pixels", an Encoder (with `size`), an embeddings folder or Embeddings. "kind" is
    "pixels", "untrained" or "learned", by which the report tells them apart. `data` is what reference and training
    images come from (named sets: their train split), `test` the held-out images (named sets: their test split). Without
    `test`, every fifth image by key is held out, exact copies together. A figure for each protocol, all with
    hyper-parameters chosen on the training part alone.

    `protocols` are names, in one string separated by commas or not; by default k-NN, the linear probe and health, or
    health alone where there are no labels.

    `labels` are as `open_images` takes them, and `test_labels` those of `test`. Without these, "folders" and a .csv go
    for both sides, and an array for `data` alone. The baselines and the run's evaluation.jsonl, from which the report
    is made, are the command line's. Raises UsageError, before any work, where a protocol lacks labels.
    """
    names = [] if protocols is None else _names(protocols)
    share(max_bad)  # what embeddings have no use for is checked all the same
    if is_embeddings(model):
        given = (data, labels, test_labels, size)
        if any(one is not None for one in given) or not trained:
            raise UsageError(
                f"model {_name(model)}: embeddings are evaluated as they are; DATA, --labels, --test-labels, --size "
                "and --untrained belong to a model"
            )
        names, judged = _of_embeddings(model, test, names)
    else:
        names, judged = _of_model(
            model, data, test, names, labels, test_labels, size=size, trained=trained, device=device, max_bad=max_bad
        )
    for caveat in judged.caveats:
        say(caveat)
    sides = {"train": judged.train, "test": judged.test}
    results = {name: _measure(name, judged, seed, device) for name in names}
    return {
        "model": _name(model),
        "kind": judged.kind,
        "data": judged.data,
        "test_data": judged.test_data,
        **{side: len(table) for side, table in sides.items()},
        "labelled": {side: _n_labelled(table.labels) for side, table in sides.items()},
        "images_hash": {side: images_hash(table.keys) for side, table in sides.items()},
        "labels_hash": {side: _labels_hash(table) for side, table in sides.items()},
        "size": judged.size,
        "protocols": results,
        "caveats": list(judged.caveats),
        "verdict": " ".join([describe(results, _n_labelled(judged.test.labels)), *judged.caveats]),
    }


class Judged(NamedTuple):
    """Both sides' features and what they are of; of a model also what the probes that look at images take."""

    train: Embeddings
    test: Embeddings
    kind: str
    data: str
    test_data: str | None
    size: int
    encoder: Encoder | None = None
    images: ImageSet | None = None  # all that the training side was taken from
    open_sides: Callable[[int | None], tuple[ImageSet, ImageSet]] | None = None  # kept at a side; None: as they are
    caveats: Sequence[str] = ()  # sentences on why its figures may be too high


def _of_embeddings(model: Any, test: Any, names: list[str]) -> tuple[list[str], Judged]:
    if test is not None and not is_embeddings(test):
        raise UsageError(f"--test {_name(test)}: expected embeddings, as {_name(model)} is")
    for name in names:
        if name in PROBES:
            raise UsageError(f"protocol {name}: needs a model and images; {_name(model)} holds embeddings only")
    table, other = _table(model), None if test is None else _table(test)
    caveats: list[str] = []
    names = names or _usual(_name(model), table.labels)
    remedy = "embed the images again with --labels"
    _check_labels(names, _name(model), table.labels, remedy)
    if other is None:
        train_x, test_x = (table.rows(ids) for ids in _split(contents_of(table.keys)))
    else:
        if table.x.shape[1] != other.x.shape[1]:
            raise DataError(f"--test: has {other.x.shape[1]} dimensions, and {_name(model)} {table.x.shape[1]}")
        _check_labels(names, f"--test {_name(test)}", other.labels, remedy)
        check_alike(table, other, _name(model), f"--test {_name(test)}")
        caveats = _copies(contents_of(table.keys), contents_of(other.keys))
        train_x, test_x = table, other
    kind = _kind(table.meta.get("model"), bool(table.meta.get("trained", True)))
    data = _data_name(table.meta.get("data") or _name(model), None)
    test_data = None if other is None else _data_name(other.meta.get("data") or _name(test), None)
    size = int(table.meta.get("size", 0))
    return names, Judged(train_x, test_x, kind, data, test_data, size, caveats=caveats)


def _of_model(
    model: Any,
    data: Any,
    test: Any,
    names: list[str],
    labels: Any,
    test_labels: Any,
    *,
    size: int | None,
    trained: bool,
    device: str,
    max_bad: float | str,
) -> tuple[list[str], Judged]:
    if data is None:
        raise UsageError(
            f"model {_name(model)}: DATA is needed to evaluate a model; expected a folder, file or named set"
        )
    if is_embeddings(test):
        raise UsageError(f"--test {_name(test)}: are embeddings; expected images, as {_name(model)} is a model")
    if isinstance(data, str) and test is None:
        data, test = _official_splits(data)
    if test is None and test_labels is not None:
        raise UsageError("--test-labels: belong to the images of --test, and there are none")
    encoder, images, size = open_for(model, data, labels=labels, size=size, trained=trained, max_bad=max_bad)
    names = names or _usual(images.name, images.labels)
    _check_labels(names, images.name, images.labels, "give --labels folders|FILE.csv")
    others: ImageSet | None = None
    caveats: list[str] = []
    if test is not None:
        others = _open_test(test, labels, test_labels, opening_side(size), max_bad)
        _check_labels(names, f"--test {others.name}", others.labels, "give --test-labels folders|FILE.csv")
        _check_sides(images, others, labels if test_labels is None else None)
        caveats = _copies(images.contents, others.contents)
        others = fitting(encoder, others)
    table = embed(encoder, images, size=size, device=device)
    if others is None:
        train_x, test_x = (table.rows(ids) for ids in _split(images.contents))
        if trained and _learned_from_labels(model):
            caveats = ["The encoder learned from labels, perhaps from those held out here: --test brings others."]
    else:
        train_x, test_x = table, embed(encoder, others, size=size, device=device)

    def open_sides(side: int | None) -> tuple[ImageSet, ImageSet]:
        mine, theirs = images, others
        if side is not None:
            mine = fitting(encoder, open_images(data, labels=labels, side=side, max_bad=max_bad))
            if others is not None:
                theirs = fitting(encoder, _open_test(test, labels, test_labels, side, max_bad))
        if theirs is not None:
            return mine, theirs
        train_ids, test_ids = _split(mine.contents)
        return mine.subset(train_ids), mine.subset(test_ids)

    test_data = None if test is None else _data_name(test, others)
    kind = _kind(model, trained)
    what = _data_name(data, images)
    return names, Judged(train_x, test_x, kind, what, test_data, size, encoder, images, open_sides, caveats)


def _measure(name: str, judged: Judged, seed: int, device: str) -> dict[str, Any]:
    """The figures of one protocol."""
    encoder, images, size = judged.encoder, judged.images, judged.size
    if name in EVALUATIONS:
        seeded = {"seed": seed} if name in ("linear", "few-label") else {}
        figures = EVALUATIONS[name](judged.train, judged.test, **seeded)
        if name == "health" and encoder is not None and images is not None:
            figures["alignment"] = _alignment(encoder, images, size, seed, device)
        return figures
    assert judged.open_sides is not None  # as embeddings are refused
    train, test = judged.open_sides(WHOLE_SIDE if name in WHOLE else None)
    draws = Draws(seed, 0, 0, torch.from_numpy(np.array(train.keys)))
    return PROBES[name](encoder, train, test, size=size, draws=draws, **({"device": device} if name in WHOLE else {}))


def _split(contents: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " k"]]:
    """Ids of train and test: the fifth of the images whose shuffled contents come first is held out, and with the last
    of them all that are copies of it."""
    bits = Draws(0, 0, 0, torch.from_numpy(np.array(contents))).bits("hold out").numpy()
    held_out = bits <= np.sort(bits)[max(1, len(bits) // 5) - 1]
    if held_out.all():
        raise DataError("no image can be held out: there is only one, however often; give --test")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _copies(train: Int[np.ndarray, " n"], test: Int[np.ndarray, " m"]) -> list[str]:
    """A sentence on test images that are among the training images too, where there are any."""
    n_copies = int(np.isin(test, train).sum())
    return [f"{n_copies:,} of the {len(test):,} test images are exact copies of training images."] if n_copies else []


def _open_test(test: Any, labels: Any, test_labels: Any, side: int, max_bad: float | str) -> ImageSet:
    """The test images, with `labels` where these can go for both sides: an array belongs to the training images."""
    if test_labels is None and isinstance(labels, str | os.PathLike):
        test_labels = labels
    try:
        return open_images(test, labels=test_labels, side=side, max_bad=max_bad)
    except LikewiseError as error:
        raise type(error)(f"--test: {error}") from None


def _names(protocols: Sequence[str] | str) -> list[str]:
    names = [name.strip() for name in (protocols.split(",") if isinstance(protocols, str) else protocols)]
    for name in names:
        pick({**EVALUATIONS, **PROBES}, name, "protocol")
    return names


def _usual(who: str, labels: Any) -> list[str]:
    """What is measured unless something else is asked for."""
    if _n_labelled(labels):
        return list(USUAL)
    say(f"{who} has no labels: its health alone is measured")
    return [name for name in USUAL if name in LABEL_FREE]


def _check_labels(names: Sequence[str], who: str, labels: Any, remedy: str) -> None:
    """Say what is missing before the work."""
    needing = [name for name in names if name not in LABEL_FREE]
    if needing and not _n_labelled(labels):
        raise UsageError(
            f"protocol {needing[0]}: needs labels, and {who} has none; {remedy}, or take --protocol health, which "
            "needs none"
        )


def _check_sides(train: ImageSet, test: ImageSet, labels: Any) -> None:
    """What holds of both sides together. `labels` are those that were given for both."""
    if isinstance(labels, str | os.PathLike) and Path(labels).suffix.lower() == ".csv":
        both = set(train.paths) & set(test.paths)
        if both:
            raise UsageError(
                f"labels={labels}: training and test images are named alike, such as {min(both)}, so that a row would "
                "speak of two; give --test-labels"
            )
    # Embeddings match classes by name; those of test must be known to train.
    unknown = sorted(set(test.classes or ()) - set(train.classes or test.classes or ()))
    if unknown:
        raise DataError(f"--test: has classes that the training images lack: {', '.join(unknown[:5])}")


def _n_labelled(labels: Int[np.ndarray, " n"] | None) -> int:
    return 0 if labels is None else int((np.asarray(labels) >= 0).sum())


def _labels_hash(table: Embeddings) -> str:
    """Of the names of the labels in the order of the keys: figures by other labels are not compared. Empty: none."""
    if not _n_labelled(table.labels):
        return ""
    assert table.labels is not None
    ordered = np.asarray(table.labels)[np.argsort(table.keys)].tolist()
    names = ["" if i < 0 else str(table.classes[i] if table.classes else i) for i in ordered]
    return hashlib.blake2b(json.dumps(names).encode(), digest_size=8).hexdigest()


def append(folder: Path, result: dict[str, Any]) -> None:
    """Add a result to the evaluation.jsonl of a run or embeddings folder."""
    append_line(folder / "evaluation.jsonl", result)


def open_for(
    model: Any, data: Any, *, labels: Any = None, size: int | None = None, trained: bool = True, max_bad: float | str
) -> tuple[Encoder, ImageSet, int]:
    """The encoder of a model as people name it (a run, a saved encoder, "pixels", or an Encoder with `size`), the
    images of `data` as it takes them, and the side it looks at. Every verb that embeds asks here, so that all see the
    same pixels.
    """
    size = None if size is None else checked_size(size)
    pixels = isinstance(model, str) and model == PIXELS
    if not trained and (pixels or isinstance(model, Encoder)):
        raise UsageError(f"--untrained: {_name(model)} is as it is; expected a run")
    encoder: Encoder | None = None
    if isinstance(model, Encoder):
        if size is None:
            raise UsageError("size: needed with an encoder object, in pixels")
        encoder, side = model, size
    elif pixels:
        side = PIXELS_SIDE if size is None else size
    else:
        expected = f"a run folder, a saved encoder, or '{PIXELS}'"
        encoder, config = load_with_config(model, trained=trained, expected=expected)
        side = int(config["size"]) if size is None else size
    images = open_images(data, labels=labels, side=opening_side(side), max_bad=max_bad)
    if encoder is None:
        encoder = Pixels(images.info(side))
    return encoder, fitting(encoder, images), side


def fitting(encoder: Encoder, images: ImageSet) -> ImageSet:
    """The images with the number of channels that the encoder takes."""
    channels = normaliser(encoder).channels
    return images if images.channels == channels else images.with_channels(channels)


def is_embeddings(model: Any) -> bool:
    """Whether a model, as people name it, is an embeddings folder or Embeddings."""
    if isinstance(model, str | os.PathLike):
        return model != PIXELS and all((Path(model) / name).is_file() for name in EMBEDDINGS_FILES[:3])
    return isinstance(model, Embeddings)


def _learned_from_labels(model: Any) -> bool:
    """Whether it is a run of a method that was given labels."""
    file = Path(model) / "resolved.toml" if isinstance(model, str | os.PathLike) else Path()
    saved = read_toml(file) if file.is_file() else {}
    return bool(saved.get("labels_hash")) or saved.get("relation") == "labels"


def _table(model: Any) -> Embeddings:
    return model if isinstance(model, Embeddings) else Embeddings.load(Path(model))


def _name(model: Any) -> str:
    return str(model) if isinstance(model, str | os.PathLike) else type(model).__name__


def _data_name(data: Any, images: ImageSet | None) -> str:
    """`data` as it was named, or the name of its images; `photos/` is `photos`."""
    if isinstance(data, str | os.PathLike) or images is None:
        return str(data).rstrip("/") or str(data)
    return images.name


def _kind(model: Any, trained: bool) -> str:
    if isinstance(model, str) and model == PIXELS:
        return "pixels"
    return "learned" if trained else "untrained"


def _official_splits(data: str) -> tuple[str, str | None]:
    if data in DATASETS and "test" in SPLITS.get(data, ("test",)):
        return f"{data}:train", f"{data}:test"
    return data, None


def _alignment(encoder: Encoder, images: ImageSet, size: int, seed: int, device: str) -> float:
    """How close a crop lies to another crop of the same image, for up to 2,000 images."""
    ids = np.argsort(images.keys)[:N_ALIGNED]
    part = images.subset(ids)
    (view,) = weak(size)
    rows = [np.arange(i, min(i + 256, len(part))) for i in range(0, len(part), 256)]
    with in_eval_mode(encoder), torch.inference_mode():
        both = []
        for name in ("a", "b"):
            seen = []
            for r in rows:
                mine = Draws(seed, 0, 0, torch.from_numpy(part.keys[r])).child(name)
                seen.append(encoder(view(part.source(r), mine).to(device)).float().cpu())
            both.append(torch.cat(seen))
    return alignment(*both)
