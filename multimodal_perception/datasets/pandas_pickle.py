"""Read a pickled pandas DataFrame as numpy arrays, without pandas and without running foreign code.

A pickle is a program: it can call any function. This reader admits only the names in ALLOWED and
replaces each of them by a class of this module, so that nothing of pandas, numpy or pyarrow is called
with arguments from the file; every other name is refused. The recorded parts of a DataFrame are then
put together to columns. This works for the layouts of pandas 0.25 to 3.1, whichever pandas is
installed; pandas itself can read old pickles only within limits.

Resources are bounded: the file and its decompressed content by size, the pickle's opcodes by number and
by memo index, and arrays by the bytes that the file really contains.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.file_limits import read_bytes
from multimodal_perception.datasets.pickle_columns import columns_of_frame
from multimodal_perception.datasets.pickle_records import ALLOWED, RefusedPickle

MAX_FILE_BYTES = 64 << 20
MAX_PICKLE_BYTES = 256 << 20  # a frame of PandaSet has about 8 MiB
# A label file of 1000 objects has about 20000 opcodes.
MAX_OPCODES = 5_000_000
MAX_GZIP_MEMBERS = 64
GZIP_MAGIC = b"\x1f\x8b"
# Opcodes that no pickle of a DataFrame contains: persistent ids, extension codes, and the calls of old
# protocols.
_REFUSED_OPCODES = frozenset(
    ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER")
)


def read_frame(path: Path) -> dict[str, NDArray[Any]]:
    """Columns of a pickled DataFrame, plain or compressed with gzip, by name.

    A column is an array (N,) of bool, integer or float, or of objects: texts, numbers and None. Raises
    DatasetError that names the file and the reason, for example the refused name.
    """
    content = _decompressed(path, read_bytes(path, MAX_FILE_BYTES))
    try:
        _check_opcodes(content)
        columns = columns_of_frame(_Unpickler(io.BytesIO(content)).load())
    except RefusedPickle as error:
        raise DatasetError(f"{path}: refused: {error}") from error
    except MemoryError as error:
        raise DatasetError(f"{path}: refused: the pickle requires too much memory") from error
    except RecursionError as error:
        raise DatasetError(f"{path}: refused: nested too deeply") from error
    except Exception as error:  # pickle raises any exception for damaged content
        raise DatasetError(
            f"{path}: not a pickled DataFrame ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    return columns


def _decompressed(path: Path, content: bytes) -> bytes:
    if not content.startswith(GZIP_MAGIC):
        return content
    parts: list[bytes] = []
    size = 0
    rest = content
    try:
        while rest and len(parts) < MAX_GZIP_MEMBERS:  # a gzip file is a sequence of members
            if not rest.startswith(GZIP_MAGIC):
                if rest.strip(b"\0"):
                    raise DatasetError(f"{path}: not a gzip file: data after its end")
                break
            stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
            parts.append(stream.decompress(rest, MAX_PICKLE_BYTES - size + 1))
            size += len(parts[-1])
            if size > MAX_PICKLE_BYTES:
                raise DatasetError(
                    f"{path}: larger than {MAX_PICKLE_BYTES} bytes when decompressed"
                )
            if not stream.eof:
                raise DatasetError(f"{path}: the gzip file is truncated")
            rest = stream.unused_data
    except zlib.error as error:
        raise DatasetError(f"{path}: not a gzip file ({error})") from error
    if rest.strip(b"\0"):
        raise DatasetError(f"{path}: more than {MAX_GZIP_MEMBERS} gzip members")
    return b"".join(parts)


def _check_opcodes(content: bytes) -> None:
    """Raise RefusedPickle for opcodes that are not needed, or whose memo index would allocate memory."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content), 1):
        if count > MAX_OPCODES:
            raise RefusedPickle(f"more than {MAX_OPCODES} opcodes")
        if opcode.name in _REFUSED_OPCODES:
            raise RefusedPickle(f"opcode {opcode.name}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > count:
            raise RefusedPickle(f"memo index {argument} after {count} opcodes")


class _Unpickler(pickle.Unpickler):
    """Replaces the allowed names by recording classes and refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise RefusedPickle(
                f"the pickle uses {module}.{name}, which is not part of a DataFrame of numbers and texts"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedPickle("persistent id")
