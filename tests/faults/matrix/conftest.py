"""Prints what the fault matrix came to, and writes it to the file of $FAULT_REPORT."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults.matrix import table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    results = config.stash.get(table.RESULTS, [])
    if not results:
        return
    terminalreporter.section(f"faults, FAULT_SEED={results[0].seed}")
    terminalreporter.write_line(
        "first to last: the shares of the stage's usual time (full-disk: of the room it needs) at which the trials "
        "hit. writing: trials aimed at a file being written. lost: trials whose driver told of a lost worker."
    )
    for line in table.lines(results):
        terminalreporter.write_line(line)
    if path := os.environ.get("FAULT_REPORT"):
        table.write(results, Path(path))
