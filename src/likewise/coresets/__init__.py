"""Which images matter: selectors are pure functions from features to a `Selection`, all with one signature.

    selector(x, budget, *, seed=0, memory=2 << 30, chosen=None, <options>) -> Selection

`x` is (images, dimensions) and taken as it is, `budget` a number of images, `memory` the bytes of work space beyond x,
`chosen` ids that are picked already. `select` is the same for people: any array, "10%", quality included.
"""

from collections.abc import Callable

from likewise.coresets.facility_location import facility_location
from likewise.coresets.k_center import k_center
from likewise.coresets.k_means import k_means
from likewise.coresets.quality import quality
from likewise.coresets.random import random
from likewise.coresets.select import parse_budget, parse_memory, select
from likewise.types import Selection

SELECTORS: dict[str, Callable[..., Selection]] = {
    "facility-location": facility_location,
    "k-center": k_center,
    "k-means": k_means,
    "random": random,
}

__all__ = [
    "SELECTORS",
    "facility_location",
    "k_center",
    "k_means",
    "parse_budget",
    "parse_memory",
    "quality",
    "random",
    "select",
]
