"""Few labels: the linear probe when only a share of the training images is labelled.

Protocol few-label-v1: features standardised by all labelled images of train; the same number of images of each
class, drawn by the images' keys: the share of the labelled images divided by the classes, rounded, at least one, and
of a smaller class all it has. So the share that is used is larger than a small one that was asked for, and smaller than
a large one where classes differ in size. Then the linear probe on these alone, its l2 chosen on one tenth of
them, as in linear-v1: a lottery, but one that is drawn anew with each draw; mean and standard deviation over them.
"""

from typing import Any

import torch

from likewise.draws import Draws
from likewise.errors import UsageError
from likewise.evaluation.labelled import labelled
from likewise.evaluation.linear import probe, standardise
from likewise.types import Embeddings

VERSION = "few-label-v1"


def few_label(
    train: Embeddings, test: Embeddings, *, share: float = 0.01, n_draws: int = 3, seed: int = 0
) -> dict[str, Any]:
    """A linear classifier is trained on a few labels of each class, 1 % of all.

    `accuracy` on test (mean over draws), its `spread` (standard deviation), the number of `labels` used, and the
    `share` of the labelled images that was asked for and the `share_used`."""
    if not 0 < share <= 1:
        raise UsageError(f"share={share}: must be above 0 and at most 1")
    if n_draws < 1:
        raise UsageError(f"n_draws={n_draws}: must be at least 1")
    data = standardise(labelled(train, test))
    present = data.y.unique()
    per_class = max(round(share * len(data.y) / len(present)), 1)
    accuracies, n_labels = [], 0
    for draw in range(n_draws):
        order = Draws(seed, epoch=draw, number=0, keys=data.keys).bits("few-label").argsort(stable=True)
        ids = torch.cat([order[data.y[order] == label][:per_class] for label in present])
        few = data._replace(x=data.x[ids], y=data.y[ids], keys=data.keys[ids])
        accuracies.append(probe(few, seed, held_out=1)["accuracy"])
        n_labels = len(ids)
    result = torch.tensor(accuracies, dtype=torch.float64)
    return {
        "version": VERSION,
        "accuracy": float(result.mean()),
        "spread": float(result.std()) if n_draws > 1 else 0.0,
        "labels": n_labels,
        "share": share,
        "share_used": n_labels / len(data.y),
        "n_draws": n_draws,
    }
