"""The nouns that the rest of the package passes around. It imports the base alone."""

import csv
import json
import math
import tomllib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn

from likewise.draws import Draws
from likewise.errors import DataError, UsageError
from likewise.files import read_array, read_json, write, write_array, write_json, write_text

Images = Float[Tensor, "b c h w"]  # in [0, 1], on the device
Crops = Sequence[Float[Tensor, "b c _ _"]]  # views of the same images, not all of one size
Scalar = Float[Tensor, ""]
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Pixels as stored: padded at the bottom and right to the largest image of the batch."""

    pixels: UInt8[Tensor, "b c H W"]
    sizes: Int[Tensor, "b 2"]  # true height and width

    def to(self, device: torch.device) -> "Source":
        return Source(self.pixels.to(device, non_blocking=True), self.sizes.to(device, non_blocking=True))

    def repeated(self, n: int) -> "Source":
        """All images, `n` times over."""
        return self if n == 1 else Source(self.pixels.repeat(n, 1, 1, 1), self.sizes.repeat(n, 1))


class Encoder(nn.Module):
    """Images "b c h w" in [0, 1] -> features "b dim"; an encoder does its own normalisation.

    It may have `dense(images)`, the maps of its layers from fine to coarse ("b c i j" each).
    """

    dim: int


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Evaluate, and put every part back into the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def device_of(module: nn.Module) -> torch.device:
    """Where the weights of a module lie."""
    return next((value.device for value in (*module.parameters(), *module.buffers())), torch.device("cpu"))


@dataclass(frozen=True)
class DataInfo:
    """All that a method may know of the data."""

    n_images: int
    channels: int
    size: int


@dataclass(frozen=True)
class Batch:
    """What one step sees. `order` gives rows of k ids; `views` and `draws` list them row by row (b * k images)."""

    views: Crops
    ids: Int[Tensor, "m k"]
    progress: float  # of the whole training, in [0, 1)
    draws: Draws


class Step(NamedTuple):
    """What a method says of one batch. The loop sums `terms`, logs both, and adds up `score` per image."""

    terms: dict[str, Scalar]
    shown: Mapping[str, Scalar] = MappingProxyType({})
    score: Float[Tensor, " n"] | None = None


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Exactly one of `epochs`, `steps`, `minutes` is used; `minutes` is turned into `steps`."""

    epochs: int | float | None = None
    steps: int | None = None
    minutes: int | float | None = None
    batch_size: int = 256
    optimizer: str = "adamw"  # adamw | sgd | lars | muon
    lr: float = 1e-3  # at the end of the warm-up; not rescaled by anything
    weight_decay: float = 1e-4
    final_weight_decay: float | None = None  # reached along a cosine; None: it stays
    momentum: float = 0.9  # sgd, lars and muon
    betas: tuple[float, float] = (0.9, 0.999)  # adamw and muon
    schedule: str = "cosine"  # cosine | thirds: after the warm-up, a third of it at 1/2, 2/3 and 5/6 of the steps
    warmup: float = 0.05  # fraction of the steps
    final_lr: float = 0.0  # fraction of lr at the end of the cosine
    clip: float | None = None  # largest norm of the gradient
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | mps
    precision: str = "auto"  # auto (bf16 where `training.fit.bf16_pays`) | fp32 | bf16
    threads: int = 2  # that read and decode images ahead of the step
    save_every: str | int = "10m"  # minutes ("10m") or steps (200)
    monitor_every: int = 100  # steps between measurements of the features' rank
    knn_epochs: tuple[
        int | float, ...
    ] = ()  # after which a labelled set is classified by k-NN; it always is at the end


@dataclass(frozen=True)
class Embeddings:
    """Features of a set of images: row i belongs to image i of the set as listed."""

    x: Float[np.ndarray, "n d"]
    keys: Int[np.ndarray, " n"]
    paths: Sequence[str]
    labels: Int[np.ndarray, " n"] | None = None
    classes: Sequence[str] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x.ndim != 2:
            raise DataError(f"embeddings have shape {self.x.shape}; expected (images, dimensions)")
        rows = {"keys": len(self.keys), "paths": len(self.paths)}
        if self.labels is not None:
            rows["labels"] = len(self.labels)
        for name, n in rows.items():
            if n != len(self.x):
                raise DataError(f"embeddings have {len(self.x)} rows but {n} {name}")
        if self.labels is not None and self.classes is not None:
            most = int(np.max(self.labels, initial=-1))
            if most >= len(self.classes):
                raise DataError(f"embeddings have the label {most} but {len(self.classes)} names of classes")

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, ids: Int[np.ndarray, " m"]) -> "Embeddings":
        """The embeddings of some images only."""
        return Embeddings(
            np.asarray(self.x[ids]),
            self.keys[ids],
            [self.paths[i] for i in ids],
            None if self.labels is None else self.labels[ids],
            self.classes,
            self.meta,
        )

    def save(self, folder: Path | str) -> Path:
        """Write x.npy, items.csv and meta.json into a folder, made if it is missing; meta.json last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_array(folder / "x.npy", np.ascontiguousarray(self.x, dtype=np.float32))
        write(folder / "items.csv", lambda file: file.writelines(line.encode() for line in self._items()))
        classes = list(self.classes) if self.classes else None
        write_json(folder / "meta.json", {**self.meta, "classes": classes, "shape": list(self.x.shape)})
        return folder

    def _items(self) -> Iterator[str]:
        yield "id,key,path,label\n"
        for i, (key, path) in enumerate(zip(self.keys, self.paths, strict=True)):
            label = ""
            if self.labels is not None and self.labels[i] >= 0:
                label = str(self.classes[self.labels[i]] if self.classes else self.labels[i])
            yield f"{i},{int(key)},{_quote(path)},{_quote(label)}\n"

    @classmethod
    def load(cls, folder: Path | str) -> "Embeddings":
        """Read a folder that `save` wrote; `x` is memory-mapped.

        Labels that are whole numbers without names of classes stay these numbers; others are numbered.
        """
        folder = Path(folder)
        for name in ("x.npy", "items.csv", "meta.json"):
            if not (folder / name).is_file():
                raise DataError(f"{folder} is not an embeddings folder: {name} is missing")
        meta, x = read_json(folder / "meta.json"), read_array(folder / "x.npy")
        keys, paths, named, names = array("q"), list[str](), array("q"), dict[str, int]()
        with open(folder / "items.csv", newline="", encoding="utf-8") as file:
            try:
                for item in csv.DictReader(file):
                    keys.append(int(item["key"]))
                    paths.append(item["path"])
                    named.append(names.setdefault(item["label"], len(names)))
            except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
                raise DataError(f"{folder / 'items.csv'}: is not as `save` wrote it ({error!r})") from None
        classes = meta.pop("classes", None)
        labels = None
        if known := set(names) - {""}:
            if classes is None and all(name.isdecimal() for name in known):
                number = {name: int(name) for name in known}
            else:
                classes = classes or sorted(known)
                number = {name: i for i, name in enumerate(classes)}
            labels = np.array([number.get(name, -1) for name in names])[np.array(named, dtype=np.int64)]
        return cls(x, np.array(keys, dtype=np.int64), paths, labels, classes, meta)


@dataclass(frozen=True)
class Selection:
    """Chosen images in pick order: any prefix is the smaller coreset, where the method has an order."""

    indices: Int[np.ndarray, " k"]
    gains: Float[np.ndarray, " k"]
    weights: Float[np.ndarray, " k"] | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def save(self, folder: Path | str, paths: Sequence[str] | None = None) -> Path:
        """Write selection.csv (rank, id, path, gain, weight) and selection.json into a folder, made if missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["rank,id,path,gain,weight"]
        for rank, i in enumerate(self.indices):
            weight = "" if self.weights is None else f"{self.weights[rank]:.9g}"
            path = _quote(paths[i]) if paths is not None else ""
            lines.append(f"{rank},{int(i)},{path},{self.gains[rank]:.9g},{weight}")
        write_text(folder / "selection.csv", "\n".join(lines) + "\n")
        write_json(folder / "selection.json", {**self.meta, "n": len(self), "quality": dict(self.quality)})
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "Selection":
        """Read a folder that `save` wrote."""
        folder = Path(folder)
        if not (folder / "selection.csv").is_file():
            raise DataError(f"{folder} is not a selection folder: selection.csv is missing")
        meta = read_json(folder / "selection.json")
        with open(folder / "selection.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        weights = None
        if rows and rows[0]["weight"]:
            weights = np.array([float(row["weight"]) for row in rows])
        return cls(
            np.array([int(row["id"]) for row in rows], dtype=np.int64),
            np.array([float(row["gain"]) for row in rows]),
            weights,
            meta.pop("quality", {}),
            meta,
        )


def gather(x: Shaped[Tensor, "n *rest"]) -> Shaped[Tensor, "m *rest"]:
    """The rows of all processes, in rank order, with gradients; the identity on one process.

    A loss calls this where its formula ranges over the whole batch. Every process must hold as many rows.
    """
    return x if world() == 1 else _Gather.apply(x)


class _Gather(torch.autograd.Function):
    """What a process's rows did to the losses of all processes comes back to it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.n = len(x)
        rows = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
        torch.distributed.all_gather(rows, x.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient[rank() * ctx.n : (rank() + 1) * ctx.n]


def rank() -> int:
    """The number of this process; 0 when there is only one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return 0


def world() -> int:
    """How many processes train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def pick(table: Mapping[str, T], name: str, kind: str) -> T:
    """An entry of one of the hand-written tables, or an error that lists what is there."""
    if name not in table:
        raise UsageError(f"{kind} {name!r} is unknown{did_you_mean(name, table)}; known: {', '.join(sorted(table))}")
    return table[name]


def usable_device(name: str) -> str:
    """`name`, or what "auto" stands for here. Raises UsageError for a device that is not there."""
    there = ["cpu"]
    there += ["cuda"] if torch.cuda.is_available() else []
    there += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return "cuda" if "cuda" in there else "cpu"
    kind, colon, number = name.partition(":")
    n = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in there or (colon and not (number.isdecimal() and int(number) < n)):
        raise UsageError(f"device={name!r}: cannot be used here; expected auto or {' or '.join(there)}")
    return name


def did_you_mean(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """ " (did you mean 'x'?)" or nothing."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    bool: "true or false",
    tuple: "a list",
    list: "a list",
}


def read_word(value: Any) -> Any:
    """A word from the command line as the TOML value that it is, if it is one; anything else as it is."""
    if isinstance(value, str):
        with suppress(tomllib.TOMLDecodeError):
            return tomllib.loads(f"value = {value}")["value"]
    return value


def typed(key: str, value: Any, kind: Any) -> Any:
    """`value` as the annotated type; words from the command line are read as TOML values, `none` where that is one of
    the types as None, arrays as lists.

    >>> typed("lr", "1e-3", float), typed("steps", "100", int | None), typed("widths", "[8, 16]", tuple[int, ...])
    (0.001, 100, (8, 16))

    Raises UsageError, naming `key`, for another type, and for a number that is not finite.
    """
    kinds = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
    bases = tuple(get_origin(k) or k for k in kinds)
    if isinstance(value, np.generic | np.ndarray | Tensor) and not isinstance(value, bases):
        value = value.tolist()
    if isinstance(value, str) and value == "none" and NoneType in bases:
        return None
    if str not in bases:
        value = read_word(value)
    if isinstance(value, list | tuple):
        for k, base in zip(kinds, bases, strict=True):
            if base in (list, tuple):
                of = get_args(k)
                of = of[:1] * len(value) if base is list or of[1:] == (...,) else of
                if len(of) != len(value):
                    raise UsageError(f"{key}={json.dumps(value, default=str)}: expected a list of {len(of)}")
                value = base(typed(f"{key}[{i}]", v, o) for i, (v, o) in enumerate(zip(value, of, strict=True)))
    if type(value) is int and float in bases and int not in bases:
        value = float(value) if abs(value) < 2**1023 else math.inf
    fits = isinstance(value, bases) and (bool in bases or not isinstance(value, bool))
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        expected = " or ".join(dict.fromkeys(_KINDS[base] for base in bases if base in _KINDS))
        finite = ", and a finite one" if fits else ""
        raise UsageError(f"{key}={json.dumps(value, default=str)}: expected {expected}{finite}")
    return value


def _quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text
