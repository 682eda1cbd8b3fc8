"""What surrounds the loss functions: which views, teachers, queues, banks and weights a step puts into its formula.

Each step is made again one view and one image at a time, from the formulas of its paper, with a small transformer and
heads without batch normalisation. What it leaves behind (centre, queue, bank) is judged by the terms of later steps.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import kornia
import pytest
import torch
from pytorch_metric_learning import losses as theirs
from torch import Tensor, nn
from torch.nn import functional as F

from likewise.draws import Draws, normal
from likewise.encoders import build
from likewise.encoders.vit import ViT, positions
from likewise.errors import UsageError
from likewise.methods import METHODS
from likewise.methods.deepcluster import spherical_k_means
from likewise.methods.mae import MAE, rebuilt_error
from likewise.methods.masking import Predictor, hidden_error, only, rectangles, whole
from likewise.methods.parts import Prototypes, Teacher, spread, unit
from likewise.methods.relative_patch import without_colour
from likewise.methods.simmim import SimMIM
from likewise.types import Batch, DataInfo
from likewise.verbs.settings import keywords
from likewise.views import RECIPES
from test_distributed import without_batch_norm
from test_losses import slow_covariance, slow_variance
from test_losses_contrastive import (
    agree,
    draw,
    slow_centre,
    slow_decoupled,
    slow_info_nce,
    slow_queue,
    slow_scale,
    slow_shape,
    slow_sigreg,
    slow_twins,
    slow_whiten,
)
from test_losses_distillation import slow_crossed, slow_hidden_error, slow_koleo, slow_sinkhorn, slow_softmax

N, N_IMAGES, WIDTH = 9, 12, 16
DATA = DataInfo(N_IMAGES, 3, 8)
SMALL = {"hidden_dim": 16, "output_dim": 8, "n_prototypes": 8}
OTHER = {  # than the defaults, so that what is ignored is noticed
    "temperature": 0.3,
    "teacher_temperature": 0.06,
    "final_teacher_temperature": 0.1,
    "least_hidden": 0.3,
    "most_hidden": 0.6,
    "epsilon": 0.1,
    "sharpening": 0.5,
}
LABELS = torch.tensor([0, 1, -1, 0, 2, -1, 1, 0, 0, 1, 2, -1])
TEMPERATURE = OTHER["temperature"]
SHARP = 0.08  # the teacher's temperature at half of its way from 0.06 to 0.1
PROGRESS = 0.15  # where it is there
PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]  # of two large and two small views: all but the small ones
TAUGHT = [(i, j) for i in (0, 1) for j in range(4) if i != j]  # a large view and another that learns from it


def make(name: str, **options: Any) -> Any:
    """A method on 16 patches of 2 x 2 pixels, with weights away from their start: a teacher that equals its student,
    or a bias of zero, would hide which of them is used."""
    torch.manual_seed(0)
    made = METHODS[name]
    usual = {key: value for key, value in {**SMALL, **OTHER}.items() if key in keywords(made)}
    encoder = ViT(DATA, width=WIDTH, depth=3, n_heads=2, patch=2)
    method = made(encoder, DATA, views=RECIPES[made.default_views](8), **{**usual, **options})
    shake(method, 0.1)
    return method


@torch.no_grad()
def shake(module: nn.Module, much: float) -> None:
    for p in module.parameters():
        p.add_(much * torch.randn_like(p))


def batch_of(method: Any, number: int = 0, n: int = N, progress: float = PROGRESS) -> Batch:
    """`n` of the images in no order: two large and two small views of each, or what the method takes."""
    ids = draw(N_IMAGES, seed=number).argsort()[:n]
    sides = (8, 8, 4, 4) if method.multi_crop else (8,) * len(method.views)
    views = [draw(n, 3, side, side, seed=10 * number + i).sigmoid() for i, side in enumerate(sides)]
    return Batch(views, ids.unsqueeze(1), progress, Draws(0, 0, number, 101 + ids))


# MAE


def slow_rebuilt(drawn: Tensor, patches: Tensor, counted: Tensor, normalised: bool = True) -> Tensor:
    """The mean over images of the mean over their `counted` patches of a patch's mean squared error."""
    n, p = len(drawn), drawn.shape[2]
    total = torch.zeros(())
    for i in range(n):
        for t in counted[i].tolist():
            target = patches[i, t]
            if normalised:
                target = target - target.sum() / p
                target = target / torch.sqrt((target**2).sum() / (p - 1) + 1e-6)
            total = total + ((drawn[i, t] - target) ** 2).sum() / p / len(counted[i]) / n
    return total


def test_rebuilt_error() -> None:
    inputs, everything = (draw(4, 6, 5), draw(4, 6, 5, seed=1) * 0.3 + 0.5), draw(4, 6, seed=2).argsort(1)
    hidden, visible = everything[:, :4], everything[:, 4:]

    def ours(drawn: Tensor, patches: Tensor) -> Tensor:
        return rebuilt_error(drawn, patches, hidden).mean()

    assert agree(ours, lambda d, p: slow_rebuilt(d, p, hidden), *inputs)
    assert not agree(ours, lambda d, p: slow_rebuilt(d, p, visible), *inputs)
    assert not agree(ours, lambda d, p: slow_rebuilt(d, p, everything), *inputs)
    assert not agree(ours, lambda d, p: slow_rebuilt(d, p, hidden, normalised=False), *inputs)


def test_rebuilt_error_by_hand() -> None:
    """Three images of three patches, two hidden. Evenly spaced pixels become (-1, 0, 1), equal ones (0, 0, 0).

    In the first image both are drawn as zeros, each off by (1 + 0 + 1) / 3; in the second both are right; in the third
    one is right and one is off by 3 at one pixel of three, on average (0 + 9 / 3) / 2.
    """
    narrow, wide, flat, right = [1.0, 2.0, 3.0], [10.0, 30.0, 50.0], [5.0, 5.0, 5.0], [-1.0, 0.0, 1.0]
    zero, off, seen = [0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [9.0, -9.0, 4.0]
    patches = torch.tensor([[narrow, flat, wide], [flat, wide, narrow], [narrow, flat, wide]])
    drawn = torch.tensor([[zero, seen, zero], [seen, right, right], [right, off, seen]])
    hidden = torch.tensor([[2, 0], [1, 2], [0, 1]])
    assert rebuilt_error(drawn, patches, hidden).tolist() == pytest.approx([2 / 3, 0, 3 / 2], abs=1e-5)


@pytest.mark.parametrize(
    ("side", "mask_ratio", "n_hidden"),
    [(8, 0.75, 12), (8, 0.3, 5), (8, 0.6, 10), (4, 0.75, 3), (4, 0.05, 1), (4, 0.95, 3)],
)
def test_mae_hides_the_stated_share_but_neither_nothing_nor_everything(
    side: int, mask_ratio: float, n_hidden: int
) -> None:
    """And what is hidden has no influence on what is drawn, while all else has."""
    mae: MAE = make("mae", mask_ratio=mask_ratio)
    images, noise = draw(5, 3, side, side).sigmoid(), torch.rand(5, (side // 2) ** 2)
    drawn, hidden = mae.rebuild(images, noise)
    assert hidden.shape == (5, n_hidden)
    for t in range((side // 2) ** 2):
        y, x = t // (side // 2) * 2, t % (side // 2) * 2
        other = images.clone()
        other[:, :, y : y + 2, x : x + 2] = 1 - other[:, :, y : y + 2, x : x + 2]
        same = (mae.rebuild(other, noise)[0] == drawn).flatten(1).all(1)
        assert torch.equal(same, (hidden == t).any(1))


# SimMIM


def slow_absolute(drawn: Tensor, patches: Tensor, counted: Tensor) -> Tensor:
    """The mean over images of the mean absolute error over the pixels of their counted patches."""
    n, total = len(drawn), torch.zeros(())
    for i in range(n):
        chosen = counted[i].nonzero().flatten().tolist()
        errors = [abs(drawn[i, t, k] - patches[i, t, k]) for t in chosen for k in range(drawn.shape[2])]
        total = total + sum(errors) / len(errors) / n
    return total


def test_absolute_error() -> None:
    inputs, hidden = (draw(4, 6, 5), draw(4, 6, 5, seed=1)), draw(4, 6, seed=2) > 0
    assert hidden.any(1).all()

    def ours(drawn: Tensor, patches: Tensor) -> Tensor:
        return hidden_error(drawn, patches, hidden, beta=0.0).mean()

    assert agree(ours, lambda d, p: slow_absolute(d, p.detach(), hidden), *inputs)
    assert not agree(ours, lambda d, p: slow_absolute(d, p.detach(), torch.ones_like(hidden)), *inputs)
    assert not agree(ours, lambda d, p: slow_absolute(p.detach(), -d, hidden), *inputs)


def test_absolute_error_by_hand() -> None:
    """Three images of two patches of two pixels: off by 1 and 3 in the hidden one; right there; off by 2 in both."""
    drawn = torch.tensor([[[1.0, -3.0], [9.0, 9.0]], [[9.0, 9.0], [0.0, 0.0]], [[2.0, 2.0], [-2.0, 2.0]]])
    hidden = torch.tensor([[True, False], [False, True], [True, True]])
    assert hidden_error(drawn, torch.zeros(3, 2, 2), hidden, beta=0.0).tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    ("h", "w", "share", "side", "n"),
    [
        (4, 4, 0.6, 2, 2),
        (4, 4, 0.1, 2, 1),
        (6, 6, 0.99, 3, 3),
        (4, 6, 0.5, 1, 12),
        (5, 5, 0.5, 2, 4),
        (3, 5, 0.7, 2, 4),
    ],
)
def test_simmim_hides_squares(h: int, w: int, share: float, side: int, n: int) -> None:
    simmim: SimMIM = make("simmim", hidden_share=share, hidden_side=side)
    hidden = simmim.hidden(torch.zeros(40, 3, 2 * h, 2 * w), Draws(0, 0, 0, torch.arange(40)))
    assert hidden.shape == (40, h * w)
    down, across = math.ceil(h / side), math.ceil(w / side)
    squares = [
        hidden.unflatten(1, (h, w))[:, y * side : (y + 1) * side, x * side : (x + 1) * side].flatten(1)
        for y in range(down)
        for x in range(across)
    ]
    assert all(torch.equal(square.any(1), square.all(1)) for square in squares)
    chosen = torch.stack([square.any(1) for square in squares], 1)
    assert (chosen.sum(1) == n).all()
    assert chosen.any(0).all()  # any square may be hidden


def test_what_is_hidden_has_no_influence_on_what_simmim_draws() -> None:
    simmim: SimMIM = make("simmim")
    images, hidden = draw(5, 3, 8, 8).sigmoid(), draw(5, 16) > 0
    drawn, seen = simmim.drawn(images, hidden), only(torch.ones(5, 3, 8, 8), ~hidden, 2) == 1
    assert torch.equal(simmim.drawn(torch.where(seen, images, 0.3), hidden), drawn)
    assert not torch.equal(simmim.drawn(1 - images, hidden), drawn)


# The predictor of MAE and I-JEPA


def test_each_token_ends_at_its_patch_and_mask_tokens_at_the_others() -> None:
    predictor: Any = Predictor(8, 8, 0, 8)
    predictor.enter = predictor.leave = nn.Identity()
    n_seen, shuffled, seen = 3, draw(5, 8).argsort(1), draw(5, 1 + 3, 8, seed=1)
    expected = predictor.mask_token.expand(5, 8, 8).clone()
    for image in range(5):
        for i in range(n_seen):
            expected[image, shuffled[image, i]] = seen[image, 1 + i]  # the class token leads
    torch.testing.assert_close(predictor(seen, shuffled, (2, 4)), expected + positions(2, 4, 8))


# What follows a step

HEADS = {
    "byol": ("projector",),
    "data2vec": (),
    "dino": ("projector", "prototypes"),
    "dinov2": ("projector", "prototypes"),
    "ibot": ("projector", "prototypes"),
    "ijepa": (),
    "moco-v2": ("projector",),
    "moco-v3": ("projector",),
    "msn": ("projector",),
}


@pytest.mark.parametrize("name", METHODS)
def test_after_a_step_teachers_follow_and_nothing_else_moves(name: str) -> None:
    """BYOL's momentum, 1 - (1 - start) (cos(pi progress) + 1) / 2; MoCo v2's stays."""
    labels = {"labels": LABELS} if "labels" in METHODS[name].needs else {}
    method = make(name, **({"teacher_momentum": 0.6} if name in HEADS else labels))
    assert (name in HEADS) == any(isinstance(part, Teacher) for part in method.modules())
    for progress in (0.25, 0.75):
        shake(method, 1.0)
        expected = {key: value.clone() for key, value in method.state_dict().items()}
        if name in HEADS:
            m = 0.6 if name == "moco-v2" else 1 - 0.4 * (math.cos(math.pi * progress) + 1) / 2
            parts = [method.encoder, *(getattr(method, part) for part in HEADS[name])]
            student = [p for part in parts for p in part.parameters()]
            for (key, slow), fast in zip(method.teacher.named_parameters("teacher"), student, strict=True):
                expected[key] = (m * slow + (1 - m) * fast).detach()
        method.after_step(progress)
        for key, value in method.state_dict().items():
            torch.testing.assert_close(value, expected[key], msg=f"{key} after {progress}")


# Whole steps. A reference is given the method, the batch, a dictionary for what it must remember from step to step, and
# the options with which the method was made; it returns the terms, and may leave the scores in the dictionary.

Kept = dict[str, Any]
Terms = dict[str, Tensor]


def projections(m: Any, batch: Batch) -> list[Tensor]:
    return [m.projector(m.encoder(view)) for view in batch.views]


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def apart(a: Tensor, b: Tensor) -> Tensor:
    """The squared distance of directions, averaged over rows."""
    return mean([((x / x.norm() - y / y.norm()) ** 2).sum() for x, y in zip(a, b, strict=True)])


def simclr(m: Any, batch: Batch, kept: Kept) -> Terms:
    z, loss = projections(m, batch), theirs.SelfSupervisedLoss(theirs.NTXentLoss(temperature=TEMPERATURE))
    return {"contrast": mean([loss(z[i], z[j]) for i, j in PAIRS])}


def dcl(m: Any, batch: Batch, kept: Kept) -> Terms:
    z = projections(m, batch)
    return {"contrast": mean([slow_decoupled(z[i], z[j], TEMPERATURE) for i, j in PAIRS])}


def byol(m: Any, batch: Batch, kept: Kept) -> Terms:
    """The teacher, which is another network by now, sees large views alone; all others predict what it made of them."""
    predicted, taught = [m.predictor(z) for z in projections(m, batch)], [m.teacher(v) for v in batch.views[:2]]
    return {"distance": mean([apart(predicted[j], taught[i]) for i, j in TAUGHT])}


def simsiam(m: Any, batch: Batch, kept: Kept) -> Terms:
    z = projections(m, batch)
    predicted = [m.predictor(x) for x in z]
    return {"distance": mean([apart(predicted[j], z[i].detach()) for i, j in TAUGHT])}


def moco_v3(m: Any, batch: Batch, kept: Kept) -> Terms:
    """2 T (ctr(q1, k2) + ctr(q2, k1)) for two views."""
    predicted, taught = [m.predictor(z) for z in projections(m, batch)], [m.teacher(v) for v in batch.views[:2]]
    met = [slow_info_nce(predicted[j], taught[i], TEMPERATURE) for i, j in TAUGHT]
    return {"contrast": 4 * TEMPERATURE * mean(met)}


def moco_v2(m: Any, batch: Batch, kept: Kept, queue_size: int) -> Terms:
    """The student's query, the teacher's key, and an earlier key: twelve images have room for one."""
    queue = kept.get("queue", m.queue.rows().clone())
    query, key = m.projector(m.encoder(batch.views[0])), m.teacher(batch.views[1])
    kept["queue"] = torch.cat([queue, unit(key)])[-(N_IMAGES // 8) :]
    return {"contrast": slow_queue(query, key, queue, TEMPERATURE)}


def nnclr(m: Any, batch: Batch, kept: Kept) -> Terms:
    """Large views have neighbours among the last six projections of the first view, as many as half the images."""
    support, z = kept.get("support", m.support.rows().clone()), projections(m, batch)
    near = [torch.stack([max(support, key=lambda row: float(x @ row)) for x in zs.detach()]) for zs in z[:2]]
    kept["support"] = torch.cat([support, unit(z[0].detach())])[-(N_IMAGES // 2) :]
    predicted = [m.predictor(x) for x in z]
    return {"contrast": mean([slow_info_nce(near[i], predicted[j], TEMPERATURE) for i, j in TAUGHT])}


def vicreg(m: Any, batch: Batch, kept: Kept, **weights: float) -> Terms:
    """Equation 6 of the paper for two views; the authors' code halves the variances, not the covariances."""
    z = projections(m, batch)
    return {
        "invariance": weights["invariance_weight"] * mean([((z[i] - z[j]) ** 2).mean() for i, j in PAIRS]),
        "variance": weights["variance_weight"] * mean([slow_variance(x) for x in z]),
        "covariance": weights["covariance_weight"] * 2 * mean([slow_covariance(x) for x in z]),
    }


def barlow_twins(m: Any, batch: Batch, kept: Kept, redundancy_weight: float) -> Terms:
    z = projections(m, batch)
    diagonal = mean([slow_twins(z[i], z[j], 0.0) for i, j in PAIRS])
    both = mean([slow_twins(z[i], z[j], 1.0) for i, j in PAIRS])
    return {"invariance": diagonal, "redundancy": redundancy_weight * (both - diagonal)}


def w_mse(m: Any, batch: Batch, kept: Kept, slice_size: int, shrinkage: float) -> Terms:
    """Nine images in two slices, of five and four, as the draws shuffle them; small views meet each other too."""
    order = batch.draws.bits("slices").argsort()
    z, loss = projections(m, batch), torch.zeros(N)
    for rows in (order[:5], order[5:]):
        white = [slow_whiten(x[rows], shrinkage) for x in z]
        for a, b in combinations(white, 2):
            loss = loss.index_add(0, rows, ((unit(a) - unit(b)) ** 2).sum(1) / 6)
    kept["score"] = loss
    return {"distance": loss.mean()}


def supcon(m: Any, batch: Batch, kept: Kept, labels: Tensor) -> Terms:
    """That of pytorch-metric-learning, of each pair of views; an image without a label is a class of its own."""
    ids, loss, z = batch.ids.flatten(), theirs.SupConLoss(TEMPERATURE), projections(m, batch)
    classes = torch.where(labels < 0, 100 + torch.arange(N_IMAGES), labels)[ids]
    return {"contrast": mean([loss(torch.cat([z[i], z[j]]), classes.repeat(2)) for i, j in PAIRS])}


def npid(m: Any, batch: Batch, kept: Kept, bank_momentum: float, n_negatives: int) -> Terms:
    """An image's own row against the others of the bank, or a sample of them that stands for all."""
    bank = kept.setdefault("bank", m.bank.clone())
    z, rows = unit(m.head(m.encoder(batch.views[0]))), torch.arange(N_IMAGES)
    if n_negatives < N_IMAGES:
        rows = (batch.draws.step("negatives", n_negatives) * N_IMAGES).long()
    losses = []
    for v, i in zip(z, batch.ids.flatten().tolist(), strict=True):
        own = torch.exp(v @ bank[i] / TEMPERATURE)
        others = sum(torch.exp(v @ bank[j] / TEMPERATURE) for j in rows.tolist() if j != i)
        losses.append(torch.log(own + others * N_IMAGES / len(rows)) - torch.log(own))
    kept["bank"] = bank.clone()
    for v, i in zip(z.detach(), batch.ids.flatten().tolist(), strict=True):
        moved = bank_momentum * bank[i] + (1 - bank_momentum) * v
        kept["bank"][i] = moved / moved.norm()
    return {"instance": mean(losses)}


def exemplar(m: Any, batch: Batch, kept: Kept, dropout: float, merged: Tensor, **_: bool) -> Terms:
    """Dropout by draws, another for each view of an image; what is kept grows, so that features are as large."""
    drawn, classes = batch.draws.image("dropout", 4, WIDTH), merged[batch.ids.flatten()]
    features = [m.encoder(view) * (drawn[:, i] > dropout) / (1 - dropout) for i, view in enumerate(batch.views)]
    kept["error"] = mean([(m.classifier(x).argmax(1) != classes).float() for x in features])
    return {"cross-entropy": mean([F.cross_entropy(m.classifier(x), classes) for x in features])}


def swav(m: Any, batch: Batch, kept: Kept, queue_size: int) -> Terms:
    """Large views are assigned to prototypes together with earlier projections, which then make room for them."""
    z, queue = projections(m, batch), kept.get("queue", torch.zeros(0, 8))
    scores = torch.stack([m.prototypes(x) for x in z])
    assigned = [slow_sinkhorn(m.prototypes(torch.cat([x, queue])).detach(), OTHER["epsilon"]) for x in z[:2]]
    kept["queue"] = torch.cat([queue, *z[:2]])[-queue_size:].detach()
    return {"cross-entropy": slow_crossed(lambda i, image: assigned[i][image], scores / TEMPERATURE, 2)}


def dino(m: Any, batch: Batch, kept: Kept, centre_momentum: float) -> Terms:
    centre, taught = kept.get("centre", torch.zeros(8)), [m.teacher(view) for view in batch.views[:2]]
    kept["centre"] = centre_momentum * centre + (1 - centre_momentum) * torch.cat(taught).mean(0)
    scores = torch.stack([m.prototypes(x) for x in projections(m, batch)])

    def target(i: int, image: int) -> Tensor:
        return slow_softmax((taught[i][image] - centre) / SHARP)

    return {"cross-entropy": slow_crossed(target, scores / TEMPERATURE, 2)}


class Said(NamedTuple):
    """Of iBOT's two networks: scores of each view, features of the large ones, scores of hidden patches, row by row."""

    student: Tensor
    teacher: list[Tensor]
    features: list[Tensor]
    n_hidden: list[int]
    patches: Tensor
    taught_patches: Tensor


def said(m: Any, batch: Batch) -> Said:
    """The student sees large views with some patches replaced, the teacher sees them whole."""
    views, taught, features, patches, taught_patches = [], [], [], [], []
    n_hidden: list[int] = []
    for i, view in enumerate(batch.views):
        mask = m.mask(view, batch.draws.child(f"mask{i}")) if i < 2 else torch.zeros(N, 4, dtype=torch.bool)
        tokens = m.encoder.tokens(view, replace=(mask, m.mask_token))
        views.append(m.prototypes(m.projector(m.encoder.pooled(tokens))))
        if i < 2:
            whole = m.teacher.encoder.tokens(view)
            features.append(m.encoder.pooled(tokens))
            taught.append(m.teacher(view))
            n_hidden += mask.sum(1).tolist()
            assert set(n_hidden) <= {0, *range(round(OTHER["least_hidden"] * 16), round(OTHER["most_hidden"] * 16) + 1)}
            patches.append(m.prototypes(m.projector(tokens[:, 1:][mask])))
            taught_patches.append(m.teacher.head(whole[:, 1:][mask]).detach())
    return Said(torch.stack(views), taught, features, n_hidden, torch.cat(patches), torch.cat(taught_patches))


def slow_told(s: Said, targets: list[Tensor]) -> Tensor:
    """Over images, those without hidden patches too, the mean of the cross-entropy of an image's hidden patches."""
    errors = [-(t * torch.log(slow_softmax(x / TEMPERATURE))).sum() for t, x in zip(targets, s.patches, strict=True)]
    per_image, first = [], 0
    for n in s.n_hidden:
        per_image.append(mean(errors[first : first + n]) if n else torch.zeros(()))
        first += n
    assert 0 in s.n_hidden  # or the zeros would not be seen
    return mean(per_image)


def ibot(m: Any, batch: Batch, kept: Kept, centre_momentum: float) -> Terms:
    """As DINO, with a second centre for the patches."""
    s = said(m, batch)
    centre, patch_centre = kept.get("centres", (torch.zeros(8), torch.zeros(8)))
    kept["centres"] = tuple(
        centre_momentum * old + (1 - centre_momentum) * new.mean(0)
        for old, new in ((centre, torch.cat(s.teacher)), (patch_centre, s.taught_patches))
    )
    images = slow_crossed(
        lambda i, image: slow_softmax((s.teacher[i][image] - centre) / SHARP), s.student / TEMPERATURE, 2
    )
    return {
        "images": images,
        "patches": slow_told(s, [slow_softmax((row - patch_centre) / SHARP) for row in s.taught_patches]),
    }


def dinov2(m: Any, batch: Batch, kept: Kept, koleo_weight: float) -> Terms:
    """Both large views of all images share one Sinkhorn, all hidden patches another; KoLeo is of each view."""
    s = said(m, batch)
    views, patches = slow_sinkhorn(torch.cat(s.teacher), SHARP), slow_sinkhorn(s.taught_patches, SHARP)
    return {
        "images": slow_crossed(lambda i, image: views[i * N + image], s.student / TEMPERATURE, 2),
        "patches": slow_told(s, list(patches)),
        "koleo": koleo_weight * (slow_koleo(s.features[0]) + slow_koleo(s.features[1])),
    }


def msn(m: Any, batch: Batch, kept: Kept, mask_ratio: float, balance_weight: float) -> Terms:
    """Equation 2 of the paper, but for log k, which makes the balance term 0 at best."""
    z = projections(m, batch)
    for i, view in enumerate(batch.views[:2]):
        seen = batch.draws.image(f"mask{i}", 16).argsort(1)[:, : 16 - round(16 * mask_ratio)]
        z[i] = m.projector(m.encoder.pooled(m.encoder.tokens(view, keep=seen)))
    anchors = torch.stack([m.prototypes(x) for x in z]) / TEMPERATURE
    targets = [m.prototypes(m.teacher(view)).detach() / TEMPERATURE for view in batch.views[:2]]
    used = torch.stack([slow_softmax(row) for view in anchors for row in view]).mean(0)

    def sharpened(i: int, image: int) -> Tensor:
        p = slow_softmax(targets[i][image]) ** (1 / OTHER["sharpening"])
        return p / p.sum()

    return {
        "cross-entropy": slow_crossed(sharpened, anchors, 2),
        "imbalance": balance_weight * (math.log(8) + (used * torch.log(used)).sum()),
    }


def taught_layers(m: Any, batch: Batch, n_layers: int) -> Tensor:
    """The teacher's last layers, of the whole image: each patch's token normalised, then the mean."""
    layers = m.teacher.encoder.hidden(batch.views[0], layers=n_layers)
    return torch.stack([F.layer_norm(x[:, 1:], (WIDTH,)) for x in layers]).mean(0).detach()


def data2vec(m: Any, batch: Batch, kept: Kept, n_layers: int, beta: float, hidden_share: float) -> Terms:
    (images,) = batch.views
    mask = m.mask(images, batch.draws)
    assert (mask.sum(1) == round(16 * hidden_share)).all()
    predicted = m.predictor(m.encoder.tokens(images, replace=(mask, m.mask_token))[:, 1:])
    return {"prediction": slow_hidden_error(predicted, taught_layers(m, batch, n_layers), mask, beta)}


def ijepa(m: Any, batch: Batch, kept: Kept, n_layers: int) -> Terms:
    (images,) = batch.views
    shuffled, n_seen, hidden = m.masks(batch.draws, 4, 4)
    predicted = m.predictor(m.encoder.tokens(images, keep=shuffled[:, :n_seen]), shuffled, (4, 4))
    return {"prediction": slow_hidden_error(predicted, taught_layers(m, batch, n_layers), hidden, 1.0)}


def mae(m: Any, batch: Batch, kept: Kept, mask_ratio: float) -> Terms:
    (images,) = batch.views
    shuffled = batch.draws.image("mask", 16).argsort(1)
    n_seen = 16 - round(16 * mask_ratio)
    drawn = m.decoder(m.encoder.tokens(images, keep=shuffled[:, :n_seen]), shuffled, (4, 4))
    return {"reconstruction": slow_rebuilt(drawn, m.encoder.patches(images), shuffled[:, n_seen:])}


def rotnet(m: Any, batch: Batch, kept: Kept) -> Terms:
    """Four turns of each of four views; turn t is to be told as t."""
    found = [m.head(m.encoder(torch.rot90(view, turn, (2, 3)))) for view in batch.views for turn in range(4)]
    kept["shown"] = {"error": mean([(logits.argmax(1) != i % 4).float() for i, logits in enumerate(found)])}
    losses = [F.cross_entropy(logits, torch.full((N,), i % 4)) for i, logits in enumerate(found)]
    return {"cross-entropy": mean(losses)}


def puzzle(m: Any, batch: Batch) -> list[list[Tensor]]:
    """The nine tiles of each image, one by one: 2 x 2 pixels of cells as large."""
    corners = [(row, column) for row in range(3) for column in range(3)]
    (images,) = batch.views
    return [[image[None, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] for y, x in corners] for image in images]


def jigsaw(m: Any, batch: Batch, kept: Kept, n_permutations: int) -> Terms:
    losses, wrong, drawn = [], [], batch.draws.image("shuffle", 1)
    for cut, u in zip(puzzle(m, batch), drawn, strict=True):
        number = int(u * n_permutations)
        told = []
        for i in m.orders[number].tolist():
            tile = cut[i] - cut[i].mean((2, 3), keepdim=True)
            tile = tile / cut[i].std((2, 3), keepdim=True).clamp(min=0.02) / 4 + 0.5
            told.append(m.enter(m.encoder(tile)).relu())
        logits = m.head(torch.cat(told, 1))
        losses.append(F.cross_entropy(logits, torch.tensor([number])))
        wrong.append((logits.argmax(1) != number).float())
    kept["shown"] = {"error": mean(wrong)}
    return {"cross-entropy": mean(losses)}


def relative_patch(m: Any, batch: Batch, kept: Kept, drop_colours: bool) -> Terms:
    losses, wrong = [], []
    for image, cut in enumerate(puzzle(m, batch)):
        if drop_colours:
            grey = without_colour(torch.cat(cut).unsqueeze(0), replace(batch.draws, keys=batch.draws.keys[[image]]))
            cut = list(grey[0].split(1))
        features = [m.encoder(tile) for tile in cut]
        for place, other in enumerate([0, 1, 2, 3, 5, 6, 7, 8]):
            logits = m.head(torch.cat([features[4], features[other]], 1))
            losses.append(F.cross_entropy(logits, torch.tensor([place])))
            wrong.append((logits.argmax(1) != place).float())
    kept["shown"] = {"error": mean(wrong)}
    return {"cross-entropy": mean(losses)}


def colourisation(m: Any, batch: Batch, kept: Kept, equal_share: float) -> Terms:
    """Two places a side, each the mean colour of 4 x 4 pixels; how usual colours are is known from earlier steps."""
    (images,) = batch.views
    lab, losses = kornia.color.rgb_to_lab(images), []
    usual = kept.get("usual", [torch.full((260,), 1 / 260)])
    known = torch.stack(usual[1:]).mean(0) if len(usual) > 1 else usual[0]
    weight = 1 / ((1 - equal_share) * known + equal_share / 260)
    weight, found = weight / (known * weight).sum(), torch.zeros(260)
    tokens = m.encoder.tokens((lab[:, :1] / 100).expand(-1, 3, -1, -1))[:, 1:]
    places = m.enter(tokens.transpose(1, 2).reshape(N, WIDTH, 4, 4))
    logits = m.leave(m.mix(F.interpolate(places, scale_factor=0.5, mode="bilinear")).permute(0, 2, 3, 1))
    for image in range(N):
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            colour = lab[image, 1:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((1, 2))
            distance, five = (m.middles - colour).norm(dim=1).sort()
            share = (-(distance[:5] ** 2) / 50).exp()
            share, five = share / share.sum(), five[:5]
            losses.append(-weight[five[0]] * (share * torch.log(slow_softmax(logits[image, y, x]))[five]).sum())
            found[five] += share / (4 * N)
    kept["usual"] = [*usual, found]
    return {"cross-entropy": mean(losses)}


def denoising(m: Any, batch: Batch, kept: Kept, destroyed: float, noise: float) -> Terms:
    (images,) = batch.views
    black = batch.draws.image("destroyed", 1, 8, 8) <= destroyed
    seen = torch.where(black, 0.0, images) + noise * normal(batch.draws.image("noise", 3, 8, 8))
    return {"reconstruction": ((m.decoder(m.encoder(seen)) - images) ** 2).mean()}


def inpainting(m: Any, batch: Batch, kept: Kept, n_missing: int) -> Terms:
    (images,) = batch.views
    missing, errors = rectangles(batch.draws, 8, 8, n_missing, area=(0.0625, 0.125)).any(1).reshape(N, 1, 8, 8), []
    drawn = m.decoder(m.encoder(images * ~missing + 0.5 * missing))
    for i in range(N):
        where = missing[i, 0]
        assert 0 < int(where.sum()) < 64
        errors.append((drawn[i][:, where] - images[i][:, where]).square().mean())
    return {"reconstruction": mean(errors)}


def vae(m: Any, batch: Batch, kept: Kept, code_dim: int, deviation: float, beta: float) -> Terms:
    """Equation 10 of the paper, with one draw of the code and normal pixels."""
    (images,) = batch.views
    code = m.code(m.encoder(images))
    middle, log_variance = code[:, :code_dim], code[:, code_dim:]
    drawn = m.decoder(middle + torch.exp(0.5 * log_variance) * normal(batch.draws.image("code", code_dim)))
    apart = -0.5 * (1 + log_variance - middle**2 - torch.exp(log_variance)).sum(1)
    error = ((drawn - images) ** 2).sum((1, 2, 3)) / (2 * deviation**2)
    kept["score"] = error + beta * apart
    kept["shown"] = {"active": mean([(column.var(correction=0) > 0.01).float() for column in middle.detach().T])}
    return {"reconstruction": error.mean(), "divergence": beta * apart.mean()}


def simmim(m: Any, batch: Batch, kept: Kept, hidden_share: float, hidden_side: int) -> Terms:
    """The two by two squares of four patches, or the sixteen patches themselves; pixels as the encoder sees them."""
    (images,) = batch.views
    n = (4 // hidden_side) ** 2
    first = batch.draws.image("hidden", n).argsort(1)[:, : round(n * hidden_share)]
    mask = torch.zeros(N, n, dtype=torch.bool).scatter(1, first, True)
    place = torch.arange(4) // hidden_side
    mask = mask[:, (place.unsqueeze(1) * (4 // hidden_side) + place).flatten()]
    drawn = m.draw(m.encoder.tokens(images, replace=(mask, m.mask_token))[:, 1:])
    return {"reconstruction": slow_absolute(drawn, m.encoder.patches((images - 0.5) / 0.25), mask)}


def bigan(m: Any, batch: Batch, kept: Kept, code_dim: int, penalty_weight: float) -> Terms:
    """Equation 3 of the paper, a pair at a time; encoder and decoder are judged by a copy that nothing moves."""
    (images,) = batch.views
    codes, sampled = m.code(m.encoder(images)), normal(batch.draws.image("code", code_dim))
    drawn, still = torch.sigmoid(m.decoder(sampled)), copy.deepcopy(m.discriminator).requires_grad_(False)
    own, penalties, others, wrong = [], [], [], []
    for i in range(N):
        x, c = images[i : i + 1].clone().requires_grad_(), codes[i : i + 1].detach().requires_grad_()
        true, false = m.discriminator(x, c), m.discriminator(drawn[i : i + 1].detach(), sampled[i : i + 1])
        own.append(-torch.log(true.sigmoid()) - torch.log(1 - false.sigmoid()))
        across, along = torch.autograd.grad(true, (x, c), create_graph=True)
        penalties.append(penalty_weight / 2 * ((across**2).sum() + (along**2).sum()))
        true, false = still(images[i : i + 1], codes[i : i + 1]), still(drawn[i : i + 1], sampled[i : i + 1])
        others.append(-torch.log(1 - true.sigmoid()) - torch.log(false.sigmoid()))
        wrong += [(true < 0).float(), (false > 0).float()]
    kept["shown"] = {"error": mean(wrong)}
    return {"discriminator": mean(own).squeeze(), "penalty": mean(penalties), "generator": mean(others).squeeze()}


def lejepa(m: Any, batch: Batch, kept: Kept, sigreg_weight: float, n_directions: int) -> Terms:
    z, directions, apart = off_the_large(m, batch, n_directions, kept)
    normality = mean([slow_sigreg(view, directions) for view in z])
    return {"invariance": (1 - sigreg_weight) * apart, "normality": sigreg_weight * normality}


def visreg(m: Any, batch: Batch, kept: Kept, visreg_weight: float, n_directions: int) -> Terms:
    z, directions, apart = off_the_large(m, batch, n_directions, kept)
    held = {
        "centre": mean([slow_centre(view) for view in z]),
        "scale": mean([slow_scale(view) for view in z]),
        "shape": mean([slow_shape(view, directions) for view in z]),
    }
    return {"invariance": (1 - visreg_weight) * apart, **{name: visreg_weight * term for name, term in held.items()}}


def off_the_large(m: Any, batch: Batch, n: int, kept: Kept) -> tuple[list[Tensor], Tensor, Tensor]:
    """Projections, directions, and how far each view is from the middle of the two large ones; none is held still."""
    z = projections(m, batch)
    directions = normal(batch.draws.step("directions", n, z[0].shape[1]))
    directions = torch.stack([direction / direction.norm() for direction in directions])
    each = [mean([((view[i] - (z[0][i] + z[1][i]) / 2) ** 2).mean() for view in z]) for i in range(N)]
    kept["score"] = torch.stack(each)
    return z, directions, mean(each)


MERGED = torch.arange(N_IMAGES) // 2
STEPS: list[tuple[str, Callable[..., Terms], dict[str, Any]]] = [
    ("simclr", simclr, {}),
    ("dcl", dcl, {}),
    ("byol", byol, {}),
    ("simsiam", simsiam, {}),
    ("moco-v3", moco_v3, {}),
    ("moco-v2", moco_v2, {"queue_size": 4}),
    ("nnclr", nnclr, {}),
    ("vicreg", vicreg, {"invariance_weight": 2.0, "variance_weight": 3.0, "covariance_weight": 5.0}),
    ("barlow-twins", barlow_twins, {"redundancy_weight": 0.3}),
    ("w-mse", w_mse, {"slice_size": 4, "shrinkage": 0.2}),
    ("supcon", supcon, {"labels": LABELS}),
    ("npid", npid, {"bank_momentum": 0.8, "n_negatives": 64}),
    ("npid", npid, {"bank_momentum": 0.8, "n_negatives": 7}),
    ("exemplar", exemplar, {"dropout": 0.25, "merged": MERGED, "pixel_mean": False}),
    ("swav", swav, {"queue_size": 11}),  # two of the first view, all nine of the second
    ("dino", dino, {"centre_momentum": 0.7}),
    ("ibot", ibot, {"centre_momentum": 0.7}),
    ("dinov2", dinov2, {"koleo_weight": 0.3}),
    ("msn", msn, {"mask_ratio": 0.75, "balance_weight": 0.7}),
    ("data2vec", data2vec, {"n_layers": 2, "beta": 0.5, "hidden_share": 0.7}),
    ("ijepa", ijepa, {"n_layers": 2}),
    ("lejepa", lejepa, {"sigreg_weight": 0.3, "n_directions": 5}),
    ("visreg", visreg, {"visreg_weight": 0.3, "n_directions": 5}),
    ("mae", mae, {"mask_ratio": 0.6}),
    ("simmim", simmim, {"hidden_share": 0.5, "hidden_side": 2}),
    ("simmim", simmim, {"hidden_share": 0.3, "hidden_side": 1}),
    ("rotnet", rotnet, {}),
    ("jigsaw", jigsaw, {"n_permutations": 5}),
    ("relative-patch", relative_patch, {"drop_colours": False}),
    ("relative-patch", relative_patch, {"drop_colours": True}),
    ("colourisation", colourisation, {"equal_share": 0.4}),
    ("denoising", denoising, {"destroyed": 0.4, "noise": 0.1}),
    ("inpainting", inpainting, {"n_missing": 2}),
    ("vae", vae, {"code_dim": 4, "deviation": 0.5, "beta": 2.0}),
    ("bigan", bigan, {"code_dim": 4, "penalty_weight": 3.0}),
]


def gradients(method: Any, terms: Terms) -> dict[str, Tensor]:
    method.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    return {key: torch.zeros_like(p) if p.grad is None else p.grad.clone() for key, p in method.named_parameters()}


@pytest.mark.parametrize(("name", "reference", "options"), STEPS, ids=[name for name, *_ in STEPS])
def test_a_step_is_its_formula(name: str, reference: Callable[..., Terms], options: dict[str, Any]) -> None:
    """Terms and gradients of three steps in a row, so that what the first leaves behind is seen by the others."""
    method, kept = make(name, **options), Kept()
    without_batch_norm(method)
    method.begin_epoch(0, Draws(0, 0, 0, 101 + torch.arange(N_IMAGES)))
    if method.looks:
        with torch.no_grad():
            method.look(batch_of(method, 7, n=N_IMAGES))
    for number in range(3):
        batch = batch_of(method, number)
        expected = reference(method, batch, kept, **options)
        step = method.step(batch)
        torch.testing.assert_close(step.terms, expected, rtol=1e-4, atol=1e-5)
        ours = gradients(method, step.terms)
        torch.testing.assert_close(ours, gradients(method, expected), rtol=1e-3, atol=1e-4)
        if "shown" in kept:
            torch.testing.assert_close(dict(step.shown), kept["shown"])
        if "error" in kept:
            torch.testing.assert_close(step.shown["error"], kept["error"])
        if "score" in kept:
            torch.testing.assert_close(step.score, kept["score"].detach(), rtol=1e-4, atol=1e-5)


def test_vicreg_of_two_views_is_that_of_pytorch_metric_learning() -> None:
    """By default, all terms together."""
    method = make("vicreg")
    without_batch_norm(method)
    batch = batch_of(method)
    batch = Batch(batch.views[:2], batch.ids, batch.progress, batch.draws)
    a, b = projections(method, batch)
    whole = theirs.VICRegLoss(25, 25, 1, eps=1e-4)(a, ref_emb=b)
    torch.testing.assert_close(torch.stack(list(method.step(batch).terms.values())).sum(), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["swav", "dino", "ibot", "dinov2"])
def test_prototypes_hold_still_until_their_thaw(name: str) -> None:
    method = make(name, thaw=0.4)
    (learned,) = (key for key, part in method.named_modules() if isinstance(part, Prototypes) and "teacher" not in key)
    for progress, moves in ((0.39, False), (0.4, True)):
        found = gradients(method, method.step(batch_of(method, progress=progress)).terms)
        assert bool(found[f"{learned}.directions"].any()) == moves
        assert found["encoder.embed.weight"].any()


def test_deepcluster_clusters_what_it_remembers_of_first_views() -> None:
    """First what it has looked at, then also what each step brings; a step's clusters are those of its images."""
    method = make("deepcluster", n_clusters=3, n_heads=2)
    without_batch_norm(method)
    looked = batch_of(method, n=N_IMAGES)
    with torch.no_grad():
        method.look(looked)
        bank = torch.zeros(N_IMAGES, 8)
        bank[looked.ids.flatten()] = unit(method.projector(method.encoder(looked.views[0])))
    for epoch in range(2):
        method.begin_epoch(epoch, Draws(0, epoch, 0, 101 + torch.arange(N_IMAGES)))
        centroids, clusters = method.centroids.clone(), method.clusters.clone()
        for head in range(2):
            assert torch.equal(clusters[head], (bank @ centroids[head].T).argmax(1))
            for cluster in clusters[head].unique():
                rows = bank[clusters[head] == cluster]
                torch.testing.assert_close(centroids[head, cluster], rows.sum(0) / rows.sum(0).norm())
        batch = batch_of(method, 1 + epoch)
        z, ids = [unit(x) for x in projections(method, batch)], batch.ids.flatten()
        heads = zip(centroids, clusters[:, ids], strict=True)
        losses = [F.cross_entropy(x @ c.T / TEMPERATURE, own) for c, own in heads for x in z]
        torch.testing.assert_close(method.step(batch).terms["cross-entropy"], mean(losses), rtol=1e-5, atol=1e-5)
        bank[ids] = z[0].detach()


# What lasts from epoch to epoch, and what heads are made of


@pytest.mark.parametrize("name", ["npid", "nnclr", "moco-v2"])
def test_later_epochs_begin_with_what_is_remembered(name: str) -> None:
    method, everybody = make(name), 101 + torch.arange(N_IMAGES)
    method.begin_epoch(0, Draws(0, 0, 0, everybody))
    method.step(batch_of(method))
    before = {key: value.clone() for key, value in method.named_buffers()}
    method.begin_epoch(1, Draws(0, 1, 3, everybody))
    for key, value in method.named_buffers():
        assert torch.equal(value, before[key]), key


def test_keys_are_made_in_shuffled_groups_with_statistics_of_their_own() -> None:
    """Shuffle BN: nine images in four groups, in another order than the queries'."""
    method, seen = make("moco-v2", key_groups=4), list[Tensor]()
    method.teacher.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    batch = batch_of(method)
    method.keys(batch)
    assert [len(images) for images in seen] == [3, 2, 2, 2]
    together = torch.cat(seen)
    assert not torch.equal(together, batch.views[1])
    assert sorted(float(x.sum()) for x in together) == sorted(float(x.sum()) for x in batch.views[1])


def test_deepclusters_heads_start_from_other_images() -> None:
    method = make("deepcluster", n_clusters=3, n_heads=2)
    method.bank.copy_(unit(draw(N_IMAGES, 8)))
    method.begin_epoch(1, Draws(0, 1, 0, 101 + torch.arange(N_IMAGES)))
    first, second = (sorted(head.tolist()) for head in method.centroids)
    assert first != second


@pytest.mark.parametrize("freeze", [True, False])
def test_moco_v3_keeps_a_transformers_patches_at_their_start(freeze: bool) -> None:
    method = make("moco-v3", freeze_patches=freeze)
    assert all(p.requires_grad != freeze for p in method.encoder.embed.parameters())
    assert all(p.requires_grad for p in method.encoder.blocks.parameters())


def test_no_more_dimensions_are_whitened_than_the_images_span() -> None:
    assert make("w-mse", output_dim=8).projector[-1].out_features == N_IMAGES // 2


LAYERS = {nn.Linear: "L", nn.ReLU: "R"}
MADE_OF = {  # B: batch normalisation, b: without a learned scale
    "barlow-twins": {"projector": "LBRLBRL"},
    "bigan": {"code": "Lb"},
    "byol": {"projector": "LBRL", "predictor": "LBRL"},
    "dcl": {"projector": "LBRL"},
    "deepcluster": {"projector": "LBRLb"},
    "dino": {"projector": "LBRLBRLb"},
    "dinov2": {"projector": "LBRLBRLb"},
    "ibot": {"projector": "LBRLBRLb"},
    "lejepa": {"projector": "LBRLBRL"},
    "moco-v2": {"projector": "LRL"},
    "moco-v3": {"projector": "LBRLBRLb", "predictor": "LBRLb"},
    "msn": {"projector": "LBRLBRL"},
    "nnclr": {"projector": "LBRLBRLb", "predictor": "LBRL"},
    "simclr": {"projector": "LBRL"},
    "simsiam": {"projector": "LBRLBRLb", "predictor": "LBRL"},
    "supcon": {"projector": "LBRL"},
    "swav": {"projector": "LBRLb"},
    "vicreg": {"projector": "LBRLBRL"},
    "visreg": {"projector": "LBRLBRL"},
    "w-mse": {"projector": "LBRL"},
}


@pytest.mark.parametrize("name", METHODS)
def test_heads_are_made_of_these_layers(name: str) -> None:
    """What the formulas above leave out: they are checked without batch normalisation."""
    method = make(name, **({"labels": LABELS} if "labels" in METHODS[name].needs else {}))
    made = {}
    for head in ("projector", "predictor", "code"):
        if isinstance(layers := getattr(method, head, None), nn.Sequential):
            names = [("B" if x.affine else "b") if isinstance(x, nn.BatchNorm1d) else LAYERS[type(x)] for x in layers]
            made[head] = "".join(names)
    assert made == MADE_OF.get(name, {})


@pytest.mark.parametrize("name", METHODS)
def test_vectors_are_not_decayed(name: str) -> None:
    method = make(name, **({"labels": LABELS} if "labels" in METHODS[name].needs else {}))
    for group in method.param_groups():
        kinds = {p.ndim > 1 for p in group["params"]}
        assert len(kinds) <= 1
        assert kinds <= {"weight_decay" not in group}
        assert group.get("weight_decay", 0.0) == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_supervised_is_the_mean_over_images_with_labels(smoothing: float) -> None:
    method = make("supervised", labels=LABELS, smoothing=smoothing)
    batch = batch_of(method)
    own, losses, right = LABELS[batch.ids.flatten()], [], []
    assert -1 in own
    for view in batch.views:
        for i, row in enumerate(method.classifier(method.encoder(view)).log_softmax(1)):
            if own[i] >= 0:
                losses.append(-(1 - smoothing) * row[own[i]] - smoothing * row.mean())
                right.append((row.argmax() == own[i]).float())
    step = method.step(batch)
    torch.testing.assert_close(step.terms["cross-entropy"], torch.stack(losses).mean())
    torch.testing.assert_close(step.shown["accuracy"], torch.stack(right).mean())


def test_moco_v3_has_one_layer_less_on_convolutions() -> None:
    method = METHODS["moco-v3"](build("convnet", DATA, width=8), DATA, views=RECIPES["asymmetric"](8))
    assert sum(isinstance(layer, nn.Linear) for layer in method.projector) == 2


@pytest.mark.parametrize("n", [2, 3, 5])
def test_no_key_is_alone_in_its_group(n: int) -> None:
    method, seen = make("moco-v2", key_groups=4), []
    method.teacher.encoder.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    method.keys(batch_of(method, n=n))
    assert sum(seen) == n
    assert min(seen) >= 2


def test_a_centroid_without_rows_stays() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    centroids, own = spherical_k_means(x, torch.tensor([0, 1, 2]), 3)
    assert centroids[1].tolist() == [1, 0]
    assert own.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize(("name", "buffer"), [("nnclr", "support.kept"), ("moco-v2", "queue.kept")])
def test_what_is_drawn_at_first_has_length_one(name: str, buffer: str) -> None:
    method = make(name)
    method.begin_epoch(0, Draws(0, 0, 0, 101 + torch.arange(N_IMAGES)))
    rows = method.get_buffer(buffer)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))


def test_whitening_keeps_two_dimensions() -> None:
    data = DataInfo(2, 3, 8)
    method = METHODS["w-mse"](build("vit-nano", data, depth=1, patch=4), data, views=RECIPES["strong"](8))
    assert method.projector[-1].out_features == 2


ITS_TERMS = ["mae", "simmim", "ijepa", "data2vec", "rotnet", "jigsaw", "relative-patch", "colourisation", "denoising"]
ITS_TERMS += ["inpainting", "vae", "dino", "ibot"]


@pytest.mark.parametrize("name", [*ITS_TERMS, "dinov2"])
def test_scores_are_the_images_shares_of_the_loss(name: str) -> None:
    """scores.npy is selected by: on average they are the terms (but for KoLeo), and each goes with its image."""
    method = make(name)
    without_batch_norm(method)
    batch = batch_of(method)
    step = method.step(batch)
    own = sum(value for key, value in step.terms.items() if key != "koleo")
    torch.testing.assert_close(step.score.mean(), own.detach())


@pytest.mark.parametrize("name", [name for name in ITS_TERMS if name not in ("dino", "ibot")])
def test_scores_follow_their_images(name: str) -> None:
    method = make(name)
    without_batch_norm(method)
    method.eval()
    batch, order = batch_of(method), torch.arange(N).flip(0)
    other = replace(
        batch,
        views=[view[order] for view in batch.views],
        ids=batch.ids[order],
        draws=replace(batch.draws, keys=batch.draws.keys[order]),
    )
    torch.testing.assert_close(method.step(other).score, method.step(batch).score[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["data2vec", "ibot", "ijepa", "mae", "simmim"])
def test_mask_tokens_start_small(name: str) -> None:
    torch.manual_seed(0)
    data = DataInfo(8, 3, 32)
    method: Any = METHODS[name](build("vit-nano", data, depth=1), data, views=())
    (token,) = (p for key, p in method.named_parameters() if key.endswith("mask_token"))
    assert float(token.detach().std()) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(
    ("name", "key", "part"),
    [
        ("mae", "decoder_depth", "decoder"),
        ("mae", "decoder_width", "decoder"),
        ("ijepa", "predictor_depth", "predictor"),
        ("ijepa", "predictor_width", "predictor"),
        ("vae", "drawing_width", "decoder"),
        ("bigan", "drawing_width", "decoder"),
        ("denoising", "drawing_width", "decoder"),
        ("inpainting", "drawing_width", "decoder"),
    ],
)
def test_sizes_of_heads_are_heeded(name: str, key: str, part: str) -> None:
    small, large = (sum(p.numel() for p in getattr(make(name, **{key: n}), part).parameters()) for n in (4, 8))
    assert small < large


def test_patches_return_to_their_places() -> None:
    encoder, images = build("vit-nano", DataInfo(8, 3, 32)), torch.rand(2, 3, 24, 32)
    assert torch.equal(whole(encoder.patches(images), images, 4), images)


def seen_part(images: Tensor, shown: Tensor, patch: int) -> Tensor:
    made = torch.full_like(images, 0.5)
    for i, t in shown.nonzero().tolist():
        y, x = t // (images.shape[3] // patch) * patch, t % (images.shape[3] // patch) * patch
        made[i, :, y : y + patch, x : x + patch] = images[i, :, y : y + patch, x : x + patch]
    return made


@pytest.mark.parametrize("name", ["data2vec", "ibot", "mae", "simmim"])
def test_pictures_of_masked_methods_show_what_is_hidden_and_what_is_drawn(name: str) -> None:
    method = make(name).eval()
    batch = batch_of(method)
    images, pictures = batch.views[0], method.pictures(batch)
    if name == "mae":
        drawn, index = method.rebuild(images, batch.draws.image("mask", 16))
        hidden = torch.zeros(N, 16, dtype=torch.bool).scatter(1, index, True)
        own = method.encoder.patches(images)
        drawn = drawn * (own.var(2, keepdim=True) + 1e-6).sqrt() + own.mean(2, keepdim=True)
    elif name == "simmim":
        hidden = method.hidden(images, batch.draws)
        drawn = method.drawn(images, hidden) * 0.25 + 0.5
    else:
        hidden = method.mask(images, batch.draws.child("mask0") if name == "ibot" else batch.draws)
    assert hidden.any()
    assert torch.equal(pictures["masked"], seen_part(images, ~hidden, 2))
    if name in ("mae", "simmim"):
        squares = drawn.detach().reshape(N, 4, 4, 3, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(N, 3, 8, 8).clamp(0, 1)
        where = seen_part(torch.ones_like(images), hidden, 2) == 1
        torch.testing.assert_close(pictures["rebuilt"], torch.where(where, squares, images))


def test_pictures_of_ijepa_show_what_is_seen_and_what_is_to_be_predicted() -> None:
    method = make("ijepa")
    batch = batch_of(method)
    pictures, (shuffled, n, hidden) = method.pictures(batch), method.masks(batch.draws, 4, 4)
    seen = torch.zeros_like(hidden).scatter(1, shuffled[:, :n], True)
    assert torch.equal(pictures["seen"], seen_part(batch.views[0], seen, 2))
    assert torch.equal(pictures["to predict"], seen_part(batch.views[0], hidden, 2))


def test_a_predictor_has_a_head_for_32_numbers() -> None:
    assert [block.n_heads for block in make("mae", decoder_width=96).decoder.blocks] == [3, 3]
    assert [block.n_heads for block in make("ijepa", predictor_width=16).predictor.blocks] == [1, 1]


@pytest.mark.parametrize("key", ["hidden_dim", "output_dim"])
@pytest.mark.parametrize("name", ["ibot", "dinov2"])
def test_the_sizes_of_projectors_are_heeded(name: str, key: str) -> None:
    small, large = (sum(p.numel() for p in make(name, **{key: n}).projector.parameters()) for n in (4, 8))
    assert small < large


@pytest.mark.parametrize("name", ["ijepa", "data2vec", "ibot", "dinov2"])
def test_the_spread_shown_is_that_of_the_first_view(name: str) -> None:
    method = make(name)
    without_batch_norm(method)
    batch = batch_of(method)
    if name in ("ijepa", "data2vec"):
        z = taught_layers(method, batch, 3).mean(1)
    else:
        mask = method.mask(batch.views[0], batch.draws.child("mask0"))
        z = method.encoder.pooled(method.encoder.tokens(batch.views[0], replace=(mask, method.mask_token)))
    torch.testing.assert_close(method.step(batch).shown["spread"], spread(z))


def test_a_dream_is_drawn_from_a_normal_code() -> None:
    method = make("vae", code_dim=4).eval()
    batch = batch_of(method)
    dreamt = method.decoder(normal(batch.draws.image("dream", 4))).clamp(0, 1)
    torch.testing.assert_close(method.pictures(batch)["drawn from noise"], dreamt.detach())


def test_one_patch_is_refused() -> None:
    for name in ("data2vec", "dinov2", "ibot", "ijepa", "mae", "msn", "simmim"):
        with pytest.raises(UsageError, match=r"patch=32: .* an image is a single one; expected less"):
            METHODS[name](build("vit-nano", DataInfo(8, 3, 32), patch=32, depth=1), DataInfo(8, 3, 32), views=())


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mae", {"decoder_width": 100}, "decoder_width=100: expected a multiple of 32, or of 4 below 64"),
        ("mae", {"decoder_width": 2}, "decoder_width=2: expected"),
        ("ijepa", {"predictor_width": 50}, "predictor_width=50: expected"),
    ],
)
def test_heads_divide_their_width(name: str, options: dict[str, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make(name, **options)


@pytest.mark.parametrize("width", [4, 16, 60, 64, 96, 160])
def test_widths_that_heads_divide_are_taken(width: int) -> None:
    method = make("mae", decoder_width=width)
    assert method.step(batch_of(method)).terms["reconstruction"].isfinite()


def test_data2vec_hides_a_patch_at_least() -> None:
    method = make("data2vec", hidden_share=0.01)
    batch = batch_of(method)
    assert method.mask(batch.views[0], batch.draws).any(1).all()


def test_a_grey_patch_of_one_pixel_has_no_deviation() -> None:
    data = DataInfo(8, 1, 8)
    with pytest.raises(UsageError, match="patch=1: "):
        METHODS["mae"](build("vit-nano", data, patch=1, depth=1), data, views=())
