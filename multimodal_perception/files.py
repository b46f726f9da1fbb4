"""Read files of unknown origin: regular files only, with a limit on their size."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

MAX_PATH, MAX_NAME = 4095, 255


class UserError(Exception):
    """An error that the user can fix. The message names the cause; it is printed without a traceback."""


class FileError(UserError):
    """A file cannot be read. The message names the file."""


def check_regular_file(path: str | Path, max_bytes: int) -> int:
    """Size of a regular file in bytes. Does not open the file.

    Raises FileError if the path is missing, is not a regular file (a FIFO or a device could block for
    ever), or is larger than max_bytes.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise FileError(f"{_printable(path)}: {_reason(error)}") from error
    return _check(path, status, max_bytes)


def read_regular_file(path: str | Path, max_bytes: int) -> bytes:
    """Content of a regular file of at most max_bytes bytes. Raises FileError, see check_regular_file."""
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise FileError(f"{_printable(path)}: {_reason(error)}") from error
    try:
        with os.fdopen(descriptor, "rb") as file:
            _check(path, os.fstat(file.fileno()), max_bytes)
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise FileError(f"{_printable(path)}: {_reason(error)}") from error
    if len(content) > max_bytes:  # the file grew
        raise FileError(f"{_printable(path)}: larger than {max_bytes} bytes")
    return content


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that replaces `path` at the end of the `with` block.

    If the block fails, for example because the disk is full, `path` stays as it was and the temporary
    file beside it is removed. Raises FileError instead of OSError.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FileError(f"{_printable(path)}: cannot be written: {_reason(error)}") from error
        raise


def is_writable(folder: Path, required_bytes: int = 0) -> bool:
    """Whether files can be written to a folder, which is created if it does not exist.

    required_bytes: free space that the folder must have.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
        return shutil.disk_usage(folder).free >= required_bytes
    except (OSError, ValueError):
        return False


def user_path(text: str | Path) -> Path:
    """A path that a user gave, with ~ and ~user expanded.

    Raises FileError for an unknown user, a null character and names that are too long for a file system.
    """
    if "\0" in str(text):
        raise FileError(f"{_printable(text)}: a path cannot contain a null character")
    if len(str(text)) > MAX_PATH or any(len(p) > MAX_NAME for p in Path(text).parts):
        raise FileError(f"{_printable(text)}: the path is too long")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise FileError(f"{_printable(text)}: {error}") from error


def check_name(name: str, source: str, key: str) -> None:
    """Check a name that is shown and used in file names.

    Raises UserError unless it has 1 to 100 printable characters without slashes, and is not . or ..
    """
    if (
        not 0 < len(name) <= 100
        or not name.isprintable()
        or set(name) & set("/\\")
        or name[0] == "."
    ):
        raise UserError(
            f"{source}: {key}: expected 1 to 100 printable characters without slashes that do not start "
            f"with a dot; got {_printable(name)[:60]!r}"
        )


def _check(path: str | Path, status: os.stat_result, max_bytes: int) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise FileError(f"{_printable(path)}: is a directory, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{_printable(path)}: not a regular file")
    if status.st_size > max_bytes:
        size = f"larger than {max_bytes} bytes ({status.st_size})"
        raise FileError(f"{_printable(path)}: {size}")
    return status.st_size


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _printable(path: str | Path) -> str:
    """The path without characters that a terminal cannot print."""
    text = str(path)
    if len(text) > 300:
        text = f"{text[:150]}...{text[-100:]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
