"""One driver at a time on a run folder: real processes, some of them killed, stopped or on 'another machine'."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from geo_subset import cli, lease, ownership, storage
from geo_subset.errors import SettingsError, StageError, StorageFullError

#: A driver that works until its stdin ends. Words: run folder, SILENCE, a name for its machine or "".
DRIVER = """
import sys
from geo_subset import lease, stopping
from geo_subset.errors import StageError

run, silence, machine = sys.argv[1:]
lease.BEAT, lease.SILENCE, lease.SETTLE, lease.TICK = 0.1, float(silence), 0.3, 0.02
if machine:
    lease._machine = lambda: machine
stopping.on_signals()
try:
    with lease.held(run):
        print("holds", flush=True)
        sys.stdin.read()
    print("ended")
except StageError as error:
    print(error)
except KeyboardInterrupt:
    print("interrupted")
"""
#: A silence that no test outlasts: who waits for it fails.
FOREVER = 1e6


class Driver:
    def __init__(self, run_url: str, silence: float = FOREVER, machine: str = "") -> None:
        words = [sys.executable, "-c", DRIVER, run_url, str(silence), machine]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ends(self) -> str:
        """What it says last, if it is told to end well."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        last = self.says()
        self.process.wait()
        return last

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@pytest.fixture
def drivers() -> Iterator[type[Driver]]:
    made: list[Driver] = []

    class Kept(Driver):
        def __init__(self, *words: object, **more: object) -> None:
            super().__init__(*words, **more)  # type: ignore[arg-type]
            made.append(self)

    yield Kept
    for one in made:
        one.process.kill()
        one.process.wait()
        for stream in (one.process.stdin, one.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.ci)])
def run_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return ownership.claim(str(tmp_path / "run"), "")
    return ownership.claim(f"{request.getfixturevalue('s3_bucket')}/run-{os.urandom(4).hex()}", "")


def test_refused_while_the_first_lives(run_url, drivers):
    first = drivers(run_url)
    assert first.says() == "holds"
    refused = drivers(run_url).ends()
    assert refused.startswith(f"{run_url} is held by another driver: ")
    there = lease.holder(run_url)
    assert there is not None
    assert lease.lives(there)
    assert f"{there.user}@{there.host}, PID {first.process.pid}, since {there.since}" in refused
    assert first.ends() == "ended"
    assert lease.holder(run_url) is None
    assert drivers(run_url).says() == "holds"


def test_after_kill_9_the_next_goes_on_at_once(run_url, drivers):
    first = drivers(run_url)
    assert first.says() == "holds"
    first.send(signal.SIGKILL)
    first.process.wait()
    there = lease.holder(run_url)
    assert there is not None
    assert lease.lives(there) is False
    assert drivers(run_url).says() == "holds"


def test_a_pid_that_another_process_has_by_now_is_not_the_holder(run_url, drivers):
    me = lease._myself()
    skewed = {**vars(me), "started": me.started - 1, "since": "2999-01-01 00:00:00+00:00"}
    storage.write_text(f"{run_url}/{lease.FILE}", json.dumps(skewed))
    assert drivers(run_url).says() == "holds"


def test_no_clock_is_asked_whether_a_holder_lives(run_url, drivers):
    old = {**vars(lease._myself()), "since": "1970-01-01 00:00:00+00:00"}  # this process, which lives
    storage.write_text(f"{run_url}/{lease.FILE}", json.dumps(old))
    assert "since 1970-01-01" in drivers(run_url, silence=0.0).ends()


def test_a_holder_elsewhere_that_renews_its_lease_is_alive(run_url, drivers):
    first = drivers(run_url, machine="far away")
    assert first.says() == "holds"
    there = lease.holder(run_url)
    assert there is not None
    assert lease.lives(there) is None
    assert f"PID {first.process.pid}" in drivers(run_url).ends()


def test_a_holder_elsewhere_that_is_silent_is_dead(run_url, drivers):
    first = drivers(run_url, machine="far away")
    assert first.says() == "holds"
    first.send(signal.SIGKILL)
    first.process.wait()
    assert drivers(run_url, silence=0.5).says() == "holds"


def test_a_stopped_holder_that_wakes_up_gives_way(run_url, drivers):
    first = drivers(run_url)
    assert first.says() == "holds"
    first.send(signal.SIGSTOP)
    second = drivers(run_url, silence=0.5)
    assert second.says() == "holds"
    first.send(signal.SIGCONT)
    assert f"was taken over by another driver: {lease.holder(run_url)}" in first.says()
    first.process.wait()
    there = lease.holder(run_url)
    assert there is not None
    assert there.pid == second.process.pid
    assert second.ends() == "ended"


def test_a_stopped_holder_does_not_go_on_after_the_other_has_ended(run_url, drivers):
    first = drivers(run_url)
    assert first.says() == "holds"
    first.send(signal.SIGSTOP)
    second = drivers(run_url, silence=0.5)
    assert second.says() == "holds"
    assert second.ends() == "ended"
    first.send(signal.SIGCONT)
    assert "by a driver that has ended since" in first.says()


@pytest.mark.parametrize("killed_before", [False, True])
def test_of_many_at_once_one_gets_it(run_url, drivers, killed_before):
    if killed_before:
        first = drivers(run_url)
        assert first.says() == "holds"
        first.send(signal.SIGKILL)
        first.process.wait()
    rivals = [drivers(run_url) for _ in range(4)]
    said = [rival.says() for rival in rivals]
    assert said.count("holds") == 1
    assert sum("is held by another driver" in words for words in said) == 3
    assert rivals[said.index("holds")].ends() == "ended"


def test_two_that_take_over_at_once(run_url, monkeypatch):
    """The other one, which found the same dead lease, writes its own a moment later."""
    me = lease._myself()
    dead, other = dataclasses.replace(me, started=me.started - 1), dataclasses.replace(me, command="the other")
    storage.write_text(f"{run_url}/{lease.FILE}", lease._text(dead))
    monkeypatch.setattr("time.sleep", lambda _: storage.write_text(f"{run_url}/{lease.FILE}", lease._text(other)))
    with pytest.raises(StageError, match=r"held by another driver: .* \(the other\)"), lease.held(run_url):
        pass
    assert lease.holder(run_url) == other


def test_a_store_that_knows_no_exclusive_create(run_url, drivers, monkeypatch):
    monkeypatch.setattr(storage, "create", lambda url, text: storage.write_text(url, text) or True)
    monkeypatch.setattr(lease, "SETTLE", 0.1)
    with lease.held(run_url):
        there = lease.holder(run_url)
        assert there is not None
        assert there.pid == os.getpid()
    assert lease.holder(run_url) is None


def test_a_half_written_lease_is_watched_then_taken(run_url, drivers):
    storage.write_text(f"{run_url}/{lease.FILE}", "")
    assert drivers(run_url, silence=0.2).says() == "holds"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_asks_to_stop_gives_it_back(run_url, drivers, number):
    first = drivers(run_url)
    assert first.says() == "holds"
    first.send(number)
    assert first.says() == "interrupted"
    first.process.wait()
    assert lease.holder(run_url) is None


def test_under_nohup_a_terminal_may_go(tmp_path):
    words = ["nohup", sys.executable, "-c", DRIVER, str(tmp_path), "1e6", ""]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds\n"
        process.send_signal(signal.SIGHUP)
        assert process.communicate(b"")[0] == b"ended\n"


def test_when_its_terminal_goes_a_run_ends_as_by_ctrl_c(tmp_path):
    """Nothing can be shown any more: it is no reason to end otherwise."""
    code = DRIVER.replace("stopping.on_signals()", "").replace("sys.stdin.read()", "while True: stopping.check()")
    (tmp_path / "code.py").write_text(
        "import sys; from geo_subset import cli, events\n"
        "def run(*_, **__):\n"
        + "".join(f"    {line}\n" for line in code.strip().splitlines()).replace('print("interrupted")', "raise")
        + "cli.commands.main = run\nopen(sys.argv[1] + '/status', 'w').write(str(cli.main([])))\n"
    )
    ours, theirs = os.openpty()
    words = [sys.executable, str(tmp_path / "code.py"), str(tmp_path), "1e6", ""]
    with subprocess.Popen(["setsid", "--ctty", *words], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while not said.endswith(b"\n"):
            said += os.read(ours, 100)
        os.close(ours)
    assert said == b"holds\r\n"
    assert process.returncode == 0
    assert (tmp_path / "status").read_text() == str(cli.INTERRUPTED)
    assert lease.holder(str(tmp_path)) is None


def test_half_written_files_of_a_killed_driver_go(tmp_path):
    (tmp_path / f"{storage.TEMPORARY}0123456789ab").write_text("half a run.t")
    (tmp_path / ".tmp-vim-swap").write_text("the user's own")
    with lease.held(str(tmp_path)):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-vim-swap", lease.FILE]
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-vim-swap"]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written to"), lease.held(str(tmp_path / "file" / "run")):
        pass


def test_a_hostile_lease_is_shown_harmless(run_url, drivers):
    me = {**vars(lease._myself()), "user": "u\x1b[31mRED", "host": "h\u202e", "command": "c" * 5000, "since": "a\nb"}
    storage.write_text(f"{run_url}/{lease.FILE}", json.dumps(me))
    there = lease.holder(run_url)
    assert there is not None
    assert (there.user, there.host, there.since) == ("u?[31mRED", "h?", "a?b")
    assert len(there.command) == 1000
    refused = drivers(run_url).ends()
    assert "u?[31mRED@h?, PID" in refused
    assert refused.isprintable()


@pytest.mark.parametrize("text", [b"\xff", b"[" * 200_000, b'{"pid": "../.."}', b'{"id": "x"'])
def test_a_damaged_lease_is_watched_then_taken(run_url, drivers, text):
    fs, path = storage.filesystem(f"{run_url}/{lease.FILE}")
    fs.pipe_file(path, text)
    assert lease.holder(run_url) is None
    assert drivers(run_url, silence=0.2).says() == "holds"


def test_a_command_with_bytes_of_no_encoding_is_held_as_well(tmp_path):
    code = DRIVER.replace("= sys.argv[1:]", "= sys.argv[1:4]")
    words = [sys.executable, "-c", code, str(tmp_path), "1e6", "", b"\xff\x1b" + b"x" * 100_000]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds\n"
        there = lease.holder(str(tmp_path))
        assert there is not None
        assert there.pid == process.pid
        process.communicate(b"")


def test_a_full_disk_leaves_no_half_written_lease(tmp_path):
    """Of a file system of one page, which is used up."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", tmp_path], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        (tmp_path / "full").write_bytes(bytes(4096))
        with pytest.raises(StorageFullError, match="no space left"), lease.held(str(tmp_path)):
            pass
        assert [path.name for path in tmp_path.iterdir()] == ["full"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_command_line_refuses_and_changes_nothing(tmp_path, drivers, capsys):
    run, run_file = tmp_path / "run", tmp_path / "run.toml"
    (tmp_path / "places.txt").write_text("Grand Central\n")
    run_file.write_text(
        f'run = "{run}"\n[places]\nsource = "list"\npath = "{tmp_path}/places.txt"\n'
        '[retrieve.clip-service]\nurl = "http://127.0.0.1:1"\n'
    )
    first = drivers(str(run))
    assert first.says() == "holds"
    assert cli.main(["places", str(run_file)]) == 1
    assert f"PID {first.process.pid}" in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == [lease.FILE]
    assert first.ends() == "ended"
    assert cli.main(["places", str(run_file)]) == 0
    assert sorted(path.name for path in run.iterdir()) == ["_run.json", "places", "run.toml"]
