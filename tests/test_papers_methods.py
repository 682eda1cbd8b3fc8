"""The comparison of methods: it goes on where it stopped, and its page says what its lines say."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likewise.errors import DataError, TrainingError, UsageError
from likewise.images import open_images
from likewise.methods import DEFAULTS, METHODS, default, reads_labels
from likewise.papers import methods
from likewise.papers.methods import BATCH, Table, margin, page, proofs, read
from likewise.verbs.reproduce import reproduce
from likewise.verbs.settings import make_plan

SMALL = Table("digits", 8, 2 * BATCH, {"encoder": "convnet", "width": 8}, 300)


@pytest.fixture(autouse=True)
def two_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probes choose between two values, not nine: what is looked at here is not their figures."""
    monkeypatch.setattr(sys.modules["likewise.evaluation.linear"], "L2", (0.1, 0.01))


FIGURES = {"knn": 0.5, "few_label": 0.4, "labels": 100, "rankme": 9.0, "collapsed": False}


def line(method: str, linear: float, **more: Any) -> dict[str, Any]:
    return {"table": "mnist-quick", "method": method, "seed": 0, "linear": linear, "test": 10_000, **FIGURES, **more}


def test_runs_are_made_once_and_written_as_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "TABLES", {"tiny-quick": SMALL})
    out = tmp_path / "methods"
    options = {"only": "pixels, untrained,supervised, dcl"}
    result = reproduce("methods", out, options=options)
    lines = read(out)
    assert [found["method"] for found in lines] == ["pixels", "untrained", "supervised", "dcl"]
    assert all(0 < found[key] < 1 for found in lines for key in ("knn", "linear", "few_label"))
    assert lines[3]["seen"] == 2 * BATCH
    assert lines[3]["processor_seconds"] > 0
    assert [check["id"] for check in result["checks"]] == ["tiny-quick/dcl"]
    assert not (out / "runs").exists() or not list((out / "runs").iterdir())

    def never(*arguments: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(methods, "one", never)
    page_of_then = (out / "README.md").read_text()
    (out / "README.md").write_text("of other code")
    (out / "asked.json").unlink()  # as in folders that were begun before there was one
    reproduce("methods", out, resume=True, options=options)
    assert (out / "README.md").read_text() == page_of_then
    with pytest.raises(AssertionError, match="made again"):
        reproduce("methods", out, resume=True, options={"only": "simclr"})
    assert read(out) == lines
    text = (out / "README.md").read_text()
    assert "Run and not proven" in text
    assert "digits at 8 pixels" in text


def test_the_table_for_a_gpu_at_small_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own settings but for the images, the batch and the width: trained in part, followed by k-NN, resumed."""
    full = methods.TABLES["cifar10-resnet18"]
    settings = {**full.settings, "width": 8, "device": "cpu", "knn_epochs": (0.05, 1.0)}
    small = full._replace(data="digits", size=8, seen=3 * 64, settings=settings, n_probed=300, batch=64)
    monkeypatch.setattr(methods, "TABLES", {"cifar10-resnet18": small})
    monkeypatch.setitem(methods.VIEWS, "digits", methods.VIEWS["cifar10"])
    reproduce("methods", tmp_path, options={"table": "cifar10-resnet18", "only": "untrained,simclr", "seeds": 1})
    untrained, found = read(tmp_path)
    assert [epoch for epoch, _ in found["curve"]] == [pytest.approx(1 / 20, abs=0.05), pytest.approx(3 / 20, abs=0.05)]
    assert all(0 < accuracy < 1 for _, accuracy in found["curve"])
    assert found["seen"] == 192
    assert 0 < found["knn_200"] < 1
    assert "curve" not in untrained
    assert "in batches of 64" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", list(methods.TABLES))
def test_every_method_takes_its_tables_settings(name: str) -> None:
    table = methods.TABLES[name]
    for method in (method for method in METHODS if not table.lacks(method)):
        views = methods.VIEWS[table.data].get(METHODS[method].default_views, {})
        plan = make_plan({"method": method, "steps": table.seen // table.batch, **table.settings, **views}, table.size)
        assert plan.flat()["encoder"] == table.settings["encoder"]


def test_a_margin_is_in_standard_errors_of_the_difference() -> None:
    """0.52 against 0.50 on 10,000 images: 0.02 / sqrt(0.2496 / 10,000 + 0.25 / 10,000) = 2.83."""
    assert margin([line("a", 0.52)], [line("untrained", 0.5)]) == pytest.approx(0.02 / math.sqrt(0.4996 / 10_000))
    others = [line("untrained", 0.5), line("untrained", 0.6, seed=1)]
    assert margin([line("a", 0.52)], others) == margin([line("a", 0.52)], others[:1])  # each with its own seed
    assert margin([line("a", 0.52, seed=1)], others) < 0
    assert margin([line("a", 1.0)], [line("untrained", 1.0)]) == 0
    found = proofs([line("untrained", 0.5), line("simclr", 0.52), line("byol", 0.53), line("supervised", 0.9)])
    assert [(check["id"], check["ok"]) for check in found] == [
        ("mnist-quick/simclr", False),
        ("mnist-quick/byol", True),
    ]


def test_the_page_lists_what_is_proven_and_what_is_not() -> None:
    lines = [line("untrained", 0.5), line("simclr", 0.51), line("byol", 0.6), line("byol", 0.62, seed=1)]
    lines += [{"table": "mnist-quick", "method": "moco-v2", "seed": 0, "failed": "the representation collapsed"}]
    text = page(lines)
    assert "tested on 10,000." in text
    assert page(lines[::-1]).count("tested on 10,000.") == 1  # a run that failed says nothing of it
    assert "Proven on at least one table: byol." in text
    assert "Run and not proven: moco-v2, simclr." in text
    assert "| byol | 0.500 | 0.610 |" in text
    assert "| moco-v2 | failed |" in text
    assert "- mnist-quick: simclr, 0.510; of 2 without labels ahead of it: byol 0.610." in text
    assert text.index("| byol") < text.index("| simclr") < text.index("| untrained")


def test_a_collapsed_run_is_a_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "TABLES", {"tiny-quick": SMALL})
    made = METHODS["simclr"]
    monkeypatch.setattr(made, "after_step", lambda self, progress: [p.data.zero_() for p in self.encoder.parameters()])
    reproduce("methods", tmp_path / "out", options={"only": "simclr"})
    (found,) = read(tmp_path / "out")
    assert "collapsed" in found["failed"]
    assert found["failed"].endswith("The run is kept in runs/tiny-quick-simclr-0")  # by no path of this machine


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"only": "simclrr"}, "did you mean 'simclr'"),
        ({"table": "nothing"}, "table 'nothing' is unknown"),
        ({"tabel": "x"}, "--set tabel: methods takes table, only, seeds"),
        ({"seeds": "many"}, "seeds"),
        ({"seeds": 0}, "--set seeds=0: expected at least 1"),
        ({"device": "abacus"}, "device='abacus': cannot be used here"),
        (
            {"only": "mae, simclr", "table": "mnist-quick"},
            "--set only=mae: needs a ViT encoder, which mnist-quick lacks; tables: mnist-vit-quick, cifar10-vit$",
        ),
        (
            {"only": "colourisation", "table": "mnist-quick"},
            "--set only=colourisation: needs images in colour, which mnist-quick lacks; tables: cifar10-quick, ",
        ),
    ],
)
def test_wrong_options_are_one_clear_line(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        reproduce("methods", tmp_path / "out", options=options)
    assert not any((tmp_path / "out").glob("*.json*"))


def test_a_line_that_was_cut_short_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "TABLES", {"tiny-quick": SMALL})
    monkeypatch.setattr(methods, "one", lambda out, name, method, *_: {"linear": 0.5, "test": 9, **FIGURES})
    options = {"only": "pixels,untrained"}
    reproduce("methods", tmp_path / "out", options=options)
    log = tmp_path / "out" / "runs.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-30])
    reproduce("methods", tmp_path / "out", options=options, resume=True)
    assert log.read_bytes() == whole
    reproduce("methods", tmp_path / "out", options=options, resume=True, seed=1, budget="full")  # more, not other lines
    assert len(read(tmp_path / "out")) == 2 * 4
    log.write_bytes(whole[:9] + b"\n" + whole)
    with pytest.raises(DataError, match=r"runs.jsonl: line 1 is not valid JSON"):
        read(tmp_path / "out")


def test_a_run_that_was_gone_on_with_has_no_speed() -> None:
    once = {"seen": 1_000, "cpu_seconds": 10.0, "resumed_at": 0}
    lines = [line("simclr", 0.5, **once), line("byol", 0.6, **{**once, "resumed_at": 3, "cpu_seconds": 1.0})]
    assert [row.split(" | ")[-3:] for row in methods.rows(lines).splitlines()[2:]] == [
        ["", "", "1 |"],
        ["100", "0.2", "1 |"],
    ]
    both = [lines[0], {**lines[1], "method": "simclr", "seed": 1}]
    assert "| 100 | 0.2 | 2 |" in methods.rows(both)


def test_the_committed_page_is_that_of_the_committed_lines() -> None:
    for name in ("methods-cpu", "methods-gpu"):
        out = Path(__file__).parents[1] / "docs/results" / name
        assert (out / "README.md").read_text() == page(read(out))


def test_every_default_follows_from_the_table_that_it_names() -> None:
    """Over the seeds there, nothing without labels is ahead of it by more than one standard error, and it needs
    nothing special; from fewer images than it is for, another is taken."""
    for begins, n, name, table in DEFAULTS:
        folder, where = table.split(", ")
        setting = methods.TABLES[where]
        assert setting.settings["encoder"].startswith(begins)
        assert setting.seen >= n
        assert default(setting.settings["encoder"], setting.seen) == (name, table)
        assert not METHODS[name].needs
        found = read(Path(__file__).parents[1] / "docs/results" / folder)
        lines = [line for line in found if line["table"] == where]
        own = [line for line in lines if line["method"] == name]
        for other in {line["method"] for line in lines} & set(METHODS):
            runs = [line for line in lines if line["method"] == other and "linear" in line]
            if not reads_labels(METHODS[other]):
                assert margin(runs, own) < 1, (table, other)
    assert (
        default("vit:Net", 0) == default("resnets:Net", 10**9) == default(None, 0)
    )  # another's, whatever it is called
    assert default("resnet18", 999_999)[0] == default("convnet", 10**9)[0] != default("resnet18", 10**6)[0]


def test_a_little_less_than_three_standard_errors_is_no_proof() -> None:
    (found,) = proofs([line("untrained", 0.5), line("simclr", 0.5209)])
    assert 2.95 < found["value"] < 3
    assert not found["ok"]


@pytest.mark.parametrize(("table", "asked", "device"), [("t", "", "cpu"), ("g", "", "there"), ("t", "there", "there")])
def test_a_run_is_made_where_it_is_asked_for(table: str, asked: str, device: str, tmp_path: Path, monkeypatch) -> None:
    """On the CPU, or the table's own device, or the one that is asked for; in float32 unless the table says more."""
    seen: list[Any] = []

    def evaluate(*_: Any, device: str, **__: Any) -> Any:
        return {"protocols": {name: {**FIGURES, "accuracy": 0.5} for name in methods.PROTOCOLS}}, seen.append(device)

    def pretrain(images: Any, *, out: Path, **settings: Any) -> dict[str, Any]:
        out.mkdir(parents=True)
        (out / "status.json").write_text('{"processor_seconds": 9.0}')
        seen.extend((settings["device"], settings["precision"]))
        return dict.fromkeys(("steps", "seconds", "images_per_second", "resumed_at", "verdict"), 1)

    monkeypatch.setattr(methods, "evaluate", lambda *a, **k: evaluate(*a, **k)[0])
    monkeypatch.setattr(methods, "pretrain", pretrain)
    monkeypatch.setattr(methods, "usable_device", lambda name: {"auto": "there"}.get(name, name))
    settings = {"encoder": "convnet", "width": 8}
    on_gpu = {**settings, "device": "auto", "precision": "auto"}
    tables = {"t": methods.Table("digits", 8, 512, settings), "g": methods.Table("digits", 8, 512, on_gpu)}
    monkeypatch.setattr(methods, "TABLES", tables)
    reproduce(
        "methods", tmp_path / "out", options={"table": table, "only": "simclr", **({"device": asked} if asked else {})}
    )
    (found,) = read(tmp_path / "out")
    assert seen == [device, "auto" if table == "g" else "fp32", device]
    assert found.get("device") == (None if device == "cpu" else device)
    speed, minutes, seeds = methods.rows([found]).splitlines()[2].split(" | ")[-3:]
    assert bool(speed) == bool(minutes) == (device == "cpu")  # a GPU's time is no processor's
    assert seeds == ("1 |" if device == "cpu" else "1 (1) |")


@pytest.mark.parametrize("method", ["simclr", "byol", "supervised"])
def test_a_row_is_trained_as_its_table_says(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def pretrain(images, **settings):
        asked.append((images, settings))
        raise TrainingError("enough")

    monkeypatch.setattr(methods, "pretrain", pretrain)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    images = open_images(pixels, labels=np.arange(8) % 2)
    assert methods.one(tmp_path, "cifar10-convnet", method, 3, images, images)["failed"] == "enough"
    ((seen, settings),) = asked
    assert settings["seed"] == 3
    assert settings["steps"] == 500_000 // 256
    assert (seen.labels is None) == (method != "supervised")
    if method != "supervised":
        assert (settings["views"], settings["blur"], settings["min_scale"]) == ("strong", 0.0, 0.2)


def test_probes_learn_from_so_many_and_untrained_weights_are_of_the_seed(tmp_path: Path, monkeypatch) -> None:
    seen: list[Any] = []

    def evaluate(encoder, train, **_):
        seen.append((len(train), next(encoder.parameters()).detach().clone()))
        raise KeyboardInterrupt

    monkeypatch.setattr(methods, "evaluate", evaluate)
    monkeypatch.setitem(methods.TABLES, "t", methods.Table("digits", 8, 256, {"encoder": "convnet", "width": 8}, 5))
    images = open_images(np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8), labels=np.arange(9) % 2)
    for seed in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            methods.one(tmp_path, "t", "untrained", seed, images, images)
    assert [n for n, _ in seen] == [5, 5]
    assert not seen[0][1].equal(seen[1][1])


def test_a_method_that_failed_once_is_not_proven() -> None:
    line = {"table": "mnist-quick", "seed": 0, "test": 10_000}
    lines = [{**line, "method": "untrained", "linear": 0.5}, {**line, "method": "simclr", "linear": 0.6}]
    assert methods.proofs([*lines, {**line, "method": "simclr", "seed": 1, "failed": "collapsed"}]) == []
