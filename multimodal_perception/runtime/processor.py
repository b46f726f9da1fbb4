"""Name of the processor, to which measured times and compiled models belong."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

# Instructions that change which implementation of a layer is the fastest.
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@functools.lru_cache
def processor_name() -> str:
    """Model name of the processor and its matrix instructions, as the operating system reports them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    entries = [line.partition(":") for line in text.splitlines()]
    values = {key.strip(): value.strip() for key, _, value in reversed(entries)}
    name = values.get("model name") or platform.processor() or platform.machine()
    flags = values.get("flags", "").split()
    found = [feature for feature in FEATURES if feature in flags]
    return f"{name} ({' '.join(found)})" if found else name
