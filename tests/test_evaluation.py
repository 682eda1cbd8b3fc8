"""Protocols against scikit-learn, naive loops and closed forms."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

import likewise
from likewise import progress
from likewise.draws import Draws
from likewise.embedding import images_hash, save_encoder, weights_hash
from likewise.encoders import Pixels, build
from likewise.errors import DataError, UsageError
from likewise.evaluation import alignment, describe, few_label, health, knn, linear, map2d
from likewise.evaluation.health import alpha, rankme, std, uniformity
from likewise.evaluation.labelled import Labelled, features, labelled
from likewise.images import open_images
from likewise.types import DataInfo, Embeddings
from likewise.verbs.evaluate import evaluate

KNN = sys.modules["likewise.evaluation.knn"]
LINEAR = sys.modules["likewise.evaluation.linear"]
HEALTH = sys.modules["likewise.evaluation.health"]


def embeddings(x, labels=None, classes=None, first=0):
    x = np.asarray(x, dtype=np.float32)
    return Embeddings(x, np.arange(first, first + len(x)), [""] * len(x), labels, classes)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return embeddings(x[:1000], y[:1000]), embeddings(x[1000:], y[1000:], first=1000)


def naive_knn(train, test, k, temperature):
    x = train.x.astype(float) - train.x.astype(float).mean(0)
    z = test.x.astype(float) - train.x.astype(float).mean(0)
    right = 0
    for row, label in zip(z, test.labels, strict=True):
        similarity = x @ row / np.maximum(np.linalg.norm(x, axis=1) * np.linalg.norm(row), 1e-12)
        near = np.argsort(-similarity)[:k]
        votes = np.bincount(train.labels[near], np.exp(similarity[near] / temperature))
        right += votes.argmax() == label
    return right / len(z)


def test_knn_is_the_naive_vote(digits):
    result = knn(*digits)
    assert result["version"] == "knn-v1"
    assert result["k"] == 20
    # Float32 may turn a near tie: one image at most.
    assert result["accuracy"] == pytest.approx(naive_knn(*digits, 20, 0.07), abs=1.5 / 797)
    assert result["accuracy_200"] == pytest.approx(naive_knn(*digits, 200, 0.07), abs=1.5 / 797)
    assert result["plain"] == pytest.approx(naive_knn(*digits, 20, 1e9), abs=3 / 797)
    assert result["accuracy"] > 0.9


def test_knn_in_blocks(digits, monkeypatch):
    expected = knn(*digits)
    monkeypatch.setattr(KNN, "TRAIN_BLOCK", 130)
    monkeypatch.setattr(KNN, "TEST_BLOCK", 50)
    assert knn(*digits) == pytest.approx(expected, abs=1.5 / 797)


@pytest.mark.parametrize("n", [63, 64, 1000, 5003])
def test_nearest_are_the_nearest(n):
    generator = torch.Generator().manual_seed(n)
    queries, x = torch.randn(9, 8, generator=generator), torch.randn(n, 8, generator=generator)
    values, which = KNN.nearest(queries, x, 20)
    expected = (queries @ x.T).sort(dim=1, descending=True)
    torch.testing.assert_close(values, expected.values[:, :20])
    assert torch.equal(which, expected.indices[:, :20])


def test_knn_ties_go_to_the_lower_class():
    train = embeddings([[1.0, 0], [1, 0], [-1, 0], [-1, 0]], np.array([2, 1, 0, 3]))
    test = embeddings([[5.0, 0], [-5, 0]], np.array([1, 0]))
    assert knn(train, test, k=2)["accuracy"] == 1.0


def test_knn_does_not_depend_on_the_order_of_train():
    x = np.random.default_rng(0).integers(0, 2, (400, 6))  # many ties
    train, test = embeddings(x[:300], np.arange(300) % 5), embeddings(x[300:], np.arange(100) % 5, first=300)
    orders = [np.random.default_rng(seed).permutation(300) for seed in range(4)]
    assert len({knn(train.rows(order), test)["accuracy"] for order in orders}) == 1


def test_knn_of_zero_vectors():
    train = embeddings([[0.0, 0], [0, 0], [0, 0]], np.array([0, 1, 1]))
    result = knn(train, train)
    assert result["k"] == 3
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert "accuracy_200" not in result


@pytest.mark.parametrize("options", [{"k": 0}, {"temperature": 0.0}])
def test_knn_refuses(digits, options):
    with pytest.raises(UsageError, match="both must be positive"):
        knn(*digits, **options)


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_linear_is_scikit_learns_logistic_regression(digits, l2):
    data = LINEAR.standardise(labelled(*digits))
    x, x_test = data.x, data.x_test
    weights = LINEAR.fit(x, data.y, l2, torch.zeros(65, 10))
    oracle = LogisticRegression(C=1 / (len(x) * l2), max_iter=2000, tol=1e-8).fit(x.numpy(), data.y.numpy())
    difference = weights[:-1].T - torch.from_numpy(oracle.coef_)
    assert difference.norm() < 0.01 * np.linalg.norm(oracle.coef_)
    expected = oracle.score(x_test.numpy(), data.y_test.numpy())
    assert LINEAR.accuracy(weights, x_test, data.y_test) == pytest.approx(expected, abs=1.5 / 797)


def test_linear_chooses_on_held_out_tenths_of_train(digits):
    result = linear(*digits)
    assert result["version"] == "linear-v2"
    assert result["l2"] in LINEAR.L2
    assert result["accuracy"] > 0.88
    assert (500 * result["validation"]) == pytest.approx(round(500 * result["validation"]))  # of 500 images
    assert linear(*digits) == result


@pytest.mark.parametrize(("n", "n_tenths"), [(7, 7), (99, 10), (240, 10), (1000, 5), (4999, 2), (5000, 1), (9000, 1)])
def test_linear_holds_out_enough_to_choose_on(monkeypatch, n, n_tenths):
    """Tenths of 5,000 images or fewer are held out in turn, never one image twice."""
    fitted, judged = [], []

    def fit(x, y, l2, start):
        fitted.append(x[:, 0])
        return torch.zeros(2, 2)

    def accuracy(weights, x, y):
        judged.append(x[:, 0])
        return 0.5

    monkeypatch.setattr(LINEAR, "fit", fit)
    monkeypatch.setattr(LINEAR, "accuracy", accuracy)
    x = torch.arange(n).float()[:, None]
    data = Labelled(x, x[:, 0].long() % 2, torch.arange(n), x, x[:, 0].long() % 2, 2)
    assert LINEAR.solve(data, 0)[1:] == (LINEAR.L2[0], 0.5)
    assert len(judged) == len(LINEAR.L2) * n_tenths
    for rest, tenth in zip(fitted, judged, strict=False):
        assert len(tenth) == max(n // 10, 1)
        assert torch.equal(torch.cat([rest, tenth]).sort().values, x[:, 0])
    assert len(torch.cat(judged[:n_tenths]).unique()) == n_tenths * max(n // 10, 1) >= min(500, 9 * n // 10)


def test_linear_takes_the_l2_of_scikit_learns_cross_validation(digits):
    """Ten tenths of 240 images, against the same tenths handed to scikit-learn."""
    train, test = digits
    data = LINEAR.standardise(labelled(train.rows(np.arange(240)), test))
    _, l2, validation = LINEAR.solve(data, 0)
    order = Draws(0, 0, 0, data.keys).bits("linear/validation").argsort(stable=True)
    tenths = [(np.setdiff1d(order, order[i : i + 24]), order[i : i + 24].numpy()) for i in range(0, 240, 24)]
    scores = []
    for candidate in LINEAR.L2:
        oracle = LogisticRegression(C=1 / (216 * candidate), max_iter=2000, tol=1e-8)
        scores.append(cross_val_score(oracle, data.x.numpy(), data.y.numpy(), cv=tenths).mean())
    assert validation == pytest.approx(max(scores), abs=2 / 240)
    assert scores[LINEAR.L2.index(l2)] >= max(scores) - 2 / 240


def test_linear_does_not_look_at_test(digits):
    train, test = digits
    wrong = embeddings(test.x, (test.labels + 1) % 10, first=1000)
    assert {**linear(train, wrong), "accuracy": 0} == {**linear(train, test), "accuracy": 0}


def test_linear_does_not_depend_on_the_order_of_train(digits):
    train, test = digits
    shuffled = train.rows(np.random.default_rng(0).permutation(len(train)))
    assert linear(shuffled, test)["accuracy"] == pytest.approx(linear(train, test)["accuracy"], abs=0.01)
    assert linear(shuffled, test)["l2"] == linear(train, test)["l2"]


def test_constant_channels_do_no_harm(digits):
    def more(e):
        return embeddings(np.concatenate([e.x, np.full((len(e), 1), 1e4)], 1), e.labels, first=int(e.keys[0]))

    train, test = digits
    assert linear(more(train), more(test))["accuracy"] == pytest.approx(linear(train, test)["accuracy"], abs=0.005)


def test_words_say_when_test_images_are_few():
    told = {"knn": {"accuracy": 0.333}, "health": {"rankme": 60.2, "dim": 256, "collapsed": False}}
    few = "k-NN finds the right class for 33 % of the held-out images. There are only 4 of these: chance moves such a"
    assert describe(told, 4).startswith(f"{few} share by up to 50 points. The features use")
    assert describe(told, 400) == describe(told)
    assert "chance" not in describe({"health": told["health"]}, 4)


def test_few_labels(digits):
    one = few_label(*digits)
    assert one["labels"] == 10
    tenth = few_label(*digits, share=0.1)
    assert tenth["labels"] == pytest.approx(100, abs=3)
    assert 0.3 < one["accuracy"] < tenth["accuracy"] < linear(*digits)["accuracy"]
    assert tenth["spread"] > 0
    assert (one["share"], one["share_used"]) == (0.01, 0.01)
    full = few_label(*digits, share=1.0, n_draws=1)
    assert full["spread"] == 0
    assert full["share_used"] == full["labels"] / 1000 < 1  # a class cannot give more than it has
    with pytest.raises(UsageError, match=r"share=0\.0: must be above 0"):
        few_label(*digits, share=0.0)
    with pytest.raises(UsageError, match="n_draws=0: must be at least 1"):
        few_label(*digits, n_draws=0)


def test_rankme_in_closed_form():
    generator = torch.Generator().manual_seed(0)
    assert rankme(torch.linalg.qr(torch.randn(500, 32, generator=generator))[0]) == pytest.approx(32, abs=0.01)
    assert rankme(torch.randn(500, 1, generator=generator) @ torch.randn(1, 32, generator=generator)) < 1.01
    assert rankme(torch.randn(2048, 512, generator=generator)) == pytest.approx(494.8, abs=0.5)
    assert rankme(torch.randn(10, 64, generator=generator)) <= 10.01
    assert np.isfinite(rankme(torch.zeros(5, 3)))
    x = torch.randn(200, 20, generator=generator)
    p = torch.linalg.svdvals(x.double())
    p = p / p.sum() + 1e-7
    assert rankme(x) == pytest.approx(float((-p * p.log()).sum().exp()))


def test_alpha_is_the_slope():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(400, 65, generator=generator, dtype=torch.float64))[0]
    basis = torch.linalg.qr(torch.cat([torch.ones(400, 1, dtype=torch.float64), basis], 1))[0][:, 1:]  # mean zero
    for slope in (0.5, 1.0, 2.0):
        x = basis * torch.arange(1, 66, dtype=torch.float64).pow(-slope / 2)
        assert alpha(x) == pytest.approx(slope, abs=1e-6)
    assert alpha(torch.ones(5, 3)) is None


def test_uniformity_in_closed_form():
    generator = torch.Generator().manual_seed(0)
    assert uniformity(torch.randn(2000, 512, generator=generator)) == pytest.approx(-3.98, abs=0.02)
    assert uniformity(torch.randn(2000, 2, generator=generator)) == pytest.approx(-1.58, abs=0.05)
    assert uniformity(torch.ones(10, 3)) == pytest.approx(0)
    assert uniformity(torch.tensor([[1.0, 0], [-3, 0]])) == pytest.approx(-8)


def test_alignment_in_closed_form():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-9)
    assert alignment(x, -x) == pytest.approx(4)
    assert alignment(torch.eye(4), torch.eye(4).roll(1, 0)) == pytest.approx(2)
    with pytest.raises(DataError, match=r"shapes \(4, 4\) and \(3, 4\)"):
        alignment(torch.eye(4), torch.eye(4)[:3])


def test_std_is_one_for_an_even_spread():
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    assert std(x) == pytest.approx(1, abs=0.01)
    assert std(torch.ones(10, 4)) == pytest.approx(0)


@pytest.mark.parametrize(
    ("x", "collapsed"),
    [
        (np.random.default_rng(0).normal(size=(300, 32)), False),
        (np.random.default_rng(0).normal(size=(300, 32)) + 3, False),
        (np.random.default_rng(0).normal(size=(300, 2)), False),
        (np.ones((300, 32)), True),
        (np.zeros((300, 32)), True),
        (np.ones((300, 32)) + 1e-3 * np.random.default_rng(0).normal(size=(300, 32)), True),
        (np.outer(np.random.default_rng(0).normal(size=300), np.ones(32)), True),
    ],
)
def test_health_tells_collapse(x, collapsed):
    assert health(embeddings(x))["collapsed"] is collapsed


def test_one_dimension_or_a_handful_of_images_is_no_collapse():
    assert health(embeddings(np.random.default_rng(0).normal(size=(300, 1))))["collapsed"] is False
    assert health(embeddings(np.ones((300, 1))))["collapsed"] is True
    few = health(embeddings(np.ones((2, 32))))
    assert (few["collapsed"], few["images"]) == (False, 2)
    assert "too few images were measured to tell whether they have collapsed" in describe({"health": few})
    generator = np.random.default_rng(0)
    narrow = health(embeddings(generator.normal(size=(500, 3)) @ generator.normal(size=(3, 128))))
    assert "about 3 of 128 dimensions; they have not collapsed, but so few tell little apart" in describe(
        {"health": narrow}
    )


def test_health_reads_no_more_rows_than_it_measures(monkeypatch):
    x = np.random.default_rng(0).normal(size=(50, 4))
    read = []
    monkeypatch.setattr(HEALTH, "ROWS", 20)
    monkeypatch.setattr(HEALTH, "features", lambda table, side: (read.append(len(table)), features(table, side))[1])
    assert health(embeddings(x))["images"] == 20
    assert read == [20]


def test_means_by_blocks_are_means(digits, monkeypatch):
    data = labelled(*digits)
    whole = LINEAR.standardise(data)
    expected = (data.x.double() - data.x.double().mean(0)) / data.x.double().std(0, correction=0).clamp(min=1e-9)
    torch.testing.assert_close(whole.x, expected.float(), atol=1e-6, rtol=0)
    for module in ("labelled", "linear"):
        monkeypatch.setattr(sys.modules[f"likewise.evaluation.{module}"], "BLOCK", 70)
    blocks = LINEAR.standardise(data)
    torch.testing.assert_close(blocks.x, whole.x, atol=1e-6, rtol=0)
    torch.testing.assert_close(blocks.x_test, whole.x_test, atol=1e-6, rtol=0)


def test_classes_are_matched_by_name():
    x = np.eye(3)
    train = embeddings(x, np.array([0, 1, 2]), ["cat", "dog", "owl"])
    test = embeddings(x, np.array([1, 2, 0]), ["owl", "cat", "dog"])
    assert knn(train, test, k=1)["accuracy"] == 1.0
    strange = embeddings(x, np.array([0, 1, 1]), ["cat", "emu"])
    assert knn(train, strange, k=1)["accuracy"] == pytest.approx(1 / 3)
    with pytest.raises(UsageError, match="no class of the test images occurs"):
        knn(train, embeddings(x, np.array([0, 0, 0]), ["emu"]))


def test_labels_without_names_survive_a_folder(tmp_path):
    train = embeddings(np.eye(12), np.arange(12))
    loaded = Embeddings.load(train.save(tmp_path))
    assert (loaded.labels.tolist(), loaded.classes) == (list(range(12)), None)
    assert knn(train, loaded, k=1)["accuracy"] == 1.0
    named = Embeddings.load(embeddings(np.eye(2), np.array([1, 0]), ["2", "10"]).save(tmp_path))
    assert (named.labels.tolist(), named.classes) == ([1, 0], ["2", "10"])
    with pytest.raises(DataError, match="classes: test has names of classes and train none"):
        knn(train.rows(np.arange(2)), embeddings(np.eye(2, 12), np.array([1, 0]), ["2", "10"]))
    with pytest.raises(DataError, match="label 1 but 0 names of classes"):
        embeddings(np.eye(2), np.array([1, 0]), [])


def test_images_without_a_label_are_left_out():
    train = embeddings(np.eye(4), np.array([0, 1, -1, 1]))
    test = embeddings(np.eye(4), np.array([0, 1, -1, -1]))
    assert knn(train, test, k=1)["accuracy"] == 1.0


def test_describe():
    full = {
        "knn": {"accuracy": 0.71},
        "linear": {"accuracy": 0.8},
        "few-label": {"accuracy": 0.5, "labels": 100},
        "health": {"rankme": 60.0, "dim": 256, "collapsed": True},
    }
    assert describe(full) == (
        "k-NN finds the right class for 71 % of the held-out images, a linear probe for 80 %, "
        "a linear probe with 100 labels for 50 %. "
        "The features use about 60 of 256 dimensions; they have collapsed: all images look alike to the encoder."
    )
    assert describe({"linear": {"accuracy": 0.8}}).startswith("A linear probe finds the right class for 80 %")
    assert describe({"health": {"collapsed": False}}) == "Nothing has collapsed."
    assert describe({"health": {"rankme": float("nan")}, "knn": {}, "other": {"x": 1}}) == "Nothing was measured."
    assert describe({}) == "Nothing was measured."


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_map2d_keeps_clusters_apart(method):
    generator = np.random.default_rng(0)
    x = np.concatenate([np.eye(8)[i] + 0.02 * generator.normal(size=(20, 8)) for i in range(3)])
    before = x.copy()
    points = map2d(x, method=method)
    assert points.shape == (60, 2)
    assert np.abs(points).max() == pytest.approx(1)
    assert np.array_equal(points, map2d(x, method=method))
    assert np.array_equal(x, before)
    centres = points.reshape(3, 20, 2).mean(1)
    own = np.linalg.norm(points.reshape(3, 20, 2) - centres[:, None], axis=2).max()
    assert own < min(np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))) / 2


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("x", [np.ones((1, 4)), np.zeros((5, 4)), np.random.default_rng(0).normal(size=(5, 1))])
def test_map2d_of_little(method, x):
    points = map2d(x, method=method)
    assert points.shape == (len(x), 2)
    assert np.isfinite(points).all()


def test_map2d_refuses(monkeypatch):
    with pytest.raises(UsageError, match="method 'isomap': must be one of pca, tsne, umap"):
        map2d(np.eye(3), method="isomap")
    with pytest.raises(UsageError, match="at most 3,000 points, not 3,001"):
        map2d(np.zeros((3001, 2)), method="tsne")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UsageError, match=r"pip install 'likewise\[maps\]'"):
        map2d(np.eye(3), method="umap")


# The verb ---------------------------------------------------------------------------------------------------------


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_exact_copies_are_held_out_together(tmp_path):
    images, labels = np.tile(noise(100), (3, 1, 1, 1)), np.tile(np.random.default_rng(1).integers(0, 20, 100), 3)
    opened = open_images(images, labels=labels)
    options = {"protocols": "knn"}
    found = evaluate("pixels", opened, size=8, **options)
    assert found["train"] + found["test"] == 300
    assert found["test"] % 3 == 0
    assert found["protocols"]["knn"]["accuracy"] < 0.3
    table = likewise.embed(Pixels(DataInfo(300, 3, 8)), opened, size=8)
    by_table = evaluate(table, **options)
    assert (by_table["images_hash"], by_table["protocols"]) == (found["images_hash"], found["protocols"])
    with pytest.raises(DataError, match="no image can be held out"):
        evaluate("pixels", np.tile(noise(1), (3, 1, 1, 1)), size=8, protocols="health")


def test_without_copies_a_fifth_is_held_out_by_key():
    opened = open_images(noise(53), labels=np.arange(53) % 2)
    table = likewise.embed(Pixels(DataInfo(53, 3, 8)), opened, size=8)
    order = Draws(0, 0, 0, torch.from_numpy(table.keys)).bits("hold out").argsort().numpy()
    found = evaluate("pixels", opened, size=8, protocols="health")
    assert found["images_hash"] == {
        "train": images_hash(table.keys[order[10:]]),
        "test": images_hash(table.keys[order[:10]]),
    }


def test_copies_of_training_images_in_the_test_set_are_counted(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", False)
    train = noise(20)
    test = np.concatenate([train[:3], noise(7, seed=1)])
    both = {"labels": np.arange(20) % 2, "test_labels": np.arange(10) % 2}
    found = evaluate("pixels", train, test=test, protocols="knn", **both)
    said = "3 of the 10 test images are exact copies of training images."
    assert said in capsys.readouterr().err
    assert found["caveats"] == [said]
    assert found["verdict"].endswith(said)
    at = [likewise.embed(Pixels(DataInfo(20, 3, s)), open_images(train), size=s) for s in (8, 4)]
    wide = replace(at[1], x=np.tile(at[1].x, (1, 4)))
    with pytest.raises(DataError, match=r"--test .*: is of another size \(4\) than"):
        evaluate(at[0], test=replace(wide, meta={**wide.meta, "encoder_hash": at[0].meta["encoder_hash"]}))


def test_what_is_measured_unless_asked(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET", False)
    y = np.arange(20) % 2
    assert list(evaluate("pixels", noise(20), labels=y)["protocols"]) == ["knn", "linear", "health"]
    assert "no labels" not in capsys.readouterr().err
    assert list(evaluate("pixels", noise(20))["protocols"]) == ["health"]
    assert "has no labels: its health alone is measured" in capsys.readouterr().err


def test_an_array_of_labels_belongs_to_one_side():
    a, b, y = noise(20), noise(20, seed=1), np.arange(20) % 2
    with pytest.raises(UsageError, match=r"protocol knn: needs labels, and --test \w+ has none; give --test-labels"):
        evaluate("pixels", a, test=b, labels=y, protocols="knn")
    found = evaluate("pixels", a, test=b, labels=y, test_labels=1 - y, protocols="knn,health")
    assert list(found["protocols"]) == ["knn", "health"]
    with pytest.raises(UsageError, match=r"^--test: labels: shape"):
        evaluate("pixels", a, test=b, labels=y, test_labels=y[:3], protocols="knn")
    with pytest.raises(UsageError, match="--test-labels: belong to the images of --test"):
        evaluate("pixels", a, labels=y, test_labels=y, protocols="knn")


def test_a_csv_goes_for_both_sides_where_their_names_differ(tmp_path):
    for part, first in (("train", 0), ("test", 10)):
        (tmp_path / part).mkdir()
        for i, pixels in enumerate(noise(10, first), first):
            Image.fromarray(pixels).save(tmp_path / part / f"{i}.png")
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *(f"{i}.png,{i % 2}" for i in range(20))]))
    sides = {"labels": tmp_path / "labels.csv", "test": tmp_path / "test", "protocols": "knn"}
    found = evaluate("pixels", tmp_path / "train", **sides)
    assert found["labelled"] == {"train": 10, "test": 10}
    (tmp_path / "test" / "19.png").rename(tmp_path / "test" / "3.png")
    with pytest.raises(UsageError, match=r"named alike, such as 3\.png.*give --test-labels"):
        evaluate("pixels", tmp_path / "train", **sides)
    found = evaluate("pixels", tmp_path / "train", test_labels=tmp_path / "labels.csv", **sides)
    assert found["labelled"] == {"train": 10, "test": 10}


def test_what_is_missing_is_said_before_the_work(monkeypatch):
    table = likewise.embed(Pixels(DataInfo(20, 3, 8)), noise(20), size=8)
    for module in ("embed", "EVALUATIONS"):
        monkeypatch.setattr(
            sys.modules["likewise.verbs.evaluate"], module, {"knn": None, "health": None, "linear": None}
        )
    with pytest.raises(UsageError, match=r"give --labels .* --protocol health"):
        evaluate("pixels", noise(20), protocols="knn")
    with pytest.raises(UsageError, match="embed the images again with --labels"):
        evaluate(table, protocols="knn,health")
    with pytest.raises(UsageError, match="protocol svm: needs a model and images"):
        evaluate(table, protocols="health,svm")


def test_the_result_says_what_it_was_measured_on(tmp_path):
    y = np.arange(20) % 2
    a, b = open_images(noise(20), labels=y, name="a"), open_images(noise(20, 1), labels=y, name="b")
    held_out, tested = (evaluate("pixels", a, test=test, size=8, protocols="knn") for test in (None, b))
    assert (held_out["data"], held_out["test_data"]) == ("a", None)
    assert (tested["data"], tested["test_data"]) == ("a", "b")
    assert tested["images_hash"]["test"] == images_hash(b.keys) != held_out["images_hash"]["test"]
    assert evaluate("pixels", noise(20), labels=y, size=8, protocols="knn")["data"] == "arrays"
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(noise(8)):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    found = evaluate("pixels", f"{tmp_path / 'photos'}/", size=8, protocols="health")
    assert found["data"] == str(tmp_path / "photos")


def test_embed_refuses_no_batch():
    with pytest.raises(UsageError, match="batch_size=0: expected at least 1"):
        likewise.embed(Pixels(DataInfo(3, 3, 8)), noise(3), size=8, batch_size=0)


def test_the_encoder_stays_in_its_mode_and_the_generator_where_it_was(tmp_path):
    encoder = build("convnet", DataInfo(20, 3, 8), width=8).train()
    evaluate(encoder, noise(20), size=8, protocols="health")
    assert encoder.training
    config = {"encoder": "convnet", "arguments": {"width": 8}, "channels": 3, "size": 8, "n_images": 20}
    save_encoder(tmp_path, encoder, config, "")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    likewise.load(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_the_two_crops_of_alignment_differ():
    """On noise no two crops look alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    figures = evaluate("pixels", pixels, size=16, protocols="health")["protocols"]["health"]
    assert figures["alignment"] > 0.01


def test_what_is_measured_on_a_part_is_drawn_by_key(monkeypatch):
    monkeypatch.setattr(HEALTH, "ROWS", 20)
    table = embeddings(np.random.default_rng(0).normal(size=(50, 4)))
    order = np.random.default_rng(1).permutation(50)
    assert health(table.rows(order))["rankme"] == pytest.approx(health(table)["rankme"])


def test_votes_weigh_by_the_temperature(digits):
    for temperature, k in ((0.01, 20), (1e-5, 1)):  # a tiny one leaves the nearest alone, and not nobody
        found = knn(*digits, temperature=temperature)["accuracy"]
        assert found == pytest.approx(naive_knn(*digits, k, 0.01), abs=1.5 / 797)
    assert knn(*digits, temperature=0.01)["accuracy"] != knn(*digits, temperature=1e3)["accuracy"]
    assert "accuracy_200" not in knn(*digits, k=200)


def test_another_seed_gives_other_labelled_images(digits):
    assert few_label(*digits, seed=1)["accuracy"] != few_label(*digits, seed=0)["accuracy"]


def test_the_hash_of_weights_knows_their_names_and_shapes():
    one, other, wide = torch.nn.Module(), torch.nn.Module(), torch.nn.Module()
    one.x, other.y = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(4))
    wide.x = torch.nn.Parameter(torch.zeros(2, 2))
    assert len({weights_hash(module) for module in (one, other, wide)}) == 3


def test_thumbnails_are_spread_over_the_set(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["likewise.embedding"], "N_THUMBS", 3)
    likewise.embed(Pixels(DataInfo(9, 3, 8)), noise(9), size=8, out=tmp_path / "e")
    assert sorted(file.stem for file in (tmp_path / "e/thumbs").iterdir()) == ["000000", "000003", "000006"]


def test_embed_takes_a_device_that_is_there():
    with pytest.raises(UsageError, match="device='gpu': cannot be used here"):
        likewise.embed(Pixels(DataInfo(9, 3, 8)), noise(9), size=8, device="gpu")
    assert likewise.embed(Pixels(DataInfo(9, 3, 8)), noise(9), size=8, device="auto").x.shape == (9, 192)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("items.csv", ",7,", ",7.00E+18,"),
        ("items.csv", "id,key", "id,keys"),
        ("items.csv", ",7,", ",99999999999999999999,"),
        ("x.npy", None, None),
    ],
)
def test_a_damaged_folder_of_embeddings_is_named(tmp_path, file, old, new):
    embeddings(np.ones((3, 2)), first=7).save(tmp_path / "e")
    if old is None:
        np.savez(tmp_path / "e/x", np.ones((3, 2)))
        (tmp_path / "e/x.npz").rename(tmp_path / "e/x.npy")
    else:
        (tmp_path / "e" / file).write_text((tmp_path / "e" / file).read_text().replace(old, new))
    with pytest.raises(DataError, match=f"{file}: is"):
        Embeddings.load(tmp_path / "e")


def test_equal_validation_takes_the_larger_l2(monkeypatch):
    """As many right in all tenths, otherwise spread: their sums differ in the last digit alone."""
    one, other = [4, 1, 1, 10, 5, 7, 8, 1, 5, 6], [1, 8, 6, 4, 1, 5, 5, 1, 10, 7]
    assert sum(k / 10 for k in one) < sum(k / 10 for k in other)  # though sum(one) == sum(other)
    shares = iter([k / 10 for k in (*one, *other, *[0] * 70)])
    monkeypatch.setattr(LINEAR, "fit", lambda x, y, l2, start: start)
    monkeypatch.setattr(LINEAR, "accuracy", lambda weights, x, y: next(shares))
    x = torch.arange(100.0)[:, None]
    data = Labelled(x, x[:, 0].long() % 2, torch.arange(100), x, x[:, 0].long() % 2, 2)
    assert LINEAR.solve(data, 0)[1] == LINEAR.L2[0]


def test_many_names_of_classes_are_matched_in_one_pass():
    """Every name is looked up and hashed a few times, not once for each other name."""
    looked = [0]

    class Name(str):
        def __hash__(self):
            looked[0] += 1
            return str.__hash__(self)

        def __eq__(self, other):
            looked[0] += 1
            return str.__eq__(self, other)

    n = 300
    mine, theirs = [Name(f"c{i}") for i in range(n)], [Name(f"c{i}") for i in reversed(range(5, n + 5))]
    x, keys, paths = np.zeros((n, 2), np.float32), np.arange(n), [""] * n
    train, test = (Embeddings(x, keys, paths, np.arange(n), names) for names in (mine, theirs))
    data = labelled(train, test)
    assert data.y_test.tolist()[5:] == list(reversed(range(5, n)))  # known ones by their number in train
    assert sorted(data.y_test.tolist()[:5]) == list(range(n, n + 5))  # the others after them
    assert looked[0] < 20 * n


def test_alpha_reads_the_indices_it_names():
    """11 to 50 of a long spectrum; all but the last of a short one."""
    generator = torch.Generator().manual_seed(0)

    def of(values):
        rows = torch.randn(400, len(values), generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(torch.cat([torch.ones(400, 1, dtype=torch.float64), rows], 1))[0][:, 1:]
        return alpha(basis * values.sqrt())

    index = torch.arange(1, 66, dtype=torch.float64)
    long = 1 / index
    long[:10], long[50:] = 1e3, 1e-4
    assert of(long) == pytest.approx(1, abs=1e-6)
    short = 1 / index[:12]
    short[-1] = 1e-5
    assert of(short) == pytest.approx(1, abs=1e-6)
