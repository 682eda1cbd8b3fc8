"""Methods, one file each. What is listed here is what `--method` takes, and what the contract tests test."""

from likewise.methods.base import Method, recipe, title
from likewise.methods.byol import BYOL
from likewise.methods.drlim import DrLIM
from likewise.methods.mae import MAE
from likewise.methods.simclr import SimCLR
from likewise.methods.supervised import Supervised
from likewise.methods.vicreg import VICReg

METHODS: dict[str, type[Method]] = {
    "byol": BYOL,
    "drlim": DrLIM,
    "mae": MAE,
    "simclr": SimCLR,
    "supervised": Supervised,
    "vicreg": VICReg,
}

__all__ = ["METHODS", "Method", "recipe", "title"]
