"""What a run needs to go on as if it had never stopped: weights, buffers, optimiser, place. No pickle."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim import Optimizer

from likewise.errors import DataError
from likewise.files import write_bytes, write_json

KEPT = 2  # the newest state and the one before it


def save_state(
    run: Path, place: dict[str, Any], tensors: dict[str, Tensor], method: nn.Module, optimizer: Optimizer
) -> None:
    """Write state/<step>/ and drop all but the newest two. `place` (plain numbers, with `step`) goes last: a state
    without it was cut short and does not count."""
    folder = run / "state" / f"{place['step']:09d}"
    folder.mkdir(parents=True, exist_ok=True)
    moments = {
        f"{i}.{name}": value for i, p in enumerate(_parameters(optimizer)) for name, value in optimizer.state[p].items()
    }
    for name, part in (("method", method.state_dict()), ("optimizer", moments), ("other", tensors)):
        blob = to_bytes({key: value.detach().cpu().contiguous() for key, value in part.items()})
        write_bytes(folder / f"{name}.safetensors", blob)
    write_json(folder / "place.json", {**place, "moments": len(moments)})
    for old in sorted((run / "state").iterdir())[:-KEPT]:
        for file in old.iterdir():
            file.unlink()
        old.rmdir()


def load_state(run: Path, method: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Restore the newest whole state; None if there is none yet. A damaged one falls back to the one before."""
    folders = sorted((run / "state").iterdir(), reverse=True) if (run / "state").is_dir() else []
    for folder in folders:
        try:
            place = json.loads((folder / "place.json").read_text())
            parts = [load_file(folder / f"{name}.safetensors") for name in ("method", "optimizer", "other")]
        except (OSError, SafetensorError, json.JSONDecodeError):
            continue
        weights, moments, tensors = parts
        if len(moments) != place.pop("moments"):
            raise DataError(f"{folder / 'optimizer.safetensors'}: some of the optimizer's state is missing")
        try:
            method.load_state_dict(weights)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise DataError(f"{folder}: was saved by another method or encoder ({first})") from None
        for i, p in enumerate(_parameters(optimizer)):
            for key in [key for key in moments if key.split(".")[0] == str(i)]:
                name = key.split(".", 1)[1]
                value = moments[key]
                # Moments take the memory layout of their parameter; counters are kept as they are.
                optimizer.state[p][name] = torch.empty_like(p).copy_(value) if value.shape == p.shape else value
        return place, tensors
    return None


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
