"""What a cluster may be by its size and shape, and how well a whole box of that class fits the returns.

Dimensions are those of KITTI's and nuScenes' labels (their means and spreads by class).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.geometric import box_fit
from multimodal_perception.frame import CLASS_NAMES

Array = NDArray[np.float64]
PEDESTRIAN, CYCLIST, CAR, VAN, TRUCK = (
    CLASS_NAMES.index(n) for n in ("pedestrian", "cyclist", "car", "van", "truck")
)
JUDGED = (PEDESTRIAN, CYCLIST, CAR, VAN, TRUCK)
# Whole objects: length, width, height in metres, where a face was not seen.
TYPICAL = {
    PEDESTRIAN: (0.7, 0.6, 1.75),
    CYCLIST: (1.75, 0.65, 1.75),
    CAR: (4.0, 1.65, 1.55),
    VAN: (5.0, 1.9, 2.2),
    TRUCK: (8.0, 2.6, 3.2),
}
# Metres around an object of each class that are free of others.
RINGS = {PEDESTRIAN: 0.5, CYCLIST: 0.5, CAR: 0.4, VAN: 0.4, TRUCK: 0.4}
# Returns that an object has for every unsure one: what few returns say is halved at FEW.
FEW = {PEDESTRIAN: 5.0, CYCLIST: 5.0, CAR: 8.0, VAN: 8.0, TRUCK: 8.0}


@dataclass(frozen=True)
class Shapes:
    """What is known of C clusters, all (C,) float64; see box_fit.describe for all but the last.

    bottom: the lowest that the object can end, as no beam looked between there and its lowest
    return. distance: metres from the LiDAR. ceiling: height over the ground above which it sees
    nothing. across: how wide the rectangle looks from it, metres.
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
    shoulder: Array
    depth: Array
    distance: Array
    ceiling: Array
    across: Array

    @classmethod
    def from_rows(
        cls, rows: Array, origin: NDArray[np.float32], elevation: float, beam_step: float
    ) -> Shapes:
        """From describe's rows (C, 12), the LiDAR's place (3,), the tangents of its highest angle and
        between neighbouring beams."""
        columns = list(rows.T)
        u, v = (rows[:, 1] + rows[:, 2]) / 2, (rows[:, 3] + rows[:, 4]) / 2
        c, s = np.cos(rows[:, 0]), np.sin(rows[:, 0])
        distance = np.hypot(c * u - s * v - origin[0], s * u + c * v - origin[1])
        ceiling = origin[2] + distance * elevation - rows[:, box_fit.GROUND]
        bearing = np.arctan2(s * u + c * v - origin[1], c * u - s * v - origin[0]) - rows[:, 0]
        size_u, size_v = rows[:, 2] - rows[:, 1], rows[:, 4] - rows[:, 3]
        across = size_u * np.abs(np.sin(bearing)) + size_v * np.abs(np.cos(bearing))
        # The next lower beam may have gone below the object or have been its last.
        columns[box_fit.BOTTOM] = np.maximum(columns[box_fit.BOTTOM] - beam_step * distance, 0.0)
        return cls(*(*columns, distance, ceiling, across))

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


@dataclass(frozen=True)
class Evidence:
    """What the rays say of K boxes, all (K,) float64: the columns of rays.cast."""

    through: Array
    hits: Array
    foreign: Array
    around: Array
    top: Array
    over: Array


def size_fit(s: Shapes, label: int) -> Array:
    """How well the seen part (C,) goes into an object of this class, 0 to 1, whatever hides the rest."""
    low = _plausible(s.bottom, -1.0, 0.0, 0.4, 0.8)
    if label == PEDESTRIAN:
        size = _plausible(s.long, 0.15, 0.3, 0.95, 1.4) * _plausible(s.short, -1.0, 0.0, 0.75, 1.0)
        return low * size * _plausible(s.top, 0.9, 1.3, 1.95, 2.15)
    if label == CYCLIST:
        size = _plausible(s.long, 1.0, 1.4, 2.0, 2.3) * _plausible(s.short, 0.05, 0.2, 0.8, 1.1)
        return low * size * _plausible(s.top, 1.1, 1.4, 1.95, 2.15)
    if label == CAR:
        size = _plausible(s.long, 0.8, 1.4, 5.0, 5.8) * _plausible(s.short, -1, 0.0, 2.0, 2.5)
        return low * size * _plausible(s.top, 0.4, 0.7, 1.95, 2.2)
    if label == VAN:
        size = _plausible(s.long, 1.4, 1.8, 5.8, 7.0) * _plausible(s.short, -1.0, 0.0, 2.2, 2.7)
        return low * size * _plausible(s.top, 1.4, 1.8, 2.6, 2.9)
    size = _plausible(s.long, 1.8, 2.3, 12.0, 14.0) * _plausible(s.short, 0.0, 0.4, 2.8, 3.4)
    return low * size * _plausible(s.top, 1.8, 2.1, 3.8, 4.3)


def judge(
    s: Shapes, e: Evidence, labels: NDArray[np.int64], beam_step: float, density: float
) -> Array:
    """Scores (K,) in [0, 1] of K hypotheses: shapes, what the rays say of their boxes, their classes.

    beam_step, density: see rays.Rays.spacing.
    """
    scores = np.zeros(len(labels))
    crossed = e.through / (e.through + e.hits + 2.0)
    crowd = (e.around + e.foreign) / (e.hits + 3.0)
    top = np.maximum(np.maximum(s.top, s.column), e.top)
    hidden = top > s.ceiling - 0.2
    # Between what was seen and the lowest ray that went over it lies the true top.
    reach = np.where(hidden, np.inf, top + beam_step * s.distance)
    over = np.minimum(np.maximum(e.over, top), reach)
    # A face that stops every ray returns as many as the LiDAR sends into its outline.
    sent = density * s.across * np.maximum(s.top - s.bottom, 0.1) / np.maximum(s.distance, 1.0) ** 2
    full = np.interp(s.points / np.maximum(sent, 1.0), [0.1, 0.35], [0.2, 1.0])
    for label in JUDGED:
        score = size_fit(s, label) * full * e.hits / (e.hits + FEW[label])
        if label in (PEDESTRIAN, CYCLIST):
            score *= 0.9 * _small(s, label, crowd, top, over)
        else:
            score *= _vehicle(s, label, crossed, crowd, top, over, hidden)
        scores = np.where(labels == label, score, scores)
    return scores


def _small(s: Shapes, label: int, crowd: Array, top: Array, over: Array) -> Array:
    """How well a hypothesis fits a person: upright, alone, neither a post nor a piece of a bush."""
    height = _up_to(top, 1.95, 2.1) * _at_least(over, 1.15, 1.45)
    alone = np.interp(crowd, [0.05, 0.4, 1.0], [1.0, 0.5, 0.1])
    score = height * alone * _plausible(top - s.bottom, 0.5, 0.8, 3.0, 4.0)
    if label == CYCLIST:
        # The rider is in the middle: a wheel's end is low, where a car's corner is not.
        score *= np.interp(s.shoulder, [1.15, 1.4], [1.0, 0.4])
    return score


def _vehicle(
    s: Shapes, label: int, crossed: Array, crowd: Array, top: Array, over: Array, hidden: Any
) -> Array:
    """How well a hypothesis fits a vehicle: closed, smooth faces, of its height, no part of a wall."""
    closed = np.interp(crossed, [0.1, 0.35], [1.0, 0.0])
    # Bodies return from their faces, plants from all of their depth.
    smooth = np.interp(s.depth / np.maximum(s.short, 0.8), [0.18, 0.25, 0.35], [1.0, 0.5, 0.0])
    alone = np.interp(crowd, [0.1, 0.5, 1.5], [1.0, 0.6, 0.1])
    # One thin face longer than a vehicle's back may be a fence or a wall.
    back = TYPICAL[label][1] + 0.5
    thin = (s.short < 0.25 * TYPICAL[label][1]) & (s.long > back)
    score = closed * smooth * alone * np.where(thin, 0.5, 1.0)
    if label == CAR:
        return score * _up_to(top, 2.0, 2.25) * _at_least(over, 1.05, 1.35)
    if label == VAN:
        sure = np.where(hidden, 0.6, 0.8)
        return sure * score * _up_to(top, 2.6, 2.9) * _at_least(over, 1.7, 1.9)
    # A building's wall is as high; only a top that was seen tells them apart.
    return np.where(hidden, 0.4, 0.7) * score * _up_to(top, 3.9, 4.3) * _at_least(over, 2.3, 2.6)


def _plausible(value: Array, none: float, some: float, still: float, no_more: float) -> Array:
    """A trapezoid: 0 outside [none, no_more], 1 inside [some, still]."""
    return np.interp(value, [none, some, still, no_more], [0.0, 1.0, 1.0, 0.0])


def _up_to(value: Array, still: float, no_more: float) -> Array:
    """1 up to `still`, 0 from `no_more`."""
    return np.interp(value, [still, no_more], [1.0, 0.0])


def _at_least(value: Array, none: float, some: float) -> Array:
    """0 up to `none`, 1 from `some`; infinity is enough."""
    return np.interp(np.minimum(value, 1e6), [none, some], [0.0, 1.0])
