"""The input files that settings name: which are needed, and where they are."""

from __future__ import annotations

from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from geo_subset.errors import SettingsError
from geo_subset.settings import (
    FILE_SOURCES,
    PARQUET_SOURCES,
    EmbeddingsSettings,
    PlacesSettings,
    RetrieveSettings,
    Settings,
)

_FILES = {
    "list": "a file of place names",
    "instagram": "a saved page of locations, or a file of their names",
    "geonames": "a dump, e.g. US.zip from download.geonames.org",
    "overture": "files or a folder of a release, e.g. s3://overturemaps-us-west-2/release/<date>/theme=places/type=place",
    "foursquare": "files or a folder of a release, e.g. release/dt=<date>/places/parquet",
}


def _check_paths(places: PlacesSettings) -> None:
    reading = [source for source in FILE_SOURCES if source in places.source]
    if len(reading) > 1 and not isinstance(places.path, dict):
        both = ", ".join(f"{source} = ..." for source in reading)
        raise SettingsError(f"places.path must say which files are whose: path = {{ {both} }}")
    for source in places.path if isinstance(places.path, dict) else ():
        if source not in reading:
            raise SettingsError(f"places.path has files for {source!r}, which places.source does not ask to read any")
    for source in reading:
        if not places.files(source):
            raise SettingsError(f"places.path is missing: source {source!r} needs {_FILES[source]}")


def _check_embeddings(embeddings: EmbeddingsSettings) -> None:
    if not embeddings.path:
        raise SettingsError("retrieve.embeddings.path is missing: which files hold vectors and their images' metadata?")
    if (embeddings.model is None) == (embeddings.query_vectors is None):
        raise SettingsError(
            "retrieve.embeddings needs one of model, which turns the places' search texts into vectors, and "
            "query_vectors, a file of them"
        )


def _check_retrieve(retrieve: RetrieveSettings) -> None:
    if retrieve.strategy == "clip-service" and not retrieve.clip_service.url:
        raise SettingsError("retrieve.clip-service.url is missing: where does your clip-retrieval backend answer?")
    if retrieve.strategy == "captions" and not retrieve.captions.path:
        raise SettingsError("retrieve.captions.path is missing: which metadata files hold URLs and captions?")
    if retrieve.strategy == "embeddings":
        _check_embeddings(retrieve.embeddings)


def found(settings: Settings, folder: Path, last: str | None = "report") -> Settings:
    """The settings with their input files, as absolute paths: beside the run file, or in the current folder.

    Raises SettingsError: one that a stage up to `last` needs is not named, or not there.
    """
    needs_places, needs_matches = last is not None, last not in (None, "places")
    needs_samples = needs_matches and last != "retrieve"
    if needs_places:
        _check_paths(settings.places)
    if needs_matches:
        _check_retrieve(settings.retrieve)

    def place(key: str, name: str, needed: bool, pattern: bool = False) -> str:
        """The path of a file, or of what a pattern or folder stands for where these may be named. One that is not
        `needed` now may be made later."""
        if not name.strip():
            raise SettingsError(f"{key} is an empty text: name a file")
        if "://" in name:
            return name
        candidates = [folder / Path(name).expanduser(), Path(name).expanduser()]
        for candidate in candidates:
            if candidate.exists() and (pattern or candidate.is_file()):
                return str(candidate.resolve())
            if pattern and any(sign in name for sign in "*?[") and LocalFileSystem().glob(str(candidate)):
                return str(candidate.absolute())
        if not needed:
            return str(candidates[0].absolute())
        looked = " or ".join(dict.fromkeys(str(c.absolute()) for c in candidates))
        raise SettingsError(f"{key} = {name!r}: no such file ({looked})")

    places, merge = settings.places, settings.merge
    files = {
        source: tuple(
            place("places.path", path, needs_places, source in PARQUET_SOURCES) for path in places.files(source)
        )
        for source in FILE_SOURCES
        if source in places.source
    }
    path = files if isinstance(places.path, dict) else next(iter(files.values()), ())
    polygon = tuple(place("places.filters.polygon", name, needs_places) for name in places.filters.polygon)
    places = places.model_copy(update={"path": path, "filters": places.filters.model_copy(update={"polygon": polygon})})
    blocklist = tuple(place("merge.blocklist", path, needs_samples) for path in merge.blocklist)
    merge = merge.model_copy(update={"blocklist": blocklist})
    captions = settings.retrieve.captions
    captions = captions.model_copy(
        update={"path": tuple(place("retrieve.captions.path", path, needs_matches, True) for path in captions.path)}
    )
    embeddings = settings.retrieve.embeddings
    key, vectors = "retrieve.embeddings.path", embeddings.query_vectors
    update = {
        "path": tuple(place(key, path, needs_matches, True) for path in embeddings.path),
        "query_vectors": None if vectors is None else place("retrieve.embeddings.query_vectors", vectors, False),
    }
    retrieve = settings.retrieve.model_copy(
        update={"captions": captions, "embeddings": embeddings.model_copy(update=update)}
    )
    return settings.model_copy(update={"places": places, "merge": merge, "retrieve": retrieve})
