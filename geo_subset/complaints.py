"""What is wrong with a tree of settings, in words: the key, the value, and what is allowed."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError


def told(error: ValidationError, model: type[BaseModel]) -> str:
    """One clause for each key that is wrong; `model` is what the tree should have been."""
    problems: dict[str, str] = {}
    for problem in error.errors():
        # A union reports a problem once for each of its members, whose names are no part of the key.
        location = [str(part) for part in problem["loc"] if not _is_union_member(part)]
        problems.setdefault(".".join(location), _describe(dict(problem), location, model))
    return "; ".join(problems.values())


def _describe(error: dict[str, Any], location: list[str], model: type[BaseModel]) -> str:
    key = ".".join(location)
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}{_known_keys(location, model)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key} = {error['input']!r}: {message[0].lower()}{message[1:]}"


def _is_union_member(part: object) -> bool:
    return isinstance(part, str) and (part == "constrained-int" or part.startswith(("tuple[", "dict[", "function-")))


def _known_keys(location: list[str], model: type[BaseModel]) -> str:
    section = model
    for name in location[:-1]:
        fields = {field.alias or key: field for key, field in section.model_fields.items()}
        annotation = fields[name].annotation if name in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        section = annotation
    known = [field.alias or key for key, field in section.model_fields.items()]
    close = difflib.get_close_matches(location[-1], known, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known: {', '.join(known)})"
