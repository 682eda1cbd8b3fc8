"""Vision transformer (Dosovitskiy et al., 2020, arXiv 2010.11929), pre-norm, with a class token.

Positions are two-dimensional sines and cosines computed for the grid at hand, so that images of any size (a local
crop, a larger test image) are placed on the same scale as the training images: positions interpolate by formula.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.encoders.normalise import Normalise
from likewise.errors import UsageError
from likewise.types import DataInfo, Encoder, Images

Tokens = Float[Tensor, "b t d"]


class Block(nn.Module):
    """Attention and a two-layer perceptron, each on normalised input and added to the stream."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tokens) -> Tokens:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ViT(Encoder):
    """Features are the mean of the last patch tokens (`pool="mean"`) or the class token (`pool="cls"`)."""

    def __init__(
        self, data: DataInfo, *, width: int, depth: int, n_heads: int, patch: int | None = None, pool: str = "mean"
    ) -> None:
        super().__init__()
        patch = patch or (4 if data.size <= 48 or data.size % 8 else 8 if data.size <= 128 or data.size % 16 else 16)
        if data.size % patch:
            raise UsageError(f"size={data.size}: a ViT of patch={patch} needs a multiple of {patch}")
        if pool not in ("mean", "cls"):
            raise UsageError(f"pool={pool!r}: expected 'mean' or 'cls'")
        self.normalise = Normalise(data.channels)
        self.patch, self.grid, self.pool, self.dim = patch, data.size // patch, pool, width
        self.scale = self.grid  # of the positions; where training goes on at another size, that of the first
        self.embed = nn.Linear(data.channels * patch**2, width)
        self.cls = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, n_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        initialise(self)
        nn.init.xavier_uniform_(self.embed.weight)  # 0.02 would drown small patches in their positions
        nn.init.normal_(self.cls, std=0.02)

    def patches(self, images: Images) -> Float[Tensor, "b t p"]:
        """Cut into squares, row by row; each patch lists its pixels as (channel, row, column)."""
        b, c, h, w = images.shape
        if h % self.patch or w % self.patch:
            raise UsageError(f"images of {h} x {w} pixels: a ViT of patch={self.patch} needs multiples of {self.patch}")
        cut = images.reshape(b, c, h // self.patch, self.patch, w // self.patch, self.patch)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * self.patch**2)

    def hidden(
        self,
        images: Images,
        *,
        keep: Int[Tensor, "b k"] | None = None,
        replace: tuple[Bool[Tensor, "b n"], Float[Tensor, " d"]] | None = None,
        layers: int = 1,
    ) -> list[Tokens]:
        """The stream after each of the last `layers` blocks: the class token, then the patches that are seen.

        `keep` lists the patches that are seen at all (MAE, I-JEPA); `replace` puts a token in the place of
        masked ones before their positions are added (SimMIM, iBOT, data2vec).
        """
        h, w = images.shape[2] // self.patch, images.shape[3] // self.patch
        x = self.embed(self.patches(self.normalise(images)))
        if replace is not None:
            mask, token = replace
            x = torch.where(mask.unsqueeze(2), token.to(x.dtype), x)
        x = x + positions(h, w, self.dim, scale=self.scale, device=x.device)
        if keep is not None:
            x = x.gather(1, keep.unsqueeze(2).expand(-1, -1, self.dim))
        x = torch.cat([self.cls.to(x.dtype).expand(len(x), 1, -1), x], 1)
        stream = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i >= len(self.blocks) - layers:
                stream.append(x)
        return stream

    def tokens(
        self,
        images: Images,
        *,
        keep: Int[Tensor, "b k"] | None = None,
        replace: tuple[Bool[Tensor, "b n"], Float[Tensor, " d"]] | None = None,
    ) -> Tokens:
        """The normalised last tokens: the class token first, then the patches that are seen."""
        return self.norm(self.hidden(images, keep=keep, replace=replace)[-1])

    def dense(self, images: Images) -> list[Float[Tensor, "b _ _ _"]]:
        """The patch tokens of every block as maps."""
        h, w = images.shape[2] // self.patch, images.shape[3] // self.patch
        stream = self.hidden(images, layers=len(self.blocks))
        return [x[:, 1:].transpose(1, 2).reshape(len(x), self.dim, h, w) for x in stream]

    def pooled(self, tokens: Tokens) -> Float[Tensor, "b d"]:
        """One feature vector per image from its normalised tokens."""
        return tokens[:, 0] if self.pool == "cls" else tokens[:, 1:].mean(1)

    def forward(self, images: Images) -> Float[Tensor, "b dim"]:
        return self.pooled(self.tokens(images))

    def get_extra_state(self) -> Tensor:
        """The scale goes with the weights."""
        return torch.tensor(self.scale)

    def set_extra_state(self, state: Tensor) -> None:
        self.scale = int(state)


def initialise(module: nn.Module) -> None:
    """Truncated normals of deviation 0.02 for the weights of linear layers, zero for their biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)


def positions(
    h: int, w: int, d: int, *, scale: int | None = None, device: torch.device | None = None
) -> Float[Tensor, "t d"]:
    """Sines and cosines of the row and of the column of each patch, a quarter of the `d` dimensions each.

    With `scale` the grid is stretched to that many patches a side.
    """
    step_y, step_x = (scale / h, scale / w) if scale else (1.0, 1.0)
    y = (torch.arange(h, device=device) + 0.5) * step_y
    x = (torch.arange(w, device=device) + 0.5) * step_x
    frequency = torch.exp(-math.log(10_000) * torch.arange(d // 4, device=device) / (d // 4))
    rows, columns = torch.outer(y, frequency), torch.outer(x, frequency)
    rows, columns = rows.unsqueeze(1).expand(h, w, -1), columns.unsqueeze(0).expand(h, w, -1)
    return torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], 2).reshape(h * w, -1)


def vit_nano(data: DataInfo, *, patch: int | None = None, pool: str = "mean", depth: int = 6) -> ViT:
    """1.2 M parameters, 128 features: made for CPUs and 32-pixel images."""
    return ViT(data, width=128, depth=depth, n_heads=4, patch=patch, pool=pool)


def vit_tiny(data: DataInfo, *, patch: int | None = None, pool: str = "mean", depth: int = 12) -> ViT:
    """5.5 M parameters, 192 features (DeiT-Ti)."""
    return ViT(data, width=192, depth=depth, n_heads=3, patch=patch, pool=pool)


def vit_small(data: DataInfo, *, patch: int | None = None, pool: str = "mean", depth: int = 12) -> ViT:
    """22 M parameters, 384 features (DeiT-S)."""
    return ViT(data, width=384, depth=depth, n_heads=6, patch=patch, pool=pool)


def vit_base(data: DataInfo, *, patch: int | None = None, pool: str = "mean", depth: int = 12) -> ViT:
    """86 M parameters, 768 features."""
    return ViT(data, width=768, depth=depth, n_heads=12, patch=patch, pool=pool)
