"""Support vector machines on pooled maps: against scikit-learn, against loops, and the protocols' own rules."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.svm import LinearSVC

from likewise.draws import Draws
from likewise.encoders import Pixels, build
from likewise.errors import UsageError
from likewise.evaluation import PROBES, svm
from likewise.evaluation import svm as probe
from likewise.evaluation.labelled import Labelled, labelled
from likewise.evaluation.linear import standardise
from likewise.evaluation.svm import C, balanced, choose_c, fit_svm, over_folds, pooled, scores
from likewise.images import datasets, open_images
from likewise.images.sources import Files
from likewise.types import DataInfo, Embeddings, Encoder
from likewise.verbs.evaluate import evaluate

SVM = sys.modules["likewise.evaluation.svm"]


def blobs(n=150, d=20, k=4, seed=0, noise=1.5):
    generator = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = np.random.default_rng(9).normal(size=(k, d))[y] + noise * generator.normal(size=(n, d))
    return Embeddings(x.astype(np.float32), np.arange(n) + 1000 * seed, [""] * n, y)


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0])
def test_the_solution_is_linear_svcs(c):
    data = standardise(labelled(blobs(), blobs(60, seed=1)))
    weights = fit_svm(data.x, data.y, 4, c)
    oracle = LinearSVC(C=c, tol=1e-8, max_iter=100_000, dual=False).fit(data.x.numpy(), data.y.numpy())
    expected = torch.from_numpy(np.concatenate([oracle.coef_.T, oracle.intercept_[None]]).astype(np.float32))
    torch.testing.assert_close(weights, expected, atol=2e-3 * float(expected.abs().max()), rtol=0)
    assert (scores(weights, data.x_test).argmax(1).numpy() == oracle.predict(data.x_test.numpy())).mean() > 0.98


def test_starting_from_another_solution_ends_at_the_same():
    data = standardise(labelled(blobs(), blobs(60, seed=1)))
    there = fit_svm(data.x, data.y, 4, 1e-2)
    again = fit_svm(data.x, data.y, 4, 1e-2, fit_svm(data.x, data.y, 4, 1e-5))
    torch.testing.assert_close(again, there, atol=2e-3, rtol=0)


def test_c_is_the_smallest_that_is_best_in_cross_validation():
    data = standardise(labelled(blobs(noise=3.0), blobs(60, seed=1)))
    order = Draws(0, 0, 0, data.keys).bits("svm/validation").argsort(stable=True)
    right = []
    for c in C:
        n = 0
        for held_out in order.chunk(3):
            rest = np.setdiff1d(np.arange(150), held_out)
            model = LinearSVC(C=c, tol=1e-8, max_iter=100_000, dual=False).fit(
                data.x[rest].numpy(), data.y[rest].numpy()
            )
            n += (model.predict(data.x[held_out].numpy()) == data.y[held_out].numpy()).sum()
        right.append(int(n))
    assert len(set(right)) > 2
    chosen = C.index(choose_c(data, 0))
    assert right[chosen] >= max(right) - 1  # the solvers agree but for a borderline row


def test_figures_over_folds_are_the_mean_and_the_spread():
    train, test = blobs(), blobs(60, seed=1)
    folds = [np.arange(0, 80), np.arange(60, 150)]
    both = over_folds(train, test, folds)
    alone = []
    for fold in folds:
        data = standardise(labelled(train.rows(fold), test))
        weights = fit_svm(data.x, data.y, 4, both["c"])
        alone.append(float((scores(weights, data.x_test).argmax(1) == data.y_test).double().mean()))
    assert both["accuracy"] == pytest.approx(np.mean(alone))
    assert both["spread"] == pytest.approx(np.std(alone, ddof=1))
    assert (both["draws"], both["labels"], both["test"]) == (2, 80, 60)


def test_the_mean_over_classes_weighs_small_classes_as_large_ones():
    train = blobs(noise=2.0)
    test = blobs(80, seed=1, noise=2.0)
    test = test.rows(np.flatnonzero((test.labels > 0) | (np.arange(80) < 12)))
    data = standardise(labelled(train, test))
    result = over_folds(train, test, [np.arange(150)], by_class=True)
    guess = scores(fit_svm(data.x, data.y, 4, result["c"]), data.x_test).argmax(1)
    expected = np.mean([float((guess == data.y_test)[data.y_test == k].double().mean()) for k in range(4)])
    assert result["accuracy"] == pytest.approx(expected)


def photographs(n, side=48, seed=0, k=2):
    generator = np.random.default_rng(seed)
    y = np.arange(n) % k
    pixels = generator.integers(0, 80, (n, side, side, 3)) + (y * 150 // k)[:, None, None, None]
    return open_images(pixels.astype(np.uint8), labels=y)


def test_maps_of_all_layers_are_pooled_as_a_loop_does():
    torch.manual_seed(0)
    encoder = build("exemplar-small", DataInfo(2, 3, 32))
    images = photographs(3, 40)
    x = pooled(encoder, images, 40, (1, 2))
    assert x.shape == (3, 256 * 5)
    with torch.no_grad():
        maps = encoder.dense(images.source([1]).pixels / 255)
    expected = []
    for m in maps:
        h, w = m.shape[2:]
        expected.append(m[0].amax((1, 2)))
        rows = [(h * i // 2, -(-h * (i + 1) // 2)) for i in range(2)]
        columns = [(w * i // 2, -(-w * (i + 1) // 2)) for i in range(2)]
        cells = [m[0, :, a:b, c:d].amax((1, 2)) for a, b in rows for c, d in columns]
        expected.append(torch.stack(cells, 1).flatten())
    np.testing.assert_allclose(x[1], torch.cat(expected), rtol=1e-5, atol=1e-6)


def test_images_keep_their_aspect_and_their_order():
    generator = np.random.default_rng(0)
    shapes = [(40, 80), (60, 60), (40, 80), (80, 40)]
    pictures = [Image.fromarray(generator.integers(0, 255, (*s, 3), dtype=np.uint8)) for s in shapes]
    images, seen = open_images(pictures), []

    class Watching(Encoder):
        def dense(self, x):
            seen.append(tuple(x.shape[2:]))
            return [x]

    x = pooled(Watching(), images, 30, (1,))
    assert set(seen) == {(21, 42), (30, 30), (42, 21)}
    for i in range(4):
        np.testing.assert_allclose(x[i], pooled(Watching(), images.subset([i]), 30, (1,))[0], rtol=1e-5)


def test_an_encoder_without_maps_gives_its_features():
    images = photographs(4, 16)
    encoder = Pixels(DataInfo(4, 3, 16))
    result = probe(encoder, images, images, size=16, draws=Draws(0, 0, 0, torch.from_numpy(images.keys)))
    assert (result["dim"], result["accuracy"]) == (16 * 16 * 3, 1.0)


def test_images_without_a_label_are_neither_embedded_nor_counted(monkeypatch):
    images = photographs(12, 16)
    part = dataclasses.replace(images, labels=np.where(np.arange(12) < 8, images.labels, -1))
    seen = []
    encoder = Pixels(DataInfo(12, 3, 16))
    encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    result = probe(encoder, part, part, size=16, draws=Draws(0, 0, 0, torch.from_numpy(part.keys)))
    assert (sum(seen), result["labels"], result["test"]) == (16, 8, 8)
    with pytest.raises(UsageError, match="labels: arrays has none"):
        probe(encoder, images, images.relabel(None), size=16, draws=Draws(0, 0, 0, torch.from_numpy(images.keys)))


def test_images_are_seen_as_they_are_kept_and_none_of_their_batches_is_empty(monkeypatch):
    module, seen = sys.modules["likewise.evaluation.svm"], []

    class Watching(Encoder):
        def dense(self, x):
            seen.append(tuple(x.shape))
            return [x]

    pictures = [Image.new("RGB", (64, 48), (40 * i, 0, 200 * (i % 2))) for i in range(6)]
    images = open_images(pictures, labels=np.arange(6) % 2, side=24)
    monkeypatch.setattr(module, "AT_ONCE", 100)  # less than a single image
    probe(Watching(), images, images, size=16, draws=Draws(0, 0, 0, torch.from_numpy(images.keys)))
    assert set(seen) == {(1, 3, 21, 28)}  # of about 24 x 24 pixels, in the aspect of the image


def test_draws_are_balanced_and_follow_keys():
    images = photographs(60, 16, k=3)
    draws = Draws(0, 0, 0, torch.from_numpy(images.keys))
    folds = balanced(images, 7, 4, draws)
    assert all(np.bincount(images.labels[fold]).tolist() == [7, 7, 7] for fold in folds)
    assert len({tuple(fold) for fold in folds}) == 4
    back = images.subset(np.arange(60)[::-1].copy())
    again = balanced(back, 7, 4, draws)
    assert [set(back.keys[fold]) for fold in again] == [set(images.keys[fold]) for fold in folds]
    with pytest.raises(UsageError, match="per_class=21: the smallest class of arrays has 20 images"):
        balanced(images, 21, 1, draws)
    assert len(balanced(images, 21, 1, draws, fewer=True)[0]) == 60


def test_stl10_takes_its_predefined_folds_and_nothing_else(monkeypatch):
    images = photographs(60, 96, k=3)
    images.name = "stl10:train"
    monkeypatch.setattr(
        sys.modules["likewise.evaluation.svm"], "stl10_folds", lambda: [np.arange(30), np.arange(20, 60)]
    )
    encoder = build("exemplar-small", DataInfo(2, 3, 32))
    draws = Draws(0, 0, 0, torch.from_numpy(images.keys))
    result = PROBES["stl10"](encoder, images, images, size=32, draws=draws)
    assert (result["version"], result["draws"], result["dim"]) == ("stl10-v1", 2, 1024)
    assert datasets.SPLITS["stl10"] == ("train", "test", "unlabeled")
    images.name = "imagenette96:train"
    with pytest.raises(
        UsageError, match="protocol stl10: its folds are those of stl10:train, not of imagenette96:train"
    ):
        PROBES["stl10"](encoder, images, images, size=32, draws=draws)


def test_on_the_command_line_whole_images_are_seen(tmp_path):
    """A model of 32-pixel patches sees images of 96 pixels whole, though its own views are opened at 48."""
    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(6):
                colour = (200 if label == "a" else 40, 10 * i, 5 if part == "test" else 0)
                Image.new("RGB", (96, 96), colour).save(tmp_path / part / label / f"{i}.png")
    encoder = build("exemplar-small", DataInfo(2, 3, 32))
    seen = []
    encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[2]))
    dense = encoder.dense
    encoder.dense = lambda x: (seen.append(x.shape[2]), dense(x))[1]
    options = {"labels": "folders", "size": 32, "protocols": ["svm"]}
    result = evaluate(encoder, str(tmp_path / "train"), test=str(tmp_path / "test"), **options)
    assert set(seen) == {32, 96}
    assert result["protocols"]["svm"]["accuracy"] == 1.0
    assert "an SVM on all layers finds the right class for 100 %" in result["verdict"].replace("An", "an")
    assert svm is PROBES["svm"]


def test_protocols_are_those_of_the_paper(monkeypatch):
    """Sides, pyramids, draws, and means over classes."""
    asked = {}

    def judge(encoder, train, test, side, pyramid, folds, *rest, by_class=False):
        asked.update(side=side, pyramid=pyramid, folds=folds and len(folds), test=len(test), by_class=by_class)
        return {}

    class Dense(Encoder):
        def dense(self, images):
            return [images]

    monkeypatch.setattr(sys.modules["likewise.evaluation.svm"], "judge", judge)
    images = photographs(120, 16)
    draws = Draws(0, 0, 0, torch.from_numpy(images.keys))

    def ask(name, **options):
        PROBES[name](Dense(), images, images, size=16, draws=draws, **options)
        return asked

    assert ask("caltech101") == {"side": 150, "pyramid": (1, 2, 4), "folds": 10, "test": 100, "by_class": True}
    assert ask("caltech101", per_class=60)["folds"] == 1  # all there are
    assert ask("cifar10") == {"side": 64, "pyramid": (2,), "folds": None, "test": 120, "by_class": False}
    assert ask("cifar10-400", per_class=5) == {"side": 64, "pyramid": (2,), "folds": 10, "test": 120, "by_class": False}
    with pytest.raises(UsageError, match="per_class=5, n_draws=0: both must be at least 1"):
        ask("cifar10-400", per_class=5, n_draws=0)


class Itself(Encoder):
    dim = 3

    def dense(self, images):
        return [images]

    def forward(self, images):
        return images.mean((2, 3))


def test_sizes_are_known_without_decoding(tmp_path, monkeypatch):
    """A set that the cache has no room for is decoded once by `svm`, and not again for its sizes."""
    for i in range(12):
        folder = tmp_path / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24 + i % 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    images = open_images(tmp_path / "images", labels="folders", cache=tmp_path / "cache", cache_limit=0)
    loaded, load = [], Files.load
    monkeypatch.setattr(Files, "load", lambda self, i, *rest: (loaded.append(i), load(self, i, *rest))[1])
    svm(Itself(), images, images, size=16, draws=Draws(0, 0, 0, torch.from_numpy(images.keys)))
    assert len(loaded) == 2 * 12  # as train and as test
    for wrong in ({"side": -5}, {"side": 0}, {"n_draws": 5}, {"n_draws": 0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            svm(Itself(), images, images, size=16, draws=Draws(0, 0, 0, torch.from_numpy(images.keys)), **wrong)


@pytest.mark.parametrize(
    ("rights", "tried", "best"),
    [
        ([5, 6, 4, 7, 0, 0, 0, 0], 6, 3),  # one worse ends nothing, two do
        ([5, 6, 4, 3, 9, 9, 9, 9], 4, 1),
        ([5, 5, 5, 5, 5, 5, 5, 5], 8, 0),  # as good is not worse; the smaller among equals
    ],
)
def test_the_search_for_c_ends_when_two_more_are_worse(rights, tried, best, monkeypatch):
    table = blobs(30, 3, 2)
    x, y = torch.from_numpy(table.x), torch.from_numpy(table.labels)
    data, asked = Labelled(x, y, torch.arange(30), x, y, 2), []

    def fit(x, y, n_classes, c, start, iterations):
        asked.append(c)
        return torch.tensor([float(C.index(c))])

    def scores(weights, x):
        right = x[:, 0] < rights[int(weights)]
        return torch.stack([right, ~right], 1).float()

    monkeypatch.setattr(SVM, "fit_svm", fit)
    monkeypatch.setattr(SVM, "scores", scores)
    monkeypatch.setattr(SVM, "N_FOLDS", 1)
    data = data._replace(x=torch.arange(30.0)[:, None], y=torch.zeros(30, dtype=torch.int64))
    assert choose_c(data, 0) == C[best]
    assert len(set(asked)) == tried


def test_of_many_images_a_fifth_is_held_out_to_choose_c(monkeypatch):
    fitted = []
    monkeypatch.setattr(SVM, "MANY", 40)
    monkeypatch.setattr(SVM, "fit_svm", lambda x, y, n_classes, *rest: (fitted.append(len(x)), torch.zeros(4, 2))[1])
    for n, expected in ((40, {26, 28}), (41, {33})):
        fitted.clear()
        table = blobs(n, 3, 2)
        x, y = torch.from_numpy(table.x), torch.from_numpy(table.labels)
        choose_c(Labelled(x, y, torch.arange(n), x, y, 2), 0)
        assert set(fitted) == expected
