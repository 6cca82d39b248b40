"""Which files belong together, what is in them, and what is wrong with them, in one clear error each."""

from __future__ import annotations

import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import inference_folder, metadata, unit

from geo_subset.errors import SettingsError
from geo_subset.retrieve.embeddings import arrays, sources, texts
from geo_subset.retrieve.embeddings import metadata as parquet


def rows(count, columns=24, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, columns)))


def all_of(source, size=7):
    return np.concatenate(list(sources.read(source, 0, source.rows, size)))


def pair(folder, vectors, meta=None, name="0"):
    """An .npy file (or its bytes) and its metadata."""
    folder.mkdir(exist_ok=True)
    if isinstance(vectors, bytes):
        (folder / f"{name}.npy").write_bytes(vectors)
    else:
        np.save(folder / f"{name}.npy", vectors)
    pq.write_table(metadata(0, 10) if meta is None else meta, folder / f"{name}.parquet")
    return str(folder)


def described(path, columns=None):
    return sources.describe_all(sources.discover([path]), columns)


def test_an_inference_folder_is_paired_by_number_and_counted_through(tmp_path):
    parts = [rows(n, seed=n).astype(np.float16) for n in (30, 0, 11, 5)]
    found = described(str(inference_folder(tmp_path / "i", parts)), 24)
    assert [(source.first, source.rows) for source in found] == [(0, 30), (30, 0), (30, 11), (41, 5)]
    assert all(source.name.endswith(f"img_emb_{n}.npy") for n, source in enumerate(found))
    for source, part in zip(found, parts, strict=True):
        if len(part):
            assert np.array_equal(all_of(source), part)
            assert source.is_half
    wanted = np.array([0, 3, 4, 29])
    assert np.array_equal(sources.take(found[0], wanted), parts[0][wanted])
    assert parquet.take(found[2].metadata, np.array([1, 10]))["url"].to_pylist() == [
        "http://x/31.jpg",
        "http://x/40.jpg",
    ]


def test_a_missing_number_shifts_nothing(tmp_path):
    folder = inference_folder(tmp_path / "i", [rows(4)] * 3)
    (folder / "metadata/metadata_1.parquet").unlink()
    with pytest.raises(SettingsError, match=r"1 files of vectors have no metadata, first .*img_emb_1\.npy"):
        sources.discover([str(folder)])
    pq.write_table(metadata(0, 4), folder / "metadata/metadata_1.parquet")
    (folder / "img_emb/img_emb_2.npy").unlink()
    with pytest.raises(SettingsError, match=r"1 metadata files have no vectors, first .*metadata_2\.parquet"):
        sources.discover([str(folder)])


def test_different_numbers_of_rows_name_both_files(tmp_path):
    folder = inference_folder(tmp_path / "i", [rows(4), rows(9)])
    pq.write_table(metadata(0, 8), folder / "metadata/metadata_1.parquet")
    with pytest.raises(SettingsError, match=r"img_emb_1\.npy has 9 rows and .*metadata_1\.parquet 8"):
        described(str(folder))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_of_datacomp_the_member_that_is_as_long_as_the_places_vectors(tmp_path, save):
    for name in ("0a1b", "ffee"):
        small, large = rows(9, 16).astype(np.float16), rows(9, 24).astype(np.float16)
        save(tmp_path / f"{name}.npz", b32_img=small, b32_txt=small[::-1], l14_img=large, l14_txt=large[::-1])
        pq.write_table(metadata(0, 9), tmp_path / f"{name}.parquet")
    for columns, expected in ((16, small), (24, large)):
        found = described(str(tmp_path), columns)
        assert np.array_equal(all_of(found[1], 4), expected)
        assert np.array_equal(sources.take(found[1], np.array([2, 8])), expected[[2, 8]])
    with pytest.raises(SettingsError, match=r"no image vectors of 32 columns, but b32_img.npy of 16 columns, l14_img"):
        described(str(tmp_path), 32)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_column_of_vectors(tmp_path, fixed, kind):
    held = rows(50).astype(np.float16)
    listed = pa.list_(kind, 24) if fixed else pa.list_(kind)
    null = () if fixed else (3,)  # older Arrow writes no nulls among lists of fixed size
    lines = enumerate(held.astype(kind.to_pandas_dtype()))
    column = pa.array([None if n in null else line for n, line in lines], listed)
    tags = pa.array([[0.5]] * 50)
    pq.write_table(metadata(0, 50, embedding=column, tags=tags), tmp_path / "a.parquet", row_group_size=20)
    (source,) = described(str(tmp_path / "a.parquet"), 24)
    found = all_of(source)
    assert found.dtype == (np.float16 if kind == pa.float16() else np.float32)
    others = ~np.isin(np.arange(50), null)
    assert np.isnan(found[~others]).all()
    assert np.array_equal(found[others], held[others].astype(found.dtype))
    assert np.array_equal(np.concatenate(list(sources.read(source, 17, 43, 7))), found[17:43], equal_nan=True)
    assert np.array_equal(sources.take(source, np.array([2, 21, 49])), found[[2, 21, 49]])


def test_vectors_of_other_lengths_in_a_column(tmp_path):
    column = pa.array([[0.5] * 24] * 9 + [[0.5] * 23])
    pq.write_table(metadata(0, 10, embedding=column), tmp_path / "a.parquet")
    (source,) = described(str(tmp_path))
    with pytest.raises(SettingsError, match=r"a\.parquet: a vector in column 'embedding' has 23 numbers, others 24"):
        all_of(source)


def test_big_endian_and_float32_are_read_as_they_are(tmp_path):
    held = rows(10)
    for name, dtype in (("a", ">f4"), ("b", ">f2"), ("c", "<f4")):
        pair(tmp_path / "d", held.astype(dtype), name=name)
    for source, dtype in zip(described(str(tmp_path / "d")), ("f4", "f2", "f4"), strict=True):
        assert np.array_equal(all_of(source), held.astype(dtype))
        assert np.array_equal(sources.take(source, np.array([9])), held.astype(dtype)[[9]])


def damaged():
    def npy(array):
        import io

        data = io.BytesIO()
        np.save(data, array, allow_pickle=True)
        return data.getvalue()

    whole = npy(rows(10))
    yield "empty", b"", r"0\.npy is empty"
    yield "cut off in its rows", whole[:-1], r"0\.npy is cut off: it has 1,087 bytes of 1,088"
    yield "cut off in its header", whole[:40], r"0\.npy is no \.npy file, or cut off"
    yield "something else", b"PK nothing of the kind", r"0\.npy is no \.npy file"
    yield "objects", npy(np.array([[object()]] * 10)), r"0\.npy holds Python objects, which are not read"
    yield "float64", npy(rows(10).astype(np.float64)), r"0\.npy holds float64: save it as float16 or float32"
    yield "whole numbers", npy(np.zeros((10, 24), np.int8)), r"0\.npy holds int8"
    yield "Fortran", npy(np.asfortranarray(rows(10))), r"0\.npy is in Fortran order.*np\.ascontiguousarray"
    yield "a line", npy(np.zeros(24, np.float32)), r"0\.npy has the shape \(24,\): it must be \(rows, columns\)"
    yield "no columns", npy(np.zeros((10, 0), np.float32)), r"0\.npy has the shape \(10, 0\)"
    yield "other columns", npy(rows(10, 20)), r"vectors of 20 numbers, the places' have 24: .* the same model"
    yield "other rows", npy(rows(9)), r"0\.npy has 9 rows and .*0\.parquet 10"


@pytest.mark.parametrize(("data", "told"), [case[1:] for case in damaged()], ids=[case[0] for case in damaged()])
def test_what_is_wrong_with_a_file_is_one_clear_error(tmp_path, data, told):
    with pytest.raises(SettingsError, match=told):
        described(pair(tmp_path / "d", data), 24)


def test_python_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.save(tmp_path / "0.npy", np.array([[Trap()]]), allow_pickle=True)
    pq.write_table(metadata(0, 1), tmp_path / "0.parquet")
    with pytest.raises(SettingsError, match="Python objects"):
        described(str(tmp_path))
    with zipfile.ZipFile(tmp_path / "0.npz", "w") as archive:
        archive.write(tmp_path / "0.npy", "b32_img.npy")
    (tmp_path / "0.npy").unlink()
    with pytest.raises(SettingsError, match="Python objects"):
        described(str(tmp_path))
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_is_cut_off_meanwhile(tmp_path):
    (source,) = described(pair(tmp_path / "d", rows(10)))
    whole = (tmp_path / "d/0.npy").read_bytes()
    (tmp_path / "d/0.npy").write_bytes(whole[:-8])
    with pytest.raises(SettingsError, match=r"0\.npy ends before row 10: was it changed meanwhile"):
        all_of(source)


def test_a_damaged_archive(tmp_path):
    np.savez(tmp_path / "0.npz", b32_img=rows(10))
    pq.write_table(metadata(0, 10), tmp_path / "0.parquet")
    (tmp_path / "0.npz").write_bytes((tmp_path / "0.npz").read_bytes()[:-30])
    with pytest.raises(SettingsError, match=r"0\.npz is no \.npz file, or cut off"):
        described(str(tmp_path))


def test_metadata_without_urls_or_vectors(tmp_path):
    folder = pair(tmp_path / "d", rows(10), metadata(0, 10).drop(["url"]))
    with pytest.raises(SettingsError, match=r"0\.parquet: no column 'url' among caption; .*--enable_metadata"):
        described(folder)
    pq.write_table(metadata(0, 10), tmp_path / "alone.parquet")
    with pytest.raises(SettingsError, match=r"alone\.parquet has no column of vectors"):
        described(str(tmp_path / "alone.parquet"))


def test_vectors_of_two_lengths_are_two_runs(tmp_path):
    pair(tmp_path / "d", rows(10, 24), name="a")
    pair(tmp_path / "d", rows(10, 32), name="b")
    with pytest.raises(SettingsError, match=r"a\.npy has vectors of 24 numbers, .*b\.npy of 32"):
        described(str(tmp_path / "d"))


def test_metadata_in_odd_types(tmp_path):
    meta = pa.table(
        {
            "URL": pa.array(["http://x/0", "", None, "http://x/3"]).dictionary_encode(),
            "TEXT": pa.array([b"\xff caption", None, b"c", b"d"]),
            "WIDTH": [640.0, float("nan"), 1e12, None],
            "NSFW": ["UNLIKELY", None, "NSFW", ""],
            "punsafe": ["0.25", "none", None, "1"],
        }
    )
    (source,) = described(pair(tmp_path / "d", rows(4), meta))
    assert parquet.with_url(source.metadata, 0, 4).tolist() == [True, False, False, True]
    assert parquet.with_url(source.metadata, 1, 4).tolist() == [False, False, True]
    found = parquet.take(source.metadata, np.array([0, 1, 2])).to_pydict()
    assert found["caption"] == ["\ufffd caption", None, "c"]
    assert found["width"] == [640, None, None]
    assert found["punsafe"] == [0.25, None, None]
    assert found["height"] == [None] * 3


def test_over_a_network_only_what_is_needed_is_read(tmp_path, s3_bucket):
    import s3fs

    held = rows(1000).astype(np.float16)
    folder = inference_folder(tmp_path / "i", [held])
    fs = s3fs.S3FileSystem()
    fs.put(str(folder), f"{s3_bucket}/inference", recursive=True)
    (source,) = described(f"{s3_bucket}/inference", 24)
    assert np.array_equal(np.concatenate(list(sources.read(source, 10, 900, 300))), held[10:900])
    wanted = np.array([0, 500, 501, 999])
    assert np.array_equal(sources.take(source, wanted), held[wanted])
    assert parquet.take(source.metadata, wanted)["caption"].to_pylist() == [f"image {n}" for n in wanted]


@pytest.mark.parametrize("name", ["q.npy", "q.parquet"])
def test_the_places_vectors_from_a_file(tmp_path, name):
    held = rows(20)
    if name.endswith("npy"):
        np.save(tmp_path / name, held)
    else:
        pq.write_table(pa.table({"vector": list(held)}), tmp_path / name)
    file = texts.describe_file(str(tmp_path / name))
    assert (file.rows, file.columns) == (20, 24)
    assert np.array_equal(texts.read_file(str(tmp_path / name), 3, 17), held[3:17])
    with pytest.raises(SettingsError, match=r"query_vectors = .*it must be an \.npy or a \.parquet file"):
        texts.find_file("q.txt")


def test_rows_far_apart_and_near(tmp_path):
    held = rows(3000, 4)
    (source,) = described(pair(tmp_path / "d", held, metadata(0, 3000)))
    rng = np.random.default_rng(0)
    for size in (1, 5, 300, 2999):
        wanted = np.sort(rng.choice(3000, size, replace=False))
        assert np.array_equal(arrays.take(source.matrix, wanted), held[wanted])
