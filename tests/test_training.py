"""The loop: what it promises about bits, interruptions, bad numbers and budgets."""

import fcntl
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from likewise.draws import Draws
from likewise.embedding import load, weights_hash
from likewise.encoders import Pixels, build
from likewise.errors import DataError, Stopped, TrainingError, UsageError
from likewise.files import MARK, read_lines, write_bytes, write_json
from likewise.images import ImageSet, open_images
from likewise.methods import DEFAULTS, METHODS
from likewise.methods.base import Method
from likewise.training import fit as loop
from likewise.training import monitor, state
from likewise.training.distributed import process_group
from likewise.training.monitor import knn_accuracy
from likewise.types import Batch, Step, TrainConfig
from likewise.verbs.demo import SETTINGS, demo
from likewise.verbs.pretrain import pretrain
from likewise.verbs.settings import make_plan
from likewise.views import RECIPES

N, STEPS = 40, 9
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


def made(method: str) -> Method:
    info = images().info(16)
    return METHODS[method](build("convnet", info, width=8), info, views=RECIPES["strong"](16))


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

    def spy(terms: dict[str, float], paths: list[str]) -> None:
        hashes.append(",".join(paths))
        check(terms, paths)

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


@pytest.mark.parametrize(
    ("flags", "supported", "chosen"),
    [
        ("GenuineIntel avx512_bf16 amx_bf16", True, "bf16"),
        ("AuthenticAMD avx512_bf16", True, "bf16"),
        ("GenuineIntel avx512_bf16", True, "fp32"),  # slower there
        ("AuthenticAMD avx2", True, "fp32"),
        ("GenuineIntel avx512_bf16 amx_bf16", False, "fp32"),
        ("", True, "fp32"),
    ],
)
def test_precision_is_settled_by_what_the_processor_has(
    flags: str, supported: bool, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "cpu_flags", lambda: set(flags.split()))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    pretrain(images(), out=tmp_path / "run", **{**settings("simclr"), "steps": 1, "precision": "auto"})
    assert f'precision = "{chosen}"' in (tmp_path / "run" / "resolved.toml").read_text()


def test_the_flags_are_those_of_the_processor_that_there_is() -> None:
    said = Path("/proc/cpuinfo")
    flags = loop.cpu_flags()
    assert ("fpu" in flags) == (said.is_file() and " fpu " in said.read_text())


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


def test_scores_are_means_over_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = METHODS["simclr"]
    step = made.step
    monkeypatch.setattr(made, "step", lambda self, batch: step(self, batch)._replace(score=batch.ids.flatten() + 1.0))
    pretrain(images(), out=tmp_path / "run", **settings("simclr"))  # three epochs
    assert np.load(tmp_path / "run" / "scores.npy").tolist() == [i + 1 for i in range(N)]


def test_the_encoder_takes_the_images_mean_and_deviation(whole: dict[str, Path]) -> None:
    mean, std = images().mean_std()
    normalise = load(whole["simclr"]).normalise
    assert normalise.mean.tolist() == pytest.approx(list(mean))
    assert normalise.std.tolist() == pytest.approx(list(std))


def test_the_gradient_is_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, norms = loop.make_optimizer, list[float]()

    def spied(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
        optimizer = made(groups, config)
        step = optimizer.step

        def watched() -> None:
            gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
            norms.append(float(torch.cat(gradients).norm()))
            step()

        monkeypatch.setattr(optimizer, "step", watched)
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", spied)
    pretrain(images(), out=tmp_path / "run", clip=1e-3, **{**settings("simclr"), "steps": 2})
    assert norms == pytest.approx([1e-3] * 2, rel=1e-2)


def test_a_fused_kernel_finds_its_counters_beside_the_weights(tmp_path: Path) -> None:
    """On the weights' device, here one without memory; where no kernel reads them, in the processor's memory."""
    for optimizer, where in (("adamw", "meta"), ("muon", "cpu")):
        nets = [torch.nn.Linear(3, 2, device=device) for device in ("cpu", "meta")]
        config = TrainConfig(optimizer=optimizer)
        saved, restored = (loop.make_optimizer([{"params": list(net.parameters())}], config) for net in nets)
        for p in nets[0].parameters():
            p.grad = torch.ones_like(p)
        saved.step()
        state.save_state(tmp_path / optimizer, {"step": 1}, {}, torch.nn.Identity(), saved)
        state.load_state(tmp_path / optimizer, torch.nn.Identity(), restored)
        for p in nets[1].parameters():
            devices = {name: str(value.device) for name, value in restored.state[p].items()}
            assert devices == {"step": where, "exp_avg": "meta", "exp_avg_sq": "meta"}


def test_minutes_between_states(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    due, told = loop._save_clock("1.5m"), []
    for clock.now in (89.0, 90.0, 91.0, 179.0, 181.0):
        told.append(due(1))
    assert told == [False, True, False, False, True]


def test_the_share_of_the_data_is_what_a_fixed_batch_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_rate", lambda *_: 10.0)
    batch = Batch([torch.zeros(8, 3, 16, 16)], torch.arange(8).unsqueeze(1), 0.0, Draws(0, 0, 0, torch.arange(8)))
    assert loop._data_share(made("simclr"), batch, TrainConfig(), 20.0) == 0.75


def test_an_epoch_begins_once_however_often_it_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr(METHODS["simclr"], "begin_epoch", lambda self, epoch, draws: begun.append(epoch))
    with pytest.raises(Stopped):
        stopped_after(5, lambda: pretrain(images(), out=tmp_path / "run", **settings("simclr")))
    pretrain(images(), out=tmp_path / "run", resume=True, **settings("simclr"))
    assert begun == [0, 1, 2]


@pytest.mark.parametrize("name", [name for name, made in METHODS.items() if made.looks])
def test_a_method_that_looks_is_shown_every_image_before_it_learns(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, weights, seen, kept = METHODS[name], list[Any](), list[int](), list[Any]()
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
    pretrain(images(), out=tmp_path / "run", **settings(name))
    assert sorted(seen) == list(range(N))
    assert all(torch.equal(w, weights[0]) for w in weights)
    assert torch.allclose(kept[0].norm(dim=1), torch.ones(N))
    assert len(kept) == 3  # epochs that were begun


def test_of_several_processes_somebody_is_shown_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equally many each, in every batch; nobody twice but the first, where the images do not divide."""
    seen, method = list[list[list[int]]](), made("deepcluster")
    monkeypatch.setattr(type(method), "look", lambda self, batch: seen[-1].append(batch.ids.flatten().tolist()))
    config = TrainConfig(batch_size=16, device="cpu", precision="fp32")
    for n_processes in (1, 2, 3):
        monkeypatch.setattr(loop, "world", lambda n=n_processes: n)
        for process in range(n_processes):
            monkeypatch.setattr(loop, "rank", lambda i=process: i)
            seen.append([])
            loop.look(method, images(), config, [])
        shares = [[image for batch in batches for image in batch] for batches in seen]
        assert len({tuple(map(len, batches)) for batches in seen}) == 1
        assert set(itertools.chain(*shares)) == set(range(N))
        assert sum(map(len, shares)) == -(-N // n_processes) * n_processes
        seen.clear()


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


def test_knn_is_measured_once_after_an_epoch(tmp_path: Path) -> None:
    """13 / 3 - 1 / 3 is a little below 4, in floating point."""
    pretrain(images(), out=tmp_path / "run", **{**settings("simclr"), "steps": 18}, knn_epochs=(4,))
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["epoch"] for line in lines if "knn" in line] == [4.0, 6.0]


@pytest.mark.parametrize("times", [1, 30])
def test_no_query_meets_itself_or_a_copy(times: int) -> None:
    """Noise with labels by lot is told by nothing."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300 // times * 2, 8, 8, 3), dtype=np.uint8)
    labelled = open_images(np.repeat(noise, times, axis=0), labels=np.repeat(rng.integers(0, 10, len(noise)), times))
    accuracy = knn_accuracy(Pixels(labelled.info(8)), labelled, 8, torch.device("cpu"))
    assert accuracy is not None
    assert accuracy < 0.45


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


def test_a_run_is_not_begun_from_itself(whole: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(whole["simclr"], tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"--init-from .*run: is --out itself"):
        pretrain(images(), out=tmp_path / "run", init_from=tmp_path / "run", overwrite=True, **settings("simclr"))
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


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


def test_a_plan_says_how_long_what_is_left_will_take(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likewise.verbs.pretrain.trial_rate", lambda *_: 4.0)
    asked = {**settings("simclr"), "steps": None}
    planned = pretrain(images(), out=tmp_path / "run", dry_run=True, epochs=1.5, **asked)
    assert (planned["steps"], planned["resumed_at"], planned["seconds"]) == (5, 0, 5 / 4)
    done = pretrain(images(), out=whole["simclr"], dry_run=True, resume=True, **settings("simclr"))
    assert (done["steps"], done["resumed_at"], done["seconds"]) == (STEPS, STEPS, 0)


def test_without_a_method_encoder_and_budget_settle_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("likewise.verbs.pretrain.say", said.append)
    for module in ("likewise.verbs.pretrain", "likewise.training.fit"):
        monkeypatch.setattr(f"{module}.trial_rate", lambda *_: 4.0)
    asked = {name: value for name, value in SMALL.items() if name != "steps"}

    def taken(**more: Any) -> str:
        return str(pretrain(images(), out=tmp_path / "none", dry_run=True, **asked, **more)["method"])

    many, out = math.ceil(10**6 / N), tmp_path / "run"
    small, long, vit = taken(width=8, epochs=many), taken(encoder="resnet18", width=8, epochs=many), DEFAULTS[0][2]
    assert small == taken(encoder="resnet18", width=8, epochs=many - 1) == taken(encoder="resnet18", width=8, minutes=9)
    assert (small, long) == (DEFAULTS[2][2], DEFAULTS[1][2])
    assert taken(encoder="resnet18", width=8, steps=math.ceil(10**6 / asked["batch_size"])) == long
    assert taken(encoder=build("vit-nano", images().info(16), depth=1), steps=2) == small  # an object has no name
    assert taken(encoder="vit-nano", depth=1, epochs=1) == vit
    assert taken(encoder="resnet18", width=8, epochs=many, redundancy_weight=0.1) == long  # an option of its own
    with pytest.raises(UsageError, match=f"setting 'redundancy_weight' is unknown; {small} on resnet18"):
        taken(encoder="resnet18", width=8, epochs=1, redundancy_weight=0.1)
    for budget in ({"epochs": -1}, {"steps": -5}, {"steps": 5, "batch_size": -1}):
        with pytest.raises(UsageError, match=r"=-[15](\.0)?: expected"):
            pretrain(images(), out=out, size=16, **budget)

    vit_settings = {**asked, "encoder": "vit-nano", "depth": 1, "steps": 4}
    with pytest.raises(Stopped):
        stopped_after(2, lambda: pretrain(images(), out=out, **vit_settings))
    assert f"{vit}, as no method was asked for (nearest figures: docs/results/methods-cpu/README.md, table" in said[-2]
    assert pretrain(images(), out=out, resume=True, **vit_settings)["method"] == vit
    with pytest.raises(UsageError, match=r"the run .* was begun with"):
        pretrain(images(), out=out, resume=True, method=small, **vit_settings)
    with pytest.raises(UsageError, match='epochs="many": expected'):
        pretrain(images(), out=tmp_path / "new", epochs="many", **asked)


@pytest.mark.parametrize(("epochs", "n_steps"), [(0.07, 7), (0.071, 8), (1, 100), (2.29, 229)])
def test_a_share_of_an_epoch_is_no_step_too_long(epochs: float, n_steps: int) -> None:
    hundred = open_images(np.zeros((200, 8, 8, 3), np.uint8) + np.arange(200, dtype=np.uint8)[:, None, None, None])
    assert loop._n_steps(made("simclr"), hundred, TrainConfig(batch_size=2), epochs) == n_steps


def test_numbers_of_numpy_are_settings_too(tmp_path: Path) -> None:
    """They are kept in the recipe, and a run that was begun with them goes on without."""
    asked = {**settings("simclr"), "batch_size": np.int64(8), "lr": np.float64(0.01)}
    with pytest.raises(Stopped):
        stopped_after(2, lambda: pretrain(images(), out=tmp_path / "run", **asked))
    assert "batch_size = 8\n" in (tmp_path / "run" / "recipe.toml").read_text()
    assert pretrain(images(), out=tmp_path / "run", resume=True)["resumed_at"] == 2


def test_what_to_begin_from_is_named_where_it_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="--init-from: model pixels: no such folder; expected a run folder or a saved e"
    ):
        pretrain(images(), out=tmp_path / "run", init_from="pixels", **settings("simclr"))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"method": "simclrr"}, "did you mean 'simclr'"),
        ({"temprature": 0.1}, "did you mean 'temperature'"),
        ({"lr": "fast"}, "lr=.*expected a number"),
        ({"lr": "1" + "0" * 400}, "lr=Infinity: expected a number, and a finite one"),
        ({"steps": 2.5}, "steps=2.5: expected a whole number"),
        ({"encoder": "resnet"}, "encoder 'resnet' is unknown"),
        ({"views": "stong"}, "did you mean 'strong'"),
        ({"mask_ratio": 0.5}, "'mask_ratio' is unknown"),
        ({"size": 2}, "size=2"),
        ({"method": 3}, "method=3: expected a word"),
        ({"seed": 2**64}, "seed=18446744073709551616: expected a whole number of 64 bits"),
        ({"encoder": "os:path"}, "encoder='os:path': is no class or function"),
        ({"views": ["strong"]}, "views=.*: expected a word"),
        ({"method": "byol", "teacher_momentum": 1.5}, "teacher_momentum=1.5: expected a number from 0 to 1"),
        ({"method": "lejepa", "sigreg_weight": 1.5}, "sigreg_weight=1.5: expected a number from 0 to 1"),
        ({"method": "swav", "epsilon": 0.0}, "epsilon=0.0: expected a number above 0"),
        ({"method": "msn", "sharpening": 0.0}, "sharpening=0.0: expected a number above 0"),
        ({"method": "swav", "n_prototypes": 0}, "n_prototypes=0: expected at least 1"),
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
        ({"minutes": -1}, "minutes=-1: expected a positive number"),
        ({"batch_size": 1}, "batch_size=1: expected at least 2"),
        ({"epochs": 1e308}, "epochs=1e[+]308: expected at most"),
        ({"minutes": 1e307}, "minutes=1e[+]307: expected at most"),
        ({"steps": 1, "save_every": "0.5"}, "save_every='0.5': expected minutes such as 10m"),
        ({"steps": 1, "device": "cpu:x"}, "device='cpu:x': cannot be used here"),
        ({"precision": "fp16", "steps": 1}, "precision='fp16'"),
        ({"steps": 1, "final_weight_decay": -5}, "final_weight_decay=-5.*: expected 0 or more"),
        ({"steps": 1, "knn_epochs": (-1, 1)}, "knn_epochs=.*: expected numbers above 0"),
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


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("emulated", [False, True])
def test_bfloat16_is_not_taken_where_a_gpu_emulates_it(
    device: str, emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or not emulated
    )
    assert loop.bf16_pays(device) == (not emulated)


def test_processes_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device, says in (
        ("cuda:0", "device=cuda:0: of several"),
        ("mps", "device=mps: of several"),
        ("cuda", "at most 1"),
    ):
        with pytest.raises(UsageError, match=says), process_group(device):
            pass


def test_loading_leaves_the_callers_draws_alone(whole: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the processor, and on GPUs, whose generators are asked for nothing."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU was seeded"))
    before = torch.get_rng_state()
    load(whole["simclr"])
    assert torch.equal(torch.get_rng_state(), before)


def test_there_may_be_no_queue_and_no_companions() -> None:
    assert make_plan({"method": "swav", "queue_size": 0}, 32).method_options["queue_size"] == 0
    assert make_plan({"method": "drlim", "companions": 0}, 32).method_options["companions"] == 0


def test_local_views_are_smaller_than_global_ones() -> None:
    with pytest.raises(UsageError, match="local_size=16: expected less than size=16"):
        RECIPES["multi-crop"](16, local_size=16)
    with pytest.raises(UsageError, match="local_size=0"):
        RECIPES["multi-crop"](32, local_size=0)


def test_one_view_is_enough_for_a_memory_of_all_images(tmp_path: Path) -> None:
    assert pretrain(images(), out=tmp_path / "one", **{**settings("npid"), "views": "weak"})["steps"] == STEPS
    with pytest.raises(UsageError, match="views='weak': makes 1 of an image; simclr takes 2 or more"):
        pretrain(images(), out=tmp_path / "none", **{**settings("simclr"), "views": "weak"})


def test_an_estimate_is_of_the_batches_that_would_be_trained_on(tmp_path: Path) -> None:
    """Exemplar-CNN leaves out the seeds that belong to no class."""
    merged = torch.arange(N).remainder(4) - 1
    asked = {**settings("exemplar"), "patches": 0, "merged": merged}
    assert pretrain(images(), out=tmp_path / "run", dry_run=True, **asked)["steps"] == STEPS
    with pytest.raises(UsageError, match="merged: has no two classes"):
        pretrain(images(), out=tmp_path / "run", **{**asked, "merged": torch.full((N,), -1)})


def test_a_vit_that_goes_on_at_another_size_keeps_its_positions(tmp_path: Path) -> None:
    asked = {**settings("mae"), "steps": 2}
    pretrain(images(), out=tmp_path / "small", **asked)
    pretrain(images(), out=tmp_path / "large", init_from=tmp_path / "small", **{**asked, "size": 32})
    assert [load(tmp_path / run).scale for run in ("small", "large")] == [4, 4]
    assert load(tmp_path / "large", trained=False).scale == 4


@pytest.mark.parametrize("damage", [b"", b"\0\0\0", b"\xff\xfe\x00"])
def test_a_place_that_is_no_text_falls_back_to_the_state_before(damage, tmp_path):
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters())
    for step in (1, 2):
        state.save_state(tmp_path, {"step": step}, {"scores": torch.zeros(1)}, net, optimizer)
    (tmp_path / "state" / "000000002" / "place.json").write_bytes(damage)
    place, _ = state.load_state(tmp_path, net, optimizer)
    assert place["step"] == 1


@pytest.mark.parametrize("n_processes", [2, 3, 4, 8])
@pytest.mark.parametrize(("n", "batch_size"), [(5000, 256), (5000, 250), (101, 50), (65, 32)])
def test_several_processes_leave_out_less_than_an_image_each(n, batch_size, n_processes, monkeypatch):
    """In a whole epoch, not in every batch of it."""
    batches, seen = loop._batches(torch.arange(n).unsqueeze(1), batch_size, n_processes), []
    monkeypatch.setattr(loop, "world", lambda: n_processes)
    for process in range(n_processes):
        monkeypatch.setattr(loop, "rank", lambda process=process: process)
        seen += [row for rows in batches for row in loop._share(rows).flatten().tolist()]
    assert len(seen) == len(set(seen)) > n - n_processes
    assert max(map(len, batches)) <= batch_size


def test_no_query_of_the_monitor_has_a_copy_among_the_references(monkeypatch):
    """7 pictures, each 5 times: the 7 queries end in the middle of some copies."""
    noise = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    images = open_images(np.repeat(noise, 5, axis=0), labels=np.repeat(np.arange(7) % 2, 5))
    content = dict(zip(images.keys.tolist(), images.contents.tolist(), strict=True))
    seen = []

    def knn(train, test):
        seen.append([{content[int(key)] for key in side.keys} for side in (train, test)])
        return {"accuracy": 0.5}

    monkeypatch.setattr(monitor, "knn", knn)
    assert monitor.knn_accuracy(Pixels(images.info(8)), images, 8, torch.device("cpu")) == 0.5
    ((references, queries),) = seen
    assert len(queries) == 2
    assert not references & queries
