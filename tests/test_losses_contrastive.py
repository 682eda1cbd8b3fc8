"""Contrastive losses, and those that hold information up, against slow references written from their formulas.

Where pytorch-metric-learning has the loss it is the reference. Each is also computed by hand on three samples, and each
reference tells a mutant: another sign or temperature, or a target through which gradients flow.
"""

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses as theirs
from torch import Tensor, nn

from likewise.draws import Draws
from likewise.methods import METHODS, Method, parts
from likewise.methods.barlow_twins import twins
from likewise.methods.dcl import decoupled
from likewise.methods.deepcluster import clustered
from likewise.methods.dino import distilled
from likewise.methods.dinov2 import koleo
from likewise.methods.drlim import distances
from likewise.methods.lejepa import sigreg
from likewise.methods.moco_v2 import queue_contrast
from likewise.methods.msn import imbalance
from likewise.methods.nnclr import neighbours
from likewise.methods.npid import instance_loss
from likewise.methods.parts import cosine_distance, info_nce, unit
from likewise.methods.simclr import nt_xent
from likewise.methods.supcon import supervised_contrast
from likewise.methods.vicreg import covariance, variance
from likewise.methods.visreg import off_centre, off_scale, off_shape
from likewise.methods.w_mse import whiten
from likewise.types import Batch, DataInfo, Encoder
from likewise.views import RECIPES

Loss = Callable[..., Tensor]
E3 = torch.eye(3)
TURNED = torch.eye(3)[[1, 2, 0]]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def agree(fast: Loss, slow: Loss, *inputs: Tensor) -> bool:
    """Values and gradients to 1e-5, on every input; no gradient counts as zero."""
    results = []
    for function in (fast, slow):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = function(*leaves)
        value.backward()
        results.append([value.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in leaves)])
    return all(torch.allclose(p, q, rtol=1e-5, atol=1e-5) for p, q in zip(*results, strict=True))


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def minus_log_share(positive: Tensor, all_of_them: list[Tensor]) -> Tensor:
    """-log(e^positive / sum e^each)."""
    return torch.log(torch.stack([x.exp() for x in all_of_them]).sum()) - positive


# NT-Xent


def test_nt_xent_is_that_of_pytorch_metric_learning() -> None:
    reference = theirs.SelfSupervisedLoss(theirs.NTXentLoss(temperature=0.2))
    a, b = draw(20, 16), draw(20, 16, seed=1)
    assert agree(lambda a, b: nt_xent(a, b, 0.2).mean(), reference, a, b)
    assert not agree(lambda a, b: nt_xent(a, b, 0.25).mean(), reference, a, b)


@pytest.mark.parametrize("loss", [nt_xent, decoupled])
def test_blocks_change_nothing(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made in 3 blocks is what is made in one, gradients too."""
    a, b = draw(300, 8), draw(300, 8, seed=1)
    results = []
    for size in (128, 1024):
        monkeypatch.setattr(parts, "BLOCK", size)
        leaves = [a.clone().requires_grad_(), b.clone().requires_grad_()]
        value = loss(*leaves, 0.1)
        value.mean().backward()
        results.append([value.detach(), *(x.grad for x in leaves)])
    assert all(torch.allclose(p, q, rtol=1e-5, atol=1e-7) for p, q in zip(*results, strict=True))


# InfoNCE, MoCo v3


def slow_info_nce(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    rows = [[cos(q[i], k[j]) / temperature for j in range(len(k))] for i in range(len(q))]
    return torch.stack([minus_log_share(row[i], row) for i, row in enumerate(rows)]).mean()


def test_info_nce() -> None:
    q, k = draw(6, 5), draw(6, 5, seed=1)

    def slow(q: Tensor, k: Tensor) -> Tensor:
        return slow_info_nce(q, k, 0.3)

    assert agree(lambda q, k: info_nce(q, k, 0.3).mean(), slow, q, k)
    assert not agree(lambda q, k: info_nce(q, k, 0.2).mean(), slow, q, k)
    assert not agree(lambda q, k: -info_nce(q, k, 0.3).mean(), slow, q, k)
    assert not agree(lambda q, k: info_nce(q, k.detach(), 0.3).mean(), slow, q, k)


def test_info_nce_by_hand() -> None:
    """The right key at cosine 1, two others at 0: log(e^2 + 2) - 2. With the keys turned: log(e^2 + 2)."""
    right = math.log(math.e**2 + 2) - 2
    assert info_nce(E3, 7 * E3, 0.5).tolist() == pytest.approx([right] * 3)
    assert info_nce(E3, TURNED, 0.5).tolist() == pytest.approx([right + 2] * 3)


# NPID


def slow_instance(z: Tensor, ids: list[int], bank: Tensor, temperature: float) -> Tensor:
    """Equation 2 of the paper: P(i | v) = exp(v . m_i / t) / sum_j exp(v . m_j / t)."""
    total = []
    for v, i in zip(z, ids, strict=True):
        scores = [(v / v.norm()) @ row / temperature for row in bank]
        total.append(minus_log_share(scores[i], scores))
    return torch.stack(total).mean()


def test_npid() -> None:
    z, bank, ids, rows = draw(4, 5), unit(draw(9, 5, seed=1)), torch.tensor([8, 0, 3, 4]), torch.arange(9)
    z = z * 3

    def slow(z: Tensor) -> Tensor:
        return slow_instance(z, ids.tolist(), bank, 0.3)

    assert agree(lambda z: instance_loss(z, ids, bank, rows, 0.3).mean(), slow, z)
    assert not agree(lambda z: instance_loss(z, ids, bank, rows, 0.2).mean(), slow, z)
    assert not agree(lambda z: -instance_loss(z, ids, bank, rows, 0.3).mean(), slow, z)
    assert not agree(lambda z: instance_loss(z, ids.flip(0), bank, rows, 0.3).mean(), slow, z)


def test_npid_by_hand() -> None:
    """A bank of three axes: the own row at cosine 1, two at 0, as in InfoNCE."""
    loss = instance_loss(2 * E3[:1], torch.tensor([0]), E3, torch.arange(3), 0.5)
    assert float(loss) == pytest.approx(math.log(math.e**2 + 2) - 2)


def test_npid_estimates_the_softmax_from_a_sample() -> None:
    """A third of the rows: the mean over many samples is within 1 % of the loss over all."""
    z, bank, ids = draw(32, 8), unit(draw(600, 8, seed=1)), torch.arange(32)
    whole = instance_loss(z, ids, bank, torch.arange(600), 0.5).mean()
    g = torch.Generator().manual_seed(0)
    samples = [instance_loss(z, ids, bank, torch.randint(600, (200,), generator=g), 0.5).mean() for _ in range(50)]
    assert float(torch.stack(samples).mean()) == pytest.approx(float(whole), rel=0.01)


def test_npid_moves_the_rows_it_saw() -> None:
    """From what it made of each image at its first look, which is no training."""
    method = make("npid", n_images=9)
    whole = batch_for(method, ids=[[i] for i in (4, 5, 6, 7, 8, 0, 1, 2, 3)])
    with torch.no_grad():
        method.look(whole)
        first = unit(method.head(method.encoder(whole.views[0])))
    assert torch.allclose(method.bank[whole.ids.flatten()], first, atol=1e-6)
    before, batch = method.bank.clone(), batch_for(method, ids=[[8], [0], [3]])
    batch.views[0].neg_().add_(1)  # another view than the first
    method.step(batch)
    z = unit(method.head(method.encoder(batch.views[0]))).detach()
    expected = before.clone()
    for row, i in zip(z, (8, 0, 3), strict=True):
        expected[i] = (before[i] + row) / (before[i] + row).norm()
    assert torch.allclose(method.bank, expected, atol=1e-6)
    method.eval()
    method.step(batch)
    assert torch.allclose(method.bank, expected, atol=1e-6)


# MoCo v2


def slow_queue(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    total = []
    for i in range(len(q)):
        scores = [cos(q[i], k[i]) / temperature, *(cos(q[i], row) / temperature for row in queue)]
        total.append(minus_log_share(scores[0], scores))
    return torch.stack(total).mean()


def test_moco_v2() -> None:
    q, k, queue = draw(4, 5), draw(4, 5, seed=1), unit(draw(7, 5, seed=2))

    def slow(q: Tensor, k: Tensor) -> Tensor:
        return slow_queue(q, k, queue, 0.3)

    assert agree(lambda q, k: queue_contrast(q, k, queue, 0.3).mean(), slow, q, k)
    assert not agree(lambda q, k: queue_contrast(q, k, queue, 0.2).mean(), slow, q, k)
    assert not agree(lambda q, k: -queue_contrast(q, k, queue, 0.3).mean(), slow, q, k)
    assert not agree(lambda q, k: queue_contrast(q, k.detach(), queue, 0.3).mean(), slow, q, k)


def test_moco_v2_by_hand() -> None:
    """The own key at cosine 1, a queue of two orthogonal ones: log(e^2 + 2) - 2."""
    assert float(queue_contrast(E3[:1], E3[:1], E3[1:], 0.5)) == pytest.approx(math.log(math.e**2 + 2) - 2)


def test_moco_v2_keys_come_in_their_own_order_and_enter_the_queue() -> None:
    method = make("moco-v2", n_images=160)
    method.begin_epoch(0, Draws(0, 0, 0, torch.arange(160)))
    batch, before = batch_for(method, n=12), method.queue.kept.clone()
    assert torch.allclose(method.keys(batch), method.teacher(batch.views[1]), atol=1e-6)  # no batch norm here
    method.step(batch)
    kept = method.queue.kept
    assert torch.allclose(kept[:12], unit(method.teacher(batch.views[1])), atol=1e-6)
    assert torch.equal(kept[12:], before[12:])
    assert len(kept) == 20


# NNCLR


def test_nnclr_takes_the_nearest() -> None:
    z, support = draw(5, 4).requires_grad_(), unit(draw(9, 4, seed=1))
    found = neighbours(z, support)
    for i in range(5):
        best = max(range(9), key=lambda j: float(cos(z[i], support[j]).detach()))
        assert torch.equal(found[i], support[best])
    assert not found.requires_grad


def test_nnclr_by_hand() -> None:
    """z near the second axis: its neighbour is that axis."""
    assert neighbours(torch.tensor([[0.1, 0.9, 0.3]]), E3).tolist() == [[0, 1, 0]]


# DCL


def slow_decoupled(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Equation 6 of the paper: the sum leaves out the view itself and its positive."""
    z, n = torch.cat([a, b]), len(a)
    total = []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = [cos(z[i], z[k]) / temperature for k in range(2 * n) if k not in (i, j)]
        total.append(minus_log_share(cos(z[i], z[j]) / temperature, others))
    return torch.stack(total).mean()


def test_dcl() -> None:
    a, b = draw(5, 4), draw(5, 4, seed=1)

    def slow(a: Tensor, b: Tensor) -> Tensor:
        return slow_decoupled(a, b, 0.3)

    assert agree(lambda a, b: decoupled(a, b, 0.3).mean(), slow, a, b)
    assert not agree(lambda a, b: decoupled(a, b, 0.2).mean(), slow, a, b)
    assert not agree(lambda a, b: -decoupled(a, b, 0.3).mean(), slow, a, b)
    assert not agree(lambda a, b: nt_xent(a, b, 0.3).mean(), slow, a, b)


def test_dcl_by_hand() -> None:
    """Three images, perfect: the positive at 1, four others at 0: log 4 - 2. NT-Xent has the positive in the sum."""
    assert decoupled(E3, E3, 0.5).tolist() == pytest.approx([math.log(4) - 2] * 3)
    assert nt_xent(E3, E3, 0.5).tolist() == pytest.approx([math.log(4 + math.e**2) - 2] * 3)


# SupCon


def test_supcon_is_that_of_pytorch_metric_learning() -> None:
    a, b, labels = draw(9, 5), draw(9, 5, seed=1), torch.tensor([0, 1, 2, 0, 1, 0, 3, 3, 3])
    supcon = theirs.SupConLoss(temperature=0.2)

    def reference(a: Tensor, b: Tensor) -> Tensor:
        return supcon(torch.cat([a, b]), labels.repeat(2))

    assert agree(lambda a, b: supervised_contrast(a, b, labels, 0.2).mean(), reference, a, b)
    assert not agree(lambda a, b: supervised_contrast(a, b, labels, 0.1).mean(), reference, a, b)
    assert not agree(lambda a, b: -supervised_contrast(a, b, labels, 0.2).mean(), reference, a, b)
    assert not agree(lambda a, b: supervised_contrast(a, b, labels.flip(0), 0.2).mean(), reference, a, b)


def test_supcon_of_instances_is_nt_xent() -> None:
    a, b = draw(7, 5), draw(7, 5, seed=1)
    ids = torch.tensor([5, 3, -8, 0, 11, 2, 1])
    assert agree(lambda a, b: supervised_contrast(a, b, ids, 0.2).mean(), lambda a, b: nt_xent(a, b, 0.2).mean(), a, b)


def test_supcon_by_hand() -> None:
    """Three images, the first two of one class and equal; the third alone.

    A view of the first two: positives at 1, 1, 1; others 0, 0: log(3 e + 2) - 1. Of the third: log(e + 4) - 1.
    """
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = supervised_contrast(z, z, torch.tensor([4, 4, 6]), 1.0)
    assert loss.tolist() == pytest.approx([math.log(3 * math.e + 2) - 1] * 2 + [math.log(math.e + 4) - 1])


def test_supcon_without_labels_is_simclr() -> None:
    """To the bit, from the same start; and an image without a label is alone."""
    simclr, supcon = make("simclr"), make("supcon")
    supcon.load_state_dict(simclr.state_dict())
    batch = batch_for(simclr)
    ours, expected = supcon.step(batch).terms["contrast"], simclr.step(batch).terms["contrast"]
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    some = make("supcon", labels=torch.tensor([0, -1, -1, 0, 1, -1]))
    assert some.labels.tolist() == [0, -2, -3, 0, 1, -6]


# VICReg


def test_vicreg_is_that_of_pytorch_metric_learning() -> None:
    """Theirs adds the terms at 25, 25, 1 and halves the variances."""
    a, b = draw(8, 5), draw(8, 5, seed=1)
    reference = theirs.VICRegLoss(invariance_lambda=25, variance_mu=25, covariance_v=1, eps=1e-4)

    def ours(a: Tensor, b: Tensor, weight: float = 25.0) -> Tensor:
        apart, vary = (a - b).square().mean(), (variance(a) + variance(b)) / 2
        return weight * apart + 25 * vary + covariance(a) + covariance(b)

    assert agree(ours, lambda a, b: reference(a, ref_emb=b), a, b)
    assert not agree(lambda a, b: ours(a, b, 20.0), lambda a, b: reference(a, ref_emb=b), a, b)


# Barlow Twins


def slow_twins(a: Tensor, b: Tensor, weight: float) -> Tensor:
    n, d = a.shape

    def column(z: Tensor, j: int) -> Tensor:
        centred = z[:, j] - z[:, j].sum() / n
        return centred / torch.sqrt((centred**2).sum() / n + 1e-5)

    total = torch.zeros(())
    for i in range(d):
        for j in range(d):
            c = (column(a, i) * column(b, j)).sum() / n
            total = total + ((1 - c) ** 2 if i == j else weight * c**2)
    return total / d


def test_barlow_twins() -> None:
    a, b = draw(7, 4), draw(7, 4, seed=1)

    def ours(a: Tensor, b: Tensor, weight: float = 0.01) -> Tensor:
        on, off = twins(a, b)
        return on + weight * off

    assert agree(ours, lambda a, b: slow_twins(a, b, 0.01), a, b)
    assert not agree(lambda a, b: ours(a, b, 0.02), lambda a, b: slow_twins(a, b, 0.01), a, b)
    assert not agree(lambda a, b: -ours(a, b), lambda a, b: slow_twins(a, b, 0.01), a, b)
    assert not agree(lambda a, b: ours(a, b.detach()), lambda a, b: slow_twins(a, b, 0.01), a, b)


def test_barlow_twins_by_hand() -> None:
    """Three samples: (-1, 0, 1) and (1, -2, 1) are uncorrelated. Equal views are at no distance; swapped columns have
    correlation 0 where 1 is wanted and 1 where 0 is: one square of each a dimension."""
    z = torch.tensor([[-1.0, 1.0], [0.0, -2.0], [1.0, 1.0]])
    assert twins(z, z).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert twins(z, z.flip(1)).tolist() == pytest.approx([1, 1], abs=1e-4)


# W-MSE


def test_whitened_rows_have_the_identity_for_covariance() -> None:
    z = draw(200, 6) @ draw(6, 6, seed=1) + 3
    white = whiten(z, 0.0)
    assert torch.allclose(white.mean(0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(white.T.cov(), torch.eye(6), atol=1e-4)
    assert not torch.allclose(whiten(z, 0.5).T.cov(), torch.eye(6), atol=1e-2)


def test_no_dimension_hides_from_whitening() -> None:
    """One that outweighs the others 30,000 times, and any scale: all are whitened. At 0.001 the others would vanish."""
    z = draw(200, 6) * torch.tensor([3e4, 1, 1, 1, 1, 1])
    white = whiten(z, 1e-12)
    assert torch.allclose(white.T.cov(), torch.eye(6), atol=1e-2)
    assert float(whiten(z, 1e-3).var(0)[1:].max()) < 1e-4
    torch.testing.assert_close(whiten(1000 * z, 1e-8), whiten(z, 1e-8), rtol=1e-4, atol=1e-4)


def test_whitening_too_few_rows_is_finite_and_of_no_numbers_is_not() -> None:
    assert torch.isfinite(whiten(draw(3, 6), 1e-8)).all()
    assert torch.isfinite(whiten(torch.ones(3, 6), 1e-8)).all()
    broken = draw(9, 4)
    broken[2, 1] = float("nan")
    assert not torch.isfinite(whiten(broken, 1e-8)).any()


def slow_whiten(z: Tensor, shrinkage: float) -> Tensor:
    """Cholesky and forward substitution, entry by entry."""
    n, d = z.shape
    z = z - z.sum(0) / n
    variance = (z**2).sum() / (n - 1) / d
    c = [
        [(z[:, i] * z[:, j]).sum() / (n - 1) * (1 - shrinkage) + shrinkage * variance * (i == j) for j in range(d)]
        for i in range(d)
    ]
    factor: list[list[Any]] = [[None] * d for _ in range(d)]
    for i in range(d):
        for j in range(i + 1):
            rest = c[i][j] - sum((factor[i][k] * factor[j][k] for k in range(j)), torch.zeros(()))
            factor[i][j] = torch.sqrt(rest) if i == j else rest / factor[j][j]
    columns: list[Tensor] = []
    for i in range(d):
        rest = z[:, i] - sum((factor[i][k] * columns[k] for k in range(i)), torch.zeros(n))
        columns.append(rest / factor[i][i])
    return torch.stack(columns, 1)


def test_w_mse() -> None:
    a, b = draw(9, 4), draw(9, 4, seed=1)

    def loss(how: Loss, shrinkage: float = 0.1) -> Loss:
        return lambda a, b: cosine_distance(how(a, shrinkage), how(b, shrinkage)).mean()

    assert agree(loss(whiten), loss(slow_whiten), a, b)
    assert not agree(loss(whiten, 0.2), loss(slow_whiten), a, b)
    assert not agree(lambda a, b: -loss(whiten)(a, b), loss(slow_whiten), a, b)


def test_whitening_by_hand() -> None:
    """Three samples of one dimension, variance 4: divided by 2."""
    assert whiten(torch.tensor([[1.0], [3.0], [5.0]]), 0.0).flatten().tolist() == pytest.approx([-1, 0, 1])


# LeJEPA


def slow_sigreg(z: Tensor, directions: Tensor) -> Tensor:
    """The trapezium rule on t = 0, 3/16, ..., 3, doubled for negative t, on |phi_n(t) - e^(-t^2/2)|^2 e^(-t^2/2)."""
    n, total = len(z), torch.zeros(())
    for direction in directions:
        heights = []
        for step in range(17):
            t = 3 * step / 16
            real = sum(torch.cos(t * (row @ direction)) for row in z) / n - math.exp(-t * t / 2)
            imaginary = sum(torch.sin(t * (row @ direction)) for row in z) / n
            heights.append((real**2 + imaginary**2) * math.exp(-t * t / 2))
        area = sum((a + b) / 2 * (3 / 16) for a, b in itertools.pairwise(heights))
        total = total + 2 * n * area
    return total / len(directions)


def test_sigreg() -> None:
    z, directions = draw(5, 4), unit(draw(3, 4, seed=1))

    def slow(z: Tensor) -> Tensor:
        return slow_sigreg(z, directions)

    assert agree(lambda z: sigreg(z, directions), slow, z)
    assert not agree(lambda z: sigreg(1.1 * z, directions), slow, z)
    assert not agree(lambda z: -sigreg(z, directions), slow, z)
    assert not agree(lambda z: sigreg(z, directions.flip(1)), slow, z)


def test_sigreg_by_hand() -> None:
    """Three samples at zero: 2 N times the integral of (1 - e^(-t^2/2))^2 e^(-t^2/2), which is 0.201 in closed form."""
    whole = [math.sqrt(math.pi / 2 / k) * math.erf(3 * math.sqrt(k / 2)) for k in (1, 2, 3)]
    expected = 2 * 3 * (whole[0] - 2 * whole[1] + whole[2])
    assert float(sigreg(torch.zeros(3, 5), unit(draw(8, 5)))) == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(0.402 * 3, rel=1e-3)


@pytest.mark.parametrize(("n", "d"), [(32, 8), (256, 64), (1000, 16)])
def test_sigreg_of_a_normal_sample(n: int, d: int) -> None:
    """1.05 however many samples and dimensions there are; far more for another distribution."""
    directions = unit(draw(256, d, seed=1))
    values = [float(sigreg(draw(n, d, seed=seed), directions)) for seed in range(30)]
    assert np.mean(values) == pytest.approx(1.05, abs=0.1)
    assert float(sigreg(draw(n, d) * 0.1, directions)) > 5
    assert float(sigreg(draw(n, d) + 2 / d**0.5, directions)) > 2


# VISReg


def slow_moments(z: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The mean of each dimension, and its deviation."""
    n, means, deviations = len(z), [], []
    for j in range(z.shape[1]):
        means.append(sum(z[i, j] for i in range(n)) / n)
        deviations.append(torch.sqrt(sum((z[i, j] - means[j]) ** 2 for i in range(n)) / n))
    return means, deviations


def slow_centre(z: Tensor) -> Tensor:
    return sum(mean**2 for mean in slow_moments(z)[0]) / z.shape[1]


def slow_scale(z: Tensor) -> Tensor:
    return sum((1 - deviation) ** 2 for deviation in slow_moments(z)[1]) / z.shape[1]


def slow_shape(z: Tensor, directions: Tensor, held: bool = True) -> Tensor:
    """The i-th smallest of n projections goes to the normal quantile of i / (n + 1)."""
    n, (means, deviations), total = len(z), slow_moments(z), torch.zeros(())
    normal_quantile = torch.distributions.Normal(0.0, 1.0).icdf
    for direction in directions:
        placed = []
        for i in range(n):
            deviation = [s.detach() if held else s for s in deviations]
            placed.append(sum((z[i, j] - means[j]) / (deviation[j] + 1e-4) * direction[j] for j in range(z.shape[1])))
        for i, x in enumerate(sorted(placed, key=lambda x: float(x.detach()))):
            total = total + (x - normal_quantile(torch.tensor((i + 1) / (n + 1)))) ** 2
    return total / n / len(directions)


def test_visreg() -> None:
    z, directions = draw(6, 4) * 1.5 + 0.3, unit(draw(3, 4, seed=1))
    assert agree(off_centre, slow_centre, z)
    assert agree(off_scale, slow_scale, z)
    assert agree(lambda z: off_shape(z, directions), lambda z: slow_shape(z, directions), z)
    assert not agree(lambda z: -off_centre(z), slow_centre, z)
    assert not agree(lambda z: (1 - z.std(0)).square().mean(), slow_scale, z)
    assert not agree(lambda z: off_shape(z, directions), lambda z: slow_shape(z, directions, held=False), z)
    assert not agree(lambda z: off_shape(z, directions), lambda z: slow_shape(z, directions.flip(1)), z)


def test_visreg_by_hand() -> None:
    """Three samples of one dimension, -1, 0 and 4: mean 1, variance (4 + 1 + 9) / 3; quartiles at 0 and 0.67449."""
    z, deviation, quartile = torch.tensor([[0.0], [4.0], [-1.0]]), math.sqrt(14 / 3), 0.67449
    assert off_centre(z).item() == pytest.approx(1)
    assert off_scale(z).item() == pytest.approx((1 - deviation) ** 2)
    deviation += 1e-4  # against a division by zero
    expected = (quartile - 2 / deviation) ** 2 + (1 / deviation) ** 2 + (3 / deviation - quartile) ** 2
    assert off_shape(z, torch.ones(1, 1)).item() == pytest.approx(expected / 3, rel=1e-4)


def test_visreg_of_a_normal_sample() -> None:
    """Its shape is off by 2 to 3 / n, by far more where all samples lie on a line; the others vanish too."""
    directions = unit(draw(512, 32, seed=1))
    for n, shape in ((256, 0.008), (1024, 0.0025)):
        samples = [draw(n, 32, seed=seed) for seed in range(20)]
        assert np.mean([float(off_shape(z, directions)) for z in samples]) == pytest.approx(shape, rel=0.15)
        assert np.mean([float(off_centre(z)) for z in samples]) == pytest.approx(1 / n, rel=0.2)
        assert np.mean([float(off_scale(z)) for z in samples]) == pytest.approx(1 / (2 * n), rel=0.2)
        line = draw(n, 1) * draw(1, 32, seed=2)
        assert off_shape(line, directions).item() == pytest.approx(0.4, abs=0.05)


def test_visreg_pulls_where_all_embeddings_are_nearly_one_and_sigreg_does_not() -> None:
    directions = unit(draw(64, 16, seed=1))

    def pull(loss: Loss, scale: float) -> float:
        z = (draw(64, 16) * scale).requires_grad_()
        (slope,) = torch.autograd.grad(loss(z), z)
        return float(slope.norm())

    assert pull(off_scale, 1e-4) == pytest.approx(pull(off_scale, 1e-1), rel=0.2)
    assert pull(lambda z: sigreg(z, directions), 1e-4) < 0.01 * pull(lambda z: sigreg(z, directions), 1e-1)


# bfloat16


SIX, OTHERS, ROWS = draw(6, 8), draw(6, 8, seed=1), unit(draw(9, 8, seed=2))
IN_FULL: list[Callable[[], Tensor]] = [
    lambda: nt_xent(SIX, OTHERS, 0.1),
    lambda: decoupled(SIX, OTHERS, 0.1),
    lambda: supervised_contrast(SIX, OTHERS, torch.tensor([0, 0, 1, 1, 2, 2]), 0.1),
    lambda: info_nce(SIX, OTHERS, 0.1),
    lambda: queue_contrast(SIX, OTHERS, ROWS, 0.1),
    lambda: instance_loss(SIX, torch.arange(6), ROWS, torch.arange(9), 0.1),
    lambda: neighbours(SIX, ROWS),
    lambda: cosine_distance(SIX, OTHERS),
    lambda: twins(SIX, OTHERS),
    lambda: covariance(SIX),
    lambda: variance(SIX),
    lambda: whiten(SIX, 0.1),
    lambda: sigreg(SIX, ROWS),
    lambda: off_centre(SIX),
    lambda: off_scale(SIX),
    lambda: off_shape(SIX, ROWS),
    lambda: parts.cosines(SIX, ROWS),
    lambda: parts.spread(SIX),
    lambda: parts.cross_entropy(SIX.softmax(1), OTHERS),
    lambda: parts.crossed(SIX.softmax(1).unsqueeze(0), torch.stack([SIX, OTHERS])),
    lambda: parts.sinkhorn(parts.cosines(SIX, ROWS), 0.05),
    lambda: clustered(SIX.unsqueeze(0), ROWS.unsqueeze(0), torch.arange(6).unsqueeze(0), 0.1),
    lambda: distilled(torch.stack([SIX, OTHERS]), torch.stack([OTHERS, SIX]), SIX[0], 0.1, 0.04),
    lambda: koleo(SIX),
    lambda: imbalance(SIX),
    lambda: distances(SIX),
]


@pytest.mark.parametrize("loss", IN_FULL, ids=range(len(IN_FULL)))
def test_losses_are_made_in_full_precision_under_autocast(loss: Callable[[], Tensor]) -> None:
    expected = loss()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(), expected, rtol=1e-6, atol=1e-6)


# Whole steps: what is held still takes no gradient


class Flat(Encoder):
    """Pixels through one matrix."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.layer, self.dim = nn.Linear(3 * size**2, dim), dim

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def make(name: str, n_images: int = 6, **options: Any) -> Method:
    torch.manual_seed(0)
    data = DataInfo(n_images, 3, 4)
    small = dict.fromkeys(("hidden_dim", "output_dim"), 8)
    made = METHODS[name](Flat(4, 6), data, views=RECIPES["strong"](4), **small, **options)
    for parent in list(made.modules()):
        for key, part in parent.named_children():
            if isinstance(part, nn.BatchNorm1d):
                setattr(parent, key, nn.Identity())
    return made


def batch_for(method: Method, n: int = 6, ids: list[list[int]] | None = None) -> Batch:
    rows = torch.tensor(ids) if ids else torch.arange(n).unsqueeze(1)
    views = [draw(len(rows), 3, 4, 4, seed=seed).sigmoid() for seed in range(len(method.views))]
    return Batch(views, rows, 0.0, Draws(0, 0, 0, rows.flatten()))


def gradient(method: Method, loss: Tensor) -> Tensor:
    method.zero_grad()
    loss.backward()
    return method.encoder.layer.weight.grad.clone()


def simsiam(m: Any, a: Tensor, b: Tensor, still: Loss) -> Tensor:
    z = [m.projector(m.encoder(x)) for x in (a, b)]
    p = [m.predictor(x) for x in z]
    rows = range(len(a))
    return torch.stack([2 - cos(p[0][i], still(z[1])[i]) - cos(p[1][i], still(z[0])[i]) for i in rows]).mean()


def moco_v3(m: Any, a: Tensor, b: Tensor, still: Loss) -> Tensor:
    """The teacher is the student at first: let through, its gradient is the student's."""
    q = [m.predictor(m.projector(m.encoder(x))) for x in (a, b)]
    k = [still(m.projector(m.encoder(x))) for x in (a, b)]
    return 2 * 0.2 * (slow_info_nce(q[0], k[1], 0.2) + slow_info_nce(q[1], k[0], 0.2))


def byol(m: Any, a: Tensor, b: Tensor, still: Loss) -> Tensor:
    p = [m.predictor(m.projector(m.encoder(x))) for x in (a, b)]
    t = [still(m.projector(m.encoder(x))) for x in (a, b)]
    rows = range(len(a))
    return torch.stack([2 - cos(p[0][i], t[1][i]) - cos(p[1][i], t[0][i]) for i in rows]).mean()


def moco_v2(m: Any, a: Tensor, b: Tensor, still: Loss) -> Tensor:
    q, k = m.projector(m.encoder(a)), still(m.projector(m.encoder(b)))
    return slow_queue(q, k, m.started, 0.1)


def nnclr(m: Any, a: Tensor, b: Tensor, still: Loss) -> Tensor:
    """The neighbour is a constant; let through, it would be the projection itself."""
    z = [m.projector(m.encoder(x)) for x in (a, b)]
    p = [m.predictor(x) for x in z]
    near = [neighbours(x, m.started) if still is held else x for x in z]
    return (slow_info_nce(near[0], p[1], 0.1) + slow_info_nce(near[1], p[0], 0.1)) / 2


def held(x: Tensor) -> Tensor:
    return x.detach()


def let_through(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("name", "slow"),
    [("simsiam", simsiam), ("moco-v3", moco_v3), ("byol", byol), ("moco-v2", moco_v2), ("nnclr", nnclr)],
)
def test_what_is_held_still_takes_no_gradient(name: str, slow: Loss) -> None:
    """The step's terms and the encoder's gradient are the formula's, and not those without the stop-gradient."""
    method = make(name, n_images=48)
    method.begin_epoch(0, Draws(0, 0, 0, torch.arange(48)))
    queue = getattr(method, "queue", getattr(method, "support", SimpleNamespace(rows=lambda: E3)))
    started = queue.rows().clone()
    batch = batch_for(method)
    (term,) = method.step(batch).terms.values()
    ours = gradient(method, term)
    object.__setattr__(method, "started", started)
    for still, same in ((held, True), (let_through, False)):
        expected = slow(method, *batch.views, still)
        assert torch.allclose(ours, gradient(method, expected), rtol=1e-4, atol=1e-5) == same
        if same:
            assert float(term.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)


def test_simsiam_predictor_keeps_its_rate() -> None:
    method = make("simsiam")
    steady = {id(p) for group in method.param_groups() if group.get("steady") for p in group["params"]}
    assert steady == {id(p) for p in method.predictor.parameters()}
