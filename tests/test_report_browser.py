"""The report in a real browser: its scripts run, and draw. Needs Chromium (CHROMIUM=path, or on PATH)."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from likewise.report import write_report
from test_report import clusters, make_embeddings, make_run, make_selection

# Counts the pixels drawn on each canvas, once all that waits for a frame has been drawn, into the page itself.
PROBE = """
<script>setTimeout(() => {
  const drawn = [...document.querySelectorAll("canvas")].map((canvas) => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let n = 0;
    for (let i = 3; i < pixels.length; i += 4) n += pixels[i] > 0;
    return n;
  });
  document.body.dataset.drawn = drawn.join(" ");
  const images = [...document.images];
  document.body.dataset.images = images.filter((image) => image.naturalWidth > 0).length + " of " + images.length;
}, 2000);</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("LIKEWISE_CI"):
            pytest.fail("LIKEWISE_CI is set, and no chromium was found")
        pytest.skip("no chromium on this machine")
    return found


def visit(browser: str, page: Path, profile: Path, width: int) -> tuple[str, str]:
    """The page's DOM after its scripts ran, and what they wrote to the console."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--enable-logging=stderr",
        f"--user-data-dir={profile}",
        f"--window-size={width},2400",
        "--virtual-time-budget=5000",
        "--dump-dom",
        page.absolute().as_uri(),
    ]
    done = subprocess.run(
        [browser, *options], capture_output=True, text=True, encoding="utf-8", check=True, timeout=120
    )
    said = (line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, "\n".join(line for line in said if "willReadFrequently" not in line)  # of what tests read


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_draws_itself(tmp_path: Path, browser: str, width: int) -> None:
    embeddings = make_embeddings(tmp_path / "emb", *clusters())
    selection = make_selection(tmp_path / "sel", [3, 0, 10], embeddings)
    page = tmp_path / "report.html"
    write_report([make_run(tmp_path / "run"), embeddings, selection], page)
    text = page.read_text(encoding="utf-8")
    head, _, tail = text.rpartition("</body>")
    page.write_text(f"{head}{PROBE}</body>{tail}", encoding="utf-8")
    dom, console = visit(browser, page, tmp_path / "profile", width)
    assert console == ""
    assert 'data-ready="yes"' in dom
    drawn = re.search(r'data-drawn="([\d ]+)"', dom)
    assert drawn is not None
    counts = [int(one) for one in drawn[1].split()]
    assert len(counts) == 1 + text.count('data-chart="')  # the map, and each chart
    assert min(counts) > 200
    loaded = re.search(r'data-images="(\d+) of (\d+)"', dom)
    assert loaded is not None
    assert loaded[1] == loaded[2] != "0"


def test_an_error_in_a_script_would_be_seen(tmp_path: Path, browser: str) -> None:
    page = tmp_path / "report.html"
    write_report([make_embeddings(tmp_path / "emb", *clusters(8))], page)
    broken = page.read_text(encoding="utf-8").replace("JSON.parse(document.getElementById", "JSON.parse(document.get")
    page.write_text(broken, encoding="utf-8")
    dom, console = visit(browser, page, tmp_path / "profile", 1280)
    assert "TypeError" in console
    assert 'data-ready="yes"' not in dom


# What a reader does to the map, and what it says then: the name in the panel beside it, and the pressed buttons.
ACTIONS = """
<script>setTimeout(() => {
  const root = document.querySelector("[data-map]"), canvas = root.querySelector("canvas");
  const said = () => root.querySelector("aside .path")?.textContent ?? "";
  const stays = (key, more) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true, ...more }));
  const key = (name, times = 1) => { for (let i = 0; i < times; i++) stays(name); };
  const notes = {};
  const note = (name, value) => { notes[name] = value; };
  note("start", said());
  const all = new Set();
  for (let i = 0; i < 12; i++) { key("n"); all.add(said()); }
  note("all", all.size);
  note("after all", said());
  key("p");
  note("previous", said());
  key("n");
  note("next", said());
  const seen = new Set([said()]);
  const ways = ["ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"];
  for (let i = 0; i < 36; i++) { key(ways[Math.floor(i / 9)]); seen.add(said()); }
  note("by arrows", seen.size);
  note("left to the browser", [stays("n", { ctrlKey: true }), stays("x"), stays("+")].join(" "));
  const figures = [...root.querySelectorAll("aside figure")];
  note("neighbours", figures.length);
  note("cosines fall", figures.every((one, i) => !i || +one.textContent <= +figures[i - 1].textContent));
  note("neighbour not itself", figures.every((one) => one.querySelector("img").alt !== said()));
  const classes = [...root.querySelectorAll(".legend button")];
  note("legend", classes.map((one) => one.textContent).join(","));
  const pressed = () => classes.map((one) => one.getAttribute("aria-pressed") === "true");
  classes[1].click();
  note("one class", pressed().join(" "));
  classes[1].click();
  note("no class", pressed().join(" "));
  const button = root.querySelector("[data-do=images]");
  button.click();
  note("images", button.getAttribute("aria-pressed"));
  const paint = () => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let sum = 0;
    for (let i = 3; i < data.length; i += 4) sum += data[i];
    return sum;
  };
  const drawn = (act) => new Promise((done) => {
    act();
    setTimeout(() => done(paint()), 200);
  });
  const select = root.querySelector("select");
  const choose = (value) => { select.value = value; select.dispatchEvent(new Event("change")); };
  (async () => {
    const plain = await drawn(() => key("0"));
    note("marking fades others", (await drawn(() => choose("0"))) < plain);
    note("and back", (await drawn(() => choose(""))) === plain);
    note("images paint", (await drawn(() => button.click())) > plain);
    const shown = await drawn(() => root.querySelector("[data-do=all]").click());
    const zoomed = await drawn(() => { key("+", 3); });
    note("zoom changes", zoomed !== shown);
    note("whole again", (await drawn(() => key("0"))) === shown);
    const report = document.createElement("pre");
    report.id = "notes";
    report.textContent = JSON.stringify(notes);
    document.body.append(report);
  })();
}, 1000);</script>
"""
# Without a screen, frames come no more once the page has loaded.
FRAMES = "<head><script>window.requestAnimationFrame = (draw) => setTimeout(draw, 16);</script>"


def test_the_map_does_what_its_reader_asks(tmp_path: Path, browser: str) -> None:
    x, labels = clusters(12)
    x[5] = x[9]  # two images on one place: arrows cannot tell them apart
    embeddings = make_embeddings(tmp_path / "emb", x, labels)
    selection = make_selection(tmp_path / "sel", [3, 0, 10], embeddings)
    page = tmp_path / "report.html"
    write_report([embeddings, selection], page)
    text = page.read_text(encoding="utf-8").replace("<head>", FRAMES, 1)
    head, _, tail = text.rpartition("</body>")
    page.write_text(f"{head}{ACTIONS}</body>{tail}", encoding="utf-8")
    dom, console = visit(browser, page, tmp_path / "profile", 1280)
    assert console == ""
    found = re.search(r'<pre id="notes">(.*?)</pre>', dom)
    assert found is not None
    notes = json.loads(html.unescape(found[1]))
    assert notes["all"] == 12  # n goes through all of them, and around
    assert notes["after all"] == notes["start"] == notes["next"] != notes["previous"]
    assert notes["by arrows"] >= 4
    assert notes["left to the browser"] == "true true false"
    assert notes["neighbours"] == 6
    assert notes["cosines fall"]
    assert notes["neighbour not itself"]
    assert notes["legend"] == "class 03,class 13,class 23,class 33"  # names, and how many of each
    assert notes["one class"] == "false true false false"
    assert notes["no class"] == "false false false false"
    assert notes["images"] == "false"
    assert notes["marking fades others"]
    assert notes["and back"]
    assert notes["images paint"]
    assert notes["zoom changes"]
    assert notes["whole again"]
