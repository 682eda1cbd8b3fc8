"""Named sets: official files, by official checksums, read without unpickling anything.

A file is looked up as $LIKEWISE_DATA/<set>/<file>, then in the user's cache, else downloaded from its official home. A
subset has a name of its own and no home: figures on it are not those of the set.
"""

import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Int, UInt8

from likewise.draws import Draws
from likewise.errors import DataError, UsageError
from likewise.files import write
from likewise.images.sources import Files, Items, content_of_pixels, find, from_array
from likewise.progress import bar
from likewise.types import pick

DATASETS: dict[str, dict[str, Any]] = {
    "digits": {
        "images": 1_797,
        "size": "8 x 8 grey",
        "what": "handwritten digits, 10 classes; bundled, no download; a third is :test",
        "home": "scikit-learn",
    },
    "digits-in-frames": {
        "images": 1_797,
        "size": "20 x 20 grey",
        "what": "the same digits, each at a random place in a black frame",
        "home": "scikit-learn",
    },
    "mnist": {
        "images": 70_000,
        "size": "28 x 28 grey",
        "what": "handwritten digits, 10 classes; 60,000 :train, 10,000 :test",
        "home": "http://yann.lecun.com/exdb/mnist/",
    },
    "fashion-mnist": {
        "images": 70_000,
        "size": "28 x 28 grey",
        "what": "articles of clothing, 10 classes; 60,000 :train, 10,000 :test",
        "home": "https://github.com/zalandoresearch/fashion-mnist",
    },
    "cifar10": {
        "images": 60_000,
        "size": "32 x 32 RGB",
        "what": "animals and vehicles, 10 classes; 50,000 :train, 10,000 :test",
        "home": "https://www.cs.toronto.edu/~kriz/cifar.html",
    },
    "stl10": {
        "images": 113_000,
        "size": "96 x 96 RGB",
        "what": "animals and vehicles, 10 classes; 5,000 :train in ten folds, 8,000 :test, 100,000 :unlabeled",
        "home": "https://cs.stanford.edu/~acoates/stl10/",
    },
    "caltech101": {
        "images": 8_677,
        "size": "about 300 x 200 RGB",
        "what": "objects, 101 classes, without the background; no official split",
        "home": "https://data.caltech.edu/records/mzrjq-6wc02",
    },
    "caltech101-s96": {
        "images": 3_969,
        "size": "short side 96, RGB",
        "what": "a subset of caltech101, shrunk; 30 a class :train, up to 10 a class :test",
        "home": "none: a subset",
    },
    "imagenette": {
        "images": 13_394,
        "size": "of any size, RGB",
        "what": "ten easy classes of ImageNet (imagenette2); 9,469 :train, 3,925 :test",
        "home": "https://github.com/fastai/imagenette",
    },
    "imagenette96": {
        "images": 5_500,
        "size": "96 x 96 RGB",
        "what": "a subset of imagenette, shrunk; 400 a class :train, 150 a class :test",
        "home": "none: a subset",
    },
}
SPLITS = {"stl10": ("train", "test", "unlabeled"), "caltech101": ()}  # of the others: train and test

# Where the official files are served. The first home of MNIST no longer answers programs.
SERVERS: dict[str, Sequence[str]] = {
    "mnist": (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/",),
    "stl10": ("http://ai.stanford.edu/~acoates/stl10/",),
    "caltech101": ("https://data.caltech.edu/records/mzrjq-6wc02/files/",),
    "imagenette": ("https://s3.amazonaws.com/fast-ai-imageclas/",),
    "caltech101-s96": (),
    "imagenette96": (),
}

_IDX = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_CIFAR10_ARCHIVE, _CIFAR10_FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
_CIFAR10 = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_STL10_ARCHIVE, _STL10_FOLDER = "stl10_binary.tar.gz", "stl10_binary"
_STL10 = {
    "train": ("train_X.bin", "train_y.bin"),
    "test": ("test_X.bin", "test_y.bin"),
    "unlabeled": ("unlabeled_X.bin",),
}
_STL10_FOLDS = "fold_indices.txt"
_SUBSETS = {  # the file, the folder where it is looked for, and where its splits are inside of it
    "caltech101-s96": ("caltech101-s96.zip", "caltech101", {"train": "train", "test": "test"}),
    "imagenette96": ("imagenette96.zip", "imagenette96", {"train": "train", "test": "val"}),
}

# Of files: md5, as their homes publish it; sha256 of those that no home publishes. Of the members of an archive that
# may lie unpacked: either.
CHECKSUMS: dict[str, dict[str, str]] = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    "cifar10": {
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    "stl10": {
        "stl10_binary.tar.gz": "91f7769df0f17e558f3565bffb0c7dfb",
        "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
        "train_y.bin": "5a34089d4802c674881badbb80307741",
        "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
        "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
        "unlabeled_X.bin": "5242ba1fed5e4be9e1e742405eb56ca4",
    },
    "caltech101": {
        "caltech-101.zip": "3138e1922a9193bfa496528edbbc45d0",
        "101_ObjectCategories.tar.gz": "b224c7392d521a49829488ab0f1120d9",
    },
    "caltech101-s96": {
        "caltech101-s96.zip": "5f2c71ffbaa6812d92b8140395aa1eff7a5a762d9aa43a29a5097113ba500532",
    },
    "imagenette": {"imagenette2.tgz": "fe2fc210e6bb7c5664d602c3cd71e612"},
    "imagenette96": {
        "imagenette96.zip": "7cc3dd1cdf2f0e9308657302169ea590a1906951c3febebe07296c67549b03a6",
    },
}

CLASSES = {
    "fashion-mnist": [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ],
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "stl10": ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"],
}
IMAGENETTE = {  # what ImageNet's numbers mean
    "n01440764": "tench",
    "n02102040": "English_springer",
    "n02979186": "cassette_player",
    "n03000684": "chain_saw",
    "n03028079": "church",
    "n03394916": "French_horn",
    "n03417042": "garbage_truck",
    "n03425413": "gas_pump",
    "n03445777": "golf_ball",
    "n03888257": "parachute",
}
DIGITS = [str(i) for i in range(10)]


def named(data: str) -> Items | Files:
    """A named set or a split of one: "cifar10" and "cifar10:train" are its training images, "cifar10:test" the others.

    The digits have no official split: "digits" is all of them, and a third, told by their keys, is "digits:test".
    Caltech-101 has none either.
    """
    name, colon, split = data.partition(":")
    pick(DATASETS, name, "named set")
    splits = SPLITS.get(name, ("train", "test"))
    if (colon or split) and split not in splits:
        expected = f"{name}, {', '.join(f'{name}:{s}' for s in splits)}" if splits else f"{name}, which has no splits"
        raise UsageError(f"data={data}: expected {expected}")
    if name.startswith("digits"):
        return _digits(data, split, framed=name != "digits")
    if name in _SUBSETS:
        file, folder, parts = _SUBSETS[name]
        return _by_folder(find(official(name, file, needed=(file,), folder=folder) / parts[split or "train"], data))
    if name == "caltech101":
        files = _by_folder(find(_caltech101() / "101_ObjectCategories", data))
        return _kept(files, [i for i, path in enumerate(files.paths) if not path.startswith("BACKGROUND_Google/")])
    if name == "imagenette":
        part = "val" if split == "test" else "train"
        archive = _unpacked(
            "imagenette", "imagenette2.tar", lambda: _opened(_official("imagenette", "imagenette2.tgz"))
        )
        files = _by_folder(find(archive / "imagenette2" / part, data))
        return replace(files, labels=[IMAGENETTE.get(label, label) for label in files.labels or ()])
    split = split or "train"
    images, labels = _stl10(split) if name == "stl10" else _cifar10(split) if name == "cifar10" else _mnist(name, split)
    paths = [f"{name}/{split}/{i:05d}" for i in range(len(images))]
    known = None if labels is None else labels.astype(np.int64)
    return from_array(images, data, known, None if labels is None else list(CLASSES.get(name, DIGITS)), paths)


def _by_folder(files: Items | Files) -> Files:
    """Labels that a named set brings: its folders."""
    assert isinstance(files, Files)
    return replace(files, labels=[path.split("/")[0] for path in files.paths])


def _kept(files: Files, ids: list[int]) -> Files:
    labels = files.labels or []
    return replace(
        files,
        paths=[files.paths[i] for i in ids],
        read=lambda k: files.read(ids[k]),
        labels=[labels[i] for i in ids],
        fingerprint=f"{files.fingerprint} {len(ids)} kept",  # what is remembered of all is not of these
    )


def _digits(data: str, split: str, *, framed: bool) -> Items:
    from sklearn.datasets import load_digits

    bundled = load_digits()
    images = np.floor(bundled.images * (255 / 16) + 0.5).astype(np.uint8)
    keys = torch.tensor([content_of_pixels(image[None]) for image in images])
    draws = Draws(seed=0, epoch=0, number=0, keys=keys).child("digits")
    ids = np.arange(len(images))
    if split:
        order = draws.bits("split").argsort(stable=True).numpy()
        n_test = len(images) // 3
        ids = np.sort(order[:n_test] if split == "test" else order[n_test:])
    if framed:
        frames = np.zeros((len(images), 20, 20), np.uint8)
        places = (draws.image("place", 2) * 13).long().tolist()  # the frame leaves room for 13 positions each way
        for frame, digit, (top, left) in zip(frames, images, places, strict=True):
            frame[top : top + 8, left : left + 8] = digit
        images = frames
    paths = [f"{data.partition(':')[0]}/{i:04d}" for i in ids]
    return from_array(images[ids], data, bundled.target[ids].astype(np.int64), DIGITS, paths)


def _mnist(name: str, split: str) -> tuple[UInt8[np.ndarray, "n 28 28"], UInt8[np.ndarray, " n"]]:
    images, labels = (_idx(official(name, file, needed=_IDX[split])) for file in _IDX[split])
    return images, labels


def _idx(file: Path) -> UInt8[np.ndarray, "..."]:
    """The idx format: two zero bytes, the type (8: uint8), the number of axes, their lengths big-endian, the data."""
    data = gzip.decompress(file.read_bytes())
    n_axes = data[3]
    shape = np.frombuffer(data, ">i4", n_axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def _cifar10(split: str) -> tuple[UInt8[np.ndarray, "n 3 32 32"], UInt8[np.ndarray, " n"]]:
    """The binary version: a label byte and 3,072 bytes of pixels, channel by channel, per image."""
    batches = _members("cifar10", _CIFAR10_ARCHIVE, _CIFAR10_FOLDER, _CIFAR10[split])
    rows = np.frombuffer(b"".join(batches), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, 32, 32), rows[:, 0]


def _stl10(split: str) -> tuple[UInt8[np.ndarray, "n 3 96 96"], Int[np.ndarray, " n"] | None]:
    """The binary version: pixels channel by channel and *column* by column; labels from 1, none of the unlabeled."""
    parts = _members("stl10", _STL10_ARCHIVE, _STL10_FOLDER, _STL10[split])
    pixels = np.frombuffer(parts[0], np.uint8).reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
    labels = np.frombuffer(parts[1], np.uint8).astype(np.int64) - 1 if len(parts) > 1 else None
    return np.ascontiguousarray(pixels), labels


def stl10_folds() -> list[Int[np.ndarray, " _"]]:
    """The ten predefined folds of the training images, 1,000 ids each."""
    (text,) = _members("stl10", _STL10_ARCHIVE, _STL10_FOLDER, (_STL10_FOLDS,))
    folds = [np.array(line.split(), np.int64) for line in text.decode().splitlines() if line.strip()]
    if len(folds) != 10 or any(len(fold) == 0 or fold.min() < 0 or fold.max() >= 5_000 for fold in folds):
        raise DataError(f"stl10: {_STL10_FOLDS} is not ten lines of ids below 5000; replace it or remove it")
    return folds


def _members(name: str, archive: str, folder: str, files: Sequence[str]) -> list[bytes]:
    """The bytes of some files of an archive, or of a folder in which it was unpacked, if there is one."""
    for place in _places(name):
        unpacked = [place / folder / file for file in files]
        if not (place / archive).is_file() and all(file.is_file() for file in unpacked):
            for file in unpacked:
                if file.name in CHECKSUMS[name]:  # the others are too small to have one of their own
                    _check(file, CHECKSUMS[name][file.name])
            return [file.read_bytes() for file in unpacked]
    found: dict[str, bytes] = {}
    with tarfile.open(official(name, archive, needed=(archive,)), "r:gz") as opened:
        for info in opened:
            base = Path(info.name).name
            stream = opened.extractfile(info) if base in files and info.isreg() else None
            if stream is not None:
                found[base] = stream.read()
    return [found[file] for file in files]


def _caltech101() -> Path:
    """The images as a .tar: the official .zip holds them as a .tar.gz, which may also lie there by itself."""
    inner = "101_ObjectCategories.tar.gz"

    @contextmanager
    def packed() -> Iterator[IO[bytes]]:
        for place in _places("caltech101"):
            if (place / inner).is_file():
                _check(place / inner, CHECKSUMS["caltech101"][inner])
                with _opened(place / inner) as stream:
                    yield stream
                return
        with zipfile.ZipFile(_official("caltech101", "caltech-101.zip")) as archive:
            member = next(name for name in archive.namelist() if name.endswith(inner) and "__MACOSX" not in name)
            with archive.open(member) as stream:
                yield stream

    return _unpacked("caltech101", "101_ObjectCategories.tar", packed)


def _unpacked(name: str, tar: str, packed: Callable[[], AbstractContextManager[IO[bytes]]]) -> Path:
    """A .tar that was compressed, decompressed once into the user's cache, where it is read by offset."""
    target = _places(name)[-1] / tar
    if not target.is_file():
        with packed() as stream, gzip.open(stream) as plain:
            target.parent.mkdir(parents=True, exist_ok=True)
            write(target, lambda out: shutil.copyfileobj(plain, out, 1 << 20))
    return target


def _opened(path: Path) -> IO[bytes]:
    return open(path, "rb")


def _official(name: str, file: str) -> Path:
    return official(name, file, needed=(file,))


def official(name: str, file: str, *, needed: Sequence[str], folder: str | None = None) -> Path:
    """The path of an official file, its checksum verified. `needed` are the files that an error asks for.

    `folder` is where it is looked for, if not in one named like the set.
    """
    places = _places(folder or name)
    for place in places:
        path = place / file
        if path.is_file():
            _check(path, CHECKSUMS[name][file])
            return path
    target = places[-1] / file
    failures = []
    for server in SERVERS[name]:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write(target, partial(_download, server + file, CHECKSUMS[name][file]))
            return target
        except urllib.error.HTTPError as error:
            failures.append(f"{server + file}: {error.code} {error.reason}")
        except (OSError, http.client.HTTPException, DataError) as error:
            failures.append(f"{server + file}: {getattr(error, 'reason', None) or error}")
    missing = f"{name}: {file} is in neither of {' and '.join(map(str, places))}"
    where = f"$LIKEWISE_DATA/{folder or name}"
    if not SERVERS[name]:
        raise DataError(f"{missing}, and it has no home: a subset made for this project, to be put into {where}")
    raise DataError(
        f"{missing}, and no download succeeded ({'; '.join(failures)}); "
        f"put the official files {', '.join(needed)} into {where}"
    )


def _download(url: str, expected: str, out: IO[bytes]) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    request = urllib.request.Request(url, headers={"User-Agent": "likewise"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        size, done = int(answer.headers.get("Content-Length") or 0), 0
        with bar(f"download {url}", size) as progress:
            while chunk := answer.read(1 << 20):
                out.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress.update(done)
    if digest.hexdigest() != expected:
        raise DataError(f"md5 {digest.hexdigest()}, expected {expected}")


def _places(name: str) -> list[Path]:
    from likewise.images.cache import cache_folder

    given = os.environ.get("LIKEWISE_DATA")
    return [*([Path(given) / name] if given else []), cache_folder() / "datasets" / name]


def _check(path: Path, expected: str) -> None:
    kind = "md5" if len(expected) == 32 else "sha256"
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(f"{path}: {kind} {found}, but that of the official file is {expected}; replace it or remove it")
