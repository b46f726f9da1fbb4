"""Reads .rrd recordings with the command of rerun-sdk."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

from multimodal_perception.visualization.live_view import viewer_program


def entities(path: Path) -> Counter[str]:
    """Number of data chunks by entity, such as /base_link/objects. Fails if the file is damaged."""
    printed = subprocess.run(
        [viewer_program(), "rrd", "print", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return Counter(re.findall(r"^Chunk\(.*?\) with .*? - (/\S*)", printed.stdout, re.MULTILINE))
