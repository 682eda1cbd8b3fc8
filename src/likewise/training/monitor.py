"""Watching a run without touching it: feature rank, k-NN, a picture of the views."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from likewise.embedding import features
from likewise.errors import TrainingError
from likewise.evaluation.health import rankme
from likewise.evaluation.knn import knn
from likewise.files import write
from likewise.images import ImageSet
from likewise.types import Embeddings, Encoder

N_PROBED = 1_000  # images whose features are ranked
N_REFERENCE, N_QUERIES = 10_000, 2_000  # training images for the k-NN of a run with labels


def feature_rank(encoder: Encoder, images: ImageSet, size: int, device: torch.device) -> float:
    """RankMe of the encoder's features on the images with the smallest keys. TrainingError if they are not finite."""
    ids = np.argsort(images.keys)[:N_PROBED]
    x = torch.from_numpy(features(encoder, images.subset(ids), size, device=device))
    n_bad = int((~x.isfinite().all(1)).sum())
    if n_bad:
        raise TrainingError(f"after the last update the features of {n_bad} of {len(x)} images are not finite")
    return rankme(x)


def knn_accuracy(encoder: Encoder, images: ImageSet, size: int, device: torch.device) -> float | None:
    """20-NN among labelled training images: queries and references are told apart by their content, so that no query
    meets a copy of itself.

    None where the labels leave nothing to tell: references of less than two classes, or no query of one of theirs.
    """
    if images.labels is None:
        return None
    known = np.flatnonzero(images.labels >= 0)
    known = known[np.lexsort((images.keys[known], images.contents[known]))]
    n_queries = min(N_QUERIES, len(known) // 5)
    asked, others = np.split(known[: n_queries + N_REFERENCE], [n_queries])
    others = others[~np.isin(images.contents[others], images.contents[asked])]
    queries, references = images.labels[asked], images.labels[others]
    if len(np.unique(references)) < 2 or not np.isin(queries, references).any():
        return None
    subset = images.subset(np.concatenate([asked, others]))
    x = features(encoder, subset, size, device=device)
    table = Embeddings(x, subset.keys, subset.paths, subset.labels, subset.classes)
    rows = np.arange(len(subset))
    return float(knn(table.rows(rows[n_queries:]), table.rows(rows[:n_queries]))["accuracy"])


def check_finite(terms: Mapping[str, float], paths: list[str]) -> None:
    """Stop before the update if any term is not a number, naming it and the images it came from."""
    for name, value in terms.items():
        if not math.isfinite(value):
            shown = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
            raise TrainingError(f"loss term {name!r} is {value} on images {shown}; the weights were not updated")


def save_pictures(
    folder: Path, pictures: dict[str, Float[Tensor, "n c _ _"]], name: str = "pictures", n: int = 8
) -> None:
    """One PNG: a row for each name, a column for each of the first `n` images."""
    folder.mkdir(parents=True, exist_ok=True)
    side = max(images.shape[2] for images in pictures.values())
    scale = max(1, 64 // side)
    rows = []
    for images in pictures.values():
        x = images[:n].detach().float().cpu()
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        x = torch.nn.functional.pad(x, (0, side - x.shape[3], 0, side - x.shape[2]), value=1.0)
        rows.append(torch.cat(list(x), dim=2))
    grid = (torch.cat(rows, dim=1).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(grid)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    write(folder / f"{name}.png", lambda file: picture.save(file, format="PNG"))
