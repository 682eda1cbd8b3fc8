"""How well a selection covers its pool, in figures that can be compared between methods of equal budget."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, Rows, spans, squared_norms
from likewise.errors import UsageError

COPY = 2e-6  # squared distance on the unit sphere: a cosine of 1 - 1e-6


def quality(
    x: Float[Tensor, "n d"], indices: Int[np.ndarray, " k"] | Int[Tensor, " k"], *, memory: int = MEMORY
) -> dict[str, float]:
    """Coverage of all rows of x by the rows at `indices`.

    - `facility_location`: mean over all images of the best cosine similarity to a selected one; that of a zero row is 0
    - `radius`, `mean_distance`: largest and mean Euclidean distance, of x as given, to the nearest selected image;
      on the unit sphere, where `select` works unless told otherwise, a distance is sqrt(2 - 2 cos)
    - `duplicates`: how many selected images have a cosine above 1 - 1e-6 to one selected before them
    """
    picks = torch.as_tensor(indices, device=x.device).long()
    if not len(picks) or int(picks.min()) < 0 or int(picks.max()) >= len(x):
        raise UsageError(f"indices: at least one is needed, and all must be between 0 and {len(x) - 1}")
    rows, squares = Rows(x, memory), squared_norms(x, memory)
    scale = torch.where(squares > 0, squares.rsqrt(), 0.0)
    selected = rows[picks] * scale[picks, None]
    lengths = squares[picks]

    similarity, distance = torch.empty_like(squares), torch.empty_like(squares)
    for span, block in rows.blocks(2 * len(picks)):
        products = block @ selected.T
        similarity[span] = products.amax(1) * scale[span]
        least = products.mul_(-2 * lengths.sqrt()).add_(lengths).amin(1) + squares[span]
        distance[span] = torch.where(least > 1e-12 * (squares[span] + lengths.max()), least, 0.0).sqrt()
    return {
        "facility_location": float(similarity.mean()),
        "radius": float(distance.max()),
        "mean_distance": float(distance.mean()),
        "duplicates": _n_copies(selected, memory),
    }


def _n_copies(unit: Float[Tensor, "k d"], memory: int) -> int:
    own = unit.square().sum(1)
    n = 0
    for span in spans(len(unit), 3 * len(unit), memory):
        distances = (own[span, None] + own - 2 * unit[span] @ unit.T) < COPY
        n += int(distances.tril(span.start - 1).any(1).sum())
    return n
