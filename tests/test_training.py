"""The loop: what it promises about bits, interruptions, bad numbers and budgets."""

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from likewise.embedding import load, weights_hash
from likewise.encoders import build
from likewise.errors import DataError, Stopped, TrainingError, UsageError
from likewise.files import MARK, read_lines, write_bytes, write_json
from likewise.images import ImageSet, open_images
from likewise.methods import METHODS
from likewise.training import fit as loop
from likewise.training import state
from likewise.training.optim import LARS, OPTIMIZERS, Muon, learning_rate, make_optimizer, orthogonal, set_rates
from likewise.types import DataInfo, Step, TrainConfig
from likewise.verbs.demo import SETTINGS, demo
from likewise.verbs.pretrain import pretrain
from likewise.verbs.settings import make_plan
from likewise.views import RECIPES

N, STEPS = 40, 9
INFO = DataInfo(n_images=8, channels=3, size=32)
SMALL: dict[str, Any] = {
    "size": 16,
    "batch_size": 16,
    "steps": STEPS,
    "save_every": "2",
    "monitor_every": 4,
    "precision": "fp32",
}
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 16, 16, 3), dtype=np.uint8)


def images() -> ImageSet:
    return open_images(PIXELS, labels=np.arange(N) % 3)


def settings(method: str) -> dict[str, Any]:
    width = {"depth": 2} if "a ViT encoder" in METHODS[method].needs else {"width": 16}
    patches = {"patches": N} if METHODS[method].patches else {}
    return {**SMALL, **width, **patches, "method": method}


def trace(run: Path) -> tuple[bytes, ...]:
    """All that must be equal to the bit: weights, teacher, optimiser, scores, and metrics without the clock."""
    newest = sorted((run / "state").iterdir())[-1]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["images_per_second"]
    files = [newest / f"{name}.safetensors" for name in ("method", "optimizer", "other")]
    return (
        *(file.read_bytes() for file in files),
        (run / "model.safetensors").read_bytes(),
        json.dumps(lines).encode(),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run of every method."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    for method in METHODS:
        pretrain(images(), out=folder / method, **settings(method))
    return {method: folder / method for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_same_command_same_bits(method: str, whole: dict[str, Path], tmp_path: Path) -> None:
    pretrain(images(), out=tmp_path / "again", **{**settings(method), "threads": 1})
    assert trace(tmp_path / "again") == trace(whole[method])
    assert weights_hash(load(tmp_path / "again")) == weights_hash(load(whole[method]))


@pytest.mark.parametrize("method", METHODS)
def test_the_encoder_that_is_kept_is_the_one_that_was_saved_last(method: str, whole: dict[str, Path]) -> None:
    """What is drawn at the end, to be looked at, moves no statistics."""
    newest = sorted((whole[method] / "state").iterdir())[-1]
    trained = load_file(newest / "method.safetensors")
    for name, value in load(whole[method]).state_dict().items():
        assert torch.equal(value, trained[f"encoder.{name}"]), name


KILL = """
import json, os, signal, sys
import numpy as np, torch, torch._dynamo  # which the first optimiser step would import in every child
torch.set_num_threads(1)
from likewise.images import open_images
from likewise.verbs.demo import SETTINGS, demo
from likewise.verbs.pretrain import pretrain
from likewise.training import fit as loop
pixels, runs = np.load(sys.argv[1]), json.loads(sys.argv[2])
step = loop.train_step
for kill_at, out, settings in runs:
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    def deadly(*arguments):
        if arguments[4] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)
    loop.train_step = deadly
    pretrain(open_images(pixels, labels=np.arange(len(pixels)) % 3), out=out, **settings)
    os._exit(0)
"""


def kill_at(method: str) -> int:
    return 4 + sorted(METHODS).index(method) % 2  # resumed at 4: mid-epoch, with three batches each


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of every method that SIGKILL ended. A fork for each: imports are made once, before any computation."""
    folder = tmp_path_factory.mktemp("killed")
    np.save(folder / "pixels.npy", PIXELS)
    runs = [(kill_at(method), str(folder / method), settings(method)) for method in METHODS]
    command = [sys.executable, "-c", KILL, str(folder / "pixels.npy"), json.dumps(runs)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stdout.split() == [str(-signal.SIGKILL)] * len(METHODS), ended.stderr[-2000:]
    return {method: folder / method for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_is_as_if_it_never_stopped(
    method: str, whole: dict[str, Path], killed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    step = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *a: (made.append(a[4]), step(*a))[1])
    result = pretrain(images(), out=killed[method], resume=True, **{**settings(method), "threads": 4})
    assert result["resumed_at"] == 4
    assert made == list(range(result["resumed_at"], STEPS))
    assert trace(killed[method]) == trace(whole[method])


def test_a_method_is_told_how_far_the_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a step what is done, after it what is done then: thaws, temperatures and momenta go by it."""
    made, told, after = METHODS["simclr"], list[float](), list[float]()
    step = made.step
    monkeypatch.setattr(made, "step", lambda self, batch: (told.append(batch.progress), step(self, batch))[1])
    monkeypatch.setattr(made, "after_step", lambda self, progress: after.append(progress))
    pretrain(images(), out=tmp_path / "run", **settings("simclr"))
    assert told[:STEPS] == [i / STEPS for i in range(STEPS)]
    assert after == [(i + 1) / STEPS for i in range(STEPS)]


@pytest.mark.parametrize("lost", ["method", "optimizer"])
def test_a_state_that_leaves_something_out_is_noticed(
    lost: str, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant of the test above: one buffer or moment is missing from what is resumed."""
    calls = 0
    step = loop.train_step

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(images(), out=tmp_path / "run", **settings("byol"))
    monkeypatch.setattr(loop, "train_step", step)
    file = sorted((tmp_path / "run" / "state").iterdir())[-1] / f"{lost}.safetensors"
    tensors = load_file(file)
    victim = next(name for name in tensors if "running_mean" in name or "exp_avg" in name)
    del tensors[victim]
    save_file(tensors, file)
    if lost == "method":
        with pytest.raises(DataError, match=victim.split(".")[-1]):
            pretrain(images(), out=tmp_path / "run", resume=True, **settings("byol"))
    else:
        with pytest.raises(DataError, match="optimizer"):
            pretrain(images(), out=tmp_path / "run", resume=True, **settings("byol"))


def test_a_damaged_state_falls_back_to_the_one_before(whole: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        stopped_after(5, lambda: pretrain(images(), out=run, **settings("simclr")))
    newest, before = sorted((run / "state").iterdir())[::-1]
    (newest / "method.safetensors").write_bytes(b"cut short")
    result = pretrain(images(), out=run, resume=True, **settings("simclr"))
    assert result["resumed_at"] == int(before.name)
    assert trace(run) == trace(whole["simclr"])


def test_a_state_is_kept_until_two_later_ones_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves that were cut short at later steps than a resumed run has come to push nothing out."""
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters())

    def save(step: int, files: int = 4) -> None:
        left = iter(range(files))
        monkeypatch.setattr(state, "write_bytes", lambda *a: (next(left), write_bytes(*a)))
        state.save_state(tmp_path, {"step": step}, {"scores": torch.zeros(1)}, net, optimizer)

    save(100)
    (tmp_path / "state" / ".DS_Store").write_bytes(b"left by a file manager")
    for cut, whole in ((237, 180), (230, 200)):
        with pytest.raises(StopIteration):
            save(cut, files=1)
        save(whole)
        place, _ = state.load_state(tmp_path, net, optimizer) or ({}, {})
        assert place["step"] == whole
    assert [folder.name for folder in state.whole_states(tmp_path)] == ["000000200", "000000180"]
    assert len(list((tmp_path / "state").iterdir())) == 3
    for folder in state.whole_states(tmp_path):
        (folder / "other.safetensors").write_bytes(b"cut short")
    with pytest.raises(DataError, match="damaged"):
        state.load_state(tmp_path, net, optimizer)


def test_a_run_resumed_after_its_last_step_says_nothing_of_speed(
    whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole["simclr"], tmp_path / "run")
    (tmp_path / "run" / "status.json").unlink()
    monkeypatch.setattr("likewise.progress.QUIET", False)
    result = pretrain(images(), out=tmp_path / "run", resume=True, **settings("simclr"))
    assert (result["resumed_at"], result["images_per_second"]) == (STEPS, None)
    assert "images/s" not in capsys.readouterr().err


def test_one_process_trains_in_a_folder(whole: dict[str, Path]) -> None:
    run = whole["byol"]
    with open(run / MARK) as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        (run / "status.json").rename(run / "later.json")  # so that it is not finished
        for how in ("resume", "overwrite"):
            with pytest.raises(UsageError, match="another process is training in it"):
                pretrain(images(), out=run, **{how: True}, **settings("byol"))
        (run / "later.json").rename(run / "status.json")
    pretrain(images(), out=run, resume=True, **settings("byol"))


def stopped_after(n_steps: int, begin: Callable[[], Any]) -> None:
    """Send this process SIGTERM after so many steps; the loop finishes the step, saves and raises Stopped."""
    step, calls = loop.train_step, 0

    def signalled(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n_steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    loop.train_step = signalled
    try:
        begin()
    finally:
        loop.train_step = step


def test_a_signal_finishes_the_step_and_saves(whole: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="--resume"):
        stopped_after(5, lambda: pretrain(images(), out=tmp_path / "run", **settings("simclr")))
    stopped = json.loads((tmp_path / "run" / "status.json").read_text())
    assert stopped["state"] == "stopped"
    newest = sorted((tmp_path / "run" / "state").iterdir())[-1] / "place.json"
    write_json(newest, {**json.loads(newest.read_text()), "seconds": 100 + stopped["seconds"]})
    with open(tmp_path / "run" / "metrics.jsonl", "a") as lines:
        lines.write('{"step": 5, "epo')  # what is left of a line when there is no time to stop
    result = pretrain(images(), out=tmp_path / "run", resume=True, **settings("simclr"))
    assert result["resumed_at"] == 5
    assert 100 + stopped["seconds"] < result["seconds"] < 200 + stopped["seconds"]  # of all its processes together
    assert trace(tmp_path / "run") == trace(whole["simclr"])


@pytest.mark.slow
def test_a_stopped_demo_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the figures of one that was never stopped; one that ended keeps its training and is judged once."""
    monkeypatch.setitem(SETTINGS, "steps", 6)
    whole, parts = demo(tmp_path / "whole"), tmp_path / "parts"
    with pytest.raises(Stopped):
        stopped_after(3, lambda: demo(parts))
    with pytest.raises(UsageError, match="--overwrite"):
        demo(parts)
    for _ in range(2):
        again = demo(parts, resume=True)
        assert (again["knn"], again["coreset"]) == (whole["knn"], whole["coreset"])
        assert len(read_lines(parts / "run" / "evaluation.jsonl")) == 3


def test_a_run_outside_the_main_thread_leaves_signals_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: pretrain(images(), out=tmp_path / "run", **settings("simclr")))
    thread.start()
    thread.join()
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert signal.getsignal(signal.SIGTERM) is before


def test_resuming_with_other_settings_or_images_is_refused(whole: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="temperature"):
        pretrain(images(), out=whole["simclr"], resume=True, **settings("simclr"), temperature=0.7)
    for budget in ({"steps": STEPS + 1}, {"epochs": 50}, {"minutes": 1}):
        with pytest.raises(UsageError, match=f"{next(iter(budget))}={next(iter(budget.values()))}: the run .* {STEPS}"):
            pretrain(images(), out=whole["simclr"], resume=True, **{**settings("simclr"), "steps": None, **budget})
    with pytest.raises(DataError, match="images differ"):
        pretrain(open_images(PIXELS[:-1]), out=whole["simclr"], resume=True, **settings("simclr"))
    with pytest.raises(DataError, match="another order"):  # banks and scores go by it
        pretrain(open_images(PIXELS[::-1].copy()), out=whole["simclr"], resume=True, **settings("simclr"))
    with pytest.raises(UsageError, match="not empty"):
        pretrain(images(), out=whole["simclr"], **settings("simclr"))


def test_overwriting_deletes_only_what_likewise_wrote(tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(images(), out=run, **settings("simclr"))
    (run / "notes.txt").write_text("mine")
    first = (run / "status.json").read_text()
    pretrain(images(), out=run, overwrite=True, **settings("simclr"))
    assert (run / "notes.txt").read_text() == "mine"
    assert (run / "status.json").read_text() != first


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_a_folder_that_likewise_did_not_make_is_left_alone(how: str, tmp_path: Path) -> None:
    """`pictures` and README.md are names that a run has too."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday.png").write_bytes(b"mine")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="nothing was changed"):
        pretrain(images(), out=tmp_path, **{how: True}, **settings("simclr"))
    assert (tmp_path / "pictures" / "holiday.png").read_bytes() == b"mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "pictures"]


def test_a_term_that_is_not_finite_stops_before_the_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = METHODS["simclr"]
    step, seen = made.step, []

    def poisoned(self: Any, batch: Any) -> Step:
        seen.append(weights_hash(self))
        result = step(self, batch)
        return Step({**result.terms, "poison": torch.tensor(float("nan"))}) if len(seen) == 3 else result

    monkeypatch.setattr(made, "step", poisoned)
    hashes: list[str] = []
    check = loop.check_finite

    def spy(result: Step, paths: list[str]) -> None:
        hashes.append(",".join(paths))
        check(result, paths)

    monkeypatch.setattr(loop, "check_finite", spy)
    others = set(threading.enumerate())
    with pytest.raises(TrainingError, match="'poison' is nan on images") as caught:
        pretrain(images(), out=tmp_path / "run", **settings("simclr"))
    left = {thread.name for thread in set(threading.enumerate()) - others}
    assert not any(name.startswith("likewise-prefetch") for name in left)  # though `caught` holds the loop's frames
    assert caught.value.code == 4
    assert hashes[-1].split(",")[0] in str(caught.value)
    assert len(seen) == 3
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "diverged"


def test_an_update_that_goes_too_far_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"features of {N} of {N} images are not finite"):
        pretrain(images(), out=tmp_path / "run", **{**settings("simclr"), "steps": 1}, lr=1e30)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "diverged"


def test_collapse_is_said_and_the_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = METHODS["simclr"]
    monkeypatch.setattr(made, "after_step", lambda self, progress: [p.data.zero_() for p in self.encoder.parameters()])
    with pytest.raises(TrainingError, match="collapsed"):
        pretrain(images(), out=tmp_path / "run", **settings("simclr"))
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "collapsed"
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_names_and_order_of_the_images_change_nothing(whole: dict[str, Path], tmp_path: Path) -> None:
    """Draws and shuffles follow the content: the same images listed the other way round give the same weights."""
    pretrain(open_images(PIXELS[::-1].copy()), out=tmp_path / "run", **settings("simclr"))
    assert weights_hash(load(tmp_path / "run")) == weights_hash(load(whole["simclr"]))


def test_no_image_is_left_out_of_an_epoch() -> None:
    batches = loop._batches(torch.arange(53).unsqueeze(1), 32)
    assert sorted(torch.cat(batches).flatten().tolist()) == list(range(53))
    assert [len(rows) for rows in batches] == [27, 26]


@pytest.mark.parametrize("n", range(2, 12))
@pytest.mark.parametrize("batch_size", [2, 3, 4])
def test_no_image_is_alone_in_a_batch(n: int, batch_size: int) -> None:
    batches = loop._batches(torch.arange(n).unsqueeze(1), batch_size)
    assert sum(len(rows) for rows in batches) == n
    assert all(2 <= len(rows) <= max(3, batch_size) for rows in batches)


def test_minutes_become_steps_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "RATE_SECONDS", 0.1)
    budget = {**settings("simclr"), "minutes": 0.01}
    del budget["steps"]
    result = pretrain(images(), out=tmp_path / "run", **budget)
    assert result["steps"] >= 1
    assert f"steps = {result['steps']}" in (tmp_path / "run" / "resolved.toml").read_text()
    assert "minutes" not in (tmp_path / "run" / "resolved.toml").read_text()


def test_precision_is_settled_by_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gain = loop.bf16_gain(build("convnet", DataInfo(8, 3, 16), width=8), 3, 16, "cpu")
    assert gain == 0 or 0.05 < gain < 20
    asked = {**settings("simclr"), "steps": 1, "precision": "auto"}
    for measured, chosen in ((3.0, "bf16"), (1.1, "fp32")):
        monkeypatch.setattr(loop, "bf16_gain", lambda *_, measured=measured: measured)
        pretrain(images(), out=tmp_path / chosen, **asked)
        assert f'precision = "{chosen}"' in (tmp_path / chosen / "resolved.toml").read_text()


def test_steps_between_states_may_be_a_number(whole: dict[str, Path], tmp_path: Path) -> None:
    pretrain(images(), out=tmp_path / "run", **{**settings("simclr"), "save_every": 2})
    assert trace(tmp_path / "run") == trace(whole["simclr"])


def test_what_a_step_must_return_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = METHODS["simclr"]
    step = made.step
    monkeypatch.setattr(made, "step", lambda self, batch: step(self, batch).terms["contrast"])
    with pytest.raises(UsageError, match="expected a Step whose terms are scalars"):
        pretrain(images(), out=tmp_path / "run", **settings("simclr"))


def test_scores_may_hang_on_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = METHODS["simclr"]
    step = made.step

    def graphic(self: Any, batch: Any) -> Step:
        found = step(self, batch)
        return Step(found.terms, found.shown, next(self.parameters()).sum() + found.score)

    monkeypatch.setattr(made, "step", graphic)
    pretrain(images(), out=tmp_path / "run", **settings("simclr"))
    assert np.load(tmp_path / "run" / "scores.npy").shape == (N,)


def test_a_file_without_a_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("likewise.methods.simclr.RECIPE")
    with pytest.raises(UsageError, match="simclr has no RECIPE"):
        pretrain(images(), out=tmp_path / "run", **settings("simclr"))


def test_scores_are_kept_for_every_image(whole: dict[str, Path]) -> None:
    scores = np.load(whole["simclr"] / "scores.npy")
    assert scores.shape == (N,)
    assert (scores > 0).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 3), torch.nn.BatchNorm2d(4)
    )
    x, y = torch.randn(8, 3, 8, 8), torch.randn(8, 4, 4, 4)
    optimizer = make_optimizer([{"params": list(net.parameters())}], TrainConfig(optimizer=name, lr=0.05))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_lars_by_hand() -> None:
    """One step: eta |w| / |g| times g, at most g itself."""
    p = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    p.grad = torch.tensor([[0.0, 2.0]])
    LARS([p], lr=1.0, momentum=0.9, weight_decay=0.0).step()
    assert torch.allclose(p, torch.tensor([[3.0, 4.0 - 0.02 * 5 / 2 * 2]]))


def test_muon_orthogonalises() -> None:
    x = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    sigma = torch.linalg.svdvals(orthogonal(x))
    assert 0.5 < float(sigma.min()) <= float(sigma.max()) < 1.4
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(orthogonal(x).flatten(), (u @ v).flatten(), dim=0) > 0.95
    p = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    p.grad = torch.randn(8, 4, 3, 3)
    Muon([p], lr=0.0, momentum=0.9, betas=(0.9, 0.999), weight_decay=0.0).step()
    assert float(p.detach().norm()) == pytest.approx(8**0.5, rel=1e-5)


def test_muon_steps_on_a_transformers_matrices() -> None:
    """By hand: decayed, then moved by the gradient's polar factor; three times as tall, root three times as far."""
    torch.manual_seed(0)
    tall, before = torch.nn.Parameter(torch.randn(48, 16)), torch.empty(48, 16)
    before.copy_(tall.detach())
    tall.grad = torch.randn(48, 16)
    config = TrainConfig(optimizer="muon", lr=0.1, weight_decay=0.5)
    make_optimizer([{"params": [tall], "inner": True}], config).step()
    u, _, v = torch.linalg.svd(tall.grad, full_matrices=False)
    moved = (before * (1 - 0.1 * 0.5) - tall.detach()) / 0.1
    assert torch.nn.functional.cosine_similarity(moved.flatten(), (u @ v).flatten(), dim=0) > 0.95
    assert float(moved.norm() / (u @ v).norm()) == pytest.approx(3**0.5, rel=0.15)


def test_a_transformers_matrices_are_marked() -> None:
    vit = build("vit-nano", INFO)
    method = METHODS["mae"](vit, INFO, views=RECIPES["weak"](32))
    marked = {id(p) for group in method.param_groups() if group.get("inner") for p in group["params"]}
    inside = {name for name, p in method.named_parameters() if id(p) in marked}
    kinds = ("qkv", "proj", "up", "down")
    expected = {f"encoder.blocks.{i}.{kind}.weight" for i in range(6) for kind in kinds}
    assert {name for name in inside if name.startswith("encoder.")} == expected
    assert any(name.startswith("decoder.") for name in inside)
    groups = METHODS["simclr"](build("convnet", INFO), INFO, views=RECIPES["strong"](32)).param_groups()
    assert not any(group.get("inner") for group in groups)


def test_muon_is_adamw_for_what_is_not_inside() -> None:
    config = TrainConfig(optimizer="muon", lr=0.1, weight_decay=0.1)
    torch.manual_seed(0)
    a = torch.nn.Parameter(torch.randn(5, 3))
    b = torch.nn.Parameter(a.detach().clone())
    mine = make_optimizer([{"params": [a]}], config)
    theirs = torch.optim.AdamW([b], lr=0.01, weight_decay=0.1)
    for _ in range(5):
        gradient = torch.randn(5, 3)
        for p, optimizer in ((a, mine), (b, theirs)):
            p.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(a, b, atol=1e-6)


def test_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(lr=1.0, warmup=0.2, final_lr=0.1)
    rates = [learning_rate(config, step, 50) for step in range(50)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_groups_have_their_own_rates() -> None:
    config = TrainConfig(lr=1.0, weight_decay=0.1, final_weight_decay=0.5, warmup=0.0)
    p = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3)]
    groups = [
        {"params": p[:1]},
        {"params": p[1:2], "weight_decay": 0.0, "rate": 0.1},
        {"params": p[2:], "steady": True},
    ]
    optimizer = make_optimizer(groups, config)
    set_rates(optimizer, config, 50, 100)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05, 1.0])
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.3, 0.0, 0.3])


def test_an_epoch_begins_once_however_often_it_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr(METHODS["simclr"], "begin_epoch", lambda self, epoch, draws: begun.append(epoch))
    with pytest.raises(Stopped):
        stopped_after(5, lambda: pretrain(images(), out=tmp_path / "run", **settings("simclr")))
    pretrain(images(), out=tmp_path / "run", resume=True, **settings("simclr"))
    assert begun == [0, 1, 2]


def test_a_method_that_looks_is_shown_every_image_before_it_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, weights, seen, kept = METHODS["deepcluster"], list[Any](), list[int](), list[Any]()
    look, begin = made.look, made.begin_epoch

    def watched(self: Any, batch: Any) -> None:
        assert len(batch.views) == 1
        assert not torch.is_grad_enabled()
        look(self, batch)
        weights.append(torch.cat([p.detach().flatten() for p in self.parameters()]))
        seen.extend(batch.ids.flatten().tolist())

    def begun(self: Any, epoch: int, draws: Any) -> None:
        kept.append(self.bank.clone())
        begin(self, epoch, draws)

    monkeypatch.setattr(made, "look", watched)
    monkeypatch.setattr(made, "begin_epoch", begun)
    pretrain(images(), out=tmp_path / "run", **settings("deepcluster"))
    assert sorted(seen) == list(range(N))
    assert all(torch.equal(w, weights[0]) for w in weights)
    assert torch.allclose(kept[0].norm(dim=1), torch.ones(N))
    assert len(kept) == 3  # epochs that were begun


def test_a_signal_while_looking_stops_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = METHODS["deepcluster"]
    look = made.look

    def signalled(self: Any, batch: Any) -> None:
        look(self, batch)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(made, "look", signalled)
    with pytest.raises(Stopped, match="before the first step"):
        pretrain(images(), out=tmp_path / "run", **settings("deepcluster"))
    monkeypatch.setattr(made, "look", look)
    assert pretrain(images(), out=tmp_path / "run", resume=True, **settings("deepcluster"))["steps"] == STEPS


def test_knn_is_measured_after_the_listed_epochs(tmp_path: Path) -> None:
    pretrain(images(), out=tmp_path / "run", **settings("simclr"), knn_epochs=(1,))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "knn" in line] == [1.0, 3.0]


@pytest.mark.parametrize(
    "labels",
    [[0] * N, [*range(4), *[-1] * (N - 4)], [-1] * N, list(range(N))],
    ids=["one class", "too few", "none", "a class each"],
)
def test_labels_that_tell_nothing_stop_no_run(labels: list[int], tmp_path: Path) -> None:
    labelled = open_images(PIXELS, labels=np.array(labels))
    pretrain(labelled, out=tmp_path / "run", **{**settings("simclr"), "steps": 2})
    assert not any("knn" in line for line in read_lines(tmp_path / "run" / "metrics.jsonl"))


def test_a_resolved_recipe_is_a_recipe(whole: dict[str, Path], tmp_path: Path) -> None:
    """With the patches and the first weights of its run."""
    pretrain(images(), out=tmp_path / "begun", init_from=whole["exemplar"], **{**settings("exemplar"), "patches": 20})
    pretrain(images(), out=tmp_path / "again", recipe_file=tmp_path / "begun" / "resolved.toml")
    assert trace(tmp_path / "again") == trace(tmp_path / "begun")
    assert len(np.load(tmp_path / "again" / "scores.npy")) == 20


def test_what_a_run_began_from_is_needed_once(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found from any folder, and no longer when a state is saved."""
    shutil.copytree(whole["simclr"], tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stopped):
        stopped_after(5, lambda: pretrain(images(), out="run", init_from="first", **settings("simclr")))
    shutil.rmtree(tmp_path / "first")
    monkeypatch.chdir(tmp_path / "run")
    assert pretrain(images(), out=tmp_path / "run", resume=True, **settings("simclr"))["resumed_at"] == 5
    with pytest.raises(UsageError, match="was begun from"):
        pretrain(images(), out=tmp_path / "run", init_from="first", resume=True, **settings("simclr"))


def test_killed_while_it_begins_a_run_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(images: ImageSet) -> dict[str, Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("likewise.verbs.pretrain.scan_summary", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(images(), out=tmp_path / "run", **settings("simclr"))
    pretrain(images(), out=tmp_path / "run", resume=True, **settings("simclr"))
    assert {"environment.json", "scan.json", "pictures"} <= {file.name for file in (tmp_path / "run").iterdir()}


def test_a_plan_counts_the_images_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likewise.verbs.pretrain.trial_rate", lambda *_: 2.0)
    planned = pretrain(images(), out=tmp_path / "run", dry_run=True, **{**settings("simclr"), "batch_size": 256})
    assert planned["images_per_second"] == 2 * N


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"method": "simclrr"}, "did you mean 'simclr'"),
        ({"temprature": 0.1}, "did you mean 'temperature'"),
        ({"lr": "fast"}, "lr=.*expected a number"),
        ({"steps": 2.5}, "steps=2.5: expected a whole number"),
        ({"encoder": "resnet"}, "encoder 'resnet' is unknown"),
        ({"views": "stong"}, "did you mean 'strong'"),
        ({"mask_ratio": 0.5}, "'mask_ratio' is unknown"),
        ({"size": 2}, "size=2"),
        ({"method": 3}, "method=3: expected a word"),
        ({"seed": 2**64}, "seed=18446744073709551616: expected a whole number of 64 bits"),
        ({"encoder": "os:path"}, "encoder='os:path': is no class or function"),
        ({"views": ["strong"]}, "views=.*: expected a word"),
    ],
)
def test_wrong_settings_are_one_clear_line(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        make_plan(asked, 32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 1.0, "steps": 3}, "expected one of epochs, steps, minutes"),
        ({"steps": 0}, "steps=0: expected a positive number"),
        ({"batch_size": 1}, "batch_size=1: expected at least 2"),
        ({"epochs": 1e308}, "epochs=1e[+]308: expected at most"),
        ({"minutes": 1e307}, "minutes=1e[+]307: expected at most"),
        ({"steps": 1, "save_every": "0.5"}, "save_every='0.5': expected minutes such as 10m"),
        ({"steps": 1, "device": "cpu:x"}, "device='cpu:x': cannot be used here"),
        ({"precision": "fp16", "steps": 1}, "precision='fp16'"),
    ],
)
def test_budgets_that_make_no_sense(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        pretrain(images(), out=tmp_path / "run", **{"size": 16, **change})


def test_a_share_too_small_to_compare_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "world", lambda: 5)
    with pytest.raises(UsageError, match="batch_size=16: expected at least 4 images for each of 5 processes"):
        pretrain(images(), out=tmp_path / "run", **settings("simclr"))


def test_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2"):
        pretrain(open_images(PIXELS[:1]), out=tmp_path / "run", **settings("simclr"))
