"""The losses of distillation, clustering and prediction against slow references written from their formulas.

Each is also computed by hand on three samples, and each reference tells a mutant: another sign or temperature, or a
target through which gradients flow.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from likewise.methods.dino import distilled
from likewise.methods.parts import Prototypes, Queue, cross_entropy, crossed, sinkhorn
from likewise.methods.swav import swapped


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def agree(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor) -> bool:
    """Values and gradients to 1e-5, on every input; no gradient counts as zero."""
    results = []
    for function in (fast, slow):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = function(*leaves)
        value.backward()
        results.append([value.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)])
    return all(torch.allclose(p, q, rtol=1e-5, atol=1e-5) for p, q in zip(*results, strict=True))


def slow_softmax(x: Tensor) -> Tensor:
    return x.exp() / x.exp().sum()


def slow_crossed(targets: Callable[[int, int], Tensor], logits: Tensor, g: int) -> Tensor:
    """The mean over images, large views i < g and views j != i of -sum_k targets(i, image)_k log softmax_k."""
    v, n, k = logits.shape
    total, count = torch.zeros(()), 0
    for image in range(n):
        for i in range(g):
            for j in range(v):
                if i != j:
                    p, t = slow_softmax(logits[j, image]), targets(i, image)
                    total = total - sum(t[c] * torch.log(p[c]) for c in range(k))
                    count += 1
    return total / count


# SwAV


def slow_sinkhorn(scores: Tensor, epsilon: float, n_iterations: int = 3) -> Tensor:
    """As the paper's appendix has it, on the transposed matrix: prototypes to 1 / K, samples to 1 / B."""
    q = torch.exp(scores / epsilon).T
    q = q / q.sum()
    k, b = q.shape
    for _ in range(n_iterations):
        for c in range(k):
            q[c] = q[c] / q[c].sum() / k
        for i in range(b):
            q[:, i] = q[:, i] / q[:, i].sum() / b
    return (q * b).T


def cosines_like(*shape: int) -> Tensor:
    return draw(*shape).tanh()


def test_sinkhorn() -> None:
    scores = cosines_like(7, 4)
    assert torch.allclose(sinkhorn(scores, 0.1), slow_sinkhorn(scores, 0.1), atol=1e-5)
    assert not torch.allclose(sinkhorn(scores, 0.05), slow_sinkhorn(scores, 0.1), atol=1e-2)
    assert not torch.allclose(sinkhorn(scores, 0.1, 1), slow_sinkhorn(scores, 0.1), atol=1e-2)


def test_sinkhorn_by_hand() -> None:
    """Columns first (4 and 3), then rows, once: (1/4, 1/3) is 3 : 4, and (1/2, 1/3) is 3 : 2."""
    scores = torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(2), 0.0]])
    expected = [[3 / 7, 4 / 7], [3 / 7, 4 / 7], [3 / 5, 2 / 5]]
    assert torch.allclose(sinkhorn(scores, 1.0, 1), torch.tensor(expected))


def test_sinkhorns_marginals() -> None:
    q = sinkhorn(cosines_like(60, 5), 0.2, 100)
    assert torch.allclose(q.sum(1), torch.ones(60), atol=1e-5)
    assert torch.allclose(q.sum(0), torch.full((5,), 12.0), atol=1e-4)
    one_for_all = torch.tensor([[1.0, -1.0]]).expand(50, 2)  # all rows ask for the first column
    assert torch.allclose(sinkhorn(one_for_all, 0.05), torch.full((50, 2), 0.5), atol=1e-5)


def test_swapped() -> None:
    scores, q = cosines_like(4, 3, 5), draw(2, 3, 5).softmax(2)

    def slow(scores: Tensor, q: Tensor, temperature: float = 0.3) -> Tensor:
        return slow_crossed(lambda i, image: q[i, image].detach(), scores / temperature, 2)

    def flows(scores: Tensor, q: Tensor) -> Tensor:
        return slow_crossed(lambda i, image: q[i, image], scores / 0.3, 2)

    assert agree(lambda s, q: swapped(s, q, 0.3).mean(), slow, scores, q)
    assert not agree(lambda s, q: swapped(s, q, 0.2).mean(), slow, scores, q)
    assert not agree(lambda s, q: -swapped(s, q, 0.3).mean(), slow, scores, q)
    assert not agree(lambda s, q: swapped(s, q, 0.3).mean(), flows, scores, q)


def test_swapped_by_hand() -> None:
    """Three images, two prototypes: view 0 is undecided, view 1 gives (3/4, 1/4), (1/2, 1/2), (3/4, 1/4)."""
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]).expand(2, 3, 2)
    scores = torch.tensor([[[0.0, 0.0]] * 3, [[math.log(3), 0.0], [0.0, 0.0], [math.log(3), 0.0]]])
    even = math.log(2)
    expected = [-math.log(0.75), even, -(math.log(0.75) + math.log(0.25)) / 2]
    assert swapped(scores, q, 1.0).tolist() == pytest.approx([(x + even) / 2 for x in expected])


def test_a_view_is_never_its_own_target() -> None:
    q, scores = draw(2, 3, 5).softmax(2), draw(3, 3, 5).requires_grad_()
    crossed(q[:1], scores).sum().backward()
    assert not scores.grad[0].any()
    assert scores.grad[1].any()
    assert scores.grad[2].any()
    pair = crossed(q, scores[:2])
    assert torch.allclose(pair, (cross_entropy(q[0], scores[1]) + cross_entropy(q[1], scores[0])) / 2)


def test_prototypes_give_cosines_and_learn_from_their_thaw_on() -> None:
    prototypes, x = Prototypes(4, 6, thaw=0.5), draw(5, 4)
    with torch.no_grad():
        prototypes.directions.mul_(3)
    rows, columns = x.unsqueeze(1), prototypes.directions.unsqueeze(0)
    expected = torch.nn.functional.cosine_similarity(rows, columns, dim=2)
    assert torch.allclose(prototypes(x), expected, atol=1e-6)
    prototypes(x.requires_grad_(), 0.49).square().sum().backward()
    assert prototypes.directions.grad is None
    prototypes(x, 0.5).square().sum().backward()
    assert prototypes.directions.grad.any()


def test_a_queue_keeps_the_newest() -> None:
    queue = Queue(4, 1)
    assert queue.rows().shape == (0, 1)
    queue.push(torch.tensor([[1.0], [2.0], [3.0]]))
    assert sorted(queue.rows().flatten().tolist()) == [1, 2, 3]
    queue.push(torch.tensor([[4.0], [5.0]]))
    assert sorted(queue.rows().flatten().tolist()) == [2, 3, 4, 5]
    queue.push(torch.arange(10, 16).float().unsqueeze(1))
    assert sorted(queue.rows().flatten().tolist()) == [12, 13, 14, 15]
    queue.push(torch.tensor([[20.0]]))
    assert sorted(queue.rows().flatten().tolist()) == [13, 14, 15, 20]
    empty = Queue(0, 3)
    empty.push(torch.ones(2, 3))
    assert empty.rows().shape == (0, 3)


# DINO


def test_distilled() -> None:
    student, teacher, centre = cosines_like(4, 3, 5), draw(2, 3, 5, seed=1).tanh(), draw(5, seed=2) * 0.1

    def target(teacher: Tensor, centre: Tensor, stop: bool = True) -> Callable[[int, int], Tensor]:
        def one(i: int, image: int) -> Tensor:
            p = slow_softmax((teacher[i, image] - centre) / 0.07)
            return p.detach() if stop else p

        return one

    def slow(student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
        return slow_crossed(target(teacher, centre), student / 0.2, 2)

    def flows(student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
        return slow_crossed(target(teacher, centre, stop=False), student / 0.2, 2)

    inputs = student, teacher, centre
    assert agree(lambda *x: distilled(*x, 0.2, 0.07).mean(), slow, *inputs)
    assert not agree(lambda *x: distilled(*x, 0.1, 0.07).mean(), slow, *inputs)
    assert not agree(lambda *x: distilled(*x, 0.2, 0.04).mean(), slow, *inputs)
    assert not agree(lambda s, t, c: distilled(s, t, -c, 0.2, 0.07).mean(), slow, *inputs)
    assert not agree(lambda *x: -distilled(*x, 0.2, 0.07).mean(), slow, *inputs)
    assert not agree(lambda *x: distilled(*x, 0.2, 0.07).mean(), flows, *inputs)


def test_distilled_by_hand() -> None:
    """Three images, two classes, one large view and a small one; centred and sharpened the teacher says (3/4, 1/4)."""
    teacher = torch.tensor([[[math.log(3) / 2 + 1, 1.0]] * 3])
    student = torch.tensor([[[9.0, -9.0]] * 3, [[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]]])
    a, b = -math.log(0.75), -math.log(0.25)
    expected = [math.log(2), 0.75 * a + 0.25 * b, 0.75 * b + 0.25 * a]
    assert distilled(student, teacher, torch.ones(2), 1.0, 0.5).tolist() == pytest.approx(expected)
