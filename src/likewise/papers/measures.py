"""What a map of few dimensions shows, in numbers: the figures of DrLIM's paper as measures on held-out points."""

from collections.abc import Iterable

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.sparse.linalg import eigsh
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.cluster import DBSCAN, KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from likewise.relations import nearest

Points = Float[np.ndarray, "n d"]
Labels = Int[np.ndarray, " n"]
K = 5  # that vote


def vote(
    x: Points,
    labels: Labels,
    points: Float[np.ndarray, "m d"],
    truth: Int[np.ndarray, " m"],
    *,
    apart: tuple[Labels, Int[np.ndarray, " m"]] | None = None,
) -> float:
    """Share of the points whose label most of the 5 nearest rows of x have; the lower label among equals.

    With `apart` (a mark of each row of x, of each point), only rows of another mark vote.
    """
    ours, theirs = apart if apart is not None else (np.zeros(len(x), int) - 1, np.zeros(len(points), int))
    right = 0
    for mark in np.unique(theirs):
        voters, asked = ours != mark, theirs == mark
        near = NearestNeighbors(n_neighbors=K).fit(x[voters]).kneighbors(points[asked], return_distance=False)
        votes = (labels[voters][near][:, :, None] == np.arange(labels.max() + 1)).sum(1)
        right += int((votes.argmax(1) == truth[asked]).sum())
    return right / len(points)


def orbit_spread(x: Points, orbit: Labels) -> float:
    """Mean distance between copies of one original over the mean distance between any two points."""
    apart = cdist(x, x)
    same = (orbit[:, None] == orbit) & ~np.eye(len(x), dtype=bool)
    return float(apart[same].mean() / apart[~np.eye(len(x), dtype=bool)].mean())


def ratio(x: Points, labels: Labels) -> float:
    """Scatter between the classes over scatter within them: traces of the two matrices."""
    means = np.array([x[labels == label].mean(0) for label in np.unique(labels)])
    sizes = np.array([(labels == label).sum() for label in np.unique(labels)])
    between = (sizes * ((means - x.mean(0)) ** 2).sum(1)).sum()
    return float(between / (((x - x.mean(0)) ** 2).sum() - between))


def trustworthiness(x: Points, distances: Float[np.ndarray, "n n"], k: int = 10) -> float:
    """1 when the k nearest of each point in the map are its nearest by `distances` too; ranks of equals are averaged.

    Venna and Kaski (2001), with the ranks of given distances: those between pixels, or along a graph.
    """
    n = len(x)
    apart = cdist(x, x)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1, kind="stable")[:, :k]
    penalty = 0.0
    for i in range(n):
        others = np.delete(distances[i], i)
        to = distances[i, near[i]][:, None]
        rank = (others < to).sum(1) + ((others == to).sum(1) + 1) / 2
        penalty += np.clip(rank - k, 0, None).sum()
    return float(1 - 2 / (n * k * (2 * n - 3 * k - 1)) * penalty)


def geodesics(x: Points, neighbours: Int[np.ndarray, "n k"]) -> Float[np.ndarray, "n n"]:
    """Lengths of the shortest paths along the edges to given neighbours; what cannot be reached is farthest of all."""
    n, k = neighbours.shape
    rows, columns = np.repeat(np.arange(n), k), neighbours.ravel()
    lengths = np.linalg.norm(x[rows] - x[columns], axis=1)
    paths = dijkstra(scipy.sparse.csr_matrix((lengths, (rows, columns)), (n, n)), directed=False)
    return np.where(np.isfinite(paths), paths, 2 * paths[np.isfinite(paths)].max() + 1)


def n_clusters(x: Points, k: int = K) -> int:
    """Groups that DBSCAN finds at the 95th percentile of the k-th neighbour's distance, without those under 1 %."""
    apart = _nearest_distances(x, k)[:, -1]
    found = DBSCAN(eps=float(np.percentile(apart, 95)), min_samples=k).fit_predict(x)
    sizes = np.bincount(found[found >= 0]) if (found >= 0).any() else np.zeros(0)
    return int((sizes >= 0.01 * len(x)).sum())


def n_components(neighbours: Int[np.ndarray, "n k"]) -> int:
    """Connected components of a neighbour graph that hold at least 1 % of its points."""
    n, k = neighbours.shape
    edges = (np.ones(n * k), (np.repeat(np.arange(n), k), neighbours.ravel()))
    _, component = connected_components(scipy.sparse.csr_matrix(edges, (n, n)), directed=False)
    return int((np.bincount(component) >= 0.01 * n).sum())


def evenness(x: Points) -> float:
    """Coefficient of variation of the distance to the nearest point: small where points are spread evenly."""
    near = _nearest_distances(x, 1)[:, 0]
    return float(near.std() / max(near.mean(), 1e-300))


def rand_index(x: Points, truth: Labels, n_groups: int, seed: int) -> float:
    """Adjusted Rand index of k-means with so many groups against the truth: 1 alike, 0 by chance."""
    found = KMeans(n_groups, n_init=10, random_state=seed).fit_predict(x)
    return float(adjusted_rand_score(truth, found))


def quadratic(x: Points, labels: Labels, points: Float[np.ndarray, "m d"], truth: Int[np.ndarray, " m"]) -> float:
    """Share of points on the right side of a conic, the boundary that logistic regression draws between two classes."""
    drawn = make_pipeline(StandardScaler(), PolynomialFeatures(2), LogisticRegression(max_iter=1000))
    return float(drawn.fit(x, labels).score(points, truth))


def frame(x: Points, azimuth: Labels, n_azimuths: int) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """The middle and the axes of the ring that the means of the azimuths make, the axis of the cylinder last."""
    means = np.array([x[azimuth == a].mean(0) for a in range(n_azimuths) if (azimuth == a).any()])
    _, _, axes = np.linalg.svd(means - means.mean(0))
    return means.mean(0), axes


def in_frame(
    x: Points, middle: Float[np.ndarray, " d"], axes: Float[np.ndarray, "d d"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, "n d"]]:
    """The angle of each point around the axis, its height along it, and the point turned so that the axis is last."""
    turned = (x - middle) @ axes.T
    return np.arctan2(turned[:, 1], turned[:, 0]), turned[:, -1], turned


def pose(
    x: Points, azimuth: Labels, elevation: Labels, light: Labels, n_azimuths: int, place: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """How well a cylinder tells the pose: `az_corr`, `el_rho`, `light_ratio`. `place` is the frame of other points.

    `az_corr` is Fisher and Lee's circular correlation (1983) of the angle with the azimuth; `el_rho` Spearman's of the
    height with the elevation; `light_ratio` the mean distance of two lights on one pose over that of adjacent poses.
    """
    angle, height, _ = in_frame(x, *place)
    apart = cdist(x, x)
    steps = np.abs(azimuth[:, None] - azimuth)
    steps = np.minimum(steps, n_azimuths - steps) + np.abs(elevation[:, None] - elevation)
    lit, next_to = (steps == 0) & (light[:, None] != light), steps == 1
    return {
        "az_corr": abs(circular_correlation(angle, 2 * np.pi * azimuth / n_azimuths)),
        "el_rho": abs(float(spearmanr(height, elevation).statistic)),
        "light_ratio": float(apart[lit].mean() / apart[next_to].mean()),
    }


def circular_correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Fisher and Lee (1983): 1 where one angle is the other plus a constant, -1 where they turn opposite ways.

    The sums over pairs i < j of sin(a_i - a_j) sin(b_i - b_j) and of either square, in closed form.
    """

    def pairs(p: np.ndarray, q: np.ndarray) -> float:
        # sin x sin y = (cos(x - y) - cos(x + y)) / 2, and a sum of cosines of differences is a squared resultant.
        return float(abs(np.exp(1j * (p - q)).sum()) ** 2 - abs(np.exp(1j * (p + q)).sum()) ** 2)

    return pairs(a, b) / max((pairs(a, a) * pairs(b, b)) ** 0.5, 1e-300)


def lle(x: Points, neighbours: Iterable[Int[np.ndarray, " _"]], dim: int, seed: int) -> Float[np.ndarray, "n dim"]:
    """Locally linear embedding (Roweis and Saul, 2000) on a given neighbour graph: `neighbours[i]` are those of row i.

    Each point is rebuilt from its neighbours by weights that sum to 1 (the local matrix gets 0.1 % of its trace), then
    placed so that the weights still rebuild it. A graph in pieces gives what it gives: one place for each piece.
    """
    n, weights, given = len(x), [], list(neighbours)
    for i, near in enumerate(given):
        local = x[near].astype(np.float64) - x[i]
        gram = local @ local.T
        trace = float(np.trace(gram))
        gram.flat[:: len(near) + 1] += 1e-3 * trace if trace > 0 else 1e-3
        solved = np.linalg.solve(gram, np.ones(len(near)))
        weights.append(solved / solved.sum())
    rows = np.repeat(np.arange(n), [len(near) for near in given])
    w = scipy.sparse.csr_matrix((np.concatenate(weights), (rows, np.concatenate(given))), (n, n))
    left = scipy.sparse.eye(n, format="csr") - w
    start = np.random.default_rng(seed).uniform(-1, 1, n)
    values, vectors = eigsh((left.T @ left).tocsc(), dim + 1, sigma=-1e-9, which="LM", v0=start)
    return vectors[:, np.argsort(values)[1:]]


def neighbours_of(x: Points, k: int = K) -> Int[np.ndarray, "n k"]:
    """The k nearest rows of each row."""
    return nearest(torch.from_numpy(np.ascontiguousarray(x, np.float32)), k).numpy()


def _nearest_distances(x: Points, k: int) -> Float[np.ndarray, "n k"]:
    near = neighbours_of(x, k)
    return np.linalg.norm(x[near] - x[:, None], axis=2)
