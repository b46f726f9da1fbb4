"""Compiled kernels: numba.njit with a cache folder that this module selects.

numba by default writes its cache beside the source files, and fails if it cannot. This module selects
the first writable folder of NUMBA_CACHE_DIR, ROS_HOME, XDG_CACHE_HOME, ~/.cache and the temporary folder
before numba is imported. The folder name contains a hash of the sources (files with kernels and all
package modules that they import), so outdated kernels are not loaded: numba detects changes of a
kernel's own file only. Without a writable folder, or on a full disk, the kernels are compiled at each
start.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multimodal_perception.files import is_writable

log = logging.getLogger(__name__)
PACKAGE = "multimodal_perception"
# The cache of all kernels has about 25 MB.
REQUIRED_BYTES = 64 << 20
# Caches of other versions of the package that are kept beside the current one: the most recently used
# ones, and all that a process has started to use within this time (several checkouts), seconds.
KEPT_VERSIONS = 4
KEPT_S = 3600.0
# `from MODULE import NAMES`, in one line or in parentheses.
IMPORTS = re.compile(rf"^from ({PACKAGE}[\w.]*) import (?:\(([^)]*)\)|(.*))$", re.MULTILINE)
CONSTANT = re.compile(r"\b[A-Z][A-Z0-9_]*\b(?! as)")
KERNEL = b"@njit("


def hash_kernel_sources(root: Path) -> str:
    """Hash of the files with kernels and of the modules with kernels or constants that they import.

    root: folder of the package. Kernels can call kernels of other files and contain the values of their
    constants.
    """
    texts = {p: p.read_bytes() for p in sorted(root.rglob("*.py"))}
    pending = [p for p, text in texts.items() if KERNEL in text]
    used: set[Path] = set()
    while pending:
        path = pending.pop()
        if path in used:
            continue
        used.add(path)
        for name, several, one in IMPORTS.findall(texts[path].decode("utf-8", "replace")):
            module = root.joinpath(*name.split(".")[1:])
            for file in (module.with_suffix(".py"), module / "__init__.py"):
                if file in texts and (KERNEL in texts[file] or CONSTANT.search(several or one)):
                    pending.append(file)
    digest = hashlib.sha256()
    for path in sorted(used):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + texts[path])
    return digest.hexdigest()[:16]


def choose_cache_folder() -> Path | None:
    """The first writable folder for the cache, created; None if there is none."""
    version = hash_kernel_sources(Path(__file__).resolve().parent)
    for base in _candidates():
        folder = base / PACKAGE / "kernels" / version
        if is_writable(folder, REQUIRED_BYTES):
            _remove_old_versions(folder)
            return folder
    temporary = Path(tempfile.gettempdir(), f"{PACKAGE}_{os.getuid()}", "kernels", version)
    if is_writable(temporary, REQUIRED_BYTES) and _is_private(temporary.parent.parent):
        return temporary
    return None


def _candidates() -> list[Path]:
    environment = os.environ
    if environment.get("NUMBA_CACHE_DIR"):
        return [Path(environment["NUMBA_CACHE_DIR"])]
    names = [environment[n] for n in ("ROS_HOME", "XDG_CACHE_HOME") if environment.get(n)]
    if environment.get("HOME"):
        names.append(os.path.join(environment["HOME"], ".cache"))
    return [Path(name) for name in names]


def _is_private(folder: Path) -> bool:
    """Make a folder private; numba's cache contains code, which no other user may replace."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        folder.chmod(stat.S_IRWXU)
    except OSError:
        return False
    return True


def _remove_old_versions(folder: Path) -> None:
    """Set the time of the last use of a cache, and remove others that have not been used for long."""
    try:
        os.utime(folder)
        others = [p for p in folder.parent.iterdir() if p.is_dir() and p != folder]
        others.sort(key=lambda p: p.stat().st_mtime)
        used_until = folder.stat().st_mtime - KEPT_S
        for path in others[:-KEPT_VERSIONS]:
            if path.stat().st_mtime < used_until:
                shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return  # another process removes the same folders


CACHE_FOLDER = choose_cache_folder()
if CACHE_FOLDER is not None:
    os.environ["NUMBA_CACHE_DIR"] = str(CACHE_FOLDER)
else:
    log.warning("no writable folder for compiled kernels: they are compiled at each start")

import numba  # noqa: E402 - reads NUMBA_CACHE_DIR when it is imported

if CACHE_FOLDER is not None:
    numba.config.CACHE_DIR = str(CACHE_FOLDER)  # if another package imported numba before


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba.njit with the cache of this module. options: see numba.njit.

    An error while the cache is written, such as a full disk, is logged once; the kernel runs.
    """

    def compile_function(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(cache=CACHE_FOLDER is not None, **options)(function)
        if CACHE_FOLDER is not None:
            _ignore_write_errors(dispatcher)
        return dispatcher

    return compile_function


_reported: set[str] = set()


def _ignore_write_errors(dispatcher: Any) -> None:
    cache = dispatcher._cache  # numba has no public access to it
    save = cache.save_overload

    def save_if_possible(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError as error:
            reason = error.strerror or str(error)
            if reason not in _reported:
                _reported.add(reason)
                log.warning("compiled kernels cannot be stored in %s: %s", CACHE_FOLDER, reason)

    cache.save_overload = save_if_possible
