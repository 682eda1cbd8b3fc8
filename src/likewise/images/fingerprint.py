"""Perceptual fingerprints: 64 bits that stay (nearly) the same when an image is scaled, recompressed or brightened.

The signs of the 8 x 8 lowest frequencies of the luminance at 32 x 32, each against the median of all (pHash; Zauner
2010). Crops, rotations and mirror images are other images to it; for those, compare embeddings.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from likewise.images.decode import to_image

SIDE, LOW = 32, 8
_COSINES = np.cos(np.pi / SIDE * np.arange(LOW)[:, None] * (np.arange(SIDE) + 0.5))


def fingerprint(pixels: UInt8[np.ndarray, "c h w"]) -> int:
    """The 64 bits, as an unsigned number."""
    small = to_image(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    waves = (_COSINES @ np.asarray(small, dtype=np.float64) @ _COSINES.T).ravel().round(6)  # what is 0 stays 0
    bits = waves > np.median(waves[1:])  # but for the mean, which says how bright it is
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
