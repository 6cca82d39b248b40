"""What the trials came to: a table for the reader, the same as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from faults.matrix.trials import Trial


@dataclass
class Result:
    """The trials of a cell so far; `too_late` counts those that came to nothing, beside them."""

    cell: str
    seed: int
    trials: list[Trial] = field(default_factory=list)
    too_late: int = 0

    @property
    def differences(self) -> int:
        return sum(bool(trial.problems) for trial in self.trials)


RESULTS = pytest.StashKey[list[Result]]()


_COLUMNS = ("trials", "too late", "first", "median", "last", "writing", "lost", "differ", "seconds")


def lines(results: Iterable[Result]) -> Iterator[str]:
    yield " " * 24 + "".join(f"{name:>9}" for name in _COLUMNS)
    for result in results:
        trials = result.trials
        moments = [trial.moment for trial in trials if trial.moment is not None] or [float("nan")]
        shares = (min(moments), statistics.median(moments), max(moments))
        yield (
            f"{result.cell:24}{len(trials):9}{result.too_late:9}"
            + "".join(f"{share:9.2f}" for share in shares)
            + f"{sum(trial.writing for trial in trials):9}{sum(trial.noticed for trial in trials):9}"
            + f"{result.differences:9}{sum(trial.seconds for trial in trials):9.0f}"
        )


def write(results: Iterable[Result], path: Path) -> None:
    path.write_text(json.dumps([asdict(result) | {"differences": result.differences} for result in results], indent=1))
