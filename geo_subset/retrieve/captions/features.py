"""What is told of a candidate (FEATURES), and the arrays that compiled functions work on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from geo_subset.retrieve.captions import folding

if TYPE_CHECKING:
    from geo_subset.retrieve.captions.names import Names

#: Where the place's own region (state) is named: right after the name; next of all regions, at most four words on;
#: further on, or before; and whether another name that the table has ('claimed') or has not ('unknown') goes with it.
#: Else: another region is named right after the name, or next, at most four words on; other regions are named; none
#: is. Exactly one is 1.
RELATIONS = (
    "own_adjacent", "own_next", "own_after", "own_after_claimed", "own_after_unknown", "own_adjacent_before",
    "own_before", "own_before_claimed", "own_before_unknown", "other_adjacent", "other_next", "other_named",
    "none_named",
)  # fmt: skip
#: What holds of a mention whichever place is meant: 0 or 1 each, together the bits of a uint64.
SHARED = (
    # the name itself
    "lower_case", "caption_without_case", "title_case", "all_capital", "english_word", "english_word_lower",
    "region_name", "region_name_after", "person_name", "brand_name", "several_words",
    # after it
    "next_within", "next_nature", "next_street", "next_body", "next_other_kind", "next_capital", "next_hyphen",
    "start_next_lower", "start_next_capital", "start_english_word", "region_then_end", "region_then_stop",
    "region_then_comma", "listed", "next_end", "next_comma", "next_stop", "next_open", "near_after",
    # before it
    "previous_none", "previous_stop", "previous_comma", "previous_in", "previous_from", "previous_of",
    "previous_near", "previous_title", "previous_given", "previous_side", "previous_capital", "previous_initial",
    "previous_hyphen",
    # in the caption
    "goods", "goods_after_start", "between", "late", "unknown_before", "unknown_after",
)  # fmt: skip
FEATURES = (
    *SHARED,
    *RELATIONS,
    "country_named", "other_country_adjacent", "other_country_named",
    # log10 of people (0 if unknown), of the share among all so called, of how much larger a city elsewhere is, of how
    # many are so called: where the own region is named, and where it is not
    "people_own", "people_none", "people_unknown", "start_none", "end_none", "share_own", "share_none",
    "outside_own", "outside_none", "crowd_own", "crowd_none", "fame_own", "fame_none", "fame_unknown",
    "english_word_none", "region_name_own", "person_name_none",
    # the caption's other names: their number, and whether one has its region beside it
    "other_names", "first_adjacent", "later_adjacent", "adjacent_elsewhere",
)  # fmt: skip
WIDTH = len(FEATURES)
#: Candidates of a caption, mentions of a caption that are weighed, places per name, regions named: at most.
MOST_CANDIDATES, MOST_MENTIONS, MOST_PLACES, MOST_REGIONS = 512, 64, 24, 32
#: Bytes of a caption that are read.
MOST_BYTES = 1 << 16
#: Features of a candidate besides those of its mention, at most.
SPARSE = 24
NO_CLAIM, UNKNOWN_CLAIM = -1, -2


class Tables(NamedTuple):
    """`Names` and the folding tables as compiled functions take them."""

    entry: npt.NDArray[np.int32]
    more: npt.NDArray[np.int32]
    separator: npt.NDArray[np.uint8]
    firsts: npt.NDArray[np.uint64]
    slots: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.uint64]
    steps: npt.NDArray[np.uint64]
    about: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    by_region: npt.NDArray[np.int32]
    facts: npt.NDArray[np.float32]
    region_firsts: npt.NDArray[np.uint64]
    region_slots: npt.NDArray[np.uint64]
    region_starts: npt.NDArray[np.uint64]
    region_lower_starts: npt.NDArray[np.uint64]
    region_steps: npt.NDArray[np.uint64]
    meaning: npt.NDArray[np.int32]
    nation: npt.NDArray[np.int32]
    written: npt.NDArray[np.int8]
    cue_firsts: npt.NDArray[np.uint64]
    cue_starts: npt.NDArray[np.uint64]
    classes: npt.NDArray[np.int32]


class Scratch(NamedTuple):
    """Working space of one thread."""

    hashes: npt.NDArray[np.uint64]
    bases: npt.NDArray[np.uint64]
    begins: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]
    before: npt.NDArray[np.uint8]
    folded: npt.NDArray[np.uint8]
    upper: npt.NDArray[np.uint64]
    lower: npt.NDArray[np.uint64]
    quotes: npt.NDArray[np.uint64]
    edges: npt.NDArray[np.int32]
    """Of `plain`: a caption in lower case, its letters of either case and apostrophes as bits, and where words begin
    and end."""
    classes: npt.NDArray[np.int32]
    found: npt.NDArray[np.int32]
    named: npt.NDArray[np.int32]
    claims: npt.NDArray[np.int32]
    mention: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]
    level: npt.NDArray[np.int8]
    relation: npt.NDArray[np.int8]
    score: npt.NDArray[np.float32]
    """Of candidates: the mention's number, the place's, its level, the relation (a feature), and the score."""
    fate: npt.NDArray[np.int8]
    """Of mentions: evidence.OPEN, INSIDE or HOPELESS."""
    shared: npt.NDArray[np.uint64]
    """What holds of a mention whichever place is meant: bit f is feature f (SHARED)."""
    base_level: npt.NDArray[np.int8]
    base_score: npt.NDArray[np.float32]
    """The score of that at a level."""
    extras: npt.NDArray[np.int32]
    extra: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]
    """(candidates, SPARSE): the features besides, their numbers and values; `extras` of them."""


def tables(names: Names) -> Tables:
    folds = folding.table()
    trie, regions, cues = names.trie, names.regions, names.cues
    return Tables(
        folds.entry, folds.more, folds.separator, trie.firsts, trie.slots, trie.starts, trie.steps, names.about,
        names.places, names.by_region, names.facts, regions.firsts, regions.slots, regions.starts,
        names.region_lower_starts, regions.steps, names.meaning, names.nation, names.written, cues.firsts, cues.starts,
        names.classes,
    )  # fmt: skip


def scratch() -> Scratch:
    words, most = MOST_BYTES + 2, MOST_CANDIDATES
    return Scratch(
        hashes=np.empty(words, np.uint64), bases=np.empty(words, np.uint64), begins=np.empty(words, np.int32),
        ends=np.empty(words, np.int32), flags=np.empty(words, np.uint8), before=np.empty(words, np.uint8),
        folded=np.zeros(words + 128, np.uint8), upper=np.empty(words // 64 + 1, np.uint64),
        lower=np.empty(words // 64 + 1, np.uint64), quotes=np.empty(words // 64 + 1, np.uint64),
        edges=np.empty(words, np.int32),
        classes=np.empty(words, np.int32), found=np.empty((words, 3), np.int32), named=np.empty((words, 3), np.int32),
        claims=np.empty(words, np.int32), mention=np.empty(most, np.int32), place=np.empty(most, np.int32),
        level=np.empty(most, np.int8), relation=np.empty(most, np.int8), score=np.empty(most, np.float32),
        fate=np.empty(MOST_MENTIONS, np.int8), shared=np.zeros(MOST_MENTIONS, np.uint64),
        base_level=np.empty(MOST_MENTIONS, np.int8), base_score=np.empty(MOST_MENTIONS, np.float32),
        extras=np.zeros(most, np.int32), extra=np.zeros((most, SPARSE), np.int32),
        value=np.zeros((most, SPARSE), np.float32),
    )  # fmt: skip


(
    LOWER_CASE, CAPTION_WITHOUT_CASE, TITLE_CASE, ALL_CAPITAL, ENGLISH_WORD, ENGLISH_WORD_LOWER, REGION_NAME,
    REGION_NAME_AFTER, PERSON_NAME, BRAND_NAME, SEVERAL_WORDS, NEXT_WITHIN, NEXT_NATURE, NEXT_STREET, NEXT_BODY,
    NEXT_OTHER_KIND, NEXT_CAPITAL, NEXT_HYPHEN, START_NEXT_LOWER, START_NEXT_CAPITAL, START_ENGLISH_WORD,
    REGION_THEN_END, REGION_THEN_STOP, REGION_THEN_COMMA, LISTED, NEXT_END, NEXT_COMMA, NEXT_STOP, NEXT_OPEN,
    NEAR_AFTER, PREVIOUS_NONE, PREVIOUS_STOP, PREVIOUS_COMMA, PREVIOUS_IN, PREVIOUS_FROM, PREVIOUS_OF,
    PREVIOUS_NEAR, PREVIOUS_TITLE, PREVIOUS_GIVEN, PREVIOUS_SIDE, PREVIOUS_CAPITAL, PREVIOUS_INITIAL,
    PREVIOUS_HYPHEN, GOODS, GOODS_AFTER_START, BETWEEN, LATE, UNKNOWN_BEFORE, UNKNOWN_AFTER, OWN_ADJACENT, OWN_NEXT,
    OWN_AFTER, OWN_AFTER_CLAIMED, OWN_AFTER_UNKNOWN, OWN_ADJACENT_BEFORE, OWN_BEFORE, OWN_BEFORE_CLAIMED,
    OWN_BEFORE_UNKNOWN, OTHER_ADJACENT, OTHER_NEXT, OTHER_NAMED, NONE_NAMED, COUNTRY_NAMED, OTHER_COUNTRY_ADJACENT,
    OTHER_COUNTRY_NAMED, PEOPLE_OWN, PEOPLE_NONE, PEOPLE_UNKNOWN, START_NONE, END_NONE, SHARE_OWN, SHARE_NONE,
    OUTSIDE_OWN, OUTSIDE_NONE, CROWD_OWN, CROWD_NONE, FAME_OWN, FAME_NONE, FAME_UNKNOWN, ENGLISH_WORD_NONE,
    REGION_NAME_OWN, PERSON_NAME_NONE, OTHER_NAMES, FIRST_ADJACENT, LATER_ADJACENT, ADJACENT_ELSEWHERE,
) = range(WIDTH)  # fmt: skip
