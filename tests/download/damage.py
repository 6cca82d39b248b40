"""A finished run's files, and ways to damage them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from geo_subset.download import index


@dataclass
class Run:
    """A copy of the finished run that a test may damage."""

    path: Path

    @property
    def shards(self) -> Path:
        return self.path / "shards"

    @property
    def index(self) -> Path:
        return self.shards / index.FILE

    def file(self, number: int, end: str) -> Path:
        """A file of the shard `number`, counted from 0."""
        return sorted(path for path in self.shards.iterdir() if path.name.endswith(end) and path.name[0] != "_")[number]

    @contextlib.contextmanager
    def manifest(self, stage: str = "shards") -> Iterator[dict[str, Any]]:
        path = self.path / stage / "_manifest.json"
        tree = json.loads(path.read_text())
        yield tree
        path.write_text(json.dumps(tree))

    def seal(self) -> None:
        """Makes the manifest agree with the files as they are now, so that only a look inside tells what is off."""
        with self.manifest() as tree:
            for entry in tree["files"]:
                body = (self.shards / entry["path"]).read_bytes()
                entry |= {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}

    def rewrite(self, change: Callable[[list[tuple[str, bytes]]], object], number: int = 0) -> None:
        """Writes a shard's tar again, with its members changed in place."""
        path = self.file(number, ".tar")
        with tarfile.open(path) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        change(members)
        with tarfile.open(path, "w") as tar:
            for name, body in members:
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))

    def member(self, end: str, change: Callable[[bytes], bytes]) -> None:
        """Changes the largest member of the first shard whose name ends so: the world has images of one pixel, too."""

        def largest(members: list[tuple[str, bytes]]) -> None:
            at = max((n for n, (name, _) in enumerate(members) if name.endswith(end)), key=lambda n: len(members[n][1]))
            members[at] = (members[at][0], change(members[at][1]))

        self.rewrite(largest)

    def column(self, path: Path, name: str, change: Callable[[list[Any]], object]) -> None:
        """Changes the values of a column of a parquet file in place."""
        table = pq.read_table(path)
        values = table[name].to_pylist()
        change(values)
        at = table.schema.get_field_index(name)
        pq.write_table(
            table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), path
        )


def flip(path: Path, position: int) -> None:
    body = bytearray(path.read_bytes())
    body[position] ^= 1
    path.write_bytes(bytes(body))


def flip_in_image(run: Run) -> None:
    with tarfile.open(run.file(0, ".tar")) as tar:
        image = next(member for member in tar if member.name.endswith(".jpg"))
    flip(run.file(0, ".tar"), image.offset_data + image.size // 2)


def flip_in_json(run: Run) -> None:
    with tarfile.open(run.file(0, ".tar")) as tar:
        text = next(member for member in tar if member.name.endswith(".json"))
    flip(run.file(0, ".tar"), text.offset_data + text.size // 2)


def smaller_image(body: bytes) -> bytes:
    with Image.open(io.BytesIO(body)) as image:
        out = io.BytesIO()
        image.resize((image.width, image.height - 1)).save(out, "JPEG")
    return out.getvalue()


def other_place(body: bytes) -> bytes:
    return json.dumps(json.loads(body) | {"latitude": 1.0}, indent=4).encode()


def swap(run: Run) -> None:
    for end in (".tar", ".parquet", "_stats.json"):
        one, two = run.file(0, end), run.file(1, end)
        spare = one.with_name("spare")
        one.rename(spare)
        two.rename(one)
        spare.rename(two)


def cut(run: Run, keep: float) -> None:
    path = run.file(0, ".tar")
    body = path.read_bytes()
    path.write_bytes(body[: int(len(body.rstrip(b"\0")) * keep) // 512 * 512])


def cut_mark(run: Run) -> None:
    path = run.file(0, ".tar")
    body = path.read_bytes()
    path.write_bytes(body[: -(-len(body.rstrip(b"\0")) // 512) * 512])


def both_places(run: Run) -> None:
    """json and parquet agree with each other, and not with the samples."""
    named: list[str] = []
    run.member(".json", lambda body: (named.append(json.loads(body)["uid"]), other_place(body))[1])
    path = run.file(0, ".parquet")
    at = pq.read_table(path)["uid"].to_pylist().index(named[0])
    run.column(path, "latitude", lambda values: values.__setitem__(at, 1.0))


def other_split(run: Run) -> None:
    """In json and parquet of a sample alike."""

    def other(side: str) -> str:
        return "train" if side == "test" else "test"

    def change(body: bytes) -> bytes:
        row = json.loads(body)
        changed.append(row["uid"])
        return json.dumps(row | {"split_place": other(row["split_place"])}, indent=4).encode()

    changed: list[str] = []
    run.member(".json", change)
    path = run.file(0, ".parquet")
    at = pq.read_table(path)["uid"].to_pylist().index(changed[0])
    run.column(path, "split_place", lambda values: values.__setitem__(at, other(values[at])))


def swap_keys(run: Run) -> None:
    """The parquet gives two samples each the key of the other."""
    path = run.file(0, ".parquet")
    good = [n for n, status in enumerate(pq.read_table(path)["status"].to_pylist()) if status == "success"]

    def change(values: list[Any]) -> None:
        values[good[0]], values[good[1]] = values[good[1]], values[good[0]]

    run.column(path, "key", change)


def stat(run: Run, **changes: int) -> None:
    path = run.file(0, "_stats.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def forget(run: Run) -> None:
    with run.manifest() as tree:
        gone = tree["units"].pop(0)
        tree["files"] = [entry for entry in tree["files"] if entry["path"] not in gone["files"]]


def edit(run: Run, change: Callable[[dict[str, Any]], object]) -> None:
    with run.manifest() as tree:
        change(tree)


def first_sample(run: Run) -> Path:
    return sorted((run.path / "samples").glob("part-*"))[0]


def double(run: Run) -> None:
    """The last row of the samples is the first once more."""

    def repeat(values: list[Any]) -> None:
        values[-1] = values[0]

    for name in pq.read_schema(first_sample(run)).names:
        run.column(first_sample(run), name, repeat)


def one_failure_less(run: Run) -> None:
    def change(values: list[Any]) -> None:
        values[next(n for n, value in enumerate(values) if value != "success")] = "success"

    run.column(run.file(0, ".parquet"), "status", change)


AS_THEY_ARE: list[tuple[str, Callable[[Run], object], str]] = [
    ("byte of an image flipped", flip_in_image, r"{shard}: {shard}\.tar has another SHA-256 than in the manifest"),
    ("byte of a json flipped", flip_in_json, r"{shard}: {shard}\.tar has another SHA-256 than in the manifest"),
    (
        "byte of a parquet flipped",
        lambda run: flip(run.file(0, ".parquet"), 100),
        r"{shard}: {shard}\.parquet has another SHA-256",
    ),
    (
        "byte of the stats flipped",
        lambda run: flip(run.file(0, "_stats.json"), 10),
        r"{shard}: {shard}_stats.json has another SHA-256",
    ),
    ("tar cut", lambda run: cut(run, 0.5), r"{shard}: {shard}\.tar has [\d,]+ bytes, [\d,]+ in the manifest"),
    ("shards swapped", swap, r"{shard}: .*holds other samples"),
    ("tar deleted", lambda run: run.file(0, ".tar").unlink(), r"{shard}\.tar: is missing"),
    ("parquet deleted", lambda run: run.file(0, ".parquet").unlink(), r"{shard}\.parquet: is missing"),
    ("stats deleted", lambda run: run.file(0, "_stats.json").unlink(), r"{shard}_stats.json: is missing"),
    ("tar emptied", lambda run: run.file(0, ".tar").write_bytes(b""), r"{shard}\.tar has 0 bytes"),
    (
        "stray tar",
        lambda run: shutil.copy(run.file(0, ".tar"), run.shards / "00099-0123abcd.tar"),
        r"00099-0123abcd\.tar: the manifest does not know it",
    ),
    (
        "manifest: digest",
        lambda run: edit(run, lambda tree: tree["files"][0].update(sha256="0" * 64)),
        "another SHA-256",
    ),
    ("manifest: rows", lambda run: edit(run, lambda tree: tree["files"][0].update(rows=7)), "gives its files"),
    (
        "manifest: counters of a shard",
        lambda run: edit(run, lambda tree: tree["units"][0]["counters"].update(succeeded=1)),
        "holds .* the manifest says",
    ),
    (
        "manifest: counters of all",
        lambda run: edit(run, lambda tree: tree["counters"].update(succeeded=1)),
        "not the sum",
    ),
    ("manifest: a file less", lambda run: edit(run, lambda tree: tree["units"][0]["files"].pop()), "other files than"),
    (
        "manifest: a shard less",
        lambda run: edit(run, lambda tree: tree["units"].pop(0)),
        r"{shard}: the manifest does not know it",
    ),
    (
        "manifest: a shard renamed",
        lambda run: edit(run, lambda tree: tree["units"][0].update(unit="00099-0123abcd")),
        "no such shard",
    ),
    ("manifest: shard and files less", forget, r"{shard}\.tar: the manifest does not know it, but who reads"),
    (
        "byte of the samples flipped",
        lambda run: flip(first_sample(run), 100),
        r"samples/part-\S+: \S+ has another SHA-256",
    ),
    ("samples deleted", lambda run: first_sample(run).unlink(), r"samples/part-\S+: cannot be read"),
    (
        "a caption of the samples changed",
        lambda run: run.column(first_sample(run), "caption", lambda values: values.__setitem__(0, "not this")),
        r"{shard}: the parquet's row of sample \S+ \(key \d+\) is not that of the samples table",
    ),
    ("a sample twice", double, r"samples/part-\S+: its uids do not rise strictly"),
]

SEALED: list[tuple[str, Callable[[Run], object], str]] = [
    (
        "image cut",
        lambda run: run.member(".jpg", lambda body: body[: len(body) // 2]),
        r"{shard}: \d+ cannot be read: OSError: image",
    ),
    (
        "no image",
        lambda run: run.member(".jpg", lambda body: b"no image"),
        r"{shard}: \d+ cannot be read: UnidentifiedImageError",
    ),
    (
        "image of another size",
        lambda run: run.member(".jpg", smaller_image),
        r"{shard}: \d+\.jpg is \(\d+, \d+\) pixels, \(\d+, \d+\) by its json",
    ),
    (
        "another place in the json",
        lambda run: run.member(".json", other_place),
        r"{shard}: \d+\.json is not the sample's row in the parquet",
    ),
    (
        "json cut",
        lambda run: run.member(".json", lambda body: body[:-1]),
        r"{shard}: \d+ cannot be read: JSONDecodeError",
    ),
    (
        "another caption in txt",
        lambda run: run.member(".txt", lambda body: body + b"!"),
        r"{shard}: \d+\.txt is not the caption",
    ),
    ("txt missing", lambda run: run.rewrite(lambda members: members.pop()), r"{shard}: .*tar: sample \d+ has"),
    (
        "sample missing",
        lambda run: run.rewrite(lambda members: [members.pop() for _ in range(3)]),
        r"{shard}: .*samples, the parquet",
    ),
    (
        "member twice",
        lambda run: run.rewrite(lambda members: members.append(members[0])),
        r"{shard}: .*tar: sample \d+ has",
    ),
    (
        "members not side by side",
        lambda run: run.rewrite(lambda members: members.insert(0, members.pop())),
        "are not side by side",
    ),
    ("tar cut", lambda run: cut(run, 0.5), r"{shard}: .*tar"),
    ("tar without its end", cut_mark, r"{shard}: .*no end-of-archive mark"),
    ("shards swapped", swap, r"{shard}: .*holds other samples"),
    (
        "another place in json and parquet",
        both_places,
        r"{shard}: the parquet's row of sample \S+ \(key \d+\) is not that of the samples table",
    ),
    ("failure called success", one_failure_less, r"{shard}: .*counts"),
    ("stats of less", lambda run: stat(run, successes=1), r"{shard}: .*counts"),
    (
        "uids reversed",
        lambda run: run.column(run.file(0, ".parquet"), "uid", lambda values: values.reverse()),
        "not that of the samples",
    ),
    (
        "keys of two samples swapped",
        swap_keys,
        r"{shard}: \d+\.json is not the sample's row",
    ),
    (
        "key unknown",
        lambda run: run.column(run.file(0, ".parquet"), "key", lambda values: values.__setitem__(0, "9" + values[0])),
        r"{shard}: .*(keys are in one only|the key of sample \S+ \(key 9\d+\) should be number \d+)",
    ),
    (
        "a split changed",
        other_split,
        r"{shard}: the parquet's row of sample \S+ \(key \d+\) is not that of the samples",
    ),
    (
        "index: another shard",
        lambda run: run.column(run.index, "shard", lambda values: values.__setitem__(5, "00099")),
        r"shards/index: says \('[0-9a-f]+', '00099'.* the shards say",
    ),
    (
        "index: a row less",
        lambda run: pq.write_table(pq.read_table(run.index).slice(0, 400), run.index),
        "shards/index: says None, the shards say",
    ),
]
