"""From the bytes of one file to uint8 pixels "c h w", with every kind of image handled on purpose.

- EXIF orientation is applied. Of an animation the first frame is taken.
- Grey stays grey (one channel): modes 1, L, LA, and 16-bit and floating-point images, which are scaled and never
  clipped: 16 bits by 255/65535, floats within [0, 1] by 255, any other range from its own lowest to its highest value.
  (Of 16-bit *colour* files Pillow itself keeps the high byte: the same scale, rounded down.)
- Everything else becomes RGB: palettes, CMYK, YCbCr, Lab. What is transparent is laid on white.
- Large images are shrunk to a short side with Lanczos, keeping the aspect ratio; nothing is enlarged, squashed or
  cropped, but past 4 to 1 the long side is cut to its middle.
- Half an image is no image: truncated files are refused.
"""

import io
import struct
import threading
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile

MAX_PIXELS = 89_478_485  # Pillow's own limit for what may be a decompression bomb
MIN_SIDE = 4
MAX_ASPECT = 4
GAP = 3.0  # shrink coarsely to this many times the side (in the JPEG decoder already), then finely with Lanczos

# Raster formats only: no PostScript, which would start another program, and no TGA, which takes any bytes for its own.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI")
GREY = ("1", "L", "LA", "La")

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow loads an image in place, and one object may be listed twice: it is found under one of these.
_LOADING = tuple(threading.Lock() for _ in range(61))


class Unusable(Exception):
    """A file that cannot be an image of the set; the message is the reason, for people."""


class Picture(NamedTuple):
    """One image as it is kept, and what it was."""

    pixels: UInt8[np.ndarray, "c h w"]
    mode: str  # Pillow's name, before conversion
    short_side: int  # in pixels, before shrinking
    cut: bool  # beyond an aspect of 4 to 1


def decode(data: bytes, side: int | None = None, max_pixels: int = MAX_PIXELS) -> Picture:
    """The image in `data`, its short side at most `side`. Raises Unusable with the reason."""
    if not data:
        raise Unusable("empty file")
    image = _identify(io.BytesIO(data))
    if image is None:
        raise Unusable("not an image")
    (width, height), mode = image.size, image.mode  # before `_load`, which may have the decoder shrink it
    flat = _load(image, side, max_pixels)
    short, long = sorted((width, height))
    cut = long > MAX_ASPECT * short
    return Picture(_array(_fit(flat, side, cut)), mode, short, cut)


def whole(image: Image.Image, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "c h w"]:
    """All pixels of a Pillow image. Raises Unusable with the reason."""
    with _LOADING[id(image) % len(_LOADING)]:
        return _array(_load(image, None, max_pixels))


def shrink(pixels: UInt8[np.ndarray, "c h w"], side: int | None, mode: str) -> Picture:
    """Pixels at hand, shrunk as those of files are. Raises Unusable if they are too few."""
    short, long = sorted(pixels.shape[1:])
    if short < MIN_SIDE:
        raise Unusable(f"too small ({pixels.shape[2]} x {pixels.shape[1]})")
    cut = long > MAX_ASPECT * short
    if cut or (side is not None and short > side):
        pixels = _array(_fit(to_image(pixels), side, cut))
    return Picture(pixels, mode, short, cut)


def to_image(pixels: UInt8[np.ndarray, "c h w"]) -> Image.Image:
    """A Pillow image, L or RGB."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


@cache
def suffixes() -> frozenset[str]:
    """The endings of file names that are listed, in lower case."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO"))


def _identify(file: io.BytesIO) -> ImageFile.ImageFile | None:
    """As Image.open, but what is too large is decided by `_load`, without a warning to the whole process."""
    Image.init()
    start = file.read(16)
    for name in FORMATS:
        factory, accepts = Image.OPEN.get(name, (None, None))
        if factory is None or (accepts is not None and accepts(start) is not True):
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except Image.DecompressionBombError:  # .webp looks at its size here
            raise Unusable("decompression bomb") from None
        except Exception:  # a broken header is no image, in whatever way it is broken
            continue
    return None


def _load(image: Image.Image, side: int | None, max_pixels: int) -> Image.Image:
    """Upright, L or RGB, and still at least `GAP` times the side."""
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise Unusable(f"too small ({width} x {height})")
    if width * height > max_pixels:
        raise Unusable(f"decompression bomb ({width} x {height})")
    try:
        if side is not None and min(width, height) > side:
            scale = GAP * side / min(width, height)
            image.draft(None, (int(width * scale) + 1, int(height * scale) + 1))
        _scale_transparency(image)
        image.load()
        return _flat(_upright(image))
    except Unusable:
        raise
    except Exception as error:  # the decoders of so many formats fail in as many ways
        raise Unusable(_reason(error)) from None


def _scale_transparency(image: Image.Image) -> None:
    """The transparent value of a .png on the scale of its pixels: Pillow leaves it on that of the file."""
    raw = image.tile[0][3] if isinstance(image, ImageFile.ImageFile) and image.format == "PNG" and image.tile else None
    clear = image.info.get("transparency")
    if raw in ("L;2", "L;4") and isinstance(clear, int):
        image.info["transparency"] = clear * (85 if raw == "L;2" else 17)
    elif raw == "RGB;16B" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit, which .tif has beside `max_pixels`
        return "decompression bomb"
    text = str(error).lower()
    if isinstance(error, EOFError | struct.error) or "truncated" in text or "end of file" in text:
        return "truncated"
    return "damaged"


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation asks; metadata that cannot be read asks for nothing."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _flat(image: Image.Image) -> Image.Image:
    """Any mode as L or RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        pixels = _eight_bits(values, image.mode)
        if isinstance(clear := image.info.get("transparency"), int):
            pixels[values == clear] = 255
        return Image.fromarray(pixels)
    grey = image.mode in GREY
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        flat = Image.new("L" if grey else "RGB", image.size, "white")
        flat.paste(image.convert(flat.mode), mask=image.getchannel("A"))
        return flat
    return image.convert("L" if grey else "RGB")


def _eight_bits(values: np.ndarray, mode: str) -> UInt8[np.ndarray, "h w"]:
    if not np.isfinite(values).all():
        raise Unusable("holds values that are not finite")
    wide = values.astype(np.float64)
    low, high = 0.0, 1.0 if mode == "F" else 65535.0
    if wide.min() < low or wide.max() > high:
        low, high = float(wide.min()), float(wide.max())
    return np.floor((wide - low) * 255 / max(high - low, 1e-300) + 0.5).clip(0, 255).astype(np.uint8)


def _fit(image: Image.Image, side: int | None, cut: bool) -> Image.Image:
    width, height = image.size
    if cut:
        longest = MAX_ASPECT * min(width, height)
        left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
        width, height = min(width, longest), min(height, longest)
        # Not by `crop`, which has a limit of its own beside `max_pixels`.
        image = Image.fromarray(np.asarray(image)[top : top + height, left : left + width])
    if side is None or min(width, height) <= side:
        return image
    scale = side / min(width, height)
    return image.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS, reducing_gap=GAP)


def _array(image: Image.Image) -> UInt8[np.ndarray, "c h w"]:
    pixels = np.array(image)  # a copy: what Pillow hands out without one may not be written to
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
