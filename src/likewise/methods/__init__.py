"""Methods, one file each. What is listed here is what `--method` takes, and what the contract tests test."""

from likewise.encoders import imported
from likewise.errors import UsageError
from likewise.methods.barlow_twins import BarlowTwins
from likewise.methods.base import Method, reads_labels, recipe, title
from likewise.methods.bigan import BiGAN
from likewise.methods.byol import BYOL
from likewise.methods.colourisation import Colourisation
from likewise.methods.data2vec import Data2Vec
from likewise.methods.dcl import DCL
from likewise.methods.deepcluster import DeepCluster
from likewise.methods.denoising import Denoising
from likewise.methods.dino import DINO
from likewise.methods.dinov2 import DINOv2
from likewise.methods.drlim import DrLIM
from likewise.methods.exemplar import Exemplar
from likewise.methods.ibot import IBOT
from likewise.methods.ijepa import IJEPA
from likewise.methods.inpainting import ContextEncoder
from likewise.methods.jigsaw import Jigsaw
from likewise.methods.lejepa import LeJEPA
from likewise.methods.mae import MAE
from likewise.methods.moco_v2 import MoCoV2
from likewise.methods.moco_v3 import MoCoV3
from likewise.methods.msn import MSN
from likewise.methods.nnclr import NNCLR
from likewise.methods.npid import NPID
from likewise.methods.relative_patch import RelativePatch
from likewise.methods.rotnet import RotNet
from likewise.methods.simclr import SimCLR
from likewise.methods.simmim import SimMIM
from likewise.methods.simsiam import SimSiam
from likewise.methods.supcon import SupCon
from likewise.methods.supervised import Supervised
from likewise.methods.swav import SwAV
from likewise.methods.vae import VAE
from likewise.methods.vicreg import VICReg
from likewise.methods.visreg import VISReg
from likewise.methods.w_mse import WMSE
from likewise.types import pick

METHODS: dict[str, type[Method]] = {
    "barlow-twins": BarlowTwins,
    "bigan": BiGAN,
    "byol": BYOL,
    "colourisation": Colourisation,
    "data2vec": Data2Vec,
    "dcl": DCL,
    "deepcluster": DeepCluster,
    "denoising": Denoising,
    "dino": DINO,
    "dinov2": DINOv2,
    "drlim": DrLIM,
    "exemplar": Exemplar,
    "ibot": IBOT,
    "ijepa": IJEPA,
    "inpainting": ContextEncoder,
    "jigsaw": Jigsaw,
    "lejepa": LeJEPA,
    "mae": MAE,
    "moco-v2": MoCoV2,
    "moco-v3": MoCoV3,
    "msn": MSN,
    "nnclr": NNCLR,
    "npid": NPID,
    "relative-patch": RelativePatch,
    "rotnet": RotNet,
    "simclr": SimCLR,
    "simmim": SimMIM,
    "simsiam": SimSiam,
    "supcon": SupCon,
    "supervised": Supervised,
    "swav": SwAV,
    "vae": VAE,
    "vicreg": VICReg,
    "visreg": VISReg,
    "w-mse": WMSE,
}

# What is taken unless a method is asked for: how the encoder's name begins, how many images will be seen at least, the
# method, and the table of docs/results that it follows from. The first that fits. (That table's ResNets saw ten million
# images; from one million on the curve of this one was ahead.)
DEFAULTS = (
    ("vit", 0, "dcl", "methods-cpu, cifar10-vit"),
    ("resnet", 1_000_000, "barlow-twins", "methods-gpu, cifar10-resnet18"),
    ("", 0, "simclr", "methods-cpu, cifar10-convnet"),
)


def default(encoder: object, seen: int | float) -> tuple[str, str]:
    """The method for an encoder (its name, or what has none) and so many images seen, unless one is asked for, and the
    table that says so."""
    begin = encoder if isinstance(encoder, str) and ":" not in encoder else ""
    return next((name, table) for begins, n, name, table in DEFAULTS if begin.startswith(begins) and seen >= n)


def find(name: str) -> type[Method]:
    """A method by its name in the table, or by "package.module:Class"."""
    if ":" not in name:
        return pick(METHODS, name, "method")
    made = imported(name, "method")
    if not (isinstance(made, type) and issubclass(made, Method)):
        raise UsageError(f"method {name!r}: is no subclass of likewise.methods.Method")
    return made


__all__ = ["DEFAULTS", "METHODS", "Method", "default", "find", "reads_labels", "recipe", "title"]
