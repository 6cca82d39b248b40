"""The log for collectors: every line one JSON object that says when, at what level, of which stage and unit."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone

import pipeline_runs
import pytest
from ray import cloudpickle

from geo_subset import cli, cluster, events
from geo_subset.settings import ClusterSettings

# By value: where another package is called 'tests', workers would look for this module there.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def collected(monkeypatch, capsys):
    """What the log of this test holds, as a collector reads it."""
    monkeypatch.setenv(events.VARIABLE, "json")
    events.set_up_logging()
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    monkeypatch.undo()
    events.set_up_logging()


def _chatty(unit):
    for number in range(60 if unit == 1 else 1):
        events.event("host given up", f"message\nof {unit}", host=f"host{number}", seconds=3)
    return unit


def _fails_once(unit, folder):
    mark = folder / str(unit)
    if not mark.exists():
        mark.touch()
        raise RuntimeError("not\nyet")
    return unit


def test_what_workers_log_is_told_by_the_driver(ray_session, collected):
    with events.about(run="s3://b/run", stage="download"):
        list(cluster.run_tasks(_chatty, [0, 1], (), ClusterSettings(workers=1)))
    told = collected()
    one = next(line for line in told if line["unit"] == "0")
    when = datetime.fromisoformat(one.pop("time"))
    assert abs((datetime.now(timezone.utc) - when).total_seconds()) < 600
    assert one.pop("node")
    assert one == {
        "level": "info", "event": "host given up", "run": "s3://b/run", "stage": "download", "message": "message of 0",
        "host": "host0", "seconds": 3, "unit": "0",
    }  # fmt: skip
    many = [line for line in told if line["unit"] == "1"]
    assert len(many) == events.MOST_KEPT + 1
    assert many[-1]["event"] == "more events"
    assert many[-1]["message"].startswith("10 more")


def test_a_unit_that_is_tried_again_is_told(ray_session, collected, tmp_path):
    list(cluster.run_tasks(_fails_once, [7], (tmp_path,), ClusterSettings(workers=1)))
    (line,) = [line for line in collected() if line["event"] == "unit tried again"]
    assert (line["level"], line["unit"], line["error"], line["attempts"]) == (
        "warning", "7", "RuntimeError: not yet", 1,
    )  # fmt: skip


def test_the_events_of_a_run_add_up_to_its_manifests(geo_subset_here, run_file, tmp_path, monkeypatch):
    monkeypatch.setenv(events.VARIABLE, "json")
    status, _, err = geo_subset_here(*pipeline_runs.words("download", run_file, tmp_path / "run"))
    assert status == 0, err
    lines = [json.loads(line) for line in err.splitlines()]
    assert {"time", "level", "event", "run", "stage"} <= set.intersection(*(set(line) for line in lines))
    done = [line for line in lines if line["event"] == "unit done"]
    assert {line["stage"] for line in done} == {"retrieve", "merge", "download"}
    for stage, folder, counter in (("retrieve", "matches", "rows"), ("download", "shards", "succeeded")):
        manifest = json.loads((tmp_path / "run" / folder / "_manifest.json").read_text())
        units = [line for line in done if line["stage"] == stage]
        assert {line["unit"] for line in units} == {unit["unit"] for unit in manifest["units"]} - {"failures"}
        assert sum(line["counters"].get(counter, 0) for line in units) == manifest["counters"][counter] > 0
        assert sum(line.get("bytes_fetched", 0) for line in units) == manifest["usage"]["bytes_fetched"] > 0
        assert manifest["usage"]["used_cpu_seconds"] > 0
        assert 0 < manifest["usage"]["worker_seconds"] == pytest.approx(sum(u.get("worker_seconds", 0) for u in units))
    ended = [line["stage"] for line in lines if line["event"] == "stage done"]
    assert ended == ["places", "retrieve", "merge", "download"]


def test_an_error_is_an_event_too(geo_subset_here, run_file, tmp_path, monkeypatch):
    monkeypatch.setenv(events.VARIABLE, "json")
    status, _, err = geo_subset_here("run", run_file, "--set", f"run={tmp_path}", "--set", "retrieve.num_images=-1")
    assert status == 2
    (line,) = [json.loads(line) for line in err.splitlines()]
    assert (line["event"], line["level"]) == ("failed", "error")
    assert "retrieve.num_images" in line["message"]


def test_a_message_neither_rules_the_terminal_nor_makes_a_line_of_its_own(capsys, monkeypatch):
    monkeypatch.delenv(events.VARIABLE, raising=False)
    events.set_up_logging()
    events.log.warning("host said %s", "\x1b[2J\x1b]0;t\x07 \u202e \ud800\n12:00:00  retrieve  all is well")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(r"host said \x1b[2J\x1b]0;t\x07 \u202e \ud800")
    assert second == " " * 10 + "12:00:00  retrieve  all is well"


def test_fields_for_collectors_hold_nothing_that_a_terminal_obeys(collected):
    events.event("host rests", "said \x9b2J", error="\x9b2J \u202e http://joe:pa55word@h", seconds=1)
    (line,) = collected()
    assert (line["message"], line["error"]) == (r"said \x9b2J", r"\x9b2J \u202e http://***@h")


def test_what_a_command_prints_rules_no_terminal(capsys):
    assert cli.main(["status", "/nowhere\x1b[2J\nall is well"]) == 2
    said = capsys.readouterr().err.removesuffix("\n")
    assert said.isprintable() and r"/nowhere\x1b[2J" in said
