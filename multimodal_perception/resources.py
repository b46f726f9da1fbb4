"""Paths of the package's configuration and launch files, in a source checkout or installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "multimodal_perception"


def share_path(*parts: str) -> Path:
    """Return the path of a data file, for example share_path("config", "perception.yaml").

    Searches next to the package (source checkout, or `share` after `pip install --target`), then the
    share folders in AMENT_PREFIX_PATH and in the prefix of Python. Raises FileNotFoundError with the
    searched folders.
    """
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    parent = Path(__file__).resolve().parent.parent
    folders = [parent, parent / "share" / PACKAGE]
    folders += [Path(p) / "share" / PACKAGE for p in prefixes if p]
    for folder in folders:
        path = folder.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"{'/'.join(parts)} not found in {', '.join(map(str, folders))}")
