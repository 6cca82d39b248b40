"""Counts and reasons as a user reads them in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def counted(number: int, noun: str) -> str:
    """(1, 'place') -> '1 place', (1096, 'place') -> '1,096 places'"""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def some(names: Sequence[str], shown: int = 3) -> str:
    """('a', 'b', 'c', 'd', 'e') -> 'a, b, c and 2 more'"""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"


def most_frequent(reasons: Mapping[str, int], shown: int = 3) -> str:
    """{'timed out': 39, 'http 404': 150} -> 'http 404 (150), timed out (39)'; those beyond `shown` share one count."""
    ranked = sorted((-count, reason) for reason, count in reasons.items() if count)
    words = [f"{reason} ({-count:,})" for count, reason in ranked[:shown]]
    if rest := ranked[shown:]:
        words.append(f"{counted(len(rest), 'other reason')} ({-sum(count for count, _ in rest):,})")
    return ", ".join(words)


def because(what: str, reasons: Mapping[str, int], noun: str = "") -> str:
    """('failed', {'dns': 2}, 'image') -> '; 2 images failed: dns (2)'; nothing if nothing is counted."""
    total = sum(reasons.values())
    return f"; {counted(total, noun) if noun else f'{total:,}'} {what}: {most_frequent(reasons)}" if total else ""


def chosen(counters: Mapping[str, int], words: Mapping[str, str]) -> dict[str, int]:
    """The counters that `words` names, under these words."""
    return {word: counters[name] for name, word in words.items() if counters.get(name)}


def prefixed(counters: Mapping[str, int], prefix: str) -> dict[str, int]:
    """The counters whose names begin so: {'dropped_no_name': 3} -> {'no name': 3}"""
    return {
        name.removeprefix(prefix).replace("_", " "): count
        for name, count in counters.items()
        if name.startswith(prefix) and count
    }
