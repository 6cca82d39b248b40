from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo_subset.download import addresses
from geo_subset.download.addresses import Resolver, is_public


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8", "1.1.1.1", "99.255.255.255", "100.128.0.0", "172.32.0.1", "192.169.0.1", "223.255.255.254",
        "168.63.129.17", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
    ],
)  # fmt: skip
def test_addresses_of_the_open_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        # loopback, private, shared, link-local, multicast, reserved, documentation, benchmarks
        "127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "0.0.0.0",
        "0.1.2.3", "100.64.0.1", "169.254.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1",
        "198.51.100.1", "203.0.113.1", "198.18.0.1", "192.88.99.1",
        "::1", "::", "fe80::1", "fe80::1%1", "fc00::1", "fd00::1", "fec0::1", "ff02::1", "100::1", "2001:db8::1",
        "3fff::1", "2001:2::1", "4000::1",
        # metadata of AWS, Google, Azure, Alibaba, Oracle, Tencent; of AWS and Google over IPv6
        "169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "169.254.0.23", "169.254.170.2",
        "fd00:ec2::254", "fd20:ce::254",
        # IPv4 inside IPv6: mapped, compatible, NAT64 (its own and a site's prefix), 6to4, Teredo, translated
        "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:808:808::1", "::ffff:0:127.0.0.1",
    ],
)  # fmt: skip
def test_addresses_that_are_nobody_elses_business(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses())
def test_nothing_that_python_calls_private_is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    is_nat64 = ip in ipaddress.ip_network("64:ff9b::/96") if ip.version == 6 else False
    if not is_nat64 and (inner.is_private or inner.is_multicast or inner.is_link_local or inner.is_reserved):
        assert not is_public(str(ip))


class Names:
    """What a resolver says, and how often it is asked."""

    def __init__(self, **names: list[str] | OSError) -> None:
        self.names, self.asked = names, Counter[str]()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, host: str, port: None, type: int) -> list[tuple[Any, ...]]:
        self.asked[host] += 1
        assert self.go_on.wait(30)
        found = self.names[host]
        if isinstance(found, OSError):
            raise found
        return [(socket.AF_INET, type, 6, "", (address, 0)) for address in found]


def soon() -> float:
    return time.monotonic() + 10


def test_a_name_is_looked_up_once_for_all_who_ask() -> None:
    names = Names(a=["192.0.2.1", "192.0.2.2", "192.0.2.1"])
    names.go_on.clear()
    resolver = Resolver(names)
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(resolver.addresses("a", soon()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    names.go_on.set()
    for thread in threads:
        thread.join()
    assert got == [((socket.AF_INET, ("192.0.2.1", 0)), (socket.AF_INET, ("192.0.2.2", 0)))] * 8
    assert names.asked["a"] == 1


def test_an_answer_is_used_for_some_time_and_a_failure_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(good=["192.0.2.1"], bad=socket.gaierror(socket.EAI_NONAME, "no such name"))
    now = 1000.0
    monkeypatch.setattr(addresses.time, "monotonic", lambda: now)
    resolver = Resolver(names)

    def asked() -> tuple[int, int]:
        resolver.addresses("good", now + 10)
        with pytest.raises(socket.gaierror):
            resolver.addresses("bad", now + 10)
        return names.asked["good"], names.asked["bad"]

    assert asked() == (1, 1)
    now += addresses.BAD_FOR - 1
    assert asked() == (1, 1)
    now += 2
    assert asked() == (1, 2)
    now += addresses.GOOD_FOR
    assert asked() == (2, 3)


def test_a_resolver_that_hangs_costs_the_deadline_and_holds_up_nobody_else() -> None:
    names = Names(hangs=["192.0.2.1"], other=["192.0.2.2"])
    names.go_on.clear()
    resolver = Resolver(names)
    with pytest.raises(TimeoutError):
        resolver.addresses("hangs", time.monotonic() + 0.05)
    with pytest.raises(TimeoutError):
        resolver.addresses("hangs", time.monotonic() - 1)
    names.go_on.set()
    assert resolver.addresses("other", soon()) == ((socket.AF_INET, ("192.0.2.2", 0)),)
    assert resolver.addresses("hangs", soon())
    assert names.asked["hangs"] == 1


def test_the_address_that_answered_comes_first_from_then_on() -> None:
    names = Names(a=["192.0.2.1", "192.0.2.2", "192.0.2.3"])
    resolver = Resolver(names)
    third = resolver.addresses("a", soon())[2]
    resolver.prefer("a", third)
    assert [address[0] for _, address in resolver.addresses("a", soon())] == ["192.0.2.3", "192.0.2.1", "192.0.2.2"]
    resolver.prefer("unknown", third)  # forgotten meanwhile
    assert names.asked == {"a": 1}


def test_names_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_MAX_NAMES", 2)
    names = Names(a=["192.0.2.1"], b=["192.0.2.1"], c=["192.0.2.1"])
    resolver = Resolver(names)
    for name in "abcb":
        resolver.addresses(name, soon())
    assert names.asked == {"a": 1, "b": 1, "c": 1}
    resolver.addresses("a", soon())
    assert names.asked["a"] == 2


def test_a_name_that_cannot_be_one() -> None:
    with pytest.raises(socket.gaierror):
        Resolver().addresses("a" * 70 + ".org", soon())


def test_what_is_an_address_already_is_not_looked_up():
    asked = []

    def look_up(host, *_arguments, **_options):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    resolver = Resolver(look_up)
    found = [resolver.addresses(host, time.monotonic() + 5) for host in ("192.0.2.7", "2001:db8::7", "127.1", "a.org")]
    resolver.close()
    assert asked == ["127.1", "a.org"]
    assert found[0] == ((socket.AF_INET, ("192.0.2.7", 0)),)
    assert found[1] == ((socket.AF_INET6, ("2001:db8::7", 0, 0, 0)),)
