"""The figures of Exemplar-CNN: filters, seeds with their transforms, accuracies, the studies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from likewise.draws import Draws
from likewise.files import write
from likewise.images import ImageSet
from likewise.papers.parts import BLUE, GREY, ORANGE, save_figure
from likewise.views import RECIPES, View


def filters(path: Path, untrained: Float[Tensor, "n c k k"], trained: Float[Tensor, "n c k k"]) -> None:
    """The first layer's kernels as small pictures, each stretched to its own range: before on the left, after right."""
    halves = []
    for weights in (untrained, trained):
        low, high = weights.amin((1, 2, 3), keepdim=True), weights.amax((1, 2, 3), keepdim=True)
        tiles = ((weights - low) / (high - low).clamp(min=1e-12)).expand(-1, 3, -1, -1)
        halves.append(_grid(torch.nn.functional.interpolate(tiles, scale_factor=6), 8))
    gap = np.full((halves[0].shape[0], 24, 3), 255, np.uint8)
    _save(path, np.concatenate([halves[0], gap, halves[1]], 1))


def classes(path: Path, seeds: ImageSet, size: int, seed: int, n: int = 8, shown: int = 12) -> None:
    """A row for each of some seeds: the patch as it is, then transforms of it, of which its class is made."""
    ids = np.argsort(seeds.keys)[:n].copy()
    source, draws = seeds.source(ids), Draws(seed, 0, 0, torch.from_numpy(seeds.keys[ids]))
    view = RECIPES["exemplar"](size)[0]
    columns = [View(size, view.geometry[:1])(source, draws)]
    columns += [view(source, draws.child(f"shown{i}")) for i in range(shown)]
    tiles = torch.stack(columns, 1).flatten(0, 1)
    tiles = tiles.expand(-1, 3, -1, -1) if tiles.shape[1] == 1 else tiles
    _save(path, _grid(torch.nn.functional.interpolate(tiles, scale_factor=2), 1 + shown))


def bars(path: Path, main: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """The main table: a group of bars for each test."""
    figure = Figure((4 * len(main), 3.6), layout="constrained")
    for axes, (column, rows) in zip(np.atleast_1d(figure.subplots(1, len(main))), main.items(), strict=True):
        values = [100 * row["accuracy"] for row in rows.values()]
        colours = [BLUE if name in ("small", "medium", "large") else GREY for name in rows]
        axes.barh(list(rows), values, xerr=[100 * row["spread"] for row in rows.values()], color=colours)
        axes.invert_yaxis()
        for i, value in enumerate(values):
            axes.text(1, i, f"{value:.1f}", va="center", color="white", weight="bold")
        axes.set(title=column, xlabel="test accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def trends(path: Path, studies: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Accuracy against N and K, and what leaving out or adding does: four panels a row."""
    down, across = -(-len(studies) // 4), min(4, len(studies))
    figure = Figure((4 * across, 3.2 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for axes in panels[len(studies) :]:
        axes.set_axis_off()
    for axes, (name, runs) in zip(panels, studies.items(), strict=False):
        values = [100 * run["accuracy"] for run in runs.values()]
        spread = [100 * run["spread"] for run in runs.values()]
        if name in ("classes", "versions"):
            axes.errorbar(list(runs), values, spread, color=BLUE, marker="o", capsize=3)
            axes.plot(
                list(runs), [100 * (1 - run["error"]) for run in runs.values()], color=ORANGE, ls="--", marker="."
            )
            axes.text(0.02, 0.5, "dashed: surrogate classes told apart", transform=axes.transAxes, color=ORANGE)
            axes.set(ylabel="%")
        else:
            axes.barh(list(runs), values, xerr=spread, color=BLUE)
            axes.invert_yaxis()
            low = min(values) - 5
            axes.set(xlim=(max(0, low), max(values) + 2), xlabel="CIFAR-10(400), %")
        axes.set(title=name)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def matches(path: Path, means: Mapping[str, Mapping[str, Mapping[str, float]]], shown: Sequence[str]) -> None:
    """Mean average precision by kind of change, a panel for each set of pairs, a bar for each descriptor in `shown`."""
    figure = Figure((11, 3.4 * len(means)), layout="constrained")
    shades = (GREY, "#cccccc", "#8fc1e3", BLUE, ORANGE)
    for axes, (title, found) in zip(np.atleast_1d(figure.subplots(len(means), 1)), means.items(), strict=True):
        changes = list(found[shown[0]])
        for i, name in enumerate(shown):
            at = np.arange(len(changes)) + (i - (len(shown) - 1) / 2) / (len(shown) + 1)
            values = [found[name][change] for change in changes]
            axes.bar(at, values, 1 / (len(shown) + 1), label=name, color=shades[i % len(shades)])
        axes.set_xticks(np.arange(len(changes)), changes)
        axes.set(title=title, ylabel="mean average precision", ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    save_figure(figure, path)


def _grid(tiles: Float[Tensor, "n 3 h w"], across: int, gap: int = 2) -> np.ndarray:
    """Tiles in rows of `across`, on white."""
    n, _, h, w = tiles.shape
    down = -(-n // across)
    canvas = np.full((down * (h + gap) - gap, across * (w + gap) - gap, 3), 255, np.uint8)
    pixels = (tiles.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for i in range(n):
        top, left = i // across * (h + gap), i % across * (w + gap)
        canvas[top : top + h, left : left + w] = pixels[i]
    return canvas


def _save(path: Path, pixels: np.ndarray) -> None:
    write(path, lambda file: Image.fromarray(pixels).save(file, format="PNG"))
