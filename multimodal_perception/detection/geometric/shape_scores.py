"""Scores of object hypotheses from size, shape and ray evidence.

Dimensions are from the labels of KITTI and nuScenes (their means and spreads by class).
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
SCORED_CLASSES = (PEDESTRIAN, CYCLIST, CAR, VAN, TRUCK)
# Length, width and height of complete objects in metres, for sides that are not visible.
TYPICAL_SIZES = {
    PEDESTRIAN: (0.7, 0.6, 1.75),
    CYCLIST: (1.75, 0.65, 1.75),
    CAR: (4.0, 1.65, 1.55),
    VAN: (5.0, 1.9, 2.2),
    TRUCK: (8.0, 2.6, 3.2),
}
# Distance around an object of each class that should be free of other objects, metres.
MARGINS = {PEDESTRIAN: 0.5, CYCLIST: 0.5, CAR: 0.4, VAN: 0.4, TRUCK: 0.4}
# Number of own returns at which the score is reduced to a half for few returns.
HALF_SCORE_HITS = {PEDESTRIAN: 5.0, CYCLIST: 5.0, CAR: 8.0, VAN: 8.0, TRUCK: 8.0}


@dataclass(frozen=True)
class Shapes:
    """Size and shape of C clusters, all (C,) float64; see box_fit.fit_rectangles for most fields.

    bottom: lowest possible height of the object's bottom, given the spacing of the beams. distance:
    metres from the LiDAR. ceiling: height above the ground up to which the LiDAR measures there. across:
    apparent width of the rectangle from the LiDAR, metres.
    """

    angle: Array
    low_u: Array
    high_u: Array
    low_v: Array
    high_v: Array
    ground: Array
    bottom: Array
    top: Array
    num_points: Array
    height_above_cluster: Array
    min_end_height: Array
    mean_edge_distance: Array
    distance: Array
    ceiling: Array
    across: Array

    @classmethod
    def from_rows(
        cls, rows: Array, origin: NDArray[np.float32], elevation: float, beam_step: float
    ) -> Shapes:
        """Shapes from the rows (C, 12) of fit_rectangles.

        origin: (3,) position of the LiDAR. elevation: tangent of its highest beam. beam_step: tangent
        between neighbouring beams.
        """
        columns = list(rows.T)
        u, v = (rows[:, 1] + rows[:, 2]) / 2, (rows[:, 3] + rows[:, 4]) / 2
        c, s = np.cos(rows[:, 0]), np.sin(rows[:, 0])
        distance = np.hypot(c * u - s * v - origin[0], s * u + c * v - origin[1])
        ceiling = origin[2] + distance * elevation - rows[:, box_fit.GROUND]
        bearing = np.arctan2(s * u + c * v - origin[1], c * u - s * v - origin[0]) - rows[:, 0]
        size_u, size_v = rows[:, 2] - rows[:, 1], rows[:, 4] - rows[:, 3]
        across = size_u * np.abs(np.sin(bearing)) + size_v * np.abs(np.cos(bearing))
        # The object may continue down to the next lower beam.
        columns[box_fit.BOTTOM] = np.maximum(columns[box_fit.BOTTOM] - beam_step * distance, 0.0)
        return cls(*(*columns, distance, ceiling, across))

    @property
    def longer_side(self) -> Array:
        """The rectangle's longer side, metres."""
        return np.maximum(self.high_u - self.low_u, self.high_v - self.low_v)

    @property
    def shorter_side(self) -> Array:
        """The rectangle's shorter side, metres."""
        return np.minimum(self.high_u - self.low_u, self.high_v - self.low_v)


@dataclass(frozen=True)
class Evidence:
    """Ray evidence on K boxes, all (K,) float64; see ray_evidence.evaluate_box."""

    rays_through: Array
    hits: Array
    foreign_returns: Array
    around: Array
    top: Array
    over: Array


def size_fit(s: Shapes, label: int) -> Array:
    """How well the visible parts (C,) fit into an object of a class, 0 to 1.

    The rest may be occluded.
    """
    low = _plausible(s.bottom, -1.0, 0.0, 0.4, 0.8)
    if label == PEDESTRIAN:
        size = _plausible(s.longer_side, 0.15, 0.3, 0.95, 1.4) * _plausible(
            s.shorter_side, -1.0, 0.0, 0.75, 1.0
        )
        return low * size * _plausible(s.top, 0.9, 1.3, 1.95, 2.15)
    if label == CYCLIST:
        size = _plausible(s.longer_side, 1.0, 1.4, 2.0, 2.3) * _plausible(
            s.shorter_side, 0.05, 0.2, 0.8, 1.1
        )
        return low * size * _plausible(s.top, 1.1, 1.4, 1.95, 2.15)
    if label == CAR:
        size = _plausible(s.longer_side, 0.8, 1.4, 5.0, 5.8) * _plausible(
            s.shorter_side, -1, 0.0, 2.0, 2.5
        )
        return low * size * _plausible(s.top, 0.4, 0.7, 1.95, 2.2)
    if label == VAN:
        size = _plausible(s.longer_side, 1.4, 1.8, 5.8, 7.0) * _plausible(
            s.shorter_side, -1.0, 0.0, 2.2, 2.7
        )
        return low * size * _plausible(s.top, 1.4, 1.8, 2.6, 2.9)
    size = _plausible(s.longer_side, 1.8, 2.3, 12.0, 14.0) * _plausible(
        s.shorter_side, 0.0, 0.4, 2.8, 3.4
    )
    return low * size * _plausible(s.top, 1.8, 2.1, 3.8, 4.3)


def score_hypotheses(
    s: Shapes, e: Evidence, labels: NDArray[np.int64], beam_step: float, density: float
) -> Array:
    """Scores (K,) in [0, 1] of K hypotheses from their shapes, ray evidence and classes.

    beam_step, density: see ray_evidence.Rays.spacing.
    """
    scores = np.zeros(len(labels))
    crossed = e.rays_through / (e.rays_through + e.hits + 2.0)
    crowd = (e.around + e.foreign_returns) / (e.hits + 3.0)
    top = np.maximum(np.maximum(s.top, s.height_above_cluster), e.top)
    top_hidden = top > s.ceiling - 0.2
    # The true top is between the highest return and the lowest ray above it.
    limit = np.where(top_hidden, np.inf, top + beam_step * s.distance)
    over = np.minimum(np.maximum(e.over, top), limit)
    # A solid face returns all the rays that the LiDAR sends towards it.
    height = np.maximum(s.top - s.bottom, 0.1)
    expected = density * s.across * height / np.maximum(s.distance, 1.0) ** 2
    solid = np.interp(s.num_points / np.maximum(expected, 1.0), [0.1, 0.35], [0.2, 1.0])
    for label in SCORED_CLASSES:
        score = size_fit(s, label) * solid * e.hits / (e.hits + HALF_SCORE_HITS[label])
        if label in (PEDESTRIAN, CYCLIST):
            score *= 0.9 * _score_person(s, label, crowd, top, over)
        else:
            score *= _score_vehicle(s, label, crossed, crowd, top, over, top_hidden)
        scores = np.where(labels == label, score, scores)
    return scores


def _score_person(s: Shapes, label: int, crowd: Array, top: Array, over: Array) -> Array:
    """Score of a person: upright, free-standing, neither a post nor a part of a bush.

    crowd: relative number of other returns in and around the box. top: height of the highest return.
    over: upper limit of the height.
    """
    height = _up_to(top, 1.95, 2.1) * _at_least(over, 1.15, 1.45)
    isolated = np.interp(crowd, [0.05, 0.4, 1.0], [1.0, 0.5, 0.1])
    score = height * isolated * _plausible(top - s.bottom, 0.5, 0.8, 3.0, 4.0)
    if label == CYCLIST:
        # The rider is in the centre, so both ends (the wheels) are low, unlike the corners of a car.
        score *= np.interp(s.min_end_height, [1.15, 1.4], [1.0, 0.4])
    return score


def _score_vehicle(
    s: Shapes, label: int, crossed: Array, crowd: Array, top: Array, over: Array, top_hidden: Any
) -> Array:
    """Score of a vehicle: solid, with smooth faces, of plausible height, not part of a wall.

    crossed: fraction of rays that passed through. crowd, top, over: see _score_person. top_hidden:
    whether the top may be above the LiDAR's field of view.
    """
    solid = np.interp(crossed, [0.1, 0.35], [1.0, 0.0])
    # Bodies of vehicles reflect at their surface, plants throughout their depth.
    smooth = np.interp(
        s.mean_edge_distance / np.maximum(s.shorter_side, 0.8), [0.18, 0.25, 0.35], [1.0, 0.5, 0.0]
    )
    isolated = np.interp(crowd, [0.1, 0.5, 1.5], [1.0, 0.6, 0.1])
    # A single thin face longer than a vehicle's rear may be a fence or a wall.
    rear = TYPICAL_SIZES[label][1] + 0.5
    thin = (s.shorter_side < 0.25 * TYPICAL_SIZES[label][1]) & (s.longer_side > rear)
    score = solid * smooth * isolated * np.where(thin, 0.5, 1.0)
    if label == CAR:
        return score * _up_to(top, 2.0, 2.25) * _at_least(over, 1.05, 1.35)
    if label == VAN:
        confidence = np.where(top_hidden, 0.6, 0.8)
        return confidence * score * _up_to(top, 2.6, 2.9) * _at_least(over, 1.7, 1.9)
    # The wall of a building can be as high. Only a visible top distinguishes a truck from it.
    return (
        np.where(top_hidden, 0.4, 0.7) * score * _up_to(top, 3.9, 4.3) * _at_least(over, 2.3, 2.6)
    )


def _plausible(value: Array, min_: float, low: float, high: float, max_: float) -> Array:
    """Trapezoid function: 0 outside [min_, max_], 1 inside [low, high]."""
    return np.interp(value, [min_, low, high, max_], [0.0, 1.0, 1.0, 0.0])


def _up_to(value: Array, high: float, max_: float) -> Array:
    """1 up to high, 0 from max_."""
    return np.interp(value, [high, max_], [1.0, 0.0])


def _at_least(value: Array, min_: float, low: float) -> Array:
    """0 up to min_, 1 from low, also for infinite values."""
    return np.interp(np.minimum(value, 1e6), [min_, low], [0.0, 1.0])
