"""What `scan` and `embed` cost per path, up to a million.

    python benchmarks/many.py [--sizes 10000,100000,1000000] [--distinct] [--out FILE.json]

A folder of n paths in subfolders of 1,000: hard links to 1,000 small PNGs of 32 x 32 noise over a gradient, so that
there are as many groups of exact copies, the most that `scan` can be asked to tell; with --distinct files of their own,
the same pictures with a number behind their end. `scan` and `embed` (an untrained convnet of width 8 at 32 pixels, into
a cache of its own) and the loading of these embeddings each run in a process of their own, with one thread. Peak memory
is above what the process had after its imports: all of it, and what is its own (`anonymous`), without the pages of the
mapped pixel cache, which the system can take back at any time. Kilobytes a path are those of the anonymous memory.
With --out, what a file of that name holds already is not measured again.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coresets import rows_of
from setting import setting

PICTURES, FOLDER, SIDE, WIDTH = 1000, 1000, 32, 8


def pictures() -> list[bytes]:
    """Small PNGs, all different."""
    rng = np.random.default_rng(0)
    made, ramp = [], np.linspace(0, 1, SIDE)
    for _ in range(PICTURES):
        slope = rng.uniform(-1, 1, (2, 3))
        pixels = 128 + 60 * (slope[0] * ramp[:, None, None] + slope[1] * ramp[None, :, None])
        file = io.BytesIO()
        Image.fromarray((pixels + rng.normal(0, 8, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)).save(file, "PNG")
        made.append(file.getvalue())
    return made


def fill(root: Path, n: int, distinct: bool) -> Path:
    """A folder of n paths."""
    originals = root / "originals"
    originals.mkdir()
    made = pictures()
    for number, content in enumerate(made):
        (originals / f"{number}.png").write_bytes(content)
    data = root / "data"
    for i in range(n):
        folder = data / f"part {i // FOLDER:04d}"
        if i % FOLDER == 0:
            folder.mkdir(parents=True)
        file = folder / f"a picture of something {i:07d}.png"
        if distinct:
            file.write_bytes(made[i % PICTURES] + str(i).encode())
        else:
            os.link(originals / f"{i % PICTURES}.png", file)
    return data


def one(what: str, data: Path, out: Path) -> dict[str, Any]:
    """One row, in a process of its own."""
    import torch

    from likewise.embedding import embed
    from likewise.encoders import build
    from likewise.images import open_images
    from likewise.types import Embeddings
    from likewise.verbs.scan import scan

    torch.set_num_threads(1)
    few = open_images(np.zeros((4, SIDE, SIDE, 3), np.uint8))
    embed(build("convnet", few.info(SIDE), width=WIDTH), few, size=SIDE)  # what is imported late is imported now
    before = memory()
    with Peak() as peak:
        wall, cpu = time.perf_counter(), time.process_time()
        if what == "scan":
            n = scan(data, threads=1)["images"]
        elif what == "embed":
            images = open_images(data, threads=1)
            n = len(embed(build("convnet", images.info(SIDE), width=WIDTH), images, size=SIDE, out=out))
        else:
            n = len(Embeddings.load(out))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    anonymous = peak.value - before["RssAnon"]
    return {
        "images_per_second": n / wall,
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_mb": (memory()["VmHWM"] - before["VmRSS"]) / 1e6,
        "anonymous_mb": anonymous / 1e6,
        "kb_per_path": anonymous / 1e3 / n,
    }


def memory() -> dict[str, int]:
    """Bytes: resident now, at most, and what of it is no file's."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0][:-1]: int(line[1]) * 1024 for line in lines if line and line[0] in ("VmRSS:", "VmHWM:", "RssAnon:")}


class Peak:
    """The most anonymous memory in a while, looked at every 50 ms."""

    def __enter__(self) -> "Peak":
        self.value, self.done = memory()["RssAnon"], threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.05):
            self.value = max(self.value, memory()["RssAnon"])

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()


def table(rows: list[dict[str, Any]]) -> str:
    shown = {
        "paths": lambda row: f"{row['paths']:,}" + (" distinct" if row["distinct"] else ""),
        "what": lambda row: row["what"],
        "images/s": lambda row: f"{row['images_per_second']:,.0f}",
        "seconds": lambda row: f"{row['seconds']:.1f}",
        "peak MB": lambda row: f"{row['peak_mb']:,.0f}",
        "anonymous MB": lambda row: f"{row['anonymous_mb']:,.0f}",
        "KB a path": lambda row: f"{row['kb_per_path']:.2f}",
    }
    lines = ["| " + " | ".join(shown) + " |", "| --- " * len(shown) + "|"]
    return "\n".join(lines + ["| " + " | ".join(show(row) for show in shown.values()) + " |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--distinct", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(one(given.row[0], Path(given.row[1]), Path(given.row[2]))))
        return
    rows = rows_of(given.out)
    for n in map(int, given.sizes.split(",")):
        if any((row["paths"], row["distinct"]) == (n, given.distinct) for row in rows):
            continue
        with tempfile.TemporaryDirectory() as place:
            data = fill(Path(place), n, given.distinct)
            for what in ("scan", "embed", "load"):
                command = [sys.executable, __file__, "--row", what, str(data), f"{place}/embeddings"]
                env = {**os.environ, "LIKEWISE_CACHE": f"{place}/cache", "OMP_NUM_THREADS": "1"}
                made = json.loads(
                    subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
                )
                rows.append({"paths": n, "distinct": given.distinct, "what": what, **made})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if given.out:
            given.out.write_text(json.dumps({**setting(), "rows": rows}, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
