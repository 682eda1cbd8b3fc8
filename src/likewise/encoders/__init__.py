"""Encoders: images in, features out, with their own normalisation. What is listed here is what `--encoder` takes."""

from collections.abc import Callable
from typing import Any

from likewise.encoders.convnet import ConvNet, convnet
from likewise.encoders.drlim import MNISTNet, NORBNet, drlim_mnist, drlim_norb
from likewise.encoders.exemplar import ExemplarNet, exemplar_large, exemplar_matching, exemplar_medium, exemplar_small
from likewise.encoders.external import External, attempt, external, imported
from likewise.encoders.normalise import Normalise, normaliser
from likewise.encoders.pixels import Pixels
from likewise.encoders.resnet import ResNet, resnet18, resnet34, resnet50
from likewise.encoders.vit import ViT, vit_base, vit_nano, vit_small, vit_tiny
from likewise.types import DataInfo, Encoder, pick

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "convnet": convnet,
    "drlim-mnist": drlim_mnist,
    "drlim-norb": drlim_norb,
    "exemplar-large": exemplar_large,
    "exemplar-matching": exemplar_matching,
    "exemplar-medium": exemplar_medium,
    "exemplar-small": exemplar_small,
    "pixels": Pixels,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vit-base": vit_base,
    "vit-nano": vit_nano,
    "vit-small": vit_small,
    "vit-tiny": vit_tiny,
}


def build(name: str, data: DataInfo, **arguments: Any) -> Encoder:
    """An encoder by its name in the table, or by "package.module:Class"."""
    if ":" in name:
        return external(name, data, **arguments)
    return pick(ENCODERS, name, "encoder")(data, **arguments)


__all__ = [
    "ENCODERS",
    "ConvNet",
    "ExemplarNet",
    "External",
    "MNISTNet",
    "NORBNet",
    "Normalise",
    "Pixels",
    "ResNet",
    "ViT",
    "attempt",
    "build",
    "imported",
    "normaliser",
]
