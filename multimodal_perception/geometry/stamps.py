"""Time stamps as integer nanoseconds."""

from __future__ import annotations

NANOSECONDS = 1_000_000_000


def stamp_to_ns(seconds: int, nanoseconds: int) -> int:
    """Return a builtin_interfaces/Time as nanoseconds."""
    return seconds * NANOSECONDS + nanoseconds
