"""The verb `scan`: what is there, what is broken, and what is there twice, exactly or nearly."""

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likewise.coresets.codes import code_pairs
from likewise.coresets.near import check_similarity, joined, near_groups
from likewise.coresets.select import parse_memory
from likewise.embedding import images_hash
from likewise.errors import DataError, UsageError
from likewise.images.fingerprint import fingerprint
from likewise.images.scan import check_bad, locate, read_all, share, summary
from likewise.types import Embeddings

PIXELS, FEATURES = 0.9, 0.95  # the similarity from which images are near-duplicates, unless told
BITS, FARTHEST = 64, 15  # of a fingerprint, and how many may differ at most


def scan(
    data: Any,
    *,
    near: bool = False,
    near_by: Path | str | None = None,
    similarity: float | None = None,
    memory: int | str = "2GB",
    threads: int = 2,
    max_bad: float | str = 1.0,
) -> dict[str, Any]:
    """Read every image of `data` and say what is there; what `likewise.images.scan` returns, and near-duplicates.

    `near`: compare perceptual fingerprints, of which a share `similarity` (default 0.9) of 64 bits must agree.
    `near_by`: compare the embeddings in that folder instead, which must be of these very images, and whose cosine must
    be at least `similarity` (default 0.95).
    Both are exact: no pair is missed. `memory` is the work space for embeddings, in bytes or as "2GB".

    Adds "near": groups, the largest first, of {"paths", "similarity": the lowest of a pair that joined them}. Images
    may be joined through others, so that two of a group can be less alike than that.
    """
    if near and near_by is not None:
        raise UsageError(f"--near: compares fingerprints, and --near-by {near_by} embeddings; expected one of them")
    if similarity is not None and not near and near_by is None:
        raise UsageError(f"--similarity {similarity}: of what? expected --near or --near-by with it")
    work_space, limit = parse_memory(memory), share(max_bad)
    if near_by is not None:
        check_similarity(FEATURES if similarity is None else similarity)
    table = None if near_by is None else Embeddings.load(Path(near_by))
    listing = locate(data)
    codes = array("Q")
    distance = _bits(similarity) if near else 0
    reading = read_all(
        listing, threads=threads, keep=(lambda pixels: codes.append(fingerprint(pixels))) if near else _pass
    )
    check_bad(listing.paths, reading, limit)
    result = summary(listing, reading)
    if table is not None:
        if images_hash(table.keys) != images_hash(reading.keys):
            raise DataError(
                f"--near-by {near_by}: has embeddings of {len(table):,} images, not of the {len(reading.keys):,} of "
                f"{listing.name}; expected what `likewise embed` makes of these"
            )
        x = torch.from_numpy(np.array(table.x))
        found = near_groups(x, FEATURES if similarity is None else similarity, memory=work_space)
        path_of = dict(zip(reading.keys.tolist(), (listing.paths[i] for i in reading.positions), strict=True))
        result["near"] = _named(found, [path_of[key] for key in table.keys.tolist()])
    elif near:
        pairs = code_pairs(np.array(codes, dtype=np.uint64), distance)
        found = joined(((ids, 1 - bits / BITS) for ids, bits in pairs), len(codes))
        result["near"] = _named(found, [listing.paths[i] for i in reading.positions])
    return result


def _bits(similarity: float | None) -> int:
    """How many bits may differ."""
    similarity = PIXELS if similarity is None else similarity
    if not 1 - FARTHEST / BITS <= similarity <= 1:
        raise UsageError(f"similarity={similarity}: of fingerprints, must be from {1 - FARTHEST / BITS:.2f} to 1")
    return int((1 - similarity) * BITS + 1e-9)


def _named(groups: list[tuple[np.ndarray, float]], paths: Sequence[str]) -> list[dict[str, Any]]:
    by_size = sorted(groups, key=lambda group: (-len(group[0]), group[0][0]))
    return [{"paths": [paths[i] for i in ids], "similarity": round(low, 4)} for ids, low in by_size]


def _pass(pixels: np.ndarray) -> None:
    """Pixels are of no use here."""
