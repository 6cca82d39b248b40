"""A mention taken for one of the places so called: what the caption says of that, and its score (compiled).

What holds of the mention whichever place is meant comes from `mentions`; `evidence` decides which places are looked at.
"""

from __future__ import annotations

import numpy as np

from geo_subset.compiled import inlined
from geo_subset.intrinsics import trailing_zeros
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
from geo_subset.retrieve.captions.names import (
    CROWD,
    FAME,
    IN_COUNTRY,
    IN_REGION,
    LEVEL,
    NUMBER,
    OUTSIDE,
    PEOPLE,
    STATE,
)  # fmt: skip
from geo_subset.retrieve.captions.regions import (
    back,
    means,
)

_SHARED_WIDTH = len(SHARED)


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
def add(t, s, m, others, place, regions, number, weights, least, collect):  # type: ignore[no-untyped-def]
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
def order(s, mentions, number, weights, collect):  # type: ignore[no-untyped-def]
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
