"""Matching against slow references: rasters, loops, scikit-learn, closed forms, and a real picture."""

import itertools
import json
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

import likewise
from likewise.cli import app
from likewise.draws import Draws
from likewise.encoders import External
from likewise.encoders.convnet import convnet
from likewise.errors import DataError, UsageError
from likewise.evaluation.matching import (
    bootstrap,
    compare,
    layers,
    mean_average_precision,
    read_pairs,
    rgb,
    sift,
    synthetic,
)
from likewise.evaluation.matching.compare import Compared, describe
from likewise.evaluation.matching.descriptors import fit_channels
from likewise.evaluation.matching.ellipses import Ellipses, distinct, of_region, overlap, transport
from likewise.evaluation.matching.regions import frames, orientation, patches, regions
from likewise.evaluation.matching.score import (
    average_precision,
    distances,
    greedy,
    match_precision,
    possible_matches,
)
from likewise.evaluation.matching.synthetic import CHANGES, alter, warped, write_pairs
from likewise.evaluation.matching.warps import Homography, Waves, read_homography, read_waves
from likewise.images import open_images
from likewise.images.imageset import as_channels
from likewise.types import DataInfo

H = Homography(np.array([[0.9, 0.2, 5.0], [-0.15, 1.1, 3.0], [4e-4, -3e-4, 1.0]]))
WAVES = Waves(np.array([[2.0, 1.0], [-1.0, 1.5]]), np.array([[0.1, 0.05], [-0.04, 0.12]]), np.array([0.3, 2.0]))


@pytest.fixture(scope="module")
def china():
    """A part of a temple, 3 x 240 x 320."""
    return np.ascontiguousarray(load_sample_image("china.jpg")[180:420, 100:420].transpose(2, 0, 1))


def some_ellipses(n, seed, spread=30.0):
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(n, 2, 2)) * 8 + np.eye(2) * 5
    return Ellipses(generator.uniform(0, spread, (n, 2)), root @ root.transpose(0, 2, 1) + np.eye(2))


def write_scene(folder: Path, images, homographies=None):
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(images, 1):
        pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"img{i}.png")
        if i > 1:
            matrix = np.eye(3) if homographies is None else homographies[i - 2]
            np.savetxt(folder / f"H1to{i}p", matrix)


def tensor(pixels):
    return torch.from_numpy(pixels).float() / 255


def uint8(pixels):
    return (pixels * 255).round().to(torch.uint8).numpy()


# --- ellipses


def test_overlap_is_that_of_rasters():
    a, b = some_ellipses(12, 0, 12.0), some_ellipses(15, 1, 12.0)
    step = 0.125
    y, x = np.mgrid[-50:62:step, -50:62:step]
    points = np.stack([x, y], 2).reshape(-1, 2)

    def raster(ellipses, i):
        away = points - ellipses.centre[i]
        return ((away @ np.linalg.inv(ellipses.shape[i])) * away).sum(1) <= 1

    first, second = [raster(a, i) for i in range(12)], [raster(b, i) for i in range(15)]
    expected = np.array([[(p & q).sum() / (p | q).sum() for q in second] for p in first])
    assert (expected > 0.2).sum() > 10
    assert np.abs(overlap(a, b, least=1e-9) - expected).max() < 2e-3
    moved = Ellipses(a.centre + np.random.default_rng(2).normal(0, 1.5, a.centre.shape), a.shape * 1.1)
    for other in (b, moved):  # what cannot reach `least` is left out, and nothing else
        whole = overlap(a, other, least=1e-9)
        for least in (0.3, 0.5, 0.6, 0.8):
            assert np.array_equal(overlap(a, other, least=least), np.where(whole >= least, whole, 0))
    assert np.allclose(np.diag(overlap(a, a)), 1, atol=1e-3)


def test_overlap_of_discs_in_closed_form():
    for away in (0.3, 1.0, 1.9):
        discs = Ellipses(np.array([[0.0, 0], [10 * away, 0]]), np.stack([100 * np.eye(2)] * 2))
        common = 2 * math.acos(away / 2) - away / 2 * math.sqrt(4 - away**2)
        expected = common / (2 * math.pi - common)
        assert overlap(discs.rows(np.array([0])), discs.rows(np.array([1])), least=1e-9)[0, 0] == pytest.approx(
            expected, abs=5e-4
        )
    inside = Ellipses(np.zeros((2, 2)), np.stack([np.eye(2), 1.5 * np.eye(2)]))
    assert overlap(inside, inside)[0, 1] == pytest.approx(1 / 1.5, abs=1e-3)


def test_distinct_keeps_the_largest_of_those_alike():
    ellipses = some_ellipses(60, 4, 12.0)
    kept = distinct(ellipses, least=0.5)
    assert 5 < len(kept.centre) < 60
    assert (np.diff(kept.area()) <= 0).all()
    among = overlap(kept, kept, least=0.5)
    assert np.array_equal(among > 0, np.eye(len(among), dtype=bool))
    near = overlap(ellipses, kept, least=0.5) * (kept.area() >= ellipses.area()[:, None] * (1 - 1e-9))
    assert (near > 0).any(1).all()


def test_the_ellipse_of_a_region_has_its_moments():
    y, x = np.mgrid[-40:41, -40:41]
    shape = np.array([[400.0, 120.0], [120.0, 150.0]])
    points = np.stack([x.ravel(), y.ravel()], 1)
    solid = points[((points @ np.linalg.inv(shape)) * points).sum(1) <= 1]
    centre, found = of_region(solid + 100)
    assert np.allclose(centre, 100)
    assert np.abs(found - shape).max() < 6
    line = np.stack([np.arange(30), np.zeros(30, int)], 1)
    assert np.linalg.eigvalsh(of_region(line)[1])[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("warp", [H, WAVES], ids=["homography", "waves"])
def test_transported_ellipses_are_mapped_boundaries_refitted(warp):
    ellipses = some_ellipses(10, 3, 80)
    tiny = Ellipses(ellipses.centre, ellipses.shape * 1e-4)  # where the local affine map is all there is
    there = transport(tiny, warp)
    turn = np.arange(400) / 400 * 2 * np.pi
    for i in range(10):
        ring = np.stack([np.cos(turn), np.sin(turn)], 1) @ np.linalg.cholesky(tiny.shape[i]).T + tiny.centre[i]
        away = warp.forward(ring) - there.centre[i]
        conic = np.linalg.lstsq(
            np.stack([away[:, 0] ** 2, 2 * away[:, 0] * away[:, 1], away[:, 1] ** 2], 1), np.ones(400), rcond=None
        )[0]
        refitted = np.linalg.inv(np.array([[conic[0], conic[1]], [conic[1], conic[2]]]))
        assert np.allclose(refitted, there.shape[i], rtol=0.02, atol=0.02 * np.abs(there.shape[i]).max())


@pytest.mark.parametrize("warp", [H, WAVES], ids=["homography", "waves"])
def test_warps_invert_and_their_slopes_are_differences(warp):
    points = np.random.default_rng(0).uniform(0, 100, (50, 2))
    assert np.abs(warp.inverse(warp.forward(points)) - points).max() < 1e-7
    step = 1e-4
    slope = np.stack(
        [(warp.forward(points + step * e) - warp.forward(points - step * e)) / (2 * step) for e in np.eye(2)], 2
    )
    assert np.abs(slope - warp.jacobian(points)).max() < 1e-6


def test_beyond_the_horizon_there_is_nothing():
    warp = Homography(np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]]))
    assert np.isfinite(warp.forward(np.array([[99.0, 0]]))).all()
    assert np.isnan(warp.forward(np.array([[101.0, 0]]))).all()
    negative = Homography(-warp.matrix)
    assert np.allclose(negative.inverse(negative.forward(np.array([[50.0, 7]]))), [[50, 7]])


# --- regions and patches


def test_patches_of_a_ramp_are_exact():
    """On a linear image an area average is the value at the middle, however the patch lies."""
    y, x = np.mgrid[:120, :150]
    ramp = (0.7 * x + 0.9 * y + 10).round().astype(np.uint8)[None]
    where = np.array([[[8.0, 3, 70], [-2, 9, 60]], [[30.0, -12, 75], [14, 25, 55]], [[4.0, 0, 40], [0, 4, 30]]])
    (made,) = list(patches(ramp, where, 16))
    steps = (np.arange(16) * 2 + 1) / 16 - 1
    grid = np.stack([*np.meshgrid(steps, steps), np.ones((16, 16))], 2)
    for patch, frame in zip(made, where, strict=True):
        at = grid @ frame.T
        assert np.abs(patch[0].numpy() * 255 - (0.7 * at[..., 0] + 0.9 * at[..., 1] + 10)).max() < 0.6
    aligned = np.array([[[8.0, 0, 39.5], [0, 8, 29.5]]])  # one pixel of the image for each of the patch
    (same,) = list(patches(ramp, aligned, 16))
    assert np.array_equal(uint8(same)[0], ramp[:, 22:38, 32:48])


def test_patches_do_not_depend_on_their_company(china):
    where = frames(china, regions(china, most=60))
    together = torch.cat(list(patches(china, where, 24)))
    alone = torch.cat(list(patches(china, where[::-1][:9], 24)))
    assert torch.allclose(together.flip(0)[:9], alone, atol=2e-4)
    grey = torch.cat(list(patches(as_channels(china, 1), where, 24)))
    assert torch.allclose(grey, fit_channels(together, 1), atol=0.01)
    outside = np.array([[[50.0, 0, -30], [0, 50, 500]]])
    assert next(patches(china, outside, 8)).isfinite().all()


def test_orientation_turns_with_the_image(china):
    where = frames(china, regions(china, most=60))[:20]
    spot = where.copy()
    spot[:, :, :2] = 12 * np.eye(2)
    before = orientation(next(patches(as_channels(china, 1), spot, 41)))
    for degrees in (30, 100, 250):
        a = math.radians(degrees)
        spot[:, :, :2] = 12 * np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
        after = orientation(next(patches(as_channels(china, 1), spot, 41)))
        moved = (before - after - a + math.pi).remainder(2 * math.pi) - math.pi
        assert moved.abs().median() < 0.1
        assert (moved.abs() < 0.2).float().mean() > 0.7
    y, x = np.mgrid[:64, :64]
    ramp = (x * math.cos(0.7) + y * math.sin(0.7) + 40).astype(np.uint8)[None]
    spot = np.array([[[15.0, 0, 32], [0, 15, 32]]])
    assert orientation(next(patches(ramp, spot, 41))).item() == pytest.approx(0.7, abs=0.05)


def test_regions_are_capped_by_contrast_and_found_in_colour_and_grey(china):
    every = regions(china, most=10_000)
    few = regions(china, most=60)
    assert 10 < len(few.centre) <= 60 < len(every.centre)
    assert (np.linalg.eigvalsh(every.shape) > 0).all()
    assert np.array_equal(regions(as_channels(china, 1), most=60).shape, few.shape)
    assert len(regions(np.full((1, 60, 60), 90, np.uint8)).centre) == 0
    blob = np.full((1, 80, 100), 200, np.uint8)
    blob[:, 30:50, 40:70] = 40
    assert len(regions(blob, most=1).centre) == 1
    part = china[:, 24:84, 30:90]  # at one margin more than one region, at the next none
    assert len(regions(part, most=1).centre) == 1
    found = regions(blob)
    assert any(np.allclose(centre, [54.5, 39.5], atol=0.6) for centre in found.centre)


# --- scores


def naive_greedy(distance):
    order = sorted(np.ndindex(distance.shape), key=lambda ij: (distance[ij], ij))
    rows, columns, found = set(), set(), []
    for i, j in order:
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            found.append((i, j))
    return found


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (5, 12), (20, 9), (0, 4)])
def test_greedy_is_the_naive_loop(n, m):
    generator = np.random.default_rng(n * 31 + m)
    for distance in (generator.random((n, m)), generator.integers(0, 4, (n, m)).astype(float)):
        rows, columns = greedy(distance)
        assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == set(naive_greedy(distance))


def test_average_precision_is_scikit_learns():
    generator = np.random.default_rng(5)
    for trial in range(40):
        n = int(generator.integers(2, 40))
        distance = generator.random(n) if trial % 2 else generator.integers(0, 6, n).astype(float)
        right = generator.random(n) < 0.4
        right[0] = True
        theirs = average_precision_score(right, -distance)
        assert average_precision(distance, right, int(right.sum())) == pytest.approx(theirs)
        missed = int(generator.integers(0, 9))  # right matches that were never made: less recall, at no precision
        share = right.sum() / (right.sum() + missed)
        assert average_precision(distance, right, int(right.sum()) + missed) == pytest.approx(theirs * share)
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0


def test_possible_matches_by_brute_force():
    generator = np.random.default_rng(1)
    for _ in range(20):
        right = generator.random((4, 5)) < 0.35
        best = max(right[np.arange(4), list(p)].sum() for p in itertools.permutations(range(5), 4))
        assert possible_matches(right) == best


def test_distances_are_euclidean():
    a, b = torch.randn(9, 300) + 5, torch.randn(11, 300) + 5
    assert np.allclose(distances(a, b), torch.cdist(a.double(), b.double()).numpy(), rtol=1e-4)
    assert distances(a, a).diagonal().max() < 0.02


def test_the_same_image_matches_itself_and_shuffled_descriptors_do_not(china):
    seen = describe(china, [sift, rgb], side=16, most=300)
    right = overlap(seen.ellipses, seen.ellipses) > 0
    possible = possible_matches(right)
    assert possible == len(seen.ellipses.centre) >= 100
    order = torch.from_numpy(np.random.default_rng(0).permutation(possible))
    for vectors in seen.vectors.values():
        assert match_precision(distances(vectors, vectors), right, possible) > 0.99
        assert match_precision(distances(vectors, vectors[order]), right, possible) < 0.05


def test_descriptors_that_are_not_finite_are_named(china):
    with pytest.raises(DataError, match="descriptor 'broken': gives values that are not finite"):
        describe(china, [lambda images: {"broken": torch.full((len(images), 4), torch.nan)}])


def test_means_by_change():
    rows = [
        {"scene": "a", "image": "img2", "change": "blur", "descriptor": "sift", "ap": 0.5},
        {"scene": "a", "image": "img3", "change": "blur", "descriptor": "sift", "ap": 0.7},
        {"scene": "b", "image": "img2", "change": "light", "descriptor": "sift", "ap": 0.0},
        {"scene": "b", "image": "img2", "change": "light", "descriptor": "rgb", "ap": 0.3},
    ]
    means = mean_average_precision(rows)
    assert means["sift"] == pytest.approx({"blur": 0.6, "light": 0.0, "all": 0.4})
    assert means["rgb"] == {"light": 0.3, "all": 0.3}


def rows_of(values, descriptor, scene="s{}"):
    return [
        {"scene": scene.format(s), "image": f"img{i}", "change": "blur", "descriptor": descriptor, "ap": value}
        for s, scene_values in enumerate(values)
        for i, value in enumerate(scene_values)
    ]


def test_bootstrap_knows_closed_forms():
    generator = np.random.default_rng(0)
    one = generator.random((1, 200))
    interval = bootstrap(rows_of(one, "a"), "a")
    error = 1.96 * one.std() / math.sqrt(200)
    assert interval["mean"] == pytest.approx(one.mean())
    assert interval["high"] - interval["mean"] == pytest.approx(error, rel=0.1)
    assert interval["mean"] - interval["low"] == pytest.approx(error, rel=0.1)

    alike = np.repeat(generator.random((50, 1)), 4, axis=1)  # pairs of a scene say the same: scenes are what counts
    interval = bootstrap(rows_of(alike, "a"), "a")
    assert (interval["high"] - interval["low"]) / 2 == pytest.approx(1.96 * alike[:, 0].std() / math.sqrt(50), rel=0.12)

    both = rows_of(alike, "a") + rows_of(alike - 0.1, "b")
    assert bootstrap(both, "a", "b") == pytest.approx(
        {"mean": 0.1, "low": 0.1, "high": 0.1, "scenes": 50, "pairs": 200}
    )
    assert bootstrap(both, "a", "b") == bootstrap(both, "a", "b")
    ragged = rows_of([[0.1, 0.2, 0.9], [0.4]], "a")
    interval = bootstrap(ragged, "a")
    assert interval["mean"] == pytest.approx(0.4)
    assert 0.1 <= interval["low"] < 0.4 < interval["high"] <= 0.9
    with pytest.raises(UsageError, match=r"^descriptor 'b': is not measured on the same pairs as 'a'$"):
        bootstrap([*rows_of(alike, "a"), *rows_of(alike[:1], "b")], "a", "b")


# --- descriptors


def test_describers():
    images = torch.rand(5, 3, 32, 32)
    vectors = sift(images)["sift"]
    assert vectors.shape == (5, 128)
    assert torch.allclose(sift(images * 0.5)["sift"], vectors, atol=12)  # of lengths near 512
    assert torch.allclose(sift(fit_channels(images, 1))["sift"], vectors, atol=6)
    encoder = convnet(DataInfo(1, 3, 32), width=8)
    made = layers(encoder)(images)
    assert {name: value.shape[1] for name, value in made.items()} == {"layer1": 128, "layer2": 256, "layer3": 512}
    maps = encoder.eval().dense(images)[1].detach()
    expected = maps.unflatten(2, (4, -1)).unflatten(4, (4, -1)).amax((3, 5)).flatten(1)
    assert torch.equal(made["layer2"], expected)
    assert list(layers(encoder, only=("output", "layer2"), name="mine ")(images)) == ["mine layer2", "mine output"]
    assert torch.equal(layers(encoder, only=("output",))(images)["output"], encoder(images).detach())
    with pytest.raises(UsageError, match=r"^descriptor 'layer9': the encoder has layer1, layer2, layer3, output$"):
        layers(encoder, only=("layer9",))(images)
    plain = External(torch.nn.Conv2d(3, 2, 32), DataInfo(1, 3, 32))
    assert list(layers(plain)(images)) == ["output"]


def test_encoders_take_grey_and_colour():
    grey, colour = torch.rand(2, 1, 32, 32), torch.rand(2, 3, 32, 32)
    three, one = convnet(DataInfo(1, 3, 32), width=8), convnet(DataInfo(1, 1, 32), width=8)
    assert torch.equal(layers(three)(grey)["layer3"], layers(three)(grey.expand(-1, 3, -1, -1))["layer3"])
    assert torch.allclose(
        layers(one, channels=1)(grey.expand(-1, 3, -1, -1))["layer1"],
        layers(one, channels=1)(grey)["layer1"],
        atol=1e-5,
    )
    assert layers(one, channels=1)(colour)["layer1"].shape == (2, 128)


# --- a made set


def smooth(h=80, w=100):
    y, x = np.mgrid[:h, :w]
    planes = [0.5 + 0.3 * np.sin(x / 9 + y / 17 + c) + 0.15 * np.cos(y / 7 - c) for c in range(3)]
    return torch.from_numpy(np.stack(planes)).float()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("strength", [0, 3])
def test_made_images_obey_their_ground_truth(change, strength):
    pixels = smooth()
    draws = Draws(0, 0, 0, torch.tensor([11]))
    made, warp = alter(pixels, change, strength, draws)
    assert made.shape == pixels.shape
    assert torch.equal(alter(pixels, change, strength, Draws(0, 0, 0, torch.tensor([11])))[0], made)
    if change in ("blur", "light"):
        assert np.array_equal(warp.matrix, np.eye(3))
        assert (made.std() < pixels.std()) if change == "blur" else (made - pixels).abs().mean() > 0.02
        return
    generator = np.random.default_rng(0)
    points = generator.uniform(8, [91, 71], (400, 2))
    there = warp.forward(points)
    inside = ((there > 2) & (there < np.array([97, 77]))).all(1)
    assert inside.sum() > 40
    assert np.abs(there - points).max() > 1

    def at(image, where):
        grid = torch.from_numpy((2 * where + 1) / np.array([100, 80]) - 1).float()[None, None]
        return torch.nn.functional.grid_sample(image[None], grid, mode="bicubic", align_corners=False)[0, :, 0]

    assert (at(made, there[inside]) - at(pixels, points[inside])).abs().max() < 0.02


def test_a_made_set_reads_back_and_depends_on_content_alone(tmp_path, china):
    images = [china[:, i : i + 64, i : i + 70] for i in range(0, 90, 18)]
    first = write_pairs(open_images(images), tmp_path / "a", n=2)
    write_pairs(open_images(images[::-1]), tmp_path / "b", n=2)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 2 + 2 * (25 + 24)  # the mark, the changes
    for file in files:
        if file.name != "changes.csv":  # it names the sources
            assert (first / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    pairs = read_pairs(first)
    assert len(pairs) == 48
    assert {pair.change for pair in pairs} == set(CHANGES)
    waves = next(pair.warp for pair in pairs if pair.change == "non-linear")
    assert isinstance(waves, Waves)
    with pytest.raises(UsageError, match="is not empty"):
        write_pairs(open_images(images), first, n=2)
    with pytest.raises(DataError, match="has 5 images; 16 are needed"):
        write_pairs(open_images(images), tmp_path / "c")


def test_a_real_picture_and_its_turned_self(china):
    turned, warp = alter(tensor(china), "rotation", 1, Draws(0, 0, 0, torch.tensor([5])))
    assert np.abs(uint8(warped(tensor(china), Homography(np.eye(3)))).astype(int) - china).mean() < 4
    first, second = (describe(image, [sift, rgb], side=32, most=300) for image in (china, uint8(turned)))
    there = warp.forward(first.ellipses.centre)
    rows = np.flatnonzero(((there > 0) & (there < [319, 239])).all(1))
    right = overlap(transport(first.ellipses.rows(rows), warp), second.ellipses) > 0
    possible = possible_matches(right)
    assert possible > 60
    for name in ("sift", "rgb"):
        assert match_precision(distances(first.vectors[name][rows], second.vectors[name]), right, possible) > 0.5, name


# --- folders


def test_pairs_folders(tmp_path, china, monkeypatch):
    small = china[:, :64, :64]
    write_scene(tmp_path / "boat", [small, small])
    write_scene(tmp_path / "mine", [small] * 3)
    (tmp_path / "empty").mkdir()
    pairs = read_pairs(tmp_path)
    assert [(p.scene, p.image, p.change) for p in pairs] == [
        ("boat", "img2", "zoom + rotation"),
        ("mine", "img2", "unknown"),
        ("mine", "img3", "unknown"),
    ]
    (tmp_path / "changes.csv").write_text("scene,image,change\nmine,img3,snow\nboat,,waves\n")
    assert [p.change for p in read_pairs(tmp_path)] == ["waves", "unknown", "snow"]
    assert [(p.scene, p.change) for p in read_pairs(tmp_path / "boat")] == [("boat", "waves")]
    monkeypatch.chdir(tmp_path / "mine")
    assert [(p.scene, p.change) for p in read_pairs(".")] == [("mine", "unknown"), ("mine", "snow")]
    Path("changes.csv").write_text("scene,image,change\nmine,img2,rain\n")
    assert [p.change for p in read_pairs(".")] == ["rain", "snow"]
    (tmp_path / "changes.csv").write_text("scene,image,change\nmine,img2,all\n")
    with pytest.raises(DataError, match=r"changes.csv: names a change 'all'"):
        read_pairs(tmp_path)
    (tmp_path / "changes.csv").write_bytes("scene,image,change\nboat,,größer\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"changes.csv: is not a table \(.*\); expected scene, image, change in UTF-8$"):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1 0 0\n0 1 0\n", r"is not a homography \(3 \+ 3 numbers by row\); expected 3 rows of 3 numbers$"),
        ("1 0 0\n0 1 0\n0 0 1 1\n", r"is not a homography \(3 \+ 3 \+ 4 numbers by row\)"),
        ("1 0 0\n0 x 0\n0 0 1\n", r"is not a homography \(could not convert string to float: 'x'\)"),
        ("", r"is not a homography \(no numbers by row\)"),
        ("1 0 0\n0 nan 0\n0 0 1\n", "holds numbers that are not finite"),
        ("1 2 3\n2 4 6\n0 0 1\n", "is singular; expected a homography that can be inverted$"),
        ("0 0 0\n0 0 0\n0 0 0\n", "is singular"),
        ("1 0 500\n0 1 300\n1 0 500\n", "is singular"),
    ],
)
def test_homographies_that_are_none(tmp_path, text, why):
    (tmp_path / "H1to2p").write_text(text)
    with pytest.raises(DataError, match=why) as error:
        read_homography(tmp_path / "H1to2p")
    assert str(error.value).startswith(str(tmp_path / "H1to2p"))
    assert "\n" not in str(error.value)


def test_homographies_of_far_scales_are_none_the_less(tmp_path):
    for matrix in ([[1e-3, 0, 4e3], [0, 1e-3, 5e3], [0, 0, 1]], [[8e5, 1, 3e9], [2, 9e5, 1e9], [1e-3, 0, 7e5]]):
        np.savetxt(tmp_path / "H", np.array(matrix))
        assert np.allclose(read_homography(tmp_path / "H").matrix, matrix)


def test_warps_that_are_none(tmp_path):
    path = tmp_path / "W1to2p.json"
    for content, why in (
        ("{", "is not valid JSON"),
        ("{}", "is not a warp; expected lists named shift, frequency and phase"),
        (json.dumps({"shift": [[9, 0]], "frequency": [[1, 0]], "phase": [0]}), "folds the image onto itself"),
        (json.dumps({"shift": [[9, 0]], "frequency": [], "phase": [0]}), "has 1 shifts, 0 frequencies and 1 phases"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=why):
            read_waves(path)
    path.write_text(json.dumps(WAVES.as_json()))
    assert np.array_equal(read_waves(path).shift, WAVES.shift)


def test_folders_that_cannot_be_used(tmp_path, china):
    with pytest.raises(DataError, match=r"no such folder$"):
        read_pairs(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no scene; expected folders of img1.png, img2.png, .. and H1to2p, ..$"):
        read_pairs(tmp_path)
    write_scene(tmp_path / "one", [china])
    with pytest.raises(DataError, match=r"has only img1.png; expected img1, img2"):
        read_pairs(tmp_path)
    write_scene(tmp_path / "one", [china, china])
    (tmp_path / "one" / "H1to2p").unlink()
    with pytest.raises(DataError, match=r"H1to2p: no such file, but there is an img2; expected its homography$"):
        read_pairs(tmp_path)
    write_scene(tmp_path / "one", [china, china])
    (tmp_path / "one" / "img2.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"img2.png: not an image$"):
        likewise.match("pixels", tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "one" / "img2.jpg")
    with pytest.raises(DataError, match="expected one image of that number"):
        read_pairs(tmp_path)


# --- the verb


@pytest.fixture
def scenes(tmp_path, china):
    """Two scenes; the second in grey, its third image without any region."""
    small, grey = china[:, 60:160, 40:200], as_channels(china, 1)[:, 60:160, 40:200]
    turned, warp = alter(tensor(small), "rotation", 0, Draws(0, 0, 0, torch.tensor([5])))
    write_scene(tmp_path / "pairs" / "bark", [small, uint8(turned)], [warp.matrix])
    write_scene(tmp_path / "pairs" / "bikes", [grey, grey, np.full_like(grey, 128), grey // 2])
    return tmp_path / "pairs"


def test_the_verb_answers_and_loses_nothing(scenes):
    encoder = convnet(DataInfo(1, 3, 32), width=8)
    state = torch.get_rng_state()
    result = likewise.match(encoder, scenes, side=16, most=200)
    assert torch.equal(state, torch.get_rng_state())
    assert len(result["pairs"]) == 3 * 5
    assert all(set(row) == {"scene", "image", "change", "descriptor", "ap"} for row in result["pairs"])
    assert all(0 <= row["ap"] <= 1 for row in result["pairs"])
    assert result["skipped"] == [
        {"scene": "bikes", "image": "img3", "change": "blur", "reason": "img3.png has no region"}
    ]
    assert set(result["map"]) == {"sift", "rgb", "layer1", "layer2", "layer3"}
    assert set(result["map"]["sift"]) == {"zoom + rotation", "blur", "all"}
    same = [row["ap"] for row in result["pairs"] if row["scene"] == "bikes" and row["image"] == "img2"]
    assert min(same) > 0.99
    assert result["map"]["sift"]["all"] > 0.6


def test_several_encoders_go_by_name(scenes):
    first, second = (convnet(DataInfo(1, 3, 32), width=8) for _ in range(2))
    result = likewise.match({"a": first, "b": second}, scenes, descriptors="layer2", side=16, most=200)
    assert set(result["map"]) == {"a layer2", "b layer2"}
    alone = likewise.match(second, scenes, descriptors=["layer2"], side=16, most=200)
    assert result["map"]["b layer2"] == alone["map"]["layer2"]
    assert result["models"]["b"]["weights"] == alone["models"]["ConvNet"]["weights"]
    difference = bootstrap(result["pairs"], "a layer2", "b layer2")
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert (difference["scenes"], difference["pairs"]) == (2, 3)


def test_a_run_goes_on_where_it_stopped(scenes, tmp_path):
    out = tmp_path / "out"
    whole = likewise.match("pixels", scenes, side=16, most=200, out=out)
    log = out / "pairs.jsonl"
    lines = log.read_text().splitlines()
    assert len(lines) == 4
    log.write_text(lines[0] + "\n" + lines[1][:40])  # cut in the middle of a line
    again = likewise.match("pixels", scenes, side=16, most=200, out=out, resume=True)
    assert again["pairs"] == whole["pairs"]
    assert again["skipped"] == whole["skipped"]
    assert json.loads((out / "match.json").read_text())["map"] == whole["map"]
    with pytest.raises(UsageError, match=r"was begun with side=16, not 24$"):
        likewise.match("pixels", scenes, side=24, most=200, out=out, resume=True)
    with pytest.raises(UsageError, match="is not empty"):
        likewise.match("pixels", scenes, side=16, out=out)
    with pytest.raises(UsageError, match="needs --out"):
        likewise.match("pixels", scenes, resume=True)


def test_the_command_line(scenes, tmp_path, monkeypatch):
    run = CliRunner().invoke(app, ["match", "pixels", str(scenes), "--side", "16", "--most", "200", "--json"])
    assert run.exit_code == 0, run.output
    answer = json.loads(run.stdout)
    assert {"pairs", "map"} <= set(answer)
    assert set(answer["map"]) == {"sift", "rgb"}
    run = CliRunner().invoke(app, ["match", "none", str(scenes), "--side", "16", "--most", "200", "--quiet"])
    assert "mean average precision" in run.stdout
    assert "bikes img3: img3.png has no region" in run.stdout
    for arguments, code, words in (
        (["pixels", str(tmp_path / "no")], 3, "no such folder"),
        (["pixels", str(scenes), "--side", "4"], 2, "side=4"),
        (["pixels", str(scenes), "--most", "0"], 2, "most=0"),
        (["pixels", str(tmp_path / "made"), "--make-from", "digits", "--most", "0"], 2, "most=0"),
        (["pixels", str(scenes), "--seed", "1"], 2, "--seed 1: draws the pairs that --make-from makes"),
        (["pixels", str(scenes), "--descriptors", "surf"], 2, "descriptors='surf': unknown; expected sift, rgb"),
        (["pixels", str(scenes), "--descriptors", "layer2"], 2, "needs a model"),
        (["pixels", str(scenes), "--descriptors", "layers"], 2, "needs a model"),
        (["pixels", str(scenes), "--descriptors", "5"], 2, "descriptors='5': unknown"),
        (["pixels", str(scenes), "--untrained"], 2, "--untrained: 'pixels' is no model that was trained"),
        ([str(tmp_path), str(scenes)], 3, "expected a run folder"),
    ):
        run = CliRunner().invoke(app, ["match", *arguments, "--quiet"])
        assert run.exit_code == code, run.output
        assert words in run.stderr
        assert run.stderr.count("\n") == 1
    assert not (tmp_path / "made").exists()
    np.savetxt(scenes / "bark" / "H1to2p", np.zeros((3, 3)))
    run = CliRunner().invoke(app, ["match", "pixels", str(scenes)])
    assert run.exit_code == 3
    assert "is singular" in run.stderr
    monkeypatch.setitem(sys.modules, "cv2", None)
    run = CliRunner().invoke(app, ["match", "pixels", str(scenes)])
    assert run.exit_code == 2
    assert "pip install 'likewise[matching]'" in run.stderr


def test_only_what_both_images_show_is_compared(tmp_path, china):
    part = np.ascontiguousarray(china[:, 50:170, 60:220])
    shift = np.array([[1.0, 0, -60], [0, 1, -50], [0, 0, 1]])
    write_scene(tmp_path / "in", [china, part], [shift])
    write_scene(tmp_path / "out", [part, china], [np.linalg.inv(shift)])
    inside, outside = compare(read_pairs(tmp_path), [rgb], side=12, most=10_000)
    low, high = np.array([60, 50]), np.array([219, 169])
    centre = regions(china, most=10_000).centre
    shown = int(((centre >= low) & (centre <= high)).all(1).sum())
    every = len(regions(part, most=10_000).centre)
    assert 0 < shown < len(centre)
    assert inside.regions == (shown, every)
    assert outside.regions == (every, shown)
    assert inside.possible == outside.possible > 20


def test_colour_beside_grey_is_luminance(tmp_path, china):
    part = china[:, 60:160, 40:200]
    grey = as_channels(part, 1)
    write_scene(tmp_path / "mixed", [part, grey, part])
    write_scene(tmp_path / "other", [grey, part])
    write_scene(tmp_path / "plain", [grey, grey])
    mixed, colour, other, plain = compare(read_pairs(tmp_path), [rgb, sift], side=12, most=50)
    assert mixed.ap == other.ap == plain.ap
    assert min(plain.ap.values()) > 0.9
    (of_colour,) = (each.ap for each in compare([colour.pair], [rgb, sift], side=12, most=50))
    assert colour.ap == of_colour


def test_nothing_to_measure(tmp_path):
    flat = np.full((1, 50, 50), 80, np.uint8)
    write_scene(tmp_path / "flat", [flat, flat])
    with pytest.raises(DataError, match=r"none can be measured; flat img2: img1.png has no region$"):
        likewise.match("pixels", tmp_path)
    with pytest.raises(UsageError, match="none was given"):
        next(compare(read_pairs(tmp_path), []))


def test_the_verb_makes_pairs(tmp_path, china):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(16):
        Image.fromarray(china[:, i : i + 80, 4 * i : 4 * i + 80].transpose(1, 2, 0)).save(images / f"{i}.png")
    made = write_pairs(open_images(images), tmp_path / "made", n=1)
    result = likewise.match("pixels", made, descriptors="rgb", side=16, most=100)
    assert len(result["pairs"]) + len(result["skipped"]) == 24
    assert set(result["map"]["rgb"]) == {*CHANGES, "all"}
    assert result["map"]["rgb"]["light"] > result["map"]["rgb"]["zoom"]


def test_pairs_that_were_half_made_are_made_again(tmp_path, china, monkeypatch):
    images = open_images(np.stack([china[:, 4 * i : 4 * i + 24, :24].transpose(1, 2, 0) for i in range(2)]))
    made = []

    def kill(*arguments):
        made.append(arguments)
        if len(made) == 6:
            raise KeyboardInterrupt
        write_json(*arguments)

    def measured(pairs, *_, **__):
        return (Compared(pair, {"rgb": 1.0}, (1, 1), 1) for pair in pairs)

    write_json = synthetic.write_json
    monkeypatch.setattr("likewise.verbs.match.compare", measured)
    monkeypatch.setattr("likewise.verbs.match.write_pairs", partial(write_pairs, n=2))
    monkeypatch.setattr(synthetic, "write_json", kill)
    pairs, out = tmp_path / "pairs", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        likewise.match("pixels", pairs, make_from=images, out=out)
    assert (pairs / "scene02").is_dir()
    again = likewise.match("pixels", pairs, make_from=images, out=out, resume=True)
    assert len(again["pairs"]) == 2 * 24
    n = len(made)
    assert likewise.match("pixels", pairs, make_from=images, out=out, resume=True)["map"] == again["map"]
    with pytest.raises(UsageError, match=r"the pairs .* have seed=0, not 7"):
        likewise.match("pixels", pairs, make_from=images, out=tmp_path / "other", resume=True, seed=7)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "settings.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds settings.json, but is no match that likewise made"):
        likewise.match("pixels", pairs, make_from=images, out=tmp_path / "mine", resume=True)
    assert len(made) == n
    with pytest.raises(UsageError, match=r"was begun with seed=0, not 1$"):
        likewise.match("pixels", pairs, make_from=images, out=out, resume=True, seed=1)


@pytest.mark.parametrize("extent", [1.0, 2.0])
def test_a_frame_reaches_as_far_as_asked(extent):
    picture = (np.arange(64 * 64).reshape(1, 64, 64) % 251).astype(np.uint8)
    circle = Ellipses(np.array([[32.0, 32.0]]), 16 * np.eye(2)[None])
    frame = frames(picture, circle, extent=extent)[0]
    assert abs(np.linalg.det(frame[:, :2])) == pytest.approx((4 * extent) ** 2)


def test_changes_go_both_ways_and_anywhere():
    draws = [Draws(0, 0, 0, torch.tensor([i])) for i in range(8)]
    light = {round(float(alter(smooth(), "light", 2, one)[0].mean()), 3) for one in draws}
    turned = {round(float(alter(smooth(), "rotation", 1, one)[1].matrix[1, 0]), 6) for one in draws}
    centres = {tuple(alter(smooth(), "zoom", 1, one)[1].matrix[:2, 2].round(6)) for one in draws}
    assert (len(light), len(turned), len(centres)) == (2, 2, 8)


def test_pairs_and_intervals_are_drawn_by_the_seed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    for seed in (0, 3):
        write_pairs(open_images(pixels), tmp_path / str(seed), n=1, seed=seed)
    written = [(tmp_path / seed / "scene01/H1to2p").read_text() for seed in ("0", "3")]
    assert written[0] != written[1]
    rows = rows_of(np.random.default_rng(0).random((5, 4)), "a")
    assert bootstrap(rows, "a", seed=0)["low"] != bootstrap(rows, "a", seed=1)["low"]


@pytest.mark.parametrize("was", [True, False])
def test_describing_leaves_an_encoder_in_its_mode(was):
    encoder = convnet(DataInfo(1, 3, 16), width=8).train(was)
    layers(encoder)(torch.rand(2, 3, 16, 16))
    assert encoder.training is was


def test_a_keypoint_of_sift_is_as_wide_as_the_patch(monkeypatch):
    """Five bins of three times half its size: 7.5 of its sizes are a side."""
    cv2, sizes = pytest.importorskip("cv2"), []

    class Spied:
        def compute(self, picture, points):
            sizes.extend(point.size for point in points)
            return points, np.zeros((len(points), 128), np.float32)

    monkeypatch.setattr(cv2, "SIFT_create", lambda *_, **__: Spied())
    sift(torch.rand(2, 1, 60, 60))
    assert sizes == pytest.approx([60 / 7.5] * 2)


def test_results_stay_where_there_are_no_pairs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".likewise").write_text("match\n")
    (out / "match.json").write_text("{}")
    for pairs, make_from in ((tmp_path / "none", None), (tmp_path / "new", str(tmp_path / "nowhere"))):
        with pytest.raises((DataError, UsageError)):
            likewise.match("pixels", pairs, out=out, overwrite=True, make_from=make_from)
        assert (out / "match.json").is_file()
