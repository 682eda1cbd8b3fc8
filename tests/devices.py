"""Every method, selector and encoder works where its tensors lie on another device (see `elsewhere`)."""

import copy
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from elsewhere import NAME, Elsewhere, moved, pretended
from likewise.coresets import SELECTORS, select
from likewise.encoders import External, build
from likewise.images import ImageSet, open_images
from likewise.training import fit as loop
from likewise.training.optim import make_optimizer
from likewise.training.state import load_state
from likewise.types import TrainConfig
from likewise.verbs.pretrain import make_method
from likewise.verbs.settings import make_plan
from likewise.views import View
from test_contract_methods import PAIRS, SIZE, N, make

CONFIG = TrainConfig(steps=2, batch_size=N, device=NAME, precision="fp32", optimizer="muon", lr=1e-3, threads=1)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)
    return open_images(pixels, labels=np.arange(N) % 2)


@pytest.mark.parametrize(("name", "encoder"), dict(PAIRS[::-1]).items())  # one encoder each, the first
def test_trains_and_goes_on_there(
    name: str, encoder: str, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "usable_device", lambda device: device)
    method = make(name, encoder, images)
    with pretended():
        loop.fit(method, images, CONFIG, tmp_path)
        other = moved(copy.deepcopy(make(name, encoder, images)))
        optimizer = make_optimizer(other.param_groups(), CONFIG)
        assert load_state(tmp_path, other, optimizer) is not None
    for module in (method, other):
        for what, value in (*module.named_parameters(), *module.named_buffers()):
            assert isinstance(value, Elsewhere), what
    for key, value in method.state_dict().items():
        one, same = (getattr(part, "held", part) for part in (value, other.state_dict()[key]))
        assert torch.equal(one, same), key  # what an encoder adds to its weights (its scale) lies at hand


@pytest.mark.parametrize("room", [loop.TOGETHER, 3 * N * 3 * SIZE**2])
@pytest.mark.parametrize(
    ("method", "recipe", "calls"), [("simclr", "strong", 1), ("dino", "multi-crop", 3), ("byol", "asymmetric", 2)]
)
def test_views_are_made_there_as_here(
    method: str, recipe: str, calls: int, room: int, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those alike in one call, or as many as there is room for."""
    monkeypatch.setattr(loop, "TOGETHER", room)
    made = make_method(make_plan({"method": method, "encoder": "convnet", "views": recipe, "steps": 1}, SIZE), images)
    rows = torch.arange(N).unsqueeze(1)
    source = images.source(rows.flatten().numpy())
    here = loop.make_batch(made, images, rows, source, 0.0, loop.replace(CONFIG, device="cpu"), 3, 5)
    made_in, call = list[int](), View.__call__
    monkeypatch.setattr(View, "__call__", lambda self, *given: made_in.append(1) or call(self, *given))
    with pretended():
        there = loop.make_batch(made, images, rows, source, 0.0, CONFIG, 3, 5)
    assert len(made_in) == calls + (recipe == "multi-crop" and room != 2**26)  # six local views in two calls of three
    assert len(here.views) == len(there.views) == len(made.views)
    for one, other in zip(here.views, there.views, strict=True):
        assert isinstance(other, Elsewhere)
        torch.testing.assert_close(other.held, one)
    assert len({float(view.sum()) for view in here.views}) == len(made.views)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars", "muon"])
def test_optimizers_step_there_as_here(
    optimizer: str, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "usable_device", lambda device: device)
    config = loop.replace(CONFIG, optimizer=optimizer, clip=1.0)
    here, there = (make("rotnet", "convnet", images) for _ in range(2))
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    loop.fit(here, images, loop.replace(config, device="cpu"), tmp_path / "here")
    with pretended():
        loop.fit(there, images, config, tmp_path / "there")
    for key, value in here.state_dict().items():
        torch.testing.assert_close(there.state_dict()[key].held, value, msg=key)


@pytest.mark.parametrize("all_there", [False, True])
@pytest.mark.parametrize("name", SELECTORS)
def test_selects_there_as_here(name: str, all_there: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(100, 8, generator=generator), torch.randn(10, 8, generator=generator)
    other = {"target": target, "scores": torch.rand(100, generator=generator), "labels": torch.arange(100) % 4}
    other = {key: value for key, value in other.items() if key in inspect.signature(SELECTORS[name]).parameters}
    other["chosen"] = torch.tensor([1, 5])
    here = select(x, name, 10, **other)
    with pretended():
        if all_there:
            other = {key: value.to(NAME) for key, value in other.items()}
        there = select(x.to(NAME), name, 10, **other)
    assert np.array_equal(here.indices, there.indices)


@pytest.mark.parametrize("name", ["simclr", "jigsaw", "colourisation", "rotnet"])
def test_takes_an_encoder_that_is_there(name: str, images: ImageSet) -> None:
    encoder = moved(build("convnet", images.info(32), width=8))
    with pretended():
        make_method(make_plan({"method": name, "encoder": encoder, "size": 32, "steps": 1}, 32), images)
        External(moved(torch.nn.Conv2d(3, 4, 4, 4)), images.info(32))
