"""Where the pages of docs/ lie: inside the package once it is installed, beside it in a source tree."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def page(name: str) -> str:
    """The path of a page for a message: 'hosting-a-backend.md' -> '/…/docs/hosting-a-backend.md'."""
    folders = (_PACKAGE / "docs", _PACKAGE.parent / "docs")
    return str(next((folder / name for folder in folders if (folder / name).is_file()), Path("docs") / name))
