"""One step on two processes is one step on their joint batch: terms, gradients, scores, queues and banks.

python tests/test_distributed.py FOLDER     # the two processes; the tests start it once
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from likewise.draws import Draws
from likewise.encoders import build
from likewise.files import read_json
from likewise.images import open_images
from likewise.methods import METHODS, reads_labels
from likewise.training.distributed import average_gradients
from likewise.training.fit import make_batch
from likewise.types import TrainConfig, rank
from likewise.views import RECIPES

N, SIZE = 12, 16
ALONE = {"w-mse": "each process whitens its own slices"}
CONFIG = TrainConfig(steps=4, batch_size=N, device="cpu", precision="fp32")


def one_step(name: str, first: int, n: int) -> dict[str, Tensor]:
    """What a training step on images `first` to `first + n` of 12 gives, without batch normalisation.

    (Its statistics are those of each process, by intent.)
    """
    pixels = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)
    images = open_images(pixels, labels=np.arange(N) % 3)
    torch.manual_seed(0)
    made, data = METHODS[name], images.info(SIZE)
    labels = torch.from_numpy(images.labels).masked_fill(torch.arange(N) < N // 2 - 1, -1)  # not as many on each
    options = {"labels": labels} if reads_labels(made) else {}
    vit = "a ViT encoder" in made.needs
    encoder = build("vit-nano", data, depth=1) if vit else build("convnet", data, width=8)
    method = made(encoder, data, views=RECIPES[made.default_views](SIZE), **options)
    without_batch_norm(method)
    draws = Draws(0, 0, 0, torch.from_numpy(images.keys))
    method.begin_epoch(0, draws)
    rows = method.order(0, draws)[first : first + n]
    batch = make_batch(method, images, rows, images.source(rows.flatten().numpy()), 0.5, CONFIG, 0, 0)
    if made.looks:
        method.look(batch)
        method.begin_epoch(0, draws)
    with torch.no_grad():
        method.step(batch)  # so that queues, banks and centres hold something
    step = method.step(batch)
    torch.stack(list(step.terms.values())).sum().backward()
    average_gradients(method)
    method.after_step(0.5)
    found = {f"term {key}": value.detach() for key, value in step.terms.items()}
    found |= {f"gradient {key}": p.grad for key, p in method.named_parameters() if p.grad is not None}
    found |= {f"buffer {key}": value for key, value in method.named_buffers()}
    if step.score is not None:
        found["score"] = step.score
    return {key: value.clone().contiguous() for key, value in found.items()}


def without_batch_norm(module: nn.Module) -> None:
    for name, part in module.named_children():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            without_batch_norm(part)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, str(folder)], check=True, env=alone, timeout=300)
    return folder


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ALONE])
def test_two_processes_are_one(name: str, halves: Path) -> None:
    joint = one_step(name, 0, N)
    first, second = (load_file(halves / f"{name}.{i}.safetensors") for i in range(2))
    assert first.keys() == second.keys() == joint.keys()
    for key, value in joint.items():
        both = torch.cat([first[key], second[key]]) if key == "score" else (first[key].double() + second[key]) / 2
        if key.startswith("buffer"):
            assert torch.equal(first[key], second[key]), f"{key} drifts apart"
        assert torch.allclose(both.double(), value.double(), rtol=1e-4, atol=1e-5), key


def test_a_loss_that_does_not_gather_is_noticed(halves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the test above: NT-Xent within each half is another loss."""
    joint, half = one_step("simclr", 0, N), one_step("simclr", 0, N // 2)
    assert not torch.allclose(joint["score"][: N // 2], half["score"], rtol=1e-2)


def launch(out: Path, *more: str, n: int = 2) -> "subprocess.Popen[str]":
    """`likewise pretrain` under torchrun, which finds a free port by itself."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n)]
    command += ["-m", "likewise", "pretrain", str(out.parent / "images.npz"), "--out", str(out), "--method", "swav"]
    command += ["--batch-size", "16", "--size", "16", "--set", "width=8", "--json", *more]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=alone, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_torchrun_trains_stops_and_goes_on(tmp_path: Path) -> None:
    """One process writes and answers; what is timed (steps, precision) is the same for both, or they would wait."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    out = tmp_path / "run"
    run = launch(out, "--minutes", "0.2", "--set", "monitor_every=1")
    until(lambda: (out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").stat().st_size > 0, run)
    run.terminate()
    found, said = run.communicate(timeout=120)
    status = read_json(out / "status.json")
    assert (status["state"], found) == ("stopped", ""), said
    assert said.count("finishing this step") == 1
    newest = sorted((out / "state").iterdir())[-1]
    assert read_json(newest / "place.json")["step"] == status["step"] < status["steps"]

    run = launch(out, "--resume")
    found, said = run.communicate(timeout=240)
    assert run.returncode == 0, said
    assert "Warning" not in said
    answer = json.loads(found)
    assert (answer["steps"], answer["resumed_at"]) == (status["steps"], status["step"])
    assert (np.load(out / "scores.npy") > 0).all()  # also of images that the second process saw


def until(there: Callable[[], bool], run: "subprocess.Popen[str]") -> None:
    for _ in range(1200):
        if there() or run.poll() is not None:
            break
        time.sleep(0.1)


def work(folder: Path, i: int) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=i, world_size=2)
    for name in METHODS:
        if name not in ALONE:
            found = one_step(name, rank() * N // 2, N // 2)
            save_file(found, folder / f"{name}.{i}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    import torch._dynamo

    children = []
    for i in range(2):
        child = os.fork()
        if not child:
            work(Path(sys.argv[1]), i)
            os._exit(0)
        children.append(child)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))
