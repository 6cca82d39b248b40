"""Text vectors, exact search, and removal of duplicates, against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geo_subset.demo import features, search

_CAPTIONS = [f"{thing} in {city}, {state}" for thing in ("Skyline", "City hall", "Zoo", "Diner")
             for city, state in (("Austin", "Texas"), ("Boston", "Massachusetts"), ("Aurora", "Illinois"),
                                 ("Aurora", "Colorado"), ("Nashville", "Tennessee"))]  # fmt: skip


@pytest.fixture(scope="module")
def index() -> search.Index:
    looks = np.arange(len(_CAPTIONS))
    looks[7] = 2
    return search.build(_CAPTIONS, looks)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=8))
def test_vectors_have_length_one_whatever_the_text_and_its_neighbours(texts: list[str]) -> None:
    weights = features.learn(texts)
    vectors = features.embed(weights, texts)
    lengths = np.linalg.norm(vectors, axis=1)
    for text, vector, length in zip(texts, vectors, lengths, strict=True):
        assert np.isclose(length, 1.0, atol=1e-5) if features.words(text) else length == 0
        assert np.allclose(features.embed(weights, [text])[0], vector, atol=1e-6)


def test_spelling_and_case_matter_little_and_rare_words_much() -> None:
    weights = features.learn(_CAPTIONS)
    query, same, near, far = features.embed(
        weights, ["Nashville, Tennessee", "NASHVÍLLE tennessee", "Nashvile, Tennessee", "in the zoo"]
    )
    assert query @ same > 0.999
    assert 0.999 > query @ near > 0.4 > 0.1 > query @ far


@settings(max_examples=25, deadline=None)
@given(text=st.sampled_from([*_CAPTIONS, "aurora", "zoo", " "]), count=st.integers(1, 30))
def test_search_equals_brute_force(index: search.Index, text: str, count: int) -> None:
    query = search.text_vector(index, text)
    ids, scores = search.nearest(index, query, count)
    all_scores = query @ index.vectors
    assert len(ids) == min(count, len(_CAPTIONS))
    assert np.allclose(scores, all_scores[ids], atol=1e-6)
    assert np.allclose(scores, np.sort(all_scores)[::-1][:count], atol=1e-6)
    assert len(set(ids.tolist())) == len(ids)


def test_the_right_city_comes_first_of_its_namesakes(index: search.Index) -> None:
    ids, _ = search.nearest(index, search.text_vector(index, "Aurora, Colorado"), 4)
    assert all(_CAPTIONS[number].endswith("Aurora, Colorado") for number in ids)


def test_only_near_duplicates_go_and_the_first_of_them_stays(index: search.Index) -> None:
    ids = np.array([5, 7, 2, 9])
    assert search.without_duplicates(index, ids).tolist() == [True, True, False, True]
    assert search.without_duplicates(index, ids[[2, 1]]).tolist() == [True, False]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 2 * np.pi), min_size=1, max_size=25))
def test_chains_of_duplicates_leave_one(angles: list[float]) -> None:
    vectors = np.array([np.cos(angles), np.sin(angles)], np.float32)
    index = search.Index(features.learn([]), vectors)
    near = vectors.T @ vectors > search.DUPLICATE
    group = list(range(len(angles)))
    for i in range(len(angles)):
        for j in range(len(angles)):
            if near[i, j]:
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if g == old else g for g in group]
    kept = search.without_duplicates(index, np.arange(len(angles)))
    assert kept.tolist() == [g == i for i, g in enumerate(group)]
