"""Recording classes for the names in a pickled pandas DataFrame, see pandas_pickle."""

from __future__ import annotations

from typing import Any


class RefusedPickle(ValueError):
    """The pickle contains something that a DataFrame does not consist of."""


class Record:
    """Records the arguments of a constructor and the state that is set afterwards."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Record:
        record = object.__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class DataFrameRecord(Record):
    __slots__ = ()


class ManagerRecord(Record):
    __slots__ = ()


class BlockRecord(Record):
    """_unpickle_block(values, placement, ndim)."""

    __slots__ = ()


class SliceRecord(Record):
    __slots__ = ()


class IndexRecord(Record):
    __slots__ = ()


class NewIndexRecord(Record):
    """_new_Index(class, {"data": values, "name": name, ...})."""

    __slots__ = ()


class StringArrayRecord(Record):
    __slots__ = ()


class MissingRecord(Record):
    """pandas.NA, which is stored by its name."""

    __slots__ = ()


class StringTypeRecord(Record):
    __slots__ = ()


class ArrowArrayRecord(Record):
    __slots__ = ()


class ArrowBufferRecord(Record):
    __slots__ = ()


class ArrowTypeRecord(Record):
    __slots__ = ()


class NdArrayRecord(Record):
    """numpy.ndarray as the argument of _reconstruct."""

    __slots__ = ()


class DTypeRecord(Record):
    """numpy.dtype(code, align, copy) with the state (version, byte order, ...)."""

    __slots__ = ()


class ArrayRecord(Record):
    """_reconstruct(ndarray, (0,), b"b") with the state (version, shape, dtype, fortran order, data)."""

    __slots__ = ()


class BufferArrayRecord(Record):
    """_frombuffer(buffer, dtype, shape, order) of protocol 5."""

    __slots__ = ()


class ScalarRecord(Record):
    """numpy scalar(dtype, bytes)."""

    __slots__ = ()


class EncodedRecord(Record):
    """_codecs.encode(text, "latin1"): the bytes of an array in protocol 2."""

    __slots__ = ()


class BytesRecord(Record):
    """bytearray(bytes) of old protocols, or bytes() without arguments."""

    __slots__ = ()


_INDEX_NAMES = ("Index", "RangeIndex", "Int64Index", "UInt64Index", "Float64Index", "NumericIndex")
_INDEX_MODULES = (
    "pandas",
    "pandas.core.indexes.base",
    "pandas.core.indexes.range",
    "pandas.core.indexes.numeric",
    "pandas.core.index",
    "pandas.indexes.base",
    "pandas.indexes.range",
    "pandas.indexes.numeric",
)
_STRING_ARRAYS = ("StringArray", "StringArrayNumpySemantics", "ArrowStringArray")
_STRING_MODULES = ("pandas.arrays", "pandas.core.arrays.string_", "pandas.core.arrays.string_arrow")
ALLOWED: dict[tuple[str, str], type[Record]] = {
    ("pandas", "DataFrame"): DataFrameRecord,
    ("pandas.core.frame", "DataFrame"): DataFrameRecord,
    ("pandas.core.internals.managers", "BlockManager"): ManagerRecord,
    ("pandas.core.internals", "BlockManager"): ManagerRecord,
    ("pandas._libs.internals", "_unpickle_block"): BlockRecord,
    ("pandas.core.internals.blocks", "new_block"): BlockRecord,
    ("pandas.core.indexes.base", "_new_Index"): NewIndexRecord,
    ("pandas.indexes.base", "_new_Index"): NewIndexRecord,
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"): StringArrayRecord,
    ("pandas._libs.missing", "NA"): MissingRecord,
    ("pandas", "NA"): MissingRecord,
    ("pandas", "StringDtype"): StringTypeRecord,
    ("pandas.core.arrays.string_", "StringDtype"): StringTypeRecord,
    ("pyarrow.lib", "_restore_array"): ArrowArrayRecord,
    ("pyarrow.lib", "py_buffer"): ArrowBufferRecord,
    ("pyarrow.lib", "type_for_alias"): ArrowTypeRecord,
    ("numpy", "ndarray"): NdArrayRecord,
    ("numpy", "dtype"): DTypeRecord,
    ("numpy.core.multiarray", "_reconstruct"): ArrayRecord,
    ("numpy._core.multiarray", "_reconstruct"): ArrayRecord,
    ("numpy.core.multiarray", "scalar"): ScalarRecord,
    ("numpy._core.multiarray", "scalar"): ScalarRecord,
    ("numpy.core.numeric", "_frombuffer"): BufferArrayRecord,
    ("numpy._core.numeric", "_frombuffer"): BufferArrayRecord,
    ("builtins", "slice"): SliceRecord,
    ("__builtin__", "slice"): SliceRecord,
    ("builtins", "bytearray"): BytesRecord,
    ("__builtin__", "bytearray"): BytesRecord,
    ("builtins", "bytes"): BytesRecord,
    ("__builtin__", "bytes"): BytesRecord,
    ("_codecs", "encode"): EncodedRecord,
    **{(module, name): IndexRecord for module in _INDEX_MODULES for name in _INDEX_NAMES},
    **{(module, name): StringArrayRecord for module in _STRING_MODULES for name in _STRING_ARRAYS},
}
