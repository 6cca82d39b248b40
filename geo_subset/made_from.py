"""What a stage's results were made from, as the manifest notes it for people: settings, input files, the stage before.

The fingerprint decides whether results are those that are wanted. This says why they are not, and `status` goes by it:
it compares without the input files and the packages that read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from geo_subset.credentials import redact, redact_text
from geo_subset.manifests import Manifest

#: Characters of a value, and differences, that a message shows.
_VALUE, _SHOWN = 60, 4


def made_from(settings: Mapping[str, Any], before: Manifest | None, digests: Mapping[str, str]) -> dict[str, Any]:
    """Plain JSON. `settings` are those that shape the stage, nested as in a run file; `digests` are of input files."""
    return {
        "settings": dict(settings),
        "before": before.digest() if before else "",
        "inputs": {redact(path): digest for path, digest in digests.items()},
    }


def differences(was: Mapping[str, Any], now: Mapping[str, Any], before: str) -> list[str]:
    """What differs between two results of `made_from`, each in a few words. `before` names the stage before."""
    if not isinstance(was.get("settings"), dict):
        return ["an older version made them"]  # it did not note from what
    old, new = (dict(_flat(tree.get("settings", {}))) for tree in (was, now))
    found = [
        f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
        for key in dict.fromkeys([*new, *old])
        if old.get(key) != new.get(key)
    ]
    old_digests, new_files = digests(was), now.get("inputs", {})
    if old_digests != digests(now):
        changed = [path for path, digest in new_files.items() if digest not in old_digests]
        found.append(f"other input files: {', '.join(changed[:_SHOWN]) or 'fewer than before'}")
    if was.get("before") != now.get("before"):
        found.append(f"another result of {before}")
    if len(found) > _SHOWN:
        found[_SHOWN:] = [f"{len(found) - _SHOWN} more"]
    return found or ["other input files or versions"]


def digests(noted: Mapping[str, Any]) -> list[str]:
    """Those of the input files, sorted."""
    inputs = noted.get("inputs")
    return sorted(map(str, inputs.values())) if isinstance(inputs, dict) else []


def _flat(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, tree


def _shown(value: Any) -> str:
    text = "none" if value is None else redact_text(json.dumps(value, ensure_ascii=False))  # before it is cut
    return text if len(text) <= _VALUE else f"{text[:_VALUE]}..."
