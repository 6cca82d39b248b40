"""Hub images: ranked as CSLS says, the same wherever, and no longer the best of every place."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricate import places as write_places
from fabricate import run_settings
from images import inference_folder, unit

from geo_subset.retrieve import stage
from geo_subset.retrieve.embeddings import choice, hubs, passes, plan, search, sources, vectors, workload
from geo_subset.retrieve.embeddings.passes import Job
from geo_subset.runfolder import StageFolder

PLACES, ROWS, COLUMNS, WANTED = 23, 1500, 48, 20


@pytest.fixture
def given(tmp_path):
    """Places, images around them, and ten images, rows 0 to 9, near the mean of all places."""
    rng = np.random.default_rng(5)
    places = unit(rng.standard_normal((PLACES, COLUMNS)) + 1.5 * rng.standard_normal(COLUMNS))
    images = places[rng.integers(PLACES, size=ROWS)] + 0.15 * rng.standard_normal((ROWS, COLUMNS))
    images[:10] = unit(places.mean(0, keepdims=True)) + 0.02 * rng.standard_normal((10, COLUMNS))
    images = unit(images).astype(np.float16)
    images[600] *= 3  # normalised before it is compared with anything
    folder = inference_folder(tmp_path / "inference", np.split(images, [700, 703]))
    np.save(tmp_path / "queries.npy", places)
    run_url = str(tmp_path / "run")
    write_places(run_url, [{"place_id": f"list:{n}", "name": f"P{n}", "queries": [f"P{n}"]} for n in range(PLACES)])
    return run_url, folder, places, images


def run(run_url, folder, digit="d", workers=2, **embeddings):
    options = {"path": str(folder), "query_vectors": str(Path(run_url).parent / "queries.npy"), **embeddings}
    retrieve = {"strategy": "embeddings", "num_images": WANTED, "embeddings": options}
    settings = run_settings(run_url, retrieve=retrieve, cluster={"workers": workers})
    stage.check(settings)
    manifest = stage.run(settings, StageFolder(run_url, "retrieve", digit * 64))
    return manifest, pa.concat_tables([pq.read_table(Path(run_url, "matches", path)) for path in manifest.paths()])


def by_the_formula(places, images):
    """Cosines, rows by 2 cos - r among the best 2 x WANTED of each place (equal ones by row number), and all of these
    candidates."""
    prepared = vectors.prepare(images).vectors[:, :COLUMNS].astype(np.float64)
    cosine = (vectors.prepare(places).vectors[:, :COLUMNS].astype(np.float64) @ prepared.T).astype(np.float32)
    crowding = np.sort(cosine, axis=0)[::-1][:10].astype(np.float64).sum(0) / 10
    rows = np.arange(len(images))
    order, wanted = [], set()
    for line in cosine:
        candidates = np.lexsort((rows, -line))[: 2 * WANTED]
        wanted.update(candidates.tolist())
        score = 2 * line[candidates].astype(np.float64) - crowding[candidates].astype(np.float32)
        order.append(candidates[np.lexsort((candidates, -score))][:WANTED])
    return cosine, np.array(order), wanted


def test_ranks_are_those_of_the_formula(ray_session, given):
    run_url, folder, places, images = given
    manifest, table = run(run_url, folder, deduplicate=False, hub_correction="csls")
    cosine, order, wanted = by_the_formula(places, images)
    assert np.array(table["image_id"]).reshape(PLACES, WANTED).tolist() == order.tolist()
    assert table["rank"].to_pylist() == list(range(WANTED)) * PLACES
    similarity = np.array(table["similarity"]).reshape(PLACES, WANTED)
    assert similarity.tolist() == np.take_along_axis(cosine, order, 1).tolist()  # the cosine, as without correction
    counters = manifest.counters
    left_out = counters["candidates_of_other_units"] + counters["matches_over_num_images"]
    assert counters["candidates"] == counters["rows"] + left_out
    assert counters["rows"] == PLACES * WANTED
    assert counters["images_corrected"] == len(wanted)
    assert counters["operations"] == 2 * PLACES * (ROWS + len(wanted)) * COLUMNS


def test_hubs_give_way(ray_session, given):
    run_url, folder, _, _ = given
    shares = []
    for digit, correction in (("1", "none"), ("2", "csls")):
        _, table = run(run_url, folder, digit, deduplicate=False, hub_correction=correction)
        found = table.to_pandas()
        shares.append((found["image_id"] < 10).sum())
    assert shares[0] > 5 * PLACES
    assert shares[1] < shares[0] / 5


def test_neither_workers_nor_the_plan_nor_the_product_change_a_byte(ray_session, given, monkeypatch):
    run_url, folder, _, _ = given
    _, whole = run(run_url, folder, "1", workers=1, hub_correction="csls")
    monkeypatch.setattr(plan, "UNIT_ROWS", (1 << 8, 1 << 8))
    monkeypatch.setattr(plan, "GROUP_BYTES", 7 * plan.place_bytes(80, COLUMNS))
    monkeypatch.setattr(plan, "PARTITION_BYTES", 8 * 80 * plan.CANDIDATE_BYTES)
    monkeypatch.setattr(plan, "block_rows", lambda columns: 100)
    monkeypatch.setattr(plan, "ENCODE_PLACES", 7)
    manifest, table = run(run_url, folder, "2", workers=2, hub_correction="csls")
    assert len(manifest.files) > 2
    assert table.equals(whole)
    pytest.importorskip("torch")
    again, _ = run(run_url, folder, "3", workers=1, hub_correction="csls", dtype="bfloat16")
    assert [entry.sha256 for entry in again.files] == [entry.sha256 for entry in manifest.files]


def test_with_fewer_places_than_neighbours_all_of_them_count():
    rng = np.random.default_rng(1)
    places, images = (vectors.prepare(unit(rng.standard_normal((count, 32)))) for count in (3, 50))
    found = search.nearest(images.vectors, [search.Block(0, places.vectors, places.usable)], 3)
    mean = (images.vectors.astype(np.float64) @ places.vectors.astype(np.float64).T).mean(1)
    assert np.allclose(hubs.crowding(found), mean, atol=1e-6)
    one = search.nearest(images.vectors, [search.Block(0, places.vectors, places.usable)], 10)
    assert hubs.crowding(one).tolist() == hubs.crowding(found).tolist()


def test_it_is_another_run(given):
    run_url, folder, _, _ = given

    def content(correction):
        options = {"path": str(folder), "query_vectors": str(folder.parent / "queries.npy")}
        retrieve = {"strategy": "embeddings", "embeddings": {**options, "hub_correction": correction}}
        return stage.content(run_settings(run_url, retrieve=retrieve))

    assert content("csls") != content("none")


@pytest.mark.parametrize("correction", ["csls", "none"])
def test_a_look_up_holds_no_more_than_is_planned(tmp_path, correction, monkeypatch):
    """What numpy holds at a time is measured; texts, which Arrow holds, are few here."""
    rows, columns, places, number = 20_000, 256, 200, 250
    rng = np.random.default_rng(2)
    held = unit(rng.standard_normal((rows, columns))).astype(np.float16)
    folder = inference_folder(tmp_path / "i", np.split(held, [9000, 9100]))
    np.save(tmp_path / "q.npy", unit(rng.standard_normal((places, columns))))
    run_url = str(tmp_path / "run")
    write_places(run_url, [{"place_id": f"list:{n}", "name": "P", "queries": ["P"]} for n in range(places)])
    options = {"path": str(folder), "query_vectors": str(tmp_path / "q.npy"), "hub_correction": correction}
    retrieve = {"strategy": "embeddings", "num_images": number, "embeddings": options}
    embeddings = run_settings(run_url, retrieve=retrieve).retrieve.embeddings
    found = sources.describe_all(sources.discover([str(folder)]), columns)
    job = Job(
        StageFolder(run_url, "retrieve", "d" * 64), embeddings, choice.Choice("cpu", "float32", ""), number, places,
        columns, partitions=2, units=1, rows=rows, chunk=places, range_rows=rows, block_rows=10_000, half=True,
    )  # fmt: skip
    for each in ("texts", "scan", "best", "rows"):
        job.beside(each).start(1)
    passes.encode(0, job)
    passes.find(plan.units([part.rows for part in found], places, job.k, columns)[0], job, found)
    for partition in range(2):
        passes.rank(partition, job)
    tracemalloc.start()
    passes.look_up(0, job, found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    monkeypatch.setattr(plan, "BLOCK_BYTES", 1 << 20)  # so that looking up takes more than searching
    planned = workload.of(embeddings, number, places).memory
    assert peak < planned < 3 * peak
