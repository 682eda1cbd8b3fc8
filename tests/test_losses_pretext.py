"""What pretext and generative methods are made of, against slow references, kornia, and examples computed by hand."""

import copy
import itertools
import math
from typing import Any

import kornia
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.draws import Draws, normal
from likewise.encoders import build
from likewise.encoders.convnet import convnet
from likewise.encoders.external import External
from likewise.encoders.vit import vit_nano
from likewise.errors import UsageError
from likewise.methods import METHODS
from likewise.methods.bigan import BiGAN, Discriminator, squared_gradient, told_apart
from likewise.methods.colourisation import (
    Colourisation,
    bins,
    nearest_bins,
    rebalanced,
    to_lab,
    to_rgb,
    told_colours,
)
from likewise.methods.denoising import Denoising
from likewise.methods.drawing import Decoder
from likewise.methods.inpainting import ContextEncoder, missing_error
from likewise.methods.jigsaw import permutations
from likewise.methods.relative_patch import without_colour
from likewise.methods.rotnet import told_turns, turned
from likewise.methods.tiles import evened, tile_size, tiles, together
from likewise.methods.vae import VAE, divergence
from likewise.types import Batch, DataInfo, Encoder
from test_losses_distillation import agree, draw, slow_softmax

KEYS = torch.arange(1, 7)
DRAWS = Draws(0, 0, 0, KEYS)


# Rotation


def slow_turns(logits: Tensor, first: int = 0) -> Tensor:
    """Rows of turn t start at t b; each is to name t."""
    b, total = len(logits) // 4, torch.zeros(())
    for row in range(4 * b):
        total = total - torch.log(slow_softmax(logits[row])[(row // b + first) % 4])
    return total / (4 * b)


def test_the_loss_of_turns() -> None:
    logits = draw(12, 4)
    assert agree(lambda x: told_turns(x).mean(), slow_turns, logits)
    assert not agree(lambda x: told_turns(x).mean(), lambda x: slow_turns(x, first=1), logits)


def test_the_loss_of_turns_by_hand() -> None:
    """Two images; the network is sure (log 3 against 0) of the first one's turns, of the second it says nothing."""
    logits = torch.zeros(8, 4)
    for turn in range(4):
        logits[2 * turn, turn] = math.log(3)
    assert told_turns(logits).tolist() == pytest.approx([math.log(2), math.log(4)])  # 3 / (3 + 1 + 1 + 1)


def test_turns_are_those_of_the_pixels() -> None:
    images = draw(2, 3, 5, 5)
    made = turned(images).unflatten(0, (4, 2))
    for turn, image in itertools.product(range(4), range(2)):
        assert np.array_equal(made[turn, image].numpy(), np.rot90(images[image].numpy(), turn, (1, 2)))


# Tiles


def test_each_tile_is_cut_from_its_own_cell() -> None:
    images = torch.arange(6 * 3 * 14 * 14).reshape(6, 3, 14, 14).float()
    cut, places = tiles(images, 3, DRAWS), set()
    for image, number in itertools.product(range(6), range(9)):
        top, left = number // 3 * 4, number % 3 * 4
        found = [
            (y, x)
            for y, x in itertools.product(range(2), range(2))
            if torch.equal(cut[image, number], images[image, :, top + y : top + y + 3, left + x : left + x + 3])
        ]
        assert len(found) == 1
        places.add(found[0])
    assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_tiles_without_room_make_the_image_again() -> None:
    images = draw(6, 3, 12, 12).sigmoid()
    assert torch.equal(together(tiles(images, 4, DRAWS)), images)


@pytest.mark.parametrize(
    ("name", "size", "patch", "expected"),
    [
        ("convnet", 32, None, 8),
        ("convnet", 28, None, 7),
        ("convnet", 6, None, 2),
        ("resnet18", 224, None, 56),
        ("vit-nano", 24, 4, 4),  # two patches would leave no gap
        ("vit-nano", 12, 4, 4),
        ("vit-nano", 32, 4, 8),
        ("vit-nano", 28, 7, 7),
        ("vit-nano", 224, 16, 48),
    ],
)
def test_a_tile_is_about_three_quarters_of_a_cell(name: str, size: int, patch: int | None, expected: int) -> None:
    data = DataInfo(4, 3, size)
    assert tile_size(build(name, data, **({"patch": patch} if patch else {})), data) == expected


def test_an_encoder_or_image_that_cannot_be_cut_into_tiles_is_an_error() -> None:
    with pytest.raises(UsageError, match="size=8: has no room for 3 x 3 tiles; expected at least 12"):
        tile_size(vit_nano(DataInfo(4, 3, 8), patch=4), DataInfo(4, 3, 8))
    data = DataInfo(4, 3, 32)
    whole = External(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32**2, 4)), data)
    with pytest.raises(UsageError, match="encoder: takes whole images, but no tiles of 8 x 8 pixels: mat1"):
        tile_size(whole, data)
    with pytest.raises(UsageError, match="encoder: gives tiles of 8 x 8 pixels 8 features; expected 128"):
        tile_size(External(nn.Conv2d(3, 2, 4, 4), data), data)


def test_evened_tiles_are_told_by_neither_brightness_nor_contrast() -> None:
    cut = draw(6, 9, 3, 5, 5).sigmoid()
    made = evened(cut)
    torch.testing.assert_close(made.mean((3, 4)), torch.full((6, 9, 3), 0.5))
    torch.testing.assert_close(made.std((3, 4)), torch.full((6, 9, 3), 0.25))
    torch.testing.assert_close(evened(0.2 + 0.5 * cut), made, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(evened(torch.full((1, 9, 1, 3, 3), 0.3))).all()
    nearly_flat = evened(0.3 + 0.001 * cut)  # stays so: its noise is not made the whole picture
    assert float(nearly_flat.std((3, 4)).max()) < 0.02


def test_permutations_are_the_farthest_from_those_before() -> None:
    """The greedy rule, by brute force on the whole list; and orders that differ in all nine places are there first."""
    chosen = permutations(12)
    assert (np.sort(chosen, 1) == np.arange(9)).all()
    apart = (chosen[:, None] != chosen[None]).sum(2)
    assert (apart[np.triu_indices(9, 1)] == 9).all()  # nine rows of a Latin square
    every = np.array(list(itertools.permutations(range(9))), dtype=np.int8)
    for k in (1, 8, 9, 11):
        distance = (every[:, None] != chosen[None, :k]).sum(2)
        best = max(zip(distance.min(1).tolist(), distance.sum(1).tolist(), strict=True))
        mine = (chosen[k] != chosen[:k]).sum(1)
        assert (mine.min(), mine.sum()) == best
    assert len(np.unique(permutations(100), axis=0)) == 100
    assert np.array_equal(permutations(100)[:12], chosen)


def test_a_tile_without_colour_keeps_one_channel() -> None:
    cut = draw(6, 9, 3, 4, 4).sigmoid()
    made, channels = without_colour(cut, DRAWS), [set[int]() for _ in range(6)]
    for image, number in itertools.product(range(6), range(9)):
        tile, before = made[image, number], cut[image, number]
        (kept,) = (c for c in range(3) if torch.equal(tile[c], before[c]))
        channels[image].add(kept)
        for c in {0, 1, 2} - {kept}:
            assert float((tile[c] - before[kept].mean()).abs().max()) < 0.05 * float(before[kept].std())
            assert float(tile[c].std() / before[kept].std()) == pytest.approx(0.01, rel=0.8)
    assert [len(of_image) > 1 for of_image in channels] == [True] * 6  # each tile has a lot of its own
    assert set().union(*channels) == {0, 1, 2}


# Colours


def test_lab_is_that_of_kornia_and_back() -> None:
    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    images[0, :, :3] *= 0.05  # the dark, where the curve is a line
    torch.testing.assert_close(to_lab(images), kornia.color.rgb_to_lab(images), rtol=1e-3, atol=2e-2)
    torch.testing.assert_close(to_rgb(to_lab(images)), images, rtol=1e-4, atol=1e-4)
    assert to_lab(torch.ones(1, 3, 1, 1)).flatten().tolist() == pytest.approx([100, 0, 0], abs=0.01)
    assert to_lab(torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1)).flatten().tolist() == pytest.approx(
        [53.24, 80.09, 67.20], abs=0.02
    )


def test_bins_are_those_that_colours_fall_into() -> None:
    middles = bins()
    assert len(middles) == 260
    levels = torch.linspace(0, 1, 40).double()
    every = kornia.color.rgb_to_lab(torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, -1, 1))
    fallen = (every[0, 1:, :, 0].T / 10).round().unique(dim=0) * 10
    assert torch.equal(fallen.float(), middles)
    random = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    colours = to_lab(random.T.reshape(1, 3, -1, 1))[0, 1:, :, 0].T
    assert float((colours.unsqueeze(1) - middles).abs().amax(2).amin(1).max()) < 7  # 5, but for a few at the rim
    assert (middles % 10 == 0).all()


def slow_colours(logits: Tensor, colours: Tensor, middles: Tensor, weight: Tensor, spread: float = 5.0) -> Tensor:
    total = torch.zeros(())
    for row, colour in zip(logits, colours, strict=True):
        distance = [float((colour - middle).norm()) for middle in middles]
        five = sorted(range(len(middles)), key=lambda q: distance[q])[:5]
        shares = [math.exp(-(distance[q] ** 2) / (2 * spread**2)) for q in five]
        log_p = torch.log(slow_softmax(row))
        told = sum(share * log_p[q] for share, q in zip(shares, five, strict=True)) / sum(shares)
        total = total - weight[five[0]] * told
    return total / len(logits)


def test_the_loss_of_colours() -> None:
    middles, colours, logits = 10 * draw(12, 2), 10 * draw(7, 2, seed=1), draw(7, 12, seed=2)
    weight = draw(12, seed=3).exp()

    def fast(x: Tensor) -> Tensor:
        return told_colours(x, *nearest_bins(colours, middles), weight).mean()

    assert agree(fast, lambda x: slow_colours(x, colours, middles, weight), logits)
    assert not agree(fast, lambda x: slow_colours(x, colours, middles, weight, spread=4.0), logits)
    assert not agree(fast, lambda x: slow_colours(x, colours, middles, weight.flip(0)), logits)


def test_the_loss_of_colours_by_hand() -> None:
    """A colour at the middle of a bin, among six on a line 10 apart: shares are normal in 0, 10, 20, 30 and 40."""
    middles = torch.tensor([[10.0 * i, 0] for i in range(6)])
    which, share = nearest_bins(torch.zeros(1, 2), middles)
    assert which.tolist() == [[0, 1, 2, 3, 4]]
    sizes = [math.exp(-2 * i**2) for i in range(5)]
    assert share[0].tolist() == pytest.approx([size / sum(sizes) for size in sizes], abs=1e-6)
    loss = told_colours(torch.zeros(1, 6), which, share, torch.tensor([3.0, 1, 1, 1, 1, 1]))
    assert loss.tolist() == pytest.approx([3 * math.log(6)], rel=1e-5)


def test_rare_colours_weigh_more_and_all_weigh_one_on_average() -> None:
    usual = torch.tensor([0.5, 0.3, 0.2, 0.0])
    assert rebalanced(usual, 1.0).tolist() == pytest.approx([1, 1, 1, 1])
    weight = rebalanced(usual, 0.5)  # inverse to (0.375, 0.275, 0.225, 0.125)
    assert (weight[3] / weight[0]).item() == pytest.approx(3)
    assert (weight[2] / weight[0]).item() == pytest.approx(0.375 / 0.225)
    assert (usual * weight).sum().item() == pytest.approx(1)


# Drawing


def slow_missing(drawn: Tensor, images: Tensor, missing: Tensor) -> Tensor:
    total = torch.zeros(())
    for image in range(len(drawn)):
        places = missing[image, 0].nonzero().tolist()
        errors = [(drawn[image, c, y, x] - images[image, c, y, x]) ** 2 for c in range(3) for y, x in places]
        total = total + sum(errors) / len(errors)
    return total / len(drawn)


def test_the_loss_of_missing_blocks() -> None:
    drawn, images = draw(4, 3, 5, 5), draw(4, 3, 5, 5, seed=1)
    missing = draw(4, 1, 5, 5, seed=2) > 0.3
    assert agree(lambda x: missing_error(x, images, missing).mean(), lambda x: slow_missing(x, images, missing), drawn)
    assert not agree(
        lambda x: missing_error(x, images, missing).mean(), lambda x: slow_missing(x, images, ~missing), drawn
    )


def test_the_loss_of_missing_blocks_by_hand() -> None:
    """Errors of 1, 2 and 3 where two pixels of four are missing, one of four, and none."""
    drawn = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    missing = torch.zeros(3, 1, 2, 2, dtype=torch.bool)
    missing[0, 0, 0], missing[1, 0, 1, 1] = True, True
    assert missing_error(drawn, torch.zeros(3, 1, 2, 2), missing).tolist() == [1, 4, 0]


def test_three_tenths_of_an_image_are_missing() -> None:
    data, keys = DataInfo(4, 3, 32), torch.arange(400)
    images, draws = torch.zeros(400, 3, 32, 32), Draws(0, 0, 0, keys)
    missing = ContextEncoder(convnet(data), data, views=()).missing(images, draws)
    share = missing.float().mean((1, 2, 3))
    assert float(share.min()) > 0.06
    assert float(share.max()) < 0.51
    assert float(share.mean()) == pytest.approx(0.305, abs=0.015)
    middle = ContextEncoder(convnet(data), data, views=(), n_missing=1, missing_area=(0.25, 0.25))
    assert float(middle.missing(images, draws).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_the_stated_share_of_pixels_is_destroyed() -> None:
    data, images = DataInfo(4, 3, 32), torch.ones(6, 3, 32, 32)
    made = Denoising(convnet(data), data, views=(), destroyed=0.3).corrupt(images, DRAWS)
    assert float((made == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(made.amin(1), made.amax(1))  # a pixel's channels go together
    noisy = Denoising(convnet(data), data, views=(), destroyed=0.0, noise=0.2).corrupt(images, DRAWS)
    assert float(noisy.std()) == pytest.approx(0.2, abs=0.01)
    assert torch.equal(Denoising(convnet(data), data, views=(), destroyed=0.0).corrupt(images, DRAWS), images)


def slow_divergence(mean: Tensor, log_variance: Tensor, sign: float = 1.0) -> Tensor:
    total = torch.zeros(())
    for i, j in itertools.product(range(mean.shape[0]), range(mean.shape[1])):
        m, s = mean[i, j], log_variance[i, j]
        total = total - 0.5 * (1 + s - sign * m**2 - torch.exp(s))
    return total / len(mean)


def test_the_divergence_of_codes() -> None:
    mean, log_variance = draw(5, 3), draw(5, 3, seed=1)
    assert agree(lambda m, s: divergence(m, s).mean(), slow_divergence, mean, log_variance)
    assert not agree(lambda m, s: divergence(m, s).mean(), lambda m, s: slow_divergence(m, s, -1), mean, log_variance)
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), theirs)


def test_the_divergence_of_codes_by_hand() -> None:
    """A standard normal has none; a mean of 2 costs 2 nats; a deviation of e costs (e^2 - 1 - 2) / 2."""
    mean, log_variance = torch.tensor([[0.0], [2.0], [0.0]]), torch.tensor([[0.0], [0.0], [2.0]])
    assert divergence(mean, log_variance).tolist() == pytest.approx([0, 2, (math.e**2 - 3) / 2])


def slow_told_apart(high: Tensor, low: Tensor) -> Tensor:
    total = torch.zeros(())
    for a, b in zip(high, low, strict=True):
        total = total - torch.log(1 / (1 + torch.exp(-a))) - torch.log(1 - 1 / (1 + torch.exp(-b)))
    return total / len(high)


def test_the_loss_of_a_discriminator() -> None:
    high, low = draw(5), draw(5, seed=1)
    assert agree(lambda a, b: told_apart(a, b).mean(), slow_told_apart, high, low)
    assert not agree(lambda a, b: told_apart(b, a).mean(), slow_told_apart, high, low)
    assert not agree(lambda a, b: told_apart(2 * a, 2 * b).mean(), slow_told_apart, high, low)


def test_the_loss_of_a_discriminator_by_hand() -> None:
    """It knows nothing; it is right by three to one, twice; it is wrong by as much."""
    high, low = torch.tensor([0.0, math.log(3), -math.log(3)]), torch.tensor([0.0, -math.log(3), math.log(3)])
    expected = [2 * math.log(2), 2 * math.log(4 / 3), 2 * math.log(4)]
    assert told_apart(high, low).tolist() == pytest.approx(expected)


def test_the_squared_gradient() -> None:
    """Of 3 x + y c^2 for three pairs: 9 from each of two pixels, and (2 y c)^2; and it teaches what made the logit."""
    x, c = draw(3, 1, 1, 2).requires_grad_(), torch.tensor([[0.0], [1.0], [2.0]]).requires_grad_()
    y = torch.tensor(0.5, requires_grad=True)
    found = squared_gradient(3 * x.sum((1, 2, 3)) + y * c.squeeze(1) ** 2, x, c)
    assert found.tolist() == [18, 19, 22]
    found.sum().backward()
    assert y.grad is not None
    assert y.grad.item() == 20  # the sum of 8 y c^2


def test_a_discriminator_judges_each_pair_alone() -> None:
    torch.manual_seed(0)
    judge = Discriminator(DataInfo(4, 3, 30), 6, 8, 16)
    images, codes = draw(4, 3, 30, 30).sigmoid(), draw(4, 6, seed=1)
    alone = torch.cat([judge(images[i : i + 1], codes[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(judge(images, codes), alone)


def test_a_game_is_played_by_two() -> None:
    """The discriminator learns from its own terms alone, the encoder and the decoder from the last alone."""
    data, images = DataInfo(6, 3, 8), draw(6, 3, 8, 8).sigmoid()
    method = BiGAN(convnet(data, width=8, n_stages=2), data, views=())
    batch = Batch([images], torch.arange(6).unsqueeze(1), 0.0, DRAWS)
    for term, value in method.step(batch).terms.items():
        method.zero_grad()
        value.backward(retain_graph=True)
        moved = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
        assert moved == ({"encoder", "code", "decoder"} if term == "generator" else {"discriminator"})


@pytest.mark.parametrize("size", [5, 8, 28, 32, 50, 96])
def test_a_decoder_draws_images_of_the_right_size(size: int) -> None:
    data = DataInfo(4, 2, size)
    decoder = Decoder(6, data, 4)
    drawn = decoder(draw(3, 6))
    assert drawn.shape == (3, 2, size, size)
    sides = torch.autograd.grad(drawn.square().sum(), decoder.enter.weight)[0]
    assert (sides.unflatten(0, (-1, decoder.cells**2)).abs().sum((0, 2)) > 0).all()  # no cell is cut off whole
    assert decoder.cells <= 7


def test_a_decoder_can_draw_any_one_image() -> None:
    data, image = DataInfo(1, 3, 12), F.interpolate(draw(2, 3, 6, 6).sigmoid(), 12)
    torch.manual_seed(0)
    decoder = Decoder(8, data, 8)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss = (decoder(torch.eye(8)[:2]) - image).square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 3e-3


CONV, VIT = (made(DataInfo(4, 3, 32)) for made in (convnet, vit_nano))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("jigsaw", {"n_permutations": 1}, "n_permutations=1: expected from 2"),
        ("denoising", {"destroyed": 1.0}, "destroyed=1.0: expected a share from 0 to below 1"),
        ("denoising", {"noise": -0.1}, "noise=-0.1: expected a deviation of 0 or more"),
        ("inpainting", {"n_missing": 0}, "n_missing=0: expected at least 1"),
        ("inpainting", {"missing_area": (0.2, 0.1)}, r"missing_area=\[0.2, 0.1\]: expected two rising shares"),
        ("vae", {"deviation": 0.0}, "deviation=0.0: expected a number from 1e-6 to 1e6"),
        ("vae", {"deviation": 1e200}, r"deviation=1e\+200: expected a number from 1e-6 to 1e6"),
        ("visreg", {"visreg_weight": 1.0}, "visreg_weight=1.0: expected a number between 0 and 1"),
        ("colourisation", {"equal_share": 0.0}, "equal_share=0.0: expected a share above 0"),
    ],
)
def test_what_no_training_can_go_by_is_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        METHODS[name](CONV, DataInfo(4, 3, 32), views=(), **options)


def test_colourisation_needs_colours_and_places() -> None:
    data = DataInfo(4, 3, 32)
    with pytest.raises(UsageError, match="needs images in colour; these have channels=1"):
        Colourisation(convnet(DataInfo(4, 1, 32)), DataInfo(4, 1, 32), views=())
    for encoder in (vit_nano(data, pool="cls"), External(nn.Flatten(), data)):
        with pytest.raises(UsageError, match="colourisation needs one with maps"):
            Colourisation(encoder, data, views=())
    with pytest.raises(UsageError, match="its last map of an image of 32 pixels is a single place"):
        Colourisation(vit_nano(data, patch=32), data, views=())


def test_a_code_may_be_far_from_normal() -> None:
    """Means and variances as the layer gives them, and finite where it gives far too much."""
    vae = VAE(CONV, DataInfo(4, 3, 32), views=(), code_dim=3)
    with torch.no_grad():
        vae.code.bias.copy_(torch.tensor([5.0, -7.0, 0.0, 6.0, -6.0, 300.0]))
        vae.code.weight.zero_()
    mean, log_variance = vae.codes(torch.rand(2, 3, 32, 32))
    assert mean.tolist() == [[5, -7, 0]] * 2
    assert log_variance.tolist() == [[6, -6, 20]] * 2


class Known(Encoder):
    """Features that say which image it is."""

    dim = 2

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).mean(1, keepdim=True) * torch.tensor([1.0, 2.0])


def test_pictures_show_what_was_given_and_what_is_drawn() -> None:
    """A drawing shows in the missing blocks alone; a denoised image everywhere; a colour is the annealed mean."""
    data, images = DataInfo(6, 3, 8), draw(6, 3, 8, 8).sigmoid()
    batch = Batch([images], torch.arange(6).unsqueeze(1), 0.0, DRAWS)
    inpainting = ContextEncoder(Known(), data, views=())
    seen, missing = inpainting.pictures(batch), inpainting.missing(images, DRAWS)
    drawn = inpainting.decoder(inpainting.encoder(seen["missing"])).detach().clamp(0, 1)
    assert torch.equal(seen["missing"], images * ~missing + 0.5 * missing)
    torch.testing.assert_close(seen["drawn"], images * ~missing + drawn * missing)
    denoising = Denoising(Known(), data, views=())
    seen = denoising.pictures(batch)
    torch.testing.assert_close(seen["drawn"], denoising.decoder(denoising.encoder(seen["corrupted"])).clamp(0, 1))
    vae = VAE(Known(), data, views=())
    seen = vae.pictures(batch)
    torch.testing.assert_close(seen["drawn"], vae.decoder(vae.codes(images)[0]).clamp(0, 1))
    assert not torch.equal(seen["drawn"], seen["drawn from noise"])
    bigan = BiGAN(Known(), data, views=()).eval()
    seen, codes = bigan.pictures(batch), bigan.code(bigan.encoder(images))
    torch.testing.assert_close(seen["drawn"], bigan.decoder(codes).sigmoid())
    torch.testing.assert_close(
        seen["drawn from noise"], bigan.decoder(normal(DRAWS.image("code", codes.shape[1]))).sigmoid()
    )
    colours = Colourisation(convnet(data, width=4, n_stages=2), data, views=()).eval()
    seen, lab = colours.pictures(batch), to_lab(images)
    share = torch.stack([(row / 0.38).exp() for row in colours.tell(lab[:, :1] / 100).flatten(0, 2)])
    told = (share / share.sum(1, keepdim=True)) @ bins()
    told = F.interpolate(told.reshape(6, 2, 2, 2).permute(0, 3, 1, 2), 8, mode="bilinear")
    expected = to_rgb(torch.cat([lab[:, :1], told], 1)).clamp(0, 1)
    torch.testing.assert_close(seen["coloured"], expected, rtol=1e-3, atol=1e-3)


def test_colours_are_converted_in_full_precision_under_autocast() -> None:
    images = torch.rand(2, 3, 4, 4)
    expected = to_lab(images)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(to_lab(images), expected)
        torch.testing.assert_close(to_rgb(expected), images, rtol=1e-4, atol=1e-4)


def test_colourisation_leaves_the_encoder_it_is_given_as_it_was() -> None:
    encoder = build("convnet", DataInfo(8, 3, 32), width=8)
    before = copy.deepcopy(encoder.state_dict())
    Colourisation(encoder, DataInfo(8, 3, 32), views=())
    assert encoder.training
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
