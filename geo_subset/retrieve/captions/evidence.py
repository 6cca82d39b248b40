"""What a caption says for and against each place that a name in it may mean, as numbers (compiled).

A mention is a name found in a caption; a candidate is a mention with one of the places so called. `gather` finds both,
and weighs what nothing can be accepted of as little as it can; `candidates` scores the rest, and `decide` weighs them.
docs/captions.md tells the same in prose.
"""

from __future__ import annotations

import numpy as np

from geo_subset.compiled import inlined
from geo_subset.intrinsics import prefetch
from geo_subset.retrieve.captions import lexicon
from geo_subset.retrieve.captions.candidates import add, order
from geo_subset.retrieve.captions.features import (
    MOST_BYTES,
    MOST_CANDIDATES,
    MOST_MENTIONS,
    MOST_PLACES,
    OTHER_NAMES,
    SHARED,
)  # fmt: skip
from geo_subset.retrieve.captions.mentions import (
    follows,
    precedes,
    weigh_form,
    weigh_next,
    weigh_previous,
    weigh_words,
)
from geo_subset.retrieve.captions.names import (
    CEILING,
    CITY,
    COARSE,
    FIRST,
    IN_REGION,
    NUMBER,
    PLACE,
    TRAITS,
)  # fmt: skip
from geo_subset.retrieve.captions.plain import split_plain
from geo_subset.retrieve.captions.regions import (
    claim_regions,
    classify,
    find_regions,
    first_in,
    leave_regions,
    may_lie_in,
    may_name_region,
)
from geo_subset.retrieve.captions.trie import find, may_be_name, may_start
from geo_subset.retrieve.captions.words import CAPITAL, HAS_LOWER, split

_GOODS = lexicon.GOODS
#: Logarithms of numbers of mentions.
_LOGS = np.log(np.maximum(np.arange(MOST_MENTIONS + 1), 1), dtype=np.float32)
_SHARED_BYTES = -(-len(SHARED) // 8)
#: What becomes of a mention: it has candidates; it is part of a region's name; it is not worth a look at its places.
OPEN, INSIDE, HOPELESS = 0, 1, 2


@inlined
def _first_words(t, s, words):  # type: ignore[no-untyped-def]
    """Sets s.found and s.named to the words that may begin a name, and a region's, as `find` takes them. Returns how
    many there are of each."""
    places = regions = 0
    for word in range(np.uint64(words)):
        hashed, base, capital = s.hashes[word], s.bases[word], np.uint64(s.flags[word] & CAPITAL)
        place, alone = may_start(t.starts, hashed), may_be_name(t.starts, hashed)
        region = may_name_region(t, hashed, capital)
        if base:
            alone |= may_be_name(t.starts, base)
            region |= may_name_region(t, base, capital)
        s.found[places, 0], s.found[places, 1] = word, alone
        s.named[regions, 0], s.named[regions, 1] = word, 1
        places += np.int64(place | alone)  # a branch on it would be mispredicted
        regions += np.int64(region)
    return places, regions


@inlined
def _at_most(t, s, m, x, others, weights, alone):  # type: ignore[no-untyped-def]
    """No less than the log of the sum of exp(score) of a mention's places, if no region is named, and the features `x`
    hold whichever is meant."""
    total = t.about[s.found[m, 2], CEILING] * np.float32(0.001) + weights[CITY, OTHER_NAMES] * others
    for i in range(_SHARED_BYTES):
        total += alone[i, x & np.uint64(255)]
        x >>= np.uint64(8)
    return total


@inlined
def _within_region(s, m, regions):  # type: ignore[no-untyped-def]
    """Whether a mention is part of a longer name of a region: 'York' in 'New York'."""
    within = False
    for i in range(regions):
        longer = s.named[i, 1] - s.named[i, 0] > s.found[m, 1] - s.found[m, 0]
        within |= longer and s.named[i, 0] <= s.found[m, 0] and s.named[i, 1] >= s.found[m, 1]
    return within


@inlined
def _hopes(t, s, m, regions):  # type: ignore[no-untyped-def]
    """Whether a mention may mean more than `_at_most` tells of: a county or a state, or a place in a region named."""
    name = s.found[m, 2]
    return t.about[name, TRAITS] & COARSE != 0 or (regions > 0 and may_lie_in(t, s, name, regions))


@inlined
def _beside(t, s, m, regions, floors):  # type: ignore[no-untyped-def]
    """What that regions are named which none of a mention's places lies in adds to what `_at_most` tells, at most."""
    for i in range(regions):
        overlaps = s.named[i, 0] < s.found[m, 1] and s.found[m, 0] < s.named[i, 1]
        if t.meaning[s.named[i, 2], 0] >= 0 and not overlaps:
            return floors.named
    return np.float32(0)


@inlined
def gather(data, start, stop, t, s, weights, alone, floors, collect):  # type: ignore[no-untyped-def]
    """Reads one caption, data[start:stop]. Returns (mentions, candidates, whether anything was cut off).

    s holds both, candidates by mention in order, with their scores by `weights` and `alone` (of `model`). Those below
    `floors` are left out; a mention inside the longer name of a region ('York' in 'New York') has none, and its fate is
    INSIDE. With `collect`, the features are kept as well, for `dense`.
    """
    end = min(stop, start + MOST_BYTES)
    words = split_plain(data, start, end, t.separator, t.starts, t.steps, s)
    if words < 0:
        words = split(data, start, end, t.entry, t.more, t.separator,
                      s.hashes, s.bases, s.begins, s.ends, s.flags, s.before)  # fmt: skip
    may_be_names, may_be_regions = _first_words(t, s, words)
    mentions = find(t.firsts, t.slots, t.steps, s.hashes, s.bases, words, may_be_names, s.found)
    cut = stop - start > MOST_BYTES or mentions > MOST_MENTIONS
    mentions = min(mentions, MOST_MENTIONS)
    if mentions == 0:
        return 0, 0, cut
    for m in range(mentions):
        prefetch(t.about, np.uint64(s.found[m, 2]))
    capitals = 0
    has_lower = False
    for i in range(words):
        capitals += s.flags[i] & CAPITAL
        has_lower |= s.flags[i] & HAS_LOWER != 0
    regions = find_regions(t, s, words, may_be_regions, mentions, has_lower)
    if regions:
        regions = leave_regions(t, s, words, regions)
    others = np.float32(min(mentions - 1, 8) / 4.0)
    # No place has a higher score than all of a name's have together, and no caption a higher confidence for a place
    # than if all of its mentions meant it. So most captions are told from the names alone to have nothing to accept,
    # if no name is a county's or a state's, nor has a place in a region that is named.
    hopeful = False
    enough = floors.caption - _LOGS[mentions]
    for m in range(mentions):
        x = weigh_form(t, s, m, words, capitals)
        s.shared[m], s.fate[m], s.base_level[m] = x, OPEN, -1
        more, stop = floors.anywhere, s.found[m, 1]
        if regions:
            if _within_region(s, m, regions):
                s.fate[m] = INSIDE
                continue
            more += _beside(t, s, m, regions, floors)
            if m + 1 < mentions and s.found[m + 1, 0] <= stop + 1:
                more += floors.listed
        if _hopes(t, s, m, regions):
            hopeful = True
            continue
        most = _at_most(t, s, m, x, others, weights, alone) + more
        if follows(s, x, stop):
            most += floors.next
        if precedes(x):
            most += floors.previous
        if most >= enough:
            classify(t, s, max(0, s.found[m, 0] - 2), min(words, stop + 1))
            x |= weigh_next(s, m, words, capitals, regions) | weigh_previous(s, m, words, capitals)
            most = _at_most(t, s, m, x, others, weights, alone) + more
            hopeful |= most >= enough
        if regions == 0 and most < floors.alone:
            s.fate[m] = HOPELESS
    if not hopeful:
        return mentions, 0, cut
    for m in range(mentions):
        if s.fate[m] == OPEN:
            prefetch(t.facts, np.uint64(t.about[s.found[m, 2], PLACE]))
    classify(t, s, 0, words)
    if regions:
        claim_regions(t, s, mentions, regions)
    goods = False
    for i in range(words):
        goods |= s.classes[i] & _GOODS != 0
    hopeful = False
    for m in range(mentions):
        if s.fate[m] != OPEN:
            continue
        s.shared[m] |= weigh_words(t, s, m, mentions, words, capitals, goods, regions)
        if _hopes(t, s, m, regions):
            hopeful = True
            continue
        most = _at_most(t, s, m, s.shared[m], others, weights, alone) + _beside(t, s, m, regions, floors)
        hopeful |= most >= enough
        if regions == 0 and most < floors.alone:
            s.fate[m] = HOPELESS
    if not hopeful:
        return mentions, 0, cut
    number, least = 0, floors.least
    for m in range(mentions):
        if s.fate[m] != OPEN:
            continue
        name = s.found[m, 2]
        first = t.about[name, FIRST]
        last = first + t.about[name, NUMBER]
        if last == first + 1:  # as nearly all are: the place is known without another look
            if number < MOST_CANDIDATES:
                number = add(t, s, m, others, t.about[name, PLACE], regions, number, weights, least, collect)
            continue
        all_of = last - first
        if all_of > MOST_PLACES:
            # Of hundreds so called: those in the regions named, and else the most populous
            for i in range(regions):
                for j in range(t.meaning.shape[1]):
                    region = t.meaning[s.named[i, 2], j]
                    at = first_in(t, name, region) if region >= 0 else last
                    taken = 0
                    while at < last and t.facts[t.by_region[at], IN_REGION] == region and taken < MOST_PLACES:
                        if number < MOST_CANDIDATES:
                            number = add(
                                t, s, m, others, t.by_region[at], regions, number, weights, floors.least, collect
                            )
                        at += 1
                        taken += 1
            last = first + MOST_PLACES
        for at in range(first, last):
            if number < MOST_CANDIDATES:
                known = False
                if all_of > MOST_PLACES:
                    for c in range(number):
                        known |= s.mention[c] == m and s.place[c] == t.places[at]
                if not known:
                    number = add(t, s, m, others, t.places[at], regions, number, weights, least, collect)
    order(s, mentions, number, weights, collect)
    return mentions, number, cut or number == MOST_CANDIDATES
