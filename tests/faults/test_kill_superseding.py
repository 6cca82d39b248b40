"""kill -9 at random moments of superseding, bringing back and cleaning, on disk and on an object store.

FAULT_TRIALS is how many times each is killed (default: 20 times on disk, 3 times on the object store, which is slow
here), FAULT_SEED where the random moments begin.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import time

import pytest
from generations import FINGERPRINTS, content, make, wander

from geo_subset import ownership, statefiles, superseding
from geo_subset.runfolder import StageFolder

pytestmark = [pytest.mark.ci, pytest.mark.timeout(0 if "FAULT_TRIALS" in os.environ else 300)]
FINISHED, CUT_OFF = FINGERPRINTS[:2], FINGERPRINTS[2]


@pytest.fixture(params=["local", "s3"])
def run_url(request, tmp_path):
    if request.param == "local":
        return ownership.claim(str(tmp_path / "run"), "")
    return ownership.claim(f"{request.getfixturevalue('s3_bucket')}/run-{os.urandom(4).hex()}", "")


@pytest.fixture
def rng():
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    print(f"FAULT_SEED={seed}")
    return random.Random(seed)


def killed(run_url, rng, clean):
    """Runs `wander` in a process that is killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["geo_subset.runfolder", "s3fs", "generations"])
    ready, told = context.Pipe(duplex=False)
    arguments = (run_url, rng.randrange(1 << 30), clean, told, dict(os.environ))
    process = context.Process(target=wander, args=arguments)
    process.start()
    told.close()  # so that a process that ends before it is ready is an error, and not waited for
    ready.recv()
    process.join(rng.uniform(0, 0.1 if run_url.startswith("/") else 1.5))
    process.kill()
    process.join()
    assert process.exitcode == -9


def trials(run_url):
    return int(os.environ.get("FAULT_TRIALS", 20 if run_url.startswith("/") else 3))


def shards(run_url):
    """Tags of the shards that somebody who reads the folder would find."""
    names = [name for name in content(f"{run_url}/shards") if name.endswith((".tar", ".parquet"))]
    return {found[1] for name in names if (found := re.search(r"-([0-9a-f]{8})\.", name))}


def all_files(run_url):
    """Name -> bytes of the shards of all generations, wherever they lie."""
    found = content(run_url)
    return {
        path.rpartition("/")[2]: found[path]
        for path in found
        if re.search(r"/\d+-[^/]+$", path) and "_records" not in path
    }


def test_nothing_finished_is_lost(run_url, rng):
    manifests = {fingerprint: make(run_url, fingerprint) for fingerprint in FINISHED}
    make(run_url, CUT_OFF, units=2, finish=False)
    files = all_files(run_url)
    assert len(files) == 24
    tables = {}
    for fingerprint in FINISHED:
        superseding.settle(run_url, "download", fingerprint)
        tables[fingerprint] = content(f"{run_url}/shards")
    for trial in range(trials(run_url)):
        killed(run_url, rng, clean=False)
        assert all_files(run_url) == files, trial
        assert len(shards(run_url)) <= 1, trial
        fingerprint = FINGERPRINTS[trial % 3]
        if fingerprint == CUT_OFF:
            assert len(StageFolder(run_url, "download", CUT_OFF).start(3)) == 2
        else:
            superseding.settle(run_url, "download", fingerprint)
            assert StageFolder(run_url, "download", fingerprint).finished() == manifests[fingerprint]
            assert content(f"{run_url}/shards") == tables[fingerprint]


def test_cleaning_frees_superseded_results_alone(run_url, rng):
    for fingerprint in FINISHED:
        make(run_url, fingerprint)
    for trial in range(trials(run_url)):
        there = statefiles.read_manifest(f"{run_url}/shards")
        killed(run_url, rng, clean=True)
        assert len(shards(run_url)) <= 1, trial
        manifest = make(run_url, FINISHED[trial % 2])
        for each in superseding.apart(run_url):
            superseding.remove(each)
        assert StageFolder(run_url, "download", FINISHED[trial % 2]).finished() == manifest
        assert {name.rpartition("/")[2] for name in content(run_url)} == {
            "_manifest.json", "run.toml", *(entry.path for entry in manifest.files),
        }, (trial, there)  # fmt: skip
