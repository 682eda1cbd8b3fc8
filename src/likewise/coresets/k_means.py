"""k-means prototypes (Lloyd 1982): one cluster per pick, and of each cluster the image nearest its centre.

Dense regions get many prototypes, unlike k-center. There is no pick order to speak of: images come in order of the size
of their cluster, so a prefix keeps the largest clusters of this budget and is not what a smaller budget would give.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.coresets.blocks import MEMORY, TIE, Rows, centred, check, rounding, spans, squared_distances
from likewise.coresets.checkpoint import Checkpoint
from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.progress import bar
from likewise.types import Selection


def k_means(
    x: Float[Tensor, "n d"],
    budget: int,
    *,
    seed: int = 0,
    memory: int = MEMORY,
    chosen: Int[Tensor, " m"] | None = None,
    checkpoint: Checkpoint | None = None,
    keys: Int[Tensor, " n"] | None = None,
    n_iterations: int = 10,
    metric: str = "euclidean",
) -> Selection:
    """Pick `budget` prototypes by the Euclidean distance of x as given ("cosine": of its directions).

    Starts from images drawn by (seed, key) (`keys` default to row numbers) and stops after `n_iterations` or when no
    image changes its cluster. A cluster that runs empty takes the image farthest from its own centre. Images `chosen`
    already are centres that do not move, and are not returned. `weights` are the sizes of the clusters and `gains`
    the shares of the pool that they hold. The centres are kept in float64 a few times over, beyond `memory`.
    """
    if n_iterations < 1:
        raise UsageError(f"n_iterations={n_iterations}: must be at least 1")
    n = len(x)
    chosen = check(n, budget, chosen).cpu()
    keys = torch.arange(n) if keys is None else keys.cpu()
    order = Draws(seed, epoch=0, number=0, keys=keys).bits("coreset/k-means").argsort(stable=True)
    start = order[~torch.isin(order, chosen)][:budget]
    # The fixed centres come first, so that copies of chosen images stay with them.
    fixed, rows = len(chosen), centred(x, memory, metric)
    centres = rows[torch.cat([chosen, start]).to(x.device)].clone()
    movable = torch.ones(n, dtype=torch.bool)
    movable[chosen] = False

    with bar("k-means", n_iterations) as progress:
        start_at, settled = 0, False
        if checkpoint is not None and checkpoint.kept:
            kept = checkpoint.kept
            centres, cell = (torch.from_numpy(kept[name]).to(x.device) for name in ("centres", "cell"))
            start_at, settled = int(kept["iteration"]), bool(kept["settled"])
        else:
            cell = _assign(rows, centres, movable)
        for iteration in range(start_at, n_iterations):
            if settled:
                break
            sums = torch.zeros_like(centres)
            for span, block in rows.blocks(2):
                sums.index_add_(0, cell[span], block)
            sizes = torch.bincount(cell, minlength=len(centres))
            centres[fixed:] = (sums / sizes.clamp(min=1)[:, None])[fixed:]
            before = cell
            cell = _assign(rows, centres, movable)
            progress.update(iteration + 1)
            settled = torch.equal(before, cell)
            if checkpoint is not None:
                # The centres are those that the images of each cell were nearest to.
                checkpoint.keep(centres=centres, cell=cell, iteration=iteration + 1, settled=settled)

    weights = torch.bincount(cell, minlength=len(centres)).cpu().numpy()[fixed:]
    distance = _distance(rows, centres, cell)
    prototypes = _nearest_members(cell.cpu().numpy(), distance.cpu().numpy(), len(centres))[fixed:]
    by_size = np.lexsort((prototypes, -weights))
    return Selection(prototypes[by_size], weights[by_size] / n, weights[by_size].astype(np.float64))


def _nearest_members(cell: np.ndarray, distance: np.ndarray, n_cells: int) -> np.ndarray:
    """Of each cell the member nearest its centre, the lower id among equals."""
    least = np.full(n_cells, np.inf)
    np.minimum.at(least, cell, distance)
    ids = np.flatnonzero(distance <= least[cell] * (1 + 2 * TIE))
    members = np.full(n_cells, len(cell))
    np.minimum.at(members, cell[ids], ids)
    return members


def _assign(rows: Rows, centres: Tensor, movable: Tensor) -> Tensor:
    """The cluster of each image. No cluster of a moving centre stays empty: it takes the farthest image that can be
    spared."""
    cell = nearest(rows, centres)
    sizes = torch.bincount(cell, minlength=len(centres)).tolist()
    fixed = int((~movable).sum())
    empty = [c for c in range(fixed, len(sizes)) if not sizes[c]]
    if empty:
        farthest = iter(_distance(rows, centres, cell).argsort(descending=True, stable=True).tolist())
        for c in empty:
            spare = next(i for i in farthest if movable[i] and (cell[i] < fixed or sizes[int(cell[i])] > 1))
            sizes[int(cell[spare])] -= 1
            cell[spare], centres[c] = c, rows[[spare]][0]
    return cell


def nearest(rows: Rows, centres: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """The nearest centre of each row, the lower number among equals.

    Found in float32; where the second nearest is too close to tell, in float64.
    """
    squares = centres.square().sum(1)
    cell, first, second = rows.matches(centres.float(), (squares / 2).float())
    own = torch.cat([block.square().sum(1) for _, block in rows.blocks(rows.x.shape[1])])
    largest = squares.max().sqrt()
    error = 2 * (rounding(rows.x.shape[1]) + 2**-22) * own.sqrt() * largest + 2**-22 * largest**2
    gap = 2 * (first.double() - second.double())
    unsure = (gap <= 2 * error + 2 * TIE * (own - 2 * first.double() + error)).nonzero()[:, 0]
    for part in spans(len(unsure), 3 * len(centres) + 2 * rows.x.shape[1], rows.memory // 3):
        ids = unsure[part]
        distances = squared_distances(rows[ids], centres, squares)
        least = distances.amin(1, keepdim=True)
        cell[ids] = (distances <= least * (1 + 2 * TIE)).view(torch.uint8).argmax(1)  # the first of equals
    return cell


def _distance(rows: Rows, centres: Tensor, cell: Tensor) -> Float[Tensor, " n"]:
    """The squared distance of each row to its centre; below a millionth of their lengths it is zero."""
    found = []
    for span, block in rows.blocks(3 * rows.x.shape[1]):
        own = centres[cell[span]]
        distance = (block - own).square_().sum(1)
        floor = 1e-12 * (block.square().sum(1) + own.square().sum(1))
        found.append(torch.where(distance < floor, 0.0, distance))
    return torch.cat(found)
