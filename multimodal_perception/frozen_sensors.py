"""Detection of LiDARs and ultrasonic sensors that repeat an old measurement with new stamps.

A driver or a bridge that hangs can publish its last message again and again. Rate and stamps are then
correct, and the content is wrong. The images of frozen cameras are detected by image_quality.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import LidarSweep, SensorFrame, UltrasonicReading
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND

# Number of compared points of a sweep.
SAMPLES = 2048
# Two sweeps are equal if this fraction of the sampled points is equal. A moving vehicle's deskewed
# points differ although the measurement is the same, but their intensities do not.
EQUAL_FRACTION = 0.95
# Maximum difference of the coordinates of equal points, m. The noise of LiDARs is ten times larger.
EQUAL_DISTANCE = 0.001
# Intensities are compared if they have at least this many values.
MIN_INTENSITIES = 16
# Sweeps of a frozen LiDAR are not used once the vehicle has driven this distance, m. A standing
# vehicle in a simulator without noise measures equal sweeps that are right.
MIN_TRAVELLED = 0.3
# Minimum number of equal echoes of a frozen ultrasonic sensor.
MIN_EQUAL_ECHOES = 10


@dataclass(frozen=True)
class FrozenSensorsConfig:
    """Parameters of the detection of LiDARs and ultrasonic sensors that repeat old measurements.

    Attributes:
        lidar_s: Time without a change of a LiDAR's points after which the LiDAR is reported as frozen.
            Its sweeps are not used if odometry shows that the vehicle has moved meanwhile. Increase it
            for LiDARs and simulators without noise; set it to 0 to switch the check off.
        ultrasonic_distance: Distance that the vehicle drives without a change of an ultrasonic sensor's
            echo after which the sensor is reported as frozen; its readings are still used. Increase it
            if your sensors have coarse steps and no noise; set it to 0 to switch the check off.
    """

    lidar_s: float = field(default=0.35, metadata={"min": 0.0, "max": 60.0, "unit": "s"})
    ultrasonic_distance: float = field(
        default=3.0, metadata={"min": 0.0, "max": 1000.0, "unit": "m"}
    )


@dataclass
class _State:
    """State of one sensor.

    content: of the last reading, for the comparison. since_ns: stamp of the first reading with this
    content. equal: number of further readings with it. travelled: metres driven since the first one.
    """

    stamp_ns: int
    content: NDArray[np.float32] | float
    since_ns: int
    equal: int = 0
    travelled: float = 0.0


class FrozenSensorMonitor:
    """Finds frozen LiDARs and ultrasonic sensors in frames in the order of their stamps.

    counts: frames without the sweep of a frozen LiDAR, as `sensor.frozen`.
    """

    def __init__(self, config: FrozenSensorsConfig | None = None) -> None:
        self.config = config or FrozenSensorsConfig()
        self.counts: Counter[str] = Counter()
        self._states: dict[str, _State] = {}
        self._position: NDArray[np.float64] | None = None

    def check(self, frame: SensorFrame) -> dict[str, float]:
        """By frozen sensor, the time in seconds for which its content has not changed.

        The reading of a sensor may be in several frames; only readings with a new stamp count. Echoes
        are compared only while the vehicle moves, as their resolution can be coarser than their noise:
        without odometry, and without an echo, an ultrasonic sensor is never reported.
        """
        moved = self._movement(frame)
        frozen: dict[str, float] = {}
        for name, sweep in frame.lidars.items():
            state = self._update(sweep, _sample(sweep), moved)
            unchanged_s = (state.stamp_ns - state.since_ns) / NANOSECONDS_PER_SECOND
            if state.equal and 0.0 < self.config.lidar_s <= unchanged_s:
                frozen[name] = unchanged_s
        for name, reading in frame.ultrasonics.items():
            state = self._update(reading, _echo(reading), moved)
            if (
                state.equal >= MIN_EQUAL_ECHOES
                and 0.0 < self.config.ultrasonic_distance <= state.travelled
            ):
                frozen[name] = (state.stamp_ns - state.since_ns) / NANOSECONDS_PER_SECOND
        return frozen

    def drop_frozen(self, frame: SensorFrame, frozen: Mapping[str, float]) -> SensorFrame:
        """The frame without the sweeps of frozen LiDARs, which count as dropped readings.

        Without odometry and while the vehicle stands, equal sweeps can be right and stay in the frame.
        Frozen ultrasonic sensors stay in the frame: a parallel wall can give equal echoes too, and an
        obstacle nearby must not be lost.
        """
        names = {
            name
            for name in frozen.keys() & frame.lidars.keys()
            if self._states[name].travelled >= MIN_TRAVELLED
        }
        if not names:
            return frame
        for name in sorted(names):
            self.counts[f"{name}.frozen"] += 1
        return replace(frame.without_sensors(names), dropped=frame.dropped | names)

    def _movement(self, frame: SensorFrame) -> float:
        """Metres since the last frame; 0 without odometry."""
        last = self._position
        self._position = None if frame.odom_from_base is None else frame.odom_from_base[:3, 3]
        if last is None or self._position is None:
            return 0.0
        return float(np.linalg.norm(self._position - last))

    def _update(
        self,
        reading: LidarSweep | UltrasonicReading,
        content: NDArray[np.float32] | float,
        moved: float,
    ) -> _State:
        last, now_ns = self._states.get(reading.sensor), reading.stamp_ns
        if last is None or now_ns < last.stamp_ns or not _is_equal(content, last.content):
            last = self._states[reading.sensor] = _State(now_ns, content, now_ns)
        elif now_ns > last.stamp_ns:
            last.equal += 1
            last.stamp_ns = now_ns
            last.travelled += moved
        return last


def _sample(sweep: LidarSweep) -> NDArray[np.float32]:
    """The number of points and SAMPLES evenly spaced points, (n + 1, 4) float32."""
    points = sweep.points
    count = np.full((1, 4), len(points), np.float32)
    if not len(points):
        return count
    rows = np.linspace(0, len(points) - 1, min(len(points), SAMPLES)).astype(np.int64)
    return np.concatenate([count, points[rows]])


def _echo(reading: UltrasonicReading) -> float:
    """The range of an echo; NaN, which equals nothing, without one or at the maximum range."""
    echo = math.isfinite(reading.range_m) and reading.range_m < reading.max_range
    return reading.range_m if echo else math.nan


def _is_equal(first: NDArray[np.float32] | float, second: NDArray[np.float32] | float) -> bool:
    """Whether two contents are the same measurement."""
    if not isinstance(first, np.ndarray) or not isinstance(second, np.ndarray):
        return first == second
    # Without points there is nothing to compare; such sweeps are dropped for another reason.
    if len(first) < 2 or first.shape != second.shape or first[0, 0] != second[0, 0]:
        return False
    intensities = first[1:, 3]
    if len(np.unique(intensities)) >= MIN_INTENSITIES:
        return float(np.mean(intensities == second[1:, 3])) >= EQUAL_FRACTION
    near = np.abs(first[1:, :3] - second[1:, :3]).max(axis=1) <= EQUAL_DISTANCE
    return float(np.mean(near)) >= EQUAL_FRACTION
