"""Where machine code is kept: it is unpickled and run, so nobody else may be able to put any there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "geo_subset"
#: Compiles a function of the download stage; tells where its machine code is kept, and whether it was there before.
CODE = """
import numpy as np
from geo_subset import compiled
from geo_subset.download import area

area._covered(1.0, 2.5, 30, np.empty(4, np.float32))
print(compiled.folder("download"))
print(sum(area._covered.stats.cache_hits.values()))
"""


def kept(package: Path, **environment: str) -> tuple[Path, int]:
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    ended = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True, cwd="/"
    )
    folder, hits = ended.stdout.split()
    return Path(folder), int(hits)


def copied(to: Path) -> Path:
    return shutil.copytree(PACKAGE, to / "geo_subset", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder all of whose parents are this user's or root's, if pytest's is."""
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.mark.ci
def test_it_is_the_users_and_shared_by_all_copies_of_the_package(base: Path) -> None:
    cache = base / "cache"
    folder, hits = kept(copied(base / "first"), XDG_CACHE_HOME=str(cache))
    assert folder.parent == cache / "geo-subset"
    assert hits == 0
    assert {path.stat().st_mode & 0o777 for path in (cache, folder.parent, folder)} == {0o700}
    assert list((folder / "download").glob("*.nbc"))
    second = copied(base / "second")
    assert kept(second, XDG_CACHE_HOME=str(cache)) == (folder, 1), "another copy, as Ray makes of an upload"
    for changed in ("download/hosts.py", "intrinsics.py"):
        with (second / changed).open("a") as source:
            source.write("# changed\n")
        other, hits = kept(second, XDG_CACHE_HOME=str(cache))
        assert (other.parent, hits) == (folder.parent, 0)
        assert other != folder
        folder = other
    with (second / "report" / "text.py").open("a") as source:
        source.write("# of a neighbour, which it takes nothing from\n")
    assert kept(second, XDG_CACHE_HOME=str(cache)) == (folder, 1)


@pytest.mark.ci
@pytest.mark.parametrize("how", ["writable", "writable by the group", "below a writable one", "a link", "another's"])
def test_it_is_nowhere_that_others_can_write(base: Path, how: str) -> None:
    """The predictable folder is there already, and somebody else may change what is in it."""
    cache, package = base / "cache", copied(base / "package")
    folder, _ = kept(package, XDG_CACHE_HOME=str(cache))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    if how == "a link":
        (cache / "geo-subset").rename(base / "elsewhere")
        (cache / "geo-subset").symlink_to(base / "elsewhere")
    elif how == "another's":
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        os.chown(folder, 12345, 12345)
    else:
        (cache if how == "below a writable one" else folder).chmod(0o770 if how.endswith("group") else 0o777)
    other, hits = kept(package, XDG_CACHE_HOME=str(cache))
    assert other == package / "__pycache__" / folder.name
    assert hits == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (package / "__pycache__").chmod(0o777)
    scratch = base / "scratch"
    scratch.mkdir(mode=0o700)
    other, hits = kept(package, XDG_CACHE_HOME=str(cache), TMPDIR=str(scratch))
    assert (other.parent, hits) == (scratch, 0)
    assert list(scratch.iterdir()) == [], "it is gone with its process"


def test_without_a_home_it_is_beside_the_package(base: Path) -> None:
    package = copied(base)
    home = base / "file"
    home.write_text("")
    folder, _ = kept(package, HOME=str(home), XDG_CACHE_HOME="not/absolute")
    assert folder.parent == package / "__pycache__"
