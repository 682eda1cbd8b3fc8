"""Two published selectors whose released code is not what the paper says, and near-duplicates at a million images.

    python benchmarks/coreset_caveats.py [--only sas|bloom|million] [--embeddings TRAIN TEST] [--quick] [--out FILE]

1. SAS: the paper's graph cut against what the released code computes, on the same features and classes.
2. BloomCoreset: the released filter, ours, and exact top-k on all of the pool and on a random 7 % of it.
3. SemDeDup, near_groups and near_codes on 10,000 to 1,000,000 synthetic embeddings and codes with planted
   near-duplicates: time, peak memory above the data, and the share of the planted ones that is found.

1 and 2 use CIFAR-10's 50,000 training images. With --embeddings, two folders that `likewise embed` made of cifar10 and
cifar10:test: their features less the mean of the training images', scaled to length 1. Without it, under LIKEWISE_DATA,
pixels at 16 x 16, centred, on their first 64 (1) or 512 (2) principal components, scaled to length 1. In FILE they
are kept apart. One thread. Tables on stdout, everything in FILE, as JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likewise.coresets import bloom, quality, random, sas_cut, sas_rowsum, sem_dedup, top_k
from likewise.coresets.blocks import unit
from likewise.coresets.codes import near_codes
from likewise.coresets.near import groups, near_groups, near_pairs
from likewise.coresets.open_set import _by_rank, _codes, _passes
from likewise.images import open_images
from likewise.types import Embeddings
from setting import setting

SEED, MEMORY = 0, 2_000_000_000
EPS, NOISE = 0.01, 0.1  # of SemDeDup, and of what is planted: a cosine near 0.995


Labelled = tuple[Tensor, Tensor]  # unit features, and labels


def pixels(dim: int) -> tuple[Labelled, Labelled]:
    """CIFAR-10's training and test images by their pixels."""
    x, labels, fitted = components("train", dim)
    return (x, labels), components("test", dim, fitted)[:2]


def embedded(folders: list[Path], centre: bool = True) -> tuple[Labelled, Labelled]:
    """The same by what an encoder says of them."""
    train, test = (Embeddings.load(folder) for folder in folders)
    assert train.labels is not None
    assert test.labels is not None
    mean = np.asarray(train.x).mean(0) if centre else 0.0
    x, t = (torch.nn.functional.normalize(torch.from_numpy(table.x - mean)) for table in (train, test))
    return (x, torch.from_numpy(train.labels)), (t, torch.from_numpy(test.labels))


def components(part: str, dim: int, fitted: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Any]:
    """Unit features of CIFAR-10's train or test part, its labels, and the mean and axes of the training part."""
    images = open_images(f"cifar10:{part}")
    pixels = torch.cat([images.source(np.arange(i, i + 1000)).pixels.float() for i in range(0, len(images), 1000)])
    x = torch.nn.functional.avg_pool2d(pixels, 2).flatten(1) / 255
    if fitted is None:
        mean = x.mean(0)
        axes = torch.linalg.eigh((x - mean).T.double() @ (x - mean).double())[1].flip(1)
        fitted = mean, axes.float()
    mean, axes = fitted
    return torch.nn.functional.normalize((x - mean) @ axes[:, :dim]), torch.from_numpy(images.labels), fitted


# 1. SAS


def cut_value(x: Tensor, labels: Tensor, picks: np.ndarray) -> float:
    """The paper's objective: similarities between what is picked and what is not, summed over the classes."""
    total, inside = 0.0, torch.zeros(len(x), dtype=torch.bool)
    inside[picks] = True
    for c in labels.unique():
        s, rest = x[(labels == c) & inside].double(), x[(labels == c) & ~inside].double()
        total += float((s @ rest.T).clamp(min=0).sum())
    return total


def sas(quick: bool, folders: list[Path] | None) -> list[dict[str, Any]]:
    x, labels = (embedded(folders) if folders else pixels(64))[0]
    if quick:
        x, labels = x[:5000], labels[:5000]
    rows = []
    for share in (0.05, 0.2):
        budget = int(share * len(x))
        picks = {
            "sas-cut (paper)": sas_cut(x, budget, labels=labels).indices,
            "sas-rowsum (released code)": sas_rowsum(x, budget, labels=labels).indices,
            "random": random(x, budget, seed=SEED).indices,
        }
        for name, chosen in picks.items():
            mine = x[chosen].double()
            within = [mine[labels[chosen] == c] for c in labels.unique()]
            inner = [float(((m @ m.T).sum() - len(m)) / (len(m) * (len(m) - 1))) for m in within]
            rows.append(
                {
                    "budget": share,
                    "selector": name,
                    "cut": cut_value(x, labels, chosen) / budget,
                    "similarity_among_picks": float(np.mean(inner)),
                    "near_pairs": len(near_pairs(x[chosen], 0.95)[0]),
                    "shared_with_cut": len(np.intersect1d(chosen, picks["sas-cut (paper)"])) / budget,
                    **quality(x, chosen),
                }
            )
    return rows


# 2. BloomCoreset


def released_filter(n_target: int) -> tuple[int, int]:
    """Cells and hashes as the released code has them: 4 times fewer cells than the textbook, 10 hashes."""
    expected = 10_000 * n_target / 3500
    return int(np.ceil(-expected * np.log(0.01) / (2 * np.log(2)) ** 2)), 10


def bloom_rows(quick: bool, folders: list[Path] | None) -> list[dict[str, Any]]:
    (x, labels), (test, kinds) = embedded(folders) if folders else pixels(512)
    d = x.shape[1]
    if quick:
        x, labels = x[:5000], labels[:5000]
    plain: tuple[Tensor, Tensor] | None = None  # the features as the encoder gives them
    if folders:
        (pool, _), (others, _) = embedded(folders, centre=False)
        plain = pool[: len(x)], others
    budget, rows = len(x) // 100, []
    for kind, name in ((7, "horse"), (8, "ship")):
        target = test[kinds == kind][:500]
        started = time.process_time()
        exact = top_k(x, budget, target=target).indices
        taken = time.process_time() - started

        def row(
            selector: str,
            picks: np.ndarray,
            seconds: float,
            meta: dict[str, Any],
            name=name,
            kind=kind,
            exact=exact,
            target=target,
        ) -> dict[str, Any]:
            cosine = target.double() @ x[picks].double().T
            return {
                "target": name,
                "selector": selector,
                "pass_rate": meta.get("pass_rate"),
                "match_rate": meta.get("match_rate"),
                "picks": len(picks),
                "of_the_target_class": float((labels[picks] == kind).double().mean()),
                "similarity_to_target": float(cosine.amax(0).mean()),
                "shared_with_top_k": len(np.intersect1d(picks, exact)) / budget,
                "seconds": seconds,
            }

        rows.append(row("top-k on everything", exact, taken, {}))
        rows += [row("random", random(x, budget, seed=SEED).indices, 0.0, {})]
        for draw in range(3):
            some = torch.from_numpy(random(x, round(0.07 * len(x)), seed=draw).indices)
            started = time.process_time()
            picks = some[top_k(x[some], budget, target=target).indices].numpy()
            rows.append(
                row(f"top-k on a random 7 %, draw {draw}", picks, time.process_time() - started, {"pass_rate": 0.07})
            )

        started = time.process_time()
        axes = torch.eye(d, dtype=torch.float64)
        inside, codes = _codes(target.double(), axes).unique(), _codes(x.double(), axes)
        passes = _passes(codes, inside, *released_filter(len(target)))
        released = _by_rank(unit(x), target.double(), passes, min(budget, int(passes.sum()))).indices
        meta = {
            "pass_rate": float(passes.double().mean()),
            "match_rate": float(torch.isin(codes, inside).double().mean()),
        }
        rows.append(row(f"released: {d} signs, small filter", released, time.process_time() - started, meta))
        codings = [("", x, test, length) for length in (None, 24, 16, 12, 8)]
        codings += [(", not centred", *plain, length) for length in (None, 16) if plain]
        for note, pool, others, length in codings:
            started = time.process_time()
            found = bloom(pool, budget, target=others[kinds == kind][:500], code_length=length)
            label = f"bloom, {f'{d} signs' if length is None else f'{length} bits'}, 1 %{note}"
            rows.append(row(label, found.indices, time.process_time() - started, dict(found.meta)))
    return rows


# 3. A million


def planted(n: int) -> tuple[Tensor, Tensor]:
    """n unit vectors of 128 dimensions in 1,000 clusters; the last 5 % are near-copies of `twins`."""
    generator = torch.Generator().manual_seed(SEED)
    centres = torch.nn.functional.normalize(torch.randn(1000, 128, generator=generator))
    n_copies = n // 20
    x = torch.empty(n, 128)
    cell = torch.randint(1000, (n - n_copies,), generator=generator)
    for start in range(0, len(cell), 50_000):
        some = cell[start : start + 50_000]
        x[start : start + len(some)] = centres[some] + 0.07 * torch.randn(len(some), 128, generator=generator)
    twins = torch.randperm(len(cell), generator=generator)[:n_copies]
    x[: len(cell)] = torch.nn.functional.normalize(x[: len(cell)])
    away = torch.nn.functional.normalize(torch.randn(n_copies, 128, generator=generator))
    x[len(cell) :] = torch.nn.functional.normalize(x[twins] + NOISE * away)
    return x, twins


def planted_codes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n random 64-bit codes; the last 5 % are those of `twins` with 4 bits flipped (2 or none, where one is twice)."""
    rng = np.random.default_rng(SEED)
    codes, n_copies = rng.integers(0, 2**64, n, dtype=np.uint64), n // 20
    twins = rng.permutation(n - n_copies)[:n_copies]
    codes[n - n_copies :] = codes[twins]
    for _ in range(4):
        codes[n - n_copies :] ^= np.uint64(1) << rng.integers(0, 64, n_copies).astype(np.uint64)
    return codes, twins


def measured(what: str, n: int) -> dict[str, Any]:
    """One row, in a process of its own, so that its peak memory is its own."""
    data, twins = planted_codes(n) if what == "near-codes" else planted(n)
    twins, copies = np.asarray(twins), np.arange(n - n // 20, n)
    run: Any = {
        "sem-dedup": lambda: sem_dedup(data, n, eps=EPS, memory=MEMORY).indices,
        "near-groups": lambda: [ids for ids, _ in near_groups(data, 1 - EPS, memory=MEMORY)],
        "near-codes": lambda: groups(near_codes(data, 6)[0], n),
    }[what]
    Path("/proc/self/clear_refs").write_text("5")  # making the data took more than they do: forget that peak
    before, wall, started = _resident("VmRSS"), time.monotonic(), time.process_time()
    result = run()
    row = {
        "what": what,
        "images": n,
        "cpu_seconds": time.process_time() - started,
        "wall_seconds": time.monotonic() - wall,
        "peak_memory_mb": _resident("VmHWM") - before,
    }
    if what == "sem-dedup":
        kept = np.isin(np.arange(n), result)
        found, n_touched = ~(kept[twins] & kept[copies]), n - len(result)
    else:
        number = np.full(n, -1)
        for i, group in enumerate(result):
            number[group] = i
        found, n_touched = (number[twins] == number[copies]) & (number[twins] >= 0), int((number >= 0).sum()) - n // 20
    return {**row, "planted_found": float(found.mean()), "beyond_the_planted": n_touched - n // 20}


def _resident(kind: str) -> float:
    """Resident memory of this process in MB: VmRSS now, VmHWM at its highest."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


def million(quick: bool, folders: list[Path] | None) -> list[dict[str, Any]]:
    rows = []
    for what in ("sem-dedup", "near-groups", "near-codes"):
        for n in (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000):
            command = [sys.executable, __file__, "--row", what, str(n)]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    def shown(value: Any) -> str:
        if value is None:
            return ""
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(key.replace("_", " ") for key in rows[0]) + " |", "| --- " * len(rows[0]) + "|"]
    return "\n".join(lines + ["| " + " | ".join(shown(value) for value in row.values()) + " |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("sas", "bloom", "million"))
    parser.add_argument("--embeddings", type=Path, nargs=2, metavar=("TRAIN", "TEST"))
    parser.add_argument("--quick", action="store_true", help="fewer images")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.row:
        print(json.dumps(measured(given.row[0], int(given.row[1]))))
        return
    results: dict[str, Any] = {**setting(), "threads": 1, "seed": SEED}
    if given.out and given.out.is_file():
        results = {**json.loads(given.out.read_text()), **results}
    for name, make in (("sas", sas), ("bloom", bloom_rows), ("million", million)):
        if given.only in (None, name):
            kept = f"{name}, embeddings" if given.embeddings and name != "million" else name
            results[kept] = make(given.quick, given.embeddings)
            print(f"\n{kept}\n\n{table(results[kept])}", flush=True)
            if given.out:
                given.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
