"""One decision per mention: which place it means, if any of the table's, with a calibrated confidence (compiled).

A candidate's score is the sum of its features times the model's weights. A caption was taken at one place: among its
candidates of a level (cities and all else; counties; states), the confidence of one is exp(score) / (1 + the sum of
exp(score) over all), where 1 stands for none of them; several mentions of one place add up. Of a county or state that
an accepted finer place lies in, no row is made: there its name only says which place is meant.
"""

from __future__ import annotations

import numpy as np

from geo_subset.compiled import compiled, inlined
from geo_subset.retrieve.captions.evidence import INSIDE, gather
from geo_subset.retrieve.captions.names import CITY, COUNTY, IN_REGION, LEVEL, STATE

#: What `read` counts. mentions = accepted + context + refused + inside a region's name.
TALLIES = (
    "captions_with_a_name", "captions_cut", "mentions", "mentions_accepted", "mentions_context", "mentions_refused",
    "mentions_in_a_region_name",
)  # fmt: skip
_WITH, _CUT, _MENTIONS, _ACCEPTED, _CONTEXT, _REFUSED, _INSIDE = range(len(TALLIES))
_UNDECIDED, _TAKEN, _AS_CONTEXT = 0, 1, 2


@inlined
def _confidences(s, candidates, confidence):  # type: ignore[no-untyped-def]
    """Softmax within each level, with 'none of them' at score 0."""
    for level in range(CITY, STATE + 1):
        highest = np.float32(0)
        any_ = False
        for c in range(candidates):
            if s.level[c] == level:
                highest = max(highest, s.score[c])
                any_ = True
        if not any_:
            continue
        total = np.exp(-highest)
        for c in range(candidates):
            if s.level[c] == level:
                confidence[c] = np.exp(s.score[c] - highest)
                total += confidence[c]
        for c in range(candidates):
            if s.level[c] == level:
                confidence[c] /= total


@inlined
def _best(s, candidates, confidence, best):  # type: ignore[no-untyped-def]
    """best[mention, level]: the candidate of the highest confidence, the earlier of equals; -1 if there is none."""
    for c in range(candidates):
        m, of = s.mention[c], s.level[c]
        if best[m, of] < 0 or confidence[c] > confidence[best[m, of]]:
            best[m, of] = c


@inlined
def _total(s, candidates, confidence, c):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for other in range(candidates):
        if s.place[other] == s.place[c]:
            total += confidence[other]
    return min(total, np.float32(1))


@inlined
def _accept(t, s, mentions, candidates, least, confidence, best, state, caption, made, places, sure, rows):  # type: ignore[no-untyped-def]
    """Writes the accepted places from `made` on, finest level first; state[m] says what became of each mention."""
    begun = made
    for level in range(CITY, STATE + 1):
        for m in range(mentions):
            c = best[m, level]
            if c < 0:
                continue
            total = _total(s, candidates, confidence, c)
            if total < least or state[m] == _TAKEN:
                continue
            place = s.place[c]
            region = t.facts[place, IN_REGION]
            there = False  # the place itself, or one within it, is accepted already
            for i in range(begun, made):
                within = level > CITY and t.facts[places[i], LEVEL] < level and region >= 0
                there |= places[i] == place or (within and t.facts[places[i], IN_REGION] == region)
            for coarser in range(level + 1, STATE + 1):  # 'Washington' is more likely that state than this town
                other = best[m, coarser]
                if other >= 0 and t.facts[s.place[other], IN_REGION] != region:
                    there |= _total(s, candidates, confidence, other) > total
            if there:
                state[m] = _AS_CONTEXT
                continue
            state[m] = _TAKEN
            rows[made], places[made], sure[made] = caption, place, total
            made += 1
    return made


@compiled
def read(data, ends, begin, least, floors, weights, alone, t, s, confidence, best, state, rows, places, sure, tallies):  # type: ignore[no-untyped-def]
    """Reads captions from number `begin` on until they end or there is no room for another's rows.

    Args:
        data, ends: uint8 and int64 (N + 1,), an Arrow string buffer.
        least: float32, the confidence from which on a place is accepted. floors: `model.hopeless` of it.
        weights, alone: of `model`. t, s: `features.tables` and `features.scratch`.
        confidence, best, state: float32 (C,), int32 (C, levels), int8 (C,): space for C = MOST_CANDIDATES.
        rows, places, sure: int64, int32, float32, to be filled with caption, place and confidence.
        tallies: int64, TALLIES, added to.
    Returns:
        (the caption to go on from, rows filled).
    """
    made = 0
    most = s.mention.size
    for caption in range(begin, ends.size - 1):
        if made + most > rows.size:
            return caption, made
        mentions, candidates, cut = gather(data, ends[caption], ends[caption + 1], t, s, weights, alone, floors, False)
        tallies[_CUT] += cut
        if mentions == 0:
            continue
        tallies[_WITH] += 1
        tallies[_MENTIONS] += mentions
        if candidates == 0:
            for m in range(mentions):
                tallies[_INSIDE if s.fate[m] == INSIDE else _REFUSED] += 1
            continue
        _confidences(s, candidates, confidence)
        for m in range(mentions):
            best[m, CITY] = best[m, COUNTY] = best[m, STATE] = -1
            state[m] = _UNDECIDED
        _best(s, candidates, confidence, best)
        made = _accept(t, s, mentions, candidates, least, confidence, best, state, caption, made, places, sure, rows)
        for m in range(mentions):
            if state[m] == _TAKEN:
                tallies[_ACCEPTED] += 1
            elif state[m] == _AS_CONTEXT:
                tallies[_CONTEXT] += 1
            else:
                tallies[_INSIDE if s.fate[m] == INSIDE else _REFUSED] += 1
    return ends.size - 1, made
