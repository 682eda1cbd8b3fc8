"""The judgement at the top: a sentence in plain words, the bars it rests on, and the key figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from likewise.report.folders import Run, Vectors

# What is called learning: so much more accuracy than the best baseline, or a third of its errors gone; and what
# is called a difference at all.
CLEAR, SLIGHT = 0.10, 0.01
# As in evaluation: the fewest images that tell collapse, and what are few directions, in number and as a share of all.
FEWEST, FEW, NARROW = 10, 10, 0.1
KINDS = {"pixels": "Raw pixels", "untrained": "Untrained encoder", "learned": "Learned"}


@dataclass(frozen=True)
class Score:
    """One accuracy: the last evaluation in a folder of a kind of encoder, by this protocol on these images."""

    source: str  # the folder's name
    model: str  # the run whose encoder it is, or was before training
    kind: str  # of KINDS
    data: str  # in words
    images: str  # those of train and test, and their labels; figures on others are not compared
    protocol: str
    accuracy: float
    n_test: int | None = None  # labelled test images
    size: Any = None  # pixels that the encoder looked at
    caveats: str = ""  # why it may be too high


def scores(sources: Sequence[Run | Vectors]) -> list[Score]:
    """Every accuracy found, baselines first; a later evaluation of the same thing replaces an earlier one."""
    found: dict[tuple[Path, str, str, str, Any], Score] = {}
    for source in sources:
        made_by = None if isinstance(source, Run) else source.meta.get("model")
        model = str(Path(str(made_by or source.path)).absolute())
        for line in source.evaluations:
            kind = _kind(line)
            images = str(line.get("images_hash") or str(line.get("data") or "").rstrip("/"))
            labelled = line.get("labelled")
            images += "".join(f" {line[key]}" for key in ("labelled", "labels_hash") if line.get(key))
            n_test = labelled.get("test") if isinstance(labelled, dict) else None
            size, caveats = line.get("size"), line.get("caveats")
            warned = " ".join(map(str, caveats)) if isinstance(caveats, list) else ""
            for protocol, figures in _protocols(line).items():
                accuracy = figures.get("accuracy")
                if _is_number(accuracy):
                    found[source.path, kind, images, protocol, size] = Score(
                        source.name, model, kind, _data(line), images, protocol, float(accuracy), n_test, size, warned
                    )
    order = list(KINDS)
    return sorted(found.values(), key=lambda one: (one.data, one.images, one.protocol != "knn", order.index(one.kind)))


def headline(runs: Sequence[Run], vectors: Sequence[Vectors]) -> str:
    """One or two sentences that a non-expert can act on, from the most telling figures there are."""
    for run in runs:
        if run.status.get("state") in ("diverged", "collapsed"):
            return _failed(run)
    found = [score for score in scores([*runs, *vectors]) if score.protocol == "knn"]
    learned = [score for score in found if score.kind == "learned"]
    if learned:
        # Of the most test images before the highest: a lucky figure on few is no news.
        best = max(learned, key=lambda score: (bool(_baselines(score, found)), score.n_test or 0, score.accuracy))
        return _compared(best, _baselines(best, found))
    for run in runs:
        while_training = [row["knn"] for row in run.metrics if isinstance(row.get("knn"), (int, float))]
        if while_training:
            return (
                f"While training, a vote among nearest neighbours named the right class for "
                f"{while_training[-1]:.0%} of the images. Without the same figure for raw pixels and for an "
                "untrained encoder, nobody can tell how much of this was learned."
            )
    if found and not runs:
        bar = max(found, key=lambda score: score.accuracy)
        return (
            f"With {_inline(bar)} a vote among nearest neighbours names the right class for "
            f"{_hundredths(bar.accuracy)} in a hundred images. That is the bar for one that learned; none is here."
        )
    sources: list[Run | Vectors] = [*runs, *vectors]
    for source in sources:
        sentence = _health(source)
        if sentence:
            return sentence
    if vectors:
        return "There is no evaluation here yet. Judge by eye: see whether the neighbours below belong together."
    return "There is no evaluation here yet, so this page shows what there is, and judges nothing."


def said(runs: Sequence[Run], vectors: Sequence[Vectors]) -> list[tuple[str, str]]:
    """(folder, the verdict on it): that of its last evaluation, and before any that of training.

    Never both: each speaks of the health of the features, on images that are not the same.
    """
    sources: list[Run | Vectors] = [*runs, *vectors]
    lines = []
    for source in sources:
        trained = source.status.get("verdict") if isinstance(source, Run) else None
        verdicts = [one for one in (trained, *(line.get("verdict") for line in _own(source))) if one]
        lines += [(source.name, str(one)) for one in verdicts[-1:]]
    return lines


def bars(found: Sequence[Score]) -> list[dict[str, Any]]:
    """Accuracies of several models by one protocol on one data set, to be drawn side by side."""
    titles = {
        "knn": "Nearest neighbours vote",
        "linear": "Linear classifier on the features",
        "few-label": "Linear classifier on the features, with few labels",
        "svm": "Linear SVM on the maps of all layers",
    }
    groups: dict[tuple[str, str], dict[Any, Score]] = {}
    for score in found:
        who = score.accuracy if score.kind == "pixels" else score.source  # the same pixels are one bar
        groups.setdefault((score.protocol, score.images), {})[score.kind, who] = score
    return [
        {
            "title": titles.get(protocol, protocol),
            "data": next(iter(group.values())).data,
            "rows": [
                {"name": _bar(one, list(group.values())), "kind": one.kind, "value": one.accuracy}
                for one in group.values()
            ],
        }
        for (protocol, _), group in groups.items()
    ]


def key_figures(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Rows of (label, one text per run); a row that no run can fill is left out."""
    rows = [
        ("State", [str(run.status.get("state") or "") for run in runs]),
        ("Method", [_setting(run, "method") for run in runs]),
        ("Encoder", [_setting(run, "encoder") for run in runs]),
        ("Images", [count(_first(run, "images", run.scan.get("images"))) for run in runs]),
        ("Steps", [_steps(run) for run in runs]),
        ("Epochs", [number(_first(run, "epochs", _last(run, "epoch"))) for run in runs]),
        ("Training time", [duration(run.status.get("seconds")) for run in runs]),
        (
            "Images per second",
            [count(_first(run, "images_per_second", _last(run, "images_per_second"))) for run in runs],
        ),
        ("Loss at the end", [number(_last(run, "loss")) for run in runs]),
        ("Feature rank at the end", [number(_rank(run)) for run in runs]),
        ("k-NN while training, at the end", [percent(_last(run, "knn")) for run in runs]),
    ]
    return [(label, texts) for label, texts in rows if any(texts)]


def all_figures(sources: Sequence[Run | Vectors]) -> list[dict[str, str]]:
    """Every figure of every evaluation, for those who want them all."""
    return [
        {
            "model": str(line.get("model") or source.name),
            "data": ", tested on ".join(str(line[key]) for key in ("data", "test_data") if line.get(key)),
            "protocol": protocol,
            "figures": ", ".join(f"{key} {_plain(value)}" for key, value in figures.items()),
        }
        for source in sources
        for line in source.evaluations
        for protocol, figures in _protocols(line).items()
    ]


def last_part(name: str) -> str:
    """The last part of a path; anything else as it is."""
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or name


def count(value: Any) -> str:
    """A number of things, with thousands set apart.

    >>> count(60000)
    '60,000'
    """
    return f"{value:,.0f}" if _is_number(value) else ""


def number(value: Any) -> str:
    """Three digits that say something.

    >>> number(0.123456), number(1234.5), number(999.7), number(8)
    ('0.123', '1,234', '1,000', '8')
    """
    if not _is_number(value):
        return ""
    if float(value).is_integer() or abs(value) >= 999.5:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def percent(value: Any) -> str:
    return f"{value:.1%}" if _is_number(value) else ""


def duration(value: Any) -> str:
    """Seconds, said as people say them.

    >>> duration(40.2), duration(156), duration(7260)
    ('40 s', '2 min 36 s', '2 h 1 min')
    """
    if not _is_number(value):
        return ""
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _compared(best: Score, baselines: Sequence[Score]) -> str:
    out_of = "hundred images"
    hits = f"{_hundredths(best.accuracy)} in a {out_of}"
    if not baselines:
        return (
            f"A vote among nearest neighbours names the right class for {hits}. Without the same figure for raw "
            "pixels and for an untrained encoder, nobody can tell how much of this was learned."
        )
    others = " and ".join(f"{_hundredths(one.accuracy)} with {_inline(one)}" for one in baselines)
    rival = max(baselines, key=lambda score: score.accuracy)
    gain, chance = best.accuracy - rival.accuracy, _chance(best, rival)
    if best.caveats and gain >= 0:
        opening = "These figures may be too high to tell whether the encoder learned anything."
    elif abs(gain) < chance and (abs(gain) >= SLIGHT or chance > CLEAR):
        opening = f"{best.n_test:,} test images are too few to tell whether the encoder learned anything."
    elif gain >= CLEAR or gain >= max(SLIGHT, (1 - rival.accuracy) / 3):
        opening = "The encoder learned something useful."
    elif gain >= SLIGHT:
        opening = "The encoder learned a little."
    elif gain > -SLIGHT:
        opening = f"The encoder is no better than {_inline(rival)}."
    else:
        opening = f"The encoder is worse than {_inline(rival)}."
    told = f"{opening} A vote among nearest neighbours names the right class for {hits}, against {others}."
    return f"{told} {best.caveats}".strip()


def _hundredths(share: float) -> str:
    """Of a hundred; all and none are said of all and none alone."""
    if 0 < share < 0.005:
        return "less than 1"
    return "more than 99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def _baselines(score: Score, found: Sequence[Score]) -> list[Score]:
    """What to weigh it against on the same images: raw pixels, and its own encoder before training."""
    alike = [one for one in found if (one.images, one.protocol) == (score.images, score.protocol)]
    alike.sort(key=lambda one: one.source == score.source)  # what was measured beside it comes last, and stays
    own = (score.model, score.size)
    last = {one.kind: one for one in alike if one.kind == "pixels" or (one.model, one.size) == own}
    return [last[kind] for kind in ("pixels", "untrained") if kind in last]


def _chance(a: Score, b: Score) -> float:
    """The difference that chance alone makes once in twenty times: twice its standard deviation; 0 where unknown.

    With one image more on either side (Agresti and Caffo, 2000): all or none of a few right have a deviation too.
    """
    n = a.n_test
    if not n:
        return 0.0
    shares = [(n * one.accuracy + 1) / (n + 2) for one in (a, b)]
    return 2 * ((n + 2) * sum(share * (1 - share) for share in shares)) ** 0.5 / n


def _bar(score: Score, group: Sequence[Score]) -> str:
    name = KINDS[score.kind]
    several = sum(one.kind == score.kind for one in group) > 1
    return f"{name} ({score.source})" if several or score.kind == "learned" else name


def _data(line: dict[str, Any]) -> str:
    """The test images in words; older lines name the data alone."""
    data = last_part(str(line.get("data") or ""))
    if line.get("test_data"):
        return last_part(str(line["test_data"]))
    return f"images held out of {data}" if "test_data" in line else data


def _inline(score: Score) -> str:
    return "raw pixels" if score.kind == "pixels" else "an untrained encoder"


def _failed(run: Run) -> str:
    what = {
        "diverged": "Training diverged: its loss stopped being a finite number, and the encoder is of no use.",
        "collapsed": "Training collapsed: the encoder gives nearly the same features to every image.",
    }
    return f"{what[run.status['state']]} This happened in {run.name}."


def _health(source: Run | Vectors) -> str:
    figures: dict[str, Any] = {}
    if isinstance(source, Run):
        figures = dict(source.status.get("health") or {})
    for line in _own(source):
        figures |= _protocols(line).get("health", {})
    if figures.get("collapsed"):
        return "The features have collapsed: nearly the same ones are given to every image."
    rank, dim, n_images = figures.get("rankme"), figures.get("dim"), figures.get("images")
    if not _is_number(rank) or (_is_number(n_images) and n_images < FEWEST):
        return ""
    most = n_images / 2 if _is_number(n_images) else FEW  # few images cannot spread over many
    narrow = _is_number(dim) and rank < min(FEW, NARROW * dim, most)
    how = "have not collapsed, but spread over only" if narrow else "have not collapsed: they spread over"
    return (
        f"The features {how} about {rank:.0f} directions. How well "
        "they tell images apart takes labels to say; without any, judge by the neighbours "
        f"{'below' if isinstance(source, Vectors) else 'that a report on embeddings shows'}."
    )


def _own(source: Run | Vectors) -> list[dict[str, Any]]:
    """The evaluations of what a folder holds, without the baselines that stand beside a run's."""
    return [line for line in source.evaluations if isinstance(source, Vectors) or _kind(line) == "learned"]


def _kind(line: dict[str, Any]) -> str:
    return next((one for one in (line.get("kind"), line.get("model")) if one in KINDS), "learned")


def _protocols(line: dict[str, Any]) -> dict[str, dict[str, Any]]:
    protocols = line.get("protocols")
    if not isinstance(protocols, dict):
        return {}
    return {name: figures for name, figures in protocols.items() if isinstance(figures, dict)}


def _setting(run: Run, key: str) -> str:
    value = run.status.get(key) or run.config.get(key)
    if isinstance(value, dict):
        value = value.get("name")
    return str(value or "")


def _first(run: Run, key: str, otherwise: Any) -> Any:
    value = run.status.get(key)
    return otherwise if value is None else value


def _last(run: Run, key: str) -> Any:
    return next((row[key] for row in reversed(run.metrics) if row.get(key) is not None), None)


def _steps(run: Run) -> str:
    """How many were done, and of how many where that is not all: a run that was killed has only its metrics to tell."""
    said, last, of = run.status.get("step"), _last(run, "step"), _first(run, "steps", run.config.get("steps"))
    known = [said] if _is_number(said) else []
    known += [last + 1] if _is_number(last) else []
    done = max(known) if known else of
    return count(done) + (f" of {count(of)}" if _is_number(of) and _is_number(done) and done < of else "")


def _rank(run: Run) -> Any:
    measured = _last(run, "rank")
    return measured if measured is not None else (run.status.get("health") or {}).get("rankme")


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
