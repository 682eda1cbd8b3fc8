"""The command line: verbs, flags, answers, exit codes. torch is imported only inside a verb."""

import json
import logging
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from likewise import progress
from likewise.errors import LikewiseError, UsageError

app = typer.Typer(
    name="likewise",
    help="Learn what unlabelled images have in common, judge the result, and find the images that matter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Kind(StrEnum):
    methods = "methods"
    encoders = "encoders"
    selectors = "selectors"
    evaluations = "evaluations"
    datasets = "datasets"
    views = "views"


Data = Annotated[
    str,
    typer.Argument(
        help="A folder, a list (.txt; .csv with a column path; relative to it), .zip, .tar, .npz, or a named set.",
        metavar="DATA",
    ),
]
Model = Annotated[str, typer.Argument(help="A run, a saved encoder, or 'pixels'.", metavar="MODEL")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what likewise wrote in the output folder.")]
Seed = Annotated[int | None, typer.Option(help="Every draw follows from it.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Labels = Annotated[str | None, typer.Option(help="'folders' (first folder below DATA) or a CSV of path,label.")]
MaxBad = Annotated[str, typer.Option(help="Unusable files that are tolerated, as a share.")]
Size = Annotated[int | None, typer.Option(help="Side of the images in pixels.")]


@app.command()
def pretrain(
    data: Data,
    out: Annotated[Path, typer.Option(help="The run folder.")],
    method: Annotated[
        str | None, typer.Option(help="See `likewise list methods`; else encoder and budget decide.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="See `likewise list encoders`, or package.module:Class.")] = None,
    epochs: Annotated[float | None, typer.Option(help="How long: this, steps or minutes; else as METHOD says.")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches to train on.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Turned into steps by timing a few.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step; else as the method says.")] = None,
    size: Size = None,
    seed: Seed = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="temperature=0.2, views=multi-crop, or any setting; may be repeated. An unknown one lists them all.",
        ),
    ] = None,
    labels: Labels = None,
    subset: Annotated[Path | None, typer.Option(help="Train only on these: a selection, or a file of ids.")] = None,
    patches: Annotated[
        int | None, typer.Option(help="Train on so many patches of the images (exemplar: 8000); 0: on the images.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="That read images ahead of the step.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    save_every: Annotated[str | None, typer.Option(help="Minutes (10m) or steps (200).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Overwrite = False,
    init_from: Annotated[Path | None, typer.Option(help="Start from another run's encoder.")] = None,
    max_bad: MaxBad = "1%",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and how long it would take.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn an encoder from images without labels."""
    with answer(as_json, quiet) as reply:
        _one_of(resume, overwrite)
        from likewise.verbs.pretrain import pretrain as run

        given = {
            "method": method,
            "encoder": encoder,
            "epochs": epochs,
            "steps": steps,
            "minutes": minutes,
            "batch_size": batch_size,
            "size": size,
            "seed": seed,
            "threads": threads,
            "precision": precision,
            "device": device,
            "save_every": save_every,
        }
        result = run(
            data,
            out=out,
            labels=labels,
            subset=subset,
            patches=patches,
            recipe_file=recipe,
            init_from=init_from,
            max_bad=max_bad,
            resume=resume,
            overwrite=overwrite,
            dry_run=dry_run,
            **_settings(set_ or [], given, {*signature(run).parameters, "recipe"} - {"settings"}),
        )
        reply(result, lambda: _dry(result) if dry_run else f"{result['verdict']}\n{result['run']}")


@app.command()
def embed(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="The embeddings folder.")],
    size: Size = None,
    labels: Labels = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="The run's encoder before training.")] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    max_bad: MaxBad = "1%",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn images into vectors with a trained encoder."""
    with answer(as_json, quiet) as reply:
        from likewise.embedding import embed as run
        from likewise.files import check_claim
        from likewise.types import usable_device
        from likewise.verbs.evaluate import open_for

        check_claim(out, "embeddings", overwrite=overwrite)  # before images are read, which may take long
        encoder, images, side = open_for(model, data, labels=labels, size=size, trained=not untrained, max_bad=max_bad)
        table = run(
            encoder,
            images,
            size=side,
            out=out,
            overwrite=overwrite,
            device=usable_device(device),
            about={"model": model, "trained": not untrained},
        )
        result = {
            "embeddings": str(out),
            "images": len(table),
            "dim": table.x.shape[1],
            "seconds": table.meta["seconds"],
            "images_per_second": table.meta["images_per_second"],
        }
        reply(result, lambda: f"{len(table):,} embeddings of {table.x.shape[1]} dimensions in {out}")


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A run, a saved encoder, 'pixels', or an embeddings folder.", metavar="MODEL|EMB")
    ],
    data: Annotated[str | None, typer.Argument(help="Images, when MODEL is a model.", metavar="[DATA]")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Separated by commas, see `likewise list evaluations`; else knn,linear,health, health without labels."
        ),
    ] = None,
    test: Annotated[str | None, typer.Option(help="Held-out images; named sets have theirs.", metavar="DATA")] = None,
    labels: Labels = None,
    test_labels: Annotated[
        str | None, typer.Option(help="Of the images of --test, where --labels cannot go for both.")
    ] = None,
    size: Size = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="The run's encoder before training.")] = False,
    baselines: Annotated[bool, typer.Option("--baselines", help="Also the pixels and the untrained encoder.")] = False,
    seed: Seed = None,
    device: Device = "auto",
    max_bad: MaxBad = "1%",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how good a representation is, in numbers and in words."""
    with answer(as_json, quiet) as reply:
        from likewise.types import usable_device
        from likewise.verbs.evaluate import PIXELS, append, is_embeddings
        from likewise.verbs.evaluate import evaluate as run

        options: dict[str, Any] = {
            "protocols": protocol,
            "test": test,
            "labels": labels,
            "test_labels": test_labels,
            "seed": seed or 0,
            "device": usable_device(device),
            "max_bad": max_bad,
        }
        if baselines and is_embeddings(model):
            raise UsageError(f"--baselines: {model} holds embeddings; expected a model and DATA")
        if baselines and untrained:
            raise UsageError("--baselines: the untrained encoder is one of them; leave out --untrained")
        unkept: list[OSError] = []

        def keep(found: dict[str, Any]) -> None:
            """Each result as soon as it is there; one that cannot be kept is told all the same."""
            if model != PIXELS and not untrained:
                try:
                    append(Path(model), found)
                except OSError as error:
                    unkept.append(error)

        result = run(model, data, size=size, trained=not untrained, **options)
        keep(result)
        if baselines:
            others: dict[str, tuple[str, dict[str, Any]]] = {"pixels": (PIXELS, {})}
            if model != PIXELS:
                others["untrained"] = model, {"size": size, "trained": False}
            result["baselines"] = {}
            for name, (other, how) in others.items():
                judged = run(other, data, **how, **options)
                keep({**judged, "model": name})
                result["baselines"][name] = judged["protocols"]
        reply(result, lambda: _evaluation(result))
        if unkept:
            raise unkept[0]


@app.command()
def select(
    source: Annotated[
        str, typer.Argument(help="An embeddings folder, a run, or an .npy file.", metavar="EMB|RUN|FILE.npy")
    ],
    out: Annotated[Path, typer.Option(help="The selection folder.")],
    method: Annotated[
        str, typer.Option(help="See `likewise list selectors`, or package.module:function.")
    ] = "k-center",
    budget: Annotated[str, typer.Option(help="A share (10%) or a number of images.")] = "10%",
    chosen: Annotated[Path | None, typer.Option(help="Picked already: a selection, or a file of ids.")] = None,
    target: Annotated[
        Path | None, typer.Option(help="Embeddings of images like those wanted, for open-set methods.", metavar="EMB")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="A number per image: .npy, .csv with a column score, or a run's own.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="'own' (the embeddings'), 'folders', a CSV of path,label, or an .npy.")
    ] = None,
    memory: Annotated[str, typer.Option(help="Work space, such as 2GB.")] = "2GB",
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, an option of the method.")] = None,
    seed: Seed = None,
    device: Device = "auto",
    copy_to: Annotated[Path | None, typer.Option(help="Copy the chosen files there.")] = None,
    link_to: Annotated[Path | None, typer.Option(help="Link the chosen files there.")] = None,
    data: Annotated[
        str | None, typer.Option(help="The images, if they are not where they were, or for an .npy.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and select nothing.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the selection in --out that was stopped, if the method can (README)."
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the images that matter: a coreset."""
    with answer(as_json, quiet) as reply:
        _one_of(resume, overwrite)
        from likewise.types import usable_device
        from likewise.verbs.select import choose

        result = choose(
            source,
            out,
            method=method,
            budget=budget,
            chosen=chosen,
            target=target,
            scores=scores,
            labels=labels,
            memory=memory,
            seed=seed or 0,
            device=usable_device(device),
            copy_to=copy_to,
            link_to=link_to,
            data=data,
            overwrite=overwrite,
            resume=resume,
            options=_settings(set_ or [], {}),
            dry_run=dry_run,
        )
        reply(result, lambda: _selection(result))


@app.command("match")
def match_(
    model: Annotated[
        str, typer.Argument(help="A run, a saved encoder, or 'pixels' (SIFT and raw RGB alone).", metavar="MODEL")
    ],
    pairs: Annotated[Path, typer.Argument(help="Folders of img1.png, img2.png, .. and H1to2p, ..", metavar="PAIRS")],
    descriptors: Annotated[
        str, typer.Option(help="Separated by commas: sift, rgb, layers, layer1, layer2, .., output.")
    ] = "sift,rgb,layers",
    side: Annotated[int, typer.Option(help="Of the patches, in pixels.")] = 64,
    most: Annotated[int, typer.Option(help="Regions of an image, those of most contrast.")] = 1000,
    untrained: Annotated[bool, typer.Option("--untrained", help="The run's encoder before training.")] = False,
    make_from: Annotated[
        str | None, typer.Option(help="First make PAIRS from 16 images of this DATA.", metavar="DATA")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the results, pair by pair.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    overwrite: Overwrite = False,
    seed: Seed = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare descriptors on pairs of images with known homographies."""
    with answer(as_json, quiet) as reply:
        _one_of(resume, overwrite)
        if seed is not None and make_from is None:
            raise UsageError(f"--seed {seed}: draws the pairs that --make-from makes; expected both or neither")
        from likewise.types import usable_device
        from likewise.verbs.match import match as run

        result = run(
            model,
            pairs,
            descriptors=descriptors,
            side=side,
            most=most,
            trained=not untrained,
            make_from=make_from,
            out=out,
            resume=resume,
            overwrite=overwrite,
            seed=seed or 0,
            device=usable_device(device),
        )
        reply(result, lambda: _matching(result))


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Run, embeddings and selection folders.", metavar="RUN|EMB|SEL...")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file.")],
    title: Annotated[str | None, typer.Option()] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show it all in one offline HTML file."""
    with answer(as_json, quiet) as reply:
        from likewise.report import write_report

        result = write_report(folders, out, title=title)
        reply(result, lambda: f"{out}: {result['images']:,} images, {result['bytes'] / 1e6:.1f} MB")


@app.command()
def scan(
    data: Data,
    threads: Annotated[int, typer.Option(help="That read and decode.")] = 2,
    max_bad: Annotated[str, typer.Option(help="Exit 3 when more than this share is unusable.")] = "100%",
    near: Annotated[bool, typer.Option("--near", help="Also near-duplicates, by perceptual fingerprints.")] = False,
    near_by: Annotated[
        Path | None, typer.Option(help="Near-duplicates by these embeddings instead.", metavar="EMB")
    ] = None,
    similarity: Annotated[
        float | None, typer.Option(help="From which on: of fingerprints 0.9, of embeddings 0.95.")
    ] = None,
    memory: Annotated[str, typer.Option(help="Work space for --near-by, such as 2GB.")] = "2GB",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find broken files, decompression bombs, exact and near duplicates, and odd modes."""
    with answer(as_json, quiet) as reply:
        from likewise.verbs.scan import scan as run

        near_options: dict[str, Any] = {"near": near, "near_by": near_by, "similarity": similarity, "memory": memory}
        result = run(data, threads=threads, max_bad=max_bad, **near_options)
        reply(result, lambda: _scan(result))


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument()], as_json: Json = False) -> None:
    """What there is: methods, encoders, selectors, evaluations, datasets, recipes of views."""
    with answer(as_json, quiet=True) as reply:
        from likewise.verbs.catalogue import catalogue

        rows = catalogue(kind.value)
        reply({kind.value: rows}, lambda: _table(rows))


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="drlim, exemplar or methods.", metavar="PAPER")],
    out: Annotated[Path, typer.Option(help="The folder of results, figures and a page.")],
    budget: Annotated[str, typer.Option(help="cpu (on 2 cores: drlim minutes, the others hours) or full.")] = "cpu",
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, to run a part of it.")] = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a paper's experiments again, and check its claims."""
    with answer(as_json, quiet) as reply:
        _one_of(resume, overwrite)
        from likewise.verbs.reproduce import reproduce as run

        options = _settings(set_ or [], {})
        result = run(paper, out, budget=budget, seed=seed or 0, resume=resume, overwrite=overwrite, options=options)
        reply(result, lambda: _checks(result))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("likewise-demo"),
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training that was stopped.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The whole pipeline on bundled digits, offline, in about two minutes."""
    with answer(as_json, quiet) as reply:
        _one_of(resume, overwrite)
        from likewise.verbs.demo import demo as run

        result = run(out, seed=seed or 0, resume=resume, overwrite=overwrite)
        knn = result["knn"]
        reply(
            result,
            lambda: (
                f"k-NN: pixels {knn['pixels']:.3f}, untrained {knn['untrained']:.3f}, learned {knn['learned']:.3f}\n"
                f"open {result['report']}"
            ),
        )


@contextmanager
def answer(as_json: bool, quiet: bool) -> Iterator[Callable[[dict[str, Any], Callable[[], str]], None]]:
    """Run a verb: its answer goes to stdout, its errors become one line on stderr and an exit code."""
    progress.QUIET = quiet or not progress.SPEAKS

    def reply(result: dict[str, Any], text: Callable[[], str]) -> None:
        if progress.SPEAKS:
            print(json.dumps(result, default=str) if as_json else text())

    try:
        yield reply
    except LikewiseError as error:
        print(f"likewise: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(error.code) from None
    except KeyboardInterrupt:
        print("likewise: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except (MemoryError, RuntimeError) as error:  # torch has no error of its own for the processor's memory
        if not (isinstance(error, MemoryError) or re.search("(out of|not enough|allocate) memory", str(error))):
            raise
        told = " ".join(str(error).split())[:200]
        print(f"likewise: out of memory; a smaller batch, encoder or --memory takes less ({told})", file=sys.stderr)
        raise typer.Exit(1) from None
    except OSError as error:  # a full disk, a file that went away: what was written before is whole
        if error.errno is None:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"likewise: {where}{error.strerror}", file=sys.stderr)
        raise typer.Exit(1) from None


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files are any bytes
    app()


def _one_of(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise UsageError("--resume goes on with what --overwrite would delete; expected one of them")


def _settings(pairs: list[str], given: dict[str, Any], flags: Collection[str] = ()) -> dict[str, Any]:
    """What flags and --set say together; `flags` are options of the verb that are no settings."""
    settings = {key: value for key, value in given.items() if value is not None}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise UsageError(f"--set {pair}: expected key=value")
        if key in flags:
            raise UsageError(f"--set {pair}: is no setting but an option, --{key.replace('_', '-')}")
        if key in settings:
            raise UsageError(f"--set {pair}: {key} is given twice, with {settings[key]} too; expected it once")
        settings[key] = value.strip()
    return settings


def _dry(result: dict[str, Any]) -> str:
    return (
        f"{result['method']} on {result['encoder']} ({result['parameters']:,} parameters), "
        f"{result['images']:,} images, {result['steps']:,} steps"
        + (f" of which {result['resumed_at']:,} are made" if result["resumed_at"] else "")
        + f", at {result['images_per_second']:,.0f} images/s: "
        f"about {result['seconds'] / 60:.1f} minutes"
    )


def _evaluation(result: dict[str, Any]) -> str:
    lines = [result["verdict"]]
    known = result["labelled"]
    if 0 < known["train"] + known["test"] < result["train"] + result["test"]:
        told = (f"{known[side]:,} of {result[side]:,}" for side in ("train", "test"))
        lines.append("labelled: {} training images, {} held out".format(*told))
    named = {"": result["protocols"], **result.get("baselines", {})}
    for name, protocols in named.items():
        for protocol, figures in protocols.items():
            shown = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
            line = f"{name + ' ' if name else ''}{protocol}: {shown}"
            lines.append(textwrap.fill(line, 120, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines)


def _selection(result: dict[str, Any]) -> str:
    if result["selection"] is None:
        return f"{result['n']:,} of {result['images']:,} images by {result['method']}: {result['estimate']}"
    lines = [f"{result['n']:,} images by {result['method']} in {result['seconds']:.1f} s: {result['selection']}"]
    if result["stopped"]:
        lines[0] += f" (of {result['budget']} asked for: {result['stopped']})"
    for name, value in result["quality"].items():
        lines.append(f"{name}: {value:.4g} (random: {result['random_quality'][name]:.4g})")
    if result["approximation"]:
        lines.append(f"approximation: {result['approximation']}")
    if result["of_best"]:
        lines.append(f"at least {result['of_best']:.1%} of the best value that so many images can reach")
    return "\n".join(lines)


def _matching(result: dict[str, Any]) -> str:
    lines = [f"{row['scene']} {row['image']}: {row['reason']}" for row in result["skipped"]]
    changes = list(dict.fromkeys(change for means in result["map"].values() for change in means))
    changes = [change for change in changes if change != "all"] + ["all"]
    table: list[dict[str, Any]] = [
        {"mean average precision": name, **{c: f"{means[c]:.3f}" if c in means else "" for c in changes}}
        for name, means in result["map"].items()
    ]
    return "\n".join([*lines, _table(table)])


def _checks(result: dict[str, Any]) -> str:
    lines = [
        f"{'ok  ' if check['ok'] else 'MISS'}  {check['what']}: {check['value']:,.8g} (bar {check['bar']})"
        for check in result["checks"]
    ]
    return "\n".join([*lines, f"{result['seconds']:.0f} s: {result['results']}"])


def _scan(result: dict[str, Any]) -> str:
    lines = [
        f"{result['images']:,} usable images, {len(result['bad'])} bad, {len(result['duplicates'])} groups of copies"
    ]
    lines += [f"{bad['path']}: {bad['reason']}" for bad in result["bad"]]
    if result["others"]:
        from likewise.images.sources import told_others

        lines.append(told_others(result["others"]))
    if "near" in result:
        n_near = sum(len(group["paths"]) for group in result["near"])
        lines.append(f"{n_near:,} images in {len(result['near']):,} groups of near-duplicates")
        for group in result["near"]:
            lines.append(f"{group['similarity']:.2f}: {', '.join(group['paths'])}")
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    cells = [[str(row.get(name) if row.get(name) is not None else "") for name in names] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [names, *cells]
    ]
    return "\n".join(lines)
