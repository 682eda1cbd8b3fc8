"""Seed patches: where they are drawn, what is kept around them, what can give none."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from likewise import progress
from likewise.draws import Draws
from likewise.embedding import features
from likewise.encoders import Pixels
from likewise.errors import DataError, UsageError
from likewise.images import open_images, patches
from likewise.images.patches import CONTEXT, gradient
from likewise.types import Source
from likewise.views import RECIPES, View


def noise(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def place(path):
    return tuple(int(v) for v in path.rsplit("@", 1)[1].split(","))


def test_the_gradient_inside_each_patch_equals_a_loop():
    pixels = noise(1, 3, 11, 14)[0]
    red, green, blue = pixels.astype(np.uint32)
    grey = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(float)
    down, across = np.gradient(grey)
    energy = down**2 + across**2
    expected = [[energy[y : y + 5, x : x + 5].mean() for x in range(10)] for y in range(7)]
    np.testing.assert_allclose(gradient(pixels, 5), expected)


def test_patches_are_drawn_in_proportion_to_the_gradient():
    """One image whose texture grows to the right: places over many seeds against the exact distribution."""
    pixels = (noise(1, 12, 30)[0] * np.linspace(0, 1, 30)).astype(np.uint8)
    images = open_images(pixels[None])
    seen = [place(path) for seed in range(6) for path in patches(images, 100, seed, size=8, scales=(1.0,)).paths]
    expected = gradient(pixels[None], 8)
    counts = np.zeros(expected.shape)
    for left, top, side in seen:
        assert side == 8
        counts[top, left] += 1
    columns = expected.sum(0) / expected.sum()
    groups = np.array_split(np.arange(len(columns)), 6)
    observed, wanted = ([part.sum(0)[group].sum() for group in groups] for part in (counts, expected))
    assert stats.chisquare(observed, np.array(wanted) / sum(wanted) * 600).pvalue > 1e-4
    assert stats.chisquare(observed).pvalue < 1e-6  # which evenly drawn places would pass


def test_scales_are_drawn_by_their_gradient_too():
    pixels = noise(1, 40, 40)[0]
    images = open_images(pixels[None])
    sides = [place(path)[2] for path in patches(images, 400, size=16, scales=(1.0, 0.5)).paths]
    from PIL import Image

    half = np.array(Image.fromarray(pixels).resize((20, 20), Image.Resampling.LANCZOS, reducing_gap=3.0))
    coarse, fine = gradient(half[None], 16).sum(), gradient(pixels[None], 16).sum()
    assert set(sides) == {16, 32}
    assert stats.binomtest(sides.count(32), 400, coarse / (coarse + fine)).pvalue > 1e-4


def test_the_seed_lies_in_the_middle_of_its_real_neighbourhood():
    images = open_images(noise(1, 90, 100, 3))
    whole = images.source([0]).pixels[0]
    made = patches(images, 20, size=16, scales=(1.0,))
    assert made.source(range(20)).pixels.shape == (20, 3, 36, 36)
    for i, path in enumerate(made.paths):
        left, top, _ = place(path)
        crop = made.source([i]).pixels[0]
        assert torch.equal(crop[:, 10:26, 10:26], whole[:, top : top + 16, left : left + 16])
        rows, columns = np.arange(top - 10, top + 26).clip(0, 89), np.arange(left - 10, left + 26).clip(0, 99)
        assert torch.equal(crop, whole[:, rows][:, :, columns])


def test_the_view_of_a_patch_without_transformations_is_the_seed():
    made = patches(open_images(noise(2, 80, 80, 3)), 6, size=32, scales=(1.0,))
    ids = np.arange(6)
    none = {"translation": 0.0, "zoom_range": (1.0, 1.0), "turn": 0.0, "contrast": (1.0, 1.0), "power": (1.0, 1.0)}
    view = RECIPES["exemplar"](32, hue=0.0, **none)[0]
    assert (len(view.geometry), view.colour) == (1, ())
    seen = view(made.source(ids), Draws(0, 0, 0, torch.from_numpy(made.keys)))
    torch.testing.assert_close(seen, made.source(ids).pixels[:, :, 20:52, 20:52] / 255, atol=1e-5, rtol=0)


def test_features_of_a_patch_are_those_of_the_patch_alone():
    """And not of what is kept around it."""
    made = patches(open_images(noise(2, 80, 80, 3)), 6, size=32, scales=(1.0,))
    alone = open_images(made.source(np.arange(6)).pixels[:, :, 20:52, 20:52])
    encoder = Pixels(made.info(32))
    seen, expected = (features(encoder, images, 32) for images in (made.subset(np.arange(5)), alone))
    np.testing.assert_allclose(seen, expected[:5], atol=1e-4)
    assert np.abs(features(encoder, replace(made, context=1.0), 32) - expected).mean() > 0.1  # the mutant


def test_what_lies_around_a_patch_is_enough_for_the_transformations():
    """No view depends on what lies beyond the kept square: with another edge the views are the same."""
    view = View(32, RECIPES["exemplar"](32)[0].geometry)
    pixels = torch.from_numpy(noise(64, 3, 72, 72))
    other = torch.nn.functional.pad(pixels, (8, 8, 8, 8), value=255)
    draws = Draws(0, 0, 0, torch.arange(64))
    wider = View(32, RECIPES["exemplar"](32, context=88 / 32)[0].geometry)
    sizes = torch.full((64, 2), 72)
    a, b = view(Source(pixels, sizes), draws), wider(Source(other, sizes + 16), draws)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    assert inspect.signature(RECIPES["exemplar"]).parameters["context"].default == CONTEXT


def test_patches_follow_content_and_seed_alone():
    pixels = noise(5, 40, 40, 3)
    first = patches(open_images(pixels), 10, 3)
    again = patches(open_images(pixels[::-1].copy()), 10, 3)
    assert set(first.keys.tolist()) == set(again.keys.tolist())
    assert not set(first.keys.tolist()) & set(patches(open_images(pixels), 10, 4).keys.tolist())
    fewer = patches(open_images(pixels[:3]), 6, 3)  # without two of the images: the patches of the others stay
    assert set(fewer.keys.tolist()) < set(first.keys.tolist())
    assert len(first) == len(set(first.keys.tolist())) == 10
    assert first.labels is None


def test_every_image_gives_its_share():
    made = patches(open_images(noise(4, 36, 36, 3)), 11)
    counts = np.unique([path.rsplit("@", 1)[0] for path in made.paths], return_counts=True)[1]
    assert sorted(counts.tolist()) == [2, 3, 3, 3]
    assert len({path.rsplit("@", 1)[0] for path in made.paths[:4]}) == 4


def test_one_image_is_enough_and_grey_stays_grey():
    made = patches(open_images(noise(1, 64, 64)), 7)
    assert (len(made), made.channels) == (7, 1)


def test_images_that_can_give_no_patch_are_counted_and_the_others_are_used(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", False)
    large, small, flat = noise(1, 40, 40, 3)[0], noise(1, 31, 50, 3)[0], np.full((40, 40, 3), 9, np.uint8)
    made = patches(open_images([small, large, flat]), 5)
    assert {path.rsplit("@", 1)[0] for path in made.paths} == {"images/1"}
    assert len(made) == 5
    text = capsys.readouterr().err
    assert "no patches from 2 of 3 images: 1 smaller than a patch of 32 x 32 pixels and 1 of one grey" in text


def test_when_no_image_can_give_a_patch_one_line_says_why():
    with pytest.raises(
        DataError, match=r"^patches: no image of arrays can give any: 2 smaller than a patch of 32 x 32"
    ):
        patches(open_images(noise(2, 20, 90, 3)), 4)
    with pytest.raises(DataError, match=r"can give any: 3 of one grey, without any gradient$"):
        patches(open_images(np.full((3, 40, 40), 7, np.uint8)), 4)


def test_faint_gradients_that_shrinking_erases_still_give_patches():
    pixels = np.zeros((1, 64, 64), np.uint8)
    pixels[0, 3, 5] = 1
    assert len(patches(open_images(pixels), 4, size=16, scales=(0.5,))) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1}, "patches=1: expected at least 2"),
        ({"n": 4, "size": 3}, "size=3: a patch needs at least 4 pixels a side"),
        ({"n": 4, "scales": ()}, r"scales=\(\): expected one or more factors"),
        ({"n": 4, "scales": (1.5,)}, r"scales=\(1.5,\): expected"),
    ],
)
def test_arguments_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        patches(open_images(noise(2, 40, 40, 3)), **options)


@pytest.mark.parametrize("n", [3, 7])
def test_which_images_give_one_patch_more_follows_their_content(n):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
    one, two = patches(open_images(pixels), n, 3), patches(open_images(pixels[::-1].copy()), n, 3)
    assert set(one.keys.tolist()) == set(two.keys.tolist())


@pytest.mark.parametrize("size", [8, 10, 12, 20, 32])
def test_features_of_a_patch_of_any_size_are_of_the_patch_alone(size):
    """What is kept around a patch is a whole number of pixels, so not always 2.25 times as wide."""
    made = patches(open_images(np.random.default_rng(0).integers(0, 256, (2, 40, 40), dtype=np.uint8)), 4, size=size)
    pixels = made.source(np.arange(4)).pixels
    margin = (pixels.shape[-1] - size) // 2
    middle = open_images(pixels[:, :, margin : margin + size, margin : margin + size])
    encoder = Pixels(made.info(size))
    np.testing.assert_allclose(features(encoder, made, size), features(encoder, middle, size), atol=1e-4)
