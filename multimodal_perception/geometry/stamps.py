"""Time stamps as integer nanoseconds."""

from __future__ import annotations

NANOSECONDS_PER_SECOND = 1_000_000_000


def stamp_to_ns(seconds: int, nanoseconds: int) -> int:
    """Return the two fields of a builtin_interfaces/Time as integer nanoseconds."""
    return seconds * NANOSECONDS_PER_SECOND + nanoseconds
