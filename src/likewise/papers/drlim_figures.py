"""The figures of DrLIM: maps with the digits at their places, a cylinder from two sides, the loss as springs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.patches
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from likewise.papers.parts import BLUE, GREY, ORANGE, save_figure

Pixels = UInt8[np.ndarray, "n h w"]
Labels = Int[np.ndarray, " n"]
Map = Float[np.ndarray, "n d"]
INK = "#333333"
TIGHT = {"bbox_inches": "tight", "pad_inches": 0.1}
MARKERS = ("<", "s", "o", "D", ">")
CANVAS = 1_000  # pixels of a map with thumbnails


def springs(path: Path) -> None:
    """The loss and its force over the distance, and what they do to a point among others."""
    figure = new(14, 4.6)
    loss, force, plane = figure.subplots(1, 3, width_ratios=[1, 1, 1.1])
    d = np.linspace(0, 1.6, 400)
    near, far = d**2 / 2, np.clip(1 - d, 0, None) ** 2 / 2
    for axes, pull, push, what in (
        (loss, near, far, "loss of a pair"),
        (force, -d, np.clip(1 - d, 0, None), "force along the line between the two"),
    ):
        axes.plot(d, pull, color=BLUE, lw=2.5, label="similar")
        axes.plot(d, push, color=ORANGE, lw=2.5, label="dissimilar")
        axes.axvline(1, color=GREY, lw=1, ls="--")
        axes.set(xlabel="distance in the map, in margins", title=what, xlim=(0, 1.6))
        axes.spines[["top", "right"]].set_visible(False)
    loss.text(1.02, 0.9, "margin", color=INK)
    loss.legend(frameon=False, loc="upper left")
    force.axhline(0, color=INK, lw=0.8)
    force.text(0.06, 1.02, "pushes apart", color=ORANGE, va="bottom")
    force.text(0.62, -1.05, "pulls together", color=BLUE)

    plane.add_patch(mpl.patches.Circle((0, 0), 1, fc="#f4f4f4", ec=GREY, ls="--"))
    plane.text(0.0, -1.1, "margin", color=INK, ha="center", va="top")
    for (x, y), similar in (
        ((0.55, 0.35), True),
        ((-1.15, 0.75), True),
        ((0.35, -0.6), False),
        ((-0.45, -0.25), False),
        ((1.35, -0.45), False),
    ):
        reach, colour = np.hypot(x, y), BLUE if similar else ORANGE
        if similar or reach < 1:
            plane.plot(*_coil((0, 0), (x, y)), color=colour, lw=1.3, zorder=1)
            moves = -0.45 * reach if similar else 0.6 * (1 - reach) + 0.08
            plane.annotate(
                "",
                (x + x / reach * moves, y + y / reach * moves),
                (x, y),
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.2},
                zorder=3,
            )
        plane.plot(x, y, "o", ms=12, color=colour, mec="white", zorder=4, alpha=1 if similar or reach < 1 else 0.45)
    plane.plot(0, 0, "o", ms=14, color=INK, mec="white", zorder=4)
    plane.text(1.35, -0.62, "far enough:\nno spring", color=INK, ha="center", va="top", fontsize=9)
    plane.set(xlim=(-1.7, 1.8), ylim=(-1.4, 1.25), aspect="equal", title="one image (black) and five others")
    plane.axis("off")
    save_figure(figure, path, **TIGHT)


def before_after(path: Path, images: Pixels, y: Labels, before: Map, after: Map) -> None:
    """Held-out fours and nines in the map, before and after training."""
    figure = new(14, 7.4)
    for axes, z, title in zip(figure.subplots(1, 2), (before, after), ("before training", "after"), strict=True):
        thumbnails(axes, z, images, [(BLUE, ORANGE)[label] for label in y], size=26)
        axes.set_title(title)
    _classes(figure)
    save_figure(figure, path, **TIGHT)


def shifts(path: Path, images: Pixels, y: Labels, shift: Labels, by: Sequence[int], maps: Mapping[str, Map]) -> None:
    """Each map twice: the digits at their places, and class by colour and shift by marker."""
    figure = new(4.6 * len(maps), 9.6)
    rows = figure.subplots(2, len(maps))
    for (name, z), above, below in zip(maps.items(), *rows, strict=True):
        n = len(z)
        thumbnails(above, z, images[:n], [(BLUE, ORANGE)[label] for label in y[:n]], size=44)
        above.set_title(name)
        places, some = framed(z), np.random.default_rng(0).permutation(n)[:1_500]
        for kind, marker in enumerate(MARKERS[: len(by)]):
            rows_of = some[shift[some] == kind]
            colours = [(BLUE, ORANGE)[label] for label in y[rows_of]]
            below.scatter(*places[rows_of].T, c=colours, marker=marker, s=17, alpha=0.6, lw=0)
        _bare(below)
    handles = [
        Line2D([], [], color=INK, marker=marker, ls="", label=f"{to:+d} pixels" if to else "in place")
        for marker, to in zip(MARKERS, by, strict=False)
    ]
    _classes(figure, handles)
    save_figure(figure, path, **TIGHT)


def cylinder(
    path: Path,
    images: Pixels,
    azimuth: Labels,
    elevation: Labels,
    light: Labels,
    ours: Map,
    theirs: Map,
    test: Int[np.ndarray, " m"],
) -> None:
    """The map of poses along its axis (azimuth by colour) and from the side (elevation by colour), beside LLE's."""
    from likewise.papers.measures import frame, in_frame

    n_azimuths, train = int(azimuth.max()) + 1, np.setdiff1d(np.arange(len(images)), test)
    figure = new(15, 7.6)
    grid = figure.add_gridspec(2, 3, width_ratios=[2.05, 1, 1])
    large = figure.add_subplot(grid[:, 0])
    for row, (name, z) in enumerate((("DrLIM", ours), ("LLE", theirs))):
        turned = in_frame(z, *frame(z[train], azimuth[train], n_azimuths))[2]
        turned = turned / np.abs(turned).max()
        along, side = figure.add_subplot(grid[row, 1]), figure.add_subplot(grid[row, 2])
        for axes, (i, j), colour, cmap, what in (
            (along, (0, 1), azimuth * (360 // n_azimuths), "hsv", "along the axis: azimuth"),
            (side, (0, 2), 30 + 5 * elevation, "viridis", "from the side: elevation"),
        ):
            dots = axes.scatter(turned[:, i], turned[:, j], c=colour, cmap=cmap, s=9, lw=0)
            axes.scatter(turned[test, i], turned[test, j], fc="none", ec=INK, s=13, lw=0.35)
            axes.set_title(f"{name}, {what}", fontsize=10)
            figure.colorbar(dots, ax=axes, shrink=0.8)
            _bare(axes)
            axes.set_aspect("equal" if i + j == 1 else "auto")
        if row == 0:
            _ring(large, turned, images, azimuth, elevation, light)
    figure.supxlabel(
        "Circled: held-out images. LLE has the same neighbours. Six lamps shine on each pose.", fontsize=10
    )
    save_figure(figure, path, **TIGHT)


def ten(path: Path, images: Pixels, y: Labels, z: Map) -> None:
    """Held-out digits of ten classes in the map."""
    figure = new(9.6, 9.2)
    axes = figure.subplots()
    colours = [mpl.colors.to_hex(mpl.colormaps["tab10"](label)) for label in range(10)]
    thumbnails(axes, z, images, [colours[label] for label in y], size=22)
    handles = [Line2D([], [], color=colour, marker="o", ls="", label=str(i)) for i, colour in enumerate(colours)]
    figure.legend(handles=handles, loc="outside lower center", ncols=10, frameon=False)
    save_figure(figure, path, **TIGHT)


def thumbnails(axes: Axes, z: Map, images: Pixels, colours: Sequence[str], size: int) -> None:
    """Images at their places in the unit square, in their colours, wherever there is still room for one."""
    canvas = np.ones((CANVAS, CANVAS, 3))
    taken: list[tuple[int, int]] = []
    for (x, y), image, colour in zip(framed(z), images, colours, strict=True):
        across, down = int((0.03 + 0.94 * x) * CANVAS), int((0.97 - 0.94 * y) * CANVAS)
        if not size // 2 < across < CANVAS - size // 2 or not size // 2 < down < CANVAS - size // 2:
            continue
        if any(abs(across - a) < 0.8 * size and abs(down - b) < 0.8 * size for a, b in taken):
            continue
        taken.append((across, down))
        ink = _resized(image, size)[..., None] / 255
        left, top = across - size // 2, down - size // 2
        window = canvas[top : top + size, left : left + size]
        window[:] = window * (1 - ink) + np.array(mpl.colors.to_rgb(colour)) * ink
    axes.imshow(canvas, extent=(0, 1, 0, 1), interpolation="antialiased")
    _bare(axes)


def framed(z: Map) -> Float[np.ndarray, "n 2"]:
    """The first two coordinates in the unit square; what lies beyond the middle 99 % of them is cut to its edge."""
    low, high = np.percentile(z[:, :2], 0.5, 0), np.percentile(z[:, :2], 99.5, 0)
    return np.clip((z[:, :2] - low) / np.maximum(high - low, 1e-12), 0, 1)


def new(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _ring(axes: Axes, turned: Map, images: Pixels, azimuth: Labels, elevation: Labels, light: Labels) -> None:
    """The object itself, at the mean of each azimuth, for a low and a high elevation."""
    axes.scatter(turned[:, 0], turned[:, 1], c=azimuth, cmap="hsv", s=7, lw=0, alpha=0.5)
    for a in range(0, int(azimuth.max()) + 1, 2):
        centre = turned[azimuth == a, :2].mean(0)
        direction = centre / max(float(np.linalg.norm(centre)), 1e-9)
        place = direction * (np.linalg.norm(centre) + 0.42)
        (shown,) = np.flatnonzero((azimuth == a) & (elevation == 3) & (light == 1))[:1]
        axes.plot(*np.array([centre, place]).T, color=GREY, lw=0.8, zorder=0)
        half = 0.19
        axes.imshow(
            images[shown],
            cmap="gray",
            extent=(place[0] - half, place[0] + half, place[1] - half, place[1] + half),
            vmin=0,
            vmax=255,
            zorder=2,
        )
    axes.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal", title="DrLIM: the object at its place on the ring")
    axes.axis("off")


def _coil(start: tuple[float, float], end: tuple[float, float], turns: int = 9) -> np.ndarray:
    """A spring between two points, as coordinates "2 n"."""
    a, b = np.array(start), np.array(end)
    t = np.linspace(0, 1, 2 * turns + 2)
    sideways = np.where(np.arange(len(t)) % 2, 1, -1) * 0.045
    sideways[[0, 1, -2, -1]] = 0
    normal = np.array([a[1] - b[1], b[0] - a[0]]) / np.linalg.norm(b - a)
    return (a + np.outer(t, b - a) + np.outer(sideways, normal)).T


def _resized(image: UInt8[np.ndarray, "h w"], size: int) -> Float[np.ndarray, "s s"]:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR), dtype=np.float64)


def _classes(figure: Figure, others: Sequence[Line2D] = ()) -> None:
    handles = [
        Line2D([], [], color=colour, marker="o", ms=9, ls="", label=label)
        for colour, label in ((BLUE, "4"), (ORANGE, "9"))
    ]
    figure.legend(handles=[*handles, *others], loc="outside lower center", ncols=7, frameon=False, fontsize=12)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#cccccc")
