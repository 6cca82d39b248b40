"""Metadata files in all formats."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geo_subset.errors import SettingsError, StageError
from geo_subset.retrieve.captions import files

ROWS = [("http://x/1", "Paris, Texas"), ("http://x/2", 'a "quoted", one'), ("http://x/3", "東京")]


def rows_of(path, url=None, caption=None, counters=None):
    (file,) = files.discover([str(path)])
    found = []
    for batch, columns in files.read(file, url, caption, Counter() if counters is None else counters):
        for row in batch.to_pylist():
            texts = (row[columns.url], row[columns.caption])
            found.append(tuple(t.decode() if isinstance(t, bytes) else t for t in texts))
    return found


def write(path: Path) -> None:
    tabs = "".join(f"{url}\t{text}\n" for url, text in ROWS)
    quoted = "".join(f'{url},"{text.replace(chr(34), chr(34) * 2)}",7\n' for url, text in ROWS)
    lines = "".join(json.dumps({"id": 1, "Image_URL": url, "alt_text": text}) + "\n" for url, text in ROWS)
    if path.name == "a.parquet":
        columns = {"TEXT": [text for _, text in ROWS], "URL": [url for url, _ in ROWS], "WIDTH": [1, 2, 3]}
        pq.write_table(pa.table(columns), path, row_group_size=2)
    elif path.name.startswith("header"):
        path.write_text(
            ("url\ttext\n" + tabs) if path.suffix == ".tsv" else "URL,Caption,n\n" + quoted, encoding="utf-8"
        )
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(tabs.encode()))
    else:
        path.write_text({".tsv": tabs, ".csv": quoted, ".jsonl": lines}[path.suffix], encoding="utf-8")


@pytest.mark.parametrize("name", ["a.parquet", "header.tsv", "header.csv", "a.tsv", "a.csv", "a.jsonl", "a.tsv.gz"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    write(tmp_path / name)
    counters: Counter[str] = Counter()
    assert rows_of(tmp_path / name, counters=counters) == ROWS
    assert counters["rows"] == len(ROWS)


@pytest.mark.parametrize("name", ["a.parquet", "a.tsv.gz", "a.jsonl"])
def test_files_on_object_storage(tmp_path, s3_bucket, name):
    write(tmp_path / name)
    folder = f"{s3_bucket}/captions-{name}"
    fsspec.filesystem("s3").put(str(tmp_path / name), f"{folder}/{name}")
    assert rows_of(f"{folder}/{name}") == rows_of(f"{folder}/*.{name.split('.', 1)[1]}") == ROWS
    (file,) = files.discover([folder])
    assert file.url.startswith("s3://")
    assert file.version
    with pytest.raises(SettingsError, match=r"nothing|no such file"):
        files.discover([f"{s3_bucket}/nothing/*.parquet"])


def test_columns_are_found_without_regard_to_case_and_by_name():
    found = files.columns(["Url", "TEXT", "ORIGINAL_WIDTH", "Height", "NSFW"], None, None)
    assert (found.url, found.caption) == ("Url", "TEXT")
    assert dict(found.source) == {"width": "ORIGINAL_WIDTH", "height": "Height", "nsfw": "NSFW"}
    assert files.columns(["link", "words", "url"], "LINK", "Words").url == "link"
    assert files.columns(["URL", "url", "text"], "url", None).url == "url"
    with pytest.raises(ValueError, match=r"no column 'caption' or .* among url, words; .*caption_col"):
        files.columns(["url", "words"], None, None)


def test_malformed_rows_are_counted(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"http://x/1\tone\nhttp://x/2\ttwo\tmany\nhttp://x/3\t\xff\n")
    counters: Counter[str] = Counter()
    (file,) = files.discover([str(tmp_path / "a.tsv")])
    batches = [batch for batch, _ in files.read(file, None, None, counters)]
    assert [row["caption"] for batch in batches for row in batch.to_pylist()] == [b"one", b"\xff"]
    assert (counters["rows"], counters["rows_malformed"]) == (3, 1)
    deep = "[" * 200_000
    (tmp_path / "a.jsonl").write_text(
        f'{{"url": "u", "text": "\\ud800 x"}}\n[1]\nnonsense\n{deep}\n\n', encoding="utf-8"
    )
    counters.clear()
    (file,) = files.discover([str(tmp_path / "a.jsonl")])
    ((batch, _),) = files.read(file, None, None, counters)
    assert batch.to_pylist() == [{"url": b"u", "text": b"\xed\xa0\x80 x"}]
    assert (counters["rows"], counters["rows_malformed"]) == (4, 3)


def test_folders_and_globs(tmp_path):
    for name in ("b/2.parquet", "b/1.parquet", "b/notes.txt", "b/_hidden.parquet", "c/3.tsv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    found = files.discover([str(tmp_path), str(tmp_path / "b" / "*.parquet")])
    assert [file.url[len(str(tmp_path)) + 1 :] for file in found] == ["b/1.parquet", "b/2.parquet", "c/3.tsv"]
    assert all(file.bytes == 1 and file.version for file in found)


@pytest.mark.parametrize(
    "path", ["none.parquet", "none/*.parquet", "x.xlsx", "hf://datasets/a/b/*.parquet", "nonsense://a"]
)
def test_what_is_not_there_is_told(tmp_path, path):
    (tmp_path / "x.xlsx").write_bytes(b"x")
    with pytest.raises(SettingsError, match=r"retrieve\.captions\.path"):
        files.discover([path if "://" in path else str(tmp_path / path)])


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    (file,) = files.discover([str(tmp_path / "a.parquet")])
    with pytest.raises(StageError, match=r"a\.parquet cannot be read"):
        list(files.read(file, None, None, Counter()))
