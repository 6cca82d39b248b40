"""docs/hosting-a-backend.md: every command in it runs as it stands and ends with matches.

Exchanged are only what a test must not touch: the model, which would be downloaded, and the two ports. The first block,
which installs gigabytes, is not run: what it installs is what runs the others. The servers listen on loopback alone.
"""

from __future__ import annotations

import functools
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = [pytest.mark.clip_retrieval, pytest.mark.timeout(1200)]

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "hosting-a-backend.md"
IMAGES = 40


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def exchanged(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, f"the page no longer has {old}"
        text = text.replace(old, new)
    return text


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture
def images_url(tmp_path: Path) -> Iterator[str]:
    """A web server with pictures 0.jpg, 1.jpg, ... that are no duplicates of each other."""
    folder = tmp_path / "web"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(IMAGES):
        side = 2 ** (i % 6 + 1)
        picture = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        picture.resize((320, 240)).save(folder / f"{i}.jpg")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_command_of_the_page(backend_folder, images_url, tmp_path):
    urls = [f"{images_url}/{i}.jpg" for i in range(IMAGES)] + [f"{images_url}/gone.jpg"]
    captions = [f"picture {i}" for i in range(IMAGES + 1)]
    pq.write_table(pa.table({"url": urls, "caption": captions}), tmp_path / "pairs.parquet")
    first, second = free_ports(2)
    ports = (("1234", first), ("1235", second))
    install, *commands = blocks("bash")
    assert "pip install '.[clip-retrieval]'" in install
    (run_file,) = blocks("toml")
    (tmp_path / "my_places.toml").write_text(exchanged(run_file, *ports))
    model = ("CLIP_MODEL=ViT-B/32", f"CLIP_MODEL=hf_clip:{backend_folder}/model")
    program = tmp_path / "bin" / "clip-retrieval"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "loopback.py"}" "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    out = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", exchanged("\n".join(commands), *ports, model)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"},
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-4000:]
    assert out.stdout.count('["geo"]') == 2
    (answer,) = [json.loads(line) for line in out.stdout.splitlines() if line.startswith('[{"')]
    assert len(answer) == 3
    assert {"url", "caption", "id", "similarity", "original_width", "original_height"} == set(answer[0])
    matches = pa.concat_tables(pq.read_table(part) for part in tmp_path.glob("runs/my-places/matches/part-*.parquet"))
    shown = dict(zip(urls, captions, strict=True))
    assert len(set(matches["place_id"].to_pylist())) == 2
    assert len(matches) > IMAGES  # two places, and few of the pictures are taken for duplicates
    for row in matches.to_pylist():
        assert row["caption"] == shown[row["url"]]
        assert (row["width"], row["height"]) == (320, 240)
    for log in ("backend-1.log", "backend-2.log"):
        assert "POST /knn-service" in (tmp_path / log).read_text()
