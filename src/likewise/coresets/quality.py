"""How well a selection covers its pool, in figures that can be compared between methods of equal budget."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, Rows, measured, spans, squared_norms
from likewise.coresets.clusters import cluster
from likewise.draws import Draws, normal
from likewise.errors import UsageError

COPY = 2e-6  # squared distance on the unit sphere: a cosine of 1 - 1e-6
CLUSTERS = 100  # that the effective number of clusters is counted in, or a tenth of the images
FEATURES = 256  # pairs of random features that the discrepancy is measured with


def quality(
    x: Float[Tensor, "n d"],
    indices: Int[np.ndarray, " k"] | Int[Tensor, " k"],
    *,
    memory: int = MEMORY,
    metric: str = "euclidean",
    labels: Int[Tensor, " n"] | None = None,
) -> dict[str, float]:
    """Coverage of all rows of x by the rows at `indices`. Keys and their meanings are those of `Quality.of`."""
    return Quality(x, memory=memory, metric=metric, labels=labels).of(indices)


class Quality:
    """What can be known of a pool beforehand, to judge several selections from it.

    `metric`: distances are those of x as given ("euclidean") or of its directions ("cosine"). `labels`: a class for
    each image, -1 where it is not known.
    """

    def __init__(
        self,
        x: Float[Tensor, "n d"],
        *,
        memory: int = MEMORY,
        metric: str = "euclidean",
        labels: Int[Tensor, " n"] | None = None,
    ) -> None:
        self.memory, self.labels = memory, labels
        self.rows = measured(x, memory, metric)
        lengths = squared_norms(x, memory)
        self.scale = torch.where(lengths > 0, lengths.rsqrt(), 0.0)  # of x as given
        self.squares = lengths if metric == "euclidean" else lengths.sign()  # of the rows that distances are between
        mean = self.rows.total() / len(x)
        spread = (self.squares.mean() - mean.square().sum()).clamp(min=1e-30)
        self.features = _Features(x.shape[1], float(1 / spread.sqrt()), x.device)
        self.mean_features = self.features.mean(self.rows, torch.arange(len(x), device=x.device))
        self.cell = cluster(self.rows, min(CLUSTERS, math.ceil(len(x) / 10))).cell

    def of(self, indices: Int[np.ndarray, " k"] | Int[Tensor, " k"]) -> dict[str, float]:
        """
        - `facility_location`: mean over all images of the best cosine similarity to a selected one; that of a zero row
          is 0
        - `radius`, `mean_distance`: largest and mean Euclidean distance to the nearest selected image; by the metric
          "cosine" a distance is sqrt(2 - 2 cos)
        - `duplicates`: how many selected images have a cosine above 1 - 1e-6 to one selected before them
        - `mmd`: maximum mean discrepancy between selection and pool, by a Gaussian kernel as wide as the pool, from
          random Fourier features (Rahimi and Recht 2007); 0 for the pool itself
        - `effective_clusters`: exp of the entropy of the selection over k-means clusters of the pool
        - `effective_classes`: the same over the classes known, if labels were given
        """
        picks = torch.as_tensor(indices, device=self.squares.device).long()
        n = len(self.squares)
        if not len(picks) or int(picks.min()) < 0 or int(picks.max()) >= n:
            raise UsageError(f"indices: at least one is needed, and all must be between 0 and {n - 1}")
        similarity, distance = self._nearest(picks)
        x = self.rows.x
        selected = x[picks].double() * self.scale[picks, None]
        mmd = (self.features.mean(self.rows, picks) - self.mean_features).square().sum().sqrt()
        figures = {
            "facility_location": float(similarity.mean()),
            "radius": float(distance.max()),
            "mean_distance": float(distance.mean()),
            "duplicates": _n_copies(selected, self.memory),
            "mmd": float(mmd),
            "effective_clusters": _effective(self.cell[picks]),
        }
        if self.labels is not None:
            known = self.labels.to(picks.device)[picks]
            figures["effective_classes"] = _effective(known[known >= 0])
        return figures

    def _nearest(self, picks: Tensor) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The best cosine similarity of each image and its least distance to a pick.

        Which pick that is comes from float32, where two may be too close to tell: then either will do. The value is
        in float64.
        """
        by_distance, _, _ = self.rows.matches(self.rows.single(picks), (self.squares[picks] / 2).float())
        by_cosine = by_distance
        if not bool((self.squares == 1).all()):
            directions = (self.rows.x[picks].double() * self.scale[picks, None]).float()
            by_cosine, _, _ = self.rows.matches(directions)
        similarity, distance = torch.empty_like(self.squares), torch.empty_like(self.squares)
        for span, block in self.rows.blocks(3 * self.rows.x.shape[1], hold=False):
            nearest = self.rows[picks[by_distance[span]]]
            least = (block - nearest).square_().sum(1)
            floor = 1e-12 * (self.squares[span] + self.squares[picks].max())
            distance[span] = torch.where(least > floor, least, 0.0).sqrt()
            at = picks[by_cosine[span]]
            products = (block * (self.rows.x[at].double() * self.scale[at, None])).sum(1)
            similarity[span] = torch.where(self.squares[span] > 0, products / self.squares[span].sqrt(), 0.0)
        return similarity, distance


class _Features:
    """Random cosines and sines whose products estimate a Gaussian kernel, always the same for a width and d."""

    def __init__(self, d: int, frequency: float, device: torch.device) -> None:
        draws = Draws(seed=0, epoch=0, number=0, keys=torch.empty(0, dtype=torch.int64))
        directions = normal(draws.step("quality/features", FEATURES, d).double())
        self.directions = (frequency * directions).float().to(device)

    def mean(self, rows: Rows, ids: Int[Tensor, " m"]) -> Float[Tensor, " f"]:
        total = torch.zeros(2 * FEATURES, dtype=torch.float64, device=ids.device)
        for span in spans(len(ids), 3 * FEATURES + 2 * rows.x.shape[1], rows.memory // 3):
            angles = rows.single(ids[span]) @ self.directions.T
            total += torch.cat([angles.cos().sum(0, dtype=torch.float64), angles.sin().sum(0, dtype=torch.float64)])
        return total / (len(ids) * FEATURES**0.5)


def _effective(groups: Int[Tensor, " k"]) -> float:
    """exp of the entropy: how many groups of equal size would be as even. Of nothing it is 0."""
    if not len(groups):
        return 0.0
    counts = torch.bincount(groups).double()
    shares = counts[counts > 0] / len(groups)
    return float(torch.exp(-(shares * shares.log()).sum()))


def _n_copies(unit: Float[Tensor, "k d"], memory: int) -> int:
    own = unit.square().sum(1)
    n = 0
    for span in spans(len(unit), 3 * len(unit), memory):
        distances = (own[span, None] + own - 2 * unit[span] @ unit.T) < COPY
        n += int(distances.tril(span.start - 1).any(1).sum())
    return n
