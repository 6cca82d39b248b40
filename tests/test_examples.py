"""The run files and job scripts work as they stand."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from geo_subset import settings
from geo_subset.places import stage
from geo_subset.runfolder import StageFolder

from .places.test_geonames import line

ROOT = Path(__file__).parent.parent
JOBS = {path.stem: path for path in (ROOT / "jobs").glob("*.py")}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_every_example_makes_its_places(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "US.zip", "w") as archive:  # what the United States' run file has one fetch
        rows = [
            line(number, f"Old Mill No. {number}", feature_code=code) for number, code in enumerate(["MUS"] * 150, 1)
        ]
        archive.writestr("US.txt", "\n".join(rows))
    captions = tmp_path / "captions.jsonl"  # a file that this one wants to be named
    captions.write_text('{"url": "http://x/1", "caption": "Street in Omaha, Nebraska"}\n')
    loaded = settings.load(path, (f"retrieve.captions.path={captions}",) if path.stem == "fsa_owi" else ())
    stage.check(loaded)
    manifest = stage.run(loaded, StageFolder(str(tmp_path), "places", "0" * 64))
    assert manifest.counters["places"] >= 150


def test_midtown_east_is_the_run_of_the_article(tmp_path: Path) -> None:
    loaded = settings.load(ROOT / "examples" / "midtown_east.toml")
    assert loaded.places.context == "midtown east, united states"
    assert loaded.places.prompt == ("{name} in {context}",)
    assert loaded.retrieve.num_images == 1000
    manifest = stage.run(loaded, StageFolder(str(tmp_path), "places", "0" * 64))
    lines = (ROOT / "examples" / "midtown_east.txt").read_text(encoding="utf-8").splitlines()
    assert manifest.counters == {"rows": len(lines), "places": len(lines)}  # nothing twice, nothing blank
    assert len(lines) >= 170
    table = pq.read_table(tmp_path / "places" / "places.parquet")
    assert table["name"].to_pylist() == lines == [unicodedata.normalize("NFC", line) for line in lines]
    assert table["queries"].to_pylist()[0] == ["Grand Central Terminal in midtown east, united states"]


def test_there_is_a_job_for_every_stage() -> None:
    assert set(JOBS) == {"places", "retrieve", "merge", "download", "report", "pipeline"}


@pytest.mark.parametrize("name", sorted(JOBS))
def test_jobs_are_thin_and_say_how_to_submit_them(name: str) -> None:
    text = JOBS[name].read_text(encoding="utf-8")
    command = "run" if name == "pipeline" else name
    assert f'main(["{command}", *sys.argv[1:]])' in text
    assert f"--working-dir . -- python jobs/{name}.py \\\n        examples/midtown_east.toml --set run=s3://" in text


@pytest.mark.parametrize("name", ["places", "pipeline"])
def test_jobs_hand_the_exit_status_on(name: str, tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, JOBS[name], tmp_path / "none.toml"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 2
    assert "there is no run file" in process.stderr
    assert "Traceback" not in process.stderr
