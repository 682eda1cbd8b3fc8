"""The selectors beside the exact greedy ones, against plain restatements, closed forms and planted structure."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from likewise.coresets import bloom, class_balanced, cluster_balanced, select, simcore, top_k, ucs
from likewise.coresets.blocks import Rows
from likewise.coresets.clusters import assign, cluster, members
from likewise.coresets.open_set import _passes, filter_size
from likewise.draws import mix
from likewise.errors import DataError, UsageError
from likewise.types import Embeddings


def points(n, d=4, seed=0, unit=True):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=1) if unit else x


def mixture(sizes, d=16, spread=0.15, seed=0):
    """Clusters of these sizes around random unit vectors, and the number of each row's cluster."""
    centres = points(len(sizes), d, seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return centres[labels] + spread * points(len(labels), d, seed + 1), labels


# What a selector may ask for


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "ucs"}, "method ucs needs scores: a number for each image"),
        ({"method": "simcore"}, "method simcore needs target: embeddings of"),
        ({"method": "class-balanced"}, "method class-balanced needs labels: a class for"),
        ({"target": points(3)}, "target: is not taken by k-center; it is by bloom, simcore, top-k"),
        ({"scores": np.zeros(20)}, "scores: is not taken by k-center; it is by .*ucs"),
        ({"method": "top-k", "target": points(3, 5)}, "target has 5 dimensions, and x 4: expected the same"),
        ({"method": "top-k", "target": np.zeros(3)}, r"target has shape \(3,\): expected"),
        ({"method": "ucs", "scores": np.zeros(19)}, r"scores: shape \(19,\), torch.float64; expected 20 numbers"),
        ({"method": "class-balanced", "labels": np.zeros(20)}, "labels: shape .* expected 20 whole numbers"),
    ],
)
def test_what_is_asked_for_is_given_or_refused(arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        select(points(20), budget=2, **arguments)
    assert "\n" not in str(error.value)


def test_scores_must_be_finite():
    scores = np.arange(20.0)
    scores[7] = np.nan
    with pytest.raises(DataError, match="scores: hold NaN or infinity, first for image 7"):
        select(points(20), "ucs", 2, scores=scores)


def test_labels_of_embeddings_serve_a_method_that_needs_them():
    x = points(20).float().numpy()
    labels = np.arange(20) % 2
    table = Embeddings(x, np.arange(20), [""] * 20, labels)
    assert sorted(labels[select(table, "class-balanced", 6).indices]) == [0, 0, 0, 1, 1, 1]
    assert len(select(table, "k-center", 3, labels=labels)) == 3


# Balance


@pytest.mark.parametrize("budget", [1, 7, 20, 40, 64])
def test_classes_share_the_budget_by_water_filling(budget):
    labels = torch.tensor([0] * 40 + [1] * 3 + [2] * 15 + [3] * 6)
    counts = np.bincount(labels[class_balanced(torch.zeros(64, 1), budget, labels=labels).indices], minlength=4)
    sizes = np.array([40, 3, 15, 6])
    cap = next(c for c in range(41) if np.minimum(sizes, c + 1).sum() > budget or c == 40)
    assert (counts >= np.minimum(sizes, cap)).all()
    assert (counts <= np.minimum(sizes, cap + 1)).all()
    assert counts.sum() == budget


def test_classes_count_what_is_chosen_and_leave_the_unknown_for_last():
    labels = torch.tensor([0] * 10 + [1] * 10 + [-1] * 10)
    held = torch.arange(4)  # four of class 0
    picks = class_balanced(torch.zeros(30, 1), 6, labels=labels, chosen=held).indices
    assert Counter(labels[picks].tolist()) == {0: 1, 1: 5}
    assert (labels[class_balanced(torch.zeros(30, 1), 20, labels=labels).indices] >= 0).all()


def test_clusters_recover_the_balance_of_a_long_tail():
    x, labels = mixture([400, 200, 100, 50, 25, 12])
    share = Counter(labels[cluster_balanced(x, 48, n_clusters=24).indices].tolist())
    drawn = Counter(labels[select(x, "random", 48).indices].tolist())
    assert len(share) == 6
    assert max(share.values()) < max(drawn.values())


def test_clusters_are_a_fixed_point_and_cells_are_nearest():
    x, _ = mixture([50, 50, 50])
    found = cluster(Rows(x, 1 << 20), 5, n_iterations=100)
    distance = torch.cdist(x, found.centres)
    assert found.cell.tolist() == distance.argmin(1).tolist()
    torch.testing.assert_close(found.distance, distance.amin(1).square(), atol=1e-9, rtol=1e-9)
    for number, ids in enumerate(members(found.cell, 5)):
        torch.testing.assert_close(found.centres[number], x[ids].mean(0))
    small = assign(Rows(x, 3000), found.centres)
    assert small.cell.tolist() == found.cell.tolist()
    with pytest.raises(UsageError, match="n_clusters=0: must be at least 1"):
        cluster(Rows(x, 1 << 20), 0)


# By score


def test_ucs_keeps_the_end_that_is_asked_for():
    scores = torch.tensor([0.3, 0.9, 0.1, 0.9])
    hard = ucs(torch.zeros(4, 1), 3, scores=scores)
    assert hard.indices.tolist() == [1, 3, 0]
    assert hard.gains.tolist() == pytest.approx([0.8, 0.8, 0.2])
    assert ucs(torch.zeros(4, 1), 2, scores=scores, keep="easy").indices.tolist() == [2, 0]
    with pytest.raises(UsageError, match="keep='both': must be one of hard, easy"):
        ucs(torch.zeros(4, 1), 2, scores=scores, keep="both")


# Open set


def naive_top_k(x, target, budget):
    similarity = (target @ x.T).numpy()
    order = np.argsort(-similarity, axis=1, kind="stable")
    picks = []
    for rank in range(len(x)):
        row = sorted((-similarity[q, order[q, rank]], order[q, rank]) for q in range(len(target)))
        picks += [i for _, i in row if i not in picks and not picks.count(i)]
        picks = list(dict.fromkeys(picks))
        if len(picks) >= budget:
            return picks[:budget]
    return picks


def test_top_k_is_the_sorted_matrix():
    x, target = points(80, 6), points(7, 6, 1)
    for budget in (1, 9, 60, 80):
        assert top_k(x, budget, target=target).indices.tolist() == naive_top_k(x, target, budget)


def test_simcore_is_its_rounds():
    x, target = points(90, 6), points(5, 6, 1)
    similarity = (target @ x.T).numpy()  # as many centroids as targets: each is its own centroid
    free, picks, means = set(range(90)), [], []
    while free:
        taken = {q: max(free, key=lambda i, q=q: (similarity[q, i], -i)) for q in range(5)}
        means.append(np.mean([similarity[q, i] for q, i in taken.items()]))
        ranked = sorted((-similarity[q, i], i) for q, i in taken.items())
        picks.append(list(dict.fromkeys(i for _, i in ranked)))
        free -= set(taken.values())
    whole = simcore(x, 90, target=target, n_centroids=5, stop=None)
    assert whole.indices.tolist() == list(itertools.chain(*picks))
    stopped = simcore(x, 90, target=target, n_centroids=5, stop=0.8)
    last = next(r for r, mean in enumerate(means) if mean < 0.8 * means[0])
    assert stopped.indices.tolist() == list(itertools.chain(*picks[:last]))
    assert stopped.meta["rounds"] == last
    assert stopped.meta["stopped"].startswith(f"round {last + 1} was less")


def test_open_set_methods_find_the_related_and_simcore_stops_at_their_end():
    x, labels = mixture([60, 200, 200, 200], spread=0.05)
    target = x[:20] + 0.01
    for method in ("top-k", "simcore", "bloom"):
        assert (labels[select(x, method, 40, target=target).indices] == 0).all(), method
    assert len(select(x, "simcore", 600, target=target)) < 90


def test_a_filter_holds_what_was_put_in_and_errs_as_often_as_said():
    inside = mix(torch.arange(2000))
    others = mix(torch.arange(10**6, 10**6 + 50_000))
    for rate in (0.01, 0.1):
        size = filter_size(2000, rate)
        assert _passes(inside, inside, *size).all()
        assert float(_passes(others, inside, *size).double().mean()) == pytest.approx(rate, rel=0.2)


def test_bloom_with_a_code_that_all_share_is_top_k():
    x = points(60, 6).abs()
    target = points(4, 6, 1).abs()
    every = bloom(x, 20, target=target, code_length=None)  # all signs are positive
    assert every.meta["pass_rate"] == every.meta["match_rate"] == 1
    assert every.indices.tolist() == top_k(x, 20, target=target).indices.tolist()


def test_bloom_says_what_passed():
    x, target = points(3000, 64), points(50, 64, 1)
    long = bloom(x, 500, target=target, code_length=None)
    assert long.meta["match_rate"] == 0
    assert 0 < long.meta["pass_rate"] < 0.03
    assert len(long) == round(3000 * long.meta["pass_rate"])
    assert long.meta["stopped"] == f"{len(long)} images pass the filter"
    short = bloom(x, 500, target=target, code_length=6)
    assert short.meta["pass_rate"] > short.meta["match_rate"] - 1e-12 > 0.3
    assert len(short) == 500
    with pytest.raises(UsageError, match="code_length=None: no image of the pool passes"):
        bloom(x[:5], 2, target=target, code_length=None, false_positive_rate=1e-9)
