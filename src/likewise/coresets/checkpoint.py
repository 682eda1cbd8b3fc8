"""What a long selection has so far, kept in one file, so that it can go on after a signal or a loss of power.

A selector that can go on names `checkpoint` among its parameters. It starts from what `kept` holds, if anything, and
calls `keep` wherever it could be taken up again: to the same bits as if it had never stopped.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from likewise.coresets.blocks import spans
from likewise.errors import DataError, Stopped, UsageError
from likewise.files import write_bytes

EVERY = 30.0  # seconds from one save to the next


class Kept(dict[str, np.ndarray]):
    """The arrays of a state, by name."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def __missing__(self, name: str) -> np.ndarray:
        raise DataError(f"{self.file}: lacks {name}; begin anew with --overwrite")


class Checkpoint:
    """The state of one selection, in `file`. It is written every so many seconds, each time whole or not at all.

    Once `stopping` holds anything (a signal that arrived) the next `keep` saves and raises Stopped.
    """

    def __init__(self, file: Path, *, stopping: Sequence[int] = (), every: float = EVERY) -> None:
        self.file, self.stopping, self.every = file, stopping, every
        self.kept = Kept(file)
        self.asked = ""
        self.saved = time.monotonic()

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Read what is there. Raises UsageError if it belongs to a selection that was asked for otherwise."""
        now = {
            name: json.dumps(value, default=str) for name, value in {**asked, "likewise": version("likewise")}.items()
        }
        self.asked = json.dumps(now)
        if not self.file.is_file():
            return
        try:
            with safe_open(self.file, "numpy") as tensors:
                begun = json.loads((tensors.metadata() or {})["asked"])
                self.kept.update({name: tensors.get_tensor(name) for name in tensors.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError):
            raise DataError(f"{self.file}: is damaged; begin anew with --overwrite") from None
        check_same(now, begun, self.file)

    def keep(self, **state: Tensor | np.ndarray | Sequence[int | float] | int | float) -> None:
        """Save these (tensors, arrays, lists, numbers), if it is time or a signal came. Cheap otherwise."""
        if not self.stopping and time.monotonic() - self.saved < self.every:
            return
        on_host = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in state.items()}
        arrays = {name: np.asarray(value, order="C") for name, value in on_host.items()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.file, save(arrays, metadata={"asked": self.asked}))
        self.saved = time.monotonic()
        if self.stopping:
            raise Stopped("stopped and saved; go on with --resume")


def check_same(asked: Mapping[str, str], begun: Mapping[str, str], where: Path) -> None:
    """Raises UsageError, naming the first difference, unless both selections are the same."""
    for name in {**asked, **begun}:
        if asked.get(name) != begun.get(name):
            had, have = (f"{name}={values.get(name)}" if name != "data" else name for values in (begun, asked))
            what = "other images or files" if name == "data" else f"{had}, not {have}"
            raise UsageError(f"--resume: {where} was begun with {what}; resume it with that, or pass --overwrite")


def fingerprint(arrays: Iterable[np.ndarray | None]) -> str:
    """A hash of the content, types and shapes of arrays, some of which may be absent."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(b"none" if array is None else f"{array.dtype.str} {array.shape}".encode())
        if array is not None:
            for span in spans(len(array), int(np.prod(array.shape[1:])), 1 << 20):
                digest.update(np.ascontiguousarray(array[span]).tobytes())
    return digest.hexdigest()
