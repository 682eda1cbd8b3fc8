"""The verb `reproduce`: a paper's experiments again, its claims as checks, its figures, one page."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from likewise.errors import UsageError
from likewise.files import check_claim, claim, new_folder, read_json, write_json
from likewise.papers import ASKED, BUDGETS, DECIDES, FILES, PAPERS, READY
from likewise.types import pick, typed
from likewise.verbs.pretrain import environment
from likewise.verbs.settings import keywords

MOST_SEED = 2**32 - 1000  # numpy and scikit-learn take 32 bits, and a table takes the seeds that follow


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
    Raises DataError where the images are missing, UsageError where `out` was begun with what gives other figures.
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
    if not 0 <= seed < MOST_SEED:
        raise UsageError(f"--seed {seed}: expected a whole number from 0 to {MOST_SEED - 1}")
    every = {"budget": budget, "seed": seed, **{key: default for key, (default, _) in own.items()}, **given}
    asked = {"paper": paper, **{key: every[key] for key in DECIDES[paper]}}
    if resume and any((out / name).exists() for name in FILES):
        _go_on(out, asked)
    else:
        check_claim(out, "reproduction", overwrite=overwrite or resume)
        READY[paper](budget=budget, **given)
        new_folder(out, "reproduction", FILES, overwrite=overwrite or resume)
        write_json(out / ASKED, asked)
    started = time.perf_counter()
    try:
        found = run(out, budget=budget, seed=seed, **given)
    except Exception:
        if not any((out / name).exists() for name in FILES if name != ASKED):  # it failed before anything was begun
            (out / ASKED).unlink(missing_ok=True)
        raise
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


def _go_on(out: Path, asked: dict[str, Any]) -> None:
    """Refuse a folder that was begun with something else, if it says with what."""
    claim(out, "reproduction", overwrite=True)
    if (out / ASKED).is_file():
        before = read_json(out / ASKED)
        for name, value in asked.items():
            if before.get(name) != value:
                was, now = ("not given" if v is None else v for v in (before.get(name), value))
                raise UsageError(
                    f"--resume {out}: {name} was {was}, and is {now}; choose another --out, or --overwrite"
                )
