"""Named sets: official files, by official checksums, read without unpickling anything.

A file is looked up as $LIKEWISE_DATA/<set>/<file>, then in the user's cache, else downloaded from its official home.
"""

import gzip
import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import UInt8

from likewise.draws import Draws
from likewise.errors import DataError, UsageError
from likewise.files import write
from likewise.images.sources import Items, content_of_pixels, from_array
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
}

# Where the official files are served. The first home of MNIST no longer answers programs.
SERVERS: dict[str, Sequence[str]] = {
    "mnist": (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "fashion-mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/",),
}

_IDX = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_CIFAR10_ARCHIVE, _CIFAR10_FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
_CIFAR10 = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}

# Of files: md5, as their homes publish it. Of the members of CIFAR-10's archive, which may lie unpacked: sha256.
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
}
DIGITS = [str(i) for i in range(10)]


def named(data: str) -> Items:
    """A named set or a split of one: "cifar10" and "cifar10:train" are its training images, "cifar10:test" the others.

    The digits have no official split: "digits" is all of them, and a third, told by their keys, is "digits:test".
    """
    name, colon, split = data.partition(":")
    pick(DATASETS, name, "named set")
    if (colon or split) and split not in ("train", "test"):
        raise UsageError(f"data={data}: expected {name}, {name}:train or {name}:test")
    if name.startswith("digits"):
        return _digits(data, split, framed=name != "digits")
    split = split or "train"
    images, labels = _cifar10(split) if name == "cifar10" else _mnist(name, split)
    paths = [f"{name}/{split}/{i:05d}" for i in range(len(images))]
    return from_array(images, data, labels.astype(np.int64), list(CLASSES.get(name, DIGITS)), paths)


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
    names = _CIFAR10[split]
    batches = _cifar10_unpacked(names)
    if batches is None:
        archive = official("cifar10", _CIFAR10_ARCHIVE, needed=(_CIFAR10_ARCHIVE,))
        with tarfile.open(archive, "r:gz") as opened:
            members = {Path(info.name).name: opened.extractfile(info) for info in opened if info.isreg()}
            batches = [stream.read() for name in names if (stream := members.get(name))]
    rows = np.frombuffer(b"".join(batches), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, 32, 32), rows[:, 0]


def _cifar10_unpacked(names: Sequence[str]) -> list[bytes] | None:
    """The batches from a folder in which the archive was unpacked, if there is one."""
    for folder in _places("cifar10"):
        files = [folder / _CIFAR10_FOLDER / name for name in names]
        if not (folder / _CIFAR10_ARCHIVE).is_file() and all(file.is_file() for file in files):
            batches = [file.read_bytes() for file in files]
            for file, batch in zip(files, batches, strict=True):
                _check(file, hashlib.sha256(batch).hexdigest(), CHECKSUMS["cifar10"][file.name], "sha256")
            return batches
    return None


def official(name: str, file: str, *, needed: Sequence[str]) -> Path:
    """The path of an official file, its checksum verified. `needed` are the files that an error asks for."""
    for folder in _places(name):
        path = folder / file
        if path.is_file():
            _check(path, _md5(path), CHECKSUMS[name][file], "md5")
            return path
    target = _places(name)[-1] / file
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
    raise DataError(
        f"{name}: {file} is in neither of {' and '.join(map(str, _places(name)))}, and no download succeeded "
        f"({'; '.join(failures)}); put the official files {', '.join(needed)} into $LIKEWISE_DATA/{name}"
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


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check(path: Path, found: str, expected: str, kind: str) -> None:
    if found != expected:
        raise DataError(f"{path}: {kind} {found}, but that of the official file is {expected}; replace it or remove it")
