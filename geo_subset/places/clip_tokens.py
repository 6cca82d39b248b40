"""Whether CLIP reads a search text to its end: it takes 77 tokens, of which two mark start and end.

What is longer the server cuts off in silence. It mends a text (with ftfy) before it counts; of that, what names of
places hold is done here too: HTML entities, curly quotes, full-width letters, composed accents. On 235,000 names of
GeoNames and 59,000 captions the counts are CLIP's own. Where they differ (broken encodings, control characters), ours
is nearly always the higher, so that a text may lose a word too many, but is not cut by the server.
"""

from __future__ import annotations

import html
import unicodedata
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

LIMIT = 75
"""Tokens of a text."""
_LONGEST = 64  # bytes of the longest token in CLIP's vocabulary

_MENDED: dict[int, str] = {
    **dict.fromkeys(map(ord, "\u02bc\u2018\u2019\u201a\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"'),
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0)},
}


def fits(text: str) -> bool:
    """Whether CLIP takes the whole text."""
    if len(text) <= LIMIT and text.isascii() and "&" not in text:
        return True  # a token is at least a byte, so a short text needs no look at the vocabulary
    mended = unicodedata.normalize("NFC", html.unescape(html.unescape(text)).translate(_MENDED)).lower()
    # Only now bytes can be counted: 'Ⱥ' has two, but 'ⱥ' three, and each may be a token. White space is none.
    size = len("".join(mended.split()).encode())
    if not LIMIT < size <= LIMIT * _LONGEST:
        return size <= LIMIT
    return len(_tokenizer().encode(mended)) <= LIMIT


def surely_fit(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Which of N texts (string, null for none) fit at a glance: (N,) bool. Of the others `fits` tells."""
    blanks = pc.count_substring(texts, " ")
    short = pc.less_equal(pc.subtract(pc.binary_length(texts), blanks), LIMIT)
    plain = pc.and_(pc.string_is_ascii(texts), pc.invert(pc.match_substring(texts, "&")))
    return pc.fill_null(pc.and_(short, plain), False).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    # Late: few lists need its vocabulary.
    from instant_clip_tokenizer import Tokenizer

    return Tokenizer()
