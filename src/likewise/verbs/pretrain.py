"""The verb `pretrain`: a plan becomes a method on an encoder, and `fit` trains it into a run folder."""

import fcntl
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from likewise.coresets.checkpoint import fingerprint
from likewise.draws import word
from likewise.embedding import (
    OBJECT,
    array_hash,
    features,
    images_hash,
    load_with_config,
    opening_side,
    save_encoder,
    weights_hash,
)
from likewise.encoders import External, attempt, build, normaliser
from likewise.errors import DataError, LikewiseError, TrainingError, UsageError
from likewise.evaluation.health import health
from likewise.evaluation.verdict import describe
from likewise.files import MARK, check_claim, claim, new_folder, read_json, read_toml, write_json, write_text
from likewise.images import Ids, ImageSet, open_images
from likewise.images import patches as draw_patches
from likewise.images.scan import lasting
from likewise.images.sources import told_others
from likewise.memory import peak_memory_mb
from likewise.methods import Method, default, find, reads_labels
from likewise.progress import say
from likewise.relations import Relation
from likewise.training.distributed import agreed, is_main, process_group, wait_for_all
from likewise.training.fit import fit, make_batch, settle, trial_rate
from likewise.training.monitor import save_pictures
from likewise.training.state import whole_states
from likewise.types import Embeddings, Encoder, TrainConfig, typed, usable_device
from likewise.verbs.ids import read_ids
from likewise.verbs.relation import make_relation
from likewise.verbs.settings import BUDGET, Plan, checked_size, differences, make_plan, plain, read_recipe
from likewise.views import RECIPES, View

RUN_FILES = (
    "recipe.toml",
    "resolved.toml",
    "environment.json",
    "metrics.jsonl",
    "model.safetensors",
    "config.json",
    "README.md",
    "pictures",
    "scores.npy",
    "state",
    "scan.json",
    "report.html",
    "status.json",
    "evaluation.jsonl",
)
HARDWARE = ("threads", "save_every")  # settings that may change when a run is resumed: they change no bit
N_HEALTH = 5_000
DEFAULT_SIDE = 96  # pixels at most, unless asked
PATCH_SIDE = 32  # pixels of a patch, unless asked


def pretrain(
    data: Any,
    *,
    out: Path | str,
    labels: Any = None,
    subset: Path | str | Ids | None = None,
    patches: int | None = None,
    recipe_file: Path | str | None = None,
    init_from: Path | str | None = None,
    max_bad: float | str = 0.01,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Learn an encoder from images without labels, into the folder `out`. Returns what `--json` prints.

    `data` is an ImageSet or anything `open_images` takes, `subset` a Selection, its folder, ids or a file of them.
    Settings override those of `recipe_file`; together they are the keywords of TrainConfig, of the method, of the
    encoder and of the recipe of views, and `method` (a name, "package.module:Class" or the class), `encoder` (a name,
    "package.module:Class" or a module), `views` (a name) and `size` (pixels). Without a method, the encoder and the
    images that epochs or steps come to decide (`likewise.methods.DEFAULTS`; minutes count as few). The resolved.toml of
    a run is a recipe too, with the run's `patches` and `init_from`.

    With `patches`, training is on so many patches of `size` (32) pixels drawn from the images by the run's seed (see
    `likewise.images.patches`), and not on the images, which are then opened at three times that side; 0: on the images.
    By default so many as the method says: exemplar, whose classes they are, draws 8,000, the others none.

    Started by torchrun, its processes share every batch: `batch_size` is what they have together.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    given = {key: value.item() if isinstance(value, np.generic) else value for key, value in given.items()}
    if isinstance(given.get("method"), type):
        given["method"] = f"{given['method'].__module__}:{given['method'].__qualname__}"
    recipe = read_recipe(recipe_file) if recipe_file else {}
    n_patches, start = (
        typed(k, recipe.pop(k, None), kind | None) for k, kind in (("patches", int), ("init_from", str))
    )
    patches, init_from = n_patches if patches is None else patches, start if init_from is None else init_from
    settings = {**recipe, **given}
    settings |= {name: typed(name, settings[name], int) for name in ("threads", "seed") if name in settings}
    settings |= {"size": checked_size(settings["size"])} if "size" in settings else {}
    out, device = Path(out), usable_device(typed("device", settings.get("device", TrainConfig.device), str))
    opened = partial(_open, data, labels, subset, max_bad)
    with process_group(device):
        if agreed(resume and (out / "resolved.toml").is_file(), device):
            return _resume(opened, out, settings, patches, init_from, dry_run)
        return _begin(opened, out, settings, patches, init_from, dry_run, overwrite=overwrite or resume)


def _begin(
    opened: Callable[[dict[str, Any], int], ImageSet],
    out: Path,
    settings: dict[str, Any],
    patches: int | None,
    init_from: Path | str | None,
    dry_run: bool,
    overwrite: bool,
) -> dict[str, Any]:
    n_patches = _n_patches(patches, settings)
    if not dry_run:  # before images are read, which may take long
        if init_from is not None and Path(init_from).resolve() == out.resolve():
            raise UsageError(
                f"--init-from {init_from}: is --out itself; a run keeps what it began from, so choose another"
            )
        if is_main():
            check_claim(out, "run", overwrite=overwrite)
    images = opened(settings, n_patches)
    settings = {**settings, "method": settings.get("method") or _usual(settings, images)}
    plan = make_plan(settings, _default_size(images))
    method = make_method(plan, images, init_from)
    settled = replace(plan, config=settle(plan.config, method, images))
    if dry_run:
        return _estimate(settled, method, images)
    if is_main():
        claim(out, "run", overwrite=overwrite)
    with _alone_in(out):
        if is_main():
            new_folder(out, "run", RUN_FILES, overwrite=overwrite)
            write_text(out / "recipe.toml", tomli_w.dumps(plain(settings)))
            write_json(out / "environment.json", environment())
            write_json(out / "scan.json", scan_summary(images))
            _save_views(out, method, images, settled.config)
            source = images.name.rpartition(", ")[0] if n_patches else images.name  # without ", so many patches of .."
            resolved = {**settled.flat(), "data": lasting(source), "patches": n_patches, "n_images": len(images)}
            resolved |= {"images_hash": images_hash(images.keys), "order_hash": _order_hash(images)}
            resolved |= {"labels_hash": _labels_hash(method, images), "objects_hash": _objects_hash(plan)}
            resolved |= {"relation_hash": _relation_hash(plan, method)}
            if init_from is not None:
                resolved["init_from"] = str(Path(init_from).absolute())
            write_text(out / "resolved.toml", tomli_w.dumps(plain(resolved)))  # last: with it, --resume goes on
        wait_for_all()
        return _train(out, settled, method, images, init_from, resume=False)


def _resume(
    opened: Callable[[dict[str, Any], int], ImageSet],
    out: Path,
    settings: dict[str, Any],
    patches: int | None,
    init_from: Path | str | None,
    dry_run: bool,
) -> dict[str, Any]:
    saved, begun = read_toml(out / "resolved.toml"), read_toml(out / "recipe.toml")
    begun = {"method": saved["method"], **begun}
    asked = {**begun, **settings}
    begun_from = saved.get("init_from")
    if init_from is not None and (begun_from is None or Path(init_from).absolute() != Path(begun_from).absolute()):
        begun_from = begun_from or "random weights"
        raise UsageError(f"--init-from {init_from}: the run {out} was begun from {begun_from}; resume it without")
    n_patches = saved.get("patches", 0)
    if patches not in (None, n_patches):
        raise UsageError(f"patches={patches}: the run {out} was begun with {n_patches}; resume it with that")
    images = opened(asked, n_patches)
    if images_hash(images.keys) != saved["images_hash"]:
        raise DataError(
            f"--resume {out}: the images differ from those of the run ({saved['n_images']} then, {len(images)} now)"
        )
    if saved.get("order_hash", _order_hash(images)) != _order_hash(images):
        raise DataError(
            f"--resume {out}: the images are those of the run in another order, and what it keeps of each goes by its "
            "place; expected the names (or the list) that it was begun with"
        )
    plan = make_plan(asked, saved["size"])
    hardware = {key: getattr(plan.config, key) for key in HARDWARE}
    kept = {f.name: saved[f.name] for f in fields(TrainConfig) if f.name in saved and f.name not in HARDWARE}
    settled = {name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()}
    config = TrainConfig(**{**settled, **hardware})
    first = make_plan(begun, saved["size"]).config
    for name in (name for name in BUDGET if name in settings):
        value = getattr(plan.config, name)
        if value != getattr(first, name) and (name, value) != ("steps", config.steps):
            raise UsageError(f"{name}={value}: the run {out} was begun with {config.steps} steps; resume it with these")
    for key, was, value in differences(saved, plan.flat()):
        left = key in ("device", "precision") and settings.get(key, "auto") == "auto"  # when the run was begun
        if key not in (*HARDWARE, *BUDGET, "patches", "init_from") and not left:
            raise UsageError(f"{key}={value!r}: the run {out} was begun with {was!r}; resume it with that")
    if saved.get("objects_hash", _objects_hash(plan)) != _objects_hash(plan):
        names = ", ".join(_objects(plan)) or "none"
        raise UsageError(f"--resume {out}: was begun with other objects among its settings than {names}; give it those")
    plan = replace(plan, config=config)
    method = make_method(plan, images, None if whole_states(out) else begun_from)
    if saved.get("labels_hash", "") != _labels_hash(method, images):
        raise UsageError(
            f"labels: the run {out} was begun with {'other' if saved['labels_hash'] else 'no'} labels, and "
            f"{plan.method} learns from them; resume it with those"
        )
    if saved.get("relation_hash", _relation_hash(plan, method)) != _relation_hash(plan, method):
        words = plan.method_options["relation"]
        raise UsageError(f"relation={words}: other images are alike by it than when the run {out} was begun")
    if dry_run:
        done = [int(folder.name) for folder in whole_states(out)[:1]]
        return _estimate(plan, method, images, *done)
    status = read_json(out / "status.json") if (out / "status.json").is_file() else {}
    if status.get("state") == "finished":
        say(f"{out}: is finished already")
        return summary(out)
    with _alone_in(out):
        return _train(out, plan, method, images, begun_from, resume=True)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Hold a lock on the run folder's mark; UsageError if another process has it. Where files cannot be locked, go on
    without. Of several processes that train together the first does this for all."""
    with ExitStack() as stack:
        if is_main():
            try:
                fcntl.flock(stack.enter_context(open(out / MARK, "r+")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"--out {out}: another process is training in it; wait, or choose another") from None
            except OSError:
                pass
        yield


def _order_hash(images: ImageSet) -> str:
    """Of the images' content in the order of their ids."""
    return array_hash(images.keys)


def _labels_hash(method: Method, images: ImageSet) -> str:
    """Of the labels that the method learns from, in the order of the keys; empty if it learns from none."""
    if images.labels is None or not reads_labels(type(method)):
        return ""
    return array_hash(images.labels[np.argsort(images.keys)])


def _relation_hash(plan: Plan, method: Method) -> str:
    """Of the relation that words asked for: the file, features or labels that they name may change."""
    relation = getattr(method, "relation", None)
    if not isinstance(plan.method_options.get("relation"), str) or not isinstance(relation, Relation):
        return ""
    return fingerprint([relation.groups.cpu().numpy(), relation.pairs.cpu().numpy()])


def _objects(plan: Plan) -> dict[str, Any]:
    """The settings that resolved.toml cannot hold: tensors and relations."""
    options = {**plan.method_options, **plan.encoder_options, **plan.view_options}
    return {key: value for key, value in options.items() if value is not None and key not in plan.flat()}


def _objects_hash(plan: Plan) -> str:
    """Of the tensors in these; empty if there are none."""
    found: list[str] = []
    for key, value in _objects(plan).items():
        parts = [getattr(value, f.name) for f in fields(value)] if is_dataclass(value) else [value]
        tensors = [part.detach().cpu().numpy() for part in parts if isinstance(part, torch.Tensor)]
        found.append(f"{key} {fingerprint(tensors)}")
    return ", ".join(found)


def _train(
    out: Path, plan: Plan, method: Method, images: ImageSet, init_from: Path | str | None, *, resume: bool
) -> dict[str, Any]:
    a_batch = min(plan.config.batch_size, len(images))
    say(f"{plan.method} on {len(images):,} images, {plan.config.steps} steps of {a_batch}")
    if a_batch < plan.config.batch_size:
        say(f"batch_size={plan.config.batch_size}: there are {len(images)} images, so that a batch holds them all")
    if images.labels is None and reads_labels(type(method)):
        say(f"{plan.method}: there are no labels, so that it learns from the images alone (--labels brings them)")
    before = peak_memory_mb()
    try:
        fit(method, images, plan.config, out, resume=resume)
    except TrainingError as error:
        write_json(out / "status.json", {"state": "diverged", "verdict": str(error)})
        raise
    if is_main():
        _keep(out, plan, method.encoder, images, init_from)
    wait_for_all()
    result = summary(out, peak_memory_mb=max(0.0, peak_memory_mb() - before))
    if result["health"]["collapsed"]:
        raise TrainingError(f"the representation collapsed: {result['verdict']} The run is kept in {out}")
    return result


def _keep(out: Path, plan: Plan, encoder: Encoder, images: ImageSet, init_from: Path | str | None) -> None:
    """Judge a trained encoder, and save it with what was found."""
    config = {
        "likewise": version("likewise"),
        "encoder": plan.encoder_name,
        "arguments": plan.encoder_options,
        "channels": images.channels,
        "size": plan.size,
        "n_images": len(images),
        "seed": plan.config.seed,
        "method": plan.method,
        "data": lasting(images.name),
        "object": not isinstance(plan.encoder, str),
        "init_from": None if init_from is None else str(Path(init_from).absolute()),
    }
    judged = judge(encoder, images, plan.size, plan.config.device)
    verdict = describe({"health": judged})
    save_encoder(out, encoder, config, _readme(plan, images, verdict))
    status = read_json(out / "status.json")
    status |= {"state": "collapsed" if judged["collapsed"] else "finished", "health": judged, "verdict": verdict}
    status["weights"] = weights_hash(encoder)
    write_json(out / "status.json", status)


def summary(run: Path, peak_memory_mb: float | None = None) -> dict[str, Any]:
    """The answer of `pretrain`, read from the folder of a finished run."""
    saved = read_toml(run / "resolved.toml")
    status = read_json(run / "status.json")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "run": str(run),
        "method": saved["method"],
        "encoder": saved["encoder"],
        "images": saved["n_images"],
        "steps": saved["steps"],
        "epochs": last["epoch"],
        "resumed_at": status["resumed_at"],
        "seconds": status["seconds"],
        "images_per_second": status["images_per_second"],
        "data_share": status["data_share"],
        "peak_memory_mb": peak_memory_mb,
        "final": last["terms"],
        "health": status["health"],
        "verdict": status["verdict"],
        "weights": status["weights"],
    }


def judge(encoder: Encoder, images: ImageSet, size: int, device: str) -> dict[str, Any]:
    """The label-free health of an encoder on up to 5,000 images, those with the smallest keys."""
    ids = np.argsort(images.keys)[:N_HEALTH]
    part = images.subset(ids)
    table = Embeddings(features(encoder, part, size, device=device), part.keys, part.paths)
    return health(table, table)


def make_method(plan: Plan, images: ImageSet, init_from: Path | str | None = None) -> Method:
    """The method of a plan on a new encoder (or on that of another run), seeded by the plan."""
    data = images.info(plan.size)
    if isinstance(plan.encoder, str):
        torch.manual_seed(plan.config.seed)  # as `load(trained=False)` does
        encoder = build(plan.encoder, data, **plan.encoder_options)
    else:
        encoder = plan.encoder if isinstance(plan.encoder, Encoder) else External(plan.encoder, data)
    normaliser(encoder).set(*images.mean_std())
    if init_from is not None:
        try:
            start, config = load_with_config(init_from)
        except LikewiseError as error:
            raise type(error)(f"--init-from: {error}") from None
        try:
            encoder.load_state_dict(start.state_dict())
        except RuntimeError:
            what = f"a {config['encoder']} for {config['channels']} channels"
            raise UsageError(
                f"--init-from {init_from}: holds {what}, which does not fit {plan.encoder} for {images.channels} with "
                "these settings"
            ) from None
    views = RECIPES[plan.views](plan.size, **plan.view_options)
    _check_encoder(plan, encoder, images.channels, views)
    torch.manual_seed(word(plan.config.seed, "method"))
    method = find(plan.method)
    made: Callable[..., Method] = method
    options = dict(plan.method_options)
    if images.labels is not None and reads_labels(method):
        options["labels"] = torch.from_numpy(images.labels)
    if isinstance(options.get("relation"), str):
        options["relation"] = make_relation(options["relation"], images, plan.size)
    n, usual = len(views), len(RECIPES[method.default_views](plan.size))
    many, least = method.multi_crop, min(usual, method.least_views)
    if n < least or (n > usual and not many):
        expected = f"{least} or more" if many else usual
        raise UsageError(f"views={plan.views!r}: makes {n} of an image; {plan.method} takes {expected}")
    return made(encoder, data, views=views, **options)


def _check_encoder(plan: Plan, encoder: Encoder, channels: int, views: Sequence[View]) -> None:
    """Refuse an encoder that has nothing to learn, or that does not take the views as they are."""
    if next(encoder.parameters(), None) is None:
        raise UsageError(f"encoder={plan.encoder_name}: has no weights to learn; `evaluate` judges it as it is")
    for side in dict.fromkeys(view.size for view in views):
        what = f"encoder={plan.encoder_name} with views={plan.views!r}, some of {side} pixels"
        width = attempt(encoder, channels, side, f"{what}: it fails on these").shape[1]
        if width != encoder.dim:
            raise UsageError(
                f"{what}: it makes {width} features of these and {encoder.dim} of {plan.size} pixels; expected equally "
                "many of any size, or views of one size"
            )


def environment() -> dict[str, Any]:
    """What the bits may depend on, and when it was."""
    packages = ("likewise", "torch", "numpy", "pillow", "scikit-learn", "safetensors")
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["likewise", *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "machine": platform.machine(),
        "system": platform.system(),
        "processor_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def scan_summary(images: ImageSet) -> dict[str, Any]:
    """What reading the images found: for scan.json and the report."""
    bad = [{"path": path, "reason": reason} for path, reason in images.bad]
    found = {"images": len(images), "bad": bad, "duplicates": images.duplicates(), "cut": images.n_cut}
    return found | {"others": dict(images.others)}


def _open(
    data: Any,
    labels: Any,
    subset: Path | str | Ids | None,
    max_bad: float | str,
    settings: dict[str, Any],
    n_patches: int,
) -> ImageSet:
    side = settings.get("size")
    if n_patches:
        settings.setdefault("size", PATCH_SIDE)
        side = 2 * settings["size"]
    images = data
    if isinstance(images, ImageSet):
        images = images if labels is None else images.relabel(labels)
    else:
        threads = settings.get("threads") or TrainConfig.threads
        images = open_images(data, labels=labels, side=side and opening_side(side), max_bad=max_bad, threads=threads)
        if images.others:
            say(f"{images.name}: {told_others(images.others)}")
    if subset is not None:
        where = "subset"
        if isinstance(subset, str | Path):
            where, subset = f"--subset {subset}", read_ids(Path(subset), "--subset", len(images), images.paths)
        images = images.subset(subset)
        if not len(images):
            raise DataError(f"{where}: names no image; expected at least one")
    if n_patches:
        images = draw_patches(images, n_patches, settings.get("seed") or 0, size=settings["size"])
    return images


def _n_patches(patches: int | None, settings: dict[str, Any]) -> int:
    if patches is not None and patches < 0:
        raise UsageError(f"patches={patches}: expected 0 (the images themselves) or more")
    if patches is None and "method" in settings:
        return find(typed("method", settings["method"], str)).patches
    return patches or 0


def _usual(settings: dict[str, Any], images: ImageSet) -> str:
    """The method where none is asked for: by the encoder, and by the images that the budget comes to."""
    asked = {key: settings[key] for key in (*BUDGET, "batch_size") if key in settings}
    config = make_plan(asked, _default_size(images)).config
    a_batch = min(config.batch_size, len(images))
    seen = (config.epochs or 0) * len(images) + (config.steps or 0) * a_batch  # of minutes it is not known yet
    name, table = default(settings.get("encoder"), max(0, seen))
    where = table.replace(", ", "/README.md, table ")
    say(f"{name}, as no method was asked for (nearest figures: docs/results/{where})")
    return name


def _default_size(images: ImageSet) -> int:
    """The images' median short side, at most 96, to a multiple of 4."""
    return max(8, min(DEFAULT_SIDE, images.native_side) // 4 * 4)


def _estimate(plan: Plan, method: Method, images: ImageSet, done: int = 0) -> dict[str, Any]:
    """What `--dry-run` says: the plan, and how long what is not `done` of its steps would take, by a few throw-away
    steps."""
    rate = trial_rate(method, images, plan.config)
    return {
        "method": plan.method,
        "encoder": plan.encoder_name,
        "images": len(images),
        "steps": plan.config.steps,
        "resumed_at": done,
        "parameters": sum(p.numel() for p in method.encoder.parameters()),
        "images_per_second": rate * min(plan.config.batch_size, len(images)),
        "seconds": ((plan.config.steps or 0) - done) / rate,
        "resolved": plan.flat(),
    }


def _save_views(out: Path, method: Method, images: ImageSet, config: TrainConfig) -> None:
    """One picture of what the method will see: a row for each view of eight images."""
    ids = np.argsort(images.keys)[:8].copy()
    rows = torch.from_numpy(ids).unsqueeze(1)
    batch = make_batch(method, images, rows, images.source(ids), 0.0, replace(config, device="cpu"), 0, 0)
    save_pictures(out / "pictures", {f"view {i}": view for i, view in enumerate(batch.views)}, name="views")


def _readme(plan: Plan, images: ImageSet, verdict: str) -> str:
    load = 'encoder = likewise.load("path/of/this/folder")  # images in [0, 1] -> features'
    if not isinstance(plan.encoder, str):
        load = (
            f"# The encoder was an object: make it again as {OBJECT},\n"
            '    # then encoder.load_state_dict(safetensors.torch.load_file("model.safetensors")).'
        )
    return (
        f"# {plan.encoder} trained with {plan.method}\n\n"
        f"On {len(images):,} images ({images.name}) at {plan.size} pixels, {plan.config.steps} steps of "
        f"{min(plan.config.batch_size, len(images))}. {verdict}\n\n    import likewise\n    {load}\n"
    )
