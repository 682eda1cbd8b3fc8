"""What reproductions share: parts that are done once, checks against bars, tables."""

import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure

from likewise.errors import UsageError
from likewise.files import read_json, read_toml, write, write_json
from likewise.progress import say
from likewise.verbs.pretrain import HARDWARE
from likewise.verbs.settings import BUDGET, differences, make_plan

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#9a9a9a"  # of all figures; the first two for the colour-blind too
COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "=": operator.eq}


def part(out: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` finds, kept in out/parts/name.json with its `seconds` by the clock and of the processor.

    What is done is not done again, and what an attempt that was stopped has spent is counted.
    """
    file, attempts = out / "parts" / f"{name}.json", out / "parts" / f"{name}.spent"
    if not file.is_file():
        say(f"{name} ...")
        earlier = read_json(attempts) if attempts.is_file() else {"seconds": 0.0, "processor_seconds": 0.0}
        started, worked = time.perf_counter(), time.process_time()

        def took() -> dict[str, float]:
            now = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - worked}
            return {key: earlier[key] + value for key, value in now.items()}

        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = make()
        except BaseException:
            write_json(attempts, took())
            raise
        write_json(file, {**found, **took()})
        attempts.unlink(missing_ok=True)
    return read_json(file)


def save_figure(figure: Figure, path: Path, **how: Any) -> None:
    """A PNG, whole or not at all."""
    write(path, lambda file: figure.savefig(file, format="png", dpi=110, **how))


def finished(run: Path, asked: Mapping[str, Any], states: Sequence[str] = ("finished",)) -> bool:
    """Whether a run folder is in one of these states: trained to its end, and by the settings `asked` of `pretrain`.

    Raises UsageError where it was by others.
    """
    status = run / "status.json"
    if not (status.is_file() and read_json(status).get("state") in states):
        return False
    saved = read_toml(run / "resolved.toml")
    plan = make_plan({key: value for key, value in asked.items() if key != "patches"}, saved["size"])
    for key, was, value in differences(saved, {**plan.flat(), "patches": asked.get("patches", saved.get("patches"))}):
        if key not in (*HARDWARE, *BUDGET, "device", "precision", "init_from"):
            raise UsageError(f"{key}={value}: {run} has {was}; choose another --out, or --overwrite")
    if plan.config.steps not in (None, saved["steps"]):
        raise UsageError(f"steps={plan.config.steps}: {run} has {saved['steps']}; choose another --out, or --overwrite")
    return True


def check(id: str, what: str, value: float | int, compare: str, bar: float | int) -> dict[str, Any]:
    """One claim with its bar: {id, what, value, bar, ok}.

    >>> check("rank", "features in use", 60.0, ">", 50)["ok"]
    True
    """
    ok = not math.isnan(value) and bool(COMPARE[compare](value, bar))
    return {"id": id, "what": what, "value": value, "bar": f"{compare} {round(bar, 4):,}", "ok": ok}


def mean_of(runs: Sequence[Mapping[str, Any]], figure: str) -> float:
    """The mean of a figure over several seeds; not a number where no run has it."""
    values = [run[figure] for run in runs if figure in run]
    return fmean(values) if values else math.nan


def mean_and_spread(runs: Sequence[Mapping[str, Any]], figure: str) -> str:
    """ "0.912 ± 0.003": mean and deviation over seeds, or "" where no run has the figure."""
    values = [run[figure] for run in runs if figure in run]
    if not values:
        return ""
    return f"{fmean(values):.3g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
