"""The verb `reproduce`: a paper's experiments again, its claims as checks, its figures, one page."""

import time
from pathlib import Path
from typing import Any

from likewise.errors import UsageError
from likewise.files import new_folder, write_json
from likewise.papers import BUDGETS, FILES, PAPERS
from likewise.types import pick
from likewise.verbs.pretrain import environment


def reproduce(
    paper: str, out: Path, *, budget: str = "cpu", seed: int = 0, resume: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Run a paper's experiments into the folder `out`. Returns what `--json` prints.

    With `resume`, what `out` holds already is not done again. Raises DataError where the images are missing.
    """
    run = pick(PAPERS, paper, "paper")
    if budget not in BUDGETS:
        raise UsageError(f"--budget {budget}: expected {' or '.join(BUDGETS)}")
    if not (resume and out.is_dir()):
        new_folder(out, FILES, overwrite=overwrite)
    started = time.perf_counter()
    found = run(out, budget=budget, seed=seed)
    seconds = time.perf_counter() - started
    results = {"paper": paper, "budget": budget, "seed": seed, "environment": environment(), **found}
    write_json(out / "results.json", results)
    return {
        "paper": paper,
        "budget": budget,
        "seconds": seconds,
        "results": str(out / "results.json"),
        "checks": found["checks"],
    }
