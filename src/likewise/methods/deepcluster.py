"""DeepCluster-v2 (Caron et al., 2020): cluster last epoch's projections by k-means; every view must tell its cluster.

arXiv 1807.05520; the second version is in the appendix of arXiv 2006.09882. A bank remembers a projection of every
image, before the first epoch that of the untrained network, which looks at all images once: even these cluster better
than by chance. Before each epoch it is clustered `n_heads` times, from other starts; the centroids are the classifiers,
and are not learned. The bank holds the first view alone; the authors' code has a bank for each large view, and its
heads take turns with them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from likewise.draws import Draws
from likewise.methods.base import Method
from likewise.methods.parts import cosines, encode, full_precision, mlp, spread, unit
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig, gather
from likewise.views import View


@full_precision
def clustered(
    z: Float[Tensor, "v n d"], centroids: Float[Tensor, "h k d"], clusters: Int[Tensor, "h n"], temperature: float
) -> Float[Tensor, " n"]:
    """The cross-entropy of each image's cluster among the cosines with all centroids, averaged over views and heads."""
    logits = torch.stack([cosines(z.flatten(0, 1), head) for head in centroids]) / temperature
    own = clusters.repeat(1, len(z)).unsqueeze(2)
    return -logits.log_softmax(2).gather(2, own).reshape(-1, *z.shape[:2]).mean((0, 1))


def spherical_k_means(
    x: Float[Tensor, "n d"], starts: Int[Tensor, " k"], n_iterations: int = 10
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " n"]]:
    """Centroids of length one, and the nearest for each row by cosine. A centroid that loses all its rows stays."""
    x = unit(x)
    centroids = x[starts]
    for _ in range(n_iterations):
        nearest = torch.cat([(rows @ centroids.T).argmax(1) for rows in x.split(8192)])
        sums = torch.zeros_like(centroids).index_add(0, nearest, x)
        centroids = torch.where(nearest.bincount(minlength=len(starts)).unsqueeze(1) > 0, unit(sums), centroids)
    return centroids, torch.cat([(rows @ centroids.T).argmax(1) for rows in x.split(8192)])


class DeepCluster(Method):
    """Views "b c h w" -> encoder -> projector -> cosines with centroids -> cross-entropy with the image's cluster."""

    family = "clustering"
    default_views = "multi-crop"
    multi_crop = True
    looks = True
    bank: Tensor
    centroids: Tensor
    clusters: Tensor

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        temperature: float = 0.1,
        n_clusters: int = 300,
        n_heads: int = 3,
        hidden_dim: int = 512,
        output_dim: int = 128,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.temperature = encoder, views, temperature
        self.projector = mlp(encoder.dim, hidden_dim, output_dim, last_norm=True)
        k = max(2, min(n_clusters, data.n_images // 4))
        self.register_buffer("bank", torch.zeros(data.n_images, output_dim))
        self.register_buffer("centroids", torch.nn.functional.normalize(torch.randn(n_heads, k, output_dim), dim=2))
        self.register_buffer("clusters", torch.zeros(n_heads, data.n_images, dtype=torch.int64))

    def look(self, batch: Batch) -> None:
        self.remember(batch, self.projector(self.encoder(batch.views[0])))

    def remember(self, batch: Batch, z: Float[Tensor, "b d"]) -> None:
        self.bank[gather(batch.ids.flatten())] = gather(unit(z.detach().float()))

    @torch.no_grad()
    def begin_epoch(self, epoch: int, draws: Draws) -> None:
        n_heads, k, _ = self.centroids.shape
        lots = draws.image("clusters", n_heads)
        if not bool(self.bank.any()):  # no images were shown: in a trial of the speed
            self.clusters.copy_((lots.T * k).long())
            return
        by_key = draws.keys.argsort()  # so that the order in which images are listed changes no sum
        for head in range(n_heads):
            starts = lots[by_key, head].argsort()[:k]
            self.centroids[head], self.clusters[head, by_key] = spherical_k_means(self.bank[by_key], starts)

    def step(self, batch: Batch) -> Step:
        z = torch.stack(encode(lambda images: self.projector(self.encoder(images)), batch.views))
        loss = clustered(z, self.centroids, self.clusters[:, batch.ids.flatten()], self.temperature)
        if self.training:
            self.remember(batch, z[0])
        return Step({"cross-entropy": loss.mean()}, {"spread": spread(z[0])}, loss.detach())


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
