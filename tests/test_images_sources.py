"""The same images from anywhere are the same images: keys and pixels, whatever packs or names them."""

import csv
import io
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import likewise
from likewise.encoders import Pixels
from likewise.errors import DataError, UsageError
from likewise.images import ImageSet, imageset, open_images, scan, sources
from likewise.images.decode import Unusable
from likewise.images.labels import from_names
from likewise.images.scan import locate, read_all
from likewise.images.sources import told_others
from likewise.types import Selection

RNG = np.random.default_rng(0)
NAMES = ("b/one.png", "a/deep/er/two.jpg", "a/three.PNG", "c/odd näme, ''.jpeg", "c/five.webp")


def encoded(height: int, width: int, kind: str, seed: int, mode: str = "RGB") -> bytes:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


def files() -> dict[str, bytes]:
    kinds = {".png": "PNG", ".webp": "WEBP"}
    return {
        name: encoded(10 + i, 12, kinds.get(Path(name).suffix.lower(), "JPEG"), i, "L" if i == 2 else "RGB")
        for i, name in enumerate(NAMES)
    }


def put(root: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def folder(root: Path) -> Path:
    return put(root / "folder", {**files(), "note.txt": b"no image", ".hidden/x.png": b"", "a/.y.png": b""})


def text_list(root: Path) -> Path:
    put(root / "listed", files())
    (root / "list.txt").write_text("\n".join(f"listed/{name}" for name in sorted(NAMES)) + "\n\n", encoding="utf-8")
    return root / "list.txt"


def csv_list(root: Path) -> Path:
    put(root / "listed", files())
    with open(root / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([f"listed/{name}"] for name in sorted(NAMES))])
    return root / "list.csv"


def zipped(root: Path, compression: int = zipfile.ZIP_STORED, prefix: str = "") -> Path:
    with zipfile.ZipFile(root / "images.zip", "w", compression) as archive:
        for name, data in files().items():
            archive.writestr(prefix + name, data)
        archive.writestr("__MACOSX/a/three.PNG", b"junk")
        archive.writestr("readme.md", b"text")
    return root / "images.zip"


def tarred(root: Path, prefix: str = "") -> Path:
    with tarfile.open(root / "images.tar", "w") as archive:
        for name, data in files().items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            label = tarfile.TarInfo(str(Path(prefix + name).with_suffix(".cls")))
            label.size = 1
            archive.addfile(label, io.BytesIO(b"1"))
    return root / "images.tar"


KINDS: dict[str, Callable[[Path], Path]] = {
    "txt": text_list,
    "csv": csv_list,
    "zip": zipped,
    "zip, deflated": lambda root: zipped(root, zipfile.ZIP_DEFLATED),
    "folder in a zip": lambda root: zipped(root, prefix="data/train/").joinpath("data", "train"),
    "tar": tarred,
    "folder in a tar": lambda root: tarred(root, "./train/") / "train",
}


def same(a: ImageSet, b: ImageSet) -> None:
    assert np.array_equal(a.keys, b.keys)
    ids = np.arange(len(a))
    assert torch.equal(a.source(ids).pixels, b.source(ids).pixels)
    assert torch.equal(a.source(ids).sizes, b.source(ids).sizes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 4])
def test_every_packing_holds_the_same_images(tmp_path: Path, kind: str, threads: int) -> None:
    plain = open_images(folder(tmp_path), cache=tmp_path / "a")
    packed = open_images(KINDS[kind](tmp_path), cache=tmp_path / "b", threads=threads)
    same(plain, packed)
    assert plain.paths == sorted(NAMES)
    assert [path.removeprefix("listed/") for path in packed.paths] == plain.paths


def test_pixels_are_those_of_pillow(tmp_path: Path) -> None:
    images = open_images(folder(tmp_path))
    for i, path in enumerate(images.paths):
        expected = np.asarray(Image.open(tmp_path / "folder" / path).convert("RGB"))
        source = images.source([i])
        assert np.array_equal(source.pixels[0].permute(1, 2, 0).numpy(), expected)
        assert source.sizes.tolist() == [list(expected.shape[:2])]
        assert np.array_equal(np.asarray(images.image(i)), expected)


def test_a_batch_is_padded_at_the_bottom_and_right_with_zeros(tmp_path: Path) -> None:
    images = open_images(folder(tmp_path))
    source = images.source(torch.tensor([0, 3]))
    assert source.pixels.shape == (2, 3, int(source.sizes[:, 0].max()), 12)
    for i, (height, width) in enumerate(source.sizes.tolist()):
        assert torch.equal(source.pixels[i, :, :height, :width], images.source([[0, 3][i]]).pixels[0])
        assert source.pixels[i, :, height:].sum() == 0


def test_names_and_nesting_change_no_key(tmp_path: Path) -> None:
    content = list(files().values())
    renamed = put(tmp_path / "renamed", {f"{9 - i}/x{i}.png": data for i, data in enumerate(content)})
    one, two = open_images(folder(tmp_path)), open_images(renamed)
    assert sorted(one.keys) == sorted(two.keys)
    assert one.mean_std() == two.mean_std()


def test_one_more_image_changes_no_other_key(tmp_path: Path) -> None:
    before = set(open_images(folder(tmp_path)).keys.tolist())
    put(tmp_path / "folder", {"a/aaa.png": encoded(20, 20, "PNG", 99)})
    assert before < set(open_images(tmp_path / "folder").keys.tolist())


def test_exact_copies_are_numbered_and_grouped(tmp_path: Path) -> None:
    data = encoded(9, 9, "PNG", 1)
    content = {"a.png": data, "b.png": encoded(9, 9, "PNG", 2), "c.png": data, "z/d.png": data}
    images = open_images(put(tmp_path / "x", content))
    assert len(set(images.keys.tolist())) == 4
    assert images.duplicates() == [["a.png", "c.png", "z/d.png"]]
    assert scan(tmp_path / "x")["duplicates"] == images.duplicates()
    other = open_images(put(tmp_path / "y", {f"{i}.png": d for i, d in enumerate(reversed(content.values()))}))
    assert set(images.keys.tolist()) == set(other.keys.tolist())
    assert images.subset([0, 1]).duplicates() == []


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    root = folder(tmp_path)
    os.symlink(root / "a" / "three.PNG", root / "linked.png")
    os.symlink(root, root / "circle")
    assert open_images(root).duplicates() == [["a/three.PNG", "linked.png"]]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    """By the first of their names, where there is none without a link; and circles end."""
    outside = put(tmp_path / "outside", {f"{name}/{i}.png": encoded(9, 9, "PNG", i) for i, name in enumerate("uv")})
    root = put(tmp_path / "root", {"own/x.png": encoded(9, 9, "PNG", 7)})
    for link, target in {
        "another": root / "own",
        "b": outside / "u",
        "a": outside / "u",
        "c": outside,
        "around": tmp_path,
        "nowhere": tmp_path / "none",
    }.items():
        os.symlink(target, root / link)
    os.symlink(root, outside / "v" / "back")
    os.symlink("self.png", root / "self.png")
    images = open_images(root, max_bad="50%")
    assert images.paths == ["a/0.png", "c/v/1.png", "own/x.png"]
    assert [path for path, _ in images.bad] == ["self.png"]


def test_links_in_a_tar_are_the_files_that_they_lead_to(tmp_path: Path) -> None:
    data = encoded(9, 9, "PNG", 1)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("./real/one.png")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
        for name, kind, target in (
            ("hard.png", tarfile.LNKTYPE, "real/one.png"),
            ("deep/soft.png", tarfile.SYMTYPE, "../hard.png"),
            ("circle.png", tarfile.SYMTYPE, "circle.png"),
            ("gone.png", tarfile.SYMTYPE, "/etc/none.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    assert open_images(tmp_path / "x.tar").duplicates() == [["deep/soft.png", "hard.png", "real/one.png"]]


def test_files_with_other_endings_are_counted(tmp_path: Path) -> None:
    root = folder(tmp_path)
    put(root, {"a/1.HEIC": b"", "a/2.heic": b"", "README": b""})
    assert open_images(root).others == scan(root)["others"] == {".txt": 1, ".heic": 2, "": 1}
    assert told_others(scan(root)["others"]) == "left out by their endings: 2 .heic, 1 without one, 1 .txt"
    assert scan(zipped(tmp_path))["others"] == {".md": 1}
    assert scan(tarred(tmp_path))["others"] == {".cls": len(NAMES)}
    assert scan(np.zeros((2, 8, 8), np.uint8))["others"] == {}
    put(tmp_path / "phone", {"1.HEIC": b""})
    with pytest.raises(DataError, match=r"holds no images \(but left out by their endings: 1 .heic\); expected files"):
        open_images(tmp_path / "phone")


def test_a_list_is_cut_at_line_ends_alone(tmp_path: Path) -> None:
    names = (" led.png", "a\u2028b.png", "c\u0085d.png")
    put(tmp_path, {name: encoded(9, 9, "PNG", i) for i, name in enumerate(names)})
    (tmp_path / "list.txt").write_bytes("\r\n".join([*names, ""]).encode())
    assert open_images(tmp_path / "list.txt").paths == list(names)


def test_arrays_tensors_and_sequences_hold_the_same_images(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (7, 9, 8, 3), dtype=np.uint8)
    first = open_images(x)
    chw = torch.from_numpy(x).permute(0, 3, 1, 2)
    np.savez(tmp_path / "x.npz", images=x, labels=np.arange(7) % 2)
    stored = open_images(tmp_path / "x.npz")
    for other in (
        open_images(chw),
        open_images(chw.double() / 255),
        open_images([Image.fromarray(image) for image in x]),
        open_images(list(x)),
        open_images(list(chw)),
        stored,
    ):
        same(first, other)
    assert torch.equal(first.source([3]).pixels[0], chw[3])
    assert stored.labels is not None
    assert stored.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert stored.classes == ["0", "1"]


def test_a_sequence_may_hold_images_of_any_size() -> None:
    x = [RNG.integers(0, 256, (5 + 3 * i, 30 - i), dtype=np.uint8) for i in range(4)]
    images = open_images([Image.fromarray(x[0]), x[1], torch.from_numpy(x[2]), x[3]])
    assert images.channels == 1
    source = images.source(range(4))
    assert source.sizes.tolist() == [list(image.shape) if i else [5, 20] for i, image in enumerate(x)]
    assert np.array_equal(source.pixels[3, 0, :14, :27].numpy(), x[3])
    assert images.n_cut == 1
    assert np.array_equal(source.pixels[0, 0, :5, :20].numpy(), x[0][:, 5:25])  # the middle


def test_a_sequence_of_paths(tmp_path: Path) -> None:
    root = folder(tmp_path)
    same(open_images(root), open_images([root / name for name in sorted(NAMES)]))


def test_arrays_are_shrunk_like_files(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    root = put(tmp_path / "x", {})
    root.mkdir()
    for i, image in enumerate(x):
        Image.fromarray(image).save(root / f"{i}.png")
    one, two = open_images(x, side=16), open_images(root, side=16)
    assert torch.equal(one.source([0, 1, 2]).pixels, two.source([0, 1, 2]).pixels)
    assert one.source([0]).pixels.shape == (1, 3, 16, 24)
    assert one.native_side == two.native_side == 40


def test_channels(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (3, 9, 8, 3), dtype=np.uint8)
    grey = open_images(x, channels=1)
    luminance = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in x])
    assert np.array_equal(grey.source([0, 1, 2]).pixels[:, 0].numpy(), luminance)
    single = open_images(luminance)
    assert single.channels == 1
    assert torch.equal(single.with_channels(3).source([1]).pixels, single.source([1]).pixels.expand(-1, 3, -1, -1))
    mixed = open_images([x[0], luminance[1]])
    assert mixed.channels == 3
    assert np.array_equal(mixed.source([1]).pixels[0].numpy(), np.stack([luminance[1]] * 3))
    assert single.info(32).channels == 1


def test_mean_and_deviation_are_exact(tmp_path: Path) -> None:
    images = open_images(folder(tmp_path))
    seen = [np.asarray(images.image(i)).reshape(-1, 3) / 255 for i in range(len(images))]
    mean, std = images.mean_std()
    np.testing.assert_allclose(mean, np.concatenate(seen).mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, np.concatenate(seen).std(0), rtol=1e-12)
    assert images.subset([4, 2, 0, 1, 3]).mean_std() == (mean, std)


def test_subsets_share_pixels_and_keep_keys(tmp_path: Path) -> None:
    images = open_images(folder(tmp_path), labels="folders")
    part = images.subset(np.array([3, 1])).subset([1, 0])
    assert part.keys.tolist() == images.keys[[1, 3]].tolist()
    assert part.paths == [images.paths[1], images.paths[3]]
    assert torch.equal(part.source([0, 1]).pixels, images.source([1, 3]).pixels)
    assert part.store is images.store
    assert part.labels is not None
    assert part.labels.tolist() == images.labels[[1, 3]].tolist()


def test_subsets_by_mask_and_by_selection() -> None:
    images = open_images(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))
    expected = images.subset([1, 4]).paths
    assert images.subset(np.array([False, True, False, False, True, False])).paths == expected
    assert images.subset(torch.tensor([False, True, False, False, True, False])).paths == expected
    assert images.subset(Selection(np.array([1, 4]), np.zeros(2))).paths == expected
    assert len(images.subset([])) == 0
    for wrong, says in ((np.array([1.9]), "whole numbers"), ([6], "there are 6"), (np.array([True]), "a mask of 6")):
        with pytest.raises(UsageError, match=says):
            images.subset(wrong)


def test_labels_come_when_asked_for(tmp_path: Path) -> None:
    root = folder(tmp_path)
    plain = open_images(root)
    assert plain.labels is None
    assert plain.classes is None
    by_folder = open_images(root, labels="folders")
    assert by_folder.classes == ["a", "b", "c"]
    assert by_folder.labels.tolist() == [0, 0, 1, 2, 2]
    table = tmp_path / "labels.csv"
    table.write_text("path,label\na/three.PNG,10\n./b/one.png,2\nelsewhere.png,3\na/deep/er/two.jpg\n")
    by_csv = plain.relabel(table)
    assert by_csv.classes == ["2", "10"]
    assert by_csv.labels.tolist() == [
        -1 if p not in ("a/three.PNG", "b/one.png") else int("three" in p) for p in plain.paths
    ]
    assert open_images(root, labels=[4, 0, 1, 2, -1]).labels.tolist() == [4, 0, 1, 2, -1]
    assert by_folder.relabel(None).labels is None
    put(tmp_path / "l", files())
    (tmp_path / "l" / "list.csv").write_text("path,label\nb/one.png,cat\na/three.PNG,\na/deep/er/two.jpg, ant \n")
    listed = open_images(tmp_path / "l" / "list.csv")
    assert listed.classes == ["ant", "cat"]
    assert listed.labels.tolist() == [1, -1, 0]
    assert listed.paths[0] == "b/one.png"  # the order given


def test_labels_follow_the_usable_images(tmp_path: Path) -> None:
    root = put(tmp_path / "x", {"a/1.png": b"", "a/2.png": encoded(9, 9, "PNG", 1), "b/1.png": encoded(9, 9, "PNG", 2)})
    assert open_images(root, labels=[5, 6, 7], max_bad="50%").labels.tolist() == [6, 7]
    assert open_images(root, labels="folders", max_bad=0.5).labels.tolist() == [0, 1]


def message(kind: type[Exception], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_what_is_not_there_gets_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = message(DataError, lambda: open_images(tmp_path / "empty"))
    assert str(tmp_path / "empty") in said
    assert ".jpg" in said
    assert "did you mean 'cifar10'" in message(DataError, lambda: open_images("cifar100"))
    assert "no such file" in message(DataError, lambda: open_images(tmp_path / "nowhere"))
    assert "cifar10:test" in message(UsageError, lambda: open_images("cifar10:valid"))
    zipped(tmp_path)
    assert "folder nowhere" in message(DataError, lambda: open_images(tmp_path / "images.zip" / "nowhere"))
    (tmp_path / "bad.zip").write_bytes(b"PK no")
    assert "not a .zip" in message(DataError, lambda: open_images(tmp_path / "bad.zip"))
    (tmp_path / "bad.tar").write_bytes(b"no" * 1000)
    assert "not an uncompressed .tar" in message(DataError, lambda: open_images(tmp_path / "bad.tar"))
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b")
    assert "compressed tar" in message(DataError, lambda: open_images(tmp_path / "x.tar.gz"))
    (tmp_path / "x.txt").write_text("\n")
    assert "lists no images" in message(DataError, lambda: open_images(tmp_path / "x.txt"))
    (tmp_path / "x.csv").write_text("file,label\na.png,1\n")
    assert "one named path" in message(DataError, lambda: open_images(tmp_path / "x.csv"))
    (tmp_path / "short.csv").write_text("label,path\ncat,a.png\ndog\n")
    assert "image 2 of 2 has no path" in message(DataError, lambda: open_images(tmp_path / "short.csv"))
    (tmp_path / "null.txt").write_bytes(b"a\0b.png\n")
    assert "none of 1 images can be used" in message(
        DataError, lambda: open_images(tmp_path / "null.txt", max_bad="100%")
    )
    (tmp_path / "empty.npz").write_bytes(b"")
    assert "is not an .npz" in message(DataError, lambda: open_images(tmp_path / "empty.npz"))
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8), np.uint8))
    (tmp_path / "x.npy").rename(tmp_path / "named.npz")
    assert "is not an .npz" in message(DataError, lambda: open_images(tmp_path / "named.npz"))
    assert "data: is empty" in message(UsageError, lambda: open_images(""))
    np.savez(tmp_path / "x.npz", pictures=np.zeros(3))
    assert "images or x" in message(DataError, lambda: open_images(tmp_path / "x.npz"))
    np.savez(tmp_path / "o.npz", images=np.array([{}], dtype=object))
    assert "not an .npz" in message(DataError, lambda: open_images(tmp_path / "o.npz"))
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    assert "expected a folder" in message(DataError, lambda: open_images(tmp_path / "x.pdf"))


def test_what_is_no_image_gets_one_clear_line(tmp_path: Path) -> None:
    root = folder(tmp_path)
    assert "[0, 1]" in message(DataError, lambda: open_images(np.full((2, 8, 8), 1.5)))
    assert "[0, 1]" in message(DataError, lambda: open_images(np.full((2, 8, 8), np.nan)))
    assert "uint8" in message(DataError, lambda: open_images(np.zeros((2, 8, 8), np.int32)))
    assert "channels" in message(DataError, lambda: open_images(np.zeros((2, 8, 8, 5), np.uint8)))
    assert "shape (8, 8)" in message(DataError, lambda: open_images(np.zeros((8, 8), np.uint8)))
    assert "one colour image it seems" in message(DataError, lambda: open_images(np.zeros((9, 9, 3), np.uint8)))
    assert "got dict" in message(UsageError, lambda: open_images({"x": np.zeros((2, 8, 8), np.uint8)}))
    assert "too small (3 x 9)" in message(DataError, lambda: open_images(np.zeros((2, 9, 3), np.uint8)))
    assert "data[1]: got str" in message(UsageError, lambda: open_images([np.zeros((8, 8), np.uint8), "x"]))
    assert "empty sequence" in message(DataError, lambda: open_images([]))
    assert "got int" in message(UsageError, lambda: open_images(3))
    assert "expected 5 integers" in message(UsageError, lambda: open_images(root, labels=[1, 2]))
    assert "folders" in message(UsageError, lambda: open_images(root, labels="classes"))
    assert "no folders" in message(UsageError, lambda: open_images(np.zeros((2, 8, 8), np.uint8), labels="folders"))
    assert "in no folder" in message(
        DataError, lambda: open_images(put(tmp_path / "y", {"a.png": encoded(9, 9, "PNG", 1)}), labels="folders")
    )
    (tmp_path / "l.csv").write_text("path,label\nother.png,1\n")
    assert "other.png" in message(DataError, lambda: open_images(root, labels=tmp_path / "l.csv"))
    assert "max_bad=2" in message(UsageError, lambda: open_images(root, max_bad="200%"))
    assert "max_bad=few" in message(UsageError, lambda: open_images(root, max_bad="few"))
    assert "side=2" in message(UsageError, lambda: open_images(root, side=2))
    assert "channels=4" in message(UsageError, lambda: open_images(root, channels=4))
    for data in (root, np.zeros((2, 8, 8), np.uint8)):
        assert "threads=0" in message(UsageError, lambda data=data: open_images(data, threads=0, cache=tmp_path / "c"))
        assert "max_pixels=-1" in message(UsageError, lambda data=data: open_images(data, max_pixels=-1))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "up.txt").write_text("".join(f"../{root.name}/{p}\n" for p in open_images(root).paths))
    said = message(DataError, lambda: open_images(tmp_path / "lists" / "up.txt", labels="folders"))
    assert f"../{root.name}/" in said
    assert "begins with no class" in said


def test_a_path_takes_little_memory(tmp_path: Path) -> None:
    """What is held of each path, listed and read, is its name and a few numbers (benchmarks/many.py: to a million)."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "one.png")
    n, folder = 2_000, tmp_path / "many"
    folder.mkdir()
    for i in range(n):
        os.link(tmp_path / "one.png", folder / f"{i:05d}.png")
    read_all(locate(folder), threads=1)  # what is made once is made now
    tracemalloc.start()
    try:
        listing = locate(folder)
        reading = read_all(listing, threads=1)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(reading.positions) == len(listing) == n
    assert held / n < 250, held / n


def test_mean_and_deviation_are_of_the_images_with_the_smallest_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8))
    monkeypatch.setattr(imageset, "N_MEASURED", 2)
    least = images.subset(np.argsort(images.keys)[:2])
    assert images.mean_std() == images.subset([4, 2, 0, 1, 3, 5]).mean_std() == least.mean_std()
    with pytest.raises(DataError, match="arrays: holds no image"):
        images.subset([]).mean_std()


def deflated(path: Path) -> list[int]:
    """A .zip of one file that is much smaller there: its place and sizes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.bmp", bytes(20_000_000))
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("x.bmp")
    return [info.header_offset, info.compress_size, info.compress_type, info.file_size, info.CRC]


def test_a_member_grows_no_larger_than_stated(tmp_path: Path) -> None:
    offset, packed, how, _, crc = deflated(tmp_path / "x.zip")
    tracemalloc.start()
    try:
        with pytest.raises(Unusable, match="damaged in the archive"):
            sources._read_zipped(tmp_path / "x.zip", offset, packed, how, 100, crc)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_damaged_deflated_member_is_said(tmp_path: Path) -> None:
    offset, *_ = deflated(tmp_path / "x.zip")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[offset + 30 + len("x.bmp")] = 0xFF  # no block begins so
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(DataError, match="damaged in the archive"):
        open_images(tmp_path / "x.zip", cache=tmp_path / "c", max_bad="100%")


def test_a_member_of_a_zip_takes_little_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i in range(5_000):
            archive.writestr(f"{i:06d}.png", b"")
    tracemalloc.start()
    try:
        listing = locate(str(tmp_path / "x.zip"))
        assert tracemalloc.get_traced_memory()[0] < 200 * len(listing)
    finally:
        tracemalloc.stop()


def test_keys_and_the_split_of_digits_never_change() -> None:
    a, b = (sources.content_of_pixels(np.zeros(shape, np.uint8)) for shape in ((1, 4, 8), (1, 8, 4)))
    assert a != b
    assert open_images("digits:test").paths[:5] == [f"digits/{i:04d}" for i in (0, 2, 6, 10, 12)]


def test_what_find_prints_is_a_list(tmp_path: Path) -> None:
    """Names that begin with ./ are those without it: for folders, and for a .csv of labels."""
    for i, name in enumerate(("a/0.png", "b/1.png", "b/2.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / name)
    (tmp_path / "list.txt").write_text("./a/0.png\n./b/1.png\n./b/2.png\n")
    assert open_images(tmp_path / "list.txt", labels="folders").classes == ["a", "b"]
    (tmp_path / "labels.csv").write_text("path,label\n./a/0.png,x\nb/1.png,y\n./b/2.png,x\n")
    assert open_images(tmp_path / "list.txt", labels=tmp_path / "labels.csv").labels.tolist() == [0, 1, 0]
    (tmp_path / "labels.csv").write_text("path,label\na/0.png,x\n./a/0.png,y\n")
    with pytest.raises(DataError, match=r"a/0\.png is labelled both 'x' and 'y'"):
        open_images(tmp_path / "list.txt", labels=tmp_path / "labels.csv")
    (tmp_path / "list.csv").write_text("path,label\na/0.png,\nb/1.png, \n")
    assert open_images(tmp_path / "list.csv").labels is None


def test_classes_that_are_one_number_have_an_order() -> None:
    values, classes = from_names(["1", "01", "2", "1", ""])
    assert (values.tolist(), classes) == ([1, 0, 2, 1, -1], ["01", "1", "2"])


def test_labels_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((2, 8, 8), np.uint8)
    for labels in (np.array([20240101, 3]), np.array([2**63 + 5, 3], np.uint64)):
        with pytest.raises(UsageError, match=r"labels: go up to .* expected numbers of classes, from 0 to 999999"):
            open_images(pixels, labels=labels)
    assert open_images(pixels, labels=np.array([7, 3], np.uint64)).labels.tolist() == [7, 3]
    np.savez(tmp_path / "x.npz", images=pixels, labels=[20240101, 3])
    with pytest.raises(UsageError, match=r"x\.npz, labels: go up to 20240101"):
        open_images(tmp_path / "x.npz")


def test_a_set_may_be_named_otherwise() -> None:
    images = open_images("digits", name="mine", labels="digits")
    assert (images.name, len(images.classes or [])) == ("mine", 10)
    assert open_images(images, name="yours").name == "yours"


def test_tensors_of_any_float_are_images() -> None:
    x = torch.rand(2, 3, 8, 8)
    assert open_images(x.bfloat16()).keys.tolist() == open_images(x.bfloat16().float()).keys.tolist()


def test_a_name_of_any_bytes_names_the_images_of_an_array(tmp_path: Path) -> None:
    file = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.npz")
    np.savez(file, images=np.zeros((2, 8, 8), np.uint8))
    table = likewise.embed(Pixels(open_images(file).info(8)), file, size=8, out=tmp_path / "e")
    assert likewise.Embeddings.load(tmp_path / "e").paths == table.paths == ["caf\\xe9.npz/0", "caf\\xe9.npz/1"]


def test_a_share_that_is_just_met_is_tolerated(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i:02d}.bmp").write_bytes(b"" if i < 29 else bmp(i))
    assert len(open_images(tmp_path, max_bad="29%", cache=tmp_path / ".c")) == 71
    with pytest.raises(DataError, match="29 of 100 images cannot be used"):
        open_images(tmp_path, max_bad="28.9%", cache=tmp_path / ".c")


def bmp(i: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (8, 8), i).save(out, format="BMP")
    return out.getvalue()
