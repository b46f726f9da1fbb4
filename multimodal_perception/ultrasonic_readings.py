"""Which ultrasonic readings are valid, by the definitions of sensor_msgs/Range and REP 117."""

from __future__ import annotations

import math

from multimodal_perception.frame import UltrasonicReading

# Narrower fields of view are invalid, rad.
MIN_FIELD_OF_VIEW = 1e-3
# Factor on max_range up to which a range is within the limits (rounding to float32).
LIMIT_TOLERANCE = 1.001


def unusable_reason(reading: UltrasonicReading) -> str | None:
    """Return why a reading cannot be used, as a keyword for counters; None for a valid one."""
    r = reading
    limits = math.isfinite(r.min_range) and math.isfinite(r.max_range)
    if not limits or not 0 <= r.min_range <= r.max_range or r.max_range == 0:
        return "bad_limits"
    if not MIN_FIELD_OF_VIEW <= r.field_of_view <= math.pi:
        return "bad_field_of_view"
    if math.isnan(r.range_m):
        return "no_range"
    if math.isinf(r.range_m):
        return None
    # A sensor of a fixed distance only detects whether there is an object.
    if r.min_range == r.max_range:
        return "fixed_distance_range"
    # Finite values outside the limits must be discarded.
    return None if r.min_range <= r.range_m <= r.max_range * LIMIT_TOLERANCE else "outside_limits"
