"""MoCo v2 (Chen et al., 2020): a view finds its slow teacher's key among a long queue of earlier keys.

arXiv 2003.04297, after MoCo (He et al., 2019, arXiv 1911.05722). Shuffle BN on one process: query and key must not
share their batch's statistics, or the statistics tell which key is right; so the keys are shuffled by draws and encoded
in `key_groups` parts, each with statistics of its own. The queue holds at most an eighth as many keys as there are
images, so that on small sets too an image seldom meets its own old key as a negative: in one step of a hundred or fewer
from 8,000 images on, in one of sixty on 1,800.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from likewise.draws import Draws, normal
from likewise.methods.base import Method
from likewise.methods.parts import Queue, Teacher, full_precision, mlp, spread, unit
from likewise.types import Batch, DataInfo, Encoder, Step, TrainConfig
from likewise.views import View


@full_precision
def queue_contrast(
    q: Float[Tensor, "n d"], k: Float[Tensor, "n d"], queue: Float[Tensor, "m d"], temperature: float
) -> Float[Tensor, " n"]:
    """The cross-entropy of each query's own key against a queue of others (unit rows)."""
    q, k = unit(q), unit(k)
    own = (q * k).sum(1, keepdim=True)
    logits = torch.cat([own, q @ queue.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device), reduction="none")


class MoCoV2(Method):
    """First view -> encoder -> projector; second view -> teacher -> key; afterwards the keys enter the queue."""

    family = "contrastive"

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        temperature: float = 0.1,
        teacher_momentum: float = 0.99,
        queue_size: int = 4096,
        key_groups: int = 4,
        hidden_dim: int = 512,
        output_dim: int = 128,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.temperature = encoder, views, temperature
        self.teacher_momentum, self.key_groups = teacher_momentum, key_groups
        self.projector = mlp(encoder.dim, hidden_dim, output_dim, norm=False)
        self.teacher = Teacher(self.encoder, self.projector)
        self.queue = Queue(max(1, min(queue_size, data.n_images // 8)), output_dim)

    def begin_epoch(self, epoch: int, draws: Draws) -> None:
        if epoch == 0:
            self.queue.push(unit(normal(draws.step("queue", *self.queue.kept.shape))))

    def keys(self, batch: Batch) -> Float[Tensor, "b d"]:
        """The teacher's keys of the second view, made in shuffled groups and put back in order."""
        shuffled = batch.draws.bits("shuffle").argsort()
        groups = batch.views[1][shuffled].tensor_split(min(self.key_groups, max(1, len(shuffled) // 2)))
        return torch.cat([self.teacher(group) for group in groups])[shuffled.argsort()]

    def step(self, batch: Batch) -> Step:
        q, k = self.projector(self.encoder(batch.views[0])), self.keys(batch)
        loss = queue_contrast(q, k, self.queue.rows().clone(), self.temperature)
        if self.training:
            self.queue.push(unit(k.float()))
        return Step({"contrast": loss.mean()}, {"spread": spread(q)}, loss.detach())

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self.encoder, self.projector, self.teacher_momentum)


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
