"""Any `nn.Module` as an encoder."""

import importlib
import inspect
import os
import sys
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from likewise.encoders.normalise import Normalise
from likewise.errors import UsageError
from likewise.types import DataInfo, Encoder, Images, device_of, in_eval_mode


class External(Encoder):
    """Somebody's module behind ours: pixels are normalised, its output is flattened, its width is found out.

    The width is read off one forward pass on a black image, in evaluation mode.

    >>> External(nn.Conv2d(3, 8, 4, 4), DataInfo(n_images=1, channels=3, size=8)).dim
    32
    """

    def __init__(self, module: nn.Module, data: DataInfo) -> None:
        super().__init__()
        if any(isinstance(part, Normalise) for part in module.modules()):
            raise UsageError(
                f"encoder {type(module).__name__}: has a Normalise of its own, and would be given another; expected a "
                "subclass of likewise.types.Encoder, or a module without it"
            )
        self.normalise = Normalise(data.channels)
        self.module = module
        shape = f"{data.channels} x {data.size} x {data.size}"
        name = f"encoder {type(module).__name__}"
        out = attempt(module, data.channels, data.size, f"{name}: fails on images of {shape}")
        if not isinstance(out, Tensor) or out.ndim < 2:
            what = f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise UsageError(f"{name}: returns {what} for one image of {shape}; expected one tensor, a row an image")
        self.dim = out.flatten(1).shape[1]

    def forward(self, images: Images) -> Float[Tensor, "b dim"]:
        return self.module(self.normalise(images)).flatten(1)


def attempt(module: nn.Module, channels: int, side: int, failed: str) -> Any:
    """What a module makes of one black image, in evaluation mode.

    Raises UsageError, which says `failed` and the first line of the reason, where it makes nothing.
    """
    try:
        with in_eval_mode(module), torch.no_grad():
            return module(torch.zeros(1, channels, side, side, device=device_of(module)))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(f"{failed}: {why}") from None


def external(name: str, data: DataInfo, **arguments: Any) -> Encoder:
    """Import "package.module:Class", call it with the keywords, and with `data` if it names that as encoders here do,
    and wrap what is no encoder yet."""
    maker = imported(name, "encoder")
    try:
        takes = inspect.signature(maker).parameters
    except (TypeError, ValueError):  # what is written in C has none
        takes = MappingProxyType({})
    try:
        named = "data" in takes and takes["data"].default is inspect.Parameter.empty
        made = maker(**({"data": data} if named else {}), **arguments)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(f"encoder {name!r}: called with {arguments}: {why}") from None
    if not isinstance(made, nn.Module):
        raise UsageError(f"encoder {name!r}: made a {type(made).__name__}; expected an nn.Module")
    return made if isinstance(made, Encoder) else External(made, data)


def imported(name: str, argument: str) -> Any:
    """What "package.module:Class" names, in the folder one is in or among what is installed."""
    package, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(package), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(f"{argument} {name!r}: {why}; expected 'package.module:Class'") from None
