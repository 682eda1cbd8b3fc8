"""What a selection will cost, before it starts: products of rows counted by hand, their speed measured on the spot."""

import time
from typing import Any, NamedTuple

import torch

from likewise.coresets.facility_location import CELL, EXACT
from likewise.coresets.quality import PAIRS

OVERHEAD = 1.5  # beyond the products themselves


class Estimate(NamedTuple):
    """How long a method takes with the quality of its picks and of random ones, and its work space beyond x."""

    seconds: float
    memory: int

    def __str__(self) -> str:
        minutes = self.seconds / 60
        spent = f"{minutes:.1f} minutes" if minutes >= 1 else f"{max(self.seconds, 1):.0f} seconds"
        return f"about {spent} and {self.memory / 1e9:.2g} GB of work space"


def estimate(method: str, n: int, d: int, budget: int, memory: int, options: dict[str, Any]) -> Estimate | None:
    """For methods, by options, whose cost can be told from the sizes alone; None for others."""
    cells = options.get("cells") or (1 if n <= EXACT else -(-n // CELL))
    made = {  # products of two rows
        "facility-location": 5 * n * n / cells,
        "k-center": n * budget,
        "k-means": 1.5 * (1 + options.get("n_iterations", 10)) * n * budget,
        "random": 0,
    }
    slower = options.get("quantile", 1.0) < 1 or options.get("swaps") or options.get("maximiser", "lazy") != "lazy"
    if method not in made or slower:
        return None
    judged = 2.8 * min(n * budget, PAIRS) + 600 * n + 16 * budget**1.5
    held = sum(size for size in (4 * n * d, 8 * n * d) if size <= memory // 3)
    listed = min(memory // 4, n * n // 4) if method == "facility-location" and cells == 1 else 0
    work = held + listed + 100 * n + 20 * budget * d + (64 << 20)
    return Estimate(OVERHEAD * (made[method] + judged) * _seconds_per_product(d), min(work, memory))


def _seconds_per_product(d: int) -> float:
    left, right, made = torch.ones(256, d), torch.ones(d, 2048), torch.empty(256, 2048)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(left, right, out=made)
        best = min(best, time.perf_counter() - started)
    return best / made.numel()
