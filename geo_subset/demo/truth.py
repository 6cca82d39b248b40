"""How much of what was retrieved shows the right place: the world knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from geo_subset.demo.world import World
from geo_subset.runfolder import StageFolder
from geo_subset.wording import counted

#: Kilometres from a place within which an image counts as showing it.
RADIUS = 25.0
_EARTH_RADIUS = 6371.0088
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Rows of matches that show the place they were retrieved for, rows that do not, rows of which nobody knows."""

    right: int = 0
    wrong: int = 0
    unknown: int = 0

    @property
    def known(self) -> int:
        return self.right + self.wrong

    @property
    def precision(self) -> float:
        """Right ones among those known, 0 to 1."""
        return self.right / self.known

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.right + other.right, self.wrong + other.wrong, self.unknown + other.unknown)


@dataclass(frozen=True)
class Truth:
    """Counts over all rows, over the best one of each place, and over the best five."""

    rows: Counts = Counts()
    best: Counts = Counts()
    best_five: Counts = Counts()

    def sentence(self) -> str:
        parts = {"at 1": self.best, "at 5": self.best_five, "over all": self.rows}
        shares = ", ".join(f"{where} {counts.precision:.0%}" for where, counts in parts.items() if counts.known)
        told = (
            f"{self.rows.right:,} of {self.rows.known:,} rows show the right place (truth within {RADIUS:.0f} km): "
            f"precision {shares}"
        )
        unknown = counted(self.rows.unknown, "more row")
        return f"{told}; the truth about {unknown} is not known" if self.rows.unknown else told


def truth_share(world: World, run_url: str) -> Truth | None:
    """Compares a run's matches with what the world knows; None if there are no matches or none can be judged.

    A match is right if any place that its image shows is within RADIUS of the place it was retrieved for.
    """
    folder = StageFolder(run_url, "retrieve")
    manifest = folder.manifest()
    if manifest is None:
        return None
    with StageFolder(run_url, "places").open("places.parquet") as stream:
        places = pq.read_table(stream, columns=["place_id", "latitude", "longitude"]).to_pandas()
    truth = world.truth().to_pandas().rename(columns={"latitude": "true_latitude", "longitude": "true_longitude"})
    rows = best = best_five = Counts()
    for name in manifest.paths():
        with folder.open(name) as stream:
            matches = pq.read_table(stream, columns=["place_id", "rank", "url"]).to_pandas()
        away, rank = _distance_of(matches, places, truth), matches["rank"].to_numpy(np.float64)
        rows, best, best_five = (
            rows + _counts(away),
            best + _counts(away[rank < 1]),
            best_five + _counts(away[rank < 5]),
        )
    return Truth(rows, best, best_five) if rows.known else None


def _counts(away: _Floats) -> Counts:
    return Counts(int((away <= RADIUS).sum()), int((away > RADIUS).sum()), int(np.isnan(away).sum()))


def distance(latitude: _Floats, longitude: _Floats, other_latitude: _Floats, other_longitude: _Floats) -> _Floats:
    """Great-circle distances in kilometres between points in degrees (haversine formula), NaN where one is unknown."""
    a, b, c, d = (np.radians(values) for values in (latitude, longitude, other_latitude, other_longitude))
    half = np.sin((c - a) / 2) ** 2 + np.cos(a) * np.cos(c) * np.sin((d - b) / 2) ** 2
    result: _Floats = 2 * _EARTH_RADIUS * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
    return result


def _distance_of(matches: pd.DataFrame, places: pd.DataFrame, truth: pd.DataFrame) -> _Floats:
    """For each match the distance of its place to the nearest that its image shows."""
    numbered = matches.assign(row=np.arange(len(matches)))
    pairs = numbered.merge(places, "left", "place_id").merge(truth, "left", "url")
    points = ("latitude", "longitude", "true_latitude", "true_longitude")
    away = distance(*(pairs[column].to_numpy(np.float64) for column in points))
    nearest = pd.Series(away).groupby(pairs["row"].to_numpy()).min()
    return nearest.reindex(range(len(matches))).to_numpy(np.float64)
