"""What selecting 1 % costs from ten thousand images to a million, in a memory budget.

    python benchmarks/coresets_scale.py [--sizes 10000,100000,1000000] [--methods k-center,...] [--out FOLDER]

Unit rows of 128 dimensions: a mixture of 1,000 Gaussians, of which 1 image in 100 is a near-copy of another (cosine
above 0.999). They lie in a file that is memory-mapped. Each selection runs in a process of its own, with --memory (2GB)
and --threads (2); its peak memory is above what the process had after its imports, pages of the mapped file included.
k-means runs for 3 iterations. SemDeDup is asked for all images without their near-copies; the share of the planted ones
that it leaves out is told.

With --out FOLDER, coresets-scale.json there keeps what was measured (and is not measured again), coresets-scale.png
shows it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from coresets import _peak, rows_of, unit
from setting import setting

DIMENSIONS, CLUSTERS, COPIES, SHARE = 128, 1000, 100, 100
ITERATIONS = 3  # of k-means
METHODS = ("k-center", "k-means", "facility-location", "sem-dedup")


def one(method: str, file: str, memory: str, threads: str, picks: str) -> None:
    import time
    import warnings

    import torch

    from likewise.coresets import SELECTORS, parse_memory

    torch.set_num_threads(int(threads))
    SELECTORS[method](torch.eye(64), 4)  # what is imported late is imported now
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mapped array is read only, and is only read
        x = torch.from_numpy(np.load(file, mmap_mode="r"))
    options = {} if method in ("facility-location", "sem-dedup") else {"metric": "cosine"}
    if method == "k-means":
        options["n_iterations"] = ITERATIONS
    budget = len(x) if method == "sem-dedup" else len(x) // SHARE
    before = _peak()
    wall, cpu = time.perf_counter(), time.process_time()
    selection = SELECTORS[method](x, budget, memory=parse_memory(memory), **options)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    np.save(picks, selection.indices)
    made = {"cpu_seconds": cpu, "seconds": wall, "peak_mb": (_peak() - before) / 1e6, "picks": len(selection)}
    print(json.dumps(made | {key: selection.meta[key] for key in ("of_best",) if key in selection.meta}))


def write(file: Path, n: int) -> np.ndarray:
    """The rows, block by block. Returns for each planted copy its id and that of its original."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CLUSTERS, DIMENSIONS)).astype(np.float32)
    x = np.lib.format.open_memmap(file, "w+", np.float32, (n, DIMENSIONS))
    for start in range(0, n, 100_000):
        m = min(100_000, n - start)
        noise = generator.standard_normal((m, DIMENSIONS)).astype(np.float32)
        x[start : start + m] = unit(centres[generator.integers(0, CLUSTERS, m)] + noise)
    ids = generator.permutation(n)[: 2 * (n // COPIES)].reshape(-1, 2)
    shift = generator.standard_normal((len(ids), DIMENSIONS)).astype(np.float32)
    x[ids[:, 0]] = unit(x[ids[:, 1]] + 0.001 * shift)
    x.flush()
    return ids


def draw(rows: list[dict[str, object]], about: dict[str, object], file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for method in METHODS:
        mine = sorted((row for row in rows if row["method"] == method), key=lambda row: row["n"])
        sizes = [row["n"] for row in mine]
        left.loglog(sizes, [row["cpu_seconds"] for row in mine], marker="o", label=method)
        right.semilogx(sizes, [row["peak_mb"] for row in mine], marker="o", label=method)
    left.set(xlabel="images", ylabel="seconds of processor", title="time")
    right.set(xlabel="images", ylabel="MB", title=f"peak memory, budget {about['memory']}", ylim=(0, None))
    left.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    about = {**setting(), "memory": arguments.memory, "threads": arguments.threads}
    print(json.dumps(about), flush=True)
    kept = arguments.out / "coresets-scale.json" if arguments.out else None
    rows = rows_of(kept)
    done = {(row["n"], row["method"]) for row in rows}
    environment = {**os.environ, "OMP_NUM_THREADS": arguments.threads, "OMP_WAIT_POLICY": "passive"}
    for n in map(int, arguments.sizes.split(",")):
        methods = [method for method in arguments.methods.split(",") if (n, method) not in done]
        if not methods:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file, picks = Path(folder) / "x.npy", Path(folder) / "picks.npy"
            pairs = write(file, n)
            for method in methods:
                command = [sys.executable, __file__, "--one", method, str(file), arguments.memory, arguments.threads]
                made = subprocess.run(
                    [*command, str(picks)], capture_output=True, text=True, env=environment, check=True
                )
                row = {"n": n, "method": method, **json.loads(made.stdout.strip().split("\n")[-1])}
                if method == "sem-dedup":
                    left = np.isin(pairs, np.load(picks)).sum(1)
                    row["planted_left_out"] = float((left <= 1).mean())
                rows.append(row)
                print(json.dumps(row), flush=True)
                if kept:
                    kept.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    if arguments.out:
        draw(rows, about, arguments.out / "coresets-scale.png")


if __name__ == "__main__":
    main()
