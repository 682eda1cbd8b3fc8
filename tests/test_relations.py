"""Relations against brute force: neighbours, closures, draws, and what cannot be a relation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from likewise.errors import DataError, UsageError
from likewise.images import open_images
from likewise.relations import Relation, alone, from_labels, from_neighbours, from_pairs, nearest, read_pairs
from likewise.verbs.relation import make_relation


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def brute(x: Tensor, k: int) -> Tensor:
    """All differences in double precision; the lower id among equals."""
    distances = (x.double()[:, None] - x.double()[None]).square().sum(2).fill_diagonal_(torch.inf)
    return distances.sort(dim=1, stable=True).indices[:, :k]


def matrix(relation: Relation) -> list[list[bool]]:
    """The definition, pair by pair."""
    pairs = {frozenset(pair) for pair in relation.pairs.tolist()}
    groups = relation.groups.tolist()
    return [[a == b or frozenset((a, b)) in pairs for b in groups] for a in groups]


@pytest.mark.parametrize("memory", [1 << 12, 1 << 16, 1 << 28])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_nearest_is_exact_whatever_the_blocks(memory: int, scale: float) -> None:
    x = 100 + scale * random(203, 7)  # far from the origin, where single precision would lose the digits
    assert torch.equal(nearest(x, 5, memory=memory), brute(x, 5))


def test_nearest_breaks_ties_by_the_lower_id() -> None:
    x = random(9, 4).round().repeat(20, 1)  # many equal rows: no candidate list can hold them all
    assert torch.equal(nearest(x, 3, memory=1 << 12), brute(x, 3))
    with pytest.raises(AssertionError):
        assert torch.equal(nearest(x, 3).flip(1), brute(x, 3))


def test_rows_with_many_copies_are_solved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(300, 6)
    x[::2] = 0.5
    expected, sorts, sort = brute(x, 4), [], Tensor.sort
    monkeypatch.setattr(Tensor, "sort", lambda *given, **how: sorts.append(1) or sort(*given, **how))
    assert torch.equal(nearest(x, 4), expected)
    assert len(sorts) < 10


def test_nearest_is_what_scikit_learn_finds() -> None:
    x = random(300, 20, seed=1)
    theirs = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(x.numpy()).kneighbors(return_distance=False)
    assert nearest(x, 5).tolist() == theirs.tolist()


def test_nearest_takes_all_others_at_most() -> None:
    x = random(6, 2)
    assert torch.equal(nearest(x, 5), brute(x, 5))
    for k in (0, 6):
        with pytest.raises(UsageError, match=f"neighbours={k}: expected 1 to 5"):
            nearest(x, k)
    with pytest.raises(DataError, match="not finite"):
        nearest(torch.full((4, 2), torch.nan), 1)


@pytest.mark.data
def test_counts_of_the_paper() -> None:
    """3,000 fours and 3,000 nines, five neighbours each: 30,000 directed pairs among 17,997,000."""
    images = open_images("mnist")
    ids = np.concatenate([np.flatnonzero(images.labels == digit)[:3000] for digit in (4, 9)])
    x = images.source(ids).pixels.flatten(1).float() / 255
    neighbours = nearest(x, 5)
    relation = from_neighbours(neighbours)
    assert neighbours.numel() == 30_000
    assert relation.n_pairs == 17_997_000
    mutual = {(i, j) for i, row in enumerate(neighbours.tolist()) for j in row}
    assert relation.n_similar == len({frozenset(pair) for pair in mutual})
    closed = relation.copied(torch.arange(6000).repeat_interleave(5))
    assert len(closed) == 30_000
    assert closed.n_similar == 25 * relation.n_similar + 10 * 6000


def relations() -> st.SearchStrategy[Relation]:
    """Any relation of up to 12 images in up to 6 groups."""
    groups = st.lists(st.integers(0, 5), min_size=1, max_size=12)

    @st.composite
    def build(draw: st.DrawFn) -> Relation:
        members = draw(groups)
        last = max(members)
        pairs = draw(st.lists(st.tuples(st.integers(0, last), st.integers(0, last)), max_size=10))
        return Relation(torch.tensor(members), torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2))

    return build()


@settings(max_examples=60, deadline=None)
@given(relations(), st.data())
def test_similar_and_counts_are_the_definition(relation: Relation, data: st.DataObject) -> None:
    whole = torch.tensor(matrix(relation))
    ids = torch.tensor(data.draw(st.permutations(range(len(relation)))))
    assert torch.equal(relation.similar(ids), whole[ids][:, ids])
    assert relation.n_similar == int(whole.triu(1).sum())
    assert relation.n_pairs == len(relation) * (len(relation) - 1) // 2


@settings(max_examples=40, deadline=None)
@given(relations())
def test_draws_reach_every_similar_image_equally_and_no_other(relation: Relation) -> None:
    whole = torch.tensor(matrix(relation)).fill_diagonal_(False)
    n = len(relation)
    u = (torch.arange(1200) + 0.5) / 1200
    drawn = relation.draw(torch.arange(n), u.expand(n, -1))
    for i in range(n):
        counts = drawn[i].bincount(minlength=n)
        if not whole[i].any():
            assert int(counts[i]) == 1200
            continue
        assert torch.equal(counts > 0, whole[i])
        assert int(counts[whole[i]].max() - counts[whole[i]].min()) <= 1


def test_copies_are_alike_if_their_originals_are() -> None:
    """The paper's prior: (i, s) and (j, t) are similar if i is j or a neighbour of it, whatever s and t."""
    relation = from_neighbours(nearest(random(10, 3), 2))
    whole, originals = relation.similar(torch.arange(10)), torch.arange(10).repeat(4)
    closed = relation.copied(originals)
    assert torch.equal(closed.similar(torch.arange(40)), whole[originals][:, originals])
    assert closed.n_similar == 16 * relation.n_similar + 6 * 10
    assert len(closed.pairs) == len(relation.pairs)  # nothing is multiplied
    assert alone(10).copied(originals).n_similar == 6 * 10
    some = torch.tensor([7, 2, 2, 5])  # a part of the images keeps its part of the relation
    assert torch.equal(relation.copied(some).similar(torch.arange(4)), whole[some][:, some])
    with pytest.raises(DataError, match="originals: image 10 is unknown"):
        relation.copied(torch.tensor([0, 10]))


def test_labels_make_cliques() -> None:
    relation = from_labels(torch.tensor([3, -1, 7, 3, -1, 7, 7]))
    assert relation.n_similar == 1 + 3
    assert relation.similar(torch.tensor([0, 3, 1, 4])).int().tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]
    with pytest.raises(DataError, match="labels: the relation is empty"):
        from_labels(torch.tensor([0, 1, -1]))


def test_a_file_of_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("id_a,id_b,similar\n0,2,1\n2,0,1\n 3 ,1,0\n3,2,1\n")
    relation = read_pairs(file, 4)
    assert relation.pairs.tolist() == [[0, 2], [2, 3]]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("0,9,1", "image 9 is unknown; there are images 0 to 3"),
        ("0,1,0", "the relation is empty"),
        ("", "the relation is empty"),
        ("0,1,1\n1,0,0", "says both 1 and 0 of the pair 0,1"),
        ("0,1,1\n2,2,1", "pairs image 2 with itself"),
        ("0,1,yes", "line 2: 0,1,yes; expected two ids"),
        ("0,,1", "line 2: 0,,1; expected two ids"),
        ("-1,0,1", "line 2: -1,0,1; expected two ids"),
    ],
)
def test_pairs_that_are_no_relation(rows: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("id_a,id_b,similar\n" + rows + "\n")
    with pytest.raises(DataError, match=says) as caught:
        read_pairs(file, 4)
    assert "\n" not in str(caught.value)
    assert "pairs.csv" in str(caught.value)
    assert caught.value.code == 3


def test_other_things_that_are_no_relation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "none.csv", 4)
    (tmp_path / "a.csv").write_text("id_a,id_b\n0,1\n")
    with pytest.raises(DataError, match="expected one named similar"):
        read_pairs(tmp_path / "a.csv", 4)
    with pytest.raises(DataError, match="group 5 of a pair is unknown"):
        Relation(torch.arange(3), torch.tensor([[0, 5]]))
    with pytest.raises(DataError, match="numbered from 0"):
        Relation(torch.tensor([0, -2]), torch.empty(0, 2, dtype=torch.int64))
    with pytest.raises(DataError, match="relate nothing"):
        from_neighbours(torch.empty(4, 0, dtype=torch.int64))
    with pytest.raises(DataError, match="image 7 is unknown"):
        from_pairs(torch.tensor([[0, 7]]), torch.tensor([True]), 7)


def test_relations_in_words(tmp_path: Path) -> None:
    pixels = (random(12, 8, 8) * 255).to(torch.uint8).numpy()
    images = open_images(pixels, labels=np.arange(12) % 3)
    x = torch.from_numpy(pixels).flatten(1).float()
    assert torch.equal(make_relation("neighbours:2", images, 8).pairs, from_neighbours(nearest(x, 2)).pairs)
    other = random(12, 5, seed=3)
    np.save(tmp_path / "x.npy", other.numpy())
    made = make_relation(f"neighbours:3:{tmp_path / 'x.npy'}", images, 8)
    assert torch.equal(made.pairs, from_neighbours(nearest(other, 3)).pairs)
    assert make_relation("labels", images, 8).n_similar == 3 * 6
    (tmp_path / "pairs.csv").write_text("id_a,id_b,similar\n0,2,1\n")
    assert make_relation(str(tmp_path / "pairs.csv"), images, 8).n_similar == 1
    for words in ("neighbour:5", "neighbours", "neighbours:few", "everything"):
        with pytest.raises(UsageError, match=f"relation={words}: expected neighbours:K"):
            make_relation(words, images, 8)
    with pytest.raises(UsageError, match="labels"):
        make_relation("labels", open_images(pixels), 8)
    np.save(tmp_path / "y.npy", other[:5].numpy())
    (tmp_path / "bad.npy").write_text("0 1 2")
    with pytest.raises(
        DataError, match=r"relation=neighbours:2:.*bad.npy: is not an array of numbers that can be read"
    ):
        make_relation(f"neighbours:2:{tmp_path / 'bad.npy'}", images, 8)
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    for name in ("empty", "words"):
        with pytest.raises(DataError, match=rf"{name}.npy: is not an array of numbers that can be read"):
            make_relation(f"neighbours:2:{tmp_path / name}.npy", images, 8)
    with pytest.raises(DataError, match="a row for each of 12 images"):
        make_relation(f"neighbours:3:{tmp_path / 'y.npy'}", images, 8)


def test_tight_clusters_are_settled_without_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision tells nothing apart there; products in double precision do, but for real ties."""
    centres = torch.nn.functional.normalize(random(6, 64), dim=1)
    x = centres.repeat_interleave(50, 0) + 1e-3 * random(300, 64, seed=1)
    sorts = 0
    sort = torch.Tensor.sort

    def counted(self: Tensor, *arguments: Any, **options: Any) -> Any:
        nonlocal sorts
        sorts += self.ndim == 1
        return sort(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "sort", counted)
    assert torch.equal(nearest(x, 4), brute(x, 4))
    assert sorts == 0
    ties = torch.cat([torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).repeat(9, 1)])
    assert torch.equal(nearest(ties, 3), brute(ties, 3))
    assert sorts > 0


def test_features_whose_squares_overflow_have_neighbours() -> None:
    x = torch.tensor([[0.0], [1], [3], [7], [15]])
    assert torch.equal(nearest(x * 1e25, 2), nearest(x, 2))


def test_a_wrong_pair_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id_a,id_b,similar\n0,1,1\n\n0,99999999999999999999,1\n")
    with pytest.raises(DataError, match="line 4: 0,99999999999999999999,1; expected two ids"):
        read_pairs(tmp_path / "a.csv", 4)
