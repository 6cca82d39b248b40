"""English words: a place that is called like one (Mobile, Reading, Hope) is hard to find by its name alone."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources


@lru_cache(maxsize=1)
def words() -> frozenset[str]:
    """63,849 words in lower case, inflected forms included, proper names left out.

    They are those of two and more letters from a to z that SCOWL's list of American English (its words up to size 50,
    version 2020.12.07, as Debian's package `wamerican` builds it) writes in lower case; its licence lies beside them.
    """
    text = resources.files("geo_subset.places").joinpath("data/american_english.txt").read_text(encoding="ascii")
    return frozenset(text.split())
