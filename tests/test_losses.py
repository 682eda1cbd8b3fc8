"""Each loss against a slow reference written from its formula, and each reference against a mutant."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from likewise.methods.byol import cosine_distance
from likewise.methods.parts import Teacher, cosine_ramp, encode, mlp, sharpness, spread
from likewise.methods.simclr import nt_xent
from likewise.methods.vicreg import covariance, variance


def slow_nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """SimCLR, equation 1, one pair at a time."""
    z = [row / row.norm() for row in torch.cat([a, b])]
    n, total = len(a), torch.zeros((), dtype=a.dtype)
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = [torch.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i]
        total = total - torch.log(torch.exp(z[i] @ z[j] / temperature) / torch.stack(others).sum())
    return total / (2 * n)


def slow_variance(z: Tensor) -> Tensor:
    columns = []
    for j in range(z.shape[1]):
        column = z[:, j]
        deviation = torch.sqrt(((column - column.mean()) ** 2).sum() / (len(z) - 1) + 1e-4)
        columns.append(torch.clamp(1 - deviation, min=0))
    return torch.stack(columns).mean()


def slow_covariance(z: Tensor) -> Tensor:
    n, d = z.shape
    total = torch.zeros((), dtype=z.dtype)
    for i in range(d):
        for j in range(d):
            if i != j:
                total = total + (((z[:, i] - z[:, i].mean()) * (z[:, j] - z[:, j].mean())).sum() / (n - 1)) ** 2
    return total / d


def agree(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor) -> bool:
    """Values and gradients to 1e-5."""
    results = []
    for function in (fast, slow):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = function(*leaves)
        value.backward()
        results.append([value.detach(), *(x.grad for x in leaves)])
    return all(torch.allclose(p, q, rtol=1e-5, atol=1e-5) for p, q in zip(*results, strict=True))


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=g), torch.randn(6, 5, generator=g)


def test_nt_xent(pair: tuple[Tensor, Tensor]) -> None:
    assert agree(lambda a, b: nt_xent(a, b, 0.3).mean(), lambda a, b: slow_nt_xent(a, b, 0.3), *pair)
    assert not agree(lambda a, b: nt_xent(a, b, 0.2).mean(), lambda a, b: slow_nt_xent(a, b, 0.3), *pair)
    assert not agree(lambda a, b: -nt_xent(a, b, 0.3).mean(), lambda a, b: slow_nt_xent(a, b, 0.3), *pair)


def test_nt_xent_by_hand() -> None:
    """Two images, perfect and orthogonal: the right one at similarity 1, two others at 0."""
    z = torch.eye(2)
    expected = -math.log(math.e**2 / (math.e**2 + 2))
    assert nt_xent(z, z, 0.5).tolist() == pytest.approx([expected, expected])


def test_variance_and_covariance(pair: tuple[Tensor, Tensor]) -> None:
    z = pair[0] * 0.5
    assert agree(variance, slow_variance, z)
    assert agree(covariance, slow_covariance, z)
    assert not agree(lambda z: variance(z * 1.1), slow_variance, z)
    assert not agree(lambda z: covariance(z) * (len(z) - 1) / len(z), slow_covariance, z)


def test_covariance_by_hand() -> None:
    """Three samples on a line: both variances 1, their covariance 1, so 2 * 1 / 2."""
    z = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    assert float(covariance(z)) == pytest.approx(1.0)
    assert float(variance(z)) == 0.0


def test_cosine_distance_is_the_squared_distance_of_directions(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    expected = (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).square().sum(1)
    assert torch.allclose(cosine_distance(a, b), expected, atol=1e-6)


def test_spread_is_one_for_even_and_zero_for_collapsed() -> None:
    g = torch.Generator().manual_seed(0)
    assert float(spread(torch.randn(4096, 64, generator=g))) == pytest.approx(1, abs=0.02)
    assert float(spread(torch.ones(16, 64))) == 0


def test_teacher_follows_and_takes_no_gradient() -> None:
    encoder, head = torch.nn.Sequential(torch.nn.Flatten(), mlp(4, 8, 4)), mlp(4, 3)
    teacher = Teacher(encoder, head)
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in (*encoder.parameters(), *head.parameters()):
            p.add_(1)
    teacher.follow(encoder, head, 0.75)
    for old, new in zip(before, teacher.parameters(), strict=True):
        assert torch.allclose(new, old + 0.25, atol=1e-6)
    out = teacher(torch.randn(5, 1, 2, 2, requires_grad=True))
    assert not out.requires_grad


def test_a_teachers_temperature_rises_over_the_first_30_percent() -> None:
    assert [sharpness((0.04, 0.07), t) for t in (0.0, 0.15, 0.3, 1.0)] == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_cosine_ramp() -> None:
    values = [cosine_ramp(0.9, 1.0, t) for t in np.linspace(0, 1, 5)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.9)
    assert values[2] == pytest.approx(0.95)
    assert values[4] == pytest.approx(1.0)


def test_views_of_one_size_are_encoded_together() -> None:
    seen: list[tuple[int, ...]] = []

    def encoder(images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape))
        return images.mean((2, 3))

    views = [torch.full((2, 3, side, side), float(i)) for i, side in enumerate((8, 8, 4, 4, 4))]
    made = encode(encoder, views)
    assert seen == [(4, 3, 8, 8), (6, 3, 4, 4)]
    assert [float(z.unique()) for z in made] == [0, 1, 2, 3, 4]
