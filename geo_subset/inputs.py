"""Input files that come in numbers: what a path, folder or pattern stands for, on a local disk or any fsspec URL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import infer_compression

from geo_subset import credentials
from geo_subset.errors import SettingsError


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read; `version` (entity tag or time of change) and size tell it from what may stand there later."""

    url: str
    bytes: int
    version: str


def find(key: str, paths: Iterable[str], endings: Sequence[str]) -> list[InputFile]:
    """The files that `paths` stand for, by name within each: files, folders (with what is below them), patterns.

    Of folders and patterns only names that end as `endings` say are taken, hidden ones are not. `key` is the setting's
    name. Raises SettingsError if a path stands for nothing, or cannot be listed.
    """
    found: dict[str, InputFile] = {}
    for path in paths:
        if missing := credentials.lacking(path):
            raise SettingsError(f"{key} = {path!r}: {missing}")
        try:
            fs, root = fsspec.core.url_to_fs(path)
            if _is_page(fs, root, endings):
                listed = None
            elif any(sign in root for sign in "*?[") and not fs.exists(root):
                listed = fs.glob(root, detail=True)
            elif fs.isdir(root):
                listed = fs.find(root, detail=True)
            else:
                listed = None
            infos = {root: fs.info(root)} if listed is None else _wanted(root, listed, endings)
        except FileNotFoundError as error:
            raise SettingsError(f"{key} = {path!r}: there is no such file or folder") from error
        except ImportError as error:
            package = "huggingface_hub" if path.startswith("hf://") else str(error)
            raise SettingsError(f"{key} = {path!r}: to read it, install {package}") from None
        except Exception as error:  # object stores raise kinds of their own, say for missing credentials
            raise SettingsError(f"{key} = {path!r} cannot be listed: {' '.join(str(error).split())}") from error
        if not infos:
            raise SettingsError(f"{key} = {path!r}: there is no file that ends in {' or '.join(endings)}")
        for name in sorted(infos):
            url = name if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(name)
            found.setdefault(url, InputFile(url, int(infos[name]["size"]), _version(infos[name])))
    return list(found.values())


def plain_name(url: str) -> str:
    """A file's path or URL, without the query of a web server's URL: its ending names the file's format."""
    return url.partition("?")[0] if url.lower().startswith(("http://", "https://")) else url


def compression(url: str) -> str | None:
    """How a file is compressed, by its name."""
    return infer_compression(plain_name(url))  # type: ignore[no-any-return]


def _is_page(fs: Any, url: str, endings: Sequence[str]) -> bool:
    """Whether a web server's file is meant: one that holds links would else be taken for a folder of them."""
    return "http" in fs.protocol and plain_name(url).lower().endswith(tuple(endings))


def _wanted(root: str, listed: dict[str, Any], endings: Sequence[str]) -> dict[str, Any]:
    def shown(name: str) -> bool:
        below = PurePosixPath(name.removeprefix(root)).parts
        return not any(part.startswith(("_", ".")) for part in below)

    return {
        name: info
        for name, info in listed.items()
        if info["type"] != "directory" and name.lower().endswith(tuple(endings)) and shown(name)
    }


def _version(info: dict[str, Any]) -> str:
    """What the file system says of a file's content: an entity tag, else when it was changed."""
    known = (info.get(name) for name in ("ETag", "etag", "md5Hash", "sha256", "mtime", "LastModified", "last_modified"))
    return str(next((value for value in known if value is not None), ""))
