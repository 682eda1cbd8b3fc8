"""The one loop: order, sources, views, step, update, log, save. No callbacks."""

import copy
import json
import math
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from likewise.draws import Draws, word
from likewise.errors import DataError, Stopped, UsageError
from likewise.files import read_lines, write_array, write_json, write_text
from likewise.images import ImageSet, prefetch
from likewise.memory import keep_freed_memory
from likewise.methods.base import Method
from likewise.progress import bar, say
from likewise.signals import stop_signals
from likewise.training.distributed import agreed, average_gradients, is_main, wait_for_all
from likewise.training.monitor import check_finite, feature_rank, knn_accuracy, save_pictures
from likewise.training.optim import check, learning_rate, make_optimizer, set_rates
from likewise.training.state import load_state, save_state
from likewise.types import Batch, Source, Step, TrainConfig, gather, in_eval_mode, rank, usable_device, world

RATE_SECONDS = 8.0  # for which throw-away steps are timed
TOGETHER = 2**26  # values of the sources of views that a GPU makes in one call
MOST = 10**9  # epochs, steps or minutes: what is beyond is a slip


def fit(method: Method, images: ImageSet, config: TrainConfig, run: Path, *, resume: bool = False) -> Path:
    """Train `method` on `images` into the folder `run`; with `resume`, go on from its newest state.

    The weights depend on the settled configuration (see `settle`), the images' content and the machine's
    arithmetic: not on threads, file names, interruptions, or the clock. (On a GPU sums that many threads add to may
    differ in their last bits from run to run.) Raises TrainingError when a loss term is not
    finite (before the update) and Stopped when SIGTERM or SIGINT asked to stop and the state was saved.
    """
    keep_freed_memory()
    config = settle(config, method, images)
    device, steps = torch.device(config.device), config.steps
    assert steps is not None
    method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(method.param_groups(), config)
    size = method.views[0].size
    scores = torch.zeros(2, len(images), device=device)  # sums and counts of per-image scores
    place: dict[str, Any] = {"step": 0, "epoch": 0, "position": 0}
    metrics = run / "metrics.jsonl"

    if resume:
        restored = load_state(run, method, optimizer)
        if restored is not None:
            place, tensors = restored
            scores = tensors["scores"].to(device)
        if is_main():
            _truncate(metrics, place["step"])
    elif is_main():
        metrics.write_text("")
    resumed_at, log_every = place["step"], max(1, steps // 20_000)
    earlier = place.pop("seconds", 0.0), place.pop("processor_seconds", 0.0)  # what others spent on the steps so far
    save_due, stop = _save_clock(config.save_every), False
    started, worked = time.perf_counter(), time.process_time()
    n_seen, value, feature_ranks = 0, 0.0, float("nan")

    def spent() -> float:
        return time.perf_counter() - started

    def in_all() -> dict[str, float]:
        return {"seconds": earlier[0] + spent(), "processor_seconds": earlier[1] + time.process_time() - worked}

    def save() -> None:
        if is_main():
            lines.flush()
            save_state(run, {**place, **in_all()}, {"scores": scores}, method, optimizer)

    def status(state: str, taken: dict[str, float], rate: float | None, data_share: float | None = None) -> None:
        if is_main():
            told = {"state": state, "step": place["step"], "steps": steps, "resumed_at": resumed_at}
            write_json(run / "status.json", {**told, **taken, "images_per_second": rate, "data_share": data_share})

    with (
        stop_signals() as stopping,
        open(metrics, "a") as lines,
        bar("train", steps, place["step"]) as progress,
    ):
        while place["step"] < steps:
            draws = Draws(config.seed, place["epoch"], place["step"] - place["position"], torch.from_numpy(images.keys))
            if place["position"] == 0:
                if place["epoch"] == 0 and method.looks:
                    look(method, images, config, stopping)
                method.begin_epoch(place["epoch"], draws.to(device))
            batches = _batches(method.order(place["epoch"], draws).cpu(), config.batch_size, world())
            mine = [_share(rows) for rows in batches[place["position"] :]]
            ids = [rows.flatten().numpy() for rows in mine]
            with closing(prefetch(images, ids, threads=config.threads)) as feed:
                for rows, (_, source) in zip(mine, feed, strict=True):
                    step = place["step"]
                    batch = make_batch(method, images, rows, source, step / steps, config, place["epoch"], step)
                    terms, shown, score = train_step(method, optimizer, batch, config, step, steps, images)
                    method.after_step((step + 1) / steps)

                    n_seen += len(batch.draws.keys) * world()
                    if score is not None and len(score) == len(batch.ids.flatten()):
                        who, score = (gather(x.flatten()) for x in (batch.ids, score.float()))
                        scores.index_add_(1, who, torch.stack([score, torch.ones_like(score)]))
                    place["step"], place["position"] = step + 1, place["position"] + 1
                    value = sum(terms.values())
                    last, stop = place["step"] == steps, bool(agreed(len(stopping), config.device))
                    before, epoch = (place["epoch"] + (place["position"] - i) / len(batches) for i in (1, 0))
                    classified = last or any(before < listed <= epoch for listed in config.knn_epochs)
                    watched = step % config.monitor_every == config.monitor_every - 1 or classified
                    if (step % log_every == 0 or watched) and is_main():
                        line: dict[str, Any] = {"step": step, "epoch": epoch, "loss": value, "terms": terms}
                        line |= {"shown": shown, "lr": learning_rate(config, step, steps)}
                        if watched:
                            feature_ranks = feature_rank(method.encoder, images, size, device)
                            line["rank"] = feature_ranks
                            accuracy = knn_accuracy(method.encoder, images, size, device) if classified else None
                            if accuracy is not None:
                                line["knn"] = accuracy
                        line["images_per_second"] = n_seen / spent()
                        lines.write(json.dumps(line) + "\n")
                    parts = ", ".join(f"{name} {part:.3g}" for name, part in terms.items())
                    note = f"loss {value:.4g}" + (f" ({parts})" if len(terms) > 1 else "")
                    note += f"  {n_seen / spent():,.0f} images/s"
                    progress.update(place["step"], note + (f"  rank {feature_ranks:.1f}" if feature_ranks > 0 else ""))
                    if last or stop:
                        break
                    if save_due(place["step"]):
                        save()
            if place["position"] >= len(batches):
                place |= {"epoch": place["epoch"] + 1, "position": 0}
            if stop and place["step"] < steps:
                save()
                wait_for_all()
                status("stopped", in_all(), n_seen / spent() if n_seen else None)
                raise Stopped(f"stopped at step {place['step']} of {steps} and saved; go on with --resume")
        save()

    seconds, taken = spent(), in_all()
    rate = n_seen / seconds if n_seen else None  # None where it was resumed after the last step
    data_share = _data_share(method, batch, config, rate) if rate and steps >= 20 else None
    if is_main():
        if bool(scores[1].any()):
            write_array(run / "scores.npy", (scores[0] / scores[1].clamp(min=1)).cpu().numpy())
        with in_eval_mode(method):  # what is drawn to be looked at moves no statistics
            pictures = method.pictures(batch) if n_seen else {}
        if pictures:
            save_pictures(run / "pictures", pictures)
        status("trained", taken, rate, data_share)
        if rate:
            made = steps - resumed_at
            say(f"trained {made} steps in {seconds:.0f} s, {rate:,.0f} images/s, loss {value:.4g}")
    return run


def look(method: Method, images: ImageSet, config: TrainConfig, stopping: list[int]) -> None:
    """Show a method every image, each in its first view, before it learns anything."""
    order = Draws(config.seed, -1, 0, torch.from_numpy(images.keys)).bits("order").argsort()
    n_each = math.ceil(len(order) / world())  # nobody is left out: the first are shown again where it does not divide
    order = order[torch.arange(n_each * world()) % len(order)].view(n_each, world())
    shares = [rows[:, rank() : rank() + 1] for rows in _batches(order, config.batch_size)]
    ids = [rows.flatten().numpy() for rows in shares]
    method.train()
    with closing(prefetch(images, ids, threads=config.threads)) as feed, bar("look", len(images)) as progress:
        for i, (rows, (_, source)) in enumerate(zip(shares, feed, strict=True)):
            if agreed(len(stopping), config.device):
                raise Stopped("stopped before the first step; start again with --resume")
            batch = make_batch(method, images, rows, source, 0.0, config, -1, i, n_views=1)
            with torch.no_grad(), autocast(config):
                method.look(batch)
            progress.update(progress.done + len(rows) * world())


def settle(config: TrainConfig, method: Method, images: ImageSet) -> TrainConfig:
    """Resolve what depends on the machine and the data, once: device, precision, and the budget in steps.

    Of several processes the first decides.
    """
    if len(images) < 2:
        raise DataError(f"{len(images)} usable image: at least 2 are needed to learn from")
    if config.batch_size < 2:
        raise UsageError(f"batch_size={config.batch_size}: expected at least 2")
    if world() > 1 and min(config.batch_size, len(images)) < 4 * world():  # a last batch may be half as large
        raise UsageError(f"batch_size={config.batch_size}: expected at least 4 images for each of {world()} processes")
    check(config)
    _save_clock(config.save_every)
    given = {name: v for name in ("epochs", "steps", "minutes") if (v := getattr(config, name)) is not None}
    if len(given) != 1:
        raise UsageError(f"budget: expected one of epochs, steps, minutes; got {given or 'none'}")
    (budget,) = given
    if not 0 < given[budget] <= MOST:
        expected = f"at most {MOST}" if given[budget] > 0 else "a positive number"
        raise UsageError(f"{budget}={given[budget]}: expected {expected}")
    config = replace(config, device=usable_device(config.device))
    if config.precision == "auto":
        pays = bool(agreed(bf16_pays(config.device), config.device))
        config = replace(config, precision="bf16" if pays else "fp32")
    if config.precision not in ("fp32", "bf16"):
        raise UsageError(f"precision={config.precision!r}: expected auto, fp32 or bf16")
    steps = config.steps
    if config.epochs is not None:
        steps = _n_steps(method, images, config, config.epochs)
    elif config.minutes is not None:
        rate = trial_rate(method, images, config)
        steps = int(config.minutes * 60 * rate)
        say(f"{config.minutes} minutes at {rate:.2f} steps/s: {steps} steps")
    if steps is None or steps < 1:
        raise UsageError(f"{budget}={given[budget]}: expected more: that is less than a step")
    return replace(config, epochs=None, minutes=None, steps=steps)


def _n_steps(method: Method, images: ImageSet, config: TrainConfig, epochs: int | float) -> int:
    """The steps of so many epochs, counted one by one where the last is not as long as the first."""

    def length(epoch: int) -> int:
        draws = Draws(config.seed, epoch, 0, torch.from_numpy(images.keys))
        return len(_batches(method.order(epoch, draws), config.batch_size, world()))

    last = max(0, math.ceil(epochs) - 1)
    if length(0) == length(last):
        n = epochs * length(0)
    else:
        n = sum(map(length, range(last))) + (epochs - last) * length(last)
    return math.ceil(round(n, 6))  # 0.07 of 100 is a little above 7, in floating point


def trial_rate(method: Method, images: ImageSet, config: TrainConfig) -> float:
    """Steps per second, views included, on a throw-away copy of the method."""
    copied, draws = copy.deepcopy(method).to(config.device), Draws(config.seed, 0, 0, torch.from_numpy(images.keys))
    copied.begin_epoch(0, draws.to(torch.device(config.device)))
    ids = _share(_batches(copied.order(0, draws).cpu(), config.batch_size, world())[0])
    source = images.source(ids.flatten().numpy())
    return _rate(copied, config, lambda: make_batch(copied, images, ids, source, 0.0, config, 0, 0), RATE_SECONDS)


def make_batch(
    method: Method,
    images: ImageSet,
    rows: Tensor,
    source: Source,
    progress: float,
    config: TrainConfig,
    epoch: int,
    step: int,
    n_views: int | None = None,
) -> Batch:
    """The views of one batch (the first `n_views`, or all), on the device, drawn for its images.

    On a GPU neighbours that are one and the same view are made together, as many as keep operations small: there a
    small one costs as much as a large one.
    """
    device = torch.device(config.device)
    ids = rows.flatten()
    draws = Draws(config.seed, epoch, step, torch.from_numpy(images.keys[ids.numpy()]).to(device))
    source = source.to(device)
    views: list[Tensor] = []
    most = 1 if device.type == "cpu" else max(1, TOGETHER // max(1, source.pixels.numel()))
    for _, alike in groupby(method.views[:n_views], key=id):
        same = list(alike)
        for part in (same[i : i + most] for i in range(0, len(same), most)):
            names = [f"view{len(views) + i}" for i in range(len(part))]
            views += same[0](source.repeated(len(part)), draws.children(names)).chunk(len(part))
    return Batch(views, rows.to(device), progress, draws)


def train_step(
    method: Method, optimizer: Optimizer, batch: Batch, config: TrainConfig, step: int, steps: int, images: ImageSet
) -> tuple[dict[str, float], dict[str, float], Tensor | None]:
    """One update. Returns the terms, what is shown, and the score per image."""
    torch.manual_seed(word(config.seed, step, rank()))  # for dropout alone
    set_rates(optimizer, config, step, steps)
    optimizer.zero_grad(set_to_none=True)
    method.train()
    with autocast(config):
        result = method.step(batch)
    if not isinstance(result, Step) or any(value.shape != () for value in result.terms.values()):
        raise UsageError(f"{type(method).__name__}.step: expected a Step whose terms are scalars, by name")
    # Read before the backward pass, so that nothing waits for its end: a GPU is given the next step meanwhile.
    terms = {name: float(value.detach()) for name, value in result.terms.items()}
    check_finite(terms, [images.paths[i] for i in batch.ids.flatten().tolist()])
    shown = {name: float(value) for name, value in result.shown.items()}
    torch.stack(list(result.terms.values())).sum().backward()
    average_gradients(method)
    if config.clip is not None:
        torch.nn.utils.clip_grad_norm_(method.parameters(), config.clip)
    optimizer.step()
    return terms, shown, None if result.score is None else result.score.detach()


def autocast(config: TrainConfig) -> AbstractContextManager[Any]:
    """bfloat16 where it is safe, when the configuration asks for it."""
    return torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bf16")


def _batches(order: Tensor, batch_size: int, shares: int = 1) -> list[Tensor]:
    """Batches of at most `batch_size` images, as even as can be, so that nobody is left out; none of one image, which
    no method can compare (three instead, where `batch_size` is 2).

    Each divides into so many equal `shares`: of the whole epoch fewer rows than that are left over.
    """
    if order.numel() == 0:
        raise DataError("the method's order is empty: there is nothing to train on")
    if len(order) < shares:
        raise DataError(f"the method's order has {len(order)} rows: fewer than the {shares} processes")
    most = max(1, batch_size // shares) * shares
    n_batches = min(math.ceil(order.numel() / most), max(1, order.numel() // 2))
    whole = order[: len(order) // shares * shares].unflatten(0, (-1, shares))
    return [rows.flatten(0, 1) for rows in whole.tensor_split(n_batches) if len(rows)]


def _share(rows: Tensor) -> Tensor:
    """This process's rows of a batch: equally many for each."""
    n = len(rows) // world()
    return rows[rank() * n : (rank() + 1) * n]


def bf16_pays(device: str) -> bool:
    """Whether to train in bfloat16 unless asked: where it was found faster than float32 (LOG.md).

    Read off the machine, not timed: what is timed differs from run to run, and so would the weights.
    """
    if torch.device(device).type == "cuda":  # told by its kind: before the eighth it is emulated, and slower
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    flags = cpu_flags()
    return "amx_bf16" in flags or {"AuthenticAMD", "avx512_bf16"} <= flags


def cpu_flags() -> set[str]:
    """What Linux says of the processor, its vendor and its instructions among it; nothing on other systems."""
    file = Path("/proc/cpuinfo")
    return set(file.read_text().partition("\n\n")[0].split()) if file.is_file() else set()


def _data_share(method: Method, batch: Batch, config: TrainConfig, rate: float) -> float:
    """1 - (images/s of this run) / (images/s of the same steps on one fixed batch)."""
    fixed = _rate(copy.deepcopy(method), config, lambda: batch, 2.0) * len(batch.draws.keys) * world()
    return 1 - rate / fixed


def _rate(method: Method, config: TrainConfig, make: Callable[[], Batch], seconds: float) -> float:
    device = torch.device(config.device)
    method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(method.param_groups(), config)
    times: list[float] = []
    while agreed(sum(times[2:]) < seconds or len(times) < 6, config.device):  # the first two warm up
        start = time.perf_counter()
        batch = make()
        optimizer.zero_grad(set_to_none=True)
        method.train()
        with autocast(config):
            terms = method.step(batch).terms
        torch.stack(list(terms.values())).sum().backward()
        average_gradients(method)
        optimizer.step()
        method.after_step(0.5)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return agreed(1 / float(np.median(times[2:])), config.device)


def _save_clock(save_every: str | int) -> Callable[[int], bool]:
    """When to save: after so many minutes ("10m") or steps ("200")."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", str(save_every))
    if not match or float(match[1]) <= 0 or (not match[2] and float(match[1]) % 1):
        raise UsageError(f"save_every={save_every!r}: expected minutes such as 10m, or a number of steps such as 200")
    amount, last = float(match[1]), time.monotonic()

    def due(step: int) -> bool:
        nonlocal last
        if not match[2]:
            return step % int(amount) == 0
        if time.monotonic() - last < amount * 60:
            return False
        last = time.monotonic()
        return True

    return due


def _truncate(metrics: Path, step: int) -> None:
    """Drop the lines of steps that will be made again."""
    if metrics.exists():
        kept = [line for line in read_lines(metrics) if line["step"] < step]
        write_text(metrics, "".join(json.dumps(line) + "\n" for line in kept))
