"""What a caption says for and against each place that a name in it may mean, as numbers (compiled).

A mention is a name found in a caption; a candidate is a mention with one of the places so called. `gather` fills a row
of FEATURES per candidate; `decide` weighs them. docs/captions.md tells the same in prose.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geo_subset.retrieve.captions import lexicon
from geo_subset.retrieve.captions.compiled import inlined
from geo_subset.retrieve.captions.folding import COMMA, HYPHEN, OPEN, SPACE, STOP
from geo_subset.retrieve.captions.names import (
    BRAND, CODE, CROWD, FAME, FIRST, FULL, IN_COUNTRY, IN_REGION, LEVEL, NUMBER, OUTSIDE, PEOPLE, PERSON, PLACE, REGION, STATE,
    TRAITS, WORD, Names,
)  # fmt: skip
from geo_subset.retrieve.captions.trie import find, look_up, may_start
from geo_subset.retrieve.captions.words import ALL_CAPITALS, CAPITAL, split

#: Where the place's own region (state) is named: right after the name; next of all regions, at most four words on;
#: further on, or before; and whether another name that the table has ('claimed') or has not ('unknown') goes with it.
#: Else: another region is named right after the name, or next, at most four words on; other regions are named; none is. Exactly one is 1.
RELATIONS = (
    "own_adjacent", "own_next", "own_after", "own_after_claimed", "own_after_unknown", "own_adjacent_before",
    "own_before", "own_before_claimed", "own_before_unknown", "other_adjacent", "other_next", "other_named",
    "none_named",
)  # fmt: skip
FEATURES = (
    *RELATIONS,
    "country_named", "other_country_adjacent", "other_country_named",
    # log10 of people (0 if unknown), of the share among all so called, of how much larger a city elsewhere is, of how
    # many are so called: where the own region is named, and where it is not
    "people_own", "people_none", "people_unknown", "start_none", "end_none", "share_own", "share_none", "outside_own", "outside_none",
    "crowd_own", "crowd_none", "fame_own", "fame_none", "fame_unknown",
    # the name itself
    "lower_case", "caption_without_case", "title_case", "all_capital", "english_word", "english_word_none",
    "english_word_lower", "region_name", "region_name_own", "region_name_after", "person_name", "person_name_none", "brand_name", "several_words",
    # after it
    "next_within", "next_nature", "next_street", "next_body", "next_other_kind", "next_capital", "next_hyphen",
    "start_next_lower", "start_next_capital", "start_english_word",
    "region_then_end", "region_then_stop", "region_then_comma", "listed", "next_end", "next_comma", "next_stop", "next_open", "near_after",
    # before it
    "previous_none", "previous_stop", "previous_comma", "previous_in", "previous_from", "previous_of", "previous_near",
    "previous_title", "previous_given", "previous_side", "previous_capital", "previous_initial", "previous_hyphen",
    # in the caption
    "goods",
    "goods_after_start",
    "between",
    "late", "first_adjacent", "later_adjacent", "adjacent_elsewhere", "unknown_before", "unknown_after",
    "other_names",
)  # fmt: skip
_INDEX = {name: number for number, name in enumerate(FEATURES)}
_WIDTH = len(FEATURES)
#: Candidates of a caption, mentions of a caption that are weighed, places per name, regions named: at most.
MOST_CANDIDATES, MOST_MENTIONS, _MOST_PLACES, _MOST_REGIONS = 512, 64, 24, 32
#: Bytes of a caption that are read.
MOST_BYTES = 1 << 16
#: Features of a candidate besides those of its mention, at most.
SPARSE = 24
_NO_CLAIM, _UNKNOWN_CLAIM = -1, -2


class Tables(NamedTuple):
    """`Names` and the folding tables as compiled functions take them."""

    entry: npt.NDArray[np.int32]
    more: npt.NDArray[np.int32]
    separator: npt.NDArray[np.uint8]
    slots: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.uint64]
    steps: npt.NDArray[np.uint64]
    about: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    by_region: npt.NDArray[np.int32]
    facts: npt.NDArray[np.float32]
    region_slots: npt.NDArray[np.uint64]
    region_starts: npt.NDArray[np.uint64]
    region_steps: npt.NDArray[np.uint64]
    meaning: npt.NDArray[np.int32]
    nation: npt.NDArray[np.int32]
    written: npt.NDArray[np.int8]
    cue_slots: npt.NDArray[np.uint64]
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
    classes: npt.NDArray[np.int32]
    found: npt.NDArray[np.int32]
    named: npt.NDArray[np.int32]
    claims: npt.NDArray[np.int32]
    mention: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]
    base: npt.NDArray[np.float32]
    """(mentions, features): what holds of a mention whichever place is meant."""
    count: npt.NDArray[np.int32]
    index: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]
    """(candidates, SPARSE): the features besides, their numbers and values; `count` of them."""


def tables(names: Names) -> Tables:
    from geo_subset.retrieve.captions import folding

    folds = folding.table()
    return Tables(
        folds.entry, folds.more, folds.separator, names.trie.slots, names.trie.starts, names.trie.steps, names.about,
        names.places, names.by_region, names.facts, names.regions.slots, names.regions.starts, names.regions.steps,
        names.meaning, names.nation, names.written, names.cues.slots, names.cues.starts, names.classes,
    )  # fmt: skip


def scratch() -> Scratch:
    words = MOST_BYTES + 2
    return Scratch(
        np.empty(words, np.uint64), np.empty(words, np.uint64), np.empty(words, np.int32), np.empty(words, np.int32),
        np.empty(words, np.uint8), np.empty(words, np.uint8), np.empty(words, np.int32), np.empty((words, 3), np.int32), np.empty((words, 3), np.int32),
        np.empty(words, np.int32), np.empty(MOST_CANDIDATES, np.int32), np.empty(MOST_CANDIDATES, np.int32),
        np.zeros((MOST_MENTIONS, _WIDTH), np.float32), np.zeros(MOST_CANDIDATES, np.int32),
        np.zeros((MOST_CANDIDATES, SPARSE), np.int32), np.zeros((MOST_CANDIDATES, SPARSE), np.float32),
    )  # fmt: skip


(
    OWN_ADJACENT, OWN_NEXT, OWN_AFTER, OWN_AFTER_CLAIMED, OWN_AFTER_UNKNOWN, OWN_ADJACENT_BEFORE, OWN_BEFORE,
    OWN_BEFORE_CLAIMED, OWN_BEFORE_UNKNOWN, OTHER_ADJACENT, OTHER_NEXT, OTHER_NAMED, NONE_NAMED,
) = range(len(RELATIONS))  # fmt: skip
(
    COUNTRY_NAMED, OTHER_COUNTRY_ADJACENT, OTHER_COUNTRY_NAMED, PEOPLE_OWN, PEOPLE_NONE, PEOPLE_UNKNOWN, START_NONE, END_NONE, SHARE_OWN,
    SHARE_NONE, OUTSIDE_OWN, OUTSIDE_NONE, CROWD_OWN, CROWD_NONE, FAME_OWN, FAME_NONE, FAME_UNKNOWN, LOWER_CASE, CAPTION_WITHOUT_CASE, TITLE_CASE,
    ALL_CAPITAL, ENGLISH_WORD, ENGLISH_WORD_NONE, ENGLISH_WORD_LOWER, REGION_NAME, REGION_NAME_OWN, REGION_NAME_AFTER, PERSON_NAME,
    PERSON_NAME_NONE, BRAND_NAME, SEVERAL_WORDS, NEXT_WITHIN, NEXT_NATURE, NEXT_STREET, NEXT_BODY, NEXT_OTHER_KIND, NEXT_CAPITAL,
    NEXT_HYPHEN, START_NEXT_LOWER, START_NEXT_CAPITAL, START_ENGLISH_WORD, REGION_THEN_END, REGION_THEN_STOP, REGION_THEN_COMMA, LISTED, NEXT_END, NEXT_COMMA, NEXT_STOP, NEXT_OPEN, NEAR_AFTER, PREVIOUS_NONE, PREVIOUS_STOP, PREVIOUS_COMMA,
    PREVIOUS_IN, PREVIOUS_FROM, PREVIOUS_OF, PREVIOUS_NEAR, PREVIOUS_TITLE, PREVIOUS_GIVEN, PREVIOUS_SIDE,
    PREVIOUS_CAPITAL, PREVIOUS_INITIAL, PREVIOUS_HYPHEN, GOODS, GOODS_AFTER_START, BETWEEN, LATE, FIRST_ADJACENT, LATER_ADJACENT, ADJACENT_ELSEWHERE,
    UNKNOWN_BEFORE, UNKNOWN_AFTER, OTHER_NAMES,
) = range(len(RELATIONS), _WIDTH)  # fmt: skip

_IN, _FROM, _OF, _NEAR = lexicon.IN, lexicon.FROM, lexicon.OF, lexicon.NEAR
_WITHIN, _NATURE, _STREET, _BODY = lexicon.WITHIN, lexicon.NATURE, lexicon.STREET, lexicon.BODY
_TITLE, _GIVEN, _SIDE, _OTHER_KIND = lexicon.TITLE, lexicon.GIVEN, lexicon.SIDE, lexicon.OTHER_KIND
_BETWEEN, _LIST, _GOODS = lexicon.BETWEEN, lexicon.LIST, lexicon.GOODS
_CUES = _IN | _FROM | _OF | _NEAR | _LIST
_LOW = np.uint64(0xFFFFFFFF)


@inlined
def _classify(t, s, words):  # type: ignore[no-untyped-def]
    """Sets the classes of all words."""
    for word in range(words):
        s.classes[word] = 0
        if may_start(t.cue_starts, s.hashes[word]):
            value = look_up(t.cue_slots, np.uint64(0), s.hashes[word])
            if value:
                s.classes[word] = t.classes[(value & _LOW) - np.uint64(1)]


@inlined
def _regions(t, s, words, mentions, has_lower):  # type: ignore[no-untyped-def]
    """Keeps in s.named the regions that are meant as such, and in s.claims who goes with each. Returns how many."""
    all_named = find(t.region_slots, t.region_starts, t.region_steps, s.hashes, s.bases, words, s.named)
    kept = 0
    for i in range(all_named):
        start, stop, name = s.named[i, 0], s.named[i, 1], s.named[i, 2]
        written = t.written[name]
        if written != FULL:
            # 'in', 'or', 'me', 'miss': only in capitals (or one and a full stop), and only after a comma or a name
            capital = s.flags[start] & CAPITAL
            stopped = s.before[stop] & STOP
            if written == CODE and not (s.flags[start] & ALL_CAPITALS and has_lower or capital and stopped):
                continue
            if not capital:
                continue
            after_name = False
            for m in range(mentions):
                after_name |= s.found[m, 1] == start
            if not after_name and not (s.before[start] & COMMA and start > 0 and s.flags[start - 1] & CAPITAL):
                continue
        inside = False
        for m in range(mentions):
            longer = s.found[m, 1] - s.found[m, 0] > stop - start
            inside |= longer and s.found[m, 0] <= start and s.found[m, 1] >= stop
        if inside:
            continue
        if stop < words and s.before[stop] == SPACE and s.flags[stop] & CAPITAL:
            if s.classes[stop] & (_NATURE | _STREET | _BODY):
                continue
        s.named[kept, 0], s.named[kept, 1], s.named[kept, 2] = start, stop, name
        kept += 1
        if kept == _MOST_REGIONS:
            break
    for i in range(kept):
        s.claims[i] = _NO_CLAIM
        named = s.named[i, 2]
        start = _back(t, s, s.named[i, 0])
        if start == 0 or t.meaning[named, 0] < 0:
            continue
        stopped = s.before[start] & STOP
        if s.flags[start - 1] & CAPITAL and not stopped and not s.classes[start - 1] & _WITHIN:
            s.claims[i] = _UNKNOWN_CLAIM
        for m in range(mentions):
            if s.found[m, 1] == start:
                if _has(t, s.found[m, 2], named):
                    s.claims[i] = m
                elif not stopped:
                    s.claims[i] = _UNKNOWN_CLAIM
    return kept


@inlined
def _back(t, s, word):  # type: ignore[no-untyped-def]
    """The word after a name, where '(vicinity)' or ', Kern County,' stands between that name and `word`."""
    while word > 1 and s.classes[word - 1] & _NEAR:
        word -= 1
    if word > 2 and s.before[word] & COMMA and s.classes[word - 1] & _WITHIN:
        for at in range(word - 2, max(0, word - 5), -1):
            if s.before[at] & COMMA:
                return at
            if s.before[at] != SPACE or not s.flags[at] & CAPITAL:
                break
    return word


@inlined
def _means(t, named, region):  # type: ignore[no-untyped-def]
    """Whether a region's name may mean the region of that number."""
    for i in range(t.meaning.shape[1]):
        if t.meaning[named, i] == region:
            return region >= 0
    return False


@inlined
def _first_in(t, name, region):  # type: ignore[no-untyped-def]
    """Where in by_region the places of a name in a region begin."""
    low = np.int64(t.about[name, FIRST])
    high = low + t.about[name, NUMBER]
    while low < high:
        middle = (low + high) // 2
        if t.facts[t.by_region[middle], IN_REGION] < region:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _has(t, name, named):  # type: ignore[no-untyped-def]
    """Whether a place so called lies in what a region's name means."""
    for i in range(t.meaning.shape[1]):
        region = t.meaning[named, i]
        if region < 0:
            return False
        at = _first_in(t, name, region)
        last = t.about[name, FIRST] + t.about[name, NUMBER]
        if at < last and t.facts[t.by_region[at], IN_REGION] == region:
            return True
    return False


@inlined
def _mention(t, s, m, mentions, words, capitals, goods, regions, x):  # type: ignore[no-untyped-def]
    """What holds of a mention whichever place is meant, into x (F,)."""
    for f in range(_WIDTH):
        x[f] = 0
    start, stop, name = s.found[m, 0], s.found[m, 1], s.found[m, 2]
    capital = s.flags[start] & CAPITAL
    traits = t.about[name, TRAITS]
    title = words >= 4 and capitals * 10 >= words * 7
    mixed = capitals > 0 and not title
    if capitals == 0:
        x[CAPTION_WITHOUT_CASE] = 1
    elif not capital:
        x[LOWER_CASE] = 1
    if title:
        x[TITLE_CASE] = 1
    if s.flags[start] & ALL_CAPITALS and mixed:
        x[ALL_CAPITAL] = 1
    if traits & WORD:
        x[ENGLISH_WORD] = 1
        x[ENGLISH_WORD_LOWER] = 0 if capital else 1
    if traits & REGION:
        x[REGION_NAME] = 1
        for i in range(regions):
            if s.named[i, 0] == start and s.named[i, 1] == stop and s.claims[i] != _NO_CLAIM:
                x[REGION_NAME_AFTER] = 1
    if traits & PERSON:
        x[PERSON_NAME] = 1
    if traits & BRAND:
        x[BRAND_NAME] = 1
    if goods:
        x[GOODS] = 1
        if start == 0:
            x[GOODS_AFTER_START] = 1
    if stop - start > 1:
        x[SEVERAL_WORDS] = 1

    begins = start == 0 or s.before[start] & STOP != 0  # where everything has a capital
    if begins and traits & WORD:
        x[START_ENGLISH_WORD] = 1
    after = s.before[stop]
    if stop == words:
        x[NEXT_END] = 1
    else:
        classes = s.classes[stop]
        close = after == SPACE or after == 0
        region_next = False
        for i in range(regions):
            region_next |= s.named[i, 0] == stop
        if close and not region_next:
            written = s.flags[stop] & CAPITAL or not capital or capitals == 0
            if classes & _WITHIN:
                x[NEXT_WITHIN] = 1
            elif classes & _NATURE and written:
                x[NEXT_NATURE] = 1
            elif classes & _STREET and written:
                x[NEXT_STREET] = 1
            elif classes & _BODY and written:
                x[NEXT_BODY] = 1
            elif classes & _OTHER_KIND and written:
                x[NEXT_OTHER_KIND] = 1
            elif mixed and s.flags[stop] & CAPITAL:
                x[NEXT_CAPITAL] = 1
                x[START_NEXT_CAPITAL] = 1 if begins else 0
            elif mixed and begins and not classes & _CUES:
                x[START_NEXT_LOWER] = 1
        if after & HYPHEN and not after & SPACE:
            x[NEXT_HYPHEN] = 1
        if after & COMMA:
            x[NEXT_COMMA] = 1
        elif after & STOP:
            x[NEXT_STOP] = 1
        elif after & OPEN:
            x[NEXT_OPEN] = 1
        for i in range(stop, min(words, stop + 3)):
            if s.classes[i] & _NEAR:
                x[NEAR_AFTER] = 1

    for i in range(m + 1, min(mentions, m + 4)):  # the Atchison, Topeka and Santa Fe Railroad
        gap = s.found[i, 0] - s.found[i - 1, 1]
        if gap > 1 or gap == 1 and not s.classes[s.found[i, 0] - 1] & _LIST or s.before[s.found[i, 0]] & STOP:
            break
        end = s.found[i, 1]
        if end < words and s.before[end] == SPACE and s.flags[end] & CAPITAL and s.classes[end] & _BODY:
            x[NEXT_BODY] = 1
    if m + 1 < mentions:  # between Camden and Belcross, North Carolina
        gap = s.found[m + 1, 0] - stop
        if gap == 0 and s.before[stop] & COMMA or gap == 1 and s.classes[stop] & _LIST:
            for i in range(regions):
                if s.claims[i] == m + 1:
                    x[LISTED] = 1
    for i in range(regions):
        adjacent = s.named[i, 0] == stop or _back(t, s, s.named[i, 0]) == stop
        if adjacent and t.meaning[s.named[i, 2], 0] >= 0:
            if s.named[i, 1] == words:
                x[REGION_THEN_END] = 1
            elif s.before[s.named[i, 1]] & STOP:
                x[REGION_THEN_STOP] = 1
            elif s.before[s.named[i, 1]] & COMMA:
                x[REGION_THEN_COMMA] = 1
    for i in range(max(0, start - 4), start):
        if s.classes[i] & _BETWEEN:
            x[BETWEEN] = 1
    for i in range(regions):
        if s.claims[i] == _UNKNOWN_CLAIM:
            if s.named[i, 0] > stop:
                x[UNKNOWN_AFTER] = 1
            elif s.named[i, 1] <= start:
                x[UNKNOWN_BEFORE] = 1

    between = s.before[start]
    if start == 0:
        x[PREVIOUS_NONE] = 1
    else:
        if between & STOP and s.ends[start - 1] - s.begins[start - 1] == 1 and s.flags[start - 1] & CAPITAL:
            x[PREVIOUS_INITIAL] = 1
        elif between & STOP:
            x[PREVIOUS_STOP] = 1
        elif between & COMMA:
            x[PREVIOUS_COMMA] = 1
        elif between & HYPHEN and not between & SPACE:
            x[PREVIOUS_HYPHEN] = 1
        else:
            classes = s.classes[start - 1]
            if classes & _OF and start > 1:
                further = s.classes[start - 2]
                x[PREVIOUS_OF] = 1
                if further & _NEAR:
                    x[PREVIOUS_NEAR] = 1
            elif classes & _IN:
                x[PREVIOUS_IN] = 1
            elif classes & _NEAR:
                x[PREVIOUS_NEAR] = 1
            elif classes & _FROM:
                x[PREVIOUS_FROM] = 1
            elif classes & _SIDE:
                x[PREVIOUS_SIDE] = 1
            elif classes & _TITLE:
                x[PREVIOUS_TITLE] = 1
            elif classes & _GIVEN and capital:
                x[PREVIOUS_GIVEN] = 1
            elif mixed and s.flags[start - 1] & CAPITAL:
                x[PREVIOUS_CAPITAL] = 1
    if start >= 15:
        x[LATE] = 1
    x[OTHER_NAMES] = min(mentions - 1, 8) / 4.0


@inlined
def _relation(t, s, m, region, regions):  # type: ignore[no-untyped-def]
    """How the naming of a region stands to a mention: an index of RELATIONS."""
    start, stop = s.found[m, 0], s.found[m, 1]
    best = np.int64(NONE_NAMED)
    next_seen = False
    for i in range(regions):
        first, last, named = s.named[i, 0], s.named[i, 1], s.named[i, 2]
        if t.meaning[named, 0] < 0 or first < stop and start < last:
            continue
        claim = s.claims[i]
        near = _back(t, s, first)
        own = _means(t, named, region)
        relation = np.int64(OTHER_NAMED)
        if near == stop or first == stop:
            relation = np.int64(OWN_ADJACENT if own else OTHER_ADJACENT)
        elif own and first > stop:
            if not next_seen and first - stop <= 4 and claim != _UNKNOWN_CLAIM:
                relation = np.int64(OWN_NEXT)
            elif claim == _UNKNOWN_CLAIM:
                relation = np.int64(OWN_AFTER_UNKNOWN)
            else:
                relation = np.int64(OWN_AFTER if claim == _NO_CLAIM else OWN_AFTER_CLAIMED)
        elif first > stop:
            if not next_seen and first - stop <= 4:
                relation = np.int64(OTHER_NEXT)
        elif own:
            if last == start and claim == _NO_CLAIM:
                relation = np.int64(OWN_ADJACENT_BEFORE)
            elif claim == _UNKNOWN_CLAIM:
                relation = np.int64(OWN_BEFORE_UNKNOWN)
            else:
                relation = np.int64(OWN_BEFORE if claim == _NO_CLAIM else OWN_BEFORE_CLAIMED)
        if first >= stop:
            next_seen = True
        best = min(best, relation)
    return best


@inlined
def _set(s, c, feature, value):  # type: ignore[no-untyped-def]
    if value != 0:
        at = s.count[c]
        s.index[c, at], s.value[c, at] = feature, value
        s.count[c] = at + 1


@inlined
def _candidate(t, s, m, place, regions, c):  # type: ignore[no-untyped-def]
    """What holds of a mention besides if a certain place is meant: the features of candidate c."""
    name = s.found[m, 2]
    region, country = np.int32(t.facts[place, IN_REGION]), np.int32(t.facts[place, IN_COUNTRY])
    if t.facts[place, LEVEL] == STATE:  # its own name is the region's: what counts is whether another name goes with it
        relation = np.int64(OWN_AFTER)
        others = False
        for i in range(regions):
            if s.named[i, 0] == s.found[m, 0] and s.named[i, 1] == s.found[m, 1]:
                if s.claims[i] == _UNKNOWN_CLAIM:
                    relation = np.int64(OWN_AFTER_UNKNOWN)
                elif s.claims[i] >= 0:
                    relation = np.int64(OWN_AFTER_CLAIMED)
            elif t.meaning[s.named[i, 2], 0] >= 0 and not _means(t, s.named[i, 2], region):
                others = True
        _set(s, c, relation, 1)
        if others:
            _set(s, c, OTHER_NAMED, 1)
        own = False
    else:
        relation = _relation(t, s, m, region, regions)
        _set(s, c, relation, 1)
        own = relation < OTHER_ADJACENT
    here = elsewhere = adjacent = False
    for i in range(regions):
        nation = t.nation[s.named[i, 2]]
        if nation < 0 or s.named[i, 0] < s.found[m, 1] and s.found[m, 0] < s.named[i, 1]:
            continue
        if nation == country:
            here = True
        elif t.meaning[s.named[i, 2], 0] < 0:  # not Georgia, which is a state as well
            elsewhere = True
            adjacent |= s.named[i, 0] == s.found[m, 1]
    if here:
        _set(s, c, COUNTRY_NAMED, 1)
    if elsewhere:
        _set(s, c, OTHER_COUNTRY_NAMED, 1)
    if adjacent:
        _set(s, c, OTHER_COUNTRY_ADJACENT, 1)
    people = t.facts[place, PEOPLE]
    number = t.about[name, NUMBER]
    crowd = np.log10(np.float32(number)) if number > 1 else np.float32(0)
    share = t.about[name, CROWD] * np.float32(0.001)
    if people < 0:
        _set(s, c, PEOPLE_UNKNOWN, 1)
        people = np.float32(0)
    fame = t.facts[place, FAME]
    if fame < 0:
        _set(s, c, FAME_UNKNOWN, 1)
    else:
        _set(s, c, FAME_OWN if own else FAME_NONE, fame)
    excess = max(np.float32(0), t.about[name, OUTSIDE] * np.float32(0.001) - people)
    if own:
        _set(s, c, REGION_NAME_OWN, s.base[m, REGION_NAME])
        _set(s, c, PEOPLE_OWN, people)
        _set(s, c, SHARE_OWN, min(people - share, np.float32(0)))
        _set(s, c, OUTSIDE_OWN, excess)
        _set(s, c, CROWD_OWN, crowd)
    else:
        _set(s, c, PEOPLE_NONE, people)
        _set(s, c, SHARE_NONE, min(people - share, np.float32(0)))
        _set(s, c, OUTSIDE_NONE, excess)
        _set(s, c, CROWD_NONE, crowd)
        _set(s, c, ENGLISH_WORD_NONE, s.base[m, ENGLISH_WORD])
        _set(s, c, START_NONE, s.base[m, PREVIOUS_NONE])
        _set(s, c, END_NONE, s.base[m, NEXT_END])
        _set(s, c, PERSON_NAME_NONE, s.base[m, PERSON_NAME])


@inlined
def _add(t, s, m, place, regions, number):  # type: ignore[no-untyped-def]
    s.mention[number], s.place[number], s.count[number] = m, place, 0
    _candidate(t, s, m, place, regions, number)
    return number + 1


@inlined
def dense(s, c, row):  # type: ignore[no-untyped-def]
    """All features of candidate c into row (F,)."""
    for f in range(_WIDTH):
        row[f] = s.base[s.mention[c], f]
    for i in range(s.count[c]):
        row[s.index[c, i]] = s.value[c, i]


@inlined
def gather(data, start, stop, t, s):  # type: ignore[no-untyped-def]
    """Reads one caption, data[start:stop]. Returns (mentions, candidates, whether anything was cut off).

    s holds both, candidates by mention in order; mentions inside the longer name of a region ('York' in 'New York')
    have none.
    """
    words = split(data, start, min(stop, start + MOST_BYTES), t.entry, t.more, t.separator,
                  s.hashes, s.bases, s.begins, s.ends, s.flags, s.before)  # fmt: skip
    mentions = find(t.slots, t.starts, t.steps, s.hashes, s.bases, words, s.found)
    cut = stop - start > MOST_BYTES or mentions > MOST_MENTIONS
    mentions = min(mentions, MOST_MENTIONS)
    if mentions == 0:
        return 0, 0, cut
    _classify(t, s, words)
    capitals = 0
    goods = has_lower = False
    for i in range(words):
        capitals += s.flags[i] & CAPITAL
        goods |= s.classes[i] & _GOODS != 0
        has_lower |= s.flags[i] & 2 != 0
    regions = _regions(t, s, words, mentions, has_lower)
    number = 0
    for m in range(mentions):
        inside = False
        for i in range(regions):
            longer = s.named[i, 1] - s.named[i, 0] > s.found[m, 1] - s.found[m, 0]
            inside |= longer and s.named[i, 0] <= s.found[m, 0] and s.named[i, 1] >= s.found[m, 1]
        if inside:
            continue
        _mention(t, s, m, mentions, words, capitals, goods, regions, s.base[m])
        name = s.found[m, 2]
        first = t.about[name, FIRST]
        last = first + t.about[name, NUMBER]
        if last == first + 1:  # as nearly all are: the place is known without another look
            if number < MOST_CANDIDATES:
                number = _add(t, s, m, t.about[name, PLACE], regions, number)
            continue
        all_of = last - first
        if all_of > _MOST_PLACES:
            # Of hundreds so called: those in the regions named, and else the most populous
            for i in range(regions):
                for j in range(t.meaning.shape[1]):
                    region = t.meaning[s.named[i, 2], j]
                    at = _first_in(t, name, region) if region >= 0 else last
                    taken = 0
                    while at < last and t.facts[t.by_region[at], IN_REGION] == region and taken < _MOST_PLACES:
                        if number < MOST_CANDIDATES:
                            number = _add(t, s, m, t.by_region[at], regions, number)
                        at += 1
                        taken += 1
            last = first + _MOST_PLACES
        for at in range(first, last):
            if number < MOST_CANDIDATES:
                known = False
                if all_of > _MOST_PLACES:
                    for c in range(number):
                        known |= s.mention[c] == m and s.place[c] == t.places[at]
                if not known:
                    number = _add(t, s, m, t.places[at], regions, number)
    _order(s, mentions, number)
    return mentions, number, cut or number == MOST_CANDIDATES


@inlined
def _order(s, mentions, number):  # type: ignore[no-untyped-def]
    """Sets what depends on the caption's other mentions: whether a name before or after has its region beside it."""
    first, last = mentions, -1
    for c in range(number):
        if s.index[c, 0] == OWN_ADJACENT:  # the relation is set first
            first, last = min(first, s.mention[c]), max(last, s.mention[c])
    if last < 0:
        return
    for c in range(number):
        m = s.mention[c]
        if s.index[c, 0] != OWN_ADJACENT:
            _set(s, c, ADJACENT_ELSEWHERE, 1)
        elif m > first:
            _set(s, c, LATER_ADJACENT, 1)
        elif first != last:
            _set(s, c, FIRST_ADJACENT, 1)
