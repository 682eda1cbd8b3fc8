"""NT-Xent of 2 x 2,048 views of 128 dimensions, forward and backward, on one core: time and extra memory, beside peers.

    python benchmarks/losses.py [--lightly FOLDER] [--out FILE.json]

Ours; the same in four lines of plain PyTorch; LightlySSL's NTXentLoss (`pip install --no-deps --target FOLDER lightly`;
its package wants torchvision, which this loss never calls, so an empty stand-in takes its place); and, at 2 x 128 only,
pytorch-metric-learning's, which holds the cube of the batch. Each runs in a process of its own, in turns; time is
processor time, the median of `TURNS` calls; memory is what the process grew by at its peak, with the allocator as it
comes, and once more with large blocks returned at once (MALLOC_MMAP_THRESHOLD_), which shows what is held. Values and
gradients are compared too: a fast loss that is another loss is worth nothing.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor
from torch.nn import functional as F

from setting import setting

N, DIM, TEMPERATURE, TURNS = 2048, 128, 0.1, 7


def ours() -> Callable[[Tensor, Tensor], Tensor]:
    from likewise.methods.simclr import nt_xent

    return lambda a, b: nt_xent(a, b, TEMPERATURE).mean()


def plain() -> Callable[[Tensor, Tensor], Tensor]:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        z = F.normalize(torch.cat([a, b]), dim=1)
        logits = z @ z.T / TEMPERATURE
        logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
        return F.cross_entropy(logits, torch.arange(len(z)).roll(len(a)))

    return loss


def lightly(folder: str) -> Callable[[Tensor, Tensor], Tensor]:
    for name in ("torchvision", "torchvision.ops", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = MagicMock()
    sys.path.append(folder)
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE)


def metric_learning() -> Callable[[Tensor, Tensor], Tensor]:
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    return SelfSupervisedLoss(NTXentLoss(temperature=TEMPERATURE))


def measure(name: str, n: int, folder: str) -> dict[str, Any]:
    """In a process of its own: time, memory, the value and a digest of the gradient."""
    torch.set_num_threads(1)
    made = {"likewise": ours, "plain PyTorch": plain, "pytorch-metric-learning": metric_learning}
    loss = lightly(folder) if name == "lightly" else made[name]()
    warm = [torch.randn(16, DIM, requires_grad=True) for _ in range(2)]
    loss(*warm).backward()  # imports and lazy set-up are not the loss's
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, DIM, generator=g).requires_grad_() for _ in range(2))
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(TURNS):
        a.grad = b.grad = None
        start = time.process_time()
        value = loss(a, b)
        value.backward()
        times.append(time.process_time() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert a.grad is not None
    found = {"ms": 1000 * statistics.median(times), "fastest_ms": 1000 * min(times), "mb": grown}
    return {**found, "value": float(value.detach()), "gradient": float(a.grad.norm())}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lightly", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one[0], int(asked.one[1]), asked.lightly)))
        return
    rows: list[dict[str, Any]] = []
    about = setting()
    peers = [("likewise", N), ("plain PyTorch", N), *([("lightly", N)] if asked.lightly else [])]
    for name, n in [*peers, ("likewise", 128), ("pytorch-metric-learning", 128)]:
        command = [sys.executable, __file__, "--one", name, str(n), "--lightly", asked.lightly]
        found = []
        for threshold in ({}, {"MALLOC_MMAP_THRESHOLD_": "1000000"}):
            env = {**os.environ, "OMP_NUM_THREADS": "1", **threshold}
            try:
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
            except subprocess.CalledProcessError as error:
                sys.exit(f"{name}: {error.stderr[-500:]}")
            found.append(json.loads(done.stdout))
        row = {"loss": name, "n": n, **found[0], "held_mb": found[1]["mb"]}
        rows.append(row)
        if n == N:
            assert abs(row["value"] - rows[0]["value"]) < 1e-5 * abs(rows[0]["value"]), row
            assert abs(row["gradient"] - rows[0]["gradient"]) < 1e-4 * rows[0]["gradient"], row
        if asked.out:
            asked.out.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")
        print(
            f"{name:24} 2 x {n:5}  {row['ms']:8.1f} ms  {row['mb']:7.1f} MB  {row['held_mb']:7.1f} MB held", flush=True
        )


if __name__ == "__main__":
    main()
