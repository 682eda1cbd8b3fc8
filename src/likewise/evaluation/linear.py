"""Linear probe: multinomial logistic regression on frozen features.

Protocol linear-v2: features standardised by train; full-batch L-BFGS on the mean cross-entropy plus l2 / 2 times the
squared weights (not the biases); l2 is the best of 9 values from 1 to 1e-6, the larger among equals, on tenths of train
that are held out in turn until they hold 500 images together: one tenth of 5,000 images or more (as linear-v1 of any
number), each of the ten of 500 or fewer, where a single one would decide by lot. The tenths are drawn by the images'
keys. Then trained again on all of train. No augmentation. A scikit-learn LogisticRegression with C = 1 / (n l2)
minimises the same.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from likewise.draws import Draws
from likewise.evaluation.labelled import BLOCK, Labelled, labelled, mean
from likewise.types import Embeddings

VERSION = "linear-v2"
L2 = tuple(10 ** (-0.75 * i) for i in range(9))  # from strong to weak: each solution starts the next
MAX_ITERATIONS = 100  # per value of l2
HELD_OUT = 500  # images, if there are so many, that l2 is chosen on


def linear(train: Embeddings, test: Embeddings, *, seed: int = 0) -> dict[str, Any]:
    """A linear classifier is trained on the features of all labelled training images.

    `accuracy` on test, the `l2` that was chosen and its `validation` accuracy. `seed` draws what is held out."""
    return {"version": VERSION, **probe(standardise(labelled(train, test)), seed)}


def probe(data: Labelled, seed: int, held_out: int = HELD_OUT) -> dict[str, float]:
    """The same on standardised arrays."""
    weights, l2, validation = solve(data, seed, held_out)
    return {"accuracy": accuracy(weights, data.x_test, data.y_test), "l2": l2, "validation": validation}


def solve(data: Labelled, seed: int, held_out: int = HELD_OUT) -> tuple[Float[Tensor, "e c"], float, float]:
    """The probe itself: weights (the last row their biases), the l2 that was chosen and its validation accuracy."""
    order = Draws(seed, epoch=0, number=0, keys=data.keys).bits("linear/validation").argsort(stable=True)
    tenths = order.split(max(len(order) // 10, 1))[:10]
    tenths = tenths[: math.ceil(held_out / len(tenths[0]))]
    rests = [order[~torch.isin(order, tenth)] for tenth in tenths]
    start = torch.zeros(data.x.shape[1] + 1, data.n_classes)
    weights = [start] * len(tenths)
    best, l2 = -1.0, L2[0]
    for candidate in L2:
        weights = [fit(data.x[rest], data.y[rest], candidate, w) for rest, w in zip(rests, weights, strict=True)]
        scores = [accuracy(w, data.x[tenth], data.y[tenth]) for tenth, w in zip(tenths, weights, strict=True)]
        validation = sum(scores) / len(scores)
        if validation > best + 1e-9:  # equal sums in different orders differ in their last digits
            best, l2, start = validation, candidate, weights[0]
    return fit(data.x, data.y, l2, start), l2, best


def standardise(data: Labelled) -> Labelled:
    """Zero mean and unit variance by the train side, for both sides; channels that are constant there become zero."""
    middle = mean(data.x)
    squares = [(block - middle).square().sum(0) for block in data.x.split(BLOCK)]
    std = (torch.stack(squares).sum(0) / len(data.x)).sqrt()
    scale = torch.where(std > 1e-6 * (middle.abs() + std.mean()), 1 / std, 0.0)

    def scaled(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return torch.cat([((block - middle) * scale).float() for block in x.split(BLOCK)])

    return data._replace(x=scaled(data.x), x_test=scaled(data.x_test))


def fit(x: Float[Tensor, "n d"], y: Int[Tensor, " n"], l2: float, start: Float[Tensor, "e c"]) -> Float[Tensor, "e c"]:
    """Weights of the classes, the last row their biases, by L-BFGS from `start`. Deterministic."""
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=MAX_ITERATIONS,
        history_size=20,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(torch.addmm(weights[-1], x, weights[:-1]), y) + l2 / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


def accuracy(weights: Float[Tensor, "e c"], x: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> float:
    return float((torch.addmm(weights[-1], x, weights[:-1]).argmax(1) == y).double().mean())
