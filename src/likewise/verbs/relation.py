"""A relation in words, as recipes and flags have it, computed from the images it is about."""

from pathlib import Path

import numpy as np
import torch

from likewise.embedding import features
from likewise.encoders import Pixels
from likewise.errors import DataError, UsageError
from likewise.files import read_array
from likewise.images import ImageSet
from likewise.relations import Relation, from_labels, from_neighbours, nearest, read_pairs
from likewise.types import Embeddings

EXPECTED = "neighbours:K, neighbours:K:EMB, labels, or a .csv of id_a,id_b,similar"


def make_relation(words: str, images: ImageSet, size: int) -> Relation:
    """The relation of `images` that `words` ask for:

    "neighbours:5" (the 5 nearest by their pixels at `size`, either way), "neighbours:5:EMB" (by the rows of an
    embeddings folder or an .npy), "labels" (of one class), or a .csv with the columns id_a, id_b, similar.
    """
    kind, _, rest = words.partition(":")
    if words == "labels":
        if images.labels is None:
            raise UsageError("relation=labels: there are none; pass --labels folders or a CSV")
        return from_labels(torch.from_numpy(images.labels))
    if Path(words).suffix.lower() == ".csv":
        return read_pairs(words, len(images))
    k, _, where = rest.partition(":")
    if kind != "neighbours" or not k.isdecimal():
        raise UsageError(f"relation={words}: expected {EXPECTED}")
    if not where:
        return from_neighbours(nearest(torch.from_numpy(features(Pixels(images.info(size)), images, size)), int(k)))
    if where.endswith(".npy"):
        try:
            x = read_array(Path(where)).astype(np.float32)
        except (DataError, ValueError) as error:
            raise DataError(f"relation={words}: is not an array of numbers that can be read ({error})") from None
    else:
        table = Embeddings.load(Path(where))
        if not np.array_equal(np.sort(table.keys), np.sort(images.keys)):
            raise DataError(
                f"relation={words}: has embeddings of {len(table):,} images, not of these {len(images):,}; expected "
                "what `likewise embed` makes of these"
            )
        rank = np.argsort(np.argsort(images.keys))  # names may have changed, and with them the order
        x = table.x[np.argsort(table.keys)[rank]]
    if x.ndim != 2 or len(x) != len(images):
        raise DataError(f"relation={words}: has shape {x.shape}; expected a row for each of {len(images):,} images")
    return from_neighbours(nearest(torch.from_numpy(np.array(x, np.float32)), int(k)))
