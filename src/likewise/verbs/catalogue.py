"""What is listed where: the hand-written tables, as rows for people and programs."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from likewise.coresets import SELECTORS
from likewise.encoders import ENCODERS
from likewise.evaluation import EVALUATIONS, PROBES
from likewise.images import DATASETS
from likewise.methods import METHODS, title
from likewise.verbs.settings import keywords
from likewise.views import RECIPES


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
        "views": dict(RECIPES),
    }
    table = tables[kind]
    rows: list[dict[str, Any]] = [{"name": name, "what": _first_line(entry)} for name, entry in sorted(table.items())]
    if kind == "views":
        return [{**row, "settings": ", ".join(keywords(RECIPES[row["name"]])) or None} for row in rows]
    return rows


def methods_page(measured: Mapping[str, Any]) -> str:
    """docs/methods.md: the taxonomy, from the methods' own first lines and what benchmarks/methods.py measured.

    A method that was not measured yet has empty cells.
    """
    text = [
        "# Methods",
        "",
        "Made by `python benchmarks/methods.py` from the methods' files; do not edit. Loss terms are those that",
        "training logs. Cost is processor time per image of a training step, views included, relative to SimCLR on the",
        f"same encoder, to about a tenth, measured on {measured['date']} with torch {measured['torch']}. What each has",
        "been shown to learn is in [results/methods-cpu](results/methods-cpu/README.md).",
    ]
    rows = catalogue("methods")
    for family in sorted({row["family"] for row in rows}):
        text += ["", f"## {family.capitalize()}", ""]
        text += ["| method | year | idea | loss terms | needs | cost |", "| --- | --- | --- | --- | --- | --- |"]
        for row in sorted((row for row in rows if row["family"] == family), key=lambda row: (row["year"], row["name"])):
            found = measured["methods"].get(row["name"], {"cost": "", "terms": []})
            cells = [row["name"], row["year"], row["idea"], ", ".join(found["terms"])]
            text.append("| " + " | ".join(map(str, [*cells, row["needs"] or "any encoder", found["cost"]])) + " |")
    return "\n".join(text) + "\n"


def _year_and_idea(line: str) -> dict[str, Any]:
    """From "Name (authors, year): the idea."."""
    match = re.fullmatch(r".*?\(.*?(\d{4})\): (.*)", line)
    return {"year": int(match[1]), "idea": match[2]} if match else {"year": None, "idea": line}


def _first_line(entry: Any) -> str:
    return (inspect.getdoc(entry) or "").strip().split("\n")[0]
