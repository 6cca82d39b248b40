"""The clip service's protocol: by hand, and against recorded answers of the real server where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geo_subset.demo import search, service, synthetic
from geo_subset.demo.features import DIMENSIONS

_CAPTURES = Path(__file__).parents[3] / "shared" / "clip-retrieval" / "captures"
_ROW = {"url", "caption", "NSFW", "id", "similarity"}
# Requests for what this service has too: one index of images, text queries.
_COMPARABLE = (
    "aesthetic_99 aesthetic_null aesthetic_string body_empty body_json_list body_json_string body_minimal "
    "body_not_json field_missing_aesthetic field_missing_modality field_missing_num_images "
    "field_missing_num_result_ids image_bad_base64 image_url_unreachable indice_field_missing indice_null "
    "indice_unknown modality_bogus modality_text_absent num_0 num_float num_neg num_string "
    "num_images_gt_result_ids num_images_lt_result_ids n100_dedup n100_nodedup safety_false text_all_missing "
    "text_blank text_empty text_list text_long_300_words text_normal text_number text_unicode use_mclip_true "
    "POST_metadata_minus1 POST_metadata_outofrange"
)


@pytest.fixture(scope="module")
def catalog() -> service.Catalog:
    rows = synthetic.content(30, 600, 21390).index.to_pydict()
    metadata = [
        {"url": url, "caption": caption, "NSFW": rating}
        for url, caption, rating in zip(rows["url"], rows["caption"], rows["nsfw"], strict=True)
    ]
    return service.Catalog(search.build(rows["caption"], np.array(rows["look"])), metadata)


def _ask(catalog: service.Catalog, **fields: Any) -> tuple[int, Any]:
    request = {"text": "Houston, Texas", "modality": "image", "num_images": 40, "indice_name": None, **fields}
    answer = service.knn(catalog, json.dumps(request).encode())
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize("case", _COMPARABLE.split(" "))
def test_answers_are_those_of_the_real_server(catalog: service.Catalog, case: str) -> None:
    if not _CAPTURES.exists():
        pytest.skip(f"{_CAPTURES} is not there")
    recorded = json.loads((_CAPTURES / f"{case}.json").read_text())
    body = recorded["request"]["body"].replace('"flat"', f'"{service.INDEX_NAME}"').encode()
    answer = (service.metadata if "metadata" in case else service.knn)(catalog, body)
    assert answer.status == recorded["status"]
    ours = json.loads(answer.body)
    if recorded["status"] != 200:
        assert ours == json.loads(recorded["body_raw"])
        return
    theirs = recorded["key_sets"]
    assert {",".join(sorted(row)) for row in ours} == {",".join(sorted(keys.split(","))) for keys in theirs}
    wanted = json.loads(body).get("num_result_ids", json.loads(body)["num_images"])
    assert 0 < len(ours) <= wanted
    similarities = [row["similarity"] for row in ours]
    assert similarities == sorted(similarities, reverse=True)


def test_metadata_is_that_of_the_real_server(catalog: service.Catalog) -> None:
    answer = service.metadata(catalog, b'{"ids": [3, 0], "indice_name": "demo"}')
    assert answer.status == 200
    assert json.loads(answer.body) == [{"id": number, "metadata": catalog.metadata[number]} for number in (3, 0)]
    for body in (b'{"ids": [-1], "indice_name": "demo"}', b'{"ids": [0]}', b'{"indice_name": "demo"}', b"[]"):
        assert service.metadata(catalog, body).status == 500
    assert service.metadata(catalog, b"ids").status == 400


def test_rows_past_num_images_hold_only_id_and_similarity(catalog: service.Catalog) -> None:
    status, rows = _ask(catalog, num_images=5, num_result_ids=40)
    assert status == 200
    assert [set(row) for row in rows] == [_ROW] * 5 + [{"id", "similarity"}] * 35
    assert len(_ask(catalog, num_images=40, num_result_ids=5)[1]) == 5


def test_duplicates_are_removed_after_the_search_and_not_refilled(catalog: service.Catalog) -> None:
    _, everything = _ask(catalog, num_images=10_000)
    _, kept = _ask(catalog, num_images=10_000, deduplicate=True)
    assert len(everything) == len(catalog.metadata)
    assert 0.8 * len(everything) < len(kept) < len(everything)
    assert [row for row in everything if row in kept] == kept


def test_embeddings_are_searched_for_as_they_are(catalog: service.Catalog) -> None:
    vector = catalog.index.vectors[:, 17].tolist()
    for factor in (1, 10):
        status, rows = _ask(catalog, text=None, embedding_input=[factor * value for value in vector])
        assert status == 200
        assert rows[0]["id"] == 17
        assert rows[0]["similarity"] == pytest.approx(factor, abs=1e-3)
    assert _ask(catalog, text=None, embedding_input=[float("nan")] * DIMENSIONS) == (200, [])
    assert _ask(catalog, embedding_input=vector) == _ask(catalog)  # a text goes first
    for bad in ([vector], vector[:-1], [str(value) for value in vector], "x", {}):
        assert _ask(catalog, text=None, embedding_input=bad) == (500, {"message": "Internal Server Error"})


def test_a_text_of_a_megabyte_is_answered(catalog: service.Catalog) -> None:
    assert _ask(catalog, text="x y " * 250_000)[0] == 200
