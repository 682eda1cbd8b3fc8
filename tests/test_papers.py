"""Reproductions: their measures against oracles, their readers and renderers, and the verb on a small plan."""

import gzip
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.datasets import make_swiss_roll
from sklearn.manifold import LocallyLinearEmbedding, trustworthiness
from sklearn.neighbors import KNeighborsClassifier

from likewise.cli import app
from likewise.errors import DataError, UsageError
from likewise.files import append_line, read_lines
from likewise.images import norb
from likewise.papers import DECIDES, PAPERS, READY, drlim, measures, parts
from likewise.papers.airplane import rendered
from likewise.papers.parts import check, mean_and_spread, part, table
from likewise.verbs import reproduce as verb

dice = np.random.default_rng(0)
X = dice.normal(size=(120, 2))
Y = (X[:, 0] > 0).astype(np.int64)


def test_vote_is_scikit_learn_s() -> None:
    points = dice.normal(size=(80, 2))
    truth = (points[:, 0] > 0).astype(np.int64)
    assert measures.vote(X, Y, points, truth) == KNeighborsClassifier(5).fit(X, Y).score(points, truth)
    apart = np.arange(120) % 3, np.arange(80) % 3
    right = sum(
        KNeighborsClassifier(5).fit(X[apart[0] != m], Y[apart[0] != m]).predict(points[i : i + 1])[0] == truth[i]
        for i, m in enumerate(apart[1])
    )
    assert measures.vote(X, Y, points, truth, apart=apart) == right / 80


def test_trustworthiness_is_scikit_learn_s() -> None:
    high = dice.normal(size=(60, 6))
    expected = trustworthiness(high, X[:60], n_neighbors=7)
    assert measures.trustworthiness(X[:60], cdist(high, high), 7) == pytest.approx(expected)
    assert measures.trustworthiness(X[:60], cdist(X[:60], X[:60]), 7) == 1


def test_trustworthiness_shares_ranks_among_equals() -> None:
    """Copies at the same place: whichever of them the map has near, nothing is lost."""
    places = np.repeat(dice.normal(size=(10, 2)), 5, axis=0)
    distances = cdist(places, places)
    assert measures.trustworthiness(places + 1e-9 * dice.normal(size=places.shape), distances, 4) == 1


def test_orbit_spread_and_ratio_by_hand() -> None:
    x = np.array([[0.0, 0], [0, 1], [4, 0], [4, 1]])
    orbit = np.array([0, 0, 1, 1])
    between = (4 + 4 + 2 * 17**0.5) / 4
    assert measures.orbit_spread(x, orbit) == pytest.approx(1 / ((2 * 1 + 4 * between) / 6))
    assert measures.ratio(x, orbit) == pytest.approx(4 * 4 / (4 * 0.25))


def test_geodesics_follow_the_edges() -> None:
    line = np.arange(6.0)[:, None] * np.array([[1.0, 0]])
    next_to = np.array([[1], [0], [1], [4], [3], [4]])  # two pieces: 0-1-2 and 3-4-5
    paths = measures.geodesics(line, next_to)
    assert paths[0, :3].tolist() == [0, 1, 2]
    assert (paths[:3, 3:] > 2).all()


def test_clusters_are_counted_and_evenness_is_even() -> None:
    blobs = np.concatenate([dice.normal(size=(200, 2)) * 0.05 + place for place in ((0, 0), (3, 0), (0, 3))])
    assert measures.n_clusters(blobs) == 3
    assert measures.n_components(measures.neighbours_of(blobs)) == 3
    grid = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), -1).reshape(-1, 2)
    assert measures.evenness(grid) < 1e-6 < measures.evenness(X)
    assert measures.rand_index(blobs, np.repeat(np.arange(3), 200), 3, 0) == 1


def test_a_quadratic_boundary_parts_a_disc_from_its_surroundings() -> None:
    inside = (np.linalg.norm(X, axis=1) < 1).astype(np.int64)
    assert measures.quadratic(X[:80], inside[:80], X[80:], inside[80:]) > 0.9


def test_lle_is_scikit_learn_s_on_the_same_graph() -> None:
    x = make_swiss_roll(300, random_state=0)[0]
    theirs = LocallyLinearEmbedding(n_neighbors=8, n_components=2, random_state=0, eigen_solver="dense").fit_transform(
        x
    )
    ours = measures.lle(x, measures.neighbours_of(x, 8), 2, 0)
    for a, b in zip(ours.T, theirs.T, strict=True):
        assert abs(np.corrcoef(a, b)[0, 1]) > 0.999
    assert abs(np.corrcoef(ours[:, 0], theirs[:, 1])[0, 1]) < 0.5


def test_circular_correlation_is_fisher_and_lee_s() -> None:
    a = dice.uniform(0, 2 * np.pi, 40)
    b = a + dice.normal(size=40)
    pairs = list(itertools.combinations(range(40), 2))
    sines = np.array([(np.sin(a[i] - a[j]), np.sin(b[i] - b[j])) for i, j in pairs])
    expected = (sines[:, 0] * sines[:, 1]).sum() / np.sqrt((sines**2).sum(0).prod())
    assert measures.circular_correlation(a, b) == pytest.approx(expected)
    assert measures.circular_correlation(a, a + 2) == pytest.approx(1)
    assert measures.circular_correlation(a, 2 - a) == pytest.approx(-1)


def test_a_cylinder_is_measured_as_one() -> None:
    a, e, k = (v.ravel() for v in np.meshgrid(np.arange(18), np.arange(9), np.arange(6), indexing="ij"))
    angle = 2 * np.pi * a / 18
    x = np.column_stack([np.cos(angle), np.sin(angle), 0.3 * e]) @ np.linalg.qr(dice.normal(size=(3, 3)))[0]
    noisy = x + 0.01 * dice.normal(size=x.shape)
    found = measures.pose(noisy, a, e, k, 18, measures.frame(noisy[::2], a[::2], 18))
    assert found["az_corr"] > 0.99
    assert found["el_rho"] > 0.98
    assert found["light_ratio"] < 0.1
    lost = measures.pose(dice.permutation(noisy), a, e, k, 18, measures.frame(noisy, a, 18))
    assert lost["az_corr"] < 0.2
    assert lost["light_ratio"] > 0.8


def matrix(values: np.ndarray, magic: int) -> bytes:
    shape = np.array([*values.shape, *[1] * (3 - values.ndim)], "<i4")
    return np.array([magic, values.ndim], "<i4").tobytes() + shape.tobytes() + values.tobytes()


@pytest.mark.parametrize("end", [".mat", ".mat.gz"])
def test_small_norb_is_read(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in its format: stereo pairs of three toys, of which the second and the third are airplanes."""
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path))
    assert norb.airplane() is None
    folder = tmp_path / "small-norb"
    folder.mkdir()
    dat = dice.integers(0, 256, (6, 2, 8, 8), dtype=np.uint8)
    cat = np.array([0, 2, 2, 2, 2, 0], "<i4")
    info = np.array([[4, 0, 0, 0], [6, 3, 34, 5], [6, 8, 2, 0], [7, 1, 0, 0], [6, 0, 0, 1], [6, 0, 0, 0]], "<i4")
    for kind, values, magic in (("dat", dat, 0x1E3D4C55), ("cat", cat, 0x1E3D4C54), ("info", info, 0x1E3D4C54)):
        data = matrix(values, magic)
        (folder / f"{norb.STEM}{kind}{end}").write_bytes(gzip.compress(data) if end.endswith("gz") else data)
    found = norb.airplane()
    assert found is not None
    assert np.array_equal(found.images, dat[[1, 2, 4], 0])
    assert found.azimuth.tolist() == [17, 1, 0]
    assert found.elevation.tolist() == [3, 8, 0]
    assert found.light.tolist() == [5, 0, 1]


def test_what_is_no_matrix_of_norb(tmp_path: Path) -> None:
    for name, data, says in (
        ("a.mat", b"PK", "expected a matrix of NORB"),
        ("b.mat", matrix(np.zeros((2, 3), "<i4"), 0x1E3D4C54)[:-4], "holds 5 values; expected 2 x 3"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=says):
            norb.read_matrix(tmp_path / name)
    whole = matrix(np.zeros((2, 3), "<i4"), 0x1E3D4C54)
    for name, data, says in (
        ("c.mat", whole[:15], "ends within its header of 20 bytes"),
        ("d.mat.gz", gzip.compress(whole)[:-9], "cannot be read"),
        ("e.mat.gz", b"PK", "cannot be read"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=says):
            norb.read_matrix(tmp_path / name)


def test_the_rendered_object_differs_by_pose_and_by_light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likewise.papers.airplane.N_AZIMUTHS", 3)
    monkeypatch.setattr("likewise.papers.airplane.N_ELEVATIONS", 2)
    poses = rendered()
    assert poses.images.shape == (36, 96, 96)
    assert len(np.unique(poses.images.reshape(36, -1), axis=0)) == 36
    ground = poses.images[:, 0, 0]
    assert (ground == ground[0]).all()
    shapes = (poses.images != ground[0]).reshape(36, -1)
    same_pose = shapes[(poses.azimuth == 1) & (poses.elevation == 1)]
    assert (same_pose[0] == same_pose).mean() > 0.98  # a light changes the shading, and not the outline
    assert not (shapes[poses.azimuth == 0][0] == shapes[poses.azimuth == 1][0]).mean() > 0.98


def test_a_part_is_done_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> dict[str, Any]:
        calls.append(1)
        return {"figure": 0.5}

    first, again = (part(tmp_path, "one", make) for _ in range(2))
    assert first == again
    assert first["figure"] == 0.5
    assert len(calls) == 1


def test_a_part_that_was_stopped_counts_its_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        parts, "time", SimpleNamespace(perf_counter=lambda: clock.now, process_time=lambda: clock.now / 2)
    )

    def make(seconds: float, stopped: bool) -> dict[str, Any]:
        clock.now += seconds
        if stopped:
            raise KeyboardInterrupt
        return {}

    for seconds in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            part(tmp_path, "one", lambda: make(seconds, True))  # noqa: B023
    made = part(tmp_path, "one", lambda: make(5, False))
    assert (made["seconds"], made["processor_seconds"]) == (12, 6)
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["one.json"]


def test_checks_and_tables() -> None:
    assert check("a", "b", 0.2, "<", 0.3) == {"id": "a", "what": "b", "value": 0.2, "bar": "< 0.3", "ok": True}
    assert not check("a", "b", float("nan"), "<", 0.3)["ok"]
    assert mean_and_spread([{"a": 1.0}, {"a": 2.0}], "a") == "1.5 ± 0.71"
    assert mean_and_spread([{}], "a") == ""
    assert table(["x"], [["1"]]) == "| x |\n| --- |\n| 1 |"


def test_shifts_and_turns_by_hand() -> None:
    images = np.arange(1, 13, dtype=np.uint8).reshape(1, 3, 4)
    assert drlim.shift(images, 1)[0].tolist() == [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11]]
    assert drlim.shift(images, -3)[0].tolist() == [[4, 0, 0, 0], [8, 0, 0, 0], [12, 0, 0, 0]]
    copies = drlim.all_shifts(np.ones((2, 28, 28), np.uint8))
    assert copies.shape == (10, 28, 28)
    assert copies[:5].sum((1, 2)).tolist() == [28 * 22, 28 * 25, 28 * 28, 28 * 25, 28 * 22]
    bar = np.zeros((1, 28, 28), np.uint8)
    bar[0, :, 13:15] = 255
    assert np.array_equal(drlim.turn(bar, 90.0)[0], bar[0].T)
    assert np.array_equal(drlim.turn(bar, 0.0), bar)


@pytest.mark.data
def test_the_paper_runs_resumes_and_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole of (iii) and the page, on a plan of few steps; what is not asked for here is left out."""
    monkeypatch.setattr(drlim, "STEPS", dict.fromkeys(drlim.STEPS, 3))
    monkeypatch.setattr(drlim, "SEEDS", 1)
    for name in ("alike", "shifted", "on_demand", "beside_atlases", "ten_digits", "draw"):
        monkeypatch.setattr(drlim, name, lambda out, *_, name=name: RESULTS.get(name, {}))
    monkeypatch.setattr(drlim, "isomap", lambda x, dim: dice.normal(size=(len(x), dim)))
    monkeypatch.setattr(measures, "lle", lambda x, near, dim, seed: dice.normal(size=(len(x), dim)))
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        app(["reproduce", "drlim", "--out", str(out), "--json", "--quiet"])
    assert stop.value.code == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"paper", "budget", "seconds", "results", "checks"}
    assert {"id", "what", "value", "bar", "ok"} == set(answer["checks"][0])
    results = json.loads(Path(answer["results"]).read_text())
    assert results["iii"][0]["similar_pairs"] + results["iii"][0]["dissimilar_pairs"] == 660 * 659 // 2
    assert 10_000 < results["iii"][0]["similar_pairs"] < 12_000  # the paper: 10,989
    assert "(iii) Poses" in (out / "README.md").read_text()
    with pytest.raises(UsageError, match="not empty"):
        verb.reproduce("drlim", out)
    for other, says in (
        ({"seed": 1}, "--resume .*: seed was 0, and is 1; choose another --out"),
        ({"budget": "full"}, "budget was cpu, and is full"),
    ):
        with pytest.raises(UsageError, match=says):
            verb.reproduce("drlim", out, resume=True, **other)
    monkeypatch.setattr(drlim, "posed", lambda *_: pytest.fail("it is done already"))
    again = verb.reproduce("drlim", out, resume=True)
    assert again["checks"] == answer["checks"]


def test_wrong_papers_and_budgets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'drlim'"):
        verb.reproduce("drlin", tmp_path / "out")
    with pytest.raises(UsageError, match="--budget gpu: expected cpu or full"):
        verb.reproduce("drlim", tmp_path / "out", budget="gpu")
    for seed in (-1, 2**32):
        with pytest.raises(UsageError, match=f"--seed {seed}: expected a whole number from 0"):
            verb.reproduce("drlim", tmp_path / "out", seed=seed)
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"holds README\.md, but is no reproduction that likewise made"):
        verb.reproduce("drlim", tmp_path, resume=True)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert all(callable(paper) for paper in PAPERS.values())


def test_a_folder_goes_on_with_what_it_was_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def paper(out: Path, *, budget: str, seed: int, studies: bool = True, steps: int | None = None) -> dict[str, Any]:
        if steps == 0:
            raise DataError("no images")
        part(out, "one", dict)
        return {"checks": []}

    monkeypatch.setitem(PAPERS, "exemplar", paper)
    monkeypatch.setitem(READY, "exemplar", lambda **_: None)
    out = tmp_path / "out"
    with pytest.raises(DataError, match="no images"):
        verb.reproduce("exemplar", out, options={"steps": 0})
    verb.reproduce("exemplar", out, options={"steps": 5, "studies": False})  # what failed at once has left nothing
    verb.reproduce("exemplar", out, options={"steps": "5"}, resume=True)
    for name, other, says in (
        ("exemplar", {}, "steps was 5, and is not given"),
        ("exemplar", {"options": {"steps": 6}}, "steps was 5, and is 6"),
        ("exemplar", {"options": {"steps": 5}, "seed": 2}, "seed was 0, and is 2"),
        ("drlim", {}, "paper was exemplar, and is drlim"),
    ):
        with pytest.raises(UsageError, match=f"^--resume .*: {says}; choose another --out, or --overwrite$"):
            verb.reproduce(name, out, resume=True, **other)
    verb.reproduce("exemplar", out, options={"steps": 6}, overwrite=True)
    verb.reproduce("exemplar", out, options={"steps": 6}, resume=True)
    (out / "asked.json").unlink()  # as in folders that were begun before there was one
    verb.reproduce("exemplar", out, resume=True)
    assert set(DECIDES) == set(READY) == set(PAPERS)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("drlim", {}, "mnist: .* is in neither of"),
        ("exemplar", {}, "is in neither of"),
        ("exemplar", {"steps": 0}, "--set steps=0: expected at least 1"),
        ("exemplar", {"studies": "false"}, "is in neither of"),
        ("methods", {}, "is in neither of"),
        ("methods", {"table": "nope"}, "table 'nope' is unknown"),
        ("methods", {"only": "nope"}, "method 'nope' is unknown"),
        ("methods", {"seeds": "0"}, "--set seeds=0: expected at least 1"),
    ],
)
def test_results_stay_where_what_is_asked_for_is_not_there(
    name: str, options: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKEWISE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("LIKEWISE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    out = tmp_path / "out"
    out.mkdir()
    (out / ".likewise").write_text("reproduction\n")
    (out / "results.json").write_text("{}")
    with pytest.raises((DataError, UsageError), match=says):
        verb.reproduce(name, out, options=options, overwrite=True)
    assert (out / "results.json").read_text() == "{}"
    with pytest.raises(UsageError, match="not empty"):  # before anything is looked for
        verb.reproduce(name, out)


def test_maps_of_other_steps_or_seeds_are_not_taken_for_these(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
    relation, small = drlim.neighbour_relation(images), {"batch_size": 16}
    learned = drlim.learn(tmp_path / "run", images, relation, 0, 2, **small)
    again = drlim.learn(tmp_path / "run", images, relation, 0, 2, **small)
    assert np.array_equal(learned.map(images), again.map(images))
    for seed, steps, says in ((1, 2, "seed=1: .* has 0"), (0, 3, "steps=3: .* has 2")):
        with pytest.raises(UsageError, match=says):
            drlim.learn(tmp_path / "run", images, relation, seed, steps, **small)


def test_a_fit_that_is_timed_is_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, y = np.random.default_rng(0).integers(0, 256, (8, 28, 28)).astype(np.uint8), np.arange(8) % 2
    monkeypatch.setattr(drlim, "fours_and_nines", lambda _: drlim.Digits(some, y, some, y))
    (tmp_path / "parts" / "run-atlas").mkdir(parents=True)

    def learn(run: Path, *_: Any) -> None:
        assert not run.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(drlim, "learn", learn)
    with pytest.raises(KeyboardInterrupt):
        drlim.beside_atlases(tmp_path, 0, {"atlas": 1})


def test_lines_are_added_whole(tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    assert read_lines(log) == []
    append_line(log, {"a": "ü\u2028"})
    append_line(log, {"b": 2})
    whole = log.read_bytes()
    for cut in range(1, len(b'{"b": 2}\n') + 1):
        log.write_bytes(whole[:-cut])
        values = read_lines(log)
        append_line(log, 3)
        assert read_lines(log) == [*values, 3]
        assert values == [{"a": "ü\u2028"}, {"b": 2}][: 2 if cut == 1 else 1]  # only its end is missing


def _shifts() -> dict[str, float]:
    named = ("shift k-NN", "class k-NN", "orbit spread", "Rand index", "silhouette class", "silhouette shift")
    return {name: i / 10 for i, name in enumerate(named)}


RESULTS: dict[str, dict[str, Any]] = {
    "alike": {
        "directed_pairs": 30_000,
        "pairs": 17_997_000,
        **{row: {"class k-NN": 0.9} for row in ("DrLIM", "PCA", "LLE *")},
    },
    "shifted": {row: _shifts() for row in ("(ii-a) DrLIM, pixel neighbours", "(ii-c) DrLIM, with the prior")},
    "on_demand": {
        f"DrLIM, {name} declared": {"shift spread": 0.1, "rotation spread": 0.5} for name in ("shift", "rotation")
    },
}


def test_drlims_claims_follow_from_its_committed_figures() -> None:
    found = json.loads((Path(__file__).parents[1] / "docs/results/drlim/results.json").read_text())
    paper, beyond = {name: found[name] for name in ("i", "ii", "iii")}, {"demand": found["demand"]}
    assert drlim.claims(paper, beyond) == found["checks"]


def test_bounds_belong_to_their_side() -> None:
    assert check("a", "", 1, ">=", 1)["ok"]
    assert check("a", "", 1, "<=", 1)["ok"]
    assert not check("a", "", 1, ">", 1)["ok"]
    assert not check("a", "", 1, "<", 1)["ok"]


def test_lights_and_neighbours_of_a_pose_by_hand() -> None:
    a, e, light = np.array([0, 0, 3, 2]), np.array([0, 0, 0, 1]), np.array([0, 1, 0, 0])  # 3 is next to 0; 2, 1 is not
    x = np.array([[0.0, 0, 0], [1, 0, 0], [0, 4, 0], [0, 0, 100]])
    found = measures.pose(x, a, e, light, 4, (np.zeros(3), np.eye(3)))
    assert found["light_ratio"] == pytest.approx(1 / ((4 + 17**0.5) / 2))


def test_the_lower_label_wins_among_equals() -> None:
    x = np.arange(5.0)[:, None]
    assert measures.vote(x, np.array([2, 2, 1, 1, 0]), np.array([[2.0]]), np.array([1])) == 1


def test_groups_below_one_in_a_hundred_do_not_count() -> None:
    groups = ((200, (0, 0)), (200, (3, 0)), (200, (0, 3)), (6, (9, 9)))
    blobs = np.concatenate([dice.normal(size=(n, 2)) * 0.05 + place for n, place in groups])
    assert measures.n_clusters(blobs) == measures.n_components(measures.neighbours_of(blobs)) == 3


KIND = {"shift": np.arange(9) % 3, "rotation": np.arange(9) // 3}


def test_spreads_are_of_copies_that_differ_by_one_transformation() -> None:
    i, j = np.repeat(np.arange(8), 9), np.tile(np.arange(9), 8)
    z = np.stack([100.0 * i, 10.0 * KIND["rotation"][j]], 1)
    found = drlim.spreads(z, z, KIND)
    assert found["shift spread"] == 0 < found["rotation spread"]


def test_what_was_declared_is_undone() -> None:
    upright = {"shift": 1, "rotation": 1}
    assert drlim._with(KIND, "shift", upright, "rotation").tolist() == [1, 1, 1, 4, 4, 4, 7, 7, 7]
    assert drlim._with(KIND, "rotation", upright, "shift").tolist() == [3, 4, 5] * 3


def test_shifts_are_predicted_from_shifts_and_classes_from_classes() -> None:
    y = np.arange(12) % 2
    at, images = drlim.places(y), dice.integers(0, 256, (12, 28, 28)).astype(np.uint8)
    for by, name, other in ((at.shift, "shift k-NN", "class k-NN"), (at.y, "class k-NN", "shift k-NN")):
        z = by[:, None] * 10.0 + dice.normal(size=(60, 2))
        found = drlim.judge_shifts(at, at, images, 0, z, z)
        assert found[name] == 1 > found[other]


@pytest.mark.data
def test_digits_are_drawn_by_the_seed() -> None:
    a, b = drlim.fours_and_nines(0), drlim.fours_and_nines(1)
    assert not np.array_equal(a.train, b.train)
    assert np.array_equal(np.sort(a.test.reshape(-1, 784), 0), np.sort(b.test.reshape(-1, 784), 0))
