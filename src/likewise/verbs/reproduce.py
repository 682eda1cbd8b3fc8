"""The verb `reproduce`: a paper's experiments again, its claims as checks, its figures, one page."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from likewise.errors import UsageError
from likewise.files import new_folder, write_json
from likewise.papers import BUDGETS, FILES, PAPERS
from likewise.types import pick, typed
from likewise.verbs.pretrain import environment
from likewise.verbs.settings import keywords


def reproduce(
    paper: str,
    out: Path,
    *,
    budget: str = "cpu",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a paper's experiments into the folder `out`. Returns what `--json` prints.

    With `resume`, what `out` holds already is not done again. `options` are the paper's own, to run a part of it.
    Raises DataError where the images are missing.
    """
    run = pick(PAPERS, paper, "paper")
    own = {key: value for key, value in keywords(run).items() if key not in ("budget", "seed")}
    given = {}
    for key, value in (options or {}).items():
        if key not in own:
            raise UsageError(f"--set {key}: {paper} takes {', '.join(own) or 'no options'}")
        given[key] = typed(key, value, own[key][1])
    if budget not in BUDGETS:
        raise UsageError(f"--budget {budget}: expected {' or '.join(BUDGETS)}")
    if not (resume and out.is_dir()):
        new_folder(out, "reproduction", FILES, overwrite=overwrite)
    started = time.perf_counter()
    found = run(out, budget=budget, seed=seed, **given)
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
