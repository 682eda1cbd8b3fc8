"""Pairs of images with exact ground truth, in the layout of the Oxford affine covariant regions (Mikolajczyk 2005).

PAIRS/SCENE/img1.png  img2.png ..      the first image of a scene, and others of the same thing
PAIRS/SCENE/H1to2p ..                  homographies from the pixels of img1 to those of imgN, or
PAIRS/SCENE/W1to2p.json ..             smooth warps by formula
PAIRS/changes.csv                      scene,image,change: what is done to an image (optional)
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from likewise.errors import DataError
from likewise.evaluation.matching.warps import Warp, read_homography, read_waves
from likewise.images.decode import Unusable, decode

OXFORD = {
    "bark": "zoom + rotation",
    "boat": "zoom + rotation",
    "graf": "viewpoint",
    "wall": "viewpoint",
    "bikes": "blur",
    "trees": "blur",
    "leuven": "light",
    "ubc": "jpeg",
}
UNKNOWN = "unknown"
SUFFIXES = (".png", ".ppm", ".pgm", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """Two images of one scene, and where the pixels of the first went in the second."""

    scene: str
    image: str  # the second's file name without its ending: img2
    change: str
    first: Path
    second: Path
    warp: Warp


def read_pairs(folder: Path | str) -> list[Pair]:
    """All pairs below a folder (or of the one scene that it is), by scene and number.

    The change is that of `changes.csv` (for one scene: its own, or that of the folder it is in), else that of the
    Oxford scenes by their names, else "unknown". All ground truth is read here, so that a file that cannot be used is
    named, in a DataError, before any work is done.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"pairs {folder}: no such folder")
    alone = bool(_images(folder))
    scenes = [folder.absolute()] if alone else sorted(path for path in folder.iterdir() if path.is_dir())
    scenes = [scene for scene in scenes if _images(scene)]
    if not scenes:
        raise DataError(f"pairs {folder}: has no scene; expected folders of img1.png, img2.png, .. and H1to2p, ..")
    changes = _changes(folder / "changes.csv")
    if alone:
        changes = {**_changes(scenes[0].parent / "changes.csv"), **changes}
    pairs = []
    for scene in scenes:
        images = _images(scene)
        if 1 not in images or len(images) < 2:
            raise DataError(
                f"pairs {scene}: has only {', '.join(p.name for p in images.values())}; expected img1, img2"
            )
        for number in sorted(set(images) - {1}):
            name = f"img{number}"
            change = changes.get((scene.name, name)) or changes.get((scene.name, "")) or OXFORD.get(scene.name)
            warp = _warp(scene, number)
            pairs.append(Pair(scene.name, name, change or UNKNOWN, images[1], images[number], warp))
    return pairs


def read_image(path: Path) -> UInt8[np.ndarray, "c h w"]:
    """The pixels of one image, 1 or 3 channels, or a DataError that names the file."""
    try:
        picture = decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except Unusable as error:
        raise DataError(f"{path}: {error}") from None
    if picture.cut:
        raise DataError(f"{path}: is longer than 4 to 1, and would be cut")
    return picture.pixels


def _images(scene: Path) -> dict[int, Path]:
    """imgN by N."""
    found: dict[int, Path] = {}
    for path in sorted(scene.iterdir()):
        match = re.fullmatch(r"img(\d+)", path.stem)
        if match and path.suffix.lower() in SUFFIXES:
            if int(match[1]) in found:
                raise DataError(f"{path}: there is {found[int(match[1])].name} too; expected one image of that number")
            found[int(match[1])] = path
    return found


def _warp(scene: Path, number: int) -> Warp:
    for name in (f"H1to{number}p", f"H1to{number}"):
        if (scene / name).is_file():
            return read_homography(scene / name)
    if (scene / f"W1to{number}p.json").is_file():
        return read_waves(scene / f"W1to{number}p.json")
    raise DataError(f"{scene / f'H1to{number}p'}: no such file, but there is an img{number}; expected its homography")


def _changes(path: Path) -> dict[tuple[str, str], str]:
    if not path.is_file():
        return {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"scene", "change"} <= set(rows.fieldnames or ()):
                names = ", ".join(rows.fieldnames or ())
                raise DataError(f"{path}: has columns {names}; expected scene, image, change")
            changes = {(row["scene"], row.get("image") or ""): row["change"] for row in rows}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not a table ({error}); expected scene, image, change in UTF-8") from None
    if "all" in changes.values():
        raise DataError(f"{path}: names a change 'all', which is that of all pairs; expected another name")
    return changes
