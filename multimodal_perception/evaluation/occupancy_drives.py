"""Evaluation of occupancy on simulated drives, for subsets of the sensors and with sensor faults."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.occupancy import (
    FREE,
    MAX_RANGE_M,
    OCCUPIED,
    UNDECIDED,
    OccupancyScore,
    TruthFunction,
    score_grid,
)
from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.perception import OccupancyGrid, SegmentationMask
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.simulation import Observation, Simulation
from multimodal_perception.simulation.truth import FrameTruth, GridLayout
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.stages import ContradictionReporter, MasksBySensor, Segmenter

# The seed selects the scenario. Fog occurs in no training data and was not used for tuning.
SCENARIOS = ("urban_street", "parking_lot", "intersection", "warehouse", "highway")
KNOWN_CONDITIONS: dict[str, tuple[str, ...]] = {"day": (), "night": ("night",)}
HELD_OUT_CONDITIONS: dict[str, tuple[str, ...]] = {"fog": ("fog=40",)}
# Resolution of the truth, metres: four cells of truth per grid cell of 0.2 m.
TRUTH_RESOLUTION_M = 0.1
FIRST_FRAME = 20
# Constant range of the stuck ultrasonic sensor, metres.
STUCK_RANGE_M = 3.0
KERB = SEMANTIC_NAMES.index("kerb")

FULL = "full"
SUBSETS: dict[str, tuple[Modality, ...]] = {
    FULL: tuple(Modality),
    "lidar": (Modality.LIDAR,),
    "lidar+ultrasonic": (Modality.LIDAR, Modality.ULTRASONIC),
    "camera+ultrasonic": (Modality.CAMERA, Modality.ULTRASONIC),
    "ultrasonic": (Modality.ULTRASONIC,),
}
STUCK_SENSOR, FREE_MASKS = "ultrasonic stuck", "camera mask all free"
FAULTS = (STUCK_SENSOR, FREE_MASKS)


class PipelineFactory(Protocol):
    """Builds a pipeline of one configuration, such as a partial of `build_pipeline`."""

    def __call__(self, *, segmenter: Segmenter = ...) -> Pipeline:
        """segmenter: used instead of the configured one."""
        ...


@dataclass
class DriveScores:
    """Scores by sensor subset and condition, and of the full set by distance (known conditions).

    contradictions: by subset and condition, for each frame the largest contradiction of an ultrasonic
    echo: the mean free mass of all other sources on its arc.
    """

    scores: dict[tuple[str, str], OccupancyScore] = field(
        default_factory=lambda: defaultdict(OccupancyScore)
    )
    by_distance: dict[str, OccupancyScore] = field(
        default_factory=lambda: defaultdict(OccupancyScore)
    )
    contradictions: dict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def merge(self, other: DriveScores) -> None:
        """Add the scores of other drives."""
        for key, score in other.scores.items():
            self.scores[key].merge(score)
        for band, score in other.by_distance.items():
            self.by_distance[band].merge(score)
        for key, values in other.contradictions.items():
            self.contradictions[key] += values

    def metrics(self) -> dict[str, Any]:
        """Metrics of the full set in known conditions; by_subset, by_condition and by_distance."""
        conditions = sorted({condition for _, condition in self.scores})
        names = list(dict.fromkeys(name for name, _ in self.scores))
        known = [c for c in conditions if c in KNOWN_CONDITIONS]
        by_subset: dict[str, dict[str, Any]] = {
            name: dict(self._sum(name, known).metrics()) for name in names
        }
        for name in names:
            by_subset[name]["by_condition"] = {
                c: self.scores[name, c].metrics() for c in conditions if (name, c) in self.scores
            }
            values = [v for c in known for v in self.contradictions[name, c]]
            by_subset[name]["contradiction"] = float(np.mean(values)) if values else float("nan")
        full = self._sum(FULL, known)
        return {
            **full.metrics(),
            "reliability": full.reliability(),
            "confusion": full.confusion.tolist(),
            "by_condition": by_subset[FULL]["by_condition"],
            "by_distance": {name: score.metrics() for name, score in self.by_distance.items()},
            "by_subset": by_subset,
        }

    def _sum(self, name: str, conditions: Sequence[str]) -> OccupancyScore:
        total = OccupancyScore()
        for condition in conditions:
            if (name, condition) in self.scores:
                total.merge(self.scores[name, condition])
        return total


def score_drive(
    result: DriveScores,
    simulation: Simulation,
    condition: str,
    make_pipeline: PipelineFactory,
    true_masks: bool,
    max_range: float = MAX_RANGE_M,
    on_grid: Callable[[int, OccupancyGrid, TruthFunction, float], None] | None = None,
) -> Iterator[int]:
    """Evaluate one drive with all sensor subsets and faults. Yields the index of each finished frame.

    true_masks: use the simulator's true pixel classes as masks, for pipelines without a segmenter.
    on_grid: called with the index of the frame, the grid of all sensors, the true state and the time of
    the pipeline in milliseconds.
    """
    segmenters = {
        name: FixedSegmenter() for name in (*SUBSETS, *FAULTS) if true_masks or name == FREE_MASKS
    }
    pipelines = {
        name: make_pipeline(segmenter=segmenters[name]) if name in segmenters else make_pipeline()
        for name in (*SUBSETS, *FAULTS)
    }
    for index in range(FIRST_FRAME, len(simulation)):
        observation = simulation.observe(index)
        frame = simulation[index]  # with deskewed sweeps
        true_state = cell_truth(observation.truth)
        for name, pipeline in pipelines.items():
            part = _apply_subset(name, frame)
            if name in segmenters:
                segmenters[name].masks = (
                    _free_masks(part) if name == FREE_MASKS else _true_masks(part, observation)
                )
            perception = pipeline.process(part)
            grid = perception.occupancy
            assert grid is not None
            if name == FULL and on_grid is not None:
                on_grid(index, grid, true_state, perception.stage_ms["total"])
            evaluate_bands = name == FULL and condition in KNOWN_CONDITIONS
            by_distance = result.by_distance if evaluate_bands else None
            score_grid(grid, true_state, max_range, [result.scores[name, condition]], by_distance)
            mapper = pipeline.occupancy
            # An echo affects the grid from its second frame on, so there may be no contradictions yet.
            if isinstance(mapper, ContradictionReporter) and mapper.contradictions:
                largest = max(mapper.contradictions.values())
                result.contradictions[name, condition].append(largest)
        yield index


def cell_truth(truth: FrameTruth) -> TruthFunction:
    """The true state of grid cells of 0.2 m.

    A cell is occupied if one of its four truth cells is occupied, free if all four are observed free,
    and undecided otherwise. Kerbs are undecided, because it depends on the vehicle whether they are
    obstacles.
    """
    grid, kerb = truth.occupancy, truth.semantic_grid == KERB
    rows, columns = grid.free.shape
    state = np.full((rows, columns), UNDECIDED, np.int8)
    state[grid.free > 0] = FREE
    state[kerb] = UNDECIDED
    state[grid.occupied > 0] = OCCUPIED

    def true_state(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.integer]:
        parts = []
        for dx in (-0.05, 0.05):
            for dy in (-0.05, 0.05):
                j = np.floor((x + dx - grid.origin[0]) / grid.resolution).astype(np.int64)
                i = np.floor((y + dy - grid.origin[1]) / grid.resolution).astype(np.int64)
                inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
                part = np.full(len(x), UNDECIDED, np.int8)
                part[inside] = state[i[inside], j[inside]]
                parts.append(part)
        parts_of_cells = np.stack(parts)
        result = np.full(len(x), UNDECIDED, np.int8)
        result[(parts_of_cells == FREE).all(axis=0)] = FREE
        result[(parts_of_cells == OCCUPIED).any(axis=0)] = OCCUPIED
        return result

    return true_state


@dataclass
class FixedSegmenter:
    """A segmenter that returns the masks that were set for the present frame."""

    masks: MasksBySensor = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def segment(self, frame: SensorFrame) -> MasksBySensor:
        return self.masks


def _apply_subset(name: str, frame: SensorFrame) -> SensorFrame:
    """The frame with a subset of the sensors, or with a fault of a sensor."""
    part = frame.select_modalities(SUBSETS.get(name, SUBSETS[FULL]))
    if name == STUCK_SENSOR:
        part = replace(part, ultrasonics=_with_stuck_sensor(part))
    return part


def _free_masks(frame: SensorFrame) -> MasksBySensor:
    """Masks of all camera images in which every pixel is road."""
    return {
        name: SegmentationMask(
            name, image.stamp_ns, np.zeros(image.pixels.shape[:2], np.uint8), ("road",)
        )
        for name, image in frame.cameras.items()
    }


def _true_masks(frame: SensorFrame, observation: Observation) -> MasksBySensor:
    """Masks of all images of the frame with the simulator's true pixel classes."""
    return {
        name: SegmentationMask(name, frame.stamp_ns, view.semantics, SEMANTIC_NAMES)
        for name, view in observation.truth.views.items()
        if name in frame.cameras or name in frame.thermals
    }


def _with_stuck_sensor(frame: SensorFrame) -> dict[str, Any]:
    """The ultrasonic readings, with a constant range of the sensor that faces most forward."""
    readings = dict(frame.ultrasonics)
    if readings:
        name = max(readings, key=lambda n: (frame.base_from_sensor[n][0, 0], n))
        readings[name] = replace(readings[name], range_m=STUCK_RANGE_M)
    return readings


def simulate(
    seed: int,
    condition: Sequence[str],
    rig: Rig,
    frames: int,
    max_range: float,
    profile: Profile = "basic",
) -> Simulation:
    """The simulated drive of a seed, which also selects the scenario; evaluate from FIRST_FRAME on."""
    scenario = SCENARIOS[seed % len(SCENARIOS)]
    layout = GridLayout(float(np.ceil(max_range)) + 1.0, TRUTH_RESOLUTION_M)
    count = FIRST_FRAME + frames
    return Simulation(scenario, rig, seed, count, tuple(condition), grid=layout, profile=profile)
