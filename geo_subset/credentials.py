"""Credentials in URLs: what they are, and how to show text without them.

A URL holds some as `user:password@` before its host (`KEY:SECRET@bucket`), or as values of its query (`token=`,
`X-Amz-Signature=`). Each stands as `***` in whatever is written or printed. Text of other origin, an error or what a
server answers, may repeat a password without its URL: those that `remember` was told of are hidden there as well.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

HIDDEN = "***"
#: Environment variables: whole URLs, apart by white space; and a file of them, one a line.
VARIABLE, FILE_VARIABLE = "GEO_SUBSET_CREDENTIALS", "GEO_SUBSET_CREDENTIALS_FILE"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*://"
#: A URL, or several of fsspec's chained by '::', within text.
_IN_TEXT = re.compile(rf"{_SCHEME}(?:(?!{_SCHEME})[^\s<>\"`])*")
_WHOLE = re.compile(rf"(?:[A-Za-z0-9+.\-]+::)*{_SCHEME}\S")
#: Names of a query whose values are credentials, '_' for '-'.
_SECRET_NAMES = re.compile(
    r"(x-(amz|goog|ms|oss|cos|obs)-.*|.*(token|secret|password|passwd|passphrase|pwd|signature|credential|credentials)"
    r"|(.*-)?key|.*(apikey|accesskey|accesskeyid|privatekey)|sig|hmac|auth|authorization|jwt|session|sessionid"
    r"|key-pair-id|pass|pw|.*-(sig|pass|auth))",
    re.IGNORECASE,
)
_SIGNATURES = re.compile(r"sig|.*signature|hmac", re.IGNORECASE)
#: What a signature is made with, and made anew with: of shared access signatures (Azure) and of CloudFront.
_SIGNED_WITH = {"expires", "policy", *("se", "st", "sp", "sv", "sr", "spr", "sip", "skoid", "sktid", "skt", "ske")}
_SIGNED_WITH |= {"sks", "skv", "ss", "srt", "key-pair-id"}
_PAIR = re.compile(r"(?P<start>[?&#;])(?P<name>[^=&#;?\s'\"]+)=(?P<value>[^&#;\s'\"<>]*)")
#: Shorter ones are not looked for by themselves: they may be words like any other.
_LEAST = 8

_known: set[str] = set()


def redact(url: str) -> str:
    """A URL without its credentials; what holds none comes back as it is."""
    return _without_pairs(_without_users(url)) if "://" in url else url


def redact_text(text: str) -> str:
    """Text, an error or a line of a log, without the credentials of the URLs in it."""
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", HIDDEN, text)
    return _IN_TEXT.sub(lambda found: redact(found[0]), text) if "://" in text else text


def redact_all(tree: Any) -> Any:
    """The same for all texts of plain data."""
    return _mapped(tree, redact_text)


def redact_settings(tree: Any) -> Any:
    """The same for the settings that are URLs as a whole; a condition or a prompt that speaks of one is left alone."""
    return _mapped(tree, lambda text: redact(text) if _WHOLE.match(text) else text)


def remember(tree: Any) -> None:
    """Has `redact_text` hide, from now on and in this process, the credentials of the URLs in some plain data."""
    for text in _texts(tree):
        if "://" in text and HIDDEN not in text:
            _known.update(secret for secret in _secrets(text) if len(secret) >= _LEAST)


def lacking(url: str) -> str:
    """What to tell of a URL whose credentials are hidden, where it is needed whole; empty if they are not."""
    if "://" not in url or not re.search(r"://\*\*\*@|=\*\*\*", url):
        return ""
    return (
        "its credentials are not kept with the run. Give the whole URL once more: in the environment variable "
        f"{VARIABLE}, or in a file that only you can read (mode 0600) and that {FILE_VARIABLE} names"
    )


def filled_in(tree: Any, given: Iterable[str]) -> Any:
    """Plain data, with the whole URL, if it is among those given, for each whose credentials are hidden."""
    whole = {_bare(redact(url)): url for url in given}
    return _mapped(tree, lambda text: whole.get(_bare(text), text) if HIDDEN in text else text)


def _bare(url: str) -> str:
    return url.rstrip("/").removesuffix("/knn-service")


def _without_users(url: str) -> str:
    parts = re.split(rf"({_SCHEME})", url)
    for i in range(2, len(parts), 2):
        user = _user(parts[i - 1], parts[i])
        if user:
            parts[i] = f"{HIDDEN}@{parts[i][len(user) + 1 :]}"
    return "".join(parts)


def _user(scheme: str, rest: str) -> str:
    """What stands before the '@' of a URL, if it holds more than a name (of a user; of Azure's container)."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if not at:  # a key may hold a slash that was not quoted: 'KEY:SEC/RET@bucket'
        name, colon, after = authority.partition(":")
        unquoted = colon and name and not name.startswith("[") and not re.fullmatch(r"\d*['\"\])},;:]*", after)
        user = rest.split("@", 1)[0] if unquoted and "@" in rest else ""
    is_secret = ":" in user or unquote(user) != user or scheme.lower() in ("http://", "https://")
    return user if is_secret else ""


def _is_secret(name: str, signed: bool) -> bool:
    plain = unquote_plus(name).strip().replace("_", "-").lower()
    return bool(_SECRET_NAMES.fullmatch(plain)) or (signed and plain in _SIGNED_WITH)


def _is_signed(text: str) -> bool:
    return any(_SIGNATURES.fullmatch(unquote_plus(found["name"]).strip()) for found in _PAIR.finditer(text))


def _without_pairs(url: str) -> str:
    signed = _is_signed(url)
    return _PAIR.sub(
        lambda found: f"{found['start']}{found['name']}={HIDDEN}" if _is_secret(found["name"], signed) else found[0],
        url,
    )


def _secrets(url: str) -> Iterable[str]:
    """The credentials of a URL, as they stand there and as they may be repeated elsewhere."""
    parts = re.split(rf"({_SCHEME})", url)
    for scheme, rest in zip(parts[1::2], parts[2::2], strict=True):
        user = _user(scheme, rest)
        name, colon, password = user.partition(":")
        secret = password if colon else name
        if secret:
            plain = unquote(secret)
            yield from (secret, plain, quote(plain, safe=""), repr(plain)[1:-1])
            yield base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    signed = _is_signed(url)
    for found in _PAIR.finditer(url):
        if _is_secret(found["name"], False) or (signed and _SIGNATURES.fullmatch(unquote_plus(found["name"]))):
            yield from (found["value"], unquote(found["value"]), unquote_plus(found["value"]))


def _texts(tree: Any) -> Iterable[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _texts(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _texts(value)


def _mapped(tree: Any, change: Any) -> Any:
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _mapped(value, change) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_mapped(value, change) for value in tree)
    return tree
