"""Objectives against their definitions, maximisers against brute force and the naive greedy."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from likewise.coresets import blocks, facility_location, graph_cut, k_center, log_det, pairs, saturated_coverage
from likewise.coresets.facility_location import FacilityLocation
from likewise.coresets.graph_cut import GraphCut
from likewise.coresets.greedy import MAXIMISERS, maximise
from likewise.coresets.log_det import LogDet
from likewise.coresets.saturated_coverage import SaturatedCoverage
from likewise.errors import UsageError

FACILITY_LOCATION = sys.modules["likewise.coresets.facility_location"]  # the package has a function of that name
NOBODY = np.zeros(0, dtype=np.int64)
SELECTED = {
    "facility-location": facility_location,
    "graph-cut": graph_cut,
    "log-det": log_det,
    "saturated-coverage": saturated_coverage,
}


def clouds(n, d=5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, d, generator=generator, dtype=dtype)
    x = centres[torch.randint(5, (n,), generator=generator)]
    return x + 0.5 * torch.randn(n, d, generator=generator, dtype=dtype)


def cosines(x):
    u = x.double() / x.double().norm(dim=1, keepdim=True).clamp(min=1e-300)
    return (u @ u.T).numpy()


# F by the definitions, from the whole matrix.


def value_facility_location(s, ids):
    return ((1 + s[:, ids]) / 2).max(axis=1).sum() if ids else 0.0


def value_graph_cut(s, ids, redundancy=0.5):
    shared = (1 + s) / 2
    return shared[:, ids].sum() - redundancy * shared[np.ix_(ids, ids)].sum()


def value_saturated_coverage(s, ids, share=0.2):
    shared = (1 + s) / 2
    return np.minimum(shared[:, ids].sum(axis=1), share * shared.sum(axis=1)).sum()


def value_log_det(s, ids, noise=0.1):
    return np.linalg.slogdet(np.eye(len(ids)) + s[np.ix_(ids, ids)] / noise)[1] if ids else 0.0


OBJECTIVES = {
    "facility-location": (FacilityLocation, value_facility_location),
    "graph-cut": (GraphCut, value_graph_cut),
    "log-det": (LogDet, value_log_det),
    "saturated-coverage": (lambda x, memory=1 << 30: SaturatedCoverage(x, memory, 0.2), value_saturated_coverage),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def naive(value, s, budget):
    """Greedy by the definition; of equals the lowest id."""
    picks = []
    for _ in range(budget):
        gains = np.array([-np.inf if j in picks else value(s, [*picks, j]) - value(s, picks) for j in range(len(s))])
        top = gains.max()
        picks.append(int(np.flatnonzero(gains >= top - 1e-6 * abs(top) - 1e-9)[0]))
    return picks


@every_objective
@pytest.mark.parametrize("memory", [3_000, 1 << 30])
def test_gains_are_what_the_objective_gains(name, memory):
    make, value = OBJECTIVES[name]
    x = clouds(50)
    x[7], x[9] = 0, 3 * x[4]
    s, objective = cosines(x), make(x, memory)
    ids, everything = [], np.arange(50)
    for at in (3, 30, 7, 9, 41, 12, 4):
        expected = [value(s, [*ids, j]) - value(s, ids) for j in everything if j not in ids]
        others = everything[~np.isin(everything, ids)]
        gains, errors = objective.gains(others)
        assert np.all(np.abs(gains - expected) <= errors + 1e-9)
        np.testing.assert_allclose(objective.exact(others), expected, atol=1e-9)
        assert objective.add(at) == pytest.approx(value(s, [*ids, at]) - value(s, ids), abs=1e-9)
        ids.append(at)


@every_objective
@pytest.mark.parametrize("maximiser", ["naive", "lazy"])
@pytest.mark.parametrize("whole", [False, True])
def test_naive_and_lazy_are_the_greedy_of_the_definition(name, maximiser, whole, monkeypatch):
    monkeypatch.setattr("likewise.coresets.greedy.POOL", 4)
    make, value = OBJECTIVES[name]
    x = clouds(60, seed=1) if not whole else torch.randint(-1, 2, (60, 3), generator=torch.Generator()).float()
    picks, rises = maximise(make(x), 25, NOBODY, maximiser=maximiser)
    s = cosines(x)
    assert picks.tolist() == naive(value, s, 25)
    assert rises.sum() == pytest.approx(value(s, picks.tolist()))


@every_objective
@pytest.mark.parametrize("seed", range(3))
def test_greedy_reaches_its_share_of_the_best(name, seed):
    make, value = OBJECTIVES[name]
    x = clouds(12, 3, seed)
    s = cosines(x)
    best = max(value(s, list(ids)) for ids in itertools.combinations(range(12), 4))
    for maximiser in ("naive", "lazy"):
        picks, _ = maximise(make(x), 4, NOBODY, maximiser=maximiser)
        assert value(s, picks.tolist()) >= (1 - 1 / np.e) * best
    picks, _ = maximise(make(x), 4, NOBODY, maximiser="threshold", epsilon=0.1)
    assert value(s, picks.tolist()) >= (1 - 1 / np.e - 0.1) * best
    found = [maximise(make(x), 4, NOBODY, maximiser="stochastic", epsilon=0.1, seed=k)[0] for k in range(10)]
    assert np.mean([value(s, picks.tolist()) for picks in found]) >= (1 - 1 / np.e - 0.1) * best


@every_objective
def test_the_cheaper_maximisers_do_what_they_say(name):
    make, value = OBJECTIVES[name]
    x = clouds(80, seed=2)
    s = cosines(x)
    best = value(s, maximise(make(x), 15, NOBODY)[0].tolist())
    one, other = (maximise(make(x), 15, NOBODY, maximiser="stochastic", seed=k)[0].tolist() for k in (0, 1))
    assert one != other
    assert len(set(one)) == 15
    # With as good as no error allowed, every candidate is drawn, and every threshold taken: the greedy again, nearly.
    everyone = maximise(make(x), 15, NOBODY, maximiser="stochastic", epsilon=1e-9)[0].tolist()
    assert value(s, everyone) == pytest.approx(best)
    assert value(s, maximise(make(x), 15, NOBODY, maximiser="threshold", epsilon=0.01)[0].tolist()) >= 0.98 * best


def test_threshold_takes_what_gains_enough_in_order():
    x = clouds(40, seed=3)
    s = cosines(x)
    picks, rises = maximise(GraphCut(x), 10, NOBODY, maximiser="threshold", epsilon=0.3)
    level, expected = max(value_graph_cut(s, [j]) for j in range(40)), []
    while len(expected) < 10:
        for j in range(40):
            gain = value_graph_cut(s, [*expected, j]) - value_graph_cut(s, expected)
            if j not in expected and len(expected) < 10 and gain >= level * (1 - 1e-12):
                expected.append(j)
        level *= 0.7
    assert picks.tolist() == expected
    assert rises.sum() == pytest.approx(value_graph_cut(s, expected))


@pytest.mark.parametrize("dense", [2, 1_000_000])
@pytest.mark.parametrize("chosen", [[], [5, 17]])
def test_lists_of_pairs_change_no_pick(dense, chosen, monkeypatch):
    x = clouds(300, 8)
    held = torch.tensor(chosen, dtype=torch.int64)
    expected = facility_location(x, 120, chosen=held, maximiser="naive")
    monkeypatch.setattr(FACILITY_LOCATION, "DENSE", dense)
    selection = facility_location(x, 120, chosen=held)
    assert selection.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(selection.gains, expected.gains, rtol=1e-9, atol=1e-9)
    assert selection.weights.tolist() == expected.weights.tolist()


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_near_ties_are_decided_exactly(shift):
    """Float32 alone cannot tell these candidates apart."""
    x = shift + clouds(200, 16, dtype=torch.float64)
    copies = x[:40] * (1 + 1e-9) + 1e-10 * clouds(40, 16, seed=9, dtype=torch.float64)
    both = torch.cat([copies, x])
    picks = facility_location(both, 60).indices
    s = cosines(both)
    assert picks.tolist() == naive(value_facility_location, s, 60)


def test_pairs_are_those_above_the_floor():
    x = clouds(90, 7)
    s = cosines(x)
    floor = np.quantile(s, 0.8, axis=0)
    listed = pairs.Pairs(blocks.unit(x), floor)
    found = {(j, int(i)) for j in range(90) for i in listed.images[listed.starts[j] : listed.starts[j + 1]]}
    assert {(j, i) for j, i in np.argwhere(s > floor).tolist()} <= found
    assert found <= {(j, i) for j, i in np.argwhere(s > floor - 3 * listed.error).tolist()}
    ids, best = np.array([4, 0, 77]), floor + 0.05
    sums, counts = listed.rises(ids, best)
    np.testing.assert_allclose(sums, np.maximum(s[ids] - best, 0).sum(axis=1), atol=1e-5)
    assert np.all(np.abs(counts - (s[ids] > best).sum(axis=1)) <= 1)
    listed.keep(best)
    np.testing.assert_allclose(listed.rises(ids, best)[0], sums, atol=1e-5)
    assert np.all(np.diff(listed.starts) <= (s > best - 3 * listed.error).sum(axis=1))


@pytest.mark.parametrize("d", [2, 32, 128, 768])
def test_rounding_bounds_the_error_of_products(d):
    for x in (torch.randn(500, d, dtype=torch.float64), torch.rand(500, d, dtype=torch.float64)):
        rows = blocks.unit(x)
        exact = rows[:] @ rows[:].T
        for span, block in rows.products(rows.single(slice(None))):
            assert float((block.double() - exact[span]).abs().max()) < blocks.rounding(d) / 2


@pytest.mark.parametrize(
    ("select", "options", "message"),
    [
        (
            facility_location,
            {"maximiser": "lasy"},
            r"maximiser 'lasy' is unknown \(did you mean 'lazy'\?\); known: lazy,",
        ),
        (facility_location, {"epsilon": 1.0}, r"epsilon=1.0: must be between 0 and 1"),
        (graph_cut, {"redundancy": 2.0}, r"redundancy=2.0: must be between 0 and 1"),
        (saturated_coverage, {"share": 0.0}, r"share=0.0: must be above 0 and at most 1"),
        (log_det, {"noise": 0.0}, r"noise=0.0: must be at least 1e-10"),
        (log_det, {"noise": 1e-17}, r"noise=1e-17: must be at least 1e-10"),
    ],
)
def test_wrong_options_are_refused_in_one_line(select, options, message):
    with pytest.raises(UsageError, match=message) as error:
        select(clouds(20), 3, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("maximiser", MAXIMISERS)
@pytest.mark.parametrize("name", SELECTED)
def test_everything_works_with_everything(name, maximiser):
    x = clouds(50)
    for budget in (1, 20, 48):
        selection = SELECTED[name](x, budget, maximiser=maximiser, chosen=torch.tensor([1, 2]))
        assert len(set(selection.indices.tolist()) | {1, 2}) == budget + 2


def test_facility_location_picks_what_apricot_picks():
    """What apricot-select 0.6.1 picked of scikit-learn's digits, recorded by

    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    made = FacilityLocationSelection(180, metric="precomputed", optimizer="naive").fit((1 + u @ u.T) / 2)
    json.dump({"picks": made.ranking.tolist(), "gains": made.gains.round(9).tolist()}, file)
    """
    theirs = json.loads((Path(__file__).parent / "apricot_digits.json").read_text())
    ours = facility_location(torch.from_numpy(load_digits().data), 180)
    assert ours.indices.tolist() == theirs["picks"]
    np.testing.assert_allclose(ours.gains, theirs["gains"], atol=1e-8)


def summed(s, ids):
    return s[:, ids].max(axis=1).sum()


@pytest.mark.parametrize("chosen", [[], [3, 20]])
@pytest.mark.parametrize("budget", [1, 2, 8])
def test_swaps_end_where_no_swap_helps(budget, chosen):
    x = clouds(60, 6, seed=4)
    s = cosines(x)
    held = torch.tensor(chosen, dtype=torch.int64)
    greedy = facility_location(x, budget, chosen=held)
    refined = facility_location(x, budget, chosen=held, swaps=1)
    ids = refined.indices.tolist()
    assert len(set(ids) | set(chosen)) == budget + len(chosen)
    reached = summed(s, [*chosen, *ids])
    assert reached >= summed(s, [*chosen, *greedy.indices]) - 1e-9
    before = summed(s, chosen) if chosen else -60
    assert 2 * refined.gains.sum() == pytest.approx(reached - before)
    for place in range(budget):
        for j in range(60):
            if j not in chosen:
                other = [*chosen, *ids[:place], j, *ids[place + 1 :]]
                assert summed(s, other) <= reached + 1e-6


def test_swaps_help_and_count_what_they_represent(monkeypatch):
    x = clouds(500, 8, seed=5)
    s = cosines(x)
    greedy, refined = facility_location(x, 25), facility_location(x, 25, swaps=1)
    assert refined.meta["swaps"] > 0
    assert summed(s, refined.indices) > summed(s, greedy.indices)
    nearest = s[:, refined.indices].argmax(axis=1)
    assert refined.weights.tolist() == np.bincount(nearest, minlength=25).tolist()
    further = facility_location(x, 25, swaps=4)
    assert summed(s, further.indices) >= summed(s, refined.indices)
    assert further.meta["swaps"] > refined.meta["swaps"]
    assert further.indices.tolist() == facility_location(x, 25, swaps=4).indices.tolist()
    small = facility_location(x, 25, swaps=1, memory=3_000_000)
    assert small.indices.tolist() == refined.indices.tolist()
    monkeypatch.setattr(FACILITY_LOCATION, "maximise", None)  # it is said before the work
    with pytest.raises(UsageError, match="swaps: listing pairs of 500 images for 25 picks takes about"):
        facility_location(x, 25, swaps=1, memory=10_000)


def test_what_is_promised_of_the_best_is_kept():
    x = clouds(14, 3, seed=6)
    s = cosines(x)
    best = max(value_facility_location(s, list(ids)) for ids in itertools.combinations(range(14), 4))
    selection = facility_location(x, 4)
    share = value_facility_location(s, selection.indices.tolist()) / best
    assert 1 - 1 / np.e < selection.meta["of_best"] <= share <= 1


def test_saturated_coverage_reads_its_candidates_once(monkeypatch):
    objective = SaturatedCoverage(clouds(3000), 1 << 20, 1 / 3000)  # no image has room for a whole pick
    asked = []
    read = blocks.Rows.__getitem__
    monkeypatch.setattr(blocks.Rows, "__getitem__", lambda rows, ids: asked.append(len(rows.x[ids])) or read(rows, ids))
    objective.exact(np.arange(3000))
    assert sum(asked) <= 4 * 3000  # all of them for the sums, for their own sake, and against two parts of them


@pytest.mark.parametrize("chosen", [[], [3, 20, 150]])
def test_cells_are_the_greedy_of_pairs_within_a_cell(chosen):
    from likewise.coresets.clusters import cluster

    x = clouds(200, 6, seed=7)
    held = torch.tensor(chosen, dtype=torch.int64)
    for budget in (1, 40, 190):
        selection = facility_location(x, budget, cells=6, chosen=held)
        cell = cluster(blocks.unit(x), 6).cell.numpy()
        shared = np.where(cell[:, None] == cell, (1 + cosines(x)) / 2, 0.0)
        best = shared[:, chosen].max(axis=1) if chosen else np.zeros(200)
        picks, free = [], [j for j in range(200) if j not in chosen]
        for _ in range(budget):
            gains = np.array([np.maximum(shared[:, j] - best, 0).sum() for j in free])
            picks.append(free.pop(int((gains >= gains.max() - 1e-9).argmax())))  # a pair far from all else ties
            best = np.maximum(best, shared[:, picks[-1]])
        assert len(set(selection.indices.tolist()) | set(chosen)) == budget + len(chosen)
        if budget < 190:  # then what is left gains next to nothing, and ties
            assert set(selection.indices.tolist()) == set(picks)
        assert "of_best" not in selection.meta  # what it would bound is F within the cells
        assert "1 - 1/e" in selection.meta["approximation"]
        if not chosen:
            reached = np.isin(cell, cell[picks]).sum()
            assert selection.weights.sum() == reached
            assert selection.gains.sum() == pytest.approx(best.sum())


def test_cells_go_with_lazy_only():
    for options in ({"swaps": 1}, {"maximiser": "naive"}):
        with pytest.raises(UsageError, match="cells=3: goes with maximiser=lazy and without swaps only"):
            facility_location(clouds(30), 5, cells=3, **options)
    with pytest.raises(UsageError, match="cells=0: must be at least 1"):
        facility_location(clouds(30), 5, cells=0)


@pytest.mark.parametrize(
    "pick",
    [
        facility_location,
        graph_cut,
        log_det,
        k_center,
        lambda x, budget, **o: saturated_coverage(x, budget, share=0.3, **o),
    ],
)
def test_a_selection_goes_on_from_what_is_chosen(pick):
    """A long run can be made in parts: what is chosen and as many again are the picks of one run."""
    x = clouds(120, 6, seed=8)
    whole = pick(x, 40)
    rest = pick(x, 25, chosen=torch.from_numpy(whole.indices[:15]))
    assert rest.indices.tolist() == whole.indices[15:].tolist()
    np.testing.assert_allclose(rest.gains, whole.gains[15:], rtol=1e-9, atol=1e-9)


class Modular:
    """F of a set is the sum of its weights."""

    monotone = True

    def __init__(self, weights):
        self.weights, self.n = np.array(weights), len(weights)

    def gains(self, ids):
        return self.weights[ids], np.zeros(len(ids))

    def exact(self, ids):
        return self.weights[ids]

    def add(self, at):
        return float(self.weights[at])


def test_threshold_falls_to_epsilon_over_n_of_the_first():
    picks, _ = maximise(Modular([1e-3, 1.0, 0.05, 0.03]), 3, np.empty(0, np.int64), maximiser="threshold", epsilon=0.1)
    assert picks.tolist() == [1, 2, 3]
