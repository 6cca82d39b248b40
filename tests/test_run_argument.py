"""RUN on the command line: a run file or a run folder; each command asks only for what it needs."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from geo_subset import cli, run_argument
from geo_subset.cli import main
from geo_subset.errors import SettingsError


@pytest.fixture
def run_file(tmp_path):
    (tmp_path / "names.txt").write_text("Times Square\nBryant Park\n")
    path = tmp_path / "mine.toml"
    path.write_text(f'run = "{tmp_path}/run"\n[places]\nsource = "list"\npath = "names.txt"\n')
    return path


def command(capsys, *words):
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


def test_places_and_their_preview_need_no_backend(run_file, capsys):
    status, out, err = command(capsys, "places", run_file, "--preview", "2")
    assert status == 0, err
    assert "Bryant Park" in out
    status, _, err = command(capsys, "retrieve", run_file)
    assert status == 2
    assert "retrieve.clip-service.url is missing" in err


def test_status_of_a_folder_needs_neither_the_inputs_nor_what_reads_them(run_file, tmp_path, capsys):
    """The folder was moved, its list is gone, and the captions lie on a file system for which nothing is installed."""
    captions = ("--set=retrieve.strategy=captions", "--set=retrieve.captions.path=nosuch://bucket/captions")
    assert command(capsys, "places", run_file, *captions)[0] == 0
    (tmp_path / "names.txt").unlink()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    status, out, err = command(capsys, "status", tmp_path / "moved", "--json")
    assert status == 0, err
    assert [stage["state"] for stage in json.loads(out).values()] == ["done", *["not started"] + ["waiting"] * 3]


def test_a_run_made_with_overrides_needs_no_repeating_of_them(run_file, tmp_path, capsys):
    assert command(capsys, "places", run_file, "--set=places.context=midtown east")[0] == 0
    for named in (run_file, tmp_path / "run"):
        _, out, _ = command(capsys, "status", named)
        assert out.startswith("places    done")
    _, out, _ = command(capsys, "status", run_file)
    assert "other settings than" in out
    assert 'places.context: "midtown east" -> ""' in out
    _, out, _ = command(capsys, "status", run_file, "--set=places.context=soho")
    assert out.startswith("places    out of date")


def test_a_folder_that_is_no_runs(tmp_path):
    with pytest.raises(SettingsError, match=r"is not a run folder: it holds no run\.toml"):
        run_argument.look(str(tmp_path))


@pytest.mark.parametrize("text", [b"\xff", b"run = ", b"x = 1", b"run = 3", b"[" * 100_000])
def test_damaged_settings_of_a_folder_are_one_line(tmp_path, capsys, text):
    (tmp_path / "run.toml").write_bytes(text)
    for word in ("status", "verify", "clean", "report"):
        status, _, err = command(capsys, word, tmp_path)
        assert status == 2
        assert "run.toml" in err


def test_report_of_a_folder_takes_the_other_stages_as_they_are(run_file, tmp_path, capsys):
    assert command(capsys, "places", run_file)[0] == 0
    (tmp_path / "names.txt").unlink()
    status, _, err = command(capsys, "report", tmp_path / "run")
    assert status == 1
    assert f"{tmp_path}/run/matches is not finished" in err


def test_a_folder_is_no_run_file(tmp_path, capsys):
    status, _, err = command(capsys, "run", tmp_path)
    assert (status, err) == (2, f"geo-subset: {tmp_path} is a folder: name a run file\n")


def test_of_a_folder_only_the_reports_settings_can_be_changed(run_file, tmp_path, capsys):
    assert command(capsys, "places", run_file)[0] == 0
    before = (tmp_path / "run/run.toml").read_bytes()
    status, _, err = command(capsys, "report", tmp_path / "run", "--set=download.image_size=64")
    assert status == 2
    assert "of a run folder only the report is made" in err
    assert (tmp_path / "run/run.toml").read_bytes() == before


def test_rows_that_no_file_can_hold_are_damage(run_file, tmp_path, capsys):
    assert command(capsys, "places", run_file)[0] == 0
    path = tmp_path / "run/places/_manifest.json"
    tree = json.loads(path.read_text())
    tree["files"][0]["rows"] = 1 << 53
    path.write_text(json.dumps(tree))
    status, _, err = command(capsys, "places", run_file)
    assert status == 1
    assert "places.parquet has more rows than its bytes can hold" in err


@pytest.mark.parametrize(("code", "status"), [(15, 130), (3, None)])
def test_a_sigterm_that_ray_took_stops_as_any_other(monkeypatch, capsys, code, status):
    """While `ray.init` runs, the handler is Ray's: it exits with the signal's number."""
    monkeypatch.setattr(cli.commands, "main", lambda *_, **__: sys.exit(code))
    if status is None:
        with pytest.raises(SystemExit):
            main(["run", "x.toml"])
    else:
        assert main(["run", "x.toml"]) == status
        assert "stopped; what is done is kept. To go on: geo-subset run x.toml" in capsys.readouterr().err
