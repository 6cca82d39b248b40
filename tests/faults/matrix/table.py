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


def lines(results: Iterable[Result]) -> Iterator[str]:
    yield f"{'':24} {'trials':>6} {'too late':>8}  {'moment: first':>13} {'median':>6} {'last':>6}" + (
        f" {'lost':>5} {'differ':>6} {'seconds':>7}"
    )
    for result in results:
        moments = [trial.moment for trial in result.trials if trial.moment is not None] or [float("nan")]
        yield (
            f"{result.cell:24} {len(result.trials):6} {result.too_late:8}  {min(moments):13.2f} "
            f"{statistics.median(moments):6.2f} {max(moments):6.2f} {sum(t.noticed for t in result.trials):5} "
            f"{result.differences:6} {sum(t.seconds for t in result.trials):7.0f}"
        )


def write(results: Iterable[Result], path: Path) -> None:
    path.write_text(json.dumps([asdict(result) | {"differences": result.differences} for result in results], indent=1))
