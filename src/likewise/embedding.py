"""From an encoder and images to an embeddings folder; and the encoder itself, saved and loaded."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from likewise.draws import Draws
from likewise.encoders import build
from likewise.errors import DataError, UsageError
from likewise.files import claim, new_folder, read_json, write_bytes, write_json, write_text
from likewise.images import ImageSet, open_images
from likewise.images.scan import lasting
from likewise.memory import keep_freed_memory
from likewise.progress import bar
from likewise.types import DataInfo, Embeddings, Encoder, in_eval_mode, usable_device
from likewise.views import Scale, View

N_THUMBS, THUMB_SIDE = 2_000, 48
EMBEDDINGS_FILES = ("x.npy", "items.csv", "meta.json", "thumbs", "evaluation.jsonl")
OBJECT = "likewise.encoders.External(module, images.info(size))"  # what pretrain makes of a module
CONFIG = ("encoder", "arguments", "channels", "size", "n_images")  # what config.json holds at least
PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".bin")


def opening_side(size: int) -> int:
    """The short side at which images are opened for an encoder that looks at `size` pixels.

    Half as large again, so that crops have detail too. What embeds a set opens it at this side: features of images
    opened at another differ, since shrinking twice is not shrinking once.
    """
    return size * 3 // 2


def features(
    encoder: Encoder, images: ImageSet, size: int, *, device: torch.device | str = "cpu", batch_size: int = 256
) -> Float[np.ndarray, "n d"]:
    """What the encoder, in evaluation mode, says of each image's largest centred square at `size` pixels; of a patch
    with its surroundings, of the patch."""
    keep_freed_memory()
    patch = () if images.context == 1 else (Scale((1 / images.context,) * 2),)
    device, view = torch.device(device), View(size, patch)
    x = np.empty((len(images), encoder.dim), np.float32)
    encoder.to(device)
    with in_eval_mode(encoder), torch.inference_mode(), bar("embed", len(images)) as progress:
        for start in range(0, len(images), batch_size):
            ids = np.arange(start, min(start + batch_size, len(images)))
            draws = Draws(0, 0, 0, torch.from_numpy(images.keys[ids]).to(device))
            x[ids] = encoder(view(images.source(ids).to(device), draws)).float().cpu().numpy()
            progress.update(int(ids[-1]) + 1)
    return x


def embed(
    encoder: Any,
    images: Any,
    *,
    size: int | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    batch_size: int = 256,
    about: dict[str, Any] | None = None,
) -> Embeddings:
    """Embeddings of `images`, row i for image i; written to the folder `out` when one is given.

    `encoder` may be the folder that one was saved in, whose `size` (pixels) is then taken unless another is asked for;
    `images` is anything that `open_images` takes: it is opened with `side=opening_side(size)`, as by the command line.
    `about` goes into the folder's meta.json. Non-finite features are refused with a DataError.
    """
    device = usable_device(device)
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: expected at least 1")
    if not isinstance(encoder, Encoder):
        encoder, config = load_with_config(encoder)
        size = config["size"] if size is None else size
    if size is None:
        raise UsageError("size: needed with an encoder object, in pixels")
    images = images if isinstance(images, ImageSet) else open_images(images, side=opening_side(size))
    if out is not None:
        claim(out, "embeddings", overwrite=overwrite)  # what is there stays until there is something better
    started = time.perf_counter()
    x = features(encoder, images, size, device=device, batch_size=batch_size)
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    if len(bad):
        raise DataError(
            f"the encoder gives features that are not finite on {len(bad)} images, first {images.paths[bad[0]]}"
        )
    seconds = time.perf_counter() - started
    meta = {
        **(about or {}),
        "data": lasting(images.name),
        "size": size,
        "encoder_hash": weights_hash(encoder),
        "images_hash": images_hash(images.keys),
        "seconds": seconds,
        "images_per_second": len(images) / max(seconds, 1e-9),
    }
    table = Embeddings(x, images.keys, images.paths, images.labels, images.classes, meta)
    if out is not None:
        folder = new_folder(out, "embeddings", EMBEDDINGS_FILES, overwrite=overwrite)
        _save_thumbs(images, folder / "thumbs")
        table.save(folder)
    return table


def check_alike(table: Embeddings, other: Embeddings, whose: str, argument: str) -> None:
    """Refuse features of another encoder or size than those of `whose`, where both say of which they are."""
    for what, name in (("encoder_hash", "encoder"), ("size", "size")):
        one, two = table.meta.get(what), other.meta.get(what)
        if None not in (one, two) and one != two:
            raise DataError(f"{argument}: is of another {name} ({two}) than {whose} ({one})")


def images_hash(keys: Int[np.ndarray, " n"]) -> str:
    """A hash of a set of images by their content, whatever their order and names."""
    return array_hash(np.sort(keys))


def array_hash(values: Int[np.ndarray, " n"]) -> str:
    """A hash of numbers in their order."""
    return hashlib.blake2b(values.astype("<i8").tobytes(), digest_size=8).hexdigest()


def weights_hash(module: torch.nn.Module) -> str:
    """A hash of all parameters and buffers, by name: equal if and only if the bits are."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def save_encoder(folder: Path, encoder: Encoder, config: dict[str, Any], readme: str) -> None:
    """The product of a run: model.safetensors, config.json (what `load` needs) and README.md."""
    weights = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    write_bytes(folder / "model.safetensors", to_bytes(weights))
    write_text(folder / "README.md", readme)
    write_json(folder / "config.json", config)


def load(folder: Any, *, trained: bool = True) -> Encoder:
    """The encoder of a run or of any folder with model.safetensors and config.json, in evaluation mode.

    With `trained=False` its weights are those before training, but for the pixels' mean and deviation.
    Pickled weights (.pt, .pth, .ckpt) are refused: unpickling runs whatever code is in them.
    """
    encoder, _ = load_with_config(folder, trained=trained)
    return encoder


def load_with_config(
    folder: Any, *, trained: bool = True, expected: str = "a run folder or a saved encoder"
) -> tuple[Encoder, dict[str, Any]]:
    """The encoder and its config.json: encoder, arguments, channels, size, seed. Errors say what was `expected`."""
    if not isinstance(folder, str | os.PathLike):
        what = type(folder).__name__
        raise UsageError(
            f"model: got {what}; expected a run, a saved encoder, 'pixels' or an Encoder"
            + (
                f": likewise.encoders.External({what}(..), images.info(size)) makes one of a module"
                if isinstance(folder, torch.nn.Module)
                else ""
            )
        )
    folder = Path(folder)
    if folder.suffix.lower() in PICKLES:
        raise UsageError(
            f"{folder}: pickled weights are not loaded, since unpickling can run any code; convert them where you "
            f"trust them: python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('{folder.name}', "
            f"weights_only=True), 'model.safetensors')\""
        )
    if not (folder / "model.safetensors").is_file() or not (folder / "config.json").is_file():
        what = "no such folder" if not folder.exists() else "has no model.safetensors with config.json"
        if (folder / "resolved.toml").is_file():
            what = "is a run that was not finished; go on with pretrain --resume"
        raise DataError(f"model {folder}: {what}; expected {expected}")
    config = read_json(folder / "config.json")
    lacking = [key for key in CONFIG if key not in config] if isinstance(config, dict) else list(CONFIG)
    if lacking:
        raise DataError(
            f"model {folder}: its config.json lacks {lacking[0]}, so that likewise did not write it; expected a run"
        )
    if config.get("object"):
        raise UsageError(
            f"model {folder}: its encoder was an object, of the class {config['encoder']}; make it again as "
            f"{OBJECT}, give that the tensors of model.safetensors (load_state_dict(safetensors.torch.load_file(..))), "
            f"and pass it with size={config['size']}"
        )
    data = DataInfo(config["n_images"], config["channels"], config["size"])
    with torch.random.fork_rng(devices=[]):  # the caller's draws go on as if nothing had been drawn here
        torch.default_generator.manual_seed(config.get("seed", 0))  # not those of GPUs, which are not forked
        encoder = build(config["encoder"], data, **config["arguments"])
    try:
        weights = load_file(folder / "model.safetensors")
        if not trained:
            start = encoder if config.get("init_from") is None else _first(folder, config["init_from"])
            weights = {**start.state_dict(), **{k: v for k, v in weights.items() if k.startswith("normalise.")}}
        encoder.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{folder / 'model.safetensors'}: does not fit its config.json ({error})") from None
    return encoder.eval(), config


def _first(folder: Path, init_from: str) -> Encoder:
    """What a run began from."""
    try:
        return load(init_from)
    except DataError as error:
        raise DataError(f"model {folder}: began from {init_from}, so that untrained it is that; {error}") from None


def _save_thumbs(images: ImageSet, folder: Path) -> None:
    """Small pictures of up to 2,000 images, evenly spread over the set and named by id, for the report."""
    folder.mkdir()
    n = min(N_THUMBS, len(images))
    for i in (k * len(images) // n for k in range(n)):
        picture = images.image(i)
        picture.thumbnail((4 * THUMB_SIDE, THUMB_SIDE))
        picture.save(folder / f"{i:06d}.webp", quality=80)
