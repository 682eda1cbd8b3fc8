"""What every view operation and every recipe that is listed must do."""

import inspect
from dataclasses import replace

import pytest
import torch

import likewise.views
from likewise.draws import Draws, mix
from likewise.types import Source
from likewise.views import (
    HSV,
    RECIPES,
    Blur,
    Erase,
    Flip,
    Grey,
    Jitter,
    PCAContrast,
    ResizedCrop,
    Rotate,
    Scale,
    Solarise,
    Translate,
    View,
)

GEOMETRY = {type(o).__name__: o for o in (ResizedCrop(), Flip(), Rotate(30.0), Translate(0.3), Scale((0.5, 2.0)))}
COLOUR = {type(o).__name__: o for o in (Jitter(), HSV(), PCAContrast(), Grey(), Blur(), Solarise(), Erase())}
N = 70


def views_of(name, size):
    if name in GEOMETRY:
        return (View(size, (GEOMETRY[name],)), View(size, (GEOMETRY[name],), fill="zeros"))
    if name in COLOUR:
        return (View(size, (), (COLOUR[name],)),)
    return RECIPES[name](size)


every_one = pytest.mark.parametrize("name", [*GEOMETRY, *COLOUR, *RECIPES])
every_channel = pytest.mark.parametrize("channels", [1, 3])


def made_up(n=N, channels=3, side=12):
    generator = torch.Generator().manual_seed(3)
    sizes = torch.randint(side // 2, side + 1, (n, 2), generator=generator)
    pixels = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=generator)
    return Source(pixels, sizes), Draws(0, 4, 2, mix(torch.arange(n)))


def rows(source, draws, ids):
    return Source(source.pixels[ids], source.sizes[ids]), replace(draws, keys=draws.keys[ids])


def same(a, b):
    torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


def test_every_operation_is_listed_here():
    classes = {name for name in likewise.views.__all__ if inspect.isclass(getattr(likewise.views, name))}
    assert classes - {"View", "Geometry", "Colour"} == set(GEOMETRY) | set(COLOUR)


@every_one
def test_the_same_draws_give_the_same_bits_and_another_epoch_does_not(name):
    source, draws = made_up()
    for view in views_of(name, 10):
        first = view(source, draws)
        assert torch.equal(first, view(source, draws))
        if name != "plain":
            assert not torch.equal(first, view(source, replace(draws, epoch=5)))
            assert not torch.equal(first, view(source, replace(draws, seed=5)))
        assert torch.equal(first, view(source, replace(draws, number=5)))


@every_one
def test_an_image_is_treated_alike_in_any_batch(name, monkeypatch):
    source, draws = made_up()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    for view in views_of(name, 10):
        whole = view(source, draws)
        same(view(*rows(source, draws, order)), whole[order])
        same(torch.cat([view(*rows(source, draws, ids)) for ids in torch.arange(N).split(27)]), whole)
        with monkeypatch.context() as patch:  # prepared in many small parts
            patch.setattr("likewise.views.rows.TOGETHER", 3 * 12 * 12 * 8)
            same(view(source, draws), whole)
        same(view(*rows(source, draws, torch.arange(1, N)))[0], whole[1])
        for i in (0, 7):
            height, width = source.sizes[i]
            alone = Source(source.pixels[i : i + 1, :, :height, :width], source.sizes[i : i + 1])
            same(view(alone, replace(draws, keys=draws.keys[i : i + 1]))[0], whole[i])


@every_one
def test_the_number_of_threads_does_not_matter(name):
    source, draws = made_up(side=24)
    for view in views_of(name, 32)[:2]:
        with_one = view(source, draws)
        torch.set_num_threads(2)  # the fixture puts it back
        assert torch.equal(view(source, draws), with_one)
        torch.set_num_threads(1)


@every_one
@every_channel
def test_the_global_generator_and_the_source_are_left_alone(name, channels):
    source, draws = made_up(8, channels)
    before, state = source.pixels.clone(), torch.get_rng_state()
    for view in views_of(name, 8):
        view(source, draws)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(source.pixels, before)


@pytest.mark.parametrize("name", COLOUR)
@every_channel
def test_a_colour_operation_does_not_write_into_its_input(name, channels):
    source, draws = made_up(16, channels)
    images = source.pixels / 255
    before = images.clone()
    COLOUR[name](images, draws)
    assert torch.equal(images, before)


@every_one
@every_channel
@pytest.mark.parametrize("size", [8, 20, 32])
def test_views_are_valid_images_of_their_size(name, channels, size):
    source, draws = made_up(12, channels, 24)
    for view in views_of(name, size):
        images = view(source, draws)
        assert images.shape == (12, channels, view.size, view.size)
        assert images.dtype == torch.float32
        assert images.is_contiguous()
        assert torch.isfinite(images).all()
        assert images.min() >= 0
        assert images.max() <= 1


@every_one
@every_channel
@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_images_stay_finite_and_in_range(name, channels, value):
    source, draws = made_up(40, channels)
    source = Source(torch.full_like(source.pixels, value), source.sizes)
    for view in views_of(name, 9):
        images = view(source, draws)
        assert torch.isfinite(images).all()
        assert images.min() >= 0
        assert images.max() <= 1


@every_one
@every_channel
def test_views_of_the_smallest_images(name, channels):
    source = Source(torch.full((3, channels, 2, 1), 9, dtype=torch.uint8), torch.tensor([[1, 1], [2, 1], [1, 1]]))
    for view in views_of(name, 4):
        assert torch.isfinite(view(source, Draws(0, 0, 0, torch.arange(3)))).all()


@every_one
def test_the_repr_of_a_view_is_its_recipe(name):
    for view in views_of(name, 12):
        assert eval(repr(view), vars(likewise.views)) == view


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_a_size_and_keywords_with_defaults(name):
    first, *others = inspect.signature(RECIPES[name]).parameters.values()
    assert first.name == "size"
    for parameter in others:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty


@pytest.mark.parametrize("name", RECIPES)
def test_the_draws_of_two_alike_views_differ_by_their_scope(name):
    source, draws = made_up(8)
    if name != "plain":
        view = RECIPES[name](10)[0]
        assert not torch.equal(view(source, draws.child("view0")), view(source, draws.child("view1")))


@every_one
def test_views_made_together_are_those_made_one_by_one(name):
    """As on a GPU, where neighbours alike are made in one call."""
    source, draws = made_up(16)
    for view in {*views_of(name, 9), replace(views_of(name, 9)[0], versions=2)}:
        together = view(source.repeated(3), draws.children(["a", "b", "c"])).chunk(3)
        for part, images in zip("abc", together, strict=True):
            same(images, view(source, draws.child(part)))
