"""BiGAN (Donahue et al., 2016): a critic tells images and their codes from codes and their drawings, and is fooled.

arXiv 1605.09782, the same as ALI (Dumoulin et al., 2016, arXiv 1606.00704). The encoder makes codes of images, the
decoder draws images from normal codes. Where the critic cannot tell one kind of pair from the other, each is the
other's inverse, though no pixel was ever compared. Both sides learn in every step, each with the other held. Against a
critic that is sure long before the others have learned anything, its slope on true pairs is kept small (Mescheder et
al., 2018, arXiv 1801.04406); the paper has no such term. The features are what the layer of the codes is given, as the
VAE's are.
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
from likewise.methods.drawing import WIDEST, Decoder, shown
from likewise.methods.parts import full_precision, mlp
from likewise.types import Batch, DataInfo, Encoder, Images, Step, TrainConfig
from likewise.views import View


class Critic(nn.Module):
    """An image "b c size size" and a code "b d" -> a logit "b": above 0 where the code was made of the image.

    Each image is normalised by itself, so that a pair is judged alone, whatever else is in the batch.
    """

    def __init__(self, data: DataInfo, code_dim: int, width: int, hidden_dim: int) -> None:
        super().__init__()
        n = max(1, math.ceil(math.log2(data.size / 4)))
        widths = [data.channels, *(min(WIDEST, width * 2**i) for i in range(n))]
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


def slope(logits: Float[Tensor, " b"], *inputs: Tensor) -> Float[Tensor, " b"]:
    """The squared length of the gradient of each logit by its own inputs."""
    slopes = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return torch.cat([x.float().flatten(1) for x in slopes], 1).square().sum(1)


class BiGAN(Method):
    """One view "b c h w" -> encoder -> its code; a normal code -> decoder -> its drawing; both pairs -> a critic."""

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
        critic_width: int = 32,
        slope_weight: float = 10.0,
        hidden_dim: int = 512,
    ) -> None:
        super().__init__()
        self.encoder, self.views, self.slope_weight = encoder, views, slope_weight
        self.code = mlp(encoder.dim, code_dim, last_norm=True)
        self.decoder = Decoder(code_dim, data, drawing_width)
        self.critic = Critic(data, code_dim, critic_width, hidden_dim)

    def step(self, batch: Batch) -> Step:
        (images,) = batch.views
        codes = self.code(self.encoder(images))
        dreamt = normal(batch.draws.image("code", codes.shape[1]))
        drawn = self.decoder(dreamt).sigmoid()
        with torch.enable_grad():  # the slope is needed where nothing is learned, too
            pair = images.detach().requires_grad_(), codes.detach().requires_grad_()
            high, low = self.critic(*pair), self.critic(drawn.detach(), dreamt)
            steep = self.slope_weight * slope(high, *pair)
        held = {name: p.detach() for name, p in self.critic.named_parameters()}
        fooled = told_apart(  # the same with the answers exchanged: a sure critic still says which way to go
            functional_call(self.critic, held, (drawn, dreamt)), functional_call(self.critic, held, (images, codes))
        )
        terms = {"critic": told_apart(high, low).mean(), "slope": steep.mean(), "fooling": fooled.mean()}
        return Step(terms, {"error": torch.cat([high < 0, low > 0]).float().mean()})

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Images]:
        (images,) = batch.views
        codes = self.code(self.encoder(images))
        dreamt = normal(batch.draws.image("code", codes.shape[1]))
        drawn, noise = (shown(self.decoder(code).sigmoid()) for code in (codes, dreamt))
        return {"image": images, "drawn": drawn, "drawn from noise": noise}


RECIPE = TrainConfig(
    epochs=100, batch_size=256, optimizer="muon", lr=0.02, weight_decay=0.02, betas=(0.9, 0.98), warmup=0.1
)
