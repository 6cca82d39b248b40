"""Which samples are for training, validation and testing: two answers, both written into the shards.

`split` goes by the image: a hash of its uid. Images of one place are then on all sides, as they are when a model is to
tell places apart that it has seen.

`split_place` goes by where the place lies: the globe is cut into blocks of about 1 km x 1 km, and all places of a block
are on one side, so that places of the test were never seen in training (OSV-5M sees to the same by a distance of 1 km).
A place without coordinates is a block of its own. What may leak all the same: an image that several places share goes
with its best match alone, so that a view of place A in training may have been found for place B of the test as well;
places a few metres apart may lie in two blocks; and a large place has but one point.

The blocks are those of the integerised sinusoidal grid (W. B. Rossow and L. Garder, Selection of a map grid for data
analysis and archival, J. Climate Appl. Meteor. 23, 1984, 1253-1257; used for NASA's level-3 bins): `ROWS` rows of equal
height in latitude, row r cut into round(2 ROWS cos(latitude of its middle)) columns of equal width in longitude. They
are 1.000 km high on a sphere of the earth's mean radius; their width is within 0.1 % of that up to 89 degrees of
latitude and within 5 % at the poles.

Pure: no I/O; the same uid or place is on the same side in every run.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Half the mean circumference of the earth is 20,015 km (mean radius 6,371.0088 km): so many rows of 1 km.
ROWS = 20_015
#: Shares of validation and test; the rest is for training.
VAL, TEST = 0.05, 0.05
NAMES = ("train", "val", "test")


def with_splits(samples: pa.Table) -> pa.Table:
    """The samples with the columns `split` and `split_place` ('train', 'val' or 'test'; never null) at the end."""
    latitudes, longitudes = (
        samples[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in ("latitude", "longitude")
    )
    blocks = block_ids(latitudes, longitudes).tolist()
    places = [
        place if block < 0 else f"block:{block}"
        for block, place in zip(blocks, samples["place_id"].to_pylist(), strict=True)
    ]
    by_image = pa.array([side_of(uid) for uid in samples["uid"].to_pylist()], pa.string())
    by_place = pa.array([side_of(place or "") for place in places], pa.string())
    return samples.append_column("split", by_image).append_column("split_place", by_place)


def side_of(name: str) -> str:
    """The side of an image or a place, by a hash of its name: 90 % 'train', 5 % 'val', 5 % 'test'."""
    # Not the uid's own digits: the samples are sorted by them, and whole shards would be on one side.
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"geo-subset split").digest()
    share = int.from_bytes(digest, "big") / 2**64
    return "test" if share < TEST else "val" if share < TEST + VAL else "train"


def block_ids(latitudes: npt.NDArray[np.float64], longitudes: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The number of the block of each point (WGS84 degrees); -1 where one is unknown or out of range."""
    known = np.isfinite(latitudes) & np.isfinite(longitudes) & (np.abs(latitudes) <= 90)
    latitude, longitude = np.where(known, latitudes, 0.0), np.where(known, longitudes, 0.0)
    row = np.minimum(np.floor((latitude + 90) / 180 * ROWS), ROWS - 1).astype(np.int64)
    middle = np.radians((row + 0.5) / ROWS * 180 - 90)
    columns = np.maximum(1, np.rint(2 * ROWS * np.cos(middle))).astype(np.int64)
    # A turn or more makes no difference: 180 is -180. The remainder may round up to a whole turn.
    column = np.minimum(np.floor(np.mod(longitude + 180, 360) / 360 * columns).astype(np.int64), columns - 1)
    return np.where(known, row * (2 * ROWS) + column, -1)
