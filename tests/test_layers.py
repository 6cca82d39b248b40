"""Every import goes down a floor; the stages are neighbours that never import one another."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "geo_subset"

#: The building, top floor first. A module may import only from floors below its own.
FLOORS = [
    {"cli"},
    {"demo", "status", "run_argument"},
    {"pipeline", "costs"},
    {"places", "retrieve", "merge", "download", "report"},
    {"runfolder", "cluster", "nodes", "shuffle"},
    {"workers", "driver", "superseding", "ownership", "conditions", "local_ray"},
    {"lease", "compiled", "statefiles"},
    {"tables", "settings", "progress", "work", "urls", "storage", "inputs", "retry_after", "shortage"},
    {"metrics"},
    {"made_from"},
    {"layout", "manifests", "events", "errors", "stopping", "complaints", "intrinsics", "manual", "wording", ""},
    {"credentials", "printable"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield path, "" if parts == ("__init__",) else parts[0]


def _imported(path):
    """First name below geo_subset of everything a file imports from the package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "geo_subset":
            below = node.module.split(".")[1:]
            yield from [below[0]] if below else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "geo_subset":
                    yield ([*alias.name.split("."), ""])[1]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("geo_subset."):
            yield node.value.split(".")[1]


def test_every_module_has_a_floor():
    assert {name for _, name in _modules()} == set(FLOOR)


def test_imports_go_down():
    wrong = []
    for path, name in _modules():
        for other in _imported(path):
            other_floor = FLOOR.get(other, len(FLOORS))  # __version__ and the like are in the package itself
            if other != name and other_floor <= FLOOR[name]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {other}")
    assert wrong == []


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from geo_subset.cli import main; main(['--help']); "
        "heavy = {'ray', 'pyarrow', 'pandas', 'duckdb', 'numpy', 'matplotlib', 'torch', 'pydantic', 'aiohttp'}; "
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in out.stdout
