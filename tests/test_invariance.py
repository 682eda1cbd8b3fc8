"""Invariance curves against closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import likewise
from likewise.draws import Draws
from likewise.encoders import External, Pixels
from likewise.errors import UsageError
from likewise.evaluation.invariance import COLOURED, GRID, SEEN, TRAINED, Curve, _some, change, curves, figure
from likewise.images import open_images
from likewise.types import DataInfo, Source


def noise(n=12, side=40, channels=3, seed=0, labels=None):
    """Smooth random pictures."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 5, 5, generator=generator)
    pixels = nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)
    return open_images((pixels * 255).to(torch.uint8), labels=labels)


def draws_of(images, seed=0):
    return Draws(seed, 0, 0, torch.from_numpy(images.keys))


class Mean(nn.Module):
    """The mean colour: it cannot see where things are."""

    def forward(self, images):
        return images.mean((2, 3))


class Spread(nn.Module):
    """Deviations of the channels."""

    def forward(self, images):
        return images.flatten(2).std(2)


def test_an_area_is_the_mean_height():
    curve = Curve(np.array([0.0, 1, 3]), {"output": np.array([0.0, 1, 1])}, 1.0)
    assert curve.area() == pytest.approx(0.5)
    assert curve.area(inside=False) == pytest.approx(1)
    between = Curve(np.array([0.0, 4.0]), {"output": np.array([0.0, 2.0])}, 2.0)  # the end of the range is no point
    assert between.area() == pytest.approx(0.5)
    assert between.area(inside=False) == pytest.approx(1.5)


def test_distances_are_those_of_the_definition():
    images = noise()
    encoder = Pixels(images.info(20))
    draws = draws_of(images)
    found = curves(encoder, images, size=20, draws=draws)
    assert set(found) == set(GRID)
    source = images.source(np.arange(len(images)))
    plain = encoder(change("hue", 0.0, source, 20, draws)).double()
    apart = np.mean([float((a - b).norm()) for i, a in enumerate(plain) for b in plain[:i]])
    for name in ("rotation", "value"):
        for i, magnitude in enumerate(GRID[name], 1):
            after = encoder(change(name, magnitude, source, 20, draws)).double()
            expected = float((after - plain).norm(dim=1).mean()) / apart
            assert found[name].distance["output"][i] == pytest.approx(expected, rel=1e-4)
        assert found[name].distance["output"][0] == 0
        assert np.diff(found[name].distance["output"]).min() > -0.05


def test_who_cannot_see_a_change_does_not_move():
    images = noise(side=60)
    found = curves(External(Mean(), images.info(20)), images, size=20, draws=draws_of(images))
    assert found["blur"].area() < 0.05 < found["value"].area()
    assert found["contrast"].area() < 0.2 * found["value"].area()
    spread = curves(External(Spread(), images.info(20)), images, size=20, draws=draws_of(images))
    assert spread["contrast"].area() > 3 * found["contrast"].area()


def test_geometry_moves_pixels_as_it_says():
    """On a linear picture a shift, a scale and a turn are known in closed form."""
    y, x = np.mgrid[:80, :80].astype(float)
    source = Source(
        torch.from_numpy((50 + 1.2 * x + 0.6 * y).round().astype(np.uint8))[None, None], torch.tensor([[80, 80]])
    )
    draws = Draws(0, 0, 0, torch.tensor([3]))
    steps = (np.arange(14) * 2 + 1) / 14 - 1
    grid = np.stack(np.meshgrid(steps, steps), 2) * SEEN * 40

    def shown(name, magnitude):
        return change(name, magnitude, source, 14, draws)[0, 0].numpy() * 255

    def value(points):
        return 50 + 1.2 * (points[..., 0] + 39.5) + 0.6 * (points[..., 1] + 39.5)

    assert np.abs(shown("translation", 0.0) - value(grid)).max() < 0.5
    way = -1 if draws.image("scale/way") < 0.5 else 1
    assert np.abs(shown("scale", 0.4) - value(grid * 2 ** (way * 0.4))).max() < 0.7
    a = math.radians(15) * (-1 if draws.image("rotation/way") < 0.5 else 1)
    turned = grid @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    assert np.abs(shown("rotation", 15) - value(turned)).max() < 0.7
    angle = float(draws.image("translation/direction")) * 2 * math.pi
    shift = 2 * 0.15 * SEEN * 40 * np.array([math.cos(angle), math.sin(angle)])
    assert np.abs(shown("translation", 0.15) - value(grid + shift)).max() < 0.7


def test_colour_changes_do_what_they_say():
    images = noise(side=30)
    source, draws = images.source(np.arange(12)), draws_of(images)
    plain = change("hue", 0.0, source, 16, draws)
    power = torch.where(draws.image("value/way") < 0.5, 0.5, 2.0)
    assert torch.allclose(
        change("value", 1.0, source, 16, draws).amax(1), plain.amax(1) ** power[:, None, None], atol=1e-4
    )
    turned = change("hue", 0.5, source, 16, draws)
    assert torch.allclose(turned.amax(1), plain.amax(1), atol=1e-4)
    assert not torch.allclose(turned, plain, atol=0.05)
    factor = torch.where(draws.image("contrast/way") < 0.5, 2**-0.25, 2**0.25)[:, None, None, None]
    mean = plain.mean((2, 3), keepdim=True)
    assert torch.allclose(
        change("contrast", 0.25, source, 16, draws), (mean + factor * (plain - mean)).clamp(0, 1), atol=1e-4
    )
    grey = change("saturation", 3.0, source, 16, draws)
    assert torch.allclose(grey.amax(1), plain.amax(1), atol=1e-4)


def test_a_probe_of_train_judges_changed_images():
    y, y_test = np.arange(60) % 2, np.arange(20) % 2

    def flags(labels, seed):
        pixels = np.random.default_rng(seed).integers(0, 40, (len(labels), 3, 32, 32))
        pixels[np.arange(len(labels)), labels * 2] += 150  # red or blue
        return open_images(pixels.astype(np.uint8), labels=labels)

    train, test = flags(y, 0), flags(y_test, 1)
    encoder = External(Mean(), train.info(16))
    changes = {name: GRID[name] for name in ("hue", "rotation")}
    found = curves(encoder, test, size=16, draws=draws_of(test), train=train, changes=changes)
    for curve in found.values():
        assert curve.accuracy[0] == 1
        assert len(curve.accuracy) == len(curve.magnitudes)
    assert found["hue"].accuracy[-1] < 0.6  # half a turn: red is cyan
    assert found["rotation"].accuracy.min() == 1
    wrong = curves(encoder, test.relabel(1 - y_test), size=16, draws=draws_of(test), train=train, changes=changes)
    assert wrong["rotation"].accuracy[0] == 0
    named, backwards = (
        replace(train, classes=["red", "blue"]),
        replace(test.relabel(1 - y_test), classes=["blue", "red"]),
    )
    by_name = curves(encoder, backwards, size=16, draws=draws_of(test), train=named, changes=changes)
    assert by_name["rotation"].accuracy[0] == 1
    assert curves(encoder, test, size=16, draws=draws_of(test))["blur"].accuracy is None


def test_a_picture_is_drawn(tmp_path):
    images = noise(n=6, channels=1)
    encoder = Pixels(DataInfo(6, 1, 12))
    found = curves(encoder, images, size=12, draws=draws_of(images), changes={"rotation": (10, 40), "blur": (1, 4)})
    path = figure({"pixels": found}, tmp_path / "one.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert figure({"a": found, "b": found}, tmp_path / "two.svg").read_text().count("rotation") >= 1
    assert set(curves(encoder, images, size=12, draws=draws_of(images))) == set(GRID) - set(COLOURED)


def test_what_cannot_be_asked():
    images = noise(n=4)
    encoder, draws = Pixels(images.info(12)), draws_of(images)
    for changes, why in (
        ({"shear": (1.0,)}, "change 'shear': expected one of"),
        ({"rotation": (20.0, 10.0)}, "must rise"),
        ({"rotation": (10.0, 20.0)}, f"beyond {TRAINED['rotation']}"),
    ):
        with pytest.raises(UsageError, match=why):
            curves(encoder, images, size=12, draws=draws, changes=changes)
    with pytest.raises(UsageError, match="at least 2"):
        curves(encoder, images.subset([0]), size=12, draws=draws)


def test_the_protocol_on_the_command_line_s_function():
    images = noise(n=30, labels=np.arange(30) % 3)
    result = likewise.evaluate(Pixels(images.info(12)), images, size=12, protocols="invariance")
    figures = result["protocols"]["invariance"]
    assert figures["images"] == 6
    assert {"rotation", "rotation_outside", "rotation_accuracy", "accuracy"} <= set(figures)
    assert result["verdict"].startswith("Of the changes of an image, ")
    held_out = likewise.evaluate("pixels", images, test=noise(n=8, seed=1), size=12, protocols="invariance")
    assert held_out["protocols"]["invariance"]["images"] == 8
    assert "accuracy" not in held_out["protocols"]["invariance"]
    table = likewise.embed(Pixels(images.info(12)), images, size=12)
    with pytest.raises(UsageError, match="needs a model and images"):
        likewise.evaluate(table, protocols="invariance")


def test_images_are_chosen_by_their_keys():
    images = noise(40)
    back = images.subset(np.arange(40)[::-1].copy())
    assert set(_some(images, 9, draws_of(images)).keys) == set(_some(back, 9, draws_of(back)).keys)


@pytest.mark.parametrize("key", [3, 4, 5, 6, 7])
def test_scales_and_turns_go_either_way(key):
    y, x = np.mgrid[:80, :80].astype(float)
    pixels = torch.from_numpy((50 + 1.2 * x + 0.6 * y).round().astype(np.uint8))[None, None]
    draws = Draws(0, 0, 0, torch.tensor([key]))
    steps = (np.arange(14) * 2 + 1) / 14 - 1
    grid = np.stack(np.meshgrid(steps, steps), 2) * SEEN * 40
    way = {name: -1 if draws.image(f"{name}/way") < 0.5 else 1 for name in ("scale", "rotation")}
    a = math.radians(15) * way["rotation"]
    turn = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    for name, magnitude, points in (("scale", 0.4, grid * 2 ** (way["scale"] * 0.4)), ("rotation", 15, grid @ turn)):
        expected = 50 + 1.2 * (points[..., 0] + 39.5) + 0.6 * (points[..., 1] + 39.5)
        seen = change(name, magnitude, Source(pixels, torch.tensor([[80, 80]])), 14, draws)[0, 0].numpy() * 255
        assert np.abs(seen - expected).max() < 0.7


def test_blur_reaches_four_deviations():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1, 64, 64), dtype=np.uint8)
    source, draws = Source(torch.from_numpy(pixels), torch.tensor([[64, 64]])), Draws(0, 0, 0, torch.tensor([3]))
    plain = change("blur", 1e-3, source, 64, draws)[0, 0].double().numpy()
    for sigma in GRID["blur"]:
        blurred = change("blur", sigma, source, 64, draws)[0, 0].numpy()
        np.testing.assert_allclose(blurred, gaussian_filter(plain, sigma, mode="mirror", truncate=4.0), atol=2e-3)
