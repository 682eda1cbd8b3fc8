"""A set of images: what the rest of the package knows of the data."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from torch import Tensor

from likewise.errors import DataError, UsageError
from likewise.images.cache import Cache, Decoded, Packed, Store, Writer, listing_name
from likewise.images.datasets import DATASETS
from likewise.images.decode import MAX_ASPECT, MAX_PIXELS, MIN_SIDE, to_image
from likewise.images.labels import Labels, from_names, from_numbers, read_labels
from likewise.images.scan import CANNOT_BE_READ, Reading, check_bad, copies, locate, named_bad, read_all, share
from likewise.images.sources import Files, Items, content_of_pixels
from likewise.types import DataInfo, Selection, Source, typed

Ids = Sequence[int] | np.ndarray | Tensor | Selection
N_MEASURED = 10_000  # images that give the mean and deviation


@dataclass(eq=False)
class ImageSet:
    """Images by id: their position in the set as listed, among the usable ones.

    Made by `open_images`. `labels` holds -1 where a label is unknown, and is None where none is.
    """

    name: str
    keys: Int[np.ndarray, " n"]  # 64 bits of each image's content, exact copies numbered
    contents: Int[np.ndarray, " n"]  # the same, equal for exact copies
    paths: Sequence[str]
    labels: Int[np.ndarray, " n"] | None
    classes: list[str] | None
    channels: int  # 1 or 3, of what `source` gives
    bad: list[tuple[str, str]]  # path and reason of what cannot be used
    short_sides: Int[np.ndarray, " n"]  # of the originals, in pixels
    cut: Bool[np.ndarray, " n"]  # whose long side was cut to its middle, beyond 4 to 1
    store: Store
    rows: Int[np.ndarray, " n"]  # of the store
    others: Mapping[str, int] = field(default_factory=dict)  # how many files were left out, by their ending
    context: float = 1.0  # of patches: how much wider than it an image is, in whose middle one lies

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {len(self):,} images, {self.channels} channels)"

    @property
    def n_cut(self) -> int:
        """Images whose long side was cut."""
        return int(self.cut.sum())

    @property
    def native_side(self) -> int:
        """The median short side of the originals, in pixels."""
        return int(np.median(self.short_sides))

    def source(self, ids: Ids) -> Source:
        """The pixels of some images, padded with zeros at the bottom and right to the largest of them."""
        rows = self.rows[_array(ids, len(self))]
        if self.store.block is not None:
            pixels = as_channels(self.store.block[rows], self.channels)
            sizes = np.tile(np.array(pixels.shape[2:]), (len(rows), 1))
        else:
            images = [as_channels(self.store[row], self.channels) for row in rows.tolist()]
            sizes = np.array([image.shape[1:] for image in images], np.int64).reshape(-1, 2)
            pixels = np.zeros((len(images), self.channels, *sizes.max(0, initial=0)), np.uint8)
            for padded, image in zip(pixels, images, strict=True):
                padded[:, : image.shape[1], : image.shape[2]] = image
        return Source(torch.from_numpy(pixels), torch.from_numpy(sizes))

    def image(self, i: int) -> Image.Image:
        """One image for people, L or RGB."""
        return to_image(as_channels(self.store[int(self.rows[i])], self.channels))

    def subset(self, ids: Ids) -> "ImageSet":
        """Some of the images, in the order given, or a mask; they keep their keys. The pixels are shared."""
        ids = _array(ids, len(self))
        return replace(
            self,
            keys=self.keys[ids],
            contents=self.contents[ids],
            paths=[self.paths[i] for i in ids],
            labels=None if self.labels is None else self.labels[ids],
            short_sides=self.short_sides[ids],
            cut=self.cut[ids],
            rows=self.rows[ids],
        )

    def relabel(self, labels: Any) -> "ImageSet":
        """The same images with labels as `open_images` takes them, or None."""
        if labels is None:
            return replace(self, labels=None, classes=None)
        values, classes = read_labels(labels, self.paths)
        return replace(self, labels=values, classes=classes)

    def with_channels(self, channels: int) -> "ImageSet":
        """The same images, grey expanded to 3 channels or colour reduced to its luminance."""
        return replace(self, channels=_checked_channels(channels))

    def info(self, size: int) -> DataInfo:
        """All that a method may know of this data."""
        return DataInfo(len(self), self.channels, size)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel's pixels in [0, 1], over the 10,000 images with the smallest keys.

        Sums of integers: neither order nor names can change a bit.
        """
        ids = np.argsort(self.keys)[:N_MEASURED]
        total, squares, n_pixels = [0] * self.channels, [0] * self.channels, 0
        for part in np.array_split(ids, max(1, len(ids) // 64)):
            source = self.source(part)
            n_pixels += int(source.sizes.prod(1).sum())
            x = source.pixels.numpy()  # what is padded adds nothing to either sum
            for c in range(self.channels):
                total[c] += int(x[:, c].sum(dtype=np.int64))
                squares[c] += int(np.square(x[:, c], dtype=np.uint16).sum(dtype=np.int64))
        if not n_pixels:
            raise DataError(f"{self.name}: holds no image; expected at least one")
        mean = tuple(s / (255 * n_pixels) for s in total)
        variance = [(q * n_pixels - s * s) / (255 * n_pixels) ** 2 for s, q in zip(total, squares, strict=True)]
        return mean, tuple(v**0.5 for v in variance)

    def duplicates(self) -> list[list[str]]:
        """Groups of paths of exact copies."""
        return copies(self.contents, self.paths)


def open_images(
    data: Any,
    *,
    labels: Any = None,
    side: int | None = None,
    channels: int | None = None,
    max_bad: float | str = 0.01,
    threads: int = 2,
    cache: Path | str | None = None,
    cache_limit: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> ImageSet:
    """Images from anywhere, decoded once and kept in a cache.

    `data`: a folder of any nesting; a .txt or .csv list of paths; a .zip or .tar, or a folder inside one
    ("photos.zip/train"); an .npz with `images`; a named set ("cifar10", "cifar10:test"; see DATASETS); an array or
    tensor of uint8 or of floats in [0, 1]; a sequence of paths, Pillow images, arrays or tensors.
    `labels`: None (named sets bring theirs, a .csv list its column `label`), "folders", a .csv of path,label, or
    integers.
    `side`: the short side to which larger images are shrunk, in pixels; None keeps them as they are.
    `channels`: 1 or 3; None: 1 if every image is grey.
    `max_bad`: the share of unusable files that is tolerated, 0.01 or "1%".
    `cache`: its folder; None: $LIKEWISE_CACHE, or the user's. `cache_limit` (or $LIKEWISE_CACHE_LIMIT): the bytes that
    this set may take there, such as "20GB"; a larger set is decoded whenever it is read.
    `max_pixels`: an image with more is refused by its header, as a decompression bomb.

    An ImageSet is open already: of the rest `labels`, `channels` and `name` change what is given back.

    Raises DataError for what is not there or cannot be used, UsageError for an argument that cannot be.
    """
    limit = share(max_bad)
    side = typed("side", side, int | None)
    if side is not None and side < MIN_SIDE:
        raise UsageError(f"side={side}: expected at least {MIN_SIDE} pixels, or None")
    if channels is not None:
        _checked_channels(channels)
    for what, least in (("threads", threads), ("max_pixels", max_pixels)):
        if least < 1:
            raise UsageError(f"{what}={least}: expected at least 1")
    if isinstance(data, ImageSet):
        images = data if labels is None else data.relabel(labels)
        images = images if name is None else replace(images, name=name)
        return images if channels is None else images.with_channels(channels)
    listing = locate(data, name)
    known = _labels(labels, listing, data)
    if isinstance(listing, Files):
        reading, store, rows = _open_files(listing, side, threads, max_pixels, Cache(cache, cache_limit))
    else:
        reading, store, rows = _open_items(listing, side, threads, max_pixels)
    check_bad(listing.paths, reading, limit)
    if len(reading.positions) == 0:
        raise DataError(f"none of {len(listing)} images can be used: {named_bad(listing.paths, reading)}")
    return ImageSet(
        name=listing.name,
        keys=reading.keys,
        contents=reading.contents,
        paths=[listing.paths[i] for i in reading.positions],
        labels=None if known is None else known[0][reading.positions],
        classes=None if known is None else known[1],
        channels=channels or (1 if (reading.shapes[:, 0] == 1).all() else 3),
        bad=[(listing.paths[i], reason) for i, reason in reading.bad],
        short_sides=reading.short_sides,
        cut=reading.cut,
        store=store,
        rows=rows,
        others=listing.others if isinstance(listing, Files) else {},
    )


def as_channels(pixels: UInt8[np.ndarray, "*b c h w"], channels: int) -> UInt8[np.ndarray, "*b d h w"]:
    """Grey repeated, or colour reduced to its luminance (ITU-R 601, rounded, as Pillow's mode L)."""
    if pixels.shape[-3] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-3)
    red, green, blue = (pixels[..., c, :, :].astype(np.uint32) for c in range(3))
    luminance = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luminance.astype(np.uint8)[..., None, :, :]


def _open_files(
    files: Files, side: int | None, threads: int, max_pixels: int, cache: Cache
) -> tuple[Reading, Store, Int[np.ndarray, " n"]]:
    """From the cache, if it knows this listing; else read all, into the cache if the set fits there."""
    name = listing_name(files, side, max_pixels)
    reading = cache.recall(name)
    if reading is None or (_fits(reading, cache) and cache.open(reading.keys, side) is None):
        writer = Writer(cache, len(files) if reading is None else 0)  # what is known to fit is not guessed at
        try:
            reading = read_all(files, threads=threads, side=side, max_pixels=max_pixels, keep=writer.append)
            writer.finish(reading.keys, reading.shapes, side)
        finally:
            writer.abandon()
        if not any(reason.startswith(CANNOT_BE_READ) for _, reason in reading.bad):  # which may be mended
            with suppress(OSError):  # a cache that cannot be written to costs time and nothing else
                cache.remember(name, reading)
    found = cache.open(reading.keys, side)
    if found is not None:
        return reading, *found
    return reading, Decoded(files, reading, side, max_pixels), np.arange(len(reading.positions))


def _fits(reading: Reading, cache: Cache) -> bool:
    return int(reading.shapes.prod(1).sum()) <= cache.limit()


def _open_items(
    items: Items, side: int | None, threads: int, max_pixels: int
) -> tuple[Reading, Store, Int[np.ndarray, " n"]]:
    """What is in memory stays there."""
    n = len(items)
    if isinstance(items.images, np.ndarray) and n:
        x = items.images
        short, long = sorted(x.shape[2:])
        if short >= MIN_SIDE and long <= MAX_ASPECT * short and (side is None or short <= side):
            mode = "L" if x.shape[1] == 1 else "RGB"
            reading = Reading(
                np.array([content_of_pixels(image) for image in x], np.int64),
                np.arange(n),
                np.tile(np.array(x.shape[1:], np.int64), (n, 1)),
                np.full(n, short),
                np.zeros(n, np.bool_),
                [],
                {mode: n},
            )
            return reading, Packed(x.reshape(-1), reading.shapes), np.arange(n)
    kept: list[np.ndarray] = []
    reading = read_all(
        items, threads=threads, side=side, max_pixels=max_pixels, keep=lambda pixels: kept.append(pixels.reshape(-1))
    )
    flat = np.concatenate(kept) if kept else np.zeros(0, np.uint8)
    return reading, Packed(flat, reading.shapes), np.arange(len(kept))


def _labels(labels: Any, listing: Files | Items, data: Any) -> Labels | None:
    """Labels of everything listed, or None where there are none."""
    if isinstance(labels, str | os.PathLike):
        if isinstance(data, str) and (own := data.partition(":")[0]) in DATASETS and str(labels) in (data, own):
            labels = None  # `--labels digits` asks `digits` for its own
        elif isinstance(listing, Items):
            raise UsageError(f"labels={labels}: these images are in no folders; expected an array of integers")
    if labels is not None:
        return read_labels(labels, listing.paths)
    if listing.labels is None:
        return None
    if isinstance(listing, Files):
        return from_names(listing.labels)
    if listing.classes is None:
        return from_numbers(listing.labels, f"{listing.name}, labels")
    return listing.labels, listing.classes


def _array(ids: Ids, n: int) -> Int[np.ndarray, " m"]:
    if isinstance(ids, Selection):
        ids = ids.indices
    values = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if values.dtype == bool and values.shape == (n,):
        return np.flatnonzero(values)
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise UsageError(f"ids: {values.dtype} of shape {values.shape}; expected whole numbers, or a mask of {n}")
    values = values.reshape(-1).astype(np.int64)
    if values.size and not -n <= values.min() <= values.max() < n:
        raise UsageError(f"ids: from {values.min()} to {values.max()}; there are {n} images")
    return values


def _checked_channels(channels: int) -> int:
    if channels not in (1, 3):
        raise UsageError(f"channels={channels}: expected 1 or 3")
    return channels
