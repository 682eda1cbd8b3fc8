"""The report in a real browser: its scripts run, and draw. Needs Chromium (CHROMIUM=path, or on PATH)."""

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
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_draws_itself(tmp_path: Path, browser: str, width: int) -> None:
    embeddings = make_embeddings(tmp_path / "emb", *clusters())
    selection = make_selection(tmp_path / "sel", [3, 0, 10], embeddings)
    page = tmp_path / "report.html"
    write_report([make_run(tmp_path / "run"), embeddings, selection], page)
    html = page.read_text(encoding="utf-8")
    head, _, tail = html.rpartition("</body>")
    page.write_text(f"{head}{PROBE}</body>{tail}", encoding="utf-8")
    dom, console = visit(browser, page, tmp_path / "profile", width)
    assert console == ""
    assert 'data-ready="yes"' in dom
    drawn = re.search(r'data-drawn="([\d ]+)"', dom)
    assert drawn is not None
    counts = [int(one) for one in drawn[1].split()]
    assert len(counts) == 1 + html.count('data-chart="')  # the map, and each chart
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
