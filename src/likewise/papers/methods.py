"""The survey's comparison (Ozbulak et al., 2023, arXiv 2305.13689): every method on one encoder and one budget.

    likewise reproduce methods --out docs/results/methods-cpu --resume [--set table=NAME] [--set only=A,B]
        [--set device=cuda]

Each run trains as `likewise pretrain` does (in float32, but for the table of a GPU), is judged by k-NN, a linear probe,
a linear probe on 1 % of the labels and the health of its features, and adds one line to runs.jsonl; what is there is
not done again, and a run that was interrupted goes on. The page is written from those lines. Tables are framed by raw
pixels, the untrained encoder and `supervised`, where these have been run. A method is proven where its linear probe
beats that of the untrained encoder of the same seeds by three standard errors (SE) of the test images. Time is
processor time of training, on machines that others used too; runs made on a GPU (`--set device=cuda`) have none here,
and their number is in brackets. The table `cifar10-resnet18` is for a GPU.

Beyond these sizes nothing was measured here. Published linear probes on ImageNet-1k, each in its own authors' recipe:
with a ResNet-50 SimCLR 69.1 % (1,000 epochs), MoCo v3 74.6 (1,000), SwAV 75.3 (800), DeepCluster-v2 75.2 (800),
Barlow Twins 73.5 (1,000), VICReg 73.2 (1,000), DINO 75.3; one machine, 100 epochs, batch 256: SimCLR 63.2, DCL 65.1,
SwAV 67.2, DINO 68.2. With a ViT-B/16 MAE 68.0, MoCo v3 76.7, DINO 78.2, iBOT 79.5. So for weeks of a large machine
`--method dino` with `--encoder resnet50`, or `ibot` with a ViT, has more behind it than the default.
"""

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

from likewise.encoders import Pixels
from likewise.errors import TrainingError, UsageError
from likewise.files import append_line, read_json, read_lines, write_text
from likewise.images import ImageSet, open_images
from likewise.methods import METHODS, default, reads_labels
from likewise.papers import parts
from likewise.progress import say
from likewise.types import TrainConfig, pick, usable_device
from likewise.verbs.evaluate import evaluate
from likewise.verbs.pretrain import make_method, pretrain
from likewise.verbs.settings import make_plan

BATCH = 256
FRAMES = ("pixels", "untrained", "supervised")
PROTOCOLS = ("knn", "linear", "few-label", "health")
SMALL = {"min_scale": 0.2, "jitter": 0.5, "blur": 0.0}  # SimCLR's views for images of 32 pixels
DIGITS = {"shift": 0.1, "rotation": 15.0, "zoom": 1.25}
VIEWS: dict[str, dict[str, dict[str, Any]]] = {  # of a set: what stands for a recipe, so that all learn from the same
    "cifar10": {"strong": {"views": "strong", **SMALL}, "asymmetric": {"views": "strong", **SMALL}},
    "mnist": {
        "strong": {"views": "affine", **DIGITS},
        "asymmetric": {"views": "affine", **DIGITS},
        "weak": {"min_scale": 0.5, "flip": 0.0},
        "multi-crop": {"split": 0.6, "min_scale": 0.3, "flip": 0.0, "solarise": 0.0, "local_size": 14},
    },
}


class Table(NamedTuple):
    """One encoder on one set, for so many images seen; its settings are `pretrain`'s."""

    data: str
    size: int
    seen: int
    settings: dict[str, Any]  # the encoder and what else is not as usual
    n_probed: int | None = None  # training images, those with the smallest keys, that the probes learn from; None: all
    batch: int = BATCH

    def lacks(self, method: str) -> list[str]:
        """What a method needs and is not here."""
        vit, colour = self.settings["encoder"].startswith("vit"), self.data != "mnist"
        here = {"a ViT encoder": vit, "images in colour": colour}
        return [need for need in METHODS[method].needs if not here.get(need, True)] if method in METHODS else []


# 200 epochs of batches of 512, as others' published benchmarks of CIFAR-10 on one GPU; followed by k-NN as it learns.
RESNET = {"encoder": "resnet18", "device": "auto", "precision": "auto", "knn_epochs": tuple(range(10, 201, 10))}
TABLES = {
    "mnist-quick": Table("mnist", 28, 60 * BATCH, {"encoder": "convnet", "width": 32}, 10_000),
    "mnist-vit-quick": Table("mnist", 28, 200 * BATCH, {"encoder": "vit-nano", "patch": 7}, 10_000),
    "cifar10-quick": Table("cifar10", 32, 120 * BATCH, {"encoder": "convnet", "width": 32}, 10_000),
    "cifar10-convnet": Table("cifar10", 32, 500_000, {"encoder": "convnet"}),
    "cifar10-vit": Table("cifar10", 32, 200_000, {"encoder": "vit-nano", "patch": 4}),
    "cifar10-resnet18": Table("cifar10", 32, 200 * 50_000, RESNET, batch=512),
}


def reproduce(
    out: Path, *, budget: str, seed: int, table: str = "", only: str = "", seeds: int | None = None, device: str = ""
) -> dict[str, Any]:
    """All tables or one, all methods or some (separated by commas), from seed `seed` on.

    `budget` cpu is the small tables and one seed, full all tables and three seeds, unless asked otherwise. `device` is
    that of training and of embedding; by default the CPU, but for the table of a GPU, which takes what there is.
    """
    names, wanted = chosen(budget=budget, table=table, only=only, seeds=seeds, device=device)
    for name in names:
        run(out, name, wanted, range(seed, seed + (seeds or (1 if budget == "cpu" else 3))), device)
    write_text(out / "README.md", page(read(out)))
    return {"checks": proofs(read(out))}


def ready(*, budget: str, table: str = "", only: str = "", seeds: int | None = None, device: str = "") -> None:
    """Whether what is asked for is known and the images are there. Raises UsageError or DataError."""
    names, _ = chosen(budget=budget, table=table, only=only, seeds=seeds, device=device)
    for data in dict.fromkeys(TABLES[name].data for name in names):
        open_images(data)


def chosen(
    *, budget: str, table: str = "", only: str = "", seeds: int | None = None, device: str = ""
) -> tuple[list[str], list[str]]:
    """The tables and methods that are asked for. Raises UsageError for what is none."""
    if device:
        usable_device(device)
    if seeds is not None and seeds < 1:
        raise UsageError(f"--set seeds={seeds}: expected at least 1")
    small = [name for name in TABLES if name.endswith("quick")]
    names = [table] if table else small if budget == "cpu" else list(TABLES)
    wanted = [method.strip() for method in only.split(",")] if only else [*FRAMES[:2], *METHODS]
    for name in names:
        pick(TABLES, name, "table")
    for method in wanted:
        pick({**METHODS, **dict.fromkeys(FRAMES)}, method, "method")
        if only and all(TABLES[name].lacks(method) for name in names):
            fit = ", ".join(name for name in TABLES if not TABLES[name].lacks(method)) or "none"
            needs = " and ".join(TABLES[names[0]].lacks(method))
            raise UsageError(f"--set only={method}: needs {needs}, which {', '.join(names)} lacks; tables: {fit}")
    return names, wanted


def run(out: Path, name: str, wanted: Sequence[str], seeds: Sequence[int], device: str = "") -> None:
    """What `out` lacks of one table."""
    setting = TABLES[name]
    device = usable_device(device or setting.settings.get("device", "cpu"))
    train, test = (open_images(f"{setting.data}:{split}", side=setting.size) for split in ("train", "test"))
    done = {(line["table"], line["method"], line["seed"]) for line in read(out)}
    for seed in seeds:
        for method in wanted:
            if not setting.lacks(method) and (name, method, seed) not in done:
                say(f"{name}: {method}, seed {seed}")
                found = one(out, name, method, seed, train, test, device)
                line = {"table": name, "method": method, "seed": seed, **found}
                append_line(out / "runs.jsonl", line)
                write_text(out / "README.md", page(read(out)))


def one(
    out: Path, name: str, method: str, seed: int, train: ImageSet, test: ImageSet, device: str = "cpu"
) -> dict[str, Any]:
    """One method on one table's terms: how it was trained, and its figures."""
    setting = TABLES[name]
    about: dict[str, Any] = {"date": time.strftime("%Y-%m-%d")}
    if device != "cpu":
        about["device"] = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    usual = METHODS[method].default_views if method in METHODS else "strong"
    settings: dict[str, Any] = {"size": setting.size, "seed": seed, "batch_size": setting.batch}
    settings |= {"precision": "fp32", **setting.settings, "device": device}  # wherever a run is made
    if method == "pixels":
        encoder: Any = Pixels(train.info(setting.size))
    elif method == "untrained":
        encoder = make_method(make_plan({"method": "simclr", **settings}, setting.size), train).encoder
    else:
        followed = "knn_epochs" in settings
        steps, folder = setting.seen // setting.batch, out / "runs" / f"{name}-{method}-{seed}"
        settings |= {"method": method, "steps": steps, "monitor_every": 10**9}
        settings |= VIEWS.get(setting.data, {}).get(usual, {})
        seen = train if followed or reads_labels(METHODS[method]) else train.relabel(None)
        try:
            trained = pretrain(seen, out=folder, resume=True, **settings)
        except TrainingError as error:
            return {**about, "failed": str(error).replace(f"{out}/", "")}
        figures = ("steps", "seconds", "images_per_second", "resumed_at", "verdict")
        about |= {"seen": steps * setting.batch, **{key: trained[key] for key in figures}}
        if followed:
            told = [line for line in read_lines(folder / "metrics.jsonl") if "knn" in line]
            about["curve"] = [[round(line["epoch"], 2), line["knn"]] for line in told]
        about["processor_seconds"] = read_json(folder / "status.json").get("processor_seconds")
        encoder = folder
    if setting.n_probed:
        train = train.subset(np.sort(np.argsort(train.keys)[: setting.n_probed]))
    size = None if isinstance(encoder, Path) else setting.size
    found = evaluate(encoder, train, test=test, protocols=PROTOCOLS, size=size, seed=seed, device=device)["protocols"]
    if isinstance(encoder, Path):
        shutil.rmtree(encoder)
    return {
        **about,
        "test": len(test),
        "knn": found["knn"]["accuracy"],
        "knn_200": found["knn"].get("accuracy_200"),
        "linear": found["linear"]["accuracy"],
        "few_label": found["few-label"]["accuracy"],
        "labels": found["few-label"]["labels"],
        "rankme": found["health"]["rankme"],
        "collapsed": found["health"]["collapsed"],
    }


def read(out: Path) -> list[dict[str, Any]]:
    """The lines of finished runs."""
    return read_lines(out / "runs.jsonl")


def proofs(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each method and table: by how many standard errors its linear probe beats the untrained encoder's."""
    checks = []
    for name in TABLES:
        here = [line for line in lines if line["table"] == name]
        base = [line for line in here if line["method"] == "untrained"]
        for method in dict.fromkeys(line["method"] for line in here if line["method"] not in FRAMES):
            runs = [line for line in here if line["method"] == method]
            if base and all("linear" in line for line in runs):
                what = f"{method} on {name}: standard errors above the untrained encoder"
                checks.append(parts.check(f"{name}/{method}", what, margin(runs, base), ">=", 3))
    return checks


def margin(runs: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> float:
    """How far the linear probe of `runs` is above that of `base`, in standard errors of the difference.

    Each accuracy is of n held-out images and has a standard error of the root of p (1 - p) / n; seeds share the images,
    so that more of them make it no smaller. A seed is compared with the same seed, whose weights are those it began
    with: untrained encoders differ more from one another than many methods do.
    """
    seeds = {line["seed"] for line in runs}
    base = [line for line in base if line["seed"] in seeds] or base
    p, q, n = fmean(line["linear"] for line in runs), fmean(line["linear"] for line in base), runs[0]["test"]
    return (p - q) / math.sqrt(max(p * (1 - p) + q * (1 - q), 1e-12) / n)


def page(lines: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown, best linear probe first."""
    checks = proofs(lines)
    proven = {check["id"].split("/")[1] for check in checks if check["ok"]}
    judged = {check["id"].split("/")[1] for check in checks} | {line["method"] for line in lines if "failed" in line}
    text = [
        "# Methods side by side",
        "",
        (__doc__ or "").split("\n\n", 2)[2].strip(),
        "",
        f"Proven on at least one table: {', '.join(sorted(proven)) or 'none yet'}.",
        f"Run and not proven: {', '.join(sorted(judged - proven)) or 'none'}.",
    ]
    text += defaults(lines)
    for name, setting in TABLES.items():
        here = [line for line in lines if line["table"] == name]
        if here:
            ends = "all" if setting.n_probed is None else f"{setting.n_probed:,}"
            shown = {key: value for key, value in setting.settings.items() if key not in TrainConfig.__annotations__}
            options = ", ".join(f"{key} {value}" for key, value in shown.items())
            text += ["", f"## {name}", ""]
            text += [
                f"{setting.data} at {setting.size} pixels, {options}; {setting.seen:,} images seen in batches of "
                f"{setting.batch}; probes learn from {ends} training images and are tested on "
                f"{max(line.get('test', 0) for line in here):,}.",
                "",
                rows(here),
            ]
    return "\n".join(text) + "\n"


def defaults(lines: Sequence[dict[str, Any]]) -> list[str]:
    """From which rows the methods follow that `pretrain` takes unless told: a line for each table that has its own."""
    text = []
    for name, setting in TABLES.items():
        here = [line for line in lines if line["table"] == name and "linear" in line]
        methods = [
            m for m in dict.fromkeys(line["method"] for line in here) if m in METHODS and not reads_labels(METHODS[m])
        ]
        means = {m: fmean(line["linear"] for line in here if line["method"] == m) for m in methods}
        taken, _ = default(setting.settings["encoder"], setting.seen)
        if taken in means:
            ahead = sorted((m for m in means if means[m] > means[taken]), key=lambda m: -means[m])
            better = ", ".join(f"{m} {means[m]:.3f}" for m in ahead)
            compared = f"of {len(means)} without labels ahead of it: {better or 'none'}."
            text.append(f"- {name}: {taken}, {means[taken]:.3f}; {compared}")
    told = "What `likewise pretrain` takes without `--method`, by encoder and images seen, and its linear probe:"
    return ["", told, "", *text] if text else []


def _processor_seconds(line: dict[str, Any]) -> float:
    """Of training; older lines have `cpu_seconds` of their last process, its health check included. 0: not known, or
    not of a CPU."""
    if "device" in line:
        return 0.0
    return line.get("processor_seconds") or (0.0 if line.get("resumed_at", 1) else line.get("cpu_seconds", 0.0))


def rows(here: Sequence[dict[str, Any]]) -> str:
    """One row a method, the mean over its seeds. Lines without a time of the whole training have none here."""
    base = [line for line in here if line["method"] == "untrained"]
    made: list[tuple[float, list[str]]] = []
    for method in dict.fromkeys(line["method"] for line in here):
        runs = [line for line in here if line["method"] == method and "linear" in line]
        if not runs:
            made.append((0.0, [method, *["failed"] * 4, "", "", "", ""]))
            continue
        linear = fmean(line["linear"] for line in runs)
        above = "" if method in FRAMES or not base else f"{margin(runs, base):+.1f}"
        timed = [(line["seen"], took) for line in runs if (took := _processor_seconds(line))]
        seen, seconds = (sum(of[i] for of in timed) for i in (0, 1))
        speed = f"{seen / seconds:,.0f}" if timed else ""
        minutes = f"{seconds / len(timed) / 60:.1f}" if timed else ""
        figures = [f"{fmean(line[key] for line in runs):.3f}" for key in ("knn", "linear", "few_label")]
        rank = f"{fmean(line['rankme'] for line in runs):.0f}" + (
            " (collapsed)" if any(line["collapsed"] for line in runs) else ""
        )
        label = f"{method} (labels)" if method in METHODS and reads_labels(METHODS[method]) else method
        n_gpu = sum("device" in line for line in runs)
        seeds = str(len(runs)) + (f" ({n_gpu})" if n_gpu else "")
        made.append((linear, [label, *figures, above, rank, speed, minutes, seeds]))
    made.sort(key=lambda row: -row[0])
    head = [
        "method",
        "k-NN",
        "linear",
        "1 % of labels",
        "SE above untrained",
        "rank",
        "images / CPU s",
        "CPU minutes",
        "seeds",
    ]
    return parts.table(head, [row for _, row in made])
