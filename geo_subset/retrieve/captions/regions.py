"""Which regions a caption names, and which names they go with (compiled)."""

from __future__ import annotations

import numpy as np

from geo_subset.compiled import inlined
from geo_subset.retrieve.captions import lexicon
from geo_subset.retrieve.captions.features import MOST_REGIONS, NO_CLAIM, UNKNOWN_CLAIM
from geo_subset.retrieve.captions.folding import COMMA, SPACE, STOP
from geo_subset.retrieve.captions.names import CODE, FIRST, FULL, HOME, IN_REGION, NUMBER, SEVERAL
from geo_subset.retrieve.captions.trie import find, look_up, may_start
from geo_subset.retrieve.captions.words import ALL_CAPITALS, CAPITAL

_NEAR, _WITHIN, _NATURE, _STREET, _BODY = lexicon.NEAR, lexicon.WITHIN, lexicon.NATURE, lexicon.STREET, lexicon.BODY
_LOW = np.uint64(0xFFFFFFFF)


@inlined
def classify(t, s, first, last):  # type: ignore[no-untyped-def]
    """Sets the classes of words from `first` on, before `last`."""
    for word in range(first, last):
        s.classes[word] = 0
        if may_start(t.cue_starts, s.hashes[word]):
            value = look_up(t.cue_firsts, np.uint64(0), s.hashes[word])
            if value:
                s.classes[word] = t.classes[(value & _LOW) - np.uint64(1)]


@inlined
def may_name_region(t, word, capital):  # type: ignore[no-untyped-def]
    """Whether a region's name may begin with the word; `capital` is 1 if it is written with one."""
    return may_start(t.region_lower_starts, word) | (may_start(t.region_starts, word) & capital)


@inlined
def find_regions(t, s, words, candidates, mentions, has_lower):  # type: ignore[no-untyped-def]
    """Keeps in s.named the regions that may be meant as such, as they are written. Returns how many."""
    all_named = find(
        t.region_firsts, t.region_slots, t.region_steps, s.hashes, s.bases, words, candidates, s.named
    )  # fmt: skip
    kept = 0
    for i in range(all_named):
        start, stop, name = s.named[i, 0], s.named[i, 1], s.named[i, 2]
        written = t.written[name]
        if written != FULL:
            # 'in', 'or', 'me', 'miss': only in capitals (or one and a full stop), and only after a comma or a name
            capital = s.flags[start] & CAPITAL
            stopped = s.before[stop] & STOP
            if written == CODE and not ((s.flags[start] & ALL_CAPITALS and has_lower) or (capital and stopped)):
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
        s.named[kept, 0], s.named[kept, 1], s.named[kept, 2] = start, stop, name
        kept += 1
        if kept == MOST_REGIONS:
            break
    return kept


@inlined
def leave_regions(t, s, words, regions):  # type: ignore[no-untyped-def]
    """Keeps in s.named those that are no part of another name, as in 'Ohio River'. Returns how many."""
    kept = 0
    for i in range(regions):
        start, stop, name = s.named[i, 0], s.named[i, 1], s.named[i, 2]
        if stop < words and s.before[stop] == SPACE and s.flags[stop] & CAPITAL:
            classify(t, s, stop, stop + 1)
            if s.classes[stop] & (_NATURE | _STREET | _BODY):
                continue
        s.named[kept, 0], s.named[kept, 1], s.named[kept, 2] = start, stop, name
        kept += 1
    return kept


@inlined
def claim_regions(t, s, mentions, regions):  # type: ignore[no-untyped-def]
    """Sets in s.claims who goes with each region. The words must have been classified."""
    for i in range(regions):
        s.claims[i] = NO_CLAIM
        named = s.named[i, 2]
        start = back(s, s.named[i, 0])
        if start == 0 or t.meaning[named, 0] < 0:
            continue
        stopped = s.before[start] & STOP
        if s.flags[start - 1] & CAPITAL and not stopped and not s.classes[start - 1] & _WITHIN:
            s.claims[i] = UNKNOWN_CLAIM
        for m in range(mentions):
            if s.found[m, 1] == start:
                if has(t, s.found[m, 2], named):
                    s.claims[i] = m
                elif not stopped:
                    s.claims[i] = UNKNOWN_CLAIM


@inlined
def back(s, word):  # type: ignore[no-untyped-def]
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
def means(t, named, region):  # type: ignore[no-untyped-def]
    """Whether a region's name may mean the region of that number."""
    for i in range(t.meaning.shape[1]):
        if t.meaning[named, i] == region:
            return region >= 0
    return False


@inlined
def first_in(t, name, region):  # type: ignore[no-untyped-def]
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
def may_lie_in(t, s, name, regions):  # type: ignore[no-untyped-def]
    """Whether a place so called lies in one of the first `regions` of s.named."""
    for i in range(regions):  # noqa: SIM110 - numba compiles no generator within any()
        if has(t, name, s.named[i, 2]):
            return True
    return False


@inlined
def has(t, name, named):  # type: ignore[no-untyped-def]
    """Whether a place so called lies in what a region's name means."""
    home = t.about[name, HOME]
    if home != SEVERAL:
        return means(t, named, home)
    for i in range(t.meaning.shape[1]):
        region = t.meaning[named, i]
        if region < 0:
            return False
        at = first_in(t, name, region)
        last = t.about[name, FIRST] + t.about[name, NUMBER]
        if at < last and t.facts[t.by_region[at], IN_REGION] == region:
            return True
    return False
