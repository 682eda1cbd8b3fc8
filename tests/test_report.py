"""The report: what it reads, what it says, and that the page is one harmless file."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import likewise.evaluation.verdict
import likewise.report
from likewise import progress
from likewise.coresets import quality
from likewise.errors import DataError, UsageError
from likewise.evaluation.verdict import describe
from likewise.report import sections, verdict, write, write_report
from likewise.report.folders import THUMB_BYTES, Picks, read_folders
from likewise.report.layout import flat_map, kept, neighbours
from likewise.report.verdict import headline, scores

HOSTILE = "<script>alert(1)</script>\u2028'\"&{{ 7*7 }}.png"


def json_lines(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_run(path: Path, **changes: Any) -> Path:
    """A run folder with every file; a change gives a file other content, None leaves it out."""
    (path / "pictures").mkdir(parents=True)
    Image.new("RGB", (40, 20), (200, 90, 30)).save(path / "pictures" / "views.png")
    files: dict[str, Any] = {
        "recipe.toml": 'method = "simclr"\n',
        "resolved.toml": 'method = "simclr"\nencoder = "convnet"\nsteps = 30\n',
        "environment.json": json.dumps({"likewise": "0.1.0", "command": ["likewise", "pretrain", HOSTILE]}),
        "metrics.jsonl": "".join(
            json.dumps({"step": i, "loss": 5 - i / 10, "terms": {"a": 3.0, "b": 2 - i / 10}, "rank": 4.0, "knn": 0.5})
            + "\n"
            for i in range(30)
        ),
        "status.json": json.dumps({"state": "finished", "steps": 30, "verdict": "Finished.", "seconds": 61}),
        "scan.json": json.dumps(
            {"images": 40, "bad": [{"path": HOSTILE, "reason": "truncated"}], "duplicates": [["a", HOSTILE]], "cut": 1}
        ),
        "evaluation.jsonl": evaluation_lines(pixels=0.38, untrained=0.47, learned=0.85),
        "README.md": f"# {HOSTILE}\n",
        **changes,
    }
    for name, content in files.items():
        if content is not None:
            (path / name).write_text(content, encoding="utf-8")
    return path


def evaluation_lines(**accuracy: float) -> str:
    names = {"learned": "runs/mine", "untrained": "untrained"}
    rows = [
        {"model": names.get(kind, kind), "kind": kind, "data": "digits", "protocols": {"knn": {"accuracy": value}}}
        for kind, value in accuracy.items()
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def make_embeddings(path: Path, x: np.ndarray, labels: Sequence[str] = (), name: str = "image {}.png") -> Path:
    (path / "thumbs").mkdir(parents=True)
    np.save(path / "x.npy", x.astype(np.float32))
    with open(path / "items.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "key", "path", "label"])
        for i in range(len(x)):
            writer.writerow([i, i + 1000, name.format(i), labels[i] if len(labels) else ""])
            Image.new("RGB", (6, 5), (i % 256, i // 256, 128)).save(path / "thumbs" / f"{i:06d}.png")
    (path / "meta.json").write_text(json.dumps({"model": "runs/mine", "shape": list(x.shape)}))
    return path


def make_selection(path: Path, ids: Sequence[int], embeddings: Path, name: str = "image {}.png") -> Path:
    path.mkdir()
    with open(path / "selection.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "id", "path", "gain", "weight"])
        writer.writerows([rank, i, name.format(i), 1 / (rank + 1), ""] for rank, i in enumerate(ids))
    quality = {"facility_location": 0.9, "radius": 0.5}
    random_quality = {"facility_location": 0.8, "radius": 0.7}
    meta = {"method": "k-center", "n": len(ids), "quality": quality, "random_quality": random_quality, "seconds": 0.1}
    (path / "selection.json").write_text(json.dumps({**meta, "embeddings": str(embeddings)}))
    return path


def clusters(n: int = 40, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Four groups of directions, and their names."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % 4
    return np.eye(8)[group] + 0.05 * rng.standard_normal((n, 8)), [f"class {i}" for i in group]


class Page(HTMLParser):
    """The tags of a page, and the text of its scripts and of the rest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, text: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += text
        elif self.inside != "style":
            self.text += text

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def everything(folder: Path, name: str) -> str:
    """A page on one folder of each kind, where `name` stands in every place that others may fill."""
    x, labels = clusters()
    pattern = "{} " + name.replace("{", "{{").replace("}", "}}")
    embeddings = make_embeddings(folder / "emb", x, [f"{label} {name}" for label in labels], pattern)
    files = {
        "environment.json": {"likewise": "0.1.0", "command": ["likewise", "pretrain", name], name: 1},
        "status.json": {"state": "finished", "verdict": name},
        "scan.json": {"images": 40, "bad": [{"path": name, "reason": name}], "duplicates": [["a", name]]},
        "metrics.jsonl": {"step": 0, "loss": 1.0, "terms": {"a": 3.0, name: 2.0}, "knn": 0.5},
    }
    run = make_run(
        folder / "run", **{file: json.dumps(content) + "\n" for file, content in files.items()}, **{"README.md": name}
    )
    selection = make_selection(folder / "sel", [3, 0, 10], Path("../emb"), pattern)
    write_report([run, embeddings, selection], folder / "report.html", title=name)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return everything(tmp_path_factory.mktemp("hostile"), HOSTILE)


# The page ---------------------------------------------------------------------------------------------------------


def test_hostile_names_are_text_and_nothing_else(hostile_page: str, tmp_path: Path) -> None:
    page, harmless = Page(hostile_page), Page(everything(tmp_path, "photo.png"))
    outline = [(tag, list(attributes)) for tag, attributes in page.tags]
    assert outline == [(tag, list(attributes)) for tag, attributes in harmless.tags]
    assert page.text == harmless.text.replace("photo.png", HOSTILE)
    assert "<" not in page.scripts[0]
    assert page.data == json.loads(harmless.scripts[0].replace("photo.png", json.dumps(HOSTILE)[1:-1]))


def test_the_data_of_the_page_say_what_the_folders_say(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path / "emb", *clusters())
    selection = make_selection(tmp_path / "sel", [3, 0, 10], embeddings)
    write_report([make_run(tmp_path / "run"), embeddings, selection], tmp_path / "report.html")
    data = Page((tmp_path / "report.html").read_text(encoding="utf-8")).data
    (shown,) = data["maps"]
    assert shown["paths"][7] == "image 7.png"
    assert [shown["classes"][i] for i in shown["labels"][:4]] == [f"class {i}" for i in range(4)]
    assert shown["selections"] == [{"name": "sel", "rows": [3, 0, 10], "total": 3}]
    loss, *_ = data["charts"]
    assert [series["name"] for series in loss["series"]] == ["sum", "a", "b"]
    assert loss["series"][0]["points"] == [[i, pytest.approx(5 - i / 10)] for i in range(30)]


def test_the_page_refers_to_nothing_outside_itself(hostile_page: str) -> None:
    for tag, attributes in Page(hostile_page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    assert "default-src 'none'" in hostile_page
    ours = Path(likewise.report.__file__).parent
    for file in ("page.html", "page.css", "page.js"):
        text = (ours / file).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]+\.|url\(|@import|fetch\(|XMLHttpRequest|innerHTML", text), file


def test_every_image_has_a_text_and_every_chart_a_summary(hostile_page: str) -> None:
    tags = Page(hostile_page).tags
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert images
    assert all(attributes.get("alt") for attributes in images)
    plots = [attributes for _, attributes in tags if "data-chart" in attributes]
    assert len(plots) == 3
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in plots)


def test_answer_and_bytes(tmp_path: Path) -> None:
    x, labels = clusters(12)
    out = tmp_path / "deep" / "report.html"
    answer = write_report([make_embeddings(tmp_path / "emb", x, labels)], out)
    assert set(answer) == {"report", "images", "seconds", "bytes"}
    assert answer["report"] == str(out)
    assert answer["images"] == 12
    assert answer["bytes"] == out.stat().st_size
    picks = make_selection(tmp_path / "sel", [3, 5], tmp_path / "emb")
    (picks / "thumbs").mkdir()
    Image.new("RGB", (6, 5), "red").save(picks / "thumbs" / "000003.webp")  # coded otherwise than in the embeddings
    assert write_report([tmp_path / "emb", picks], out)["images"] == 12


def test_images_are_counted_and_not_their_thumbnails(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    embeddings = make_embeddings(tmp_path / "emb", *clusters(12))
    (embeddings / "thumbs" / "000007.png").write_bytes((embeddings / "thumbs" / "000003.png").read_bytes())
    assert write_report([embeddings], out)["images"] == 12
    picked = {"few": [3, 5], "more": [5, 3, 0]}  # of the same images
    others = [make_selection(tmp_path / name, ids, tmp_path / "gone", "other {}.png") for name, ids in picked.items()]
    for folder, ids in zip(others, picked.values(), strict=True):
        (folder / "thumbs").mkdir()
        for i in ids:
            Image.new("RGB", (6, 5), "red").save(folder / "thumbs" / f"{i:06d}.webp")
    assert write_report(others, out)["images"] == 3
    assert write_report([embeddings, *others], out)["images"] == 12 + 3


def test_only_a_report_is_replaced(tmp_path: Path) -> None:
    folder = make_embeddings(tmp_path / "emb", *clusters(8))
    out = tmp_path / "report.html"
    write_report([folder], out)
    first = out.read_bytes()
    write_report([folder], out, title="again")
    assert out.read_bytes() != first
    for name, said in (("precious.txt", "ends in .html"), ("page.html", "is no report of likewise"), ("none", ".html")):
        file = tmp_path / name
        if name != "none":
            file.write_text("<html>mine</html>")
        with pytest.raises(UsageError, match=said) as caught:
            write_report([folder], file)
        assert str(file) in str(caught.value)
        assert not file.exists() or file.read_text() == "<html>mine</html>"
    with pytest.raises(UsageError, match=r"cannot be written \("):
        write_report([folder], out / "below.html")


def test_same_folders_same_page(tmp_path: Path) -> None:
    folder = make_embeddings(tmp_path / "emb", *clusters())
    for name in ("a.html", "b.html"):
        write_report([folder], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_several_runs_are_compared_in_one_table(tmp_path: Path) -> None:
    other = 'method = "vicreg"\nencoder = "resnet18"\n'
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", **{"resolved.toml": other})]
    write_report(runs, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert re.search(r"Method\s*simclr\s*vicreg", page.text)
    assert [chart["title"] for chart in page.data["charts"][:3]] == ["Loss of one", "Loss of two", "k-NN accuracy"]
    assert [series["name"] for series in page.data["charts"][2]["series"]] == ["one", "two"]


def test_a_bare_run_still_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text('{"state": "running"}')
    write_report([tmp_path / "run"], tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "metrics.jsonl" in text
    assert "scan.json" in text
    assert "no evaluation" in text


def test_no_torch_is_needed(tmp_path: Path) -> None:
    folder = make_embeddings(tmp_path / "emb", *clusters(8))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from likewise.report import write_report\n"
        "write_report([Path(sys.argv[1])], Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path / "report.html")], check=True)
    assert (tmp_path / "report.html").is_file()


# The folders ------------------------------------------------------------------------------------------------------


def test_an_unknown_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="photos") as caught:
        write_report([tmp_path / "photos"], tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no such folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")
    with pytest.raises(DataError, match="no folder given"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(UsageError, match="is a folder"):
        write_report([make_run(tmp_path / "run")], tmp_path / "photos")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.jsonl", '{"step": 0}\nnot json\n{"step": 2}\n', "line 2"),
        ("status.json", "[]", "expected a JSON object"),
        ("scan.json", "{", "not valid JSON"),
        ("resolved.toml", "steps = = 3", "not valid TOML"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        write_report([make_run(tmp_path / "run", **{file: content})], tmp_path / "report.html")
    assert file in str(caught.value)


def test_a_line_cut_short_and_values_that_are_no_numbers_are_passed_over(tmp_path: Path) -> None:
    lines = '{"step": 0, "loss": 2.0}\n{"step": 1, "loss": NaN}\n{"step": 2, "loss": Infinity}\n{"step": 3, "lo'
    write_report([make_run(tmp_path / "run", **{"metrics.jsonl": lines})], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.data["charts"][0]["series"] == [{"name": "sum", "points": [[0, 2]]}]


def test_embeddings_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    folder = make_embeddings(tmp_path / "emb", clusters(5)[0])
    np.save(folder / "x.npy", np.zeros((4, 8), dtype=np.float32))
    with pytest.raises(DataError, match=r"4 rows but items\.csv 5"):
        read_folders([folder])
    np.save(folder / "x.npy", np.full((5, 8), np.nan, dtype=np.float32))
    with pytest.raises(DataError, match="not finite"):
        read_folders([folder])
    np.save(folder / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy"):
        read_folders([folder])


def test_thumbnails_are_capped_in_number_and_in_bytes(tmp_path: Path) -> None:
    folder = make_embeddings(tmp_path / "many", np.zeros((2100, 2)))
    (shown,) = read_folders([folder])[1]
    assert len(shown.ids) == 2000
    assert shown.ids == sorted(set(shown.ids))
    assert "2,000 of the 2,100" in shown.notes[0]
    folder = make_embeddings(tmp_path / "large", np.zeros((30, 2)))
    for file in (folder / "thumbs").iterdir():
        file.write_bytes(bytes(THUMB_BYTES // 10))
    (shown,) = read_folders([folder])[1]
    assert 8 <= len(shown.ids) <= 10


def test_a_selection_brings_its_embeddings_along(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path / "emb", *clusters(12))
    selection = make_selection(tmp_path / "sel", [5, 0], embeddings)
    write_report([selection], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.data["maps"][0]["selections"][0]["rows"] == [5, 0]
    assert re.search(r"k-center, 2 images\s*0\.900\s*0\.500\s*random, 2 images\s*0\.800\s*0\.700", page.text)
    picks = [attributes["alt"] for tag, attributes in page.tags if tag == "img" and ": " in str(attributes.get("alt"))]
    assert picks == ["1: image 5.png", "2: image 0.png"]


def test_a_selection_whose_embeddings_moved_finds_them_by_its_images(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path / "emb", *clusters(12))
    selection = make_selection(tmp_path / "sel", [5, 2], tmp_path / "gone")
    write_report([selection, embeddings], tmp_path / "report.html")
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).data["maps"][0]["selections"]
    write_report([selection], tmp_path / "alone.html")
    assert "were not found" in (tmp_path / "alone.html").read_text(encoding="utf-8")


# The judgement ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracy", "sentence"),
    [
        ({"pixels": 0.38, "untrained": 0.47, "learned": 0.85}, "learned something useful"),
        ({"pixels": 0.857, "untrained": 0.80, "learned": 0.92}, "learned something useful"),
        ({"pixels": 0.46, "untrained": 0.40, "learned": 0.50}, "learned a little"),
        ({"pixels": 0.46, "untrained": 0.40, "learned": 0.463}, "no better than raw pixels"),
        ({"pixels": 0.40, "untrained": 0.46, "learned": 0.41}, "worse than an untrained encoder"),
        ({"learned": 0.85}, "85 in a hundred"),
    ],
)
def test_the_headline_weighs_what_was_learned_against_the_baselines(
    tmp_path: Path, accuracy: dict[str, float], sentence: str
) -> None:
    runs, _, _ = read_folders([make_run(tmp_path / "run", **{"evaluation.jsonl": evaluation_lines(**accuracy)})])
    assert sentence in headline(runs, [])


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ({"state": "diverged"}, "diverged"),
        ({"state": "collapsed"}, "collapsed"),
        ({"state": "finished", "health": {"rankme": 71.3, "collapsed": False}}, "about 71 directions"),
        ({"state": "finished", "health": {"rankme": 1.0, "collapsed": True}}, "have collapsed"),
        ({"state": "finished"}, "no evaluation"),
    ],
)
def test_the_headline_without_labels(tmp_path: Path, status: dict[str, Any], sentence: str) -> None:
    run = make_run(
        tmp_path / "run", **{"status.json": json.dumps(status), "evaluation.jsonl": None, "metrics.jsonl": None}
    )
    assert sentence in headline(read_folders([run])[0], [])


def test_the_last_verdict_on_a_run_is_told_and_no_other(tmp_path: Path) -> None:
    status = json.dumps({"verdict": "The features use about 77 of 256 dimensions."})
    lines = [{"model": "pixels", "verdict": "Half are right."}, {"model": "learned", "verdict": "About 68 of 256."}]
    evaluated = make_run(tmp_path / "evaluated", **{"status.json": status})
    json_lines(evaluated / "evaluation.jsonl", lines)
    trained = make_run(tmp_path / "trained", **{"status.json": status, "evaluation.jsonl": None})
    runs, vectors, _ = read_folders([evaluated, trained])
    told = [("evaluated", "About 68 of 256."), ("trained", "The features use about 77 of 256 dimensions.")]
    assert verdict.said(runs, vectors) == told


def test_curves_and_evaluations_are_of_other_images_and_not_drawn_together(tmp_path: Path) -> None:
    runs, _, _ = read_folders([make_run(tmp_path / "run")])
    (knn,) = [chart for chart in sections.curves(runs) if chart["title"] == "k-NN accuracy"]
    assert [series["name"] for series in knn["series"]] == ["k-NN"]
    assert "lines" not in knn
    assert "training images alone" in knn["note"]


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ({"state": "finished", "steps": 30, "step": 30}, "30"),
        ({"state": "finished", "steps": 30}, "30"),
        ({"state": "stopped", "steps": 90, "step": 30}, "30 of 90"),
        ({"state": "running", "steps": 90, "step": 10}, "30 of 90"),  # killed: its metrics go further
        ({}, "30"),
    ],
)
def test_steps_are_those_that_were_done(tmp_path: Path, status: dict[str, Any], done: str) -> None:
    runs, _, _ = read_folders([make_run(tmp_path / "run", **{"status.json": json.dumps(status)})])
    assert dict(verdict.key_figures(runs))["Steps"] == [done]


def test_a_folder_by_two_names_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    (read,), _, _ = read_folders([Path("run"), Path("../") / tmp_path.name / "run", run, Path("link")])
    assert read.name == "run"


def test_a_selection_that_was_moved_with_its_embeddings_finds_them(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    embeddings = make_embeddings(tmp_path / "there" / "emb", *clusters())
    make_selection(tmp_path / "there" / "sel", [3, 0, 10], embeddings)
    (tmp_path / "there").rename(tmp_path / "here")
    _, vectors, picks = read_folders([tmp_path / "here" / "sel"])
    assert [one.path for one in vectors] == [tmp_path / "here" / "emb"]
    assert sections.source_of(picks[0], vectors) is vectors[0]


def test_gains_are_drawn_to_the_last(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path / "emb", np.random.default_rng(0).normal(size=(900, 4)))
    _, vectors, picks = read_folders([make_selection(tmp_path / "sel", range(900), embeddings)])
    points = sections.coreset(picks[0], vectors[0], sections.Thumbs())["gains"]["series"][0]["points"]
    assert points[0] == [1, 1]
    assert points[-1] == [900, 1 / 900]
    assert len(points) <= 402


def test_coresets_are_compared_with_those_of_their_size(tmp_path: Path) -> None:
    folders = []
    for name, ids, radius in (("a", range(10), 0.5), ("b", range(10), 0.6), ("c", range(30), 0.2), ("d", [0], 0.9)):
        folders.append(make_selection(tmp_path / name, ids, tmp_path / "gone"))
        quality = {"method": name, "quality": {"radius": radius}}
        quality |= {"random_quality": {"radius": 0.1}} if name == "c" else {}
        (folders[-1] / "selection.json").write_text(json.dumps(quality))
    table = sections.qualities(read_folders(folders)[2])
    assert table is not None
    best = {name: marked for name, _, [(_, marked)] in table["rows"]}
    compared = {"a, 10 images": True, "b, 10 images": False, "c, 30 images": False, "random, 30 images": True}
    assert best == {**compared, "d, 1 images": False}


def test_every_measure_and_protocol_has_a_name_in_words() -> None:
    measured = quality(torch.eye(4), np.array([0, 1]), labels=torch.tensor([0, 0, 1, 1]))
    for key, figure in measured.items():
        name, note, sign = sections.MEASURES[key]
        assert key not in name.lower()
        assert note.endswith("higher is better" if sign > 0 else "lower is better")
        assert np.isfinite(figure)
    found = [
        verdict.Score("run", "run", "learned", "digits", "digits", name, 0.5)
        for name in ("knn", "linear", "few-label", "svm")
    ]
    assert not {bar["title"] for bar in verdict.bars(found)} & {score.protocol for score in found}


def test_the_last_evaluation_of_a_model_counts(tmp_path: Path) -> None:
    lines = evaluation_lines(learned=0.5, pixels=0.4) + evaluation_lines(learned=0.6)
    runs, _, _ = read_folders([make_run(tmp_path / "run", **{"evaluation.jsonl": lines})])
    assert [(score.kind, score.accuracy) for score in scores(runs)] == [("pixels", 0.4), ("learned", 0.6)]


def evaluation(kind: str, accuracy: float, **changes: Any) -> dict[str, Any]:
    return {"model": "any", "kind": kind, "data": "photos", "protocols": {"knn": {"accuracy": accuracy}}, **changes}


def folder_of(path: Path, *lines: dict[str, Any]) -> Path:
    """A run folder with these evaluations and no more."""
    path.mkdir(parents=True)
    (path / "status.json").write_text("{}")
    json_lines(path / "evaluation.jsonl", lines)
    return path


def test_figures_on_other_test_images_are_not_compared(tmp_path: Path) -> None:
    easy, hard = ({"test_data": name, "images_hash": {"train": "a", "test": name}} for name in ("easy", "hard"))
    pixels, learned = evaluation("pixels", 0.4, **hard), evaluation("learned", 0.9, **easy)
    runs, _, _ = read_folders([folder_of(tmp_path / "a", pixels, learned)])
    assert "Without the same figure for raw pixels" in headline(runs, [])
    assert [bar["data"] for bar in verdict.bars(scores(runs))] == ["easy", "hard"]
    runs, _, _ = read_folders([folder_of(tmp_path / "b", {**pixels, **easy}, learned)])
    assert "learned something useful" in headline(runs, [])
    older = (evaluation("pixels", 0.4, data="photos/"), evaluation("learned", 0.9))  # they name the data alone
    runs, _, _ = read_folders([folder_of(tmp_path / "c", *older)])
    assert "learned something useful" in headline(runs, [])
    held_out = evaluation("learned", 0.9, test_data=None, images_hash={"train": "a", "test": "b"})
    runs, _, _ = read_folders([folder_of(tmp_path / "d", held_out)])
    assert verdict.bars(scores(runs))[0]["data"] == "images held out of photos"


def test_an_untrained_encoder_is_the_baseline_of_its_own_run(tmp_path: Path) -> None:
    lines = {"x": (0.3, 0.7, 0.8), "y": (0.3, 0.2, 0.6)}
    folders = [
        folder_of(tmp_path / name / "run", *map(evaluation, ("pixels", "untrained", "learned"), figures))
        for name, figures in lines.items()
    ]
    runs, _, _ = read_folders(folders)
    assert "against 30 with raw pixels and 70 with an untrained encoder" in headline(runs, [])
    assert "against 30 with raw pixels and 70 with an untrained encoder" in headline(runs[::-1], [])
    (bar,) = verdict.bars(scores(runs))
    assert {(row["name"], row["value"]) for row in bar["rows"]} == {
        ("Raw pixels", 0.3),
        ("Untrained encoder (x/run)", 0.7),
        ("Untrained encoder (y/run)", 0.2),
        ("Learned (x/run)", 0.8),
        ("Learned (y/run)", 0.6),
    }


def test_the_headline_takes_the_data_that_has_baselines(tmp_path: Path) -> None:
    lines = (evaluation("pixels", 0.2), evaluation("learned", 0.6), evaluation("learned", 0.9, data="easy"))
    runs, _, _ = read_folders([folder_of(tmp_path / "run", *lines)])
    assert "for 60 in a hundred images, against 20 with raw pixels" in headline(runs, [])


@pytest.mark.parametrize(
    ("learned", "n", "sentence"),
    [
        (0.6, 20, "20 test images are too few to tell"),
        (0.5, 20, "20 test images are too few to tell"),
        (0.7, 2000, "learned something useful"),
        (0.52, 100_000, "learned a little"),
        (0.502, 10_000, "no better than raw pixels"),
    ],
)
def test_a_difference_that_chance_makes_is_none(tmp_path: Path, learned: float, n: int, sentence: str) -> None:
    labelled = {"labelled": {"train": 4 * n, "test": n}}
    lines = (evaluation("pixels", 0.5, **labelled), evaluation("learned", learned, **labelled))
    runs, _, _ = read_folders([folder_of(tmp_path / "run", *lines)])
    assert sentence in headline(runs, [])


@pytest.mark.parametrize(
    ("health", "sentence"),
    [
        ({"rankme": 3.0, "dim": 512, "images": 500, "collapsed": False}, "but spread over only about 3 directions"),
        ({"rankme": 1.9, "dim": 2, "images": 500, "collapsed": False}, "have not collapsed: they spread over about 2"),
        ({"rankme": 1.0, "dim": 512, "images": 2, "collapsed": False}, "no evaluation"),
    ],
)
def test_the_headline_tells_few_directions_and_few_images(
    tmp_path: Path, health: dict[str, Any], sentence: str
) -> None:
    runs, _, _ = read_folders([folder_of(tmp_path / "run", evaluation("learned", 0, protocols={"health": health}))])
    assert sentence in headline(runs, [])
    words = likewise.evaluation.verdict
    assert (verdict.FEWEST, verdict.FEW, verdict.NARROW) == (words.FEWEST, words.FEW, words.NARROW)


def test_embeddings_that_say_nothing_of_themselves(tmp_path: Path) -> None:
    folders = [make_embeddings(tmp_path / name, *clusters(12)) for name in ("a", "b")]
    for folder in folders:
        (folder / "meta.json").write_text("{}")
    write_report([make_run(tmp_path / "run"), *folders], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert re.search(r"a\s*–\s*12\s*8", page.text)


def test_embeddings_of_one_name_each_have_their_own_figures(tmp_path: Path) -> None:
    x, labels = clusters(16)
    made = {"x": labels, "y": [f"class {i // 4}" for i in range(16)]}
    folders = [
        make_selection(tmp_path / f"sel-{name}", [3, 5], make_embeddings(tmp_path / name / "emb", x, theirs))
        for name, theirs in made.items()
    ]
    write_report([make_run(tmp_path / "run"), *folders], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [shown["name"] for shown in page.data["maps"]] == ["x/emb", "y/emb"]
    shares = [f"{shown['same']:.1%}" for shown in page.data["maps"]]
    assert len(set(shares)) == 2
    for name, share in zip(("x/emb", "y/emb"), shares, strict=True):
        assert re.search(rf"{name}\s*mine\s*16\s*8\s*{share}", page.text)


def test_neighbours_without_a_label_do_not_count(tmp_path: Path) -> None:
    x, labels = clusters(40)
    for i in range(0, 40, 2):
        labels[i] = ""
    folder = make_embeddings(tmp_path / "emb", x, labels)
    for i in range(30, 40):
        (folder / "thumbs" / f"{i:06d}.png").unlink()
    write_report([folder], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    (shown,) = page.data["maps"]
    near = [row[0] for row in shown["near"]]
    pairs = [(i, j) for i, j in enumerate(near) if i % 2 and j % 2]
    assert (shown["same"], shown["pairs"]) == (1.0, len(pairs))
    assert f"Of {len(pairs)} images with a label whose nearest neighbour among the 30 shown has one too" in page.text
    assert "Its neighbours among the 30 images shown" in page.text


# The layout -------------------------------------------------------------------------------------------------------


def test_neighbours_are_those_of_scikit_learn() -> None:
    x = np.random.default_rng(1).standard_normal((600, 5))  # more than two blocks
    near, cosine = neighbours(x, 4)
    distance, index = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(x).kneighbors(x)
    np.testing.assert_array_equal(near, index[:, 1:])
    np.testing.assert_allclose(cosine, 1 - distance[:, 1:], atol=1e-12)


def test_neighbours_at_equal_distance_come_in_order_and_an_image_is_not_its_own() -> None:
    near, cosine = neighbours(np.ones((5, 3)), 10)
    np.testing.assert_array_equal(near, [[j for j in range(5) if j != i] for i in range(5)])
    np.testing.assert_allclose(cosine, 1)
    assert neighbours(np.ones((1, 3)))[0].shape == (1, 0)
    assert np.isfinite(neighbours(np.zeros((3, 2)))[1]).all()


def test_a_small_map_is_that_of_pca() -> None:
    x = np.random.default_rng(2).standard_normal((20, 6))
    places, way = flat_map(x)
    assert way == "PCA"
    expected = PCA(2).fit_transform(x / np.linalg.norm(x, axis=1, keepdims=True))
    distances = [np.linalg.norm(y[:, None] - y[None], axis=2) for y in (places, expected)]
    np.testing.assert_allclose(distances[0] / distances[0].max(), distances[1] / distances[1].max(), atol=1e-6)
    assert places.min() >= 0
    assert places.max() <= 1


def test_a_large_map_keeps_groups_together() -> None:
    x, labels = clusters(120)
    places, way = flat_map(x)
    assert way == "t-SNE"
    nearest = NearestNeighbors(n_neighbors=2).fit(places).kneighbors(places)[1][:, 1]
    assert all(labels[i] == labels[j] for i, j in enumerate(nearest))
    np.testing.assert_array_equal(places, flat_map(x)[0])


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (2, 1), (3, 1), (40, 1), (40, 3)])
def test_a_map_of_hardly_anything_is_still_one(shape: tuple[int, int]) -> None:
    places, _ = flat_map(np.ones(shape))
    assert places.shape == (shape[0], 2)
    np.testing.assert_allclose(places, 0.5)


def test_kept_counts_the_neighbours_that_stay() -> None:
    angle = np.linspace(0, 3, 12)
    near, _ = neighbours(np.stack([np.cos(angle), np.sin(angle)], axis=1), 2)
    assert kept(near, np.stack([angle, 0 * angle], axis=1)) == pytest.approx(1, abs=0.1)
    flat = np.random.default_rng(3).uniform(size=(12, 2))
    index = NearestNeighbors(n_neighbors=3).fit(flat).kneighbors(flat)[1][:, 1:]
    expected = np.mean([len(set(a) & set(b)) / 2 for a, b in zip(near, index, strict=True)])
    assert kept(near, flat) == pytest.approx(expected)


# Progress ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "shares"), [((12, 24), ["1/2", "2/2"]), ((12, 13), ["1/2", "2/2"]), ((1, 2), [])])
def test_the_last_line_of_progress_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: Sequence[int], shares: list[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "QUIET", False)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with progress.bar("train", 2) as bar:
        for done, clock.now in enumerate(seconds, 1):
            bar.update(done)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == shares


def test_the_time_that_is_left_is_told_from_what_this_process_did(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with progress.bar("train", 100, 80) as resumed, progress.bar("train", 100) as begun:
        clock.now = 10.0
        resumed.update(90)
        begun.update(50)
    assert (resumed.line(), begun.line()) == (
        "train 90/100 (90%), 0:10 elapsed, 0:10 left",
        "train 50/100 (50%), 0:10 elapsed, 0:10 left",
    )
    assert progress.Bar("train", 100, 80).line().endswith("0:00 left")


def test_a_long_curve_is_drawn_by_the_means_of_its_parts() -> None:
    rows = [{"step": i, "loss": float(i % 2)} for i in range(800)]
    assert {value for _, value in sections._line("loss", rows, "loss")["points"]} == {0.5}


def test_queries_are_the_middle_images_of_the_classes_in_their_order() -> None:
    shown = {"classes": ["b", "a"], "thumbs": range(6), "labels": [0, 0, 0, 1, 1, 1]}
    assert sections.queries(shown) == [4, 1]


@pytest.mark.parametrize(("gains", "log"), [([100.0, 1.0], True), ([10.0, 1.0], False), ([100.0, 0.0], False)])
def test_gains_of_several_orders_are_drawn_on_a_logarithmic_scale(gains: list[float], log: bool) -> None:
    picks = Picks(Path("s"), "s", list(range(len(gains))), [""] * len(gains), gains, {}, [], {})
    assert sections.coreset(picks, None, sections.Thumbs())["gains"]["log"] is log


def test_exact_copies_are_counted_without_their_originals() -> None:
    assert write._scan({"duplicates": [["a", "b", "c"], ["d", "e"]]})["n_copies"] == 3


def test_pictures_are_capped_in_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("a", "b"):
        (run / "pictures" / f"{name}.png").write_bytes(b"\x89PNG" + bytes(2_000_000))
    ((read,), *_) = read_folders([run])
    assert [name for name, _ in read.pictures] == ["a", "views"]


def test_a_name_of_any_bytes_has_a_report(tmp_path: Path) -> None:
    answer = write_report([make_run(tmp_path / "r\udcff")], tmp_path / "report.html", title="t\udcff")
    assert answer["bytes"] == (tmp_path / "report.html").stat().st_size


@pytest.mark.parametrize("factor", [1e22, 1.0, 1e-24])
def test_a_map_hangs_on_no_scale(factor: float) -> None:
    x = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32) * np.float32(factor)
    places, way = flat_map(x)
    assert way == "t-SNE"
    assert np.ptp(places) > 0.9


@pytest.mark.parametrize("key", ["labelled", "labels_hash"])
def test_figures_by_other_labels_are_not_compared(tmp_path: Path, key: str) -> None:
    """The same images, but first few of them labelled, or otherwise."""
    images = {"images_hash": {"train": "a", "test": "b"}}
    before, after = ({**images, key: {"train": n, "test": n}} for n in (20, 60))
    lines = (evaluation("pixels", 0.5, **before), evaluation("learned", 0.6, **before))
    runs, _, _ = read_folders([folder_of(tmp_path / "run", *lines, evaluation("learned", 0.9, **after))])
    assert "for 60 in a hundred images, against 50 with raw pixels" in headline(runs, [])
    assert [len(bar["rows"]) for bar in verdict.bars(verdict.scores(runs))] == [2, 1]


@pytest.mark.parametrize("n", [1, 2])
def test_all_and_none_of_two_images_tell_nothing(tmp_path: Path, n: int) -> None:
    told = {"labelled": {"train": 8, "test": n}}
    lines = (evaluation("pixels", 0.0, **told), evaluation("learned", 1.0, **told))
    runs, _, _ = read_folders([folder_of(tmp_path / "run", *lines)])
    assert f"{n} test images are too few to tell" in headline(runs, [])


def test_all_and_none_in_a_hundred_are_said_of_these_alone(tmp_path: Path) -> None:
    lines = (evaluation("pixels", 0.004), evaluation("untrained", 1.0), evaluation("learned", 0.996))
    runs, _, _ = read_folders([folder_of(tmp_path / "run", *lines)])
    assert "more than 99 in a hundred images, against less than 1 with raw pixels and 100 with" in headline(runs, [])


def test_as_many_directions_as_images_are_not_few(tmp_path: Path) -> None:
    health = {"rankme": 9.95, "dim": 3072, "images": 10, "collapsed": False}
    assert describe({"health": health}) == "The features use about 10 of 3072 dimensions; nothing has collapsed."
    runs, _, _ = read_folders([folder_of(tmp_path / "run", evaluation("learned", 0, protocols={"health": health}))])
    assert "have not collapsed: they spread over about 10 directions" in headline(runs, [])


def test_embeddings_without_a_run_have_their_figures(tmp_path: Path) -> None:
    x, labels = clusters()
    one, other = (make_embeddings(tmp_path / name, x, labels) for name in "ab")
    write_report([one, other], tmp_path / "two.html")
    assert "Nearest neighbour has the same label" in (tmp_path / "two.html").read_text()
    json_lines(one / "evaluation.jsonl", [evaluation("learned", 0, protocols={"health": {"rankme": 4.25, "dim": 8}})])
    write_report([one], tmp_path / "one.html")
    assert "rankme 4.25" in (tmp_path / "one.html").read_text()


def test_baselines_alone_are_a_bar(tmp_path: Path) -> None:
    x, labels = clusters()
    embeddings = make_embeddings(tmp_path / "emb", x, labels)
    health = {"rankme": 4.0, "dim": 8}
    line = evaluation("pixels", 0, protocols={"knn": {"accuracy": 0.98}, "health": health})
    json_lines(embeddings / "evaluation.jsonl", [line])
    _, vectors, _ = read_folders([embeddings])
    assert headline([], vectors).startswith(
        "With raw pixels a vote among nearest neighbours names the right class for 98"
    )


def test_a_selection_from_an_array_is_of_no_other_images(tmp_path: Path) -> None:
    x, _ = clusters()
    mine, others = (make_embeddings(tmp_path / name, x) for name in ("mine", "others"))
    _, vectors, (picks,) = read_folders([others, mine, make_selection(tmp_path / "sel", [3, 5], mine / "x.npy", "")])
    found = sections.source_of(picks, vectors)
    assert found is not None
    assert found.path == mine
    assert sections.source_of(picks, [one for one in vectors if one.path == others]) is None


def test_what_is_shown_of_a_set_keeps_its_labels_and_picks(tmp_path: Path) -> None:
    """Thumbnails of every second image: a row of the map is no id."""
    x, labels = clusters()
    embeddings = make_embeddings(tmp_path / "emb", x, labels)
    for i in range(0, 40, 2):
        (embeddings / "thumbs" / f"{i:06d}.png").unlink()
    _, (shown,), (picks,) = read_folders([embeddings, make_selection(tmp_path / "sel", [3, 0, 11], embeddings)])
    assert shown.labels == [labels[i] for i in range(1, 40, 2)]
    found = sections.atlas(shown, [picks], sections.Thumbs())
    (selection,) = found["selections"]
    assert [found["paths"][row] for row in selection["rows"]] == ["image 3.png", "image 11.png"]
    assert selection["total"] == 3
    assert [found["classes"][i] for i in found["labels"]] == shown.labels


def test_the_map_says_of_ten_neighbours_what_it_keeps(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((25, 6))
    _, (shown,), _ = read_folders([make_embeddings(tmp_path / "emb", x)])
    found = sections.atlas(shown, [], sections.Thumbs())
    near, places = np.array(found["near"]), np.array(found["places"])
    apart = ((places[:, None] - places) ** 2).sum(2) + np.diag([np.inf] * 25)
    share = np.mean([len(set(near[i]) & set(np.argsort(apart[i])[:10].tolist())) / 10 for i in range(25)])
    assert f"{share:.0%} are among its ten nearest on this map too" in found["facts"][1]


def test_a_neighbour_without_a_label_is_of_no_other(tmp_path: Path) -> None:
    x, _ = clusters()
    write_report(
        [make_embeddings(tmp_path / "emb", x, [f"class {i % 3}" if i < 30 else "" for i in range(40)])],
        tmp_path / "r.html",
    )
    page = (tmp_path / "r.html").read_text()
    assert page.count('<td class="differs">') == page.count("<em>") > 0
    assert "<em></em>" not in page


def test_the_page_says_how_many_neighbours_have_the_same_label(tmp_path: Path) -> None:
    x, labels = clusters()
    write_report([make_embeddings(tmp_path / "emb", x, ["other", *labels[1:]])], tmp_path / "r.html")
    _, (shown,), _ = read_folders([tmp_path / "emb"])
    found = sections.atlas(shown, [], sections.Thumbs())
    assert found["same"] != 1
    assert f"it is the same for {found['same']:.1%}" in (tmp_path / "r.html").read_text()


def test_the_headline_is_of_the_most_test_images_at_one_size_and_says_why_it_may_be_too_high(tmp_path: Path) -> None:
    few, many = ({"images_hash": name, "labelled": {"test": n}} for name, n in (("few", 30), ("many", 900)))
    lines = [evaluation(kind, a, **few) for kind, a in (("pixels", 0.2), ("learned", 0.9))]
    lines += [evaluation(kind, a, **many) for kind, a in (("pixels", 0.3), ("learned", 0.7))]
    runs, _, _ = read_folders([folder_of(tmp_path / "a", *lines)])
    assert "for 70 in a hundred images, against 30 with raw pixels" in headline(runs, [])

    sized = [evaluation("pixels", 0.3, size=32), evaluation("untrained", 0.4, size=96)]
    sized += [evaluation("learned", 0.8, size=96), evaluation("learned", 0.5, size=24)]
    runs, _, _ = read_folders([folder_of(tmp_path / "b", *sized)])
    assert "for 80 in a hundred images, against 30 with raw pixels and 40 with an untrained encoder" in headline(
        runs, []
    )

    warned = [evaluation("pixels", 0.3), evaluation("learned", 0.8, caveats=["It learned from labels."])]
    runs, _, _ = read_folders([folder_of(tmp_path / "c", *warned)])
    assert headline(runs, []).startswith("These figures may be too high")
    assert headline(runs, []).endswith("against 30 with raw pixels. It learned from labels.")
