"""What every selector that is listed must do."""

import inspect
import re
from math import isfinite
from types import NoneType
from typing import get_args

import numpy as np
import pytest
import torch

from likewise.coresets import SELECTORS, select
from likewise.coresets.checkpoint import Checkpoint
from likewise.draws import word
from likewise.errors import DataError, Stopped, UsageError
from likewise.types import Selection

ORDERED = set(SELECTORS) - {"k-means", "typiclust"}  # any prefix is what a smaller budget would give
SIGNED = {"sas-cut"}  # whose gains may be negative, for what they maximise is not monotone
# Options with which the whole budget is picked, and soon
FULL = {
    "bloom": {"code_length": 1},
    "hierarchical": {"n_resamplings": 1},
    "sem-dedup": {"eps": None},
    "simcore": {"stop": None},
}

RESUMABLE = {  # those that can be taken up again, each with the options that take other paths
    "facility-location": ({}, {"cells": 5}, {"maximiser": "naive"}, {"maximiser": "stochastic"}, {"swaps": 1}),
    "graph-cut": ({}, {"maximiser": "threshold"}),
    "herding": ({},),
    "k-center": ({}, {"quantile": 0.9}),
    "k-means": ({"n_iterations": 5},),
    "log-det": ({}, {"maximiser": "threshold"}),
    "probcover": ({"radius": 0.3},),
    "saturated-coverage": ({},),
    "zcore": ({"n_looks": 100},),
}

# Saturated coverage has an order once its share is fixed; by default that follows the budget.
FIXED = {"saturated-coverage": {"share": 0.2}}
# All rows have the same length, so that the first pick is a tie, and nearly so the second.
TIED_AT_FIRST = {"log-det"}

UNDRAWN = {  # without options that draw
    "facility-location",
    "graph-cut",
    "herding",
    "k-center",
    "log-det",
    "saturated-coverage",
    "top-k",
    "ucs",
}
# Options with which those that draw have something to draw: where nothing else tells them what to take
DRAWN = {
    "bloom": {"code_length": 2},
    "d2": {"scores": None},
    "sas-cut": {"labels": None},
    "sas-rowsum": {"labels": None},
    "simcore": {"stop": None, "n_centroids": 3},
}

pytestmark = pytest.mark.parametrize("name", SELECTORS)


def clouds(n=150, d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, d, generator=generator)
    return centres[torch.randint(12, (n,), generator=generator)] + 0.3 * torch.randn(n, d, generator=generator)


def grid(n=90):
    return torch.randint(-1, 2, (n, 3), generator=torch.Generator().manual_seed(1)).float()


def given(name, x):
    """What the selector asks for by name: functions of each row alone, so that they move with it."""
    values = {
        "keys": (x.double() @ torch.linspace(1, 2, x.shape[1], dtype=torch.float64) * 1e9).long(),
        "target": x[x[:, 0].double().argsort(stable=True)[:: max(len(x) // 9, 1)]],
        "scores": x.double().square().sum(1) + 0.1 * x.double()[:, 0],
        "labels": (x.double()[:, 0] > 0).long() + 2 * (x.double()[:, -1] > 1).long(),
    }
    parameters = inspect.signature(SELECTORS[name]).parameters
    return {argument: value for argument, value in values.items() if argument in parameters}


def run(name, x, budget, **options):
    return SELECTORS[name](x, budget, **{**given(name, x), **FULL.get(name, {}), **options})


def test_the_signature_is_the_contract(name):
    parameters = inspect.signature(SELECTORS[name]).parameters
    assert list(parameters)[:2] == ["x", "budget"]
    for option in ("seed", "memory", "chosen"):
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[option].default is not inspect.Parameter.empty


@pytest.mark.parametrize("x", [clouds(), clouds().double(), grid()], ids=["float32", "float64", "ties"])
@pytest.mark.parametrize("budget", [1, 13, 89])
def test_picks_are_distinct_and_as_many_as_asked(name, x, budget):
    before = x.clone()
    selection = run(name, x, budget)
    assert isinstance(selection, Selection)
    assert selection.indices.dtype == np.int64
    assert len(set(selection.indices.tolist())) == len(selection) == budget
    assert selection.indices.min() >= 0
    assert selection.indices.max() < len(x)
    assert selection.gains.shape == (budget,)
    assert np.isfinite(selection.gains).all()
    assert name in SIGNED or (selection.gains >= 0).all()
    if selection.weights is not None:
        assert selection.weights.sum() == pytest.approx(len(x))
        assert (selection.weights >= 0).all()
    assert torch.equal(before, x)


def test_the_same_call_gives_the_same_selection(name):
    torch.manual_seed(1)
    first = run(name, clouds(), 20, seed=5)
    state = torch.get_rng_state()
    second = run(name, clouds(), 20, seed=5)
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"
    assert first.indices.tolist() == second.indices.tolist()
    assert first.gains.tolist() == second.gains.tolist()


@pytest.mark.parametrize("x", [clouds(250), grid(200)], ids=["clouds", "ties"])
def test_memory_and_threads_change_nothing(name, x):
    expected = run(name, x, 40)
    threads = torch.get_num_threads()
    try:
        for n, memory in ((1, 8_000), (2, 40_000), (2, 300_000)):
            torch.set_num_threads(n)
            selection = run(name, x, 40, memory=memory)
            assert selection.indices.tolist() == expected.indices.tolist()
            np.testing.assert_allclose(selection.gains, expected.gains, rtol=1e-5, atol=1e-9)
    finally:
        torch.set_num_threads(threads)


def test_a_prefix_is_the_smaller_coreset(name):
    if name not in ORDERED:
        weights = run(name, clouds(), 40).weights
        assert weights is None or np.all(np.diff(weights) <= 0)  # the largest clusters come first instead
        return
    for x in (clouds(), grid()):
        large = run(name, x, 40, **FIXED.get(name, {}))
        small = run(name, x, 15, **FIXED.get(name, {}))
        assert large.indices[:15].tolist() == small.indices.tolist()
        np.testing.assert_allclose(large.gains[:15], small.gains, rtol=1e-5)


def test_the_order_of_the_images_does_not_matter(name):
    x = clouds(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    held = torch.tensor([3, 10, 50] if name in TIED_AT_FIRST else [], dtype=torch.int64)
    expected = run(name, x, 25, chosen=held)
    shuffled = run(name, x[order], 25, chosen=order.argsort()[held])
    assert set(order[shuffled.indices].tolist()) == set(expected.indices.tolist())


def test_chosen_images_are_not_picked_again(name):
    x = grid()
    chosen = torch.tensor([3, 50, 7, 88])
    for budget in (1, 20, 86):
        selection = run(name, x, budget, chosen=chosen)
        assert len(set(selection.indices.tolist()) | set(chosen.tolist())) == budget + 4


def test_odd_pools(name):
    assert run(name, torch.randn(1, 3), 1).indices.tolist() == [0]
    for x in (torch.zeros(5, 3), torch.ones(5, 3), torch.ones(5, 1)):
        selection = run(name, x, 5)
        assert sorted(selection.indices.tolist()) == [0, 1, 2, 3, 4]
        assert np.isfinite(selection.gains).all()
    mixed = torch.cat([torch.zeros(2, 3), torch.eye(3)])
    assert len(set(run(name, mixed, 4).indices.tolist())) == 4


@pytest.mark.parametrize("budget", [0, -1, 151])
def test_impossible_budgets(name, budget):
    with pytest.raises(UsageError, match=f"budget {budget}: must be between 1 and"):
        run(name, clouds(), budget)


WRONG = (
    "abc",
    "",
    "nan",
    "1e400",
    1.5,
    float("nan"),
    float("inf"),
    True,
    None,
    [],
    ["a"],
    [1.5],
    [True],
    {},
    b"x",
    0,
    -1,
)


def test_options_of_another_type_are_refused_in_one_line(name):
    """Whatever is given for an option, the answer is a selection or a UsageError that names the option."""
    x = clouds(40)
    asked = {argument: value for argument, value in given(name, x).items() if argument != "keys"}
    for option, parameter in inspect.signature(SELECTORS[name]).parameters.items():
        if option in ("x", "budget", "seed", "memory", "chosen", "metric", "checkpoint", *given(name, x)):
            continue
        for value in WRONG:
            said = ""
            try:
                select(x, name, 5, **{**FULL.get(name, {}), **asked, option: value})
            except UsageError as error:
                said = str(error)
            kinds = get_args(parameter.annotation) or (parameter.annotation,)
            fits = type(value) in kinds or (value is None and NoneType in kinds)
            fits |= (type(value) is int and float in kinds) or (value == [] and list[int] in kinds)
            assert said or (fits and not (type(value) is float and not isfinite(value))), (
                f"{name} takes {option}={value!r}"
            )
            assert not said or re.fullmatch(rf".*\b{option}\b.*", said), said


def test_select_saves_and_loads(name, tmp_path):
    x = clouds()
    asked = {argument: value for argument, value in given(name, x).items() if argument != "keys"}
    selection = select(x, name, "10%", **asked, **FULL.get(name, {}))
    assert {"facility_location", "radius", "mean_distance", "duplicates"} <= set(selection.quality)
    selection.save(tmp_path)
    loaded = Selection.load(tmp_path)
    assert loaded.indices.tolist() == selection.indices.tolist()
    assert loaded.quality == pytest.approx(dict(selection.quality))
    assert loaded.meta["method"] == name


def test_cosine_ignores_lengths(name):
    x = torch.nn.functional.normalize(clouds().double())
    lengths = torch.linspace(0.1, 10, len(x), dtype=torch.float64)[:, None]
    asked = {argument: value for argument, value in given(name, x).items() if argument != "keys"}
    options = {**asked, **FULL.get(name, {})}
    expected = select(x, name, 9, **options)
    assert select(x * lengths, name, 9, **options).indices.tolist() == expected.indices.tolist()


class Signalled(Checkpoint):
    """A signal arrives before the n-th time that something could be kept."""

    def __init__(self, file, at=0):
        super().__init__(file, stopping=[])
        self.at, self.times = at, 0

    def keep(self, **state):
        self.times += 1
        if self.times == self.at:
            self.stopping.append(15)
        super().keep(**state)


def same(one, other):
    pairs = [(one.indices, other.indices), (one.gains, other.gains), (one.weights, other.weights)]
    return all((a is None and b is None) or a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.parametrize("chosen", [None, [3, 50, 7]], ids=["from nothing", "from chosen"])
def test_a_stopped_selection_goes_on_to_the_same_bits(name, chosen, tmp_path):
    file = tmp_path / "state.safetensors"
    x = clouds()
    asked = {argument: value for argument, value in given(name, x).items() if argument != "keys"}
    assert ("checkpoint" in inspect.signature(SELECTORS[name]).parameters) == (name in RESUMABLE)
    for options in RESUMABLE.get(name, (FULL.get(name, {}),)):
        options = {**asked, **options, "chosen": chosen}
        whole = select(x, name, 40, **options)
        counted = Signalled(file)
        assert same(select(x, name, 40, checkpoint=counted, **options), whole)
        assert not file.exists()
        assert bool(counted.times) == (name in RESUMABLE)
        if not counted.times:
            continue
        at = 1 + word(0, name, str(options)) % counted.times
        with pytest.raises(Stopped, match="--resume"):
            select(x, name, 40, checkpoint=Signalled(file, at), **options)
        rest = Signalled(file)
        assert same(select(x, name, 40, checkpoint=rest, **options), whole)
        assert rest.times == counted.times - at, "what was kept was made again"
        file.unlink()


@pytest.mark.parametrize("options", [{}, {"cells": 5}], ids=["", "cells"])
def test_what_was_kept_is_what_goes_on(name, options, tmp_path):
    """Take any one array from a state: nothing else can stand for it. Change one of values: the result shows it."""
    if name not in RESUMABLE or (options and name != "facility-location"):
        return
    file, x = tmp_path / "state.safetensors", clouds()
    options = options or RESUMABLE[name][0]
    with pytest.raises(Stopped):
        select(x, name, 40, checkpoint=Signalled(file, 3), **options)
    checkpoint = Checkpoint(file)
    whole = select(x, name, 40, checkpoint=checkpoint, **options)
    begin, state = checkpoint.begin, dict(checkpoint.kept)

    def changed(**arrays):
        """What comes of a state with some arrays replaced, or missing."""
        checkpoint.begin = lambda asked: begin(asked) or swap(arrays)
        return select(x, name, 40, checkpoint=checkpoint, **options)

    def swap(arrays):
        checkpoint.kept.update(arrays)
        for key in [key for key, array in checkpoint.kept.items() if array is None]:
            del checkpoint.kept[key]

    assert same(changed(), whole)
    for key in state:
        with pytest.raises(DataError, match=f"lacks {key}"):
            changed(**{key: None})
    values = {"rises", "gains", "total", "near", "cell"} & set(state)
    assert values
    for key in values:
        wrong = np.zeros_like(state[key])
        if key == "near":  # zeros would be found out, for what cannot be told apart is measured again
            wrong[0] = 1e9
        assert not same(changed(**{key: wrong}), whole), key


def test_the_state_of_another_selection_is_refused(name, tmp_path):
    if name not in RESUMABLE:
        return
    file, x = tmp_path / "state.safetensors", clouds()
    with pytest.raises(Stopped):
        select(x, name, 40, checkpoint=Signalled(file, 1))
    for changed, message in (
        ({"budget": 41}, "budget=40, not budget=41"),
        ({"seed": 1}, "seed=0, not seed=1"),
        ({"x": clouds(seed=1)}, "other images"),
        ({"chosen": [1]}, "other images"),
    ):
        with pytest.raises(UsageError, match=message):
            select(**{"x": x, "method": name, "budget": 40, "checkpoint": Checkpoint(file), **changed})
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="is damaged"):
        select(x, name, 40, checkpoint=Checkpoint(file))


def test_another_seed_gives_other_picks_where_lots_are_drawn(name):
    options = DRAWN.get(name, {})
    picks = {tuple(run(name, clouds(), 20, seed=seed, **options).indices.tolist()) for seed in range(4)}
    assert (len(picks) > 1) == (name not in UNDRAWN)
