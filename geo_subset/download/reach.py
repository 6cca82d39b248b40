"""Whether there is a network at all: what the first tries of a shard tell. Pure."""

from __future__ import annotations

import socket
from collections import Counter

from geo_subset.download import reasons
from geo_subset.download.reasons import FetchError
from geo_subset.errors import NoNetworkError

#: So many tries on hosts of so many registered domains must have come to nobody. Even of lists of links that are ten
#: years old, one in ten domains lives: that none of 100 does has a chance of 1 in 37,000.
TRIES, DOMAINS = 200, 100
#: Rows that end so were not tried.
_NOT_TRIED = {reasons.UNSUPPORTED_URL, reasons.PRIVATE}


class Reach:
    """Told of every try, until one has reached a host: whatever came of that, there is a network."""

    def __init__(self) -> None:
        self._reached = False
        self._ends: Counter[str] = Counter()
        self._domains: set[str] = set()

    def tried(self, domain: str, error: FetchError | None) -> None:
        """Raises NoNetworkError after many tries of which none has reached a host."""
        if self._reached or (error is not None and error.reason in _NOT_TRIED):
            return
        if error is None or not error.unreached:
            self._reached = True
            return
        self._ends[error.reason] += 1
        self._domains.add(domain)
        if self._ends.total() >= TRIES and len(self._domains) >= DOMAINS:
            how = ", ".join(f"{reason}: {count}" for reason, count in self._ends.most_common())
            raise NoNetworkError(
                f"no host of {len(self._domains)} domains could be reached from {socket.gethostname()} ({how}): is "
                "there a network, with DNS and a way out that needs no proxy? Nothing of this shard was noted; run the "
                "same command again when there is"
            )
