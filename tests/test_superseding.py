"""Results that other settings superseded: kept apart, found again, freed by nothing but `clean`."""

from __future__ import annotations

import os

import fsspec
import pytest
from generations import FINGERPRINTS, content, make

from geo_subset import ownership, storage, superseding
from geo_subset.errors import StageError
from geo_subset.runfolder import StageFolder


@pytest.fixture(params=["local", "s3"])
def run_url(request, tmp_path):
    if request.param == "local":
        return ownership.claim(str(tmp_path / "run[1]"), "")
    return ownership.claim(f"{request.getfixturevalue('s3_bucket')}/run[1]-{os.urandom(4).hex()}", "")


def shards(run_url):
    """What somebody who reads `shards/*.tar` would find."""
    return sorted(name for name in storage.sizes(f"{run_url}/shards") if name.endswith(".tar"))


def test_a_changed_setting_keeps_what_was_made_and_going_back_finds_it(run_url):
    first, second = FINGERPRINTS[:2]
    made = make(run_url, first)
    before = content(f"{run_url}/shards")
    other = make(run_url, second, units=2)
    assert shards(run_url) == [f"{number:05d}-{second[:8]}.tar" for number in range(2)]
    (apart,) = superseding.apart(run_url)
    assert (apart.stage, apart.generation.manifest, apart.generation.finished) == ("download", made, True)
    assert apart.bytes == sum(entry.bytes for entry in made.files)
    superseding.settle(run_url, "download", first)
    assert content(f"{run_url}/shards") == before
    assert StageFolder(run_url, "download", first).finished() == made
    (apart,) = superseding.apart(run_url)
    assert apart.generation.manifest == other


def test_what_was_recorded_of_a_stage_that_was_cut_off_is_kept_too(run_url):
    first, second = FINGERPRINTS[:2]
    make(run_url, first, units=2, finish=False)
    make(run_url, second)
    (apart,) = superseding.apart(run_url)
    assert not apart.generation.finished
    assert len(apart.files) == 6
    written = content(f"{run_url}/_superseded")
    folder = StageFolder(run_url, "download", first)
    assert sorted(folder.start(3)) == [f"{number:05d}-{first[:8]}" for number in range(2)]
    tar = f"/00001-{first[:8]}.tar"
    assert content(folder.url)[tar] == next(data for path, data in written.items() if path.endswith(tar))


def test_clean_frees_what_is_superseded_and_nothing_else(run_url):
    first, second = FINGERPRINTS[:2]
    make(run_url, first)
    manifest = make(run_url, second)
    apart = f"{run_url}/_superseded/shards/{first[:16]}"
    storage.write_text(f"{apart}/notes.txt", "the user's own")
    for each in superseding.apart(run_url):
        superseding.remove(each)
    assert list(superseding.apart(run_url)) == []
    assert content(f"{run_url}/_superseded") == {f"/shards/{first[:16]}/notes.txt": b"the user's own"}
    assert StageFolder(run_url, "download", second).finished() == manifest


def test_results_that_lost_a_file_come_back_without_it(run_url):
    first, second = FINGERPRINTS[:2]
    made = make(run_url, first)
    make(run_url, second)
    storage.remove(f"{run_url}/_superseded/shards/{first[:16]}/{made.files[0].path}")
    assert len(StageFolder(run_url, "download", first).start(3)) == 3  # two shards and the index


def test_files_that_are_not_ours_stay_where_they_are(run_url):
    make(run_url, FINGERPRINTS[0])
    own = {
        "shards/readme.txt", "shards/_records/diary.txt", "shards/_records/notes.json", "shards/_records/photos/a.jpg",
        "shards/.tmp-mine", "samples/_shuffle/mine.txt",
    }  # fmt: skip
    fs, root = fsspec.core.url_to_fs(run_url)
    for name in own:
        fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{root}/{name}", b"the user's own")
    for fingerprint in (FINGERPRINTS[1], FINGERPRINTS[0], FINGERPRINTS[2]):
        make(run_url, fingerprint)
        StageFolder(run_url, "shuffle", fingerprint).start(1)
        StageFolder(run_url, "shuffle", fingerprint).remove()
    for each in superseding.apart(run_url):
        superseding.remove(each)
    found = content(run_url)
    assert {name for name in found if found[name] == b"the user's own"} == {f"/{name}" for name in own}


@pytest.mark.parametrize("name", ["00001-aaaaaaaa.tar", "_index.parquet"])
def test_a_foreign_file_in_the_way_is_refused(run_url, name):
    storage.make_folder(f"{run_url}/shards")
    storage.write_text(f"{run_url}/shards/{name}", "the user's own")
    with pytest.raises(StageError, match=f"no run has recorded.*{name}. Move"):
        make(run_url, FINGERPRINTS[0])
    assert content(f"{run_url}/shards") == {f"/{name}": b"the user's own"}


def test_no_name_is_a_pattern(run_url):
    """A run called `run[1]` beside one called `run1`, which the first's name as a pattern would mean."""
    other = run_url.replace("[1]", "1")
    ownership.claim(other, "")
    make(other, FINGERPRINTS[0], finish=False)
    before = content(other)
    make(run_url, FINGERPRINTS[0])
    make(run_url, FINGERPRINTS[1])
    StageFolder(run_url, "download", FINGERPRINTS[1]).remove()
    assert content(other) == before


def test_steps_of_a_stage_are_kept_apart_as_well(run_url):
    for fingerprint in FINGERPRINTS[:2]:
        folder = StageFolder(run_url, "shuffle", fingerprint)
        folder.start(2)
        entry = folder.write_bytes(fingerprint.encode(), f"map-00000-{folder.tag}.parquet")
        folder.record("map-00000", [entry], {})
    assert [each.stage for each in superseding.apart(run_url)] == ["shuffle"]
    folder.remove()
    assert [name for name in content(run_url) if "_superseded" not in name] == ["/run.toml"]
    assert set(StageFolder(run_url, "shuffle", FINGERPRINTS[0]).start(2)) == {"map-00000"}


@pytest.mark.parametrize("way", ["aside", "back"])
def test_cleaning_after_a_move_that_was_cut_off_frees_nothing_of_it(run_url, monkeypatch, way):
    first, second = FINGERPRINTS[:2]
    make(run_url, first)
    if way == "back":
        make(run_url, second)
    else:
        make(run_url, FINGERPRINTS[2])
        superseding.settle(run_url, "download", first)
    move_all = storage.move_all
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def half(names, source, destination):
            move_all(sorted(names)[:4], source, destination)
            raise KeyboardInterrupt

        patched.setattr(storage, "move_all", half)
        superseding.settle(run_url, "download", first if way == "back" else second)
    # Whichever of the two the folder's manifest names is on its way, and the other one is superseded.
    here, _ = superseding.present(run_url, "download")
    found = list(superseding.apart(run_url))
    assert here not in [each.generation.manifest.fingerprint for each in found]
    assert len(found) == 1
    superseding.complete_moves(run_url)
    for each in superseding.apart(run_url):
        superseding.remove(each)
    assert StageFolder(run_url, "download", here).finished() is not None


def test_links_below_the_superseded_results_are_not_followed(tmp_path):
    mine, theirs = (ownership.claim(str(tmp_path / name), "") for name in ("mine", "theirs"))
    for fingerprint in FINGERPRINTS[:2]:
        make(theirs, fingerprint)
    before = content(theirs)
    make(mine, FINGERPRINTS[2])
    (tmp_path / "mine/_superseded").symlink_to(tmp_path / "theirs/_superseded")
    found = list(superseding.apart(mine))
    assert [type(each) for each in found] == [superseding.Unreadable]
    assert "is a symbolic link, which is not followed" in found[0].problem
    (tmp_path / "mine/_superseded").unlink()
    above = tmp_path / "mine/_superseded/shards"
    above.mkdir(parents=True)
    (above / FINGERPRINTS[1][:16]).symlink_to(tmp_path / "theirs/shards")
    with pytest.raises(StageError, match="symbolic link"):
        superseding.settle(mine, "download", FINGERPRINTS[1])
    assert content(theirs) == before


def test_what_cannot_be_read_is_named_and_the_rest_can_still_be_cleaned(run_url):
    for fingerprint in FINGERPRINTS:
        make(run_url, fingerprint)
    damaged = f"{run_url}/_superseded/shards/{FINGERPRINTS[0][:16]}"
    storage.write_text(f"{damaged}/_manifest.json", "{")
    unreadable, good = sorted(superseding.apart(run_url), key=lambda each: isinstance(each, superseding.Superseded))
    assert f"{damaged}/_manifest.json cannot be read. Move {damaged} out of the run folder" in unreadable.problem
    assert superseding.remove(good) == []


def test_a_superseded_file_that_was_changed_stays_and_is_named(run_url):
    make(run_url, FINGERPRINTS[0])
    make(run_url, FINGERPRINTS[1])
    name = f"00000-{FINGERPRINTS[0][:8]}.tar"
    url = f"{run_url}/_superseded/shards/{FINGERPRINTS[0][:16]}/{name}"
    storage.write_text(url, "changed by hand")
    (each,) = superseding.apart(run_url)
    assert superseding.remove(each) == [url]
    assert [left.generation.manifest.files for left in superseding.apart(run_url)] == [each.generation.manifest.files]


def test_half_written_files_go_when_a_stage_is_found_done(run_url):
    manifest = make(run_url, FINGERPRINTS[0])
    for folder in ("shards", "shards/_records"):
        storage.make_folder(f"{run_url}/{folder}")
        storage.write_text(f"{run_url}/{folder}/{storage.TEMPORARY}0123456789ab", "half a")
    StageFolder(run_url, "download", FINGERPRINTS[0]).tidy(manifest)
    assert set(storage.sizes(f"{run_url}/shards")) == {"_manifest.json", *(entry.path for entry in manifest.files)}
    assert storage.sizes(f"{run_url}/shards/_records") == {}


def test_an_object_store_moves_results_by_itself(s3_bucket, monkeypatch):
    """No byte of a shard comes here or goes back, and of what did not change nothing is copied."""
    import s3fs

    run_url = ownership.claim(f"{s3_bucket}/run-{os.urandom(4).hex()}", "")
    make(run_url, FINGERPRINTS[0])
    make(run_url, FINGERPRINTS[1])
    asked: list[tuple[str, str]] = []
    call = s3fs.S3FileSystem._call_s3

    async def noted(self, method, *arguments, **options):
        asked.append((method, options.get("Key", "")))
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", noted)
    superseding.settle(run_url, "download", FINGERPRINTS[0])
    of_shards = [(method, key) for method, key in asked if not key.endswith(".json") or "_stats" in key]
    assert {method for method, key in of_shards if key} == {"copy_object", "delete_object", "head_object"}
    files = len(superseding.statefiles.read_manifest(f"{run_url}/shards").files)
    assert len([method for method, _ in of_shards if method == "copy_object"]) == 2 * files, "one back, one aside"
    asked.clear()
    superseding.settle(run_url, "download", FINGERPRINTS[0])
    assert {method for method, _ in asked} <= {"list_objects_v2", "get_object", "head_object"}
