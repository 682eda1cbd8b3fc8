"""Several processes, launched by torchrun: each takes its share of every batch, and gradients are averaged.

What one process alone can know (a clock, a signal, a folder) is settled by the first, or by all together.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from likewise.errors import UsageError
from likewise.types import rank, world


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the others if torchrun started this process, each on a GPU of its own, and leave at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or world() > 1:
        yield
        return
    if device not in ("cpu", "cuda"):
        raise UsageError(f"device={device}: of several processes each takes its own; expected cpu or cuda")
    if device == "cuda":
        place, n = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if place >= n:
            raise UsageError(f"--nproc_per_node: more processes than GPUs; expected at most {n}")
        torch.cuda.set_device(place)
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def average_gradients(module: nn.Module) -> None:
    """Replace every gradient by its mean over the processes, in one message."""
    n = world()
    if n == 1:
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients]) / n
    torch.distributed.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.reshape(gradient.shape))


def is_main() -> bool:
    """Whether this process writes files and talks."""
    return rank() == 0


def agreed(value: int | float, device: str) -> float:
    """The number that the first process has, for all: each would time, or hear a signal, otherwise."""
    if world() == 1:
        return float(value)
    shared = torch.tensor(float(value), dtype=torch.float64, device=device)
    torch.distributed.broadcast(shared, 0)
    return float(shared)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if world() > 1:
        torch.distributed.barrier()
