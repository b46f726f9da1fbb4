"""The points of a frame among which objects are pasted: ground height, occlusion, free positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.boxes import iou_bev
from multimodal_perception.kernels import njit

# Positions that are tried for an object, and its minimum separation from other boxes in metres.
ATTEMPTS, MIN_SEPARATION = 16, 0.3
# Points that an object must have, and the minimum fraction of them that must not be occluded.
MIN_POINTS, MIN_VISIBLE_FRACTION = 8, 0.7
# Azimuth bins of the LiDAR; half the height of a ray, as a slope.
AZIMUTH_BINS, RAY_HALF_SLOPE = 720, 0.005
# The ground height at a position is a quantile of the heights of at least MIN_GROUND_POINTS points
# around it; an object is moved up or down by at most MAX_GROUND_STEP metres.
MIN_GROUND_POINTS, GROUND_QUANTILE, MAX_GROUND_STEP = 3, 0.1, 0.5
# A position is occupied with more than MAX_OBSTACLE_POINTS points more than OBSTACLE_HEIGHT metres
# above the ground.
OBSTACLE_HEIGHT, MAX_OBSTACLE_POINTS = 0.3, 2


def point_density(points: NDArray[np.float32], lidar: NDArray[np.float32]) -> float:
    """Mean number of points (N, 4) in an azimuth bin of a LiDAR at position (3,) that has any.

    It is a measure of the resolution of a LiDAR, for instance about 25 with 16 beams.
    """
    return _density(_sort_by_azimuth(points, lidar)[1])


def _density(starts: NDArray[np.int64]) -> float:
    counts = np.diff(starts)
    return float(counts.sum() / max(np.count_nonzero(counts), 1))


class PastingScene:
    """The points of a frame sorted by azimuth, and the objects pasted so far."""

    def __init__(
        self,
        points: NDArray[np.float32],
        lidar: NDArray[np.float32],
        boxes: NDArray[np.float32],
        ultrasonic: NDArray[np.float32],
    ) -> None:
        """points (N, 4), lidar position (3,), boxes (K, 7) and ultrasonic (U, 8): see samples."""
        self.lidar, self.boxes, self.ultrasonic = lidar, boxes, ultrasonic
        self.points, self.starts = _sort_by_azimuth(points, lidar)
        self.kept = np.ones(len(points), np.bool_)
        self.occupied_bins = np.zeros(AZIMUTH_BINS, np.bool_)
        self.pasted: list[NDArray[np.float32]] = []
        self._added: list[NDArray[np.float32]] = []

    def paste(
        self,
        points: NDArray[np.float32],
        box: NDArray[np.float32],
        rotations: NDArray[np.float64],
    ) -> bool:
        """Paste an object at the first of the rotations (T,) about the LiDAR where there is room.

        points (N, 4), box (7,): relative to the LiDAR. Returns False where there is no room.
        """
        for rotation in rotations:
            target = _rotate_box(box, self.lidar, rotation)
            if not self._is_separated(target):
                continue
            ground = _ground_height(target, self.lidar, self.points, self.starts)
            step = ground - (target[2] - target[5] / 2)
            if not abs(step) < MAX_GROUND_STEP:  # also for NaN, where there is no ground
                continue
            target[2] += step
            moved = _rotate_points(points, self.lidar, rotation)
            moved[:, 2] += step
            visible = _visible_points(
                moved, self.lidar, self.points, self.starts, self.occupied_bins
            )
            if visible.sum() < max(MIN_VISIBLE_FRACTION * len(points), MIN_POINTS):
                continue
            moved = moved[visible]
            _remove_occluded(
                moved,
                target,
                self.lidar,
                self.points,
                self.starts,
                self.kept,
                self.occupied_bins,
            )
            self.pasted.append(target)
            self._added.append(moved)
            return True
        return False

    @property
    def density(self) -> float:
        """See point_density."""
        return _density(self.starts)

    def visible_points(self) -> NDArray[np.float32]:
        """Points (N, 4) of the frame that are not occluded, and those of the pasted objects."""
        return np.concatenate([self.points[self.kept], *self._added])

    def _is_separated(self, target: NDArray[np.float32]) -> bool:
        """Whether a box has enough separation from other boxes and is outside all ultrasonic ranges."""
        enlarged = target.copy()
        enlarged[3:5] += 2 * MIN_SEPARATION
        others = np.concatenate([self.boxes, *(b[None] for b in self.pasted)])
        if len(others) and iou_bev(enlarged[None], others).max() > 0:
            return False
        limit = self.ultrasonic[:, 6] + np.hypot(target[3], target[4]) / 2
        distance = np.hypot(self.ultrasonic[:, 0] - target[0], self.ultrasonic[:, 1] - target[1])
        return bool((distance > limit).all())


def _rotate_points(
    points: NDArray[np.float32], lidar: NDArray[np.float32], rotation: float
) -> NDArray[np.float32]:
    c, s = np.float32(np.cos(rotation)), np.float32(np.sin(rotation))
    moved = points.copy()
    moved[:, 0] = c * points[:, 0] - s * points[:, 1]
    moved[:, 1] = s * points[:, 0] + c * points[:, 1]
    moved[:, :3] += lidar
    return moved


def _rotate_box(
    box: NDArray[np.float32], lidar: NDArray[np.float32], rotation: float
) -> NDArray[np.float32]:
    c, s = np.cos(rotation), np.sin(rotation)
    moved = box.copy()
    moved[0], moved[1] = c * box[0] - s * box[1], s * box[0] + c * box[1]
    moved[:3] += lidar
    moved[6] = np.arctan2(np.sin(box[6] + rotation), np.cos(box[6] + rotation))
    return moved


@njit(nogil=True)
def _sort_by_azimuth(points, lidar):  # type: ignore[no-untyped-def]
    """Points (N, 4) sorted by azimuth bin, and the first point of each bin, (AZIMUTH_BINS + 1,)."""
    bins = _azimuth_bins(points, lidar)
    starts = np.zeros(AZIMUTH_BINS + 1, np.int64)
    for bin_ in bins:
        starts[bin_ + 1] += 1
    starts = np.cumsum(starts)
    following, ordered = starts[:-1].copy(), np.empty_like(points)
    for i in range(len(points)):
        ordered[following[bins[i]]] = points[i]
        following[bins[i]] += 1
    return ordered, starts


@njit(nogil=True)
def _azimuth_bins(points, lidar):  # type: ignore[no-untyped-def]
    """Azimuth bin (N,) int16 of points."""
    bins = np.empty(len(points), np.int16)
    for i in range(len(points)):
        angle = np.arctan2(points[i, 1] - lidar[1], points[i, 0] - lidar[0])
        bins[i] = int((angle + np.pi) / (2 * np.pi) * AZIMUTH_BINS) % AZIMUTH_BINS
    return bins


@njit(nogil=True)
def _distance(point, lidar):  # type: ignore[no-untyped-def]
    """Horizontal distance from the LiDAR, at least 1 mm."""
    x, y = point[0] - lidar[0], point[1] - lidar[1]
    return max(np.sqrt(x * x + y * y), 1e-3)


@njit(nogil=True)
def _is_inside(point, box, margin):  # type: ignore[no-untyped-def]
    """Whether a point is inside a box that is enlarged horizontally by a margin."""
    if abs(point[2] - box[2]) > box[5] / 2:
        return False
    return _is_above_footprint(point, box, margin)


@njit(nogil=True)
def _is_above_footprint(point, box, margin):  # type: ignore[no-untyped-def]
    """Whether a point is above or below the footprint of a box, enlarged by a margin."""
    x, y = point[0] - box[0], point[1] - box[1]
    distance = margin + 0.5 * (box[3] + box[4])
    if abs(x) > distance or abs(y) > distance:
        return False
    c, s = np.cos(box[6]), np.sin(box[6])
    return abs(c * x + s * y) <= box[3] / 2 + margin and abs(c * y - s * x) <= box[4] / 2 + margin


@njit(nogil=True)
def _azimuth_range(box, lidar, margin):  # type: ignore[no-untyped-def]
    """First azimuth bin and number of bins of a box that is enlarged by a margin."""
    x, y = box[0] - lidar[0], box[1] - lidar[1]
    distance = np.sqrt(x * x + y * y)
    half = 0.5 * np.sqrt(box[3] ** 2 + box[4] ** 2) + margin
    if half >= distance:
        return 0, AZIMUTH_BINS
    half_width = np.arcsin(half / distance) / (2 * np.pi) * AZIMUTH_BINS
    centre = (np.arctan2(y, x) + np.pi) / (2 * np.pi) * AZIMUTH_BINS
    return int(np.floor(centre - half_width)) % AZIMUTH_BINS, min(
        int(2 * half_width) + 2, AZIMUTH_BINS
    )


@njit(nogil=True)
def _ground_height(box, lidar, points, starts):  # type: ignore[no-untyped-def]
    """Height of the ground around a box; NaN without ground points, or where there is an obstacle."""
    distance = _distance(box, lidar)
    margin = 1.0 + 0.05 * distance  # the distance between rings grows with the distance
    first, count = _azimuth_range(box, lidar, margin)
    centre = (first + count // 2) % AZIMUTH_BINS
    furthest = 0.0
    for i in range(starts[centre], starts[centre + 1]):
        furthest = max(furthest, _distance(points[i], lidar))
    if furthest < distance - margin:  # behind a wall, the most frequent reason
        return np.nan
    heights = np.empty(1024)
    ground_points = 0
    for k in range(count):
        bin_ = (first + k) % AZIMUTH_BINS
        for i in range(starts[bin_], starts[bin_ + 1]):
            if ground_points < len(heights) and _is_above_footprint(points[i], box, margin):
                heights[ground_points] = points[i, 2]
                ground_points += 1
    if ground_points < MIN_GROUND_POINTS:
        return np.nan
    ground = np.sort(heights[:ground_points])[int(GROUND_QUANTILE * ground_points)]
    obstacles = 0
    for k in range(count):
        bin_ = (first + k) % AZIMUTH_BINS
        for i in range(starts[bin_], starts[bin_ + 1]):
            if ground + OBSTACLE_HEIGHT < points[i, 2] < ground + box[5] + OBSTACLE_HEIGHT:
                obstacles += _is_above_footprint(points[i], box, 0.2)
    return ground if obstacles <= MAX_OBSTACLE_POINTS else np.nan


@njit(nogil=True)
def _visible_points(moved, lidar, points, starts, occupied_bins):  # type: ignore[no-untyped-def]
    """Mask (n,) of the points (n, 4) of an object that are not occluded.

    All False where another object was pasted in one of its azimuth bins.
    """
    visible = np.zeros(len(moved), np.bool_)
    bins = _azimuth_bins(moved, lidar)
    for j in range(len(moved)):
        if occupied_bins[bins[j]]:
            return visible
    # Test a few points first, to reject an occluded position early.
    step = max(len(moved) // 32, 1)
    occluded, tested = 0, 0
    for j in range(0, len(moved), step):
        tested += 1
        occluded += _is_occluded(moved[j], bins[j], lidar, points, starts)
    if occluded > (1.2 - MIN_VISIBLE_FRACTION) * tested:
        return visible
    for j in range(len(moved)):
        visible[j] = not _is_occluded(moved[j], bins[j], lidar, points, starts)
    return visible


@njit(nogil=True)
def _is_occluded(point, bin_, lidar, points, starts):  # type: ignore[no-untyped-def]
    """Whether a point of the frame lies on the ray to a point, at least 0.3 m before it."""
    distance = _distance(point, lidar)
    slope = (point[2] - lidar[2]) / distance
    limit = max(distance - 0.3, 0.0) ** 2
    for i in range(starts[bin_], starts[bin_ + 1]):
        square = (points[i, 0] - lidar[0]) ** 2 + (points[i, 1] - lidar[1]) ** 2
        if square < limit and abs(points[i, 2] - lidar[2] - slope * np.sqrt(square)) < (
            RAY_HALF_SLOPE * np.sqrt(square)
        ):
            return True
    return False


@njit(nogil=True)
def _remove_occluded(moved, box, lidar, points, starts, kept, occupied_bins):  # type: ignore[no-untyped-def]
    """Mark points occluded by the points (n, 4) of an object or inside its box as not kept, and its
    azimuth bins as occupied."""
    low, high = np.full(AZIMUTH_BINS, np.inf), np.full(AZIMUTH_BINS, -np.inf)
    nearest = np.full(AZIMUTH_BINS, np.inf)
    bins = _azimuth_bins(moved, lidar)
    for j in range(len(moved)):
        distance = _distance(moved[j], lidar)
        slope, bin_ = (moved[j, 2] - lidar[2]) / distance, bins[j]
        low[bin_], high[bin_] = min(low[bin_], slope), max(high[bin_], slope)
        nearest[bin_] = min(nearest[bin_], distance)
    first, count = _azimuth_range(box, lidar, 0.2)
    for k in range(count):
        bin_ = (first + k) % AZIMUTH_BINS
        below, above, object_distance = low[bin_], high[bin_], nearest[bin_]
        left, right = (bin_ - 1) % AZIMUTH_BINS, (bin_ + 1) % AZIMUTH_BINS
        if not object_distance < np.inf and max(nearest[left], nearest[right]) < np.inf:
            # A bin between two bins with points of the object.
            below, above = min(low[left], low[right]), max(high[left], high[right])
            object_distance = max(nearest[left], nearest[right])
        occupied_bins[bin_] |= object_distance < np.inf
        for i in range(starts[bin_], starts[bin_ + 1]):
            distance = _distance(points[i], lidar)
            slope = (points[i, 2] - lidar[2]) / distance
            behind = (
                distance > object_distance
                and below - RAY_HALF_SLOPE <= slope <= above + RAY_HALF_SLOPE
            )
            above_ground = points[i, 2] > box[2] - box[5] / 2 + OBSTACLE_HEIGHT
            if behind or (_is_inside(points[i], box, 0.0) and above_ground):
                kept[i] = False


@njit(nogil=True)
def containing_boxes(points, boxes):  # type: ignore[no-untyped-def]
    """For each point (N, 4) the index of the box (K, 7) that contains it, or -1."""
    box_of_point = np.full(len(points), -1, np.int16)
    for k in range(len(boxes)):
        for i in range(len(points)):
            if _is_inside(points[i], boxes[k], 0.0):
                box_of_point[i] = k
    return box_of_point
