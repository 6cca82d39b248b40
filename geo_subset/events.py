"""What happens, told as it happens: lines for people, or one JSON object a line for a cluster's log collector.

Everything goes through the logger `log`. In a worker, `kept` keeps what is logged while it works on a unit; it travels
to the driver with the unit's result and is told there, since a worker's own output stays on its node.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from tqdm import tqdm

from geo_subset.credentials import redact_text, with_texts
from geo_subset.printable import printable

log = logging.getLogger("geo_subset")
#: Environment variable: 'json' makes the log on stderr one JSON object a line.
VARIABLE = "GEO_SUBSET_LOG"
#: Events of a worker that one unit carries to the driver; how many more there were is counted.
MOST_KEPT = 50

_about: dict[str, str] = {}


@dataclass
class Kept:
    """Events of a worker on their way to the driver: attributes of log records, as plain data."""

    events: list[dict[str, Any]] = field(default_factory=list)
    more: int = 0


def structured() -> bool:
    """Whether the log is for a collector."""
    return os.environ.get(VARIABLE) == "json"


def set_up_logging() -> None:
    """Sends the package's messages to stderr: JSON lines if the environment says so, else for people."""
    handler = _Lines() if structured() else _AboveBar()
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def event(name: str, message: str = "", *, level: int = logging.INFO, **fields: Any) -> None:
    """Tells of an event with its fields (plain JSON). People see the message; without one it is for collectors."""
    log.log(level, "%s", message, extra={"event": name, "fields": fields})


@contextlib.contextmanager
def about(**names: str) -> Iterator[None]:
    """Names the run, stage and step that the events of this process belong to until the context ends."""
    before = dict(_about)
    _about.update(names)
    try:
        yield
    finally:
        _about.clear()
        _about.update(before)


def subject() -> dict[str, str]:
    """What `about` named: run, stage and step, as far as they are known."""
    return dict(_about)


def adopt(subject: dict[str, str]) -> None:
    """Takes over the driver's subject, in a worker."""
    _about.update(subject)


@contextlib.contextmanager
def kept() -> Iterator[Kept]:
    """Keeps what this process, a worker, logs until the context ends (several at a time: each event in one of them)."""
    keeper = _Keeper()
    log.addHandler(keeper)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield keeper.kept
    finally:
        log.removeHandler(keeper)


def tell(told: Kept, **fields: Any) -> None:
    """Tells what a worker kept, `fields` added to each event."""
    for attributes in told.events:
        record = logging.makeLogRecord(attributes)
        record.fields = {**attributes["fields"], **fields}
        log.handle(record)
    if told.more:
        said = any(attributes["msg"] for attributes in told.events)  # else people have seen nothing of them
        event("more events", f"{told.more:,} more messages are left out" if said else "", more=told.more, **fields)


class _Shown(logging.Filter):
    """Whoever logs: no handler sees the credentials of URLs, or what a terminal would obey."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _shown(record.getMessage()), None
        if hasattr(record, "fields"):
            record.fields = with_texts(record.fields, _shown)
        return True


def _shown(text: str) -> str:
    return printable(redact_text(text))


log.addFilter(_Shown())


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept()

    def emit(self, record: logging.LogRecord) -> None:
        if next((handler for handler in log.handlers if isinstance(handler, _Keeper)), self) is not self:
            return  # an earlier unit of this process has it
        if len(self.kept.events) >= MOST_KEPT:
            self.kept.more += 1
            return
        fields = {"node": socket.gethostname(), **getattr(record, "fields", {})}
        self.kept.events.append(
            {
                "created": record.created, "levelno": record.levelno, "levelname": record.levelname,
                "msg": record.getMessage(), "event": getattr(record, "event", "message"), "fields": fields,
            }
        )  # fmt: skip


class _AboveBar(logging.Handler):
    """For people: above a progress bar where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage():
            # Further lines are indented, so that no message can make one that looks like another's first.
            lines = self.format(record).replace("\n", "\n          ")
            tqdm.write(_shown(lines), file=sys.stderr)


class _Lines(logging.Handler):
    """For collectors."""

    def emit(self, record: logging.LogRecord) -> None:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        tree: dict[str, Any] = {"time": time, "level": record.levelname.lower()}
        tree |= {"event": getattr(record, "event", "message"), **with_texts(_about, _shown)}
        if message := " ".join(record.getMessage().split()):
            tree["message"] = message
        if record.exc_info:
            tree["traceback"] = _shown("".join(traceback.format_exception(*record.exc_info)))
        tree |= {name: value for name, value in getattr(record, "fields", {}).items() if value is not None}
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            sys.stderr.write(json.dumps(tree, ensure_ascii=False, default=str) + "\n")
            sys.stderr.flush()
