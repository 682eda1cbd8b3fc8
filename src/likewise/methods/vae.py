"""VAE (Kingma and Welling, 2013): images are drawn from codes of few numbers, whose distribution is kept normal.

arXiv 1312.6114. The loss is minus the evidence lower bound, in nats and up to a constant: pixels are normal around what
is drawn, with a fixed `deviation`; `beta` weighs the divergence of the codes (Higgins et al., 2017). The features are
what the layer of the codes is given, not the codes, as other methods' are what their heads are given. Shown is the
share of a code's numbers that are `active`: whose means vary over images (Burda et al., 2015, arXiv 1509.00519).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise.draws import normal
from likewise.errors import UsageError
from likewise.methods.base import Method
from likewise.methods.drawing import Decoder, shown, squared_error
from likewise.methods.parts import full_precision
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig, gather
from likewise.views import View


@full_precision
def divergence(mean: Float[Tensor, "b d"], log_variance: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """KL(N(mean, variance) || N(0, 1)) of each code, in nats."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2


class VAE(Method):
    """One view "b c h w" -> encoder -> mean and variance of a code -> a draw -> decoder -> minus the lower bound."""

    family = "generative"
    default_views = "weak"

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        code_dim: int = 128,
        deviation: float = 0.1,
        beta: float = 1.0,
        drawing_width: int = 16,
    ) -> None:
        super().__init__()
        if not 1e-6 <= deviation <= 1e6:
            raise UsageError(f"deviation={deviation}: expected a number from 1e-6 to 1e6; pixels are from 0 to 1")
        self.encoder, self.views, self.deviation, self.beta = encoder, views, deviation, beta
        self.code = nn.Linear(encoder.dim, 2 * code_dim)
        self.decoder = Decoder(code_dim, data, drawing_width)

    def codes(self, images: Images) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """The mean and the logarithm of the variance of each code."""
        mean, log_variance = self.code(self.encoder(images)).float().chunk(2, 1)
        return mean, log_variance.clamp(-20, 20)

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        mean, log_variance = self.codes(images)
        code = mean + (log_variance / 2).exp() * normal(batch.draws.image("code", mean.shape[1]))
        error = squared_error(self.decoder(code), images).flatten(1).sum(1) / (2 * self.deviation**2)
        apart = self.beta * divergence(mean, log_variance)
        active = (gather(mean.detach()).var(0, correction=0) > 0.01).float().mean()
        terms = {"reconstruction": error.mean(), "divergence": apart.mean()}
        return Step(terms, {"active": active}, (error + apart).detach())

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Images]:
        (images,) = batch.views
        mean, _ = self.codes(images)
        dreamt = self.decoder(normal(batch.draws.image("dream", mean.shape[1])))
        return {"image": images, "drawn": shown(self.decoder(mean)), "drawn from noise": shown(dreamt)}


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
