"""The figures of docs/cluster.md and README are those that benchmarks/scaling.py prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_figures_in_the_docs_are_what_the_arithmetic_gives() -> None:
    made = subprocess.run(
        [sys.executable, "benchmarks/scaling.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    page = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    marked = re.findall(r"<!-- python benchmarks/scaling.py -->\n(.*)<!-- end -->", page, re.DOTALL)
    assert [text.strip() for text in marked] == [made.stdout.strip()]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    seconds, machine, head, thousand, together, size, month = (
        re.search(pattern, made.stdout)[1]  # type: ignore[index]
        for pattern in (
            r"CPUs\) = (\d+ s)", r"machine .* x (\$\S+/h)", r"head .* x (\$\S+/h)", r"x (\$\S+) / 1,000",
            r"in all +(\S+)", r"storage +(\d+ GB)", r"= (\$\S+ a month)",
        )
    )  # fmt: skip
    for figure in (f"{seconds} of a machine", machine, head, thousand, f"some {together} to make", size, month):
        assert figure in readme, figure
