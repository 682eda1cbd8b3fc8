"""The verb `match`: descriptors compared on pairs of images with exact ground truth."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from likewise.embedding import load_with_config, weights_hash
from likewise.encoders import normaliser
from likewise.errors import DataError, UsageError
from likewise.evaluation.matching import (
    Describe,
    check_patches,
    compare,
    layers,
    mean_average_precision,
    read_pairs,
    rgb,
    sift,
    write_pairs,
)
from likewise.evaluation.matching.regions import EXTENT, MOST, opencv
from likewise.evaluation.matching.synthetic import MADE
from likewise.files import append_line, check_claim, claim, new_folder, read_json, read_lines, write_json
from likewise.images import open_images
from likewise.progress import bar, say
from likewise.types import Encoder

VERSION = "match-v1"
MATCH_FILES = ("settings.json", "pairs.jsonl", "match.json")
NO_MODEL = ("pixels", "none")


def match(
    model: Any,
    pairs: Path | str,
    *,
    descriptors: Sequence[str] | str = ("sift", "rgb", "layers"),
    side: int = 64,
    extent: float = EXTENT,
    most: int = MOST,
    trained: bool = True,
    make_from: Any = None,
    out: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Average precision of descriptors on pairs of images.

    `model` is a run, a saved encoder, an Encoder, or "pixels" for SIFT and raw RGB alone; or several of these by name,
    which then goes before their descriptors ("blurred layer2"). `pairs` is a folder in the
    layout of the Oxford pairs; with `make_from` it is first made, from 16 of those images (`seed` draws them and what
    is done to them). `descriptors`: "sift", "rgb", "layers" (each of the encoder's), "layer2", "output". Patches have
    `side` pixels and reach `extent` radii of their ellipses; an image has `most` regions at most.

    With `out` every pair is written down when it is done, and `resume` goes on after the last of them; with
    `make_from` it takes the pairs that were made, or makes them again where that was not finished.

    Returns {"pairs": [{scene, image, change, descriptor, ap}], "map": {descriptor: {change: .., "all": ..}},
    "skipped": [{scene, image, change, reason}], ..}. Raises DataError for pairs that cannot be used.
    """
    started = time.perf_counter()
    opencv()  # say what is missing before any work
    if resume and out is None:
        raise UsageError("--resume: needs --out, the folder to go on with")
    check_patches(side, extent, most)
    describers, about = _describers(model, descriptors, trained, device)
    folder = Path(pairs)
    made = {} if make_from is None else {"made_from": getattr(make_from, "name", str(make_from)), "seed": seed}
    settings = {"version": VERSION, "data": str(folder), **made, **about, "side": side, "extent": extent, "most": most}
    if out is not None and not resume:
        check_claim(out, "match", overwrite=overwrite)  # what is there stays until it is known that this can go on
    log, done = _open_log(Path(out), settings, resume, overwrite) if out is not None and resume else (None, [])
    if make_from is not None and not (resume and _were_made(folder, made)):
        write_pairs(open_images(make_from, max_bad=1.0), folder, seed=seed, overwrite=overwrite or resume)
        write_json(folder / MADE, made)  # last: with it, --resume takes them
    listed = read_pairs(folder)
    if out is not None and not resume:
        log, done = _open_log(Path(out), settings, resume, overwrite)
    seen = {(line["scene"], line["image"]) for line in done}
    todo = [pair for pair in listed if (pair.scene, pair.image) not in seen]
    with bar("match", len(listed)) as progress:
        for compared in compare(todo, describers, side=side, extent=extent, most=most):
            pair = compared.pair
            line: dict[str, Any] = {"scene": pair.scene, "image": pair.image, "change": pair.change}
            line |= {"regions": list(compared.regions), "possible": compared.possible, "ap": compared.ap}
            if compared.reason:
                say(f"{pair.scene} {pair.image}: {compared.reason}; left out")
                line["reason"] = compared.reason
            if log is not None:
                append_line(log, line)
            done.append(line)
            progress.update(len(done), f"{pair.scene} {pair.image}")
    result = {**settings, **_result(done), "seconds": time.perf_counter() - started}
    if not result["pairs"]:
        raise DataError(f"pairs {folder}: none can be measured; {_skipped(result['skipped'])}")
    if out is not None:
        write_json(Path(out) / "match.json", result)
    return result


def _were_made(folder: Path, made: dict[str, Any]) -> bool:
    """Whether all pairs of a folder were made, from these images."""
    if not (folder / MADE).is_file():
        return False
    before = read_json(folder / MADE)
    for name, value in made.items():
        if before.get(name) != value:
            raise UsageError(f"--resume: the pairs {folder} have {name}={before.get(name)}, not {value}; choose others")
    return True


def _describers(
    model: Any, descriptors: Sequence[str] | str, trained: bool, device: str
) -> tuple[list[Describe], dict[str, Any]]:
    """What is compared, and what tells it from other comparisons."""
    names = [name.strip() for name in (descriptors.split(",") if isinstance(descriptors, str) else descriptors)]
    fixed: dict[str, Describe] = {"sift": sift, "rgb": rgb}
    for name in names:
        if not (name in fixed or name in ("layers", "output") or re.fullmatch(r"layer\d+", name)):
            raise UsageError(f"descriptors={name!r}: unknown; expected sift, rgb, layers, layer1, layer2, .. or output")
    made = [fixed[name] for name in dict.fromkeys(names) if name in fixed]
    learned = [name for name in names if name not in fixed]
    about: dict[str, Any] = {"descriptors": names, "models": {}}
    for name, one in (model if isinstance(model, Mapping) else {"": model}).items():
        if not isinstance(one, Encoder) and str(one) in NO_MODEL:
            if not trained:
                raise UsageError(f"--untrained: {one!r} is no model that was trained; leave it out")
            if not made or set(learned) - {"layers"}:
                raise UsageError(f"descriptors={learned[0]!r}: needs a model, not {one!r}; pixels have sift and rgb")
        elif learned:
            encoder = one if isinstance(one, Encoder) else load_with_config(one, trained=trained)[0]
            before = f"{name} " if name else ""
            channels = normaliser(encoder).channels
            made.append(layers(encoder.to(device), channels=channels, only=learned, name=before))
            who = type(encoder).__name__ if isinstance(one, Encoder) else str(one)
            about["models"][name or who] = {"model": who, "trained": trained, "weights": weights_hash(encoder)}
    return made, about


def _open_log(out: Path, settings: dict[str, Any], resume: bool, overwrite: bool) -> tuple[Path, list[dict[str, Any]]]:
    """The file of finished pairs, and those in it."""
    log = out / "pairs.jsonl"
    if resume and (out / "settings.json").is_file():
        claim(out, "match", overwrite=True)
        before = read_json(out / "settings.json")
        for name, value in settings.items():
            if before.get(name, value) != value:
                raise UsageError(f"--resume {out}: was begun with {name}={before[name]}, not {value}")
        return log, read_lines(log)
    new_folder(out, "match", MATCH_FILES, overwrite=overwrite or resume)
    write_json(out / "settings.json", settings)
    return log, []


def _result(done: list[dict[str, Any]]) -> dict[str, Any]:
    about = ("scene", "image", "change")
    rows = [
        {**{key: line[key] for key in about}, "descriptor": name, "ap": ap}
        for line in done
        for name, ap in line["ap"].items()
    ]
    skipped = [{key: line[key] for key in (*about, "reason")} for line in done if "reason" in line]
    return {"pairs": rows, "map": mean_average_precision(rows), "skipped": skipped}


def _skipped(skipped: list[dict[str, Any]]) -> str:
    first = skipped[0]
    more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    return f"{first['scene']} {first['image']}: {first['reason']}{more}"
