"""Decode sensor_msgs/PointCloud2 to LidarSweep, without a copy if the layout allows it.

The decoder accepts any object with the attributes of the message, of rclpy or of rosbags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import LidarSweep
from multimodal_perception.messages.accepted import Accepted
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.point_layout import FieldRole, PointLayout, read_layout
from multimodal_perception.messages.point_time_fields import is_time_name, is_time_part
from multimodal_perception.messages.point_times import TimeOrigin, read_point_times
from multimodal_perception.pointcloud.returns import Returns, find_returns
from multimodal_perception.rig import Sensor

XYZ = ("x", "y", "z")
INTENSITY_NAMES = (
    *("intensity", "reflectivity", "i", "intensities", "reflectance", "remission", "signal"),
    *("amplitude", "rssi"),
)
RING_NAMES = (
    *("ring", "channel", "line", "laser_id", "ring_id", "line_id", "laser", "beam", "beam_id"),
    *("layer", "ring_number"),
)
RINGS = 2**16
# If more than FAR_FRACTION of the points are beyond MAX_PLAUSIBLE_M (and max_range of the rig), the
# coordinates are not in metres. Coordinates beyond PLACEHOLDER_M mark missing returns.
FAR_FRACTION, MAX_PLAUSIBLE_M, PLACEHOLDER_M = 0.1, 1000.0, 1e6
# Half of the points of a LiDAR are closer than MAX_MEDIAN_M, metres; checked on SAMPLES points.
MAX_MEDIAN_M, SAMPLES = 250.0, 512

ACCEPTED = (
    Accepted(
        "PointCloud2 coordinates",
        ("x, y, z (or X, Y, Z) float32 or float64", "one field xyz with 3 values"),
        "Metres in the frame of header.frame_id, times metres_per_unit of the rig. A notice is given if "
        f"half of the points are farther than {MAX_MEDIAN_M:.0f} m.",
        f"missing_xyz; implausible_coordinates if over {FAR_FRACTION:.0%} of the points are farther "
        f"than {MAX_PLAUSIBLE_M:g} m and max_range of the rig (millimetres)",
    ),
    Accepted(
        "PointCloud2 points without a measurement",
        (
            "NaN, inf",
            "(0, 0, 0) or closer than min_range of the rig",
            "farther than max_range of the rig",
        ),
        "The points are removed together with their ring and time, and counted as information: "
        "points_not_finite, points_near, points_far.",
        "all_nan or no_returns if no point is left",
    ),
    Accepted(
        "PointCloud2 intensity field",
        INTENSITY_NAMES,
        "Any type; the driver's values. Values that are not finite become 0; without a field all are 0.",
        "A field with several values per point is ignored, with a notice.",
    ),
    Accepted(
        "PointCloud2 ring field",
        RING_NAMES,
        f"Integers, or floating-point numbers with integer values, from 0 to {RINGS - 1}.",
        "unusable_rings; the points are used without rings",
    ),
)


@dataclass(frozen=True)
class PointCloudOptions:
    """How the messages of a LiDAR are decoded; see the fields of rig.Sensor. period_s: of the sweeps."""

    min_range: float = 0.1
    max_range: float = 1000.0
    metres_per_unit: float = 1.0
    point_time_origin: TimeOrigin = "auto"
    period_s: float = 0.1

    @classmethod
    def from_sensor(cls, sensor: Sensor, interval_s: float = 0.0) -> PointCloudOptions:
        """Return the options in the rig's entry of a LiDAR.

        interval_s: measured interval of its messages; it counts if rate_hz of the rig is too high.
        """
        return cls(
            sensor.min_range,
            sensor.max_range,
            sensor.metres_per_unit,
            sensor.point_time_origin,
            max(1.0 / sensor.rate_hz, interval_s),
        )


DEFAULTS = PointCloudOptions()


def sweep_from_message(
    msg: Any,
    sensor: str,
    stamp_ns: int,
    options: PointCloudOptions = DEFAULTS,
    log: DecodingLog | None = None,
) -> LidarSweep:
    """Decode a PointCloud2.

    Any field order, offsets, padding, byte order and organisation (ordered or unordered) are accepted;
    see ACCEPTED here, in point_layout and in point_times. Points without a measurement are removed.
    Times become seconds relative to the stamp, NaN for points without a time. log: receives notices and
    counts.

    Raises MessageError with reason empty, bad_layout, bad_point_step, bad_row_step, truncated,
    missing_xyz, bad_field, all_nan, no_returns or implausible_coordinates.
    """
    log = log or DecodingLog()
    layout = read_layout(msg, _role)
    if layout.extra_bytes:
        log.notices.add(
            sensor,
            f"data is longer than width x height states ({layout.size} points of {layout.point_step} "
            "bytes); the rest is ignored",
        )
    points = _points(layout, sensor, log)
    if options.metres_per_unit != 1.0:
        points = points * np.array([options.metres_per_unit] * 3 + [1.0], np.float32)
    returns = find_returns(points, options.min_range, options.max_range)
    _check_returns(points, returns, sensor, options, log)
    keep = returns.keep if returns.removed else None
    points = points if keep is None else points[keep]
    _check_unit(points, sensor, log)
    rings = _rings(layout, keep, sensor, log)
    times = read_point_times(layout, keep, stamp_ns, options.period_s, options.point_time_origin)
    offsets = None
    if times is not None:
        offsets = times.offsets
        if times.notice or times.problem:
            log.notices.add(sensor, times.notice or times.problem)
        if offsets is None:
            log.losses[sensor, "unusable_point_times"] += 1
        else:
            log.information[sensor, "points_without_time"] += int(np.isnan(offsets).sum())
    if not np.isfinite(points[:, 3]).all():
        points = points.copy()
        points[~np.isfinite(points[:, 3]), 3] = 0.0
    return LidarSweep(sensor, stamp_ns, msg.header.frame_id, points, offsets, rings)


def _role(name: str) -> FieldRole:
    plain = name.lower()
    if plain in XYZ or plain in INTENSITY_NAMES or plain in RING_NAMES or is_time_name(name):
        return "used"
    return "optional" if plain == "xyz" or is_time_part(name) else "unused"


def _points(layout: PointLayout, sensor: str, log: DecodingLog) -> NDArray[np.float32]:
    """Return the points (N, 4) float32; a view of the message's memory if the layout allows it."""
    columns = layout.columns
    axes = next((a for a in (XYZ, ("X", "Y", "Z")) if all(n in columns for n in a)), None)
    packed = columns.get("xyz")
    names = ", ".join(columns) or "none"
    if axes is None and (packed is None or packed.count != 3 or packed.dtype.kind != "f"):
        raise MessageError("missing_xyz", f"no fields x, y, z; fields: {names}")
    if axes is not None and any(
        columns[n].dtype.kind != "f" or columns[n].count != 1 for n in axes
    ):
        raise MessageError("missing_xyz", f"x, y, z must be floating point; fields: {names}")
    intensity = None
    for name in layout.find(INTENSITY_NAMES):
        if columns[name].count == 1:
            intensity = name
            break
        count = columns[name].count
        log.notices.add(sensor, f"field {name!r} has {count} values per point and is ignored")
    if axes is not None and intensity is not None:
        view = _contiguous_view(layout, (*axes, intensity))
        if view is not None:
            return view
    points = np.zeros((layout.size, 4), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        if axes is None:
            points[:, :3] = layout.values("xyz")
        else:
            for column, axis in enumerate(axes):
                points[:, column] = layout.values(axis)
        if intensity is not None:
            points[:, 3] = layout.values(intensity)
    return points


def _contiguous_view(layout: PointLayout, names: tuple[str, ...]) -> NDArray[np.float32] | None:
    """Return a view (N, 4) of the message's memory if the fields are adjacent float32."""
    if not layout.is_contiguous or np.dtype("<f4") != np.dtype(np.float32):
        return None
    start = layout.columns[names[0]].offset
    for i, name in enumerate(names):
        column = layout.columns[name]
        if (column.dtype, column.offset) != (np.dtype("<f4"), start + 4 * i):
            return None
    strides = layout.point_step, 4
    return np.ndarray((layout.size, 4), np.float32, memoryview(layout.data), start, strides)


def _check_returns(
    points: NDArray[np.float32],
    returns: Returns,
    sensor: str,
    options: PointCloudOptions,
    log: DecodingLog,
) -> None:
    """Count the points that are no measurement. Raises MessageError if no others are left."""
    count = len(points)
    measured = count - returns.not_finite - returns.near
    if returns.not_finite == count:
        raise MessageError("all_nan", f"none of {count} points is finite")
    if returns.far > FAR_FRACTION * measured:
        with np.errstate(invalid="ignore", over="ignore"):  # signalling NaN
            distance = np.linalg.norm(points[~returns.keep, :3].astype(np.float64), axis=1)
        limit = max(options.max_range, MAX_PLAUSIBLE_M)
        implausible = int(((distance > limit) & (distance < PLACEHOLDER_M)).sum())
        if implausible > FAR_FRACTION * measured:
            detail = f"over {FAR_FRACTION:.0%} of the points are farther than {limit:g} m"
            hint = "set metres_per_unit in the rig (0.001 for millimetres)"
            log.notices.add(sensor, f"the coordinates are not in metres: {detail}; {hint}")
            raise MessageError("implausible_coordinates", detail)
    for reason, number in (
        ("points_not_finite", returns.not_finite),
        ("points_near", returns.near),
        ("points_far", returns.far),
    ):
        if number:
            log.information[sensor, reason] += number
    if returns.removed == count:
        raise MessageError("no_returns", f"none of {count} points is a measurement")


def _check_unit(points: NDArray[np.float32], sensor: str, log: DecodingLog) -> None:
    sample = points[:: max(1, len(points) // SAMPLES), :3]
    if float(np.median(np.linalg.norm(sample, axis=1))) > MAX_MEDIAN_M:
        log.notices.add(
            sensor,
            f"half of the points are farther than {MAX_MEDIAN_M:.0f} m, taken as metres; set "
            "metres_per_unit in the rig if they have another unit",
        )


def _rings(
    layout: PointLayout, keep: NDArray[np.bool_] | None, sensor: str, log: DecodingLog
) -> NDArray[np.uint16] | None:
    """Return the beam numbers (N,) of the kept points, or None without a usable field."""
    names = layout.find(RING_NAMES)
    for name in names:
        if layout.columns[name].count != 1:
            continue
        values = layout.values(name) if keep is None else layout.values(name)[keep]
        if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
            return values.astype(np.uint16)
        with np.errstate(invalid="ignore"):
            if ((values >= 0) & (values < RINGS) & (values == np.floor(values))).all():
                return values.astype(np.uint16)
    if names:
        log.losses[sensor, "unusable_rings"] += 1
        log.notices.add(sensor, f"field {names[0]!r} has no valid beam numbers and is ignored")
    return None
