"""Images from anywhere: listed, read once, what is broken quarantined, decoded into a cache, read ahead of the step.

    open_images(DATA) -> ImageSet -> prefetch -> Source        scan(DATA) -> what is there, and what is broken

Reading order: sources.py (folders, lists, archives, arrays), datasets.py (named sets), decode.py (bytes to pixels),
scan.py (one pass over everything), cache.py, imageset.py, patches.py (parts of images as a set), loader.py.
"""

from likewise.images.datasets import DATASETS, SPLITS, stl10_folds
from likewise.images.imageset import Ids, ImageSet, open_images
from likewise.images.loader import prefetch
from likewise.images.patches import patches
from likewise.images.scan import scan

__all__ = ["DATASETS", "SPLITS", "Ids", "ImageSet", "open_images", "patches", "prefetch", "scan", "stl10_folds"]
