"""Randomness as an argument: counter-based draws, keyed per image.

What happens to an image depends on (seed, epoch, its key, the name of the draw) and on nothing else:
not on its batch, not on the number of threads or ranks, not on a resume. The generator is SplitMix64
(Steele, Lea, Flood 2014) used as a hash of a key and a counter, in wrapping 64-bit integers, so that
every device gives the same bits.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def mix(bits: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """SplitMix64's finaliser: a bijection of 64-bit words in which every input bit moves every output bit."""
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * _MIX_1
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)


def word(*parts: int | str) -> int:
    """One signed 64-bit word from seeds, counters and names.

    >>> word(0, "crop") == word(0, "crop") != word(1, "crop")
    True
    """
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def normal(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Standard normal values from uniform ones, by the inverse of the normal distribution."""
    return torch.erfinv(2 * uniform - 1) * math.sqrt(2)


@dataclass(frozen=True)
class Draws:
    """Random numbers for the images of one batch (or of a whole set, when an epoch is ordered).

    `keys` are the images' 64-bit keys. `image` draws belong to an image, `step` draws to no image.
    All uniform draws lie strictly inside (0, 1).

    >>> draws = Draws(seed=0, epoch=0, number=0, keys=torch.tensor([7, 8]))
    >>> alone = Draws(seed=0, epoch=0, number=5, keys=torch.tensor([8]))
    >>> bool((draws.image("crop", 4)[1] == alone.image("crop", 4)[0]).all())
    True
    """

    seed: int
    epoch: int
    number: int  # of the training step; `step` draws are keyed by it
    keys: Int[Tensor, " b"]
    scopes: tuple[str, ...] = ("",)  # several: of as many equal parts of the keys

    def bits(self, name: str) -> Int[Tensor, " b"]:
        """One 64-bit word per image; sorting by it is the keyed shuffle."""
        parts = self.keys.chunk(len(self.scopes))
        words = [word(self.seed, self.epoch, scope, name) for scope in self.scopes]
        return mix(torch.cat([keys + w for keys, w in zip(parts, words, strict=True)]))

    def image(self, name: str, *shape: int) -> Float[Tensor, "b *shape"]:
        """Uniform draws that belong to each image: "b *shape"."""
        start = self.bits(name).reshape(-1, 1)
        counter = torch.arange(1, math.prod(shape) + 1, device=self.keys.device) * _GOLDEN
        return _uniform(mix(start + counter)).reshape(len(self.keys), *shape)

    def step(self, name: str, *shape: int) -> Float[Tensor, "*shape"]:
        """Uniform draws that belong to the step and to no image, the same on every rank."""
        (scope,) = self.scopes  # several parts have no draws in common
        counter = torch.arange(1, math.prod(shape) + 1, device=self.keys.device) * _GOLDEN
        return _uniform(mix(counter + word(self.seed, self.number, scope, name))).reshape(shape)

    def child(self, name: str) -> "Draws":
        """Independent draws for a part with its own names: one view, one teacher, one head."""
        return replace(self, scopes=tuple(f"{scope}/{name}" for scope in self.scopes))

    def children(self, names: Sequence[str]) -> "Draws":
        """Those of several parts, one after another: "b" images of the first name, then "b" of the second."""
        scopes = tuple(scope for name in names for scope in self.child(name).scopes)
        return replace(self, keys=self.keys.repeat(len(names)), scopes=scopes)

    def to(self, device: torch.device) -> "Draws":
        """The same draws, made on another device."""
        return replace(self, keys=self.keys.to(device))

    def fixed(self, versions: int) -> "Draws":
        """Draws that ignore the epoch: every image has `versions` fates, and each epoch picks one.

        The keys become those of the fates, so that these and epochs never meet, not even epoch -1.
        """
        if versions < 1:
            raise ValueError(f"versions={versions}: at least 1 is needed")
        fate = self.bits("version").remainder(versions)
        return replace(self, keys=mix(self.keys) + fate, epoch=-1)


def _uniform(bits: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    # 23 bits and a half: the largest value, 1 - 2^-24, is exact in float32, so 0 and 1 never occur.
    return (((bits >> 41) & 0x7FFFFF).to(torch.float32) + 0.5) * 2.0**-23
