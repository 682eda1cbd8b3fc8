"""Descriptor matching on pairs of images (Mikolajczyk and Schmid, 2005; Fischer et al., 2014): protocol match-v1.

    read_pairs(folder) -> compare(pairs, describers) -> rows -> mean_average_precision, bootstrap

Reading order: pairs.py and warps.py (images and exact ground truth), regions.py (MSER to patches), descriptors.py,
ellipses.py (which regions are one), score.py (greedy matching to average precision), compare.py (the loop),
synthetic.py (pairs made from any images).
"""

from likewise.evaluation.matching.compare import Compared, check_patches, compare
from likewise.evaluation.matching.descriptors import Describe, layers, rgb, sift
from likewise.evaluation.matching.pairs import Pair, read_pairs
from likewise.evaluation.matching.score import average_precision, bootstrap, differences, mean_average_precision
from likewise.evaluation.matching.synthetic import write_pairs

__all__ = [
    "Compared",
    "Describe",
    "Pair",
    "average_precision",
    "bootstrap",
    "check_patches",
    "compare",
    "differences",
    "layers",
    "mean_average_precision",
    "read_pairs",
    "rgb",
    "sift",
    "write_pairs",
]
