"""How well occupancy agrees with simulated truth, and with labels and ground returns of real frames.

A cell counts as observed when little of its mass is unknown; it is called occupied or free when its
pignistic probability of occupied is well on one side of a half.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.detections import percentiles
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pipeline import OccupancyMapper
from multimodal_perception.pointcloud.ground_segmentation import Cloud, GroundConfig, ground_cloud

MOST_UNKNOWN = 0.7
CALLED_FREE, CALLED_OCCUPIED = 0.4, 0.6
CALIBRATION_BINS = 10
RINGS_M = (5.0, 10.0, 20.0, 30.0, 40.0)
MAX_RANGE_M = 30.0
# Truth of a cell: a cell of the third kind is not scored.
FREE, OCCUPIED, UNDECIDED = 0, 1, 2

Truth = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.integer]]


@dataclass
class OccupancyScore:
    """Counts over frames, of cells whose truth is known.

    truth_occupied, truth_free: cells that are, observed or not. observed: those that were judged.
    called: observed cells (truth free or occupied, called free, occupied or neither). unknown,
    conflict: sums of these masses over all cells. squared_error: sum over observed cells. bins: (10,
    3) sums of probability, occupied truth and cells, by probability of occupied.
    """

    truth_occupied: int = 0
    truth_free: int = 0
    called: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 3), np.int64))
    unknown: float = 0.0
    conflict: float = 0.0
    squared_error: float = 0.0
    bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((CALIBRATION_BINS, 3)))

    def add(
        self,
        probability: NDArray[np.floating],
        observed: NDArray[np.bool_],
        truth: NDArray[np.integer],
    ) -> None:
        """Count cells (N,): probability of occupied, whether observed, and FREE, OCCUPIED or more."""
        known = (truth == FREE) | (truth == OCCUPIED)
        self.truth_free += int((truth == FREE).sum())
        self.truth_occupied += int((truth == OCCUPIED).sum())
        judged = known & observed
        p, y = np.asarray(probability[judged], np.float64), truth[judged].astype(np.int64)
        call = np.where(p <= CALLED_FREE, 0, np.where(p >= CALLED_OCCUPIED, 1, 2))
        np.add.at(self.called, (y, call), 1)
        self.squared_error += float(((p - y) ** 2).sum())
        place = np.clip((p * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)
        np.add.at(self.bins, place, np.column_stack([p, y, np.ones(len(p))]))

    def join(self, other: OccupancyScore) -> None:
        """Add another one's counts."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def figures(self) -> dict[str, float]:
        """All figures; NaN where nothing was there to count.

        iou_occupied, iou_free: over observed cells. false_free: share of the observed occupied cells
        called free. false_occupied: the reverse. brier: Brier (1950), over two outcomes' one. ece:
        expected calibration error (Naeini et al. 2015, eq. 2 with l1). observed: share of the cells of
        known truth. unknown, conflict: mean masses of these.
        """
        free, occupied = self.called
        cells = int(self.called.sum())
        share, known = self.bins[:, 2] > 0, self.bins
        gaps = np.abs(known[share, 0] - known[share, 1])
        return {
            "iou_occupied": _ratio(occupied[1], occupied.sum() + free[1]),
            "iou_free": _ratio(free[0], free.sum() + occupied[0]),
            "false_free": _ratio(occupied[0], occupied.sum()),
            "false_occupied": _ratio(free[1], free.sum()),
            "brier": _ratio(self.squared_error, cells),
            "ece": _ratio(float(gaps.sum()), cells),
            "observed": _ratio(cells, self.truth_free + self.truth_occupied),
            "unknown": _ratio(self.unknown, self.truth_free + self.truth_occupied),
            "conflict": _ratio(self.conflict, self.truth_free + self.truth_occupied),
            "cells": cells,
        }


@dataclass
class RealScore:
    """Counts over real frames, where nobody knows the truth of every cell.

    footprint, footprint_free: observed cells that lie wholly inside labelled boxes (their middle at
    least half a cell), and those called free. rim, rim_free: the others whose middle is inside,
    part of which may be free in truth. ground, ground_occupied: cells that hold ground returns
    alone, by the ground model, and those called occupied.
    """

    footprint: int = 0
    footprint_free: int = 0
    rim: int = 0
    rim_free: int = 0
    ground: int = 0
    ground_occupied: int = 0

    def add(self, grid: OccupancyGrid, labels: Boxes3D | None, cloud: Cloud) -> None:
        """Count one frame; the grid, the labels and the cloud are in base_link."""
        probability, observed = grid.probability(), _observed(grid)
        if labels is not None:
            free = probability <= CALLED_FREE
            inside = observed & _inside(grid, labels.boxes, grid.resolution / 2)
            rim = observed & _inside(grid, labels.boxes, 0.0) & ~inside
            self.footprint += int(inside.sum())
            self.footprint_free += int((inside & free).sum())
            self.rim += int(rim.sum())
            self.rim_free += int((rim & free).sum())
        ground = _cells_with(grid, cloud.points[cloud.is_ground])
        ground &= ~_cells_with(grid, cloud.points[~cloud.is_ground])
        self.ground += int(ground.sum())
        self.ground_occupied += int((probability[ground] >= CALLED_OCCUPIED).sum())

    def figures(self) -> dict[str, float]:
        """Shares; NaN where nothing was there. footprint_all_free: of all whose middle is inside."""
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
    truth: Callable[[SensorFrame], Truth | None] | None = None,
    group: Callable[[SensorFrame], str] | None = None,
    sources: Callable[[SensorFrame, Cloud], Mapping[str, Any]] | None = None,
    ground: GroundConfig | None = None,
    max_range: float = MAX_RANGE_M,
) -> dict[str, Any]:
    """Score a mapper on frames in their order.

    truth: gives for a frame a function from x and y (N,) in base_link to FREE, OCCUPIED or UNDECIDED
    (N,), or None. group: names the condition or sensor subset of a frame; when it changes, a fresh
    mapper starts. sources: keyword arguments of the mapper's update besides frame and cloud, such as
    boxes and masks. max_range: of the figures that are not by distance, metres.

    Keys: frames, the figures of OccupancyScore within max_range, by_distance, by_group (where truth
    is given), real (RealScore; footprints where frames have labels), latency_ms {p50, p95} of ground
    and mapping. The mapper must give grids along base_link's axes.
    """
    total, real, count = OccupancyScore(), RealScore(), 0
    rings: dict[str, OccupancyScore] = defaultdict(OccupancyScore)
    groups: dict[str, OccupancyScore] = defaultdict(OccupancyScore)
    mapper, current, times = make_mapper(), None, []
    for frame in frames:
        name = group(frame) if group is not None else ""
        if name != current and current is not None:
            mapper = make_mapper()
        current = name
        start = time.perf_counter()
        cloud = ground_cloud(frame, ground)
        extra = dict(sources(frame, cloud)) if sources is not None else {}
        grid = mapper.update(frame, cloud, **extra)
        times.append(1e3 * (time.perf_counter() - start))
        if grid.frame_id != frame.base_frame:
            raise ValueError(f"a grid in {frame.base_frame} is needed, not {grid.frame_id}")
        count += 1
        real.add(grid, frame.labels, cloud)
        answer = truth(frame) if truth is not None else None
        if answer is not None:
            score_grid(grid, answer, max_range, (total, groups[name]), rings)
    result: dict[str, Any] = {"frames": count, **total.figures()}
    result["by_distance"] = {name: score.figures() for name, score in rings.items()}
    result["by_group"] = {n: s.figures() for n, s in sorted(groups.items()) if group is not None}
    result["real"] = real.figures()
    result["latency_ms"] = percentiles(times)
    return result


def middles(grid: OccupancyGrid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y (rows, columns) of the cells' middles in the grid's frame, metres."""
    rows, columns = grid.free.shape
    x = grid.origin[0] + (np.arange(columns) + 0.5) * grid.resolution
    y = grid.origin[1] + (np.arange(rows) + 0.5) * grid.resolution
    x, y = np.meshgrid(x, y)
    return x, y


def score_grid(
    grid: OccupancyGrid,
    answer: Truth,
    max_range: float,
    totals: Sequence[OccupancyScore],
    rings: Mapping[str, OccupancyScore] | None = None,
) -> None:
    """Count a grid in base_link: within max_range into totals, by distance into rings."""
    x, y = (v.ravel() for v in middles(grid))
    distance = np.hypot(x, y)
    kept = distance < (max_range if rings is None else max(max_range, RINGS_M[-1]))
    probability, observed = grid.probability().ravel()[kept], _observed(grid).ravel()[kept]
    unknown = grid.unknown().ravel()[kept]
    conflict = np.zeros_like(unknown) if grid.conflict is None else grid.conflict.ravel()[kept]
    distance, truth = distance[kept], np.asarray(answer(x[kept], y[kept]))

    def count(score: OccupancyScore, part: NDArray[np.bool_]) -> None:
        score.add(probability[part], observed[part], truth[part])
        known = part & (truth != UNDECIDED)
        score.unknown += float(unknown[known].sum())
        score.conflict += float(conflict[known].sum())

    for score in totals:
        count(score, distance < max_range)
    if rings is not None:
        for inner, outer in zip((0.0, *RINGS_M), RINGS_M, strict=False):
            ring = (distance >= inner) & (distance < outer)
            count(rings[f"{inner:.0f}-{outer:.0f} m"], ring)


def _observed(grid: OccupancyGrid) -> NDArray[np.bool_]:
    return grid.unknown() <= MOST_UNKNOWN


def _inside(grid: OccupancyGrid, boxes: NDArray[np.floating], margin: float) -> NDArray[np.bool_]:
    """Cells (rows, columns) whose middle lies in a footprint, `margin` metres from its outline."""
    x, y = middles(grid)
    result = np.zeros(x.shape, bool)
    for box in np.asarray(boxes, np.float64):
        c, s = np.cos(box[6]), np.sin(box[6])
        along, across = c * (x - box[0]) + s * (y - box[1]), c * (y - box[1]) - s * (x - box[0])
        within = np.abs(along) <= box[3] / 2 - margin
        result |= within & (np.abs(across) <= box[4] / 2 - margin)
    return result


def _cells_with(grid: OccupancyGrid, points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Cells (rows, columns) that hold points (N, 2 or more)."""
    at = np.floor((points[:, :2] - np.array(grid.origin)) / grid.resolution).astype(np.int64)
    rows, columns = grid.free.shape
    at = at[((at >= 0) & (at < (columns, rows))).all(axis=1)]
    result = np.zeros((rows, columns), bool)
    result[at[:, 1], at[:, 0]] = True
    return result


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
