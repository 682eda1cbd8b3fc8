"""BiGAN (Donahue et al., 2016): a discriminator tells images and their codes from codes and their drawings.

arXiv 1605.09782; ALI (Dumoulin et al., 2016, arXiv 1606.00704) is the same with an encoder that draws lots. The encoder
makes codes of images, the decoder draws images from normal codes, and both are to fool the discriminator. Where it
cannot tell one kind of pair from the other, each of them is the other's inverse, though no pixel was ever compared.
Both sides learn in every step, each with the other held.

Two things are not in the paper. Codes are batch-normalised, so that their scale gives nothing away. And a discriminator
that would be sure long before the others have learned anything pays for its gradient on pairs of an image and its code
(R1, Mescheder et al., 2018, arXiv 1801.04406). The features are what the layer of the codes is given, as the VAE's are.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from likewise.draws import normal
from likewise.methods.base import Method
from likewise.methods.drawing import Decoder, doubled, shown
from likewise.methods.parts import full_precision, mlp
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View


class Discriminator(nn.Module):
    """An image "b c size size" and a code "b d" -> a logit "b": above 0 where the code was made of the image.

    Each image is normalised by itself, so that a pair is judged alone, whatever else is in the batch.
    """

    def __init__(self, data: DataInfo, code_dim: int, width: int, hidden_dim: int) -> None:
        super().__init__()
        n = max(1, math.ceil(math.log2(data.size / 4)))
        widths = [data.channels, *doubled(width, n)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.GroupNorm(1, after), nn.LeakyReLU(0.2)]
        self.look = nn.Sequential(*layers, nn.Flatten())
        self.judge = mlp(
            widths[-1] * math.ceil(data.size / 2**n) ** 2 + code_dim, hidden_dim, hidden_dim, 1, norm=False
        )

    def forward(self, images: Images, codes: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        return self.judge(torch.cat([self.look(images), codes], 1)).squeeze(1)


@full_precision
def told_apart(high: Float[Tensor, " b"], low: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The cross-entropy of two logits, one of which should be above 0 and one below."""
    return F.softplus(-high) + F.softplus(low)


def squared_gradient(logits: Float[Tensor, " b"], *inputs: Tensor) -> Float[Tensor, " b"]:
    """The squared length of the gradient of each logit by its own inputs."""
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return torch.cat([x.float().flatten(1) for x in gradients], 1).square().sum(1)


class BiGAN(Method):
    """One view "b c h w" -> encoder -> code; a normal code -> decoder -> drawing; both pairs -> discriminator."""

    family = "generative"
    default_views = "weak"

    def __init__(
        self,
        encoder: Encoder,
        data: DataInfo,
        *,
        views: Sequence[View],
        code_dim: int = 128,
        drawing_width: int = 16,
        discriminator_width: int = 32,
        penalty_weight: float = 20.0,
        hidden_dim: int = 512,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.penalty_weight = encoder, views, penalty_weight
        self.code = mlp(encoder.dim, code_dim, last_norm=True)
        self.decoder = Decoder(code_dim, data, drawing_width)
        self.discriminator = Discriminator(data, code_dim, discriminator_width, hidden_dim)

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        codes = self.code(self.encoder(images))
        sampled = normal(batch.draws.image("code", codes.shape[1]))
        drawn = self.decoder(sampled).sigmoid()
        with torch.enable_grad():  # the penalty is a gradient where nothing is learned, too
            pair = images.detach().requires_grad_(), codes.detach().requires_grad_()
            high, low = self.discriminator(*pair), self.discriminator(drawn.detach(), sampled)
            penalty = self.penalty_weight / 2 * squared_gradient(high, *pair)
        held = {name: p.detach() for name, p in self.discriminator.named_parameters()}

        def judged(images: Images, codes: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
            return functional_call(self.discriminator, held, (images, codes))

        # The same with the answers exchanged, as in the paper: no gradient vanishes where the discriminator is sure.
        fooled = told_apart(judged(drawn, sampled), judged(images, codes))
        terms = {"discriminator": told_apart(high, low).mean(), "penalty": penalty.mean(), "generator": fooled.mean()}
        return Step(terms, {"error": torch.cat([high < 0, low > 0]).float().mean()})

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Images]:
        (images,) = batch.views
        codes = self.code(self.encoder(images))
        sampled = normal(batch.draws.image("code", codes.shape[1]))
        drawn, noise = (shown(self.decoder(code).sigmoid()) for code in (codes, sampled))
        return {"image": images, "drawn": drawn, "drawn from noise": noise}


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
