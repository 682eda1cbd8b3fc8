"""What every listed method must do. A method is tested by being listed."""

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from likewise.draws import Draws
from likewise.embedding import weights_hash
from likewise.encoders import ENCODERS, build
from likewise.errors import UsageError
from likewise.images import ImageSet, open_images
from likewise.methods import METHODS, Method, recipe, title
from likewise.methods.parts import Teacher
from likewise.training.fit import make_batch
from likewise.training.optim import OPTIMIZERS
from likewise.types import Batch, DataInfo, TrainConfig
from likewise.verbs.pretrain import make_method
from likewise.verbs.settings import keywords, make_plan
from likewise.views import RECIPES

SIZE, N = 16, 8
CONFIG = TrainConfig(steps=4, batch_size=N, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)
    return open_images(pixels, labels=np.arange(N) % 2)


PAIRS = [
    (name, encoder)
    for name, made in METHODS.items()
    for encoder in ("convnet", "vit-nano")
    if encoder == "vit-nano" or "a ViT encoder" not in made.needs  # which they say: see test_needs_are_errors
]


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(pair))
def method(request: pytest.FixtureRequest, images: ImageSet) -> Method:
    return make(*request.param, images)


def make(name: str, encoder: str, images: ImageSet, views: str | None = None) -> Method:
    torch.manual_seed(0)
    made, data = METHODS[name], images.info(SIZE)
    options = {"labels": torch.from_numpy(images.labels)} if "labels" in made.needs else {}
    small = {"width": 16} if encoder == "convnet" else {"depth": 2}
    method = made(build(encoder, data, **small), data, views=RECIPES[views or made.default_views](SIZE), **options)
    if method.looks:
        with torch.no_grad():
            method.look(batch_of(method, images))
    method.begin_epoch(0, Draws(0, 0, 0, torch.from_numpy(images.keys)))
    return method


def batch_of(method: Method, images: ImageSet, epoch: int = 0) -> Batch:
    draws = Draws(0, epoch, 0, torch.from_numpy(images.keys))
    rows = method.order(epoch, draws)[:N]
    return make_batch(method, images, rows, images.source(rows.flatten().numpy()), 0.5, CONFIG, epoch, 0)


def parts(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.state_dict().items()


def test_terms_are_finite_scalars(method: Method, images: ImageSet) -> None:
    step = method.step(batch_of(method, images))
    assert step.terms
    for name, value in {**step.terms, **step.shown}.items():
        assert value.shape == (), name
        assert torch.isfinite(value), name
    assert all(not value.requires_grad for value in step.shown.values())
    assert step.score is None or (torch.isfinite(step.score).all() and not step.score.requires_grad)


def test_what_is_shown_is_explained(method: Method, images: ImageSet) -> None:
    page = (Path(__file__).parents[1] / "docs" / "figures.md").read_text().partition("## pretrain")[2]
    explained = set(re.findall(r"`([^`]+)`", page))
    assert {"loss", "rank", "knn", *method.step(batch_of(method, images)).shown} <= explained


def test_terms_are_finite_in_bfloat16(method: Method, images: ImageSet) -> None:
    batch = batch_of(method, images)
    with torch.autocast("cpu", torch.bfloat16):
        step = method.step(batch)
    assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in step.terms.values())


def test_gradient_reaches_every_trained_parameter_and_no_teacher(method: Method, images: ImageSet) -> None:
    sum(method.step(batch_of(method, images)).terms.values()).backward()
    for name, p in method.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, f"no gradient at {name}"
            assert torch.isfinite(p.grad).all(), f"gradient at {name}"
    reached = [p.grad.abs().sum() > 0 for p in method.encoder.parameters() if p.requires_grad]
    assert all(reached)
    for part in method.modules():
        if isinstance(part, Teacher):
            assert all(p.grad is None and not p.requires_grad for p in part.parameters())


def test_draws_nothing_from_the_global_generator(method: Method, images: ImageSet) -> None:
    batch = batch_of(method, images)
    state = torch.get_rng_state()
    method.step(batch)
    method.after_step(0.5)
    method.order(1, Draws(0, 1, 0, torch.from_numpy(images.keys)))
    assert torch.equal(state, torch.get_rng_state())


def test_stores_no_tensor_twice(method: Method) -> None:
    places: dict[int, str] = {}
    for name, value in parts(method):
        if value.numel():
            assert value.data_ptr() not in places, f"{name} is also {places.get(value.data_ptr())}"
            places[value.data_ptr()] = name


def test_state_round_trips(method: Method, images: ImageSet) -> None:
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    sum(method.step(batch_of(method, images)).terms.values()).backward()
    optimizer.step()
    method.after_step(0.5)
    saved, batch = copy.deepcopy(method.state_dict()), batch_of(method, images, epoch=1)
    ahead = {name: float(value.detach()) for name, value in method.step(batch).terms.items()}
    method.load_state_dict(saved)
    assert {name: float(value.detach()) for name, value in method.step(batch).terms.items()} == ahead


def test_what_moves_is_saved(method: Method, images: ImageSet) -> None:
    """A buffer that is not in the state is made anew by a resume: it must be what it was made as."""
    saved, start = method.state_dict(), copy.deepcopy(dict(method.named_buffers()))
    for epoch in (1, 2):
        method.begin_epoch(epoch, Draws(0, epoch, 0, torch.from_numpy(images.keys)))
        method.step(batch_of(method, images, epoch))
        method.after_step(0.5)
    for name, buffer in method.named_buffers():
        assert name in saved or torch.equal(buffer, start[name]), name


def test_evaluation_changes_nothing(method: Method, images: ImageSet) -> None:
    method.eval()
    before = weights_hash(method)
    with torch.no_grad():
        method.step(batch_of(method, images))
    assert weights_hash(method) == before


def players(method: Method, batch: Batch) -> list[tuple[set[str], set[str]]]:
    """Terms and the parameters that they move; terms that share a parameter go together. A game has two players."""
    found: list[tuple[set[str], set[str]]] = []
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    for term, value in method.step(batch).terms.items():
        slopes = torch.autograd.grad(value, list(trained.values()), retain_graph=True, allow_unused=True)
        moved = {name for name, slope in zip(trained, slopes, strict=True) if slope is not None}
        with_it = [player for player in found if player[1] & moved]
        found = [player for player in found if player not in with_it]
        found.append(({term}.union(*(t for t, _ in with_it)), moved.union(*(p for _, p in with_it))))
    return found


def test_one_batch_can_be_fitted(method: Method, images: ImageSet) -> None:
    """With buffers held (teachers, queues, centres): a moving target may make a right loss rise at first.

    For the same reason a game's players learn one at a time, the other held.
    """
    batch, start = batch_of(method, images), copy.deepcopy(method.state_dict())
    for terms, moved in players(method, batch):
        method.load_state_dict(start)
        optimizer = torch.optim.Adam([p for name, p in method.named_parameters() if name in moved], lr=3e-3)
        losses, held = [], copy.deepcopy(dict(method.named_buffers()))
        for _ in range(30):
            method.zero_grad()
            for name, buffer in method.named_buffers():
                buffer.copy_(held[name])
            made = method.step(batch).terms
            loss = torch.stack([made[term] for term in sorted(terms)]).sum()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0] - 0.05 * abs(losses[0]), terms


def test_order_lists_ids_and_follows_the_draws(method: Method, images: ImageSet) -> None:
    draws = Draws(0, 3, 0, torch.from_numpy(images.keys))
    order = method.order(3, draws)
    assert order.ndim == 2
    assert int(order.min()) >= 0
    assert int(order.max()) < N
    assert torch.equal(order, method.order(3, draws))
    assert not torch.equal(order, method.order(4, Draws(0, 4, 0, torch.from_numpy(images.keys))))


def test_pictures_are_images(method: Method, images: ImageSet) -> None:
    for name, picture in method.pictures(batch_of(method, images)).items():
        assert picture.ndim == 4, name
        assert 0 <= float(picture.min()) <= float(picture.max()) <= 1, name


def test_groups_hold_every_trained_parameter_once(method: Method) -> None:
    grouped = [p for group in method.param_groups() for p in group["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in method.parameters() if p.requires_grad}


@pytest.mark.parametrize(("name", "encoder"), [pair for pair in PAIRS if METHODS[pair[0]].multi_crop])
def test_multi_crop_is_learned_from(name: str, encoder: str, images: ImageSet) -> None:
    """Every view has a say: without any one of them the gradient is another."""
    method = make(name, encoder, images, "multi-crop")
    batch = batch_of(method, images)
    assert [view.shape[2] for view in batch.views] == [16] * 2 + [8] * 6
    seen = [view.clone().requires_grad_() for view in batch.views]
    step = method.step(replace(batch, views=seen))
    assert step.score is None or len(step.score) == N
    torch.stack(list(step.terms.values())).sum().backward()
    for view in seen:
        assert view.grad is not None
        assert bool(view.grad.abs().sum() > 0)


@pytest.mark.parametrize("name", [name for name, made in METHODS.items() if not made.multi_crop])
def test_multi_crop_is_refused_where_the_formula_has_no_room_for_it(name: str, images: ImageSet) -> None:
    settings = {"method": name, "views": "multi-crop", "steps": 1, "size": SIZE}
    with pytest.raises(UsageError, match=f"views='multi-crop': makes 8 of an image; {name} takes [12]$"):
        make_method(make_plan(settings, SIZE), images)


@pytest.mark.parametrize("name", METHODS)
def test_is_documented_and_has_a_recipe(name: str) -> None:
    made = METHODS[name]
    assert title(made).endswith("."), title(made)
    assert "): " in title(made), "the first line is: Name (authors, year): the idea in a sentence."
    config = recipe(made)
    assert config.optimizer in OPTIMIZERS
    assert made.default_views in RECIPES
    assert sum(value is not None for value in (config.epochs, config.steps, config.minutes)) == 1


def test_needs_are_errors(images: ImageSet) -> None:
    data = images.info(SIZE)
    for made in METHODS.values():
        views = RECIPES[made.default_views](SIZE)
        if "a ViT encoder" in made.needs:
            with pytest.raises(UsageError, match="ViT"):
                made(build("convnet", data), data, views=views)
        if "labels" in made.needs:
            with pytest.raises(UsageError, match="labels"):
                made(build("convnet", data), data, views=views)


def test_settings_share_one_name_space() -> None:
    """Flags, recipe keys and keywords are flat: no name may mean two things in one run."""
    training = set(TrainConfig.__dataclass_fields__) | {"method", "encoder", "views", "size", "labels", "subset", "out"}
    of_methods = set().union(*(keywords(made) for made in METHODS.values()))
    of_encoders = set().union(*(keywords(entry) for entry in ENCODERS.values()))
    of_views = set().union(*(keywords(entry) for entry in RECIPES.values()))
    groups = [training, of_methods, of_encoders, of_views]
    for i, a in enumerate(groups):
        for b in groups[i + 1 :]:
            assert not a & b


def test_data_info_is_all_a_method_knows() -> None:
    assert set(DataInfo.__dataclass_fields__) == {"n_images", "channels", "size"}
