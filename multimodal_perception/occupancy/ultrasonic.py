"""Occupancy from ultrasonic ranges: free inside the cone, occupied along the arc of the echo.

The masses over a cone follow Moravec and Elfes (1985): they fall with the square of the angle off
the axis, the free mass with the square of the range. An echo marks only once it has been confirmed, so
that another sensor's sound (cross-talk) does not.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.occupancy.cells import Cells, azimuth, middle_of

Layer = NDArray[np.float32]
Window = tuple[int, int, int, int]
MOST_SENSORS = 64
REMEMBERED = 4
# Directions across a cone in which echoes of two sensors are compared.
COMPARED = np.linspace(-0.8, 0.8, 9)
# An echo is contradicted when so much of its arc is free to all others; a sensor, when its echoes have
# been for so long. It is broken, or it alone sees what is there, as glass.
CONTRADICTED, FOR_S = 0.5, 1.0
# A sensor that looks steeper than this up or down says nothing about the plane.
STEEPEST = math.radians(45)


@dataclass(frozen=True)
class UltrasonicConfig:
    """Inverse model of ultrasonic sensors.

    occupied: mass on the axis at the range of a confirmed echo. free: mass on the axis close to
    the sensor, before an echo. no_echo: the same without any echo, as soft and slanted surfaces
    give none. range_error: half thickness of the arc, at least three quarters of a cell.
    agreement: how far two ranges of one obstacle may differ. closing_speed: by how much more they
    may, a second. memory: for how long an earlier echo confirms a later one. silence: after which
    a sensor that has spoken before counts as silent.
    """

    occupied: float = field(default=0.7, metadata={"min": 0.0, "max": 0.99})
    free: float = field(default=0.6, metadata={"min": 0.0, "max": 0.99})
    no_echo: float = field(default=0.3, metadata={"min": 0.0, "max": 0.99})
    range_error: float = field(default=0.1, metadata={"min": 0.001, "max": 1.0, "unit": "m"})
    agreement: float = field(default=0.2, metadata={"min": 0.01, "max": 5.0, "unit": "m"})
    closing_speed: float = field(default=5.0, metadata={"min": 0.0, "max": 50.0, "unit": "m/s"})
    memory: float = field(default=0.5, metadata={"min": 0.01, "max": 10.0, "unit": "s"})
    silence: float = field(default=1.0, metadata={"min": 0.05, "max": 60.0, "unit": "s"})


class Echo(NamedTuple):
    """One usable reading over the plane. range_m: metres, inf without echo, 0 when too close."""

    sensor: str
    stamp_ns: int
    x: float
    y: float
    heading: float
    half_angle: float
    range_m: float
    nearest: float
    farthest: float

    @property
    def heard(self) -> bool:
        """Whether something was measured at a distance."""
        return 0 < self.range_m < math.inf


class UltrasonicModel:
    """Readings of a frame to masses, with the memory that confirming echoes takes.

    counts: readings not used or only used to clear, by reason. silent: sensors that have spoken and
    then fell silent, NaN being silence. contradictions: share of what each confirmed echo of the last
    frame marks that everyone else calls free, by sensor. contradicted: sensors with which that has been
    so for a second.
    """

    def __init__(self, config: UltrasonicConfig | None = None) -> None:
        self.config = config or UltrasonicConfig()
        self.counts: Counter[str] = Counter()
        self.silent: frozenset[str] = frozenset()
        self._heard: dict[str, deque[tuple[int, float]]] = {}
        self._last_ns: dict[str, int] = {}
        self._marked: list[tuple[Echo, Window]] = []
        self.contradictions: dict[str, float] = {}
        self._contradicted_ns: dict[str, int] = {}

    @property
    def contradicted(self) -> frozenset[str]:
        limit = FOR_S * NANOSECONDS
        since = self._contradicted_ns
        return frozenset(n for n, at in since.items() if self._last_ns.get(n, at) - at >= limit)

    def compare(self, free: Layer, cells: Cells) -> None:
        """Note how far the free mass (size, size) of all else contradicts the last frame's echoes."""
        self.contradictions = {
            echo.sensor: _arc_mean(
                free,
                window,
                cells,
                (echo.x, echo.y, echo.heading, echo.half_angle),
                echo.range_m,
                self._thickness(cells),
            )
            for echo, window in self._marked
        }
        told = {n for n, share in self.contradictions.items() if share >= CONTRADICTED}
        self._contradicted_ns = {
            name: min(self._contradicted_ns.get(name, self._last_ns[name]), self._last_ns[name])
            for name in told
        }

    def evidence(
        self, frame: SensorFrame, cells: Cells, reliability: Callable[[str], float] = lambda _: 1.0
    ) -> tuple[Layer, Layer, Window] | None:
        """Free and occupied masses (size, size) float32 of all readings, and where they are not 0.

        None when no reading says anything. reliability: factor on the masses of a sensor by name.
        """
        echoes = [e for r in frame.ultrasonics.values() if (e := self._echo(frame, r)) is not None]
        confirmed = [self._confirmed(e, echoes) for e in echoes]
        self._remember(frame.stamp_ns, echoes)
        self._marked = []
        if not echoes:
            return None
        free, occupied = (np.zeros((cells.size, cells.size), np.float32) for _ in range(2))
        windows = []
        for echo, sure in zip(echoes, confirmed, strict=True):
            window, weight = self._window(echo, cells), reliability(echo.sensor)
            if window[0] >= window[1] or window[2] >= window[3]:
                self.counts["outside_map"] += 1
                continue
            if not sure:
                self.counts["unconfirmed"] += 1
            elif echo.heard:
                self._marked.append((echo, window))
            self._draw(free, occupied, window, cells, echo, sure, weight)
            windows.append(window)
        if not windows:
            return None
        tops, bottoms, lefts, rights = zip(*windows, strict=True)
        window = min(tops), max(bottoms), min(lefts), max(rights)
        # What one sensor looks through, its neighbour's arc does not hold: rather unknown (Yager).
        _carve(free, occupied, *window)
        return free, occupied, window

    def _echo(self, frame: SensorFrame, reading: UltrasonicReading) -> Echo | None:
        reason = _fault(reading)
        if reason is None and reading.sensor not in frame.base_from_sensor:
            reason = "no_extrinsics"
        if reason is None:
            pose = frame.reference_from_sensor(reading.sensor)
            if not np.isfinite(pose).all():
                reason = "bad_pose"
            elif abs(pose[2, 0]) > math.sin(STEEPEST):
                reason = "not_level"
        if reason is not None:
            self.counts[reason] += 1
            return None
        away = reading.range_m
        if away == -math.inf:
            away = 0.0
        elif away >= reading.max_range:
            away = math.inf
        return Echo(
            reading.sensor,
            reading.stamp_ns,
            float(pose[0, 3]),
            float(pose[1, 3]),
            poses.yaw_of(pose),
            reading.field_of_view / 2,
            away,
            reading.min_range,
            reading.max_range,
        )

    def _confirmed(self, echo: Echo, echoes: list[Echo]) -> bool:
        """Whether an earlier echo of the same sensor, or one of a neighbour, tells the same."""
        if not echo.heard:
            return True
        c = self.config
        for stamp_ns, away in self._heard.get(echo.sensor, ()):
            seconds = (echo.stamp_ns - stamp_ns) / NANOSECONDS
            allowed = c.agreement + c.closing_speed * seconds
            if 0 < seconds <= c.memory and abs(away - echo.range_m) <= allowed:
                return True
        angles = echo.heading + COMPARED * echo.half_angle
        x, y = echo.x + echo.range_m * np.cos(angles), echo.y + echo.range_m * np.sin(angles)
        for other in echoes:
            if other.sensor != echo.sensor and other.heard:
                off = np.arctan2(y - other.y, x - other.x) - other.heading
                inside = np.abs(poses.wrap_angle(off)) <= other.half_angle
                distance = np.hypot(x - other.x, y - other.y)
                if (inside & (np.abs(distance - other.range_m) <= c.agreement)).any():
                    return True
        return False

    def _remember(self, now_ns: int, echoes: list[Echo]) -> None:
        for echo in echoes:
            heard = self._heard.setdefault(echo.sensor, deque(maxlen=REMEMBERED))
            if heard and heard[-1][0] > echo.stamp_ns:
                heard.clear()  # time went back
            if echo.heard and not (heard and heard[-1][0] == echo.stamp_ns):
                heard.append((echo.stamp_ns, echo.range_m))
            self._last_ns.pop(echo.sensor, None)
            self._last_ns[echo.sensor] = echo.stamp_ns
        while len(self._last_ns) > MOST_SENSORS:
            oldest = next(iter(self._last_ns))
            del self._last_ns[oldest]
            self._heard.pop(oldest, None)
        # Stamps of before a jump back would keep a sensor from ever falling silent.
        self._last_ns = {name: min(at, now_ns) for name, at in self._last_ns.items()}
        limit = now_ns - self.config.silence * NANOSECONDS
        self.silent = frozenset(name for name, at in self._last_ns.items() if at < limit)

    def _thickness(self, cells: Cells) -> float:
        return max(self.config.range_error, 0.75 * cells.resolution)

    def _window(self, echo: Echo, cells: Cells) -> Window:
        reach = echo.range_m + self._thickness(cells) if echo.heard else echo.farthest
        if echo.range_m == 0:
            reach = max(echo.nearest, cells.resolution)
        return cells.window(echo.x, echo.y, reach)

    def _draw(
        self,
        free: Layer,
        occupied: Layer,
        window: Window,
        cells: Cells,
        echo: Echo,
        sure: bool,
        weight: float,
    ) -> None:
        c, thickness = self.config, self._thickness(cells)
        clear_to, arc, mass_free, mass_occupied = echo.farthest, -1.0, c.no_echo, 0.0
        if echo.heard:
            clear_to, mass_free = echo.range_m - thickness, c.free
            arc, mass_occupied = echo.range_m, c.occupied if sure else 0.0
        elif echo.range_m == 0:
            # Somewhere between the sensor and its nearest range: all of that, no arc.
            thickness = max(echo.nearest, cells.resolution)
            clear_to, arc, mass_occupied = -1.0, 0.0, c.occupied
        place = echo.x, echo.y, echo.heading, echo.half_angle
        masses = mass_free * weight, mass_occupied * weight
        _cone(free, occupied, window, cells, place, clear_to, arc, thickness, masses)


def _fault(reading: UltrasonicReading) -> str | None:
    """Why a reading cannot be used, in a word; None if it can be."""
    r = reading
    limits = math.isfinite(r.min_range) and math.isfinite(r.max_range)
    if not limits or not 0 <= r.min_range < r.max_range:
        return "bad_limits"
    if not 0 < r.field_of_view <= math.pi:
        return "bad_field_of_view"
    if math.isnan(r.range_m):
        return "no_range"
    # sensor_msgs/Range: finite values outside of the limits are to be discarded.
    if math.isfinite(r.range_m) and not r.min_range <= r.range_m <= r.max_range * 1.001:
        return "outside_limits"
    return None


@numba.njit(cache=True, nogil=True)
def _cone(  # type: ignore[no-untyped-def]
    free, occupied, window, cells, place, clear_to, arc, thickness, masses
):
    sensor_x, sensor_y, heading, half = place
    c, s = np.cos(heading), np.sin(heading)
    for i in range(window[0], window[1]):
        for j in range(window[2], window[3]):
            x, y = middle_of(cells, i, j)
            dx, dy = x - sensor_x, y - sensor_y
            distance = np.sqrt(dx * dx + dy * dy)
            off = azimuth(c * dx + s * dy, c * dy - s * dx) / half
            angular = 1.0 - off * off
            # Of the cell that holds the sensor the direction has no meaning.
            if distance < 0.5 * cells.resolution:
                angular = 1.0
            if angular <= 0.0:
                continue
            if distance < clear_to:
                mass = masses[0] * angular * (1.0 - (distance / clear_to) ** 2)
                free[i, j] += (1.0 - free[i, j]) * mass
            elif arc == 0.0 and distance <= thickness:
                occupied[i, j] += (1.0 - occupied[i, j]) * masses[1] * angular
            elif abs(distance - arc) < thickness:
                mass = masses[1] * angular * (1.0 - ((distance - arc) / thickness) ** 2)
                occupied[i, j] += (1.0 - occupied[i, j]) * mass


@numba.njit(cache=True, nogil=True)
def _arc_mean(layer, window, cells, place, arc, thickness):  # type: ignore[no-untyped-def]
    """Mean of a layer over the arc of an echo, weighed as the arc's mass is."""
    sensor_x, sensor_y, heading, half = place
    c, s = np.cos(heading), np.sin(heading)
    total, weights = 0.0, 0.0
    for i in range(window[0], window[1]):
        for j in range(window[2], window[3]):
            x, y = middle_of(cells, i, j)
            dx, dy = x - sensor_x, y - sensor_y
            off_arc = (np.sqrt(dx * dx + dy * dy) - arc) / thickness
            if abs(off_arc) < 1.0:
                off = azimuth(c * dx + s * dy, c * dy - s * dx) / half
                weight = max(1.0 - off * off, 0.0) * (1.0 - off_arc * off_arc)
                total += weight * layer[i, j]
                weights += weight
    return total / weights if weights > 0.0 else 0.0


@numba.njit(cache=True, nogil=True)
def _carve(free, occupied, top, bottom, left, right):  # type: ignore[no-untyped-def]
    for i in range(top, bottom):
        for j in range(left, right):
            f, o = free[i, j], occupied[i, j]
            free[i, j] = f * (np.float32(1.0) - o)
            occupied[i, j] = o * (np.float32(1.0) - f)
