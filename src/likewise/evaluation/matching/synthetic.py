"""Pairs made from any images, with exact ground truth: six changes at four strengths each (after Fischer et al., 2014).

    img2 .. img5 zoom, img6 .. img9 blur, img10 .. img13 light, img14 .. img17 rotation, img18 .. img21 perspective,
    img22 .. img25 non-linear: each from mild to strong

What the numbers leave open (which way, where to) is drawn by the image's key, so that the same images give the same
pairs, whatever their names and order. Pixels come from the image itself, and beyond its edge repeat it.
"""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from likewise.draws import Draws
from likewise.errors import DataError
from likewise.evaluation.matching.warps import Homography, Warp, Waves
from likewise.files import new_folder, write_bytes, write_json, write_text
from likewise.images import ImageSet
from likewise.images.decode import to_image
from likewise.progress import bar
from likewise.views.colour import Blur

N_IMAGES = 16
MADE = "made.json"  # of which images and seed, for the verb
STRENGTHS = 4
ZOOM = (1.25, 1.6, 2.0, 2.5)  # around a point near the middle
BLUR = (1.0, 2.0, 3.0, 4.0)  # sigma in pixels
LIGHT = ((0.85, 1.15), (0.7, 1.3), (0.55, 1.5), (0.4, 1.75))  # gain, gamma (or its inverse)
ROTATION = (15.0, 35.0, 60.0, 90.0)  # degrees, either way
PERSPECTIVE = (0.06, 0.12, 0.18, 0.24)  # of the short side, by which corners move
WAVES = (0.225, 0.45, 0.675, 0.9)  # steepness: the most by which the local scale may change
CHANGES = ("zoom", "blur", "light", "rotation", "perspective", "non-linear")
FINENESS = 2  # points a side in every pixel of a warped image

Pixels = Float[Tensor, "c h w"]


def write_pairs(
    images: ImageSet, folder: Path | str, *, n: int = N_IMAGES, seed: int = 0, overwrite: bool = False
) -> Path:
    """Write scenes of 25 images each into a new folder that `read_pairs` reads, and `changes.csv` when all are there.

    `n` images are drawn by their keys. Raises DataError when there are fewer.
    """
    if len(images) < n:
        raise DataError(f"{images.name}: has {len(images)} images; {n} are needed to make pairs")
    order = Draws(seed, 0, 0, torch.from_numpy(images.keys)).bits("pairs").argsort()[:n].tolist()
    names = [f"scene{i:02d}" for i in range(1, n + 1)]
    folder = new_folder(folder, "pairs", ("changes.csv", MADE, *names), overwrite=overwrite, argument="PAIRS")
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["scene", "image", "change", "strength", "source"])
    with bar("make pairs", n) as progress:
        for done, (name, i) in enumerate(zip(names, order, strict=True), 1):
            source = images.source([i])
            draws = Draws(seed, 0, 0, torch.from_numpy(images.keys[i : i + 1]))
            (folder / name).mkdir()
            pixels = source.pixels[0].float() / 255
            _save(pixels, folder / name / "img1.png")
            for number in range(len(CHANGES) * STRENGTHS):
                change, strength = CHANGES[number // STRENGTHS], number % STRENGTHS
                made, warp = alter(pixels, change, strength, draws)
                _save(made, folder / name / f"img{number + 2}.png")
                if isinstance(warp, Waves):
                    write_json(folder / name / f"W1to{number + 2}p.json", warp.as_json())
                else:
                    lines = [" ".join(f"{value:.17g}" for value in row) for row in warp.matrix]
                    write_text(folder / name / f"H1to{number + 2}p", "\n".join(lines) + "\n")
                rows.writerow([name, f"img{number + 2}", change, strength + 1, images.paths[i]])
            progress.update(done)
    write_text(folder / "changes.csv", table.getvalue())
    return folder


def alter(pixels: Pixels, change: str, strength: int, draws: Draws) -> tuple[Pixels, Warp]:
    """One image after a change of strength 0 to 3, and where its pixels went. `draws` are those of the image."""
    draws = draws.child(f"{change}/{strength}")
    stay = Homography(np.eye(3))
    if change == "blur":
        sigma = BLUR[strength]
        blur = Blur(p=1.0, sigma=(sigma, sigma), kernel=8 * sigma / min(pixels.shape[1:]))
        return blur(pixels[None], draws)[0], stay
    if change == "light":
        gain, gamma = LIGHT[strength]
        return gain * pixels ** (gamma if draws.image("gamma") < 0.5 else 1 / gamma), stay
    height, width = pixels.shape[1:]
    make: dict[str, Callable[[int, int, int, Draws], Warp]]
    make = {"zoom": _zoom, "rotation": _rotation, "perspective": _perspective, "non-linear": _waves}
    warp = make[change](strength, width, height, draws)
    return warped(pixels, warp), warp


def warped(pixels: Pixels, warp: Warp) -> Pixels:
    """The image whose pixel `warp.forward(p)` shows what is at p, sampled at four points a pixel (bicubic)."""
    channels, height, width = pixels.shape
    total = torch.zeros(channels, height, width)
    steps = (np.arange(FINENESS) * 2 + 1) / (2 * FINENESS) - 0.5
    for down in steps:
        for across in steps:
            y, x = np.mgrid[:height, :width].astype(float)
            seen = warp.inverse(np.stack([x + across, y + down], 2).reshape(-1, 2))
            seen = np.nan_to_num(seen, nan=-1e6)
            grid = (2 * seen + 1) / np.array([width, height]) - 1
            grid = torch.from_numpy(grid).float().reshape(1, height, width, 2)
            total += F.grid_sample(pixels[None], grid, mode="bicubic", padding_mode="border", align_corners=False)[0]
    return (total / FINENESS**2).clamp(0, 1)


def _zoom(strength: int, width: int, height: int, draws: Draws) -> Homography:
    """Closer to a point within a tenth of the middle."""
    away = draws.image("centre", 2)[0].double().numpy() - 0.5
    centre = np.array([width - 1, height - 1]) / 2 + away * 0.2 * min(width, height)
    return Homography(_about(centre, ZOOM[strength] * np.eye(2)))


def _rotation(strength: int, width: int, height: int, draws: Draws) -> Homography:
    sign = 1 if draws.image("way") < 0.5 else -1
    angle = sign * math.radians(ROTATION[strength])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return Homography(_about(np.array([width - 1, height - 1]) / 2, turn))


def _perspective(strength: int, width: int, height: int, draws: Draws) -> Homography:
    """Each corner moves by the same length, its own way."""
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=float)
    angle = draws.image("corners", 4)[0].double().numpy() * 2 * np.pi
    length = PERSPECTIVE[strength] * min(width, height)
    moved = corners + length * np.stack([np.cos(angle), np.sin(angle)], 1)
    # x' (gx + hy + 1) = ax + by + c, and y' alike: eight equations in a .. h
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, moved, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return Homography(np.append(np.linalg.solve(np.array(rows), np.array(values)), 1).reshape(3, 3))


def _waves(strength: int, width: int, height: int, draws: Draws) -> Waves:
    """Three waves of half the short side to all of it, running and pushing in drawn directions."""
    drawn = draws.image("waves", 4, 3)[0].double().numpy()
    heading, push, phase = drawn[:3] * 2 * np.pi
    frequency = 2 * np.pi / (min(width, height) * (0.5 + drawn[3] / 2))
    amplitude = WAVES[strength] / 3 / frequency
    return Waves(
        (amplitude * np.stack([np.cos(push), np.sin(push)])).T,
        (frequency * np.stack([np.cos(heading), np.sin(heading)])).T,
        phase,
    )


def _about(centre: Float[np.ndarray, "2"], linear: Float[np.ndarray, "2 2"]) -> Float[np.ndarray, "3 3"]:
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, centre - linear @ centre
    return matrix


def _save(pixels: Pixels, path: Path) -> None:
    image: Image.Image = to_image((pixels * 255).round().to(torch.uint8).numpy())
    file = io.BytesIO()
    image.save(file, "PNG")
    write_bytes(path, file.getvalue())
