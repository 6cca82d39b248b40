"""Credentials in URLs: what they are, and how to show text without them.

A URL holds some as `user:password@` before its host (`KEY:SECRET@bucket`), or as values of its query (`token=`,
`X-Amz-Signature=`). Each stands as `***` in whatever is written or printed. Text of other origin, an error or what a
server answers, may repeat a password without its URL: those that `remember` was told of are hidden there as well.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

HIDDEN = "***"
#: Environment variables: whole URLs, apart by white space; and a file of them, one a line.
VARIABLE, FILE_VARIABLE = "GEO_SUBSET_CREDENTIALS", "GEO_SUBSET_CREDENTIALS_FILE"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*://"
_OF_SCHEME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-"
#: A URL within text after its scheme, or several of fsspec's chained by '::'. No pattern here looks back or ahead over
#: a run of any length: hiding takes time in proportion to the text, whatever the text is.
_IN_TEXT = re.compile(r"://[^\s<>\"`]*")
_WHOLE = re.compile(rf"(?:[A-Za-z0-9+.\-]+::)*{_SCHEME}\S")
#: A URL that is quoted as the value of another's query, once or more often, after its scheme.
_QUOTED = re.compile(r"%(?:25){0,2}3A(?:%(?:25){0,2}2F){2}[^\s<>\"'`&#?;]*", re.IGNORECASE)
_QUOTED_LEVELS = 3
#: A word of text, and what a host looks like: a name with a domain, a number, or whatever has a port.
_WORD = re.compile(r"[^\s<>\"'`]+")
_HOST = re.compile(
    r"((?:[A-Za-z0-9\-]+\.)+[A-Za-z]{2,}|localhost|\d{1,3}(?:\.\d{1,3}){3}|[A-Za-z0-9\-]+(?=:\d{2,5}(?![A-Za-z0-9])))"
    r"(?![A-Za-z0-9_@\-])"
)
#: What stands before a ':' and an address that is no name of a user.
_NO_USERS = {"mailto", "acct", "sip", "sips", "xmpp", "npm", "from", "to", "cc", "bcc"}
#: Names of a query whose values are credentials, '_' for '-'.
_SECRET_NAMES = re.compile(
    r"(x-(amz|goog|ms|oss|cos|obs)-.*|.*(token|secret|password|passwd|passphrase|pwd|signature|credential|credentials)"
    r"|(.*-)?key|.*(apikey|accesskey|accesskeyid|privatekey)|sig|hmac|auth|authorization|jwt|session|sessionid"
    r"|key-pair-id|pass|pw|.*-(sig|pass|auth)|sas|sign)",
    re.IGNORECASE,
)
_SIGNATURES = re.compile(r"sig|.*signature|hmac", re.IGNORECASE)
#: What a signature is made with, and made anew with: of shared access signatures (Azure) and of CloudFront.
_SIGNED_WITH = {"expires", "policy", *("se", "st", "sp", "sv", "sr", "spr", "sip", "skoid", "sktid", "skt", "ske")}
_SIGNED_WITH |= {"sks", "skv", "ss", "srt", "key-pair-id"}
_PAIR = re.compile(r"(?P<start>[?&#;])(?P<name>[^=&#;?\s'\"]+)=(?P<value>[^&#;\s'\"<>]*)")
#: Shorter ones are not looked for by themselves: they may be words like any other.
_LEAST = 8
_LEAST_TYPED = 6
#: What follows the name of a host and a ':', with what ends a URL in a text.
_PORT = re.compile(r"\d{0,5}['\"\])},;:]*")

_known: set[str] = set()


def redact(url: str) -> str:
    """A URL without its credentials; what holds none comes back as it is."""
    return _hidden(url) if "://" in url else _without_quoted(url, _QUOTED_LEVELS)


def redact_text(text: str) -> str:
    """Text, an error or a line of a log, without the credentials of the URLs in it.

    What looks like a URL whose scheme was forgotten (`user:password@host:80`) is taken for one.
    """
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", HIDDEN, text)
    if "://" in text:
        text = _IN_TEXT.sub(lambda found: _hidden(found[0], _before(found)), text)
    if "%" in text:
        text = _without_quoted(text, _QUOTED_LEVELS)
    return _WORD.sub(lambda found: _without_typed(found[0]), text) if "@" in text else text


def redact_settings(tree: Any) -> Any:
    """Plain data without the credentials of texts that are URLs as a whole; a condition or a prompt that speaks of one
    is left alone."""
    return with_texts(tree, lambda text: redact(text) if _WHOLE.match(text) else text)


def remember(tree: Any) -> None:
    """Has `redact_text` hide, from now on and in this process, the credentials of the URLs in some plain data."""
    for text in _texts(tree):
        if "://" in text and HIDDEN not in text:
            _known.update(secret for secret in _secrets(text) if len(secret) >= _LEAST)


def lacking(url: str) -> str:
    """What to tell of a URL whose credentials are hidden, where it is needed whole; empty if they are not."""
    if "://" not in url or not re.search(r"://\*\*\*@|=\*\*\*|%2F\*\*\*%40|%3D\*\*\*", url):
        return ""
    return (
        "its credentials are not kept with the run. Give the whole URL once more: in the environment variable "
        f"{VARIABLE}, or in a file that only you can read (mode 0600) and that {FILE_VARIABLE} names"
    )


def filled_in(tree: Any, given: Iterable[str]) -> Any:
    """Plain data, with the whole URL, if it is among those given, for each whose credentials are hidden."""
    whole = {_bare(redact(url)): url for url in given}
    return with_texts(tree, lambda text: whole.get(_bare(text), text) if HIDDEN in text else text)


def _bare(url: str) -> str:
    return url.rstrip("/").removesuffix("/knn-service")


def _hidden(url: str, before: str = "", levels: int = _QUOTED_LEVELS) -> str:
    """A URL without its credentials. `before`: the end of its scheme, where the URL begins with '://'."""
    return _without_quoted(_without_pairs(_without_users(url, before)), levels)


def _before(found: re.Match[str]) -> str:
    return found.string[max(0, found.start() - 8) : found.start()]


def _parts(url: str, before: str = "") -> list[tuple[str, str, str]]:
    """(end of the scheme, what follows its '://', start of the next scheme) of each URL of a chain."""
    pieces = url.split("://")
    parts = []
    for i, piece in enumerate(pieces[1:], 1):
        rest = piece.rstrip(_OF_SCHEME) if i + 1 < len(pieces) else piece
        parts.append(((before + pieces[0] if i == 1 else pieces[i - 1])[-8:], rest, piece[len(rest) :]))
    return parts


def _without_users(url: str, before: str = "") -> str:
    shown = [url.partition("://")[0]]
    for scheme, rest, after in _parts(url, before):
        user = _user(scheme, rest)
        shown.append(f"{HIDDEN}@{rest[len(user) + 1 :]}{after}" if user else rest + after)
    return "://".join(shown)


def _without_quoted(text: str, levels: int) -> str:
    """The same for URLs that are quoted as parts of others."""

    def hidden(found: re.Match[str]) -> str:
        plain = unquote(found[0])
        shown = _hidden(plain, _before(found), levels - 1)
        return found[0] if shown == plain else quote(shown, safe="*")

    return _QUOTED.sub(hidden, text) if levels and "%" in text else text


def _without_typed(word: str) -> str:
    """A word of text without what looks like user and password of a URL that lacks its scheme."""
    head, at, host = word.rpartition("@")
    name, colon, secret = head.partition(":")
    start = len(name) - len(re.split(r"[(=,\[{/]", name)[-1])
    if not (at and colon and secret) or start == len(name) or "://" in word or "/" in name[:start].rstrip("/"):
        return word
    slashes = name[:start].endswith("//")
    likely = len(secret) >= _LEAST_TYPED and name[start:].lower() not in _NO_USERS and _HOST.match(host[:300])
    return f"{name[:start]}{HIDDEN}@{host}" if slashes or likely else word


def _user(scheme: str, rest: str) -> str:
    """What stands before the '@' of a URL, if it holds more than a name (of a user; of Azure's container).

    `scheme`: its last letters."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if not at and "@" in rest:  # a key may hold a slash that was not quoted: 'KEY:SEC/RET@bucket'
        name, colon, after = authority.partition(":")
        user = rest.split("@", 1)[0]
        if not colon or not name or name.startswith("[") or (_PORT.fullmatch(after) and not _no_port(name, rest)):
            user = ""
    is_web = re.search(r"(?<![A-Za-z+.\-])https?\Z", scheme, re.IGNORECASE) is not None
    return user if ":" in user or unquote(user) != user or is_web else ""


def _no_port(name: str, rest: str) -> bool:
    """Whether digits after a name are no port but the start of a password: 'joe:12/34@host.org'."""
    secret, _, host = rest.partition("@")
    if "." in name or name.lower() == "localhost":
        return False
    sign = secret[len(name) + 1 :].lstrip("0123456789")[:1]
    return sign == "#" or (sign == "/" and secret.count("/") == 1 and _HOST.match(host[:300]) is not None)


def _is_secret(pair: re.Match[str], signed: bool) -> bool:
    name = re.sub(r"\[\d*\]\Z", "", unquote_plus(pair["name"]).strip())
    plain = name.replace("_", "-").replace("[", "-").replace("]", "").lower()
    if plain == "code":  # of a function, of a login; else one of a country
        return len(pair["value"]) >= _LEAST
    return bool(_SECRET_NAMES.fullmatch(plain)) or (signed and plain in _SIGNED_WITH)


def _is_signed(text: str) -> bool:
    return any(_SIGNATURES.fullmatch(unquote_plus(found["name"]).strip()) for found in _PAIR.finditer(text))


def _without_pairs(url: str) -> str:
    signed = _is_signed(url)
    return _PAIR.sub(
        lambda found: f"{found['start']}{found['name']}={HIDDEN}" if _is_secret(found, signed) else found[0],
        url,
    )


def _secrets(url: str, levels: int = _QUOTED_LEVELS) -> Iterable[str]:
    """The credentials of a URL, as they stand there and as they may be repeated elsewhere."""
    for scheme, rest, _ in _parts(url):
        user = _user(scheme, rest)
        name, colon, password = user.partition(":")
        secret = password if colon else name
        if secret:
            plain = unquote(secret)
            yield from (secret, plain, quote(plain, safe=""), repr(plain)[1:-1])
            yield base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    signed = _is_signed(url)
    for found in _PAIR.finditer(url):
        if _is_secret(found, False) or (signed and _SIGNATURES.fullmatch(unquote_plus(found["name"]))):
            yield from (found["value"], unquote(found["value"]), unquote_plus(found["value"]))
    for found in _QUOTED.finditer(url) if levels else ():
        yield from _secrets(_before(found) + unquote(found[0]), levels - 1)


def _texts(tree: Any) -> Iterable[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _texts(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _texts(value)


def with_texts(tree: Any, change: Callable[[str], str]) -> Any:
    """Plain data with all its texts changed."""
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, dict):
        return {key: with_texts(value, change) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(with_texts(value, change) for value in tree)
    return tree
