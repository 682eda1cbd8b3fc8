"""What images and views cost a training step: `data_share`, and what bfloat16 gains.

    python benchmarks/step.py [--quick] [--side 32] [--method simclr] [--encoder convnet] [--json FILE]

SimCLR on the small convnet at 32 pixels, batches of 256, two threads, as `likewise pretrain` trains them. Steps with
fresh images and views (as in training, read ahead by threads) take turns with the same steps on one batch prepared
beforehand; a figure is the median of five turns. data_share = 1 - (images/s fresh) / (images/s prepared).
Images are CIFAR-10 if LIKEWISE_DATA holds it, otherwise noise.
"""

import argparse
import json
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

THREADS, TURNS, STEPS, BATCH = 2, 5, 12, 256


def images_of(side: int) -> ImageSet:
    try:
        if side == 32:
            return open_images("cifar10:test")
    except DataError:
        pass
    return open_images(np.random.default_rng(0).integers(0, 256, (4 * BATCH, 3, side, side), dtype=np.uint8))


def measure(images: ImageSet, method: str, encoder: str, side: int, precision: str, turns: int) -> dict[str, float]:
    settings = {"method": method, "encoder": encoder, "size": side, "steps": 1000, "batch_size": BATCH}
    plan = make_plan({**settings, "precision": precision}, side)
    made = make_method(plan, images)
    config = settle(plan.config, made, images)
    made.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(made.param_groups(), config)
    step = 0

    def rate(fresh: bool) -> float:
        nonlocal step
        draws = Draws(0, step, 0, torch.from_numpy(images.keys))
        rows = [made.order(step, draws)[i * BATCH : (i + 1) * BATCH] for i in range(STEPS)]
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
        return STEPS * BATCH / (time.perf_counter() - start)

    rate(True)  # does not count
    fresh, prepared = zip(*((rate(True), rate(False)) for _ in range(turns)), strict=True)
    figures = {"fresh": statistics.median(fresh), "prepared": statistics.median(prepared)}
    shares = [1 - a / b for a, b in zip(fresh, prepared, strict=True)]
    return {**figures, "data_share": statistics.median(shares)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one turn: does it run?")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--encoder", default="convnet")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    images = images_of(given.side)
    about = {
        **setting(),
        "what": f"{given.method} on {given.encoder}, {given.side} px, batch {BATCH}, {THREADS} threads, {images.name}",
    }
    results = {
        precision: measure(images, given.method, given.encoder, given.side, precision, 1 if given.quick else TURNS)
        for precision in ("bf16", "fp32")
    }
    print(*about.values(), sep="\n")
    print("\n| precision | images/s, fresh | images/s, prepared | data_share |", "| --- | --- | --- | --- |", sep="\n")
    for name, r in results.items():
        print(f"| {name} | {r['fresh']:,.0f} | {r['prepared']:,.0f} | {r['data_share']:.3f} |")
    print(f"\nbf16 / fp32: {results['bf16']['fresh'] / results['fp32']['fresh']:.2f}")
    if given.json:
        given.json.write_text(json.dumps({**about, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
