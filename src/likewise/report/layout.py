"""Where images lie: their nearest neighbours (exact, cosine) and a flat map that tries to keep them."""

import numpy as np

N_NEIGHBOURS = 10


def neighbours(x: np.ndarray, k: int = N_NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of x "n d" most alike each row, itself left out, and their cosines: two arrays "n k".

    Ties go to the lower row. With n rows, k is at most n - 1.

    >>> neighbours(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), 1)[0].ravel().tolist()
    [2, 2, 0]
    """
    n = len(x)
    k = max(0, min(k, n - 1))
    length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    unit = x / np.where(length > 0, length, 1)
    near, cosine = np.empty((n, k), dtype=np.int64), np.empty((n, k))
    for start in range(0, n, 256):  # in blocks: the whole n x n matrix is never held
        block = unit[start : start + 256] @ unit.T
        own = np.arange(len(block))
        block[own, start + own] = -np.inf
        order = np.argsort(-block, axis=1, kind="stable")[:, :k]
        near[start : start + 256] = order
        cosine[start : start + 256] = np.take_along_axis(block, order, axis=1)
    return near, np.clip(cosine, -1, 1)


def flat_map(x: np.ndarray) -> tuple[np.ndarray, str]:
    """Places "n 2" in the unit square for the rows of x "n d", and the name of the way they were found.

    t-SNE on the cosine distance, started from the two leading principal components, with a fixed seed; the
    components themselves for fewer than 30 rows, or where all rows are (nearly) the same.
    """
    length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    unit = (x / np.where(length > 0, length, 1)).astype(np.float64)
    principal = _principal(unit - unit.sum(axis=0) / max(len(unit), 1), 50)
    places, way = principal[:, :2], "PCA"
    if len(x) >= 30 and places.shape[1] == 2 and places[:, 0].std() > 1e-9:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        # On 2,000 images of Fashion-MNIST 500 steps keep as many neighbours as 1,000. One thread, for the same map
        # on every machine; more are hardly faster at this size.
        start = (places / places[:, 0].std() * 1e-4).astype(np.float32)
        tsne = TSNE(perplexity=min(30.0, (len(x) - 1) / 3), init=start, random_state=0, max_iter=500)
        with threadpool_limits(1):
            places, way = tsne.fit_transform(principal.astype(np.float32)).astype(np.float64), "t-SNE"
    square = np.full((len(x), 2), 0.5)
    square[:, : places.shape[1]] = places
    if not len(x):
        return square, way
    low, high = square.min(axis=0), square.max(axis=0)
    return (square - (low + high) / 2) / max(float((high - low).max()), 1e-12) + 0.5, way


def kept(near: np.ndarray, places: np.ndarray) -> float:
    """The share of the neighbours `near` "n k" that are among as many nearest on the map `places` "n 2"."""
    k = near.shape[1]
    if not k:
        return 1.0
    square = (places**2).sum(axis=1)
    distance = square[:, None] + square[None] - 2 * places @ places.T
    np.fill_diagonal(distance, np.inf)
    flat = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(near, flat, strict=True)]))


def _principal(x: np.ndarray, n: int) -> np.ndarray:
    """The leading n principal components of centred rows, each with the sign that makes its largest load positive."""
    if not x.size:
        return np.zeros((len(x), 0))
    if x.shape[1] <= x.shape[0]:
        axes = np.linalg.eigh(x.T @ x).eigenvectors[:, ::-1][:, :n]
    else:
        axes = np.linalg.svd(x, full_matrices=False)[2][:n].T
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)
    return np.asarray(x @ axes)
