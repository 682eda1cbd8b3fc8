"""CONTRIBUTING shows how a method is added. What it shows works."""

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import test_contract_methods as battery
from likewise.errors import UsageError
from likewise.images import open_images
from likewise.methods import METHODS, find, title
from likewise.verbs.pretrain import pretrain

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
PIXELS = np.random.default_rng(0).integers(0, 256, (battery.N, battery.SIZE, battery.SIZE, 3), dtype=np.uint8)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The file of the page, where Python finds it."""
    (code,) = re.findall(r"   ```python\n(.*?)   ```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "align_uniform.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    yield "align_uniform:AlignUniform"
    sys.modules.pop("align_uniform", None)


def test_the_example_passes_the_battery(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file and one line in METHODS: then it is tested as all others are."""
    made = find(example)
    assert title(made).endswith(".")
    monkeypatch.setitem(METHODS, "align-uniform", made)
    images = open_images(PIXELS)
    checks = [
        battery.test_terms_are_finite_scalars,
        battery.test_terms_are_finite_in_bfloat16,
        battery.test_gradient_reaches_every_trained_parameter_and_no_teacher,
        battery.test_draws_nothing_from_the_global_generator,
        battery.test_state_round_trips,
        battery.test_evaluation_changes_nothing,
        battery.test_one_batch_can_be_fitted,
    ]
    for check in checks:
        check(battery.make("align-uniform", "convnet", images), images)


def test_the_example_trains_from_where_it_is(example: str, tmp_path: Path) -> None:
    """No line at all: package.module:Class."""
    settings = {"size": 16, "width": 8, "steps": 3, "batch_size": 4, "precision": "fp32", "spread_weight": 2.0}
    result = pretrain(open_images(PIXELS), out=tmp_path / "run", method=example, **settings)
    assert set(result["final"]) == {"alignment", "uniformity"}


@pytest.mark.parametrize("name", ["nowhere:Thing", "align_uniform:Nothing", "align_uniform:Tensor"])
def test_what_is_no_method_gets_one_clear_line(example: str, name: str) -> None:
    with pytest.raises(UsageError, match=f"method '{name}'"):
        find(name)
