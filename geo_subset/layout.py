"""Where things lie in a run folder: the stages' folders, the names of their files, and those of what is known of them.

A stage's files bear eight digits of its fingerprint in their names, the *tag*, wherever other settings could leave
files of the same name behind. So a name shows whose file it is.
"""

from __future__ import annotations

import re

#: Raised when a format on storage changes: what older versions wrote is then made again.
FORMAT = 1
#: Marks a folder as a run's.
MARK = "_run.json"
SETTINGS = "run.toml"
LEASE = "_lease.json"
#: In a stage's folder, once the stage is finished.
MANIFEST = "_manifest.json"
#: In a stage's folder until then: what is known of finished units, and when the stage was started.
RECORDS = "_records"
STARTED = "stage.json"
#: Results that newer settings have superseded.
SUPERSEDED = "_superseded"
#: Among them, in place of the manifest: the units of a stage that was cut off.
UNFINISHED = "_unfinished.json"
#: Digits of a fingerprint in the names of files, and of folders of superseded results.
TAG_DIGITS, FOLDER_DIGITS = 8, 16

_TAG = rf"(?P<tag>[0-9a-f]{{{TAG_DIGITS}}})"
_PLOTS = "map|images_per_place|similarity|download_outcomes|image_sizes|top_places|top_domains"

#: Stage -> its folder, and the names of its files.
STAGES: dict[str, tuple[str, str]] = {
    "places": ("places", r"places\.parquet"),
    "gather": ("places/_parts", rf"part-\d+-{_TAG}\.parquet"),
    "retrieve": ("matches", rf"(part|counts)-\d+-{_TAG}\.parquet|failures\.parquet"),
    "scan": ("matches/_scan", rf"(map|counts)-\d+-{_TAG}\.parquet"),
    "texts": ("matches/_scan/_texts", rf"texts-\d+-{_TAG}\.npy"),
    "best": ("matches/_scan/_best", rf"best-\d+-{_TAG}\.parquet"),
    "rows": ("matches/_scan/_rows", rf"rows-\d+-{_TAG}\.parquet"),
    "merge": ("samples", rf"part-\d+-{_TAG}\.parquet"),
    "shuffle": ("samples/_shuffle", rf"map-\d+-{_TAG}\.parquet"),
    "download": ("shards", rf"(_retry-)?\d+-{_TAG}(\.tar|\.parquet|_stats\.json)|_index\.parquet"),
    "report": ("report", rf"index\.html|summary\.json|({_PLOTS})\.png"),
}


def stage_url(run_url: str, stage: str) -> str:
    """The stage's folder."""
    return f"{run_url}/{STAGES[stage][0]}"


def superseded_url(run_url: str, stage: str, fingerprint: str = "") -> str:
    """Where the stage's results of a fingerprint lie once they are superseded; without one, the folder above."""
    base = f"{run_url}/{SUPERSEDED}/{STAGES[stage][0]}"
    return f"{base}/{fingerprint[:FOLDER_DIGITS]}" if fingerprint else base


def within(stage: str) -> list[str]:
    """The stages whose folders lie in this one's, the deepest first, and this one last."""
    inside = [name for name, (folder, _) in STAGES.items() if f"{folder}/".startswith(f"{STAGES[stage][0]}/")]
    return sorted(inside, key=lambda name: -STAGES[name][0].count("/"))


def is_own(stage: str, name: str) -> bool:
    """Whether a file of the stage could have this name."""
    return re.fullmatch(STAGES[stage][1], name) is not None


def tag(stage: str, name: str) -> str | None:
    """The tag in the name of a stage's file; None if there is none, or the file is not the stage's."""
    found = re.fullmatch(STAGES[stage][1], name)
    return found.groupdict().get("tag") if found else None
