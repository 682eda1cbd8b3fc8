"""ZCore (Griffin et al. 2024): score images by many random looks at two dimensions, with no label and no training.

Each look draws two dimensions and a point there. The image nearest the point gets 1, for it covers the place; its
neighbours share a loss of 1 by 1 / distance^4, for they are redundant to it, an exact copy taking all of it. Scores are
then scaled to [0, 1], noise from [0, 1] is added, and the highest are kept.

arXiv:2411.15349. The published code measures all images twice per look. Here looks are grouped by their first
dimension, along which all images are sorted once: what is near in two dimensions is near in the first, so that a narrow
strip holds the nearest image and a wider one all the neighbours, and its width proves that none was missed.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, check
from likewise.coresets.checkpoint import Checkpoint
from likewise.coresets.turns import shuffled
from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.types import Selection

LOOKS = 10  # per image, by default
SAMPLE = 16  # every so-manyth image says how wide a strip must be


def zcore(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    checkpoint: Checkpoint | None = None,
    keys: Int[Tensor, " n"] | None = None,
    n_looks: int | None = None,
    n_redundant: int = 1000,
    noise: float = 1.0,
) -> Selection:
    """Keep the images with the highest coverage less redundancy, plus noise drawn by (seed, key).

    `n_looks` defaults to 10 for each image (the paper: 1,000,000), `n_redundant` is how many neighbours share the loss.
    Distances are L1 in x as given. `gains` are the final scores, at least 0. On embeddings of 128 dimensions and at
    budgets of 10 % we found it no better than random; `noise=0` ranks by the scores alone.
    """
    if noise < 0:
        raise UsageError(f"noise={noise}: must be at least 0")
    n = len(x)
    chosen = check(n, budget, chosen)
    n_looks = LOOKS * n if n_looks is None else n_looks
    scores = coverage(x, n_looks, n_redundant=n_redundant, seed=seed, memory=memory, checkpoint=checkpoint)
    spread = scores.max() - scores.min()
    scores = (scores - scores.min()) / spread if spread > 0 else np.zeros(n)
    named = torch.arange(n) if keys is None else keys.cpu()
    uniform = Draws(seed, epoch=0, number=0, keys=named).image("coreset/zcore").reshape(-1)
    scores = scores + noise * uniform.double().numpy()
    scores[chosen.cpu().numpy()] = -1
    order = shuffled(n, seed, keys, "zcore").numpy()
    order = order[np.argsort(-scores[order].round(9), kind="stable")]
    picks = order[:budget]
    return Selection(picks, scores[picks])


def coverage(
    x: Float[Tensor, "n d"],
    n_looks: int,
    *,
    n_redundant: int = 1000,
    seed: int = 0,
    memory: int = MEMORY,
    checkpoint: Checkpoint | None = None,
) -> Float[np.ndarray, " n"]:
    """The sum over all looks of what each image gains by covering and loses by being redundant.

    Of images equally near a point the lower id is taken, and of copies the one with the lowest; which of equals at the
    very edge of the neighbours share the loss is not defined, but always the same.
    """
    n, d = x.shape
    if n_looks < 1 or n_redundant < 1:
        raise UsageError(f"n_looks={n_looks}, n_redundant={n_redundant}: must be at least 1")
    total = np.zeros(n)
    columns = x.cpu().numpy().T
    if x.numel() * x.element_size() <= memory // 2:
        columns = np.ascontiguousarray(columns)
    shapes = np.array([(column.min(), np.median(column), column.max()) for column in columns], dtype=np.float64)
    first, second, one, other = looks(d, n_looks, seed)
    swap = first > second  # a pair of dimensions is the same either way
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    one, other = np.where(swap, other, one), np.where(swap, one, other)
    dimensions, done = np.unique(first).tolist(), 0
    if checkpoint is not None and checkpoint.kept:
        total, done = checkpoint.kept["total"], int(checkpoint.kept["done"])
    for place, a in enumerate(dimensions[done:], done + 1):
        order = np.argsort(columns[a], kind="stable")
        along, scores = columns[a][order], np.zeros(n)
        mine = np.flatnonzero(first == a)
        mine = mine[np.argsort(second[mine], kind="stable")]
        points = triangular(shapes[a], one[mine]).astype(along.dtype)
        heights = triangular(shapes[second[mine]], other[mine]).astype(along.dtype)
        # Runs of the same second dimension, short enough for all their images at once
        number = np.arange(len(mine)) - np.searchsorted(second[mine], second[mine])
        starts = np.flatnonzero(number % max(memory // (16 * n), 1) == 0)
        for start, end in zip(starts, [*starts[1:], len(mine)], strict=True):
            across = columns[second[mine[start]]][order]
            centres = _nearest(along, across, order, points[start:end], heights[start:end])
            np.add.at(scores, centres, 1)
            if n > 1:
                _share(along, across, order, centres, min(n_redundant, n - 1), scores)
        total[order] += scores
        if checkpoint is not None:
            checkpoint.keep(total=total, done=place)
    return total


def looks(d: int, n_looks: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two different dimensions for each look (the same one twice where there is only one), and two uniform draws."""
    draws = Draws(seed, epoch=0, number=0, keys=torch.empty(0, dtype=torch.int64))
    uniform = draws.step("coreset/zcore", 4, n_looks).double().numpy()
    first = np.floor(uniform[0] * d).astype(np.int64)
    second = (first + 1 + np.floor(uniform[1] * (d - 1)).astype(np.int64)) % d
    return first, second, uniform[2], uniform[3]


def triangular(shape: Float[np.ndarray, "*n 3"], uniform: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Draws from the triangular distribution (lowest, most likely, highest), by its inverse distribution function."""
    low, mode, high = shape[..., 0], shape[..., 1], shape[..., 2]
    left = uniform * (high - low) < mode - low
    rise = low + np.sqrt(uniform * (high - low) * (mode - low))
    fall = high - np.sqrt((1 - uniform) * (high - low) * (high - mode))
    return np.where(left, rise, fall)


def _nearest(
    along: np.ndarray, across: np.ndarray, order: np.ndarray, points: np.ndarray, heights: np.ndarray
) -> np.ndarray:
    """The place of the image nearest each point. `along` is sorted, and images are named by their place in it."""
    n = len(along)
    side = min(max(int(2 * n**0.5), 8), n)
    at = along.searchsorted(points)
    near = np.clip(at[:, None] + np.arange(-side, side), 0, n - 1)
    distance = np.abs(along[near] - points[:, None]) + np.abs(across[near] - heights[:, None])
    least = distance.min(1)
    found = near[np.arange(len(points)), distance.argmin(1)]
    low, high = near[:, 0], near[:, -1]
    reach = least + 2 * np.spacing(np.maximum(np.abs(points), least))  # rounding leaves the nearest inside
    cut = ((low > 0) & (along[low] >= points - reach)) | ((high < n - 1) & (along[high] <= points + reach))
    for i in np.flatnonzero(cut | ((distance == least[:, None]).sum(1) > 1)):
        strip = slice(along.searchsorted(points[i] - reach[i]), along.searchsorted(points[i] + reach[i], side="right"))
        lengths = np.abs(along[strip] - points[i]) + np.abs(across[strip] - heights[i])
        equal = np.flatnonzero(lengths == lengths.min()) + strip.start
        found[i] = equal[order[equal].argmin()]
    return found


def _share(
    along: np.ndarray, across: np.ndarray, order: np.ndarray, centres: np.ndarray, k: int, scores: np.ndarray
) -> None:
    """Take 1 from the k images nearest to each centre, by 1 / distance^4."""
    n = len(along)
    reach = _reach(along[::SAMPLE], across[::SAMPLE], along[centres], across[centres], k)
    lows = along.searchsorted(along[centres] - reach).tolist()
    highs = along.searchsorted(along[centres] + reach, side="right").tolist()
    for centre, low, high in zip(centres.tolist(), lows, highs, strict=True):
        u, v = along[centre], across[centre]
        if high - low <= k:
            low, high = max(centre - 2 * k, 0), min(centre + 2 * k + 1, n)
        while True:
            distance = np.abs(along[low:high] - u)
            distance += np.abs(across[low:high] - v)
            inside = distance.argpartition(k)[: k + 1]  # the centre itself is one of them
            edge = distance[inside[k]]
            if (not low or along[low - 1] < u - edge) and (high == n or along[high] > u + edge):
                break  # what lies outside of the strip is farther away in the first dimension alone
            low, high = int(along.searchsorted(u - edge)), int(along.searchsorted(u + edge, side="right"))
        distance[centre - low] = np.inf
        lengths = distance[inside]
        least = lengths.min()
        if least == 0:
            copies = np.flatnonzero(distance == 0) + low
            scores[copies[order[copies].argmin()]] -= 1
        else:
            loss = np.square(np.square(float(least) / lengths.astype(np.float64)))  # at most 1: nothing overflows
            inside += low
            scores[inside] -= loss / loss.sum()


def _reach(along: np.ndarray, across: np.ndarray, u: np.ndarray, v: np.ndarray, k: int) -> np.ndarray:
    """How far a strip must reach to each side to hold k neighbours, from a sample of all: hardly ever too little."""
    expected = k / SAMPLE
    rank = min(int(expected + 3 * expected**0.5) + 1, len(along) - 1)
    distance = np.abs(along - u[:, None])
    distance += np.abs(across - v[:, None])
    distance.partition(rank, axis=1)
    return distance[:, rank]
