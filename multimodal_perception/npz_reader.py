"""Read .npz files of unknown origin: the sizes of the arrays are checked before memory is allocated."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.files import FileError, check_regular_file

MAX_FILE_BYTES = 8 << 30
# Sum of the sizes of the arrays that are read from one file.
MAX_ARRAY_BYTES = 8 << 30
MAX_MEMBERS = 10_000
SUFFIX = ".npy"
# What numpy, zipfile and zlib raise for damaged files.
CONTENT_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    NotImplementedError,
    RuntimeError,  # an encrypted member
    SyntaxError,  # in the header of an array
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(
    path: str | Path, names: Iterable[str] | None = None, max_bytes: int = MAX_ARRAY_BYTES
) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz file by name. names: the arrays to read; None for all.

    max_bytes: limit of the sum of their sizes. Objects (pickles) are refused. Raises FileError that
    names the file; also if an array of `names` does not exist.
    """
    check_regular_file(path, MAX_FILE_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(SUFFIX): info
                for info in archive.infolist()
                if info.filename.endswith(SUFFIX)
            }
            if len(members) > MAX_MEMBERS:
                raise FileError(f"{path}: {len(members)} arrays; allowed: at most {MAX_MEMBERS}")
            chosen = list(members) if names is None else list(names)
            missing = [name for name in chosen if name not in members]
            if missing:
                raise FileError(f"{path}: no array {missing[0]!r}")
            size = sum(members[name].file_size for name in chosen)
            if size > max_bytes:
                raise FileError(f"{path}: the arrays have {size} bytes; allowed: {max_bytes}")
            arrays = {}
            for name in chosen:
                with archive.open(members[name]) as file:
                    arrays[name] = _read_array(file, members[name].file_size)
            return arrays
    except FileError:
        raise
    except CONTENT_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileError(f"{os.fspath(path)}: not a readable .npz file ({reason})") from error


def _read_array(file: IO[bytes], size: int) -> NDArray[Any]:
    """Read one array. size: of the member in bytes, by which the stated shape is checked."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"array format {version[0]}.{version[1]} is not supported")
    if dtype.hasobject:
        raise ValueError("arrays of Python objects (pickles) are not allowed")
    if any(n < 0 for n in shape):
        raise ValueError("an array has a negative size")
    count = math.prod(shape)
    if count * dtype.itemsize > size:
        raise ValueError(
            f"the header states {count} values of {dtype}, but the file has {size} bytes"
        )
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise EOFError("the file ends within an array")
    flat = np.frombuffer(bytearray(content), dtype, count)
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)
