"""k-NN (Wu et al. 2018; Caron et al. 2021): the nearest training images vote for the class of a test image.

Protocol knn-v1: features minus the mean of train, scaled to length 1 (zero stays zero); cosine similarity s; the k
nearest vote with weight exp(s / temperature); the class with the largest sum wins, the lower class among equals.
Where several are as near as the k-th, as with features of few values, the images' keys settle which are taken, and not
the order of the rows. Papers do not remove the mean; raw pixels need it, and learned features hardly notice. k is never
chosen on the test images: 20 and 200 are both reported.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.errors import UsageError
from likewise.evaluation.labelled import labelled, mean
from likewise.types import Embeddings

VERSION = "knn-v1"
TEST_BLOCK, TRAIN_BLOCK = 512, 1 << 16  # rows of each side compared at once: 128 MB of similarities
GROUP = 16  # similarities that compete as one before the nearest are sought


def knn(train: Embeddings, test: Embeddings, *, k: int = 20, temperature: float = 0.07) -> dict[str, Any]:
    """The nearest 20 training images vote for the class of a test image.

    `accuracy` is the share of the test images whose class the vote finds; `plain` the same with equal votes.
    `accuracy_200` is that of k = 200, where train has more images than that. `k` above the number of train images is
    cut to it and reported as used. No labels are seen but those of train. Needs labels on both sides.
    """
    if k < 1 or temperature <= 0:
        raise UsageError(f"k={k}, temperature={temperature}: both must be positive")
    data = labelled(train, test)
    middle = mean(data.x).float()
    order = data.keys.argsort(stable=True)  # ties fall as they may, and the same whatever the order of the rows
    x, y = torch.nn.functional.normalize(data.x[order] - middle, dim=1), data.y[order]
    x_test = torch.nn.functional.normalize(data.x_test - middle, dim=1)
    k = min(k, len(x))
    others = [200] if len(x) > 200 and k != 200 else []
    most = max([k, *others])
    right: dict[str, int] = dict.fromkeys(("accuracy", "plain", *(f"accuracy_{other}" for other in others)), 0)
    for start in range(0, len(x_test), TEST_BLOCK):
        similarity, which = nearest(x_test[start : start + TEST_BLOCK], x, most)
        classes, truth = y[which], data.y_test[start : start + TEST_BLOCK]
        nearness = similarity.double() - similarity[:, :1].double()  # to the nearest's: the same winner, and no
        weight = torch.exp(nearness / temperature)  # overflow, nor nothing but zeros
        for name, n, votes in (
            ("accuracy", k, weight),
            ("plain", k, torch.ones_like(weight)),
            *((f"accuracy_{other}", other, weight) for other in others),
        ):
            right[name] += int((_vote(classes[:, :n], votes[:, :n], data.n_classes) == truth).sum())
    return {"version": VERSION, "k": k, **{name: n / len(x_test) for name, n in right.items()}}


def nearest(
    queries: Float[Tensor, "m d"], x: Float[Tensor, "n d"], k: int
) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
    """The k largest inner products of each query with the rows of x, and those rows, largest first."""
    best, which = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(x), TRAIN_BLOCK):
        values, columns = _top(queries @ x[start : start + TRAIN_BLOCK].T, k)
        best, which = torch.cat([best, values], 1), torch.cat([which, columns + start], 1)
        if start:
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            which = which.gather(1, order)
    best, order = best.sort(dim=1, descending=True, stable=True)
    return best, which.gather(1, order)


def _top(values: Float[Tensor, "m n"], k: int) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
    """The k largest of each row. A group of columns holds one of them only if its maximum is among the k largest
    maxima, so most columns drop out in one cheap pass: several times faster than `topk` on everything."""
    m, n = values.shape
    whole = n // GROUP * GROUP
    if n <= 4 * GROUP * k or not whole:
        return values.topk(min(k, n), dim=1, sorted=False)
    groups = values[:, :whole].unflatten(1, (-1, GROUP))
    chosen = groups.amax(2).topk(k, dim=1, sorted=False).indices
    columns = (chosen[:, :, None] * GROUP + torch.arange(GROUP)).flatten(1)
    columns = torch.cat([columns, torch.arange(whole, n).expand(m, -1)], 1)
    top, order = values.gather(1, columns).topk(k, dim=1, sorted=False)
    return top, columns.gather(1, order)


def _vote(classes: Int[Tensor, "m k"], votes: Tensor, n_classes: int) -> Int[Tensor, " m"]:
    sums = torch.zeros(len(classes), n_classes, dtype=votes.dtype).scatter_add_(1, classes, votes)
    # Sums in different orders differ in their last digits: equal to 1e-9 counts as equal, and the lower class wins.
    return (sums >= sums.amax(1, keepdim=True) * (1 - 1e-9)).to(torch.uint8).argmax(1)
