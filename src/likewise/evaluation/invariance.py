"""Invariance: how far features move when an image is changed, by the strength of the change (Dosovitskiy et al., 2014).

    d(a) = mean over x of |g(x) - g(T_a x)|  /  mean over x, y of |g(x) - g(y)|

0 where the features do not notice, 1 where the changed image is as far off as an unrelated one. Protocol invariance-v1:
up to 256 test images drawn by their keys; eight changes, each one way or the other by the image's key; the view is 0.7
of the largest centred square, so that all of Exemplar-CNN's shifts, scales and rotations bring in real pixels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.evaluation.labelled import Labelled
from likewise.evaluation.linear import accuracy, solve
from likewise.evaluation.matching.descriptors import layers
from likewise.files import write
from likewise.images import ImageSet
from likewise.types import Encoder, Images, Source, in_eval_mode
from likewise.views.colour import Blur, PCAContrast, hsv_to_rgb, rgb_to_hsv, turn_hue
from likewise.views.geometry import sample

VERSION = "invariance-v1"
SEEN = 0.7  # of the largest centred square
N_IMAGES, N_TRAIN = 256, 2_000
CELLS = 2  # of a layer's map a side, each its maximum, as in the paper's features
BATCH = 256

GRID: dict[str, tuple[int | float, ...]] = {
    "translation": (0.05, 0.1, 0.2, 0.3, 0.4),  # of the view's side, in a drawn direction
    "scale": (0.15, 0.3, 0.5, 0.75, 1.0),  # |log2 of the factor|
    "rotation": (5, 10, 20, 45, 90),  # degrees
    "contrast": (0.25, 0.5, 1.0, 1.5, 2.0),  # |log2 of the factor| of all colour components, around their mean
    "saturation": (0.5, 1.0, 2.0, 3.0),  # |log2 of the power|
    "value": (0.5, 1.0, 2.0, 3.0),  # |log2 of the power|
    "hue": (0.03, 0.06, 0.1, 0.2, 0.35, 0.5),  # turns
    "blur": (0.5, 1.0, 2.5, 4.0, 6.0),  # sigma in pixels of the view
}
UNITS = {
    "translation": "of the side",
    "scale": "|log2 factor|",
    "rotation": "degrees",
    "contrast": "|log2 factor|",
    "saturation": "|log2 power|",
    "value": "|log2 power|",
    "hue": "turns",
    "blur": "sigma, pixels",
}
# What Exemplar-CNN is trained on; blur that of its variant for matching.
TRAINED: dict[str, int | float] = {
    "translation": 0.2,
    "scale": 0.5,
    "rotation": 20,
    "contrast": 1.0,
    "saturation": 2.0,
    "value": 2.0,
    "hue": 0.1,
    "blur": 2.5,
}
COLOURED = ("saturation", "hue")  # what grey images have nothing of


@dataclass(frozen=True)
class Curve:
    """One change: `distance` by layer and `accuracy` (where there are labels) at each of the magnitudes, from 0 on."""

    magnitudes: Float[np.ndarray, " m"]
    distance: Mapping[str, Float[np.ndarray, " m"]]
    trained: float  # the largest magnitude of training
    accuracy: Float[np.ndarray, " m"] | None = None

    def area(self, layer: str = "output", *, inside: bool = True) -> float:
        """Area under the curve within the training range, or beyond it, over its width: the mean height there."""
        low, high = (0.0, self.trained) if inside else (self.trained, float(self.magnitudes[-1]))
        between = self.magnitudes[(self.magnitudes > low) & (self.magnitudes < high)]
        x = np.concatenate([[low], between, [high]])
        y = np.interp(x, self.magnitudes, self.distance[layer])
        return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (high - low))


def invariance(encoder: Encoder, train: ImageSet, test: ImageSet, *, size: int, draws: Draws) -> dict[str, Any]:
    """How far features move when images are shifted, scaled, turned, recoloured or blurred, and what a probe then says.

    Mean height of each curve of the output within Exemplar-CNN's range (`rotation`) and beyond (`rotation_outside`),
    and within it of each layer (`rotation_layer1`); with labels on both sides also the accuracy of a linear probe on
    the views as they are (`accuracy`) and at the end of the range (`rotation_accuracy`)."""
    found = curves(encoder, test, size=size, train=train, draws=draws)
    figures: dict[str, Any] = {"version": VERSION, "images": min(len(test), N_IMAGES)}
    for name, curve in found.items():
        figures[name] = curve.area()
        figures[f"{name}_outside"] = curve.area(inside=False)
        if curve.accuracy is not None:
            figures["accuracy"] = float(curve.accuracy[0])
            figures[f"{name}_accuracy"] = float(np.interp(curve.trained, curve.magnitudes, curve.accuracy))
        figures |= {f"{name}_{layer}": curve.area(layer) for layer in curve.distance if layer != "output"}
    return figures


def curves(
    encoder: Encoder,
    images: ImageSet,
    *,
    size: int,
    draws: Draws,
    train: ImageSet | None = None,
    n: int = N_IMAGES,
    changes: Mapping[str, tuple[int | float, ...]] = GRID,
    trained: Mapping[str, int | float] = TRAINED,
) -> dict[str, Curve]:
    """The curve of every change, for `n` of the images as seen at `size` pixels.

    `changes` gives the magnitudes (0 goes without saying), `trained` the largest one of training for each. Images and
    encoder must have the same number of channels. With a labelled `train`, and labels of its classes on the images, a
    linear probe is trained on the views of train as they are and tested on the changed ones.
    """
    for name, grid in changes.items():
        if name not in GRID or name not in trained:
            raise UsageError(f"change {name!r}: expected one of {', '.join(GRID)}, with its range of training")
        if list(grid) != sorted(grid) or not 0 < trained[name] < grid[-1] or grid[0] <= 0:
            raise UsageError(f"change {name!r}: magnitudes {grid} must rise from above 0 to beyond {trained[name]}")
    if len(images) < 2:
        raise UsageError(f"images: {len(images)} given; at least 2 are needed to compare")
    images = _some(images, n, draws)
    with in_eval_mode(encoder):
        describe = _features(encoder, images.channels)
        judge = _judge(describe, images, train, size, draws)
        before = _all(images, describe, lambda source, mine: _view(source, size), draws)
        apart = {layer: max(float(torch.pdist(x.double()).mean()), 1e-12) for layer, x in before.items()}
        right = None if judge is None else judge(before["output"])
        found = {}
        for name, grid in changes.items():
            if images.channels == 1 and name in COLOURED:
                continue
            distance, accuracies = {layer: [0.0] for layer in before}, [right]
            for magnitude in grid:
                after = _all(images, describe, _changed(name, magnitude, size), draws)
                for layer, x in after.items():
                    distance[layer].append(float((x - before[layer]).double().norm(dim=1).mean()) / apart[layer])
                accuracies.append(None if judge is None else judge(after["output"]))
            found[name] = Curve(
                np.array([0.0, *grid]),
                {layer: np.array(values) for layer, values in distance.items()},
                float(trained[name]),
                None if judge is None else np.array(accuracies, dtype=float),
            )
    return found


def change(name: str, magnitude: int | float, source: Source, size: int, draws: Draws) -> Images:
    """Views of the images with one change of a given magnitude, one way or the other by the images' draws."""
    device = source.pixels.device
    sign = torch.where(draws.image(f"{name}/way") < 0.5, -1.0, 1.0)
    maps = torch.eye(3, device=device).repeat(len(sign), 1, 1)
    if name == "translation":
        angle = draws.image("translation/direction") * 2 * math.pi
        maps[:, :2, 2] = 2 * magnitude * torch.stack([angle.cos(), angle.sin()], 1)
    elif name == "scale":
        maps[:, 0, 0] = maps[:, 1, 1] = 2 ** (sign * magnitude)
    elif name == "rotation":
        angle = sign * math.radians(magnitude)
        maps[:, 0, 0] = maps[:, 1, 1] = angle.cos()
        maps[:, 1, 0] = angle.sin()
        maps[:, 0, 1] = -angle.sin()
    images = _view(source, size, maps)
    by_image = sign.reshape(-1, 1, 1)
    power = 2 ** (by_image * magnitude)
    if name == "contrast":
        factor = 2**magnitude
        more, less = (PCAContrast((float(f), float(f)))(images, draws) for f in (factor, 1 / factor))
        return torch.where(by_image.unsqueeze(1) > 0, more, less)
    if name == "blur":
        return Blur(1.0, (float(magnitude), float(magnitude)), kernel=min(1.0, (8 * magnitude + 3) / size))(
            images, draws
        )
    if name == "hue":
        return turn_hue(images, by_image * magnitude).clamp(0, 1)
    if name == "value" and images.shape[1] == 1:
        return images.pow(power.unsqueeze(1))
    if name in ("saturation", "value"):
        hsv = rgb_to_hsv(images)
        channel = 1 if name == "saturation" else 2
        hsv[:, channel] = hsv[:, channel].pow(power)
        return hsv_to_rgb(hsv).clamp(0, 1)
    return images


def figure(named: Mapping[str, Mapping[str, Curve]], path: Path | str, *, layer: str | None = None) -> Path:
    """A picture of curves, a panel for each change, with the range of training shaded.

    `named` is {encoder's name: its curves}. One encoder shows all its layers; several show `layer` (or the output)
    each. Where there are accuracies, they are dashed, on the same scale from 0 to 1.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    changes = list(dict.fromkeys(change for found in named.values() for change in found))
    columns = min(4, len(changes))
    rows = -(-len(changes) // columns)
    page = Figure(figsize=(3.1 * columns, 2.7 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(page)
    axes = page.subplots(rows, columns, squeeze=False)
    for axis, name in zip(axes.flat, changes, strict=False):
        for i, (who, found) in enumerate(named.items()):
            if name not in found:
                continue
            curve = found[name]
            shown = list(curve.distance) if len(named) == 1 and layer is None else [layer or "output"]
            for j, part in enumerate(shown):
                colour = f"C{i + j}"
                label = part if len(named) == 1 else who
                axis.plot(curve.magnitudes, curve.distance[part], "o-", ms=3, lw=1.3, color=colour, label=label)
            if curve.accuracy is not None:
                colour = f"C{i}" if len(named) > 1 else "0.3"
                axis.plot(curve.magnitudes, curve.accuracy, "--", lw=1, color=colour, label=f"{who} accuracy")
            axis.axvspan(0, curve.trained, color="0.93", zorder=0)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(UNITS[name], fontsize=8)
        axis.axhline(1, color="0.6", lw=0.8)
        axis.set_ylim(0, max(1.05, axis.get_ylim()[1]))
        axis.tick_params(labelsize=8)
    for axis in axes.flat[len(changes) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel("distance / unrelated", fontsize=8)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    page.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), fontsize=8, frameon=False)
    path = Path(path)
    write(path, lambda file: page.savefig(file, format=path.suffix[1:] or "png", dpi=130))
    return path


Describe = Callable[[Images], dict[str, Float[Tensor, "n d"]]]
Make = Callable[[Source, Draws], Images]


def _features(encoder: Encoder, channels: int) -> Describe:
    only = ("layers", "output") if hasattr(encoder, "dense") else ("output",)
    return layers(encoder, channels=channels, only=only, cells=CELLS)


def _changed(name: str, magnitude: int | float, size: int) -> Make:
    return lambda source, draws: change(name, magnitude, source, size, draws)


def _view(source: Source, size: int, maps: Float[Tensor, "b 3 3"] | None = None) -> Images:
    seen = torch.diag(torch.tensor([SEEN, SEEN, 1.0], device=source.pixels.device))
    return sample(source, seen.expand(len(source.pixels), 3, 3) if maps is None else seen @ maps, size, "border")


def _some(images: ImageSet, n: int, draws: Draws) -> ImageSet:
    """Up to `n` images, drawn by their keys."""
    order = _of(draws, images).bits("some").argsort(stable=True)[:n]
    return images.subset(order.sort().values)


def _of(draws: Draws, images: ImageSet) -> Draws:
    return replace(draws, keys=torch.from_numpy(np.array(images.keys)))


def _all(images: ImageSet, describe: Describe, make: Make, draws: Draws) -> dict[str, Float[Tensor, "n d"]]:
    """The features of all images, a batch at a time."""
    parts: dict[str, list[Tensor]] = {}
    for ids in np.array_split(np.arange(len(images)), -(-len(images) // BATCH)):
        mine = replace(draws, keys=torch.from_numpy(np.array(images.keys[ids])))
        for layer, x in describe(make(images.source(ids), mine)).items():
            parts.setdefault(layer, []).append(x)
    return {layer: torch.cat(x) for layer, x in parts.items()}


def _judge(
    describe: Describe, images: ImageSet, train: ImageSet | None, size: int, draws: Draws
) -> Callable[[Tensor], float] | None:
    """Accuracy of a linear probe of train on features of the images; None where labels are missing."""
    if train is None or train.labels is None or images.labels is None:
        return None
    some = _some(train.subset(np.flatnonzero(train.labels >= 0)), N_TRAIN, draws)
    truth = _numbered(images, train)
    if some.labels is None or len(np.unique(some.labels)) < 2 or not (truth >= 0).any():
        return None
    x = _all(some, describe, lambda source, mine: _view(source, size), draws)["output"]
    mean, std = x.mean(0), x.std(0, correction=0)
    scale = torch.where(std > 1e-6 * (mean.abs() + std.mean()), 1 / std, 0.0)
    y, known = torch.from_numpy(some.labels), torch.from_numpy(truth >= 0)
    y_test = torch.from_numpy(truth)[known]
    n_classes = int(max(y.max(), y_test.max())) + 1
    data = Labelled((x - mean) * scale, y, torch.from_numpy(some.keys), x[:0], y_test[:0], n_classes)
    weights, _, _ = solve(data, draws.seed, held_out=1)  # as in linear-v1
    return lambda features: accuracy(weights, ((features - mean) * scale)[known], y_test)


def _numbered(images: ImageSet, train: ImageSet) -> np.ndarray:
    """The labels of the images in the numbering of train, by name where both have names."""
    assert images.labels is not None
    if images.classes is None or train.classes is None:
        return images.labels
    number = {name: i for i, name in reversed([*enumerate(train.classes)])}
    numbers = np.array([number.get(name, -1) for name in images.classes] or [-1])
    return np.where(images.labels >= 0, numbers[images.labels], -1)
