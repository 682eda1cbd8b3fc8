"""Exemplar-CNN's seeds, transformations and softmax: images per second and memory at N = 32,000 and a batch of 128.

    python benchmarks/exemplar.py [--out results.json] [--quick]

Each part in a process of its own, so that its memory is its own: drawing N patches; their views alone; a training step
with views; the same step on one batch made beforehand. `data_share` is 1 - (rate with views) / (rate without).
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from setting import setting

N, BATCH = 32_000, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="a second or so of each")
    parser.add_argument("--data", default="imagenette96:train")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        n, encoder = options.part.split(",")
        print(json.dumps(measure(options.data, int(n), encoder, 1.0 if options.quick else 8.0)))
        return
    found = {
        **setting(),
        "batch": f"{BATCH} seeds, 2 views each",
        "runs": [],
    }
    for n, encoder in ((2_000, "exemplar-small"), (N, "exemplar-small"), (N, "exemplar-medium")):
        command = [sys.executable, __file__, "--part", f"{n},{encoder}", "--data", options.data]
        command += ["--quick"] if options.quick else []
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            sys.exit(run.stderr)
        found["runs"].append(json.loads(run.stdout.splitlines()[-1]))
        print(json.dumps(found["runs"][-1]))
    print(json.dumps({key: value for key, value in found.items() if key != "runs"}))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def measure(data: str, n: int, name: str, seconds: float) -> dict[str, float | str]:
    """Rates in views per second (two views of each of the batch's seeds), and memory above that after the imports."""
    import torch

    from likewise.encoders import build
    from likewise.images import open_images, patches
    from likewise.methods.exemplar import Exemplar
    from likewise.training.fit import autocast, make_batch, settle
    from likewise.training.optim import make_optimizer
    from likewise.types import TrainConfig
    from likewise.views import RECIPES

    before = peak()
    images = open_images(data)
    started = time.perf_counter()
    seeds = patches(images, n)
    drawn = time.perf_counter() - started
    after_seeds = peak()
    torch.manual_seed(0)
    info = seeds.info(32)
    method = Exemplar(build(name, info, norm=True), info, views=RECIPES["exemplar"](32), dropout=0.0)
    config = settle(TrainConfig(steps=1, batch_size=BATCH, optimizer="muon", device="cpu"), method, seeds)
    method.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(method.param_groups(), config)
    rows = torch.arange(BATCH).unsqueeze(1) * (n // BATCH)

    def make(step: int):
        return make_batch(method, seeds, rows, seeds.source(rows), 0.0, config, step, step)

    def update(batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(config):
            terms = method.step(batch).terms
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    fixed = make(0)
    rates = {
        "views": rate(make, seconds),
        "training": rate(lambda step: update(make(step)), seconds),
        "fixed batch": rate(lambda _: update(fixed), seconds),
    }
    return {
        "encoder": name,
        "classes": n,
        "precision": config.precision,
        "threads": torch.get_num_threads(),
        "seconds to draw the seeds": round(drawn, 1),
        "memory of the seeds, MB": round(after_seeds - before),
        "memory in all, MB": round(peak() - before),
        **{f"{what}, images/s": round(value) for what, value in rates.items()},
        "data_share": round(1 - rates["training"] / rates["fixed batch"], 3),
    }


def rate(do, seconds: float) -> float:
    """Views per second, after two rounds to warm up."""
    times = []
    while sum(times[2:]) < seconds or len(times) < 5:
        started = time.perf_counter()
        do(len(times))
        times.append(time.perf_counter() - started)
    return 2 * BATCH * len(times[2:]) / sum(times[2:])


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


if __name__ == "__main__":
    main()
