"""What RUN on the command line stands for: a run file, or a run folder with the settings that it was made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geo_subset import layout, made_from, ownership, settings, storage
from geo_subset.errors import SettingsError
from geo_subset.settings import Settings

_SETTINGS_BYTES = 16 << 20


@dataclass(frozen=True)
class Looked:
    """The settings of a run that is looked at. `differences`: where the run file differs from those of the run."""

    settings: Settings
    differences: tuple[str, ...] = ()


def is_folder(run: str) -> bool:
    """Whether RUN is a run folder, and not a run file."""
    return "://" in run or Path(run).is_dir()


def look(run: str, overrides: tuple[str, ...] = ()) -> Looked:
    """The settings to look at a run with: those it was made with, so that no override needs to be repeated.

    With overrides, a run file's settings are taken as they are wanted. Nothing that only a stage needs is asked for.
    Raises SettingsError.
    """
    if is_folder(run):
        return Looked(_of_folder(ownership.open_run(run), overrides))
    wanted = settings.load(run, overrides, last=None)
    url = ownership.open_run(wanted.run)
    if any(not override.startswith("run=") for override in overrides) or not _text(url):
        return Looked(wanted)
    made = _of_folder(url, ())
    was, now = ({"settings": settings.to_tree(one)} for one in (made, wanted.model_copy(update={"run": made.run})))
    return Looked(made, () if was == now else tuple(made_from.differences(was, now, "")))


def _text(url: str) -> bytes | None:
    return storage.read_bytes(f"{url}/{layout.SETTINGS}", _SETTINGS_BYTES)


def _of_folder(url: str, overrides: tuple[str, ...]) -> Settings:
    text = _text(url)
    if text is None:
        raise SettingsError(f"{url} is not a run folder: it holds no {layout.SETTINGS}")
    try:
        found = settings.loads(text.decode(), overrides, f"{url}/{layout.SETTINGS}")
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{url}/{layout.SETTINGS} is damaged: {error}") from None
    return found.model_copy(update={"run": url})
