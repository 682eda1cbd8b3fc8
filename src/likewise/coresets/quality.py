"""How well a selection covers its pool, in figures that can be compared between methods of equal budget."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, Rows, centred, spans, squared_norms, unit
from likewise.coresets.clusters import cluster
from likewise.coresets.k_means import nearest
from likewise.coresets.near import compared
from likewise.coresets.turns import shuffled
from likewise.draws import Draws, normal
from likewise.errors import UsageError

COPY = 1e-6  # what the cosine of copies may lack of 1
CLUSTERS = 100  # that the effective number of clusters is counted in, or a tenth of the images
PAIRS = 1 << 29  # of an image and a pick that are compared at most; past that, some images stand for all
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
    each image, -1 where it is not known. `keys` (default: row numbers) draw the images that stand for all, where there
    are too many to compare each with each pick.
    """

    def __init__(
        self,
        x: Float[Tensor, "n d"],
        *,
        memory: int = MEMORY,
        metric: str = "euclidean",
        labels: Int[Tensor, " n"] | None = None,
        keys: Int[Tensor, " n"] | None = None,
    ) -> None:
        self.memory, self.labels, self.keys = memory, labels, keys
        self.rows = centred(x, memory, metric)
        self.directions = unit(x, memory)
        self.not_zero = squared_norms(x, memory) > 0
        self.squares = torch.cat([block.square().sum(1) for _, block in self.rows.blocks(x.shape[1], hold=False)])
        spread = self.squares.mean().clamp(min=1e-30)
        self.features = _Features(x.shape[1], float(1 / spread.sqrt()), x.device)
        self.mean_features = self.features.mean(self.rows, torch.arange(len(x), device=x.device))
        self.cell = cluster(self.rows, min(CLUSTERS, math.ceil(len(x) / 10)), keys=keys).cell

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
        - `n_compared`: there only past half a billion pairs of an image that is not picked and a pick, for then no more
          than so many images are compared with the picks. `radius` is a lower bound there, and `facility_location` and
          `mean_distance` are estimates.
        """
        picks = torch.as_tensor(indices, device=self.squares.device).long()
        n = len(self.squares)
        if not len(picks) or int(picks.min()) < 0 or int(picks.max()) >= n:
            raise UsageError(f"indices: at least one is needed, and all must be between 0 and {n - 1}")
        picked = torch.zeros(n, dtype=torch.bool, device=picks.device)
        picked[picks] = True  # and so its own nearest
        seen = others = (~picked).nonzero()[:, 0]
        if len(others) * len(picks) > PAIRS:
            order = shuffled(n, 0, self.keys, "quality").to(picks.device)
            seen = order[torch.isin(order, others)][: max(PAIRS // len(picks), 1)]
        similarity, distance = self._nearest(seen, picks)
        share = len(others) / max(len(seen), 1) / n  # of the pool, that each of those seen stands for
        mmd = (self.features.mean(self.rows, picks) - self.mean_features).square().sum().sqrt()
        figures = {
            "facility_location": float(similarity.sum() * share + self.not_zero[picked].sum() / n),
            "radius": float(distance.max()) if len(seen) else 0.0,
            "mean_distance": float(distance.sum() * share),
            "duplicates": self._n_copies(picks),
            "mmd": float(mmd),
            "effective_clusters": _effective(self.cell[picks]),
        }
        if self.labels is not None:
            known = self.labels.to(picks.device)[picks]
            figures["effective_classes"] = _effective(known[known >= 0])
        if len(seen) < len(others):
            figures["n_compared"] = len(seen)
        return figures

    def _nearest(
        self, ids: Int[Tensor, " m"], picks: Int[Tensor, " k"]
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        """The best cosine similarity of each of these images and its least distance to a pick, in float64.

        Which pick is the most similar comes from float32, where two may be too close to tell: then either will do.
        """
        similarity, distance = self.squares.new_empty(len(ids)), self.squares.new_empty(len(ids))
        centres, directions = self.rows[picks], self.directions[picks]
        for span in spans(len(ids), 8 * self.rows.x.shape[1], self.memory // 3):
            rows, unit_rows = self.rows[ids[span]], self.directions[ids[span]]
            at = picks[nearest(Rows(rows, self.memory), centres)]
            least = (rows - self.rows[at]).square().sum(1)
            floor = 1e-12 * (self.squares[ids[span]] + self.squares[at])
            distance[span] = torch.where(least > floor, least, 0.0).sqrt()
            if self.rows.scale is None or not bool(self.not_zero.all()):  # else the nearest is the most similar
                at = picks[Rows(unit_rows.float(), self.memory).matches(directions.float())[0]]
            similarity[span] = (unit_rows * self.directions[at]).sum(1)
        return similarity, distance

    def _n_copies(self, picks: Int[Tensor, " k"]) -> int:
        """How many picks have one before them of the same direction."""
        rows = unit(self.rows.x[picks], self.memory)
        copies = torch.zeros(len(picks), dtype=torch.bool, device=picks.device)
        for one, other, cosine in compared(rows, cluster(rows), COPY):
            close = cosine > 1 - COPY
            copies[one] |= (close & (other < one[:, None])).any(1)
            copies[other] |= (close & (one[:, None] < other)).any(0)
        return int(copies.sum())


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
    shares = groups.unique(return_counts=True)[1].double() / len(groups)
    return float(torch.exp(-(shares * shares.log()).sum()))
