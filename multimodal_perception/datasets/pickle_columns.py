"""Columns of a recorded pandas DataFrame as numpy arrays, see pandas_pickle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.pickle_records import (
    ArrayRecord,
    ArrowArrayRecord,
    ArrowBufferRecord,
    ArrowTypeRecord,
    BlockRecord,
    BufferArrayRecord,
    BytesRecord,
    DataFrameRecord,
    DTypeRecord,
    EncodedRecord,
    ManagerRecord,
    MissingRecord,
    NewIndexRecord,
    RefusedPickle,
    ScalarRecord,
    SliceRecord,
    StringArrayRecord,
)

MAX_COLUMNS = 1000
_NUMERIC_KINDS = "biuf"
# Elements of object columns: no containers.
_SCALARS = (str, int, float, bool, type(None))


def columns_of_frame(frame: Any) -> dict[str, NDArray[Any]]:
    """Columns of a recorded DataFrame."""
    if not isinstance(frame, DataFrameRecord) or not isinstance(frame.state, dict):
        raise RefusedPickle("the pickle is not a DataFrame")
    manager = frame.state.get("_mgr", frame.state.get("_data"))
    if not isinstance(manager, ManagerRecord):
        raise RefusedPickle("the DataFrame has no blocks")
    axes, blocks = _axes_and_blocks(manager)
    names = _index_values(axes[0])
    if len(names) > MAX_COLUMNS:
        raise RefusedPickle(f"more than {MAX_COLUMNS} columns")
    columns: list[NDArray[Any] | None] = [None] * len(names)
    for values, placement in blocks:
        rows = _block_rows(values)
        positions = _positions(placement, len(names))
        if len(positions) != len(rows):
            raise RefusedPickle("a block has another number of columns than its placement")
        for position, row in zip(positions, rows, strict=True):
            columns[position] = row
    result: dict[str, NDArray[Any]] = {}
    for name, column in zip(names, columns, strict=True):
        if not isinstance(name, str) or name in result:
            raise RefusedPickle("column names must be different texts")
        if column is None:
            raise RefusedPickle(f"column {name[:50]!r} has no values")
        result[name] = column
    if len({len(c) for c in result.values()}) > 1:
        raise RefusedPickle("columns of different length")
    return result


def _axes_and_blocks(manager: ManagerRecord) -> tuple[Any, list[tuple[Any, Any]]]:
    """Axes, and (values, placement) of the blocks.

    pandas 1.3 and newer: BlockManager(blocks, axes). Older: the state (axes, block values, block items,
    {"0.14.1": {"axes": axes, "blocks": [{"values": ..., "mgr_locs": ...}]}}).
    """
    if len(manager.args) >= 2:
        blocks, axes = manager.args[:2]
        if not all(isinstance(b, BlockRecord) and len(b.args) >= 2 for b in blocks):
            raise RefusedPickle("unknown kind of block")
        return axes, [(b.args[0], b.args[1]) for b in blocks]
    state = manager.state
    if isinstance(state, tuple) and len(state) >= 4 and isinstance(state[3], dict):
        content = state[3].get("0.14.1")
        if isinstance(content, dict):
            return content["axes"], [(b["values"], b["mgr_locs"]) for b in content["blocks"]]
    raise RefusedPickle("a DataFrame of an unknown version of pandas")


def _positions(placement: Any, columns: int) -> list[int]:
    """Column numbers of a block from a slice or an array."""
    if isinstance(placement, SliceRecord):
        bounds = placement.args
        if len(bounds) != 3 or not all(v is None or isinstance(v, int) for v in bounds):
            raise RefusedPickle("placement of a block")
        return list(range(columns))[slice(*bounds)]
    positions = [int(v) for v in _array(placement).reshape(-1)]
    if not all(0 <= p < columns for p in positions):
        raise RefusedPickle("placement of a block")
    return positions


def _block_rows(values: Any) -> list[NDArray[Any]]:
    """The columns of a block: an array (columns, rows), or (rows,) of texts."""
    if isinstance(values, (StringArrayRecord, ArrowArrayRecord)):
        return [_texts(values)]
    array = _array(values)
    return [array] if array.ndim == 1 else list(array)


def _index_values(index: Any) -> list[Any]:
    """Values of the axis with the names of the columns."""
    if not isinstance(index, NewIndexRecord) or len(index.args) != 2:
        raise RefusedPickle("unknown kind of index")
    content = index.args[1]
    if not isinstance(content, dict) or "data" not in content:
        raise RefusedPickle("the columns have no names")
    data = content["data"]
    if isinstance(data, (StringArrayRecord, ArrowArrayRecord)):
        return list(_texts(data))
    return list(_array(data).reshape(-1))


def _texts(values: Any) -> NDArray[Any]:
    """Texts (N,) of a string array; None where missing."""
    if isinstance(values, ArrowArrayRecord):
        return _arrow_texts(values)
    parts = (*values.args, *_flat(values.state))
    for part in parts:
        if isinstance(part, ArrowArrayRecord):
            return _arrow_texts(part)
        if isinstance(part, (ArrayRecord, BufferArrayRecord)):
            return _array(part).reshape(-1)
    raise RefusedPickle("texts of an unknown kind")


def _flat(state: Any) -> list[Any]:
    """The parts of a state: of a tuple or of the values of a dictionary, and of one in the other."""
    level = [state]
    parts: list[Any] = []
    for _ in range(3):
        inner: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                inner += part.values()
            elif isinstance(part, (tuple, list)):
                inner += part
            else:
                parts.append(part)
            if len(inner) > MAX_COLUMNS:
                raise RefusedPickle("texts of an unknown kind")
        level = inner
    return parts


def _arrow_texts(values: ArrowArrayRecord) -> NDArray[Any]:
    """Texts of an Arrow array of type string or large_string: (type, length, nulls, offset, buffers).

    Arrow's columnar format: bit i of the first buffer is 1 if text i is present; the second buffer has
    the offsets of the texts in the third one. A chunked array is a list of arrays.
    """
    content = values.args[0] if len(values.args) == 1 else ()
    if not isinstance(content, tuple) or len(content) < 5:
        raise RefusedPickle("Arrow array of an unknown kind")
    kind, length, _, offset, buffers = content[:5]
    name = kind.args[0] if isinstance(kind, ArrowTypeRecord) and kind.args else None
    if name not in ("large_string", "string") or not isinstance(buffers, (list, tuple)):
        raise RefusedPickle("Arrow arrays of other types than texts")
    if not (isinstance(length, int) and isinstance(offset, int) and length >= 0 and offset >= 0):
        raise RefusedPickle("size of an Arrow array")
    valid, offsets, data = (_arrow_buffer(b) for b in buffers[:3])
    width = np.dtype("<i8" if name == "large_string" else "<i4")
    if len(offsets) < (offset + length + 1) * width.itemsize:
        raise RefusedPickle("offsets of an Arrow array")
    ends = np.frombuffer(offsets, width, length + 1, offset * width.itemsize)
    result = np.empty(length, object)
    if length and (ends.min() < 0 or ends.max() > len(data) or (np.diff(ends) < 0).any()):
        raise RefusedPickle("offsets of an Arrow array")
    if valid and len(valid) * 8 < offset + length:
        raise RefusedPickle("validity of an Arrow array")
    for i in range(length):
        bit = offset + i
        if not valid or valid[bit // 8] >> (bit % 8) & 1:
            result[i] = data[int(ends[i]) : int(ends[i + 1])].decode("utf-8")
    return result


def _arrow_buffer(buffer: Any) -> bytes:
    if buffer is None:
        return b""
    if isinstance(buffer, ArrowBufferRecord) and len(buffer.args) == 1:
        return _bytes(buffer.args[0])
    raise RefusedPickle("buffer of an Arrow array")


def _array(record: Any) -> NDArray[Any]:
    """The array of a recorded numpy array. Its size is that of the data in the file."""
    if isinstance(record, ArrayRecord):
        state = record.state
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedPickle("array without content")
        _, shape, dtype, fortran, data = state
        order = "F" if fortran else "C"
    elif isinstance(record, BufferArrayRecord) and len(record.args) >= 4:
        data, dtype, shape, order = record.args[:4]
    else:
        raise RefusedPickle("an array of an unknown kind")
    if isinstance(shape, int):
        shape = (shape,)
    if not isinstance(shape, tuple) or len(shape) > 2:
        raise RefusedPickle("arrays must have one or two dimensions")
    if not all(isinstance(n, int) and n >= 0 for n in shape) or order not in ("C", "F"):
        raise RefusedPickle("shape of an array")
    count = math.prod(shape)
    if _is_object(dtype):
        if not isinstance(data, list) or len(data) != count:
            raise RefusedPickle("array of objects with another number of elements than its shape")
        array = np.empty(count, object)
        array[:] = [_element(v) for v in data]
        order = "C"  # numpy stores the objects in this order, also of arrays in Fortran order
    else:
        kind, content = _numeric(dtype), _bytes(data)
        if len(content) != count * kind.itemsize:
            raise RefusedPickle("array with another number of bytes than its shape")
        array = np.frombuffer(content, kind)
    return array.reshape(shape, order=order)  # type: ignore[call-overload]


def _is_object(dtype: Any) -> bool:
    return (
        isinstance(dtype, DTypeRecord) and bool(dtype.args) and dtype.args[0] in ("O8", "O", "|O")
    )


def _numeric(dtype: Any) -> np.dtype[Any]:
    """The type of a recorded dtype of a number or bool."""
    code = dtype.args[0] if isinstance(dtype, DTypeRecord) and dtype.args else None
    if not isinstance(code, str) or len(code) > 3 or code.strip("<>=|")[:1] not in _NUMERIC_KINDS:
        raise RefusedPickle("arrays of other types than numbers, bool and objects")
    kind = np.dtype(code)
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "="
    if order not in ("<", ">", "=", "|"):
        raise RefusedPickle("byte order of an array")
    if order == "=" or order == "|":
        return kind
    return kind.newbyteorder("<" if order == "<" else ">")


def _element(value: Any) -> Any:
    """An element of an array of objects."""
    if isinstance(value, ScalarRecord) and len(value.args) == 2:
        kind, content = _numeric(value.args[0]), _bytes(value.args[1])
        if len(content) != kind.itemsize:
            raise RefusedPickle("size of a number")
        return np.frombuffer(content, kind)[0].item()
    if value is MissingRecord:
        return None
    if not isinstance(value, _SCALARS):
        raise RefusedPickle(f"an element of type {type(value).__name__} in a column")
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, EncodedRecord) and value.args[1:] == ("latin1",):
        text = value.args[0]
        if isinstance(text, str):
            return text.encode("latin1")
    if isinstance(value, BytesRecord):
        return _bytes(value.args[0]) if value.args else b""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise RefusedPickle("data of an unknown kind")
