"""One small world, built and served once for the tests that ask it over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from geo_subset.demo import launch


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[launch.World]:
    world = launch.build(tmp_path_factory.mktemp("demo"), places=30, images=600, port=None, corpus=None)
    with launch.serving(world):
        yield world
