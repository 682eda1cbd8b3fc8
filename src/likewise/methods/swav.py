"""SwAV (Caron et al., 2020): views of an image predict each other's cluster, among clusters that are used equally.

arXiv 2006.09882. Clusters are assigned within the batch; the newest `queue_size` projections of earlier batches help to
balance them. Prototypes are normalised where they are used instead of after each step, and projections are also
batch-normalised, so that images differ from the first step on. One queue, in use from the start, holds the projections
of all large views; the authors' code has one for each, and waits for it to fill.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from likewise.methods.base import Method
from likewise.methods.parts import Prototypes, Queue, crossed, encode, full_precision, large, mlp, sinkhorn, spread
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig, rank, world
from likewise.views import View


@full_precision
def swapped(
    scores: Float[Tensor, "v n k"], assignments: Float[Tensor, "g n k"], temperature: float
) -> Float[Tensor, " n"]:
    """The loss of each image: its other views' cosines with the prototypes must tell a large view's assignment."""
    return crossed(assignments, scores / temperature)


class SwAV(Method):
    """Views "b c h w" -> encoder -> projector -> cosines with prototypes.

    Sinkhorn's algorithm makes the cosines of a large view an assignment; every other view predicts it.
    """

    family = "clustering"
    default_views = "multi-crop"
    multi_crop = True

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        temperature: float = 0.1,
        epsilon: float = 0.05,
        n_prototypes: int = 300,
        thaw: float = 0.01,
        queue_size: int = 1024,
        hidden_dim: int = 512,
        output_dim: int = 128,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.temperature, self.epsilon = encoder, views, temperature, epsilon
        self.projector = mlp(encoder.dim, hidden_dim, output_dim, last_norm=True)
        self.prototypes = Prototypes(output_dim, n_prototypes, thaw)
        self.queue = Queue(queue_size, output_dim)

    def step(self, batch: Batch) -> Step:
        z = encode(lambda images: self.projector(self.encoder(images)), batch.views)
        scores = torch.stack([self.prototypes(x, batch.progress) for x in z])
        earlier = self.prototypes(self.queue.rows()[rank() :: world()])  # each process brings its share
        n_large, n = len(large(batch.views)), len(z[0])
        assigned = [sinkhorn(torch.cat([some, earlier]), self.epsilon)[:n] for some in scores[:n_large]]
        loss = swapped(scores, torch.stack(assigned), self.temperature)
        if self.training:
            for x in z[:n_large]:
                self.queue.push(x.detach())
        return Step({"cross-entropy": loss.mean()}, {"spread": spread(z[0])}, loss.detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
