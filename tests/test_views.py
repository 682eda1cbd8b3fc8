"""Views against Pillow, kornia, colorsys and plain loops, and the distribution of what is drawn."""

import colorsys
import math
from dataclasses import dataclass, field

import kornia
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from likewise.draws import Draws
from likewise.types import Source
from likewise.views import (
    HSV,
    RECIPES,
    Blur,
    Erase,
    Flip,
    Grey,
    Jitter,
    PCAContrast,
    ResizedCrop,
    Rotate,
    Scale,
    Solarise,
    Translate,
    View,
)
from likewise.views.colour import hsv_to_rgb, rgb_to_hsv
from likewise.views.geometry import sample

BOUND = 1e-4  # the smallest p-value that a fixed seed may give by bad luck


@dataclass(frozen=True)
class Told(Draws):
    """Draws that say what they are told, by name, and 0.5 otherwise; so the factor of an operation is known."""

    say: dict = field(default_factory=dict)

    def image(self, name, *shape):
        values = torch.as_tensor(self.say.get(name, 0.5), dtype=torch.float32)
        return values.expand(len(self.keys), *shape).clone()


def told(n, **say):
    return Told(0, 0, 0, torch.arange(n), say=say)


def keyed(n, seed=0):
    return Draws(seed, 0, 0, torch.arange(n))


def noise(n, c=3, h=16, w=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, c, h, w or h), dtype=torch.uint8, generator=generator)


def colours(n, c=3, h=16, w=None, seed=0):
    return noise(n, c, h, w, seed) / 255


def whole(pixels):
    n, _, h, w = pixels.shape
    return Source(pixels, torch.tensor([h, w]).expand(n, 2))


def ragged(sizes, c=3, seed=0):
    """Images of several sizes on a ground of other noise, which no view may ever see."""
    sizes = torch.tensor(sizes)
    pixels = noise(len(sizes), c, *sizes.amax(0).tolist(), seed=seed)
    return Source(pixels, sizes)


def box_map(box, height, width):
    """The map whose view is the box (left, top, right, bottom), in pixels of an image of that size."""
    left, top, right, bottom = box
    unit = min(height, width) / 2
    a, d = (right - left) / 2 / unit, (bottom - top) / 2 / unit
    x, y = ((left + right) / 2 - width / 2) / unit, ((top + bottom) / 2 - height / 2) / unit
    return torch.tensor([[[a, 0, x], [0, d, y], [0, 0, 1]]], dtype=torch.float32)


def affine_map(degrees=0.0, zoom=1.0, shift=(0.0, 0.0), mirror=False):
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag([-1.0 if mirror else 1.0, 1, 1])
    matrix[:2] *= zoom
    matrix[:2, 2] = shift
    return torch.tensor(matrix[None], dtype=torch.float32)


# Sampling


def in_pixels(matrix, x, y, height, width):
    """Where a point of the view's frame lies in the source, in pixels."""
    u, v, _ = matrix @ (x, y, 1)
    unit = min(height, width) / 2
    return width / 2 + unit * u, height / 2 + unit * v


def naive_filtered(image, matrix, size, fill):
    """The triangle filter as wide as an output pixel, by loops; black or repeated outside of the image."""
    c, height, width = image.shape
    out = np.zeros((c, size, size))

    def taps(centre, support, n):
        if fill == "border":
            centre = min(max(centre, 0.5), n - 0.5)
            lattice = range(n)
        else:
            lattice = range(math.floor(centre - support) - 1, math.ceil(centre + support) + 2)
        weights = {i: max(0.0, 1 - abs(i + 0.5 - centre) / support) for i in lattice}
        total = sum(weights.values())
        return {i: w / total for i, w in weights.items() if w and 0 <= i < n}

    unit = min(height, width) / 2
    for row in range(size):
        for column in range(size):
            x, y = in_pixels(matrix, (2 * column + 1) / size - 1, (2 * row + 1) / size - 1, height, width)
            across = taps(x, max(1, abs(matrix[0, 0]) * unit * 2 / size), width)
            down = taps(y, max(1, abs(matrix[1, 1]) * unit * 2 / size), height)
            for i, v in down.items():
                for j, w in across.items():
                    out[:, row, column] += v * w * image[:, i, j]
    return out / 255


def naive_warped(image, matrix, size, fill):
    """Bilinear samples on a grid fine enough to skip no source pixel, averaged."""
    c, height, width = image.shape
    reach = max(math.hypot(*matrix[:2, 0]), math.hypot(*matrix[:2, 1]))
    k = min(8, max(1, math.ceil(reach * min(height, width) / size - 0.01)))
    out = np.zeros((c, size, size))
    for row in range(size * k):
        for column in range(size * k):
            x, y = in_pixels(matrix, (2 * column + 1) / (size * k) - 1, (2 * row + 1) / (size * k) - 1, height, width)
            left, top = math.floor(x - 0.5), math.floor(y - 0.5)
            for i in (top, top + 1):
                for j in (left, left + 1):
                    weight = (1 - abs(y - 0.5 - i)) * (1 - abs(x - 0.5 - j))
                    if fill == "border":
                        value = image[:, min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
                    else:
                        value = image[:, i, j] if 0 <= i < height and 0 <= j < width else 0
                    out[:, row // k, column // k] += weight * value / k**2
    return out / 255


STRAIGHT = {
    "all": affine_map(),
    "mirrored": affine_map(mirror=True),
    "close": affine_map(zoom=0.37, shift=(0.2, -0.4)),
    "far": affine_map(zoom=2.2, shift=(0.3, 0.1)),
    "outside": affine_map(zoom=0.5, shift=(0.9, -0.8)),
    "narrow": torch.tensor([[[1.3, 0, 0.1], [0, 0.4, -0.2], [0, 0, 1]]]),
}
TURNED = {
    "turned": affine_map(30),
    "close": affine_map(-70, zoom=0.4, shift=(0.3, 0.2)),
    "far": affine_map(110, zoom=1.9, shift=(-0.3, 0.2)),
    "mirrored": affine_map(15, zoom=0.8, mirror=True),
    "narrow": affine_map(45) @ torch.diag(torch.tensor([2.6, 0.5, 1.0])),
    "very far": affine_map(30, zoom=4.0),
}
SIZES = [(9, 9), (12, 7), (6, 13), (5, 5)]


@pytest.mark.parametrize("fill", ["border", "zeros"])
@pytest.mark.parametrize("size", [4, 9])
@pytest.mark.parametrize(
    ("naive", "matrix"),
    [(naive_filtered, m) for m in STRAIGHT.values()] + [(naive_warped, m) for m in TURNED.values()],
    ids=[f"straight-{name}" for name in STRAIGHT] + [f"turned-{name}" for name in TURNED],
)
def test_sampling_equals_loops_on_ragged_sources(naive, matrix, size, fill):
    source = ragged(SIZES)
    out = sample(source, matrix.expand(len(SIZES), 3, 3), size, fill)
    for i, (height, width) in enumerate(SIZES):
        image = source.pixels[i, :, :height, :width].double().numpy()
        np.testing.assert_allclose(out[i], naive(image, matrix[0].double().numpy(), size, fill), atol=2e-5)


@pytest.mark.parametrize("fill", ["border", "zeros"])
def test_padding_never_leaks_and_the_batch_does_not_matter(fill):
    source = ragged(SIZES)
    maps = torch.cat([STRAIGHT["far"], TURNED["far"], STRAIGHT["close"], TURNED["turned"]])
    together = sample(source, maps, 8, fill)
    for i, (height, width) in enumerate(SIZES):
        alone = Source(source.pixels[i : i + 1, :, :height, :width], source.sizes[i : i + 1])
        torch.testing.assert_close(sample(alone, maps[i : i + 1], 8, fill)[0], together[i], atol=1e-6, rtol=0)
    for value in (0, 255):
        other = source.pixels.clone()
        for i, (height, width) in enumerate(SIZES):
            other[i, :, height:] = value
            other[i, :, :, width:] = value
        torch.testing.assert_close(sample(Source(other, source.sizes), maps, 8, fill), together, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [5, 16, 40])
@pytest.mark.parametrize("box", [(0, 0, 24, 18), (3.3, 2.7, 20.1, 11.4), (10, 5, 14, 8), (0, 0, 3, 18), (20, 1, 24, 3)])
@pytest.mark.parametrize("c", [1, 3])
def test_crops_equal_pillow(box, size, c):
    pixels = noise(1, c, 18, 24)
    ours = sample(whole(pixels), box_map(box, 18, 24), size, "border")[0] * 255
    image = Image.fromarray(pixels[0].permute(1, 2, 0).squeeze(2).numpy())
    theirs = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box)).reshape(size, size, c)
    assert np.abs(ours.permute(1, 2, 0).numpy() - theirs).max() <= 1.01  # it rounds to bytes, after each axis


@pytest.mark.parametrize("degrees", [-120.0, 33.0, 90.0])
def test_rotation_equals_kornia(degrees):
    pixels = noise(2, 3, 15)
    ours = sample(whole(pixels), affine_map(degrees).expand(2, 3, 3), 15, "zeros")
    angle = torch.tensor([degrees, degrees])
    theirs = kornia.geometry.rotate(pixels / 255, angle, padding_mode="zeros", align_corners=True)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(10, 14), (14, 10), (12, 12)])
def test_a_plain_view_is_the_largest_centred_square(height, width):
    pixels, side = noise(1, 3, height, width), min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[:, :, top : top + side, left : left + side] / 255
    torch.testing.assert_close(View(side)(whole(pixels), keyed(1)), square, atol=1e-6, rtol=0)


def test_a_mirrored_view_is_the_mirror_image():
    pixels = noise(3, 3, 12)
    ours = View(12, (Flip(1.0),))(whole(pixels), keyed(3))
    torch.testing.assert_close(ours, pixels.flip(3) / 255, atol=1e-6, rtol=0)


def test_a_shrunk_image_keeps_its_mean():
    pixels = noise(2, 3, 64)
    for geometry in ((), (Rotate(180.0),)):
        out = View(8, geometry)(whole(pixels), told(2, angle=0.75))  # a quarter turn, through the other sampler
        torch.testing.assert_close(out.mean((2, 3)), (pixels / 255).mean((2, 3)), atol=0.01, rtol=0)


# Maps


def test_the_maps_of_a_view_multiply_in_the_order_listed():
    source = ragged(SIZES)
    geometry = (ResizedCrop(), Rotate(40.0), Flip(), Translate(0.2), Scale((0.7, 1.4)))
    draws = keyed(len(SIZES))
    product = torch.eye(3)
    for i, operation in enumerate(geometry):
        product = product @ operation(source.sizes, draws.child(f"geometry{i}"))
    for fill in ("border", "zeros"):
        ours = View(10, geometry, fill=fill)(source, draws)
        torch.testing.assert_close(ours, sample(source, product, 10, fill), atol=1e-6, rtol=0)


def test_the_maps_of_each_operation():
    sizes = torch.tensor([[8, 8]])
    np.testing.assert_allclose(Flip(1.0)(sizes, keyed(1))[0], np.diag([-1, 1, 1]))
    np.testing.assert_allclose(Flip(0.0)(sizes, keyed(1))[0], np.eye(3))
    np.testing.assert_allclose(
        Rotate(90.0)(sizes, told(1, angle=1.0))[0], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-7
    )
    shifted = Translate(0.25)(sizes, told(1, shift=[1.0, 0.0]))[0]
    np.testing.assert_allclose(shifted, [[1, 0, 0.5], [0, 1, -0.5], [0, 0, 1]])
    np.testing.assert_allclose(Scale((0.5, 2.0))(sizes, told(1, factor=1.0))[0], np.diag([2, 2, 1]))
    np.testing.assert_allclose(Scale((0.5, 2.0))(sizes, told(1, factor=0.5))[0], np.eye(3))


def boxes(crop, height, width, n=20_000):
    """Area share, log ratio, and the box's edges in pixels."""
    maps = crop(torch.tensor([[height, width]] * n), keyed(n)).double()
    unit = min(height, width) / 2
    w, h = 2 * unit * maps[:, 0, 0], 2 * unit * maps[:, 1, 1]
    x, y = width / 2 + unit * maps[:, 0, 2], height / 2 + unit * maps[:, 1, 2]
    edges = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    return w * h / (height * width), (w / h).log(), edges


def test_crops_have_even_areas_and_log_ratios_and_stay_inside():
    area, ratio, edges = boxes(ResizedCrop((0.1, 0.5)), 30, 30)  # every such box fits, so that none is rejected
    assert stats.kstest((area - 0.1) / 0.4, "uniform").pvalue > BOUND
    low, high = math.log(3 / 4), math.log(4 / 3)
    assert stats.kstest((ratio - low) / (high - low), "uniform").pvalue > BOUND
    assert abs(np.corrcoef(area, ratio)[0, 1]) < 0.03
    assert edges.min() > -1e-4
    assert edges.max() < 30 + 1e-4
    width = edges[:, 2] - edges[:, 0]
    assert stats.kstest(edges[:, 0] / (30 - width), "uniform").pvalue > BOUND


@pytest.mark.parametrize(("height", "width"), [(20, 60), (60, 20), (30, 31)])
def test_crops_of_any_image_keep_their_ranges(height, width):
    area, ratio, edges = boxes(ResizedCrop(), height, width)
    assert area.min() > 0.08 - 1e-4
    assert area.max() < 1 + 1e-4
    assert ratio.abs().max() < math.log(4 / 3) + 1e-4
    assert edges.amin() > -1e-3
    assert (edges[:, 2].max(), edges[:, 3].max()) <= (width + 1e-3, height + 1e-3)


def test_a_crop_that_never_fits_is_the_largest_centred_box_of_the_nearest_ratio():
    _, _, edges = boxes(ResizedCrop((1.0, 1.0), (3 / 4, 4 / 3)), 10, 100, n=3)
    np.testing.assert_allclose(edges, [[50 - 20 / 3, 0, 50 + 20 / 3, 10]] * 3, atol=1e-4)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_flips_happen_with_their_probability(p):
    n = 20_000
    flipped = (Flip(p)(torch.full((n, 2), 8), keyed(n))[:, 0, 0] < 0).sum()
    assert stats.binomtest(int(flipped), n, p).pvalue > BOUND


def test_rotations_shifts_and_zooms_are_even_in_their_ranges():
    sizes, draws = torch.full((20_000, 2), 8), keyed(20_000)
    turned = Rotate(20.0)(sizes, draws)
    angle = torch.rad2deg(torch.atan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert stats.kstest((angle + 20) / 40, "uniform").pvalue > BOUND
    shift = Translate(0.2)(sizes, draws)[:, :2, 2]
    for axis in range(2):
        assert stats.kstest((shift[:, axis] + 0.4) / 0.8, "uniform").pvalue > BOUND
    zoom = Scale((0.5, 2.0))(sizes, draws)[:, 0, 0].log() / math.log(2)
    assert stats.kstest((zoom + 1) / 2, "uniform").pvalue > BOUND


# Colour


def jitter(u, **ranges):
    """One factor of Jitter at its draw `u`, the others left alone."""
    return Jitter(**{"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "p": 1.0, **ranges}), told(
        4, jitter=u
    )


@pytest.mark.parametrize("u", [0.1, 0.5, 0.9])
def test_each_part_of_jitter_equals_kornia(u):
    x, factor = colours(4), 1 + 0.6 * (2 * u - 1)
    enhance = kornia.enhance
    for name, theirs in {
        "brightness": enhance.adjust_brightness_accumulative(x, factor),
        "contrast": enhance.adjust_contrast_with_mean_subtraction(x, factor),
        "saturation": enhance.adjust_saturation_with_gray_subtraction(x, factor),
    }.items():
        operation, draws = jitter(u, **{name: 0.6})
        torch.testing.assert_close(operation(x, draws), theirs, atol=1e-5, rtol=0, msg=name)
    operation, draws = jitter(u, hue=0.5)
    theirs = enhance.adjust_hue(x, 0.5 * (2 * u - 1) * 2 * math.pi)
    torch.testing.assert_close(operation(x, draws), theirs, atol=1e-5, rtol=0)


def test_jitter_is_brightness_contrast_saturation_then_hue_where_nothing_is_clipped():
    x = 0.35 + 0.3 * colours(4)
    ours = Jitter(0.2, 0.3, 0.4, 0.1, 1.0)(x, told(4, jitter=[0.9, 0.2, 0.8, 0.3]))
    enhance = kornia.enhance
    theirs = enhance.adjust_saturation_with_gray_subtraction(x, 1 + 0.4 * 0.6)
    theirs = enhance.adjust_contrast_with_mean_subtraction(theirs, 1 - 0.3 * 0.6)
    theirs = enhance.adjust_brightness_accumulative(theirs, 1 + 0.2 * 0.8)
    theirs = enhance.adjust_hue(theirs, -0.1 * 0.4 * 2 * math.pi)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 1 / 3, 0.5])
def test_the_turn_of_the_hue_equals_colorsys(turn):
    steps = torch.linspace(0, 1, 6)
    x = torch.cartesian_prod(steps, steps, steps).T.reshape(1, 3, 12, 18)  # ties, greys and corners included
    ours = Jitter(0.0, 0.0, 0.0, 0.5, 1.0)(x, told(1, jitter=turn + 0.5))[0]
    for i in range(12):
        for j in range(18):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
            expected = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
            np.testing.assert_allclose(ours[:, i, j], expected, atol=1e-5)


def test_a_jitter_above_1_begins_at_0_and_is_even():
    x = torch.full((3, 1, 2, 2), 0.2)
    drawn = Jitter(1.5, 0.0, 0.0, 0.0, 1.0)(x, told(3, jitter=torch.tensor([[0.0], [0.5], [1.0]])))
    torch.testing.assert_close(drawn.amax((1, 2, 3)), torch.tensor([0.0, 0.25, 0.5]))
    left = Jitter(1.5, 1.5, 1.5, 0.0, 0.0)
    torch.testing.assert_close(left(x, told(3, jitter=0.9)), x)


def test_jitter_on_one_channel_is_brightness_and_contrast():
    x, factor = colours(4, 1), 1.3
    for name, theirs in {
        "brightness": x * factor,
        "contrast": (x - x.mean((2, 3), keepdim=True)) * factor + x.mean((2, 3), keepdim=True),
        "saturation": x,
        "hue": x,
    }.items():
        operation, draws = jitter(1.0, **{name: 0.3})
        torch.testing.assert_close(operation(x, draws), theirs.clamp(0, 1), atol=1e-6, rtol=0, msg=name)


def test_operations_of_a_probability_happen_as_often_and_leave_the_rest_alone():
    n = 5000
    x = 0.25 + 0.5 * colours(1, 3, 3).expand(n, 3, 3, 3)
    for operation in (Grey(0.3), Blur(0.3), Solarise(0.3), Jitter(p=0.3), Erase(0.3, (0.5, 0.5), (1.0, 1.0))):
        changed = ((operation(x, keyed(n)) - x).abs().amax((1, 2, 3)) > 1e-5).sum()
        assert stats.binomtest(int(changed), n, 0.3).pvalue > BOUND, operation


def test_grey_equals_kornia():
    x = colours(4)
    theirs = kornia.color.rgb_to_grayscale(x).expand(-1, 3, -1, -1)
    torch.testing.assert_close(Grey(1.0)(x, keyed(4)), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_solarise_equals_kornia(threshold):
    x = colours(4)
    theirs = kornia.enhance.solarize(x, threshold)
    torch.testing.assert_close(Solarise(1.0, threshold)(x, keyed(4)), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("height", "width", "taps"), [(20, 20, (3, 3)), (60, 44, (7, 5)), (8, 50, (3, 5)), (2, 2, (3, 3))]
)
@pytest.mark.parametrize("c", [1, 3])
def test_blur_equals_kornia(height, width, taps, c):
    x = colours(3, c, height, width)
    for u in (0.01, 0.4, 0.99):
        sigma = 0.1 + 1.9 * u
        theirs = kornia.filters.gaussian_blur2d(x, taps, (sigma, sigma), border_type="reflect")
        torch.testing.assert_close(Blur(1.0)(x, told(3, sigma=u)), theirs, atol=1e-5, rtol=0)


def test_blur_of_one_row_or_one_pixel():
    for height, width in ((1, 1), (1, 9)):
        x = torch.full((2, 3, height, width), 0.3)
        torch.testing.assert_close(Blur(1.0)(x, keyed(2)), x)


def test_each_image_is_blurred_by_its_own_sigma():
    x = colours(4)
    sigma = torch.tensor([0.1, 0.7, 0.3, 0.9])
    together = Blur(1.0)(x, told(4, sigma=sigma))
    for i in range(4):
        alone = Blur(1.0)(x[i : i + 1], told(1, sigma=sigma[i]))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)


def test_erase_puts_grey_boxes_of_even_areas_and_log_ratios():
    n, side = 1500, 64
    out = Erase(1.0, (0.1, 0.3), (0.5, 2.0))(torch.zeros(n, 3, side, side), keyed(n))
    assert set(out.unique().tolist()) == {0.0, 0.5}
    hit = out[:, 0] > 0
    assert torch.equal(out, out[:, :1].expand_as(out))
    height, width = hit.any(2).sum(1).double(), hit.any(1).sum(1).double()
    assert torch.equal(height * width, hit.sum((1, 2)).double()), "a box that is no rectangle"
    # whole pixels: the figures are only near to what was drawn
    assert stats.kstest((height * width / side**2 - 0.1) / 0.2, "uniform").statistic < 0.05
    assert stats.kstest((width / height).log() / math.log(4) + 0.5, "uniform").statistic < 0.05
    left = hit.any(1).to(torch.uint8).argmax(1)
    assert stats.kstest(left / (side - width), "uniform").statistic < 0.06


def test_hsv_conversions_equal_colorsys_and_invert_each_other():
    steps = torch.linspace(0, 1, 6)
    x = torch.cartesian_prod(steps, steps, steps).T.reshape(1, 3, 12, 18)
    hsv = rgb_to_hsv(x)
    for i in range(12):
        for j in range(18):
            expected = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
            assert min(abs(hsv[0, 0, i, j] - expected[0]), 1 - abs(hsv[0, 0, i, j] - expected[0])) < 1e-5
            np.testing.assert_allclose(hsv[0, 1:, i, j], expected[1:], atol=1e-5)
    torch.testing.assert_close(hsv_to_rgb(hsv), x, atol=1e-5, rtol=0)


def test_hsv_equals_a_loop_over_pixels():
    x = colours(2, 3, 5)
    u = torch.tensor([[0.9, 0.2, 0.7], [0.3, 0.8, 0.1]])  # power, multiply, add of the saturation and of the value
    ours = HSV()(x, told(2, hsv=u, hue=0.8))

    def changed(value, u):
        power = math.exp(math.log(0.25) + u[0] * (math.log(4) - math.log(0.25)))
        return min(1.0, max(0.0, value**power * (0.7 + u[1] * 0.7) + (-0.1 + u[2] * 0.2)))

    for n in range(2):
        for i in range(5):
            for j in range(5):
                h, s, v = colorsys.rgb_to_hsv(*x[n, :, i, j].tolist())
                s, v = changed(s, u[0].tolist()), changed(v, u[1].tolist())
                expected = colorsys.hsv_to_rgb((h + 0.1 * 0.6) % 1, s, v)
                np.testing.assert_allclose(ours[n, :, i, j], expected, atol=2e-5)
    grey = HSV()(colours(1, 1, 4), told(1, hsv=u))
    expected = [changed(value, u[1].tolist()) for value in colours(1, 1, 4).flatten().tolist()]
    np.testing.assert_allclose(grey.flatten(), expected, atol=1e-6)


def test_pca_contrast_equals_a_loop_over_components():
    x = 0.3 + 0.4 * colours(3, 3, 6)
    u = torch.tensor([0.1, 0.6, 0.95])
    ours = PCAContrast()(x, told(3, factor=u))
    factors = 0.5 * 4 ** u.double().numpy()  # in the order of the variances, the smallest first
    for n in range(3):
        pixels = x[n].reshape(3, -1).T.double().numpy()
        mean = pixels.mean(0)
        _, axes = np.linalg.eigh(np.cov(pixels.T))
        expected = np.zeros_like(pixels) + mean
        for k in range(3):
            expected += factors[k] * np.outer((pixels - mean) @ axes[:, k], axes[:, k])
        np.testing.assert_allclose(ours[n].reshape(3, -1).T, expected.clip(0, 1), atol=1e-4)


# Views and recipes


def test_the_versions_of_a_view_are_all_there_is():
    source, view = whole(noise(2, 3, 10)), View(8, (ResizedCrop(), Flip()), (Jitter(),), versions=3)
    seen = torch.stack([view(source, Draws(0, epoch, 0, torch.tensor([5, 9]))) for epoch in range(60)])
    assert [len(seen[:, i].flatten(1).unique(dim=0)) for i in range(2)] == [3, 3]


def test_a_view_of_no_images_is_empty():
    for recipe in RECIPES.values():
        for view in recipe(8):
            assert view(whole(noise(0, 3, 9)), keyed(0)).shape == (0, 3, view.size, view.size)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: View(0), "size=0"),
        (lambda: View(8, fill="mirror"), "fill='mirror'"),
        (lambda: View(8, versions=-1), "versions=-1"),
        (lambda: RECIPES["affine"](8, zoom=0.0), "zoom=0.0: expected a factor above 0"),
        (lambda: RECIPES["exemplar"](8, context=0.0), "context=0.0: expected a factor above 0"),
        (lambda: RECIPES["exemplar"](8, zoom_range=(0.0, 1.0)), "Scale.factor=.0.0, 1.0.*: expected factors above 0"),
        (lambda: RECIPES["exemplar"](8, contrast=(0.0, 2.0)), "PCAContrast.*: expected factors above 0"),
        (lambda: RECIPES["exemplar"](8, power=(0.0, 2.0)), "HSV.*: expected powers above 0"),
        (lambda: RECIPES["multi-crop"](8, min_scale=0.6), "min_scale=0.6: expected less than split=0.4"),
        (lambda: RECIPES["multi-crop"](8, split=0.0), "min_scale=0.05: expected less than split=0.0"),
    ],
)
def test_a_view_that_cannot_be_is_refused_when_it_is_made(wrong, message):
    from likewise.errors import UsageError

    with pytest.raises(UsageError, match=message):
        wrong()


def test_an_image_that_has_the_size_asked_for_is_itself():
    source = whole(noise(4, 3, 9))
    assert torch.equal(View(9)(source, keyed(4)), source.pixels / 255)


def test_recipes_are_the_papers():
    crop, byol = (ResizedCrop((0.08, 1.0)), Flip(0.5)), (Jitter(0.4, 0.4, 0.2, 0.1), Grey(0.2))
    assert RECIPES["strong"](32) == (View(32, crop, (Jitter(0.8, 0.8, 0.8, 0.2), Grey(0.2), Blur(0.5))),) * 2
    assert RECIPES["strong"](32, rotation=9.0)[0].geometry == (crop[0], Rotate(9.0), crop[1])
    second = (*byol, Blur(0.1), Solarise(0.2))
    assert RECIPES["asymmetric"](32) == (View(32, crop, (*byol, Blur(1.0))), View(32, crop, second))
    assert RECIPES["weak"](32, min_scale=0.3) == (View(32, (ResizedCrop((0.3, 1.0)), Flip(0.5))),)
    large = (ResizedCrop((0.4, 1.0)), Flip(0.5))
    first, other, *local = RECIPES["multi-crop"](224)
    assert (first, other) == (View(224, large, (*byol, Blur(1.0))), View(224, large, second))
    assert local == [View(96, (ResizedCrop((0.05, 0.4)), Flip(0.5)), (*byol, Blur(0.5)))] * 6
    assert [RECIPES["multi-crop"](size)[2].size for size in (8, 32, 96)] == [4, 12, 40]
    assert RECIPES["exemplar"](64, soften=2.5)[0].colour[0] == Blur(1.0, (0.01, 5.0), 0.35)


@dataclass(frozen=True)
class ByBits:
    """Black where an image's bits are negative."""

    def __call__(self, images, draws):
        return images * (draws.bits("x") > 0).reshape(-1, 1, 1, 1)


def test_bits_of_a_part_are_those_of_its_rows(monkeypatch):
    source = Source(torch.full((9, 1, 8, 8), 255, dtype=torch.uint8), torch.full((9, 2), 8))
    draws = Draws(0, 0, 0, torch.arange(9))
    monkeypatch.setattr("likewise.views.rows.TOGETHER", 2 * 64)
    seen = View(8, (), (ByBits(),))(source, draws).amax((1, 2, 3)) > 0
    assert torch.equal(seen, draws.child("colour0").bits("x") > 0)
