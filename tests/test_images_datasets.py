"""Named sets: official files by official checksums, from a folder, the cache, or a server."""

import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from likewise.errors import DataError, UsageError
from likewise.images import DATASETS, datasets, open_images


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    images, bundled = open_images("digits"), load_digits()
    assert len(images) == 1_797
    expected = np.round(bundled.images * 255 / 16)
    assert np.abs(images.source(range(1_797)).pixels[:, 0].numpy() - expected).max() <= 0.5
    assert images.labels.tolist() == bundled.target.tolist()
    assert images.classes == [str(i) for i in range(10)]


@pytest.mark.parametrize("name", ["digits", "digits-in-frames"])
def test_digits_are_split_by_key(name: str) -> None:
    both, train, test = (open_images(name + split) for split in ("", ":train", ":test"))
    assert (len(train), len(test)) == (1_198, 599)
    assert set(train.paths) | set(test.paths) == set(both.paths)
    assert not set(train.paths) & set(test.paths)
    assert np.bincount(test.labels).min() > 30
    assert train.paths == [f"{name}/{path.split('/')[1]}" for path in open_images("digits:train").paths]


def test_each_digit_lies_somewhere_in_its_frame() -> None:
    plain, framed = open_images("digits:test"), open_images("digits-in-frames:test")
    places = set()
    for i in range(len(framed)):
        digit, frame = plain.source([i]).pixels[0, 0], framed.source([i]).pixels[0, 0]
        found = [
            (top, left)
            for top in range(13)
            for left in range(13)
            if torch.equal(frame[top : top + 8, left : left + 8], digit) and frame.sum() == digit.sum()
        ]
        assert found
        places.add(found[0])
    assert len(places) > 120  # of 169
    assert framed.labels.tolist() == plain.labels.tolist()


def test_named_sets_bring_their_labels() -> None:
    assert open_images("digits", labels="digits").labels is not None
    assert open_images("digits:test", labels="digits").labels is not None
    with pytest.raises(UsageError, match="labels=folders"):
        open_images("digits", labels="folders")


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(head + array.tobytes())


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def packed(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            add(archive, name, data)
    return out.getvalue()


def jpeg(i: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20 + i, 16), (40 * i, 90, 10)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small files in the official formats, under the official names, and tables that know them."""
    rng = np.random.default_rng(0)
    files = {}
    for part, n in (("train", 6), ("t10k", 4)):
        files[f"{part}-images-idx3-ubyte.gz"] = idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte.gz"] = idx(np.arange(n, dtype=np.uint8))
    out = io.BytesIO()
    batches = {}
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name in (*datasets._CIFAR10["train"], "test_batch.bin", "readme.html"):
            rows = rng.integers(0, 256, (3, 3073), dtype=np.uint8)
            rows[:, 0] = 7, 8, 9
            batches[name] = rows.tobytes()
            add(archive, f"cifar-10-batches-bin/{name}", batches[name])
    files["cifar-10-binary.tar.gz"] = out.getvalue()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for part, n in (("train", 20), ("test", 4), ("unlabeled", 6)):
            for letter, kept in (("X", (n, 3, 96, 96)), ("y", (n,))):
                if part != "unlabeled" or letter == "X":
                    name = f"{part}_{letter}.bin"
                    batches[name] = rng.integers(1, 11, kept, dtype=np.uint8).tobytes()
                    add(archive, f"stl10_binary/{name}", batches[name])
        folds = "\n".join(" ".join(str((10 * i + k) % 20) for k in range(4)) for i in range(10))
        batches["fold_indices.txt"] = folds.encode()
        add(archive, "stl10_binary/fold_indices.txt", batches["fold_indices.txt"])
    files["stl10_binary.tar.gz"] = out.getvalue()
    caltech = {
        f"101_ObjectCategories/{c}/image_000{i}.jpg": jpeg(i) for c in ("ant", "BACKGROUND_Google") for i in (1, 2)
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("caltech-101/101_ObjectCategories.tar.gz", packed(caltech))
    files["caltech-101.zip"] = out.getvalue()
    files["101_ObjectCategories.tar.gz"] = packed(caltech)
    numbers = ("n01440764", "n03888257")
    nette = {
        f"imagenette2/{part}/{w}/{w}_{i}.JPEG": jpeg(i) for part in ("train", "val") for w in numbers for i in (3, 4)
    }
    files["imagenette2.tgz"] = packed(nette)
    for subset, test in (("imagenette96", "val"), ("caltech101-s96", "test")):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for part, n in (("train", 3), (test, 2)):
                for i in range(n):
                    archive.writestr(f"{part}/{'ab'[i % 2]}/{i}.jpg", jpeg(i))
        batches[f"{subset}.zip"] = out.getvalue()
    sums = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    sums |= {name: hashlib.sha256(data).hexdigest() for name, data in batches.items() if name != "fold_indices.txt"}
    monkeypatch.setattr(datasets, "CHECKSUMS", dict.fromkeys(datasets.CHECKSUMS, sums))
    monkeypatch.delenv("LIKEWISE_DATA", raising=False)
    return files | batches


@pytest.fixture
def server(official: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, bytes]]:
    """A server on loopback; what it serves is the dict. Below /down/ it always answers 404."""
    served = dict(official)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = None if self.path.startswith("/down/") else served.get(self.path.rsplit("/", 1)[1])
            self.send_response(200 if data is not None else 404)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    home = f"http://127.0.0.1:{listening.server_port}/"
    monkeypatch.setattr(datasets, "SERVERS", {name: (home + "down/", home + f"{name}/") for name in datasets.SERVERS})
    monkeypatch.setenv("LIKEWISE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield served
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_a_set_is_downloaded_once(name: str, server: dict[str, bytes], tmp_path: Path) -> None:
    train, test = open_images(name), open_images(f"{name}:test")
    assert (len(train), len(test)) == ((15, 3) if name == "cifar10" else (6, 4))
    assert train.labels.tolist() == ([7, 8, 9] * 5 if name == "cifar10" else [0, 1, 2, 3, 4, 5])
    assert len(train.classes) == 10
    server.clear()
    again = open_images(f"{name}:train")
    assert (again.keys == train.keys).all()
    assert not [path for path in (tmp_path / "cache" / "datasets" / name).iterdir() if path.name.startswith(".")]


def test_pixels_of_the_official_formats(server: dict[str, bytes]) -> None:
    digits = np.frombuffer(gzip.decompress(server["train-images-idx3-ubyte.gz"]), np.uint8, offset=16)
    assert np.array_equal(open_images("mnist").source(range(6)).pixels.numpy().reshape(-1), digits)
    batch = np.frombuffer(server["test_batch.bin"], np.uint8).reshape(3, 3073)
    pixels = open_images("cifar10:test").source([2]).pixels[0]
    assert np.array_equal(pixels.numpy(), batch[2, 1:].reshape(3, 32, 32))


def test_stl10_is_read_column_by_column_with_its_folds(server: dict[str, bytes], tmp_path: Path) -> None:
    train, test, rest = (open_images(f"stl10:{split}") for split in ("train", "test", "unlabeled"))
    assert (len(train), len(test), len(rest)) == (20, 4, 6)
    stored = np.frombuffer(server["train_X.bin"], np.uint8).reshape(20, 3, 96, 96)
    for i in (0, 7):
        pixels = train.source([i]).pixels[0].numpy()
        for c, y, x in ((0, 3, 90), (2, 95, 0), (1, 10, 20)):
            assert pixels[c, y, x] == stored[i, c, x, y]
    assert train.labels.tolist() == (np.frombuffer(server["train_y.bin"], np.uint8) - 1).tolist()
    assert train.classes[0] == "airplane"
    assert rest.labels is None
    folds = datasets.stl10_folds()
    assert [fold.tolist() for fold in folds[:2]] == [[0, 1, 2, 3], [10, 11, 12, 13]]
    with pytest.raises(UsageError, match="expected stl10, stl10:train, stl10:test, stl10:unlabeled"):
        open_images("stl10:all")


def test_stl10_may_lie_unpacked(official: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "SERVERS", dict.fromkeys(DATASETS, ()))
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    folder = tmp_path / "stl10" / "stl10_binary"
    folder.mkdir(parents=True)
    for name in ("train_X.bin", "train_y.bin", "fold_indices.txt"):
        (folder / name).write_bytes(official[name])
    assert len(open_images("stl10")) == 20
    assert len(datasets.stl10_folds()) == 10
    (folder / "fold_indices.txt").write_text("1 2 3")
    with pytest.raises(DataError, match=r"stl10: fold_indices\.txt is not ten lines of ids"):
        datasets.stl10_folds()
    (folder / "train_y.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"train_y\.bin: sha256 .* official"):
        open_images("stl10")


def test_caltech_and_imagenette_are_read_from_their_official_archives(server: dict[str, bytes], tmp_path: Path) -> None:
    caltech = open_images("caltech101")
    assert caltech.paths == ["ant/image_0001.jpg", "ant/image_0002.jpg"]
    assert (caltech.classes, caltech.labels.tolist()) == (["ant"], [0, 0])
    with pytest.raises(UsageError, match="data=caltech101:test: expected caltech101, which has no splits"):
        open_images("caltech101:test")
    nette = open_images("imagenette:test")
    assert nette.paths == [f"{w}/{w}_{i}.JPEG" for w in ("n01440764", "n03888257") for i in (3, 4)]
    assert [nette.classes[label] for label in nette.labels] == ["tench"] * 2 + ["parachute"] * 2
    assert nette.source([0]).pixels.shape == (1, 3, 16, 23)
    server.clear()  # what was decompressed stays in the cache
    assert len(open_images("imagenette:train")) == 4
    assert len(open_images("caltech101")) == 2


def test_caltech_may_lie_as_the_older_archive(
    official: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(datasets, "SERVERS", dict.fromkeys(DATASETS, ()))
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LIKEWISE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data" / "caltech101").mkdir(parents=True)
    inner = tmp_path / "data" / "caltech101" / "101_ObjectCategories.tar.gz"
    inner.write_bytes(b"x")
    with pytest.raises(DataError, match=r"101_ObjectCategories\.tar\.gz: md5 .* official"):
        open_images("caltech101")
    inner.write_bytes(official["101_ObjectCategories.tar.gz"])
    assert len(open_images("caltech101")) == 2


def test_subsets_carry_their_own_names_and_have_no_home(
    official: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"imagenette96: .* it has no home: .* into \$LIKEWISE_DATA/imagenette96$"):
        open_images("imagenette96")
    for name, folder in (("imagenette96", "imagenette96"), ("caltech101-s96", "caltech101")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.zip").write_bytes(official[f"{name}.zip"])
        train, test = open_images(f"{name}:train"), open_images(f"{name}:test")
        assert (train.name, len(train), len(test)) == (f"{name}:train", 3, 2)
        assert train.paths == ["a/0.jpg", "a/2.jpg", "b/1.jpg"]
        assert (train.labels.tolist(), train.classes) == ([0, 0, 1], ["a", "b"])
        (tmp_path / folder / f"{name}.zip").write_bytes(b"x")
        with pytest.raises(DataError, match=rf"{name}\.zip: sha256 .* official"):
            open_images(name)


def test_a_download_that_is_not_the_official_file_is_refused(server: dict[str, bytes], tmp_path: Path) -> None:
    server["train-images-idx3-ubyte.gz"] = b"something else"
    with pytest.raises(DataError, match=r"404.*md5 [0-9a-f]{32}, expected [0-9a-f]{32}"):
        open_images("mnist")
    assert list((tmp_path / "cache" / "datasets" / "mnist").iterdir()) == []


def test_a_missing_file_names_what_is_expected(server: dict[str, bytes], tmp_path: Path) -> None:
    server.clear()
    with pytest.raises(DataError) as caught:
        open_images("fashion-mnist:test")
    for part in (str(tmp_path), "404", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "LIKEWISE_DATA"):
        assert part in str(caught.value)


def test_no_network_names_what_is_expected(
    official: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(datasets, "SERVERS", {"cifar10": ("http://127.0.0.1:1/",)})
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError) as caught:
        open_images("cifar10")
    for part in (str(tmp_path / "data" / "cifar10"), "cifar-10-binary.tar.gz", "refused"):
        assert part in str(caught.value)


def test_local_files_go_first_and_must_be_official(
    official: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(datasets, "SERVERS", dict.fromkeys(DATASETS, ()))
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    unpacked = tmp_path / "cifar10" / "cifar-10-batches-bin"
    unpacked.mkdir(parents=True)
    for name in datasets._CIFAR10["train"]:
        (unpacked / name).write_bytes(official[name])
    from_folder = open_images("cifar10")
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(official["cifar-10-binary.tar.gz"])
    assert (open_images("cifar10").keys == from_folder.keys).all()
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").unlink()
    (unpacked / "data_batch_3.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"data_batch_3\.bin: sha256 .* official"):
        open_images("cifar10")
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: md5 .* official"):
        open_images("mnist")


def test_what_is_listed_is_known() -> None:
    for name, about in DATASETS.items():
        assert set(about) == {"images", "size", "what", "home"}
        assert name.startswith("digits") or datasets.CHECKSUMS[name]
        assert name.startswith("digits") or datasets.SERVERS[name] or about["home"] == "none: a subset"


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "n", "shape"),
    [
        ("mnist", 60_000, (1, 28, 28)),
        ("mnist:test", 10_000, (1, 28, 28)),
        ("fashion-mnist:train", 60_000, (1, 28, 28)),
        ("fashion-mnist:test", 10_000, (1, 28, 28)),
        ("cifar10:train", 50_000, (3, 32, 32)),
        ("cifar10:test", 10_000, (3, 32, 32)),
        ("imagenette96:train", 4_000, (3, 96, 96)),
        ("imagenette96:test", 1_500, (3, 96, 96)),
    ],
)
def test_the_real_sets(data: Path, name: str, n: int, shape: tuple[int, ...]) -> None:
    assert data.is_dir()
    images = open_images(name)
    assert len(images) == n
    assert images.source([0, n - 1]).pixels.shape == (2, *shape)
    counts = np.bincount(images.labels)
    if name == "mnist":
        assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    elif name == "mnist:test":
        assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    else:
        assert counts.tolist() == [n // 10] * 10
    if name == "cifar10:test":
        assert [images.classes[label] for label in images.labels[:3]] == ["cat", "ship", "ship"]
    assert len(set(images.keys.tolist())) == n


@pytest.mark.data
def test_photographs_in_a_zip(data: Path, tmp_path: Path) -> None:
    images = open_images(data / "imagenette96" / "imagenette96.zip" / "val", labels="folders", cache=tmp_path)
    assert len(images) == 1_500
    assert np.bincount(images.labels).tolist() == [150] * 10
    assert images.native_side == 96
    assert images.store.block is not None


@pytest.mark.data
def test_a_set_of_files_may_be_asked_for_its_own_labels_by_name(tmp_path: Path) -> None:
    images = open_images("imagenette96:test", labels="imagenette96", side=8, cache=tmp_path)
    assert len(images.classes or []) == 10
    with pytest.raises(UsageError, match="labels=mnist: expected folders"):
        open_images("imagenette96:test", labels="mnist", side=8, cache=tmp_path)


def test_the_batches_of_cifar_come_in_their_order(server: dict[str, bytes]) -> None:
    batches = b"".join(server[f"data_batch_{i}.bin"] for i in range(1, 6))
    rows = np.frombuffer(batches, np.uint8).reshape(15, 3073)
    pixels = open_images("cifar10").source(range(15)).pixels.numpy()
    assert np.array_equal(pixels.reshape(15, -1), rows[:, 1:])


def test_the_users_folder_goes_before_the_cache(
    official: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LIKEWISE_CACHE", str(tmp_path / "cache"))
    for place in ("data/mnist", "cache/datasets/mnist"):
        (tmp_path / place).mkdir(parents=True)
        for name in datasets._IDX["test"]:
            (tmp_path / place / name).write_bytes(official[name] if place.startswith("data") else b"damaged")
    assert len(open_images("mnist:test")) == 4


def test_classes_have_the_names_of_their_numbers() -> None:
    """As the sets' homes list them."""
    clothes = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"]
    assert datasets.CLASSES["fashion-mnist"] == [*clothes, "Ankle boot"]
    assert datasets.CLASSES["cifar10"] == [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    assert datasets.CLASSES["stl10"] == [
        "airplane",
        "bird",
        "car",
        "cat",
        "deer",
        "dog",
        "horse",
        "monkey",
        "ship",
        "truck",
    ]
    things = "tench English_springer cassette_player chain_saw church French_horn garbage_truck gas_pump golf_ball"
    assert [datasets.IMAGENETTE[number] for number in sorted(datasets.IMAGENETTE)] == [*things.split(), "parachute"]
