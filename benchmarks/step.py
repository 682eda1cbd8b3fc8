"""What images and views cost a training step: `data_share`, and what bfloat16 gains.

    python benchmarks/step.py [--quick] [--side 32] [--method simclr] [--encoder convnet] [--batch 256] [--device cpu]
        [--json FILE]

SimCLR on the small convnet at 32 pixels, batches of 256, two threads, as `likewise pretrain` trains them, or what else
is asked for. Steps with fresh images and views (as in training, read ahead by threads) take turns with the same steps
on one batch prepared beforehand; a figure is the median of five turns. data_share = 1 - (images/s fresh) / (images/s
prepared).
Images are CIFAR-10 if LIKEWISE_DATA holds it, otherwise noise.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from likewise.draws import Draws
from likewise.errors import DataError
from likewise.images import ImageSet, open_images, prefetch
from likewise.memory import keep_freed_memory
from likewise.training.fit import make_batch, settle, train_step
from likewise.training.optim import make_optimizer
from likewise.verbs.pretrain import make_method
from likewise.verbs.settings import make_plan
from setting import setting

THREADS, TURNS, STEPS = 2, 5, 12


def images_of(side: int, n: int) -> ImageSet:
    try:
        if side == 32:
            return open_images("cifar10:test")
    except DataError:
        pass
    return open_images(np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8))


def measure(images: ImageSet, asked: argparse.Namespace, precision: str) -> dict[str, float]:
    settings = {"method": asked.method, "encoder": asked.encoder, "size": asked.side, "steps": 1000}
    settings |= {"batch_size": asked.batch, "device": asked.device}
    side, device = asked.side, torch.device(asked.device)
    plan = make_plan({**settings, "precision": precision}, side)
    made = make_method(plan, images)
    config = settle(plan.config, made, images)
    made.to(device=device, memory_format=torch.channels_last)
    optimizer = make_optimizer(made.param_groups(), config)
    step = 0

    def rate(fresh: bool) -> float:
        nonlocal step
        draws = Draws(0, step, 0, torch.from_numpy(images.keys))
        order = made.order(step, draws).repeat(math.ceil(STEPS * asked.batch / len(images)), 1)
        rows = order.split(asked.batch)[:STEPS]
        prepared = make_batch(made, images, rows[0], images.source(rows[0].flatten().numpy()), 0.1, config, 0, 0)
        ids = [r.flatten().numpy() for r in rows]
        start = time.perf_counter()
        feed = prefetch(images, ids, threads=config.threads) if fresh else ((None, None) for _ in ids)
        for mine, source in feed:
            batch = prepared
            if mine is not None:
                batch = make_batch(made, images, torch.from_numpy(mine)[:, None], source, 0.1, config, step, step)
            train_step(made, optimizer, batch, config, 100, config.steps or 1, images)
            made.after_step(0.1)
            step += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return STEPS * asked.batch / (time.perf_counter() - start)

    rate(True)  # does not count
    fresh, prepared = zip(*((rate(True), rate(False)) for _ in range(1 if asked.quick else TURNS)), strict=True)
    figures = {"fresh": statistics.median(fresh), "prepared": statistics.median(prepared)}
    shares = [1 - a / b for a, b in zip(fresh, prepared, strict=True)]
    return {**figures, "data_share": statistics.median(shares)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one turn: does it run?")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--encoder", default="convnet")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    images = images_of(given.side, STEPS * given.batch)
    what = f"{given.method} on {given.encoder}, {given.side} px, batch {given.batch}, {THREADS} threads, {images.name}"
    about = {**setting(), "what": what}
    if given.device.startswith("cuda"):
        about["gpu"] = torch.cuda.get_device_name(given.device)
    results = {precision: measure(images, given, precision) for precision in ("bf16", "fp32")}
    print(*about.values(), sep="\n")
    print("\n| precision | images/s, fresh | images/s, prepared | data_share |", "| --- | --- | --- | --- |", sep="\n")
    for name, r in results.items():
        print(f"| {name} | {r['fresh']:,.0f} | {r['prepared']:,.0f} | {r['data_share']:.3f} |")
    print(f"\nbf16 / fp32: {results['bf16']['fresh'] / results['fp32']['fresh']:.2f}")
    if given.json:
        given.json.write_text(json.dumps({**about, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
