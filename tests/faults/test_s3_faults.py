"""A run folder on an S3 server that fails: one request in five, or all of them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults.s3_proxy import MIX, FaultyS3, each_first, faulty
from pipeline_runs import command, rubbish, samples, tables

from geo_subset import storage
from geo_subset.errors import StageError
from geo_subset.runfolder import StageFolder

pytestmark = pytest.mark.ci
TABLE = pa.table({"x": pa.array(range(100_000))})


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sends this process's S3 requests to a proxy, with a short time-out and few retries of botocore's own."""

    def through(proxy: FaultyS3, attempts: int = 1) -> None:
        retries = {"max_attempts": attempts - 1}
        options = {"endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 1, "retries": retries}}
        monkeypatch.setitem(fsspec.config.conf, "s3", options)

    return through


@pytest.fixture
def s3(s3_bucket: str) -> str:
    """URL of a run folder that is not there yet."""
    return f"{s3_bucket}/run-{os.urandom(4).hex()}"


def a_stage(url: str) -> tuple[object, ...]:
    """A stage from its start to its end; what must come out of it."""
    stage = StageFolder(url, "merge", "0" * 64)
    stage.start(2)
    entries = [stage.write_table(TABLE, f"part-0000{n}-{stage.tag}.parquet") for n in range(2)]
    stage.record("part-00000", entries[:1], {"rows": 1})
    assert set(stage.start(2)) == {"part-00000"}
    entries[1] = stage.write_table(TABLE, entries[1].path)
    stage.record("part-00001", entries[1:], {"rows": 1})
    manifest = stage.finish(stage.start(2).values(), 0.0)
    assert storage.create(f"{url}/new", "text") or storage.read_text(f"{url}/new") == "text"
    assert not storage.create(f"{url}/new", "other")
    with stage.local([entry.path for entry in entries]) as copies, stage.open(entries[0].path) as stream:
        assert pq.read_table(stream).equals(pq.read_table(copies[1]))
    storage.remove(f"{url}/new")
    left = [name for folder in ("", "/samples", "/samples/_records") for name in storage.sizes(url + folder)]
    return manifest.files, manifest.counters, stage.finished() == manifest, sorted(left)


@pytest.mark.parametrize("kind", [*MIX])
def test_every_request_may_fail_once(kind, s3_bucket, s3, patient):
    undisturbed = a_stage(s3)
    with faulty(os.environ["AWS_ENDPOINT_URL"], {kind: 1.0}, which=each_first()) as proxy:
        patient(proxy)
        assert a_stage(f"{s3}-disturbed") == undisturbed
    assert proxy.injected[kind] > 20


def test_a_run_of_which_one_request_in_five_fails(run_file, undisturbed, s3):
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    print(f"FAULT_SEED={seed}")
    with faulty(os.environ["AWS_ENDPOINT_URL"], seed=seed) as proxy:
        options = {"endpoint_url": proxy.url, "config_kwargs": {"read_timeout": 2}}
        words = command(run_file, s3, what="download")
        out = subprocess.run(
            words, env={**os.environ, "FSSPEC_S3": json.dumps(options)}, capture_output=True, text=True, check=False
        )
        print(f"{proxy.requests} requests, spoilt: {dict(proxy.injected)}")
    assert out.returncode == 0, out.stderr
    assert (tables(s3), samples(s3)) == undisturbed
    assert rubbish(s3) == []
    assert sum(proxy.injected.values()) > proxy.requests / 10
    assert storage.read_text(f"{s3}/_lease.json") is None


@pytest.fixture
def places_through(run_file, s3) -> Iterator[Callable[..., str]]:
    """Runs the first stage with an S3 setting; gives the one line it ends with."""

    def run(url: str = s3, **options: object) -> str:
        env = {**os.environ, "FSSPEC_S3": json.dumps(options)}
        out = subprocess.run(
            command(run_file, url, what="places"), env=env, capture_output=True, text=True, check=False
        )
        assert out.returncode == 2
        assert out.stdout == ""
        (line,) = out.stderr.splitlines()
        assert line.startswith(f"geo-subset: run = '{url}': the run folder cannot be written to: ")
        return line

    return run


def test_a_dead_endpoint_is_one_line(places_through):
    assert "Could not connect to the endpoint URL" in places_through(endpoint_url="http://127.0.0.1:1")


def test_an_endpoint_that_never_answers_is_one_line(places_through, s3):
    with faulty("", {"stall": 1.0}) as proxy:
        line = places_through(endpoint_url=proxy.url, config_kwargs={"read_timeout": 1})
    assert "Read timeout on endpoint URL" in line
    assert proxy.requests == 25


def test_wrong_credentials_are_one_line(places_through):
    with faulty("", {"403": 1.0}) as proxy:
        assert "the run folder cannot be written to: injected" in places_through(endpoint_url=proxy.url)


def test_a_missing_bucket_is_one_line_and_is_not_made(places_through, s3_bucket):
    url = "s3://geo-subset-mispelt/run"
    assert "The specified bucket does not exist" in places_through(url)
    assert not storage.filesystem(url)[0].exists("geo-subset-mispelt")


def test_an_upload_that_breaks_off_leaves_nothing(s3_bucket, s3, patient):
    """More than two parts of 50 MiB; the second never arrives."""
    stage = StageFolder(s3, "download", "0" * 64)
    with faulty(
        os.environ["AWS_ENDPOINT_URL"], {"500": 1.0}, which=lambda r: r.query.get("partNumber") == "2"
    ) as proxy:
        patient(proxy)
        with pytest.raises(StageError, match=r"writing s3://.*00000\.tar"), stage.writing("00000.tar") as path:
            path.touch()
            os.truncate(path, 101 << 20)
        assert storage.sizes(stage.url) == {}
        fs, root = storage.filesystem(s3_bucket)
        assert fs.call_s3("list_multipart_uploads", Bucket=root).get("Uploads", []) == []
    assert proxy.injected["500"] == 5
