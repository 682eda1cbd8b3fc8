"""Ellipses, and how much two of them overlap.

Pixel centres have whole coordinates, x to the right and y down, as in the homographies of the Oxford pairs.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from likewise.evaluation.matching.warps import Warp

Points = Float[np.ndarray, "n 2"]
NODES = 128  # of the integral over a common part: its error is below 1e-3 of the smaller area


class Ellipses(NamedTuple):
    """The points p with (p - centre)' shape^-1 (p - centre) <= 1; `shape` is symmetric and positive."""

    centre: Float[np.ndarray, "n 2"]
    shape: Float[np.ndarray, "n 2 2"]

    def rows(self, ids: Int[np.ndarray, " m"]) -> "Ellipses":
        return Ellipses(self.centre[ids], self.shape[ids])

    def area(self) -> Float[np.ndarray, " n"]:
        return np.pi * np.sqrt(np.linalg.det(self.shape))


def of_region(pixels: Int[np.ndarray, "n 2"]) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2 2"]]:
    """Centre and shape of the ellipse with the same mean and second moments as a region of unit squares.

    A solid ellipse has a quarter of its shape as covariance; a unit square adds a twelfth, so a line is no line.
    """
    centre = pixels.mean(0)
    away = pixels - centre
    return centre, 4 * (away.T @ away / len(pixels) + np.eye(2) / 12)


def transport(ellipses: Ellipses, warp: Warp) -> Ellipses:
    """The ellipses after a warp, by its affine approximation at each centre."""
    slope = warp.jacobian(ellipses.centre)
    return Ellipses(warp.forward(ellipses.centre), slope @ ellipses.shape @ slope.transpose(0, 2, 1))


def overlap(a: Ellipses, b: Ellipses, *, least: float = 0.5) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every ellipse of `a` with every one of `b`; 0 where it is below `least`.

    Only pairs whose areas and distance allow so much are looked at closely.
    """
    small = np.minimum.outer(a.area(), b.area())
    alike = small >= least * np.maximum.outer(a.area(), b.area())
    reach = np.add.outer(_largest_radius(a), _largest_radius(b))
    near = np.square(a.centre[:, None] - b.centre).sum(2) < reach**2
    i, j = np.nonzero(alike & near)
    away, limit = a.centre[i] - b.centre[j], _furthest(least) ** 2
    inverse_a, inverse_b = np.linalg.inv(a.shape)[i], np.linalg.inv(b.shape)[j]
    reached = (
        np.maximum(*(np.einsum("ni,nij,nj->n", away, inverse, away) for inverse in (inverse_a, inverse_b))) <= limit
    )
    i, j = i[reached], j[reached]
    values = np.zeros(alike.shape)
    found = intersection_over_union(a.rows(i), b.rows(j))
    values[i, j] = np.where(found >= least, found, 0)
    return values


def distinct(ellipses: Ellipses, *, least: float) -> Ellipses:
    """The ellipses, largest first, less those that overlap a larger one that is kept by `least` or more."""
    order = np.lexsort((*ellipses.centre.T, -ellipses.area()))
    ellipses = ellipses.rows(order)
    alike = overlap(ellipses, ellipses, least=least) > 0
    kept = np.zeros(len(order), bool)
    for i in range(len(order)):
        kept[i] = not alike[i, :i][kept[:i]].any()
    return ellipses.rows(np.flatnonzero(kept))


def intersection_over_union(a: Ellipses, b: Ellipses) -> Float[np.ndarray, " n"]:
    """Of the ellipses of each row.

    An affine map keeps the ratio: `b` becomes the unit disc and `a` is turned upright. The lengths of their common
    vertical chords are then summed over x = middle + half * sin(t), which is smooth where chords shrink to nothing.
    """
    to_disc = np.linalg.inv(np.linalg.cholesky(b.shape))
    squares, axes = np.linalg.eigh(to_disc @ a.shape @ to_disc.transpose(0, 2, 1))
    radii = np.sqrt(squares)
    centre = (axes.transpose(0, 2, 1) @ to_disc @ (a.centre - b.centre)[..., None])[..., 0]
    low, high = np.maximum(-1, centre[:, 0] - radii[:, 0]), np.minimum(1, centre[:, 0] + radii[:, 0])
    half = np.maximum(high - low, 0)[:, None] / 2
    t = (np.arange(NODES) + 0.5) / NODES * np.pi - np.pi / 2
    x = (low + high)[:, None] / 2 + half * np.sin(t)
    disc = np.sqrt(np.maximum(1 - x**2, 0))
    other = radii[:, 1:] * np.sqrt(np.maximum(1 - ((x - centre[:, :1]) / radii[:, :1]) ** 2, 0))
    chord = np.minimum(disc, centre[:, 1:] + other) - np.maximum(-disc, centre[:, 1:] - other)
    common = (np.maximum(chord, 0) * half * np.cos(t)).sum(1) * np.pi / NODES
    return common / (np.pi * (1 + radii.prod(1)) - common)


def _furthest(least: float) -> float:
    """How far, in its radii, an ellipse's centre can lie from that of another which it overlaps by `least`.

    Of the other, half lies beyond its own centre; of the unit disc, the cap beyond that distance. Together they must
    hold the intersection, least / (1 + least) of both areas, and the other's area is at most 1 / least of the disc's.
    """
    if least < 0.5:
        return np.inf
    distance = np.linspace(0, 1, 1001)
    cap = np.arccos(distance) - distance * np.sqrt(1 - distance**2)
    return float(distance[cap >= np.pi * (1 - 0.5 / least) - 1e-9][-1]) + 2e-3


def _largest_radius(ellipses: Ellipses) -> Float[np.ndarray, " n"]:
    return np.sqrt(np.linalg.eigvalsh(ellipses.shape)[:, -1])
