"""Results of one setting (a study with one severity) on some frames, as counts to add up.

With labels, the reference of a task are the labels. Without, it is the clean run, so that its quality is
the consistency with the clean run. Changed decisions are always relative to the clean run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.detections import centre_in_any_camera, match_by_distance
from multimodal_perception.evaluation.evidence_score import EvidenceScore
from multimodal_perception.evaluation.nuscenes_metrics import (
    NuScenesProtocol,
    ScoredFrame,
    nuscenes_metrics,
)
from multimodal_perception.evaluation.occupancy import (
    FREE,
    FREE_MAX_PROBABILITY,
    MAX_UNKNOWN_MASS,
    OCCUPIED,
    OCCUPIED_MIN_PROBABILITY,
    UNDECIDED,
    OccupancyScore,
    TruthFunction,
    cell_centres,
    score_grid,
)
from multimodal_perception.evaluation.robustness.drive import MAX_RANGE_M, FrameTruth
from multimodal_perception.evaluation.robustness.tasks import TaskOutput
from multimodal_perception.evaluation.segmentation import ConfusionMatrix
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.perception import OccupancyGrid, SegmentationMask
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES

# Boxes from this score on are decisions; a decision is kept if a box of its class is within this
# distance.
DECISION_SCORE, DECISION_DISTANCE_M = 0.3, 2.0


@dataclass
class Decisions:
    """changed: number of decisions that differ from the clean run. total: of both runs together."""

    changed: float = 0.0
    total: float = 0.0

    def add(self, changed: float, total: float) -> None:
        """Count decisions."""
        self.changed += float(changed)
        self.total += float(total)

    @property
    def rate(self) -> float:
        """Fraction of changed decisions; NaN without decisions."""
        return self.changed / self.total if self.total else float("nan")


@dataclass
class SettingResult:
    """Counts of one setting.

    severity: 0 is the clean run. frames, seconds: number of frames, and time of the tasks for them.
    boxes: predicted boxes with the reference. confusion: (C, C) pixels by true and predicted class.
    cells: of the occupancy grid. decisions: by task. labelled: by task, whether the reference are
    labels. evidence: opinions of the sensors about the boxes; None if no box has any.
    """

    severity: int
    frames: int = 0
    seconds: float = 0.0
    boxes: list[ScoredFrame] = field(default_factory=list)
    confusion: NDArray[np.int64] | None = None
    cells: OccupancyScore | None = None
    decisions: dict[str, Decisions] = field(default_factory=dict)
    labelled: dict[str, bool] = field(default_factory=dict)
    evidence: EvidenceScore | None = None

    def add(
        self, output: TaskOutput, clean: TaskOutput, truth: FrameTruth, frame: SensorFrame
    ) -> None:
        """Count a frame. clean: results of the clean run. frame: the clean frame."""
        self.frames += 1
        if output.boxes is not None and clean.boxes is not None:
            self._add_boxes(output.boxes, clean.boxes, truth, frame)
        if output.masks is not None and clean.masks:
            self._add_masks(output.masks, clean.masks, truth)
        if output.grid is not None and clean.grid is not None:
            self._add_grid(output.grid, clean.grid, truth)

    def merge(self, other: SettingResult) -> None:
        """Add the counts of other frames."""
        self.frames += other.frames
        self.seconds += other.seconds
        self.boxes = [*self.boxes, *other.boxes]
        if other.evidence is not None:
            self.evidence = self.evidence or EvidenceScore()
            self.evidence.merge(other.evidence)
        if other.confusion is not None:
            mine = 0 if self.confusion is None else self.confusion
            self.confusion = mine + other.confusion
        if other.cells is not None:
            total = OccupancyScore()
            for part in (self.cells, other.cells):
                if part is not None:
                    total.merge(part)
            self.cells = total
        for task, counts in other.decisions.items():
            total_counts = Decisions(*_pair(self.decisions.get(task)))
            total_counts.add(*_pair(counts))
            self.decisions[task] = total_counts
        for task, labelled in other.labelled.items():
            self.labelled[task] = labelled and self.labelled.get(task, True)

    def qualities(self, protocol: NuScenesProtocol) -> dict[str, float]:
        """Quality by task from 0 to 1: mAP, mean IoU of the classes, mean IoU of free and occupied."""
        result = {}
        if self.boxes:
            result["detection"] = float(nuscenes_metrics(self.boxes, protocol)["map"])
        if self.confusion is not None:
            result["segmentation"] = mean_iou(self.confusion)
        if self.cells is not None:
            result["occupancy"] = cell_iou(self.cells)
        return result

    def figures(self, protocol: NuScenesProtocol) -> dict[str, dict[str, Any]]:
        """By task: quality, changed_decisions, and further metrics.

        detection has evidence if the boxes have opinions of the sensors, see EvidenceScore.
        """
        result: dict[str, dict[str, Any]] = {}
        for task, quality in self.qualities(protocol).items():
            changed = self.decisions.get(task, Decisions()).rate
            result[task] = {"quality": quality, "changed_decisions": changed}
        if self.evidence is not None and "detection" in result:
            result["detection"]["evidence"] = self.evidence.summary()
        if self.cells is not None:
            metrics = self.cells.metrics()
            result["occupancy"] |= {
                k: metrics[k] for k in ("false_free", "false_occupied", "observed")
            }
        return result

    def _add_boxes(
        self, boxes: Boxes3D, clean: Boxes3D, truth: FrameTruth, frame: SensorFrame
    ) -> None:
        self._count("detection", *changed_boxes(boxes, clean))
        labels = truth.labels
        self.labelled["detection"] = labels is not None
        if labels is None:
            labels = clean.select(clean.scores >= DECISION_SCORE)
        elif truth.in_view:
            labels = labels.select(centre_in_any_camera(labels, frame))
            boxes = boxes.select(centre_in_any_camera(boxes, frame))
        if boxes.evidence is not None:
            self.evidence = self.evidence or EvidenceScore()
            self.evidence.add(boxes, labels)
        self.boxes.append(ScoredFrame(_plain(boxes), _plain(labels)))

    def _add_masks(
        self,
        masks: Mapping[str, SegmentationMask],
        clean: Mapping[str, SegmentationMask],
        truth: FrameTruth,
    ) -> None:
        names = next(iter(clean.values())).class_names
        known = truth.semantics if names == SEGMENTATION_CLASSES else None
        self.labelled["segmentation"] = known is not None
        matrix = ConfusionMatrix(names)
        for sensor, reference in clean.items():
            # No output counts as the last class everywhere.
            labels = np.full_like(reference.labels, len(names) - 1)
            if sensor in masks:
                labels = masks[sensor].labels
            true = reference.labels if known is None else known.get(sensor)
            if true is not None:
                matrix.add(true, labels)
            changed = int((labels != reference.labels).sum()) if sensor in masks else labels.size
            self._count("segmentation", changed, labels.size)
        before = 0 if self.confusion is None else self.confusion
        self.confusion = before + matrix.counts

    def _add_grid(self, grid: OccupancyGrid, clean: OccupancyGrid, truth: FrameTruth) -> None:
        self.labelled["occupancy"] = truth.true_state is not None
        true_state = truth.true_state or grid_states(clean)
        if self.cells is None:
            self.cells = OccupancyScore()
        score_grid(grid, true_state, MAX_RANGE_M, [self.cells])
        before, now = decided_states(clean), decided_states(grid)
        if before.shape == now.shape:
            x, y = cell_centres(clean)
            decided = (before != UNDECIDED) & (np.hypot(x, y) < MAX_RANGE_M)
            self._count("occupancy", int((before != now)[decided].sum()), int(decided.sum()))

    def _count(self, task: str, changed: float, total: float) -> None:
        self.decisions.setdefault(task, Decisions()).add(changed, total)


def changed_boxes(boxes: Boxes3D, clean: Boxes3D) -> tuple[int, int]:
    """Number of objects that only one of two results has, and number of objects of both together.

    Objects are boxes with at least DECISION_SCORE. They are the same if their classes are equal and
    their centres are within DECISION_DISTANCE_M.
    """
    found = boxes.select(boxes.scores >= DECISION_SCORE)
    reference = clean.select(clean.scores >= DECISION_SCORE)
    matched = 0
    for label in np.unique(reference.labels):
        a, b = found.select(found.labels == label), reference.select(reference.labels == label)
        index = match_by_distance(
            a.boxes, a.scores, b.boxes, DECISION_DISTANCE_M, np.ones(len(b), bool)
        )
        matched += int((index >= 0).sum())
    total = len(found) + len(reference) - matched
    return total - matched, total


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Mean IoU of the classes with pixels in the reference."""
    matrix = ConfusionMatrix(tuple(str(i) for i in range(len(confusion))))
    matrix.counts = confusion
    return matrix.mean_iou


def cell_iou(cells: OccupancyScore) -> float:
    """Mean of the IoU of free and of occupied cells, unobserved cells counted as wrong."""
    free, occupied = cells.confusion
    ious = [
        hits / union if union else float("nan")
        for hits, union in (
            (free[0], cells.truth_free + occupied[0]),
            (occupied[1], cells.truth_occupied + free[1]),
        )
    ]
    known = [v for v in ious if v == v]
    return float(np.mean(known)) if known else float("nan")


def decided_states(grid: OccupancyGrid) -> NDArray[np.int8]:
    """FREE, OCCUPIED or UNDECIDED of each cell (rows, columns)."""
    probability, observed = grid.probability(), grid.unknown() <= MAX_UNKNOWN_MASS
    states = np.full(probability.shape, UNDECIDED, np.int8)
    states[observed & (probability <= FREE_MAX_PROBABILITY)] = FREE
    states[observed & (probability >= OCCUPIED_MIN_PROBABILITY)] = OCCUPIED
    return states


def grid_states(grid: OccupancyGrid) -> TruthFunction:
    """The decisions of a grid as the true state of cells."""
    states = decided_states(grid)
    rows, columns = states.shape

    def true_state(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.integer]:
        j = np.floor((x - grid.origin[0]) / grid.resolution).astype(np.int64)
        i = np.floor((y - grid.origin[1]) / grid.resolution).astype(np.int64)
        inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
        result = np.full(len(x), UNDECIDED, np.int8)
        result[inside] = states[i[inside], j[inside]]
        return result

    return true_state


def merged(results: Sequence[SettingResult]) -> SettingResult:
    """The counts of several drives together."""
    total = SettingResult(results[0].severity)
    for result in results:
        total.merge(result)
    return total


def _plain(boxes: Boxes3D) -> Boxes3D:
    """Only what the metrics need, so that stored results are small."""
    return Boxes3D(0, "", boxes.boxes, boxes.scores, boxes.labels, boxes.class_names)


def _pair(counts: Decisions | None) -> tuple[float, float]:
    return (0.0, 0.0) if counts is None else (counts.changed, counts.total)
