"""Metrics of occupancy grids: comparison with simulated truth, and with labels of real frames.

A cell is observed if its unknown mass is at most MAX_UNKNOWN_MASS. It is predicted free or occupied if
its pignistic probability of occupied is at most FREE_MAX_PROBABILITY or at least
OCCUPIED_MIN_PROBABILITY.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.confidence import auroc_of_histograms
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.latency import latency_percentiles
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pointcloud.ground_segmentation import Cloud, GroundConfig, segment_ground
from multimodal_perception.stages import OccupancyMapper

MAX_UNKNOWN_MASS = 0.7
FREE_MAX_PROBABILITY, OCCUPIED_MIN_PROBABILITY = 0.4, 0.6
CALIBRATION_BINS = 10
# Bins of the confidence for the ROC curve of wrong cells.
CONFIDENCE_BINS = 500
DISTANCE_BANDS_M = (5.0, 10.0, 20.0, 30.0, 40.0)
MAX_RANGE_M = 30.0
# True state of a cell. UNDECIDED cells are not evaluated.
FREE, OCCUPIED, UNDECIDED = 0, 1, 2

# True states (N,) of the cells with centres x and y (N,) in base_link.
TruthFunction = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.integer]]


@dataclass
class OccupancyScore:
    """Counts of cells with a known true state, over frames.

    truth_occupied, truth_free: cells by true state, observed or not. confusion: (2, 3) observed cells
    by true state (free, occupied) and prediction (free, occupied, neither). unknown, conflict: sums of
    these masses over all cells. squared_error: sum over observed cells. bins: (10, 3) sums of
    probability, occupied truth and cells, by predicted probability of occupied. rightness:
    (CONFIDENCE_BINS, 2) wrong and right cells by confidence, for the more probable of both states.
    """

    truth_occupied: int = 0
    truth_free: int = 0
    confusion: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 3), np.int64))
    unknown: float = 0.0
    conflict: float = 0.0
    squared_error: float = 0.0
    bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((CALIBRATION_BINS, 3)))
    rightness: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((CONFIDENCE_BINS, 2), np.int64)
    )

    def add(
        self,
        probability: NDArray[np.floating],
        observed: NDArray[np.bool_],
        truth: NDArray[np.integer],
    ) -> None:
        """Count cells (N,): probability of occupied, whether observed, and true state."""
        known = (truth == FREE) | (truth == OCCUPIED)
        self.truth_free += int((truth == FREE).sum())
        self.truth_occupied += int((truth == OCCUPIED).sum())
        evaluated = known & observed
        p, y = np.asarray(probability[evaluated], np.float64), truth[evaluated].astype(np.int64)
        prediction = np.where(
            p <= FREE_MAX_PROBABILITY, 0, np.where(p >= OCCUPIED_MIN_PROBABILITY, 1, 2)
        )
        np.add.at(self.confusion, (y, prediction), 1)
        self.squared_error += float(((p - y) ** 2).sum())
        index = np.clip((p * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)
        np.add.at(self.bins, index, np.column_stack([p, y, np.ones(len(p))]))
        level = np.clip((2.0 * np.abs(p - 0.5) * CONFIDENCE_BINS).astype(np.int64), 0, None)
        level = np.minimum(level, CONFIDENCE_BINS - 1)
        np.add.at(self.rightness, (level, ((p >= 0.5) == (y == 1)).astype(np.int64)), 1)

    def merge(self, other: OccupancyScore) -> None:
        """Add the counts of another score."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def metrics(self) -> dict[str, float]:
        """All metrics; NaN if there are no cells to compute them from.

        iou_occupied, iou_free: over observed cells. false_free: fraction of the observed occupied cells
        that are predicted free. false_occupied: fraction of the observed free cells that are predicted
        occupied. brier: mean squared error of the probability of occupied (Brier 1950, for one of the
        two outcomes). ece: expected calibration error (Naeini et al. 2015, eq. 2 with l1). error_auroc:
        area under the ROC curve of "the more probable state of this cell is wrong". observed: fraction
        of the cells with a known true state. unknown, conflict: mean of these masses.
        """
        free, occupied = self.confusion
        cells = int(self.confusion.sum())
        nonempty = self.bins[self.bins[:, 2] > 0]
        gaps = np.abs(nonempty[:, 0] - nonempty[:, 1])
        return {
            "iou_occupied": _ratio(occupied[1], occupied.sum() + free[1]),
            "iou_free": _ratio(free[0], free.sum() + occupied[0]),
            "false_free": _ratio(occupied[0], occupied.sum()),
            "false_occupied": _ratio(free[1], free.sum()),
            "brier": _ratio(self.squared_error, cells),
            "ece": _ratio(float(gaps.sum()), cells),
            "error_auroc": auroc_of_histograms(self.rightness[:, 0], self.rightness[:, 1]),
            "observed": _ratio(cells, self.truth_free + self.truth_occupied),
            "unknown": _ratio(self.unknown, self.truth_free + self.truth_occupied),
            "conflict": _ratio(self.conflict, self.truth_free + self.truth_occupied),
            "cells": cells,
        }

    def reliability(self) -> list[dict[str, float]]:
        """Mean probability of occupied, fraction of occupied cells, and cells, by bin with cells."""
        return [
            {"probability": float(p / n), "occupied": float(y / n), "cells": int(n)}
            for p, y, n in self.bins
            if n > 0
        ]


@dataclass
class LabelledFrameScore:
    """Counts over real frames, for which the true state of most cells is unknown.

    footprint, footprint_free: observed cells inside labelled boxes (with the centre at least half a
    cell from the outline), and those of them that are predicted free. rim, rim_free: the other cells
    with the centre in a box, which may be partly free. ground, ground_occupied: cells with only ground
    returns, according to the ground segmentation, and those of them that are predicted occupied.
    """

    footprint: int = 0
    footprint_free: int = 0
    rim: int = 0
    rim_free: int = 0
    ground: int = 0
    ground_occupied: int = 0

    def add(self, grid: OccupancyGrid, labels: Boxes3D | None, cloud: Cloud) -> None:
        """Count one frame. The grid, the labels and the cloud are in base_link."""
        probability, observed = grid.probability(), _observed(grid)
        if labels is not None:
            free = probability <= FREE_MAX_PROBABILITY
            inside = observed & _inside(grid, labels.boxes, grid.resolution / 2)
            rim = observed & _inside(grid, labels.boxes, 0.0) & ~inside
            self.footprint += int(inside.sum())
            self.footprint_free += int((inside & free).sum())
            self.rim += int(rim.sum())
            self.rim_free += int((rim & free).sum())
        ground = _cells_with_points(grid, cloud.points[cloud.is_ground])
        ground &= ~_cells_with_points(grid, cloud.points[~cloud.is_ground])
        self.ground += int(ground.sum())
        self.ground_occupied += int((probability[ground] >= OCCUPIED_MIN_PROBABILITY).sum())

    def merge(self, other: LabelledFrameScore) -> None:
        """Add the counts of another score."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def metrics(self) -> dict[str, float]:
        """Fractions of wrong cells, NaN without cells, and the numbers of cells.

        footprint_all_free: fraction predicted free of all cells with the centre in a box.
        """
        return {
            "footprint_free": _ratio(self.footprint_free, self.footprint),
            "footprint_cells": self.footprint,
            "footprint_all_free": _ratio(
                self.footprint_free + self.rim_free, self.footprint + self.rim
            ),
            "footprint_rim_free": _ratio(self.rim_free, self.rim),
            "footprint_rim_cells": self.rim,
            "ground_occupied": _ratio(self.ground_occupied, self.ground),
            "ground_cells": self.ground,
        }


def evaluate_occupancy(
    frames: Iterable[SensorFrame],
    make_mapper: Callable[[], OccupancyMapper],
    truth: Callable[[SensorFrame], TruthFunction | None] | None = None,
    group: Callable[[SensorFrame], str] | None = None,
    sources: Callable[[SensorFrame, Cloud], Mapping[str, Any]] | None = None,
    ground: GroundConfig | None = None,
    max_range: float = MAX_RANGE_M,
    labelled: LabelledFrameScore | None = None,
) -> dict[str, Any]:
    """Evaluate an occupancy mapper on frames in temporal order.

    truth: returns the truth function of a frame, or None if there is no truth. group: name of the
    condition or sensor subset of a frame; a new mapper is created when it changes. sources: further
    keyword arguments of the mapper's update, such as boxes and masks. max_range: maximum distance of
    the metrics that are not by distance, metres. labelled: counts the cells of labelled frames; new by
    default.

    Keys of the result: frames, the metrics of OccupancyScore within max_range, by_distance, by_group
    (if truth is given), real (LabelledFrameScore; its footprints need labels), latency_ms {p50, p95} of
    ground segmentation and mapping. The mapper must return grids aligned with base_link.
    """
    total, real, count = OccupancyScore(), labelled or LabelledFrameScore(), 0
    by_distance: dict[str, OccupancyScore] = defaultdict(OccupancyScore)
    groups: dict[str, OccupancyScore] = defaultdict(OccupancyScore)
    mapper, current, times = make_mapper(), None, []
    for frame in frames:
        name = group(frame) if group is not None else ""
        if name != current and current is not None:
            mapper = make_mapper()
        current = name
        start = time.perf_counter()
        cloud = segment_ground(frame, ground)
        extra = dict(sources(frame, cloud)) if sources is not None else {}
        grid = mapper.update(frame, cloud, **extra)
        times.append(1e3 * (time.perf_counter() - start))
        if grid.frame_id != frame.base_frame:
            raise ValueError(f"expected a grid in {frame.base_frame}; got {grid.frame_id}")
        count += 1
        real.add(grid, frame.labels, cloud)
        true_state = truth(frame) if truth is not None else None
        if true_state is not None:
            score_grid(grid, true_state, max_range, (total, groups[name]), by_distance)
    result: dict[str, Any] = {"frames": count, **total.metrics()}
    result["by_distance"] = {name: score.metrics() for name, score in by_distance.items()}
    result["by_group"] = {n: s.metrics() for n, s in sorted(groups.items()) if group is not None}
    result["real"] = real.metrics()
    result["latency_ms"] = latency_percentiles(times)
    return result


def cell_centres(grid: OccupancyGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y (rows, columns) of the cell centres in the grid's frame, metres."""
    rows, columns = grid.free.shape
    x = grid.origin[0] + (np.arange(columns) + 0.5) * grid.resolution
    y = grid.origin[1] + (np.arange(rows) + 0.5) * grid.resolution
    x, y = np.meshgrid(x, y)
    return x, y


def score_grid(
    grid: OccupancyGrid,
    true_state: TruthFunction,
    max_range: float,
    totals: Sequence[OccupancyScore],
    by_distance: Mapping[str, OccupancyScore] | None = None,
) -> None:
    """Count the cells of a grid in base_link.

    Cells within max_range are added to each of `totals`, and to the bands of `by_distance`.
    """
    x, y = (v.ravel() for v in cell_centres(grid))
    distance = np.hypot(x, y)
    limit = max_range if by_distance is None else max(max_range, DISTANCE_BANDS_M[-1])
    kept = distance < limit
    probability, observed = grid.probability().ravel()[kept], _observed(grid).ravel()[kept]
    unknown = grid.unknown().ravel()[kept]
    conflict = np.zeros_like(unknown) if grid.conflict is None else grid.conflict.ravel()[kept]
    distance, truth = distance[kept], np.asarray(true_state(x[kept], y[kept]))

    def count(score: OccupancyScore, part: NDArray[np.bool_]) -> None:
        score.add(probability[part], observed[part], truth[part])
        known = part & (truth != UNDECIDED)
        score.unknown += float(unknown[known].sum())
        score.conflict += float(conflict[known].sum())

    for score in totals:
        count(score, distance < max_range)
    if by_distance is not None:
        for inner, outer in zip((0.0, *DISTANCE_BANDS_M), DISTANCE_BANDS_M, strict=False):
            in_band = (distance >= inner) & (distance < outer)
            count(by_distance[f"{inner:.0f}-{outer:.0f} m"], in_band)


def _observed(grid: OccupancyGrid) -> NDArray[np.bool_]:
    return grid.unknown() <= MAX_UNKNOWN_MASS


def _inside(grid: OccupancyGrid, boxes: NDArray[np.floating], margin: float) -> NDArray[np.bool_]:
    """Cells (rows, columns) with the centre in a footprint, at least `margin` m from its outline."""
    x, y = cell_centres(grid)
    result = np.zeros(x.shape, bool)
    for box in np.asarray(boxes, np.float64):
        c, s = np.cos(box[6]), np.sin(box[6])
        along, across = c * (x - box[0]) + s * (y - box[1]), c * (y - box[1]) - s * (x - box[0])
        within = np.abs(along) <= box[3] / 2 - margin
        result |= within & (np.abs(across) <= box[4] / 2 - margin)
    return result


def _cells_with_points(grid: OccupancyGrid, points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Cells (rows, columns) that contain at least one of the points (N, 2 or more)."""
    index = np.floor((points[:, :2] - np.array(grid.origin)) / grid.resolution).astype(np.int64)
    rows, columns = grid.free.shape
    index = index[((index >= 0) & (index < (columns, rows))).all(axis=1)]
    result = np.zeros((rows, columns), bool)
    result[index[:, 1], index[:, 0]] = True
    return result


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator) / float(denominator) if denominator else float("nan")
