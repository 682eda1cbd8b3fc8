"""An airplane of some flat faces, rendered on small-NORB's grid of poses and lights: the stand-in for its photographs.

Faces are filled by a depth buffer that keeps the number of the nearest face, so that a pose is rasterised once and
lit six times (Lambert's law and a little light from everywhere).
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from likewise.images.norb import Poses

SIDE, FINE = 96, 2  # pixels, and samples per pixel and axis
N_AZIMUTHS, N_ELEVATIONS = 18, 9
DISTANCE, FOCUS = 5.0, 3.6
GROUND = 0.1
Faces = list[np.ndarray]  # corners "m 3" each, in a plane, in order


def rendered() -> Poses:
    """972 images: azimuths 20 degrees apart, elevations 30 to 70 degrees, six lights."""
    corners = [face - np.array([0.0, 0.0, 0.05]) for face in airplane()]
    normals = np.array([_normal(face) for face in corners])
    images, azimuth, elevation, light = [], [], [], []
    for a in range(N_AZIMUTHS):
        for e in range(N_ELEVATIONS):
            turn = looking(np.radians(20 * a), np.radians(30 + 5 * e))
            seen = nearest_faces([face @ turn.T for face in corners])
            facing = (normals @ turn.T) * np.sign(-(normals @ turn.T)[:, 2:])  # both sides of a face reflect
            for k, lamp in enumerate(lights()):
                shade = np.append(0.35 + 0.65 * np.clip(facing @ lamp, 0, 1), GROUND)
                fine = shade[seen].reshape(SIDE, FINE, SIDE, FINE).mean((1, 3))
                images.append((fine * 255).round().astype(np.uint8))
                azimuth.append(a)
                elevation.append(e)
                light.append(k)
    return Poses(np.array(images), np.array(azimuth), np.array(elevation), np.array(light))


def looking(azimuth: float, elevation: float) -> Float[np.ndarray, "3 3"]:
    """From the world (z up) to a camera that looks at its middle: x right, y down, z ahead."""
    ca, sa, ce, se = np.cos(azimuth), np.sin(azimuth), np.cos(elevation), np.sin(elevation)
    right = np.array([-sa, ca, 0])
    ahead = -np.array([ca * ce, sa * ce, se])
    return np.array([right, np.cross(ahead, right), ahead])


def lights() -> Float[np.ndarray, "6 3"]:
    """The directions of the six lamps, seen from the camera: they stand in the room and do not turn with the object."""
    at = [(-1, -1, -0.6), (1, -1, -0.6), (0, -1.4, -0.2), (-1.4, 0.2, -0.8), (1.4, 0.2, -0.8), (0, -0.3, -1.4)]
    return np.array(at) / np.linalg.norm(at, axis=1, keepdims=True)


def nearest_faces(faces: Faces) -> Int[np.ndarray, "h w"]:
    """The number of the nearest face at every sample; that of no face is -1."""
    n = SIDE * FINE
    depth, seen = np.full((n, n), np.inf), np.full((n, n), -1)
    for number, face in enumerate(faces):
        z = face[:, 2] + DISTANCE
        x, y = (face[:, :2] * FOCUS / z[:, None] + 1).T * n / 2
        for i in range(1, len(face) - 1):
            corner = [0, i, i + 1]
            _fill(x[corner], y[corner], 1 / z[corner], number, depth, seen)
    return seen


def _fill(x: np.ndarray, y: np.ndarray, inverse: np.ndarray, number: int, depth: np.ndarray, seen: np.ndarray) -> None:
    left, right = max(0, int(x.min())), min(depth.shape[1], int(x.max()) + 2)
    top, bottom = max(0, int(y.min())), min(depth.shape[0], int(y.max()) + 2)
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    if abs(area) < 1e-9 or left >= right or top >= bottom:
        return
    u, v = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
    b = ((u - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (v - y[0])) / area
    c = ((x[1] - x[0]) * (v - y[0]) - (u - x[0]) * (y[1] - y[0])) / area
    far = 1 / np.maximum((1 - b - c) * inverse[0] + b * inverse[1] + c * inverse[2], 1e-9)
    window = depth[top:bottom, left:right]
    inside = (b >= 0) & (c >= 0) & (b + c <= 1) & (far < window)
    window[inside] = far[inside]
    seen[top:bottom, left:right][inside] = number


def airplane() -> Faces:
    """Nose towards +x: a round body, swept wings with two engines, a tail."""
    faces = tube([(1.15, 0.02, 0.0), (1.0, 0.1, 0.0), (0.7, 0.17, 0.02), (-0.5, 0.17, 0.02), (-1.15, 0.05, 0.1)])
    for side in (1, -1):
        faces += slab([(0.35, 0.1), (0.0, 0.1), (-0.5, 1.15), (-0.3, 1.15)], side, z=-0.02, thick=0.05)
        faces += slab([(-0.8, 0.05), (-1.05, 0.05), (-1.25, 0.45), (-1.1, 0.45)], side, z=0.1, thick=0.04)
        faces += [
            face + np.array([0.0, side * 0.45, -0.12])
            for face in tube([(0.3, 0.075, 0.0), (0.2, 0.09, 0.0), (-0.1, 0.07, 0.0)])
        ]
    fin = np.array([(-0.75, 0.14), (-1.1, 0.12), (-1.3, 0.55), (-1.12, 0.55)])
    plates = [np.column_stack([fin[:, 0], np.full(4, y), fin[:, 1]]) for y in (0.025, -0.025)]
    return faces + plates + _rim(*plates)


def tube(rings: list[tuple[float, float, float]], n: int = 10) -> Faces:
    """A body around the x axis: at each x a ring of a radius and a height."""
    angle = 2 * np.pi * (np.arange(n) + 0.5) / n
    circle = np.column_stack([np.zeros(n), np.cos(angle), np.sin(angle)])
    hoops = [circle * radius + np.array([x, 0, z]) for x, radius, z in rings]
    sides = [face for a, b in pairwise(hoops) for face in _rim(a, b)]
    return [hoops[0], *sides, hoops[-1]]


def slab(outline: list[tuple[float, float]], side: int, *, z: float, thick: float) -> Faces:
    """A flat wing: an outline in x and y (mirrored where side is -1) of some thickness."""
    flat = np.array([(x, side * y) for x, y in outline])
    plates = [np.column_stack([flat, np.full(len(flat), z + shift)]) for shift in (thick / 2, -thick / 2)]
    return plates + _rim(*plates)


def _rim(a: np.ndarray, b: np.ndarray) -> Faces:
    n = len(a)
    return [np.array([a[i], a[(i + 1) % n], b[(i + 1) % n], b[i]]) for i in range(n)]


def _normal(face: np.ndarray) -> Float[np.ndarray, " 3"]:
    # Newell's formula: sound where corners coincide or the face is not quite flat.
    ahead = np.roll(face, -1, 0)
    normal = np.cross(face, ahead).sum(0)
    return normal / max(float(np.linalg.norm(normal)), 1e-12)
