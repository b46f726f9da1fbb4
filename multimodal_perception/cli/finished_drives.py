"""Results of finished drives in a folder, so that an interrupted run resumes.

One JSON file for each drive, compressed with gzip. Its name is a hash of everything that the result
depends on: the job, the package's version, and names, sizes and times of the drive's files.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

from multimodal_perception import __version__
from multimodal_perception.cli.json_values import decode, encode
from multimodal_perception.configuration import UserError

MAX_BYTES = 1 << 30
# Files of a drive that enter the hash; a larger drive is known by the first ones.
MAX_FILES = 10_000


class FinishedDrives:
    """The results in one folder. Damaged files are ignored and written again."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if the folder cannot be created."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror or error}") from error

    def get(self, job: Any, name: str) -> Any | None:
        """The result of a job, None if it is not finished."""
        path = self._path(job, name)
        try:
            if path.stat().st_size > MAX_BYTES:
                return None
            return decode(json.loads(gzip.decompress(path.read_bytes())))
        except (OSError, EOFError, ValueError, zlib.error, LookupError, TypeError):
            return None

    def add(self, job: Any, name: str, result: Any) -> None:
        """Store a result. Raises UserError if it cannot be written."""
        path = self._path(job, name)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        content = json.dumps(encode(result)).encode("utf-8")
        try:
            temporary.write_bytes(gzip.compress(content, 1))
            temporary.replace(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error

    def remove(self) -> None:
        """Delete the folder, after a complete run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, job: Any, name: str) -> Path:
        key = json.dumps([__version__, encode(job), name, fingerprint(Path(name))])
        return self.folder / f"{hashlib.sha256(key.encode('utf-8')).hexdigest()[:32]}.json.gz"


def default_folder(command: str, arguments: Any) -> Path:
    """The folder of a command with its arguments, in the user's cache."""
    text = json.dumps([command, str(arguments)])
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
    return _cache_folder() / "runs" / f"{command}-{digest}"


def _cache_folder() -> Path:
    """The user's cache of this package, or one in the folder for temporary files (read-only home)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache")
    folder = cache / "multimodal_perception"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    temporary = Path(tempfile.gettempdir()) / f"multimodal_perception-{os.getuid()}"
    return folder if writable else temporary


def fingerprint(path: Path) -> list[Any]:
    """Names, sizes and times of the files of a drive; empty for a simulated drive."""
    files = [path] if path.is_file() else []
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders.sort()
            files += [Path(folder) / n for n in sorted(names)]
            if len(files) > MAX_FILES:
                break
    rows = []
    for file in files[:MAX_FILES]:
        try:
            status = file.stat()
        except OSError:
            continue
        rows.append([str(file.relative_to(path)), status.st_size, status.st_mtime_ns])
    return rows
