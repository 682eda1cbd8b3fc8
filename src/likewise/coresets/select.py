"""The verb: any array, a budget as people write it, a method by name; a `Selection` with its quality and random's."""

import inspect
import math
import operator
import re
import time
import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor

from likewise.coresets.blocks import METRICS, spans, unit
from likewise.coresets.checkpoint import Checkpoint, fingerprint
from likewise.coresets.estimate import estimate
from likewise.coresets.quality import Quality
from likewise.coresets.random import random
from likewise.errors import DataError, UsageError
from likewise.progress import say
from likewise.types import Embeddings, Selection, did_you_mean, pick, typed

LONG = 30  # seconds from which on a run says beforehand what it will cost
_BY_DIRECTION = {  # methods that bring rows to length 1 themselves: they need no copy that is, and no other metric
    "bloom",
    "facility-location",
    "graph-cut",
    "log-det",
    "prototypes",
    "sas-cut",
    "sas-rowsum",
    "saturated-coverage",
    "sem-dedup",
    "simcore",
    "top-k",
}
_BY_NO_ROWS = {"ccs", "class-balanced", "random", "ucs"}  # but by scores, labels or lot; ccs may score by direction
# Of the largest number, so that squares keep their digits: in float32, or in float64 where lengths are brought to 1.
_RANGE = {"euclidean": (1e-15, 1e15), "cosine": (1e-150, 1e150)}
_GIVEN = {"x", "budget", "seed", "memory", "chosen", "keys", "metric", "checkpoint"}  # what `select` itself passes on
_ASKED = {  # what a method may ask for by name, besides
    "target": "embeddings of the images wanted more of",
    "scores": "a number for each image",
    "labels": "a class for each image",
}
_MOST = 2**62  # bytes
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def select(
    x: Any,
    method: str | Callable[..., Selection] = "k-center",
    budget: SupportsFloat | str = 0.1,
    *,
    metric: str = "cosine",
    seed: int = 0,
    memory: int | str = "2GB",
    chosen: Any = None,
    target: Any = None,
    scores: Any = None,
    labels: Any = None,
    checkpoint: Checkpoint | None = None,
    **options: Any,
) -> Selection:
    """Pick the images that matter, from their features.

    `x`: Embeddings, or any array of shape (images, dimensions): numpy (memory-mapped too), torch, lists.
    `method`: a name in SELECTORS, or any function with a selector's signature.
    `budget`: a share of the images (0.1, "10%") or a number of them (5000, "5000").
    `metric`: "cosine" scales every row to length 1 first (a zero row stays zero: similar to nothing); "euclidean"
    takes the rows as they are, and is refused by methods that look at directions only.
    `memory`: work space beyond x itself, in bytes or as "2GB", "500MB". A memory-mapped x of float32 or float64 is not
    copied, unless the method needs rows of length 1 and cannot make them block by block; any other is, to float32.
    `chosen`: a list of the ids picked already; they are not returned and do not count towards the budget.
    `target`: embeddings of a set of its own, for methods that look for images like those.
    `scores`: a finite number for each image, for methods that rank by one.
    `labels`: an integer for each image, -1 where unknown. A method that cannot do without takes those of Embeddings.
    `checkpoint`: where a method that can be taken up again keeps what it has; others start over.
    `options`: further keywords of the method.

    A method is given what it names among its parameters; it is an error to lack what it needs, or to give it a
    target or scores that it does not take.

    `quality` is that of the picks, together with those `chosen` if there are any; `meta["random_quality"]` that of as
    many random ones in their place. `meta["seconds"]` is what the method took, without either. A method that had to
    approximate says so, with its bound, in `meta["approximation"]`.

    >>> import numpy as np
    >>> corners = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> sorted(select(corners, "facility-location", budget=2).indices.tolist())
    [1, 2]

    Raises UsageError for a wrong argument, and DataError for rows that are not finite, or whose numbers are all too
    small or some too large to square: in float32 by the metric "euclidean", in float64 by "cosine".
    """
    from likewise.coresets import SELECTORS

    selector = pick(SELECTORS, method, "selector") if isinstance(method, str) else method
    if not callable(selector):
        raise UsageError(f"method={method!r}: expected the name of a selector, or a function like one")
    listed = next((one for one, made in SELECTORS.items() if made is selector), "")  # "": one of the user's own
    name = listed or (method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__))
    parameters = inspect.signature(selector).parameters
    options = read_options(name, selector, options)
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r}: must be one of {', '.join(METRICS)}")
    if metric != "cosine" and (listed in _BY_DIRECTION or (listed == "ccs" and scores is None)):
        raise UsageError(f"metric {metric!r}: {name} looks at directions only; expected cosine")
    n_bytes = parse_memory(memory)
    rows = _rows(x)
    if metric == "euclidean" or rows.dtype == torch.float64:  # float64 holds the squares of all of float32
        _check_range(rows, metric)
    n_picks = parse_budget(budget, len(rows))
    given: dict[str, Any] = {"seed": seed, "memory": n_bytes, "chosen": _ids(chosen)}
    features = rows
    if "metric" in parameters:
        given["metric"] = metric
    elif metric == "cosine" and listed not in _BY_DIRECTION | _BY_NO_ROWS:
        features = _of_length_1(rows, n_bytes)
    keys = torch.as_tensor(np.array(x.keys)) if isinstance(x, Embeddings) else None
    if "keys" in parameters:
        given["keys"] = keys
    if target is not None:
        target = _rows(target, "target")
        if target.shape[1] != rows.shape[1]:
            raise UsageError(f"target has {target.shape[1]} dimensions, and x {rows.shape[1]}: expected the same")
        target = target.to(rows)
        if metric == "cosine":
            target = _of_length_1(target, n_bytes)
    if scores is not None:
        scores = _per_image(scores, "scores", len(rows)).double()
    known_labels = x.labels if labels is None and isinstance(x, Embeddings) else labels
    if known_labels is not None:
        known_labels = _per_image(known_labels, "labels", len(rows))
    if labels is not None or _needs(parameters, "labels"):
        labels = known_labels
    given |= _asked(name, parameters, {"target": target, "scores": scores, "labels": labels})

    if checkpoint is not None and "checkpoint" in parameters:
        asked = {"method": name, "budget": n_picks, "seed": seed, "metric": metric, "options": options}
        arrays = (rows, keys, given["chosen"], target, scores, known_labels)
        data = fingerprint(None if array is None else array.cpu().numpy() for array in arrays)
        checkpoint.begin({**asked, "data": data})
        given["checkpoint"] = checkpoint

    cost = estimate(listed, len(rows), rows.shape[1], n_picks, n_bytes, options)
    if cost is not None and cost.seconds > LONG:
        say(f"{name}: {n_picks:,} of {len(rows):,} images will take {cost}")
    started = time.perf_counter()
    selection = selector(features, n_picks, **given, **options)
    seconds = time.perf_counter() - started
    del features
    judge = Quality(rows, memory=n_bytes, metric=metric, labels=known_labels, keys=keys)
    baseline = random(rows, len(selection), seed=seed, keys=keys, chosen=given["chosen"])
    held = np.empty(0, np.int64) if given["chosen"] is None else given["chosen"].numpy()
    meta = {
        "method": name,
        "options": {"metric": metric, **options},
        "seed": seed,
        "budget": n_picks,
        "n_pool": len(rows),
        "seconds": seconds,
        "random_quality": judge.of(np.concatenate([held, baseline.indices])),
    }
    measured = judge.of(np.concatenate([held, selection.indices]))
    return Selection(selection.indices, selection.gains, selection.weights, measured, {**selection.meta, **meta})


def read_options(name: str, selector: Callable[..., Selection], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a method. Those of one that is listed are read by its annotations; others are taken as they are.

    Raises UsageError for one that it does not take, or of another type.
    """
    from likewise.coresets import SELECTORS

    parameters = inspect.signature(selector).parameters
    known = [option for option in parameters if option not in _GIVEN and option not in _ASKED]
    for option in options:
        if option not in known:
            accepted = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UsageError(f"{option!r} is no option of {name}{did_you_mean(option, known)}; {accepted}")
    if SELECTORS.get(name) is not selector:
        return dict(options)
    return {option: typed(option, value, parameters[option].annotation) for option, value in options.items()}


def parse_budget(budget: SupportsFloat | str, n: int) -> int:
    """The number of images meant by a share (0.1, "10%") or a count (5000, "5000") of n images.

    A number with a point is a share below 1: one image is 1, and all are "100%".

    >>> parse_budget("10%", 250), parse_budget(0.5, 9), parse_budget(7, 9)
    (25, 4, 7)
    """
    wrong = UsageError(
        f"budget {budget!r}: expected a share above 0 and below 1, a percentage up to 100%, or a whole number "
        f"of images from 1 to {n}"
    )
    try:
        if isinstance(budget, str) and budget.strip().endswith("%"):
            share = float(budget.strip()[:-1]) / 100
            if not 0 < share <= 1:
                raise wrong
            return max(round(share * n), 1)
        if isinstance(budget, str):
            budget = int(budget) if budget.strip().isdecimal() else float(budget)
        number = float(budget)
        if isinstance(budget, bool) or not math.isfinite(number) or number <= 0 or number > n:
            raise wrong
        return max(round(number * n), 1) if number < 1 else operator.index(budget)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise wrong from None


def parse_memory(memory: int | str) -> int:
    """Bytes.

    >>> parse_memory("2GB"), parse_memory("1.5 MB"), parse_memory(4096)
    (2000000000, 1500000, 4096)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", str(memory).upper())
    unit_ = match and _UNITS.get(match[2] if match[2].endswith("B") or not match[2] else match[2] + "B")
    size = float(match[1]) * unit_ if match and unit_ else 0.0
    if not 1 <= size <= _MOST:
        raise UsageError(f"memory {memory!r}: expected a number of bytes or a size such as 500MB or 2GB")
    return int(size)


def _needs(parameters: Mapping[str, inspect.Parameter], argument: str) -> bool:
    return argument in parameters and parameters[argument].default is inspect.Parameter.empty


def _asked(name: str, parameters: Mapping[str, inspect.Parameter], given: dict[str, Any]) -> dict[str, Any]:
    """Of what a method may ask for, what it does ask for. Labels that it has no use for serve the quality."""
    from likewise.coresets import SELECTORS

    for argument, value in given.items():
        if value is None and _needs(parameters, argument):
            raise UsageError(f"method {name} needs {argument}: {_ASKED[argument]}")
        if value is not None and argument != "labels" and argument not in parameters:
            takers = [one for one, made in sorted(SELECTORS.items()) if argument in inspect.signature(made).parameters]
            raise UsageError(f"{argument}: is not taken by {name}; it is by {', '.join(takers) or 'no method'}")
    return {argument: value for argument, value in given.items() if argument in parameters and value is not None}


def _per_image(values: Any, what: str, n: int) -> Tensor:
    """Scores (finite numbers) or labels (whole numbers), one per image."""
    try:
        column = values.detach().clone() if isinstance(values, Tensor) else _tensor(np.array(values))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what}: cannot be read as an array of numbers ({error})") from None
    whole = not (column.is_floating_point() or column.is_complex())
    if tuple(column.shape) != (n,) or (what == "labels" and not whole):
        kind = "whole numbers" if what == "labels" else "numbers"
        raise UsageError(f"{what}: shape {tuple(column.shape)}, {column.dtype}; expected {n} {kind}, one per image")
    if not column.isfinite().all():
        first = int((~column.isfinite()).nonzero()[0, 0])
        raise DataError(f"{what}: hold NaN or infinity, first for image {first}")
    return column.long() if what == "labels" else column


def _rows(x: Any, what: str = "x") -> Tensor:
    """x as a finite floating-point matrix: the same memory if it is one, so it must not be written to."""
    array = x.x if isinstance(x, Embeddings) else x
    if isinstance(array, Tensor):
        rows = array.detach()
        rows = rows.cpu() if rows.device.type == "mps" else rows  # which has no float64
    else:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                rows = _tensor(np.asarray(array))
        except (TypeError, ValueError) as error:
            raise UsageError(f"{what}: cannot be read as an array of numbers ({error})") from None
    if rows.ndim != 2 or not rows.numel() or rows.is_complex():
        raise UsageError(f"{what} has shape {tuple(rows.shape)}: expected numbers of shape (images, dimensions)")
    if rows.dtype not in (torch.float32, torch.float64):
        rows = rows.float()
    bad = torch.cat([~rows[span].isfinite().all(1) for span in spans(len(rows), rows.shape[1], 32 << 20)])
    if bad.any():
        first = int(bad.nonzero()[0, 0])
        raise DataError(f"{what}: {int(bad.sum())} of {len(rows)} rows hold NaN or infinity, the first is row {first}")
    return rows


def _tensor(array: np.ndarray) -> Tensor:
    """The same memory; a copy where torch cannot read it: backwards, in another order of bytes, longer than float64."""
    kind = np.float64 if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    array = array.astype(kind, copy=False)
    return torch.from_numpy(array.copy() if min(array.strides, default=0) < 0 else array)


def _check_range(x: Tensor, metric: str) -> None:
    largest = max(float(x[span].abs().max()) for span in spans(len(x), x.shape[1], 32 << 20))
    low, high = _RANGE[metric]
    if largest and not low <= largest <= high:
        raise DataError(f"x: its largest number is {largest:.3g}; by the metric {metric} expected {low:g} to {high:g}")


def _of_length_1(x: Tensor, memory: int) -> Tensor:
    """A copy with rows of length 1; a zero row stays zero."""
    scaled, copy = unit(x, memory), torch.empty_like(x, memory_format=torch.contiguous_format)
    for span in spans(len(x), 3 * x.shape[1], memory):
        copy[span] = scaled[span].to(x.dtype)
    return copy


def _ids(chosen: Any) -> Tensor | None:
    if chosen is None:
        return None
    try:
        ids = np.asarray(chosen.cpu() if isinstance(chosen, Tensor) else chosen)
    except ValueError:  # lists of several lengths
        ids = np.empty(())
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        shown = f" {str(chosen)!r}" if isinstance(chosen, str | PathLike) else ""
        raise UsageError(f"chosen{shown}: expected a list of image ids, such as the `indices` of a Selection")
    return torch.from_numpy(ids.astype(np.int64))
