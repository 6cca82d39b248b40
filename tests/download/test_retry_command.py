"""`geo-subset download --retry-failed` as a user meets it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from pipeline_runs import command


def download(run_file: Path, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [*command(run_file, run), *more]
    words[words.index("run")] = "download"
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--retry-failed", "--reason=("], "'(' is no regular expression"),
        (["--reason=503"], "--reason goes with --retry-failed"),
    ],
)
def test_wrong_options_are_told_before_anything_starts(run_file, tmp_path, words, told):
    out = download(run_file, tmp_path / "run", *words)
    assert out.returncode == 2
    assert told in out.stderr
    assert not (tmp_path / "run").exists()


def test_a_retry_pass_and_the_report_after_it(run_file, tmp_path):
    run = tmp_path / "run"
    out = download(run_file, run, "--retry-failed", "--reason=^http 404$")
    assert out.returncode == 0, out.stderr
    assert "0 more images; now 421 of 496 images in 10 shards" in out.stdout
    before = (run / "shards" / "_manifest.json").read_text()

    out = download(run_file, run, "--retry-failed", "--reason=http 999")
    assert out.returncode == 0, out.stderr
    assert "nothing to try again" in out.stdout
    assert (run / "shards" / "_manifest.json").read_text() == before

    out = subprocess.run(command(run_file, run), capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert (run / "shards" / "_manifest.json").read_text() == before
    found = json.loads((run / "report" / "summary.json").read_text())["download"]
    assert (found["attempted"], found["succeeded"]) == (496, 421)
    assert sum(found["failed_by_reason"].values()) == 75
    assert found["failed_by_reason"]["http 404"] == json.loads(before)["counters"]["failed: http 404"] > 0
