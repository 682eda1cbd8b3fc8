"""The selectors beside the exact greedy ones, against plain restatements, closed forms and planted structure."""

import itertools
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from likewise.coresets import (
    bloom,
    ccs,
    class_balanced,
    cluster_balanced,
    d2,
    facility_location,
    graph_cut,
    herding,
    hierarchical,
    probcover,
    prototypes,
    quality,
    random,
    sas_cut,
    sas_rowsum,
    saturated_coverage,
    select,
    sem_dedup,
    simcore,
    top_k,
    typiclust,
    ucs,
    zcore,
)
from likewise.coresets.blocks import Rows, centred, unit
from likewise.coresets.checkpoint import Checkpoint
from likewise.coresets.clusters import assign, cluster, members
from likewise.coresets.estimate import estimate
from likewise.coresets.near import groups, near_pairs
from likewise.coresets.neighbours import k_nearest
from likewise.coresets.open_set import _codes, _passes, _ranked, filter_size
from likewise.coresets.prototypes import hardness
from likewise.coresets.turns import shuffled
from likewise.coresets.zcore import coverage, looks, triangular
from likewise.draws import mix
from likewise.errors import DataError, Stopped, UsageError
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


def difficulty(x, n_clusters):
    found = cluster(unit(x, 1 << 30), n_clusters)
    directions = torch.nn.functional.normalize(found.centres)
    return (1 - (x * directions[found.cell]).sum(1)).numpy(), found.cell.numpy()


def test_prototypes_are_sorted_by_the_distance_to_their_centroid():
    x = points(100, 5)
    hard, _ = difficulty(x, 7)
    assert prototypes(x, 30, n_clusters=7).indices.tolist() == np.argsort(-hard)[:30].tolist()
    assert prototypes(x, 30, n_clusters=7, keep="easy").indices.tolist() == np.argsort(hard)[:30].tolist()
    gains = prototypes(x, 100, n_clusters=7).gains
    assert gains.tolist() == pytest.approx(sorted(hard - hard.min(), reverse=True), abs=1e-8)


@pytest.mark.parametrize("balance", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("chosen", [[], [3, 4, 5, 90], list(range(20)), list(range(70, 80))])
def test_prototypes_keep_every_clusters_share_at_every_prefix(balance, chosen):
    x = torch.nn.functional.normalize(mixture([60, 20, 10, 10], 5, 0.5)[0])
    hard, cell = difficulty(x, 4)
    sizes = np.bincount(cell)
    picks = prototypes(
        x, 96 - len(chosen), n_clusters=4, balance=balance, chosen=torch.tensor(chosen, dtype=int)
    ).indices
    before = np.bincount(cell[chosen], minlength=4) if chosen else np.zeros(4, int)
    for total in range(len(chosen) + 1, 97):
        held = np.concatenate([chosen, picks[: total - len(chosen)]]).astype(int)
        counts = np.bincount(cell[held], minlength=4)
        due = np.minimum(sizes, int(balance * total / 4))
        possible = np.maximum(due - before, 0).sum() <= total - len(chosen)  # what was chosen may be one-sided
        assert (counts >= due).all() or not possible
        for c in range(4):  # of each cluster the hardest
            mine = [i for i in picks[: total - len(chosen)] if cell[i] == c]
            left = [i for i in np.flatnonzero(cell == c) if i not in mine and i not in chosen]
            assert not mine or not left or min(hard[mine]) >= max(hard[left]) - 1e-8
    with pytest.raises(UsageError, match=r"balance=2\.0: must be between 0 and 1"):
        prototypes(x, 5, balance=2.0)


def test_prototypes_go_on_where_rounding_says_that_a_share_is_due():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2000, 8)).astype("f4"))
    picks = prototypes(x, 400, balance=0.35, n_clusters=9).indices
    assert len(set(picks.tolist())) == 400


def test_ccs_drops_the_hardest_and_fills_strata_like_water():
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.gamma(2.0, size=1000))
    x, kept = torch.zeros(1000, 1), np.sort(scores.numpy())[:700]
    edges = np.linspace(kept[0], kept[-1], 21)
    sizes = np.histogram(kept, edges)[0]
    for budget in (20, 133, 500, 700):
        picked = scores[ccs(x, budget, scores=scores, n_strata=20).indices].numpy()
        assert picked.max() <= kept[-1]
        counts = np.histogram(picked, edges)[0]
        cap = max(c for c in range(701) if np.minimum(sizes, c).sum() <= budget)
        assert (counts >= np.minimum(sizes, cap)).all()
        assert (counts <= np.minimum(sizes, cap + 1)).all()
    late = ccs(x, 1000, scores=scores).indices[700:]
    assert late.tolist() == scores.argsort()[700:].tolist()
    with pytest.raises(UsageError, match=r"drop=1\.0: must be at least 0 and below 1"):
        ccs(x, 5, drop=1.0)


def test_ccs_needs_no_scores():
    x, _ = mixture([80, 80], spread=0.4)
    hard, _ = difficulty(torch.nn.functional.normalize(x), 2)
    picks = ccs(x, 30, n_clusters=2, drop=0.2).indices
    assert hard[picks].max() <= np.sort(hard)[127] + 1e-9


def plain_zcore(x, n_looks, n_redundant):
    """All images, twice per look."""
    first, second, one, other = looks(x.shape[1], n_looks, 0)
    scores = np.zeros(len(x))
    for dims, uniform in zip(np.c_[first, second], np.c_[one, other], strict=True):
        shapes = [np.array([c.min(), np.median(c), c.max()]) for c in x[:, dims].T]
        point = [triangular(shape, np.array([u]))[0] for shape, u in zip(shapes, uniform, strict=True)]
        nearest = np.abs(x[:, dims] - np.array(point)).sum(1).argmin()
        scores[nearest] += 1
        distance = np.abs(x[:, dims] - x[nearest, dims]).sum(1)
        others = np.argsort(distance, kind="stable")
        others = others[others != nearest][:n_redundant]
        if distance[others[0]] == 0:
            scores[others[0]] -= 1
        else:
            loss = 1 / distance[others] ** 4
            scores[others] -= loss / loss.sum()
    return scores


@pytest.mark.parametrize("n_redundant", [1, 40, 1000])
@pytest.mark.parametrize("memory", [1 << 30, 100])
def test_zcore_scores_are_those_of_the_plain_algorithm(n_redundant, memory):
    x = mixture([150, 100, 50], 4, 0.5)[0]
    for data in (x, torch.cat([x[:40], x[10:40]])) if n_redundant == 1000 else (x,):  # no equals at the edge
        expected = plain_zcore(data.numpy(), 300, n_redundant)
        found = coverage(data, 300, n_redundant=n_redundant, memory=memory)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_zcore_never_keeps_two_copies_before_one_of_each():
    x = points(40, 6).repeat(2, 1)
    selection = zcore(x, 80, noise=0.0)
    assert selection.gains[0] == 1
    assert selection.gains[-1] == 0
    ranks = np.argsort(selection.indices)
    worse = np.maximum(ranks[:40], ranks[40:])  # the copy that comes second pays for both
    assert np.mean(worse >= 40) > 0.9
    with pytest.raises(UsageError, match=r"noise=-1\.0: must be at least 0"):
        zcore(x, 4, noise=-1.0)


def test_triangular_draws_have_the_triangular_distribution():
    from scipy.stats import kstest, triang

    uniform = (np.arange(5000) + 0.5) / 5000
    draws = triangular(np.array([-1.0, 0.5, 3.0]), uniform)
    assert kstest(draws, triang(0.375, -1, 4).cdf).statistic < 1e-3


# Herding


@pytest.mark.parametrize("chosen", [[], [5, 17]])
def test_herding_is_the_naive_loop(chosen):
    x = points(60, 5, unit=False)
    mean = x.mean(0)
    w = mean + sum((mean - x[i] for i in chosen), torch.zeros(5, dtype=torch.float64))
    picks, gaps = [], []
    for _ in range(40):
        value = x @ w
        value[[*chosen, *picks]] = -torch.inf
        picks.append(int(value.argmax()))
        w = w + mean - x[picks[-1]]
        gaps.append(float((x[[*chosen, *picks]].mean(0) - mean).norm()))
    selection = herding(x, 40, chosen=torch.tensor(chosen, dtype=int))
    assert selection.indices.tolist() == picks
    assert selection.gains.tolist() == pytest.approx(gaps)


def test_herding_keeps_the_mean_far_better_than_chance():
    x, _ = mixture([500, 300, 200])
    by_herding = float((x[herding(x, 50).indices].mean(0) - x.mean(0)).norm())
    by_chance = np.mean([float((x[random(x, 50, seed=s).indices].mean(0) - x.mean(0)).norm()) for s in range(10)])
    assert by_herding < 0.15 * by_chance


# SAS


@pytest.mark.parametrize("chosen", [[], [0, 1, 33]])
def test_sas_is_the_naive_greedy_of_each_class(chosen):
    x, labels = mixture([30, 20, 10], 6, 0.8)
    u = torch.nn.functional.normalize(x)
    held = torch.tensor(chosen, dtype=int)
    cut = sas_cut(x, 30, labels=labels, chosen=held)
    rowsum = sas_rowsum(x, 30, labels=labels, chosen=held)
    for c in range(3):
        ids = (labels == c).nonzero()[:, 0].tolist()
        s = (u[ids] @ u[ids].T).clamp(min=0).fill_diagonal_(0)

        def value(picked, s=s):
            return float(s[:, picked].sum() - s[picked][:, picked].sum())

        inside = [ids.index(i) for i in chosen if i in ids]
        mine = [i for i in cut.indices if labels[i] == c]
        rises = [gain for i, gain in zip(cut.indices, cut.gains, strict=True) if labels[i] == c]
        for i, rise in zip(mine, rises, strict=True):
            gains = {j: value([*inside, j]) - value(inside) for j in range(len(ids)) if j not in inside}
            best = max(gains, key=lambda j, gains=gains: gains[j])
            assert ids[best] == i
            assert rise == pytest.approx(gains[best])
            inside.append(best)
        order = [ids[j] for j in s.sum(1).argsort(descending=True) if ids[j] not in chosen]
        expected = [i for i in rowsum.indices if labels[i] == c]
        assert expected == order[: len(expected)]


@pytest.mark.parametrize("budget", [1, 9, 30, 61, 100])
def test_sas_classes_give_the_same_share(budget):
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 7 + [3] * 3)
    counts = np.bincount(labels[sas_cut(points(100), budget, labels=labels).indices], minlength=4)
    assert np.abs(counts - budget * np.array([0.6, 0.3, 0.07, 0.03])).max() < 1


@pytest.mark.parametrize("method", ["sas-cut", "sas-rowsum"])
def test_sas_does_not_take_the_unknown_for_a_class(method):
    with pytest.raises(UsageError, match=r"labels: 2 of 6 are below 0 \(unknown\); expected a class for each image"):
        select(points(6), method, 2, labels=[0, 1, -1, 0, 1, -1])


def test_sas_cut_spreads_where_the_row_sums_take_copies():
    x = torch.cat([points(40, 6), points(1, 6, 9).repeat(8, 1)])
    labels = torch.zeros(48, dtype=torch.int64)
    n_copies = {f: int((f(x, 10, labels=labels).indices >= 40).sum()) for f in (sas_cut, sas_rowsum)}
    assert n_copies[sas_rowsum] == 8
    assert n_copies[sas_cut] < 8


# On graphs of neighbours


def test_neighbours_are_those_of_the_whole_matrix():
    x = points(120, 5, unit=False)
    ids = torch.arange(10, 110)
    for memory in (1 << 30, 5000):
        near, distance = k_nearest(centred(x, memory), ids, 4)
        whole = torch.cdist(x[ids], x[ids]).fill_diagonal_(torch.inf)
        assert near.tolist() == whole.argsort(dim=1)[:, :4].tolist()
        torch.testing.assert_close(distance, whole.sort(dim=1).values[:, :4])


@pytest.mark.parametrize("memory", [1 << 30, 5000])
def test_an_outlier_hides_no_neighbour(memory):
    x = torch.cat([points(100, 5, unit=False), torch.full((1, 5), 1e5, dtype=torch.float64)])
    near, _ = k_nearest(centred(x, memory), torch.arange(101), 4)
    whole = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    assert near[:100].tolist() == whole.argsort(dim=1)[:100, :4].tolist()


def test_d2_takes_no_message_below_zero_from_what_is_chosen():
    x, scores = torch.tensor([[0.0], [1.0], [1.9]]), torch.tensor([1.0, 0.0, 0.1])
    # The first brings the second below 0, which then has nothing to take from the third, its nearest
    assert d2(x, 1, scores=scores, n_neighbours=1, chosen=torch.tensor([0, 1])).gains.tolist() == pytest.approx([0.1])


def test_d2_is_the_naive_loop():
    x = points(90, 5, unit=False)
    scores = points(90, 1, 3, unit=False)[:, 0]
    whole = torch.cdist(x, x).fill_diagonal_(torch.inf)
    near = whole.argsort(dim=1)[:, :5]
    weight = torch.exp(-0.5 * whole.gather(1, near))
    value = (scores - scores.min()) / (scores.max() - scores.min())
    value = value + (weight * value[near]).sum(1)
    picks, free = [], torch.ones(90, dtype=torch.bool)
    for _ in range(60):
        i = int(value.masked_fill(~free, -torch.inf).argmax())
        picks.append(i)
        free[i] = False
        value[near[i]] -= weight[i] * value[i].clamp(min=0)
    assert d2(x, 60, scores=scores, gamma=0.5).indices.tolist() == picks


def test_d2_within_clusters_says_so(monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["likewise.coresets.d2"], "EXACT", 50)
    x, _ = mixture([40, 40], spread=0.02)
    assert d2(x, 20, n_clusters=2).meta["neighbours"].startswith("within clusters, for 80 images")


def test_typiclust_picks_the_most_typical_of_each_cluster():
    x, labels = mixture([30, 25, 20, 12, 3], spread=0.05)
    selection = typiclust(x, 5)
    assert labels[selection.indices].tolist() == [0, 1, 2, 3, 0]  # the largest first, and no tiny one
    for i, gain in zip(selection.indices[:4], selection.gains, strict=False):
        mine = x[labels == labels[i]]
        near = torch.cdist(mine, mine).sort(dim=1).values[:, 1 : 1 + min(20, len(mine) // 2)].mean(1)
        assert gain == pytest.approx(1 / (float(near.min()) + 1e-5), rel=1e-6)
        assert x[i].tolist() == mine[near.argmin()].tolist()
    held = torch.from_numpy(selection.indices[:2])
    assert labels[typiclust(x, 2, chosen=held).indices].tolist() == [2, 3]


def covered(x, ids, radius):
    return (torch.cdist(x, x[list(ids)]) <= radius).any(1).sum().item()


def test_probcover_is_the_naive_greedy_and_reaches_its_share_of_the_best():
    x = points(80, 3, unit=False)
    first = shuffled(80, 0, None, "probcover").argsort().tolist()
    picks = []
    selection = probcover(x, 25, radius=0.7)
    for gain in selection.gains:
        rises = [0 if i in picks else covered(x, [*picks, i], 0.7) for i in range(80)]
        assert gain == max(rises) - (covered(x, picks, 0.7) if picks else 0)
        if gain:
            picks.append(max(range(80), key=lambda i, rises=rises: (rises[i], -first[i])))
    assert selection.indices[: len(picks)].tolist() == picks
    small = x[:14]
    best = max(covered(small, ids, 0.8) for ids in itertools.combinations(range(14), 3))
    assert covered(small, probcover(small, 3, radius=0.8).indices, 0.8) >= (1 - 1 / np.e) * best


def test_probcover_finds_a_radius_at_which_balls_are_pure():
    x, labels = mixture([50, 40, 30], spread=0.1)
    selection = probcover(x, 3, n_clusters=3)
    distance = torch.cdist(x, x)
    other = distance.masked_fill(labels[:, None] == labels, torch.inf).amin(1)
    radius = selection.meta["radius"]
    assert 0.95 <= float((other > radius).double().mean()) <= 0.96
    assert sorted(labels[selection.indices].tolist()) == [0, 1, 2]


# Curation


def test_hierarchical_evens_out_a_long_tail():
    x, labels = mixture([1200, 300, 60, 20, 20])
    picks = {
        "tree": hierarchical(x, 60, levels=[84, 14, 5]),
        "flat": cluster_balanced(x, 60),
        "random": random(x, 60),
        "default": hierarchical(x, 60),
    }
    shares = {name: np.bincount(labels[found.indices], minlength=5) for name, found in picks.items()}
    effective = {name: np.exp(-sum(p * np.log(p) for p in share / 60 if p)) for name, share in shares.items()}
    assert effective["tree"] > 4.9
    assert max(effective["flat"], effective["random"]) < 2.5  # clusters follow density, as the paper says
    assert effective["default"] > max(effective["flat"], effective["random"])


def test_hierarchical_with_one_level_is_balance_over_clusters():
    x, _ = mixture([100, 50, 10])
    cell = cluster(centred(x, 1 << 30), 8).cell
    picks = hierarchical(x, 40, levels=[8], leaf="nearest").indices
    counts = torch.bincount(cell[picks], minlength=8)
    sizes = torch.bincount(cell)
    cap = max(c for c in range(41) if int(sizes.clamp(max=c).sum()) <= 40)
    assert (counts >= sizes.clamp(max=cap)).all()
    distance = cluster(centred(x, 1 << 30), 8).distance
    for c in range(8):
        mine = [i for i in picks if cell[i] == c]
        assert set(distance[mine].tolist()) == set(distance[cell == c].sort().values[: len(mine)].tolist())
    with pytest.raises(UsageError, match=r"n_resamplings=-3: must be at least 0"):
        hierarchical(x, 4, n_resamplings=-3)
    with pytest.raises(UsageError, match=r"levels=\[4, 9\]: expected falling"):
        hierarchical(x, 4, levels=[4, 9])


# Near-duplicates


def with_copies(n=300, n_copies=60, noise=0.02, d=24, seed=0):
    x = points(n, d, seed)
    twins = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:n_copies]
    return torch.nn.functional.normalize(torch.cat([x, x[twins] + noise * points(n_copies, d, seed + 7)])), twins


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("memory", [1 << 30, 20_000])
def test_near_pairs_are_those_of_the_whole_matrix(similarity, memory):
    x, _ = with_copies()
    whole = (x @ x.T).triu(1)
    pairs, cosine = near_pairs(x, similarity, memory=memory)
    assert pairs.tolist() == (whole >= similarity).nonzero().tolist()
    np.testing.assert_allclose(cosine, whole[whole >= similarity], atol=1e-12)


def test_near_pairs_of_copies_and_of_nothing():
    x = points(6, 3)[[0, 1, 0, 2, 1, 0]]
    pairs, _ = near_pairs(x, 1.0)
    assert pairs.tolist() == [[0, 2], [0, 5], [1, 4], [2, 5]]
    assert [group.tolist() for group in groups(pairs, 6)] == [[0, 2, 5], [1, 4]]
    assert groups(near_pairs(points(5, 9), 1.0)[0], 5) == []
    with pytest.raises(UsageError, match=r"similarity=0\.0: must be above 0"):
        near_pairs(x, 0.0)


def test_groups_are_the_connected_parts():
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.random.default_rng(0).integers(0, 200, (90, 2))
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    part = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(200, 200)), directed=False)[1]
    assert all(len(set(part[group])) == 1 for group in groups(pairs, 200))
    assert sum(len(group) > 0 for group in groups(pairs, 200)) == (np.bincount(part) > 1).sum()


@pytest.mark.parametrize("n_clusters", [1, 20])
@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_sem_dedup_is_its_rule_on_the_whole_matrix(n_clusters, keep):
    x, _ = with_copies()
    hard, _ = difficulty(x, n_clusters)
    order = np.argsort(-hard.round(9) if keep == "hard" else hard.round(9), kind="stable")
    cosine = (x @ x.T).numpy()
    dropped = {int(j) for at, j in enumerate(order) if at and cosine[order[:at], j].max() > 1 - 0.01}
    selection = sem_dedup(x, len(x), eps=0.01, n_clusters=n_clusters, keep=keep)
    assert set(selection.indices.tolist()) == set(range(len(x))) - dropped
    assert 0 < len(dropped) < len(x)
    assert selection.meta["stopped"] == f"only {len(selection)} images are left without near-copies"


def test_sem_dedup_removes_what_was_planted_and_nothing_else():
    x, twins = with_copies()
    kept = set(sem_dedup(x, len(x), eps=0.01).indices.tolist())
    assert len(kept) == 300
    assert all((int(twin) in kept) != (300 + k in kept) for k, twin in enumerate(twins))
    chosen = twins[:5]
    more = set(sem_dedup(x, 300, eps=0.01, chosen=chosen).indices.tolist())
    assert not more & {*chosen.tolist(), *range(300, 305)}
    assert len(sem_dedup(x, 100, eps=0.01)) == 100
    ranked = sem_dedup(x, len(x), eps=None).indices
    late = {twin if 300 + k not in ranked[300:] else 300 + k for k, twin in enumerate(twins.tolist())}
    assert len(set(ranked[-60:].tolist()) & (late | set(twins.tolist()) | set(range(300, 360)))) >= 50


def test_sem_dedup_says_when_nothing_is_left():
    with pytest.raises(DataError, match=r"eps=0.05: every image is a near-copy of one chosen; nothing is left to pick"):
        select(np.ones((10, 4)), "sem-dedup", 5, chosen=[0])


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
        for memory in (1 << 30, 5_000):  # all queries at a time, and one
            found = top_k(x, budget, target=target, memory=memory)
            assert found.indices.tolist() == naive_top_k(x, target, budget)


def test_queries_are_ranked_as_many_at_a_time_as_the_memory_holds():
    x, target = points(80, 6), points(7, 6, 1)
    free = torch.ones(80, dtype=torch.bool)
    for memory, most in ((1 << 30, 7), (40_000, 3)):
        blocks = [ids.shape for ids, _ in _ranked(unit(x, memory), target, free, 80)]
        assert max(blocks) == (most, 80)
        assert sum(n for n, _ in blocks) == 7


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


def test_simcore_does_not_stop_before_it_began():
    x = points(40, 3).abs()
    assert len(simcore(x, 12, target=-x[:5], n_centroids=5)) == 12


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
    with pytest.raises(UsageError, match="chosen: holds all 3 images that pass the filter; expected fewer of them"):
        bloom(torch.cat([x[:3], -x[:3]]), 2, target=x[:3], chosen=torch.arange(3), false_positive_rate=1e-9)
    with pytest.raises(UsageError, match="code_length=None: no image of the pool passes"):
        bloom(x[:5], 2, target=target, code_length=None, false_positive_rate=1e-9)


# What earlier picks, options and lots change


@pytest.mark.parametrize(
    "pick",
    [
        lambda x, n, held: cluster_balanced(x, n, n_clusters=2, chosen=held),
        lambda x, n, held: hierarchical(x, n, levels=[2], chosen=held),
        lambda x, n, held: ccs(x, n, scores=(x[:, 0] > 0).double(), drop=0.0, n_strata=2, chosen=held),
    ],
    ids=["cluster-balanced", "hierarchical", "ccs"],
)
def test_what_is_chosen_counts_for_its_group(pick):
    x = torch.cat([-torch.ones(20, 1), torch.ones(20, 1)]) + 1e-3 * torch.arange(40)[:, None]
    picks = pick(x, 6, torch.tensor([4, 9, 11, 15])).indices
    assert Counter((picks >= 20).tolist()) == {False: 1, True: 5}


def test_d2_finds_the_same_neighbours_within_clusters(monkeypatch):
    x, _ = mixture([40, 40], spread=0.02)
    scores = torch.arange(80.0) % 7
    whole = d2(x, 40, scores=scores)
    monkeypatch.setattr(sys.modules["likewise.coresets.d2"], "EXACT", 50)
    assert d2(x, 40, scores=scores, n_clusters=2).indices.tolist() == whole.indices.tolist()


def test_typiclust_makes_no_more_clusters_than_it_may():
    x, labels = mixture([30, 25, 20], spread=0.05)
    picks = typiclust(x, 9, max_clusters=3).indices
    assert Counter(labels[picks].tolist()) == {0: 3, 1: 3, 2: 3}
    assert picks.tolist() != typiclust(x, 9).indices.tolist()


def test_probcover_covers_what_is_near_the_chosen():
    selection = probcover(torch.tensor([[0.0]] * 5 + [[10.0]] * 3), 1, radius=1.0, chosen=torch.tensor([0]))
    assert selection.indices[0] >= 5
    assert selection.gains[0] == 3


def test_gains_are_how_near_the_nearest_target_is():
    x, target = points(80, 6), points(5, 6, 1)
    best = (1 + (x @ target.T).amax(1)) / 2
    for selection in (top_k(x, 5, target=target), simcore(x, 5, target=target, n_centroids=5, stop=None)):
        assert selection.gains.tolist() == pytest.approx(best[selection.indices].tolist(), abs=1e-7)


def test_gains_of_sem_dedup_are_distances_to_what_was_kept_before():
    x = points(60, 4)
    selection = sem_dedup(x, 60, eps=None, n_clusters=1)
    cosine, far = (x @ x.T).numpy(), 1 - (x @ torch.nn.functional.normalize(x.mean(0), dim=0)).numpy()
    for i, gain in zip(selection.indices, selection.gains, strict=True):
        before = np.flatnonzero(far > far[i] + 1e-9)
        assert gain == pytest.approx(1 - cosine[i, before].max() if len(before) else 2, abs=1e-6)


def test_every_bit_of_a_long_code_counts():
    block = points(400, 40, unit=False)
    block[200:] = block[:200]
    block[200:, 0] *= -1
    codes = _codes(block, torch.eye(40, dtype=torch.float64))
    assert (codes[:200] != codes[200:]).all()


def test_zcores_ties_are_broken_by_lot():
    x = torch.zeros(50, 2)
    assert zcore(x, 20, seed=0).indices.tolist() != zcore(x, 20, seed=1).indices.tolist()


@pytest.mark.parametrize("low", [0.1, 0.013])
def test_zcore_finds_the_nearest_where_rounding_is_all_there_is(low):
    """Dead dimensions beside one of few values: the strip that holds the nearest is as wide as its last bit."""
    generator = torch.Generator().manual_seed(0)
    x = 1 + torch.rand(300, 4, generator=generator)
    x = torch.tensor([0.1, 0.7, 1.3])[torch.randint(0, 3, (300, 4), generator=generator)] if low == 0.1 else x
    x[0], x[:, 1:3] = low, 0.5
    for seed in range(4):
        assert len(select(x, "zcore", 10, metric="euclidean", seed=seed)) == 10


def test_ccs_leaves_out_the_share_that_is_asked():
    for share in (0.29, 0.57, 0.58):
        scores = torch.arange(100.0)
        picks = ccs(torch.zeros(100, 2), 100 - round(100 * share), scores=scores, drop=share, n_strata=1).indices
        assert max(picks) == 99 - round(100 * share)


def test_one_far_row_hides_no_other_distances():
    """Nor does the size of the blocks tell."""
    near = points(400, 2, unit=False)
    x = torch.cat([near, torch.tensor([[1e6, 0.0]], dtype=torch.float64)])
    radius = [
        quality(rows, select(rows, "k-center", n, metric="euclidean").indices)["radius"]
        for rows, n in ((near, 39), (x, 40))
    ]
    assert radius[1] == pytest.approx(radius[0], rel=0.1)  # one pick is the far row
    picks = select(x, "k-means", 20, metric="euclidean").indices
    true = torch.cdist(x, x[picks], compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    assert quality(x, picks)["mean_distance"] == pytest.approx(float(true.mean()))
    for name, options in (("probcover", {"radius": 0.3}), ("d2", {})):
        made = [select(x, name, 9, metric="euclidean", memory=m, **options) for m in ("2GB", 100_000, 20_000)]
        assert len({tuple(selection.indices.tolist()) for selection in made}) == 1
    alone = select(near, "probcover", 9, metric="euclidean", radius=0.3)
    assert select(x, "probcover", 9, metric="euclidean", radius=0.3).gains.tolist() == alone.gains.tolist()


def drawn(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def copies(n_distinct, n_each, d=64, seed=1):
    """Images each many times over, of several lengths, in any order."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_distinct, d, generator=generator).repeat_interleave(n_each, 0)
    order = torch.randperm(len(x), generator=generator)
    return x[order] * (0.5 + torch.rand(len(x), 1, generator=generator))


@pytest.mark.parametrize("memory", [2 << 30, 20_000, 3_000])
def test_sas_cut_takes_the_lower_id_where_all_gains_are_zero(memory):
    labels = torch.zeros(51, dtype=torch.int64)
    x = (0.5 + torch.rand(51, 1)).double() * drawn(1, 37).double()  # copies: after 25 picks no other gains anything
    assert sas_cut(x, 51, labels=labels, memory=memory).indices.tolist() == list(range(51))
    x = torch.linalg.qr(drawn(40, 40).double())[0]  # images like no other
    assert sas_cut(x, 10, labels=labels[:40], memory=memory).indices.tolist() == list(range(10))


@pytest.mark.parametrize("options", [{"cells": 4}, {"swaps": 1}, {}], ids=str)
def test_copies_stay_with_the_first_pick_whatever_the_memory(options):
    x = copies(30, 10)
    expected = facility_location(x, 60, **options)
    assert sorted(expected.weights.tolist()) == [0.0] * 30 + [10.0] * 30
    for memory in (2_000_000,) if "swaps" in options else (60_000, 20_000):
        found = facility_location(x, 60, memory=memory, **options)
        assert found.indices.tolist() == expected.indices.tolist()
        assert found.weights.tolist() == expected.weights.tolist()


def test_what_is_chosen_counts_for_every_node_above_it():
    x = torch.tensor([[0.0, 0], [0, 1], [10, 0], [10, 1]]).repeat_interleave(20, 0) + 0.01 * drawn(80, 2)
    picks = hierarchical(x, 12, levels=[4, 2], chosen=torch.arange(12)).indices
    assert Counter((picks // 20).tolist()) == {2: 6, 3: 6}


def test_prototypes_make_up_for_what_was_chosen():
    wide = torch.full((10, 1), 0.2)
    wide[0] = 0.8  # the hardest images are those of the cluster that has been chosen from
    x = (5 * torch.eye(10)).repeat_interleave(40, 0) + wide.repeat_interleave(40, 0) * drawn(400, 10)
    cell = hardness(x, 10, seed=0, memory=2 << 30, keys=None)[1].numpy()
    chosen = torch.arange(20)
    assert len(set(cell[:20])) == 1
    picks = prototypes(x, 180, n_clusters=10, balance=1.0, chosen=chosen).indices
    assert np.bincount(cell[np.concatenate([chosen, picks])]).tolist() == [20] * 10


@pytest.mark.parametrize("n", [10, 20, 60, 200])
def test_balls_of_the_radius_sought_are_as_pure_as_said(n):
    for seed in range(3):
        x = drawn(n, 3, seed)
        radius = probcover(x, 1, n_clusters=4).meta["radius"]
        cell = cluster(centred(x), 4).cell
        inside = torch.cdist(x.double(), x.double()) <= radius * (1 + 1e-6)
        pure = [bool((cell[ball] == cell[i]).all()) for i, ball in enumerate(inside)]
        assert np.mean(pure) >= 0.95


def test_ccs_keeps_one_image_at_least():
    assert len(ccs(torch.zeros(10, 3), 2, scores=torch.arange(10.0), drop=1 - 1e-10)) == 2


def test_hierarchical_places_centres_on_the_nearest_half(monkeypatch):
    module = sys.modules["likewise.coresets.hierarchical"]
    seen, real = [], module.cluster
    monkeypatch.setattr(module, "cluster", lambda rows, *args, **how: seen.append(rows.x) or real(rows, *args, **how))
    x = drawn(40, 2).double()
    module._level(x, 4, 1, 0, 1 << 30)
    found = real(Rows(x, 1 << 30), 4, seed=0)
    nearest = []
    for c in range(4):
        ids = torch.nonzero(found.cell == c)[:, 0]
        nearest += ids[found.distance[ids].argsort()[:5]].tolist()
    assert sorted(map(tuple, seen[1].tolist())) == sorted(map(tuple, x[nearest].tolist()))


def test_d2_sends_no_message_below_zero():
    late = 0
    for seed in range(3):
        x, scores = drawn(40, 2, seed), torch.rand(40, generator=torch.Generator().manual_seed(seed)).double()
        far = torch.cdist(x.double(), x.double()).fill_diagonal_(torch.inf)
        near = far.argsort(1)[:, :5]
        weight = torch.exp(-0.1 * far.gather(1, near)).numpy()
        values = ((scores - scores.min()) / (scores.max() - scores.min())).numpy()
        score, left, picks = values + (weight * values[near]).sum(1), list(range(40)), []
        while left:
            i = max(left, key=lambda i: score[i])
            late += score[i] < 0
            picks.append(i)
            left.remove(i)
            score[near[i]] -= weight[i] * max(score[i], 0)
        assert d2(x, 40, scores=scores).indices.tolist() == picks
    assert late


def test_what_is_promised_of_the_best_is_the_bound():
    x = torch.nn.functional.normalize(drawn(50, 5).double())
    selection = facility_location(x, 4)
    value = float(((1 + x @ x[selection.indices].T) / 2).amax(1).sum())
    assert selection.meta["of_best"] == pytest.approx(value / (value + 4 * selection.gains[-1]))


def test_the_default_share_counts_what_is_chosen():
    x, chosen = drawn(60, 4), torch.tensor([3, 9, 11, 30, 31, 32])
    expected = saturated_coverage(x, 6, chosen=chosen, share=12 / 60)
    found = saturated_coverage(x, 6, chosen=chosen)
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.gains.tolist() == expected.gains.tolist()


def test_graph_cut_that_is_not_monotone_goes_on_by_its_gains():
    x = drawn(40, 4)
    lazy, naive = (graph_cut(x, 40, redundancy=1.0, maximiser=maximiser) for maximiser in ("lazy", "naive"))
    assert lazy.gains.min() < -1
    assert lazy.indices.tolist() == naive.indices.tolist()


def test_a_cell_makes_all_the_picks_that_it_has_a_place_for():
    x = torch.zeros(1000, 8)
    x[:, 0] = -1.0
    x[:50] = torch.eye(8)[0] + 0.3 * drawn(50, 8)
    picks = facility_location(x, 40, cells=2).indices
    assert (picks < 50).sum() == 39  # and one stands for all others, which are copies


def test_random_ones_are_drawn_beside_what_is_chosen():
    selection = select(drawn(60, 4), "random", 10, chosen=list(range(30)))
    assert selection.meta["random_quality"] == pytest.approx(dict(selection.quality))


def test_what_was_picked_is_not_picked_again_where_all_is_covered(tmp_path):
    x, options = drawn(30, 3), {"method": "probcover", "budget": 20, "radius": 1e3}
    whole = select(x, **options)
    with pytest.raises(Stopped):
        select(x, checkpoint=Checkpoint(tmp_path / "state", stopping=[15]), **options)
    rest = select(x, checkpoint=Checkpoint(tmp_path / "state"), **options)
    assert rest.indices.tolist() == whole.indices.tolist()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("k-center", {"quantile": 0.9}),
        ("facility-location", {"swaps": 1}),
        ("facility-location", {"maximiser": "naive"}),
    ],
)
def test_no_cost_is_told_of_options_that_it_leaves_out(method, options):
    assert estimate(method, 1000, 8, 100, 2 << 30, {}) is not None
    assert estimate(method, 1000, 8, 100, 2 << 30, options) is None
