"""`geo-subset plan`: the arithmetic, rates measured in another run, and what is wrong about its options."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geo_subset import costs, settings
from geo_subset.cli import main
from geo_subset.costs import Rate
from geo_subset.errors import SettingsError

from . import fabricate


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    (tmp_path / "l.csv").write_text("name,context\n" + "".join(f"Place {n},here\n" for n in range(40)))
    (tmp_path / "run.toml").write_text(
        f'run = "{tmp_path}/run"\n[places]\nsource = "list"\npath = "l.csv"\n'
        'prompt = ["{name}", "{name} in {context}"]\n'
        '[retrieve]\nnum_images = 10\n[retrieve.clip-service]\nurl = ["http://127.0.0.1:1", "http://127.0.0.1:2"]\n'
    )
    return tmp_path / "run.toml"


def shown(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], str]:
    """Stage and name -> amount, of what was printed."""
    found, stage = {}, ""
    for line in capsys.readouterr().out.partition("with these rates")[0].splitlines():
        if match := re.fullmatch(r"(\w[\w ]{8}| {9}) (.{14}) +(\S.*?)(?:   = .*)?", line):
            stage = match[1].strip() or stage
            found[stage, match[2].strip()] = match[3].strip()
    return found


def test_the_arithmetic_without_a_measurement(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(run_file), "--rate", "alive=0.5", "--rate", "images_per_second=10"]) == 0
    found = shown(capsys)
    assert found["places", "places"] == "40"
    assert found["places", "search texts"] == found["retrieve", "queries"] == "80"
    assert found["retrieve", "time"] == "00:02"  # two backends, 20 a second each
    assert found["retrieve", "rows received"] == "800"
    assert found["retrieve", "matches"] == found["merge", "samples"] == "400"  # ten a place at most
    assert found["retrieve", "network"] == "187kB"
    assert found["download", "images"] == "200"
    assert found["download", "time"] == "00:40"
    assert found["download", "storage"] == "5.40MB"
    assert found["in all", "time"] == "00:42   of retrieve and download"


def test_rates_of_another_run(run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = str(tmp_path / "trial")
    fabricate.places(other, [{"place_id": "list:a", "name": "A", "queries": ["A"]}])
    matches = [{"place_id": "list:a", "rank": n, "similarity": 0.3, "url": f"http://a.com/{n // 2}"} for n in range(8)]
    fabricate.matches(other, [matches])
    rates = costs.measured(other, 10)
    assert set(rates) == {"match_bytes"}  # no requests were counted: what was not measured is not told
    assert rates["match_bytes"].source == f"measured in {other}"
    assert main(["plan", str(run_file), "--like", other]) == 0
    assert f"measured in {other}" in capsys.readouterr().out
    (tmp_path / "trial" / "run.toml").write_text(settings.dumps(settings.load(run_file, ("retrieve.num_images=100",))))
    with pytest.raises(SettingsError, match="num_images = 100, not 10"):
        costs.measured(other, 10)
    with pytest.raises(SettingsError, match="no finished stage"):
        costs.measured(str(tmp_path / "nowhere"), 10)


def test_a_share_is_one_at_most() -> None:
    with pytest.raises(SettingsError, match="it is a share"):
        costs.set_by_hand({"alive": Rate(1.0, "")}, ("alive=5",))


@pytest.mark.parametrize("text", ["alive", "alive=", "alive=-1", "alive=nan", "alive=inf", "lives=1"])
def test_a_rate_that_is_none_is_told(text: str) -> None:
    with pytest.raises(SettingsError, match=rf"--rate {text}: write NAME=NUMBER, where NAME is one of alive"):
        costs.set_by_hand({"alive": Rate(1.0, "")}, (text,))


def test_larger_images_take_more_room(run_file: Path) -> None:
    small, large = (
        costs.stated(settings.load(run_file, (f"download.image_size={size}",)))["image_bytes"].value
        for size in (256, 512)
    )
    assert large == 4 * small


def test_captions_are_counted_by_the_bytes_of_their_files(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "captions.tsv").write_bytes(b"http://a.com/1\tOld Mill\n" * 1000)
    words = ["--set", "retrieve.strategy=captions", "--set", "retrieve.captions.path=captions.tsv"]
    rates = ["--rate", "caption_bytes=24", "--rate", "captions_per_second=100", "--rate", "rows_per_caption=0.2"]
    assert main(["plan", str(run_file), *words, *rates]) == 0
    found = shown(capsys)
    assert (found["retrieve", "files"], found["retrieve", "captions"]) == ("1", "1,000")
    assert found["retrieve", "time"] == "00:10"
    assert found["retrieve", "matches"] == found["merge", "samples"] == "200"


def test_a_search_is_counted_by_its_products(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v").mkdir()
    for number in range(2):
        np.save(tmp_path / f"v/{number}.npy", np.ones((500, 16), np.float16))
        pq.write_table(pa.table({"url": ["http://a.com"] * 500}), tmp_path / f"v/{number}.parquet")
    np.save(tmp_path / "q.npy", np.ones((40, 16), np.float32))
    options = {"strategy": "embeddings", "embeddings.path": "v", "embeddings.query_vectors": "q.npy"}
    words = [word for key, value in options.items() for word in ("--set", f"retrieve.{key}={value}")]
    assert main(["plan", str(run_file), *words, "--rate", "operations_per_second=64000"]) == 0
    found = shown(capsys)
    assert found["retrieve", "vectors"] == "1,000"
    assert found["retrieve", "operations"] == f"{2 * 40 * 1000 * 16:,}"
    assert found["retrieve", "time"] == "00:20"
    assert found["retrieve", "scratch"] == "12.8kB"  # twenty candidates a place, 16 bytes each
    assert found["retrieve", "matches"] == "400"
    words += ["--set", "retrieve.embeddings.hub_correction=csls"]
    assert main(["plan", str(run_file), *words, "--rate", "operations_per_second=64000"]) == 0
    found = shown(capsys)
    assert found["retrieve", "candidates"] == "1,000"  # forty a place, of which there are no more
    assert found["retrieve", "operations"] == f"{2 * 40 * 2000 * 16:,}"
