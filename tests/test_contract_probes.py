"""What every probe that is listed must do: (encoder, train, test, *, size, draws) -> flat figures."""

import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from likewise.draws import Draws
from likewise.encoders import Pixels
from likewise.encoders.convnet import convnet
from likewise.errors import UsageError
from likewise.evaluation import PROBES, describe
from likewise.images import open_images
from likewise.types import DataInfo

SMALLER = {  # protocols that fix how many images they take
    "caltech101": {"per_class": 6, "n_draws": 2},
    "cifar10-400": {"per_class": 6, "n_draws": 2},
}
NEED_LABELS = {"caltech101", "cifar10", "cifar10-400", "svm"}

# stl10 is bound to the official files: it is tested with the other protocols of its kind.
pytestmark = pytest.mark.parametrize("name", [name for name in PROBES if name != "stl10"])


def images(n, seed, channels=3, labels=True):
    """Stripes, horizontal or vertical, in noise."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, n)
    stripes = np.tile((np.arange(24) // 3 % 2 * 120)[:, None], (1, 24))
    pixels = np.stack([stripes if label else stripes.T for label in y])[:, None].repeat(channels, 1)
    pixels = pixels + generator.integers(0, 100, (n, channels, 24, 24))
    return open_images(pixels.astype(np.uint8), labels=y if labels else None)


def encoder(channels=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return convnet(DataInfo(8, channels, 16), width=8)


def run(name, encoder, train, test):
    draws = Draws(0, 0, 0, torch.from_numpy(train.keys))
    return PROBES[name](encoder, train, test, size=16, draws=draws, **SMALLER.get(name, {}))


def test_every_figure_is_explained(name):
    """Those of one change or layer by the change."""
    page = (Path(__file__).parents[1] / "docs" / "figures.md").read_text()
    figures = run(name, encoder(), images(24, 0), images(12, 1))
    assert [key for key in figures if key != "version" and f"`{key.split('_')[0]}`" not in page] == []


def test_figures_are_flat_and_finite_and_the_same_again(name):
    train, test, made = images(30, 0), images(12, 1), encoder().train()
    before = {key: value.clone() for key, value in made.state_dict().items()}
    state = torch.get_rng_state()
    result = run(name, made, train, test)
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"
    assert made.training, "the encoder was left in another mode"
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items()), "the encoder was changed"
    assert result["version"].startswith(f"{name}-v")
    for key, value in result.items():
        if key != "version":
            assert isinstance(value, bool | int | float)
            assert math.isfinite(value)
    assert json.loads(json.dumps(result)) == result
    assert run(name, made, train, test) == result
    assert describe({name: result}) != "Nothing was measured."


def test_the_signature_is_the_contract(name):
    parameters = inspect.signature(PROBES[name]).parameters
    assert list(parameters)[:3] == ["encoder", "train", "test"]
    assert {"size", "draws"} <= set(parameters)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in list(parameters.values())[3:])


def test_order_and_names_change_nothing(name):
    train, test, made = images(30, 0), images(12, 1), encoder()
    back = run(name, made, train.subset(np.arange(30)[::-1].copy()), test.subset(np.arange(12)[::-1].copy()))
    there = run(name, made, train, test)
    assert back.pop("version") == there.pop("version")
    assert back == pytest.approx(there, rel=1e-4)


def test_grey_images_no_labels_and_encoders_without_maps(name):
    for channels, labels in ((1, True), (3, False)):
        train, test = images(20, 0, channels, labels), images(8, 1, channels, labels)
        for made in (encoder(channels), Pixels(DataInfo(20, channels, 16))):
            if name in NEED_LABELS and not labels:
                with pytest.raises(UsageError, match=r"^labels: "):
                    run(name, made, train, test)
                continue
            result = run(name, made, train, test)
            assert all(math.isfinite(value) for key, value in result.items() if key != "version")
            assert ("accuracy" in result) is labels
