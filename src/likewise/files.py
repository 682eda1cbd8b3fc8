"""Writing so that nothing is lost: a temporary file in the same folder, flushed to disk, then renamed."""

import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from likewise.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np


MARK = ".likewise"  # the file that says which kind of folder likewise made


def write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Let `fill` write the bytes of `path`; a reader sees the old file or the whole new one."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    write(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode(errors="replace"))  # bytes of an argument that are no UTF-8 are no valid TOML or JSON


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_array(path: Path, array: "np.ndarray") -> None:
    import numpy as np

    write(path, lambda file: np.save(file, array, allow_pickle=False))


def new_folder(
    path: Path | str, kind: str, ours: Iterable[str], *, overwrite: bool = False, argument: str = "--out"
) -> Path:
    """An empty place for results of a `kind`, such as "run". A folder with content is refused, unless `overwrite`: then
    the files and folders named in `ours` (what likewise writes there) are deleted, and nothing else is."""
    path = claim(path, kind, overwrite=overwrite, argument=argument)
    for name in ours:
        _delete(path / name)
    return path


def claim(path: Path | str, kind: str, *, overwrite: bool = False, argument: str = "--out") -> Path:
    """A folder marked as likewise's of a `kind`: a new one, or with `overwrite` one marked so. Nothing is deleted."""
    path, made = check_claim(path, kind, overwrite=overwrite, argument=argument)
    _make(path, argument, "" if made == kind else kind)  # a mark that is there may be locked: it stays the same file
    return path


def check_claim(path: Path | str, kind: str, *, overwrite: bool = False, argument: str = "--out") -> tuple[Path, str]:
    """Whether a folder can be claimed, without a trace: the path and the mark that is there, or a UsageError.

    What is there without the mark is somebody else's (images, it may be), and refused.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{argument} {path}: is a file; expected a new folder")
    content = sorted(file.name for file in path.iterdir() if file.name != MARK) if path.is_dir() else []
    made = (path / MARK).read_text().strip() if (path / MARK).is_file() else ""
    if content:
        if not overwrite:
            raise UsageError(f"{argument} {path}: the folder is not empty; pass --overwrite, or choose another")
        if made not in ("", kind):
            raise UsageError(f"{argument} {path}: is a {made} that likewise made, no {kind}; choose another folder")
        if not made:
            raise UsageError(
                f"{argument} {path}: holds {content[0]}, but is no {kind} that likewise made; nothing was changed, "
                "choose another folder"
            )
    return path, made


def empty_folder(path: Path | str, argument: str) -> Path:
    """A folder for the user's own images, without a mark; one with content is refused."""
    path = check_empty(path, argument)
    _make(path, argument)
    return path


def check_empty(path: Path | str, argument: str) -> Path:
    """A path that is no folder yet or an empty one, or a UsageError."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(
            f"{argument} {path}: {'is not empty' if path.is_dir() else 'is a file'}; expected a new folder"
        )
    return path


def read_json(path: Path) -> Any:
    """The content of a JSON file, or a DataError that names it."""
    return _parsed(path, json.loads, "JSON")


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file, or a DataError that names it."""
    return _parsed(path, tomllib.loads, "TOML")


def _parsed(path: Path, parse: Callable[[str], Any], kind: str) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except ValueError as error:  # of the parser, or of text that is no UTF-8
        raise DataError(f"{path}: is not valid {kind} ({error})") from None


def read_array(path: Path) -> "np.ndarray":
    """An .npy file, memory-mapped, or a DataError that names it."""
    import numpy as np

    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: is not an array that can be read ({error})") from None
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path}: is an archive of arrays; expected one, as numpy.save writes it")
    return found


def read_lines(path: Path) -> list[Any]:
    """The values of a JSON Lines file, none where there is no file. A last line that was cut short is left out."""
    lines, values = path.read_bytes().splitlines() if path.is_file() else [], []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise DataError(f"{path}: line {number} is not valid JSON ({error})") from None
    return values


def append_line(path: Path, value: Any) -> None:
    """Add a value to a JSON Lines file, on disk when this returns. A last line that was cut short makes way for it."""
    with open(path, "a+b") as file:
        file.seek(max(0, file.tell() - 1))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            tail = file.read().rpartition(b"\n")[2]
            try:
                json.loads(tail)
                file.write(b"\n")
            except ValueError:  # a part of a value
                file.truncate(file.tell() - len(tail))
        file.write(json.dumps(value).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _make(path: Path, argument: str, kind: str = "") -> None:
    """Create a folder, and mark it where a kind is given."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if kind:
            write_text(path / MARK, kind + "\n")
    except OSError as error:
        raise UsageError(f"{argument} {path}: cannot be created ({error.strerror})") from None


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            _delete(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
