"""What is listed where: the hand-written tables, as rows for people and programs."""

import inspect
import re
from typing import Any

from likewise.coresets import SELECTORS
from likewise.encoders import ENCODERS
from likewise.evaluation import EVALUATIONS, PROBES
from likewise.images import DATASETS
from likewise.methods import METHODS, title


def catalogue(kind: str) -> list[dict[str, Any]]:
    """The rows of `likewise list KIND`."""
    if kind == "methods":
        return [
            {"name": name, "family": made.family, **_year_and_idea(title(made)), "needs": ", ".join(made.needs) or None}
            for name, made in sorted(METHODS.items())
        ]
    if kind == "datasets":
        return [{"name": name, **about} for name, about in sorted(DATASETS.items())]
    tables: dict[str, dict[str, Any]] = {
        "encoders": dict(ENCODERS),
        "selectors": dict(SELECTORS),
        "evaluations": {**EVALUATIONS, **PROBES},
    }
    table = tables[kind]
    return [{"name": name, "what": _first_line(entry)} for name, entry in sorted(table.items())]


def _year_and_idea(line: str) -> dict[str, Any]:
    """From "Name (authors, year): the idea."."""
    match = re.fullmatch(r".*?\(.*?(\d{4})\): (.*)", line)
    return {"year": int(match[1]), "idea": match[2]} if match else {"year": None, "idea": line}


def _first_line(entry: Any) -> str:
    return (inspect.getdoc(entry) or "").strip().split("\n")[0]
