"""Inputs of commands: data sets, folders with many of them, patterns, and lists in files."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.open_dataset import detect_format
from multimodal_perception.files import FileError, read_regular_file, user_path

INPUTS_HELP = (
    "; several are allowed: paths, folders that contain bags or data sets, patterns such as "
    "'~/drives/*', and @FILE with one of them on each line"
)
MAX_LIST_BYTES = 64 << 20
MAX_INPUTS = 1_000_000


def expand_inputs(
    values: Sequence[str], is_dataset: Callable[[Path], bool] | None = None
) -> list[str]:
    """Paths of the data sets of all inputs, in the order of the inputs and sorted within each.

    A leading ~ or ~user is expanded, also in patterns and lists. A path that is not found stays, so that
    opening it gives the error. is_dataset: whether a folder is a data set (default: of a format that is
    detected). Raises UserError for a pattern without matches, an unknown ~user, an unreadable list, and
    a data set that is given twice.
    """
    is_dataset = is_dataset or _is_dataset
    result: list[str] = []
    for value in values:
        if value.startswith("@"):
            lines = _read_list(Path(_expand_home(value[1:])))
        else:
            lines = [_expand_home(value)]
        for line in lines:
            result += _expand(line, is_dataset)
        if len(result) > MAX_INPUTS:
            raise UserError(f"more than {MAX_INPUTS} inputs")
    repeated = sorted({r for r in result if result.count(r) > 1}) if _has_duplicates(result) else []
    if repeated:
        raise UserError(f"{repeated[0]}: given more than once")
    return result


def drive_names(paths: Sequence[str]) -> list[str]:
    """A different name for each drive, from the end of its path, for files and folders."""
    parts = [[_safe(p) for p in Path(path).parts] or ["drive"] for path in paths]
    for length in range(1, max((len(p) for p in parts), default=1) + 1):
        names = ["-".join(p[-length:]) for p in parts]
        if not _has_duplicates(names):
            return names
    return [f"{name}-{k}" for k, name in enumerate("-".join(p) for p in parts)]


def _safe(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip(".") or "_"


def _has_duplicates(values: Sequence[str]) -> bool:
    return len(set(values)) < len(values)


def _read_list(path: Path, relative: bool = True) -> list[str]:
    """Entries of a list file: one on each line; empty lines and lines after # are left out.

    relative: whether relative paths are relative to the folder of the list; else they are as written.
    """
    try:
        text = read_regular_file(path, MAX_LIST_BYTES).decode("utf-8")
    except FileError as error:
        raise UserError(str(error)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text") from error
    lines = [line.strip() for line in text.splitlines()]
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise UserError(f"{path}: no inputs in this list")
    if not relative:
        return entries
    return [e if _is_generated(e) else str(path.parent / _expand_home(e)) for e in entries]


def expand_names(values: Sequence[str]) -> list[str]:
    """Names and files of all values: patterns of files, and @FILE with one on each line.

    Raises UserError for a pattern without matches and an unreadable list.
    """
    result: list[str] = []
    for value in values:
        if value.startswith("@"):
            path = Path(value[1:])
            lines = _read_list(path, relative=False)
            files = [str(path.parent / line) for line in lines]
            result += [f if Path(f).exists() else n for f, n in zip(files, lines, strict=True)]
        elif glob.has_magic(value) and not Path(value).exists():
            matches = sorted(glob.glob(value, recursive=True))
            if not matches:
                raise UserError(f"{value}: no file matches this pattern")
            result += matches
        else:
            result.append(value)
    return result


def _expand_home(value: str) -> str:
    """The value with a leading ~ or ~user expanded. Raises UserError for an unknown user."""
    return str(user_path(value)) if value.startswith("~") else value


def _is_generated(value: str) -> bool:
    """Whether a value names data that needs no files: synthetic, or a simulated drive."""
    return value == "synthetic" or value.startswith("simulated")


def _expand(value: str, is_dataset: Callable[[Path], bool]) -> list[str]:
    path = Path(value)
    if _is_generated(value) and not path.exists():
        return [value]
    if not path.exists() and glob.has_magic(value):
        matches = sorted(glob.glob(value, recursive=True))
        if not matches:
            raise UserError(f"{value}: no file or folder matches this pattern")
        return [p for match in matches for p in _expand(match, is_dataset)]
    if not path.is_dir() or is_dataset(path):
        return [value]
    inside = [p for p in sorted(path.iterdir()) if is_dataset(p)]
    return [str(p) for p in inside] or [value]


def _is_dataset(path: Path) -> bool:
    try:
        detect_format(path)
    except DatasetError:
        return False
    return True
