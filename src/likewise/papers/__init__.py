"""Reproductions, one file each, to be read from top to bottom. What is listed here is what `likewise reproduce` takes.

    paper(out, *, budget: "cpu" | "full", seed, <options of its own>) -> {"checks": [...], <the paper's own results>}

Each writes into the folder `out` (FILES) and nowhere else; `parts.part` keeps what is done, so that a call that was
interrupted goes on where it stopped.
"""

from collections.abc import Callable
from typing import Any

from likewise.papers import drlim, exemplar, methods

BUDGETS = ("cpu", "full")
FILES = ("results.json", "README.md", "figures", "parts", "runs.jsonl", "runs")
PAPERS: dict[str, Callable[..., dict[str, Any]]] = {
    "drlim": drlim.reproduce,
    "exemplar": exemplar.reproduce,
    "methods": methods.reproduce,
}

__all__ = ["BUDGETS", "FILES", "PAPERS"]
