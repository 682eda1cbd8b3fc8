"""The verb `evaluate`: a model or embeddings, with data, through one or more protocols, into one JSON line."""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from likewise.draws import Draws
from likewise.embedding import EMBEDDINGS_FILES, embed, load_with_config, opening_side
from likewise.encoders import Pixels, normaliser
from likewise.errors import DataError, UsageError
from likewise.evaluation import EVALUATIONS, PROBES, WHOLE, alignment, describe
from likewise.files import append_line
from likewise.images import DATASETS, SPLITS, ImageSet, open_images
from likewise.progress import say
from likewise.types import Embeddings, Encoder, pick
from likewise.verbs.settings import checked_size
from likewise.views import weak

PIXELS = "pixels"  # the model that is none, whatever folders there are
PIXELS_SIDE = 32  # images are compared as they are at this side, unless asked otherwise
WHOLE_SIDE = 256  # the short side at which images are kept for probes that see whole ones
N_ALIGNED = 2_000


def evaluate(
    model: Any,
    data: Any = None,
    *,
    protocols: Sequence[str] | str = ("knn", "linear", "health"),
    test: Any = None,
    labels: Any = None,
    size: int | None = None,
    trained: bool = True,
    seed: int = 0,
    device: str = "cpu",
    max_bad: float | str = 0.01,
) -> dict[str, Any]:
    """How good a representation is. Returns {"model", "kind", "data", "protocols": {name: figures}, "verdict"}, and how
    many images are in "train" and "test", and labelled in "labelled".

    `model` is a run, a saved encoder, "pixels", an Encoder (with `size`), an embeddings folder or Embeddings. "kind" is
    "pixels", "untrained" or "learned", by which the report tells them apart. `data` is what reference and training
    images come from (named sets: their train split), `test` the held-out images (named sets: their test split). Without
    `test`, every fifth image by key is held out. A figure for each protocol, all with hyper-parameters chosen on the
    training part alone.
    """
    names = [protocols] if isinstance(protocols, str) else list(protocols)
    for name in names:
        pick({**EVALUATIONS, **PROBES}, name, "protocol")
    if is_embeddings(model):
        if data is not None or labels is not None or size is not None or not trained:
            raise UsageError(
                f"model {_name(model)}: embeddings are evaluated as they are; DATA, --labels, --size and --untrained "
                "belong to a model"
            )
        if test is not None and not is_embeddings(test):
            raise UsageError(f"--test {_name(test)}: expected embeddings, as {_name(model)} is")
        table = _table(model)
        train_x, test_x = hold_out(table) if test is None else (table, _table(test))
        if train_x.x.shape[1] != test_x.x.shape[1]:
            raise DataError(f"--test: has {test_x.x.shape[1]} dimensions, and {_name(model)} {train_x.x.shape[1]}")
        encoder, train_images = None, None
        size = int(table.meta.get("size", 0))
        kind = _kind(table.meta.get("model"), bool(table.meta.get("trained", True)))
    else:
        if data is None:
            raise UsageError(
                f"model {_name(model)}: DATA is needed to evaluate a model; expected a folder, file or named set"
            )
        if is_embeddings(test):
            raise UsageError(f"--test {_name(test)}: are embeddings; expected images, as {_name(model)} is a model")
        if isinstance(data, str) and test is None:
            data, test = _official_splits(data)
        encoder, train_images, size = open_for(model, data, labels=labels, size=size, trained=trained, max_bad=max_bad)
        test_images = (
            None if test is None else open_images(test, labels=labels, side=opening_side(size), max_bad=max_bad)
        )
        kind = _kind(model, trained)
        train = embed(encoder, train_images, size=size, device=device)
        if test_images is None:
            train_x, test_x = hold_out(train)
            if _learned_from_labels(model):
                say(f"{_name(model)} learned from labels, perhaps from those held out here: give --test")
        else:
            _check_classes(train_images, test_images)
            train_x, test_x = train, embed(encoder, fitting(encoder, test_images), size=size, device=device)
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        if name in EVALUATIONS:
            results[name] = EVALUATIONS[name](
                train_x, test_x, **({"seed": seed} if name in ("linear", "few-label") else {})
            )
            if name == "health" and encoder is not None and train_images is not None:
                results[name]["alignment"] = _alignment(encoder, train_images, size, seed, device)
        elif encoder is None or train_images is None:
            raise UsageError(f"protocol {name}: needs a model and images; {_name(model)} holds embeddings only")
        else:
            mine, others = train_images, test_images
            if name in WHOLE:
                mine = open_images(data, labels=labels, side=WHOLE_SIDE, max_bad=max_bad)
                others = None if test is None else open_images(test, labels=labels, side=WHOLE_SIDE, max_bad=max_bad)
            mine = fitting(encoder, mine)
            if others is None:
                sides = tuple(mine.subset(ids) for ids in _split(mine.keys))
            else:
                sides = mine, fitting(encoder, others)
            draws = Draws(seed, 0, 0, torch.from_numpy(np.array(sides[0].keys)))
            results[name] = PROBES[name](
                encoder, *sides, size=size, draws=draws, **({"device": device} if name in WHOLE else {})
            )
    return {
        "model": _name(model),
        "kind": kind,
        "data": data.name if isinstance(data, ImageSet) else train_x.meta.get("data") if data is None else str(data),
        "train": len(train_x),
        "test": len(test_x),
        "labelled": {"train": _n_labelled(train_x), "test": _n_labelled(test_x)},
        "size": size,
        "protocols": results,
        "verdict": describe(results),
    }


def hold_out(table: Embeddings) -> tuple[Embeddings, Embeddings]:
    """Train and test rows: the fifth of the images whose shuffled keys come first is held out."""
    train, test = _split(table.keys)
    return table.rows(train), table.rows(test)


def _split(keys: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " k"]]:
    order = Draws(0, 0, 0, torch.from_numpy(np.array(keys))).bits("hold out").argsort().numpy()
    n_test = max(1, len(order) // 5)
    return np.sort(order[n_test:]), np.sort(order[:n_test])


def _n_labelled(table: Embeddings) -> int:
    return 0 if table.labels is None else int((np.asarray(table.labels) >= 0).sum())


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
        encoder, config = load_with_config(model, trained=trained)
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
    return file.is_file() and bool(tomllib.loads(file.read_text(encoding="utf-8")).get("labels_hash"))


def _table(model: Any) -> Embeddings:
    return model if isinstance(model, Embeddings) else Embeddings.load(Path(model))


def _name(model: Any) -> str:
    return str(model) if isinstance(model, str | os.PathLike) else type(model).__name__


def _kind(model: Any, trained: bool) -> str:
    if isinstance(model, str) and model == PIXELS:
        return "pixels"
    return "learned" if trained else "untrained"


def _official_splits(data: str) -> tuple[str, str | None]:
    if data in DATASETS and "test" in SPLITS.get(data, ("test",)):
        return f"{data}:train", f"{data}:test"
    return data, None


def _check_classes(train: ImageSet, test: ImageSet) -> None:
    """Embeddings match classes by name; those of test must be known to train."""
    unknown = sorted(set(test.classes or ()) - set(train.classes or test.classes or ()))
    if unknown:
        raise DataError(f"--test: has classes that the training images lack: {', '.join(unknown[:5])}")


def _alignment(encoder: Encoder, images: ImageSet, size: int, seed: int, device: str) -> float:
    """How close a crop lies to another crop of the same image, for up to 2,000 images."""
    ids = np.argsort(images.keys)[:N_ALIGNED]
    part = images.subset(ids)
    (view,) = weak(size)
    with torch.inference_mode():
        both = []
        for name in ("a", "b"):
            draws = Draws(seed, 0, 0, torch.from_numpy(part.keys)).child(name)
            rows = [np.arange(i, min(i + 256, len(part))) for i in range(0, len(part), 256)]
            seen = []
            for r in rows:
                mine = Draws(seed, 0, 0, draws.keys[torch.from_numpy(r)]).child(name)
                seen.append(encoder.eval()(view(part.source(r), mine).to(device)).float().cpu())
            both.append(torch.cat(seen))
    return alignment(*both)
