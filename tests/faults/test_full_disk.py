"""A disk that is full before anything could be written; those that fill up later are in the fault matrix."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.matrix.disk import Disk

from geo_subset.cli import main


def test_a_disk_that_is_full_from_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names, run_file, disk = tmp_path / "names.txt", tmp_path / "run.toml", Disk(tmp_path / "disk")
    names.write_text("Springfield\n")
    run_file.write_text(
        f'run = "{disk.folder}/run"\n[places]\nsource = "list"\npath = "{names}"\n'
        '[retrieve.clip-service]\nurl = "http://127.0.0.1:1"\n'
    )
    disk.folder.mkdir()
    with disk.mounted():
        disk.resize(1)
        (disk.folder / "other").write_bytes(b"x" * 4096)
        assert main(["places", str(run_file)]) == 1
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert "no space left" in said
        assert str(disk.folder) in said
        disk.resize(None)
        assert main(["places", str(run_file)]) == 0
