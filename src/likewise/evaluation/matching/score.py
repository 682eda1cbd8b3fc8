"""From distances and overlaps to average precision, and how sure a difference is.

Matches are one to one and greedy: the nearest two descriptors first. As the threshold on their distance rises, matches
come in by distance; precision is the share that is right of those that came in, recall the share of `possible` right
matches that came in, where `possible` is the most that any one-to-one matching can get right. Average precision is the
sum over thresholds of precision times the step in recall:

    AP = sklearn.metrics.average_precision_score(right, -distance) * (number of right matches) / possible

since scikit-learn counts as positives only those that are in the list; right matches that are never made add nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise.draws import Draws
from likewise.errors import UsageError

Row = Mapping[str, Any]  # {scene, image, change, descriptor, ap}


def distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[np.ndarray, "n m"]:
    """Euclidean distances; the common mean is taken off first, for precision."""
    middle = torch.cat([a, b]).mean(0)
    a, b = a - middle, b - middle
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * (a @ b.T)
    return squares.clamp(min=0).sqrt().double().numpy()


def greedy(distance: Float[np.ndarray, "n m"]) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Rows and columns of the one-to-one matching that takes the smallest distance first, k = min(n, m), by distance.

    Equal distances go by row, then column. Two that are each other's nearest of those left are matched at once: no
    smaller distance could have come between them.
    """
    left, top = np.arange(distance.shape[0]), np.arange(distance.shape[1])
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    while len(left) and len(top):
        nearest, back = distance.argmin(1), distance.argmin(0)
        mutual = np.flatnonzero(back[nearest] == np.arange(len(left)))
        rows.append(left[mutual])
        columns.append(top[nearest[mutual]])
        keep_row, keep_column = np.ones(len(left), bool), np.ones(len(top), bool)
        keep_row[mutual], keep_column[nearest[mutual]] = False, False
        distance, left, top = distance[keep_row][:, keep_column], left[keep_row], top[keep_column]
    return np.concatenate(rows), np.concatenate(columns)


def possible_matches(right: Bool[np.ndarray, "n m"]) -> int:
    """The most matches, one to one, that can be right."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    return int((maximum_bipartite_matching(csr_matrix(right), perm_type="column") >= 0).sum())


def average_precision(distance: Float[np.ndarray, " k"], right: Bool[np.ndarray, " k"], possible: int) -> float:
    """Of matches with these distances, where `possible` (at least 1) could be right. Equal distances come in at once.

    >>> round(average_precision(np.array([0.1, 0.2, 0.3]), np.array([True, False, True]), possible=4), 6)
    0.416667
    """
    order = distance.argsort(kind="stable")
    distance, found = distance[order], right[order].cumsum()
    ends = np.flatnonzero(np.append(distance[1:] != distance[:-1], True)) if len(distance) else np.zeros(0, np.int64)
    gain = np.diff(found[ends], prepend=0)
    return float((gain * found[ends] / (ends + 1)).sum() / possible)


def match_precision(distance: Float[np.ndarray, "n m"], right: Bool[np.ndarray, "n m"], possible: int) -> float:
    """Average precision of the greedy matching of two sets of descriptors."""
    rows, columns = greedy(distance)
    return average_precision(distance[rows, columns], right[rows, columns], possible)


def mean_average_precision(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """{descriptor: {change: mean over its pairs, .., "all": mean over all pairs}}."""
    names = list(dict.fromkeys(row["descriptor"] for row in rows))
    changes = list(dict.fromkeys(row["change"] for row in rows))
    means: dict[str, dict[str, float]] = {}
    for name in names:
        mine = [row for row in rows if row["descriptor"] == name]
        parts = {change: [row["ap"] for row in mine if row["change"] == change] for change in changes}
        means[name] = {change: float(np.mean(values)) for change, values in parts.items() if values}
        means[name]["all"] = float(np.mean([row["ap"] for row in mine]))
    return means


def bootstrap(
    rows: Sequence[Row], descriptor: str, other: str | None = None, *, n_draws: int = 2000, seed: int = 0
) -> dict[str, float]:
    """The mean average precision of `descriptor`, less that of `other` on the same pairs, with a 95 % interval.

    Scenes are drawn with replacement, then pairs within each: pairs of a scene are alike. Returns {"mean", "low",
    "high", "scenes", "pairs"}. Pass the rows of one kind of change for that kind alone.
    """
    values = {name: _by_pair(rows, name) for name in (descriptor, other) if name is not None}
    mine = values[descriptor]
    for name, theirs in values.items():
        if not theirs or theirs.keys() != mine.keys():
            raise UsageError(f"descriptor {name!r}: is not measured on the same pairs as {descriptor!r}")
    scenes: dict[str, list[float]] = {}
    for key, value in mine.items():
        scenes.setdefault(key[0], []).append(value - (values[other][key] if other is not None else 0.0))
    groups = [np.array(group) for group in scenes.values()]
    drawn = Draws(seed, 0, 0, torch.zeros(1, dtype=torch.int64))
    which = (drawn.step("scenes", n_draws, len(groups)).double().numpy() * len(groups)).astype(int)
    largest = max(len(group) for group in groups)
    inside = drawn.step("pairs", n_draws, len(groups), largest).double().numpy()
    sizes = np.array([len(group) for group in groups])
    padded = np.array([np.pad(group, (0, largest - len(group))) for group in groups])
    taken = padded[which[:, :, None], (inside * sizes[which][:, :, None]).astype(int)]
    counted = np.arange(largest) < sizes[which][:, :, None]
    means = (taken * counted).sum((1, 2)) / counted.sum((1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    every = np.concatenate(groups)
    return {
        "mean": float(every.mean()),
        "low": float(low),
        "high": float(high),
        "scenes": len(groups),
        "pairs": len(every),
    }


def differences(rows: Sequence[Row], descriptor: str, other: str) -> dict[str, dict[str, float]]:
    """By kind of change, and for "all": by how much `descriptor` does better than `other`, as `bootstrap` has it."""
    changes = [*dict.fromkeys(row["change"] for row in rows), "all"]
    return {c: bootstrap([row for row in rows if c in ("all", row["change"])], descriptor, other) for c in changes}


def _by_pair(rows: Sequence[Row], descriptor: str) -> dict[tuple[str, str], float]:
    return {(row["scene"], row["image"]): float(row["ap"]) for row in rows if row["descriptor"] == descriptor}
