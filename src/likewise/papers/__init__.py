"""Reproductions, one file each, to be read from top to bottom. What is listed here is what `likewise reproduce` takes.

    paper(out, *, budget: "cpu" | "full", seed, <options of its own>) -> {"checks": [...], <the paper's own results>}

Each writes into the folder `out` (FILES) and nowhere else; `parts.part` keeps what is done, so that a call that was
interrupted goes on where it stopped. What its figures depend on (DECIDES) is the same in every call on a folder; other
options choose what is run, and the lines of `methods` say of which table and seed they are. Before a folder is begun or
what it holds deleted, READY has seen that the options are sound and the images there.
"""

from collections.abc import Callable
from typing import Any

from likewise.papers import drlim, exemplar, methods

BUDGETS = ("cpu", "full")
ASKED = "asked.json"  # with what a folder was begun
FILES = (ASKED, "results.json", "README.md", "figures", "parts", "runs.jsonl", "runs", "match", "pairs")
PAPERS: dict[str, Callable[..., dict[str, Any]]] = {
    "drlim": drlim.reproduce,
    "exemplar": exemplar.reproduce,
    "methods": methods.reproduce,
}
DECIDES: dict[str, tuple[str, ...]] = {
    "drlim": ("budget", "seed"),
    "exemplar": ("budget", "seed", "steps"),
    "methods": (),
}

READY: dict[str, Callable[..., None]] = {"drlim": drlim.ready, "exemplar": exemplar.ready, "methods": methods.ready}

__all__ = ["ASKED", "BUDGETS", "DECIDES", "FILES", "PAPERS", "READY"]
