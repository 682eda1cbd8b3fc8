"""DrLIM (Hadsell, Chopra, LeCun, 2006): similar images attract each other, others repel up to a margin.

CVPR 2006. What is similar is said by a relation (`likewise.relations`), never by a distance between images. A batch is
made of seeds, some images like each seed, and transformed copies of all of them (one for each view); every pair in it
counts once, with its true relation. The paper draws single pairs, about as many similar as dissimilar ones: here the
two kinds are weighted to that balance.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise.draws import Draws
from likewise.errors import DataError, UsageError
from likewise.methods.base import Method
from likewise.methods.parts import encode, full_precision
from likewise.relations import Relation, alone
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig, gather
from likewise.views import View


@full_precision
def attraction(distance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The loss of a similar pair: a spring without length, half the squared distance."""
    return distance.square() / 2


@full_precision
def repulsion(distance: Float[Tensor, "..."], margin: float) -> Float[Tensor, "..."]:
    """The loss of a dissimilar pair: a spring that only pushes, half the square of what is missing to the margin."""
    return (margin - distance).clamp(min=0).square() / 2


@full_precision
def distances(z: Float[Tensor, "n d"]) -> Float[Tensor, " p"]:
    """Euclidean distances of all pairs of rows, (0, 1) first. Where one is zero its gradient is zero, not undefined."""
    return torch.pdist(z.cpu() if z.device.type == "mps" else z).to(z.device)


class DrLIM(Method):
    """Views "b c h w" -> encoder -> attraction of similar pairs and repulsion of all others.

    `relation` says which images are alike; its transformed copies (views) are like each image in any case. Without one
    that is all: the copies of an image are alike, and everything else is dissimilar. `companions` images like it join
    each seed. `similar_share` is the weight of the similar pairs among all; 0 counts every pair alike, and then most of
    the loss repels. The features are the map.

    Raises DataError for a relation of other images, UsageError where nothing could be similar.
    """

    family = "contrastive"
    multi_crop = True
    least_views = 1

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        relation: Relation | str | None = None,
        margin: float = 1.0,
        companions: int = 7,
        similar_share: float = 0.5,
    ) -> None:
        super().__init__()
        if isinstance(relation, str):
            raise UsageError(
                f"relation={relation!r}: a word is for pretrain, which has the images; expected a Relation"
            )
        if relation is not None and len(relation) != data.n_images:
            raise DataError(f"relation: is of {len(relation):,} images; expected the {data.n_images:,} of the data")
        if (relation is None or not relation.n_similar) and len(views) < 2:
            raise UsageError("relation: none is given and there is one view, so nothing is similar; expected either")
        if margin <= 0:
            raise UsageError(f"margin={margin}: expected a positive number")
        if companions < 0:
            raise UsageError(f"companions={companions}: expected 0 or more")
        if not 0 <= similar_share < 1:
            raise UsageError(f"similar_share={similar_share}: expected at least 0 and less than 1")
        self.encoder, self.views, self.margin, self.similar_share = encoder, views, margin, similar_share
        self.relation = alone(data.n_images) if relation is None else relation
        self.companions = companions if self.relation.n_similar else 0

    def order(self, epoch: int, draws: Draws) -> Int[Tensor, "m k"]:
        """A seed and its companions in each row; every image is a seed once an epoch."""
        seeds = super().order(epoch, draws)
        u = draws.image("companions", self.companions)[seeds.squeeze(1)]
        return torch.cat([seeds, self.relation.draw(seeds.squeeze(1), u)], 1)

    def step(self, batch: Batch) -> Step:
        z, ids = gather(torch.stack(encode(self.encoder, batch.views), 1)), gather(batch.ids).flatten().cpu()
        new = first_of_each(ids)  # an image that joined two seeds is there once
        z, ids = z[new.to(z.device)].transpose(0, 1).flatten(0, 1), ids[new]
        alike = self.relation.similar(ids).repeat(len(batch.views), len(batch.views))
        similar = alike[*torch.triu_indices(len(z), len(z), 1)].to(z.device)
        distance = distances(z)
        attract, repel = pair_weights(similar, self.similar_share)
        near, far = attraction(distance[similar]), repulsion(distance[~similar], self.margin)
        shown = {"similar distance": distance[similar], "other distance": distance[~similar]}
        return Step(
            {"attraction": attract * near.sum(), "repulsion": repel * far.sum()},
            {name: values.detach().sum() / max(1, len(values)) for name, values in shown.items()},
        )


def pair_weights(similar: Bool[Tensor, " p"], share: float) -> tuple[float, float]:
    """The weight of each similar and of each other pair: all weights sum to 1, those of similar pairs to `share`.

    A share of 0 counts every pair alike; so does a batch that has pairs of one kind only.
    """
    n, n_similar = len(similar), int(similar.sum())
    if share == 0 or n_similar in (0, n):
        return 1 / max(1, n), 1 / max(1, n)
    return share / n_similar, (1 - share) / (n - n_similar)


def first_of_each(ids: Int[Tensor, " b"]) -> Int[Tensor, " u"]:
    """Where each id occurs first, in that order."""
    order = ids.argsort(stable=True)
    ordered = ids[order]
    first = torch.cat([torch.ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])
    return order[first].sort().values


RECIPE = TrainConfig(steps=3_000, batch_size=512, optimizer="adamw", lr=3e-3, weight_decay=1e-4, precision="fp32")
