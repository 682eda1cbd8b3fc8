"""What every encoder that is listed must do."""

import inspect

import pytest
import torch

from likewise.encoders import ENCODERS, External, build
from likewise.types import DataInfo, Encoder

# The large ones are built shallow or narrow: what is tested does not depend on it.
SMALLER = {
    "resnet18": {"width": 8},
    "resnet34": {"width": 8},
    "resnet50": {"width": 8},
    "vit-base": {"depth": 2},
    "vit-small": {"depth": 2},
    "vit-tiny": {"depth": 2},
}
LEARNED = [name for name in ENCODERS if name != "pixels"]

every_channel = pytest.mark.parametrize("channels", [1, 3])
every_size = pytest.mark.parametrize("size", [16, 32])


def made(name, channels=3, size=16):
    torch.manual_seed(0)
    return build(name, DataInfo(n_images=8, channels=channels, size=size), **SMALLER.get(name, {}))


def images(n=5, channels=3, size=16, seed=0):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_signature_is_the_contract(name):
    first, *others = inspect.signature(ENCODERS[name]).parameters.values()
    assert first.name == "data"
    for parameter in others:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty


@pytest.mark.parametrize("name", ENCODERS)
@every_channel
@every_size
def test_features_have_the_promised_width(name, channels, size):
    encoder = made(name, channels, size)
    assert isinstance(encoder, Encoder)
    x = images(5, channels, size)
    before = x.clone()
    features = encoder(x)
    assert features.shape == (5, encoder.dim)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ENCODERS)
def test_pixels_are_normalised_by_the_encoder_itself(name):
    encoder = made(name).eval()
    x = images()
    before = encoder(x)
    encoder.normalise.set([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    as_if = (x - torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1)) / 0.5 * 0.25 + 0.5
    after = encoder(x)
    encoder.normalise.set([0.5] * 3, [0.25] * 3)
    torch.testing.assert_close(after, encoder(as_if), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("name", LEARNED)
@every_channel
def test_the_gradient_reaches_every_parameter(name, channels):
    encoder = made(name, channels)
    features = encoder(images(5, channels))
    (features * torch.randn(features.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    without = [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("name", ENCODERS)
def test_no_tensor_is_stored_twice(name):
    encoder = made(name)
    places = [t.data_ptr() for t in encoder.state_dict().values() if t.numel()]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("name", ENCODERS)
def test_evaluation_is_deterministic_changes_nothing_and_knows_no_batch(name):
    encoder, x = made(name), images(6)
    encoder(x)  # one batch seen, so that batch statistics are not what they were
    encoder.eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        features = encoder(x)
        assert torch.equal(features, encoder(x))
        torch.testing.assert_close(torch.cat([encoder(part) for part in x.split(4)]), features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(encoder(x.flip(0)), features.flip(0), rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("name", ENCODERS)
def test_the_state_is_all_there_is(name):
    first = made(name)
    first.normalise.set([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    first(images())
    torch.manual_seed(99)
    second = build(name, DataInfo(8, 3, 16), **SMALLER.get(name, {}))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(images()), second.eval()(images()))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_seed_decides_the_weights(name):
    first, second = made(name), made(name)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])


@pytest.mark.parametrize("name", LEARNED)
@every_size
def test_dense_maps_come_finest_first(name, size):
    encoder = made(name, size=size).eval()
    maps = encoder.dense(images(size=size))
    sides = [m.shape[2] for m in maps]
    assert len(maps) > 1
    assert all(m.dim() == 4 and m.shape[0] == 5 and m.shape[2] == m.shape[3] for m in maps)
    assert sides == sorted(sides, reverse=True)
    assert maps[-1].shape[1] == encoder.dim
    assert all(torch.isfinite(m).all() for m in maps)


@pytest.mark.parametrize("name", [name for name in LEARNED if not name.startswith("vit")])
def test_features_of_convolutional_encoders_are_the_mean_of_the_last_maps(name):
    encoder = made(name).eval()
    torch.testing.assert_close(encoder(images()), encoder.dense(images())[-1].mean((2, 3)))


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("size", [8, 24, 48])
def test_images_of_another_size_than_it_was_built_for(name, size):
    encoder = made(name, size=16)
    features = encoder(images(size=size))
    assert features.shape == (5, encoder.dim)
    assert torch.isfinite(features).all()
    assert encoder.dense(images(size=size))[-1].shape[:2] == (5, encoder.dim)


@pytest.mark.parametrize("name", LEARNED)
def test_an_enlarged_image_is_seen_much_as_before(name):
    encoder = made(name, size=32).eval()
    side = getattr(encoder, "side", 32)  # of the patches that it is for
    x = torch.nn.functional.interpolate(images(8, size=4), side, mode="bilinear")
    if name.startswith("vit"):  # twice the pixels in a patch of the same side: only positions stay as they were
        from likewise.encoders.vit import positions

        coarse = positions(8, 8, encoder.dim, scale=8).reshape(8, 8, -1)
        fine = positions(16, 16, encoder.dim, scale=8).reshape(8, 2, 8, 2, -1).mean((1, 3))
        assert torch.nn.functional.cosine_similarity(coarse, fine, dim=2).min() > 0.95
    else:
        larger = torch.nn.functional.interpolate(x, 2 * side, mode="bilinear")
        same = torch.nn.functional.cosine_similarity(encoder(x), encoder(larger))
        assert same.min() > 0.8


@pytest.mark.parametrize("name", ENCODERS)
def test_features_stay_finite_in_bfloat16(name):
    encoder = made(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(images())
    assert torch.isfinite(features).all()
    if features.requires_grad:
        features.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())
    encoder.eval()
    exact = encoder(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = encoder(images()).float()
    assert (rounded - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name", ["convnet", "resnet18"])
def test_channels_last_gives_the_same_features(name):
    encoder = made(name).eval()
    features = encoder(images())
    encoder = encoder.to(memory_format=torch.channels_last)
    again = encoder(images().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(again, features, rtol=1e-4, atol=1e-4)


def test_a_wrapped_module_keeps_the_contract():
    torch.manual_seed(0)
    encoder = External(torch.nn.Conv2d(3, 4, 8, 8), DataInfo(8, 3, 16))
    assert isinstance(encoder, Encoder)
    assert encoder(images()).shape == (5, encoder.dim) == (5, 16)
    other = External(torch.nn.Conv2d(3, 4, 8, 8), DataInfo(8, 3, 16))
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(images()), other(images()))
