"""Descriptors: patches -> named vectors, one row for each patch.

    describe(patches: Images) -> {"name": Float "n d", ...}

Patches are as their image: one channel or three. Every describer is compared on the same patches.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from likewise.errors import UsageError
from likewise.evaluation.matching.regions import opencv
from likewise.images.imageset import as_channels
from likewise.types import Encoder, Images, device_of, in_eval_mode

Vectors = Float[Tensor, "n d"]
Describe = Callable[[Images], dict[str, Vectors]]

CELLS = 4  # maps are brought to 4 x 4 values by their maxima
SIFT_WIDTH = 7.5  # sides of a patch in sizes of a keypoint: 5 bins (4, and half of one around) of 3 times half its size


def sift(images: Images) -> dict[str, Vectors]:
    """SIFT (Lowe, 2004) of the luminance by OpenCV, its 4 x 4 cells laid over the patch: 128 numbers."""
    cv2 = opencv()
    side = images.shape[-1]
    grey = as_channels((images * 255).round().to(torch.uint8).numpy(), 1)[:, 0]
    point = cv2.KeyPoint((side - 1) / 2, (side - 1) / 2, side / SIFT_WIDTH, 0)
    made = cv2.SIFT_create()
    rows = [made.compute(np.ascontiguousarray(patch), [point])[1][0] for patch in grey]
    return {"sift": torch.from_numpy(np.array(rows, dtype=np.float32).reshape(-1, 128))}


def rgb(images: Images) -> dict[str, Vectors]:
    """The pixels themselves."""
    return {"rgb": images.flatten(1)}


def layers(
    encoder: Encoder, *, channels: int = 3, only: Sequence[str] = ("layers",), name: str = "", cells: int = CELLS
) -> Describe:
    """A describer from an encoder: `layer1`, `layer2`, .. are its `dense` maps, each brought to `cells` x `cells`
    values by their maxima; `output` is what it says of the whole patch.

    `channels` is what it takes: grey patches are repeated, coloured ones reduced to their luminance. `only` names the
    wanted ones, "layers" being all layers, or the output of an encoder without maps; `name` goes before each, so that
    encoders can be told apart.
    """
    dense = getattr(encoder, "dense", None)
    whole = "output" in only or (dense is None and "layers" in only)

    @torch.inference_mode()
    def describe(images: Images) -> dict[str, Vectors]:
        x = fit_channels(images, channels).to(device_of(encoder))
        with in_eval_mode(encoder):
            maps = dense(x) if dense is not None and set(only) != {"output"} else []
            said = encoder(x).float().cpu() if whole else None
        made = {f"layer{i}": F.adaptive_max_pool2d(m.float(), cells).flatten(1).cpu() for i, m in enumerate(maps, 1)}
        for wanted in set(only) - {"layers", "output", *made}:
            raise UsageError(f"descriptor {wanted!r}: the encoder has {', '.join([*made, 'output'])}")
        if "layers" not in only:
            made = {key: value for key, value in made.items() if key in only}
        if said is not None:
            made["output"] = said
        return {name + key: value for key, value in made.items()}

    return describe


def fit_channels(images: Images, channels: int) -> Float[Tensor, "b d h w"]:
    """Grey repeated, or colour reduced to its luminance (ITU-R 601)."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    return (images * torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)).sum(1, keepdim=True)
