"""Named recipes: the views of one image that a method brings together. Each takes the side in pixels."""

from collections.abc import Callable

from likewise.errors import UsageError
from likewise.views.colour import HSV, Blur, Colour, Grey, Jitter, PCAContrast, Solarise
from likewise.views.geometry import Flip, Geometry, ResizedCrop, Rotate, Scale, Translate
from likewise.views.view import View

Views = tuple[View, ...]


def plain(size: int) -> Views:
    """The image as it is: its largest centred square. One view."""
    return (View(size),)


def weak(size: int, *, min_scale: float = 0.2, flip: float = 0.5) -> Views:
    """A crop and a flip (MAE, He et al., 2021). One view."""
    return (View(size, _crop(min_scale, 1.0, flip)),)


def strong(
    size: int,
    *,
    min_scale: float = 0.08,
    flip: float = 0.5,
    rotation: float = 0.0,
    jitter: float = 1.0,
    grey: float = 0.2,
    blur: float = 0.5,
    solarise: float = 0.0,
) -> Views:
    """Crop, flip, colour jitter, greyscale, blur (SimCLR, Chen et al., 2020). Two views alike.

    `jitter` is the strength s of the paper: 0.8 s in brightness, contrast and saturation, 0.2 s in hue. The other
    numbers are probabilities, `rotation` is in degrees. On 32-pixel images the paper uses half the jitter, no blur.
    """
    colour = _colour(0.8 * jitter, 0.8 * jitter, 0.2 * jitter, grey, blur, solarise)
    return (View(size, _crop(min_scale, 1.0, flip, rotation), colour),) * 2


def asymmetric(
    size: int, *, min_scale: float = 0.08, flip: float = 0.5, jitter: float = 1.0, grey: float = 0.2
) -> Views:
    """Two views that differ: one always blurred, the other rarely, but solarised (BYOL, Grill et al., 2020)."""
    crop = _crop(min_scale, 1.0, flip)
    first = _colour(0.4 * jitter, 0.2 * jitter, 0.1 * jitter, grey, 1.0, 0.0)
    second = _colour(0.4 * jitter, 0.2 * jitter, 0.1 * jitter, grey, 0.1, 0.2)
    return (View(size, crop, first), View(size, crop, second))


def multi_crop(
    size: int,
    *,
    n_local: int = 6,
    local_size: int | None = None,
    split: float = 0.4,
    min_scale: float = 0.05,
    flip: float = 0.5,
    jitter: float = 1.0,
    grey: float = 0.2,
    solarise: float = 0.2,
) -> Views:
    """Two global crops and several smaller local ones (SwAV, DINO). Global areas lie above `split`, local ones below.

    `local_size` is in pixels; without it three sevenths of `size`, to the nearest number of a ViT's usual patches.
    """
    if not min_scale < split:
        raise UsageError(f"min_scale={min_scale}: expected less than split={split}, above which global areas lie")
    if local_size is not None and not 0 < local_size < size:
        raise UsageError(
            f"local_size={local_size}: expected less than size={size}, by which global views are told, and above 0"
        )
    patch = 4 if size <= 48 else 8 if size <= 128 else 16
    local_size = local_size or max(patch, round(size * 3 / 7 / patch) * patch)
    base = (0.4 * jitter, 0.2 * jitter, 0.1 * jitter, grey)
    whole, part = _crop(split, 1.0, flip), _crop(min_scale, split, flip)
    first = View(size, whole, _colour(*base, 1.0, 0.0))
    second = View(size, whole, _colour(*base, 0.1, solarise))
    return (first, second) + (View(local_size, part, _colour(*base, 0.5, 0.0)),) * n_local


def affine(
    size: int,
    *,
    shift: float = 0.1,
    rotation: float = 15.0,
    zoom: float = 1.25,
    jitter: float = 0.0,
    fill: str = "zeros",
) -> Views:
    """Shift, rotation and zoom of the whole image, for shapes on a plain ground such as digits. Two views alike.

    `shift` is a share of the side, `rotation` is in degrees, `zoom` the largest factor in and out.
    """
    if zoom <= 0:
        raise UsageError(f"zoom={zoom}: expected a factor above 0")
    geometry: tuple[Geometry, ...] = (Translate(shift), Rotate(rotation), Scale((1 / zoom, zoom)))
    colour: tuple[Colour, ...] = (Jitter(0.8 * jitter, 0.8 * jitter, 0.8 * jitter, 0.2 * jitter),) if jitter else ()
    return (View(size, geometry, colour, fill),) * 2


def exemplar(
    size: int,
    *,
    n_views: int = 2,
    versions: int = 0,
    context: float = 2.25,
    translation: float = 0.2,
    zoom_range: tuple[float, float] = (0.7, 1.4),
    turn: float = 20.0,
    contrast: tuple[float, float] = (0.5, 2.0),
    power: tuple[float, float] = (0.25, 4.0),
    hue: float = 0.1,
    soften: float = 0.0,
) -> Views:
    """The transformations of Exemplar-CNN (Dosovitskiy et al., 2014) with the paper's ranges. `n_views` views alike.

    The seed patch is the middle 1 / `context` of an image's side; what lies around it is what shifts, turns and zooms
    bring in (2.25 holds all that these ranges reach). `versions` is the paper's K, how many samples a surrogate class
    has in all; 0 draws afresh every epoch. `translation` is a share of the patch's side, `turn` is in degrees,
    `contrast` multiplies principal components of the colours, `power` is that of saturation and value (1, 1 leaves out
    their factor and offset too), `soften` the largest deviation of a Gaussian blur in pixels at 32 pixels a side.
    """
    if context <= 0:
        raise UsageError(f"context={context}: expected a factor above 0")
    geometry: tuple[Geometry, ...] = (Scale((1 / context, 1 / context)),) if context != 1 else ()
    geometry += (Translate(translation),) if translation else ()
    geometry += (Scale(zoom_range),) if zoom_range != (1, 1) else ()
    geometry += (Rotate(turn),) if turn else ()
    colour: tuple[Colour, ...] = (Blur(1.0, (0.01, soften * size / 32), 0.35),) if soften else ()
    colour += (PCAContrast(contrast),) if contrast != (1, 1) else ()
    if power != (1, 1):
        colour += (HSV(power, hue=hue),)
    elif hue:
        colour += (HSV((1.0, 1.0), (1.0, 1.0), (0.0, 0.0), hue),)
    return (View(size, geometry, colour, versions=versions),) * n_views


RECIPES: dict[str, Callable[..., Views]] = {
    "affine": affine,
    "asymmetric": asymmetric,
    "exemplar": exemplar,
    "multi-crop": multi_crop,
    "plain": plain,
    "strong": strong,
    "weak": weak,
}


def _crop(low: float, high: float, flip: float, rotation: float = 0.0) -> tuple[Geometry, ...]:
    crop: tuple[Geometry, ...] = (ResizedCrop((low, high)),)
    if rotation:
        crop += (Rotate(rotation),)
    return (*crop, Flip(flip)) if flip else crop


def _colour(
    jitter: float, saturation: float, hue: float, grey: float, blur: float, solarise: float
) -> tuple[Colour, ...]:
    colour: tuple[Colour, ...] = ()
    if jitter:
        colour += (Jitter(jitter, jitter, saturation, hue),)
    if grey:
        colour += (Grey(grey),)
    if blur:
        colour += (Blur(blur),)
    if solarise:
        colour += (Solarise(solarise),)
    return colour
