"""Descriptor matching and invariance: SIFT, raw RGB, an untrained convnet and a trained one, on real and made pairs.

    python benchmarks/matching.py --run RUN [--work DIR] [--results docs/results] [--quick]

RUN is a run of `likewise pretrain`; without one only what needs no training is measured. The real pairs are the 40 of
LIKEWISE_DATA/oxford-affine, the made ones 384 from 16 photographs of LIKEWISE_DATA/imagenette96. What was measured
is kept pair by pair in DIR, and a second call goes on from there. With --results, the figures go to matching.json, and
the pictures to matching.png and invariance.png; the tables are printed as they are on the page.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import likewise
from likewise import progress
from likewise.draws import Draws
from likewise.embedding import load_with_config
from likewise.evaluation.invariance import TRAINED, Curve, curves, figure
from likewise.evaluation.matching import compare, differences, layers, mean_average_precision, read_pairs, rgb, sift
from likewise.types import Encoder
from setting import setting

SIDES = (32, 64, 96)
SIDE, MADE_SIDE = 64, 32  # the made images have 96 pixels, and small regions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--name", default="SimCLR")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few pairs only")
    arguments = parser.parse_args()
    progress.QUIET = False
    torch.set_num_threads(1)
    data = Path(os.environ.get("LIKEWISE_DATA", "missing"))
    if not (data / "oxford-affine").is_dir():
        print("matching: needs LIKEWISE_DATA with oxford-affine/ and imagenette96/; nothing was measured")
        return
    models: dict[str, Encoder] = {}
    if arguments.run is not None:
        for name, trained in (("untrained", False), (arguments.name, True)):
            models[name] = load_with_config(arguments.run, trained=trained)[0]
    work = arguments.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    photographs = str(data / "imagenette96/imagenette96.zip/val")
    found: dict[str, Any] = {"made": setting()}
    if arguments.quick:
        found["sides"] = by_side(data / "oxford-affine", models, ("img4",), (24, 48))
    else:
        found["oxford"] = match(models, data / "oxford-affine", work / "oxford", SIDE)
        found["sides"] = kept(work / "sides.json", lambda: by_side(data / "oxford-affine", models, ("img4",), SIDES))
        made = match(models, work / "pairs", work / "made", MADE_SIDE, photographs)
        found["made pairs"] = {key: value for key, value in made.items() if key != "pairs"}
        found["differences"] = {
            "oxford": gains(found["oxford"]["pairs"], arguments.name),
            "made": gains(made["pairs"], arguments.name),
        }
    found["invariance"], drawn = invariance(models, photographs, 64 if arguments.quick else 128)
    report(found)
    if arguments.results is not None:
        (arguments.results / "matching.json").write_text(compact(found) + "\n")
        if "oxford" in found:
            titles = {"40 Oxford pairs": "oxford", "384 pairs made from 16 photographs": "made pairs"}
            bars({title: found[name]["map"] for title, name in titles.items()}, arguments.results / "matching.png")
        if drawn:
            figure(drawn, arguments.results / "invariance.png")


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What was made before, or what is made now."""
    if not path.is_file():
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def match(
    models: Mapping[str, Encoder], pairs: Path, out: Path, side: int, make_from: str | None = None
) -> dict[str, Any]:
    """All pairs, going on where an earlier call stopped."""
    begun = (out / "settings.json").is_file()
    settings: dict[str, Any] = {"side": side, "out": out, "resume": begun}
    return likewise.match(dict(models) or "pixels", pairs, make_from=None if pairs.is_dir() else make_from, **settings)


def by_side(
    folder: Path, models: Mapping[str, Encoder], images: tuple[str, ...], sides: tuple[int, ...]
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean average precision by the side of the patches, on some of the pairs."""
    pairs = [pair for pair in read_pairs(folder) if pair.image in images]
    describers = [sift, rgb, *(layers(encoder, name=f"{name} ") for name, encoder in models.items())]
    means = {}
    for side in sides:
        rows = [
            {"scene": done.pair.scene, "image": done.pair.image, "change": done.pair.change, "descriptor": d, "ap": ap}
            for done in compare(pairs, describers, side=side)
            for d, ap in done.ap.items()
        ]
        means[str(side)] = mean_average_precision(rows)
        progress.say(f"side {side} done")
    return means


def gains(rows: list[dict[str, Any]], trained: str) -> list[dict[str, Any]]:
    """Of the trained layers over raw RGB, the same layers untrained, and SIFT, by change, with intervals."""
    names = {row["descriptor"] for row in rows}
    return [
        {"descriptor": name, "less": other, "change": change, **figures}
        for name in sorted(name for name in names if name.startswith(f"{trained} "))
        for other in ("rgb", name.replace(trained, "untrained"), "sift")
        for change, figures in differences(rows, name, other).items()
    ]


def invariance(
    models: Mapping[str, Encoder], photographs: str, n: int
) -> tuple[dict[str, Any], dict[str, dict[str, Curve]]]:
    """Curves of both encoders on photographs that neither saw."""
    test = likewise.open_images(photographs, labels="folders")
    train = likewise.open_images(photographs.replace("/val", "/train"), labels="folders")
    draws = Draws(0, 0, 0, torch.from_numpy(np.array(test.keys)))
    drawn = {name: curves(model, test, size=64, draws=draws, train=train, n=n) for name, model in models.items()}
    flat = {
        name: {
            change: {
                "magnitudes": curve.magnitudes.tolist(),
                "trained": curve.trained,
                "distance": {layer: np.round(values, 4).tolist() for layer, values in curve.distance.items()},
                "accuracy": None if curve.accuracy is None else np.round(curve.accuracy, 4).tolist(),
                "inside": {layer: round(curve.area(layer), 4) for layer in curve.distance},
                "outside": {layer: round(curve.area(layer, inside=False), 4) for layer in curve.distance},
            }
            for change, curve in found.items()
        }
        for name, found in drawn.items()
    }
    return flat, drawn


def report(found: Mapping[str, Any]) -> None:
    for name in ("oxford", "made pairs"):
        if name in found:
            print(f"\n{name}: mean average precision by change\n")
            table(found[name]["map"])
            print(f"\nwithout any right match: {len(found[name]['skipped'])} pairs")
    print("\nby the side of the patches, all changes\n")
    sides = found["sides"]
    names = next(iter(sides.values()))
    table({name: {side: means[name]["all"] for side, means in sides.items()} for name in names})
    for name, rows in found.get("differences", {}).items():
        if not rows:
            continue
        print(f"\n{name}: differences\n")
        cells: dict[str, dict[str, str]] = {}
        for row in rows:
            key = f"{row['descriptor']} - {row['less']}"
            cells.setdefault(key, {})[row["change"]] = f"{row['mean']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        table(cells)
    if found["invariance"]:
        print("\nmean height of the invariance curves of the output, within the range and beyond it\n")
        table(
            {
                change: {
                    f"{name} {where}": flat[change][where]["output"]
                    for name, flat in found["invariance"].items()
                    for where in ("inside", "outside")
                }
                for change in TRAINED
            }
        )


def table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    print(f"| | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
    for name, row in rows.items():
        cells = [f"{row[c]:.3f}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns]
        print(f"| {name} | {' | '.join(cells)} |")


def bars(maps: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Mean average precision by change, a bar for each descriptor."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = Figure(figsize=(11, 3.1 * len(maps) + 0.6), layout="constrained")
    FigureCanvasAgg(page)
    for axis, (title, means) in zip(page.subplots(len(maps), 1, squeeze=False).flat, maps.items(), strict=True):
        changes = [*dict.fromkeys(change for row in means.values() for change in row if change != "all"), "all"]
        width = 0.84 / len(means)
        for i, (name, row) in enumerate(means.items()):
            at = np.arange(len(changes)) + (i - (len(means) - 1) / 2) * width
            colour = {"sift": "0.25", "rgb": "0.65"}.get(name, f"C{(i - 2) % 10}")
            axis.bar(at, [row.get(change, 0) for change in changes], width * 0.92, label=name, color=colour)
        axis.set_xticks(np.arange(len(changes)), changes)
        axis.set_ylim(0, 1)
        axis.set_ylabel("mean average precision", fontsize=9)
        axis.set_title(title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = page.axes[0].get_legend_handles_labels()
    page.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    page.savefig(path, dpi=120)


def compact(value: Any, depth: int = 0) -> str:
    """JSON with a line for each entry of the outer levels and for each row of a list."""
    inner = "  " * (depth + 1)
    if isinstance(value, dict) and depth < 3:
        lines = [f"{inner}{json.dumps(key)}: {compact(entry, depth + 1)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + "  " * depth + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(inner + json.dumps(entry) for entry in value) + "\n" + "  " * depth + "]"
    return json.dumps(value, default=str)


if __name__ == "__main__":
    main()
