"""How much of what was retrieved shows the right place: the world knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from geo_subset.demo.world import World
from geo_subset.runfolder import StageFolder

#: Kilometres from a place within which an image counts as showing it.
RADIUS = 25.0
_EARTH_RADIUS = 6371.0088
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """Rows of matches that show the place they were retrieved for, rows that do not, rows of which nobody knows."""

    right: int
    wrong: int
    unknown: int

    @property
    def share(self) -> float:
        """Right ones among those known, 0 to 1."""
        return self.right / (self.right + self.wrong)

    def sentence(self) -> str:
        known = self.right + self.wrong
        told = (
            f"{self.right:,} of {known:,} rows ({self.share:.0%}) show the right place (truth within {RADIUS:.0f} km)"
        )
        return f"{told}; of {self.unknown:,} more nobody knows" if self.unknown else told


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
    right = wrong = unknown = 0
    for name in manifest.paths():
        with folder.open(name) as stream:
            matches = pq.read_table(stream, columns=["place_id", "url"]).to_pandas()
        away = _distance_of(matches, places, truth)
        right += int((away <= RADIUS).sum())
        wrong += int((away > RADIUS).sum())
        unknown += int(np.isnan(away).sum())
    return Truth(right, wrong, unknown) if right + wrong else None


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
