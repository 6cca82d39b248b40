"""Contact sheets: the best images of chosen places, read from the shards, for judging by eye."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO

from geo_subset.progress import log
from geo_subset.report.database import Database
from geo_subset.report.text import LONGEST_CAPTION, LONGEST_URL, plain
from geo_subset.runfolder import StageFolder

#: Images on a sheet.
PICTURES = 12
#: Of the names that the run has no place of, how many are told.
_NAMED = 20
#: Sheets that are made at most: until it is known which fit on the page, their thumbnails are in memory.
MAX_SHEETS = 200
#: A long run's pictures may lie in any of thousands of shards; no more than this many are read through.
MAX_SHARDS = 32
#: Pixels of a thumbnail's longer side, and its JPEG quality.
_SIDE, _QUALITY = 220, 80
#: Members of a shard that stand beside an image.
_NO_IMAGE = ("json", "txt")


@dataclass(frozen=True)
class Picture:
    """One image as found for the sheet's place. `thumbnail` is a JPEG, None if the image could not be read."""

    caption: str | None
    similarity: float
    domain: str
    url: str
    best_place: str | None
    """The name of the place that the image belongs to, where that is another one."""
    thumbnail: bytes | None


@dataclass(frozen=True)
class Sheet:
    """One place: its images among the matches, how many of them were downloaded, and the best of these."""

    place_id: str
    name: str
    area: str
    images: int
    downloaded: int
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Sheets:
    """The sheets of the first MAX_SHEETS of the `wanted` places, whether these were chosen here, the names that the run
    has no place of, and how many shards hold the best images and were read."""

    sheets: tuple[Sheet, ...]
    wanted: int
    automatic: bool
    unknown: tuple[str, ...]
    shards_needed: int
    shards_read: int


@dataclass(frozen=True)
class _Find:
    """A row of the table `finds`: where an image of a chosen place lies."""

    place_id: str
    similarity: float
    filename: str
    key: str
    caption: str | None
    url: str
    domain: str
    best_place: str | None


def make(database: Database, run_url: str, wanted: int | Sequence[str]) -> Sheets:
    """Sheets of `wanted` places: so many, spread evenly over the ranking by images, or those of these names or ids.

    A name is compared without regard to case and stands for every place that bears it.
    """
    database.connection.execute(_PLACE_DOWNLOADS)
    if isinstance(wanted, int):
        chosen, count = _spread(database, wanted)
        unknown: list[str] = []
    else:
        chosen, unknown = _named(database, wanted)
        chosen, count = chosen[:MAX_SHEETS], len(chosen)
    if unknown:
        more = f" and {len(unknown) - _NAMED:,} more" if len(unknown) > _NAMED else ""
        names = ", ".join(repr(plain(name)) for name in unknown[:_NAMED])
        log.info("report.contact_sheet_places: the run has no place %s%s", names, more)
    database.connection.execute("CREATE OR REPLACE TABLE chosen (place_id VARCHAR)")
    if chosen:
        database.connection.execute("INSERT INTO chosen SELECT unnest(?)", [chosen])
    finds, needed = _finds(database, chosen)
    thumbnails = _thumbnails(StageFolder(run_url, "download"), database.shards, finds)
    read = {find.filename for find in finds}
    made = tuple(_sheets(database, chosen, finds, thumbnails))
    return Sheets(made, count, isinstance(wanted, int), tuple(unknown), needed, len(read))


def thumbnail(data: bytes) -> bytes | None:
    """An encoded image, made small, as JPEG; None if it is none."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (2 * _SIDE, 2 * _SIDE))  # a JPEG is then decoded at about the size wanted
            image.thumbnail((_SIDE, _SIDE))
            small = ImageOps.exif_transpose(image).convert("RGBA")
            flat = Image.new("RGB", small.size, "white")
            flat.paste(small, mask=small)
            out = io.BytesIO()
            flat.save(out, "JPEG", quality=_QUALITY, optimize=True)
            return out.getvalue()
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError):
        return None


def read_members(stream: IO[bytes], keys: Iterable[str]) -> dict[str, bytes]:
    """The images of these keys from a shard, read no further than the last of them; what is not there is left out.

    Only the headers' names and sizes are looked at, which is many times faster than `tarfile`: the names in shards
    are short, so that a header's first field holds them whole (POSIX.1-1988 ustar layout).
    """
    missing = set(keys)
    found: dict[str, bytes] = {}
    try:
        while missing and (header := stream.read(512)).strip(b"\0"):
            digits = header[124:136].strip(b"\0 ")
            if header[257:262] != b"ustar" or not digits.isdigit():  # a sign would send it back
                raise ValueError("not a tar archive")
            size = int(digits, 8)
            padding = -size % 512
            key, _, kind = header[:100].rstrip(b"\0").decode().rpartition("/")[2].partition(".")
            if key in missing and kind not in _NO_IMAGE and header[156:157] in b"0\0":
                found[key] = stream.read(size)
                missing.remove(key)
                stream.seek(padding, os.SEEK_CUR)
            else:
                stream.seek(size + padding, os.SEEK_CUR)
    except (ValueError, OSError) as error:
        log.info("a shard could not be read through for the contact sheets: %s", error)
    return found


def _spread(database: Database, count: int) -> tuple[list[str], int]:
    """Of `count` places at even distances in the ranking by images of those that have a downloaded one, the ids of the
    first MAX_SHEETS, best first; and how many places there are, if fewer than `count`."""
    ranked = database.number(f"SELECT count(*) FROM ({_RANKED})")
    count = min(count, ranked)
    ranks = [index * ranked // count for index in range(min(count, MAX_SHEETS))]
    rows = database.rows(f"SELECT place_id FROM ({_RANKED}) WHERE list_contains(?, place) ORDER BY place", [ranks])
    return [place_id for (place_id,) in rows], count


def _named(database: Database, names: Sequence[str]) -> tuple[list[str], list[str]]:
    chosen: list[str] = []
    unknown: list[str] = []
    for name in names:
        rows = database.rows(
            "SELECT place_id FROM place_images WHERE place_id = $1 OR lower(name) = lower(short($1))"
            " ORDER BY place_id = $1 DESC, images DESC, place_id",
            [name.strip()],
        )
        chosen += [place_id for (place_id,) in rows]
        unknown += [] if rows else [name]
    return list(dict.fromkeys(chosen)), unknown


def _finds(database: Database, chosen: list[str]) -> tuple[list[_Find], int]:
    """The best images of each chosen place, best first, from no more than MAX_SHARDS shards; and how many hold them."""

    def query(filenames: list[str]) -> list[_Find]:
        rows = database.rows(_FINDS, {"filenames": filenames, "pictures": PICTURES})
        return [_Find(*row) for row in rows]

    finds = query(list(database.shards))
    needed = {find.filename for find in finds}
    if len(needed) <= MAX_SHARDS:
        return finds, len(needed)
    # The shards of every place's best image first, then of the second best, and so on.
    by_place: dict[str, list[str]] = {place_id: [] for place_id in chosen}
    for find in finds:
        by_place[find.place_id].append(find.filename)
    in_turn = [names[rank] for rank in range(PICTURES) for names in by_place.values() if rank < len(names)]
    return query(list(dict.fromkeys(in_turn))[:MAX_SHARDS]), len(needed)


def _thumbnails(
    folder: StageFolder, shards: dict[str, str], finds: Sequence[_Find]
) -> dict[tuple[str, str], bytes | None]:
    """(filename, key) -> thumbnail; each shard is opened once."""
    keys: dict[str, set[str]] = {}
    for find in finds:
        keys.setdefault(find.filename, set()).add(find.key)
    made: dict[tuple[str, str], bytes | None] = {}
    for filename in sorted(keys):
        with folder.open(f"{shards[filename]}.tar") as stream:
            for key, data in read_members(stream, keys[filename]).items():
                made[filename, key] = thumbnail(data)
    return made


def _sheets(
    database: Database,
    chosen: list[str],
    finds: Sequence[_Find],
    thumbnails: dict[tuple[str, str], bytes | None],
) -> Iterable[Sheet]:
    rows = {row[0]: row for row in database.rows(_ABOUT)}
    for place_id in chosen:
        _, name, area, images, downloaded = rows[place_id]
        pictures = tuple(
            Picture(
                find.caption, find.similarity, find.domain, find.url, find.best_place,
                thumbnails.get((find.filename, find.key)),
            )
            for find in finds
            if find.place_id == place_id
        )  # fmt: skip
        yield Sheet(place_id, name, area, images, downloaded, pictures)


_PLACE_DOWNLOADS = """
CREATE OR REPLACE TABLE place_downloads AS
SELECT place_id, count(*) AS downloaded FROM (
    SELECT DISTINCT uid, unnest(place_ids) AS place_id FROM images WHERE status = 'success'
) GROUP BY place_id
"""
_RANKED = """
SELECT place_id, row_number() OVER (ORDER BY images DESC, place_id) - 1 AS place
FROM place_images JOIN place_downloads USING (place_id)
"""
# Texts are cut before rows are multiplied: an image that a thousand places found has its caption but once.
_FINDS = f"""
WITH found AS (
    SELECT unnest(place_ids) AS found_for, unnest(similarities) AS found_similarity, uid, filename, key, place_id,
           short(name) AS name, short(domain) AS domain, left(caption, {2 * LONGEST_CAPTION}) AS caption,
           left(url, {LONGEST_URL + 1}) AS url
    FROM images WHERE status = 'success' AND list_contains($filenames, filename)
), once AS (
    SELECT * FROM found WHERE found_for IN (SELECT place_id FROM chosen)
    QUALIFY row_number() OVER (PARTITION BY found_for, uid ORDER BY found_similarity DESC) = 1
)
SELECT found_for, found_similarity, filename, key, caption, url, coalesce(domain, ''),
       CASE WHEN once.place_id <> found_for THEN coalesce(name, short(once.place_id)) END
FROM once
QUALIFY row_number() OVER (PARTITION BY found_for ORDER BY found_similarity DESC, uid) <= $pictures
ORDER BY found_for, found_similarity DESC, uid
"""
_ABOUT = """
SELECT place_id, coalesce(nullif(i.name, ''), short(place_id)),
       concat_ws(', ', nullif(short(p.admin2), ''), nullif(short(p.admin1), ''), nullif(short(p.country), '')),
       i.images, coalesce(d.downloaded, 0)
FROM chosen JOIN places p USING (place_id) JOIN place_images i USING (place_id)
LEFT JOIN place_downloads d USING (place_id)
"""
