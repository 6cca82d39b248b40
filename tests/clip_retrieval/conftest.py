"""The real backend, where clip-retrieval is installed; one model and index for a session of tests."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # this folder's name is clip-retrieval's, so it is no package itself

import backend

ROWS = 3000


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("clip_retrieval") and not list(importlib.metadata.distributions(name="clip-retrieval")):
        pytest.skip("clip-retrieval is not installed; `make test-clip-retrieval` installs and uses it")


@pytest.fixture(scope="session")
def backend_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `backend.build` made: model, embeddings, indices."""
    folder = tmp_path_factory.mktemp("backend")
    backend.build(folder, ROWS)
    return folder


@pytest.fixture(scope="session")
def backend_url(backend_folder: Path) -> Iterator[str]:
    """URL of a running backend."""
    with backend.serving(backend_folder) as url:
        yield url
