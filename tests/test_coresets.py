"""Selectors against brute force, the naive algorithms and closed forms."""

import copy
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from likewise.coresets import facility_location, k_center, k_means, parse_budget, quality, random, select
from likewise.coresets.blocks import unit
from likewise.coresets.checkpoint import Checkpoint
from likewise.coresets.clusters import cluster
from likewise.errors import DataError, UsageError
from likewise.types import Embeddings

TIE = 1e-6
QUALITY = sys.modules["likewise.coresets.quality"]
K_MEANS = sys.modules["likewise.coresets.k_means"]
K_CENTER = sys.modules["likewise.coresets.k_center"]
FACILITY_LOCATION = sys.modules["likewise.coresets.facility_location"]
GREEDY = sys.modules["likewise.coresets.greedy"]


def points(n, d=4, seed=0, unit=True):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=1) if unit else x


def grid(n, d=3, seed=0):
    """Small whole numbers: full of ties and exact copies."""
    return torch.randint(-1, 2, (n, d), generator=torch.Generator().manual_seed(seed)).double()


def covered(x, ids):
    """F of facility location, the slow way."""
    u = torch.nn.functional.normalize(x, dim=1)
    return float(((1 + u @ u[list(ids)].T) / 2).amax(1).sum()) if len(ids) else 0.0


def naive_facility_location(x, budget, chosen=()):
    """Every gain from the whole matrix, for every pick."""
    u = torch.nn.functional.normalize(x, dim=1)
    shared = ((1 + u @ u.T) / 2).numpy()
    best = shared[:, list(chosen)].max(axis=1) if chosen else np.zeros(len(x))
    free = [j for j in range(len(x)) if j not in chosen]
    picks = []
    for _ in range(budget):
        gains = {j: np.maximum(shared[:, j] - best, 0).sum() for j in free}
        top = max(gains.values())
        picks.append(next(j for j in free if gains[j] >= top * (1 - TIE) or top < 1e-10))
        free.remove(picks[-1])
        best = np.maximum(best, shared[:, picks[-1]])
    return picks


def naive_k_center(x, budget, chosen=()):
    """Distances from exact differences, one pass per pick."""
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    picks = []
    if not chosen:
        from_mean = (x - x.mean(0)).norm(dim=1)
        picks.append(next(i for i in range(len(x)) if from_mean[i] <= from_mean.min() * (1 + TIE) + 1e-12))
    while len(picks) < budget:
        held = [*chosen, *picks]
        near = distance[:, held].amin(1)
        near[held] = -1
        picks.append(next(i for i in range(len(x)) if near[i] >= near.max() * (1 - TIE)))
    return picks


@pytest.fixture
def small_pools(monkeypatch):
    """Pools so small that every branch of the lazy algorithms is walked."""
    monkeypatch.setattr(K_CENTER, "POOL", 3)
    monkeypatch.setattr(GREEDY, "POOL", 3)


@pytest.mark.parametrize("data", [points(60), points(60, 16, 1), grid(60), grid(40, 2, 1)])
@pytest.mark.parametrize("chosen", [[], [5, 17]])
def test_facility_location_is_the_naive_greedy(data, chosen, small_pools):
    held = torch.tensor(chosen) if chosen else None
    lazy = facility_location(data, 30, chosen=held)
    assert lazy.indices.tolist() == naive_facility_location(data, 30, chosen)
    rise = covered(data, [*chosen, *lazy.indices]) - covered(data, chosen)
    assert lazy.gains.sum() == pytest.approx(rise)
    assert np.all(np.diff(lazy.gains) <= 1e-5 * lazy.gains[0])


@pytest.mark.parametrize("data", [points(80), points(80, 16, 1, unit=False), grid(60), grid(40, 2, 1)])
@pytest.mark.parametrize("chosen", [[], [5, 17]])
def test_k_center_is_the_naive_greedy(data, chosen, small_pools):
    held = torch.tensor(chosen) if chosen else None
    lazy = k_center(data, 35, chosen=held)
    assert lazy.indices.tolist() == naive_k_center(data, 35, chosen)
    assert np.all(np.diff(lazy.gains) <= 1e-5 * lazy.gains[0])


def test_pools_change_no_pick():
    x = points(600, 8)
    for selector, module in ((k_center, K_CENTER), (facility_location, GREEDY)):
        expected = selector(x, 90)
        pool, module.POOL = module.POOL, 2000
        try:
            assert selector(x, 90).indices.tolist() == expected.indices.tolist()
        finally:
            module.POOL = pool


@pytest.mark.parametrize("seed", range(5))
def test_facility_location_reaches_its_share_of_the_best(seed):
    x = points(11, 3, seed)
    best = max(covered(x, ids) for ids in itertools.combinations(range(11), 3))
    assert covered(x, facility_location(x, 3).indices) >= (1 - 1 / np.e) * best


@pytest.mark.parametrize("seed", range(5))
def test_k_center_radius_is_at_most_twice_the_best(seed):
    x = points(11, 3, seed, unit=False)
    distance = torch.cdist(x, x)
    best = min(float(distance[:, ids].amin(1).max()) for ids in itertools.combinations(range(11), 3))
    radius = quality(x, k_center(x, 3).indices)["radius"]
    assert best <= radius + 1e-9
    assert radius <= 2 * best


def test_k_center_gains_are_the_radius_before_each_pick():
    x = points(50, unit=False)
    selection = k_center(x, 20)
    for rank in range(1, 20):
        assert selection.gains[rank] == pytest.approx(quality(x, selection.indices[:rank])["radius"])


def test_k_center_with_a_quantile_leaves_outliers_alone():
    x = torch.cat([points(200, 4, unit=False), 100 + 100 * points(3, 4, 1)])
    outliers = {200, 201, 202}
    assert outliers & set(k_center(x, 10).indices.tolist())
    picks = k_center(x, 10, quantile=0.95).indices
    assert not outliers & set(picks.tolist())
    assert len(set(picks.tolist())) == 10
    with pytest.raises(UsageError, match=r"quantile=0.0: must be above 0"):
        k_center(x, 10, quantile=0.0)


def test_far_from_the_origin_no_digits_are_lost():
    x = points(100, 4, unit=False)
    assert k_center(x + 1e6, 30).indices.tolist() == k_center(x, 30).indices.tolist()


def test_facility_location_weights_are_the_cells():
    x = points(80)
    selection = facility_location(x, 12)
    nearest = (x @ x[selection.indices].T).argmax(1)
    assert selection.weights.tolist() == np.bincount(nearest.numpy(), minlength=12).tolist()
    assert quality(x, selection.indices)["facility_location"] == pytest.approx(2 * selection.gains.sum() / 80 - 1)


def test_k_means_finds_planted_clusters():
    centres = 10 * torch.eye(4, dtype=torch.float64)
    sizes = [40, 30, 20, 10]
    x = torch.cat([centres[i] + 0.1 * points(size, 4, i, unit=False) for i, size in enumerate(sizes)])
    # Lloyd's start may put two centres into one cluster; of several starts the best must find all four.
    selection = min((k_means(x, 4, seed=seed) for seed in range(10)), key=lambda s: quality(x, s.indices)["radius"])
    assert selection.weights.tolist() == sizes
    start = 0
    for pick, size in zip(selection.indices, sizes, strict=True):
        members = x[start : start + size]
        assert pick == start + int((members - members.mean(0)).norm(dim=1).argmin())
        start += size


def test_k_means_reaches_a_fixed_point_of_lloyd():
    x = points(200, 3, unit=False)
    brute = torch.cdist(x, x[:7])
    for memory in (2_000, 1 << 20):
        rows = sys.modules["likewise.coresets.blocks"].Rows(x, memory)
        cell = K_MEANS._assign(rows, x[:7].clone(), torch.ones(200, dtype=torch.bool))
        assert cell.tolist() == brute.argmin(1).tolist()
        torch.testing.assert_close(K_MEANS._distance(rows, x[:7], cell), brute.amin(1).square(), atol=1e-9, rtol=1e-9)


def test_k_means_tells_near_centres_apart_and_copies_not():
    x = points(300, 16, unit=False).float()
    nearby = x[:40] + 1e-6 * points(40, 16, 3).float()  # float32 products alone see no difference
    centres = torch.cat([x[:40], nearby, x[:40]]).double()
    cell = K_MEANS.nearest(sys.modules["likewise.coresets.blocks"].Rows(x, 1 << 20), centres)
    brute = torch.cdist(x.double(), centres, compute_mode="donot_use_mm_for_euclid_dist")
    least = brute.amin(1, keepdim=True)
    assert cell.tolist() == (brute <= least * (1 + 1e-6)).int().argmax(1).tolist()


def test_k_means_fills_empty_clusters():
    x = torch.tensor([[0.0], [0.0], [0.0], [0.0], [1.0]])
    for seed in range(4):
        selection = k_means(x, 4, seed=seed)
        assert len(set(selection.indices.tolist())) == 4
        assert 4 in selection.indices
        assert selection.weights.sum() == 5


def test_quality_is_that_of_the_definition():
    x = points(300, 5, unit=False)
    x[7] = 3 * x[3]  # the same direction, so a duplicate
    x[9] = 0
    ids = np.array([3, 20, 7, 9, 50])
    u = torch.nn.functional.normalize(x, dim=1)
    distance = torch.cdist(x, x[ids]).amin(1)
    figures = quality(x, ids)
    assert figures["facility_location"] == pytest.approx(float((u @ u[ids].T).amax(1).mean()))
    assert figures["radius"] == pytest.approx(float(distance.max()))
    assert figures["mean_distance"] == pytest.approx(float(distance.mean()))
    assert figures["duplicates"] == 1
    assert quality(x, ids, memory=1000) == pytest.approx(figures)
    with pytest.raises(UsageError, match="indices"):
        quality(x, np.array([300]))


def test_quality_of_many_picks_is_estimated_and_says_so(monkeypatch):
    x, ids = points(3000, 5, unit=False), np.arange(0, 3000, 2)
    exact = quality(x, ids)
    monkeypatch.setattr(QUALITY, "PAIRS", 600 * len(ids))
    found = quality(x, ids)
    assert found.pop("n_compared") == 600
    assert found["radius"] <= exact.pop("radius")
    assert found.pop("radius") > 0
    assert found == pytest.approx(exact, rel=0.05)
    assert "n_compared" not in quality(x, np.arange(3000))  # nothing to compare


def test_quality_is_explained():
    page = (Path(__file__).parents[1] / "docs" / "figures.md").read_text()
    figures = {**quality(torch.eye(9), torch.arange(3), labels=torch.arange(9)), "n_compared": 1}
    assert [key for key in figures if f"| `{key}` |" not in page] == []


def test_quality_counts_an_image_once():
    x, ids = points(50), np.array([3, 20, 7])
    once, twice = quality(x, ids), quality(x, np.concatenate([ids, ids]))
    assert twice.pop("duplicates") == 3 + once.pop("duplicates")
    assert twice == pytest.approx(once)


def test_quality_keeps_its_digits_far_from_the_origin():
    x, ids = points(300, 5, unit=False).float(), np.arange(20)
    moved = quality(x + 1e4, ids, metric="euclidean")  # what float32 holds of them to 1e-3
    for figure in ("radius", "mean_distance", "mmd"):
        assert moved[figure] == pytest.approx(quality(x, ids, metric="euclidean")[figure], rel=0.01)


def test_quality_counts_neither_zeros_as_copies_nor_labels_as_sizes():
    x = points(50)
    x[:5] = 0
    x[6] = x[5]
    figures = quality(x, np.arange(10), labels=torch.arange(50) * 10**11)
    assert figures["duplicates"] == 1
    assert figures["effective_classes"] == pytest.approx(10)


def test_quality_measures_the_discrepancy_between_distributions():
    x = points(400, 3, unit=False)
    judge = quality_of(x)
    assert judge(np.arange(400))["mmd"] == pytest.approx(0, abs=1e-12)
    ids = np.arange(40)
    spread = float((x - x.mean(0)).square().sum(1).mean())
    kernel = torch.exp(-torch.cdist(x, x).square() / (2 * spread))
    exact = kernel.mean() - 2 * kernel[ids].mean() + kernel[ids][:, ids].mean()
    assert judge(ids)["mmd"] == pytest.approx(float(exact.sqrt()), rel=0.15)
    one_side = np.flatnonzero(x[:, 0].numpy() > 0)
    assert judge(one_side)["mmd"] > 1.5 * judge(ids)["mmd"]


def quality_of(x, **options):
    return QUALITY.Quality(x, **options).of


def test_quality_counts_clusters_and_classes_that_are_held():
    centres = 10 * torch.eye(4, dtype=torch.float64)
    x = (centres[:, None] + 0.1 * points(40, 4, unit=False).reshape(4, 10, 4)).reshape(40, 4)
    labels = torch.arange(4).repeat_interleave(10)
    judge = quality_of(x, labels=labels)
    one, all_, uneven = judge(np.arange(10)), judge(np.array([0, 10, 20, 30])), judge(np.array([0, 1, 2, 10]))
    assert one["effective_classes"] == pytest.approx(1)
    assert all_["effective_classes"] == pytest.approx(4)
    assert uneven["effective_classes"] == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))
    assert all_["effective_clusters"] == pytest.approx(4)
    assert one["effective_clusters"] == pytest.approx(1)
    unknown = quality_of(x, labels=torch.full((40,), -1))
    assert unknown(np.arange(10))["effective_classes"] == 0
    assert "effective_classes" not in quality_of(x)(np.arange(10))


def test_quality_by_directions_is_that_of_scaled_rows():
    x = points(200, 5, unit=False)
    x[3] = 0
    u = torch.nn.functional.normalize(x, dim=1)
    for ids in (np.array([1, 5, 80]), np.array([3, 5, 80])):
        assert quality(x, ids, metric="cosine") == pytest.approx(quality(u, ids))


def test_select_neither_copies_nor_writes_what_is_mapped(tmp_path):
    np.save(tmp_path / "x.npy", points(40).float().numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    seen = []

    def probe(x, budget, *, metric="euclidean", memory=0, seed=0, chosen=None):
        seen.append(x.data_ptr())
        return random(x, budget)

    for metric in ("cosine", "euclidean"):
        select(mapped, probe, 5, metric=metric)
    assert seen == [mapped.ctypes.data] * 2


def test_metrics_agree_on_directions():
    x = points(120, 5, unit=False)
    u = torch.nn.functional.normalize(x, dim=1)
    for selector in (k_center, k_means):
        assert selector(x, 20, metric="cosine").indices.tolist() == selector(u, 20).indices.tolist()
    with pytest.raises(UsageError, match="metric 'l1': must be one of cosine, euclidean"):
        k_center(x, 3, metric="l1")


def test_random_keeps_its_order_when_images_join():
    x = torch.zeros(100, 1)
    keys = torch.arange(100) * 7919
    before = [int(keys[i]) for i in random(x, 90, keys=keys, seed=3).indices]
    more = torch.cat([torch.tensor([10**12]), keys])
    after = [int(more[i]) for i in random(torch.zeros(101, 1), 101, keys=more, seed=3).indices]
    assert [key for key in after if key != 10**12][:90] == before
    assert random(x, 50, seed=0).indices.tolist() != random(x, 50, seed=1).indices.tolist()


def test_random_is_uniform():
    counts = np.bincount(np.concatenate([random(torch.zeros(10, 1), 3, seed=s).indices for s in range(2000)]))
    # Each image is expected 600 times, with a standard deviation of 20.5.
    assert np.abs(counts - 600).max() < 100


@pytest.mark.parametrize(
    ("budget", "n"),
    [(0.1, 10), ("10%", 10), ("0.25", 25), (7, 7), ("7", 7), (0.0001, 1), ("100%", 100), (np.int64(4), 4), (100, 100)],
)
def test_budgets(budget, n):
    assert parse_budget(budget, 100) == n


@pytest.mark.parametrize(
    "budget",
    [0, -1, 101, 1.5, 1.0, 5.0, "0%", "101%", "ten", "", "nan", True, float("inf"), "5.5", "1.0", "50.", "1e1"],
)
def test_bad_budgets(budget):
    with pytest.raises(
        UsageError, match=r"^budget .*: expected a share .* percentage .* whole number of images from 1 to 100$"
    ):
        parse_budget(budget, 100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "kcenter"}, r"selector 'kcenter' is unknown \(did you mean 'k-center'\?\); known: "),
        ({"quantle": 0.5}, r"'quantle' is no option of k-center \(did you mean 'quantile'\?\); it takes quantile"),
        ({"method": "random", "foo": 1}, "'foo' is no option of random; it takes none"),
        ({"metric": "l1"}, "metric 'l1': must be one of cosine, euclidean"),
        (
            {"metric": "euclidean", "method": "log-det"},
            "metric 'euclidean': log-det looks at directions only; expected c",
        ),
        ({"memory": "lots"}, "memory 'lots': expected a number of bytes or a size such as 500MB or 2GB"),
        ({"memory": 0}, "memory 0: expected"),
        ({"chosen": [0, 0]}, "chosen: ids must be distinct and between 0 and 19"),
        ({"chosen": [20]}, "chosen: ids must be distinct and between 0 and 19"),
        ({"chosen": np.array([0.5])}, "chosen: expected a list of image ids"),
        ({"chosen": "s1"}, "chosen 's1': expected a list of image ids"),
        ({"chosen": [[1], [2, 3]]}, "chosen: expected a list of image ids"),
        ({"chosen": [True, False]}, "chosen: expected a list of image ids"),
        ({"chosen": range(15), "budget": 6}, "budget 6: must be between 1 and the number of images, and 5 of 20"),
    ],
)
def test_select_refuses_in_one_line(arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        select(points(20), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("x", [np.zeros(5), np.zeros((0, 3)), np.zeros((3, 0)), "words", np.zeros((2, 2), complex)])
def test_select_refuses_what_is_no_matrix(x):
    with pytest.raises(UsageError, match=r"^x"):
        select(x, budget=1)


def test_select_counts_rows_that_are_not_finite():
    x = points(20)
    x[4, 1], x[9, 0] = torch.nan, torch.inf
    with pytest.raises(DataError, match="2 of 20 rows hold NaN or infinity, the first is row 4"):
        select(x)


@pytest.mark.parametrize("factor", [1e-25, 1e19])
def test_select_refuses_what_float32_cannot_square(factor):
    x = (points(20) * factor).float()
    with pytest.raises(DataError, match=r"x: its largest number is .*; by the metric euclidean expected 1e-15 to 1e"):
        select(x, metric="euclidean")
    assert select(x, budget=5).indices.tolist() == select(points(20).float(), budget=5).indices.tolist()


def test_select_takes_any_array(tmp_path):
    x = points(40).float()
    expected = select(x, budget=8)
    np.save(tmp_path / "x.npy", x.numpy())
    keys = np.arange(40)
    for same in (
        x.numpy(),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        x.tolist(),
        x.double(),
        Embeddings(x.numpy(), keys, [""] * 40),
        x.flip(0).numpy()[::-1],
        x.numpy().astype(">f4"),
        x.numpy().astype(np.longdouble),
    ):
        before = copy.deepcopy(same)
        assert select(same, budget=8).indices.tolist() == expected.indices.tolist()
        assert np.array_equal(getattr(before, "x", before), getattr(same, "x", same))
    assert len(select(x.half(), budget=8)) == 8
    assert len(select(grid(40).int(), budget=8)) == 8
    assert len(select(x, "class-balanced", 8, labels=(keys % 4).astype(">i4")[::-1])) == 8


def test_select_says_what_it_did():
    x = points(40, unit=False)
    selection = select(x, "k-center", "20%", seed=3, quantile=0.9)
    assert {"method": "k-center", "seed": 3, "budget": 8, "n_pool": 40}.items() <= selection.meta.items()
    assert selection.meta["options"] == {"metric": "cosine", "quantile": 0.9}
    unit = torch.nn.functional.normalize(x, dim=1)
    assert selection.quality == pytest.approx(quality(unit, selection.indices))
    assert selection.meta["random_quality"] == pytest.approx(quality(unit, random(unit, 8, seed=3).indices))
    raw = select(x, "k-center", 8, metric="euclidean")
    assert raw.indices.tolist() == k_center(x, 8).indices.tolist()


def test_select_takes_a_function():
    selection = select(points(20), random, 5)
    assert selection.meta["method"] == "random"
    assert len(selection) == 5
    listed = select(points(20), facility_location, 5, epsilon="0.2")  # its options are read
    assert listed.meta["method"] == "facility-location"


def test_quality_is_that_of_the_picks_with_what_is_chosen():
    x, held = points(60, unit=False), [3, 9, 20]
    selection = select(x, "k-center", 5, chosen=held, metric="euclidean")
    assert selection.quality == quality(x, np.concatenate([held, selection.indices]), metric="euclidean")
    others = random(x, 5, chosen=torch.tensor(held)).indices
    assert selection.meta["random_quality"] == quality(x, np.concatenate([held, others]), metric="euclidean")


def test_gains_of_k_means_are_the_shares_of_the_pool():
    selection = k_means(points(60), 7)
    assert selection.gains.tolist() == pytest.approx((selection.weights / 60).tolist())


@pytest.mark.parametrize("quantile", [0.5, 0.8, 1.0])
def test_k_center_at_a_quantile_is_the_naive_loop(quantile):
    x = points(60, 3, unit=False)
    selection = k_center(x, 20, quantile=quantile)
    distances, picks = torch.cdist(x, x), [int(selection.indices[0])]
    for _ in range(19):
        left = [i for i in range(60) if i not in picks]
        order = distances[left][:, picks].amin(1).argsort()
        picks.append(left[int(order[round(quantile * len(left)) - 1])])
    assert selection.indices.tolist() == picks


def test_weights_of_cells_leave_out_what_the_chosen_stand_for():
    x, held = points(200, 6), torch.tensor([3, 20, 150])
    selection = facility_location(x, 30, cells=6, chosen=held)
    cell = cluster(unit(x), 6).cell.numpy()
    ids = np.concatenate([held, selection.indices])
    similarity = np.where(cell[:, None] == cell[ids], (x @ x.T).numpy()[:, ids], -2)
    nearest = similarity.argmax(1)[similarity.max(1) > -2]
    assert selection.weights.tolist() == np.bincount(nearest, minlength=33)[3:].tolist()


def test_quality_hangs_on_no_order(monkeypatch):
    """A sample is drawn, and clusters begin, by key."""
    x, keys = points(3000, 5, unit=False), torch.arange(3000) * 7919
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(QUALITY, "PAIRS", 600 * 100)
    one = QUALITY.Quality(x, keys=keys).of(np.arange(100))
    other = QUALITY.Quality(x[order], keys=keys[order]).of(order.argsort()[:100])
    assert one == pytest.approx(other)


def test_what_is_selected_is_kept_after_a_while(tmp_path):
    select(points(40), "herding", 5, checkpoint=Checkpoint(tmp_path / "state", every=0.0))
    assert (tmp_path / "state").is_file()


def test_a_selector_of_ones_own_may_have_the_name_of_another():
    lengths = []

    def prototypes(x, budget, *, seed, memory, chosen):
        lengths.append(x.norm(dim=1))
        return random(x, budget, seed=seed)

    x = points(20, unit=False)
    select(x, prototypes, 5)
    select(x, prototypes, 5, metric="euclidean")
    torch.testing.assert_close(lengths[0], torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(lengths[1], x.norm(dim=1))


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_lengths_that_cannot_be_squared_are_refused(factor):
    with pytest.raises(DataError, match=r"by the metric cosine expected 1e-150 to 1e\+150"):
        select(points(20) * factor, "k-center", 5)


def test_numbers_beyond_all_measure_are_one_clear_line():
    for budget in ("1" * 400, 10**400):
        with pytest.raises(UsageError, match="expected a share above 0"):
            parse_budget(budget, 100)
    with pytest.raises(UsageError, match="expected a number of bytes"):
        select(points(20), budget=5, memory="9" * 400)
    with pytest.raises(UsageError, match=r"gamma=-1000\.0: must be at least 0"):
        select(points(20), "d2", 5, gamma=-1e3)
    with pytest.raises(UsageError, match=r"epsilon=7\.0: must be between 0 and 1"):
        select(points(20), "facility-location", 5, cells=3, epsilon=7.0)
    with pytest.raises(UsageError, match="ccs looks at directions only"):
        select(points(20), "ccs", 5, metric="euclidean")
    assert len(select(points(20), "ccs", 5, metric="euclidean", scores=range(20))) == 5
