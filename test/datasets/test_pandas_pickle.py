from __future__ import annotations

import contextlib
import gzip
import os
import pickle
import resource
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.datasets import pandas_pickle
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.pandas_pickle import read_frame

pd = pytest.importorskip("pandas")


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def as_file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "frame.pkl"
    path.write_bytes(content)
    return path


def table() -> Any:
    return pd.DataFrame(
        {
            "x": [1.5, np.nan, -3.0],
            "d": np.array([0, 1, 0], np.int64),
            "flag": [True, False, True],
            "label": ["Car", None, "Tram / Subway"],
            "small": np.array([1, 2, 3], np.float32),
            "name": ["ä", "b", ""],
        }
    )


def check(columns: dict[str, Any]) -> None:
    assert list(columns) == ["x", "d", "flag", "label", "small", "name"]
    np.testing.assert_array_equal(columns["x"], [1.5, np.nan, -3.0])
    assert columns["d"].tolist() == [0, 1, 0] and columns["d"].dtype.kind == "i"
    assert columns["flag"].tolist() == [True, False, True]
    label = columns["label"].tolist()
    assert label[0] == "Car" and label[2] == "Tram / Subway"
    assert label[1] is None or label[1] != label[1]
    assert columns["small"].dtype == np.float32 and columns["name"].tolist() == ["ä", "b", ""]


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
@pytest.mark.parametrize("storage", ("object", "python", "pyarrow"))
def test_columns_are_those_of_the_frame(tmp_path: Path, protocol: int, storage: str) -> None:
    frame = table()
    if storage == "object":
        frame = frame.astype({"label": object, "name": object})
        frame.columns = frame.columns.astype(object)
    else:
        if storage == "pyarrow":
            pytest.importorskip("pyarrow")
        kind = pd.StringDtype(storage)
        frame = frame.astype({"label": kind, "name": kind})
    check(read_frame(as_file(tmp_path, pickle.dumps(frame, protocol))))
    selected = frame.loc[frame["d"] == 0]  # another index and blocks that are not contiguous
    columns = read_frame(as_file(tmp_path, gzip.compress(pickle.dumps(selected, protocol))))
    assert columns["x"].tolist() == [1.5, -3.0] and columns["name"].tolist() == ["ä", ""]
    empty = read_frame(as_file(tmp_path, pickle.dumps(frame.iloc[:0], protocol)))
    assert {len(c) for c in empty.values()} == {0}


class _OldManager:
    """The state of a BlockManager of pandas before 1.3, with which PandaSet was written."""

    def __init__(self, axes: list[Any], blocks: list[dict[str, Any]]) -> None:
        self.axes, self.blocks = axes, blocks

    def __reduce__(self) -> Any:
        values = [b["values"] for b in self.blocks]
        items = [self.axes[0] for _ in self.blocks]
        extra = {"0.14.1": {"axes": self.axes, "blocks": self.blocks}}
        return _OldManager, (), (self.axes, values, items, extra)


class _OldFrame:
    def __init__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state


def test_the_layout_of_old_pandas_is_read(tmp_path: Path) -> None:
    def index(values: list[str]) -> Any:
        return Calls(_new_index, _Index, {"data": np.array(values, object), "name": None})

    rows = Calls(_new_index, _Int64Index, {"data": np.arange(2), "name": "index"})
    blocks = [
        {"values": np.array([[1.0, 2.0], [3.0, 4.0]]), "mgr_locs": slice(0, 4, 2)},
        {"values": np.array([["a", "b"]], object), "mgr_locs": np.array([1])},
        {"values": np.array([[5, 6]]), "mgr_locs": slice(3, 4, 1)},
    ]
    manager = _OldManager([index(["x", "label", "y", "d"]), rows], blocks)
    content = pickle.dumps(_OldFrame({"_data": manager, "_typ": "dataframe", "_metadata": []}), 3)
    here = __name__.encode()
    for ours, theirs in (
        (b"_OldFrame", b"pandas.core.frame\nDataFrame"),
        (b"_OldManager", b"pandas.core.internals.managers\nBlockManager"),
        (b"_new_index", b"pandas.core.indexes.base\n_new_Index"),
        (b"_Index", b"pandas.core.indexes.base\nIndex"),
        (b"_Int64Index", b"pandas.core.indexes.numeric\nInt64Index"),
    ):
        content = content.replace(b"c" + here + b"\n" + ours + b"\n", b"c" + theirs + b"\n")
    assert here not in content
    columns = read_frame(as_file(tmp_path, content))
    assert {k: v.tolist() for k, v in columns.items()} == {
        "x": [1.0, 2.0],
        "label": ["a", "b"],
        "y": [3.0, 4.0],
        "d": [5, 6],
    }


class _Index: ...


class _Int64Index: ...


def _new_index(cls: Any, content: Any) -> Any: ...


MARKER = "was_called"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Calls(os.system, f"touch {MARKER}"), "system"),
        (Calls(eval, f"open({MARKER!r}, 'w')"), "eval"),
        (Calls(exec, f"open({MARKER!r}, 'w')"), "exec"),
        (Calls(getattr, os, "system"), ""),
        (Calls(__import__, "os"), "__import__"),
        (Calls(open, MARKER, "w"), "open"),
        (Calls(np.load, MARKER), "load"),
        (Calls(np.zeros, 10), "zeros"),
        (Calls(pd.read_pickle, MARKER), "read_pickle"),
        (Calls(pd.eval, "1"), "eval"),
        (Calls(bytearray, 1 << 40), ""),
        (Calls(list, "abc"), "list"),
        (np.zeros(3), "not a DataFrame"),
        ({"x": [1]}, "not a DataFrame"),
    ],
)
def test_calls_are_refused_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = []
    for protocol in (2, 4):
        try:
            contents.append(pickle.dumps(value, protocol))
        except TypeError:  # a module has no pickle
            contents.append(b"cposix\nsystem\n(S'touch was_called'\ntR.")
    frame = table()
    frame["bad"] = [value if not isinstance(value, (np.ndarray, dict)) else Calls(eval, "1")] * 3
    with contextlib.suppress(TypeError):
        contents.append(pickle.dumps(frame))  # inside of a frame
    for content in contents:
        with pytest.raises(DatasetError, match="refused") as error:
            read_frame(as_file(tmp_path, content))
        assert "frame.pkl" in str(error.value)
    if name:
        with pytest.raises(DatasetError, match=name):
            read_frame(as_file(tmp_path, contents[0]))
    assert not (tmp_path / MARKER).exists()


def test_dotted_and_hidden_names_are_refused(tmp_path: Path) -> None:
    for module, name in (
        ("numpy", "dtype.__class__"),
        ("pandas.core.frame", "DataFrame.to_pickle"),
        ("pandas.io.pickle", "read_pickle"),
        ("os", "system"),
        ("builtins", "globals"),
    ):
        content = b"\x80\x04" + _text(module) + _text(name) + b"\x93."
        with pytest.raises(DatasetError, match="refused: the pickle uses"):
            read_frame(as_file(tmp_path, content))


def _text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def _array(shape: bytes, data: bytes, dtype: str = "f8") -> bytes:
    """A pickled numpy array of any shape with any data; protocol 4."""
    start = b"\x80\x04" + _text("numpy.core.multiarray") + _text("_reconstruct") + b"\x93"
    start += _text("numpy") + _text("ndarray") + b"\x93K\x00\x85C\x01b\x87R"
    kind = _text("numpy") + _text("dtype") + b"\x93" + _text(dtype) + b"\x89\x88\x87R"
    kind += b"(K\x03" + _text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return start + b"(K\x01" + shape + kind + b"\x89" + data + b"tb"


def _frame_with(array: bytes) -> bytes:
    """A DataFrame with one column of an array, in the layout of pandas 1.3 and newer."""
    body = array[2:]
    names = _array(b"K\x01\x85", b"(" + _text("x") + b"l", "O8")[2:]
    block = _text("pandas._libs.internals") + _text("_unpickle_block") + b"\x93"
    block += b"(" + body + _text("builtins") + _text("slice") + b"\x93K\x00K\x01K\x01\x87RK\x02tR"
    index = _text("pandas.core.indexes.base") + _text("_new_Index") + b"\x93"
    index += _text("pandas.core.indexes.base") + _text("Index") + b"\x93"
    index += b"}" + _text("data") + names + b"s\x86R"
    manager = _text("pandas.core.internals.managers") + _text("BlockManager") + b"\x93"
    manager += b"(" + block + b"\x85" + index + b"\x85tR"
    frame = _text("pandas.core.frame") + _text("DataFrame") + b"\x93)\x81}" + _text("_mgr")
    return b"\x80\x04" + frame + manager + b"sb."


def test_arrays_have_the_size_of_their_data(tmp_path: Path) -> None:
    good = _array(b"K\x01K\x02\x86", b"C\x10" + struct.pack("<2d", 1, 2))
    assert read_frame(as_file(tmp_path, _frame_with(good)))["x"].tolist() == [1, 2]
    huge = b"K\x01\x8a\x05" + (1 << 38).to_bytes(5, "little") + b"\x86"
    negative = b"K\x01J" + struct.pack("<i", -2) + b"\x86"
    for shape, data, dtype in (
        (huge, b"C\x10" + bytes(16), "f8"),
        (negative, b"C\x10" + bytes(16), "f8"),
        (b"K\x01K\x02\x86", b"C\x08" + bytes(8), "f8"),
        (b"K\x01K\x01K\x02\x87", b"C\x10" + bytes(16), "f8"),
        (b"K\x01K\x02\x86", b"C\x10" + bytes(16), "V8"),
        (b"K\x01K\x02\x86", b"C\x10" + bytes(16), "(9,)f8"),
        (b"K\x01K\x02\x86", b"C\x10" + bytes(16), "f8,f8"),
        (b"K\x01K\x02\x86", b"C\x10" + bytes(16), "O8"),
    ):
        with pytest.raises(DatasetError, match="refused"):
            read_frame(as_file(tmp_path, _frame_with(_array(shape, data, dtype))))


def test_memory_stays_bounded_for_extreme_sizes(tmp_path: Path) -> None:
    """Declared sizes, memo indices and nesting far beyond the content of the file."""
    cases = {
        "bytes of 1 TiB": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"xx.",
        "bytearray of 1 TiB": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"xx.",
        "text of 4 GiB": b"\x80\x04X" + struct.pack("<I", 0xFFFFFFFF) + b"xx.",
        "memo index": b"\x80\x04Nr" + struct.pack("<I", 0x30000000) + b".",
        "memo index as text": b"Np900000000\n.",
        "integer of 1 GiB": b"\x80\x04\x8b" + struct.pack("<i", 1 << 30) + b"x.",
        "nested tuples": b"\x80\x04N" + b"\x85" * 1_000_000 + b".",
        "nested lists": b"\x80\x04" + b"]" * 500_000 + b"a" * 499_999 + b".",
        "persistent id": b"Pabc\n.",
        "extension code": b"\x80\x02\x82\x01.",
        "empty": b"",
        "text": b"no pickle at all",
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in cases.items():
        with pytest.raises(DatasetError, match=r"frame\.pkl"):
            read_frame(as_file(tmp_path, content))
            pytest.fail(name)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 512 * 1024, "kilobytes"


def test_gzip_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(pickle.dumps(table()))
    check(read_frame(as_file(tmp_path, content)))
    for damaged, message in (
        (content[:-20], "truncated"),
        (content[: len(content) // 2], "truncated"),
        (content[:20] + b"\0\xff\0" + content[23:], "gzip"),
        (content + b"more", "after its end"),
        (gzip.compress(b"") * 100 + content, "gzip members"),
    ):
        with pytest.raises(DatasetError, match=message):
            read_frame(as_file(tmp_path, damaged))
    monkeypatch.setattr(pandas_pickle, "MAX_PICKLE_BYTES", 1 << 20)
    bomb = gzip.compress(bytes(64 << 20), 9)
    assert len(bomb) < 100_000
    with pytest.raises(DatasetError, match="when decompressed"):
        read_frame(as_file(tmp_path, bomb))
    monkeypatch.setattr(pandas_pickle, "MAX_FILE_BYTES", 100)
    with pytest.raises(DatasetError, match="larger than 100 bytes"):
        read_frame(as_file(tmp_path, content))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(DatasetError, match="not a regular file"):
        read_frame(tmp_path / "pipe.pkl")
    with pytest.raises(DatasetError, match=r"missing\.pkl"):
        read_frame(tmp_path / "missing.pkl")


@given(st.data())
def test_damaged_content_never_raises_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(pickle.dumps(table(), data.draw(st.integers(2, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(content)))
    path = as_file(tmp_path_factory.getbasetemp(), bytes(content[:cut]))
    try:
        columns = read_frame(path)
    except DatasetError as error:
        assert str(path) in str(error)
    else:
        assert len({len(c) for c in columns.values()}) <= 1


def test_pandas_is_not_imported_by_the_reader() -> None:
    import subprocess

    code = (
        "import sys; import multimodal_perception.datasets.pandaset; "
        "sys.exit('pandas' in sys.modules or 'pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
