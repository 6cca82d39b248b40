"""The same place from two gazetteers: a name in common, kinds that go together, and near enough for what it is."""

from __future__ import annotations

from geo_subset.places import geonames_cache

#: What a kind is in the way of size; of what is not listed, 'spot'.
GROUPS = {
    "unknown": ("place", "location"),
    "settlement": ("city", "town", "village", "hamlet", "locality"),
    "quarter": ("neighborhood", "borough", "suburb"),
    "region": ("state", "county"),
    "extended": (
        "airport", "amusement park", "area", "beach", "canyon", "college university", "forest", "golf course", "island",
        "lake", "mountain", "national park", "park", "river", "road", "ruin", "state park", "undersea", "university",
        "vegetation", "water", "waterfall", "zoo",
    ),
}  # fmt: skip
#: Kilometres between two points for the same place. A town's point is anything from its town hall to the middle of its
#: area or of its largest ZIP code, a park's the middle or the entrance, a building's the door or the roof. Other groups
#: do not go together. They are chosen on labelled pairs of real places (tests/places/same_place_pairs.csv).
REACH = {
    ("settlement", "settlement"): 25.0,
    ("quarter", "settlement"): 2.0,
    ("quarter", "quarter"): 3.0,
    ("settlement", "unknown"): 5.0,
    ("quarter", "unknown"): 2.0,
    ("extended", "extended"): 3.0,
    ("extended", "spot"): 0.3,
    ("extended", "unknown"): 1.0,
    ("spot", "spot"): 0.4,
    ("spot", "unknown"): 0.4,
    ("unknown", "unknown"): 0.4,
}
#: Kilometres for kinds smaller than a town of which neither is within the other's words, as 'museum' is within 'art
#: museum': a bank and a shop of one name are two places, a cafe and a coffee shop at one spot may be one.
OTHER_KIND = 0.1
#: Kilometres for towns whose regions have different names: outside of the United States, gazetteers cut them as they
#: please and spell them in several languages; there, different names are different states.
OTHER_REGION = 5.0
_VAGUE = (*GROUPS["unknown"], "building")
_EARTH_RADIUS_KM = 6371.0088  # mean radius, IUGG
#: Degrees of latitude, not less than the largest reach in the class: a pair lies in one band or in two neighbours.
_BANDS = {"town": 0.25, "small": 0.03}


def matches(earlier: str, later: str) -> str:
    """SQL: for rows of `later` that are a place of `earlier` too, their `position` and that place's `of_position`.

    Both name a table or view with the columns position, keys, kind, country, admin1, latitude and longitude; those of
    `later` are of one source. Of several places that fit, the nearest is taken, then the first; and of several rows
    that would be one place, only the nearest is: a chain's shops in one street stay apart. States and counties are the
    same by name, kind, country and region, and need no coordinates; the others need them, and are apart if known to lie
    in different countries or, for towns, US states.
    """
    return f"""
        WITH earlier_named AS ({_named(earlier, "[band]")}),
        later_named AS ({_named(later, "[band - 1, band, band + 1]")}),
        reach AS (SELECT unnest({[list(pair) for pair in REACH]}) AS pair, unnest({list(REACH.values())}) AS km),
        near AS (
            SELECT l.position, e.position AS of_position, {distance_km("l", "e")} AS km,
                list_sort([l.kind_group, e.kind_group]) AS pair, l.class,
                contains(l.kind, e.kind) OR contains(e.kind, l.kind) OR l.kind IN {_VAGUE} OR e.kind IN {_VAGUE}
                    AS same_kind,
                coalesce(l.country = e.country, true) AS same_country,
                coalesce(l.region = e.region, false) AS same_region, l.region <> e.region AND l.country = 'US' AS apart
            FROM later_named AS l JOIN earlier_named AS e ON l.key = e.key AND l.class = e.class AND l.band = e.band
        ), fitting AS (
            SELECT position, of_position, near.km FROM near JOIN reach ON near.pair = reach.pair
            WHERE near.km <= reach.km AND same_country AND CASE class
                WHEN 'small' THEN same_kind OR near.km <= {OTHER_KIND}
                ELSE same_region OR (near.km <= {OTHER_REGION} AND NOT coalesce(apart, false)) END
            UNION ALL
            SELECT l.position, e.position, 0.0
            FROM {later} AS l JOIN {earlier} AS e ON l.keys[1] = e.keys[1] AND lower(l.kind) = lower(e.kind)
                AND l.country = e.country AND {_region("l")} = {_region("e")}
            WHERE lower(l.kind) IN {GROUPS["region"]}
        ), nearest AS (
            SELECT position, arg_min(of_position, (km, of_position)) AS of_position, min(km) AS km
            FROM fitting GROUP BY position
        )
        SELECT arg_min(position, (km, position)) AS position, of_position FROM nearest GROUP BY of_position"""


def _named(rows: str, bands: str) -> str:
    """A row for each of a place's names, and for each of the bands it is looked for in."""
    groups = " ".join(f"WHEN kind IN {kinds} THEN '{group}'" for group, kinds in GROUPS.items())
    return f"""
        SELECT position, unnest(keys) AS key, kind, kind_group, class, country, region, latitude, longitude, band FROM (
            SELECT *, unnest({bands.replace("band", f"floor(latitude / {_band()})")}) AS band FROM (
                SELECT *, unnest(CASE WHEN kind_group IN ('settlement', 'quarter') THEN ['town']
                    WHEN kind_group = 'unknown' THEN ['town', 'small'] ELSE ['small'] END) AS class
                FROM (SELECT *, CASE {groups} ELSE 'spot' END AS kind_group FROM (
                    SELECT position, keys, lower(kind) AS kind, country, {_region("r")} AS region, latitude, longitude
                    FROM {rows} AS r
                ))
                WHERE kind_group <> 'region' AND latitude IS NOT NULL AND longitude IS NOT NULL
            )
        )"""


def _band() -> str:
    return f"CASE class WHEN 'town' THEN {_BANDS['town']} ELSE {_BANDS['small']} END"


def _region(row: str) -> str:
    """SQL: the name of a row's region, of US states also where it is their code."""
    names = ", ".join(f"'{code}': '{name}'" for code, name in geonames_cache.regions().items())
    known = f"coalesce(MAP {{{names}}}[upper({row}.admin1)], {row}.admin1)"
    return f"CASE WHEN coalesce({row}.country, 'US') = 'US' THEN {known} ELSE {row}.admin1 END"


def distance_km(a: str, b: str) -> str:
    """SQL: great-circle distance of two rows' coordinates, by the haversine formula."""
    north = f"sin(radians({b}.latitude - {a}.latitude) / 2)"
    east = f"sin(radians({b}.longitude - {a}.longitude) / 2)"
    inner = f"{north} ** 2 + cos(radians({a}.latitude)) * cos(radians({b}.latitude)) * {east} ** 2"
    return f"2 * {_EARTH_RADIUS_KM} * asin(sqrt(least(1.0, {inner})))"
