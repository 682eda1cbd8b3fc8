"""Every kind of image on purpose, and what cannot be used with its reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from likewise.errors import DataError
from likewise.images import open_images, scan
from likewise.images.decode import Unusable, decode

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(90)[:, None] * 2, np.arange(120) * 2, 77), -1).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(pixels: np.ndarray = COLOUR) -> bytes:
    return saved(Image.fromarray(pixels), "PNG")


def hwc(data: bytes) -> np.ndarray:
    return decode(data).pixels.transpose(1, 2, 0)


def reason(data: bytes) -> str:
    with pytest.raises(Unusable) as caught:
        decode(data)
    return str(caught.value)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(COLOUR), kind, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(hwc(data), np.asarray(expected.convert("RGB")))
    assert decode(data).pixels.shape == ((3, 20, 30) if orientation < 5 else (3, 30, 20))


def test_metadata_that_cannot_be_read_is_no_reason(tmp_path: Path) -> None:
    data = saved(Image.fromarray(COLOUR), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    (tmp_path / "x.jpg").write_bytes(data)
    assert scan(tmp_path)["images"] == 1  # and Pillow's warning is not heard: here it would be an error


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "P", "RGBX"])
def test_other_colours_become_rgb(mode: str) -> None:
    image = Image.fromarray(COLOUR)
    image = (
        image.quantize(16) if mode == "P" else Image.new(mode, (30, 20), 90) if mode == "LAB" else image.convert(mode)
    )
    kind = "PNG" if mode == "P" else "TIFF" if mode in ("LAB", "RGBX") else "JPEG"
    data = saved(image, kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(hwc(data), expected)


def test_grey_stays_grey() -> None:
    grey = Image.fromarray(COLOUR[..., 0])
    assert np.array_equal(decode(saved(grey, "PNG")).pixels[0], COLOUR[..., 0])
    bits = grey.convert("1")
    assert np.array_equal(decode(saved(bits, "PNG")).pixels[0], np.asarray(bits) * np.uint8(255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    wide = RNG.integers(0, 65536, (9, 11)).astype(np.uint16)
    wide[0, :4] = 0, 65535, 128, 129
    pixels = decode(saved(Image.fromarray(wide), kind)).pixels
    assert pixels.shape == (1, 9, 11)
    assert np.array_equal(pixels[0], np.round(wide / 65535 * 255).astype(np.uint8))


def test_wide_and_floating_values_are_scaled() -> None:
    unit = RNG.random((9, 11), dtype=np.float32)
    assert np.abs(decode(saved(Image.fromarray(unit), "TIFF")).pixels[0] / 255 - unit).max() < 0.5 / 255 + 1e-6
    for values in (unit * 1000 - 300, (unit * 1e6).astype(np.int32)):
        pixels = decode(saved(Image.fromarray(values), "TIFF")).pixels[0]
        expected = (values - values.min()) / (values.max() - values.min())
        assert np.abs(pixels / 255 - expected).max() < 0.5 / 255 + 1e-6
        assert (pixels.min(), pixels.max()) == (0, 255)
    assert (
        reason(saved(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"))
        == "holds values that are not finite"
    )
    assert set(decode(saved(Image.fromarray(np.full((9, 9), 7.5, np.float32)), "TIFF")).pixels.flat) == {0}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    alpha = np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint8)
    if mode in ("RGBA", "LA"):
        colour = COLOUR if mode == "RGBA" else COLOUR[..., :1]
        data = saved(Image.fromarray(np.concatenate([colour, alpha[..., None]], -1)), "PNG")
        share = alpha[..., None] / 255
        expected = colour * share + 255 * (1 - share)
    elif mode == "P":
        image = Image.new("P", (30, 20), 1)
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.paste(0, (0, 0, 15, 20))
        data = saved(image, "PNG", transparency=0)
        expected = np.full((20, 30, 3), (200.0, 100, 50))
        expected[:, :15] = 255
    else:
        pixels = COLOUR.copy() if mode == "RGB" else COLOUR[..., :1].copy()
        clear = pixels[0, 0].copy()
        data = saved(
            Image.fromarray(pixels if mode == "RGB" else pixels[..., 0]),
            "PNG",
            transparency=tuple(clear.tolist()) if mode == "RGB" else int(clear[0]),
        )
        expected = np.where((pixels == clear).all(-1, keepdims=True), 255.0, pixels)
    assert np.abs(hwc(data) - expected).max() <= 1
    assert decode(data).pixels.shape[0] == (1 if mode in ("LA", "L") else 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(hwc(data), np.full((12, 16, 3), (255, 0, 0)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_half_an_image_is_no_image(kind: str, share: float) -> None:
    noise = RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), kind, **({"lossless": True} if kind == "WEBP" else {}))
    decode(whole)
    said = reason(whole[: int(len(whole) * share)])
    assert said in ("truncated", "damaged", "not an image")
    if kind in ("JPEG", "PNG", "BMP", "PPM"):
        assert said == "truncated"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP"]), st.data())
def test_damaged_bytes_raise_nothing_else(kind: str, data: st.DataObject) -> None:
    whole = bytearray(saved(Image.fromarray(COLOUR), kind))
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = decode(bytes(whole))
    except Unusable:
        return
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape[0] in (1, 3)


def bomb(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_reasons() -> None:
    assert reason(b"") == "empty file"
    assert reason(b"just text, named .jpg") == "not an image"
    assert reason(png(COLOUR[:2, :2])) == "too small (2 x 2)"
    assert reason(png(COLOUR[:, :3])) == "too small (3 x 20)"
    assert reason(bomb(12_000, 9_000)) == "decompression bomb (12000 x 9000)"  # where Pillow would warn
    assert reason(bomb(50_000, 50_000)) == "decompression bomb (50000 x 50000)"  # where it would raise
    with pytest.raises(Unusable, match="decompression bomb"):
        decode(png(), max_pixels=599)
    assert decode(png(), max_pixels=600).pixels.shape == (3, 20, 30)


@pytest.mark.parametrize(("size", "shrunk"), [((120, 90), (40, 30)), ((90, 120), (30, 40)), ((20, 25), (20, 25))])
def test_shrinking_keeps_the_aspect_and_never_enlarges(size: tuple[int, int], shrunk: tuple[int, int]) -> None:
    image = Image.fromarray(SMOOTH).resize(size)
    pixels = decode(saved(image, "PNG"), side=30).pixels
    assert pixels.shape[1:] == shrunk[::-1]
    expected = np.asarray(image.resize(shrunk, Image.Resampling.LANCZOS), dtype=float)
    assert np.abs(pixels.transpose(1, 2, 0) - expected).max() <= 2


def test_a_large_jpeg_is_shrunk_while_it_is_decoded() -> None:
    image = Image.fromarray(SMOOTH).resize((1200, 900), Image.Resampling.BICUBIC)
    picture = decode(saved(image, "JPEG", quality=95), side=30)
    expected = np.asarray(image.resize((40, 30), Image.Resampling.LANCZOS), dtype=float)
    assert picture.short_side == 900
    assert np.abs(picture.pixels.transpose(1, 2, 0) - expected).max() <= 4


@pytest.mark.parametrize(("size", "kept"), [((400, 20), (80, 20)), ((20, 400), (20, 80)), ((80, 20), (80, 20))])
def test_past_four_to_one_the_long_side_is_cut_to_its_middle(size: tuple[int, int], kept: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = decode(png(pixels))
    left, top = (size[0] - kept[0]) // 2, (size[1] - kept[1]) // 2
    expected = pixels[top : top + kept[1], left : left + kept[0]]
    assert np.array_equal(picture.pixels.transpose(1, 2, 0), expected)
    assert picture.cut == (size != kept)
    assert decode(png(pixels), side=10).pixels.shape[1:] == (kept[1] // 2, kept[0] // 2)


def good(root: Path) -> Path:
    for i in range(6):
        (root / f"{i % 3}").mkdir(parents=True, exist_ok=True)
        (root / f"{i % 3}" / f"{i}.png").write_bytes(png(np.roll(COLOUR, i, 0)))
    return root


BROKEN = {
    "0/0.jpg": (saved(Image.fromarray(COLOUR), "JPEG")[:-200], "truncated"),
    "0/zz.png": (png()[:300], "truncated"),
    "1/a.JPG": (b"", "empty file"),
    "2/text.jpg": (b"hello", "not an image"),
    "2/tiny.png": (png(COLOUR[:2, :2]), "too small (2 x 2)"),
    "bomb.png": (bomb(20_000, 20_000), "decompression bomb (20000 x 20000)"),
}


def broken(root: Path) -> Path:
    good(root)
    for name, (data, _) in BROKEN.items():
        (root / name).write_bytes(data)
    (root / "gone.png").symlink_to(root / "nowhere.png")
    return root


def test_what_is_broken_is_quarantined_and_the_rest_is_the_clean_folder(tmp_path: Path) -> None:
    clean = open_images(good(tmp_path / "clean"), cache=tmp_path / "a")
    rest = open_images(broken(tmp_path / "broken"), max_bad="60%", cache=tmp_path / "b")
    expected = {name: reason for name, (_, reason) in BROKEN.items()}
    assert dict(rest.bad) == {**expected, "gone.png": "cannot be read (no such file or directory)"}
    assert rest.paths == clean.paths
    assert np.array_equal(rest.keys, clean.keys)
    ids = np.arange(len(clean))
    assert torch.equal(rest.source(ids).pixels, clean.source(ids).pixels)
    assert rest.mean_std() == clean.mean_std()


def test_too_many_bad_files_are_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_images(broken(tmp_path))
    said = str(caught.value)
    assert caught.value.code == 3
    assert said.startswith("7 of 13 images cannot be used, more than max_bad=0.01 allows")
    assert all(f"{name} ({reason})" in said for name, (_, reason) in BROKEN.items())
    for i in range(12):
        (tmp_path / f"x{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"19 of 25 .* and 9 more$"):
        scan(tmp_path, max_bad="50%")


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 images can be used: a\.png \(empty file\)"):
        open_images(tmp_path, max_bad="100%")
    assert scan(tmp_path, max_bad="100%")["images"] == 0


@pytest.mark.parametrize("threads", [1, 4])
def test_scan_says_what_is_there(tmp_path: Path, threads: int) -> None:
    root = broken(tmp_path)
    (root / "0" / "copy.png").write_bytes((root / "0" / "0.png").read_bytes())
    (root / "grey.png").write_bytes(png(RNG.integers(0, 256, (9, 99), dtype=np.uint8)))
    found = scan(root, threads=threads)
    assert found["images"] == 8
    assert [bad["path"] for bad in found["bad"]] == sorted([*BROKEN, "gone.png"])
    assert found["duplicates"] == [["0/0.png", "0/copy.png"]]
    assert found["modes"] == {"L": 1, "RGB": 7}
    assert found["cut"] == 1


def test_a_cut_image_may_be_as_large_as_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own limit has no say beside `max_pixels`."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = io.BytesIO()
    Image.new("L", (90, 10)).save(file, format="PNG")
    assert decode(file.getvalue(), None, 1_000).pixels.shape == (1, 10, 40)
