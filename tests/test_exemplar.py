"""Exemplar-CNN: its objective, its networks, how classes join and merge, and training on patches of a folder."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from likewise.draws import Draws
from likewise.encoders import build
from likewise.errors import UsageError
from likewise.images import open_images, patches
from likewise.methods.exemplar import Exemplar, decompose, merge
from likewise.training.fit import make_batch, settle
from likewise.types import DataInfo, TrainConfig
from likewise.verbs.pretrain import pretrain
from likewise.views import RECIPES, View


def noise(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def method(n=6, views=None, **options):
    torch.manual_seed(0)
    data = DataInfo(n, 3, 32)
    encoder = build("exemplar-small", data)
    return Exemplar(encoder, data, views=views or RECIPES["exemplar"](32), **options)


def batch(made, n=6, epoch=0, seed=0):
    images = open_images(noise(n, 72, 72, 3, seed=seed))
    rows = torch.arange(n).unsqueeze(1)
    return make_batch(made, images, rows, images.source(rows), 0.0, TrainConfig(device="cpu"), epoch, 0)


# The objective


def test_the_two_parts_add_up_to_the_cross_entropy_of_features():
    """On features and a softmax layer, as the paper writes it: with gbar the mean feature of a seed."""
    generator = torch.Generator().manual_seed(0)
    g, w, bias = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((5, 7, 4), (9, 4), (9,)))
    classes = torch.arange(7)
    logits = g @ w.T + bias
    logistic, invariance = decompose(logits, classes)
    mean = g.mean(0) @ w.T + bias
    torch.testing.assert_close(logistic, -mean.gather(1, classes[:, None])[:, 0] + mean.exp().sum(1).log())
    torch.testing.assert_close(invariance, logits.exp().sum(2).log().mean(0) - mean.exp().sum(1).log())
    loss = torch.stack([F.cross_entropy(part, classes, reduction="none") for part in logits]).mean(0)
    torch.testing.assert_close(logistic + invariance, loss)
    assert (invariance > 0).all()


def test_the_regulariser_is_zero_where_transforms_add_constants_alone():
    logits = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shifted = logits + torch.arange(4.0, dtype=torch.float64).reshape(4, 1, 1)
    invariance = decompose(shifted, torch.arange(6))[1]
    torch.testing.assert_close(invariance, torch.zeros(6, dtype=torch.float64))


def test_a_step_shows_two_parts_that_add_up_to_its_loss():
    made = method()
    for _ in range(2):
        step = made.step(batch(made))
        whole = step.shown["logistic"] + step.shown["invariance"]
        torch.testing.assert_close(step.terms["cross-entropy"].detach(), whole, rtol=1e-5, atol=1e-5)
        assert step.shown["invariance"] >= 0
        with torch.no_grad():  # weights far from where they start, that the parts are not both near a constant
            made.classifier.weight.normal_(generator=torch.Generator().manual_seed(1)).mul_(3)
    assert step.shown["invariance"] > 0.1


def test_with_one_version_of_each_seed_nothing_is_left_to_vary():
    made = method(views=RECIPES["exemplar"](32, versions=1), dropout=0.0)
    made.classifier.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    seen = batch(made)
    assert torch.equal(seen.views[0], seen.views[1])
    assert made.step(seen).shown["invariance"].abs() < 1e-5
    assert torch.equal(batch(made, epoch=7).views[0], seen.views[0])


def test_a_seed_has_so_many_samples_in_all_as_versions():
    made = method(views=RECIPES["exemplar"](32, versions=3))
    seen = [view[0] for epoch in range(25) for view in batch(made, epoch=epoch).views]
    assert len(torch.stack(seen).flatten(1).unique(dim=0)) == 3


def test_dropout_is_drawn_by_image_and_is_off_in_evaluation():
    made = method(dropout=0.75, pixel_mean=False)  # the mean would have moved by the second step
    seen = batch(made)
    torch.manual_seed(0)
    one = made.step(seen).terms["cross-entropy"]
    torch.manual_seed(1)
    assert torch.equal(made.step(batch(made)).terms["cross-entropy"], one)
    made.eval()
    still = made.step(seen).terms["cross-entropy"]
    assert not torch.equal(still, one)
    assert torch.equal(made.step(seen).terms["cross-entropy"], still)


def test_the_pixel_mean_is_what_positions_have_beyond_their_channels_mean():
    made = method()
    ramp = torch.linspace(0, 1, 32).expand(3, 32, 32)
    images = (ramp + torch.rand(50, 3, 32, 32, generator=torch.Generator().manual_seed(0))) / 2
    for part in images.split(10):
        left = made.centred(part)
    expected = images.mean(0) - images.mean((0, 2, 3)).reshape(3, 1, 1)
    torch.testing.assert_close(made.position_mean, expected)
    torch.testing.assert_close(left, images[40:] - expected)
    made.eval()
    torch.testing.assert_close(made.centred(images), images - expected)
    other = torch.rand(2, 3, 64, 64)
    assert made.centred(other) is other


# Classes that join, and classes that merge


def draws(n, epoch=0):
    return Draws(0, epoch, 0, torch.arange(100, 100 + n))


def test_classes_join_by_doubling_and_stay():
    made = method(40, first_classes=5, grow_epochs=2)
    sets = [set(made.order(epoch, draws(40, epoch)).flatten().tolist()) for epoch in range(9)]
    assert [len(ids) for ids in sets] == [5, 5, 10, 10, 20, 20, 40, 40, 40]
    assert all(before <= after for before, after in itertools.pairwise(sets))
    assert sets[0] != set(range(5))


def test_epochs_that_grow_are_counted_one_by_one():
    images = open_images(noise(40, 72, 72, 3))
    made = method(40, first_classes=5, grow_epochs=1)
    config = TrainConfig(epochs=5, batch_size=10, device="cpu")
    assert settle(config, made, images).steps == 1 + 1 + 2 + 4 + 4
    assert settle(config, method(40), images).steps == 20


def test_classes_that_have_not_joined_are_not_competed_with():
    made = method(6, first_classes=3, dropout=0.0)
    assert "active" in made.state_dict()  # an epoch goes on with the classes that it began with
    made.begin_epoch(0, draws(6))
    ids = made.order(0, draws(6)).flatten()
    made.classifier.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    seen = batch(made)
    from dataclasses import replace

    part = replace(seen, ids=ids.unsqueeze(1), views=[v[ids] for v in seen.views], draws=replace(seen.draws, keys=ids))
    made.eval()
    shown = made.step(part).terms["cross-entropy"]
    logits = made.classifier(made.encoder(torch.cat(list(part.views))))[:, ids]
    torch.testing.assert_close(shown, F.cross_entropy(logits, torch.arange(3).repeat(2)))


def test_seeds_that_features_cannot_tell_apart_are_merged_and_loose_ones_left_out():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(8, 16))
    tight = np.repeat(centres, 5, 0) + 1e-3 * generator.normal(size=(40, 16))
    loose = np.repeat(generator.normal(size=(1, 16)), 4, 0) + 0.2 * generator.normal(size=(4, 16))
    merged = merge(np.concatenate([tight, loose]).astype(np.float32), 9, drop=0.1, seed=1)
    groups = merged[:40].reshape(8, 5)
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0].tolist())) == 8
    assert (merged[40:] == -1).all()
    kept = merged[merged >= 0]
    assert sorted(set(kept.tolist())) == list(range(int(kept.max()) + 1))
    with pytest.raises(UsageError, match="n_classes=50: expected from 2 to the number of seeds, 44"):
        merge(np.concatenate([tight, loose]).astype(np.float32), 50)


def test_merged_seeds_share_a_class_and_dropped_ones_are_not_shown():
    made = method(6, merged=torch.tensor([0, 0, 1, -1, 2, 2]))
    assert made.classifier.out_features == 3
    assert sorted(made.order(0, draws(6)).flatten().tolist()) == [0, 1, 2, 4, 5]
    assert (
        sorted(method(6, merged=torch.tensor([0, 0, 1, -1, 2, 2]), first_classes=2).order(0, draws(6)).tolist()) != []
    )
    with pytest.raises(UsageError, match="merged: 2 classes for 6 images"):
        method(6, merged=torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"first_classes": 1}, "first_classes=1"),
        ({"grow_epochs": 0}, "grow_epochs=0"),
    ],
)
def test_arguments_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        method(**options)


# The networks


@pytest.mark.parametrize(
    ("name", "side", "sides", "maps", "parameters"),
    [
        ("small", 32, [28, 10, 1], 256, 312_256),
        ("medium", 32, [28, 10, 1, 1], 960, 1_160_832),
        ("large", 32, [28, 10, 1, 1], 1_884, 4_398_672),
        ("matching", 64, [29, 10, 1, 1], 960, 1_165_440),
    ],
)
def test_the_networks_are_the_papers(name, side, sides, maps, parameters):
    encoder = build(f"exemplar-{name}", DataInfo(2, 3, side))
    seen = encoder.dense(torch.rand(1, 3, side, side))
    assert [m.shape[2] for m in seen] == sides
    assert sum(m.shape[1] for m in seen) == maps
    assert sum(p.numel() for p in encoder.parameters()) == parameters


def test_the_fully_connected_layer_is_a_convolution_at_test_time():
    """At every fourth pixel the map of a large image is the feature of the patch cut out there."""
    torch.manual_seed(0)
    encoder = build("exemplar-small", DataInfo(2, 3, 32)).eval()
    image = torch.rand(1, 3, 48, 44)
    maps = encoder.dense(image)
    assert maps[-1].shape == (1, 128, 5, 4)
    for i, j in ((0, 0), (2, 1), (4, 3)):
        patch = image[:, :, 4 * i : 4 * i + 32, 4 * j : 4 * j + 32]
        torch.testing.assert_close(encoder(patch)[0], maps[-1][0, :, i, j], rtol=1e-4, atol=1e-5)
        weights, bias = encoder.layers[-1][0].weight, encoder.layers[-1][0].bias
        flat = F.max_pool2d(encoder.dense(patch)[1], 2).flatten(1)
        torch.testing.assert_close(
            F.linear(flat, weights.flatten(1), bias).relu(), encoder(patch), rtol=1e-4, atol=1e-5
        )


# On the command line


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    colours = np.random.default_rng(1).uniform(0.2, 1, (4, 1, 1, 3))  # by which they are told apart at a glance
    for i, pixels in enumerate((noise(4, 70, 90, 3) * colours).astype(np.uint8)):
        (tmp_path / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / str(i % 2) / f"{i}.png")
    return tmp_path / "images"


def test_a_plain_folder_is_learned_from_by_its_patches(folder, tmp_path):
    options = {"method": "exemplar", "encoder": "exemplar-small", "steps": 4, "batch_size": 8, "device": "cpu"}
    result = pretrain(str(folder), out=tmp_path / "run", patches=12, labels="folders", save_every="2", **options)
    assert result["images"] == 12
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all({"logistic", "invariance", "error"} <= set(line["shown"]) for line in lines)
    assert not any("knn" in line for line in lines)  # patches have no labels
    again = pretrain(str(folder), out=tmp_path / "run", resume=True)
    assert again["weights"] == result["weights"]
    with pytest.raises(UsageError, match=r"patches=11: the run .* was begun with 12"):
        pretrain(str(folder), out=tmp_path / "run", patches=11, resume=True)


def test_the_images_themselves_can_be_the_seeds(folder, tmp_path):
    options = {
        "method": "exemplar",
        "encoder": "exemplar-small",
        "steps": 2,
        "batch_size": 4,
        "device": "cpu",
        "size": 16,
    }
    result = pretrain(str(folder), out=tmp_path / "run", patches=0, **options)
    assert result["images"] == 4


def test_other_methods_can_learn_from_patches(folder, tmp_path):
    options = {"method": "simclr", "steps": 2, "batch_size": 4, "device": "cpu", "size": 16}
    assert pretrain(str(folder), out=tmp_path / "run", patches=9, **options)["images"] == 9
    with pytest.raises(UsageError, match="patches=-1"):
        pretrain(str(folder), out=tmp_path / "other", patches=-1, **options)


def test_training_goes_on_with_merged_classes(folder, tmp_path):
    seeds = patches(open_images(folder), 10)
    options = {"method": "exemplar", "patches": 0, "steps": 3, "batch_size": 4, "device": "cpu", "size": 32}
    pretrain(seeds, out=tmp_path / "run", **options)
    from likewise.embedding import features, load

    merged = merge(features(load(tmp_path / "run"), seeds, 32), 4)
    pretrain(seeds, out=tmp_path / "second", init_from=tmp_path / "run", merged=merged, **options)
    assert View(32).versions == 0


def test_a_cluster_as_large_as_the_share_is_dropped():
    generator = np.random.default_rng(0)
    tight = np.repeat(generator.normal(size=(4, 16)), 4, 0) + 1e-3 * generator.normal(size=(16, 16))
    loose = np.repeat(generator.normal(size=(1, 16)), 4, 0) + 0.2 * generator.normal(size=(4, 16))
    seeds = np.concatenate([tight, loose]).astype(np.float32)
    merged = merge(seeds, 5, drop=0.2, seed=1)
    assert (merged[16:] == -1).all()
    assert (merged[:16] >= 0).all()
    for drop in (-0.1, 1.0, 7.0):
        with pytest.raises(UsageError, match=rf"drop={drop}: expected at least 0 and less than 1"):
            merge(seeds, 5, drop=drop)
