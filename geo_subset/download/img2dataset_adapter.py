"""Runs img2dataset on one shard in this process, with the fetch of this package in the place of its own."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from img2dataset import downloader
from img2dataset.resizer import Resizer
from img2dataset.writer import WebDatasetSampleWriter

from geo_subset.download import fetch
from geo_subset.download.shards import DamagedShardError, ShardFiles, check
from geo_subset.errors import from_os_error
from geo_subset.settings import DownloadSettings

#: Columns that img2dataset adds: what the image measures as stored. The sizes a backend claims would clash with them
#: (every sample of the shard would be lost), and original_width and original_height hold the true ones.
_CLASHING = ("width", "height")
#: Digits of the shard in a sample's key; more are used where there are more shards, and keys stay unique.
_SHARD_DIGITS = 5


def download_shard(
    samples: pa.Table, index: int, folder: Path, settings: DownloadSettings
) -> tuple[ShardFiles, dict[str, int]]:
    """Downloads the images of a table of samples into a webdataset shard in `folder`, and checks it.

    Returns the files and the counts of `shards.check`. Keys are unique over all shards of one `samples_per_shard`.
    Raises StorageFullError: no space left in `folder`; DamagedShardError: the shard is not whole.
    """
    columns = [name for name in samples.column_names if name not in _CLASHING]
    files = ShardFiles(*(folder / f"{index:0{_SHARD_DIGITS}d}{end}" for end in (".tar", ".parquet", "_stats.json")))
    allowed = (lambda _: True) if settings.allow_private_hosts else fetch.is_public
    printed = io.StringIO()
    try:
        source = _write_input(samples.select(columns), folder)
        run = _downloader(columns, folder, settings)
        with (
            _fetching_with(functools.partial(fetch.fetch_image, address_allowed=allowed)),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            run.download_shard((index, str(source)))  # calling the object itself would swallow the errors
        return files, check(files, samples["uid"].to_pylist(), settings.encode_format)
    except OSError as error:
        raise from_os_error(error, f"writing a shard in {folder}") from error
    except DamagedShardError as error:
        # img2dataset prints what went wrong with a sample, and goes on without the sample.
        text = printed.getvalue()
        for code in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(code) in text:
                raise from_os_error(OSError(code, os.strerror(code)), f"writing a shard in {folder}") from error
        last = text.strip().rpartition("\n")[2]
        raise DamagedShardError(f"{error}{f' (img2dataset: {last})' if last else ''}") from error


def _write_input(samples: pa.Table, folder: Path) -> Path:
    path = folder / "samples.arrow"
    with pa.ipc.new_file(str(path), samples.schema) as writer:
        writer.write_table(samples)
    return path


def _downloader(columns: list[str], folder: Path, settings: DownloadSettings) -> Any:
    # Enlarging adds no information, so small images stay as they are; but where the mode promises one shape for all
    # images, a smaller one would break the batches it is meant for.
    one_shape = settings.resize_mode in ("center_crop", "border")
    resizer = Resizer(
        image_size=settings.image_size,
        resize_mode=settings.resize_mode,
        resize_only_if_bigger=not one_shape,
        encode_quality=settings.encode_quality,
        encode_format=settings.encode_format,
        min_image_size=settings.min_image_size,
        max_aspect_ratio=settings.max_aspect_ratio or float("inf"),
    )
    return downloader.Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=resizer,
        thread_count=settings.threads,
        save_caption=True,
        extract_exif=False,
        output_folder=str(folder),
        column_list=columns,
        timeout=settings.timeout,
        number_sample_per_shard=settings.samples_per_shard,
        oom_shard_count=_SHARD_DIGITS,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format=settings.encode_format,
        retries=settings.retries,
        user_agent_token=settings.user_agent_token,
        disallowed_header_directives=settings.disallowed_header_directives,
    )


@contextlib.contextmanager
def _fetching_with(fetch_image: Callable[..., Any]) -> Iterator[None]:
    """A worker runs many shards: img2dataset is left as it was found."""
    original = downloader.download_image_with_retry
    downloader.download_image_with_retry = fetch_image
    try:
        yield
    finally:
        downloader.download_image_with_retry = original
