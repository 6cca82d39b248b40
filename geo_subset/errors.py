"""What can go wrong, as the user sees it. Each message says what happened, where, and what to do.

GeoSubsetError
├── SettingsError      the run file, an option or an input it names is wrong: nothing was started (exit status 2)
└── StageError         a stage could not finish; what is done stays done (exit status 1)
    ├── ShortageError        this machine lacks descriptors, memory, ports or threads
    ├── TooFewImagesError    the download is complete, but too little of it succeeded
    └── StopRunError         nothing would come of going on: the run stops at once
        ├── StorageFullError       the disk or the bucket takes no more
        ├── FolderNotSharedError   a node does not see the run folder
        ├── DriverLostError        a worker has lost the driver that it worked for
        └── NoNetworkError         no host can be reached from here
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from geo_subset.credentials import redact_text


class GeoSubsetError(Exception):
    """Base of every error whose message is meant for the user; shown as one line, without a traceback.

    Credentials of URLs in it are hidden."""

    exit_status = 1

    def __init__(self, *told: str) -> None:
        super().__init__(*map(redact_text, told))


class SettingsError(GeoSubsetError):
    """A setting, an option or an input file is wrong."""

    exit_status = 2


class StageError(GeoSubsetError):
    """A stage could not finish."""


class ShortageError(StageError):
    """This machine lacks something that work needs: the fault of nothing it worked on."""


class TooFewImagesError(StageError):
    """Every sample was tried, but fewer succeeded than `download.min_success` asks for."""

    def __init__(self, message: str, fingerprint: str = "", succeeded: int = 0) -> None:
        super().__init__(message)
        self.fingerprint, self.succeeded = fingerprint, succeeded


class StopRunError(StageError):
    """What went wrong for one unit would go wrong for others as well."""


class StorageFullError(StopRunError):
    """No space is left where the run folder or the scratch space is."""


class FolderNotSharedError(StopRunError):
    """A node of the cluster does not see the run folder that the driver sees."""


class DriverLostError(StopRunError):
    """The driver that a worker worked for has ended: nobody waits for its results."""


class NoNetworkError(StopRunError):
    """Of very many hosts none could be reached."""


def from_os_error(error: OSError, doing: str) -> StageError:
    """Turns an OSError met while `doing` something into an error with a clear message."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(
            f"no space left while {doing}: free some space (or set TMPDIR), then run the same command again"
        )
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return ShortageError(f"this machine lacks file descriptors or memory while {doing} ({error.strerror})")
    return StageError(f"{type(error).__name__} while {doing}: {error}")


@contextlib.contextmanager
def of_run_folder(run: str) -> Iterator[None]:
    """Raises SettingsError if the storage refuses what is done to a run folder, StorageFullError if it is full."""
    try:
        yield
    except GeoSubsetError:
        raise
    except Exception as error:  # object stores raise kinds of their own, say for missing credentials
        refused = from_os_error(error, f"writing to {run}") if isinstance(error, OSError) else None
        if isinstance(refused, StorageFullError):
            raise refused from error
        raise SettingsError(f"run = {run!r}: the run folder cannot be written to: {error}") from error
