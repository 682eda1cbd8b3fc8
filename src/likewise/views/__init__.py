"""Views of images: keyed draws, geometry composed into one map, colour operations, and named recipes of these."""

from likewise.views.colour import HSV, Blur, Colour, Erase, Grey, Jitter, PCAContrast, Solarise
from likewise.views.geometry import Flip, Geometry, ResizedCrop, Rotate, Scale, Translate
from likewise.views.recipes import RECIPES, affine, asymmetric, exemplar, multi_crop, plain, strong, weak
from likewise.views.view import View

__all__ = [
    "HSV",
    "RECIPES",
    "Blur",
    "Colour",
    "Erase",
    "Flip",
    "Geometry",
    "Grey",
    "Jitter",
    "PCAContrast",
    "ResizedCrop",
    "Rotate",
    "Scale",
    "Solarise",
    "Translate",
    "View",
    "affine",
    "asymmetric",
    "exemplar",
    "multi_crop",
    "plain",
    "strong",
    "weak",
]
