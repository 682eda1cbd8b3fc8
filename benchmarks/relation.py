"""DrLIM's neighbour relation: 5 nearest of 60,000 images by their pixels, exact, beside scikit-learn's brute force.

    python benchmarks/relation.py [--n 60000] [--out FILE.json]

Each side runs in a process of its own: wall-clock and processor seconds, and how far its memory rose
above the peak that loading the images had reached. What they find is compared: where the two differ, the distances in
double precision say who is right (scikit-learn's float32 kernel and equal distances both leave room for that).

MNIST if LIKEWISE_DATA holds it, else noise of the same size. Threads: as many as OMP_NUM_THREADS says.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from setting import setting

K = 5


def load(n: int) -> tuple[np.ndarray, str]:
    """n rows of pixels in [0, 1], and where they are from."""
    if "LIKEWISE_DATA" in os.environ:
        from likewise.images import open_images

        images = open_images("mnist")
        ids = np.arange(min(n, len(images)))
        return images.source(ids).pixels.flatten(1).numpy().astype(np.float32) / 255, "MNIST"
    return np.random.default_rng(0).random((n, 784), dtype=np.float32), "noise"


def ours(x: np.ndarray) -> np.ndarray:
    import torch

    from likewise.relations import nearest

    return nearest(torch.from_numpy(x), K).numpy()


def theirs(x: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=K, algorithm="brute").fit(x).kneighbors(return_distance=False)


def side(name: str, n: int, found: Path) -> None:
    """In a process of its own."""
    function = {"likewise": ours, "scikit-learn": theirs}[name]
    x, source = load(n)
    function(x[:500])  # imports, thread pools
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    neighbours = function(x)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    np.save(found, neighbours)
    row = {
        "seconds": seconds,
        "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_memory_mb": (after.ru_maxrss - before.ru_maxrss) / 1024,
        "source": source,
    }
    print(json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=60_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side(given.side[0], given.n, Path(given.side[1]))
        return
    rows, found = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("likewise", "scikit-learn"):
            file = Path(folder) / f"{name}.npy"
            command = [sys.executable, __file__, "--n", str(given.n), "--side", name, str(file)]
            rows[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            found[name] = np.load(file)
    x, source = load(given.n)
    differ = np.flatnonzero((found["likewise"] != found["scikit-learn"]).any(1))
    farther = dict.fromkeys(found, 0)
    for i in differ:
        total = {name: np.square(x[near[i]].astype(np.float64) - x[i]).sum() for name, near in found.items()}
        for name, value in total.items():
            farther[name] += value > min(total.values()) * (1 + 1e-12)
    import sklearn

    result = {
        **setting(),
        "images": len(x),
        "source": source,
        "k": K,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "scikit-learn": sklearn.__version__,
        "sides": rows,
        "rows_that_differ": len(differ),
        "rows_farther_than_the_other": farther,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
