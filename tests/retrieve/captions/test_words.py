"""Words and names in captions, against a plain reference."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geo_subset.retrieve.captions import features, folding, trie
from geo_subset.retrieve.captions.plain import split_plain
from geo_subset.retrieve.captions.words import split

_APOSTROPHE = re.compile(rb"&(?:#39|#039|#x27|apos|#8217|#8216|rsquo|lsquo);")
_ENTITY = re.compile(rb"&(?:#[0-9A-Za-z]{1,7}|[0-9A-Za-z]{2,8});")


def words_of(text: bytes) -> list[tuple[str, str]]:
    """The words of a text, each with what it is a possessive of ('' if of nothing), told from the documentation."""
    marked = _ENTITY.sub(b" ", _APOSTROPHE.sub(b"'", text))
    found, word, base = [], "", None

    def end():
        nonlocal word, base
        if word:
            found.append((word, base[:-1] if base is not None and base[:-1] and word == base[:-1] + "s" else ""))
        word, base = "", None

    for character in marked.decode("utf-8", "replace"):
        letters = " " if character == "�" else folding.fold(character)
        if letters == " ":
            end()
        elif letters == "":
            base = word + "'"
        elif any(low <= ord(letters[0]) < high for low, high in folding._ALONE):
            end()
            found.append((letters, ""))
        else:
            word += letters
    end()
    return found


def names_in(words: list[tuple[str, str]], names: set[tuple[str, ...]]) -> list[tuple[int, int]]:
    """Leftmost-longest names, (first word, word after), by trying every length."""
    found, at = [], 0
    plain = [word for word, _ in words]
    while at < len(words):
        best = 0
        for length in range(1, len(words) - at + 1):
            start, last = tuple(plain[at : at + length - 1]), words[at + length - 1]
            if (*start, last[0]) in names or (last[1] and (*start, last[1]) in names):  # or a possessive of one
                best = length
            if not any(name[:length] == (*start, last[0]) for name in names):
                break
        found += [(at, at + best)] if best else []
        at += best or 1
    return found


def scanned(text: bytes, names: list[bytes]) -> tuple[int, list[tuple[int, int]]]:
    folds = folding.table()
    data, ends = trie.buffers(pa.array([text], pa.large_binary()))
    size = len(text) + 2
    space = [np.zeros(size, kind) for kind in (np.uint64, np.uint64, np.int32, np.int32, np.uint8, np.uint8)]
    count = split(data, ends[0], ends[1], folds.entry, folds.more, folds.separator, *space)
    tree, _ = trie.build(*trie.split_texts(pa.array(names, pa.large_binary())))
    found = np.zeros((size, 3), np.int32)
    begin = []
    for word, possible in enumerate(zip(*space[:2], strict=True)):
        alone = any(trie.may_be_name(tree.starts, of) for of in possible if of)
        if word < count and (alone or trie.may_start(tree.starts, possible[0])):
            begin.append((word, alone))
    found[: len(begin), :2] = np.reshape(begin, (-1, 2))
    number = trie.find(tree.firsts, tree.slots, tree.steps, space[0], space[1], count, len(begin), found)
    return count, [(int(first), int(last)) for first, last, _ in found[:number]]


texts = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "St.",
                "Paul",
                "Paul's",
                "paul",
                "'s",
                "s",
                "’",
                "-",
                " ",
                " ",
                "&#39;",
                "&amp;",
                "&",
                ";",
                "ß",
                "SS",
                "Straße",
                "é",
                "é",
                "東京",
                "ニ",
                "กรุงเทพ",
                "İ",
                "ﬁ",
                "a",
                "b",
                "\0",
                "🏔",
                "\u202e",
                "\u200b",
            ]
        ),
        st.text(max_size=3),
    ),
    max_size=12,
).map(lambda parts: "".join(parts).encode("utf-8", "replace"))


@given(st.one_of(texts, st.binary(max_size=20)), st.lists(texts, max_size=6))
@example(b"St. Paul's Cathedral", [b"St Paul"])
@example("a東b".encode(), ["東".encode()])
def test_words_and_names_are_those_of_the_reference(text, names):
    words = words_of(text)
    wanted = {tuple(word for word, _ in words_of(name)) for name in names} - {()}
    assert scanned(text, names) == (len(words), names_in(words, wanted))


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("Coeur d'Alene", "lake at COEUR D’ALENE, Idaho"),
        ("Coeur d'Alene", "Coeur d&#39;Alene"),
        ("Winston-Salem", "winston salem skyline"),
        ("Cañon City", "Canon City"),
        ("Canon City", "Cañon City"),
        ("München", "MÜNCHEN"),
        ("Москва", "вид на МОСКВУ, москва"),
        ("القاهرة", "القاهرة ليلا"),
        ("東京", "夏の東京タワー"),
        ("Straßburg", "STRASSBURG"),
        ("Chicago", "Chicago's skyline"),
        ("St. Paul's", "St Pauls"),
    ],
)
def test_a_name_is_found(name, caption):
    assert len(scanned(caption.encode(), [name.encode()])[1]) == 1


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("Paul", "Pauline"),
        ("York", "Yorkshire"),
        ("กรุงเทพ", "ไปกรุงเทพกัน"),
        ("amp", "salt &amp; pepper"),
        ("Elizabeth", "Elizabeths"),
    ],
)
def test_a_part_of_a_word_is_no_name(name, caption):
    assert scanned(caption.encode(), [name.encode()])[1] == []


def test_folding_is_pythons_own():
    table = folding.table()
    for point in [*range(0x20, 0x250), 0x1E9E, 0xFB01, 0x4E00, 0x1F600, 0x10400]:
        folded, entry = folding.fold(chr(point)), int(table.entry[point])
        if entry > 0 and not entry & folding.MANY:
            assert chr(entry & folding.POINT) == folded
        assert (entry == 0) == (folded == " ")
        assert (entry > 0 and entry & folding.UPPER > 0) == (unicodedata.category(chr(point)) in ("Lu", "Lt"))


_RUNS = st.text("azAZ09@[`{/:_é' ", max_size=40)  # what lies at the bounds of the eight that are read at once


@given(_RUNS, st.lists(_RUNS, max_size=3))
@example("Llanfairpwllgwyngyll", ["LLANFAIRPWLLGWYNGYLL"])
@example("abcdefgh abcdefghi a", ["abcdefgh", "abcdefghi"])
def test_words_of_any_length_are_those_of_the_reference(text, names):
    encoded = [name.encode() for name in [*names, *text.swapcase().split()]]
    words = words_of(text.encode())
    wanted = {tuple(word for word, _ in words_of(name)) for name in encoded} - {()}
    assert scanned(text.encode(), encoded) == (len(words), names_in(words, wanted))


def test_a_possessive_is_found_whatever_else_begins_with_it():
    names = [b"Boston", b"Boston's Best", b"Boston's Best Cakes"]
    for text, last in ((b"Boston's harbor", 1), (b"Boston's", 1), (b"Boston's best", 2), (b"Boston's best cake", 2)):
        assert scanned(text, names)[1] == [(0, last)]


_PLAIN = st.text(st.sampled_from("azAZ09@[`{/:_ ,.;()-\0\n"), max_size=40)


@given(
    st.lists(
        st.one_of(
            _PLAIN,
            st.text("abC", min_size=30, max_size=80),
            st.sampled_from(["'", "`", "'s ", "&", "&#39;", "&amp;", "é"]),
        ),
        max_size=8,
    ),
    st.integers(0, 70),
    st.integers(0, 70),
)
@example(["a" * 63, " B"], 0, 64)
@example(["The ", "Joneses' dog's 'tis ' St. Paul's`s'"], 0, 128)
@example(["A" * 62, "'s & b&c; "], 0, 128)
@example(["A" * 64, "b"], 0, 128)
@example([" " * 64, "B"], 3, 64)
def test_plain_text_is_split_as_any_other(parts, ahead, behind):
    text = "".join(parts).encode()
    start, stop = ahead, ahead + len(text)
    data = np.frombuffer(b"x" * ahead + text + b"y" * behind, np.uint8)
    folds, scratch = folding.table(), features.scratch()
    kept = (scratch.hashes, scratch.bases, scratch.begins, scratch.ends, scratch.flags, scratch.before)
    plain = text.isascii() and not re.search(rb"&(#[a-zA-Z0-9]{1,7}|[a-zA-Z0-9]{2,8});", text)
    fits = start + -(-len(text) // 64) * 64 <= data.size
    names, _ = trie.build(*trie.split_texts(pa.array(["Boston"])))
    count = split_plain(data, start, stop, folds.separator, names.starts, names.steps, scratch)
    found = [array.copy() for array in kept]
    if not (plain and fits):
        assert count == -1
        return
    assert count == split(data, start, stop, folds.entry, folds.more, folds.separator, *kept)
    for column, wanted in zip(found[:-1], kept[:-1], strict=True):
        assert column[:count].tolist() == wanted[:count].tolist()
    assert found[-1][: count + 1].tolist() == kept[-1][: count + 1].tolist()
