"""Settings become a plan. A recipe is a call: its keys are keywords.

Settings are flat: the keywords of `TrainConfig`, of the method, of the encoder and of the recipe of views share one
name space (a contract test keeps them apart), so that flag, recipe key and keyword have the same name everywhere.
"""

import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from likewise.encoders import ENCODERS, imported
from likewise.errors import UsageError
from likewise.images.decode import MIN_SIDE
from likewise.methods import default, find, recipe
from likewise.types import TrainConfig, did_you_mean, pick, read_word, typed
from likewise.views import RECIPES

BUDGET = ("epochs", "steps", "minutes")
RECORDED = (  # resolved, and no settings
    *("data", "n_images", "images_hash", "order_hash", "labels_hash", "objects_hash", "relation_hash"),
)
SHARES = (
    *("min_scale", "split", "flip", "grey", "blur", "solarise"),  # of views: parts of an area, and probabilities
    *("sigreg_weight", "thaw", "smoothing", "shrinkage"),
)
FROM_ZERO = ("companions", "queue_size")  # what is counted and may be none
DIVISORS = ("temperature", "epsilon", "sharpening")  # how names of what cannot be 0 end


@dataclass(frozen=True)
class Plan:
    """What a run will do: names, and the keywords of each part."""

    method: str
    encoder: str | nn.Module
    views: str
    size: int
    method_options: dict[str, Any]
    encoder_options: dict[str, Any]
    view_options: dict[str, Any]
    config: TrainConfig

    def flat(self) -> dict[str, Any]:
        """All of it, defaults included: resolved.toml holds this, and what it was done to."""
        names = {"method": self.method, "encoder": self.encoder_name, "views": self.views, "size": self.size}
        options = {**self.method_options, **self.encoder_options, **self.view_options, **asdict(self.config)}
        return plain({**names, **options})

    @property
    def encoder_name(self) -> str:
        return self.encoder if isinstance(self.encoder, str) else type(self.encoder).__name__


def make_plan(settings: Mapping[str, Any], default_size: int) -> Plan:
    """Settle what was asked. Raises UsageError for an unknown key (naming the nearest) or a value of another type.

    Without a method it is that of a few images.
    """
    asked = {key: value for key, value in settings.items() if value is not None}
    method = typed("method", asked.pop("method", default(asked.get("encoder"), 0)[0]), str)
    made = find(method)
    encoder = asked.pop("encoder", None)
    if encoder is not None and not isinstance(encoder, nn.Module):
        encoder = typed("encoder", encoder, str)
    if encoder is None:
        encoder = "vit-nano" if "a ViT encoder" in made.needs else "convnet"
    views = typed("views", asked.pop("views", made.default_views), str)
    size = checked_size(asked.pop("size", default_size))
    config = recipe(made)
    if any(key in asked for key in BUDGET):
        config = replace(config, epochs=None, steps=None, minutes=None)
    imports = isinstance(encoder, str) and ":" in encoder
    named = isinstance(encoder, str) and not imports
    parts: list[dict[str, tuple[Any, Any]]] = [
        {f.name: (getattr(config, f.name), f.type) for f in fields(TrainConfig)},
        keywords(made),
        keywords(pick(ENCODERS, encoder, "encoder")) if named else {},
        keywords(pick(RECIPES, views, "views")),
    ]
    known = {name: part for part in parts for name in part}
    for key in asked:
        if key not in known and not imports:
            names = sorted({"method", "encoder", "views", "size", *known})
            raise UsageError(
                f"setting {key!r} is unknown{did_you_mean(key, names)}; {method} on {encoder} with {views} views takes "
                f"{', '.join(names)}"
            )
    training, for_method, for_encoder, for_views = (
        {name: typed(name, asked[name], kind) if name in asked else default for name, (default, kind) in part.items()}
        for part in parts
    )
    for options, part, own in (
        (for_method, parts[1], True),
        (for_encoder, parts[2], True),
        (for_views, parts[3], False),
    ):
        for name, value in options.items():
            _check_range(name, value, part[name][0], own)
    if imports:
        maker = imported(encoder, "encoder")
        try:
            takes = inspect.signature(maker).parameters
        except (TypeError, ValueError):  # a module, or what is written in C
            raise UsageError(f"encoder={encoder!r}: is no class or function; expected 'package.module:Class'") from None
        for key in asked:
            if key in known and key in takes:
                raise UsageError(f"setting {key!r}: {encoder} takes one of that name too; give it another there")
        for_encoder |= {key: read_word(value) for key, value in asked.items() if key not in known}
    if not -(2**63) <= training["seed"] < 2**64:
        raise UsageError(f"seed={training['seed']}: expected a whole number of 64 bits")
    return Plan(method, encoder, views, size, for_method, for_encoder, for_views, TrainConfig(**training))


def checked_size(size: Any) -> int:
    """The side in pixels that an encoder looks at, if images can have it."""
    size = typed("size", size, int)
    if size < MIN_SIDE:
        raise UsageError(f"size={size}: expected at least {MIN_SIDE} pixels")
    return size


def _check_range(name: str, value: Any, default: Any, counts: bool) -> None:
    """Refuse numbers below 0, and below 1 what is counted unless 0 is its default: by no option is less meant."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, int):
        least = 1 if counts and default != 0 and name not in FROM_ZERO else 0
        if value < least:
            raise UsageError(f"{name}={value}: expected at least {least}")
    elif value < 0 or (value == 0 and name.endswith(DIVISORS)):
        raise UsageError(f"{name}={value}: expected {'a number above 0' if value == 0 else '0 or more'}")
    if (name in SHARES or name.endswith("_momentum")) and value > 1:
        raise UsageError(f"{name}={value}: expected a number from 0 to 1")


def keywords(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The hyper-parameters of a method, encoder or recipe, its keyword-only arguments: name -> (default, type)."""
    parameters = inspect.signature(function).parameters.values()
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("views", "labels")]
    return {p.name: (p.default, p.annotation) for p in own}


def read_recipe(path: Path | str) -> dict[str, Any]:
    """The settings of a recipe file, as a run's resolved.toml is too, or one clear line about what is wrong with it."""
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return {key: value for key, value in found.items() if key not in RECORDED}
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"--recipe {path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--recipe {path}: is not valid TOML ({error})") from None


def differences(saved: Mapping[str, Any], flat: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, then, now) of the settings in which a plan differs from a run's resolved.toml; None: not set."""
    keys = [key for key in {**flat, **saved} if key not in RECORDED or key in flat]
    return [(key, saved.get(key), flat.get(key)) for key in keys if saved.get(key) != flat.get(key)]


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What TOML can hold: no tuples, no None, no objects."""
    kept = (bool, int, float, str, list)
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    return {key: value for key, value in lists.items() if isinstance(value, kept)}
