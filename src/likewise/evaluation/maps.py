"""Maps: features as points on a page. A picture for people, not a measurement."""

import numpy as np
from jaxtyping import Float

from likewise.errors import UsageError

METHODS = ("pca", "tsne", "umap")
MOST = 3_000  # points that t-SNE can place in a reasonable time


def map2d(x: Float[np.ndarray, "n d"], *, method: str = "tsne", seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """Two coordinates for each row of x (scaled to length 1 first), centred, the widest side from -1 to 1.

    "pca" is instant; "tsne" (scikit-learn, started from PCA) takes at most 3,000 rows; "umap" needs umap-learn.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r}: must be one of {', '.join(METHODS)}")
    if method == "tsne" and len(x) > MOST:
        raise UsageError(f"method 'tsne' places at most {MOST:,} points, not {len(x):,}: pass fewer, or use 'pca'")
    rows = np.array(x, dtype=np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows -= rows.mean(0)
    if method == "umap":
        points = _umap(rows, seed)
    else:
        points = _pca(rows)
        if method == "tsne" and len(rows) > 3 and points.std() > 0:
            from sklearn.manifold import TSNE

            perplexity = min(30.0, (len(rows) - 1) / 3)
            points = points / points[:, 0].std() * 1e-4  # the size at which t-SNE likes to start
            points = TSNE(init=points, perplexity=perplexity, random_state=seed).fit_transform(rows)
    points = points - points.mean(0)
    return (points / max(float(np.abs(points).max()), 1e-12)).astype(np.float32)


def _pca(rows: np.ndarray) -> np.ndarray:
    """The two main axes, each turned so that its largest coordinate is positive: the sign is otherwise arbitrary."""
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    points = np.zeros((len(rows), 2), dtype=np.float32)
    n = min(2, u.shape[1])
    points[:, :n] = u[:, :n] * s[:n]
    signs = np.sign(points[np.abs(points).argmax(0), [0, 1]])
    return points * np.where(signs == 0, 1, signs)


def _umap(rows: np.ndarray, seed: int) -> np.ndarray:
    try:
        from umap import UMAP
    except ImportError:
        raise UsageError("method 'umap' needs umap-learn: pip install 'likewise[maps]'") from None
    neighbours = min(15, len(rows) - 1)
    return np.asarray(UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(rows))
