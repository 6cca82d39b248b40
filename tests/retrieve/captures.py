"""What real clip-retrieval servers answered, replayed on loopback: what our client makes of each.

`python tests/retrieve/captures.py` prints it as a Markdown table. A capture whose body was too long is kept cut: it is
replayed as a connection that ends early and as the rows of it that are complete.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from geo_subset import settings
from geo_subset.errors import SettingsError, StageError
from geo_subset.places import list_source
from geo_subset.retrieve import answers, backends, clip_service
from geo_subset.retrieve.answers import AnswerError, Rows

FOLDER = Path(__file__).parents[2].parent / "shared" / "clip-retrieval" / "captures"
_CUT = "...[truncated]"
#: Fields of a request that are settings of ours.
_SETTINGS = (
    "deduplicate", "use_safety_model", "use_violence_detector", "indice_name", "use_mclip", "aesthetic_score",
    "aesthetic_weight", "modality",
)  # fmt: skip


#: What errors before any work are about, by words of theirs.
_STARTS = ("no clip-retrieval backend answers", "indice_name", "modality", "use_mclip", "URLs", "metadata")


@dataclass(frozen=True)
class Capture:
    """A request that a server got, and its answer. Status 0: nothing was sent, or nobody answered."""

    name: str
    method: str
    path: str
    request: str
    status: int
    reason: str
    headers: dict[str, str]
    body: str
    length: int
    """Bytes of the body as it was sent; more than the body has where that is kept cut."""
    first: list[dict[str, Any]]
    """The first rows, as whoever made the capture read them."""

    @property
    def cut(self) -> bool:
        return self.length > len(self.body.encode())


class Outcome(NamedTuple):
    said: str
    rows: Rows | None = None


def load(path: Path) -> Capture:
    """A capture from its file: a request and answer, or what ClipClient sent and made of the answer (`client_...`)."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    if path.stem.startswith("client_"):
        sent = kept["sent"]
        body = sent.get("response_head", "")
        # Only a list is longer than the start that was kept.
        more = 1 if kept.get("returned_type") == "list" else 0
        first = kept["head"] if more else []
        headers = {"Content-Type": "application/json", "Connection": "close"}
        request = json.dumps(sent["data"]) if sent else ""
        location = urlsplit(sent.get("url", "")).path or "/"
        return Capture(
            path.stem, "POST", location, request, sent.get("status", 0), "", headers, body, len(body.encode()) + more,
            first,
        )  # fmt: skip
    request = kept["request"]
    body = kept["body_raw"]
    length = kept["body_bytes"] if body.endswith(_CUT) else len(body.encode())
    first = [kept["first"]] if "first" in kept else []
    return Capture(
        path.stem, request["method"], urlsplit(request["url"]).path, _request(request["body"] or ""), kept["status"],
        kept["reason"], kept["response_headers"], body.removesuffix(_CUT), length, first,
    )  # fmt: skip


def _request(body: str) -> str:
    """A request's body; the one of a megabyte, which is kept cut, put together again."""
    cut = re.fullmatch(r"(.{200}).*\[(\d+) chars\]", body)
    if cut is None:
        return body
    normal = json.loads((FOLDER / "text_normal.json").read_text(encoding="utf-8"))["request"]["body"]
    again = json.dumps({**json.loads(normal), "text": "x y " * 250_000})
    if not again.startswith(cut[1]) or len(again) != int(cut[2]):
        raise ValueError(f"a request of {cut[2]} characters is kept cut, and what it was is not known")
    return again


def complete(body: str) -> str:
    """A list cut somewhere, as the list of its complete elements; any other body as it is."""
    if not body.startswith("["):
        return body
    decoder, start, elements = json.JSONDecoder(), 1, []
    while True:
        try:
            _, stop = decoder.raw_decode(body, start)
        except ValueError:
            return f"[{', '.join(elements)}]\n"
        elements.append(body[start:stop])
        start = stop + len(", ")


def reply(capture: Capture, whole: bool) -> bytes:
    """The answer as it goes over the wire; not whole: the body ends before the length that its header states."""
    body = (complete(capture.body) if whole and capture.cut else capture.body).encode()
    headers = {k: v for k, v in capture.headers.items() if k not in ("Content-Length", "Transfer-Encoding")}
    if capture.headers.get("Content-Encoding") == "gzip":
        body = gzip.compress(body, mtime=0)
        body = b"%x\r\n%s\r\n" % (len(body), body) + (b"0\r\n\r\n" if whole else b"")
        headers["Transfer-Encoding"] = "chunked"
    elif capture.method == "HEAD":
        headers["Content-Length"] = capture.headers["Content-Length"]
    else:
        headers["Content-Length"] = str(len(body) if whole else capture.length)
    head = [f"HTTP/1.1 {capture.status} {capture.reason}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*head, "", ""]).encode() + body


@asynccontextmanager
async def _answering(capture: Capture, whole: bool, indices: bytes | None = None) -> AsyncIterator[str]:
    """The URL where a capture's answer is given; a closed port where nobody answered."""
    if not capture.status:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            yield "http://{}:{}".format(*held.getsockname())
        return
    answer = reply(capture, whole)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        await reader.readexactly(int(fields.get("content-length", 0)))
        writer.write(indices if indices and " /indices-list " in head else answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()
        await server.wait_closed()


async def made_of(capture: Capture, whole: bool = True) -> Outcome:
    """What our client makes of an answer; not whole: of a connection that ends early."""
    if not capture.request and not capture.status:
        return Outcome("nothing was sent")
    async with _answering(capture, whole) as url:
        return await _ask(url, capture)


async def _ask(url: str, capture: Capture) -> Outcome:
    """The request over real HTTP, and what `answers` says of its answer: the one place where our client is called."""
    fields = json.loads(capture.request) if capture.request.startswith("{") else {}
    wanted = fields.get("num_images")
    limit = wanted if isinstance(wanted, int) else 40
    async with aiohttp.ClientSession() as session:
        try:
            if capture.method == "POST":
                answer = answers.parse(
                    await clip_service.post(session, url + capture.path, capture.request.encode(), limit)
                )
            else:
                answer = await _got(session, capture.method, url + capture.path)
        except AnswerError as error:
            return Outcome(f"{error.reason}, {'passing' if error.passing else 'final'}")
    if capture.path == "/indices-list":
        return Outcome(f"{len(answer)} indices")
    if capture.path == "/metadata":
        answer = answers.with_metadata([{"id": i, "similarity": 0.5} for i in fields["ids"]], answer)
    rows = answers.rows(answer, limit)
    told = [f"{name} {count:,}" for name, count in rows.counters.items() if count]
    return Outcome("; ".join([f"{len(rows):,} rows", *told]), rows)


async def _got(session: aiohttp.ClientSession, method: str, url: str) -> list[Any]:
    try:
        async with session.request(method, url) as response:
            body = await response.read()
            answers.check_status(response.status, body, response.headers.get("Retry-After"))
            return answers.parse(body)
    except aiohttp.ClientError as error:
        raise clip_service.lost(error) from None


async def sending(capture: Capture, indices: bytes) -> str:
    """Whether our client would send such a request, found by trying: 'sent', or who refuses it, or what is never so.

    `indices`: what a server answers that is asked for its indices.
    """
    if capture.path == "/indices-list":
        return "sent"
    if not capture.request and not capture.status:
        return "never: ClipClient sends nothing either"
    if capture.method != "POST" or not capture.path.endswith(("/knn-service", "/metadata")):
        return "never: nothing that we ask for"
    if not capture.request.startswith("{"):
        return "never: we send an object of fourteen fields"
    fields = json.loads(capture.request)
    if capture.path == "/metadata":
        asked = answers.bare_ids([{"id": i, "similarity": 0.5} for i in fields["ids"]])
        return "sent, if a row has such an id" if asked == fields["ids"] else "never: no negative id is asked for"
    given = [name for name in ("image", "image_url", "embedding_input") if fields.get(name) is not None]
    if given:
        return f"never: other {', '.join(given)}"
    try:
        text = _place_name(fields["text"])
        service = {name: fields[name] for name in _SETTINGS if name in fields}
        if service.get("indice_name") is None:  # TOML has no null: it is left out
            service.pop("indice_name", None)
        async with _answering(capture, whole=True, indices=indices) as url:
            retrieve = {"clip-service": service | {"url": url}, "num_images": fields.get("num_images", 40)}
            tree = {"run": "run", "places": {"source": "list"}, "retrieve": retrieve}
            resolved = settings.from_tree(tree).retrieve
            ours = clip_service.request(resolved.clip_service, text, resolved.num_images)
            other = [name for name in ours if name not in fields or fields[name] != ours[name]]
            if other and other != ["text"]:
                return f"never: other {', '.join(other) if len(other) < 4 else f'fields, {len(other)} of them'}"
            await backends.check(resolved.clip_service, resolved.num_images)
    except SettingsError as error:
        return f"refused: {str(error).removeprefix('settings: ').partition(': ')[0]}"
    except StageError as error:
        return f"refused at the start: {next(said for said in _STARTS if said in str(error))}"
    return "sent, but for white space" if other else "sent"


def _place_name(text: Any) -> str:
    """The text as the name of a place in a user's file. Raises SettingsError if it can be none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "places.json"
        path.write_text(json.dumps([text]))
        try:
            (place,) = list_source.read([str(path)], "", Counter())
        except SettingsError as error:
            raise SettingsError(f"the place list{str(error).removeprefix(str(path))}") from None
    return place.name


async def table() -> dict[str, tuple[str, ...]]:
    """Of each capture: whether we would send it, what we make of its answer, and (if kept cut) of a connection cut."""
    captures = [load(path) for path in sorted(FOLDER.glob("*.json"))]
    indices = reply(load(FOLDER / "GET_indices-list.json"), whole=True)
    found = {}
    for capture in captures:
        said = [await sending(capture, indices), (await made_of(capture)).said]
        if capture.cut:
            said.append((await made_of(capture, whole=False)).said)
        found[capture.name] = tuple(said)
    return found


def main() -> None:
    if not FOLDER.is_dir():
        sys.exit(f"there are no captures in {FOLDER}")
    print("| case | would we send it? | what we make of the answer | and of one cut off |")
    print("|---|---|---|---|")
    for name, said in asyncio.run(table()).items():
        print(f"| {' | '.join([name, *said, ''][:4])} |")


if __name__ == "__main__":
    main()
