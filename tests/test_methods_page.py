"""What the code says of methods is what the page says; and a method is known to its own file and to the table."""

import ast
import json
import re
from pathlib import Path

import pytest

import likewise
from likewise.methods import METHODS
from likewise.verbs.catalogue import methods_page

ROOT, DOCS = Path(likewise.__file__).parent, Path(__file__).parents[1] / "docs"
# Who else may name one: the default and the frame of comparisons, and the papers that a method was reproduced for.
NAMED = {"simclr", "supervised", "drlim", "exemplar"}


def test_the_page_is_current() -> None:
    """Else: python benchmarks/methods.py --write-only."""
    assert (DOCS / "methods.md").read_text() == methods_page(json.loads((DOCS / "methods.json").read_text()))


def test_a_method_that_was_not_measured_is_listed_too() -> None:
    text = methods_page({"date": "today", "torch": "2", "methods": {}})
    assert all(f"| {name} |" in text for name in METHODS)


def test_every_method_names_its_year() -> None:
    page = (DOCS / "methods.md").read_text()
    assert "None" not in page


def words(file: Path) -> str:
    """The code without docstrings and comments, and without what one method imports from another."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    if file.parent.name == "methods" and file.name != "__init__.py":
        taken = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module != file.stem]
        tree.body = [node for node in tree.body if node not in taken]
        built_on = {alias.name for node in taken for alias in node.names}
        return re.sub(rf"\b({'|'.join(built_on)})\b", "", ast.unparse(tree))
    return ast.unparse(tree)


@pytest.fixture(scope="module")
def code() -> dict[str, str]:
    return {str(file.relative_to(ROOT)): words(file) for file in ROOT.rglob("*.py")}


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NAMED])
def test_two_files_know_a_method(name: str, code: dict[str, str]) -> None:
    """The cost of change: to add or drop a method its file and one line of the table are touched."""
    made = METHODS[name]
    module = made.__module__.rsplit(".", 1)[1]
    known = re.compile("|".join(rf"(?<![\w-]){word}(?![\w-])" for word in {name, made.__name__, module}))
    knowing = {file for file, text in code.items() if known.search(text)}
    assert knowing == {f"methods/{module}.py", "methods/__init__.py"}
