"""Dimensionality Reduction by Learning an Invariant Mapping (Hadsell, Chopra, LeCun, CVPR 2006), the whole paper.

Read from top to bottom: the data, what is learned, the three experiments with their baselines, what goes beyond the
paper, the claims. All measures are of held-out images. The margin is 1, and so distances need no scale.

Choices that the paper leaves open: digits are shifted inside their 28 x 28 frame, so that 6 pixels may cut what lies
beyond the central square (2 columns at most of a centred digit); similar pairs have 0.9 of the weight of a batch,
whatever their number; AdamW, half a cosine.
"""

import shutil
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, Isomap
from sklearn.metrics import silhouette_score

from likewise.embedding import features, load
from likewise.files import write_array, write_text
from likewise.images import ImageSet, open_images
from likewise.images.norb import airplane
from likewise.papers import drlim_figures as figures
from likewise.papers import measures
from likewise.papers.airplane import rendered
from likewise.papers.parts import check, finished, mean_and_spread, mean_of, part, table
from likewise.progress import say
from likewise.relations import Relation, from_neighbours, nearest
from likewise.types import Encoder, Source
from likewise.verbs.pretrain import pretrain
from likewise.views.geometry import sample

SEEDS = 3
DIGITS, N_EACH, K = (4, 9), 3_000, 5
SHIFTS, TURNS = (-6, -3, 0, 3, 6), (-40.0, 0.0, 40.0)
STEPS = {"i": 400, "ii-a": 400, "ii-c": 600, "iii": 400, "ten": 800, "demand": 300, "atlas": 400}
FULL = 5  # times as many steps
SETTINGS: dict[str, Any] = {
    "method": "drlim",
    "views": "plain",
    "similar_share": 0.9,
    "companions": 7,
    "batch_size": 512,
    "optimizer": "adamw",
    "lr": 1e-2,
    "monitor_every": 10**9,
    "device": "cpu",
    "precision": "fp32",
}
Figures = dict[str, Any]
Pixels = UInt8[np.ndarray, "n h w"]
Labels = Int[np.ndarray, " n"]
Map = Float[np.ndarray, "n d"]
# What is held out, beside what is learned from.
NewPixels = UInt8[np.ndarray, "m h w"]
NewLabels = Int[np.ndarray, " m"]
NewMap = Float[np.ndarray, "m d"]


def ready(*, budget: str) -> None:
    """Whether the images of either budget are there. Raises DataError."""
    for split in ("train", "test"):
        open_images(f"mnist:{split}")


def reproduce(out: Path, *, budget: str, seed: int) -> dict[str, Any]:
    """Everything, part by part, into the folder `out`."""
    steps = {name: n * (FULL if budget == "full" else 1) for name, n in STEPS.items()}
    seeds = range(seed, seed + SEEDS)
    made: dict[str, Callable[[Path, int, dict[str, int]], Figures]] = {"i": alike, "ii": shifted, "iii": posed}
    paper = {
        name: [part(out, f"{name}-{s}", partial(make, out, s, steps)) for s in seeds] for name, make in made.items()
    }
    further = {"demand": on_demand, "atlas": beside_atlases, "ten": ten_digits}
    beyond = {name: part(out, name, partial(make, out, seed, steps)) for name, make in further.items()}
    checks = claims(paper, beyond)
    part(out, "figures", partial(draw, out, seed))
    done = {**paper, **{name: [run] for name, run in beyond.items()}}
    took = {
        what: {name: sum(run[what] for run in runs) for name, runs in done.items()}
        for what in ("seconds", "processor_seconds")
    }
    write_text(out / "README.md", page(paper, beyond, checks, took))
    return {
        "checks": checks,
        **took,
        **paper,
        **beyond,
    }


# The data


class Digits(NamedTuple):
    """Fours and nines in no order: what is learned from, what is held out."""

    train: Pixels
    y: Labels
    test: Pixels
    y_test: Labels


def fours_and_nines(seed: int) -> Digits:
    """3,000 of each to learn from, drawn by the seed, and all of the test set."""
    sides: list[Any] = []
    for name, most in (("mnist", N_EACH), ("mnist:test", None)):
        images, dice = open_images(name), np.random.default_rng([seed, len(sides)])
        labels = images.labels
        assert labels is not None
        ids = np.concatenate([dice.permutation(np.flatnonzero(labels == digit))[:most] for digit in DIGITS])
        ids = dice.permutation(ids)
        sides += [images.source(ids).pixels[:, 0].numpy(), (labels[ids] == DIGITS[1]).astype(np.int64)]
    return Digits(*sides)


def shift(images: Pixels, by: int) -> Pixels:
    """To the right by so many pixels; black comes in."""
    moved = np.zeros_like(images)
    width = images.shape[2]
    moved[:, :, max(0, by) : width + min(0, by)] = images[:, :, max(0, -by) : width - max(0, by)]
    return moved


def all_shifts(images: Pixels) -> NewPixels:
    """The five copies of each image, one after the other."""
    return np.stack([shift(images, by) for by in SHIFTS], 1).reshape(-1, *images.shape[1:])


def turn(images: Pixels, degrees: float) -> Pixels:
    """About the middle of the frame, sampled bilinearly."""
    angle, n = np.radians(degrees), len(images)
    across = torch.tensor([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    source = Source(torch.from_numpy(images[:, None].copy()), torch.tensor(images.shape[1:]).repeat(n, 1))
    turned = sample(source, across.float().repeat(n, 1, 1), images.shape[1], "zeros")
    return (turned[:, 0] * 255).round().to(torch.uint8).numpy()


def flat(images: Pixels) -> Float[np.ndarray, "n p"]:
    """Pixels in [0, 1] as rows."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def neighbour_relation(images: Pixels) -> Relation:
    """Each image and its five nearest in pixel space, either way; every other pair is dissimilar."""
    return from_neighbours(nearest(torch.from_numpy(flat(images)), K))


# What is learned


class Learned(NamedTuple):
    encoder: Encoder
    untrained: Encoder
    size: int

    def map(self, images: Pixels) -> Map:
        """Where images are in the map, those that were learned from and new ones alike: one forward pass."""
        return features(self.encoder, as_set(images), self.size)

    def before(self, images: Pixels) -> Map:
        """The same before training."""
        return features(self.untrained, as_set(images), self.size)


def learn(run: Path, images: Pixels, relation: Relation, seed: int, steps: int, **settings: Any) -> Learned:
    """DrLIM on images and a relation, in a run folder of its own; what it holds already is not done again."""
    size = images.shape[1]
    asked = {"encoder": "drlim-mnist", **SETTINGS, "relation": relation, "size": size, "seed": seed, "steps": steps}
    asked |= settings
    if not finished(run, asked):
        pretrain(as_set(images), out=run, resume=True, **asked)
    return Learned(load(run), load(run, trained=False), size)


def as_set(images: Pixels) -> ImageSet:
    return open_images(images[:, None])


# (i) Fours and nines, their neighbours in pixel space, nothing else


def alike(out: Path, seed: int, steps: dict[str, int]) -> Figures:
    digits = fours_and_nines(seed)
    relation = neighbour_relation(digits.train)
    learned = learn(out / "parts" / f"run-i-{seed}", digits.train, relation, seed, steps["i"])
    judge = partial(judge_digits, digits.y, digits.y_test, flat(digits.test))
    some, some_test = 2_000, 1_000
    few = partial(judge_digits, digits.y[:some], digits.y_test[:some_test], flat(digits.test[:some_test]))
    pca = PCA(2, random_state=seed).fit(flat(digits.train))
    both = np.concatenate([flat(digits.train[:some]), flat(digits.test[:some_test])])
    found = {
        "directed_pairs": K * len(relation),
        "similar_pairs": relation.n_similar,
        "pairs": relation.n_pairs,
        "DrLIM": judge(learned.map(digits.train), z_test := learned.map(digits.test)),
        "untrained": judge(learned.before(digits.train), learned.before(digits.test)),
        "PCA": judge(pca.transform(flat(digits.train)), pca.transform(flat(digits.test))),
        "LLE *": few(*np.split(measures.lle(both, measures.neighbours_of(both), 2, seed), [some])),
        "Isomap *": few(*np.split(isomap(both, 2), [some])),
        "pixels *": few(both[:some], both[some:]),
    }
    keep(out, f"i-{seed}", z_test)
    return found


def judge_digits(y: Labels, y_test: NewLabels, pixels: Float[np.ndarray, "m p"], z: Map, z_test: NewMap) -> Figures:
    """Held-out fours and nines in a map; trustworthiness on 1,000 of them, by their pixels."""
    found = {"class k-NN": measures.vote(z, y, z_test, y_test), **low_dimensional(z, y, z_test, y_test)}
    part_of = slice(0, 1_000)
    return {
        **found,
        "trust": measures.trustworthiness(z_test[part_of], cdist(pixels[part_of], pixels[part_of])),
        "silhouette class": float(silhouette_score(z_test[part_of], y_test[part_of])),
        "evenness": measures.evenness(z_test),
    }


def low_dimensional(z: Map, y: Labels, z_test: NewMap, y_test: NewLabels) -> Figures:
    """What can be said of maps of a few dimensions only."""
    if z.shape[1] > 3:
        return {}
    return {"quadratic": measures.quadratic(z, y, z_test, y_test), "clusters": measures.n_clusters(z_test)}


def isomap(x: Float[np.ndarray, "n p"], dim: int) -> Map:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the graph is in pieces, and they are joined where they are nearest
        return Isomap(n_neighbors=K, n_components=dim).fit_transform(x)


# (ii) The same digits, each at five places


class Places(NamedTuple):
    """Which digit, which shift, which original, of the five copies of each of n digits."""

    y: Labels
    shift: Labels
    original: Labels


def places(y: Labels) -> Places:
    n, k = len(y), len(SHIFTS)
    return Places(np.repeat(y, k), np.tile(np.arange(k), n), np.repeat(np.arange(n), k))


def shifted(out: Path, seed: int, steps: dict[str, int]) -> Figures:
    digits = fours_and_nines(seed)
    train, test = all_shifts(digits.train), all_shifts(digits.test)
    at, at_test = places(digits.y), places(digits.y_test)
    judge = partial(judge_shifts, at, at_test, digits.test, seed)

    # (ii-a) by pixels alone, (ii-c) with the prior: the originals' neighbours, closed under all shifts
    by_pixels = neighbour_relation(train)
    prior = neighbour_relation(digits.train).copied(torch.from_numpy(at.original))
    a = learn(out / "parts" / f"run-ii-a-{seed}", train, by_pixels, seed, steps["ii-a"])
    c = learn(out / "parts" / f"run-ii-c-{seed}", train, prior, seed, steps["ii-c"])
    found = {
        "pairs": prior.n_pairs,
        "similar_pairs_a": by_pixels.n_similar,
        "similar_pairs_c": prior.n_similar,
        "(ii-a) DrLIM, pixel neighbours": judge(a.map(train), z_a := a.map(test)),
        "(ii-c) DrLIM, with the prior": judge(c.map(train), z_c := c.map(test)),
        "untrained": judge(c.before(train), z_0 := c.before(test)),
    }
    pca = PCA(2, random_state=seed).fit(flat(train))
    found["PCA"] = judge(pca.transform(flat(train)), pca.transform(flat(test)))

    # (ii-b) LLE on the graph of (ii-a), and other baselines, on all copies of 400 + 200 digits
    n, m = 400 * len(SHIFTS), 200 * len(SHIFTS)
    both = np.concatenate([flat(train[:n]), flat(test[:m])])
    graph = measures.neighbours_of(both)
    few = partial(judge_shifts, Places(*(v[:n] for v in at)), Places(*(v[:m] for v in at_test)), digits.test, seed)
    placed = {"(ii-b) LLE *": measures.lle(both, graph, 2, seed), "Isomap *": isomap(both, 2), "pixels *": both}
    found |= {name: few(z[:n], z[n:]) for name, z in placed.items()}
    found["graph_components"] = measures.n_components(graph)
    for name, z in {"0": z_0, "a": z_a, "c": z_c, "b": placed["(ii-b) LLE *"][n:]}.items():
        keep(out, f"ii-{name}-{seed}", z)
    return found


def judge_shifts(
    at: Places, at_test: Places, originals: UInt8[np.ndarray, "o h w"], seed: int, z: Map, z_test: NewMap
) -> Figures:
    """Held-out digits at five places in a map. What takes all pairs is of the copies of 200 digits (1,000 points)."""
    some = slice(0, 200 * len(SHIFTS))
    x, y, which, of = z_test[some], at_test.y[some], at_test.shift[some], at_test.original[some]
    pixels = flat(originals[: of.max() + 1])
    paths = measures.geodesics(pixels, measures.neighbours_of(pixels))[of][:, of]
    copies = flat(all_shifts(originals[: of.max() + 1]))
    found = {
        "class k-NN": measures.vote(z, at.y, z_test, at_test.y),
        "class k-NN, other shifts": measures.vote(z, at.y, z_test, at_test.y, apart=(at.shift, at_test.shift)),
        "shift k-NN": measures.vote(z, at.shift, z_test, at_test.shift),
        "orbit spread": measures.orbit_spread(x, of),
        "silhouette class": float(silhouette_score(x, y)),
        "silhouette shift": float(silhouette_score(x, which)),
        "F class": measures.ratio(z_test, at_test.y),
        "F shift": measures.ratio(z_test, at_test.shift),
        "trust, pixels": measures.trustworthiness(x, cdist(copies, copies)),
        "trust, prior": measures.trustworthiness(x, paths),
        "evenness": measures.evenness(z_test),
        **low_dimensional(z, at.y, z_test, at_test.y),
    }
    if z.shape[1] <= 3:
        found["Rand index"] = measures.rand_index(z_test, at_test.shift * 2 + at_test.y, 10, seed)
    return found


# (iii) One object from all sides, under all lights


def posed(out: Path, seed: int, steps: dict[str, int]) -> Figures:
    taken = airplane()
    images, azimuth, elevation, light = taken or rendered()
    n_azimuths, n_elevations = int(azimuth.max()) + 1, int(elevation.max()) + 1
    order = np.random.default_rng([seed, 3]).permutation(len(images))
    train, test = order[:660], order[660:]

    # Alike: at most one step in azimuth (a circle) and in elevation, whatever the light.
    a, e = np.divmod(np.arange(n_azimuths * n_elevations), n_elevations)
    around = np.abs(a[:, None] - a)
    near = (np.minimum(around, n_azimuths - around) <= 1) & (np.abs(e[:, None] - e) <= 1)
    poses = torch.from_numpy(azimuth * n_elevations + elevation)
    whole = Relation(poses, torch.from_numpy(np.argwhere(np.triu(near, 1))))
    relation = whole.copied(torch.from_numpy(train))
    learned = learn(
        out / "parts" / f"run-iii-{seed}",
        images[train],
        relation,
        seed,
        steps["iii"],
        encoder="drlim-norb",
        lr=3e-4,  # what sees 9,216 pixels at once saturates at the other network's rate
        similar_share=0.5,
    )

    def judge(z: Map) -> Figures:
        place = measures.frame(z[train], azimuth[train], n_azimuths)
        return measures.pose(z[test], azimuth[test], elevation[test], light[test], n_azimuths, place)

    pixels = flat(images)
    similar = whole.similar(torch.arange(len(images))).fill_diagonal_(False)
    given = [row.nonzero().flatten().numpy() for row in similar]
    placed = {
        "DrLIM": learned.map(images),
        "untrained": learned.before(images),
        "PCA": PCA(3, random_state=seed).fit(pixels[train]).transform(pixels),
        "LLE, pixel neighbours": measures.lle(pixels, measures.neighbours_of(pixels), 3, seed),
        "LLE, the same neighbours": measures.lle(pixels, given, 3, seed),
        "Isomap": isomap(pixels, 3),
    }
    for name, z in (("0", placed["DrLIM"]), ("lle", placed["LLE, the same neighbours"])):
        keep(out, f"iii-{name}-{seed}", z)
    keep(out, f"iii-test-{seed}", test)
    return {
        "images": "small-NORB" if taken else "rendered",
        "similar_pairs": relation.n_similar,
        "dissimilar_pairs": relation.n_pairs - relation.n_similar,
        **{name: judge(z) for name, z in placed.items()},
    }


# Beyond the paper: invariance on demand


def on_demand(out: Path, seed: int, steps: dict[str, int]) -> Figures:
    """1,000 digits, each at 3 places and 3 angles; one map is told to ignore places, another to ignore angles."""
    digits = fours_and_nines(seed)
    moves = (SHIFTS[0], 0, SHIFTS[-1])
    n, m, k = 1_000, 300, len(moves) * len(TURNS)

    def copies(images: Pixels) -> NewPixels:
        return np.stack([shift(turn(images, by), to) for by in TURNS for to in moves], 1).reshape(-1, 28, 28)

    train, test = copies(digits.train[:n]), copies(digits.test[:m])
    kind = {"shift": np.arange(k) % len(moves), "rotation": np.arange(k) // len(moves)}
    upright = {"shift": moves.index(0), "rotation": TURNS.index(0.0)}
    found: Figures = {"pixels": spreads(flat(train), flat(test), kind)}
    for declared, other in (("shift", "rotation"), ("rotation", "shift")):
        # The originals: all that differs otherwise. Their neighbours, closed under what is declared not to matter.
        original = np.flatnonzero(np.tile(kind[declared] == upright[declared], n))
        number = np.empty(n * k, np.int64)
        number[original] = np.arange(len(original))
        of = np.repeat(np.arange(n), k) * k + np.tile(_with(kind, declared, upright, other), n)
        prior = neighbour_relation(train[original]).copied(torch.from_numpy(number[of]))
        learned = learn(out / "parts" / f"run-demand-{declared}", train, prior, seed, steps["demand"])
        found[f"DrLIM, {declared} declared"] = spreads(learned.map(train), z := learned.map(test), kind)
        keep(out, f"demand-{declared}", z)
    return found


def _with(kind: dict[str, np.ndarray], declared: str, upright: dict[str, int], other: str) -> Labels:
    """For each of the copies, the one that differs from it by the declared transformation alone, undone."""
    k = len(kind[declared])
    return np.array(
        [
            next(j for j in range(k) if kind[declared][j] == upright[declared] and kind[other][j] == kind[other][i])
            for i in range(k)
        ]
    )


def spreads(z: Map, z_test: NewMap, kind: dict[str, np.ndarray]) -> Figures:
    """How well a map tells each transformation, and how far apart it puts copies that differ by that one alone."""
    k = len(kind["shift"])
    found = {}
    for name, other in (("shift", "rotation"), ("rotation", "shift")):
        y, y_test = np.tile(kind[name], len(z) // k), np.tile(kind[name], len(z_test) // k)
        found[f"{name} k-NN"] = measures.vote(z, y, z_test, y_test)
        orbit = np.repeat(np.arange(len(z_test) // k), k) * k + np.tile(kind[other], len(z_test) // k)
        found[f"{name} spread"] = measures.orbit_spread(z_test, orbit)
    return found


# Beyond the paper: beside t-SNE and UMAP


def beside_atlases(out: Path, seed: int, steps: dict[str, int]) -> Figures:
    """The copies of 400 digits are learned from, those of 200 others are new."""
    digits = fours_and_nines(seed)
    at, at_test = places(digits.y[:400]), places(digits.y_test[:200])
    train, test = all_shifts(digits.train[:400]), all_shifts(digits.test[:200])
    x, new = flat(train), flat(test)
    judge = partial(judge_shifts, at, at_test, digits.test, seed)
    found: Figures = {}

    def row(name: str, fit: Callable[[], Any], embed: Callable[[Any], tuple[Map, Map]]) -> None:
        started = time.perf_counter()
        model = fit()
        fitted = time.perf_counter()
        z, z_test = embed(model)
        found[name] = {**judge(z, z_test), "fit s": fitted - started, "new s": time.perf_counter() - fitted}

    relation = neighbour_relation(digits.train[:400]).copied(torch.from_numpy(at.original))
    run = out / "parts" / "run-atlas"
    shutil.rmtree(run, ignore_errors=True)  # of a call that was cut off: how long it takes is measured here
    row(
        "DrLIM, with the prior",
        lambda: learn(run, train, relation, seed, steps["atlas"]),
        lambda learned: (learned.map(train), learned.map(test)),
    )
    row(
        "t-SNE (old and new together)",
        lambda: TSNE(random_state=seed).fit_transform(np.concatenate([x, new])),
        lambda z: (z[: len(x)], z[len(x) :]),
    )
    try:
        from umap import UMAP
    except ImportError:
        say("UMAP is left out: pip install 'likewise[maps]'")
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that a seed costs it its threads
        row("UMAP", lambda: UMAP(random_state=seed).fit(x), lambda umap: (umap.embedding_, umap.transform(new)))
    return found


# Beyond the paper: all ten digits


def ten_digits(out: Path, seed: int, steps: dict[str, int]) -> Figures:
    """All 60,000 images, five neighbours each in pixel space; 10,000 held out."""
    train, test = open_images("mnist"), open_images("mnist:test")
    y, y_test = train.labels, test.labels
    assert y is not None
    assert y_test is not None
    x, x_test = (images.source(np.arange(len(images))).pixels[:, 0].numpy() for images in (train, test))
    started = time.perf_counter()
    relation = neighbour_relation(x)
    found: Figures = {"relation s": time.perf_counter() - started, "similar_pairs": relation.n_similar}
    learned = learn(out / "parts" / "run-ten", x, relation, seed, steps["ten"])
    pca = PCA(2, random_state=seed).fit(flat(x))
    placed = {
        "DrLIM": (learned.map(x), learned.map(x_test)),
        "untrained": (learned.before(x), learned.before(x_test)),
        "PCA": (pca.transform(flat(x)), pca.transform(flat(x_test))),
    }
    keep(out, "ten", placed["DrLIM"][1])
    for name, (z, z_test) in placed.items():
        found[name] = {
            "class k-NN": measures.vote(z, y, z_test, y_test),
            "silhouette class": float(silhouette_score(z_test[:2_000], y_test[:2_000])),
            "clusters": measures.n_clusters(z_test),
            "evenness": measures.evenness(z_test),
        }
    return found


# The claims, the figures, the page


def claims(paper: dict[str, list[Figures]], beyond: dict[str, Figures]) -> list[dict[str, Any]]:
    """What the paper says, as numbers: means over the seeds."""

    def of(name: str, row: str, figure: str) -> float:
        return mean_of([run[row] for run in paper[name]], figure)

    a, c, turns = "(ii-a) DrLIM, pixel neighbours", "(ii-c) DrLIM, with the prior", beyond["demand"]
    silhouettes = {row: (of("ii", row, "silhouette class"), of("ii", row, "silhouette shift")) for row in (a, c)}
    first = paper["i"][0]
    return [
        check("i-directed", "(i) similar pairs before symmetrisation", first["directed_pairs"], "=", 30_000),
        check("i-pairs", "(i) unordered pairs", first["pairs"], "=", 17_997_000),
        check(
            "i-class",
            "(i) class k-NN less that of PCA",
            of("i", "DrLIM", "class k-NN") - of("i", "PCA", "class k-NN"),
            ">",
            0,
        ),
        check(
            "i-lle",
            "(i) class k-NN less that of LLE",
            of("i", "DrLIM", "class k-NN") - of("i", "LLE *", "class k-NN"),
            ">",
            0,
        ),
        check("iia-shift", "(ii-a) shift predictability", of("ii", a, "shift k-NN"), ">", 0.8),
        check("iia-orbit", "(ii-a) orbit spread", of("ii", a, "orbit spread"), ">", 0.7),
        check(
            "iia-silhouette", "(ii-a) silhouette by shift less by class", silhouettes[a][1] - silhouettes[a][0], ">", 0
        ),
        check("iia-rand", "(ii-a) Rand index of 10 groups, shift x digit", of("ii", a, "Rand index"), ">=", 0.4),
        check("iic-shift", "(ii-c) shift predictability", of("ii", c, "shift k-NN"), "<", 0.3),
        check("iic-orbit", "(ii-c) orbit spread", of("ii", c, "orbit spread"), "<", 0.15),
        check(
            "iic-silhouette", "(ii-c) silhouette by class less by shift", silhouettes[c][0] - silhouettes[c][1], ">", 0
        ),
        check("iic-rand", "(ii-c) Rand index of 10 groups, shift x digit", of("ii", c, "Rand index"), "<", 0.15),
        check("iic-class", "(ii-c) class k-NN in 2-D", of("ii", c, "class k-NN"), ">=", 0.9),
        check("iic-target", "(ii-c) class k-NN in 2-D, target", of("ii", c, "class k-NN"), ">=", 0.95),
        check("iii-azimuth", "(iii) azimuth correlation", of("iii", "DrLIM", "az_corr"), ">", 0.9),
        check("iii-elevation", "(iii) elevation rank correlation", of("iii", "DrLIM", "el_rho"), ">", 0.9),
        check("iii-light", "(iii) light ratio", of("iii", "DrLIM", "light_ratio"), "<", 0.5),
        *(
            check(
                f"demand-{declared}",
                f"{declared} declared: its spread over that of {other}",
                turns[f"DrLIM, {declared} declared"][f"{declared} spread"]
                / turns[f"DrLIM, {declared} declared"][f"{other} spread"],
                "<",
                0.5,
            )
            for declared, other in (("shift", "rotation"), ("rotation", "shift"))
        ),
    ]


def draw(out: Path, seed: int) -> Figures:
    """The figures of the first seed."""
    folder, digits = out / "figures", fours_and_nines(seed)
    folder.mkdir(exist_ok=True)
    kept = lambda name: np.load(out / "parts" / f"map-{name}.npy", allow_pickle=False)  # noqa: E731
    run = Learned(load(out / "parts" / f"run-i-{seed}"), load(out / "parts" / f"run-i-{seed}", trained=False), 28)
    figures.springs(folder / "springs.png")
    figures.before_after(
        folder / "neighbours.png", digits.test, digits.y_test, run.before(digits.test), kept(f"i-{seed}")
    )
    test, at = all_shifts(digits.test), places(digits.y_test)
    maps = {
        "before training": kept(f"ii-0-{seed}"),
        "(ii-a) pixel neighbours": kept(f"ii-a-{seed}"),
        "(ii-b) LLE, neighbours by pixels": kept(f"ii-b-{seed}"),
        "(ii-c) with the prior": kept(f"ii-c-{seed}"),
    }
    figures.shifts(folder / "shifts.png", test, at.y, at.shift, SHIFTS, maps)
    images, azimuth, elevation, light = airplane() or rendered()
    test_ids = kept(f"iii-test-{seed}")
    figures.cylinder(
        folder / "poses.png",
        images,
        azimuth,
        elevation,
        light,
        kept(f"iii-0-{seed}"),
        kept(f"iii-lle-{seed}"),
        test_ids,
    )
    ten = open_images("mnist:test")
    assert ten.labels is not None
    figures.ten(folder / "ten.png", ten.source(np.arange(len(ten))).pixels[:, 0].numpy(), ten.labels, kept("ten"))
    return {"figures": sorted(file.name for file in folder.glob("*.png"))}


def page(
    paper: dict[str, list[Figures]],
    beyond: dict[str, Figures],
    checks: list[dict[str, Any]],
    took: dict[str, dict[str, float]],
) -> str:
    """What was found, as a page."""

    shown = [[c["what"], f"{c['value']:,.8g}", c["bar"], "yes" if c["ok"] else "**no**"] for c in checks]
    return (
        "\n\n".join(
            [
                "# DrLIM, reproduced",
                f"{SEEDS} seeds, mean ± deviation. Rows with * are of 2,000 training and 1,000 held-out points.",
                table(["claim", "found", "bar", "met"], shown),
                "## (i) Fours and nines, pixel neighbours\n\n" + rows(paper["i"]) + "\n\n![](figures/neighbours.png)",
                "## (ii) Five shifts\n\n" + rows(paper["ii"]) + "\n\n![](figures/shifts.png)",
                f"## (iii) Poses ({paper['iii'][0]['images']})\n\n" + rows(paper["iii"]) + "\n\n![](figures/poses.png)",
                "## Invariance on demand\n\n" + rows([beyond["demand"]]),
                "## Beside t-SNE and UMAP\n\n" + rows([beyond["atlas"]]),
                "## Ten digits\n\n" + rows([beyond["ten"]]) + "\n\n![](figures/ten.png)",
                "## The loss\n\n![](figures/springs.png)",
                "## Time\n\n"
                + table(
                    ["", *took["seconds"], "the paper"],
                    [
                        [what.replace("_", " "), *(f"{v:.0f}" for v in by.values()), f"{sum(by[n] for n in paper):.0f}"]
                        for what, by in took.items()
                    ],
                ),
            ]
        )
        + "\n"
    )


def rows(runs: list[Figures]) -> str:
    """A row for each map, a column for each measure; mean and deviation over the runs."""
    names = [name for name, value in runs[0].items() if isinstance(value, dict)]
    columns = list(dict.fromkeys(figure for name in names for figure in runs[0][name]))
    return table(
        ["", *columns],
        [[name, *(mean_and_spread([run[name] for run in runs], column) for column in columns)] for name in names],
    )


def keep(out: Path, name: str, points: np.ndarray) -> None:
    """A map, for the figures."""
    write_array(out / "parts" / f"map-{name}.npy", points)
