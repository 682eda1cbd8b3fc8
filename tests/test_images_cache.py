"""The cache saves time and changes nothing; prefetching keeps the order."""

import io
import os
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from likewise.errors import DataError, UsageError
from likewise.files import MARK, write_bytes
from likewise.images import ImageSet, open_images, prefetch, sources
from likewise.images import cache as cache_module
from likewise.images.cache import Cache, Writer

N = 12


def images_in(root: Path, *, even: bool = False) -> Path:
    root.mkdir()
    for i in range(N):
        pixels = np.random.default_rng(i).integers(0, 256, (10 if even else 9 + i, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels if i % 3 or even else pixels[..., 0]).save(root / f"{i:02d}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return images_in(tmp_path / "images")


def everything(images: ImageSet) -> list[bytes]:
    return [images.source([i]).pixels.numpy().tobytes() for i in range(len(images))]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The contents that were decoded."""
    decoded: list[str] = []
    lock, real = threading.Lock(), sources.decode

    def counting(data: bytes, *rest: object) -> object:
        with lock:
            decoded.append(str(len(data)))
        return real(data, *rest)

    monkeypatch.setattr(sources, "decode", counting)
    return decoded


def test_unchanged_data_is_not_read_again(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    first = open_images(folder, cache=tmp_path / "c")
    assert len(reads) == N
    for file in folder.iterdir():
        stat = file.stat()
        file.write_bytes(b"x" * stat.st_size)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = open_images(folder, cache=tmp_path / "c")
    assert len(reads) == N
    assert everything(again) == everything(first)
    assert (again.keys == first.keys).all()
    assert again.channels == first.channels
    assert again.native_side == first.native_side
    file = folder / "03.png"
    os.utime(file, ns=(0, 0))
    with pytest.raises(DataError, match="12 of 12"):  # one file changed, so all are looked at again
        open_images(folder, cache=tmp_path / "c")


def test_what_is_bad_is_remembered_unless_it_may_be_mended(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    (folder / "bad.png").write_bytes(b"text")
    first = open_images(folder, cache=tmp_path / "c", max_bad="10%")
    n_reads = len(reads)
    assert open_images(folder, cache=tmp_path / "c", max_bad="10%").bad == first.bad == [("bad.png", "not an image")]
    assert len(reads) == n_reads
    with pytest.raises(DataError, match=r"bad\.png"):
        open_images(folder, cache=tmp_path / "c")
    (folder / "gone.png").symlink_to(tmp_path / "later.png")
    assert len(open_images(folder, cache=tmp_path / "c", max_bad="50%").bad) == 2
    Image.new("RGB", (9, 9)).save(tmp_path / "later.png")
    assert len(open_images(folder, cache=tmp_path / "c", max_bad="50%")) == N + 1


def test_one_cache_for_the_same_images_in_other_packings(folder: Path, tmp_path: Path) -> None:
    first = open_images(folder, cache=tmp_path / "c")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i, file in enumerate(sorted(folder.iterdir())):
            archive.writestr(f"{N - i:02d}/{i}.png", file.read_bytes())
    packed = open_images(tmp_path / "x.zip", cache=tmp_path / "c")
    assert len(list((tmp_path / "c" / "pixels").iterdir())) == 1
    assert everything(packed) == everything(first)[::-1]
    assert (packed.keys == first.keys[::-1]).all()
    open_images(folder, cache=tmp_path / "c", side=8)
    assert len(list((tmp_path / "c" / "pixels").iterdir())) == 2


@pytest.mark.parametrize("side", [None, 8])
def test_decoding_on_read_gives_the_same_bits(folder: Path, tmp_path: Path, side: int | None, reads: list[str]) -> None:
    cached = open_images(folder, cache=tmp_path / "a", side=side)
    direct = open_images(folder, cache=tmp_path / "b", cache_limit=100, side=side)
    assert not list((tmp_path / "b" / "pixels").iterdir())
    assert everything(direct) == everything(cached)
    assert direct.mean_std() == cached.mean_std()
    reads.clear()
    again = open_images(folder, cache=tmp_path / "b", cache_limit="0.1 kB", side=side)
    assert not reads  # what the scan found is remembered even so
    assert everything(again) == everything(cached)
    grown = open_images(folder, cache=tmp_path / "b", cache_limit="1 MB", side=side)
    reads.clear()
    assert everything(grown) == everything(cached)
    assert not reads


def test_a_file_that_changes_under_an_open_set_is_an_error(folder: Path, tmp_path: Path) -> None:
    images = open_images(folder, cache=tmp_path / "c", cache_limit=0)
    Image.new("RGB", (9, 9)).save(folder / "04.png")
    with pytest.raises(DataError, match=r"04\.png: has changed"):
        images.source([4])
    (folder / "05.png").unlink()
    with pytest.raises(DataError, match=r"05\.png: could be read before"):
        images.source([5])
    assert images.source([3]).pixels.shape[0] == 1


def test_the_limit_comes_from_the_environment(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKEWISE_CACHE", str(tmp_path / "e"))
    monkeypatch.setenv("LIKEWISE_CACHE_LIMIT", "0")
    open_images(folder)
    assert not list((tmp_path / "e" / "pixels").iterdir())
    for limit in ("a lot", "infGB", "-5GB", "nan"):
        monkeypatch.setenv("LIKEWISE_CACHE_LIMIT", limit)
        with pytest.raises(UsageError, match=f"cache_limit={limit}"):
            open_images(folder)


def test_what_a_killed_writer_leaves_is_not_taken_for_whole(folder: Path, tmp_path: Path) -> None:
    first = everything(open_images(folder, cache=tmp_path / "c"))
    place = next((tmp_path / "c" / "pixels").iterdir())
    left = tmp_path / "c" / "pixels" / ".left"
    left.mkdir()
    (left / "pixels.u8").write_bytes(b"half")
    at_work = left.with_name(".at-work")  # for more than a day
    shutil.copytree(left, at_work)
    for old in (left / "pixels.u8", left, at_work):
        os.utime(old, (0, 0))
    for damage in ("pixels.u8", "keys.npy", "shapes.npy"):
        content = (place / damage).read_bytes()
        (place / damage).write_bytes(content[: len(content) // 2])
        assert everything(open_images(folder, cache=tmp_path / "c")) == first
        assert (place / damage).read_bytes() == content  # made again
    assert not left.exists()
    assert at_work.exists()
    for index in (tmp_path / "c" / "index").iterdir():
        index.write_bytes(b"half")
    assert everything(open_images(folder, cache=tmp_path / "c")) == first


def test_damage_of_any_kind_is_mended(folder: Path, tmp_path: Path) -> None:
    first = everything(open_images(folder, cache=tmp_path / "c"))
    (pixels,), (index,) = ((tmp_path / "c" / part).iterdir() for part in ("pixels", "index"))
    for file in (pixels / "pixels.u8", pixels / "keys.npy", pixels / "shapes.npy", index):
        content = file.read_bytes()
        for left in (0, 3, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:left])
            assert everything(open_images(folder, cache=tmp_path / "c")) == first
            assert len(file.read_bytes()) == len(content)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_costs_only_time(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "open", lambda *_: open("/dev/full", "wb"), raising=False)  # noqa: SIM115
    images = open_images(folder, cache=tmp_path / "c")
    assert not list((tmp_path / "c" / "pixels").iterdir())
    monkeypatch.undo()
    assert everything(images) == everything(open_images(folder, cache=tmp_path / "d"))


def test_several_may_build_it_at_once(folder: Path, tmp_path: Path) -> None:
    found: list[list[bytes]] = []
    start = threading.Barrier(4)

    def build() -> None:
        start.wait()
        found.append(everything(open_images(folder, cache=tmp_path / "c")))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(pixels == found[0] for pixels in found)
    assert len(list((tmp_path / "c" / "pixels").iterdir())) == 1


def test_a_cache_that_cannot_be_written_costs_only_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    images = open_images(folder, cache=tmp_path / "file" / "c")
    assert everything(images) == everything(open_images(folder, cache=tmp_path / "c"))


def test_equal_sizes_are_one_block(tmp_path: Path) -> None:
    images = open_images(images_in(tmp_path / "even", even=True), cache=tmp_path / "c")
    assert images.store.block is not None
    source = images.source([5, 2, 2])
    for row, i in enumerate([5, 2, 2]):
        expected = np.random.default_rng(i).integers(0, 256, (10, 14, 3), dtype=np.uint8)
        assert np.array_equal(source.pixels[row].permute(1, 2, 0).numpy(), expected)
    assert source.sizes.tolist() == [[10, 14]] * 3
    source.pixels.zero_()  # a copy, not the cache
    assert images.source([5]).pixels.sum() > 0


def test_the_cache_lies_where_the_system_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LIKEWISE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache_module.sys, "platform", "linux")
    assert cache_module.cache_folder() == tmp_path / "likewise"
    monkeypatch.setenv("LIKEWISE_CACHE", "")
    assert cache_module.cache_folder() == tmp_path / "likewise"
    monkeypatch.setattr(cache_module.sys, "platform", "darwin")
    assert cache_module.cache_folder() == Path.home() / "Library" / "Caches" / "likewise"


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("limit", [None, 0])
def test_prefetching_keeps_the_order(folder: Path, tmp_path: Path, threads: int, limit: int | None) -> None:
    images = open_images(folder, cache=tmp_path / "c", cache_limit=limit)
    batches = [np.random.default_rng(i).permutation(N)[:5] for i in range(20)]
    seen = list(prefetch(images, iter(batches), threads=threads))
    assert len(seen) == 20
    for batch, (ids, source) in zip(batches, seen, strict=True):
        assert ids is batch
        assert torch.equal(source.pixels, images.source(batch).pixels)


def test_prefetching_reads_ahead_but_not_far(folder: Path, tmp_path: Path) -> None:
    images = open_images(folder, cache=tmp_path / "c")
    asked: list[int] = []

    def batches() -> object:
        for i in range(100):
            asked.append(i)
            yield [i % N]

    feed = prefetch(images, batches(), threads=2, ahead=3)
    next(feed)
    assert len(asked) == 4
    next(feed)
    assert len(asked) == 5
    feed.close()


def prefetching() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("likewise-prefetch")}


def test_failures_surface_when_due_and_threads_end(folder: Path, tmp_path: Path) -> None:
    images, others = open_images(folder, cache=tmp_path / "c"), prefetching()
    feed = prefetch(images, [[0], [N + 5], [1]], threads=2)
    assert next(feed)[0] == [0]
    mine = prefetching() - others
    assert mine
    with pytest.raises(UsageError, match="there are 12 images"):
        next(feed)
    assert not mine & prefetching()
    feed = prefetch(images, [[0], [1], [2], [3]], threads=3)
    next(feed)
    mine = prefetching() - others
    assert mine
    feed.close()
    assert not mine & prefetching()


def test_a_zip_is_read_by_offset_and_never_extracted(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(data, "PNG")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for i in range(N):
            archive.writestr(f"{i}.png", data.getvalue() if i != 3 else data.getvalue()[:-1] + b"x")
    whole = bytearray((tmp_path / "x.zip").read_bytes())
    whole[whole.rindex(b"IDAT", 0, whole.index(b"10.png")) + 6] ^= 255  # one byte of a member: its checksum knows
    (tmp_path / "x.zip").write_bytes(whole)
    images = open_images(tmp_path / "x.zip", cache=tmp_path / "c", cache_limit=0, threads=4, max_bad="10%")
    assert len(images.bad) == 1
    assert images.bad[0][1] == "damaged in the archive"
    assert all(
        source.pixels[0, 0].eq(255).all() for _, source in prefetch(images, [[i] for i in range(N - 1)], threads=4)
    )
    assert {path.name for path in tmp_path.iterdir()} == {"x.zip", "c"}


def test_what_a_listing_is_remembered_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files, the limit of their size, and what decodes them; other writers' folders are left alone."""
    root = tmp_path / "x"
    (root / "run/pictures").mkdir(parents=True)
    (root / "run" / MARK).write_text("run\n")
    for name in ("a.png", "run/pictures/b.png"):
        Image.new("RGB", (9, 9)).save(root / name)
    fresh = tmp_path / "c/pixels/.fresh"
    fresh.mkdir(parents=True)
    assert open_images(root, cache=tmp_path / "c").paths == ["a.png"]
    assert fresh.exists()
    with pytest.raises(DataError, match="decompression bomb"):
        open_images(root, cache=tmp_path / "c", max_pixels=80)
    decoded, real = list[int](), sources.decode
    monkeypatch.setattr(sources, "decode", lambda *a: decoded.append(1) or real(*a))
    open_images(root, cache=tmp_path / "c")
    assert not decoded
    monkeypatch.setattr(cache_module.PIL, "__version__", "another")
    open_images(root, cache=tmp_path / "c")
    assert decoded


def test_a_set_that_will_be_too_large_is_given_up_early(tmp_path: Path) -> None:
    writer = Writer(Cache(tmp_path, 100_000), 100_000)
    for _ in range(1_000):
        writer.append(np.zeros((1, 6, 8), np.uint8))
    assert writer.folder is None
    assert not list((tmp_path / "pixels").iterdir())


def test_a_set_that_is_known_to_fit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its first thousand images, larger than the others, say otherwise."""
    (tmp_path / "x").mkdir()
    for i in range(1_050):
        side = 12 if i < 1_000 else 6
        Image.new("L", (side, side), i % 256).save(tmp_path / f"x/{i:04d}.bmp")
    where = {"cache": tmp_path / "c", "cache_limit": 1_000 * 144 + 50 * 36, "max_bad": 1.0}
    decoded, real = list[int](), sources.decode
    monkeypatch.setattr(sources, "decode", lambda *a: decoded.append(1) or real(*a))
    n_read = []
    for _ in range(3):
        open_images(tmp_path / "x", **where)
        n_read.append(len(decoded))
        decoded.clear()
    assert n_read[0] >= 1_000
    assert n_read[2] == 0


def test_what_is_written_has_the_users_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640
