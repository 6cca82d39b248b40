"""Text of other origin as a terminal or a log may show it: what it would obey, or could not write, is spelled out."""

from __future__ import annotations

import re

#: Control characters but the newline and the tab; what separates lines or turns the direction of what follows; halves
#: of characters, which no file takes.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text whose control characters are spelled out (`\\x1b`). Newlines and tabs stay."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def brief(text: str, most: int) -> str:
    """The same on one line, of at most `most` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
