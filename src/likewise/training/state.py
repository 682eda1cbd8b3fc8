"""What a run needs to go on as if it had never stopped: weights, buffers, optimiser, place. No pickle."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim import Optimizer

from likewise.errors import DataError
from likewise.files import write_bytes, write_json

PARTS = ("method", "optimizer", "other")
KEPT = 2  # the newest state and the one before it


def save_state(
    run: Path, place: dict[str, Any], tensors: dict[str, Tensor], method: nn.Module, optimizer: Optimizer
) -> None:
    """Write state/<step>/, then drop all but it and the whole one before. `place` (plain numbers, with `step`) goes
    last: a state without it was cut short and does not count, and one of a later step was damaged when this began."""
    folder = run / "state" / f"{place['step']:09d}"
    folder.mkdir(parents=True, exist_ok=True)
    moments = {
        f"{i}.{name}": value for i, p in enumerate(_parameters(optimizer)) for name, value in optimizer.state[p].items()
    }
    for name, part in zip(PARTS, (method.state_dict(), moments, tensors), strict=True):
        blob = to_bytes({key: value.detach().cpu().contiguous() for key, value in part.items()})
        write_bytes(folder / f"{name}.safetensors", blob)
    write_json(folder / "place.json", {**place, "moments": len(moments)})
    kept = [state for state in whole_states(run) if int(state.name) <= place["step"]][:KEPT]
    for state in _states(run):
        if state not in kept:
            shutil.rmtree(state)


def whole_states(run: Path) -> list[Path]:
    """The folders of states that were written to their end, the newest first."""
    return [state for state in _states(run) if (state / "place.json").is_file()]


def load_state(run: Path, method: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Restore the newest whole state; None if there is none yet. A damaged one falls back to the one before; DataError
    if that is damaged too."""
    folders = whole_states(run)
    for folder in folders:
        try:
            place = json.loads((folder / "place.json").read_text())
            parts = [from_bytes((folder / f"{name}.safetensors").read_bytes()) for name in PARTS]
        except (OSError, SafetensorError, ValueError):  # ValueError: place.json is no JSON, or not even text
            continue
        weights, moments, tensors = parts
        if len(moments) != place.pop("moments"):
            raise DataError(f"{folder / 'optimizer.safetensors'}: some of the optimizer's state is missing")
        try:
            method.load_state_dict(weights)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise DataError(f"{folder}: was saved by another method or encoder ({first})") from None
        fused = optimizer.defaults.get("fused")
        for i, p in enumerate(_parameters(optimizer)):
            for key in [key for key in moments if key.split(".")[0] == str(i)]:
                name = key.split(".", 1)[1]
                value = moments[key]
                # Moments take the memory layout of their parameter; a counter its device where a fused kernel reads it.
                counter = value.to(p.device) if fused else value
                optimizer.state[p][name] = torch.empty_like(p).copy_(value) if value.shape == p.shape else counter
        return place, tensors
    if folders:
        raise DataError(f"{run / 'state'}: what was saved there is damaged; begin again with --overwrite")
    return None


def _states(run: Path) -> list[Path]:
    """The folders named by a step, whole or not, the newest first; what else lies there is somebody else's."""
    found = (run / "state").iterdir() if (run / "state").is_dir() else ()
    return sorted((file for file in found if file.name.isdecimal()), key=lambda file: int(file.name), reverse=True)


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
