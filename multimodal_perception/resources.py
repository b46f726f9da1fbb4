"""Where the package's own configuration and launch files lie, in a checkout or installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "multimodal_perception"


def share_path(*parts: str) -> Path:
    """Path of an installed data file, such as share_path("config", "perception.yaml").

    Looks beside the package (a checkout), then in each prefix that ROS 2 or Python names.
    Raises FileNotFoundError listing where it looked.
    """
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders = [Path(__file__).resolve().parent.parent]
    folders += [Path(p) / "share" / PACKAGE for p in prefixes if p]
    for folder in folders:
        path = folder.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"{'/'.join(parts)} is in none of {', '.join(map(str, folders))}")
