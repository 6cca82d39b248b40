"""Whole URLs, credentials included, that the environment gives for those that a run file holds without."""

from __future__ import annotations

import os
from pathlib import Path

from geo_subset.credentials import FILE_VARIABLE, VARIABLE
from geo_subset.errors import SettingsError


def urls() -> list[str]:
    """Those of both variables. Raises SettingsError: the file cannot be read, or others can read it."""
    found = os.environ.get(VARIABLE, "").split()
    if name := os.environ.get(FILE_VARIABLE):
        path = Path(name).expanduser()
        try:
            mode = path.stat().st_mode & 0o777
            if mode & 0o077:
                raise SettingsError(f"{FILE_VARIABLE} = {name!r}: others may read it (mode {mode:o}): chmod 600 {path}")
            found += path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{FILE_VARIABLE} = {name!r} cannot be read: {error}") from None
    return found
