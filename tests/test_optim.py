"""Optimisers against torch's and against their formulas; the course of the learning rate."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from likewise.encoders import build
from likewise.methods import METHODS
from likewise.training.optim import LARS, OPTIMIZERS, Muon, learning_rate, make_optimizer, orthogonal, set_rates
from likewise.types import DataInfo, TrainConfig
from likewise.views import RECIPES

INFO = DataInfo(n_images=8, channels=3, size=32)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 3), torch.nn.BatchNorm2d(4)
    )
    x, y = torch.randn(8, 3, 8, 8), torch.randn(8, 4, 4, 4)
    optimizer = make_optimizer([{"params": list(net.parameters())}], TrainConfig(optimizer=name, lr=0.05))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_lars_by_hand() -> None:
    """One step: eta |w| / |g| times g, at most g itself."""
    p = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    p.grad = torch.tensor([[0.0, 2.0]])
    LARS([p], lr=1.0, momentum=0.9, weight_decay=0.0).step()
    assert torch.allclose(p, torch.tensor([[3.0, 4.0 - 0.02 * 5 / 2 * 2]]))


def test_muon_orthogonalises() -> None:
    x = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    y = orthogonal(x[None])[0]
    sigma = torch.linalg.svdvals(y)
    assert 0.5 < float(sigma.min()) <= float(sigma.max()) < 1.4
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(y.flatten(), (u @ v).flatten(), dim=0) > 0.95
    p = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    p.grad = torch.randn(8, 4, 3, 3)
    Muon([p], lr=0.0, momentum=0.9, betas=(0.9, 0.999), weight_decay=0.0).step()
    assert float(p.detach().norm()) == pytest.approx(8**0.5, rel=1e-5)


def test_muon_steps_on_a_transformers_matrices() -> None:
    """By hand: decayed, then moved by the gradient's polar factor; three times as tall, root three times as far."""
    torch.manual_seed(0)
    tall, before = torch.nn.Parameter(torch.randn(48, 16)), torch.empty(48, 16)
    before.copy_(tall.detach())
    tall.grad = torch.randn(48, 16)
    config = TrainConfig(optimizer="muon", lr=0.1, weight_decay=0.5)
    make_optimizer([{"params": [tall], "inner": True}], config).step()
    u, _, v = torch.linalg.svd(tall.grad, full_matrices=False)
    moved = (before * (1 - 0.1 * 0.5) - tall.detach()) / 0.1
    assert torch.nn.functional.cosine_similarity(moved.flatten(), (u @ v).flatten(), dim=0) > 0.95
    assert float(moved.norm() / (u @ v).norm()) == pytest.approx(3**0.5, rel=0.15)


def test_a_transformers_matrices_are_marked() -> None:
    vit = build("vit-nano", INFO)
    method = METHODS["mae"](vit, INFO, views=RECIPES["weak"](32))
    marked = {id(p) for group in method.param_groups() if group.get("inner") for p in group["params"]}
    inside = {name for name, p in method.named_parameters() if id(p) in marked}
    kinds = ("qkv", "proj", "up", "down")
    expected = {f"encoder.blocks.{i}.{kind}.weight" for i in range(6) for kind in kinds}
    assert {name for name in inside if name.startswith("encoder.")} == expected
    assert any(name.startswith("decoder.") for name in inside)
    groups = METHODS["simclr"](build("convnet", INFO), INFO, views=RECIPES["strong"](32)).param_groups()
    assert not any(group.get("inner") for group in groups)


def test_muon_is_adamw_for_what_is_not_inside() -> None:
    config = TrainConfig(optimizer="muon", lr=0.1, weight_decay=0.1)
    theirs = lambda p: AdamW([p], lr=0.01, weight_decay=0.1)  # noqa: E731
    for shape in ((5, 3), (8, 3, 3, 3)):  # a head's matrix, and the convolution that reads pixels
        assert side_by_side(shape, lambda p: make_optimizer([{"params": [p]}], config), theirs)
    assert not side_by_side((8, 4, 3, 3), lambda p: make_optimizer([{"params": [p]}], config), theirs)


def test_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(lr=1.0, warmup=0.2, final_lr=0.1)
    rates = [learning_rate(config, step, 50) for step in range(50)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_groups_have_their_own_rates() -> None:
    config = TrainConfig(lr=1.0, weight_decay=0.1, final_weight_decay=0.5, warmup=0.0)
    p = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3)]
    groups = [
        {"params": p[:1]},
        {"params": p[1:2], "weight_decay": 0.0, "rate": 0.1},
        {"params": p[2:], "steady": True},
    ]
    optimizer = make_optimizer(groups, config)
    set_rates(optimizer, config, 50, 100)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05, 1.0])
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.3, 0.0, 0.3])


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("sgd", lambda p: SGD([p], lr=0.1, momentum=0.7, weight_decay=0.3)),
        ("adamw", lambda p: AdamW([p], lr=0.1, betas=(0.6, 0.8), weight_decay=0.3)),
    ],
)
def test_the_settings_reach_the_optimizer(name: str, theirs: Callable[[Tensor], Optimizer]) -> None:
    config = TrainConfig(optimizer=name, lr=0.1, momentum=0.7, betas=(0.6, 0.8), weight_decay=0.3)
    assert side_by_side((4, 3), lambda p: make_optimizer([{"params": [p]}], config), theirs)


def test_muon_looks_ahead() -> None:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(6, 6))
    weight, buffer = p.detach().clone(), torch.zeros(6, 6)
    muon = make_optimizer([{"params": [p], "inner": True}], TrainConfig(optimizer="muon", lr=0.1, weight_decay=0.0))
    for _ in range(2):
        p.grad = torch.randn(6, 6)
        buffer = 0.9 * buffer + p.grad
        weight = weight - 0.1 * orthogonal((p.grad + 0.9 * buffer)[None])[0]
        muon.step()
    assert torch.allclose(p, weight, atol=1e-5)


@pytest.mark.parametrize(
    ("start", "gradient", "trusted"),
    [
        ([[3.0, 4.0]], [[0.0, 2.0]], True),
        ([[3.0, 4.0]], [[0.0, 0.01]], True),  # the step is not enlarged
        ([3.0, 4.0], [0.0, 2.0], False),  # a vector's is plain
    ],
)
def test_lars_over_two_steps(start: list[float], gradient: list[float], trusted: bool) -> None:
    """Decay joins the gradient, which is brought to 0.02 of the weight's norm; then momentum."""
    p = torch.nn.Parameter(torch.tensor(start))
    weight, buffer = p.detach().clone(), torch.zeros_like(p)
    optimizer = LARS([p], lr=0.5, momentum=0.9, weight_decay=1e-3)
    for _ in range(2):
        p.grad = torch.tensor(gradient)
        update = p.grad + 1e-3 * weight
        buffer = 0.9 * buffer + update * (min(1.0, float(0.02 * weight.norm() / update.norm())) if trusted else 1)
        weight = weight - 0.5 * buffer
        optimizer.step()
        assert torch.allclose(p, weight, atol=1e-6)


def side_by_side(shape: tuple[int, ...], ours: Callable[..., Optimizer], theirs: Callable[..., Optimizer]) -> bool:
    """Whether two optimisers bring the same weights, over the same three gradients, to the same place."""
    torch.manual_seed(0)
    a = torch.nn.Parameter(torch.randn(shape))
    b = torch.nn.Parameter(a.detach().clone())
    pairs = (a, ours(a)), (b, theirs(b))
    for _ in range(3):
        gradient = torch.randn(shape)
        for p, optimizer in pairs:
            p.grad = gradient.clone()
            optimizer.step()
    return torch.allclose(a, b, atol=1e-6)


def test_the_rate_falls_in_thirds() -> None:
    config = TrainConfig(lr=27.0, warmup=0.1, schedule="thirds")
    steps = (0, 5, 6, 29, 30, 39, 40, 49, 50, 59)
    assert [learning_rate(config, step, 60) for step in steps] == pytest.approx([4.5, 27, 27, 27, 9, 9, 3, 3, 1, 1])


def test_muon_moves_a_kernel_that_is_zero():
    """As some begin: it has no scale to hold yet."""
    p = torch.nn.Parameter(torch.zeros(4, 8, 3, 3))
    optimizer = make_optimizer([{"params": [p]}], TrainConfig(optimizer="muon", lr=0.1))
    p.grad = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert torch.allclose(p, -0.1 * orthogonal(1.9 * p.grad.flatten(1)[None]).reshape(p.shape), atol=1e-6)


def test_weight_decay_goes_from_the_first_to_the_last():
    """Half-way both directions agree."""
    config = TrainConfig(weight_decay=0.1, final_weight_decay=0.5)
    optimizer = make_optimizer([{"params": [torch.nn.Parameter(torch.ones(2, 2))]}], config)
    decays = []
    for step in (0, 25, 99):
        set_rates(optimizer, config, step, 100)
        decays.append(optimizer.param_groups[0]["weight_decay"])
    assert decays == pytest.approx([0.1, 0.5 - 0.2 * (1 + math.cos(math.pi / 4)), 0.5], abs=2e-4)


def test_muon_on_a_kernel_by_hand():
    """Brought to the root of its outputs, then moved by lr times the orthogonal step; no decay."""
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(6, 5, 3, 3, generator=generator))
    weight, buffer = p.detach().clone(), torch.zeros(6, 5, 3, 3)
    config = TrainConfig(optimizer="muon", lr=0.1, momentum=0.8, weight_decay=0.5)
    optimizer = make_optimizer([{"params": [p]}], config)
    for _ in range(2):
        p.grad = torch.randn(6, 5, 3, 3, generator=generator)
        buffer = 0.8 * buffer + p.grad
        update = orthogonal((p.grad + 0.8 * buffer).flatten(1)[None]).reshape(p.shape)
        weight = weight * 6**0.5 / weight.norm() - 0.1 * update
        optimizer.step()
        assert torch.allclose(p, weight, atol=1e-5)


def test_orthogonal_is_four_steps_of_the_quintic():
    """It acts on each singular value alone."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((4, 7), (7, 4)):
        x = torch.randn(shape, generator=generator)
        u, sigma, v = torch.linalg.svd(x, full_matrices=False)
        sigma = sigma / sigma.norm()
        for _ in range(4):
            sigma = 3.4445 * sigma - 4.7750 * sigma**3 + 2.0315 * sigma**5
        assert torch.allclose(orthogonal(x[None])[0], (u * sigma) @ v, atol=1e-4)


def test_muon_takes_each_parameter_as_if_it_were_alone():
    """Kernels, matrices and others, of equal and of other shapes, some without a gradient now and then."""
    shapes = [(6, 5, 3, 3), (6, 5, 3, 3), (4, 6, 1, 1), (6, 3, 3, 3), (7, 5), (5, 7), (7, 5), (5,)]
    generator = torch.Generator().manual_seed(0)
    for inner in (False, True):
        kinds = [shape for shape in shapes if not inner or (len(shape) == 2 or shape[1:2] > (3,))]
        starts = [torch.randn(shape, generator=generator) for shape in kinds]
        together, apart = ([torch.nn.Parameter(x.clone()) for x in starts] for _ in range(2))
        config = TrainConfig(optimizer="muon", lr=0.1, weight_decay=0.5)
        one = make_optimizer([{"params": together, "inner": inner}], config)
        each = [make_optimizer([{"params": [p], "inner": inner}], config) for p in apart]
        for step in range(3):
            for i, (p, q) in enumerate(zip(together, apart, strict=True)):
                p.grad = None if (step + i) % 4 == 1 else torch.randn(p.shape, generator=generator)
                q.grad = None if p.grad is None else p.grad.clone()
            for optimizer in (one, *each):
                optimizer.step()
        for p, q, start in zip(together, apart, starts, strict=True):
            assert torch.allclose(p, q, atol=1e-5)
            assert not torch.allclose(p, start, atol=1e-2)
