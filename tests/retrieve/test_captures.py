"""Every answer that was captured from real clip-retrieval servers, and what our client makes of it."""

from __future__ import annotations

import asyncio

import pytest
from retrieve import captures

from geo_subset.retrieve import backends

pytestmark = pytest.mark.skipif(
    not captures.FOLDER.is_dir(), reason="needs the captures of real servers: ../shared/clip-retrieval/captures"
)

CUT = "answer cut off, passing"
#: Case: whether we would send such a request, what we make of its answer, and of a connection that ends early where
#: the answer's body was kept cut. Of those only the rows that are complete in what was kept can come.
EXPECTED: dict[str, tuple[str, ...]] = {
    "GET_config.json": ("never: nothing that we ask for", "not a list, final"),
    "GET_indices-list": ("sent", "10 indices"),
    "GET_knn-service": ("never: nothing that we ask for", "http 404, final"),
    "GET_metrics-summary": ("never: nothing that we ask for", "broken json, passing"),
    "GET_metrics": ("never: nothing that we ask for", "broken json, passing", CUT),
    "GET_metrics_slash": ("never: nothing that we ask for", "broken json, passing", CUT),
    "GET_nope": ("never: nothing that we ask for", "http 404, final"),
    "GET_root": ("never: nothing that we ask for", "html page, passing"),
    "HEAD_knn": ("never: nothing that we ask for", "http 404, final"),
    "OPTIONS_knn": ("never: nothing that we ask for", "empty answer, passing"),
    "POST_metadata": ("sent, if a row has such an id", "3 rows; rows_received 3; rows_from_metadata 3"),
    "POST_metadata_minus1": ("never: no negative id is asked for", "http 500, passing"),
    "POST_metadata_outofrange": ("sent, if a row has such an id", "http 500, passing"),
    "aesthetic_99": ("refused: retrieve.clip-service.aesthetic_score = 99", "34 rows; rows_received 34", CUT),
    "aesthetic_null": ("refused: retrieve.clip-service.aesthetic_score = None", "http 500, passing"),
    "aesthetic_string": ("refused: retrieve.clip-service.aesthetic_score = 'x'", "http 500, passing"),
    "body_empty": ("never: we send an object of fourteen fields", "http 400, final"),
    "body_json_list": ("never: we send an object of fourteen fields", "http 500, passing"),
    "body_json_string": ("never: we send an object of fourteen fields", "http 500, passing"),
    "body_minimal": (
        "never: other fields, 10 of them",
        "5 rows; rows_received 5",
    ),
    "body_not_json": ("never: we send an object of fourteen fields", "http 400, final"),
    "client_aesthetic_blank": ("refused: retrieve.clip-service.aesthetic_score = ''", "2 rows; rows_received 2", CUT),
    "client_aesthetic_none": ("refused: retrieve.clip-service.aesthetic_score = None", "http 500, passing"),
    "client_base_url": ("never: nothing that we ask for", "http 405, final"),
    "client_embedding_list": ("never: other embedding_input", "2 rows; rows_received 2", CUT),
    "client_embedding_numpy": ("never: ClipClient sends nothing either", "nothing was sent"),
    "client_empty_text": ("never: ClipClient sends nothing either", "nothing was sent"),
    "client_modality_text_absent": ("refused at the start: modality", "http 500, passing"),
    "client_n1000": ("sent", "2 rows; rows_received 2", CUT),
    "client_nan": ("sent", "2 rows; rows_received 2", CUT),
    "client_nodedup": ("sent", "2 rows; rows_received 2", CUT),
    "client_normal": ("sent", "2 rows; rows_received 2", CUT),
    "client_num0": ("refused: retrieve.num_images = 0", "http 500, passing"),
    "client_refused": ("refused at the start: no clip-retrieval backend answers", "no connection, passing"),
    "client_short_meta": ("refused at the start: metadata", "http 500, passing"),
    "client_text_and_image": ("never: ClipClient sends nothing either", "nothing was sent"),
    "client_unknown_index": ("refused at the start: indice_name", "http 500, passing"),
    "client_wrong_path_404": ("never: nothing that we ask for", "http 405, final"),
    "embedding_nan": ("never: other embedding_input", "0 rows"),
    "embedding_nested_list": ("never: other embedding_input", "http 500, passing"),
    "embedding_not_normalised_x10": ("never: other embedding_input", "37 rows; rows_received 37"),
    "embedding_plain_list": ("never: other embedding_input", "37 rows; rows_received 37", CUT),
    "embedding_strings": ("never: other embedding_input", "http 500, passing"),
    "embedding_wrong_dim": ("never: other embedding_input", "http 500, passing"),
    "field_missing_aesthetic": ("never: other aesthetic_score, aesthetic_weight", "34 rows; rows_received 34", CUT),
    "field_missing_modality": ("never: other modality", "http 500, passing"),
    "field_missing_num_images": ("never: other num_images", "http 500, passing"),
    "field_missing_num_result_ids": ("never: other num_result_ids", "34 rows; rows_received 34", CUT),
    "gzip_accept": ("sent", "34 rows; rows_received 34", CUT),
    "image_bad_base64": ("never: other image", "http 500, passing"),
    "image_url_unreachable": ("never: other image_url", "http 500, passing"),
    "indice_field_missing": ("never: other indice_name", "http 500, passing"),
    "indice_null": ("refused at the start: indice_name", "34 rows; rows_received 34", CUT),
    "indice_unknown": ("refused at the start: indice_name", "http 500, passing"),
    "ivf_ids_minus1": ("sent", "34 rows; rows_received 34", CUT),
    "ivf_n1000_dedup": ("sent", "34 rows; rows_received 34", CUT),
    "meta_nan_and_null": ("sent", "26 rows; rows_received 31; rows_url_null 5", CUT),
    "meta_no_url_column": ("refused at the start: URLs", "0 rows; rows_received 36; rows_url_missing 36"),
    "meta_shorter_than_index": ("refused at the start: metadata", "http 500, passing"),
    "modality_bogus": ("refused: retrieve.clip-service.modality = 'video'", "http 500, passing"),
    "modality_bogus_small": ("refused: retrieve.clip-service.modality = 'video'", "35 rows; rows_received 35", CUT),
    "modality_text_absent": ("refused at the start: modality", "http 500, passing"),
    "modality_text_present": ("sent", "35 rows; rows_received 35", CUT),
    "n1000_dedup": ("sent", "34 rows; rows_received 34", CUT),
    "n1000_nodedup": ("sent", "34 rows; rows_received 34", CUT),
    "n100_dedup": ("sent", "34 rows; rows_received 34", CUT),
    "n100_nodedup": ("sent", "34 rows; rows_received 34", CUT),
    "num_0": ("refused: retrieve.num_images = 0", "http 500, passing"),
    "num_3000_hnsw_nodedup": ("sent", "34 rows; rows_received 34", CUT),
    "num_float": ("refused: retrieve.num_images = 10.5", "http 500, passing"),
    "num_gt_index_flat_20k_nodedup": ("sent", "34 rows; rows_received 34", CUT),
    "num_gt_index_small": ("sent", "35 rows; rows_received 35", CUT),
    "num_gt_index_small_nodedup": ("sent", "35 rows; rows_received 35", CUT),
    "num_images_gt_result_ids": ("never: other num_result_ids", "5 rows; rows_received 5"),
    "num_images_lt_result_ids": ("never: other num_result_ids", "5 rows; rows_received 38; rows_url_missing 33"),
    "num_neg": ("refused: retrieve.num_images = -1", "http 500, passing"),
    "num_string": ("refused: retrieve.num_images = '10'", "http 500, passing"),
    "provider_arrow": ("sent", "34 rows; rows_received 34", CUT),
    "provider_arrow_n1000": ("sent", "34 rows; rows_received 34", CUT),
    "provider_hdf5": ("sent", "34 rows; rows_received 34", CUT),
    "provider_hdf5_n1000": ("sent", "34 rows; rows_received 34", CUT),
    "safety_false": ("sent", "34 rows; rows_received 34", CUT),
    "text_1MB": ("sent, but for white space", "35 rows; rows_received 35", CUT),
    "text_all_missing": ("refused: the place list holds no place name", "http 500, passing"),
    "text_and_embedding": ("never: other embedding_input", "34 rows; rows_received 34", CUT),
    "text_blank": ("refused: the place list holds no place name", "38 rows; rows_received 38", CUT),
    "text_empty": ("refused: the place list holds no place name", "http 500, passing"),
    "text_list": ("refused: the place list holds no place name", "http 500, passing"),
    "text_long_300_words": ("sent", "36 rows; rows_received 36", CUT),
    "text_normal": ("sent", "34 rows; rows_received 34", CUT),
    "text_normal_main_hnsw": ("sent", "34 rows; rows_received 34", CUT),
    "text_number": ("refused: the place list holds no place name", "http 500, passing"),
    "text_unicode": ("refused: the place list is not valid JSON in UTF-8", "33 rows; rows_received 33", CUT),
    "use_mclip_true": ("refused at the start: use_mclip", "http 500, passing"),
}


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "_WAIT", 0.001)
        return asyncio.run(captures.table())


def test_no_capture_is_left_out(found):
    assert sorted(found) == sorted(EXPECTED)
    assert len(found) == 94


@pytest.mark.parametrize("case", EXPECTED)
def test_what_is_made_of_an_answer(case, found):
    assert found[case] == EXPECTED[case]


def test_first_rows_are_those_that_others_read():
    compared = 0
    for capture in map(captures.load, sorted(captures.FOLDER.glob("*.json"))):
        if not capture.first or "url" not in capture.first[0]:
            continue
        rows = asyncio.run(captures.made_of(capture)).rows
        mine = zip(rows.url, rows.caption, rows.image_id, rows.similarity, rows.source["nsfw"], strict=True)
        keys = ("url", "caption", "id", "similarity", "NSFW")
        assert list(mine)[: len(capture.first)] == [tuple(row[key] for key in keys) for row in capture.first]
        compared += 1
    assert compared == 41
