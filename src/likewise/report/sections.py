"""The sections below the judgement: curves, maps, neighbours, coresets. Each is plain data for the page."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from likewise.report.folders import Picks, Run, Vectors, embeddings_of, evenly
from likewise.report.layout import N_NEIGHBOURS, flat_map, kept, neighbours
from likewise.report.verdict import count, number

N_POINTS = 400  # of one curve: about as many as there are pixels
N_QUERIES = 10
N_PICKS = 120  # thumbnails of one coreset
MEASURES = {
    "facility_location": ("Similarity to the nearest pick", "mean over all images; higher is better", +1),
    "radius": ("Farthest image from any pick", "distance; lower is better", -1),
    "mean_distance": ("Distance to the nearest pick", "mean over all images; lower is better", -1),
    "duplicates": ("Equal picks", "with the same features; lower is better", -1),
    "mmd": ("Discrepancy", "from all images (MMD); lower is better", -1),
    "effective_clusters": ("Clusters", "effective number; higher is better", +1),
    "effective_classes": ("Classes", "effective number; higher is better", +1),
}


class Thumbs:
    """Data URIs, each kept once however often the page shows it."""

    def __init__(self) -> None:
        self.uris: dict[str, int] = {}

    def add(self, uri: str) -> int:
        return self.uris.setdefault(uri, len(self.uris))


def curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Charts of what was logged while training; a chart without a line is left out.

    Losses of different methods are not comparable, so each run has its own chart of them; the rest share one.
    """

    def together(key: str, name: str) -> list[dict[str, Any]]:
        return [_line(run.name if len(runs) > 1 else name, run.metrics, key) for run in runs]

    charts = []
    for run in runs:
        terms = _lines(run.metrics, "terms")
        if len(terms) != 1:
            terms = [_line("sum", run.metrics, "loss"), *terms]
        title = f"Loss of {run.name}" if len(runs) > 1 else "Loss"
        note = "Each weighted term, and their sum. Training makes it smaller, unless they are two sides of a game."
        charts.append(_chart(title, note, terms))
    knn_note = "How often neighbours name the right class, among the training images alone."
    charts += [
        _chart("k-NN accuracy", knn_note, together("knn", "k-NN"), percent=True),
        _chart(
            "Feature rank",
            "In how many directions the features spread. A fall to 1 is collapse.",
            together("rank", "rank"),
            zero=True,
        ),
        _chart("Images per second", "The speed of training.", together("images_per_second", "images/s"), zero=True),
    ]
    for run in runs:
        title = f"Also logged by {run.name}" if len(runs) > 1 else "Also logged"
        shown = _lines(run.metrics, "shown")
        names = ", ".join(one["name"] for one in shown)
        charts.append(_chart(title, f"Shown, and not part of the loss: {names}.", shown))
    return [chart for chart in charts if chart["series"]]


def atlas(vectors: Vectors, picks: Sequence[Picks], thumbs: Thumbs) -> dict[str, Any]:
    """The map of one embeddings folder, the neighbours of each of its images, and the sentence about both."""
    near, cosine = neighbours(vectors.x)
    places, way = flat_map(vectors.x)
    frequent = [label for label, _ in Counter(label for label in vectors.labels if label).most_common()]
    number_of = {label: i for i, label in enumerate(frequent)}
    row_of = {i: row for row, i in enumerate(vectors.ids)}
    facts = [f"{count(len(vectors.ids))} images, placed by {way} of their {vectors.dim} features."]
    if len(vectors.ids) > N_NEIGHBOURS:
        share = kept(near, places)
        facts.append(f"Of each image's ten nearest among them, {share:.0%} are among its ten nearest on this map too.")
    nearest = zip(vectors.labels, (vectors.labels[i] for i in near[:, 0]), strict=True) if near.size else ()
    pairs = [mine == theirs for mine, theirs in nearest if mine and theirs]
    same = sum(pairs) / len(pairs) if len(frequent) > 1 and pairs else None
    return {
        "name": vectors.name,
        "way": way,
        "facts": facts,
        "same": same,
        "pairs": len(pairs),
        "all": len(vectors.ids) == vectors.n_images,
        "cosine": float(cosine[:, 0].mean()) if cosine.size else None,
        "places": np.round(places, 4).tolist(),
        "thumbs": [thumbs.add(uri) for uri in vectors.thumbs],
        "paths": vectors.paths,
        "labels": [number_of.get(label, -1) for label in vectors.labels],
        "classes": frequent,
        "near": near.tolist(),
        "cosines": np.round(cosine, 3).tolist(),
        "selections": [
            {"name": one.name, "rows": [row_of[i] for i in one.ids if i in row_of], "total": len(one.ids)}
            for one in picks
        ],
    }


def queries(shown: dict[str, Any]) -> list[int]:
    """The images whose neighbours are listed: not hand-picked, but evenly spaced.

    With labels: the image in the middle of each class, for at most ten classes; else every so-manyth image.
    """
    if len(shown["classes"]) < 2:
        return evenly(range(len(shown["thumbs"])), N_QUERIES)
    middles = []
    for label in evenly(sorted(range(len(shown["classes"])), key=lambda i: shown["classes"][i]), N_QUERIES):
        members = [i for i, other in enumerate(shown["labels"]) if other == label]
        middles.append(members[len(members) // 2])
    return middles


def coreset(picks: Picks, source: Vectors | None, thumbs: Thumbs) -> dict[str, Any]:
    """One selection: its first picks as thumbnails, and its gains."""
    uri_of = dict(picks.thumbs)  # of the first picks; those of the embeddings are spread over all images
    uri_of |= {} if source is None else dict(zip(source.ids, source.thumbs, strict=True))  # so that none is there twice
    shown = [
        {"id": i, "thumb": thumbs.add(uri_of[i]), "rank": rank + 1, "path": path}
        for rank, (i, path) in enumerate(zip(picks.ids, picks.paths, strict=True))
        if i in uri_of
    ][:N_PICKS]
    points = [[rank + 1, gain] for rank, gain in enumerate(picks.gains) if gain is not None]
    gains = [gain for _, gain in points]
    log = bool(gains) and min(gains) > 0 and max(gains) > 50 * gains[-1]
    chart = _chart(
        "Gain of each pick",
        f"What each further image adds, in pick order{', on a logarithmic scale' if log else ''}.",
        [{"name": "gain", "points": [*evenly(points[:-1], N_POINTS), *points[-1:]]}],
        x="pick",
        zero=True,
        log=log,
    )
    notes = list(picks.notes)
    if source is None and not shown:
        notes.append("The embeddings it was made from were not found, so its images cannot be shown.")
    elif len(shown) < len(picks.ids):
        notes.append(f"The first {len(shown)} that have a thumbnail are shown, of {len(picks.ids):,}.")
    seconds = picks.meta.get("seconds")
    return {
        "name": picks.name,
        "method": str(picks.meta.get("method") or picks.name),
        "n": len(picks.ids),
        "seconds": seconds,
        "shown": shown,
        "gains": chart if any(gains) else None,
        "notes": notes,
    }


def qualities(picks: Sequence[Picks]) -> dict[str, Any] | None:
    """The table of coresets: a row for each and one for random images as many, a column for each measure.

    The best of a column is marked among rows of as many images: more images are better by most measures.
    """
    rows = []
    for one in picks:
        name, n = str(one.meta.get("method") or one.name), len(one.ids)
        rows.append((f"{name}, {n:,} images", False, n, _figures(one.meta.get("quality"))))
        random = _figures(one.meta.get("random_quality"))
        if random:
            rows.append((f"random, {n:,} images", True, n, random))
    rows = list({(row[0], str(row[-1])): row for row in rows}.values())
    keys = list(dict.fromkeys(key for *_, figures in rows for key in figures))
    if not keys:
        return None
    columns = [(*MEASURES.get(key, (key.replace("_", " "), "", 0)), key) for key in keys]
    best = {}
    for n in {n for _, _, n, _ in rows}:
        for _, _, sign, key in columns:
            values = {figures[key] for _, _, size, figures in rows if size == n and key in figures}
            best[n, key] = max(values, key=lambda value: sign * value) if sign and len(values) > 1 else None
    return {
        "columns": [(title, note) for title, note, _, _ in columns],
        "rows": [
            (name, plain, [(number(figures.get(key)), key in figures and figures[key] == best[n, key]) for key in keys])
            for name, plain, n, figures in rows
        ],
    }


def source_of(picks: Picks, vectors: Sequence[Vectors]) -> Vectors | None:
    """The embeddings that a selection speaks of: those with its ids and paths, in the folder it names before others."""
    named, pairs = embeddings_of(picks.path, picks.meta), list(zip(picks.ids, picks.paths, strict=True))
    fitting = [
        one for one in vectors if all(0 <= i < one.n_images and path in ("", one.all_paths[i]) for i, path in pairs)
    ]
    for one in fitting:
        if named is not None and one.path.resolve() == named.resolve():
            return one
    if not any(path for _, path in pairs):  # of an array, and so of no images but those of its own folder
        array = picks.path / str(picks.meta.get("embeddings") or "")
        return next((one for one in fitting if array.resolve() == (one.path / "x.npy").resolve()), None)
    return fitting[0] if fitting else None


def _chart(
    title: str,
    note: str,
    series: Sequence[dict[str, Any]],
    *,
    x: str = "step",
    zero: bool = False,
    percent: bool = False,
    log: bool = False,
) -> dict[str, Any]:
    series = [one for one in series if one["points"]]
    ends = (f"{one['name']} from {number(one['points'][0][1])} to {number(one['points'][-1][1])}" for one in series)
    return {
        "title": title,
        "note": note,
        "series": series,
        "x": x,
        "zero": zero,
        "percent": percent,
        "log": log,
        "summary": f"{title}: {'; '.join(ends)}.",
    }


def _lines(metrics: Sequence[dict[str, Any]], group: str) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for row in metrics for name in row.get(group) or {})
    rows = [{"step": row.get("step"), **(row.get(group) or {})} for row in metrics]
    return [_line(name, rows, name) for name in names]


def _line(name: str, rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """(step, value) wherever there is a value; a long series as means over equally many steps."""
    pairs = [(row.get("step"), row.get(key)) for row in rows]
    points = np.array([pair for pair in pairs if all(isinstance(one, (int, float)) for one in pair)], dtype=np.float64)
    if len(points) > N_POINTS:
        points = np.array([part.mean(axis=0) for part in np.array_split(points, N_POINTS)])
    return {"name": name, "points": [[float(f"{step:.6g}"), float(f"{value:.5g}")] for step, value in points]}


def _figures(quality: Any) -> dict[str, float]:
    if isinstance(quality, (int, float)):
        return {"quality": float(quality)}
    if not isinstance(quality, dict):
        return {}
    return {key: float(value) for key, value in quality.items() if isinstance(value, (int, float))}
