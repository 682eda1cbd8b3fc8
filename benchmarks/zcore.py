"""ZCore's scores: likewise against the published algorithm restated plainly, on the same looks.

    python benchmarks/zcore.py [--quick]

Unit vectors of 128 dimensions in 100 Gaussian clusters, 10 looks per image, one thread, float32. The plain form
measures all images twice per look and sorts them, as the published code does; it is timed on the first 500 looks.
Both are given these looks, so that their scores can be compared; times are of the process, not of the wall.
"""

import argparse
import time

import numpy as np
import torch

from likewise.coresets.zcore import coverage, looks, triangular
from setting import setting

LOOKS, COMPARED, DIM = 10, 500, 128


def mixture(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(100, DIM, generator=generator))
    members = torch.randint(100, (n,), generator=generator)
    return torch.nn.functional.normalize(centres[members] + 0.07 * torch.randn(n, DIM, generator=generator))


def plain(x: np.ndarray, n_looks: int, n_redundant: int = 1000) -> np.ndarray:
    """The published algorithm, look by look."""
    first, second, one, other = looks(x.shape[1], n_looks, 0)
    shapes = np.array([(column.min(), np.median(column), column.max()) for column in x.T], dtype=np.float64)
    scores = np.zeros(len(x))
    for look in range(n_looks):
        dims = [first[look], second[look]]
        uniform = (one[look : look + 1], other[look : look + 1])
        point = np.array([triangular(shapes[a], u)[0] for a, u in zip(dims, uniform, strict=True)], x.dtype)
        nearest = np.abs(x[:, dims] - point).sum(1).argmin()
        scores[nearest] += 1
        distance = np.abs(x[:, dims] - x[nearest, dims]).sum(1)
        others = np.argsort(distance)[1 : n_redundant + 1]
        if distance[others[0]] == 0:
            scores[others[0]] -= 1
        else:
            loss = 1 / distance[others].astype(np.float64) ** 4
            scores[others] -= loss / loss.sum()
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 images only")
    torch.set_num_threads(1)
    here = setting()
    print(f"{here['date']}, {here['hardware']}, one thread, numpy {np.__version__}, commit {here['commit']}\n")
    print("| images | looks | likewise, µs a look | plain, µs a look | ratio | largest difference of a score |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n in (10_000,) if parser.parse_args().quick else (10_000, 20_000, 50_000):
        x = mixture(n)
        started = time.process_time()
        coverage(x, LOOKS * n)
        ours = (time.process_time() - started) / (LOOKS * n) * 1e6
        started = time.process_time()
        expected = plain(x.numpy(), COMPARED)
        theirs = (time.process_time() - started) / COMPARED * 1e6
        difference = np.abs(coverage(x, COMPARED) - expected).max()
        print(
            f"| {n:,} | {LOOKS * n:,} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.1f} | {difference:.1g} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
