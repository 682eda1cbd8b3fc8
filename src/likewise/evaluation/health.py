"""Health: what features look like without any label, and whether they have collapsed.

Protocol health-v1, measured on train (at most 25,600 images, drawn by their keys):

- `rankme` (Garrido et al. 2023): exp of the entropy of p_k = sigma_k / sum(sigma) + 1e-7, with sigma the singular
  values of the features as they are, mean included. How many dimensions are in use: from 1 to min(n, d).
- `alpha` (alpha-ReQ, Agrawal et al. 2022): minus the slope of log eigenvalue of the covariance against log index, over
  the indices 11 to 50 (all but the last where there are fewer than 50); near 1 is best, larger means few directions;
  left out where there are too few eigenvalues to tell.
- `uniformity` (Wang and Isola 2020): log of the mean of exp(-2 |u - v|^2) over pairs of at most 2,000 features on
  the unit sphere; 0 is collapse, about -4 an even spread in many dimensions.
- `std`: mean standard deviation of the channels of the features on the unit sphere, times sqrt(d): 0 is collapse, 1
  an even spread.
- `collapsed`: `std` below 0.02 (a mean cosine above 0.9996), or `rankme` below 2 (below 1.1 where d is tiny). Never for
  fewer than 10 images, which cannot tell. `images` is the number of those measured.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from likewise.draws import Draws
from likewise.errors import DataError
from likewise.evaluation.labelled import features
from likewise.types import Embeddings

VERSION = "health-v1"
ROWS, PAIR_ROWS = 25_600, 2_000
FEWEST = 10  # images that tell collapse


def health(train: Embeddings, test: Embeddings | None = None) -> dict[str, Any]:
    """How many directions the features spread over, and whether they have collapsed; needs no labels.

    The figures above, of train; `test` is not looked at.
    """
    keys = torch.from_numpy(np.array(train.keys, dtype=np.int64))
    order = Draws(0, epoch=0, number=0, keys=keys).bits("health").argsort(stable=True)
    x = features(train.rows(order[:ROWS].numpy()), "train")
    rank, spread, decay, d = rankme(x), std(x), alpha(x), x.shape[1]
    return {
        "version": VERSION,
        "rankme": rank,
        "dim": d,
        **({} if decay is None else {"alpha": decay}),
        "uniformity": uniformity(x[:PAIR_ROWS]),
        "std": spread,
        "images": len(x),
        "collapsed": len(x) >= FEWEST and not (spread >= 0.02 and rank >= min(2.0, 0.999 + 0.1 * (d - 1))),
    }


def rankme(x: Float[Tensor, "n d"]) -> float:
    """How many dimensions the features use: exp of the entropy of their singular values.

    >>> round(rankme(torch.eye(8)), 3)
    8.0
    """
    sigma = _eigenvalues(x).sqrt()
    p = sigma / sigma.sum().clamp(min=torch.finfo(sigma.dtype).tiny) + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


def alpha(x: Float[Tensor, "n d"]) -> float | None:
    """Decay of the covariance's spectrum, eigenvalue ~ index^-alpha; None where it has too few eigenvalues to tell."""
    values = _eigenvalues(x - x.double().mean(0)).flip(0)
    values = values[values > 1e-12 * values[0]]
    first, last = (10, 50) if len(values) >= 50 else (0, len(values) - 1)
    if last - first < 2:
        return None
    index = torch.arange(first + 1, last + 1, dtype=torch.float64).log()
    index = index - index.mean()
    return -float((index * values[first:last].log()).sum() / index.square().sum())


def uniformity(x: Float[Tensor, "n d"]) -> float:
    """log mean exp(-2 |u - v|^2) over all pairs of different rows, each scaled to length 1; 0 for a single row."""
    if len(x) < 2:
        return 0.0
    u = torch.nn.functional.normalize(x.double(), dim=1)
    return float(torch.pdist(u).square().mul(-2).exp().mean().log())


def std(x: Float[Tensor, "n d"]) -> float:
    """Mean standard deviation of the channels of the rows, each scaled to length 1, times sqrt(d)."""
    u = torch.nn.functional.normalize(x.double(), dim=1)
    return float(u.std(0, correction=0).mean()) * x.shape[1] ** 0.5


def alignment(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> float:
    """Mean |u - v|^2 over the features (n, d) of two views of the same images, rows scaled to length 1.

    0 where the views agree, 2 for unrelated directions, 4 at most.
    """
    if a.shape != b.shape:
        raise DataError(f"alignment: the two sides have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected one")
    u, v = (torch.nn.functional.normalize(torch.as_tensor(side).double(), dim=1) for side in (a, b))
    return float((u - v).square().sum(1).mean())


def _eigenvalues(x: Float[Tensor, "n d"]) -> Float[Tensor, " r"]:
    """Squared singular values of x in rising order, from the smaller of its two Gram matrices."""
    x = x.double()
    gram = x.T @ x if len(x) >= x.shape[1] else x @ x.T
    return torch.linalg.eigvalsh(gram).clamp(min=0)
