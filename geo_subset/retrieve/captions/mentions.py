"""What holds of a name in a caption whichever of its places is meant (compiled)."""

from __future__ import annotations

from geo_subset.retrieve.captions import lexicon
from geo_subset.retrieve.captions.compiled import inlined
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
    OTHER_NAMES,
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
    WIDTH,
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
def weigh_mention(t, s, m, mentions, words, capitals, goods, regions, x):  # type: ignore[no-untyped-def]
    """What holds of a mention whichever place is meant, into x (F,)."""
    for f in range(WIDTH):
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
            if s.named[i, 0] == start and s.named[i, 1] == stop and s.claims[i] != NO_CLAIM:
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
        if gap > 1 or (gap == 1 and not s.classes[s.found[i, 0] - 1] & _LIST) or s.before[s.found[i, 0]] & STOP:
            break
        end = s.found[i, 1]
        if end < words and s.before[end] == SPACE and s.flags[end] & CAPITAL and s.classes[end] & _BODY:
            x[NEXT_BODY] = 1
    if m + 1 < mentions:  # between Camden and Belcross, North Carolina
        gap = s.found[m + 1, 0] - stop
        if (gap == 0 and s.before[stop] & COMMA) or (gap == 1 and s.classes[stop] & _LIST):
            for i in range(regions):
                if s.claims[i] == m + 1:
                    x[LISTED] = 1
    for i in range(regions):
        adjacent = s.named[i, 0] == stop or back(s, s.named[i, 0]) == stop
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
        if s.claims[i] == UNKNOWN_CLAIM:
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
