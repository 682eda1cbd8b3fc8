"""Decoded pixels: in memory, memory-mapped from the cache on disk, or decoded again on every read.

The cache has two parts. `pixels/<content>` holds the pixels of a set and is named by its images' keys, so a folder and
a .zip of the same images share one. `index/<listing>.npz` remembers what reading a listing found, as long as no path,
size or time of modification in it changes, so that a second opening reads no image at all. Whatever is written
appears whole or not at all.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from jaxtyping import Int, UInt8

from likewise.errors import DataError, UsageError
from likewise.files import write, write_array
from likewise.images.decode import Unusable
from likewise.images.scan import Reading
from likewise.images.sources import Files

FORMAT = 2  # of both parts; another number starts anew
DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)  # what reading a damaged part raises
DAY = 86_400.0  # seconds


class Packed:
    """All pixels in one flat array, one image after the other."""

    def __init__(self, flat: UInt8[np.ndarray, " bytes"], shapes: Int[np.ndarray, "n 3"]) -> None:
        self.flat, self.shapes = flat, shapes
        self.ends = shapes.prod(1).cumsum()
        even = len(shapes) > 0 and bool((shapes == shapes[0]).all())
        self.block = flat.reshape(len(shapes), *shapes[0]) if even else None

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "c h w"]:
        shape, end = self.shapes[row], self.ends[row]
        return self.flat[end - shape.prod() : end].reshape(shape)


class Decoded:
    """Images decoded when they are read: for sets that the cache has no room for. Gives the same bits."""

    block: UInt8[np.ndarray, "n c h w"] | None = None

    def __init__(self, files: Files, reading: Reading, side: int | None, max_pixels: int) -> None:
        self.files, self.reading, self.side, self.max_pixels = files, reading, side, max_pixels
        self.shapes = reading.shapes  # known without decoding anything

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "c h w"]:
        position = int(self.reading.positions[row])
        try:
            content, picture = self.files.load(position, self.side, self.max_pixels)
        except Unusable as error:
            raise DataError(f"{self.files.paths[position]}: could be read before, and now: {error}") from None
        if content != self.reading.contents[row]:
            raise DataError(f"{self.files.paths[position]}: has changed since it was first read")
        return picture.pixels


Store = Packed | Decoded  # `block` holds all pixels, where all images have one shape


class Cache:
    """One folder of decoded pixels, shared by all sets, processes and runs."""

    def __init__(self, folder: Path | str | None = None, limit: int | str | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder()
        asked = limit if limit is not None else os.environ.get("LIKEWISE_CACHE_LIMIT") or None
        self._limit = None if asked is None else parse_bytes(asked)

    def limit(self) -> int:
        """The most bytes that one set may take: as asked, or half of the free disk and at most 50 GB."""
        if self._limit is not None:
            return self._limit
        place = self.folder.absolute()
        while not place.exists():
            place = place.parent
        return min(50 * 10**9, shutil.disk_usage(place).free // 2)

    def remember(self, name: str, reading: Reading) -> None:
        """Write down what reading a listing found."""
        about = json.dumps({"bad": reading.bad, "modes": reading.modes})
        (self.folder / "index").mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {field: getattr(reading, field) for field in _ARRAYS}
        write(self._index(name), lambda file: np.savez(file, about=np.array(about), **arrays))

    def recall(self, name: str) -> Reading | None:
        """What reading a listing found last time."""
        try:
            with open(self._index(name), "rb") as file, np.load(file, allow_pickle=False) as saved:
                about = json.loads(str(saved["about"]))
                arrays = {field: saved[field] for field in _ARRAYS}
        except DAMAGE:
            return None
        return Reading(**arrays, bad=[(i, reason) for i, reason in about["bad"]], modes=about["modes"])

    def open(self, keys: Int[np.ndarray, " n"], side: int | None) -> tuple[Packed, Int[np.ndarray, " n"]] | None:
        """The pixels of images with these keys, and the row of each."""
        folder = self.pixels(keys, side)
        try:
            shapes = np.load(folder / "shapes.npy", allow_pickle=False)
            order = np.load(folder / "keys.npy", allow_pickle=False)
            flat = np.memmap(folder / "pixels.u8", np.uint8, "r")
        except DAMAGE:
            return None
        if len(flat) != shapes.prod(1).sum() or not np.array_equal(np.sort(order), np.sort(keys)):
            return None
        by_key = np.argsort(order)
        return Packed(flat, shapes), by_key[np.searchsorted(order[by_key], keys)]

    def pixels(self, keys: Int[np.ndarray, " n"], side: int | None) -> Path:
        digest = hashlib.blake2b(f"{FORMAT} {side} ".encode() + np.sort(keys).tobytes(), digest_size=16)
        return self.folder / "pixels" / digest.hexdigest()

    def _index(self, name: str) -> Path:
        return self.folder / "index" / f"{name}.npz"


class Writer:
    """A set on its way into the cache. It gives up quietly when the set is too large or the disk is full."""

    def __init__(self, cache: Cache, n_images: int) -> None:
        self.cache, self.n_images, self.n_done, self.n_bytes = cache, n_images, 0, 0
        self.limit = cache.limit()
        self.folder: Path | None = None
        try:
            place = cache.folder / "pixels"
            place.mkdir(parents=True, exist_ok=True)
            _sweep(place)
            self.folder = Path(tempfile.mkdtemp(prefix=".", dir=place))
            self.file = open(self.folder / "pixels.u8", "wb")  # noqa: SIM115 (closed by finish or abandon)
        except OSError:
            self.abandon()

    def append(self, pixels: UInt8[np.ndarray, "c h w"]) -> None:
        if self.folder is None:
            return
        self.n_done += 1
        self.n_bytes += pixels.nbytes
        expected = self.n_bytes * self.n_images // self.n_done if self.n_done >= 1_000 else self.n_bytes
        try:
            if max(expected, self.n_bytes) > self.limit:
                self.abandon()
            else:
                self.file.write(np.ascontiguousarray(pixels).data)
        except OSError:
            self.abandon()

    def finish(self, keys: Int[np.ndarray, " n"], shapes: Int[np.ndarray, "n 3"], side: int | None) -> None:
        """Put the whole set in its place, unless another process was faster."""
        if self.folder is None:
            return
        target = self.cache.pixels(keys, side)
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            write_array(self.folder / "keys.npy", keys)
            write_array(self.folder / "shapes.npy", shapes)
            if self.cache.open(keys, side) is None:
                shutil.rmtree(target, ignore_errors=True)  # damaged, if it is there at all
                os.rename(self.folder, target)
                self.folder = None
        except OSError:
            pass
        self.abandon()

    def abandon(self) -> None:
        """Leave nothing behind."""
        if self.folder is not None:
            if hasattr(self, "file"):
                with suppress(OSError):  # closing writes what is left, and the disk may be full
                    self.file.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None


_ARRAYS = ("contents", "positions", "shapes", "short_sides", "cut")


def listing_name(files: Files, side: int | None, max_pixels: int) -> str:
    """The name of what is remembered of a listing. Another Pillow may find other files usable."""
    text = f"{FORMAT} {files.fingerprint} {side} {max_pixels} {PIL.__version__}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def cache_folder() -> Path:
    """$LIKEWISE_CACHE, or where this system keeps what can be made again."""
    if os.environ.get("LIKEWISE_CACHE"):
        return Path(os.environ["LIKEWISE_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "likewise"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "likewise" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "likewise"


def parse_bytes(text: int | str) -> int:
    """
    >>> parse_bytes("1.5 GB"), parse_bytes(0)
    (1500000000, 0)
    """
    words = str(text).strip().upper()
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3), ("B", 1), ("", 1)):
        if words.endswith(unit):
            with suppress(ValueError, OverflowError):  # no number, or an infinite one
                n_bytes = int(float(words.removesuffix(unit)) * factor)
                if n_bytes >= 0:
                    return n_bytes
            break
    raise UsageError(f"cache_limit={text}: expected bytes, such as 20GB")


def _sweep(folder: Path, now: Callable[[], float] = time.time) -> None:
    """Remove what writers left that were killed: temporary folders untouched for a day."""
    for left in folder.glob(".*"):
        with suppress(OSError):  # another process may sweep, too
            touched = max(file.stat().st_mtime for file in (left, *left.iterdir()))  # a folder does not know of writing
            if now() - touched > DAY:
                shutil.rmtree(left, ignore_errors=True)
