"""The verb select on real folders, archives, lists and arrays; and what pretrain and the report make of a selection."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import likewise
from likewise.cli import app
from likewise.encoders import build
from likewise.errors import DataError, UsageError
from likewise.images import open_images
from likewise.report.folders import read_folders
from likewise.report.sections import Thumbs, coreset, source_of
from likewise.types import Selection
from likewise.verbs.ids import read_ids
from likewise.verbs.originals import Originals
from likewise.verbs.select import choose


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Thirty pictures in two folders, the same in a .zip, and a list of some."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for i in range(30):
        file = root / ("even" if i % 2 == 0 else "odd") / f"{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(file)
    (root / "even" / "broken.png").write_bytes(b"no picture")
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
    listed = sorted(file for file in root.rglob("*.png") if file.name != "broken.png")[5:20]
    root.with_suffix(".txt").write_text("\n".join(str(file) for file in listed))
    return root


def embedded(data, out):
    run = CliRunner().invoke(app, ["embed", "pixels", str(data), "--out", str(out), "--quiet", "--max-bad", "10%"])
    assert run.exit_code == 0, run.output
    return out


def picked(folder):
    with open(folder / "selection.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["folder", "zip", "list"])
def test_copies_are_the_very_files_in_pick_order(photos, tmp_path, kind):
    data = {"folder": photos, "zip": photos.with_suffix(".zip"), "list": photos.with_suffix(".txt")}[kind]
    emb = embedded(data, tmp_path / "emb")
    choose(emb, tmp_path / "sel", budget=5, copy_to=tmp_path / "copies")
    rows = picked(tmp_path / "sel")
    copies = sorted((tmp_path / "copies").iterdir())
    assert [file.name for file in copies] == [f"{r}-{Path(row['path']).name}" for r, row in enumerate(rows)]
    for file, row in zip(copies, rows, strict=True):
        original = Path(row["path"]) if kind == "list" else photos / row["path"]
        assert file.read_bytes() == original.read_bytes()
    assert {f"{int(row['id']):06d}.webp" for row in rows} == {f.name for f in (tmp_path / "sel/thumbs").iterdir()}


def test_links_need_files_of_their_own(photos, tmp_path):
    for kind, data in (("folder", photos), ("list", photos.with_suffix(".txt"))):
        emb = embedded(data, tmp_path / kind)
        choose(emb, tmp_path / f"sel-{kind}", budget=3, link_to=tmp_path / f"links-{kind}")
        links = sorted((tmp_path / f"links-{kind}").iterdir())
        assert [link.resolve().name for link in links] == [
            Path(row["path"]).name for row in picked(tmp_path / f"sel-{kind}")
        ]
    emb = embedded(photos.with_suffix(".zip"), tmp_path / "zip")
    with pytest.raises(UsageError, match="are no files of their own"):
        choose(emb, tmp_path / "sel", budget=3, link_to=tmp_path / "links")
    assert not (tmp_path / "sel").exists()


def test_pixels_in_memory_are_copied_as_png(tmp_path):
    emb = embedded("digits", tmp_path / "emb")
    choose(emb, tmp_path / "sel", budget=2, copy_to=tmp_path / "copies")
    digits = likewise.open_images("digits")
    for file, row in zip(sorted((tmp_path / "copies").iterdir()), picked(tmp_path / "sel"), strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(digits.image(int(row["id"]))))


def test_a_plain_array_and_its_images(photos, tmp_path):
    x = np.random.default_rng(1).normal(size=(15, 4))
    np.save(tmp_path / "x.npy", x)
    choose(tmp_path / "x.npy", tmp_path / "sel", budget=4)
    assert [row["path"] for row in picked(tmp_path / "sel")] == [""] * 4
    data = str(photos.with_suffix(".txt"))
    choose(tmp_path / "x.npy", tmp_path / "named", budget=4, data=data, copy_to=tmp_path / "copies")
    assert all(Path(row["path"]).is_file() for row in picked(tmp_path / "named"))
    with pytest.raises(UsageError, match=r"an array has no images; pass --data"):
        choose(tmp_path / "x.npy", tmp_path / "third", budget=4, copy_to=tmp_path / "more")
    with pytest.raises(DataError, match=r"has 31 images, and .* 15 rows"):
        choose(tmp_path / "x.npy", tmp_path / "third", budget=4, data=str(photos))


def test_scores_labels_and_targets_come_from_files(photos, tmp_path):
    emb = embedded(photos, tmp_path / "emb")
    paths = likewise.Embeddings.load(emb).paths
    scores = np.arange(30)[::-1]
    np.save(tmp_path / "scores.npy", scores)
    lines = [f"{path},{score}" for path, score in zip(paths, scores, strict=True)]
    (tmp_path / "scores.csv").write_text("path,score\n" + "\n".join(lines[::-1]) + "\n")
    for name in ("scores.npy", "scores.csv"):
        choose(emb, tmp_path / f"by-{name}", method="ucs", budget=3, scores=tmp_path / name)
        assert [int(row["id"]) for row in picked(tmp_path / f"by-{name}")] == [0, 1, 2]
    choose(emb, tmp_path / "balanced", method="class-balanced", budget=6, labels="folders")
    assert sorted(row["path"].split("/")[0] for row in picked(tmp_path / "balanced")) == ["even"] * 3 + ["odd"] * 3
    target = embedded(photos.with_suffix(".txt"), tmp_path / "target")
    choose(emb, tmp_path / "open", method="top-k", budget=15, target=target)
    listed = {Path(line).name for line in photos.with_suffix(".txt").read_text().split()}
    assert {Path(row["path"]).name for row in picked(tmp_path / "open")} == listed
    assert json.loads((tmp_path / "open/selection.json").read_text())["target"] == str(target)
    for arguments, message in (
        ({"method": "ucs", "scores": tmp_path / "none.npy"}, "none.npy: is not an array"),
        ({"method": "class-balanced", "labels": "own"}, "the embeddings have no labels"),
    ):
        with pytest.raises((DataError, UsageError), match=message):
            choose(emb, tmp_path / "bad", **arguments)


def test_ids_are_read_from_whatever_lists_them(photos, tmp_path):
    emb = embedded(photos, tmp_path / "emb")
    choose(emb, tmp_path / "sel", budget=4)
    ids = [int(row["id"]) for row in picked(tmp_path / "sel")]
    (tmp_path / "ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    (tmp_path / "ids.csv").write_text("id,why\n" + "".join(f"{i},liked\n" for i in ids))
    for source in ("sel", "sel/selection.csv", "ids.txt", "ids.csv"):
        assert read_ids(tmp_path / source, "--subset", 30).tolist() == ids
        more = choose(emb, tmp_path / "more", budget=26, chosen=tmp_path / source, overwrite=True)
        assert more["n"] == 26
        assert not set(ids) & {int(row["id"]) for row in picked(tmp_path / "more")}
    for text, message in (
        ("1\n1\n", "must be distinct"),
        ("1\ntwo\n", "expected a selection"),
        ("-1\n", "not below 0"),
    ):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(UsageError, match=message):
            read_ids(tmp_path / "bad.txt", "--subset", 30)
    (tmp_path / "far.txt").write_text("7\n")
    with pytest.raises(DataError, match="names image 7, but the set has 5"):
        read_ids(tmp_path / "far.txt", "--subset", 5)


def test_a_selection_is_found_by_its_paths_when_ids_have_shifted(photos, tmp_path):
    choose(embedded(photos, tmp_path / "emb"), tmp_path / "sel", budget=6)
    names = [row["path"] for row in picked(tmp_path / "sel")]
    changed = tmp_path / "changed"
    shutil.copytree(photos, changed)
    (changed / "even" / "broken.png").unlink()
    unpicked = next(path for path in likewise.open_images(changed).paths if path not in names)
    (changed / unpicked).rename(changed / "odd" / "zz.png" if "even" in unpicked else changed / "even" / "aa.png")
    images = likewise.open_images(changed)
    for source in ("sel", "sel/selection.csv"):
        assert images.subset(read_ids(tmp_path / source, "--subset", 30, images.paths)).paths == names
    assert (
        read_ids(tmp_path / "sel", "--subset", 30).tolist()
        != read_ids(tmp_path / "sel", "--subset", 30, images.paths).tolist()
    )
    (changed / names[2]).unlink()
    settings = {"steps": 1, "batch_size": 2, "size": 16, "encoder": "convnet"}
    with pytest.raises(DataError, match=rf"--subset .*sel: names {names[2]}, which is not among the 29 images"):
        likewise.pretrain(changed, out=tmp_path / "run", subset=tmp_path / "sel", **settings)
    (tmp_path / "none.txt").write_text("")
    with pytest.raises(DataError, match=r"--subset .*none.txt: names no image"):
        likewise.pretrain(changed, out=tmp_path / "run", subset=tmp_path / "none.txt", **settings)
    assert not (tmp_path / "run").exists()


def test_resume_of_a_finished_selection_compares_what_was_chosen_and_copies(photos, tmp_path):
    emb, sel, copies = embedded(photos, tmp_path / "emb"), tmp_path / "sel", tmp_path / "copies"
    for name, ids in (("s1", "1\n2\n"), ("s6", "6\n7\n")):
        (tmp_path / name).write_text(ids)
    first = choose(emb, sel, budget=5, chosen=tmp_path / "s1")
    with pytest.raises(UsageError, match=r"finished selection with chosen='2 images, hash .*', not '2 images, hash"):
        choose(emb, sel, budget=5, chosen=tmp_path / "s6", resume=True, copy_to=copies)
    with pytest.raises(UsageError, match=r"with chosen='2 images.*', not None"):
        choose(emb, sel, budget=5, resume=True)
    assert not copies.exists()
    for _ in range(2):  # the second time they are there
        again = choose(emb, sel, budget=5, chosen=tmp_path / "s1", resume=True, copy_to=copies, link_to=tmp_path / "to")
        assert again == first
        for folder in (copies, tmp_path / "to"):
            files = sorted(folder.iterdir())
            assert [file.read_bytes() for file in files] == [(photos / r["path"]).read_bytes() for r in picked(sel)]
        next(copies.iterdir()).unlink()
    (copies / "mine.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"--copy-to .*: holds mine.png, which is none of these picks"):
        choose(emb, sel, budget=5, chosen=tmp_path / "s1", resume=True, copy_to=copies)


def test_resume_of_a_finished_selection_knows_its_features_by_their_content(photos, tmp_path):
    emb, sel = embedded(photos, tmp_path / "emb"), tmp_path / "sel"
    first = choose(emb, sel, budget=5)
    emb.rename(tmp_path / "moved")
    assert choose(tmp_path / "moved", sel, budget=5, resume=True) == first
    embedded(photos.with_suffix(".txt"), emb)
    with pytest.raises(UsageError, match="holds a finished selection from other features"):
        choose(emb, sel, budget=5, resume=True)
    x = np.random.default_rng(0).normal(size=(30, 4))
    np.save(tmp_path / "x.npy", x)
    choose(tmp_path / "x.npy", tmp_path / "array", budget=5)
    np.save(tmp_path / "x.npy", x + 1)
    with pytest.raises(UsageError, match="from other features"):
        choose(tmp_path / "x.npy", tmp_path / "array", budget=5, resume=True)


def test_what_is_wrong_is_said_before_images_are_embedded(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("likewise.verbs.select._features", None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("")
    for places in ({"out": tmp_path / "mine"}, {"out": tmp_path / "sel", "copy_to": tmp_path / "mine"}):
        with pytest.raises(UsageError, match="not empty"):
            choose(tmp_path / "emb", **places)
    assert not (tmp_path / "sel").exists()


def every(x, budget, *, seed, memory, chosen, step: int = 1):
    ids = np.arange(0, len(x), step)[:budget]
    return Selection(ids, np.zeros(len(ids)))


def test_a_selector_of_ones_own_is_found_by_its_path(photos, tmp_path):
    emb = embedded(photos, tmp_path / "emb")
    own = {"method": f"{__name__}:every", "budget": 4, "options": {"step": "3"}}
    first = choose(emb, tmp_path / "sel", **own)
    assert [row["id"] for row in picked(tmp_path / "sel")] == ["0", "3", "6", "9"]
    assert choose(emb, tmp_path / "sel", resume=True, **own) == first
    with pytest.raises(UsageError, match=r"expected 'package\.module:Class'"):
        choose(emb, tmp_path / "sel", **{**own, "method": f"{__name__}:none"})


def test_select_says_when_a_run_never_had_these_images(photos, tmp_path, capsys, monkeypatch):
    (tmp_path / "ids").write_text("\n".join(map(str, range(12))))
    settings = {"steps": 2, "batch_size": 8, "size": 8, "precision": "fp32", "width": 8}
    likewise.pretrain(str(photos), out=tmp_path / "run", subset=tmp_path / "ids", max_bad=1.0, **settings)
    monkeypatch.setattr("likewise.progress.QUIET", False)
    choose(tmp_path / "run", tmp_path / "sel", budget=3)
    assert "was trained on 12 images" in capsys.readouterr().err


def test_resume_says_when_it_starts_over(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(30, dtype=np.float32))
    command = ["select", str(tmp_path / "x.npy"), "--resume", "--method", "prototypes", "--out", str(tmp_path / "sel")]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    assert f"--resume: {tmp_path / 'sel'} holds nothing that prototypes could go on from; it starts over" in run.stderr


def test_options_are_read_by_their_types(photos, tmp_path):
    emb = embedded(photos, tmp_path / "emb")
    choose(emb, tmp_path / "sel", budget=3, options={"quantile": "0.9", "metric": "euclidean"})
    said = json.loads((tmp_path / "sel/selection.json").read_text())
    assert said["options"] == {"metric": "euclidean", "quantile": 0.9}
    choose(emb, tmp_path / "all", method="sem-dedup", budget=3, options={"eps": "none"})
    assert json.loads((tmp_path / "all/selection.json").read_text())["options"]["eps"] is None
    command = ["select", str(emb), "--out", str(tmp_path / "bad"), "--method", "sem-dedup", "--set"]
    for pair, message in (
        ("eps=abc", 'likewise: eps="abc": expected a number\n'),
        ("eps=nan", "likewise: eps=NaN: expected a number, and a finite one\n"),
        ("n_clusters=1.5", "likewise: n_clusters=1.5: expected a whole number\n"),
        ("seed=1", "likewise: 'seed' is no option of sem-dedup; it takes eps, n_clusters, keep\n"),
    ):
        run = CliRunner().invoke(app, [*command, pair])
        assert (run.exit_code, run.stderr) == (2, message)
    assert not (tmp_path / "bad").exists()


def test_from_a_run_on_a_real_folder_to_a_run_on_what_matters(photos, tmp_path):
    run = tmp_path / "run"
    likewise.pretrain(photos, out=run, steps=2, batch_size=8, size=16, max_bad="10%", encoder="convnet", seed=0)
    choose(run, tmp_path / "sel", budget=8, method="facility-location")
    (tmp_path / "ids.txt").write_text("\n".join(row["id"] for row in picked(tmp_path / "sel")))
    settings = {"steps": 2, "batch_size": 4, "size": 16, "max_bad": "10%", "encoder": "convnet", "seed": 0}
    weights = {}
    for source in ("sel", "ids.txt", "ids"):
        subset = [int(row["id"]) for row in picked(tmp_path / "sel")] if source == "ids" else tmp_path / source
        result = likewise.pretrain(photos, out=tmp_path / f"on-{source}", subset=subset, **settings)
        assert result["images"] == 8
        weights[source] = result["weights"]
    assert weights["sel"] == weights["ids.txt"] == weights["ids"]
    _, _, selections = read_folders([tmp_path / "sel"])
    shown = coreset(selections[0], None, Thumbs())
    assert [one["path"] for one in shown["shown"]] == [row["path"] for row in picked(tmp_path / "sel")]
    assert [one["rank"] for one in shown["shown"]] == list(range(1, 9))
    assert not any("cannot be shown" in note for note in shown["notes"])
    likewise.write_report([tmp_path / "sel"], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("data:image/webp") >= 8


def test_dry_run_says_the_cost_and_writes_nothing(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32))
    select = ["select", str(tmp_path / "x.npy"), "--out", str(tmp_path / "sel"), "--dry-run"]
    for method in ("k-center", "facility-location", "k-means", "random"):
        run = CliRunner().invoke(app, [*select, "--method", method, "--json"])
        assert run.exit_code == 0, run.output
        answer = json.loads(run.stdout)
        assert answer["n"] == 30
        assert 0 < answer["seconds"] < 10
        assert 0 < answer["memory_mb"] <= 2000
    for method in ("herding", "graph-cut", "log-det"):
        run = CliRunner().invoke(app, [*select, "--method", method])
        assert f"30 of 300 images by {method}: unknown for {method}" in run.stdout
    assert CliRunner().invoke(app, [*select, "--method", "hurding"]).exit_code == 2
    assert not (tmp_path / "sel").exists()


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks /proc which signals a process handles")
def test_a_signal_exits_75_and_resume_goes_on(tmp_path):
    """A command that SIGTERM stops, one that resumes it, and one that was never stopped."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(6_000, 16)).astype(np.float32))
    command = [sys.executable, "-m", "likewise", "select", str(tmp_path / "x.npy"), "--method", "herding", "--json"]
    command += ["--budget", "2000", "--out"]

    def run(out, *more):
        done = subprocess.run([*command, str(out), *more], capture_output=True, text=True, check=False)
        return done.returncode, done.stderr + done.stdout

    code, whole = run(tmp_path / "whole")
    assert code == 0, whole
    state = tmp_path / "stopped" / "state.safetensors"
    process = subprocess.Popen([*command, str(state.parent)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not catches(process.pid, signal.SIGTERM) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.splitlines()[-1] == "likewise: stopped and saved; go on with --resume"
    assert {file.name for file in state.parent.iterdir()} == {".likewise", "state.safetensors"}

    code, errors = run(state.parent)
    assert (code, "go on with --resume" in errors) == (2, True)
    code, errors = run(state.parent, "--resume", "--seed", "3")
    assert (code, "seed=0, not seed=3" in errors) == (2, True)
    code, answer = run(state.parent, "--resume")
    assert code == 0, answer
    assert (state.parent / "selection.csv").read_bytes() == (tmp_path / "whole" / "selection.csv").read_bytes()
    assert not state.exists()
    before = (state.parent / "selection.json").stat().st_mtime_ns
    code, again = run(state.parent, "--resume")
    assert (code, json.loads(again.splitlines()[-1])["n"]) == (0, 2000)
    assert (state.parent / "selection.json").stat().st_mtime_ns == before
    code, errors = run(state.parent, "--resume", "--method", "k-center")
    assert (code, "method='herding', not 'k-center'" in errors) == (2, True)


def test_copies_keep_their_times(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "in/a.png")
    os.utime(tmp_path / "in/a.png", (1, 1))
    Originals(str(tmp_path / "in")).copy("a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_mtime == 1


def test_features_of_another_size_are_others(tmp_path):
    """Though the encoder and the images are the same."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 24, 24), dtype=np.uint8)
    encoder = build("convnet", open_images(pixels).info(16), width=8)
    for size in (8, 16):
        likewise.embed(encoder, pixels, size=size, out=tmp_path / f"e{size}")
    choose(tmp_path / "e8", tmp_path / "sel", method="k-center", budget=3)
    assert choose(tmp_path / "e8", tmp_path / "sel", method="k-center", budget=3, resume=True)["n"] == 3
    with pytest.raises(UsageError, match="features"):
        choose(tmp_path / "e16", tmp_path / "sel", method="k-center", budget=3, resume=True)


def test_copies_are_of_the_images_that_were_selected(tmp_path, monkeypatch):
    """Not of others of these names, where a relative path leads to them; nor does a report show those."""
    rng = np.random.default_rng(0)
    for place in ("a", "b"):
        (tmp_path / place / "photos").mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tmp_path / place / f"photos/{i}.png")
        Image.open(tmp_path / place / "photos/0.png").save(tmp_path / place / "photos/again.png")  # an exact copy
    monkeypatch.chdir(tmp_path / "a")
    encoder = build("convnet", open_images("photos").info(8), width=8)
    likewise.embed(encoder, "photos", size=8, out="emb")
    made = choose(Path("emb"), Path("sel"), method="k-center", budget=9, copy_to=Path("copies"))
    assert made["n"] == len(list(Path("copies").iterdir())) == 9
    monkeypatch.chdir(tmp_path / "b")  # where the recorded data is found all the same
    choose(Path("../a/emb"), Path("right"), method="k-center", budget=3, copy_to=Path("right-copies"))
    originals = {file.read_bytes() for file in (tmp_path / "a/photos").iterdir()}
    assert {file.read_bytes() for file in Path("right-copies").iterdir()} <= originals
    meta = json.loads((tmp_path / "a/emb/meta.json").read_text())
    (tmp_path / "a/emb/meta.json").write_text(json.dumps({**meta, "data": "photos"}))  # as it was once written
    with pytest.raises(DataError, match=r"photos: its .* is not the image that was embedded"):
        choose(Path("../a/emb"), Path("sel"), method="k-center", budget=3, copy_to=Path("copies"))
    assert not list(Path("sel/thumbs").iterdir())
    for wrong, words in (("photos", "is not the image that was embedded"), ("nope", "no such file or folder")):
        with pytest.raises(DataError, match=words):  # whether or not copies are asked for, before any work
            choose(Path("../a/emb"), Path("other"), budget=3, data=wrong)
    assert not Path("other").exists()
    (tmp_path / "b/photos/0.png").rename(tmp_path / "b/photos/z.png")
    likewise.embed(encoder, "photos", size=8, out="emb")
    _, vectors, picks = read_folders([Path("emb"), Path("../a/sel")])
    assert source_of(picks[0], [one for one in vectors if one.path.resolve() == (tmp_path / "b/emb").resolve()]) is None


def test_a_name_that_is_too_long_with_its_rank_is_cut(tmp_path):
    rng = np.random.default_rng(0)
    names = ["a" * 251 + ".png", "\u00e9" * 125 + ".png", "b.png"]  # 255, 254 and 5 bytes
    (tmp_path / "photos").mkdir()
    for name in names:
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    emb = embedded(tmp_path / "photos", tmp_path / "emb")
    for way in ("copy_to", "link_to"):
        choose(emb, tmp_path / f"sel-{way}", method="k-center", budget=3, **{way: tmp_path / way})
        brought = sorted(file.name for file in (tmp_path / way).iterdir())
        ranked = [Path(row["path"]).name for row in picked(tmp_path / f"sel-{way}")]
        assert [(name[0], name[2]) for name in brought] == [(str(r), name[0]) for r, name in enumerate(ranked)]
        assert all(name.endswith(".png") for name in brought)
        assert sorted(len(os.fsencode(name)) for name in brought) == [7, 254, 255]
        with Image.open(tmp_path / way / brought[0]) as image:
            assert image.size == (9, 9)


def test_copies_and_links_go_to_places_of_their_own(photos, tmp_path):
    emb = embedded(photos, tmp_path / "emb")
    with pytest.raises(UsageError, match=r"--link-to .*x: is where the copies go"):
        choose(emb, tmp_path / "sel", budget=3, copy_to=tmp_path / "x", link_to=tmp_path / "x")
    assert not (tmp_path / "sel").exists()
    choose(emb, tmp_path / "sel", budget=3, copy_to=tmp_path / "x", link_to=tmp_path / "y")
    assert [file.is_symlink() for place in "xy" for file in (tmp_path / place).iterdir()] == [False] * 3 + [True] * 3


def test_what_likewise_made_is_no_data(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16), dtype=np.uint8)
    encoder = build("convnet", open_images(pixels).info(8), width=8)
    likewise.embed(encoder, pixels, size=8, out=tmp_path / "emb")
    with pytest.raises(DataError, match=r"emb: is a folder of likewise's own \(embeddings\); expected the images"):
        likewise.scan(tmp_path / "emb")


def test_resume_of_a_finished_selection_knows_what_it_was_given_by_its_content(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    np.save(tmp_path / "scores.npy", np.arange(50.0))
    given = {"method": "ucs", "budget": 3, "scores": tmp_path / "scores.npy"}
    first = choose(tmp_path / "x.npy", tmp_path / "sel", **given)
    assert choose(tmp_path / "x.npy", tmp_path / "sel", resume=True, **given) == first
    np.save(tmp_path / "scores.npy", -np.arange(50.0))
    with pytest.raises(UsageError, match="with another target, scores or labels"):
        choose(tmp_path / "x.npy", tmp_path / "sel", resume=True, **given)


def test_scores_of_a_run_are_for_the_images_that_it_had(photos, tmp_path):
    names = sorted(file for file in photos.rglob("*.png") if file.name != "broken.png")
    for folder, order in (("same", names), ("renamed", names[::-1])):
        (tmp_path / folder).mkdir()
        for i, file in enumerate(order):
            shutil.copy(file, tmp_path / folder / f"{i:02d}.png")
    run = tmp_path / "run"
    likewise.pretrain(tmp_path / "same", out=run, method="simclr", steps=2, batch_size=30, size=16, seed=0)
    choose(embedded(tmp_path / "same", tmp_path / "emb"), tmp_path / "picks", method="ucs", budget=3, scores=run)
    renamed = embedded(tmp_path / "renamed", tmp_path / "other")
    with pytest.raises(DataError, match=r"--scores .*run: is of other images, or of these in another order"):
        choose(renamed, tmp_path / "none", method="ucs", budget=3, scores=run)
    (tmp_path / "twice.csv").write_text("path,score\n00.png,1\n00.png,2\n")
    with pytest.raises(DataError, match=r"twice.csv: 00.png has the scores 1.0 and 2.0"):
        choose(renamed, tmp_path / "none", method="ucs", budget=3, scores=tmp_path / "twice.csv")


def test_a_target_is_of_the_same_encoder_at_the_same_size(photos, tmp_path):
    emb, small = (embedded(photos, tmp_path / name) for name in ("emb", "small"))
    meta = json.loads((small / "meta.json").read_text())
    (small / "meta.json").write_text(json.dumps({**meta, "size": 16}))
    with pytest.raises(DataError, match=r"--target .*small: is of another size \(16\) than"):
        choose(emb, tmp_path / "none", method="top-k", budget=3, target=small)


def test_a_selection_stays_where_its_copies_cannot_go(photos, tmp_path):
    emb, out = embedded(photos, tmp_path / "emb"), tmp_path / "sel"
    choose(emb, out, budget=3, method="random")
    before = (out / "selection.csv").read_bytes()
    (tmp_path / "file").write_text("")
    for argument in ("copy_to", "link_to"):
        with pytest.raises(UsageError, match=f"--{argument.replace('_', '-')} .*cannot be created"):
            choose(emb, out, budget=5, method="random", seed=1, overwrite=True, **{argument: tmp_path / "file" / "x"})
        assert (out / "selection.csv").read_bytes() == before
    with pytest.raises(UsageError, match=r"--copy-to .*new: is where the selection goes"):
        choose(emb, tmp_path / "new", budget=3, copy_to=tmp_path / "new")
