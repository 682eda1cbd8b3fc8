"""The losses of distillation, clustering and prediction against slow references written from their formulas.

Each is also computed by hand on three samples, and each reference tells a mutant: another sign or temperature, or a
target through which gradients flow.
"""

import functools
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from likewise.draws import Draws
from likewise.encoders.convnet import convnet
from likewise.encoders.vit import vit_nano
from likewise.methods.deepcluster import DeepCluster, clustered, spherical_k_means
from likewise.methods.dino import distilled
from likewise.methods.dinov2 import koleo
from likewise.methods.ibot import IBOT, told
from likewise.methods.ijepa import IJEPA
from likewise.methods.masking import averaged, block_mask, hidden_error, rectangles
from likewise.methods.msn import imbalance, matched
from likewise.methods.parts import Prototypes, Queue, cross_entropy, crossed, sinkhorn
from likewise.methods.swav import swapped
from likewise.types import DataInfo


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


@pytest.mark.parametrize("epsilon", [0.05, 0.01, 0.002])
def test_sinkhorn_of_a_small_epsilon(epsilon: float) -> None:
    """Where exponentials of single precision have nothing left."""
    scores = cosines_like(60, 30)
    q = scores.double() / epsilon
    for _ in range(3):
        q = (q - q.logsumexp(0)).log_softmax(1)
    torch.testing.assert_close(sinkhorn(scores, epsilon), q.exp().float(), rtol=1e-3, atol=1e-5)


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


# iBOT


def test_told() -> None:
    hidden = torch.tensor([[True, False, True, False], [False] * 4, [False, True, False, False]])
    student, targets = cosines_like(3, 5), draw(3, 5, seed=1).softmax(1)

    def slow(student: Tensor, targets: Tensor, stop: bool = True) -> Tensor:
        per_image, row = [], 0
        for image in range(3):
            errors = []
            for patch in range(4):
                if hidden[image, patch]:
                    t = targets[row].detach() if stop else targets[row]
                    errors.append(-(t * torch.log(slow_softmax(student[row] / 0.2))).sum())
                    row += 1
            per_image.append(sum(errors) / len(errors) if errors else torch.zeros(()))
        return sum(per_image) / 3

    assert agree(lambda s, t: told(s, t, hidden, 0.2).mean(), slow, student, targets)
    assert not agree(lambda s, t: told(s, t, hidden, 0.1).mean(), slow, student, targets)
    assert not agree(lambda s, t: -told(s, t, hidden, 0.2).mean(), slow, student, targets)
    assert not agree(lambda s, t: cross_entropy(t, s / 0.2).mean(), slow, student, targets)  # not over images first
    assert not agree(lambda s, t: told(s, t, hidden, 0.2).mean(), lambda s, t: slow(s, t, False), student, targets)


def test_told_by_hand() -> None:
    """Three images with two, no and one hidden patches: (ln 2 - ln 3/4) / 2, nothing, and - ln 1/4."""
    hidden = torch.tensor([[True, True], [False, False], [False, True]])
    student = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [math.log(3), 0.0]])
    targets = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    expected = [(math.log(2) - math.log(0.75)) / 2, 0.0, math.log(4)]
    assert told(student, targets, hidden, 1.0).tolist() == pytest.approx(expected)
    nothing = told(student[:0], targets[:0], torch.zeros(3, 2, dtype=torch.bool), 1.0)
    assert nothing.tolist() == [0, 0, 0]


# DINOv2


def slow_koleo(x: Tensor) -> Tensor:
    x = torch.stack([row / row.norm() for row in x])
    total = torch.zeros(())
    for i in range(len(x)):
        distances = [((x[i] - x[j]) ** 2).sum().sqrt() for j in range(len(x)) if j != i]
        total = total - torch.log(torch.stack(distances).min() + 1e-8)
    return total / len(x)


def test_koleo() -> None:
    x = draw(8, 4)
    assert agree(lambda x: koleo(x).mean(), slow_koleo, x)
    assert not agree(lambda x: -koleo(x).mean(), slow_koleo, x)
    assert not agree(lambda x: koleo(x.detach() + 0 * x).mean(), slow_koleo, x)


def test_koleo_by_hand() -> None:
    """Two points an angle t apart: - log(2 sin(t / 2)), each. Directions at 0, 60 and 180 degrees: 1, 1, root 3."""
    for angle in (0.1, 1.0, 3.0):
        pair = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]]) * torch.tensor([[2.0], [5.0]])
        assert koleo(pair).tolist() == pytest.approx([-math.log(2 * math.sin(angle / 2))] * 2, abs=1e-4)
    turns = [0.0, math.pi / 3, math.pi]
    three = torch.tensor([[math.cos(t), math.sin(t)] for t in turns])
    assert koleo(three).tolist() == pytest.approx([0.0, 0.0, -math.log(3) / 2], abs=1e-5)


# MSN


def test_matched() -> None:
    anchors, targets = cosines_like(4, 3, 5), draw(2, 3, 5, seed=1).tanh()

    def slow(anchors: Tensor, targets: Tensor, stop: bool = True) -> Tensor:
        def sharpened(i: int, image: int) -> Tensor:
            p = slow_softmax(targets[i, image] / 0.2) ** (1 / 0.25)  # equation 1: p^(1/T), normalised
            p = p / p.sum()
            return p.detach() if stop else p

        return slow_crossed(sharpened, anchors / 0.2, 2)

    assert agree(lambda a, t: matched(a, t, 0.2, 0.25).mean(), slow, anchors, targets)
    assert not agree(lambda a, t: matched(a, t, 0.2, 0.5).mean(), slow, anchors, targets)
    assert not agree(lambda a, t: matched(a, t, 0.1, 0.25).mean(), slow, anchors, targets)
    assert not agree(lambda a, t: -matched(a, t, 0.2, 0.25).mean(), slow, anchors, targets)
    assert not agree(lambda a, t: matched(a, t, 0.2, 0.25).mean(), lambda a, t: slow(a, t, False), anchors, targets)


def test_imbalance() -> None:
    def slow(logits: Tensor) -> Tensor:
        mean = sum(slow_softmax(row) for row in logits) / len(logits)
        return math.log(len(mean)) + sum(p * torch.log(p) for p in mean)

    logits = draw(6, 4)
    assert agree(imbalance, slow, logits)
    assert not agree(lambda x: -imbalance(x), slow, logits)
    assert not agree(lambda x: imbalance(x * 1.1), slow, logits)
    assert not agree(lambda x: torch.stack([imbalance(row.unsqueeze(0)) for row in x]).mean(), slow, logits)


def test_msn_by_hand() -> None:
    """Three anchors that say (3/4, 1/4), (1/2, 1/2), (1/4, 3/4): on average (1/2, 1/2), so perfectly balanced.

    A target of (3/4, 1/4) at half the temperature is (9/10, 1/10).
    """
    anchors = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [0.0, math.log(3)]])
    assert float(imbalance(anchors)) == pytest.approx(0, abs=1e-6)
    lopsided = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert float(imbalance(anchors[:1])) == pytest.approx(lopsided)
    target = torch.tensor([[[math.log(3), 0.0]] * 3])
    a, b = -math.log(0.75), -math.log(0.25)
    expected = [0.9 * a + 0.1 * b, math.log(2), 0.9 * b + 0.1 * a]
    assert matched(torch.stack([anchors, anchors]), target, 1.0, 0.5).tolist() == pytest.approx(expected)


# DeepCluster


def test_clustered() -> None:
    z, centroids, clusters = draw(3, 4, 5), unit_rows(draw(2, 6, 5, seed=1)), torch.tensor([[0, 5, 2, 2], [1, 1, 3, 4]])

    def slow(z: Tensor) -> Tensor:
        total = torch.zeros(())
        for view in z:
            for head in range(2):
                for image in range(4):
                    x = view[image] / view[image].norm()
                    p = slow_softmax(torch.stack([x @ c for c in centroids[head]]) / 0.3)
                    total = total - torch.log(p[clusters[head, image]])
        return total / (3 * 2 * 4)

    assert agree(lambda z: clustered(z, centroids, clusters, 0.3).mean(), slow, z)
    assert not agree(lambda z: clustered(z, centroids, clusters, 0.2).mean(), slow, z)
    assert not agree(lambda z: -clustered(z, centroids, clusters, 0.3).mean(), slow, z)
    assert not agree(lambda z: clustered(z, centroids, clusters.flip(0), 0.3).mean(), slow, z)


def test_clustered_by_hand() -> None:
    """Two orthogonal centroids at temperature 1 / ln 3: on one it is 3/4, between them 1/2, on the other 1/4."""
    z = torch.tensor([[[2.0, 0.0], [1.0, 1.0], [0.0, 5.0]]])
    loss = clustered(z, torch.eye(2).unsqueeze(0), torch.tensor([[0, 0, 0]]), 1 / math.log(3))
    assert loss.tolist() == pytest.approx([-math.log(0.75), math.log(2), math.log(4)])


def unit_rows(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def test_spherical_k_means() -> None:
    """Against loops; well-separated groups are found; the sum of cosines never falls from one iteration to the next."""
    x, starts = draw(40, 3), torch.tensor([3, 17, 25, 31])
    rows, centroids = unit_rows(x), unit_rows(x)[starts]
    for _ in range(5):
        nearest = [max(range(4), key=lambda c: float(row @ centroids[c])) for row in rows]
        groups = [[row for row, own in zip(rows, nearest, strict=True) if own == c] for c in range(4)]
        centroids = torch.stack([unit_rows(sum(group)) if group else centroids[c] for c, group in enumerate(groups)])
    found, labels = spherical_k_means(x, starts, 5)
    assert torch.allclose(found, centroids, atol=1e-5)
    assert labels.tolist() == [max(range(4), key=lambda c: float(row @ centroids[c])) for row in rows]
    fits = []
    for n in range(8):
        found, labels = spherical_k_means(x, starts, n)
        fits.append(float((rows * found[labels]).sum()))
    assert all(a <= b + 1e-4 for a, b in itertools.pairwise(fits))
    assert fits[-1] > fits[0]
    apart = torch.eye(4).repeat_interleave(10, 0) * 5 + draw(40, 4) * 0.1
    _, labels = spherical_k_means(apart, torch.tensor([0, 10, 20, 30]))
    assert labels.tolist() == [c for c in range(4) for _ in range(10)]


def test_clusters_do_not_depend_on_how_images_are_listed() -> None:
    data, keys, bank = DataInfo(40, 3, 16), torch.arange(100, 140) * 7919, draw(40, 32)
    shuffled = draw(40, seed=3).argsort()
    made = []
    for rows in (torch.arange(40), shuffled):
        torch.manual_seed(0)
        method = DeepCluster(convnet(data, width=8), data, views=(), output_dim=32)
        for remembered in (0 * bank, bank):
            method.bank.copy_(remembered[rows])
            method.begin_epoch(0, Draws(0, 0, 5, keys[rows]))
            made.append((method.centroids.clone(), method.clusters.clone()))
    (_, lots), (centroids, clusters), (_, lots_2), (centroids_2, clusters_2) = made
    assert torch.equal(lots[:, shuffled], lots_2)
    assert torch.equal(centroids, centroids_2)
    assert torch.equal(clusters[:, shuffled], clusters_2)
    assert len(clusters.unique()) == 10  # a quarter of the images at most


# I-JEPA, data2vec: what is hidden, and the error there


def slow_hidden_error(predicted: Tensor, target: Tensor, hidden: Tensor, beta: float, stop: bool = True) -> Tensor:
    total = torch.zeros(())
    for i in range(len(predicted)):
        errors = []
        for t in range(predicted.shape[1]):
            if hidden[i, t]:
                apart = (predicted[i, t] - (target[i, t].detach() if stop else target[i, t])).abs()
                errors += [0.5 * a**2 / beta if a < beta else a - 0.5 * beta for a in apart]
        total = total + sum(errors) / len(errors)
    return total / len(predicted)


def test_hidden_error() -> None:
    inputs, hidden = (draw(3, 4, 5), draw(3, 4, 5, seed=1)), draw(3, 4, seed=2) > 0
    assert hidden.any(1).all()
    assert not hidden.all(1).any()
    for beta in (1.0, 2.0):
        assert agree(
            lambda p, t, beta=beta: hidden_error(p, t, hidden, beta).mean(),
            lambda p, t, beta=beta: slow_hidden_error(p, t, hidden, beta),
            *inputs,
        )

    def slow(predicted: Tensor, target: Tensor) -> Tensor:
        return slow_hidden_error(predicted, target, hidden, 1.0)

    assert not agree(lambda p, t: hidden_error(p, t, hidden, 2.0).mean(), slow, *inputs)
    assert not agree(lambda p, t: -hidden_error(p, t, hidden).mean(), slow, *inputs)
    assert not agree(lambda p, t: hidden_error(p, t, ~hidden).mean(), slow, *inputs)
    flows = functools.partial(slow_hidden_error, hidden=hidden, beta=1.0, stop=False)
    assert not agree(lambda p, t: hidden_error(p, t, hidden).mean(), flows, *inputs)


def test_hidden_error_by_hand() -> None:
    """Three images of two patches: off by 1 (1/2), by 3 (5/2), and by 0 and 2 (0 and 3/2) where hidden."""
    predicted = torch.tensor([[[1.0], [9.0]], [[9.0], [3.0]], [[0.0], [2.0]]])
    hidden = torch.tensor([[True, False], [False, True], [True, True]])
    assert hidden_error(predicted, torch.zeros(3, 2, 1), hidden).tolist() == [0.5, 2.5, 0.75]


def test_averaged() -> None:
    layers = draw(3, 2, 4, 6) * 3 + 1
    expected = torch.zeros(2, 4, 6)
    for layer in layers:
        mean, variance = layer.mean(2, keepdim=True), layer.var(2, keepdim=True, unbiased=False)
        expected += (layer - mean) / (variance + 1e-5).sqrt() / 3
    assert torch.allclose(averaged(layers), expected, atol=1e-5)
    assert not torch.allclose(averaged(layers[:2]), expected, atol=1e-2)


def drawn(n: int) -> Draws:
    return Draws(0, 0, 0, torch.arange(n) * 104729)


def test_rectangles() -> None:
    h, w, area = 12, 10, (0.15, 0.2)
    blocks = rectangles(drawn(200), h, w, 4, area=area).reshape(-1, h, w)
    for block in blocks:
        rows, columns = block.any(1), block.any(0)
        assert torch.equal(block, rows.unsqueeze(1) & columns.unsqueeze(0))
        for side in (rows, columns):
            where = side.nonzero().flatten()
            assert len(where) == int(where[-1] - where[0]) + 1
    sides = torch.stack([blocks.any(2).sum(1), blocks.any(1).sum(1)]).float()
    exact = sides.prod(0) / (h * w)
    assert 0.9 * area[0] - 0.05 < float(exact.min())
    assert float(exact.max()) < 1.1 * area[1] + 0.05
    assert area[0] < float(exact.mean()) < area[1]
    assert float((sides[0] / sides[1]).min()) > 0.5
    assert float((sides[0] / sides[1]).max()) < 2.1
    assert (blocks.float().mean(0) > 0.01).all()  # they fall everywhere


def test_block_masks_hide_exactly_the_stated_share() -> None:
    assert block_mask(drawn(9), 4, 4, torch.ones(9)).sum(1).tolist() == [15] * 9  # never everything
    share = torch.linspace(0, 0.9, 64)
    mask = block_mask(drawn(64), 8, 6, share)
    assert torch.equal(mask.sum(1), (share * 48).round().long())
    assert not mask.all(1).any()
    whole = mask.reshape(64, 8, 6)[20:44].float()
    alike = (whole[:, 1:] == whole[:, :-1]).float().mean() + (whole[:, :, 1:] == whole[:, :, :-1]).float().mean()
    assert float(alike) / 2 > 0.75  # neighbours are hidden together: by chance it would be little over a half


@pytest.mark.parametrize("share", [0.2, 0.4, 0.8])
def test_ijepa_sees_the_stated_share_and_predicts_none_of_it(share: float) -> None:
    data = DataInfo(8, 3, 32)
    method = IJEPA(vit_nano(data, depth=1), data, views=(), context_share=share)
    shuffled, n_seen, hidden = method.masks(drawn(100), 8, 8)
    assert n_seen == round(share * 64)
    assert torch.equal(shuffled.sort(1).values, torch.arange(64).expand(100, 64))
    assert not hidden.gather(1, shuffled[:, :n_seen]).any()
    assert hidden.any(1).all()
    covered = rectangles(drawn(100), 8, 8, 4, area=(0.15, 0.2)).any(1)
    assert not (hidden & ~covered).any()
    ample = (~covered).sum(1) >= n_seen
    assert torch.equal(hidden[ample], covered[ample])
    assert ample.any() or share > 0.5


def test_half_of_ibots_large_views_have_the_stated_share_hidden() -> None:
    data = DataInfo(8, 3, 32)
    method = IBOT(vit_nano(data, depth=1), data, views=(), least_hidden=0.2, most_hidden=0.5)
    share = method.mask(torch.zeros(400, 3, 32, 32), drawn(400)).float().mean(1)
    assert 0.4 < float((share > 0).float().mean()) < 0.6
    assert 0.19 < float(share[share > 0].min()) < 0.25
    assert 0.45 < float(share.max()) < 0.51


def test_rectangles_are_as_much_higher_than_wide_as_asked() -> None:
    blocks = rectangles(drawn(50), 12, 12, 4, area=(0.2, 0.2), aspect=(4.0, 4.0)).reshape(-1, 12, 12)
    assert torch.equal(blocks.any(2).sum(1), torch.full((200,), 11))  # the root of 0.2 * 144 * 4
    assert torch.equal(blocks.any(1).sum(1), torch.full((200,), 3))
