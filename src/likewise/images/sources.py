"""Where images come from: each kind of source becomes a listing of names, with a way to load image i.

`Files` are bytes somewhere (a folder, a list, members of an archive); `Items` are pixels at hand (arrays, tensors,
Pillow images). Their `load` gives the hash of the image's content and its Picture, or raises Unusable.
"""

import csv
import hashlib
import os
import posixpath
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from likewise.errors import DataError, UsageError
from likewise.files import MARK
from likewise.images.decode import MIN_SIDE, Picture, Unusable, decode, shrink, suffixes, whole
from likewise.types import did_you_mean

ARCHIVES = (".zip", ".tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
ACCEPTED = "a folder, a .txt or .csv list, a .zip or .tar, an .npz, or a named set"
N_ENDINGS = 10  # that a line names


@dataclass(frozen=True)
class Files:
    """Images that are encoded: in files or in members of an archive."""

    name: str
    paths: list[str]
    read: Callable[[int], bytes]
    fingerprint: str  # changes when a path, size or time of modification does
    labels: list[str] | None = None  # those of a .csv list
    files: Sequence[Path] | None = None  # where each lies; None in an archive
    others: Mapping[str, int] = field(default_factory=dict)  # how many have other endings, by ending

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, i: int, side: int | None, max_pixels: int) -> tuple[int, Picture]:
        try:
            data = self.read(i)
        except (OSError, ValueError) as error:  # ValueError: its name holds a null byte
            raise Unusable(f"cannot be read ({(getattr(error, 'strerror', None) or str(error)).lower()})") from None
        return content_of(data), decode(data, side, max_pixels)


@dataclass(frozen=True)
class Items:
    """Images in memory: one array "n c h w", or a sequence of pixels "c h w" and Pillow images."""

    name: str
    paths: list[str]
    images: UInt8[np.ndarray, "n c h w"] | Sequence[Any]
    labels: Int[np.ndarray, " n"] | None = None
    classes: list[str] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, i: int, side: int | None, max_pixels: int) -> tuple[int, Picture]:
        item = self.images[i]
        if isinstance(item, Image.Image):
            pixels, mode = whole(item, max_pixels), item.mode
        else:
            pixels, mode = item, "L" if len(item) == 1 else "RGB"
        return content_of_pixels(pixels), shrink(pixels, side, mode)


def content_of(*parts: bytes | memoryview) -> int:
    """A signed 64-bit hash of bytes: what makes two images the same image."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little", signed=True)


def content_of_pixels(pixels: UInt8[np.ndarray, "c h w"]) -> int:
    return content_of(str(pixels.shape).encode(), np.ascontiguousarray(pixels).data)


def find(data: Any, name: str | None = None) -> Files | Items:
    """The listing of anything that is no named set."""
    if isinstance(data, str) and not data:
        raise UsageError(f"data: is empty; expected {ACCEPTED}")
    if isinstance(data, str | os.PathLike):
        return _at(Path(data), name or str(data))
    if isinstance(data, np.ndarray) or _is_tensor(data):
        return from_array(data, name or "arrays")
    if isinstance(data, Sequence) or (
        hasattr(data, "__len__") and hasattr(data, "__getitem__") and not hasattr(data, "keys")
    ):
        return _sequence(data, name or "images")
    raise UsageError(f"data: got {type(data).__name__}; expected {ACCEPTED}, an array, or a sequence of images")


def from_array(
    images: Any,
    name: str,
    labels: Int[np.ndarray, " n"] | None = None,
    classes: list[str] | None = None,
    paths: list[str] | None = None,
) -> Items:
    """A listing of an array or tensor of images."""
    pixels = as_pixels(images, "images")
    return Items(name, paths or _numbers(name, len(pixels)), pixels, labels, classes)


def as_pixels(images: Any, what: str) -> UInt8[np.ndarray, "n c h w"]:
    """An array or tensor "n h w", "n h w c" or "n c h w", uint8 or floats in [0, 1], as uint8 "n c h w".

    Where both readings are possible, channels come last in arrays and first in tensors.
    """
    tensor = _is_tensor(images)
    if tensor and images.is_floating_point():
        images = images.detach().float()  # numpy has no bfloat16
    x = images.detach().cpu().numpy() if tensor else np.asarray(images)
    if x.ndim == 3 and x.shape[2] == 3 and min(x.shape[:2]) >= MIN_SIDE:
        raise DataError(
            f"{what}: shape {x.shape}, one colour image it seems; expected (n, h, w, c), or images in a list"
        )
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4:
        first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
        if last and not (first and tensor):
            x = x.transpose(0, 3, 1, 2)
        elif not first:
            raise DataError(f"{what}: shape {x.shape}; expected 1 or 3 channels, (n, h, w, c) or (n, c, h, w)")
    else:
        raise DataError(f"{what}: shape {x.shape}; expected (n, h, w), (n, h, w, c) or (n, c, h, w)")
    if np.issubdtype(x.dtype, np.floating):
        if x.size and not (x.min() >= 0 and x.max() <= 1):
            raise DataError(f"{what}: floats from {x.min():g} to {x.max():g}; expected values in [0, 1], or uint8")
        x = np.floor(x * 255.0 + 0.5).astype(np.uint8)
    elif x.dtype != np.uint8:
        raise DataError(f"{what}: type {x.dtype}; expected uint8, or floats in [0, 1]")
    return np.ascontiguousarray(x)


def told_others(others: Mapping[str, int]) -> str:
    """How many files were left out, by the most frequent endings."""
    frequent = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:N_ENDINGS]
    endings = ", ".join(f"{n:,} {ending or 'without one'}" for ending, n in frequent)
    return f"left out by their endings: {endings}" + (", and others" if len(others) > N_ENDINGS else "")


def _at(path: Path, name: str) -> Files | Items:
    if path.is_dir():
        return _folder(path, name)
    archive, inside = _archive(path)
    if archive is not None:
        return _zip(archive, inside, name) if archive.suffix.lower() == ".zip" else _tar(archive, inside, name)
    if not path.exists():
        from likewise.images.datasets import DATASETS

        raise DataError(f"{path}: no such file or folder, and no named set{did_you_mean(str(path), DATASETS)}")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _npz(path, name)
    if suffix in (".txt", ".csv"):
        return _list(path, name)
    if path.name.lower().endswith(COMPRESSED):
        raise DataError(f"{path}: a compressed tar cannot be read by offset; expected an uncompressed .tar, or a .zip")
    raise DataError(f"{path}: expected {ACCEPTED}")


def _folder(root: Path, name: str) -> Files:
    if (root / MARK).is_file():  # whose small pictures are no images to learn from
        kind = (root / MARK).read_text().strip()
        raise DataError(f"{root}: is a folder of likewise's own ({kind}); expected the images themselves")
    others = Counter[str]()
    found = sorted(_walk(root, others))
    if not found:
        has = f" (but {told_others(others)})" if others else ""
        raise DataError(f"{root}: holds no images{has}; expected files that end in {' '.join(sorted(suffixes()))}")
    return replace(_files(root, found, name), others=others)


def _walk(root: Path, others: Counter[str]) -> Iterator[str]:
    """Relative paths of images; files with other endings are counted in `others`.

    Links are followed, but for those that lead out to a folder around the root. Each folder is read once: by its own
    path rather than by a link's, and by the first of several links. What likewise made below the root (a run with its
    pictures) is passed over.
    """
    around, seen = set(root.resolve().parents), set[tuple[int, int]]()
    folders, links = [""], list[str]()
    while folders or links:
        if not folders:
            links.sort(reverse=True)
            folders.append(links.pop())
        prefix = folders.pop()
        folder = root / prefix
        try:
            stat = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({(error.strerror or str(error)).lower()})") from None
        if (stat.st_dev, stat.st_ino) in seen or (prefix and any(entry.name == MARK for entry in entries)):
            continue
        seen.add((stat.st_dev, stat.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            linked = entry.is_symlink()
            if os.path.isdir(entry.path) if linked else entry.is_dir():
                if not (linked and Path(entry.path).resolve() in around):
                    (links if linked else folders).append(f"{prefix}{entry.name}/")
            elif not _is_image(entry.name):
                others[_ending(entry.name)] += 1
            elif entry.is_file() if not linked else os.path.isfile(entry.path) or not os.path.exists(entry.path):
                yield prefix + entry.name  # a broken link is listed, to be quarantined and not overlooked


def _files(root: Path, paths: list[str], name: str, labels: list[str] | None = None) -> Files:
    """Files below a folder. Of a million only the paths are kept: everything else is made when it is needed."""
    files = _Below(root, paths)
    shown = [shown if (shown := _shown(path)) != path else path for path in paths]
    fingerprint = _fingerprint(map(_stamp_or_none, files))
    return Files(name, shown, lambda i: files[i].read_bytes(), fingerprint, labels, files)


class _Below(Sequence[Path]):
    """Paths below a folder (absolute ones as they are)."""

    def __init__(self, root: Path, paths: list[str]) -> None:
        self.root, self.paths = root, paths

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, i: int) -> Path: ...
    @overload
    def __getitem__(self, i: slice) -> "_Below": ...
    def __getitem__(self, i: int | slice) -> "Path | _Below":
        return _Below(self.root, self.paths[i]) if isinstance(i, slice) else self.root / self.paths[i]


def _list(path: Path, name: str) -> Files:
    """A .txt with a path a line, or a .csv with a column `path` and perhaps `label`; relative to the list's folder."""
    labels = None
    if path.suffix.lower() == ".csv":
        rows = read_csv(path, ("path",))
        paths = [row["path"] for row in rows]
        labels = [row.get("label", "").strip() for row in rows]
        labels = labels if any(labels) else None
        if "" in paths:
            raise DataError(
                f"{path}: image {paths.index('') + 1} of {len(paths)} has no path; expected one in each row"
            )
    else:
        try:
            lines = path.read_bytes().decode("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: is not a list of paths ({error})") from None
        paths = [line.removesuffix("\r") for line in lines if line.strip()]
    if not paths:
        raise DataError(f"{path}: lists no images; expected one path a line, or a column `path`")
    return _files(path.parent, [path.removeprefix("./") for path in paths], name, labels)


def read_csv(path: Path, columns: Sequence[str], what: str = "") -> list[dict[str, str]]:
    """The rows of a .csv that must have these columns; "" where a row ends before one. Errors begin with `what`."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows, header = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{what}{path}: cannot be read as a .csv ({error})") from None
    for column in columns:
        if column not in header:
            raise DataError(f"{what}{path}: has the columns {', '.join(header) or 'none'}; expected one named {column}")
    return rows


def _archive(path: Path) -> tuple[Path | None, str]:
    """The archive that `path` is, or goes on inside of, and the folder in it ("" for all of it)."""
    for archive in (path, *path.parents):
        if archive.suffix.lower() in ARCHIVES and archive.is_file():
            inside = "" if archive == path else path.relative_to(archive).as_posix() + "/"
            return archive, inside
    return None, ""


def _zip(archive: Path, inside: str, name: str) -> Files:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {posixpath.normpath(info.filename): info for info in opened.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"{archive}: is not a .zip that can be read ({error})") from None
    listed, others = _members(archive, inside, members)
    for path in listed:
        info = members[inside + path]
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"{archive}: {info.filename} is encrypted, or packed in an unusual way; expected a plain .zip"
            )
    found = (members[inside + path] for path in listed)
    # Numbers alone: of a million members the archive's own records would take half a gigabyte.
    numbers = (n for i in found for n in (i.header_offset, i.compress_size, i.compress_type, i.file_size, i.CRC))
    places = np.fromiter(numbers, np.int64).reshape(-1, 5)
    stamps = ((path, *place[3:].tolist()) for path, place in zip(listed, places, strict=True))
    return Files(
        name,
        [_shown(path) for path in listed],
        lambda i: _read_zipped(archive, *places[i].tolist()),
        _fingerprint([_stamp(archive), *stamps]),
        others=others,
    )


def _read_zipped(archive: Path, offset: int, packed: int, how: int, size: int, crc: int) -> bytes:
    """One member, by its offset and through a file handle of its own: threads share nothing."""
    with open(archive, "rb") as file:
        file.seek(offset)
        header = file.read(30)
        if len(header) < 30:
            raise Unusable("truncated")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        file.seek(name_length + extra_length, os.SEEK_CUR)
        data = file.read(packed)
    if how == zipfile.ZIP_DEFLATED:
        try:
            # A member cannot grow beyond the size that the archive states for it.
            data = zlib.decompressobj(-15).decompress(data, max(size, 1))
        except zlib.error:
            raise Unusable("damaged in the archive") from None
    if zlib.crc32(data) != crc:
        raise Unusable("damaged in the archive")
    return data


def _tar(archive: Path, inside: str, name: str) -> Files:
    try:
        with tarfile.open(archive, "r:") as opened:
            every = {posixpath.normpath(info.name): info for info in opened}
            end = opened.offset
        with open(archive, "rb") as file:  # tarfile takes a damaged or a cut header for the end
            file.seek(end)
            if any(file.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"damaged at byte {end}")
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{archive}: is not an uncompressed .tar that can be read ({error})") from None
    members = {path: found for path in every if (found := _regular(every, path)) is not None}
    listed, others = _members(archive, inside, members)
    places = [(members[inside + path].offset_data, members[inside + path].size) for path in listed]

    def read(i: int) -> bytes:
        with open(archive, "rb") as file:
            file.seek(places[i][0])
            return file.read(places[i][1])

    stamps = [(path, *place) for path, place in zip(listed, places, strict=True)]
    shown = [_shown(path) for path in listed]
    return Files(name, shown, read, _fingerprint([_stamp(archive), *stamps]), others=others)


def _regular(members: Mapping[str, tarfile.TarInfo], path: str) -> tarfile.TarInfo | None:
    """The file in a .tar that a path leads to, by links (a symbolic one starts in its own folder); None for others."""
    info = members.get(path)
    for _ in range(40):  # links may go in circles
        if info is None or not (info.issym() or info.islnk()):
            break
        folder = posixpath.dirname(info.name) if info.issym() else ""
        info = members.get(posixpath.normpath(posixpath.join(folder, info.linkname)))
    return info if info is not None and info.isreg() and not info.issparse() else None


def _members(archive: Path, inside: str, names: Iterable[str]) -> tuple[list[str], Counter[str]]:
    """The images of an archive below the folder `inside`, with names relative to it; how many have other endings."""
    kept = [name[len(inside) :] for name in names if name.startswith(inside)]
    kept = [name for name in kept if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    listed, others = sorted(filter(_is_image, kept)), Counter(_ending(name) for name in kept if not _is_image(name))
    if not listed:
        where = f"{archive}, folder {inside.rstrip('/')}" if inside else str(archive)
        raise DataError(f"{where}: holds no images; expected members that end in {' '.join(sorted(suffixes()))}")
    return listed, others


def _npz(path: Path, name: str) -> Items:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: is not an .npz that can be read; expected what numpy.savez writes")
    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = {key: opened[key] for key in opened.files if key in ("images", "x", "labels", "y")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: is not an .npz that can be read ({error})") from None
    images = arrays.get("images", arrays.get("x"))
    if images is None:
        raise DataError(f"{path}: has no array named images or x")
    pixels = as_pixels(images, f"{path}, array images")
    labels = arrays.get("labels", arrays.get("y"))
    if labels is not None and (labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer)):
        raise DataError(f"{path}: labels have shape {labels.shape}, {labels.dtype}; expected {len(pixels)} integers")
    return Items(name, _numbers(path.name, len(pixels)), pixels, labels)


def _sequence(data: Sequence[Any], name: str) -> Items | Files:
    if len(data) == 0:
        raise DataError("data: an empty sequence; expected at least one image")
    if all(isinstance(data[i], str | os.PathLike) for i in range(len(data))):
        return _files(Path(), [os.fspath(p).removeprefix("./") for p in data], name)
    items: list[Any] = []
    for i in range(len(data)):
        item = data[i]
        if isinstance(item, Image.Image):
            items.append(item)
        elif isinstance(item, np.ndarray) or _is_tensor(item):
            items.append(as_pixels(item[None], f"data[{i}]")[0])
        else:
            raise UsageError(f"data[{i}]: got {type(item).__name__}; expected a Pillow image, an array or a tensor")
    return Items(name, _numbers(name, len(items)), items)


def _is_image(name: str) -> bool:
    return _ending(name) in suffixes()


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "detach") and hasattr(x, "cpu")


def _numbers(name: str, n: int) -> list[str]:
    name, digits = _shown(name), len(str(max(n - 1, 0)))
    return [f"{name}/{i:0{digits}d}" for i in range(n)]


def _stamp(file: Path) -> tuple[bytes, int, int]:
    stat = file.stat()
    return os.fsencode(file.absolute()), stat.st_size, stat.st_mtime_ns


def _stamp_or_none(file: Path) -> tuple[bytes, int, int]:
    try:
        return _stamp(file)
    except (OSError, ValueError):
        return os.fsencode(file.absolute()), -1, -1


def _fingerprint(stamps: Iterable[tuple]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for stamp in stamps:
        digest.update(repr(stamp).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _shown(path: str) -> str:
    """A path that can be printed, whatever bytes the file system holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace(os.sep, "/")
