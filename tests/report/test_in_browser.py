"""The page as a browser lays it out: whole and without a scroll bar on a telephone and on a desk."""

from __future__ import annotations

import functools
import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from geo_subset import settings
from geo_subset.report import stage

from .report_run import Outcome, colored, match, place, write

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]
WORD = "Llanfairpwllgwyngyll" * 8
#: A window of its own size for the page, which a headless browser's own cannot be, and what there is in it.
FRAME = """<!doctype html><iframe id="f" src="report/index.html" style="border:0;width:WIDTHpx;height:900px"></iframe>
<pre id="told"></pre><script>
onload = () => {
  const page = document.getElementById("f").contentDocument;
  const map = page.querySelector("picture img"), at = map.getBoundingClientRect();
  document.getElementById("told").textContent = JSON.stringify({
    width: page.documentElement.scrollWidth, left: at.left, right: at.right, pixels: map.naturalWidth,
    card: map.closest(".card").scrollWidth - map.closest(".card").clientWidth,
    beyond: [...page.querySelectorAll("main *")].filter(element => element.getBoundingClientRect().right > WIDTH + 1
      && !element.closest(".scroll")).map(element => element.outerHTML.slice(0, 200)).slice(0, 5),
    unseen: [...page.images].filter(image => !image.naturalWidth).length,
  });
};
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of a run with a report that is hard to lay out, and its URL."""
    folder = tmp_path_factory.mktemp("run")
    names = [WORD, "برج خليفة " * 20, "東京" * 80, "M" * 160, "Oslo"]
    places = [
        place(f"list:{n}", name, admin1=WORD, latitude=60.0 - n, longitude=10.0 * n) for n, name in enumerate(names)
    ]
    rows = [match(f"list:{n}", f"http://{'m' * 60}{n}.com/{i}", 0.3, caption=WORD) for n in range(4) for i in range(3)]
    run = write(
        folder, places, rows, lambda s: Outcome(reason=WORD) if s["url"].endswith("/1") else Outcome(image=colored())
    )
    listed = {"source": "list", "path": ["places.txt"]}
    stage.run(settings.from_tree({"run": "unused", "places": listed, "report": {"title": WORD}}), run.folder())
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def laid_out(served: tuple[Path, str], width: int, profile: Path) -> dict[str, Any]:
    folder, url = served
    (folder / f"{width}.html").write_text(FRAME.replace("WIDTH", str(width)))
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
        "--virtual-time-budget=20000", f"--window-size={width + 100},1000", "--dump-dom", f"{url}/{width}.html",
    ]  # fmt: skip
    seen = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    told = re.search(r'<pre id="told">(.+?)</pre>', seen)
    assert told, seen
    found: dict[str, Any] = json.loads(html.unescape(told[1]))
    return found


@pytest.mark.parametrize("width", [320, 400, 560, 561, 800, 1300])
def test_the_map_is_whole_and_nothing_reaches_beyond_the_window(
    served: tuple[Path, str], width: int, tmp_path: Path
) -> None:
    found = laid_out(served, width, tmp_path)
    assert found["width"] == width, found["beyond"]
    assert 0 <= found["left"] < found["right"] <= width and found["card"] == 0
    assert found["pixels"] == (750 if width <= 560 else 2040)  # what is drawn for such a screen
    assert found["unseen"] == 0
