"""small-NORB (LeCun, Huang, Bottou, 2004): toys under 18 azimuths, 9 elevations and 6 lights, in its binary format."""

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from likewise.errors import DataError
from likewise.images.datasets import _places

SET, STEM = "small-norb", "smallnorb-5x46789x9x18x6x2x96x96-training-"
TYPES = {0x1E3D4C51: "<f4", 0x1E3D4C53: "<f8", 0x1E3D4C54: "<i4", 0x1E3D4C55: "u1", 0x1E3D4C56: "<i2"}
AIRPLANE = 2


class Poses(NamedTuple):
    """One object from all sides: images, and for each where it was seen from (of 18 and 9) and its light (of 6)."""

    images: UInt8[np.ndarray, "n h w"]
    azimuth: Int[np.ndarray, " n"]
    elevation: Int[np.ndarray, " n"]
    light: Int[np.ndarray, " n"]


def read_matrix(file: Path) -> Shaped[np.ndarray, "..."]:
    """A matrix of NORB: its type, its number of axes, their lengths (three at least are written), the data."""
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error})") from None
    magic, n_axes = (int(v) for v in np.frombuffer(data[:8].ljust(8, b"\0"), "<i4"))
    if magic not in TYPES or not 0 <= n_axes <= 8:
        raise DataError(f"{file}: begins with {magic:#x}; expected a matrix of NORB")
    start = 8 + 4 * max(3, n_axes)
    if len(data) < start:
        raise DataError(f"{file}: ends within its header of {start} bytes")
    shape = np.frombuffer(data, "<i4", n_axes, offset=8)
    values = np.frombuffer(data[start:], TYPES[magic])
    if values.size != shape.prod():
        raise DataError(f"{file}: holds {values.size} values; expected {' x '.join(map(str, shape))}")
    return values.reshape(shape)


def airplane() -> Poses | None:
    """The first airplane of the training part, seen by the first camera; None where the files are not there.

    They are looked up as $LIKEWISE_DATA/small-norb/smallnorb-...-training-{dat,cat,info}.mat, or .mat.gz.
    """
    for folder in _places(SET):
        files = [_found(folder, kind) for kind in ("dat", "cat", "info")]
        if all(files):
            dat, cat, info = (read_matrix(file) for file in files if file)
            planes = np.flatnonzero(cat == AIRPLANE)
            rows = planes[info[planes, 0] == info[planes, 0].min()]
            elevation, azimuth, light = info[rows, 1:4].T.astype(np.int64)
            return Poses(np.ascontiguousarray(dat[rows, 0]), azimuth // 2, elevation, light)
    return None


def _found(folder: Path, kind: str) -> Path | None:
    return next((file for end in (".mat", ".mat.gz") if (file := folder / f"{STEM}{kind}{end}").is_file()), None)
