"""Data flows one way: who may import whom, what is never imported, what is public."""

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import likewise

ROOT = Path(likewise.__file__).parent
BASE = {"draws", "errors", "files", "memory", "progress", "signals"}
MAY_IMPORT = {
    "draws": set(),
    "errors": set(),
    "progress": set(),
    "memory": set(),
    "signals": {"progress"},
    "files": {"errors"},
    "types": BASE,
    "relations": BASE,
    "images": BASE | {"types"},
    "views": BASE | {"types"},
    "encoders": BASE | {"types"},
    "methods": BASE | {"types", "relations", "views", "encoders"},
    "embedding": BASE | {"types", "images", "views", "encoders"},
    "evaluation": BASE | {"types", "images", "views"},
    "training": BASE | {"types", "images", "views", "methods", "embedding", "evaluation"},
    "coresets": BASE | {"types"},
    "report": {"errors", "files"},
}
VERBS = {"verbs", "cli", "papers", "__init__", "__main__"}


def package(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """The modules of likewise that a file names, with one part ("methods") or two ("methods.base")."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("likewise"):
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "likewise" else {module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("likewise")}
    return {name.removeprefix("likewise.") for name in found}


def test_every_part_is_known() -> None:
    assert {package(file) for file in ROOT.rglob("*.py")} == set(MAY_IMPORT) | VERBS


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_follow_the_plan(file: Path) -> None:
    mine = package(file)
    if mine in VERBS:
        return
    for name in imports(file):
        part = name.split(".")[0]
        assert part == mine or part in MAY_IMPORT[mine], f"{mine} must not import {part}"
        if mine == "training" and part == "methods":
            assert name == "methods.base", "training knows the contract of methods, and no method"


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_reads_no_pickle_and_postpones_no_annotation(file: Path) -> None:
    text = file.read_text()
    for word in (
        "import pickle",
        "torch.load(",
        "allow_pickle=True",
        "from __future__",
        "LOAD_TRUNCATED_IMAGES = True",
    ):
        if word == "torch.load(" and file.name == "embedding.py":
            continue  # the line that tells a user how to convert
        assert word not in text, word


def test_everything_imports_without_torchvision_and_timm() -> None:
    names = [m.name for m in pkgutil.walk_packages(likewise.__path__, "likewise.") if not m.name.endswith("__main__")]
    code = (
        "import sys, importlib\n"
        "for name in ('torchvision', 'timm', 'cv2', 'umap', 'kornia', 'beartype'): sys.modules[name] = None\n"
        f"for name in {names}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={**os.environ, "MPLBACKEND": "agg"})


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys\nsys.argv = ['likewise', '--help']\nfrom likewise.cli import main\n"
        "try: main()\nexcept SystemExit as stop: assert stop.code in (0, None), stop.code\n"
        "assert not {'torch', 'numpy', 'sklearn', 'PIL'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_public_names_are_what_is_exported() -> None:
    assert likewise.__all__ == sorted(likewise.__all__)
    assert set(likewise._HOME) == set(likewise.__all__)
    for name in likewise.__all__:
        assert getattr(likewise, name).__module__.startswith("likewise.")
        assert getattr(likewise, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = likewise.nothing


def test_public_functions_of_packages_are_documented() -> None:
    for info in pkgutil.iter_modules(likewise.__path__, "likewise."):
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if callable(value):
                assert value.__doc__, f"{info.name}.{name} has no docstring"
