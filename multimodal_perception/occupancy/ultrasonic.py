"""Occupancy from ultrasonic ranges: free inside the cone, occupied along the arc of the echo.

The masses over a cone follow Moravec and Elfes (1985): they decrease with the square of the angle to
the axis, and the free mass also with the square of the range. An echo adds occupied mass only after it
has been confirmed, so that the pulse of another sensor (cross-talk) does not create obstacles.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.angles import azimuth
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.kernels import njit
from multimodal_perception.occupancy.cells import GridGeometry, cell_centre
from multimodal_perception.ultrasonic_readings import unusable_reason

Layer = NDArray[np.float32]
Window = tuple[int, int, int, int]
MAX_SENSORS = 64
# Number of earlier echoes kept for each sensor.
HISTORY_LENGTH = 4
# Directions in a cone, relative to its half angle, in which echoes of two sensors are compared.
COMPARED_DIRECTIONS = np.linspace(-0.8, 0.8, 9)
# An echo is contradicted if the free mass of all other sources on its arc is at least the first value.
# A sensor is contradicted if its echoes have been for the second value, s. The sensor is faulty, or it
# detects what no other sensor does, such as glass.
CONTRADICTION_THRESHOLD, CONTRADICTION_TIME_S = 0.5, 1.0
# Maximum angle of the sensor's axis to the ground plane. Steeper sensors do not measure the plane.
MAX_TILT = math.radians(45)


@dataclass(frozen=True)
class UltrasonicConfig:
    """Inverse sensor model of ultrasonic sensors.

    Attributes:
        occupied_mass: Occupied mass on the axis of the cone at the range of a confirmed echo.
            Increase it if your sensors give few false echoes.
        free_mass: Free mass on the axis close to the sensor if there is an echo. Decrease it if
            your sensors miss obstacles in front of the reported one.
        no_echo_free_mass: Free mass on the axis close to the sensor if there is no echo; soft and
            slanted surfaces give no echo. Decrease it for environments with such surfaces.
        range_error: Half of the thickness of the occupied arc, at least three quarters of a cell.
            Set it to the range accuracy of your sensors.
        range_tolerance: Maximum difference of two ranges that confirm each other. Increase it for
            sensors with noisy ranges.
        closing_speed: Additional difference of two ranges per second between them, for approaching
            obstacles. Increase it for vehicles that use ultrasonic sensors at higher speeds.
        confirmation_time_s: Maximum age of an earlier echo of the same sensor that confirms a new
            echo. Increase it for sensors with a low rate.
        silence_timeout_s: Time without a valid reading after which a sensor is reported as silent.
            Increase it for sensors with a low rate.
    """

    occupied_mass: float = field(default=0.7, metadata={"min": 0.0, "max": 0.99})
    free_mass: float = field(default=0.6, metadata={"min": 0.0, "max": 0.99})
    no_echo_free_mass: float = field(default=0.3, metadata={"min": 0.0, "max": 0.99})
    range_error: float = field(default=0.1, metadata={"min": 0.001, "max": 1.0, "unit": "m"})
    range_tolerance: float = field(default=0.2, metadata={"min": 0.01, "max": 5.0, "unit": "m"})
    closing_speed: float = field(default=5.0, metadata={"min": 0.0, "max": 50.0, "unit": "m/s"})
    confirmation_time_s: float = field(
        default=0.5, metadata={"min": 0.01, "max": 10.0, "unit": "s"}
    )
    silence_timeout_s: float = field(default=1.0, metadata={"min": 0.05, "max": 60.0, "unit": "s"})


class Echo(NamedTuple):
    """A valid reading of one sensor, projected onto the ground plane.

    x, y: sensor position in base_link, m. heading: direction of its axis, rad. half_angle: half of the
    field of view, rad. range_m: m; inf without echo, 0 if the object is closer than min_range.
    """

    sensor: str
    stamp_ns: int
    x: float
    y: float
    heading: float
    half_angle: float
    range_m: float
    min_range: float
    max_range: float

    @property
    def has_range(self) -> bool:
        """Whether the sensor measured the distance of an object."""
        return 0 < self.range_m < math.inf


class UltrasonicModel:
    """Converts the readings of a frame to masses. Keeps earlier echoes to confirm new ones.

    counts: readings that were rejected or only used as free space, by reason. silent: sensors that had
    valid readings and have none any more (NaN is not a valid reading). contradictions: by sensor, mean
    free mass of all other sources on the arc of the last confirmed echo. contradicted: sensors whose
    contradiction has been above the threshold for a second.
    """

    def __init__(self, config: UltrasonicConfig | None = None) -> None:
        self.config = config or UltrasonicConfig()
        self.counts: Counter[str] = Counter()
        self.silent: frozenset[str] = frozenset()
        self._history: dict[str, deque[tuple[int, float]]] = {}
        self._last_ns: dict[str, int] = {}
        self._confirmed_echoes: list[tuple[Echo, Window]] = []
        self.contradictions: dict[str, float] = {}
        self._contradicted_ns: dict[str, int] = {}

    @property
    def contradicted(self) -> frozenset[str]:
        """Sensors whose echoes have been contradicted for a second."""
        limit = CONTRADICTION_TIME_S * NANOSECONDS_PER_SECOND
        since = self._contradicted_ns
        return frozenset(n for n, at in since.items() if self._last_ns.get(n, at) - at >= limit)

    def update_contradictions(self, free: Layer, cells: GridGeometry) -> None:
        """Compare the echoes of the last frame with the free mass (size, size) of all other sources."""
        self.contradictions = {
            echo.sensor: _arc_mean(
                free,
                window,
                cells,
                (echo.x, echo.y, echo.heading, echo.half_angle),
                echo.range_m,
                self._thickness(cells),
            )
            for echo, window in self._confirmed_echoes
        }
        contradicted = {
            n for n, mass in self.contradictions.items() if mass >= CONTRADICTION_THRESHOLD
        }
        self._contradicted_ns = {
            name: min(self._contradicted_ns.get(name, self._last_ns[name]), self._last_ns[name])
            for name in contradicted
        }

    def evidence(
        self,
        frame: SensorFrame,
        cells: GridGeometry,
        reliability: Callable[[str], float] = lambda _: 1.0,
    ) -> tuple[Layer, Layer, Window] | None:
        """Free and occupied masses (size, size) float32 of all readings, and their window of cells.

        None without a valid reading. reliability: factor on the masses of a sensor, by its name.
        """
        echoes = [e for r in frame.ultrasonics.values() if (e := self._echo(frame, r)) is not None]
        confirmed = [self._is_confirmed(e, echoes) for e in echoes]
        self._update_history(frame.stamp_ns, echoes)
        self._confirmed_echoes = []
        if not echoes:
            return None
        free, occupied = (
            np.zeros((cells.cells_per_side, cells.cells_per_side), np.float32) for _ in range(2)
        )
        windows = []
        for echo, is_confirmed in zip(echoes, confirmed, strict=True):
            window, weight = self._window(echo, cells), reliability(echo.sensor)
            if window[0] >= window[1] or window[2] >= window[3]:
                self.counts["outside_map"] += 1
                continue
            if not is_confirmed:
                self.counts["unconfirmed"] += 1
            elif echo.has_range:
                self._confirmed_echoes.append((echo, window))
            self._draw(free, occupied, window, cells, echo, is_confirmed, weight)
            windows.append(window)
        if not windows:
            return None
        tops, bottoms, lefts, rights = zip(*windows, strict=True)
        window = min(tops), max(bottoms), min(lefts), max(rights)
        # Where the arc of one sensor is inside the free cone of another, both masses are reduced
        # (contradiction becomes unknown, as in Yager's rule).
        _resolve_overlap(free, occupied, *window)
        return free, occupied, window

    def _echo(self, frame: SensorFrame, reading: UltrasonicReading) -> Echo | None:
        reason = unusable_reason(reading)
        if reason is None and reading.sensor not in frame.base_from_sensor:
            reason = "no_extrinsics"
        if reason is None:
            pose = frame.reference_from_sensor(reading.sensor)
            if not np.isfinite(pose).all():
                reason = "bad_pose"
            elif abs(pose[2, 0]) > math.sin(MAX_TILT):
                reason = "not_level"
        if reason is not None:
            self.counts[reason] += 1
            return None
        range_m = reading.range_m
        if range_m == -math.inf:
            range_m = 0.0
        elif range_m >= reading.max_range:
            range_m = math.inf
        return Echo(
            reading.sensor,
            reading.stamp_ns,
            float(pose[0, 3]),
            float(pose[1, 3]),
            poses.to_yaw(pose),
            reading.field_of_view / 2,
            range_m,
            reading.min_range,
            reading.max_range,
        )

    def _is_confirmed(self, echo: Echo, echoes: list[Echo]) -> bool:
        """Whether an earlier echo of the same sensor, or one of a neighbour, has the same position."""
        if not echo.has_range:
            return True
        c = self.config
        for stamp_ns, range_m in self._history.get(echo.sensor, ()):
            seconds = (echo.stamp_ns - stamp_ns) / NANOSECONDS_PER_SECOND
            tolerance = c.range_tolerance + c.closing_speed * seconds
            if 0 < seconds <= c.confirmation_time_s and abs(range_m - echo.range_m) <= tolerance:
                return True
        angles = echo.heading + COMPARED_DIRECTIONS * echo.half_angle
        x, y = echo.x + echo.range_m * np.cos(angles), echo.y + echo.range_m * np.sin(angles)
        for other in echoes:
            if other.sensor != echo.sensor and other.has_range:
                off = np.arctan2(y - other.y, x - other.x) - other.heading
                inside = np.abs(poses.wrap_angle(off)) <= other.half_angle
                distance = np.hypot(x - other.x, y - other.y)
                if (inside & (np.abs(distance - other.range_m) <= c.range_tolerance)).any():
                    return True
        return False

    def _update_history(self, now_ns: int, echoes: list[Echo]) -> None:
        for echo in echoes:
            history = self._history.setdefault(echo.sensor, deque(maxlen=HISTORY_LENGTH))
            if history and history[-1][0] > echo.stamp_ns:
                history.clear()  # the stamps jumped back
            if echo.has_range and not (history and history[-1][0] == echo.stamp_ns):
                history.append((echo.stamp_ns, echo.range_m))
            self._last_ns.pop(echo.sensor, None)
            self._last_ns[echo.sensor] = echo.stamp_ns
        while len(self._last_ns) > MAX_SENSORS:
            oldest = next(iter(self._last_ns))
            del self._last_ns[oldest]
            self._history.pop(oldest, None)
        # Stamps from before a jump back lie in the future; with them no sensor would become silent.
        self._last_ns = {name: min(at, now_ns) for name, at in self._last_ns.items()}
        limit = now_ns - self.config.silence_timeout_s * NANOSECONDS_PER_SECOND
        self.silent = frozenset(name for name, at in self._last_ns.items() if at < limit)

    def _thickness(self, cells: GridGeometry) -> float:
        return max(self.config.range_error, 0.75 * cells.resolution)

    def _window(self, echo: Echo, cells: GridGeometry) -> Window:
        radius = echo.range_m + self._thickness(cells) if echo.has_range else echo.max_range
        if echo.range_m == 0:
            radius = max(echo.min_range, cells.resolution)
        return cells.window(echo.x, echo.y, radius)

    def _draw(
        self,
        free: Layer,
        occupied: Layer,
        window: Window,
        cells: GridGeometry,
        echo: Echo,
        is_confirmed: bool,
        weight: float,
    ) -> None:
        c, thickness = self.config, self._thickness(cells)
        free_range, arc, free_mass, occupied_mass = echo.max_range, -1.0, c.no_echo_free_mass, 0.0
        if echo.has_range:
            free_range, free_mass = echo.range_m - thickness, c.free_mass
            arc, occupied_mass = echo.range_m, c.occupied_mass if is_confirmed else 0.0
        elif echo.range_m == 0:
            # The object is anywhere between the sensor and min_range, so the mass fills this sector.
            thickness = max(echo.min_range, cells.resolution)
            free_range, arc, occupied_mass = -1.0, 0.0, c.occupied_mass
        pose = echo.x, echo.y, echo.heading, echo.half_angle
        masses = free_mass * weight, occupied_mass * weight
        _fill_cone(free, occupied, window, cells, pose, free_range, arc, thickness, masses)


@njit(nogil=True)
def _fill_cone(  # type: ignore[no-untyped-def]
    free, occupied, window, cells, pose, free_range, arc, thickness, masses
):
    """Add the masses of one reading. pose: x, y, heading, half angle. masses: free, occupied."""
    sensor_x, sensor_y, heading, half = pose
    c, s = np.cos(heading), np.sin(heading)
    for i in range(window[0], window[1]):
        for j in range(window[2], window[3]):
            x, y = cell_centre(cells, i, j)
            dx, dy = x - sensor_x, y - sensor_y
            distance = np.sqrt(dx * dx + dy * dy)
            off = azimuth(c * dx + s * dy, c * dy - s * dx) / half
            angular = 1.0 - off * off
            # In the cell that contains the sensor, the direction is undefined. An object that is
            # too close to be measured is marked in at least one cell (the nearest centre is within
            # 0.71 cells).
            if distance < (0.75 if arc == 0.0 else 0.5) * cells.resolution:
                angular = 1.0
            if angular <= 0.0:
                continue
            if distance < free_range:
                mass = masses[0] * angular * (1.0 - (distance / free_range) ** 2)
                free[i, j] += (1.0 - free[i, j]) * mass
            elif arc == 0.0 and distance <= thickness:
                occupied[i, j] += (1.0 - occupied[i, j]) * masses[1] * angular
            elif abs(distance - arc) < thickness:
                mass = masses[1] * angular * (1.0 - ((distance - arc) / thickness) ** 2)
                occupied[i, j] += (1.0 - occupied[i, j]) * mass


@njit(nogil=True)
def _arc_mean(layer, window, cells, pose, arc, thickness):  # type: ignore[no-untyped-def]
    """Mean of a layer over the arc of an echo, with the profile of its occupied mass as weights."""
    sensor_x, sensor_y, heading, half = pose
    c, s = np.cos(heading), np.sin(heading)
    total, weights = 0.0, 0.0
    for i in range(window[0], window[1]):
        for j in range(window[2], window[3]):
            x, y = cell_centre(cells, i, j)
            dx, dy = x - sensor_x, y - sensor_y
            off_arc = (np.sqrt(dx * dx + dy * dy) - arc) / thickness
            if abs(off_arc) < 1.0:
                off = azimuth(c * dx + s * dy, c * dy - s * dx) / half
                weight = max(1.0 - off * off, 0.0) * (1.0 - off_arc * off_arc)
                total += weight * layer[i, j]
                weights += weight
    return total / weights if weights > 0.0 else 0.0


@njit(nogil=True)
def _resolve_overlap(free, occupied, top, bottom, left, right):  # type: ignore[no-untyped-def]
    for i in range(top, bottom):
        for j in range(left, right):
            f, o = free[i, j], occupied[i, j]
            free[i, j] = f * (np.float32(1.0) - o)
            occupied[i, j] = o * (np.float32(1.0) - f)
