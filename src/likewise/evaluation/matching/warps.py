"""Exact maps from the pixels of one image to those of another: what pairs of images are judged by.

A homography is a text file of 3 x 3 numbers (H1to2p), a smooth warp a JSON file of its formula (W1to2p.json).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from likewise.errors import DataError
from likewise.files import read_json

Points = Float[np.ndarray, "n 2"]  # x, y in pixels; pixel centres are whole


@dataclass(frozen=True)
class Homography:
    """Straight lines stay straight: (x, y, 1) times `matrix`, divided by the third coordinate."""

    matrix: Float[np.ndarray, "3 3"]

    def forward(self, points: Points) -> Points:
        return self._project(self.matrix, points)

    def inverse(self, points: Points) -> Points:
        return self._project(np.linalg.inv(self.matrix), points)

    def jacobian(self, points: Points) -> Float[np.ndarray, "n 2 2"]:
        depth = points @ self.matrix[2, :2] + self.matrix[2, 2]
        fall = self.forward(points)[:, :, None] * self.matrix[2, :2]
        return (self.matrix[:2, :2] - fall) / depth[:, None, None]

    def _project(self, matrix: Float[np.ndarray, "3 3"], points: Points) -> Points:
        """What lies beyond the horizon, as seen from the first image's corner, has no image."""
        x = points @ matrix[:, :2].T + matrix[:, 2]
        seen = x[:, 2:] * (np.sign(self.matrix[2, 2]) or 1.0) > 1e-12
        return x[:, :2] / np.where(seen, x[:, 2:], np.nan)


@dataclass(frozen=True)
class Waves:
    """p + the sum over k of shift[k] * sin(frequency[k] . p + phase[k]), with the angle in radians.

    It is one to one because the shifts change by less than the points move: sum |shift| |frequency| < 1.
    """

    shift: Float[np.ndarray, "k 2"]
    frequency: Float[np.ndarray, "k 2"]
    phase: Float[np.ndarray, " k"]

    def steepness(self) -> float:
        return float((np.linalg.norm(self.shift, axis=1) * np.linalg.norm(self.frequency, axis=1)).sum())

    def forward(self, points: Points) -> Points:
        return points + np.sin(points @ self.frequency.T + self.phase) @ self.shift

    def inverse(self, points: Points) -> Points:
        """By repeated substitution: each round leaves at most `steepness` of the error."""
        found = points
        for _ in range(200):
            better = points - np.sin(found @ self.frequency.T + self.phase) @ self.shift
            moved = float(np.abs(better - found).max(initial=0))
            found = better
            if moved < 1e-9:
                break
        return found

    def jacobian(self, points: Points) -> Float[np.ndarray, "n 2 2"]:
        swing = np.cos(points @ self.frequency.T + self.phase)
        return np.eye(2) + np.einsum("nk,ki,kj->nij", swing, self.shift, self.frequency)

    def as_json(self) -> dict[str, Any]:
        return {
            "formula": "p + sum_k shift[k] * sin(frequency[k] . p + phase[k])",
            "shift": self.shift.tolist(),
            "frequency": self.frequency.tolist(),
            "phase": self.phase.tolist(),
        }


Warp = Homography | Waves  # both have forward and inverse on points, and jacobian


def read_homography(path: Path) -> Homography:
    """A text file of nine numbers in three rows. Raises DataError when it is not that, or maps the plane to a line."""
    try:
        rows = [[float(word) for word in line.replace(",", " ").split()] for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: is not a homography ({error}); expected 3 rows of 3 numbers") from None
    rows = [row for row in rows if row]
    if len(rows) != 3 or any(len(row) != 3 for row in rows):
        shape = " + ".join(str(len(row)) for row in rows) or "no"
        raise DataError(f"{path}: is not a homography ({shape} numbers by row); expected 3 rows of 3 numbers")
    matrix = np.array(rows)
    if not np.isfinite(matrix).all():
        raise DataError(f"{path}: holds numbers that are not finite; expected 3 rows of 3 numbers")
    scaled = matrix / max(float(np.abs(matrix).max()), 1e-300)
    # The entries of a proper homography differ by the size of the image, squared in the last row: compare its columns
    # and rows each at its own scale.
    for axis in (0, 1):
        scaled = scaled / np.maximum(np.linalg.norm(scaled, axis=axis, keepdims=True), 1e-300)
    if np.linalg.svd(scaled, compute_uv=False)[-1] < 1e-9:
        raise DataError(f"{path}: is singular; expected a homography that can be inverted")
    return Homography(matrix)


def read_waves(path: Path) -> Waves:
    """A JSON file of `shift`, `frequency` and `phase`. Raises DataError when it is not that, or folds the plane."""
    content = read_json(path)
    try:
        shift, frequency = (np.array(content[name], dtype=float).reshape(-1, 2) for name in ("shift", "frequency"))
        phase = np.array(content["phase"], dtype=float).reshape(-1)
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: is not a warp; expected lists named shift, frequency and phase") from None
    if not len(shift) == len(frequency) == len(phase):
        raise DataError(f"{path}: has {len(shift)} shifts, {len(frequency)} frequencies and {len(phase)} phases")
    waves = Waves(shift, frequency, phase)
    if not waves.steepness() < 1:
        raise DataError(f"{path}: folds the image onto itself; expected sum |shift| |frequency| below 1")
    return waves
