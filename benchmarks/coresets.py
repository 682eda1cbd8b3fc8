"""Coreset selection side by side: likewise, peers that install from the package index, and simple algorithms restated.

    python benchmarks/coresets.py [--sizes 10000,20000,50000] [--embeddings x.npy] [--peers PYTHON] [--out FILE.json]

10 % of n unit rows of 128 dimensions: a mixture of 100 Gaussians, and real embeddings where there are some (brought to
128 dimensions by their principal components). Each contender runs in a process of its own, with one thread and at most
16 GB of address space; its time (of the processor, and on the wall) and its peak memory above what it had after its
imports and its data are its own. What its picks are worth is measured alike for all: the mean of the best cosine
similarity to a pick, and the largest distance to the nearest pick (radius).

The peers are `pip install apricot-select scikit-learn kmedoids faiss-cpu`; --peers names the interpreter that has them.
With --out, what a file of that name holds already is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from setting import setting

DIMENSIONS, CLUSTERS, SHARE = 128, 100, 10
LIMIT = 16 << 30  # bytes of address space
Picks = np.ndarray


# The contenders


def ours(method: str, **options: object) -> Callable[[np.ndarray, int], Picks]:
    import torch

    from likewise.coresets import SELECTORS

    torch.set_num_threads(1)
    warm = torch.eye(64)
    SELECTORS[method](warm, 4, **options)  # what is imported late is imported now
    return lambda x, budget: SELECTORS[method](torch.from_numpy(x), budget, **options).indices


def apricot(metric: str) -> Callable[[np.ndarray, int], Picks]:
    """Its own metric "cosine" is the squared cosine; "half" is ours, (1 + cos) / 2, as a matrix made beforehand."""
    from apricot import FacilityLocationSelection

    def run(x: np.ndarray, budget: int) -> Picks:
        if metric == "cosine":
            return FacilityLocationSelection(budget, metric="cosine", optimizer="lazy").fit(x).ranking
        matrix = x.astype(np.float64) @ x.T.astype(np.float64)
        matrix += 1
        matrix /= 2
        return FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy").fit(matrix).ranking

    run(np.eye(64, dtype=np.float32), 4)  # what is compiled at first use is compiled now
    return run


def fasterpam() -> Callable[[np.ndarray, int], Picks]:
    import kmedoids

    return lambda x, budget: kmedoids.fasterpam(1 - x @ x.T, budget, max_iter=10, init="random", random_state=0).medoids


def faiss_k_means() -> Callable[[np.ndarray, int], Picks]:
    """20 iterations, then of each cluster the image nearest its centre."""
    import faiss

    faiss.omp_set_num_threads(1)

    def run(x: np.ndarray, budget: int) -> Picks:
        made = faiss.Kmeans(x.shape[1], budget, niter=20, seed=0, min_points_per_centroid=1)
        made.train(x)
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        return np.unique(index.search(made.centroids, 1)[1][:, 0])

    return run


def plain_k_center() -> Callable[[np.ndarray, int], Picks]:
    """The running minimum, one pass per pick."""

    def run(x: np.ndarray, budget: int) -> Picks:
        squares = (x * x).sum(1)
        at = int(((x - x.mean(0)) ** 2).sum(1).argmin())
        picks, near = [at], np.full(len(x), np.inf, dtype=np.float32)
        while len(picks) < budget:
            np.minimum(near, squares - 2 * (x @ x[at]) + squares[at], out=near)
            at = int(near.argmax())
            picks.append(at)
        return np.array(picks)

    return run


def plain_facility_location() -> Callable[[np.ndarray, int], Picks]:
    """Lazy greedy without a matrix, a block of 64 candidates at a time."""

    def run(x: np.ndarray, budget: int) -> Picks:
        best = np.full(len(x), -1, dtype=np.float32)
        bound = (len(x) + x @ x.sum(0)).astype(np.float64)
        picks: list[int] = []
        while len(picks) < budget:
            fresh = np.zeros(len(x), dtype=bool)
            while not fresh[at := int(bound.argmax())]:
                ids = np.argpartition(-bound, 64)[:64]
                ids = ids[~fresh[ids]]
                bound[ids] = np.maximum(x[ids] @ x.T - best, 0).sum(1)
                fresh[ids] = True
            picks.append(at)
            best = np.maximum(best, x @ x[at])
            bound[at] = -1
        return np.array(picks)

    return run


def random_picks() -> Callable[[np.ndarray, int], Picks]:
    return lambda x, budget: np.random.default_rng(0).permutation(len(x))[:budget]


CONTENDERS: dict[str, tuple[Callable[[], Callable[[np.ndarray, int], Picks]], bool, int]] = {
    # name: how to make it, whether it is a peer's, the largest n that it is tried on: beyond 20,000 a matrix of n x n
    # takes 20 GB in float64, which two of the peers need, or twice 10 GB in float32, which the third does.
    "random": (random_picks, False, 10**9),
    "likewise facility-location": (lambda: ours("facility-location"), False, 10**9),
    "likewise facility-location, memory=0.8GB": (lambda: ours("facility-location", memory=800_000_000), False, 10**9),
    "likewise facility-location, swaps=1": (lambda: ours("facility-location", swaps=1), False, 20_000),
    "likewise facility-location, swaps=3": (lambda: ours("facility-location", swaps=3), False, 20_000),
    "apricot facility location, same similarity": (lambda: apricot("half"), True, 20_000),
    "apricot facility location, its cosine": (lambda: apricot("cosine"), True, 20_000),
    "kmedoids FasterPAM": (fasterpam, True, 20_000),
    "plain lazy facility location": (plain_facility_location, False, 10_000),
    "likewise k-center": (lambda: ours("k-center"), False, 10**9),
    "plain k-center": (plain_k_center, False, 10**9),
    "likewise k-means": (lambda: ours("k-means", n_iterations=20), False, 10**9),
    "faiss k-means": (faiss_k_means, True, 10**9),
}


def one(name: str, file: str, picks: str) -> None:
    """In a process of its own: run one contender, save its picks, print what it took."""
    import resource
    import time

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    x = np.load(file)
    run = CONTENDERS[name][0]()
    before = _peak()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        chosen = run(x, len(x) // SHARE)
    except MemoryError as error:
        print(json.dumps({"failed": str(error) or "out of memory"}))
        return
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    np.save(picks, chosen)
    print(json.dumps({"cpu_seconds": cpu, "seconds": wall, "peak_mb": (_peak() - before) / 1e6}))


def _peak() -> int:
    """The largest resident size of this process alone, in bytes. (What getrusage says is inherited from its parent.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


# The data and the figures


def mixture(n: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CLUSTERS, DIMENSIONS)).astype(np.float32)
    x = centres[generator.integers(0, CLUSTERS, n)] + generator.standard_normal((n, DIMENSIONS)).astype(np.float32)
    return unit(x)


def real(file: str, n: int) -> np.ndarray:
    """The first n rows, as directions, in their 128 principal components, as directions again."""
    x = unit(np.load(file)[:n].astype(np.float32))
    if x.shape[1] > DIMENSIONS:
        centred = x - x.mean(0)
        components = np.linalg.eigh(centred.T @ centred)[1][:, -DIMENSIONS:]
        x = unit(x @ components)
    return x


def unit(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


def worth(x: np.ndarray, picks: Picks) -> dict[str, float]:
    best = np.concatenate([(x[at : at + 2000] @ x[picks].T).max(1) for at in range(0, len(x), 2000)])
    return {"facility_location": float(best.mean()), "radius": float(np.sqrt(max(2 - 2 * best.min(), 0)))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="10000,20000,50000")
    parser.add_argument("--embeddings", help="an .npy of real embeddings, such as x.npy of an embeddings folder")
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--only", default="", help="contenders whose name holds this")
    parser.add_argument("--out", type=Path, help="JSON, added to what is there")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    about = {**setting(), "threads": 1}
    print(json.dumps(about), flush=True)
    rows = rows_of(arguments.out)
    done = {(row["data"], row["n"], row["contender"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for n in map(int, arguments.sizes.split(",")):
            for data in ("mixture", *(["real"] if arguments.embeddings else [])):
                x = mixture(n) if data == "mixture" else real(arguments.embeddings, n)
                file, picks = f"{folder}/x.npy", f"{folder}/picks.npy"
                np.save(file, x)
                for name, (_, peer, largest) in CONTENDERS.items():
                    if n > largest or arguments.only not in name or (data, len(x), name) in done:
                        continue
                    row = {"data": data, "n": len(x), "contender": name}
                    row |= measure(arguments.peers if peer else sys.executable, name, file, picks)
                    if "failed" not in row:
                        row |= worth(x, np.load(picks))
                    rows.append(row)
                    print(line(row), flush=True)
                    if arguments.out:
                        arguments.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def measure(python: str, name: str, file: str, picks: str) -> dict[str, object]:
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    command = [python, __file__, "--one", name, file, picks]
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
    if made.returncode:
        return {"failed": (made.stderr.strip().split("\n") or ["killed"])[-1]}
    return json.loads(made.stdout.strip().split("\n")[-1])


def line(row: dict[str, object]) -> str:
    head = f"{row['data']:8} {row['n']:>7,} {row['contender']:45}"
    if "failed" in row:
        return f"{head} fails: {row['failed']}"
    return (
        f"{head} {row['cpu_seconds']:8.2f} s {row['peak_mb']:7.0f} MB   "
        f"{row['facility_location']:.5f}  radius {row['radius']:.4f}"
    )


def rows_of(file: Path | None) -> list[dict[str, Any]]:
    """What a file of figures holds already."""
    return json.loads(file.read_text())["rows"] if file and file.is_file() else []


if __name__ == "__main__":
    main()
