"""Every image is read once: hashed, decoded, kept, or quarantined with its reason."""

import os
import warnings
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from likewise.draws import word
from likewise.errors import DataError, UsageError
from likewise.images.datasets import DATASETS, named
from likewise.images.decode import MAX_PIXELS, Picture, Unusable
from likewise.images.sources import Files, Items, find
from likewise.progress import bar

CANNOT_BE_READ = "cannot be read"
N_NAMED = 10  # bad files that a line names


@dataclass(frozen=True)
class Reading:
    """What one pass over a listing found. Rows are the usable images, in listing order."""

    contents: Int[np.ndarray, " n"]  # hash of each image's content: equal for exact copies
    positions: Int[np.ndarray, " n"]  # in the listing
    shapes: Int[np.ndarray, "n 3"]  # channels, height, width as kept
    short_sides: Int[np.ndarray, " n"]  # of the originals
    cut: Bool[np.ndarray, " n"]
    bad: list[tuple[int, str]]  # positions in the listing, and reasons
    modes: dict[str, int]

    @property
    def keys(self) -> Int[np.ndarray, " n"]:
        """The contents, with exact copies numbered: the first keeps its hash, each later one mixes its number in."""
        keys, seen = self.contents.copy(), Counter[int]()
        for i in np.flatnonzero(_repeated(self.contents)):
            content = int(self.contents[i])
            if seen[content]:
                keys[i] = word(content, "copy", seen[content])
            seen[content] += 1
        return keys


def contents_of(keys: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The contents again, from the `keys` of a reading: what is equal for exact copies."""
    contents, row_of = np.array(keys), {int(key): i for i, key in enumerate(keys)}
    for key in row_of:
        n = 1
        while (row := row_of.get(word(key, "copy", n))) is not None:
            contents[row] = key
            n += 1
    return contents


def scan(
    data: Any, *, threads: int = 2, max_bad: float | str | None = None, max_pixels: int = MAX_PIXELS
) -> dict[str, Any]:
    """Read every image of `data` and say what is there.

    Returns {"images": usable, "bad": [{"path", "reason"}], "duplicates": groups of paths of exact copies, "cut": images
    whose long side is cut at 4 to 1, "modes": {Pillow's mode: images}, "others": {ending: files}, which are no images
    by their endings and were not read}. Raises DataError when more than `max_bad`
    (0.01 or "1%"; None: any share) are unusable, or when there are no images at all.
    """
    limit = None if max_bad is None else share(max_bad)
    listing = locate(data)
    reading = read_all(listing, threads=threads, max_pixels=max_pixels)
    if limit is not None:
        check_bad(listing.paths, reading, limit)
    return summary(listing, reading)


def summary(listing: Files | Items, reading: Reading) -> dict[str, Any]:
    """What one pass over a listing found, as `scan` returns it."""
    paths = [listing.paths[i] for i in reading.positions]
    return {
        "images": len(paths),
        "bad": [{"path": listing.paths[i], "reason": reason} for i, reason in reading.bad],
        "duplicates": copies(reading.contents, paths),
        "cut": int(reading.cut.sum()),
        "modes": reading.modes,
        "others": dict(listing.others) if isinstance(listing, Files) else {},
    }


def locate(data: Any, name: str | None = None) -> Files | Items:
    """The listing of anything that `open_images` takes. A named set goes before a file: `./mnist` is the folder."""
    if isinstance(data, str) and data.partition(":")[0] in DATASETS:
        return named(data) if name is None else replace(named(data), name=name)
    listing = find(data, name)
    if not len(listing):
        raise DataError(f"data {listing.name}: holds no image; expected at least one")
    return listing


def lasting(name: str) -> str:
    """The name of DATA as it is to be written down: of a file or folder the absolute path, which holds anywhere."""
    named_set = name.partition(":")[0] in DATASETS
    return name if named_set or not os.path.exists(name) else os.path.abspath(name)


def read_all(
    listing: Files | Items,
    *,
    threads: int = 2,
    side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    keep: Callable[[UInt8[np.ndarray, "c h w"]], object] = lambda pixels: None,
) -> Reading:
    """Load every image by a few threads; `keep` is given the usable ones' pixels, in listing order."""
    # Numbers alone, and packed: a million images are no place for an object each.
    contents, positions, shapes, short_sides = (array("q") for _ in range(4))
    cut = bytearray()
    modes = Counter[str]()
    bad: list[tuple[int, str]] = []

    def load(i: int) -> tuple[int, Picture] | str:
        try:
            return listing.load(i, side, max_pixels)
        except Unusable as error:
            return str(error)

    with bar("read images", len(listing)) as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata is no news here; broken files are counted
        for i, loaded in enumerate(_in_order(load, len(listing), threads)):
            if isinstance(loaded, str):
                bad.append((i, loaded))
            else:
                content, picture = loaded
                keep(picture.pixels)
                contents.append(content)
                positions.append(i)
                shapes.extend(picture.pixels.shape)
                short_sides.append(picture.short_side)
                cut.append(picture.cut)
                modes[picture.mode] += 1
            progress.update(i + 1)
    return Reading(
        np.array(contents, np.int64),
        np.array(positions, np.int64),
        np.array(shapes, np.int64).reshape(-1, 3),
        np.array(short_sides, np.int64),
        np.array(cut, np.bool_),
        bad,
        dict(sorted(modes.items())),
    )


def share(max_bad: float | str) -> float:
    """0.01, "0.01" and "1%" are the same share."""
    try:
        text = str(max_bad).strip()
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"max_bad={max_bad}: expected a share, from 0 to 1 or from 0% to 100%")
    return value


def check_bad(paths: Sequence[str], reading: Reading, limit: float) -> None:
    """Refuse a listing of which more than the share `limit` is unusable."""
    n_bad = len(reading.bad)
    if n_bad and n_bad / len(paths) > limit:
        why = f"more than max_bad={limit:.4g} allows"
        raise DataError(f"{n_bad} of {len(paths)} images cannot be used, {why}: {named_bad(paths, reading)}")


def named_bad(paths: Sequence[str], reading: Reading) -> str:
    """The first unusable files with their reasons."""
    n_bad = len(reading.bad)
    shown = ", ".join(f"{paths[i]} ({reason})" for i, reason in reading.bad[:N_NAMED])
    return shown + (f", and {n_bad - N_NAMED} more" if n_bad > N_NAMED else "")


def copies(contents: Int[np.ndarray, " n"], paths: Sequence[str]) -> list[list[str]]:
    """Groups of paths with the same content, in listing order."""
    groups: dict[int, list[str]] = {}
    for i in np.flatnonzero(_repeated(contents)):
        groups.setdefault(int(contents[i]), []).append(paths[int(i)])
    return list(groups.values())


def _repeated(values: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse.reshape(-1)] > 1)


def _in_order(load: Callable[[int], Any], n: int, threads: int) -> Iterator[Any]:
    """load(0), load(1), ... by threads, with only a few results waiting."""
    if threads < 1:
        raise UsageError(f"threads={threads}: expected at least 1")
    waiting: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for i in range(n):
                waiting.append(pool.submit(load, i))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
