"""The best rows of each place, and what was left out for them. Pure."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geo_subset.retrieve.captions.matcher import FOUND


class Best:
    """Keeps the best rows of each place out of a stream of tables (FOUND), and counts all that came.

    Rows are pruned now and then, so that memory follows the places, not the captions.
    """

    #: Rows that may come before those that cannot be among the best are dropped again.
    PRUNE = 1 << 18

    def __init__(self, places: int, num_images: int) -> None:
        self.seen = np.zeros(places, np.int64)
        """(places,): rows that came of each place."""
        self._num_images = num_images
        self._held: list[pa.Table] = []
        self._new = self._kept = 0

    def add(self, table: pa.Table, counters: Counter[str]) -> None:
        if table.num_rows == 0:
            return
        places = table["place"].to_numpy()
        np.add.at(self.seen, places, 1)
        self._held.append(table)
        self._new += table.num_rows
        if self._new >= max(self.PRUNE, self._kept):  # at least doubled: each row is sorted a bounded number of times
            self._prune(counters)

    def table(self, counters: Counter[str]) -> pa.Table:
        """The kept rows, by place and best first."""
        self._prune(counters)
        return self._held[0] if self._held else FOUND.empty_table()

    def counts(self) -> pa.Table:
        """`place` int32 and `matches` int64, of places with any."""
        (places,) = np.nonzero(self.seen)
        return pa.table({"place": pa.array(places.astype(np.int32)), "matches": pa.array(self.seen[places])})

    def _prune(self, counters: Counter[str]) -> None:
        if self._held:
            self._held = [best(pa.concat_tables(self._held), self._num_images, counters)[0]]
            self._new, self._kept = 0, self._held[0].num_rows


def best(table: pa.Table, num_images: int, counters: Counter[str]) -> tuple[pa.Table, npt.NDArray[np.int32]]:
    """Up to `num_images` rows of each place, by place and best first, and the rank of each (0 is best).

    The highest similarity comes first, then the smallest hash of URL and of caption. Of a place's rows of one URL the
    best stays. Counts matches_same_url and matches_over_num_images, which are left out. As the best of a whole are
    among the best of its parts, this may be done in parts first.
    """
    place, similarity = table["place"].to_numpy(), table["similarity"].to_numpy()
    order, tie = table["order"].to_numpy(), table["tie"].to_numpy()
    by_url = np.lexsort((tie, -similarity, order, place))
    repeated = np.zeros(len(by_url), np.bool_)
    repeated[1:] = (place[by_url][1:] == place[by_url][:-1]) & (order[by_url][1:] == order[by_url][:-1])
    once = by_url[~repeated]
    counters["matches_same_url"] += int(repeated.sum())
    rows = once[np.lexsort((tie[once], order[once], -similarity[once], place[once]))]
    first = np.searchsorted(place[rows], place[rows], side="left")
    rank = np.arange(len(rows)) - first
    kept = rank < num_images
    counters["matches_over_num_images"] += int((~kept).sum())
    return table.take(pa.array(rows[kept])), rank[kept].astype(np.int32)
