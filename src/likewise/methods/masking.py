"""What masked methods share: which patches of an image are hidden, and a small network that fills them in."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.draws import Draws
from likewise.encoders.vit import Block, Tokens, ViT, initialise, positions
from likewise.errors import UsageError
from likewise.methods.parts import full_precision
from likewise.types import Encoder, Images


def vit(encoder: Encoder, method: str) -> ViT:
    """The encoder, which must be a ViT, since `method` hides patches from it."""
    if not isinstance(encoder, ViT):
        raise UsageError(f"encoder: {method} needs a ViT (vit-nano, vit-tiny, ...); got {type(encoder).__name__}")
    if encoder.grid < 2:
        raise UsageError(f"patch={encoder.patch}: {method} hides patches, and an image is a single one; expected less")
    return encoder


def rectangles(
    draws: Draws, h: int, w: int, n: int, *, area: tuple[float, float], aspect: tuple[float, float] = (0.75, 1.5)
) -> Bool[Tensor, "b n t"]:
    """`n` random rectangles per image on its grid of h x w patches; t = h w, row by row.

    Each covers a share in `area` of the grid (up to rounding to whole patches) and has a ratio of sides in `aspect`.
    """
    share, ratio, down, across = draws.image("rectangles", n, 4).unbind(2)
    share = (area[0] + (area[1] - area[0]) * share) * h * w
    ratio = aspect[0] * (aspect[1] / aspect[0]) ** ratio
    height = (share * ratio).sqrt().round().clamp(1, h)
    width = (share / ratio).sqrt().round().clamp(1, w)
    top, left = (down * (h - height + 1)).floor(), (across * (w - width + 1)).floor()
    y, x = torch.arange(h, device=share.device), torch.arange(w, device=share.device)
    in_rows = (y >= top.unsqueeze(2)) & (y < (top + height).unsqueeze(2))
    in_columns = (x >= left.unsqueeze(2)) & (x < (left + width).unsqueeze(2))
    return (in_rows.unsqueeze(3) & in_columns.unsqueeze(2)).flatten(2)


def block_mask(draws: Draws, h: int, w: int, share: Float[Tensor, " b"]) -> Bool[Tensor, "b t"]:
    """Hide round(share t) patches of each image, never all, in rectangles (Bao et al., 2021, arXiv 2106.08254).

    Rectangles of an eighth to a third of the patches fall until there are enough; the last is cut short.
    """
    fallen = rectangles(draws, h, w, 32, area=(0.12, 0.33), aspect=(0.3, 1 / 0.3))
    t = fallen.shape[2]
    when = torch.where(fallen.any(1), fallen.int().argmax(1), fallen.shape[1])  # that covers a patch first
    rank = (when * t + torch.arange(t, device=when.device)).argsort(1).argsort(1)
    return rank < (share * t).round().clamp(max=t - 1).unsqueeze(1)


@full_precision
def averaged(layers: Float[Tensor, "l b t d"]) -> Float[Tensor, "b t d"]:
    """Each token of each layer brought to mean 0 and deviation 1, then the mean over layers."""
    return F.layer_norm(layers, layers.shape[3:]).mean(0)


@full_precision
def hidden_error(
    predicted: Float[Tensor, "b t d"], target: Float[Tensor, "b t d"], hidden: Bool[Tensor, "b t"], beta: float = 1.0
) -> Float[Tensor, " b"]:
    """Smooth L1 (half the square below `beta`, over `beta`; L1 at 0), averaged over an image's hidden patches."""
    error = F.smooth_l1_loss(predicted, target.detach(), beta=beta, reduction="none").mean(2)
    return (error * hidden).sum(1) / hidden.sum(1).clamp(min=1)


def only(images: Images, shown: Bool[Tensor, "b t"], patch: int) -> Images:
    """The images with all but some patches painted grey."""
    h, w = images.shape[2] // patch, images.shape[3] // patch
    whole = shown.reshape(-1, 1, h, w).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return torch.where(whole, images, 0.5)


def whole(patches: Float[Tensor, "b t p"], images: Images, patch: int) -> Images:
    """Patches in the places that `ViT.patches` cut them from, of images of this shape."""
    b, c, h, w = images.shape
    grid = patches.reshape(b, h // patch, w // patch, c, patch, patch)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


def width_of_heads(name: str, width: int) -> int:
    """`width`, in which positions have four equal parts, and so has each head of a `Predictor`."""
    if width < 4 or width % 4 or width % max(1, width // 32):
        raise UsageError(f"{name}={width}: expected a multiple of 32, or of 4 below 64")
    return width


class Predictor(nn.Module):
    """Tokens of the patches that were seen -> a vector for every patch, seen or hidden (MAE's decoder, I-JEPA's
    predictor): the rest is filled with a mask token, each gets its position, and a small transformer does the work."""

    def __init__(self, dim: int, width: int, depth: int, output_dim: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.Sequential(*(Block(width, max(1, width // 32)) for _ in range(depth)))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, output_dim))
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, seen: Tokens, shuffled: Int[Tensor, "b n"], grid: tuple[int, int]) -> Float[Tensor, "b n p"]:
        """`seen` holds the class token and those of the first patches in `shuffled`, which lists them all."""
        x = self.enter(seen)
        n_hidden = shuffled.shape[1] - (x.shape[1] - 1)
        # The class token leads; mask tokens follow the seen patches; then everybody goes to its place.
        tokens = torch.cat([x[:, 1:], self.mask_token.to(x.dtype).expand(len(x), n_hidden, -1)], 1)
        tokens = tokens.gather(1, shuffled.argsort(1).unsqueeze(2).expand_as(tokens))
        tokens = tokens + positions(*grid, tokens.shape[2], device=tokens.device)
        return self.leave(self.blocks(torch.cat([x[:, :1], tokens], 1)))[:, 1:]
