"""DrLIM's loss against a scalar reference and finite differences, its batches, and its relation from the verb."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from likewise.cli import app
from likewise.draws import Draws
from likewise.encoders import build
from likewise.errors import DataError, UsageError
from likewise.images import open_images
from likewise.methods import recipe
from likewise.methods.drlim import DrLIM, attraction, distances, first_of_each, repulsion
from likewise.relations import Relation, alone, from_neighbours, from_pairs, nearest
from likewise.types import Batch, DataInfo, Encoder
from likewise.verbs.pretrain import pretrain
from likewise.views import affine, plain

N, SIZE = 24, 12
DATA = DataInfo(N, 1, SIZE)
PIXELS = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE), dtype=np.uint8)


class Flat(Encoder):
    """The first pixels of an image are its place."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.dim, self.scale = dim, torch.nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.dim] * self.scale


def pairs_of(n: int, similar: list[tuple[int, int]]) -> Relation:
    return from_pairs(torch.tensor(similar), torch.ones(len(similar), dtype=torch.bool), n)


def slow(z: list[list[float]], alike: list[list[bool]], margin: float, share: float) -> tuple[float, float]:
    """Hadsell et al., one pair and one number at a time: Y = 0 for similar, and the sums weighted."""
    attract = repel = 0.0
    n_alike = n_other = 0
    for i, j in itertools.combinations(range(len(z)), 2):
        d = math.sqrt(sum((a - b) ** 2 for a, b in zip(z[i], z[j], strict=True)))
        y = 0 if alike[i][j] else 1
        attract += (1 - y) * 0.5 * d**2
        repel += y * 0.5 * max(0.0, margin - d) ** 2
        n_alike, n_other = n_alike + 1 - y, n_other + y
    if share == 0 or not n_alike or not n_other:
        return attract / (n_alike + n_other), repel / (n_alike + n_other)
    return share * attract / n_alike, (1 - share) * repel / n_other


def batch_of(images: Tensor, ids: list[list[int]], n_views: int = 1) -> Batch:
    views = [images[torch.tensor(ids).flatten()] for _ in range(n_views)]
    return Batch(views, torch.tensor(ids), 0.0, Draws(0, 0, 0, torch.tensor(ids).flatten()))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.2])
@pytest.mark.parametrize("margin", [1.0, 0.4])
def test_loss_and_gradient_are_the_paper_s(share: float, margin: float) -> None:
    z = torch.rand(N, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    relation = pairs_of(N, [(0, 1), (1, 2), (3, 7), (7, 0), (9, 10)])
    method = DrLIM(Flat(), DATA, views=plain(SIZE), relation=relation, margin=margin, similar_share=share)
    ids = [3, 1, 0, 7, 12, 2]
    alike = relation.similar(torch.tensor(ids)).tolist()
    leaf = z[ids].clone().requires_grad_()
    terms = method.step(Batch([leaf], torch.tensor(ids)[:, None], 0.0, Draws(0, 0, 0, torch.tensor(ids)))).terms
    places = z[ids].flatten(1)[:, :2].double()
    expected = slow(places.tolist(), alike, margin, share)
    assert [float(terms["attraction"].detach()), float(terms["repulsion"].detach())] == pytest.approx(
        expected, rel=1e-5
    )
    sum(terms.values()).backward()
    step = 1e-6
    for i, j in itertools.product(range(len(ids)), range(2)):
        sides = []
        for sign in (1, -1):
            moved = places.clone()
            moved[i, j] += sign * step
            sides.append(sum(slow(moved.tolist(), alike, margin, share)))
        difference = (sides[0] - sides[1]) / (2 * step)
        assert float(leaf.grad.flatten(1)[i, j]) == pytest.approx(difference, abs=2e-5)
    wrong = slow(places.tolist(), alike, margin * 1.1, share)  # the test can fail
    assert float(terms["repulsion"].detach()) != pytest.approx(wrong[1], rel=1e-5)


def test_springs_by_hand() -> None:
    d = torch.tensor([0.0, 0.25, 1.0, 2.0], requires_grad=True)
    attraction(d).sum().backward()
    assert d.grad.tolist() == [0.0, 0.25, 1.0, 2.0]  # as strong as it is long
    d.grad = None
    assert repulsion(d, 1.0).tolist() == pytest.approx([0.5, 0.28125, 0.0, 0.0])
    repulsion(d, 1.0).sum().backward()
    assert d.grad.tolist() == [-1.0, -0.75, 0.0, 0.0]  # pushes up to the margin, and never pulls


def test_a_dissimilar_pair_at_distance_zero_has_a_finite_gradient() -> None:
    z = torch.zeros(3, 2, requires_grad=True)
    repulsion(distances(z), 1.0).sum().backward()
    assert z.grad.tolist() == [[0.0, 0.0]] * 3
    images = torch.zeros(N, 1, SIZE, SIZE)
    method = DrLIM(build("drlim-mnist", DATA), DATA, views=plain(SIZE), relation=pairs_of(N, [(0, 1)]))
    sum(method.step(batch_of(images, [[0], [1], [2], [3]])).terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters())


def test_distances_are_of_pairs_in_order_and_exact_for_near_points() -> None:
    z = torch.tensor([[1000.0, 0.0], [1000.0, 1e-3], [1000.0, 1.0]])
    assert distances(z).tolist() == pytest.approx([1e-3, 1.0, 0.999], rel=1e-5)


def test_an_image_that_joined_twice_counts_once() -> None:
    images = torch.rand(N, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    method = DrLIM(Flat(), DATA, views=plain(SIZE), relation=pairs_of(N, [(0, 1), (1, 2)]))
    twice, once = method.step(batch_of(images, [[0, 1], [2, 1], [0, 0]])), method.step(batch_of(images, [[0, 1, 2]]))
    for name, value in once.terms.items():
        assert float(twice.terms[name].detach()) == pytest.approx(float(value.detach()), rel=1e-6)
    assert first_of_each(torch.tensor([5, 3, 5, 1, 3])).tolist() == [0, 1, 3]


def test_copies_of_similar_images_are_similar() -> None:
    """With two views the relation is closed under them: 2 copies of 3 images of which two are alike."""
    images = torch.rand(N, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    method = DrLIM(Flat(), DATA, views=affine(SIZE), relation=pairs_of(N, [(0, 1)]), similar_share=0.0)
    views = [images, images + 0.1]
    ids = torch.tensor([[0], [1], [2]])
    batch = Batch([view[:3] for view in views], ids, 0.0, Draws(0, 0, 0, ids.flatten()))
    places = torch.cat([view[:3].flatten(1)[:, :2] for view in views]).tolist()
    originals = [0, 1, 2, 0, 1, 2]
    alike = [[a == b or {a, b} == {0, 1} for b in originals] for a in originals]
    found = [float(value.detach()) for value in method.step(batch).terms.values()]
    assert found == pytest.approx(slow(places, alike, 1.0, 0.0), rel=1e-5)


def test_order_brings_seeds_and_what_is_like_them_together() -> None:
    relation = from_neighbours(nearest(torch.rand(N, 3, generator=torch.Generator().manual_seed(0)), 3))
    method = DrLIM(Flat(), DATA, views=plain(SIZE), relation=relation, companions=4)
    order = method.order(0, Draws(0, 0, 0, torch.arange(N) * 7919))
    assert order.shape == (N, 5)
    assert sorted(order[:, 0].tolist()) == list(range(N))
    for seed, *others in order.tolist():
        assert bool(relation.similar(torch.tensor([seed, *others]))[0].all())
        assert seed not in others
    without = DrLIM(Flat(), DATA, views=affine(SIZE))
    assert without.order(0, Draws(0, 0, 0, torch.arange(N))).shape == (N, 1)
    assert without.relation.n_similar == alone(N).n_similar == 0


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"relation": pairs_of(5, [(0, 1)])}, DataError, "of 5 images; expected the 24"),
        ({"relation": "neighbours:5"}, UsageError, "expected a Relation"),
        ({"views": plain(SIZE)}, UsageError, "nothing is similar"),
        ({"margin": 0.0}, UsageError, "margin=0.0"),
        ({"companions": -1}, UsageError, "companions=-1"),
        ({"similar_share": 1.0}, UsageError, "similar_share=1.0"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        DrLIM(Flat(), DATA, **{"views": affine(SIZE), **options})


def test_the_map_keeps_neighbours_together_and_the_run_resumes(tmp_path: Path) -> None:
    """Two bundles of images, told by a file of pairs alone; the verb hands the relation on."""
    rows = [f"{i},{j},1" for i, j in itertools.combinations(range(N), 2) if i % 2 == j % 2]
    (tmp_path / "pairs.csv").write_text("\n".join(["id_a,id_b,similar", *rows]) + "\n")
    settings = {"method": "drlim", "encoder": "drlim-mnist", "views": "plain", "size": SIZE, "batch_size": 16}
    settings |= {"relation": str(tmp_path / "pairs.csv"), "steps": 60, "lr": 1e-2, "companions": 2}
    result = pretrain(open_images(PIXELS), out=tmp_path / "run", **settings)
    assert recipe(DrLIM).steps
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["shown"]["similar distance"] < 0.3 < 0.7 < lines[-1]["shown"]["other distance"]
    again = pretrain(open_images(PIXELS), out=tmp_path / "run", resume=True, **settings)
    assert again["weights"] == result["weights"]
    with pytest.raises(UsageError, match="relation"):
        pretrain(open_images(PIXELS), out=tmp_path / "run", resume=True, **{**settings, "relation": "neighbours:3"})


@pytest.mark.parametrize(
    ("rows", "code", "says"),
    [("0,9999,1", 3, "image 9999 is unknown"), ("0,1,0", 3, "relation is empty"), ("0,1,1\n1,0,0", 3, "both 1 and 0")],
)
def test_bad_relations_are_one_line_and_exit_3(
    rows: str, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("id_a,id_b,similar\n" + rows + "\n")
    arguments = ["pretrain", "digits", "--out", str(tmp_path / "run"), "--method", "drlim", "--steps", "1", "--quiet"]
    with pytest.raises(SystemExit) as stop:
        app([*arguments, "--set", f"relation={tmp_path / 'pairs.csv'}"])
    assert stop.value.code == code
    message = capsys.readouterr().err.strip()
    assert says in message
    assert "\n" not in message
