"""What holds of a name in a caption whichever of its places is meant (compiled)."""

from __future__ import annotations

import numpy as np

from geo_subset.compiled import inlined
from geo_subset.retrieve.captions import lexicon
from geo_subset.retrieve.captions.features import (
    ALL_CAPITAL,
    BETWEEN,
    BRAND_NAME,
    CAPTION_WITHOUT_CASE,
    ENGLISH_WORD,
    ENGLISH_WORD_LOWER,
    GOODS,
    GOODS_AFTER_START,
    LATE,
    LISTED,
    LOWER_CASE,
    NEAR_AFTER,
    NEXT_BODY,
    NEXT_CAPITAL,
    NEXT_COMMA,
    NEXT_END,
    NEXT_HYPHEN,
    NEXT_NATURE,
    NEXT_OPEN,
    NEXT_OTHER_KIND,
    NEXT_STOP,
    NEXT_STREET,
    NEXT_WITHIN,
    NO_CLAIM,
    PERSON_NAME,
    PREVIOUS_CAPITAL,
    PREVIOUS_COMMA,
    PREVIOUS_FROM,
    PREVIOUS_GIVEN,
    PREVIOUS_HYPHEN,
    PREVIOUS_IN,
    PREVIOUS_INITIAL,
    PREVIOUS_NEAR,
    PREVIOUS_NONE,
    PREVIOUS_OF,
    PREVIOUS_SIDE,
    PREVIOUS_STOP,
    PREVIOUS_TITLE,
    REGION_NAME,
    REGION_NAME_AFTER,
    REGION_THEN_COMMA,
    REGION_THEN_END,
    REGION_THEN_STOP,
    SEVERAL_WORDS,
    START_ENGLISH_WORD,
    START_NEXT_CAPITAL,
    START_NEXT_LOWER,
    TITLE_CASE,
    UNKNOWN_AFTER,
    UNKNOWN_BEFORE,
    UNKNOWN_CLAIM,
)  # fmt: skip
from geo_subset.retrieve.captions.folding import COMMA, HYPHEN, OPEN, SPACE, STOP
from geo_subset.retrieve.captions.names import BRAND, PERSON, REGION, TRAITS, WORD
from geo_subset.retrieve.captions.regions import back
from geo_subset.retrieve.captions.words import ALL_CAPITALS, CAPITAL

_IN, _FROM, _OF, _NEAR = lexicon.IN, lexicon.FROM, lexicon.OF, lexicon.NEAR
_WITHIN, _NATURE, _STREET, _BODY = lexicon.WITHIN, lexicon.NATURE, lexicon.STREET, lexicon.BODY
_TITLE, _GIVEN, _SIDE, _OTHER_KIND = lexicon.TITLE, lexicon.GIVEN, lexicon.SIDE, lexicon.OTHER_KIND
_BETWEEN, _LIST, _GOODS = lexicon.BETWEEN, lexicon.LIST, lexicon.GOODS
_CUES = _IN | _FROM | _OF | _NEAR | _LIST


@inlined
def on(feature):  # type: ignore[no-untyped-def]
    """The bit of a feature of SHARED."""
    return np.uint64(1) << np.uint64(feature)


@inlined
def _in_title_case(words, capitals):  # type: ignore[no-untyped-def]
    return words >= 4 and capitals * 10 >= words * 7


@inlined
def weigh_form(t, s, m, words, capitals):  # type: ignore[no-untyped-def]
    """What a name itself, capitals and separators say, whichever place is meant: bit f is feature f."""
    x = np.uint64(0)
    start, stop = s.found[m, 0], s.found[m, 1]
    capital = s.flags[start] & CAPITAL
    traits = t.about[s.found[m, 2], TRAITS]
    title = _in_title_case(words, capitals)
    if capitals == 0:
        x |= on(CAPTION_WITHOUT_CASE)
    elif not capital:
        x |= on(LOWER_CASE)
    if title:
        x |= on(TITLE_CASE)
    elif s.flags[start] & ALL_CAPITALS:
        x |= on(ALL_CAPITAL)
    before, after = s.before[start], s.before[stop]
    if traits & WORD:
        x |= on(ENGLISH_WORD)
        if not capital:
            x |= on(ENGLISH_WORD_LOWER)
        if start == 0 or before & STOP:
            x |= on(START_ENGLISH_WORD)
    if traits & REGION:
        x |= on(REGION_NAME)
    if traits & PERSON:
        x |= on(PERSON_NAME)
    if traits & BRAND:
        x |= on(BRAND_NAME)
    if stop - start > 1:
        x |= on(SEVERAL_WORDS)
    if start >= 15:
        x |= on(LATE)

    if stop == words:
        x |= on(NEXT_END)
    else:
        if after & HYPHEN and not after & SPACE:
            x |= on(NEXT_HYPHEN)
        if after & COMMA:
            x |= on(NEXT_COMMA)
        elif after & STOP:
            x |= on(NEXT_STOP)
        elif after & OPEN:
            x |= on(NEXT_OPEN)
    if start == 0:
        x |= on(PREVIOUS_NONE)
    elif before & STOP and s.ends[start - 1] - s.begins[start - 1] == 1 and s.flags[start - 1] & CAPITAL:
        x |= on(PREVIOUS_INITIAL)
    elif before & STOP:
        x |= on(PREVIOUS_STOP)
    elif before & COMMA:
        x |= on(PREVIOUS_COMMA)
    elif before & HYPHEN and not before & SPACE:
        x |= on(PREVIOUS_HYPHEN)
    return x


@inlined
def follows(s, x, stop):  # type: ignore[no-untyped-def]
    """Whether the next word may belong to a name of form x: nothing but a space is between them."""
    return not x & on(NEXT_END) and (s.before[stop] == SPACE or s.before[stop] == 0)


@inlined
def precedes(x):  # type: ignore[no-untyped-def]
    """Whether the word before may belong to a name of form x."""
    return not x & (
        on(PREVIOUS_NONE) | on(PREVIOUS_INITIAL) | on(PREVIOUS_STOP) | on(PREVIOUS_COMMA) | on(PREVIOUS_HYPHEN)
    )


@inlined
def _named_at(s, word, regions):  # type: ignore[no-untyped-def]
    """Whether the name of one of the first `regions` of s.named begins at a word."""
    begins = False
    for i in range(regions):
        begins |= s.named[i, 0] == word
    return begins


@inlined
def weigh_next(s, m, words, capitals, regions):  # type: ignore[no-untyped-def]
    """What the word after a mention says, if it belongs to the name: of that word the class must be known."""
    form = s.shared[m]
    x = np.uint64(0)
    start, stop = s.found[m, 0], s.found[m, 1]
    if not follows(s, form, stop) or _named_at(s, stop, regions):
        return x
    capital = s.flags[start] & CAPITAL
    mixed = capitals > 0 and not _in_title_case(words, capitals)
    classes = s.classes[stop]
    begins = start == 0 or s.before[start] & STOP != 0  # where everything has a capital
    written = s.flags[stop] & CAPITAL or not capital or capitals == 0
    if classes & _WITHIN:
        x |= on(NEXT_WITHIN)
    elif classes & _NATURE and written:
        x |= on(NEXT_NATURE)
    elif classes & _STREET and written:
        x |= on(NEXT_STREET)
    elif classes & _BODY and written:
        x |= on(NEXT_BODY)
    elif classes & _OTHER_KIND and written:
        x |= on(NEXT_OTHER_KIND)
    elif mixed and s.flags[stop] & CAPITAL:
        x |= on(NEXT_CAPITAL)
        if begins:
            x |= on(START_NEXT_CAPITAL)
    elif mixed and begins and not classes & _CUES:
        x |= on(START_NEXT_LOWER)
    return x


@inlined
def weigh_previous(s, m, words, capitals):  # type: ignore[no-untyped-def]
    """What the word before a mention, or the two, say: of these the classes must be known."""
    form = s.shared[m]
    x = np.uint64(0)
    if not precedes(form):
        return x
    start = s.found[m, 0]
    classes = s.classes[start - 1]
    if classes & _OF and start > 1:
        further = s.classes[start - 2]
        x |= on(PREVIOUS_OF)
        if further & _NEAR:
            x |= on(PREVIOUS_NEAR)
    elif classes & _IN:
        x |= on(PREVIOUS_IN)
    elif classes & _NEAR:
        x |= on(PREVIOUS_NEAR)
    elif classes & _FROM:
        x |= on(PREVIOUS_FROM)
    elif classes & _SIDE:
        x |= on(PREVIOUS_SIDE)
    elif classes & _TITLE:
        x |= on(PREVIOUS_TITLE)
    elif classes & _GIVEN and s.flags[start] & CAPITAL:
        x |= on(PREVIOUS_GIVEN)
    elif capitals > 0 and not _in_title_case(words, capitals) and s.flags[start - 1] & CAPITAL:
        x |= on(PREVIOUS_CAPITAL)
    return x


@inlined
def weigh_words(t, s, m, mentions, words, capitals, goods, regions):  # type: ignore[no-untyped-def]
    """What the words beside a mention and the regions named say: the features besides those of s.shared[m]."""
    x = np.uint64(0)
    start, stop = s.found[m, 0], s.found[m, 1]
    if s.shared[m] & on(REGION_NAME):
        for i in range(regions):
            if s.named[i, 0] == start and s.named[i, 1] == stop and s.claims[i] != NO_CLAIM:
                x |= on(REGION_NAME_AFTER)
    if goods:
        x |= on(GOODS)
        if start == 0:
            x |= on(GOODS_AFTER_START)

    x |= weigh_next(s, m, words, capitals, regions)
    for i in range(stop, min(words, stop + 3)):
        if s.classes[i] & _NEAR:
            x |= on(NEAR_AFTER)

    for i in range(m + 1, min(mentions, m + 4)):  # the Atchison, Topeka and Santa Fe Railroad
        gap = s.found[i, 0] - s.found[i - 1, 1]
        if gap > 1 or (gap == 1 and not s.classes[s.found[i, 0] - 1] & _LIST) or s.before[s.found[i, 0]] & STOP:
            break
        end = s.found[i, 1]
        if end < words and s.before[end] == SPACE and s.flags[end] & CAPITAL and s.classes[end] & _BODY:
            x |= on(NEXT_BODY)
    if m + 1 < mentions:  # between Camden and Belcross, North Carolina
        gap = s.found[m + 1, 0] - stop
        if (gap == 0 and s.before[stop] & COMMA) or (gap == 1 and s.classes[stop] & _LIST):
            for i in range(regions):
                if s.claims[i] == m + 1:
                    x |= on(LISTED)
    for i in range(regions):
        adjacent = s.named[i, 0] == stop or back(s, s.named[i, 0]) == stop
        if adjacent and t.meaning[s.named[i, 2], 0] >= 0:
            if s.named[i, 1] == words:
                x |= on(REGION_THEN_END)
            elif s.before[s.named[i, 1]] & STOP:
                x |= on(REGION_THEN_STOP)
            elif s.before[s.named[i, 1]] & COMMA:
                x |= on(REGION_THEN_COMMA)
    for i in range(max(0, start - 4), start):
        if s.classes[i] & _BETWEEN:
            x |= on(BETWEEN)
    for i in range(regions):
        if s.claims[i] == UNKNOWN_CLAIM:
            if s.named[i, 0] > stop:
                x |= on(UNKNOWN_AFTER)
            elif s.named[i, 1] <= start:
                x |= on(UNKNOWN_BEFORE)
    return x | weigh_previous(s, m, words, capitals)
