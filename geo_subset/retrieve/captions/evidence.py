"""What a caption says for and against each place that a name in it may mean, as numbers (compiled).

A mention is a name found in a caption; a candidate is a mention with one of the places so called. `gather` sets the
features of each; `decide` weighs them. docs/captions.md tells the same in prose.
"""

from __future__ import annotations

import numpy as np

from geo_subset.compiled import inlined
from geo_subset.intrinsics import prefetch, trailing_zeros
from geo_subset.retrieve.captions import lexicon
from geo_subset.retrieve.captions.features import (
    ADJACENT_ELSEWHERE,
    COUNTRY_NAMED,
    CROWD_NONE,
    CROWD_OWN,
    END_NONE,
    ENGLISH_WORD,
    ENGLISH_WORD_NONE,
    FAME_NONE,
    FAME_OWN,
    FAME_UNKNOWN,
    FIRST_ADJACENT,
    LATER_ADJACENT,
    MOST_BYTES,
    MOST_CANDIDATES,
    MOST_MENTIONS,
    MOST_PLACES,
    NEXT_END,
    NO_CLAIM,
    NONE_NAMED,
    OTHER_ADJACENT,
    OTHER_COUNTRY_ADJACENT,
    OTHER_COUNTRY_NAMED,
    OTHER_NAMED,
    OTHER_NAMES,
    OTHER_NEXT,
    OUTSIDE_NONE,
    OUTSIDE_OWN,
    OWN_ADJACENT,
    OWN_ADJACENT_BEFORE,
    OWN_AFTER,
    OWN_AFTER_CLAIMED,
    OWN_AFTER_UNKNOWN,
    OWN_BEFORE,
    OWN_BEFORE_CLAIMED,
    OWN_BEFORE_UNKNOWN,
    OWN_NEXT,
    PEOPLE_NONE,
    PEOPLE_OWN,
    PEOPLE_UNKNOWN,
    PERSON_NAME,
    PERSON_NAME_NONE,
    PREVIOUS_NONE,
    REGION_NAME,
    REGION_NAME_OWN,
    SHARE_NONE,
    SHARE_OWN,
    SHARED,
    START_NONE,
    UNKNOWN_CLAIM,
    WIDTH,
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
    CROWD,
    FAME,
    FIRST,
    IN_COUNTRY,
    IN_REGION,
    LEVEL,
    NUMBER,
    OUTSIDE,
    PEOPLE,
    PLACE,
    STATE,
    TRAITS,
)  # fmt: skip
from geo_subset.retrieve.captions.plain import split_plain
from geo_subset.retrieve.captions.regions import (
    back,
    candidates,
    claim_regions,
    classify,
    find_regions,
    first_in,
    leave_regions,
    may_lie_in,
    means,
)
from geo_subset.retrieve.captions.trie import find
from geo_subset.retrieve.captions.words import CAPITAL, HAS_LOWER, split

_GOODS = lexicon.GOODS
_LOGS = np.log(np.maximum(np.arange(MOST_MENTIONS + 1), 1), dtype=np.float32)
_SHARED_WIDTH, _SHARED_BYTES = len(SHARED), -(-len(SHARED) // 8)
#: What becomes of a mention: it has candidates; it is part of a region's name; it is not worth a look at its places.
OPEN, INSIDE, HOPELESS = 0, 1, 2


@inlined
def _relation(t, s, m, region, regions):  # type: ignore[no-untyped-def]
    """How the naming of a region stands to a mention: a feature of RELATIONS."""
    start, stop = s.found[m, 0], s.found[m, 1]
    best = np.int64(NONE_NAMED)
    next_seen = False
    for i in range(regions):
        first, last, named = s.named[i, 0], s.named[i, 1], s.named[i, 2]
        if t.meaning[named, 0] < 0 or (first < stop and start < last):
            continue
        claim = s.claims[i]
        near = back(s, first)
        own = means(t, named, region)
        relation = np.int64(OTHER_NAMED)
        if near == stop or first == stop:
            relation = np.int64(OWN_ADJACENT if own else OTHER_ADJACENT)
        elif own and first > stop:
            if not next_seen and first - stop <= 4 and claim != UNKNOWN_CLAIM:
                relation = np.int64(OWN_NEXT)
            elif claim == UNKNOWN_CLAIM:
                relation = np.int64(OWN_AFTER_UNKNOWN)
            else:
                relation = np.int64(OWN_AFTER if claim == NO_CLAIM else OWN_AFTER_CLAIMED)
        elif first > stop:
            if not next_seen and first - stop <= 4:
                relation = np.int64(OTHER_NEXT)
        elif own:
            if last == start and claim == NO_CLAIM:
                relation = np.int64(OWN_ADJACENT_BEFORE)
            elif claim == UNKNOWN_CLAIM:
                relation = np.int64(OWN_BEFORE_UNKNOWN)
            else:
                relation = np.int64(OWN_BEFORE if claim == NO_CLAIM else OWN_BEFORE_CLAIMED)
        if first >= stop:
            next_seen = True
        best = min(best, relation)
    return best


@inlined
def _tell(s, c, feature, value, weight, collect):  # type: ignore[no-untyped-def]
    """What a feature adds to the score of candidate c. With `collect` it is kept, for a model to be fitted on."""
    if collect and value != 0:
        at = s.extras[c]
        s.extra[c, at], s.value[c, at] = feature, value
        s.extras[c] = at + 1
    return value * weight[feature]


@inlined
def _candidate(t, s, m, others, place, regions, c, weight, collect):  # type: ignore[no-untyped-def]
    """What holds of a mention besides if a certain place is meant: sets candidate c's relation, returns its score."""
    name, x = s.found[m, 2], s.shared[m]
    score = _tell(s, c, OTHER_NAMES, np.float32(others), weight, collect)
    region, country = np.int32(t.facts[place, IN_REGION]), np.int32(t.facts[place, IN_COUNTRY])
    if t.facts[place, LEVEL] == STATE:  # its own name is the region's: what counts is whether another name goes with it
        relation = np.int64(OWN_AFTER)
        others = False
        for i in range(regions):
            if s.named[i, 0] == s.found[m, 0] and s.named[i, 1] == s.found[m, 1]:
                if s.claims[i] == UNKNOWN_CLAIM:
                    relation = np.int64(OWN_AFTER_UNKNOWN)
                elif s.claims[i] >= 0:
                    relation = np.int64(OWN_AFTER_CLAIMED)
            elif t.meaning[s.named[i, 2], 0] >= 0 and not means(t, s.named[i, 2], region):
                others = True
        score += _tell(s, c, relation, np.float32(1), weight, collect)
        if others:
            score += _tell(s, c, OTHER_NAMED, np.float32(1), weight, collect)
        own = False
    else:
        relation = _relation(t, s, m, region, regions)
        score += _tell(s, c, relation, np.float32(1), weight, collect)
        own = relation < OTHER_ADJACENT
    here = elsewhere = adjacent = False
    for i in range(regions):
        nation = t.nation[s.named[i, 2]]
        if nation < 0 or (s.named[i, 0] < s.found[m, 1] and s.found[m, 0] < s.named[i, 1]):
            continue
        if nation == country:
            here = True
        elif t.meaning[s.named[i, 2], 0] < 0:  # not Georgia, which is a state as well
            elsewhere = True
            adjacent |= s.named[i, 0] == s.found[m, 1]
    if here:
        score += _tell(s, c, COUNTRY_NAMED, np.float32(1), weight, collect)
    if elsewhere:
        score += _tell(s, c, OTHER_COUNTRY_NAMED, np.float32(1), weight, collect)
    if adjacent:
        score += _tell(s, c, OTHER_COUNTRY_ADJACENT, np.float32(1), weight, collect)
    people = t.facts[place, PEOPLE]
    number = t.about[name, NUMBER]
    crowd = np.log10(np.float32(number)) if number > 1 else np.float32(0)
    share = t.about[name, CROWD] * np.float32(0.001)
    if people < 0:
        score += _tell(s, c, PEOPLE_UNKNOWN, np.float32(1), weight, collect)
        people = np.float32(0)
    fame = t.facts[place, FAME]
    if fame < 0:
        score += _tell(s, c, FAME_UNKNOWN, np.float32(1), weight, collect)
    else:
        score += _tell(s, c, FAME_OWN if own else FAME_NONE, fame, weight, collect)
    excess = max(np.float32(0), t.about[name, OUTSIDE] * np.float32(0.001) - people)
    if own:
        score += _tell(s, c, REGION_NAME_OWN, _is(x, REGION_NAME), weight, collect)
        score += _tell(s, c, PEOPLE_OWN, people, weight, collect)
        score += _tell(s, c, SHARE_OWN, min(people - share, np.float32(0)), weight, collect)
        score += _tell(s, c, OUTSIDE_OWN, excess, weight, collect)
        score += _tell(s, c, CROWD_OWN, crowd, weight, collect)
    else:
        score += _tell(s, c, PEOPLE_NONE, people, weight, collect)
        score += _tell(s, c, SHARE_NONE, min(people - share, np.float32(0)), weight, collect)
        score += _tell(s, c, OUTSIDE_NONE, excess, weight, collect)
        score += _tell(s, c, CROWD_NONE, crowd, weight, collect)
        score += _tell(s, c, ENGLISH_WORD_NONE, _is(x, ENGLISH_WORD), weight, collect)
        score += _tell(s, c, START_NONE, _is(x, PREVIOUS_NONE), weight, collect)
        score += _tell(s, c, END_NONE, _is(x, NEXT_END), weight, collect)
        score += _tell(s, c, PERSON_NAME_NONE, _is(x, PERSON_NAME), weight, collect)
    s.relation[c] = relation
    return score


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
def _add(t, s, m, others, place, regions, number, weights, least, collect):  # type: ignore[no-untyped-def]
    """Adds a candidate as the `number`-th, unless its score is below `least`. Returns how many there are now."""
    level = np.int8(t.facts[place, LEVEL])
    if s.base_level[m] != level:
        s.base_level[m], s.base_score[m] = level, _sum(s.shared[m], weights[level])
    s.mention[number], s.place[number], s.level[number], s.extras[number] = m, place, level, 0
    score = s.base_score[m] + _candidate(t, s, m, others, place, regions, number, weights[level], collect)
    s.score[number] = score
    # A region beside a name counts for the caption's other names, too.
    return number + 1 if score >= least or s.relation[number] == OWN_ADJACENT else number


@inlined
def _is(x, feature):  # type: ignore[no-untyped-def]
    return np.float32(x >> np.uint64(feature) & np.uint64(1))


@inlined
def _sum(x, weight):  # type: ignore[no-untyped-def]
    """The weights of the features that hold."""
    total = np.float32(0)
    while x:
        total += weight[trailing_zeros(x)]
        x &= x - np.uint64(1)
    return total


@inlined
def dense(s, c, row):  # type: ignore[no-untyped-def]
    """All features of candidate c into row (F,)."""
    for f in range(WIDTH):
        row[f] = _is(s.shared[s.mention[c]], f) if f < _SHARED_WIDTH else np.float32(0)
    for i in range(s.extras[c]):
        row[s.extra[c, i]] = s.value[c, i]


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
    may_be_names, may_be_regions = candidates(t, s, words)
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
                number = _add(t, s, m, others, t.about[name, PLACE], regions, number, weights, least, collect)
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
                            number = _add(
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
                    number = _add(t, s, m, others, t.places[at], regions, number, weights, least, collect)
    _order(s, mentions, number, weights, collect)
    return mentions, number, cut or number == MOST_CANDIDATES


@inlined
def _order(s, mentions, number, weights, collect):  # type: ignore[no-untyped-def]
    """Adds what depends on the caption's other mentions: whether a name before or after has its region beside it."""
    first, last = mentions, -1
    for c in range(number):
        if s.relation[c] == OWN_ADJACENT:
            first, last = min(first, s.mention[c]), max(last, s.mention[c])
    if last < 0:
        return
    one = np.float32(1)
    for c in range(number):
        m, weight = s.mention[c], weights[s.level[c]]
        if s.relation[c] != OWN_ADJACENT:
            s.score[c] += _tell(s, c, ADJACENT_ELSEWHERE, one, weight, collect)
        elif m > first:
            s.score[c] += _tell(s, c, LATER_ADJACENT, one, weight, collect)
        elif first != last:
            s.score[c] += _tell(s, c, FIRST_ADJACENT, one, weight, collect)
