"""Writes a shard as img2dataset writes it: the one module that knows img2dataset.

What users and their tools know is kept by using img2dataset's own code for it: files and parquet come from its
`WebDatasetSampleWriter`, keys from `compute_key`, the statistics file from `write_stats`. What fetches, resizes and
puts samples into a tar is ours. A test compares a shard with one that img2dataset's own `Downloader` makes of the same
rows, and so fails when a release of img2dataset writes them differently.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from img2dataset.downloader import compute_key
from img2dataset.logger import CappedCounter, write_stats
from img2dataset.writer import WebDatasetSampleWriter

from geo_subset.download.pixels import Picture
from geo_subset.download.shards import ShardFiles
from geo_subset.download.tar import TarWriter

#: Columns that img2dataset adds. The sizes a backend claims would clash with what the image measures as stored (every
#: sample of the shard would be lost), and original_width and original_height hold the true ones.
_CLASHING = ("width", "height")
#: Digits of the shard in a sample's key; more are used where there are more shards, and keys stay unique.
_SHARD_DIGITS = 5
_ADDED = [
    *(pa.field(name, pa.string()) for name in ("key", "status", "error_message")),
    *(pa.field(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")),
    pa.field("sha256", pa.string()),
]


class ShardWriter:
    """Writes the rows of one shard, in any order, into a folder; the files are whole once `close` has returned.

    `samples` are the shard's rows: a row's position among them decides its key, which is unique over all shards of one
    `samples_per_shard`. All methods raise OSError when the disk is full. Not safe for threads.
    """

    def __init__(self, samples: pa.Table, index: int, folder: Path, samples_per_shard: int, encode_format: str) -> None:
        kept = samples.select([name for name in samples.column_names if name not in _CLASHING])
        self.files = ShardFiles(
            *(folder / f"{index:0{_SHARD_DIGITS}d}{end}" for end in (".tar", ".parquet", "_stats.json"))
        )
        self._rows: list[dict[str, Any]] = kept.to_pylist()
        self._index, self._folder, self._encode_format = index, folder, encode_format
        self._position_digits = math.ceil(math.log10(samples_per_shard))
        self._messages = CappedCounter()
        self._counts = {"success": 0, "failed_to_download": 0, "failed_to_resize": 0}
        self._started = time.time()
        schema = pa.schema([*kept.schema, *_ADDED])
        self._writer = WebDatasetSampleWriter(index, str(folder), True, _SHARD_DIGITS, schema, encode_format)
        self._writer.tarwriter = TarWriter(self._writer.tar_fd, int(self._started))
        # One row group instead of one for each hundred rows: whoever reads a column reads it in one go.
        self._writer.buffered_parquet_writer.buffer_size = len(self._rows) + 1

    def success(self, position: int, picture: Picture, sha256: str) -> None:
        """Writes a sample; `sha256` is that of the bytes that were downloaded."""
        sizes = (picture.width, picture.height, picture.original_width, picture.original_height)
        self._write(position, "success", None, picture.data, sizes, sha256)

    def failure(self, position: int, status: str, message: str) -> None:
        """Notes a sample without an image; `status` is 'failed_to_download' or 'failed_to_resize'."""
        self._write(position, status, message, None, (None, None, None, None), None)

    def close(self) -> None:
        """Ends tar and parquet and writes the statistics."""
        self._writer.close()
        success, not_downloaded, not_resized = self._counts.values()
        write_stats(
            str(self._folder), self._index, len(self._rows), success, not_downloaded, not_resized, self._started,
            time.time(), self._messages, _SHARD_DIGITS,
        )  # fmt: skip

    def _write(
        self,
        position: int,
        status: str,
        message: str | None,
        image: bytes | None,
        sizes: tuple[int | None, ...],
        sha256: str | None,
    ) -> None:
        key = compute_key(position, self._index, self._position_digits, _SHARD_DIGITS)
        row = self._rows[position]
        values = (key, status, message, *sizes, sha256)
        meta = {**row, **dict(zip((field.name for field in _ADDED), values, strict=True))}
        self._counts[status] += 1
        self._messages.increment(message or status)
        if image is not None:
            sample = {"__key__": key, self._encode_format: image, "txt": row["caption"] or "", "json": _json(meta)}
            self._writer.tarwriter.write(sample)
        self._writer.buffered_parquet_writer.write(meta)


def _json(meta: dict[str, Any]) -> str | bytes:
    """As `json.dumps(meta, indent=4)` writes it, for two fifths of its CPU: it indents in Python."""
    try:
        return msgspec.json.format(json.dumps(meta).encode(), indent=4)
    except msgspec.DecodeError:  # NaN, which is no JSON, but is written
        return json.dumps(meta, indent=4)
