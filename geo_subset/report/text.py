"""Words and numbers as the page and the plots show them."""

from __future__ import annotations

import unicodedata

#: Characters of a text from outside that the numbers hold and the page shows: names, domains, reasons.
LONGEST = 160
#: Of a caption, and of a URL; a page does not link to longer ones.
LONGEST_CAPTION, LONGEST_URL = 300, 2000


def percent(share: float) -> str:
    """0.37881 -> '37.88 %'"""
    return f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """4.2 -> '4.2 s', 80 -> '1 min 20 s', 7300 -> '2 h 1 min'"""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def size(count: float) -> str:
    """999 -> '999 B', 4802966 -> '4.8 MB'"""
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:,.0f} {units[0]}" if units[0] == "B" or count >= 99.95 else f"{count:.1f} {units[0]}"


def money(amount: float) -> str:
    """0.00042 -> '0.00042', 1234.567 -> '1,234.57', 0.00001 -> '<0.0001'"""
    if 0 < amount < 0.0001:
        return "<0.0001"
    return f"{amount:.2g}" if 0 < amount < 0.1 else f"{amount:,.2f}"


def plain(text: str | None, longest: int = LONGEST) -> str:
    """One line of text, cut where it is long: white space and characters that cannot be shown become single spaces.

    Such characters are those of control, and those that turn the direction of what follows. No accent is cut from its
    letter.
    """
    start = (text or "")[: 10 * longest]
    line = " ".join("".join(c if c.isprintable() else " " for c in start).split())
    if len(line) <= longest:
        return line
    end = longest - 1
    while end and unicodedata.combining(line[end]):
        end -= 1
    return line[:end].rstrip() + "…"
