"""Contact sheets: which images, read from which shards."""

from __future__ import annotations

import io
import logging
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from geo_subset.report import database, sheets

from .report_run import Outcome, Run, colored, match, place, write

PLACES = [place("list:1", "Clinton", admin1="NY", country="US"), place("list:2", "Albany"), place("list:3", "clinton")]


def made(run: Run, wanted: int | Sequence[str]) -> sheets.Sheets:
    with database.opened(run.url) as tables:
        return sheets.make(tables, run.url, wanted)


def drawn(_: object) -> Outcome:
    return Outcome(image=colored())


def test_a_sheet_shows_the_best_downloaded_images_of_its_place(tmp_path: Path) -> None:
    rows = [match("list:1", f"http://a.com/{n}.jpg", n / 100) for n in range(20)]
    gone = "http://a.com/18.jpg"
    run = write(
        tmp_path, PLACES, rows, lambda s: Outcome(reason="HTTP 404") if s["url"] == gone else drawn(s), per_shard=3
    )
    found = made(run, 5)
    assert found.automatic and found.shards_read == found.shards_needed > 1
    (sheet,) = found.sheets
    assert (sheet.name, sheet.area, sheet.images, sheet.downloaded) == ("Clinton", "NY, US", 20, 19)
    assert [p.url.rpartition("/")[2] for p in sheet.pictures] == [
        f"{n}.jpg" for n in (19, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7)
    ]
    for picture in sheet.pictures:
        assert picture.thumbnail is not None and picture.best_place is None and picture.domain == "a.com"
        assert Image.open(io.BytesIO(picture.thumbnail)).format == "JPEG"


def test_an_image_whose_best_place_is_another_is_marked(tmp_path: Path) -> None:
    rows = [match("list:1", "http://a.com/1", 0.2), match("list:2", "http://a.com/1", 0.3)]
    by_place = {sheet.place_id: sheet for sheet in made(write(tmp_path, PLACES, rows, drawn), 9).sheets}
    assert by_place["list:1"].pictures[0].best_place == "Albany"
    assert by_place["list:1"].pictures[0].similarity == pytest.approx(0.2)
    assert by_place["list:2"].pictures[0].best_place is None


def test_names_ids_homonyms_and_unknown_places(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [match("list:3", "http://a.com/1", 0.2), match("list:2", "http://a.com/2", 0.3)]
    run = write(tmp_path, PLACES, rows, lambda s: drawn(s) if s["place_id"] == "list:3" else Outcome(reason="HTTP 404"))
    with caplog.at_level(logging.INFO, logger="geo_subset"):
        found = made(run, ["CLINTON", "list:2", "Atlantis", "list:3"])
    assert [(s.place_id, len(s.pictures)) for s in found.sheets] == [("list:3", 1), ("list:1", 0), ("list:2", 0)]
    assert found.unknown == ("Atlantis",) and "Atlantis" in caplog.text and not found.automatic


def test_places_are_spread_over_the_ranking(tmp_path: Path) -> None:
    places = [place(f"list:{n}", f"P{n}") for n in range(9)]
    rows = [match(f"list:{n}", f"http://a.com/{n}/{i}", 0.3) for n in range(9) for i in range(9 - n)]
    run = write(tmp_path, places, rows, drawn)
    assert [s.place_id for s in made(run, 3).sheets] == ["list:0", "list:3", "list:6"]
    assert len(made(run, 50).sheets) == 9
    assert made(run, 0).sheets == ()


def test_a_run_without_any_image_has_no_sheets(tmp_path: Path) -> None:
    run = write(tmp_path, PLACES, [])
    assert made(run, 3).sheets == ()
    assert [s.pictures for s in made(run, ["Albany"]).sheets] == [()]


def test_no_more_than_so_many_shards_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "MAX_SHARDS", 4)
    rows = [match(f"list:{p}", f"http://a.com/{p}/{n}", (p + n) / 100) for p in (1, 2) for n in range(9)]
    found = made(write(tmp_path, PLACES, rows, drawn, per_shard=1), 2)
    assert (found.shards_read, found.shards_needed) == (4, 18)
    # Each place has its two best: one shard holds one image here.
    assert [[round(p.similarity, 2) for p in s.pictures] for s in found.sheets] == [[0.09, 0.08], [0.1, 0.09]]


def test_images_that_cannot_be_read_are_shown_as_such(tmp_path: Path) -> None:
    rows = [match("list:1", f"http://a.com/{n}", n / 100) for n in range(2)]
    run = write(tmp_path, PLACES, rows, lambda s: Outcome(image=b"no image") if s["url"][-1] == "1" else drawn(s))
    (sheet,) = made(run, 1).sheets
    assert [p.thumbnail is None for p in sheet.pictures] == [True, False]


def test_a_damaged_shard_is_no_reason_to_have_no_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write(tmp_path, PLACES, [match("list:1", "http://a.com/1", 0.1)], drawn)
    (tar,) = tmp_path.glob("shards/*.tar")
    tar.write_bytes(b"\x01" * 5000)
    with caplog.at_level(logging.INFO, logger="geo_subset"):
        (sheet,) = made(run, 1).sheets
    assert sheet.pictures[0].thumbnail is None and "could not be read" in caplog.text


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_as_tarfile_writes_them(form: int) -> None:
    out = io.BytesIO()
    contents = {f"{n:09d}.{kind}": os.urandom(n * 170) for n in range(8) for kind in ("jpg", "json", "txt")}
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5  # in PAX a fraction makes an extended header
            tar.addfile(info, io.BytesIO(data))
    out.seek(0)
    wanted = ["000000000", "000000003", "000000007", "no such key"]
    assert sheets.read_members(out, wanted) == {key: contents[f"{key}.jpg"] for key in wanted[:3]}


@pytest.mark.parametrize("size", [b"-0000001000", b"0000_000001", b"+0000000001", "0000000000²".encode()[:11], b""])
def test_a_member_of_an_odd_size_ends_the_reading(size: bytes) -> None:
    header = bytearray(512)
    header[:13], header[257:262], header[156:157] = b"000000000.jpg", b"ustar", b"0"
    header[124 : 124 + len(size)] = size
    stream = io.BytesIO(bytes(header) + bytes(1024))
    assert sheets.read_members(stream, ["000000001"]) == {}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_thumbnails_are_small_jpegs_whatever_came(kind: str, mode: str) -> None:
    image = Image.new("RGB", (900, 300), "teal").convert(mode)
    if kind == "JPEG" and mode in ("RGBA", "P"):
        image = image.convert("CMYK" if mode == "P" else "L")
    out = io.BytesIO()
    image.save(out, kind)
    small = sheets.thumbnail(out.getvalue())
    assert small is not None
    with Image.open(io.BytesIO(small)) as result:
        assert result.format == "JPEG" and max(result.size) <= 220 and result.size[0] > 2 * result.size[1]


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xe0" + bytes(50), colored()[:200]])
def test_what_is_no_image_has_no_thumbnail(data: bytes) -> None:
    assert sheets.thumbnail(data) is None
