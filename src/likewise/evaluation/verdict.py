"""The figures in words that need no paper."""

import math
from collections.abc import Mapping
from typing import Any

from likewise.evaluation.health import FEWEST

FEW, NARROW = 10, 0.1  # directions are few below ten that are below a tenth of all
MANY = 400  # held-out images, from which on chance moves a share by 5 points or less
CHANGES = ("translation", "scale", "rotation", "contrast", "saturation", "value", "hue", "blur")


def describe(results: Mapping[str, Mapping[str, Any]], n_test: int | None = None) -> str:
    """A sentence or two on the results of evaluation (protocol to figures), whichever of them are there.

    With `n_test`, how many labelled images were held out, it says how much chance has a hand in so few.

    >>> describe({"knn": {"accuracy": 0.712}, "health": {"rankme": 60.2, "dim": 256, "collapsed": False}})
    'k-NN finds the right class for 71 % of the held-out images. The features use about 60 of 256 dimensions; \
nothing has collapsed.'
    """
    judges = {"knn": "k-NN", "linear": "a linear probe", "few-label": "a linear probe with few labels"}
    judges |= dict.fromkeys(("svm", "cifar10", "cifar10-400", "caltech101", "stl10"), "an SVM on all layers")
    labels = _number(results, "few-label", "labels")
    if labels is not None:
        judges["few-label"] = f"a linear probe with {labels:.0f} labels"
    clauses: list[str] = []
    for protocol, judge in judges.items():
        accuracy = _number(results, protocol, "accuracy")
        if accuracy is not None:
            found, of = (" for", "") if clauses else (" finds the right class for", " of the held-out images")
            clauses.append(f"{judge}{found} {100 * accuracy:.0f} %{of}")
    sentences = [_sentence(", ".join(clauses))] if clauses else []
    if clauses and n_test is not None and n_test < MANY:
        points = 100 / max(n_test, 1) ** 0.5  # twice the standard deviation of a share of a half
        sentences.append(f"There are only {n_test} of these: chance moves such a share by up to {points:.0f} points.")

    rank, dim = _number(results, "health", "rankme"), _number(results, "health", "dim")
    collapsed, n_images = results.get("health", {}).get("collapsed"), _number(results, "health", "images")
    parts = []
    if rank is not None:
        parts.append(f"the features use about {rank:.0f}{'' if dim is None else f' of {dim:.0f}'} dimensions")
    if n_images is not None and n_images < FEWEST:
        parts.append("too few images were measured to tell whether they have collapsed")
    elif collapsed:
        parts.append("they have collapsed: all images look alike to the encoder")
    elif rank is not None and dim is not None and rank < min(FEW, NARROW * dim, (n_images or math.inf) / 2):
        parts.append("they have not collapsed, but so few tell little apart")
    elif collapsed is not None:
        parts.append("nothing has collapsed")
    if parts:
        sentences.append(_sentence("; ".join(parts)))
    moved = {name: _number(results, "invariance", name) for name in CHANGES}
    heights = {name: height for name, height in moved.items() if height is not None}
    if heights:
        most, least = max(heights, key=heights.__getitem__), min(heights, key=heights.__getitem__)
        sentences.append(
            f"Of the changes of an image, {most} moves the features most ({100 * heights[most]:.0f} % of the way to an "
            f"unrelated image), {least} least ({100 * heights[least]:.0f} %)."
        )
    return " ".join(sentences) or "Nothing was measured."


def _number(results: Mapping[str, Mapping[str, Any]], protocol: str, figure: str) -> float | None:
    value = results.get(protocol, {}).get(figure)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _sentence(text: str) -> str:
    return (text if text.startswith("k-NN") else text[0].upper() + text[1:]) + "."
