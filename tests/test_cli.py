"""The command line as people use it: answers, one-line errors, exit codes."""

import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import likewise
from likewise.cli import app
from likewise.coresets import SELECTORS
from likewise.embedding import embed
from likewise.encoders import ENCODERS, External, Pixels
from likewise.errors import DataError, UsageError
from likewise.evaluation import EVALUATIONS, PROBES
from likewise.images import DATASETS, open_images
from likewise.methods import METHODS
from likewise.relations import from_labels
from likewise.report.folders import read_folders
from likewise.report.verdict import said
from likewise.signals import stop_signals
from likewise.types import DataInfo
from likewise.verbs.evaluate import evaluate
from likewise.verbs.pretrain import _default_size, pretrain
from likewise.verbs.select import choose
from likewise.views import RECIPES

FAST = ["--steps", "4", "--batch-size", "8", "--size", "16", "--set", "width=8", "--set", "precision=fp32"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: object) -> dict[str, Any]:
    """The one JSON object on stdout."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refusal(code: int, *arguments: object) -> str:
    """The one line on stderr of a command that a user must mend."""
    result = run(*arguments, *(() if arguments[0] == "list" else ("--quiet",)))
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("likewise: ")
    return line


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of two kinds in nested folders."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for i in range(24):
        folder = root / ("dark" if i % 2 else "light") / f"of day {i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128, (20, 24, 3)) + (0 if i % 2 else 127)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"ä {i}.png")
    return root


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("cli") / "run"
    return out, answer("pretrain", photos, "--out", out, *FAST, "--quiet")


def test_pretrain_answers(trained: tuple[Path, dict[str, Any]]) -> None:
    out, result = trained
    keys = "run method encoder images steps epochs resumed_at seconds images_per_second data_share peak_memory_mb final"
    assert {*keys.split(), "health", "verdict"} <= set(result)
    assert (result["run"], result["images"], result["steps"], result["resumed_at"]) == (str(out), 24, 4, 0)
    files = {"recipe.toml", "resolved.toml", "environment.json", "metrics.jsonl", "model.safetensors", "config.json"}
    assert files | {"README.md", "pictures", "state", "scan.json", "status.json"} <= {f.name for f in out.iterdir()}


def test_the_pipeline(photos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = trained
    embedded = answer("embed", out, photos, "--out", tmp_path / "emb", "--labels", "folders", "--quiet")
    assert {"embeddings", "images", "dim", "seconds", "images_per_second"} <= set(embedded)
    assert embedded["images"] == 24
    judged = answer("evaluate", tmp_path / "emb", "--protocol", "knn,linear,few-label,health", "--quiet")
    assert set(judged["protocols"]) == {"knn", "linear", "few-label", "health"}
    assert {"version", "accuracy", "k"} <= set(judged["protocols"]["knn"])
    assert {"rankme", "uniformity", "collapsed"} <= set(judged["protocols"]["health"])
    chosen = answer("select", tmp_path / "emb", "--budget", "25%", "--out", tmp_path / "sel", "--quiet")
    assert {"selection", "method", "n", "budget", "seconds", "peak_memory_mb", "quality"} <= set(chosen)
    assert chosen["n"] == 6
    assert {"facility_location", "radius", "mean_distance", "duplicates"} <= set(chosen["quality"])
    shown = answer("report", out, tmp_path / "emb", tmp_path / "sel", "--out", tmp_path / "report.html", "--quiet")
    assert {"report", "images", "seconds", "bytes"} <= set(shown)
    assert (tmp_path / "report.html").stat().st_size == shown["bytes"]


def test_select_straight_from_a_run_copies_and_trains_on_what_it_chose(
    photos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    copies, chosen = tmp_path / "copies", tmp_path / "chosen"
    answer("select", trained[0], "--budget", "8", "--out", chosen, "--copy-to", copies, "--quiet")
    assert len(list(copies.iterdir())) == 8
    again = answer("pretrain", photos, "--subset", chosen, "--out", tmp_path / "run", *FAST, "--quiet")
    assert again["images"] == 8


def test_evaluate_a_model_beside_its_baselines(photos: Path, trained: tuple[Path, dict[str, Any]]) -> None:
    options = ("--labels", "folders", "--protocol", "knn", "--baselines", "--quiet")
    result = answer("evaluate", trained[0], photos, *options)
    assert set(result["baselines"]) == {"pixels", "untrained"}


def test_the_report_knows_the_baselines(photos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """By either way that they are measured: raw pixels and the untrained encoder are never called learned."""
    run_ = tmp_path / "run"
    shutil.copytree(trained[0], run_)
    knn = ("--protocol", "knn", "--quiet")
    judged = answer("evaluate", run_, photos, "--labels", "folders", "--baselines", *knn)
    answer("report", run_, "--out", tmp_path / "a.html", "--quiet")
    embeddings = []
    for name, model, options in (("a", run_, ()), ("b", run_, ("--untrained",)), ("c", "pixels", ("--size", "16"))):
        embeddings.append(tmp_path / name)
        answer("embed", model, photos, "--labels", "folders", "--out", embeddings[-1], *options, "--quiet")
        answer("evaluate", embeddings[-1], *knn)
    answer("report", *embeddings, "--out", tmp_path / "b.html", "--quiet")
    runs, _, _ = read_folders([run_])
    assert [line["kind"] for line in runs[0].evaluations[-3:]] == ["learned", "pixels", "untrained"]
    assert said(runs, []) == [("run", judged["verdict"])]  # and not that of a baseline
    hits = round(100 * judged["protocols"]["knn"]["accuracy"])
    for name in ("a.html", "b.html"):
        page = (tmp_path / name).read_text()
        assert f"names the right class for {hits} in a hundred images, against" in page, name
        assert "with raw pixels and" in page
        assert "with an untrained encoder" in page
        assert page.count("Learned (") == page.count("Learned (run)" if name == "a.html" else "Learned (a)") > 0


def test_what_likewise_made_among_the_images_is_none_of_them(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    out = tmp_path / "photos" / "run"
    first = answer("pretrain", tmp_path / "photos", "--out", out, *FAST, "--quiet")
    again = answer("pretrain", tmp_path / "photos", "--out", out, *FAST, "--resume", "--quiet")
    assert again["images"] == first["images"] == 24


def test_resuming_a_finished_run_keeps_its_figures(photos: Path, trained: tuple[Path, dict[str, Any]]) -> None:
    status = (trained[0] / "status.json").read_bytes()
    again = answer("pretrain", photos, "--out", trained[0], "--resume", "--quiet")
    assert again | {"peak_memory_mb": 0} == trained[1] | {"peak_memory_mb": 0}
    assert (trained[0] / "status.json").read_bytes() == status
    planned = answer("pretrain", photos, "--out", trained[0], "--resume", "--dry-run", "--quiet")
    assert planned["steps"] == 4
    for option, value in (("--precision", "bf16"), ("--init-from", trained[0])):
        assert "was begun" in refusal(2, "pretrain", photos, "--out", trained[0], "--resume", option, value)


def test_labels_that_a_method_learns_from_are_those_it_was_begun_with(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("pretrain", photos, "--out", out, *FAST, "--method", "supcon")
    answer(*command, "--labels", "folders", "--quiet")
    assert "labels" in refusal(2, *command, "--resume")
    images = likewise.open_images(photos)
    settings: dict[str, Any] = {"steps": 4, "batch_size": 8, "size": 16, "width": 8, "precision": "fp32"}
    weights = {
        labels: likewise.pretrain(images, out=tmp_path / f"{labels}", labels=labels, method="supcon", **settings)[
            "weights"
        ]
        for labels in (None, "folders")
    }
    assert weights[None] != weights["folders"]


def test_the_untrained_encoder_is_that_of_init_from(
    photos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    answer("pretrain", photos, "--out", tmp_path / "run", "--init-from", trained[0], *FAST, "--quiet")
    answer("embed", tmp_path / "run", photos, "--untrained", "--out", tmp_path / "a", "--quiet")
    answer("embed", trained[0], photos, "--out", tmp_path / "b", "--quiet")
    a, b = (np.load(tmp_path / name / "x.npy") for name in "ab")
    assert np.array_equal(a, b)


def test_ones_own_encoder_is_found_and_given_numbers(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Tiny(nn.Sequential):\n"
        "    def __init__(self, width=4, fast=True, hidden_dim=3):\n"
        "        assert fast is False\n"
        "        super().__init__(nn.Conv2d(3, width, 4, 4), nn.BatchNorm2d(width), nn.Flatten())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    own = [*FAST[:6], "--encoder", "mine:Tiny", "--set", "width=6", "--set", "fast=false"]
    answer("pretrain", photos, "--out", tmp_path / "run", *own, "--quiet")
    assert likewise.load(tmp_path / "run").dim == 6 * 16
    assert "one of that name too" in refusal(2, "pretrain", photos, "--out", "x", *own, "--set", "hidden_dim=8")
    line = refusal(2, "pretrain", photos, "--out", "x", *own, "--method", "swav")
    assert "features of these and 96 of 16 pixels" in line  # its local crops are smaller, and so is its output
    assert not (tmp_path / "x").exists()


def test_an_encoder_without_weights_is_not_trained(photos: Path, tmp_path: Path) -> None:
    assert "has no weights to learn" in refusal(2, "pretrain", photos, "--out", tmp_path / "x", "--encoder", "pixels")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "setting",
    [
        *("lr=-1", "lr=0", "warmup=3", "clip=-1", "momentum=2", "monitor_every=0", "optimizer=adamx", "schedule=foo"),
        *("save_every=foo", "width=0", "hidden_dim=0", "output_dim=-3", "temperature=0", "temperature=-1"),
        *("min_scale=2", "flip=5", "jitter=-1", "threads=-1"),
    ],
)
def test_no_number_without_a_meaning_is_taken(photos: Path, tmp_path: Path, setting: str) -> None:
    """And the folder is not made, so that the command can be given again, mended."""
    fast = FAST[:6]
    line = refusal(2, "pretrain", photos, "--out", tmp_path / "run", *fast, "--set", setting)
    assert setting.split("=")[0] in line
    assert "expected" in line
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_line(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "weights")

    monkeypatch.setattr("likewise.training.fit.save_state", full)
    assert (
        refusal(1, "pretrain", photos, "--out", tmp_path / "run", *FAST) == "likewise: weights: No space left on device"
    )


def test_the_users_own_folder_is_no_place_for_results(photos: Path, tmp_path: Path) -> None:
    """Pictures of ours would be images of theirs from then on."""
    before = sorted(photos.rglob("*"))
    line = refusal(2, "pretrain", photos, "--out", photos, "--overwrite", *FAST)
    assert "is no run that likewise made; nothing was changed" in line
    assert sorted(photos.rglob("*")) == before


def test_labels_that_cover_a_part_are_counted(photos: Path, tmp_path: Path) -> None:
    files = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.png"))
    rows = [f"{name},{i % 2}" for i, name in enumerate(files[:-5])]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows, "nowhere.png,1"]) + "\n")
    options = ("--labels", tmp_path / "labels.csv", "--protocol", "knn", "--size", "8")
    found = answer("evaluate", "pixels", photos, *options)
    assert sum(found["labelled"].values()) == found["train"] + found["test"] - 5
    run = CliRunner().invoke(app, ["evaluate", "pixels", str(photos), *map(str, options)])
    assert "1 of its rows name none" in run.stderr
    assert f"labelled: {found['labelled']['train']} of {found['train']} training images" in run.stdout


def test_an_occupied_folder_is_refused_before_images_are_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("")
    for module in ("pretrain", "evaluate"):
        monkeypatch.setattr(f"likewise.verbs.{module}.open_images", lambda *_, **__: pytest.fail("they were read"))
    for command in (["pretrain", str(photos)], ["embed", "pixels", str(photos)]):
        for option, says in (([], "the folder is not empty"), (["--overwrite"], "holds a.txt, but is no")):
            result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "mine"), *option])
            assert result.exit_code == 2
            assert says in result.stderr
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["a.txt"]


def test_a_run_that_read_labels_asks_for_other_images(photos: Path, tmp_path: Path) -> None:
    labels = ("--labels", "folders")
    answer("pretrain", photos, "--out", tmp_path / "run", "--method", "supervised", *labels, *FAST, "--quiet")
    command = ["evaluate", str(tmp_path / "run"), str(photos), *labels, "--protocol", "knn"]
    assert "learned from labels" in CliRunner().invoke(app, command).stderr
    assert "learned from labels" not in CliRunner().invoke(app, [*command, "--test", str(photos)]).stderr


@pytest.mark.parametrize("option", ["max-bad", "recipe", "dry_run"])
def test_an_option_is_no_setting(photos: Path, tmp_path: Path, option: str) -> None:
    line = refusal(2, "pretrain", photos, "--out", tmp_path / "run", *FAST[:6], "--set", f"{option}=1")
    assert f"is no setting but an option, --{option.replace('_', '-')}" in line


def test_an_encoder_that_was_an_object_says_how_to_load_it(photos: Path, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.BatchNorm2d(4))
    settings: dict[str, Any] = {"steps": 2, "batch_size": 8, "size": 16, "precision": "fp32"}
    likewise.pretrain(str(photos), out=tmp_path / "run", encoder=net, **settings)
    assert "likewise.load" not in (tmp_path / "run" / "README.md").read_text()
    line = refusal(2, "embed", tmp_path / "run", photos, "--out", tmp_path / "emb")
    assert "was an object" in line
    assert "External(module, images.info(size))" in line
    encoder = External(net, DataInfo(24, 3, 16))
    encoder.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))  # as it says
    assert likewise.embed(encoder, str(photos), size=16).x.shape == (24, 64)
    for wrong in (net, 5):
        with pytest.raises(UsageError, match=f"model: got {type(wrong).__name__}; expected a run"):
            likewise.embed(wrong, str(photos), size=16)
        with pytest.raises(UsageError, match="model: got"):
            likewise.evaluate(wrong, str(photos), size=16)
    with pytest.raises(UsageError, match="size: needed with an encoder object"):
        likewise.embed(encoder, str(photos))


def test_a_size_that_is_not_given_is_that_of_the_run(trained: tuple[Path, dict[str, Any]], photos: Path) -> None:
    found = [likewise.embed(trained[0], str(photos), size=size).x for size in (None, 16, 8)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_what_no_run_wrote_is_one_line(photos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path / "hub")
    (tmp_path / "hub" / "config.json").write_text('{"architectures": ["ViTModel"]}')
    assert "lacks encoder, so that likewise did not write it" in refusal(
        3, "embed", tmp_path / "hub", photos, "--out", tmp_path / "emb"
    )
    answer("embed", trained[0], photos, "--out", tmp_path / "emb", "--quiet")
    whole = {name: (tmp_path / "emb" / name).read_bytes() for name in ("x.npy", "meta.json")}
    for name, content in whole.items():
        (tmp_path / "emb" / name).write_bytes(content[:-20])
        for verb in (("select", tmp_path / "emb", "--out", tmp_path / "sel"), ("evaluate", tmp_path / "emb")):
            assert name in refusal(3, *verb)
        (tmp_path / "emb" / name).write_bytes(content)


def test_a_result_that_cannot_be_kept_is_told_all_the_same(
    photos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / "evaluation.jsonl").unlink(missing_ok=True)
    (tmp_path / "run" / "evaluation.jsonl").mkdir()
    told = run("evaluate", tmp_path / "run", photos, "--protocol", "health", "--json", "--quiet")
    assert json.loads(told.stdout)["protocols"]["health"]["images"] > 0
    assert told.exit_code == 1
    assert told.stderr.endswith("evaluation.jsonl: Is a directory\n")


def test_memory_that_is_not_there_is_one_line(photos: Path, tmp_path: Path) -> None:
    assert "out of memory" in refusal(
        1, "pretrain", photos, "--out", tmp_path / "run", *FAST[:6], "--set", "width=200000"
    )


def test_what_a_run_was_begun_with_cannot_be_taken_back(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer("pretrain", photos, "--out", out, *FAST, "--set", "clip=1.0", "--quiet")
    resumed = ("pretrain", photos, "--out", out, *FAST, "--resume")
    assert "clip=None: the run" in refusal(2, *resumed, "--set", "clip=none")
    assert answer(*resumed, "--quiet")["steps"] == 4
    relations = [from_labels(torch.arange(24) % n) for n in (2, 3)]
    settings: dict[str, Any] = {"method": "drlim", "steps": 2, "batch_size": 8, "size": 16, "precision": "fp32"}
    likewise.pretrain(str(photos), out=tmp_path / "drlim", relation=relations[0], **settings)
    again = partial(likewise.pretrain, str(photos), out=tmp_path / "drlim", resume=True)
    for other in (relations[1], None):
        with pytest.raises(UsageError, match="begun with other objects"):
            again(relation=other)
    assert again(relation=relations[0])["steps"] == 2
    settings["method"] = METHODS["simclr"]
    made = likewise.pretrain(str(photos), out=tmp_path / "x", **settings)
    assert made["method"] == "likewise.methods.simclr:SimCLR"
    assert likewise.pretrain(str(photos), out=tmp_path / "x", resume=True, **settings)["steps"] == 2


def test_resume_and_overwrite_are_not_asked_for_together(photos: Path, tmp_path: Path) -> None:
    assert "expected one of them" in refusal(
        2, "pretrain", photos, "--out", tmp_path / "run", *FAST, "--resume", "--overwrite"
    )


def test_select_from_a_run_on_patches(photos: Path, tmp_path: Path) -> None:
    run_ = tmp_path / "run"
    exemplar = ("--method", "exemplar", "--patches", "16", "--steps", "2", "--batch-size", "8", "--size", "8")
    answer("pretrain", photos, "--out", run_, *exemplar, "--set", "precision=fp32", "--quiet")
    assert answer("select", run_, "--budget", "6", "--out", tmp_path / "sel", "--quiet")["n"] == 6
    assert answer("pretrain", photos, "--out", run_, "--resume", "--quiet")["steps"] == 2


def test_svm_on_a_vit_takes_images_of_any_shape(photos: Path, tmp_path: Path) -> None:
    vit = ("--method", "mae", "--steps", "2", "--batch-size", "8", "--size", "16", "--set", "depth=1")
    answer("pretrain", photos, "--out", tmp_path / "run", *vit, "--quiet")
    found = answer("evaluate", tmp_path / "run", photos, "--labels", "folders", "--protocol", "svm", "--quiet")
    assert 0 <= found["protocols"]["svm"]["accuracy"] <= 1


def test_all_that_embed_see_the_same_pixels(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Images far larger than the encoder looks at: embedded, evaluated from its folder and straight from the run."""
    for name, n, seed in (("photos", 20, 0), ("test", 10, 1)):
        rng = np.random.default_rng(seed)
        for i in range(n):
            file = tmp_path / name / "ab"[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(file)
        answer(
            "embed", trained[0], tmp_path / name, "--out", tmp_path / f"{name}-emb", "--labels", "folders", "--quiet"
        )
    judge = ("--protocol", "knn,linear", "--test")
    by_folder = answer("evaluate", tmp_path / "photos-emb", *judge, tmp_path / "test-emb", "--quiet")
    by_run = answer(
        "evaluate", trained[0], tmp_path / "photos", "--labels", "folders", *judge, tmp_path / "test", "--quiet"
    )
    assert by_folder["protocols"] == by_run["protocols"]
    picks = {}
    for source, more in ((tmp_path / "photos-emb", ()), (trained[0], ("--data", tmp_path / "photos"))):
        answer("select", source, *more, "--budget", "6", "--out", tmp_path / f"sel-{len(more)}", "--quiet")
        picks[source] = (tmp_path / f"sel-{len(more)}" / "selection.csv").read_bytes()
    assert len(set(picks.values())) == 1


def test_evaluate_refuses_what_it_would_pass_over(
    photos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_, emb = trained[0], tmp_path / "emb"
    answer("embed", "pixels", photos, "--out", emb, "--labels", "folders", "--size", "8", "--quiet")
    assert "--baselines" in refusal(2, "evaluate", emb, "--protocol", "knn", "--baselines")
    assert "leave out --untrained" in refusal(2, "evaluate", run_, photos, "--baselines", "--untrained")
    assert "give --labels" in refusal(2, "evaluate", run_, photos, "--protocol", "knn")
    assert list(answer("evaluate", run_, photos, "--quiet")["protocols"]) == ["health"]
    for option in (("--untrained",), ("--size", "16"), ("--labels", "folders")):
        assert "are evaluated as they are" in refusal(2, "evaluate", emb, *option)
    assert "expected embeddings" in refusal(2, "evaluate", emb, "--test", photos)
    assert "expected images" in refusal(2, "evaluate", run_, photos, "--labels", "folders", "--test", emb)
    for verb in ("evaluate", "embed"):
        out = ("--out", tmp_path / "out") if verb == "embed" else ()
        for size in ("0", "-1", "3"):
            assert f"size={size}: expected at least 4" in refusal(2, verb, run_, photos, "--size", size, *out)
        assert "--untrained: pixels" in refusal(2, verb, "pixels", photos, "--untrained", *out)
    assert not (emb / "evaluation.jsonl").exists()
    table = likewise.Embeddings.load(emb)
    assert likewise.evaluate(table, test=table)["test"] == likewise.evaluate(emb, test=emb)["test"] == len(table)
    emb.rename(tmp_path / "pixels")  # a folder of that name is not what is meant
    monkeypatch.chdir(tmp_path)
    answer("evaluate", "pixels", photos, "--labels", "folders", "--protocol", "knn", "--quiet")
    assert not (tmp_path / "pixels" / "evaluation.jsonl").exists()


def test_no_images_are_refused(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 8, 8, 3), np.uint8))
    assert "none.npz" in refusal(3, "embed", trained[0], tmp_path / "none.npz", "--out", tmp_path / "emb")
    assert "holds no image" in refusal(3, "pretrain", tmp_path / "none.npz", "--out", tmp_path / "run", *FAST)
    assert not (tmp_path / "emb").exists()


def test_scan_answers(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for i, file in enumerate(sorted(photos.rglob("*.png"))[:3]):
        (tmp_path / "sub" / f"{i}.png").write_bytes(file.read_bytes())
    (tmp_path / "copy.png").write_bytes((tmp_path / "sub" / "0.png").read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"no image at all")
    result = answer("scan", tmp_path, "--quiet")
    assert result["images"] == 4
    assert [bad["path"] for bad in result["bad"]] == ["broken.jpg"]
    assert [sorted(group) for group in result["duplicates"]] == [["copy.png", "sub/0.png"]]
    (tmp_path / "new.HEIC").write_bytes(b"")
    assert "left out by their endings: 1 .heic" in run("scan", tmp_path).stdout
    trained = CliRunner().invoke(app, ["pretrain", str(tmp_path), "--out", str(tmp_path / "run"), "--max-bad=1", *FAST])
    assert "left out by their endings: 1 .heic" in trained.stderr
    assert json.loads((tmp_path / "run" / "scan.json").read_text())["others"] == {".heic": 1}


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("methods", METHODS),
        ("encoders", ENCODERS),
        ("selectors", SELECTORS),
        ("evaluations", {**EVALUATIONS, **PROBES}),
        ("datasets", DATASETS),
        ("views", RECIPES),
    ],
)
def test_list_answers(kind: str, table: dict[str, Any]) -> None:
    rows = answer("list", kind)[kind]
    assert [row["name"] for row in rows] == sorted(table)
    if kind == "methods":
        assert all({"name", "family", "year", "idea", "needs"} <= set(row) and row["year"] for row in rows)
    text = run("list", kind).stdout.splitlines()
    assert len(text) == len(rows) + 1


def test_verbs_have_the_options_that_do_something() -> None:
    """As ARCHITECTURE.md says."""
    everywhere = {"--json": (), "--quiet": ("list",), "--seed": ("embed", "report", "scan", "list")}
    everywhere["--device"] = ("report", "scan", "list", "reproduce", "demo")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        options = {option for parameter in command.params for option in parameter.opts}
        for option, without in everywhere.items():
            assert (option in options) != (name in without), f"{name} {option}"


def test_usage_errors_are_one_line_and_exit_2(
    photos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run_, out = trained[0], tmp_path / "out"
    assert "did you mean 'simclr'" in refusal(2, "pretrain", photos, "--out", out, "--method", "simclrr")
    assert "did you mean 'temperature'" in refusal(2, "pretrain", photos, "--out", out, "--set", "temprature=1")
    assert "MAE needs a ViT" in refusal(2, "pretrain", photos, "--out", out, "--method", "mae", "--encoder", "convnet")
    assert "labels" in refusal(2, "pretrain", photos, "--out", out, "--method", "supervised")
    assert "not empty" in refusal(2, "pretrain", photos, "--out", run_, *FAST)
    assert "device='tpu'" in refusal(2, "pretrain", photos, "--out", out, "--device", "tpu")
    assert "--set steps=2: steps is given twice" in refusal(
        2, "pretrain", photos, "--out", out, "--set", "steps=2", "--steps", "4"
    )
    assert "an option, --max-bad" in refusal(2, "pretrain", photos, "--out", out, "--set", "max_bad=1")
    for name in ("size", "threads", "seed"):
        assert f'{name}="abc"' in refusal(2, "pretrain", photos, "--out", out, "--set", f"{name}=abc")
    assert "--set lr: expected key=value" in refusal(2, "pretrain", photos, "--out", out, "--set", "lr")
    assert "no such file" in refusal(2, "pretrain", photos, "--out", out, "--recipe", tmp_path / "none.toml")
    (tmp_path / "ids.txt").write_text("12345678901234567890")
    assert "one id a line" in refusal(2, "pretrain", photos, "--out", out, "--subset", tmp_path / "ids.txt")
    assert "data: is empty" in refusal(2, "pretrain", "", "--out", out)
    (tmp_path / "weights.pth").write_bytes(b"")
    assert "safetensors" in refusal(2, "embed", tmp_path / "weights.pth", photos, "--out", out)
    assert "budget '200%'" in refusal(2, "select", run_, "--budget", "200%", "--out", out)
    assert "unknown" in refusal(2, "select", run_, "--method", "best", "--out", out)
    assert "unknown" in refusal(2, "evaluate", run_, photos, "--protocol", "magic")
    before = (run_ / "model.safetensors").read_bytes()
    assert "is a run that likewise made, no selection" in refusal(
        2, "select", run_, "--budget", "2", "--out", run_, "--overwrite"
    )
    assert (run_ / "model.safetensors").read_bytes() == before
    assert not out.exists()


def test_data_errors_are_one_line_and_exit_3(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refusal(3, "pretrain", tmp_path / "empty", "--out", tmp_path / "out")
    assert "nowhere" in refusal(3, "pretrain", tmp_path / "nowhere", "--out", tmp_path / "out")
    bad = tmp_path / "bad"
    bad.mkdir()
    for file in sorted(photos.rglob("*.png"))[:6]:
        (bad / file.name).write_bytes(file.read_bytes())
    (bad / "cut short.png").write_bytes(file.read_bytes()[:200])
    line = refusal(3, "pretrain", bad, "--out", tmp_path / "out")
    assert "cut short.png" in line
    assert "embed" not in line
    assert answer("pretrain", bad, "--out", tmp_path / "out", *FAST, "--max-bad", "20%", "--quiet")["images"] == 6
    assert "model" in refusal(3, "embed", tmp_path / "nothing", photos, "--out", tmp_path / "emb")
    assert "expected an embeddings folder" in refusal(3, "select", bad, "--out", tmp_path / "sel")


def test_divergence_exits_4(photos: Path, tmp_path: Path) -> None:
    line = refusal(4, "pretrain", photos, "--out", tmp_path / "run", *FAST, "--set", "temperature=1e-45")
    assert "loss term 'contrast' is nan on images" in line
    assert ".png" in line


def test_a_signal_exits_75_and_resumes(photos: Path, tmp_path: Path) -> None:
    slow = ["--steps", "100000", "--batch-size", "8", "--size", "16", "--set", "width=8", "--quiet"]
    command = [sys.executable, "-m", "likewise", "pretrain", str(photos), "--out", str(tmp_path / "run"), *slow]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not metrics.exists():
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "--resume" in errors.splitlines()[-1]


def test_same_images_same_weights_however_they_are_packed(photos: Path, tmp_path: Path) -> None:
    """A .zip read directly; the same images unpacked under odd names; the same with broken files among them."""
    files = sorted(photos.rglob("*.png"))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(photos))
    odd = tmp_path / "odd"
    for i, file in enumerate(reversed(files)):
        place = odd / f"{i % 5} % ü" / "a'b" / f"no. {i:02d}\n.PNG"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    hashes = {
        answer("pretrain", data, "--out", tmp_path / f"run of {data.stem}", *FAST, "--quiet")["weights"]
        for data in (tmp_path / "photos.zip", odd)
    }
    (odd / "broken.png").write_bytes(files[0].read_bytes()[:-40])
    (odd / "empty.jpg").write_bytes(b"")
    (odd / "text.gif").write_bytes(b"not a picture")
    options = ("--max-bad", "20%", "--quiet")
    hashes.add(answer("pretrain", odd, "--out", tmp_path / "broken", *FAST, *options)["weights"])
    assert len(hashes) == 1
    listed = json.loads((tmp_path / "broken" / "scan.json").read_text())
    assert {bad["path"] for bad in listed["bad"]} == {"broken.png", "empty.jpg", "text.gif"}


def test_a_name_may_be_any_bytes(photos: Path, tmp_path: Path) -> None:
    os.symlink(photos, tmp_path / "in\udcff")
    command = [sys.executable, "-m", "likewise", "pretrain", tmp_path / "in\udcff", "--out", tmp_path / "out\udcff"]
    ended = subprocess.run([*command, *FAST, "--quiet"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].endswith("out\\udcff")
    again = answer(*command[3:], *FAST, "--resume", "--quiet")
    assert again["steps"] == 4


@pytest.mark.data
def test_real_photographs_same_weights_however_they_are_packed(data: Path, tmp_path: Path) -> None:
    archive = data / "imagenette96" / "imagenette96.zip"
    options = ("--steps", "5", "--batch-size", "64", "--size", "32", "--set", "width=16", "--set", "monitor_every=9")
    direct = answer("pretrain", f"{archive}/val", "--out", tmp_path / "direct", *options, "--quiet")
    odd = tmp_path / "odd"
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.startswith("val/") and name.endswith(".jpg")]
        for i, name in enumerate(reversed(names)):
            place = odd / f"köln {i % 7}" / f"{i % 3}" / f"{i}.jpeg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(opened.read(name))
    (odd / "broken.jpg").write_bytes(place.read_bytes()[:1000])
    mixed = answer("pretrain", odd, "--out", tmp_path / "mixed", *options, "--quiet")
    assert direct["images"] == mixed["images"] == len(names)
    assert direct["weights"] == mixed["weights"]


@pytest.mark.slow
def test_demo_learns(tmp_path: Path) -> None:
    """The bar of the demo: k-NN of at least 0.85, and at least 0.30 above pixels and the untrained encoder."""
    command = [sys.executable, "-m", "likewise", "demo", "--out", str(tmp_path / "demo"), "--json", "--quiet"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # two threads wait for each other where another test has a core
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=alone).stdout)
    knn = result["knn"]
    assert knn["learned"] >= 0.85
    assert knn["learned"] - max(knn["pixels"], knn["untrained"]) >= 0.30
    quality = result["coreset"]
    assert quality["facility-location"]["facility_location"] > quality["random"]["facility_location"]
    assert quality["k-center"]["radius"] < quality["random"]["radius"]
    assert Path(result["report"]).stat().st_size > 100_000


@pytest.mark.parametrize(
    ("command", "place", "given", "arrives"),
    [
        ("evaluate pixels x", "likewise.verbs.evaluate.evaluate", "--seed 7", {"seed": 7}),
        (
            "select emb --out o",
            "likewise.verbs.select.choose",
            "--chosen c --target t --scores s --labels l --memory 1GB --seed 7 --link-to k --data d",
            {"chosen": Path("c"), "target": Path("t"), "scores": Path("s"), "labels": "l", "memory": "1GB", "seed": 7}
            | {"link_to": Path("k"), "data": "d"},
        ),
        (
            "pretrain x --out o",
            "likewise.verbs.pretrain.pretrain",
            "--threads 5 --save-every 9 --recipe r --minutes 3",
            {"threads": 5, "save_every": "9", "recipe_file": Path("r"), "minutes": 3.0},
        ),
        ("scan x", "likewise.verbs.scan.scan", "--threads 5 --memory 1GB", {"threads": 5, "memory": "1GB"}),
        ("report x --out o", "likewise.report.write_report", "--title T", {"title": "T"}),
        ("match m p", "likewise.verbs.match.match", "--seed 7 --make-from d", {"seed": 7, "make_from": "d"}),
        ("demo", "likewise.verbs.demo.demo", "--seed 7", {"seed": 7}),
    ],
)
def test_options_arrive(
    command: str, place: str, given: str, arrives: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = place.rsplit(".", 1)
    asked: dict[str, Any] = {}

    @wraps(getattr(importlib.import_module(module), name))  # the command line reads its signature
    def verb(*_: Any, **options: Any) -> dict[str, Any]:
        asked.update(options)
        return {}

    monkeypatch.setattr(place, verb)
    CliRunner().invoke(app, [*command.split(), *given.split(), "--json"])
    assert {name: asked.get(name) for name in arrives} == arrives


def test_what_a_verb_has_no_use_for_is_checked_all_the_same(tmp_path: Path) -> None:
    answer("embed", "pixels", "digits", "--out", tmp_path / "emb", "--quiet")
    assert "max_bad=foo: expected a share" in refusal(2, "evaluate", tmp_path / "emb", "--max-bad", "foo")
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("L", (9, 9), i).save(tmp_path / "photos" / f"{i}.png")
    refused = refusal(3, "evaluate", "pixels", tmp_path / "photos", "--labels", "nope.csv")
    assert "labels=nope.csv: cannot be read as a .csv" in refused


def test_a_second_signal_stops_at_once() -> None:
    with stop_signals() as caught:
        signal.raise_signal(signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_too_many_broken_files_are_refused_by_embed_too(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    asked = ("embed", "pixels", tmp_path / "photos", "--out", tmp_path / "e")
    assert "max_bad=0.1 allows" in refusal(3, *asked, "--max-bad", "10%")
    assert run(*asked, "--max-bad", "20%").exit_code == 0


@pytest.mark.parametrize(("side", "size"), [(5, 8), (30, 28), (64, 64), (500, 96)])
def test_the_size_unless_asked_is_that_of_the_images(side: int, size: int) -> None:
    assert _default_size(likewise.open_images(np.zeros((3, side, side), np.uint8))) == size


def pictures(folder: Path, n: int = 12) -> Path:
    folder.mkdir()
    dice = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(dice.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def labelled(path: Path, names: str) -> Path:
    path.write_text("path,label\n" + "".join(f"{i:02d}.png,{name}\n" for i, name in enumerate(names) if name != "."))
    return path


DRLIM: dict[str, Any] = {"method": "drlim", "encoder": "convnet", "width": 8, "size": 8, "batch_size": 4, "steps": 2}


def test_a_relation_in_words_is_what_it_was_when_the_run_was_begun(tmp_path: Path) -> None:
    photos, pairs = pictures(tmp_path / "photos"), tmp_path / "pairs.csv"
    pairs.write_text("id_a,id_b,similar\n0,1,1\n2,3,1\n")
    asked = {**DRLIM, "relation": str(pairs)}
    pretrain(photos, out=tmp_path / "file", **asked)
    assert pretrain(photos, out=tmp_path / "file", resume=True, **asked)["steps"] == 2
    pairs.write_text("id_a,id_b,similar\n5,6,1\n7,8,1\n0,9,1\n")
    with pytest.raises(UsageError, match="relation"):
        pretrain(photos, out=tmp_path / "file", resume=True, **asked)
    first, second = (labelled(tmp_path / f"{names}.csv", names) for names in ("abababababab", "aaaaaabbbbbb"))
    asked = {**DRLIM, "relation": "labels"}
    pretrain(photos, out=tmp_path / "labels", labels=first, **asked)
    with pytest.raises(UsageError, match="relation"):
        pretrain(photos, out=tmp_path / "labels", labels=second, resume=True, **asked)


def test_a_relation_by_labels_asks_for_other_images_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, labels = pictures(tmp_path / "photos"), labelled(tmp_path / "labels.csv", "abababababab")
    pretrain(photos, out=tmp_path / "run", labels=labels, **DRLIM, relation="labels")
    monkeypatch.setattr("likewise.progress.QUIET", False)
    evaluate(str(tmp_path / "run"), str(photos), labels=str(labels), protocols="knn")
    assert "learned from labels" in capsys.readouterr().err


def test_an_evaluation_says_by_which_labels(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 24)
    files = [labelled(tmp_path / f"{i}.csv", names) for i, names in enumerate(("ab" * 12, "aabb" * 6, "cd" * 12))]
    hashes = [evaluate("pixels", photos, labels=file, protocols="knn")["labels_hash"] for file in (*files, files[0])]
    assert hashes[0] == hashes[3]
    assert len({one["train"] for one in hashes}) == 3
    assert evaluate("pixels", photos, protocols="health")["labels_hash"] == {"train": "", "test": ""}


def test_a_damaged_recipe_is_one_line(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos")
    settings = {"encoder": "convnet", "width": 8, "size": 8, "batch_size": 4, "steps": 1}
    pretrain(photos, out=tmp_path / "run", **settings)
    with open(tmp_path / "run" / "resolved.toml", "a") as file:
        file.write("x = \n")
    for doing in (
        lambda: pretrain(photos, out=tmp_path / "run", resume=True),
        lambda: evaluate(str(tmp_path / "run"), str(photos), protocols="health"),
        lambda: choose(tmp_path / "run", tmp_path / "sel", budget=2),
    ):
        with pytest.raises(DataError, match=r"resolved\.toml: is not valid TOML"):
            doing()


def test_embeddings_stay_until_there_are_new_ones(tmp_path: Path) -> None:
    images = open_images(np.random.default_rng(0).integers(0, 255, (12, 3, 8, 8), dtype=np.uint8))
    encoder = Pixels(DataInfo(12, 3, 8))
    embed(encoder, images, size=8, out=tmp_path / "emb")
    (tmp_path / "emb" / "evaluation.jsonl").write_text("{}\n")
    encoder.forward = lambda x: x.flatten(1) * np.nan  # type: ignore[method-assign]
    with pytest.raises(DataError, match="not finite"):
        embed(encoder, images, size=8, out=tmp_path / "emb", overwrite=True)
    assert {file.name for file in (tmp_path / "emb").iterdir()} >= {"x.npy", "meta.json", "evaluation.jsonl"}
