"""Encoders: tensor names and sizes of the published networks, what tokens mean, and the errors of wrong arguments."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

from likewise.encoders import ENCODERS, ConvNet, External, Normalise, Pixels, ViT, build
from likewise.encoders.resnet import _Block
from likewise.encoders.vit import Block, positions
from likewise.errors import UsageError
from likewise.types import DataInfo, Encoder

RGB = DataInfo(n_images=8, channels=3, size=32)


def images(n=4, c=3, size=32, seed=0):
    return torch.rand(n, c, size, size, generator=torch.Generator().manual_seed(seed))


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


# ResNet


def block(name, before, after, shortcut):
    """The tensors of torchvision's BasicBlock."""
    shapes = {f"{name}.conv1.weight": (after, before, 3, 3), f"{name}.conv2.weight": (after, after, 3, 3)}
    norms = {f"{name}.bn1": after, f"{name}.bn2": after}
    if shortcut:
        shapes[f"{name}.downsample.0.weight"] = (after, before, 1, 1)
        norms[f"{name}.downsample.1"] = after
    return shapes | normalisation(norms)


def bottleneck(name, before, inner, shortcut):
    """The tensors of torchvision's Bottleneck."""
    shapes = {
        f"{name}.conv1.weight": (inner, before, 1, 1),
        f"{name}.conv2.weight": (inner, inner, 3, 3),
        f"{name}.conv3.weight": (4 * inner, inner, 1, 1),
    }
    norms = {f"{name}.bn1": inner, f"{name}.bn2": inner, f"{name}.bn3": 4 * inner}
    if shortcut:
        shapes[f"{name}.downsample.0.weight"] = (4 * inner, before, 1, 1)
        norms[f"{name}.downsample.1"] = 4 * inner
    return shapes | normalisation(norms)


def normalisation(widths):
    shapes = {}
    for name, width in widths.items():
        shapes |= {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


def torchvision(depths, bottlenecks):
    shapes = {"conv1.weight": (64, 3, 7, 7)} | normalisation({"bn1": 64})
    before = 64
    for stage, depth in enumerate(depths):
        inner = 64 * 2**stage
        after = 4 * inner if bottlenecks else inner
        for i in range(depth):
            part = bottleneck if bottlenecks else block
            shapes |= part(f"layer{stage + 1}.{i}", before, inner, i == 0 and (stage > 0 or bottlenecks))
            before = after
    return shapes


@pytest.mark.parametrize(
    ("name", "depths", "bottlenecks", "dim", "n_tensors", "n_weights"),
    [
        # the counts are torchvision's state_dict and parameters, less the two of the classifier
        ("resnet18", (2, 2, 2, 2), False, 512, 120, 11_176_512),
        ("resnet34", (3, 4, 6, 3), False, 512, 216, 21_284_672),
        ("resnet50", (3, 4, 6, 3), True, 2048, 318, 23_508_032),
    ],
)
def test_resnets_have_the_tensors_of_torchvision(name, depths, bottlenecks, dim, n_tensors, n_weights):
    encoder = build(name, RGB, stem="large")
    ours = {k: tuple(v.shape) for k, v in encoder.state_dict().items() if not k.startswith("normalise.")}
    assert ours == torchvision(depths, bottlenecks)
    assert len(ours) == n_tensors
    assert n_parameters(encoder) == n_weights
    assert encoder.dim == dim


def test_some_names_of_resnet50():
    shapes = {k: tuple(v.shape) for k, v in build("resnet50", RGB).state_dict().items()}
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer3.5.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["layer4.2.bn3.running_var"] == (2048,)


def test_the_stride_of_a_bottleneck_sits_on_its_3_x_3_convolution():
    first = build("resnet50", RGB).layer2[0]
    assert first.conv1.stride == (1, 1)
    assert first.conv2.stride == (2, 2)


@pytest.mark.parametrize(
    ("size", "stem", "first"), [(32, None, 32), (96, None, 24), (32, "large", 8), (96, "small", 96)]
)
def test_the_stem_suits_the_size_unless_it_is_given(size, stem, first):
    encoder = build("resnet18", DataInfo(8, 3, size), width=8, stem=stem)
    sides = [m.shape[2] for m in encoder.eval().dense(images(1, size=size))]
    assert sides == [first, first, first // 2, first // 4, first // 8]


def test_resnet18_equals_the_same_network_written_out():
    encoder = build("resnet18", RGB, width=8, stem="large").eval()
    state = encoder.state_dict()
    generator = torch.Generator().manual_seed(0)
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 + 0.05)

    def conv(x, name, stride, padding):
        return torch.nn.functional.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    def norm(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{part}"].reshape(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = (images() - state["normalise.mean"].reshape(3, 1, 1)) / state["normalise.std"].reshape(3, 1, 1)
    x = norm(conv(x, "conv1", 2, 3), "bn1").relu()
    x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    for stage in range(1, 5):
        for i in range(2):
            name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            shortcut = norm(conv(x, f"{name}.downsample.0", 2, 0), f"{name}.downsample.1") if stride == 2 else x
            x = norm(conv(x, f"{name}.conv1", stride, 1), f"{name}.bn1").relu()
            x = (norm(conv(x, f"{name}.conv2", 1, 1), f"{name}.bn2") + shortcut).relu()
    torch.testing.assert_close(encoder(images()), x.mean((2, 3)), rtol=1e-4, atol=1e-4)


# ViT


@pytest.mark.parametrize(
    ("name", "dim", "millions"),
    [("vit-nano", 128, 1.2), ("vit-tiny", 192, 5.5), ("vit-small", 384, 22), ("vit-base", 768, 86)],
)
def test_vits_have_the_widths_and_sizes_of_their_names(name, dim, millions):
    encoder = build(name, DataInfo(8, 3, 224))
    assert encoder.dim == dim
    assert n_parameters(encoder) / 1e6 == pytest.approx(millions, rel=0.15)


def test_patches_are_squares_row_by_row():
    encoder = build("vit-nano", DataInfo(8, 3, 12), patch=4)
    x = images(2, size=12)
    cut = encoder.patches(x)
    assert cut.shape == (2, 9, 48)
    for i in range(3):
        for j in range(3):
            square = x[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            assert torch.equal(cut[:, 3 * i + j], square.flatten(1))


def small(**changes):
    torch.manual_seed(0)
    return build("vit-nano", RGB, depth=2, **changes).eval()


def test_the_tokens_of_kept_patches_come_in_the_order_asked():
    encoder, x = small(), images()
    whole = encoder.tokens(x)
    order = torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(i)) for i in range(4)])
    permuted = encoder.tokens(x, keep=order)
    torch.testing.assert_close(permuted[:, 0], whole[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        permuted[:, 1:], whole[:, 1:].gather(1, order.unsqueeze(2).expand(-1, -1, 128)), rtol=1e-4, atol=1e-5
    )


def test_patches_that_are_not_kept_are_not_seen():
    encoder, x = small(), images()
    keep = torch.arange(16).expand(4, -1)  # the two upper rows of patches
    other = x.clone()
    other[:, :, 8:] = 0.5
    tokens = encoder.tokens(x, keep=keep)
    assert tokens.shape == (4, 17, 128)
    assert torch.equal(tokens, encoder.tokens(other, keep=keep))
    assert not torch.allclose(encoder.tokens(x), encoder.tokens(other))


def test_replace_changes_the_masked_patches_only_and_before_positions():
    encoder, x = small(), images()
    encoder.blocks = nn.ModuleList([nn.Identity()])  # the stream as it enters
    mask = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    token = torch.arange(128.0)
    plain, replaced = encoder.hidden(x)[-1], encoder.hidden(x, replace=(mask, token))[-1]
    assert torch.equal(replaced[:, 0], plain[:, 0])
    assert torch.equal(replaced[:, 1:][~mask], plain[:, 1:][~mask])
    at = positions(8, 8, 128).expand(4, -1, -1)
    torch.testing.assert_close(replaced[:, 1:][mask], at[mask] + token)


def test_a_replaced_patch_is_not_seen():
    encoder, x = small(), images()
    mask = torch.zeros(4, 64, dtype=torch.bool)
    mask[:, 0] = True
    other = x.clone()
    other[:, :, :4, :4] = 0.9
    token = torch.ones(128)
    assert torch.equal(encoder.tokens(x, replace=(mask, token)), encoder.tokens(other, replace=(mask, token)))


def test_the_last_layers_of_the_stream():
    encoder, x = build("vit-nano", RGB, depth=3).eval(), images()
    stream = encoder.hidden(x, layers=2)
    assert len(stream) == 2
    assert torch.equal(stream[-1], encoder.hidden(x)[-1])
    torch.testing.assert_close(encoder.blocks[-1](stream[0]), stream[1])


def test_attention_equals_its_formula():
    encoder = small()
    block = encoder.blocks[0]
    x = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(0))
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    seen = nn.functional.layer_norm(x, (128,), block.norm1.weight, block.norm1.bias)
    q, k, v = block.qkv(seen).split(128, 2)
    heads = []
    for h in range(4):
        part = slice(32 * h, 32 * h + 32)
        shares = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(32)).softmax(2)
        heads.append(shares @ v[..., part])
    y = x + block.proj(torch.cat(heads, 2))
    y = y + block.down(nn.functional.gelu(block.up(block.norm2(y))))
    torch.testing.assert_close(block(x), y, rtol=1e-4, atol=1e-5)


def test_pooling():
    tokens = torch.randn(2, 5, 128)
    assert torch.equal(small(pool="cls").pooled(tokens), tokens[:, 0])
    torch.testing.assert_close(small().pooled(tokens), tokens[:, 1:].mean(1))


def test_positions_equal_a_loop_and_interpolate():
    at = positions(2, 3, 8).reshape(2, 3, 8)
    for i in range(2):
        for j in range(3):
            waves = [10_000 ** (-k / 2) for k in range(2)]
            y, x = i + 0.5, j + 0.5
            expected = [f(p * w) for p in (y, x) for f in (math.sin, math.cos) for w in waves]
            np.testing.assert_allclose(at[i, j], expected, atol=1e-6)
    # in a grid three times as fine, every third place from the second on is where a coarse one was
    fine = positions(12, 12, 16, scale=4).reshape(12, 12, 16)
    torch.testing.assert_close(fine[1::3, 1::3], positions(4, 4, 16).reshape(4, 4, 16), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (20, 4), (96, 8), (224, 16)])
def test_the_patch_suits_the_size(size, patch):
    assert build("vit-nano", DataInfo(8, 3, size), depth=1).patch == patch


# ConvNet, pixels, normalisation


def test_the_convnet_is_what_its_keywords_say():
    encoder = build("convnet", RGB, width=8, n_stages=4, n_blocks=2, stem=1).eval()
    assert isinstance(encoder, ConvNet)
    assert encoder.dim == 64
    assert [tuple(m.shape[1:]) for m in encoder.dense(images(1))] == [(8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    convolutions = [sum(isinstance(part, nn.Conv2d) for part in stage.modules()) for stage in encoder.stages]
    assert convolutions[0] == 1
    assert convolutions[1] == convolutions[2] == convolutions[3] > 2


def test_pixels_are_the_normalised_pixels():
    encoder = build("pixels", RGB)
    assert isinstance(encoder, Pixels)
    assert n_parameters(encoder) == 0
    encoder.normalise.set([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    x = images()
    expected = (x.numpy() - np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1)) / np.array([0.5, 0.6, 0.7]).reshape(3, 1, 1)
    np.testing.assert_allclose(encoder(x), expected.reshape(4, -1), atol=1e-5)


def test_normalisation_brings_a_set_to_mean_0_and_deviation_1_and_only_centres_a_constant_channel():
    x = images(64) * torch.tensor([1.0, 0.1, 0.0]).reshape(3, 1, 1) + 0.2
    normalise = Normalise(3)
    normalise.set(x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).tolist())
    out = normalise(x)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert {"mean", "std"} == set(normalise.state_dict())


# Anybody's module


def patchwork():
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Dropout(0.5))


def test_external_wraps_any_module_and_finds_its_width():
    module = patchwork()
    module[1].eval()  # frozen by its owner
    encoder = External(module, RGB)
    assert encoder.dim == 8 * 8 * 8
    assert [part.training for part in module.modules()] == [True, True, False, True]
    assert module[1].num_batches_tracked == 0
    encoder.eval()
    torch.testing.assert_close(encoder(images()), module((images() - 0.5) / 0.25).flatten(1))


def test_build_imports_a_class_by_its_path():
    encoder = build("torch.nn:Conv2d", RGB, in_channels=3, out_channels=5, kernel_size=8, stride=8)
    assert isinstance(encoder, External)
    assert encoder.dim == 5 * 16
    assert encoder(images()).shape == (4, 80)


class Own(Encoder):
    """As encoders here are: it takes `data`, and normalises itself."""

    def __init__(self, data, *, width=4):
        super().__init__()
        self.normalise, self.dim = Normalise(data.channels), width
        self.net = nn.Conv2d(data.channels, width, data.size)

    def forward(self, images):
        return self.net(self.normalise(images)).flatten(1)


def bare():
    return nn.Sequential(Normalise(3), nn.Conv2d(3, 4, 4, 4))


def test_an_encoder_that_names_data_is_given_it():
    made = build(f"{__name__}:Own", RGB, width=6)
    assert (type(made), made.dim, made(images()).shape) == (Own, 6, (4, 6))
    with pytest.raises(UsageError, match="has a Normalise of its own, and would be given another"):
        build(f"{__name__}:bare", RGB)


def test_an_encoder_from_elsewhere_is_taken_as_it_is():
    module = Pixels(RGB)
    assert build(f"{__name__}:made", RGB) is made()
    assert not isinstance(made(), External)
    assert made().dim == module.dim


_MADE = Pixels(RGB)


def made():
    return _MADE


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet81", {}, "encoder 'resnet81' is unknown .did you mean 'resnet18'"),
        ("resnet18", {"stem": "tiny"}, "stem='tiny': expected 'small' or 'large'"),
        ("vit-nano", {"patch": 5}, "size=32: .* patch=5 .* multiple of 5"),
        ("vit-nano", {"pool": "max"}, "pool='max': expected 'mean' or 'cls'"),
        ("no_such_package:Class", {}, "encoder 'no_such_package:Class': .*expected 'package.module:Class'"),
        ("torch.nn:NoSuchClass", {}, "encoder 'torch.nn:NoSuchClass': .*expected 'package.module:Class'"),
        (":Class", {}, "encoder ':Class': .*expected 'package.module:Class'"),
        ("torch.nn:", {}, "encoder 'torch.nn:': .*expected 'package.module:Class'"),
        ("torch.nn:Conv2d", {"widht": 3}, "encoder 'torch.nn:Conv2d': .*widht"),
        ("builtins:dict", {}, "encoder 'builtins:dict': made a dict; expected an nn.Module"),
        ("torch.nn:Linear", {"in_features": 7, "out_features": 3}, "encoder Linear: fails on images of 3 x 32 x 32"),
        ("torch.nn:LSTM", {"input_size": 32, "hidden_size": 3}, "encoder LSTM: "),
    ],
)
def test_errors_are_one_clear_line(name, arguments, message):
    with pytest.raises(UsageError, match=message) as error:
        build(name, RGB, **arguments)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_vit_refuses_images_that_its_patches_do_not_tile():
    with pytest.raises(UsageError, match="30 x 32"):
        small()(torch.rand(1, 3, 30, 32))


def test_bytes_are_not_taken_for_pixels():
    forward = inspect.unwrap(Normalise.forward)  # as it is without the suite's checks of types
    with pytest.raises(UsageError, match="expected floats"):
        forward(build("convnet", RGB).normalise, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_every_name_builds_what_its_table_says():
    assert isinstance(build("vit-tiny", RGB), ViT)
    assert sorted(ENCODERS) == list(ENCODERS)


def test_a_block_of_a_vit_is_torchs_pre_norm_layer():
    torch.manual_seed(0)
    block = Block(16, 4)
    theirs = nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    names = {"self_attn.in_proj_weight": block.qkv.weight, "self_attn.in_proj_bias": block.qkv.bias}
    parts = {"self_attn.out_proj": block.proj, "linear1": block.up, "linear2": block.down}
    for name, part in {**parts, "norm1": block.norm1, "norm2": block.norm2}.items():
        names |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
    theirs.load_state_dict(names)
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(block(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_a_bottleneck_equals_the_same_block_written_out():
    torch.manual_seed(0)
    block = _Block(4, 6, 2, 4).eval()
    for part in (block.bn1, block.bn2, block.bn3):
        part.running_mean.normal_()
        part.bias.data.normal_()
    x = torch.randn(2, 6, 8, 8)
    y = block.bn1(block.conv1(x)).relu()
    y = block.bn2(block.conv2(y)).relu()
    torch.testing.assert_close(block(x), (block.bn3(block.conv3(y)) + block.downsample(x)).relu())


def test_a_grid_of_the_convnet_keeps_the_averages_of_its_cells():
    encoder = build("convnet", RGB, width=8, grid=2).eval()
    last = encoder.dense(images())[-1]
    assert last.shape[2:] == (4, 4)
    torch.testing.assert_close(
        encoder(images()), last.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5)).flatten(1)
    )


def test_external_wants_a_row_for_each_image():
    one_number = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1), nn.Flatten(0))
    with pytest.raises(
        UsageError, match=r"encoder Sequential: returns a tensor of shape \(1,\) for one image of 3 x 32 x"
    ):
        External(one_number, RGB)


def test_a_crop_is_placed_on_the_scale_of_the_images_it_was_built_for():
    encoder = build("vit-nano", RGB, depth=1).eval()
    encoder.blocks = nn.ModuleList([nn.Identity()])  # the stream as it enters
    x = torch.rand(2, 3, 16, 16)
    placed = encoder.hidden(x)[-1][:, 1:] - encoder.embed(encoder.patches(encoder.normalise(x)))
    torch.testing.assert_close(placed, positions(4, 4, 128, scale=8).expand(2, -1, -1), rtol=0, atol=1e-5)
    assert not torch.allclose(positions(4, 4, 128, scale=8), positions(4, 4, 128), atol=0.1)


def test_maps_of_a_vit_are_its_patch_tokens_in_their_places():
    encoder, x = build("vit-nano", RGB, depth=2).eval(), torch.rand(2, 3, 24, 32)
    for at, stream in zip(encoder.dense(x), encoder.hidden(x, layers=2), strict=True):
        assert at.shape == (2, 128, 6, 8)
        for i in range(6):
            for j in range(8):
                assert torch.equal(at[:, :, i, j], stream[:, 1 + 8 * i + j])


@pytest.mark.parametrize("name", ["convnet", "resnet18", "resnet50", "exemplar-small"])
def test_convolutions_start_with_the_deviation_of_he(name):
    encoder = build(name, RGB)
    for part in encoder.modules():
        if isinstance(part, nn.Conv2d):
            own = part.kernel_size[0] * part.kernel_size[1]
            fan = own * (part.in_channels if name.startswith("exemplar") else part.out_channels)
            assert float(part.weight.detach().std()) == pytest.approx((2 / fan) ** 0.5, rel=0.1)


def test_a_vit_starts_with_small_weights_and_a_patch_embedding_as_large_as_its_positions():
    encoder = build("vit-nano", RGB, depth=2)
    for block in encoder.blocks:
        for part in (block.qkv, block.proj, block.up, block.down):
            assert float(part.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
            assert not part.bias.any()
    assert float(encoder.embed.weight.detach().std()) == pytest.approx((2 / (48 + 128)) ** 0.5, rel=0.05)
    assert float(encoder.cls.detach().std()) == pytest.approx(0.02, rel=0.3)


def test_a_vit_goes_on_at_another_size_with_the_positions_it_has():
    small = build("vit-nano", DataInfo(8, 3, 32), patch=4, depth=1).eval()
    large = build("vit-nano", DataInfo(8, 3, 64), patch=4, depth=1).eval()
    x = torch.rand(2, 3, 64, 64)
    assert not torch.equal(small(x), large(x))
    large.load_state_dict(small.state_dict())
    assert torch.equal(small(x), large(x))


def test_a_grid_is_no_finer_than_the_last_maps():
    assert build("convnet", RGB, grid=4).dim == 256 * 16
    with pytest.raises(UsageError, match="grid=5: expected at most 4, the side of the last maps of 32 pixels"):
        build("convnet", RGB, grid=5)


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (48, 4), (52, 4), (56, 8), (60, 4), (96, 8), (136, 8), (224, 16)])
def test_the_usual_patch_divides_the_image(size, patch):
    assert build("vit-nano", DataInfo(8, 3, size), depth=1).patch == patch
