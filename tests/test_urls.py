from __future__ import annotations

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geo_subset import urls


@pytest.fixture(scope="module")
def database():
    with duckdb.connect() as connection:
        urls.define_sql(connection)
        yield connection


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("HTTP://User@EXAMPLE.com:80/A?b=C#x", "http://User@example.com/A?b=C"),
        ("https://a.com:443", "https://a.com"),
        ("https://a.com:80/", "https://a.com:80/"),
        ("http://a.com:443/x", "http://a.com:443/x"),
        ("http://a.com:8080/x#", "http://a.com:8080/x"),
        ("http://a.com/%7Ex/../y//", "http://a.com/%7Ex/../y//"),
        ("http://[2001:DB8::1]:80/a", "http://[2001:db8::1]/a"),
        ("http://a.com?x=http://B.com:80/#f", "http://a.com?x=http://B.com:80/"),
        ("http://MÜNCHEN.de/ß", "http://mÜnchen.de/ß"),
        ("not a url#fragment", "not a url"),
        ("", ""),
    ],
)
def test_key_changes_only_scheme_host_default_port_and_fragment(url, key):
    assert urls.url_key(url) == key
    assert urls.url_key(key) == key


_parts = st.builds(
    "{}{}{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP://", "ftp://", "data:", ""]),
    st.sampled_from(["", "u@", "U:p@", "a@b@"]),
    st.text("aBc.-_Éß[:]", max_size=12),
    st.sampled_from(["", ":", ":80", ":443", ":8080", ":00080"]),
    st.sampled_from(["", "/", "/A/b", "?q", "/x?y=Z"]),
    st.sampled_from(["", "#", "#f", "#f#g", "\n", "/\n#x"]),
)


@given(url=st.one_of(_parts, st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)))
@example(url="http://a.com:8080\n")
@settings(max_examples=300)
def test_sql_gives_the_same_key_and_host(database, url):
    key, host = database.execute("SELECT url_key($1), url_host($1)", [url]).fetchone()
    assert key == urls.url_key(url)
    assert host == urls.host(url)
    assert urls.url_key(key) == key, "a key is its own key"


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("live.staticflickr.com", "staticflickr.com"),
        ("i.dailymail.co.uk", "dailymail.co.uk"),
        ("127.0.0.5", "127.0.0.5"),
        ("localhost", "localhost"),
        ("co.uk", "co.uk"),
        ("", ""),
    ],
)
def test_registered_domain(host, domain):
    assert urls.registered_domain(host) == domain


def test_uid_is_128_bits_of_the_key():
    assert urls.uid("HTTP://A.com:80/x#y") == urls.uid("http://a.com/x")
    assert len(urls.uid("x")) == 32


LABELS = st.sampled_from(
    ["a", "www", "x-y", "w_1", "city", "com", "co", "uk", "jp", "kawasaki", "ck", "xn--p1ai", "b1", ""]
)


@settings(max_examples=500)
@given(labels=st.lists(LABELS, min_size=1, max_size=6))
@example(labels=["city", "kawasaki", "jp"])
@example(labels=["127", "0", "0", "1"])
def test_registered_domain_is_that_of_tldextract(labels):
    host = ".".join(labels)
    assert urls.registered_domain(host) == (urls._suffixes.extract_str(host).top_domain_under_public_suffix or host)


def test_every_rule_of_the_suffix_list_is_obeyed():
    for rule in urls._rules():
        for before in ("", "a.", "b.a."):
            host = before + rule.lstrip("!").replace("*", "w")
            assert urls.registered_domain(host) == (
                urls._suffixes.extract_str(host).top_domain_under_public_suffix or host
            )
