"""Asking a client, and a host that answers everything with what it was asked."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from geo_subset.download.fetch import RedirectedError, Spent, Terms, fetch
from geo_subset.download.http_client import Client, Response
from geo_subset.download.pixels import Header
from geo_subset.download.reasons import FetchError

from .peer import Connection


def get(client: Client, url: str, seconds: float = 10.0, max_bytes: int = 1 << 20, **more: Any) -> Response:
    return client.get(url, time.monotonic() + seconds, {"User-Agent": "test"}, max_bytes, **more)


def reason(client: Client, url: str, seconds: float = 10.0, **more: Any) -> str:
    with pytest.raises(FetchError) as raised:
        get(client, url, seconds, **more)
    return raised.value.reason


def followed(client: Client, url: str, terms: Terms) -> tuple[bytes, Header]:
    """What `fetch` comes to, every redirect followed at once."""
    spent = Spent()
    while True:
        try:
            return fetch(client, url, terms, spent=spent)
        except RedirectedError as led:
            url, spent = led.url, led.spent


def echo(connection: Connection, number: int) -> None:
    """Answers each request with its own head, as HTTP/1.1 does: for as long as it is asked."""
    for request in connection.requests():
        connection.answer(request)


def names(**addresses: list[str]) -> Callable[..., list[tuple[Any, ...]]]:
    def look_up(host: str, port: None, type: int) -> list[tuple[Any, ...]]:
        if host not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        found = addresses[host]
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, type, 6, "", (address, 0)) for address in found]

    return look_up
