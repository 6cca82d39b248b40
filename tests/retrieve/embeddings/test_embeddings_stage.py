"""The stage on Ray, from vectors and metadata to matches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricate import places as write_places
from fabricate import run_settings
from images import brute_force, clustered, inference_folder, metadata, unit

from geo_subset import tables
from geo_subset.errors import SettingsError, StageError
from geo_subset.progress import log
from geo_subset.retrieve import stage
from geo_subset.retrieve.embeddings import plan, vectors
from geo_subset.runfolder import StageFolder

PLACES, COLUMNS = 25, 40


@pytest.fixture
def small_plan(monkeypatch):
    """Several units, groups of places, partitions and blocks of what is small."""
    monkeypatch.setattr(plan, "UNIT_ROWS", (1 << 9, 1 << 9))
    monkeypatch.setattr(plan, "GROUP_BYTES", 10 * plan.place_bytes(60, COLUMNS))
    monkeypatch.setattr(plan, "PARTITION_BYTES", 8 * 60 * plan.CANDIDATE_BYTES)
    monkeypatch.setattr(plan, "block_rows", lambda columns: 200)
    monkeypatch.setattr(plan, "ENCODE_PLACES", 7)


@pytest.fixture
def images(tmp_path):
    """Three files, the rows of all of them, and which of these are searched."""
    rng = np.random.default_rng(3)
    rows = clustered(rng, 2000, COLUMNS).astype(np.float16)
    rows[100] = 0
    rows[700, 3] = np.nan
    rows[1500] *= 2
    folder = inference_folder(tmp_path / "inference", np.split(rows, [900, 901]))
    meta = metadata(0, 900)
    urls = meta["url"].to_pylist()
    urls[5], urls[6] = None, ""
    pq.write_table(meta.set_column(0, "url", pa.array(urls)), folder / "metadata/metadata_0.parquet")
    usable = ~np.isin(np.arange(2000), [100, 700, 5, 6])
    return folder, rows, usable


@pytest.fixture
def run_url(tmp_path):
    url = str(tmp_path / "run")
    write_places(url, [{"place_id": f"list:{n}", "name": f"P{n}", "queries": [f"P{n}"]} for n in range(PLACES)])
    return url


@pytest.fixture
def queries(tmp_path):
    np.save(tmp_path / "queries.npy", unit(np.random.default_rng(4).standard_normal((PLACES, COLUMNS))))
    return str(tmp_path / "queries.npy")


def run(run_url, folder, queries, digit="d", num_images=30, workers=2, **embeddings):
    options = {"path": str(folder), "query_vectors": queries, **embeddings}
    retrieve = {"strategy": "embeddings", "num_images": num_images, "embeddings": options}
    settings = run_settings(run_url, retrieve=retrieve, cluster={"workers": workers})
    stage.check(settings)
    stage.content(settings)
    return stage.run(settings, StageFolder(run_url, "retrieve", digit * 64))


def matches(run_url, manifest):
    return pa.concat_tables([pq.read_table(Path(run_url, "matches", path)) for path in manifest.paths()])


def test_all_of_the_nearest_in_order(ray_session, small_plan, images, run_url, queries):
    folder, rows, usable = images
    manifest = run(run_url, folder, queries, deduplicate=False)
    table, counters = matches(run_url, manifest), manifest.counters
    assert table.schema.equals(tables.MATCHES)
    prepared = vectors.prepare(rows).vectors[usable]
    numbers = np.flatnonzero(usable)
    scores, order = brute_force(vectors.prepare(np.load(queries)).vectors, prepared, 30)
    assert table["image_id"].to_pylist() == numbers[order].ravel().tolist()
    assert table["similarity"].to_numpy().tolist() == scores.ravel().tolist()
    assert table["place_id"].to_pylist() == [f"list:{n}" for n in range(PLACES) for _ in range(30)]
    assert table["rank"].to_pylist() == list(range(30)) * PLACES
    assert [row["caption"] for row in table.to_pylist()] == [f"image {n}" for n in numbers[order].ravel()]
    assert counters["vectors"] == 2000
    assert (counters["vectors_zero"], counters["vectors_not_finite"], counters["vectors_normalised"]) == (1, 1, 1)
    assert counters["vectors_without_url"] == 2
    assert counters["candidates"] == counters["candidates_of_other_units"] + counters["rows"]
    assert counters["rows"] == table.num_rows == 30 * PLACES
    assert (counters["places"], counters["places_with_images"]) == (PLACES, PLACES)
    assert len(manifest.paths()) > 2
    assert not Path(run_url, "matches", "_scan").exists()
    assert stage.describe(manifest) == (
        "750 rows for 25 of 25 places from 2,000 vectors; 4 vectors not searched: no URL (2), all zero (1), "
        "not finite (1)"
    )


def test_near_duplicates_make_room(ray_session, small_plan, images, run_url, queries):
    folder, rows, _ = images
    manifest = run(run_url, folder, queries)
    table, counters = matches(run_url, manifest).to_pandas(), manifest.counters
    held = vectors.prepare(rows).vectors.astype(np.float64)
    for _, found in table.groupby("place_id"):
        close = held[found["image_id"]] @ held[found["image_id"]].T
        assert close[~np.eye(len(found), dtype=bool)].max(initial=-1) <= 0.94
        assert found["similarity"].is_monotonic_decreasing
        assert found["rank"].tolist() == list(range(len(found)))
    assert counters["matches_near_duplicate"] > 0
    left_out = ("candidates_of_other_units", "matches_near_duplicate", "matches_same_url", "matches_over_num_images")
    assert counters["candidates"] == counters["rows"] + sum(counters[name] for name in left_out)
    short = table.groupby("place_id").size()
    assert counters["places_not_refilled"] == (short < 30).sum()
    assert counters["images_not_refilled"] == (30 - short).sum()


def test_neither_workers_nor_devices_nor_the_plan_change_a_byte(
    ray_session, images, run_url, queries, monkeypatch, request
):
    folder, _, _ = images
    whole = matches(run_url, run(run_url, folder, queries, "1", workers=1))
    request.getfixturevalue("small_plan")
    manifest = run(run_url, folder, queries, "2", workers=2)
    digests = [entry.sha256 for entry in manifest.files]
    assert len(digests) > 2
    assert matches(run_url, manifest).equals(whole)
    assert [entry.sha256 for entry in run(run_url, folder, queries, "3", workers=1).files] == digests
    pytest.importorskip("torch")
    assert [entry.sha256 for entry in run(run_url, folder, queries, "4", dtype="bfloat16").files] == digests


def test_a_column_of_vectors_beside_urls(ray_session, tmp_path, run_url, queries):
    rows = unit(np.random.default_rng(1).standard_normal((300, COLUMNS)))
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), COLUMNS)
    pq.write_table(metadata(0, 300, embedding=column), tmp_path / "a.parquet")
    manifest = run(run_url, tmp_path / "a.parquet", queries, num_images=10)
    _, order = brute_force(np.load(queries), rows, 10)
    assert matches(run_url, manifest)["image_id"].to_pylist() == order.ravel().tolist()


def test_what_does_not_fit_is_told_before_any_work(ray_session, tmp_path, images, run_url, queries):
    folder, _, _ = images
    np.save(tmp_path / "long.npy", np.ones((PLACES, 41), np.float32))
    with pytest.raises(
        SettingsError, match=r"vectors of 40 numbers, the places' have 41: they must come from the same"
    ):
        run(run_url, folder, str(tmp_path / "long.npy"))
    np.save(tmp_path / "few.npy", np.load(queries)[:20])
    with pytest.raises(
        SettingsError, match=r"few\.npy has 20 rows, but there are 25 places: one row is needed for each"
    ):
        run(run_url, folder, str(tmp_path / "few.npy"))
    with pytest.raises(SettingsError, match=r"there is no file that ends in"):
        run(run_url, folder / "nothing*", queries)
    with pytest.raises(SettingsError, match=r"device = 'cuda': the cluster has no GPU|device = 'cuda' needs torch"):
        run(run_url, folder, queries, device="cuda")
    wrong = np.load(queries)
    wrong[7] = 0
    np.save(tmp_path / "zero.npy", wrong)
    with pytest.raises(StageError, match=r"query_vectors: the vector of row 7 is zero, or holds NaN or infinity"):
        run(run_url, folder, str(tmp_path / "zero.npy"))
    np.save(folder / "img_emb/img_emb_2.npy", np.ones((3, COLUMNS), np.float16))
    with pytest.raises(SettingsError, match=r"img_emb_2\.npy has 3 rows and .*metadata_2\.parquet 1,099"):
        run(run_url, folder, queries)
    assert not Path(run_url, "matches").exists() or not list(Path(run_url, "matches").rglob("map-*"))


def test_changed_files_are_another_run(tmp_path, images, queries):
    folder, rows, _ = images

    def content(**options):
        tree = {"path": str(folder), "query_vectors": queries, **options}
        return stage.content(run_settings("r", retrieve={"strategy": "embeddings", "embeddings": tree}))

    before = content()
    assert content(device="cpu", dtype="float32") == before  # costs time, changes nothing
    assert content(deduplicate=False) != before
    np.save(folder / "img_emb/img_emb_1.npy", rows[1:3])
    assert content() != before


def index_folder(folder, rows, tables):
    """What `clip-retrieval index` writes, with an index that misses nothing."""
    faiss = pytest.importorskip("faiss")
    (folder / "metadata").mkdir(parents=True)
    index = faiss.IndexHNSWFlat(rows.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = len(rows)
    index.add(rows)
    faiss.write_index(index, str(folder / "image.index"))
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"metadata/metadata_{number}.parquet")
    return folder


@pytest.mark.parametrize(("deduplicate", "correction"), [(True, "none"), (False, "none"), (True, "csls")])
def test_an_index_folder_is_asked_where_there_are_no_vectors(
    ray_session, tmp_path, run_url, queries, deduplicate, correction, caplog, monkeypatch
):
    rows = clustered(np.random.default_rng(8), 900, COLUMNS, 100)
    urls = metadata(0, 900)["url"].to_pylist()
    urls[3] = None
    meta = metadata(0, 900).set_column(0, "url", pa.array(urls))
    folder = index_folder(tmp_path / "index", rows, [meta.slice(0, 400), meta.slice(400)])
    plain = inference_folder(tmp_path / "inference", [rows])
    pq.write_table(meta, plain / "metadata/metadata_0.parquet")
    monkeypatch.setattr(log, "propagate", True)  # the command, in other tests of this process, has set it otherwise
    options = {"deduplicate": deduplicate, "hub_correction": correction}
    with caplog.at_level("WARNING", "geo_subset"):
        manifest = run(run_url, folder, queries, "6", **options)
    assert "misses some of the nearest images" in caplog.text
    counters, asked = manifest.counters, matches(run_url, manifest).to_pandas()
    exact = matches(run_url, run(run_url, plain, queries, "7", **options)).to_pandas()
    both = asked.merge(exact, on=["place_id", "image_id"])
    assert len(both) > 0.95 * len(exact)
    assert (both["url_x"] == both["url_y"]).all()
    assert np.allclose(both["similarity_x"], both["similarity_y"], atol=1e-5)
    assert 3 not in asked["image_id"].to_list()
    left_out = ("near_duplicate", "same_url", "over_num_images", "without_url")
    assert counters["candidates"] == counters["rows"] + sum(counters.get(f"matches_{name}", 0) for name in left_out)
    assert counters["vectors"] == 900


def test_an_index_and_metadata_that_are_not_of_the_same_images(ray_session, tmp_path, run_url, queries):
    rows = unit(np.random.default_rng(8).standard_normal((50, COLUMNS)))
    folder = index_folder(tmp_path / "index", rows, [metadata(0, 49)])
    with pytest.raises(
        SettingsError, match=r"image\.index has 50 rows and its metadata, .* 49: they must be of the same"
    ):
        run(run_url, folder, queries)


def test_the_places_vectors_may_be_made_after_the_places(ray_session, tmp_path, images, geo_subset_here):
    folder, _, _ = images
    (tmp_path / "places.txt").write_text("Old Mill\nNew Mill\n")
    (tmp_path / "run.toml").write_text(
        f'run = "{tmp_path}/run"\n[places]\nsource = "list"\npath = "places.txt"\n[retrieve]\nstrategy = "embeddings"\n'
        f'num_images = 5\n[retrieve.embeddings]\npath = "{folder}"\nquery_vectors = "later.npy"\n'
    )
    assert geo_subset_here("places", tmp_path / "run.toml")[0] == 0
    status, _, told = geo_subset_here("retrieve", tmp_path / "run.toml")
    assert status == 2
    assert "later.npy': there is no such file" in told
    np.save(tmp_path / "later.npy", unit(np.random.default_rng(0).standard_normal((2, COLUMNS))))
    status, _, told = geo_subset_here("retrieve", tmp_path / "run.toml")
    assert status == 0, told
    assert "rows for 2 of 2 places from 2,000 vectors" in told
    assert geo_subset_here("status", tmp_path / "run.toml")[0] == 0
