"""SQL (DuckDB) over names as gazetteers hold them: how they are written here, and which nobody could search for."""

from __future__ import annotations

#: Names that stand for no place, or for any of a kind, in lower case; GeoNames, Overture and OpenStreetMap all hold
#: thousands of each.
NAMELESS = (
    "n/a", "na", "name", "nameless", "no name", "none", "null", "test", "tbd", "unknown", "unnamed", "untitled",
)  # fmt: skip
GENERIC = (
    "apartment", "apartments", "atm", "bathroom", "beach", "bridge", "building", "bus stop", "cemetery", "church",
    "city hall", "clinic", "creek", "dam", "entrance", "exit", "farm", "field", "fire station", "garage", "gym", "hall",
    "headquarters", "hill", "home", "hospital", "hotel", "house", "island", "lake", "library", "lobby", "main campus",
    "main entrance", "main office", "main street", "market", "mountain", "museum", "office", "park", "parking",
    "parking garage", "parking lot", "playground", "pond", "pool", "post office", "reservoir", "restaurant", "restroom",
    "restrooms", "ridge", "river", "road", "school", "shop", "spring", "station", "statue", "store", "street", "summit",
    "toilet", "toilets", "town hall", "tower", "trail", "university", "valley", "warehouse", "waterfall",
)  # fmt: skip

# As list_source keeps and drops them: control characters, and marks that saved web pages bring along.
_INVISIBLE = r"[\x{0}-\x{8}\x{e}-\x{1b}\x{7f}-\x{84}\x{86}-\x{9f}\x{ad}\x{200b}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2060}\x{2066}-\x{2069}\x{feff}]"  # noqa: E501
_SPACE = r"[\s\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
_UNCLEAN = "[^ -~]|  |^ | $"


def clean(column: str) -> str:
    """The text in Unicode's form NFC, white space folded, invisible characters removed; null if nothing is left."""
    seen = f"regexp_replace({column}, '{_INVISIBLE}', '', 'g')"
    cleaned = f"nfc_normalize(trim(regexp_replace({seen}, '{_SPACE}', ' ', 'g')))"
    # Most names are clean, and one look costs a third of cleaning.
    return f"nullif(CASE WHEN regexp_matches({column}, '{_UNCLEAN}') THEN {cleaned} ELSE {column} END, '')"


def unsearchable(column: str, settlement: str) -> str:
    """True for a cleaned name of less than two letters (digits and signs are none), for NAMELESS and for GENERIC.

    One letter is enough in scripts that write whole words with one: Han, Hiragana, Katakana, Hangul. `settlement` is a
    condition for towns: Summit, Illinois, may be called so.
    """
    nameless, generic = (", ".join(f"'{word}'" for word in words) for words in (NAMELESS, GENERIC))
    letters = r"\pL[^\pL]*\pL|[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"
    return (
        f"(NOT regexp_matches({column}, '{letters}') OR lower({column}) IN ({nameless}) "
        f"OR lower({column}) IN ({generic}) AND NOT {settlement})"
    )


# Words that gazetteers write out or not, as they please.
_SHORT = {
    "st": "saint", "ste": "sainte", "mt": "mount", "mtn": "mountain", "ft": "fort", "intl": "international",
    "natl": "national", "ntl": "national", "univ": "university", "muni": "municipal", "arpt": "airport",
    "cty": "county", "ctr": "center", "centre": "center", "theatre": "theater", "the": "",
}  # fmt: skip


def key(column: str) -> str:
    """What two spellings of a cleaned name have in common: letters and digits in lower case, without accents.

    Blanks, punctuation and 'the' do not count, '&' is 'and', and usual abbreviations are written out: 'Mt. Vernon' and
    'Mount Vernon', 'DeKalb' and 'De Kalb' are one. A name of signs alone is its own key.
    """
    return _key(_joined(_words(column)), column)


def _words(column: str) -> str:
    text = f"replace(lower(strip_accents({column})), '&', ' and ')"
    text = rf"regexp_replace({text}, '[''’‘ʻʼ`´]', '', 'g')"
    return rf"' ' || regexp_replace({text}, '[^\pL\pN\pM]+', '  ', 'g') || ' '"  # two, for a word on either side


def _joined(words: str) -> str:
    whole = words
    for short, long in _SHORT.items():
        whole = f"replace({whole}, ' {short} ', ' {long} ')"
    # One look for all of them is cheaper than to replace what most names do not hold.
    return (
        f"replace(CASE WHEN regexp_matches({words}, ' ({'|'.join(_SHORT)}) ') THEN {whole} ELSE {words} END, ' ', '')"
    )


def _key(joined: str, column: str) -> str:
    return f"coalesce(nullif({joined}, ''), lower({column}))"


def with_keys(rows: str, name: str, alternates: str, kind: str) -> str:
    """SQL: the rows with a column `keys`, those that a place may be found by, that of its name first, each once.

    They are those of the name, of its alternates, of the name without what stands in brackets, and of airports without
    that word, which gazetteers put at their end or leave to the kind.
    """
    # Said one by one: a pattern within a lambda is compiled for every row.
    bare = rf"CASE WHEN contains({name}, '(') THEN trim(regexp_replace({name}, '\(.*?\)', ' ', 'g')) END"
    untyped = f"CASE WHEN {kind} = 'airport' THEN regexp_replace({name}, '(?i) (airport|arpt)$', '') END"
    further = f"""CASE WHEN len({alternates}) > 0 THEN list_transform({alternates}, lambda other: {key("other")})
            ELSE [] END
        || CASE WHEN {kind} = 'airport' OR contains({name}, '(')
            THEN list_filter([{key(f"nullif({bare}, '')")}, {key(f"nullif({untyped}, '')")}], lambda k: k IS NOT NULL)
            ELSE [] END"""
    # What an expression names twice would be worked out twice: so the key of the name is made in steps.
    return f"""
        SELECT * EXCLUDE (words, joined, own_key, further_keys),
            [own_key] || CASE WHEN len(further_keys) > 0
                THEN list_sort(list_filter(list_distinct(further_keys), lambda k: k <> own_key)) ELSE [] END AS keys
        FROM (SELECT *, {_key("joined", name)} AS own_key, {further} AS further_keys
            FROM (SELECT *, {_joined("words")} AS joined FROM (SELECT *, {_words(name)} AS words FROM {rows})))"""
