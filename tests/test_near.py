"""Near-duplicates by fingerprints and by features: groups against brute force, and scan on planted copies."""

import io
import json
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from typer.testing import CliRunner

import likewise
from likewise.cli import app
from likewise.coresets import near
from likewise.coresets.codes import code_pairs, near_codes
from likewise.coresets.near import groups, joined, near_groups, near_pairs, with_lowest
from likewise.errors import DataError, UsageError
from likewise.images.fingerprint import fingerprint
from likewise.types import Embeddings


def words(n=400, seed=0):
    """Random 64-bit codes, and some of them again with a few bits flipped."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**64, n, dtype=np.uint64)
    for flips in (1, 3, 6, 9, 14):
        some = codes[rng.integers(0, n, 30)].copy()
        for _ in range(flips):
            some ^= np.uint64(1) << rng.integers(0, 64, len(some)).astype(np.uint64)
        codes = np.concatenate([codes, some])
    return codes


@pytest.mark.parametrize("distance", [0, 1, 4, 6, 9, 15])
def test_near_codes_are_those_of_all_pairs(distance):
    codes = words()
    bits = np.unpackbits(codes.view(np.uint8).reshape(-1, 8), axis=1).astype(int)
    differing = (bits[:, None] != bits[None]).sum(2)
    expected = np.argwhere(np.triu(differing <= distance, 1))
    pairs, found = near_codes(codes, distance)
    first = {int(code): i for i, code in reversed(list(enumerate(codes)))}
    head = np.array([first[int(code)] for code in codes])  # copies are compared through the first of them
    alone = expected[(head[expected] == expected).all(1) | (head[expected[:, 1]] == expected[:, 0])]
    assert pairs.tolist() == alone.tolist()
    assert found.tolist() == differing[pairs[:, 0], pairs[:, 1]].tolist()
    assert [g.tolist() for g in groups(pairs, len(codes))] == [g.tolist() for g in groups(expected, len(codes))]


def test_many_copies_make_few_pairs():
    codes = np.repeat(words(50)[:60], 200)
    pairs, _ = near_codes(codes, 0)
    assert len(pairs) == 60 * 199
    with pytest.raises(UsageError, match="distance=16: must be from 0 to 15"):
        near_codes(codes, 16)


@pytest.mark.parametrize("similarity", [0.6, 0.9, 1.0])
@pytest.mark.parametrize("memory", [1 << 30, 20_000])
def test_groups_of_features_are_those_of_their_pairs(similarity, memory):
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x[:50] + 0.2 * torch.randn(50, 8, generator=torch.Generator().manual_seed(1)), x[:9], x[:9]])
    pairs, cosine = near_pairs(x, similarity)
    found = near_groups(x, similarity, memory=memory)
    assert [ids.tolist() for ids, _ in found] == [ids.tolist() for ids in groups(pairs, len(x))]
    for ids, low in found:
        assert low == pytest.approx(cosine[np.isin(pairs[:, 0], ids)].min())
    assert len(found) > 3 or similarity < 0.9


def picture(seed, size=96):
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )


def test_a_fingerprint_survives_what_does_not_change_the_picture():
    def bits(image):
        return fingerprint(np.asarray(image.convert("RGB")).transpose(2, 0, 1))

    def differ(one, other):
        return bin(bits(one) ^ bits(other)).count("1")

    for seed in range(5):
        image, packed = picture(seed), io.BytesIO()
        image.save(packed, "JPEG", quality=40)
        assert differ(image, Image.open(packed)) <= 4
        assert differ(image, image.resize((48, 48))) <= 4
        assert differ(image, image.convert("L")) <= 4
        assert differ(image, ImageEnhance.Brightness(image).enhance(0.8)) <= 6
        assert differ(image, picture(seed + 10)) > 12


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for seed in range(12):
        picture(seed).save(root / f"{seed:02d}.png")
    for seed in (3, 7):
        picture(seed).save(root / f"{seed:02d}-again.jpg", quality=60)
    picture(3).resize((60, 60)).save(root / "03-small.png")
    (root / "broken.png").write_bytes(b"no picture")
    return root


def test_scan_finds_near_duplicates(folder):
    answer = CliRunner().invoke(app, ["scan", str(folder), "--near", "--json", "--quiet"])
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    assert [group["paths"] for group in result["near"]] == [
        ["03-again.jpg", "03-small.png", "03.png"],
        ["07-again.jpg", "07.png"],
    ]
    assert all(0.9 <= group["similarity"] <= 1 for group in result["near"])
    assert result["duplicates"] == []
    assert len(result["bad"]) == 1
    text = CliRunner().invoke(app, ["scan", str(folder), "--near", "--quiet"]).stdout
    assert "5 images in 2 groups of near-duplicates" in text
    assert "near" not in likewise.scan(folder)


def test_scan_compares_embeddings(folder, tmp_path):
    images = likewise.open_images(folder, max_bad=1.0)
    x = np.eye(len(images), dtype=np.float32) + 0.01
    x[5] = x[2] + 0.02
    emb = tmp_path / "emb"
    emb.mkdir()
    Embeddings(x, images.keys, images.paths).save(emb)
    result = likewise.scan(folder, near_by=emb)
    assert [group["paths"] for group in result["near"]] == [[images.paths[2], images.paths[5]]]
    assert likewise.scan(folder, near_by=emb, similarity=0.9999)["near"] == []
    other = tmp_path / "other"
    other.mkdir()
    Embeddings(x, images.keys + 1, images.paths).save(other)
    with pytest.raises(DataError, match=rf"--near-by {other}: has embeddings of {len(x)} images, not of the {len(x)} "):
        likewise.scan(folder, near_by=other)


def test_scan_refuses_what_cannot_be_a_similarity(folder):
    with pytest.raises(UsageError, match=r"similarity=0.5: of fingerprints, must be from 0.77 to 1"):
        likewise.scan(folder, near=True, similarity=0.5)
    with pytest.raises(UsageError, match=r"--similarity 0.9: of what\? expected --near or --near-by"):
        likewise.scan(folder, similarity=0.9)
    with pytest.raises(UsageError, match="--near: compares fingerprints, and --near-by emb embeddings; expected one"):
        likewise.scan(folder, near=True, near_by="emb")


def test_the_work_space_is_read_even_where_none_is_needed(tmp_path):
    with pytest.raises(UsageError, match="memory 'foo': expected"):
        likewise.scan(tmp_path, memory="foo")


CHANGES = ((1, 0), (0.97, 0), (0.9, 0), (1, 20))  # of brightness: times, and plus


@pytest.mark.parametrize("kind", ["flat", "ramp", "stripes", "disc", "page"])
def test_plain_pictures_have_fingerprints_too(kind):
    """Waves that are not there are 0, and no rounding has a say in their bits."""
    y, x = np.mgrid[:64, :64].astype(float)
    page = np.full((64, 64), 200.0)
    page[20:44, 16:48] = 0
    disc = 150.0 * ((x - 31.5) ** 2 + (y - 31.5) ** 2 < 400)
    picture = {"flat": 0 * x + 128, "ramp": 2 * x, "stripes": 150 * (x // 8 % 2), "disc": disc, "page": page}[kind]
    codes = [fingerprint((picture * factor + more).round().astype(np.uint8)[None]) for factor, more in CHANGES]
    assert max(bin(code ^ codes[0]).count("1") for code in codes) <= 6  # as many as scan allows


def alike(n: int) -> np.ndarray:
    """Codes that are all within 6 bits of each other, and a seventh of them anywhere."""
    rng = np.random.default_rng(0)
    codes = np.zeros(n, np.uint64)
    for _ in range(3):
        codes ^= np.uint64(1) << rng.integers(0, 64, n).astype(np.uint64)
    codes[::7] = rng.integers(0, 2**64, len(codes[::7]), dtype=np.uint64)
    return codes


@pytest.mark.parametrize("links", [1 << 20, 50])
def test_codes_are_joined_as_they_are_found(links: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "_LINKS", links)
    codes = np.concatenate([alike(120), alike(40)])
    found = joined(((pairs, 1 - bits / 64) for pairs, bits in code_pairs(codes, 4)), len(codes))
    pairs, bits = near_codes(codes, 4)
    expected = with_lowest(pairs, 1 - bits / 64, len(codes))
    assert [(ids.tolist(), low) for ids, low in found] == [(ids.tolist(), low) for ids, low in expected]


def test_many_that_are_nearly_alike_take_little_memory() -> None:
    codes = alike(1_200)
    tracemalloc.start()
    try:
        joined(((pairs, 1 - bits / 64) for pairs, bits in code_pairs(codes, 6)), len(codes))
        assert tracemalloc.get_traced_memory()[1] < 60_000_000  # all pairs at once: 110 MB, 1.4 GB of 4,000
    finally:
        tracemalloc.stop()
