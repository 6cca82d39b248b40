"""Conditions that users write: one boolean expression over the columns of a row, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset import conditions, storage
from geo_subset.errors import SettingsError
from geo_subset.tables import SAMPLES

ROWS = [
    {"url": "http://a.com/1", "caption": "a church; -- 100%", "similarity": 0.5, "place_ids": ["p"], "place_count": 1},
    {"url": "https://b.com/2", "caption": None, "similarity": 0.25, "place_ids": ["p", "q"], "place_count": 2},
    {"url": "https://b.com/3", "similarity": float("nan"), "place_ids": [], "place_count": 0, "width": 640},
]


def kept(text: str) -> list[int]:
    """Which rows a condition keeps, after it was checked."""
    conditions.check("merge.where", text, SAMPLES, "samples")
    rows = pa.Table.from_pylist(ROWS, SAMPLES)
    with storage.database("256MB") as connection:
        fitting = conditions.fitting(connection, "merge.where", text, rows, "samples")
    urls = [row["url"] for row in ROWS]
    return [urls.index(url) for url in fitting["url"].to_pylist()]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("place_count = 1", [0]),
        ("samples.Place_Count < 2 -- few", [0, 2]),
        ("caption LIKE '%; --%' /* both */", [0]),
        ("caption IS NULL OR caption ILIKE 'A church%'", [0, 1, 2]),
        ("similarity > 0.3", [0, 2]),  # DuckDB: NaN is greater than any number
        ("isnan(similarity) AND NOT similarity BETWEEN 0 AND 1", [2]),
        ("width > 5", [2]),  # NULL is not true
        ("NOT (width > 5)", []),
        ("list_contains(place_ids, 'q') OR len(place_ids) = 0", [1, 2]),
        ("place_ids[1] = 'p'", [0, 1]),
        ("regexp_matches(url, '^https://[a-c]+[.]com/[0-9]$')", [1, 2]),
        ("CASE WHEN place_count > 1 THEN url LIKE 'https%' ELSE try_cast(caption AS INT) IS NULL END", [0, 1, 2]),
        ("split_part(url, '/', 3) IN ('a.com', 'c.com')", [0]),
        ("coalesce(width::DOUBLE / nullif(height, 0), 1.0) < 2 AND true", [0, 1, 2]),
        ("place_count = 1 OR place_count = 2", [0, 1]),
    ],
)  # fmt: skip
def test_what_holds_is_kept(text, rows):
    assert kept(text) == rows


HOSTILE = [
    "(select count(*) from read_text('{file}') where content like 't%') > 0",
    "(select count(*) from read_csv('{file}')) > 0",
    "(select count(*) from glob('/root/*')) > 0",
    "(select count(*) from read_csv('{server}/exfil')) > 0",
    "(from read_blob('{file}')) is null",
    "caption = any(select content from read_text('{file}'))",
    "exists (from '{file}')",
    "getenv('SECRET') is null",
    "getvariable('x') is null",
    "current_setting('memory_limit') = '1'",
    "(select count(*) from duckdb_settings()) > 0",
    "(select count(*) from rows) > 0",
    "(select count(*) from query('select 1')) > 0",
    "query('select 1') is null",
    "true) IS true AS fits FROM samples; COPY (select 1) TO '{written}'; --",
    "true; COPY (select 1) TO '{written}'",
    "true; INSTALL httpfs",
    "true) OR (false",
    "true /* ",
    "true AS x",
    "true, true",
    "true FROM samples",
    "true WHERE false",
    "true LIMIT 1",
    "true UNION SELECT false",
    "DISTINCT true",
    "row_number() over () > 1",
    "count(*) > 1",
    "sum(place_count) > 1",
    "list_sum(DISTINCT similarities) > 1",
    "unnest([true, false])",
    "COLUMNS(*) > 1",
    "*",
    "#1",
    "$1",
    "?",
    "DEFAULT",
    "x -> true",
    "len(list_filter(similarities, x -> x > 1)) > 0",
    "[x for x in place_ids if true] is null",
    "random() > 0.5",
    "now() is null",
    "nextval('s') > 0",
    "uuid() is null",
    "write_log('x') is null",
    "error('x')",
    "repeat('x', 1000000000) = 'a'",
    "url_key_any(url) = url",
    "rowid = 1",
    "nosuch = 1",
    "other.caption = 'a'",
    "current_user = 'x'",
    "1",
    "NULL",
    "'text'",
    "similarity > 'x'",
    "",
    " \n",
    "\ud800 = 1",
    "caption = '\0'",
    "(" * 5_000,
    "(" * 5_000 + "true" + ")" * 5_000,
    "NOT " * 4_000 + "true",
    "1" + "+1" * 2_000 + " > 0",
    "[" * 90 + "1",
    "lower(" * 90,
    "CASE WHEN true THEN " * 900,
    "x" * 10_000_000,
    "domain IN (" + ",".join(f"'{n}'" for n in range(100_000)) + ")",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:40]))
def test_what_is_more_than_a_condition_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "s3cr3t")
    Path("secret.txt").write_text("topsecret\n")
    text = (
        text.replace("{file}", "secret.txt")
        .replace("{written}", "written.csv")
        .replace("{server}", "http://127.0.0.1:1")
    )
    with pytest.raises(SettingsError, match=r"merge\.where = ") as refused:
        conditions.check("merge.where", text, SAMPLES, "samples")
    assert len(str(refused.value)) < 1_000
    assert "topsecret" not in str(refused.value)
    assert "s3cr3t" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.txt"]


@given(st.text(st.sampled_from("()[]{}'\"$;-*/,.:<>=|a1 \n"), max_size=12) | st.text(max_size=8))
def test_any_text_is_a_condition_or_refused(text):
    try:
        conditions.check("merge.where", text, SAMPLES, "samples")
    except SettingsError:
        return
    assert set(kept(text)) <= {0, 1, 2}


def test_a_condition_that_fails_for_a_row_is_one_clear_error():
    with pytest.raises(SettingsError, match=r"merge\.where = 'caption::INT > 5': Conversion Error"):
        kept("caption::INT > 5")


def test_no_function_of_a_condition_is_unknown_or_changes():
    """What may be called is there, is no aggregate, and gives the same each time."""
    with storage.database("256MB") as connection:
        known = connection.execute("SELECT function_name, function_type, stability FROM duckdb_functions()").fetchall()
    operators = {name for name in conditions.FUNCTIONS if not name[0].isalpha()} | {"row"}
    named = conditions.FUNCTIONS - operators
    kinds = {(kind, stability) for name, kind, stability in known if name in named}
    assert {kind for kind, _ in kinds} <= {"scalar", "macro"}
    assert {stability for _, stability in kinds} <= {"CONSISTENT", None}
    assert len(named - {name for name, _, _ in known}) < 10, "as versions differ"


# --- the database that they, and all of ours, run in ---


def test_a_database_reads_the_files_it_was_given_and_no_others(tmp_path):
    for name in ("mine", "other"):
        pq.write_table(pa.table({"a": [name]}), tmp_path / f"{name}.parquet")
    mine, other = (str(tmp_path / f"{name}.parquet") for name in ("mine", "other"))
    secret = "for Python alone"  # noqa: F841 - a table by its name, if DuckDB could see it
    with storage.database("256MB", files=[mine]) as connection:
        assert connection.read_parquet(storage.literal(mine)).fetchall() == [("mine",)]
        for sql in (
            f"FROM read_parquet('{other}')", "FROM read_text('/etc/passwd')", "FROM glob('/*')",
            f"COPY (SELECT 1) TO '{other}'",
            "INSTALL httpfs", "LOAD httpfs", f"ATTACH '{other}'", "SET enable_external_access = true", "FROM secret",
            f"SET allowed_paths = ['{other}']", "SET allow_community_extensions = true",
        ):  # fmt: skip
            with pytest.raises(Exception, match=r"Permission|Invalid Input|Catalog|Cannot"):
                connection.execute(sql)
    assert pq.read_table(other).to_pylist() == [{"a": "other"}]


def test_a_closed_database_spills_to_its_own_scratch_folder_within_its_memory():
    with storage.database("60MB") as connection:
        ordered = "SELECT count(*) FROM (SELECT h, row_number() OVER (ORDER BY h) n FROM big) WHERE n % 2 = 0"
        connection.execute(
            "CREATE TABLE big AS SELECT hash(range) h, repeat(md5(range::VARCHAR), 3) t FROM range(1000000)"
        )
        assert connection.execute(ordered).fetchall() == [(500_000,)]
        scratch = connection.execute("SELECT current_setting('temp_directory')").fetchall()[0][0]
        assert sum(file.stat().st_size for file in Path(scratch).iterdir()) > 20 << 20


@pytest.mark.parametrize("name", ["run[1]", "ru*", "run?", "r{u,v}n", "[!a]", "**", "a'b", "back\\slash", "%20", "é"])
def test_a_path_is_no_pattern(tmp_path, name):
    for folder in ("run1", "run", "rux", "run2", "b", name):
        (tmp_path / folder).mkdir(exist_ok=True)
        pq.write_table(pa.table({"a": [folder]}), tmp_path / folder / "x.parquet")
    path = str(tmp_path / name / "x.parquet")
    with storage.database("256MB", files=[path]) as connection:
        view = connection.read_parquet([storage.literal(path)], filename=True)
        assert view.fetchall() == [(name, path)]
