"""Folders in, one HTML file out: it loads nothing from anywhere and opens from a disk or a mail."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from likewise.errors import UsageError
from likewise.files import write_text
from likewise.report import sections, verdict
from likewise.report.folders import Picks, Run, Vectors, read_folders

HERE = Path(__file__).parent
GENERATOR = b'<meta name="generator" content="likewise">'  # by which page.html says whose it is
N_ROWS = 200  # of the table of bad files, and of the list of duplicates


def write_report(
    folders: Sequence[Path | str] | Path | str, out: Path | str, *, title: str | None = None
) -> dict[str, Any]:
    """Write one HTML file on one or any number of run, embeddings and selection folders, told apart by what they hold.

    The images shown are the thumbnails of the embeddings folders, at most 2,000 of each. A selection brings the
    embeddings it was made from along, where they are found.

    `out` is a new file named .html, or a report to write anew.

    Returns `report` (path), `images` (how many are shown; one embedded and picked counts once), `seconds`, `bytes`.
    Raises UsageError for another `out`, and DataError for a folder that is none of the three, or holds a file that
    cannot be read.
    """
    start = time.perf_counter()
    out = Path(out)
    _check_out(out)
    runs, vectors, picks = read_folders(folders)
    context = _context(runs, vectors, picks)
    context["title"] = title or _title(runs, vectors, picks)
    html = _render(context)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, html)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror})") from None
    return {
        "report": str(out),
        "images": context["n_images"],
        "seconds": time.perf_counter() - start,
        "bytes": out.stat().st_size,
    }


def _check_out(out: Path) -> None:
    """Refuse what would be lost, before the work."""
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; expected the name of a file, such as {out / 'report.html'}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: expected a name that ends in .html, such as {out.with_suffix('.html')}")
    if out.exists():
        with open(out, "rb") as file:
            ours = GENERATOR in file.read(4096)
        if not ours:
            raise UsageError(f"--out {out}: is a file that is no report of likewise; choose another name, or delete it")


def _context(runs: Sequence[Run], vectors: Sequence[Vectors], picks: Sequence[Picks]) -> dict[str, Any]:
    thumbs = sections.Thumbs()
    found = verdict.scores([*runs, *vectors])
    source = {one.path: sections.source_of(one, vectors) for one in picks}
    atlases = [
        sections.atlas(one, [p for p in picks if source[p.path] is one], thumbs) for one in vectors if one.thumbs
    ]
    coresets = [sections.coreset(one, source[one.path], thumbs) for one in picks]
    images = {(str(one.path), i) for one in vectors for i in one.ids}
    for selection, shown in zip(picks, coresets, strict=True):
        embeddings = source[selection.path]
        folder = embeddings.path if embeddings else selection.meta.get("embeddings") or selection.path
        images |= {(str(folder), pick["id"]) for pick in shown["shown"]}
    charts = sections.curves(runs)
    n_curves = len(charts)
    for one in coresets:
        if one["gains"]:
            one["chart"] = len(charts)
            charts.append(one["gains"])
    origins = [(one.name, one.environment) for one in runs]
    origins += [(one.name, one.meta) for one in vectors] + [(one.name, one.meta) for one in picks]
    return {
        "headline": verdict.headline(runs, vectors),
        "said": verdict.said(runs, vectors),
        "bars": verdict.bars(found),
        "runs": runs,
        "vectors": vectors,
        "picks": picks,
        "n_images": len(images),
        "figures": verdict.key_figures(runs),
        "all_figures": verdict.all_figures([*runs, *vectors]),
        "charts": charts,
        "n_curves": n_curves,
        "pictures": [(run.name, name, uri) for run in runs for name, uri in run.pictures],
        "atlases": [(one, sections.queries(one)) for one in atlases],
        "coresets": coresets,
        "qualities": sections.qualities(picks),
        "scans": [(run.name, _scan(run.scan)) for run in runs if run.scan],
        "notes": [note for run in runs for note in run.notes] + [note for one in vectors for note in one.notes],
        "missing": [(run.name, run.missing) for run in runs if run.missing],
        "origins": [(name, _flat(facts)) for name, facts in origins if facts],
        "data": {"thumbs": list(thumbs.uris), "charts": charts, "maps": atlases},
    }


def _render(context: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": verdict.count,
        "number": verdict.number,
        "percent": verdict.percent,
        "duration": verdict.duration,
        "last_part": verdict.last_part,
    }
    # Ours, and trusted: the only text that is not escaped.
    notice = (HERE / "vendor/NOTICE").read_text(encoding="utf-8")
    library = (HERE / "vendor/echarts.common.min.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        context,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        library=Markup(f"/*\n{notice}\n*/\n{library}"),
    )


def _title(runs: Sequence[Run], vectors: Sequence[Vectors], picks: Sequence[Picks]) -> str:
    names = [one.name for one in runs or vectors or picks]
    if len(names) > 3:
        names = [*names[:2], f"{len(names) - 2} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _scan(scan: dict[str, Any]) -> dict[str, Any]:
    bad, duplicates = scan.get("bad") or [], scan.get("duplicates") or []
    return {
        "images": scan.get("images"),
        "cut": scan.get("cut") or 0,
        "n_bad": len(bad),
        "bad": bad[:N_ROWS],
        "n_groups": len(duplicates),
        "n_copies": sum(len(group) - 1 for group in duplicates),
        "duplicates": duplicates[:N_ROWS],
    }


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    rows = []
    for key, one in value.items():
        if key in ("quality", "random_quality", "classes"):  # shown above
            continue
        if isinstance(one, dict):
            rows += _flat(one, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, " ".join(map(str, one)) if isinstance(one, list) else str(one)))
    return rows
