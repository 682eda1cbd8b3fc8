"""Two views of the SimCLR recipe: likewise, kornia batched, and Pillow per image in a torch DataLoader.

    python benchmarks/views.py [--quick]

The same operations, sizes and probabilities: a crop of 8 to 100 % of the area, a mirror image in 1 of 2, colour jitter
of strength 1 in 8 of 10, grey in 1 of 5, a blur in 1 of 2. Batches of 256; the batched ones have two threads, Pillow
has two workers. The three take turns; a figure is the median of five turns of wall-clock time, after one that does not
count. What comes out is compared beside the speed, for a fast view that is another view is worth nothing.

Known differences: likewise clips once after the jitter, the others after each part of it, in a random order; Pillow
rounds to bytes after each operation, and its blur has no kernel size.

On a machine that others use too, OMP_WAIT_POLICY=passive keeps idle threads from spinning in the way of busy ones.
Images are CIFAR-10 and imagenette96 if LIKEWISE_DATA holds them, otherwise smooth noise.
"""

import argparse
import io
import math
import os
import platform
import random
import statistics
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import kornia
import numpy as np
import PIL
import torch
from kornia import augmentation as K
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from likewise.draws import Draws, mix
from likewise.memory import keep_freed_memory
from likewise.types import Source
from likewise.views import strong
from setting import setting

BATCH, THREADS, TURNS = 256, 2, 5
SCALE, RATIO, SIGMA = (0.08, 1.0), (3 / 4, 4 / 3), (0.1, 2.0)

Epoch = Callable[[], Iterable[tuple[Tensor, Tensor]]]


# Images


def load(side: int, n: int) -> tuple[np.ndarray, str]:
    """Images "n side side 3" as bytes, and where they are from."""
    data = Path(os.environ.get("LIKEWISE_DATA", "missing"))
    cifar, photos = data / "cifar10/cifar-10-batches-bin/data_batch_1.bin", data / "imagenette96/imagenette96.zip"
    if side == 32 and cifar.is_file():
        rows = np.fromfile(cifar, np.uint8).reshape(-1, 1 + 3 * 32 * 32)[:n, 1:]
        return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), "CIFAR-10"
    if side == 96 and photos.is_file():
        with zipfile.ZipFile(photos) as file:
            names = [name for name in sorted(file.namelist()) if name.lower().endswith((".jpg", ".jpeg", ".png"))]
            chosen = names[:: max(1, len(names) // n)][:n]
            images = [Image.open(io.BytesIO(file.read(name))).convert("RGB").resize((96, 96)) for name in chosen]
        return np.stack([np.asarray(image) for image in images]), "imagenette96"
    noise = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(noise, side, mode="bicubic").clamp(0, 1) * 255
    return smooth.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy(), "smooth noise"


# likewise


def ours(images: np.ndarray) -> Epoch:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    n, _, height, width = pixels.shape
    sizes, keys = torch.tensor([height, width]).repeat(n, 1), mix(torch.arange(n))
    views, epochs = strong(height), iter(range(1000))

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        number = next(epochs)
        for rows in (slice(start, start + BATCH) for start in range(0, n, BATCH)):
            source, draws = Source(pixels[rows], sizes[rows]), Draws(0, number, 0, keys[rows])
            first, second = (view(source, draws.child(str(i))) for i, view in enumerate(views))
            yield first, second

    return epoch


# kornia


def theirs(images: np.ndarray) -> Epoch:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    side = pixels.shape[-1]
    taps = 2 * max(1, side // 10 // 2) + 1
    view = nn.Sequential(
        # Of its two ways to crop this is the faster; corners as everywhere else here.
        K.RandomResizedCrop((side, side), SCALE, RATIO, align_corners=False, cropping_mode="resample"),
        K.RandomHorizontalFlip(0.5),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((taps, taps), SIGMA, p=0.5),
    )

    @torch.no_grad()
    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        for part in pixels.split(BATCH):
            x = part.float() / 255
            yield view(x), view(x)

    return epoch


# Pillow


class PerImage(Dataset):
    """What a data set with transforms does, in the usual operations of Pillow."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.images[i])
        return self.view(image), self.view(image)

    def view(self, image: Image.Image) -> Tensor:
        side = image.width
        image = image.resize((side, side), Image.Resampling.BILINEAR, box=crop_box(side))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if random.random() < 0.8:
            for change in random.sample((brightness, contrast, saturation, hue), 4):
                image = change(image)
        if random.random() < 0.2:
            image = image.convert("L").convert("RGB")
        if random.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(random.uniform(*SIGMA)))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255


def crop_box(side: int) -> tuple[float, float, float, float]:
    for _ in range(10):
        area = side**2 * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if width <= side and height <= side:
            left, top = random.uniform(0, side - width), random.uniform(0, side - height)
            return left, top, left + width, top + height
    return 0, 0, side, side


def brightness(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(random.uniform(0.2, 1.8))


def contrast(image: Image.Image) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(random.uniform(0.2, 1.8))


def saturation(image: Image.Image) -> Image.Image:
    return ImageEnhance.Color(image).enhance(random.uniform(0.2, 1.8))


def hue(image: Image.Image) -> Image.Image:
    h, s, v = image.convert("HSV").split()
    turn = round(random.uniform(-0.2, 0.2) * 255) % 256
    return Image.merge("HSV", (h.point(lambda x: (x + turn) % 256), s, v)).convert("RGB")


def per_image(images: np.ndarray) -> Epoch:
    loader = DataLoader(PerImage(images), BATCH, num_workers=2, persistent_workers=True, worker_init_fn=random.seed)
    return lambda: loader


# What comes out, and how fast


def statistics_of(epoch: Epoch) -> dict[str, float]:
    views = torch.cat([view for pair in epoch() for view in pair])
    red, green, blue = views.mean((0, 2, 3)).tolist()
    high, low = views.amax(1), views.amin(1)
    return {
        "mean": views.mean().item(),
        "deviation": views.std().item(),
        "red": red,
        "green": green,
        "blue": blue,
        "saturation": ((high - low) / high.clamp(min=1e-3)).mean().item(),
        "at 0": (views < 0.5 / 255).float().mean().item(),
        "at 1": (views > 1 - 0.5 / 255).float().mean().item(),
        "edges": (views.diff(dim=3).abs().mean() + views.diff(dim=2).abs().mean()).item(),
    }


def seconds(epoch: Epoch) -> float:
    start = time.perf_counter()
    for _ in epoch():
        pass
    return time.perf_counter() - start


def compare(side: int, n: int, turns: int) -> None:
    images, origin = load(side, n)
    n = len(images)
    epochs = {"likewise": ours(images), "kornia": theirs(images), "Pillow": per_image(images)}
    measured = {name: statistics_of(epoch) for name, epoch in epochs.items()}
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(turns):
        for name, epoch in epochs.items():
            times[name].append(seconds(epoch))
    median = {name: statistics.median(t) for name, t in times.items()}
    print(f"\n{n:,} images of {side} pixels ({origin}), two views each, median of {turns}:\n")
    print("| | images/s | fastest, slowest turn | time, likewise = 1 |", "| --- | --- | --- | --- |", sep="\n")
    for name, t in times.items():
        rate, spread = n / median[name], f"{n / min(t):,.0f}, {n / max(t):,.0f}"
        print(f"| {name} | {rate:,.0f} | {spread} | {median[name] / median['likewise']:.2f} |")
    columns = list(measured["likewise"])
    print(f"\n| views | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|", sep="\n")
    for name, figures in measured.items():
        print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures.values()) + " |")


def about() -> str:
    here = setting()
    return (
        f"{here['date']}, {here['hardware']}, {THREADS} threads or workers, OpenMP waits "
        f"{os.environ.get('OMP_WAIT_POLICY', 'by default')}, Python {platform.python_version()}, "
        f"torch {here['torch']}, kornia {kornia.__version__}, Pillow {PIL.__version__}, commit {here['commit']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few images and one turn: does it run?")
    quick = parser.parse_args().quick
    torch.set_num_threads(THREADS)
    keep_freed_memory()  # as training does; kornia and Pillow gain by it too
    torch.manual_seed(0)
    print(about())
    compare(32, 512 if quick else 10_000, 1 if quick else TURNS)
    compare(96, 128 if quick else 2_000, 1 if quick else TURNS)


if __name__ == "__main__":
    main()
