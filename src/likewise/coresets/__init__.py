"""Which images matter: selectors are pure functions from features to a `Selection`, all with one signature.

    selector(x, budget, *, seed=0, memory=2 << 30, chosen=None, <options>) -> Selection

`x` is (images, dimensions) and taken as it is, `budget` a number of images, `memory` the bytes of work space beyond x,
`chosen` ids that are picked already. A selector that asks by name is also given `keys` (the images' keys), `target`
(embeddings of another set), `scores` or `labels` (one per image): with no default it cannot do without; and
`checkpoint`, where to keep what it has, if it can be taken up again. `select` is the same for people: any array, "10%",
quality included.
"""

from collections.abc import Callable

from likewise.coresets.balanced import class_balanced, cluster_balanced
from likewise.coresets.ccs import ccs
from likewise.coresets.d2 import d2
from likewise.coresets.facility_location import facility_location
from likewise.coresets.graph_cut import graph_cut
from likewise.coresets.herding import herding
from likewise.coresets.hierarchical import hierarchical
from likewise.coresets.k_center import k_center
from likewise.coresets.k_means import k_means
from likewise.coresets.log_det import log_det
from likewise.coresets.open_set import bloom, simcore, top_k
from likewise.coresets.probcover import probcover
from likewise.coresets.prototypes import prototypes
from likewise.coresets.quality import Quality, quality
from likewise.coresets.random import random
from likewise.coresets.sas import sas_cut, sas_rowsum
from likewise.coresets.saturated_coverage import saturated_coverage
from likewise.coresets.select import parse_budget, parse_memory, select
from likewise.coresets.sem_dedup import sem_dedup
from likewise.coresets.typiclust import typiclust
from likewise.coresets.ucs import ucs
from likewise.coresets.zcore import zcore
from likewise.types import Selection

SELECTORS: dict[str, Callable[..., Selection]] = {
    "bloom": bloom,
    "ccs": ccs,
    "class-balanced": class_balanced,
    "cluster-balanced": cluster_balanced,
    "d2": d2,
    "facility-location": facility_location,
    "graph-cut": graph_cut,
    "herding": herding,
    "hierarchical": hierarchical,
    "k-center": k_center,
    "k-means": k_means,
    "log-det": log_det,
    "probcover": probcover,
    "prototypes": prototypes,
    "random": random,
    "sas-cut": sas_cut,
    "sas-rowsum": sas_rowsum,
    "saturated-coverage": saturated_coverage,
    "sem-dedup": sem_dedup,
    "simcore": simcore,
    "top-k": top_k,
    "typiclust": typiclust,
    "ucs": ucs,
    "zcore": zcore,
}

__all__ = [
    "SELECTORS",
    "Quality",
    "bloom",
    "ccs",
    "class_balanced",
    "cluster_balanced",
    "d2",
    "facility_location",
    "graph_cut",
    "herding",
    "hierarchical",
    "k_center",
    "k_means",
    "log_det",
    "parse_budget",
    "parse_memory",
    "probcover",
    "prototypes",
    "quality",
    "random",
    "sas_cut",
    "sas_rowsum",
    "saturated_coverage",
    "select",
    "sem_dedup",
    "simcore",
    "top_k",
    "typiclust",
    "ucs",
    "zcore",
]
