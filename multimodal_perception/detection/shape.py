"""What a cluster may be by its size and shape, and the box of the whole object behind its seen faces.

Dimensions are those of KITTI's and nuScenes' labels (their means and spreads by class).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import CLASS_NAMES

Array = NDArray[np.float64]
PEDESTRIAN, CYCLIST, CAR, VAN, TRUCK = (
    CLASS_NAMES.index(n) for n in ("pedestrian", "cyclist", "car", "van", "truck")
)
JUDGED = (PEDESTRIAN, CYCLIST, CAR, VAN, TRUCK)
# Whole objects: length, width, height in metres, where a face was not seen.
TYPICAL = {
    PEDESTRIAN: (0.8, 0.65, 1.75),
    CYCLIST: (1.75, 0.65, 1.75),
    CAR: (4.0, 1.65, 1.55),
    VAN: (5.0, 1.9, 2.2),
    TRUCK: (8.0, 2.6, 3.2),
}


@dataclass(frozen=True)
class Shapes:
    """What is known of C clusters; see box_fit.describe. All (C,) float64.

    angle, low_u .. high_v: the rectangle. ground: z below. bottom, top: heights over the ground of its
    lowest and highest return in the band. column: of the highest return above it. points: how many.
    distance: metres from the LiDAR. ceiling: height over the ground above which the LiDAR sees nothing.
    """

    angle: Array
    low_u: Array
    high_u: Array
    low_v: Array
    high_v: Array
    ground: Array
    bottom: Array
    top: Array
    points: Array
    column: Array
    distance: Array
    ceiling: Array

    @classmethod
    def from_rows(cls, rows: Array, origin: NDArray[np.float32], elevation: float) -> Shapes:
        """From describe's rows (C, 10), the LiDAR's place (3,) and its highest angle's tangent."""
        columns = [rows[:, i] for i in range(10)]
        u, v = (columns[1] + columns[2]) / 2, (columns[3] + columns[4]) / 2
        c, s = np.cos(columns[0]), np.sin(columns[0])
        distance = np.hypot(c * u - s * v - origin[0], s * u + c * v - origin[1])
        ceiling = origin[2] + distance * elevation - columns[5]
        return cls(*columns, distance, ceiling)

    def select(self, index: NDArray[np.int64]) -> Shapes:
        """The chosen clusters."""
        return Shapes(*(value[index] for value in self.__dict__.values()))

    @property
    def long(self) -> Array:
        """The rectangle's longer side, metres."""
        return np.maximum(self.high_u - self.low_u, self.high_v - self.low_v)

    @property
    def short(self) -> Array:
        """The rectangle's shorter side, metres."""
        return np.minimum(self.high_u - self.low_u, self.high_v - self.low_v)


def judge(shapes: Shapes) -> tuple[NDArray[np.int64], Array]:
    """The likeliest class (C,) of each cluster and its score (C,) in [0, 1]."""
    scores = np.stack([_score(shapes, label) for label in JUDGED])
    best = scores.argmax(axis=0)
    return np.array(JUDGED, np.int64)[best], scores[best, np.arange(len(best))]


def _score(s: Shapes, label: int) -> Array:
    """How well the clusters fit one class: a product of plausibilities."""
    # A top that the LiDAR cannot see past says only how high the object is at least.
    hidden_top = s.top > s.ceiling - 0.2
    height = np.maximum(s.top, s.column)
    low_enough = _plausible(s.bottom, -1.0, 0.0, 0.55, 0.9)
    # Returns fall with the square of the distance; far fewer than that is clutter.
    dense = np.clip(s.points * s.distance**2 / FULL_POINTS[label], 0.15, 1.0) ** 0.4
    common = low_enough * dense
    if label == PEDESTRIAN:
        size = _plausible(s.long, 0.15, 0.3, 0.95, 1.35) * _plausible(s.short, 0.0, 0.1, 0.75, 1.0)
        return 0.9 * common * size * _plausible(height, 0.9, 1.35, 1.95, 2.2)
    if label == CYCLIST:
        size = _plausible(s.long, 1.0, 1.4, 2.0, 2.4) * _plausible(s.short, 0.05, 0.25, 0.8, 1.1)
        return 0.85 * common * size * _plausible(height, 1.0, 1.4, 1.95, 2.2)
    if label == CAR:
        size = _plausible(s.long, 0.9, 1.5, 4.9, 6.0) * _plausible(s.short, -1, 0.0, 1.95, 2.5)
        tall = _plausible(height, 0.8, 1.2, 1.85, 2.2)
        # One thin face alone may be a fence or a hedge; two faces are a body.
        body = 0.55 + 0.45 * _plausible(s.short, 0.15, 0.9, 3.0, 4.0)
        return common * size * tall * body
    if label == VAN:
        size = _plausible(s.long, 1.4, 1.8, 5.8, 7.0) * _plausible(s.short, 0.0, 0.8, 2.2, 2.7)
        tall = _plausible(height, 1.7, 1.9, 2.5, 2.9)
        return np.where(hidden_top, 0.6, 0.8) * common * size * tall
    size = _plausible(s.long, 1.8, 2.3, 12.0, 14.0) * _plausible(s.short, 0.2, 1.5, 2.8, 3.4)
    tall = _plausible(height, 2.2, 2.6, 3.8, 4.3)
    return np.where(hidden_top, 0.4, 0.7) * common * size * tall


# Points times distance squared of a well seen object, by class, for a LiDAR of 64 rings.
FULL_POINTS = {PEDESTRIAN: 8e3, CYCLIST: 1.2e4, CAR: 4e4, VAN: 5e4, TRUCK: 6e4}


def _plausible(value: Array, none: float, some: float, still: float, no_more: float) -> Array:
    """A trapezoid: 0 outside [none, no_more], 1 inside [some, still]."""
    return np.interp(value, [none, some, still, no_more], [0.0, 1.0, 1.0, 0.0])


def complete(shapes: Shapes, labels: NDArray[np.int64], origin: NDArray[np.float32]) -> Array:
    """Whole boxes (C, 7): unseen extent is added on the side away from the LiDAR."""
    boxes = np.zeros((len(labels), 7))
    for i, label in enumerate(labels):
        boxes[i] = _complete_one(shapes, i, int(label), origin)
    return boxes


def _complete_one(s: Shapes, i: int, label: int, origin: NDArray[np.float32]) -> Array:
    length, width, typical_height = TYPICAL[label]
    size_u, size_v = s.high_u[i] - s.low_u[i], s.high_v[i] - s.low_v[i]
    angle = s.angle[i]
    c, sn = np.cos(angle), np.sin(angle)
    from_u = c * origin[0] + sn * origin[1]
    from_v = c * origin[1] - sn * origin[0]
    # The long side, unless the one seen face is as wide as a vehicle's back and no deeper.
    along_u = size_u >= size_v
    if label in (CAR, VAN, TRUCK) and max(size_u, size_v) < width + 0.35:
        along_u = not along_u
    want_u, want_v = (length, width) if along_u else (width, length)
    low_u, high_u = _grow(s.low_u[i], s.high_u[i], want_u, from_u)
    low_v, high_v = _grow(s.low_v[i], s.high_v[i], want_v, from_v)
    u, v = (low_u + high_u) / 2, (low_v + high_v) / 2
    yaw = angle if along_u else angle + np.pi / 2
    size = (high_u - low_u, high_v - low_v) if along_u else (high_v - low_v, high_u - low_u)
    top = max(s.top[i], s.column[i])
    if top > s.ceiling[i] - 0.2:
        top = max(top, typical_height)
    x, y = c * u - sn * v, sn * u + c * v
    return np.array([x, y, s.ground[i] + top / 2, *size, top, np.arctan2(np.sin(yaw), np.cos(yaw))])


def _grow(low: float, high: float, wanted: float, origin: float) -> tuple[float, float]:
    """Widen an interval to the size wanted, keeping the end that the LiDAR sees."""
    missing = wanted - (high - low)
    if missing <= 0:
        return low, high
    if origin <= low:
        return low, high + missing
    if origin >= high:
        return low - missing, high
    return low - missing / 2, high + missing / 2
