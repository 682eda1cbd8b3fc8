"""What a training step of each method costs, relative to SimCLR's on the same encoder, and the page docs/methods.md.

    python benchmarks/methods.py [--write-only]

Batches of 64 images at 32 pixels, views of the method's own recipe included, one thread; processor time, the fastest of
eight steps. ViT methods are measured on vit-nano, all others on convnet of width 32. The
figures and the names of the loss terms go to docs/methods.json, which the page is made from.
"""

import argparse
import inspect
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likewise.draws import Draws
from likewise.encoders import build
from likewise.images import ImageSet, open_images
from likewise.methods import METHODS
from likewise.training.fit import make_batch
from likewise.types import TrainConfig
from likewise.verbs.catalogue import methods_page
from likewise.views import RECIPES
from setting import setting

DOCS = Path(__file__).parents[1] / "docs"
BATCH, SIZE, STEPS = 64, 32, 8


def cost(name: str, vit: bool, images: ImageSet) -> tuple[float, list[str]]:
    """Seconds a step, and the terms of the loss."""
    torch.manual_seed(0)
    made, data = METHODS[name], images.info(SIZE)
    encoder = build("vit-nano", data) if vit else build("convnet", data, width=32)
    takes = inspect.signature(made).parameters
    options = {"labels": torch.from_numpy(images.labels)} if "labels" in takes else {}
    method = made(encoder, data, views=RECIPES[made.default_views](SIZE), **options)
    draws, config = Draws(0, 0, 0, torch.from_numpy(images.keys)), TrainConfig(device="cpu", precision="fp32")
    method.begin_epoch(0, draws)
    ids = method.order(0, draws)
    rows = ids[: max(1, BATCH // ids.shape[1])]
    source, times = images.source(rows.flatten().numpy()), []
    for step in range(STEPS):
        start = time.process_time()
        terms = method.step(make_batch(method, images, rows, source, 0.5, config, 0, step)).terms
        torch.stack(list(terms.values())).sum().backward()
        method.after_step(0.5)
        times.append(time.process_time() - start)
    return min(times) / rows.numel(), list(terms)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write-only", action="store_true", help="Make the page from docs/methods.json as it is.")
    if not parser.parse_args().write_only:
        torch.set_num_threads(1)
        pixels = np.random.default_rng(0).integers(0, 256, (256, SIZE, SIZE, 3), dtype=np.uint8)
        images = open_images(pixels, labels=np.arange(256) % 10)
        cost("simclr", False, images)  # what the first steps of a process set up is nobody's cost
        base = {vit: cost("simclr", vit, images) for vit in (False, True)}
        measured: dict[str, Any] = {}
        for name, made in METHODS.items():
            vit = "a ViT encoder" in made.needs
            seconds, terms = base[vit] if name == "simclr" else cost(name, vit, images)
            measured[name] = {"cost": round(seconds / base[vit][0], 2), "terms": terms}
            print(name, measured[name], flush=True)
        about = {**setting(), "methods": measured}
        (DOCS / "methods.json").write_text(json.dumps(about, indent=2) + "\n")
    (DOCS / "methods.md").write_text(methods_page(json.loads((DOCS / "methods.json").read_text())))


if __name__ == "__main__":
    main()
