"""What every selector that is listed must do."""

import inspect

import numpy as np
import pytest
import torch

from likewise.coresets import SELECTORS, select
from likewise.errors import UsageError
from likewise.types import Selection

ORDERED = {name for name in SELECTORS if name != "k-means"}  # any prefix is what a smaller budget would give

pytestmark = pytest.mark.parametrize("name", SELECTORS)


def clouds(n=150, d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, d, generator=generator)
    return centres[torch.randint(12, (n,), generator=generator)] + 0.3 * torch.randn(n, d, generator=generator)


def grid(n=90):
    return torch.randint(-1, 2, (n, 3), generator=torch.Generator().manual_seed(1)).float()


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
    selection = SELECTORS[name](x, budget)
    assert isinstance(selection, Selection)
    assert selection.indices.dtype == np.int64
    assert len(set(selection.indices.tolist())) == len(selection) == budget
    assert selection.indices.min() >= 0
    assert selection.indices.max() < len(x)
    assert selection.gains.shape == (budget,)
    assert np.isfinite(selection.gains).all()
    assert (selection.gains >= 0).all()
    if selection.weights is not None:
        assert selection.weights.sum() == pytest.approx(len(x))
        assert (selection.weights >= 0).all()
    assert torch.equal(before, x)


def test_the_same_call_gives_the_same_selection(name):
    torch.manual_seed(1)
    first = SELECTORS[name](clouds(), 20, seed=5)
    state = torch.get_rng_state()
    second = SELECTORS[name](clouds(), 20, seed=5)
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"
    assert first.indices.tolist() == second.indices.tolist()
    assert first.gains.tolist() == second.gains.tolist()


@pytest.mark.parametrize("x", [clouds(250), grid(200)], ids=["clouds", "ties"])
def test_memory_and_threads_change_nothing(name, x):
    expected = SELECTORS[name](x, 40)
    threads = torch.get_num_threads()
    try:
        for n, memory in ((1, 2_000), (2, 30_000), (2, 300_000)):
            torch.set_num_threads(n)
            selection = SELECTORS[name](x, 40, memory=memory)
            assert selection.indices.tolist() == expected.indices.tolist()
            np.testing.assert_allclose(selection.gains, expected.gains, rtol=1e-5, atol=1e-9)
    finally:
        torch.set_num_threads(threads)


def test_a_prefix_is_the_smaller_coreset(name):
    if name not in ORDERED:
        assert np.all(np.diff(SELECTORS[name](clouds(), 40).weights) <= 0)  # the largest clusters come first instead
        return
    for x in (clouds(), grid()):
        large = SELECTORS[name](x, 40)
        small = SELECTORS[name](x, 15)
        assert large.indices[:15].tolist() == small.indices.tolist()
        np.testing.assert_allclose(large.gains[:15], small.gains, rtol=1e-5)


def test_the_order_of_the_images_does_not_matter(name):
    x = clouds(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    keys = torch.arange(200) * 104729
    options = {"keys": keys} if "keys" in inspect.signature(SELECTORS[name]).parameters else {}
    expected = SELECTORS[name](x, 25, **options)
    if options:
        options = {"keys": keys[order]}
    shuffled = SELECTORS[name](x[order], 25, **options)
    assert set(order[shuffled.indices].tolist()) == set(expected.indices.tolist())


def test_chosen_images_are_not_picked_again(name):
    x = grid()
    chosen = torch.tensor([3, 50, 7, 88])
    for budget in (1, 20, 86):
        selection = SELECTORS[name](x, budget, chosen=chosen)
        assert len(set(selection.indices.tolist()) | set(chosen.tolist())) == budget + 4


def test_odd_pools(name):
    assert SELECTORS[name](torch.randn(1, 3), 1).indices.tolist() == [0]
    for x in (torch.zeros(5, 3), torch.ones(5, 3), torch.ones(5, 1)):
        selection = SELECTORS[name](x, 5)
        assert sorted(selection.indices.tolist()) == [0, 1, 2, 3, 4]
        assert np.isfinite(selection.gains).all()
    mixed = torch.cat([torch.zeros(2, 3), torch.eye(3)])
    assert len(set(SELECTORS[name](mixed, 4).indices.tolist())) == 4


@pytest.mark.parametrize("budget", [0, -1, 151])
def test_impossible_budgets(name, budget):
    with pytest.raises(UsageError, match=f"budget {budget}: must be between 1 and"):
        SELECTORS[name](clouds(), budget)


def test_select_saves_and_loads(name, tmp_path):
    selection = select(clouds(), name, "10%")
    assert set(selection.quality) == {"facility_location", "radius", "mean_distance", "duplicates"}
    selection.save(tmp_path)
    loaded = Selection.load(tmp_path)
    assert loaded.indices.tolist() == selection.indices.tolist()
    assert loaded.quality == pytest.approx(dict(selection.quality))
    assert loaded.meta["method"] == name
