"""Exemplar-CNN (Dosovitskiy et al., NIPS 2014; extended version arXiv 1406.6909), its tables and studies again.

Read from top to bottom: the budgets, what is trained, how it is judged, the studies, the claims, the page. Patches are
never of the set that is tested on. What a small budget changes is in `DIFFERENCES`. Every run and every judgement is
kept in the folder when it is done, and a line of it goes to runs.jsonl, so that a call goes on where one stopped.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likewise.draws import Draws
from likewise.embedding import features, load
from likewise.encoders import Pixels, normaliser
from likewise.errors import TrainingError, UsageError
from likewise.evaluation import PROBES
from likewise.evaluation.matching import differences, mean_average_precision
from likewise.evaluation.svm import balanced, judge
from likewise.files import append_line, read_lines, write_text
from likewise.images import ImageSet, open_images, patches
from likewise.methods.exemplar import merge
from likewise.papers.exemplar_figures import bars, classes, filters, matches, trends
from likewise.papers.parts import check, finished, part, table
from likewise.progress import say
from likewise.training.fit import fit, settle
from likewise.types import DataInfo, Encoder
from likewise.verbs.match import match
from likewise.verbs.pretrain import make_method, pretrain, summary
from likewise.verbs.settings import make_plan
from likewise.views import View

SIDE = 32  # pixels of a patch
MODERN = {"norm": True, "dropout": 0.0, "optimizer": "muon", "lr": 0.02, "weight_decay": 0.0}
PAPERS_OWN = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "schedule": "thirds", "warmup": 0.0, "weight_decay": 0.0}
LABELLED: dict[str, Any] = {  # the supervised net's
    "encoder": "exemplar-small",
    "batch_size": 128,
    "optimizer": "muon",
    "lr": 0.02,
    "weight_decay": 0.05,
    "betas": (0.9, 0.999),
    "warmup": 0.05,
}
BLUR = 2.5  # the largest sigma of training on blur, in pixels
OFF: dict[str, dict[str, Any]] = {  # what leaves a group of transformations out
    "translation": {"translation": 0.0},
    "scale": {"zoom_range": (1.0, 1.0)},
    "rotation": {"turn": 0.0},
    "contrast": {"contrast": (1.0, 1.0), "power": (1.0, 1.0)},
    "colour": {"hue": 0.0},
}
PAPER = {  # test accuracy, %, with 8,000 classes (small net) or 16,000; from memory where papers.md says so
    ("small", "cifar10-400"): 69.7,
    ("medium", "cifar10-400"): 75.4,
    ("large", "cifar10-400"): 76.6,
    ("small", "stl10"): 67.1,
    ("medium", "stl10"): 72.8,
    ("large", "stl10"): 74.2,
    ("small", "cifar10"): 76.5,
    ("medium", "cifar10"): 82.0,
    ("large", "cifar10"): 84.3,
    ("small", "caltech101"): 79.8,
    ("medium", "caltech101"): 86.1,
    ("large", "caltech101"): 87.1,
}
DIFFERENCES = {
    "cpu": [
        "2,000 surrogate classes, not 8,000; 256 patches a step, and by default 2,500 steps, not days of them.",
        "Studies: 1,000 steps, judged by three draws on 2,000 test images. The last batch's transforms are new only "
        "where they are drawn afresh.",
        "Patches come from imagenette96 (4,000 images) or caltech101-s96 (3,030), not from 100,000 of STL-10.",
        "Transforms are drawn afresh every epoch; the paper draws K of each seed once.",
        "Batch normalisation while training, Muon and a cosine, no dropout; the paper: none, SGD and steps, dropout.",
        "imagenette96 and caltech101-s96 are subsets, shrunk and twice compressed: no figure on them is comparable "
        "with a paper's. Only CIFAR-10 is the paper's own.",
    ],
    "full": [
        "The rate falls to a third at fixed places, not when an error stops falling; each seed is seen about 190 "
        "times, in one of the 150 or 100 samples that the paper draws of it.",
        "Studies take as many steps whatever N, where the paper trains each to convergence.",
        "Caltech-101 is judged on one draw of 30 training images a class and all others, not on ten.",
    ],
}


@dataclass(frozen=True)
class Column:
    """A table's column: a protocol on a set, and which run is judged there (never one with patches of that set)."""

    protocol: str  # in PROBES
    data: Any
    test: Any
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """How much is done, and on what."""

    nets: Mapping[str, Mapping[str, Any]]  # small, medium, large: settings of each
    sources: Mapping[str, Any]  # where patches come from
    tests: Mapping[str, Column]
    labels: int  # a class, for the supervised net
    supervised: Mapping[str, Any]
    study: Mapping[str, Any]  # settings of every run of a study
    study_test: Column
    matching: tuple[str, Mapping[str, Any]]  # the net whose maps are descriptors, and its settings
    matching_side: int  # pixels of the patches that are matched: about twice those of training, as in the paper
    made_from: Any  # images that pairs are made from, never those that patches come from
    n_tested: int  # test images in the studies
    sizes: Sequence[int]  # N
    versions: Sequence[int]  # K; 0: afresh
    precision: str = "fp32"


def _cpu() -> Budget:
    main = {"encoder": "exemplar-small", "patches": 2_000, "steps": 2_500, "batch_size": 128, **MODERN}
    cifar = ("cifar10:train", "cifar10:test")
    caltech = ("caltech101-s96:train", "caltech101-s96:test")
    nette = ("imagenette96:train", "imagenette96:test")
    return Budget(
        nets={"small": main},
        sources={"imagenette96": "imagenette96:train", "caltech101-s96": "caltech101-s96:train"},
        tests={
            "cifar10-400": Column("cifar10-400", *cifar, source="imagenette96"),
            "caltech101-s96": Column("caltech101", *caltech, source="imagenette96"),
            "imagenette96": Column("svm", *nette, source="caltech101-s96"),
        },
        labels=400,
        supervised={"epochs": 25, **LABELLED},
        study={**main, "steps": 1_000},
        study_test=Column("cifar10-400", *cifar, source="imagenette96", options={"n_draws": 3}),
        matching=("small", main),
        matching_side=64,
        made_from="imagenette96:test",
        n_tested=2_000,
        sizes=(100, 500, 2_000, 8_000),
        versions=(1, 10, 100, 0),
    )


def _full() -> Budget:
    """The paper's scale: for a GPU, over days or with fewer epochs; every run goes on where it was stopped."""
    paper = {"batch_size": 128, "epochs": 100, "dropout": 0.5, "first_classes": 2_000, "grow_epochs": 5, **PAPERS_OWN}
    nets = {
        "small": {"encoder": "exemplar-small", "patches": 8_000, "versions": 150, **paper},
        "medium": {"encoder": "exemplar-medium", "patches": 16_000, "versions": 100, **paper},
        "large": {"encoder": "exemplar-large", "patches": 16_000, "versions": 100, **paper},
    }
    stl10 = "stl10:unlabeled"
    cifar = ("cifar10:train", "cifar10:test")
    return Budget(
        nets=nets,
        sources={"stl10": stl10},
        tests={
            "stl10": Column("stl10", "stl10:train", "stl10:test", source="stl10"),
            "cifar10-400": Column("cifar10-400", *cifar, source="stl10"),
            "cifar10": Column("cifar10", *cifar, source="stl10"),
            "caltech101": Column("caltech101", "caltech101", None, source="stl10"),
        },
        labels=400,
        supervised={"epochs": 200, **LABELLED},
        study={**nets["small"], "epochs": None, "steps": 6_250},
        study_test=Column("cifar10-400", *cifar, source="stl10"),
        matching=(
            "matching",
            {"encoder": "exemplar-matching", "size": 64, "patches": 16_000, "versions": 100, **paper},
        ),
        matching_side=113,
        made_from="imagenette:test",
        n_tested=10_000,
        sizes=(50, 500, 2_000, 8_000, 32_000),
        versions=(1, 10, 100, 300),
        precision="bf16",
    )


def ready(*, budget: str, studies: bool = True, steps: int | None = None) -> None:
    """Whether the steps are some, and the images are there. Raises UsageError or DataError."""
    if steps is not None and steps < 1:
        raise UsageError(f"--set steps={steps}: expected at least 1")
    plan = {"cpu": _cpu, "full": _full}[budget]()
    for data in plan.sources.values():
        open_images(data, side=3 * SIDE)  # as patches are drawn from them: they are decoded once
    columns = [*plan.tests.values(), *([plan.study_test] if studies else [])]
    for data in dict.fromkeys(side for test in columns for side in (test.data, test.test)):
        if data is not None:
            open_images(data)


def reproduce(out: Path, *, budget: str, seed: int, studies: bool = True, steps: int | None = None) -> dict[str, Any]:
    """The main table, with a page of its own as soon as it is there, and then the studies, where they are wanted.

    `steps` are those of each run of the main table and of matching, instead of the budget's.
    """
    plan = {"cpu": _cpu, "full": _full}[budget]()
    if steps is not None:
        asked, (net, settings) = {"epochs": None, "steps": steps}, plan.matching
        nets = {name: {**usual, **asked} for name, usual in plan.nets.items()}
        plan = replace(plan, nets=nets, matching=(net, {**settings, **asked}))
    return run(out, plan, seed, name=budget, with_studies=studies)


def run(out: Path, budget: Budget, seed: int, *, name: str, with_studies: bool = True) -> dict[str, Any]:
    """Everything, part by part, into the folder `out`."""
    results: dict[str, Any] = {"main": main_table(out, budget, seed)}
    checks = publish(out, budget, results, seed, name)
    if with_studies:
        results["studies"] = studies(out, budget, seed)
        results["matching"] = matching(out, budget, seed)
        checks = publish(out, budget, results, seed, name)
    return {"checks": checks, **results}


def publish(out: Path, budget: Budget, results: Mapping[str, Any], seed: int, name: str) -> list[dict[str, Any]]:
    """The figures and the page of what there is so far; the claims that it bears out or not."""
    figures(out, budget, results, seed)
    checks = claims(results)
    write_text(out / "README.md", page(results, checks, name))
    return checks


# What is trained


def trained(out: Path, name: str, data: Any, seed: int, settings: Mapping[str, Any]) -> Path:
    """The run folder of an exemplar network, trained to its end: begun, gone on with, or there already.

    One that has collapsed is judged as well: that is a figure too.
    """
    folder = out / "runs" / name
    asked = {"method": "exemplar", "size": SIDE, "seed": seed, **settings}
    if not finished(folder, asked, ("finished", "collapsed")):
        try:
            pretrain(data, out=folder, resume=True, **asked)
        except TrainingError:
            if not finished(folder, asked, ("collapsed",)):
                raise
    return folder


def judged(
    out: Path, name: str, encoder: Encoder, test: Column, seed: int, precision: str, n_tested: int | None = None
) -> dict[str, Any]:
    """The figures of one encoder in one protocol, kept."""

    def measure() -> dict[str, Any]:
        train, held_out = sides(test, normaliser(encoder).channels)
        if n_tested is not None and len(held_out) > n_tested:
            held_out = held_out.subset(np.sort(np.argsort(held_out.keys)[:n_tested]))
        draws = Draws(seed, 0, 0, torch.from_numpy(train.keys))
        options = {"precision": precision, **test.options}
        return PROBES[test.protocol](encoder, train, held_out, size=SIDE, draws=draws, **options)

    return kept(out, name, measure)


def sides(test: Column, channels: int) -> tuple[ImageSet, ImageSet]:
    """Training and test images; where there is no split, 30 images of each class and the rest."""
    train = open_images(test.data).with_channels(channels)
    if test.test is not None:
        return train, open_images(test.test).with_channels(channels)
    chosen = balanced(train, 30, 1, Draws(0, 0, 0, torch.from_numpy(train.keys)))[0]
    return train.subset(chosen), train.subset(np.setdiff1d(np.arange(len(train)), chosen))


def kept(out: Path, name: str, make: Any) -> dict[str, Any]:
    """A part, and its line in runs.jsonl."""
    found, log = part(out, name, make), out / "runs.jsonl"
    if name not in {line["part"] for line in read_lines(log)}:
        append_line(log, {"part": name, **found})
    return found


def training(folder: Path) -> dict[str, Any]:
    """What a finished run says of itself; the `seconds` of a part are those of reading it."""
    said = summary(folder)
    return {**said, "run": folder.name, "training_seconds": said["seconds"]}


# The main table


def main_table(out: Path, budget: Budget, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """{test: {model: figures}}: each net beside the same net untrained, the pixels, and labels."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column, test in budget.tests.items():
        rows: dict[str, dict[str, Any]] = {}
        for net, settings in budget.nets.items():
            folder = trained(out, f"{net}-{test.source}", budget.sources[test.source], seed, settings)
            kept(out, f"train-{net}-{test.source}", partial(training, folder))
            ask = partial(judged, out, test=test, seed=seed, precision=budget.precision)
            rows[net] = ask(f"{column}-{net}", encoder=load(folder))
            rows[f"{net}, untrained"] = ask(f"{column}-{net}-untrained", encoder=load(folder, trained=False))
        rows["pixels"] = ask(f"{column}-pixels", encoder=Pixels(DataInfo(2, 3, SIDE)))
        if column == "cifar10-400":
            labelled = partial(supervised, out, test, seed, budget.supervised, budget.labels, budget.precision)
            rows["supervised"] = kept(out, "cifar10-400-supervised", labelled)
        found[column] = rows
    return found


def supervised(
    out: Path, test: Column, seed: int, settings: Mapping[str, Any], labels: int, precision: str
) -> dict[str, Any]:
    """A net of the same shape on the labels of the first draw alone: what it says itself, and an SVM on its maps."""
    train, held_out = sides(test, 3)
    (fold,) = balanced(train, labels, 1, Draws(seed, 0, 0, torch.from_numpy(train.keys)))
    images = train.subset(fold)
    plan = make_plan({"method": "supervised", "norm": True, "seed": seed, **settings}, SIDE)
    method = make_method(plan, images)
    folder = out / "runs" / "supervised"
    folder.mkdir(parents=True, exist_ok=True)
    fit(method, images, settle(plan.config, method, images), folder, resume=True)
    method.cpu().eval()  # as the nets that it stands beside
    view, right = View(SIDE), 0
    with torch.inference_mode():
        for ids in np.array_split(np.arange(len(held_out)), max(1, len(held_out) // 500)):
            draws = Draws(0, 0, 0, torch.from_numpy(held_out.keys[ids]))
            guess = method.get_submodule("classifier")(method.encoder(view(held_out.source(ids), draws))).argmax(1)
            right += int((guess.numpy() == held_out.labels[ids]).sum())  # type: ignore[index]
    draws = Draws(seed, 0, 0, torch.from_numpy(train.keys))
    svm = judge(method.encoder, train, held_out, 64, (2,), [fold], draws, precision=precision)
    return {"accuracy": right / len(held_out), "spread": 0.0, "draws": 1, "svm": svm["accuracy"], "labels": len(fold)}


# The studies


def studies(out: Path, budget: Budget, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Training, N, K, one group of transformations left out, the source of the patches, blur, merged classes."""
    source = budget.study_test.source

    def figures(name: str, encoder: Encoder) -> dict[str, Any]:
        found = judged(out, f"study-{name}", encoder, budget.study_test, seed, budget.precision, budget.n_tested)
        return {**found, **invariances(out, name, encoder, budget.study_test, seed)}

    def one(name: str, source: str = source, data: Any = None, **changes: Any) -> dict[str, Any]:
        settings = {**budget.study, **changes}
        folder = trained(out, f"study-{name}", budget.sources[source] if data is None else data, seed, settings)
        last = read_lines(folder / "metrics.jsonl")[-1]
        return {**figures(name, load(folder)), "error": last["shown"]["error"]}

    usual = one("usual")
    untrained = figures("untrained", load(out / "runs" / "study-usual", trained=False))
    found = {
        "training": {"before": untrained, "after": usual},
        "classes": {str(n): usual if n == budget.study["patches"] else one(f"n{n}", patches=n) for n in budget.sizes},
        "versions": {str(k or "afresh"): one(f"k{k}", versions=k) if k else usual for k in budget.versions},
        "without": {"nothing": usual, **{what: one(f"no-{what}", **off) for what, off in OFF.items()}},
        "source": {name: one(f"source-{name}", source=name) if name != source else usual for name in budget.sources},
        "blur": {"without": usual, "with": one("blur", soften=BLUR)},
    }
    seeds = patches(open_images(budget.sources[source], side=3 * SIDE), int(budget.study["patches"]), seed, size=SIDE)
    merged = merge(features(load(out / "runs" / "study-usual"), seeds, SIDE), len(seeds) * 3 // 4, seed=seed)
    found["merged"] = {"seeds": usual, "clusters": one("merged", data=seeds, patches=0, merged=merged)}
    return found


def invariances(out: Path, name: str, encoder: Encoder, test: Column, seed: int) -> dict[str, float]:
    """How far features move under each transformation within the paper's range: the mean height of its curve."""

    def measure() -> dict[str, Any]:
        _, held_out = sides(test, normaliser(encoder).channels)
        held_out = held_out.subset(np.argsort(held_out.keys)[:256]).relabel(None)
        draws = Draws(seed, 0, 0, torch.from_numpy(held_out.keys))
        return PROBES["invariance"](encoder, held_out, held_out, size=SIDE, draws=draws)

    figures = kept(out, f"invariance-{name}", measure)
    return {f"moves_{what}": figures[what] for what in INVARIANCES}


def matching(out: Path, budget: Budget, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Descriptors on the Oxford pairs and on pairs made of photographs: the average precision of each, pair by pair.

    Those of a net, of the same net untrained, and of one trained on blur as well, beside SIFT and raw RGB.
    """
    real = Path(os.environ.get("LIKEWISE_DATA", "")) / "oxford-affine"
    if not real.is_dir() or find_spec("cv2") is None:
        say("matching is left out: it needs LIKEWISE_DATA/oxford-affine and the extra `matching`")
        return {}
    (net, settings), (source, data) = budget.matching, next(iter(budget.sources.items()))
    plain = trained(out, f"{net}-{source}", data, seed, settings)
    blurred = trained(out, f"{net}-{source}-blur", data, seed, {**settings, "soften": BLUR})
    models = {"untrained": load(plain, trained=False), "exemplar": load(plain), "exemplar on blur": load(blurred)}

    def measure(pairs: Path, make_from: Any, log: Path) -> dict[str, Any]:
        asked = {"side": budget.matching_side, "make_from": make_from, "out": log, "resume": True, "seed": seed}
        found = match(models, pairs, **asked)
        return {"pairs": found["pairs"], "skipped": found["skipped"]}

    asked = {"oxford": (real, None), "made": (out / "pairs", budget.made_from)}
    return {
        where: kept(out, f"match-{where}", partial(measure, *what, out / "match" / where))["pairs"]
        for where, what in asked.items()
    }


PAIRS = {"oxford": "the Oxford pairs", "made": "pairs made from 16 photographs"}


def best_layer(rows: Sequence[Mapping[str, Any]]) -> str:
    """The layer of the trained net that matches best on these pairs, such as "layer2"."""
    means = mean_average_precision(rows)
    names = [name for name in means if name.startswith("exemplar layer")]
    return max(names, key=lambda name: means[name]["all"]).removeprefix("exemplar ")


INVARIANCES = {  # a curve: the group that has to be trained for it to be flat
    "translation": "translation",
    "scale": "scale",
    "rotation": "rotation",
    "contrast": "contrast",
    "hue": "colour",
}


# The claims


def claims(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the paper says, as checks."""
    checks = []
    for column, rows in results["main"].items():
        nets = [name for name in rows if name in ("small", "medium", "large")]
        for net in nets:
            value = rows[net]["accuracy"]
            for other in (f"{net}, untrained", "pixels"):
                what = f"{column}: {net} beside {other}"
                checks.append(check(f"{column}-{net}-{other}", what, value, ">", rows[other]["accuracy"]))
    if "cifar10-400" in results["main"]:
        value = results["main"]["cifar10-400"]["small"]["accuracy"]
        checks.append(check("cifar10-400", "CIFAR-10(400), small net", value, ">=", 0.62))
    if "studies" in results:
        without, before = results["studies"]["without"], results["studies"]["training"]["before"]
        for curve, group in INVARIANCES.items():
            key = f"moves_{curve}"
            moved, left_out = without["nothing"][key], without[group][key]
            checks += [
                check(f"invariance-{curve}", f"moved by {curve}: trained, untrained", moved, "<", before[key]),
                check(f"left-out-{curve}", f"moved by {curve}: trained, left out", moved, "<", left_out),
            ]
    if results.get("matching"):
        real, made = results["matching"]["oxford"], results["matching"]["made"]
        layer = best_layer(made)  # not chosen on the pairs that it is judged on
        above = differences(real, f"exemplar {layer}", "rgb")
        for change in ("viewpoint", "zoom + rotation", "blur"):
            what = f"{change}: mAP of {layer} less that of raw RGB"
            checks.append(check(f"match-{change}", what, above[change]["mean"], ">", 0))
        gains = differences([*real, *made], f"exemplar on blur {layer}", f"exemplar {layer}")
        checks.append(check("blur-gains", "training on blur: mAP gained on blur", gains["blur"]["mean"], ">", 0))
        worst = min((gains[change]["mean"], change) for change in gains if change not in ("blur", "all"))
        what = f"training on blur: mAP gained elsewhere at worst ({worst[1]})"
        checks.append(check("blur-costs", what, worst[0], ">=", -0.02))
    return checks


# The figures and the page


def figures(out: Path, budget: Budget, results: Mapping[str, Any], seed: int) -> None:
    """Pictures of what was learned and found, into out/figures."""
    (out / "figures").mkdir(parents=True, exist_ok=True)
    net, settings = next(iter(budget.nets.items()))
    source, data = next(iter(budget.sources.items()))
    folder = out / "runs" / f"{net}-{source}"
    weights = [load(folder, trained=known).get_parameter("layers.0.0.weight").detach() for known in (False, True)]
    filters(out / "figures" / "filters.png", *weights)
    seeds = patches(open_images(data, side=3 * SIDE), min(int(settings["patches"]), 2_000), seed, size=SIDE)
    classes(out / "figures" / "classes.png", seeds, SIDE, seed)
    bars(out / "figures" / "accuracy.png", results["main"])
    if "studies" in results:
        trends(out / "figures" / "studies.png", results["studies"])
    if results.get("matching"):
        means = {PAIRS[where]: mean_average_precision(rows) for where, rows in results["matching"].items()}
        layer = best_layer(results["matching"]["made"])
        nets = [f"{model} {layer}" for model in ("untrained", "exemplar", "exemplar on blur")]
        matches(out / "figures" / "matching.png", means, ["sift", "rgb", *nets])


def page(results: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], budget: str) -> str:
    """What was found, as a page."""
    shown = [[c["what"], f"{c['value']:.3f}", c["bar"], "yes" if c["ok"] else "**no**"] for c in checks]
    parts = [
        "# Exemplar-CNN, reproduced",
        table(["claim", "found", "bar", "met"], shown),
        "## Accuracy\n\nSVMs on the maxima of all layers' maps; mean ± deviation over draws, where there are several. "
        "The paper's figures are of its full scale, on the official sets; those of the small net are from memory.\n\n"
        + _accuracies(results["main"])
        + "\n\n![](figures/accuracy.png)",
    ]
    for name, title in STUDIES.items():
        if name in results.get("studies", {}):
            parts.append(f"## {title}\n\n" + _study(results["studies"][name]))
    if "studies" in results:
        parts.append("![](figures/studies.png)")
        parts.append("## Invariance falls with training, and not for what was left out\n\n" + _two_by_two(results))
    if results.get("matching"):
        parts.append(_matched(results["matching"]))
    parts.append("## First filters, untrained and trained\n\n![](figures/filters.png)")
    parts.append("## Seeds and their transforms\n\n![](figures/classes.png)")
    parts.append("## Where this differs from the paper\n\n" + "\n".join(f"- {line}" for line in DIFFERENCES[budget]))
    return "\n\n".join(parts) + "\n"


STUDIES = {
    "training": "Before and after training",
    "classes": "The number of classes",
    "versions": "Samples of each class",
    "without": "One group of transformations left out",
    "source": "The source of the patches",
    "blur": "Training on blur",
    "merged": "Seeds merged that features cannot tell apart",
}


def _accuracies(main: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    rows = []
    for column, models in main.items():
        for model, figures in models.items():
            spread = f" ± {100 * figures['spread']:.1f}" if figures["spread"] else ""
            paper = PAPER.get((model, column))
            mine = f"{100 * figures['accuracy']:.1f}{spread}"
            rows.append([column, model, mine, f"{paper:.1f}" if paper else "", f"{figures['labels']:,}"])
            if "svm" in figures:
                more = f"{100 * figures['svm']:.1f}"
                rows.append([column, f"{model}, an SVM on its maps", more, "", f"{figures['labels']:,}"])
    return table(["test", "features", "accuracy, %", "paper, %", "labels"], rows)


def _study(runs: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            name,
            f"{100 * run['accuracy']:.1f} ± {100 * run['spread']:.1f}",
            f"{100 * run['error']:.0f}" if "error" in run else "",
        ]
        for name, run in runs.items()
    ]
    return table(["", "CIFAR-10(400), %", "error on the last batch's transforms, %"], rows)


def _matched(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    layer = best_layer(found["made"])
    parts = [f"## Matching\n\n`{layer}` does best on the made pairs and stands for the net in the comparisons."]
    for where, rows in found.items():
        means = mean_average_precision(rows)
        changes = list(means["sift"])
        shown = [[name, *(f"{row[change]:.3f}" for change in changes)] for name, row in means.items()]
        parts.append(f"### Mean average precision on {PAIRS[where]}\n\n" + table(["descriptor", *changes], shown))
    every = [*found["oxford"], *found["made"]]
    pairs = [(f"exemplar {layer}", "rgb"), (f"exemplar {layer}", f"untrained {layer}"), (f"exemplar {layer}", "sift")]
    pairs.append((f"exemplar on blur {layer}", f"exemplar {layer}"))
    compared = {f"{mine} less {other}": differences(every, mine, other) for mine, other in pairs}
    changes = list(next(iter(compared.values())))
    shown = [
        [name, *(f"{row[c]['mean']:+.3f} ({row[c]['low']:+.3f} to {row[c]['high']:+.3f})" for c in changes)]
        for name, row in compared.items()
    ]
    text = "### Differences on both together, with 95 % intervals\n\nScenes are redrawn, then pairs within each.\n\n"
    parts.append(text + table(["", *changes], shown))
    return "\n\n".join([*parts, "![](figures/matching.png)"])


def _two_by_two(results: Mapping[str, Any]) -> str:
    """Of each transformation: the net before training, and after it with the transformation and without."""
    without, before = results["studies"]["without"], results["studies"]["training"]["before"]
    parts = []
    for curve, group in INVARIANCES.items():
        key = f"moves_{curve}"
        ways = {"trained on": without["nothing"], "left out": without[group]}
        rows = [
            [name, f"{before[key]:.3f}", f"{after[key]:.3f}", f"{after[key] / before[key] - 1:+.0%}"]
            for name, after in ways.items()
        ]
        parts.append(table([f"moved by {curve}", "before training", "after", "change"], rows))
    return "\n\n".join(parts)
