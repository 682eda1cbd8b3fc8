"""What a report reads: run, embeddings and selection folders, told apart by the files they hold.

Every file but the one that gives a folder its kind may be missing; `missing` then names it.
"""

import base64
import csv
import json
import math
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from likewise.errors import DataError
from likewise.files import read_json

N_THUMBS = 2000  # of one embeddings folder; more cannot be told apart on a map
N_PICTURES = 12  # of one run
PICTURE_BYTES = 3_000_000  # of one run
THUMB_BYTES = 5_000_000  # of one embeddings folder; one third more in the HTML, as base64
MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


@dataclass(frozen=True)
class Run:
    path: Path
    name: str
    recipe: str  # the text of recipe.toml, as asked
    resolved: str  # the text of resolved.toml
    config: dict[str, Any]  # resolved.toml, or recipe.toml where that is all there is
    environment: dict[str, Any]
    status: dict[str, Any]
    scan: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    pictures: list[tuple[str, str]]  # name, data URI
    readme: str
    missing: list[str]
    notes: list[str]  # what was left out, and why


@dataclass(frozen=True)
class Vectors:
    """An embeddings folder, its images restricted to those that have a thumbnail (`ids`)."""

    path: Path
    name: str
    x: np.ndarray  # float32 "m d": of the images shown
    ids: list[int]  # "m"
    paths: list[str]  # "m"
    labels: list[str]  # "m"; empty where unknown
    thumbs: list[str]  # "m" data URIs
    n_images: int  # of the whole folder
    dim: int
    all_paths: list[str]
    meta: dict[str, Any]
    evaluations: list[dict[str, Any]]
    notes: list[str]


@dataclass(frozen=True)
class Picks:
    """A selection folder."""

    path: Path
    name: str
    ids: list[int]
    paths: list[str]
    gains: list[float | None]
    meta: dict[str, Any]
    notes: list[str]
    thumbs: dict[int, str]  # data URIs of the first picks, by id


def read_folders(folders: Sequence[Path | str] | Path | str) -> tuple[list[Run], list[Vectors], list[Picks]]:
    """Read each folder once, by its kind; a DataError names the one that is none of the three."""
    folders = [Path(folders)] if isinstance(folders, str | Path) else folders
    if not folders:
        raise DataError("report: no folder given; expected runs, embeddings or selections")
    known: dict[Path, Path] = {}
    for folder in folders:
        known.setdefault(Path(folder).resolve(), Path(folder))
    for path in tuple(known.values()):  # a selection brings the embeddings it was made from
        if (path / "selection.csv").is_file() and not (path / "x.npy").is_file():
            source = embeddings_of(path, _object(path / "selection.json"))
            if source is not None and (source / "x.npy").is_file():
                known.setdefault(source.resolve(), source.resolve())
    paths = list(known.values())
    runs, vectors, picks = [], [], []
    for path, name in zip(paths, short_names(paths), strict=True):
        if not path.is_dir():
            raise DataError(f"{path}: no such folder; expected a run, embeddings or a selection")
        if (path / "x.npy").is_file():
            vectors.append(_read_vectors(path, name))
        elif (path / "selection.csv").is_file():
            picks.append(_read_picks(path, name))
        elif any((path / file).is_file() for file in ("resolved.toml", "recipe.toml", "metrics.jsonl", "status.json")):
            runs.append(_read_run(path, name))
        else:
            raise DataError(
                f"{path}: neither a run (resolved.toml, metrics.jsonl), nor embeddings (x.npy), "
                "nor a selection (selection.csv)"
            )
    return runs, vectors, picks


def embeddings_of(selection: Path, meta: dict[str, Any]) -> Path | None:
    """The embeddings folder that a selection folder says, in its selection.json, that it was made from."""
    said = meta.get("embeddings")
    if not isinstance(said, str) or not said:
        return None
    moved = selection.parent / Path(said).name
    for path in (selection / said, selection.parent / said, Path(said), moved):
        if path.is_dir():
            return path
    return None


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many as tell them apart.

    >>> short_names([Path("a/run"), Path("b/run"), Path("c")])
    ['a/run', 'b/run', 'c']
    """
    parts = [path.absolute().parts for path in paths]
    names = []
    for mine in parts:
        n = 1
        while n < len(mine) and sum(other[-n:] == mine[-n:] for other in parts) > 1:
            n += 1
        names.append("/".join(mine[-n:]))
    return names


def _read_run(path: Path, name: str) -> Run:
    expected = ("resolved.toml", "environment.json", "metrics.jsonl", "status.json", "scan.json", "evaluation.jsonl")
    missing = [file for file in expected if not (path / file).is_file()]
    notes = []
    files = sorted(file for file in path.glob("pictures/*.png") if file.is_file())
    if not files:
        missing.append("pictures/")
    shown, room = [], PICTURE_BYTES
    for file in evenly(files, N_PICTURES):
        if file.stat().st_size <= room:
            shown.append(file)
            room -= file.stat().st_size
    if len(shown) < len(files):
        notes.append(f"{len(shown)} of the {len(files)} pictures of {name} are shown.")
    recipe, resolved = _text(path / "recipe.toml"), _text(path / "resolved.toml")
    which = "resolved.toml" if resolved else "recipe.toml"
    try:
        config = tomllib.loads(resolved or recipe)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path / which}: is not valid TOML ({error})") from None
    return Run(
        path=path,
        name=name,
        recipe=recipe,
        resolved=resolved,
        config=config,
        environment=_object(path / "environment.json"),
        status=_object(path / "status.json"),
        scan=_object(path / "scan.json"),
        metrics=_lines(path / "metrics.jsonl"),
        evaluations=_lines(path / "evaluation.jsonl"),
        pictures=[(file.stem, _data_uri(file)) for file in shown],
        readme=_text(path / "README.md"),
        missing=missing,
        notes=notes,
    )


def _read_vectors(path: Path, name: str) -> Vectors:
    try:
        x = np.load(path / "x.npy", mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path / 'x.npy'}: cannot be read as an array ({error})") from None
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"{path / 'x.npy'}: is {x.dtype} of shape {x.shape}; expected floats, (images, dimensions)")
    paths, labels = list[str](), list[str]()
    for item in _table(path / "items.csv", ("id", "path")):  # of a million images, two columns and no more
        paths.append(item["path"])
        labels.append(sys.intern(item.get("label") or ""))
    if len(paths) != len(x):
        raise DataError(f"{path}: x.npy has {len(x)} rows but items.csv {len(paths)}")
    found = {
        int(file.stem): file
        for file in sorted(path.glob("thumbs/*"))
        if file.suffix.lower() in MIME and file.stem.isascii() and file.stem.isdigit() and int(file.stem) < len(x)
    }
    ids = evenly(sorted(found), N_THUMBS)
    notes = []
    if not ids:
        notes.append(f"{name} has no thumbnails (thumbs/), so its images cannot be shown.")
    size = sum(found[i].stat().st_size for i in ids)
    if size > THUMB_BYTES:
        ids = evenly(ids, int(len(ids) * THUMB_BYTES / size))
        while sum(found[i].stat().st_size for i in ids) > THUMB_BYTES:
            ids = evenly(ids, len(ids) - max(1, len(ids) // 20))
    if 0 < len(ids) < len(x):
        notes.append(f"{len(ids):,} of the {len(x):,} images of {name} are shown, evenly spaced in the set.")
    rows = np.asarray(x[ids], dtype=np.float32).reshape(len(ids), x.shape[1])
    if not np.isfinite(rows).all():
        raise DataError(f"{path / 'x.npy'}: holds values that are not finite")
    return Vectors(
        path=path,
        name=name,
        x=rows,
        ids=ids,
        paths=[paths[i] for i in ids],
        labels=[labels[i] for i in ids],
        thumbs=[_data_uri(found[i]) for i in ids],
        n_images=len(x),
        dim=x.shape[1],
        all_paths=paths,
        meta=_object(path / "meta.json"),
        evaluations=_lines(path / "evaluation.jsonl"),
        notes=notes,
    )


def _read_picks(path: Path, name: str) -> Picks:
    rows = list(_table(path / "selection.csv", ("id", "path", "gain")))
    try:
        ids = [int(row["id"]) for row in rows]
        gains = [_finite(float(row["gain"])) if row["gain"] else None for row in rows]
    except ValueError as error:
        raise DataError(f"{path / 'selection.csv'}: holds what is no number ({error})") from None
    meta = _object(path / "selection.json")
    notes = [] if meta else [f"{name}: selection.json is missing, so method and quality are unknown."]
    thumbs = {i: _data_uri(path / "thumbs" / f"{i:06d}.webp") for i in ids if (path / f"thumbs/{i:06d}.webp").is_file()}
    return Picks(path, name, ids, [row["path"] or "" for row in rows], gains, meta, notes, thumbs)


def evenly(items: Sequence[Any], n: int) -> list[Any]:
    """At most n of the items, evenly spaced, the first among them.

    >>> evenly(range(10), 4)
    [0, 2, 5, 7]
    """
    if len(items) <= n:
        return list(items)
    return [items[i * len(items) // n] for i in range(n)]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = _finite(read_json(path))
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}; expected a JSON object")
    return value


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line cut short (the run goes on, or was killed) is passed over."""
    lines = _text(path).splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise DataError(f"{path}: line {number} is not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is no JSON object")
        rows.append(_finite(row))
    return rows


def _table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        absent = [column for column in columns if column not in (reader.fieldnames or ())]
        if absent:
            raise DataError(f"{path}: has no column {absent[0]!r}; expected {', '.join(columns)}")
        yield from reader


def _finite(value: Any) -> Any:
    """The same value with None for NaN and infinities, which browsers' JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return value


def _data_uri(path: Path) -> str:
    return f"data:{MIME[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
