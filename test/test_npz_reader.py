"""Arrays of .npz files: equal to numpy's reader for valid files, one clear error for all others."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from multimodal_perception.files import FileError
from multimodal_perception.npz_reader import read_npz

arrays = npst.arrays(
    st.sampled_from([np.float32, np.float16, np.int64, np.uint8, np.bool_, np.dtype("<U5")]),
    npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@settings(max_examples=60, deadline=None)
@given(values=arrays, compressed=st.booleans(), transposed=st.booleans())
def test_arrays_are_read_as_numpy_reads_them(
    values: np.ndarray, compressed: bool, transposed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    values = values.T if transposed else values
    (np.savez_compressed if compressed else np.savez)(path, a=values, b=np.arange(3))
    read = read_npz(path)
    assert list(read) == ["a", "b"]
    assert read["a"].dtype == values.dtype and read["a"].shape == values.shape
    np.testing.assert_array_equal(read["a"], values)
    assert list(read_npz(path, ["b"])) == ["b"]
    if read["a"].size:
        read["a"][...] = read["a"]  # writable


def write(
    path: Path, header: bytes, content: bytes = b"", method: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.npy", header + content)
    return path


def npy_header(shape: object, descr: object = "<f8") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (npy_header((10**12,)), "the header states 1000000000000 values"),
        (npy_header((2**40, 2**40)), "the header states"),
        (npy_header((-1,)), "negative size"),
        (npy_header((3,), "|O"), "Python objects"),
        (npy_header((3,), "nonsense"), "not a readable"),
        (npy_header("x"), "not a readable"),
        (b"\x93NUMPY\x09\x00", "not a readable"),
        (b"junk", "not a readable"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 60000, "not a readable"),
    ],
)
def test_claims_that_the_file_does_not_hold_are_refused(
    header: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match=f"x.npz: .*{words}"):
        read_npz(write(tmp_path / "x.npz", header, bytes(16)))


def test_a_decompression_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.npz", npy_header((1 << 22,), "|u1"), bytes(1 << 22), zipfile.ZIP_DEFLATED
    )
    assert path.stat().st_size < 10_000
    with pytest.raises(FileError, match=r"the arrays have .* bytes; allowed: 1000000"):
        read_npz(path, max_bytes=1_000_000)
    assert read_npz(path)["a"].size == 1 << 22


def test_a_missing_array_and_a_fifo_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(3))
    with pytest.raises(FileError, match="no array 'b'"):
        read_npz(tmp_path / "x.npz", ["b"])
    os.mkfifo(tmp_path / "fifo.npz")
    with pytest.raises(FileError, match="not a regular file"):
        read_npz(tmp_path / "fifo.npz")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_files_raise_only_file_errors(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(20.0), b=np.zeros((3, 4), np.uint8))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    path.write_bytes(content[:cut] if data.draw(st.booleans()) else content)
    try:
        read_npz(path)
    except FileError as error:
        assert str(error).startswith(str(path))
