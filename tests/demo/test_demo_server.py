"""The server as a client meets it: what each URL truly answers, and that the server never outlives who started it."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from geo_subset.demo import launch, web
from geo_subset.errors import SettingsError, StageError


def _post(world: launch.World, path: str, body: bytes) -> tuple[int, object]:
    request = urllib.request.Request(world.service_url + path, body)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def _urls_of(world: launch.World, kind: web.Kind, count: int) -> list[str]:
    urls = sorted(set(world.index()["url"].to_pylist()))
    return [url for url in urls if web.expected_outcome(url).kind == kind and not web.expected_outcome(url).delay][
        :count
    ]


def test_the_service_answers(served: launch.World) -> None:
    query = {"text": "Houston, Texas", "indice_name": "demo", "modality": "image", "num_images": 10}
    status, rows = _post(served, "/knn-service", json.dumps(query).encode())
    assert status == 200
    assert isinstance(rows, list)
    assert len(rows) == 10
    assert "Houston" in rows[0]["caption"]
    known = {(row["image_id"], row["url"], row["caption"]) for row in served.index().to_pylist()}
    assert {(row["id"], row["url"], row["caption"]) for row in rows} <= known
    assert _post(served, "/knn-service", json.dumps(query).encode()) == (status, rows)
    assert _post(served, "/knn-service", b"")[0] == 400
    assert _post(served, "/metadata", b'{"ids": [0], "indice_name": "demo"}')[0] == 200
    with urllib.request.urlopen(f"{served.service_url}/indices-list", timeout=20) as response:
        assert json.load(response) == ["demo"]
        assert response.headers["Connection"] == "close"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{served.service_url}/knn-service", timeout=20)


@pytest.mark.parametrize("kind", ["not found", "gone", "forbidden", "server error"])
def test_dead_links_say_so(served: launch.World, kind: web.Kind) -> None:
    for url in _urls_of(served, kind, 2):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, timeout=20)
        assert caught.value.code == web.expected_outcome(url).status


@pytest.mark.parametrize("kind", ["reset", "closed", "cut off"])
def test_broken_connections_break(served: launch.World, kind: web.Kind) -> None:
    errors = {"reset": ConnectionResetError, "closed": http.client.RemoteDisconnected}
    for url in _urls_of(served, kind, 2):
        with (
            pytest.raises(errors.get(kind, http.client.IncompleteRead)),
            urllib.request.urlopen(url, timeout=20) as page,
        ):
            page.read()


@pytest.mark.parametrize("kind", ["image", "redirect", "tiny", "html"])
def test_pages_and_images_come_as_expected(served: launch.World, kind: web.Kind) -> None:
    urls = _urls_of(served, kind, 3)
    assert urls
    for url in urls:
        with urllib.request.urlopen(url, timeout=20) as response:
            data, told = response.read(), response.headers["Content-Type"]
            assert (response.url != url) == (kind == "redirect")
        if kind == "html":
            assert told.startswith("text/html")
            continue
        image = Image.open(io.BytesIO(data))
        image.load()
        assert told == Image.MIME[image.format or ""]
        assert (image.size == (1, 1)) == (kind == "tiny")


def test_an_image_that_the_world_does_not_have_is_not_found(served: launch.World) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.5:{served.port}/nothing.jpg", timeout=20)


def test_a_port_taken_by_another_program_is_a_settings_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        world = launch.build(tmp_path, 5, 20, other.getsockname()[1], None)
        with pytest.raises(SettingsError, match="taken by another program"), launch.serving(world):
            pass


def test_a_server_that_cannot_start_is_told_with_its_reason(tmp_path: Path) -> None:
    world = launch.build(tmp_path, 5, 20, None, None)
    (world.folder / "index.parquet").unlink()
    with pytest.raises(StageError, match=r"did not start: .*index\.parquet"), launch.serving(world):
        pass


def test_the_server_ends_with_the_block_and_with_a_killed_parent(tmp_path: Path) -> None:
    world = launch.build(tmp_path, 5, 20, None, None)
    with launch.serving(world):
        assert _post(world, "/knn-service", b"")[0] == 400
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", world.port), timeout=5)

    script = (
        "import sys, time; from pathlib import Path; from geo_subset.demo import launch\n"
        f"with launch.serving(launch.build(Path({str(tmp_path)!r}), 5, 20, None, None)):\n"
        "    print('serving', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"serving\n"
    # An open connection tells of the server's end: reading from it returns when the server has gone.
    with socket.create_connection(("127.0.0.1", world.port), timeout=200) as connection:
        os.kill(parent.pid, signal.SIGKILL)
        parent.communicate()
        assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", world.port), timeout=5)
