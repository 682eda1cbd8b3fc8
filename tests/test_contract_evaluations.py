"""What every evaluation that is listed must do."""

import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from likewise.errors import DataError, UsageError
from likewise.evaluation import EVALUATIONS, describe
from likewise.types import Embeddings

LABEL_FREE = {"health"}

pytestmark = pytest.mark.parametrize("name", EVALUATIONS)


def side(n, seed, first, labels=True):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 3, n)
    x = (np.eye(3, 8)[y] + 0.1 * generator.normal(size=(n, 8))).astype(np.float32)
    return Embeddings(x, np.arange(first, first + n), [""] * n, y if labels else None)


def test_figures_are_flat_and_finite(name):
    train, test = side(90, 0, 0), side(40, 1, 90)
    before = train.x.copy()
    result = EVALUATIONS[name](train, test)
    assert result["version"].startswith(f"{name}-v")
    for key, value in result.items():
        if key != "version":
            assert isinstance(value, bool | int | float)
            assert math.isfinite(value)
    assert json.loads(json.dumps(result)) == result
    assert np.array_equal(train.x, before)
    if name not in LABEL_FREE:
        assert result["accuracy"] > 0.8
    assert describe({name: result}) != "Nothing was measured."


def test_every_figure_is_explained(name):
    page = (Path(__file__).parents[1] / "docs" / "figures.md").read_text()
    figures = EVALUATIONS[name](side(300, 0, 0), side(40, 1, 300))
    assert [key for key in figures if key != "version" and f"`{key}`" not in page] == []


def test_the_signature_is_the_contract(name):
    parameters = list(inspect.signature(EVALUATIONS[name]).parameters.values())
    assert [p.name for p in parameters[:2]] == ["train", "test"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not p.empty for p in parameters[2:])


def test_the_same_call_gives_the_same_figures(name):
    train, test = side(90, 0, 0), side(40, 1, 90)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert EVALUATIONS[name](train, test) == EVALUATIONS[name](train, test)
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"


def test_saved_embeddings_give_the_same_figures(name, tmp_path):
    train, test = side(90, 0, 0), side(40, 1, 90)
    mapped = Embeddings.load(train.save(tmp_path))
    assert EVALUATIONS[name](mapped, test) == pytest.approx(EVALUATIONS[name](train, test))


def test_labels_that_are_missing(name):
    train, test = side(30, 0, 0, labels=False), side(20, 1, 30, labels=False)
    if name in LABEL_FREE:
        assert EVALUATIONS[name](train, test)
        return
    for pair, which in (((train, test), "train"), ((side(30, 0, 0), test), "test")):
        with pytest.raises(UsageError, match=f"^labels: the {which} images have none") as error:
            EVALUATIONS[name](*pair)
        assert "\n" not in str(error.value)
    one = Embeddings(train.x, train.keys, train.paths, np.zeros(30, dtype=np.int64))
    with pytest.raises(UsageError, match=r"^labels: the train images have 1 class; this protocol needs at least 2$"):
        EVALUATIONS[name](one, one)


def test_features_that_are_not_finite(name):
    train, test = side(30, 0, 0), side(20, 1, 30)
    bad = train.x.copy()
    bad[3, 0], bad[9] = np.nan, np.inf
    with pytest.raises(DataError, match=r"^train: the features of 2 of 30 images hold NaN or infinity$"):
        EVALUATIONS[name](Embeddings(bad, train.keys, train.paths, train.labels), test)


def test_tiny_sets(name):
    train = Embeddings(np.eye(2, dtype=np.float32), np.arange(2), ["", ""], np.array([0, 1]))
    result = EVALUATIONS[name](train, train)
    assert all(math.isfinite(value) for key, value in result.items() if key != "version")
