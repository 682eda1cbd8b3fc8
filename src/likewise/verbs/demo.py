"""The verb `demo`: the whole pipeline on scikit-learn's digits, each at a random place in a larger frame.

In their own 8 x 8 frame the pixels alone tell the digits apart; at random places they no longer do, and what is
learned is what a digit has in common with itself elsewhere.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

from likewise.embedding import embed, load_with_config
from likewise.files import new_folder
from likewise.images import open_images
from likewise.progress import say
from likewise.report import write_report
from likewise.verbs.evaluate import append, evaluate
from likewise.verbs.pretrain import pretrain
from likewise.verbs.select import choose

SELECTORS = ("facility-location", "k-center", "random")
SETTINGS: dict[str, Any] = {
    "method": "simclr",
    "encoder": "convnet",
    "width": 32,
    "views": "affine",
    "size": 20,
    "steps": 1_600,
    "batch_size": 256,
}


def demo(out: Path, *, seed: int = 0, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Pretrain, judge, embed, select, report, into the folder `out`. Returns what `--json` prints.

    With `resume` a training that was stopped goes on; all that follows from it is done afresh.
    """
    started = time.perf_counter()
    follows = ("embeddings", *(f"coreset-{name}" for name in SELECTORS), "report.html")
    out = new_folder(out, "demo", () if resume else ("run", *follows), overwrite=overwrite or resume)
    train, test = (open_images(f"digits-in-frames:{part}") for part in ("train", "test"))
    say(f"{len(train):,} digits to learn from, without labels; {len(test):,} held out")
    run = out / "run"
    pretrain(train, out=run, seed=seed, resume=resume, **SETTINGS)
    if resume:  # now that it could go on
        new_folder(out, "demo", ("run/evaluation.jsonl", *follows), overwrite=True)
    judge = partial(evaluate, data=train, test=test, protocols=("knn", "health"))
    judged = {"pixels": judge("pixels", size=20), "untrained": judge(run, trained=False), "learned": judge(run)}
    for name, result in judged.items():
        append(run, {**result, "model": name})
    encoder, config = load_with_config(run)
    embed(encoder, train, size=config["size"], out=out / "embeddings", about={"model": str(run)})
    coresets = {
        name: choose(out / "embeddings", out / f"coreset-{name}", method=name, budget="10%", seed=seed)
        for name in SELECTORS
    }
    folders = [run, out / "embeddings", *(out / f"coreset-{name}" for name in SELECTORS)]
    write_report(folders, out / "report.html", title="likewise demo: digits at random places")
    return {
        "seconds": time.perf_counter() - started,
        "knn": {name: result["protocols"]["knn"]["accuracy"] for name, result in judged.items()},
        "coreset": {name: result["quality"] for name, result in coresets.items()},
        "report": str(out / "report.html"),
    }
