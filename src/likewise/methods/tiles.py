"""What the puzzles share: an image cut into nine tiles, mostly with gaps between them."""

import torch
from jaxtyping import Float
from torch import Tensor

from likewise.draws import Draws
from likewise.encoders.external import attempt
from likewise.encoders.vit import ViT
from likewise.errors import UsageError
from likewise.types import DataInfo, Encoder, Images

SIDE = 3  # tiles a side
N_TILES = SIDE**2
Tiles = Float[Tensor, "b 9 c s s"]


def tile_size(encoder: Encoder, data: DataInfo) -> int:
    """The side of a tile: about three quarters of a cell of a 3 x 3 grid, so that edges do not give neighbours away.

    For a ViT it is a multiple of the patch; where a cell is a single patch there are no gaps. Raises UsageError where a
    cell is less than that, and for an encoder that does not take images of that size, or gives them other features.
    """
    cell, patch = data.size // SIDE, encoder.patch if isinstance(encoder, ViT) else 1
    least = max(2, patch)
    if cell < least:
        raise UsageError(f"size={data.size}: has no room for {SIDE} x {SIDE} tiles; expected at least {SIDE * least}")
    side = max(least, min(round(0.75 * cell / patch), (cell - 1) // patch) * patch)
    failed = f"encoder: takes whole images, but no tiles of {side} x {side} pixels"
    width = attempt(encoder, data.channels, side, failed).shape[1]
    if width != encoder.dim:
        raise UsageError(f"encoder: gives tiles of {side} x {side} pixels {width} features; expected {encoder.dim}")
    return side


def tiles(images: Images, size: int, draws: Draws) -> Tiles:
    """Nine squares of `size` pixels, row by row, each anywhere in its own cell."""
    b, h, w = len(images), *images.shape[2:]
    cells = torch.tensor([h // SIDE, w // SIDE], device=images.device)
    jitter = (draws.image("jitter", N_TILES, 2) * (cells - size + 1)).long()
    number = torch.arange(N_TILES, device=images.device)
    corner = jitter + torch.stack([number // SIDE, number % SIDE], 1) * cells  # "b 9 2"
    inside = torch.arange(size, device=images.device)
    rows, columns = corner[..., :1] + inside, corner[..., 1:] + inside  # "b 9 s" each
    image = torch.arange(b, device=images.device).reshape(-1, 1, 1, 1)
    return images.permute(0, 2, 3, 1)[image, rows.unsqueeze(3), columns.unsqueeze(2)].permute(0, 1, 4, 2, 3)


def evened(cut: Tiles) -> Tiles:
    """Every channel of every tile brought to mean 0.5 and deviation 0.25: brightness and contrast give nothing away."""
    mean, deviation = cut.mean((3, 4), keepdim=True), cut.std((3, 4), keepdim=True)
    return (cut - mean) / (4 * deviation.clamp(min=0.02)) + 0.5


def together(cut: Tiles) -> Images:
    """Tiles side by side as one image, to be looked at."""
    rows = cut.unflatten(1, (SIDE, SIDE)).permute(0, 3, 1, 4, 2, 5)  # "b c row y column x"
    return rows.flatten(4, 5).flatten(2, 3).clamp(0, 1)
