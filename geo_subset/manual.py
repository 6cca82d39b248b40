"""Where the pages of docs/ lie: beside the package in a source tree, in share/doc once it is installed."""

from __future__ import annotations

import sysconfig
from pathlib import Path

_PACKAGE = Path(__file__).parent


def page(name: str) -> str:
    """The path of a page for a message: 'hosting-a-backend.md' -> '/…/docs/hosting-a-backend.md'."""
    folders = (_PACKAGE.parent / "docs", Path(sysconfig.get_path("data")) / "share" / "doc" / "geo-subset")
    return str(next((folder / name for folder in folders if (folder / name).is_file()), Path("docs") / name))
