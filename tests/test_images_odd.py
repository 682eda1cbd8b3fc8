"""What is met in the wild: damaged archives, dotted names, byte order marks, one transparent value."""

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import likewise
from likewise.errors import DataError, UsageError
from likewise.images import cache, datasets, open_images, scan, sources
from likewise.images.decode import Unusable, decode
from likewise.images.scan import contents_of
from likewise.relations import from_neighbours, nearest
from likewise.types import Embeddings
from likewise.verbs.ids import read_ids
from likewise.verbs.relation import make_relation


def noise(seed: int, side: int = 9) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def tarred(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(noise(i))
            archive.addfile(info, io.BytesIO(noise(i)))
    return path


def put(root: Path, names: list[str]) -> Path:
    root.mkdir()
    for i, name in enumerate(names):
        (root / name).write_bytes(noise(i))
    return root


def test_what_is_remembered_of_all_of_caltech_is_not_of_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"101_ObjectCategories/{name}.png" for name in ("BACKGROUND_Google/0", "ant/0", "bee/0", "cat/0")]
    archive = tarred(tmp_path / "x.tar", names)
    monkeypatch.setattr(datasets, "_caltech101", lambda: archive)
    for first in (True, False):
        cache = tmp_path / str(first)
        if first:
            open_images("caltech101", cache=cache)
        plain = open_images(archive / "101_ObjectCategories", cache=cache, labels="folders")
        named = open_images("caltech101", cache=cache)
        assert (len(plain), len(named)) == (4, 3)
        assert plain.keys.tolist() == [sources.content_of(noise(i)) for i in range(4)]
        assert named.keys.tolist() == plain.keys[1:].tolist()


def test_embeddings_relate_the_images_that_they_are_of(tmp_path: Path) -> None:
    root = put(tmp_path / "x", [f"{i}.png" for i in range(6)])
    images = open_images(root)
    x = torch.tensor([[0.0], [0.1], [5], [5.1], [9], [9.1]])
    Embeddings(x.numpy(), images.keys, images.paths).save(tmp_path / "emb")
    words = f"neighbours:1:{tmp_path / 'emb'}"
    assert torch.equal(make_relation(words, images, 8).pairs, from_neighbours(nearest(x, 1)).pairs)
    (root / "0.png").rename(root / "9.png")
    expected = from_neighbours(nearest(x[[1, 2, 3, 4, 5, 0]], 1))
    assert torch.equal(make_relation(words, open_images(root), 8).pairs, expected.pairs)
    other = open_images(np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8))
    with pytest.raises(DataError, match="has embeddings of 6 images, not of these 6"):
        make_relation(words, other, 8)


def test_a_picture_may_be_listed_twice(tmp_path: Path) -> None:
    """Pillow loads it where it lies, on whichever thread comes first."""
    (tmp_path / "x.png").write_bytes(noise(0, 500))
    for _ in range(5):
        images = open_images([Image.open(tmp_path / "x.png")] * 4, threads=4, max_bad=1.0)
        assert images.bad == []
        assert len(set(images.contents.tolist())) == 1


@pytest.mark.parametrize("cut", [False, True])
def test_a_tar_does_not_end_at_a_damaged_header(tmp_path: Path, cut: bool) -> None:
    whole = tarred(tmp_path / "x.tar", [f"{i}.png" for i in range(4)])
    with tarfile.open(whole) as opened:
        place = opened.getmembers()[2].offset
    data = bytearray(whole.read_bytes())
    data[place + 10] ^= 1
    whole.write_bytes(data[: place + 100] if cut else data)
    with pytest.raises(DataError, match=f"is not an uncompressed .tar that can be read .damaged at byte {place}"):
        scan(whole)


def test_names_in_a_zip_may_begin_with_a_dot(tmp_path: Path) -> None:
    """As bsdtar writes them."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("./a/0.png", noise(0))
        archive.writestr("./b//1.png", noise(1))
        archive.writestr("b/2.png", noise(2))
        archive.writestr("./.hidden/3.png", noise(3))
    images = open_images(tmp_path / "x.zip", labels="folders")
    assert (images.paths, images.classes) == (["a/0.png", "b/1.png", "b/2.png"], ["a", "b"])
    assert open_images(tmp_path / "x.zip" / "b").paths == ["1.png", "2.png"]


def raw_png(depth: int, colour: int, row: bytes, clear: bytes) -> bytes:
    """Eight equal rows of eight pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", clear) + chunk(b"IDAT", zlib.compress((b"\0" + row) * 8))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "colour", "row", "clear", "other"),
    [
        (1, 0, bytes([0b00001111]), (0,), 255),
        (2, 0, bytes([0x55, 0xAA]), (1,), 170),
        (4, 0, bytes([0x55, 0x55, 0x88, 0x88]), (5,), 136),
        (8, 0, bytes([85] * 4 + [136] * 4), (85,), 136),
        (16, 0, struct.pack(">8H", *[1000] * 4, *[30000] * 4), (1000,), 117),
        (16, 2, struct.pack(">24H", *[0x1234] * 12, *[0x3400] * 12), (0x1234,) * 3, 0x34),
    ],
)
def test_one_transparent_value_is_laid_on_white_at_any_depth(
    depth: int, colour: int, row: bytes, clear: tuple[int, ...], other: int
) -> None:
    pixels = decode(raw_png(depth, colour, row, struct.pack(f">{len(clear)}H", *clear))).pixels
    assert (pixels[:, :, :4] == 255).all()
    assert (pixels[:, :, 4:] == other).all()


def test_what_pillow_takes_for_a_bomb_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    side = (16_000 - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + side + side
    with pytest.raises(Unusable, match=r"^decompression bomb"):
        decode(b"RIFF" + struct.pack("<I", len(body)) + body)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    out = io.BytesIO()
    Image.new("L", (90, 10)).save(out, "TIFF")
    with pytest.raises(Unusable, match=r"^decompression bomb"):
        decode(out.getvalue(), None, 1_000)


def test_near_duplicates_by_embeddings_have_the_names_that_are_there(tmp_path: Path) -> None:
    root = put(tmp_path / "x", [f"{i}.png" for i in range(4)])
    images = open_images(root)
    x = np.eye(4, dtype=np.float32)
    x[3] = x[0]
    Embeddings(x, images.keys, images.paths).save(tmp_path / "emb")
    (root / "0.png").rename(root / "renamed.png")
    assert [group["paths"] for group in likewise.scan(root, near_by=tmp_path / "emb")["near"]] == [
        ["renamed.png", "3.png"]
    ]


def test_scan_reads_no_image_before_its_settings_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put(tmp_path / "x", [f"{i}.png" for i in range(3)])
    images = open_images(root)
    Embeddings(np.eye(3, dtype=np.float32), images.keys, images.paths).save(tmp_path / "emb")
    monkeypatch.setattr(sources, "decode", lambda *_: pytest.fail("an image was read"))
    with pytest.raises(UsageError, match="max_bad=few"):
        likewise.scan(root, max_bad="few")
    with pytest.raises(UsageError, match="similarity=2"):
        likewise.scan(root, near_by=tmp_path / "emb", similarity=2.0)


@pytest.mark.parametrize("call", [open_images, scan, likewise.scan])
def test_no_image_at_all_is_an_error(call) -> None:
    with pytest.raises(DataError, match="data arrays: holds no image; expected at least one"):
        call(np.zeros((0, 8, 8), np.uint8))


def test_labels_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="labels: not all of one shape; expected 2 integers"):
        open_images(np.zeros((2, 8, 8), np.uint8), labels=[[1], [1, 2]])
    with pytest.raises(UsageError, match="labels: hold -5; expected numbers of classes, and -1 where one is unknown"):
        open_images(np.zeros((2, 8, 8), np.uint8), labels=np.array([1, -5]))


def test_a_member_begins_behind_its_extra_fields(tmp_path: Path) -> None:
    """As Info-ZIP writes them: times, that is."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i in range(2):
            info = zipfile.ZipInfo(f"{i}.png")
            info.extra = struct.pack("<HHBI", 0x5455, 5, 1, 0)
            archive.writestr(info, noise(i))
    images = open_images(tmp_path / "x.zip")
    assert images.contents.tolist() == [sources.content_of(noise(i)) for i in range(2)]


def test_the_largest_group_of_near_duplicates_comes_first(tmp_path: Path) -> None:
    root = put(tmp_path / "x", [f"{i}.png" for i in range(5)])
    images = open_images(root)
    x = np.eye(5, dtype=np.float32)[[0, 0, 1, 1, 1]]
    Embeddings(x, images.keys, images.paths).save(tmp_path / "emb")
    groups = likewise.scan(root, near_by=tmp_path / "emb")["near"]
    assert [group["paths"] for group in groups] == [["2.png", "3.png", "4.png"], ["0.png", "1.png"]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_shrinking_is_nearly_lanczos_even_of_noise(kind: str) -> None:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind, quality=95)
    expected = np.asarray(Image.open(out).resize((38, 30), Image.Resampling.LANCZOS), dtype=float)
    assert np.abs(decode(out.getvalue(), side=30).pixels.transpose(1, 2, 0) - expected).mean() < 1


def test_a_byte_order_mark_is_no_part_of_a_list(tmp_path: Path) -> None:
    """As Excel and Notepad write one."""
    root = put(tmp_path / "x", ["0.png", "1.png"])
    (root / "list.txt").write_text("0.png\r\n1.png\r\n", encoding="utf-8-sig")
    (root / "list.csv").write_text("path,label\r\n0.png,a\r\n1.png,b\r\n", encoding="utf-8-sig")
    (root / "ids.csv").write_text("id\r\n1\r\n", encoding="utf-8-sig")
    (root / "ids.txt").write_text("1\r\n", encoding="utf-8-sig")
    listed = open_images(root / "list.txt", labels=root / "list.csv")
    assert (listed.paths, listed.classes) == (["0.png", "1.png"], ["a", "b"])
    assert open_images(root / "list.csv").classes == ["a", "b"]
    assert [read_ids(root / name, "--subset", 2).tolist() for name in ("ids.csv", "ids.txt")] == [[1], [1]]


def test_a_set_takes_half_of_the_free_disk_and_50_gb_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, limit in ((10**9, 5 * 10**8), (10**12, 50 * 10**9)):
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert cache.Cache(tmp_path / "not" / "yet").limit() == limit


def test_contents_are_found_again_from_keys(tmp_path: Path) -> None:
    one, two = np.zeros((8, 8), np.uint8), np.ones((8, 8), np.uint8)
    images = open_images(np.stack([one, two, one, one, two, one]))
    shuffled = images.subset([5, 4, 3, 2, 1, 0])
    for some in (images, shuffled):
        assert contents_of(some.keys).tolist() == some.contents.tolist()
