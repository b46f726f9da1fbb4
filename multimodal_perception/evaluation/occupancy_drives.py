"""Occupancy on simulated drives: what each set of sensors makes of them, and with one that lies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.occupancy import (
    FREE,
    MAX_RANGE_M,
    OCCUPIED,
    UNDECIDED,
    OccupancyScore,
    Truth,
    score_grid,
)
from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.occupancy.evidential import EvidentialMapper
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.simulation import Observation, Simulation
from multimodal_perception.simulation.truth import FrameTruth, GridLayout
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES

# Scenarios in turn, one a seed. Fog was in no data that anything here was tuned or trained on.
SCENARIOS = ("urban_street", "parking_lot", "intersection", "warehouse", "highway")
SEEN: dict[str, tuple[str, ...]] = {"day": (), "night": ("night",)}
UNSEEN: dict[str, tuple[str, ...]] = {"fog": ("fog=40",)}
# Truth is looked up in four places of a cell of 0.2 m.
FINER_M = 0.1
FIRST_FRAME = 20
# What a stuck ultrasonic goes on to say, metres, though nothing need be there.
STUCK_AT = 3.0
KERB = SEMANTIC_NAMES.index("kerb")

FULL = "full"
SUBSETS: dict[str, tuple[Modality, ...]] = {
    FULL: tuple(Modality),
    "lidar": (Modality.LIDAR,),
    "lidar+ultrasonic": (Modality.LIDAR, Modality.ULTRASONIC),
    "camera+ultrasonic": (Modality.CAMERA, Modality.ULTRASONIC),
    "ultrasonic": (Modality.ULTRASONIC,),
}
LIARS = ("ultrasonic stuck", "camera mask all free")


@dataclass
class DriveScores:
    """Scores by set of sensors and condition, and of the full set by distance (seen conditions).

    contradictions: by set and condition, of each frame the largest share of an ultrasonic's echo that
    everyone else calls free.
    """

    scores: dict[tuple[str, str], OccupancyScore] = field(
        default_factory=lambda: defaultdict(OccupancyScore)
    )
    rings: dict[str, OccupancyScore] = field(default_factory=lambda: defaultdict(OccupancyScore))
    contradictions: dict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def figures(self) -> dict[str, Any]:
        """Of the full set on seen conditions at the top, then by_subset, by_condition, by_distance."""
        conditions = sorted({condition for _, condition in self.scores})
        names = list(dict.fromkeys(name for name, _ in self.scores))
        seen = [c for c in conditions if c in SEEN]
        by_subset: dict[str, dict[str, Any]] = {
            name: dict(self._sum(name, seen).figures()) for name in names
        }
        for name in names:
            by_subset[name]["by_condition"] = {
                c: self.scores[name, c].figures() for c in conditions if (name, c) in self.scores
            }
            found = [v for c in seen for v in self.contradictions[name, c]]
            by_subset[name]["contradiction"] = float(np.mean(found)) if found else float("nan")
        return {
            **self._sum(FULL, seen).figures(),
            "by_condition": by_subset[FULL]["by_condition"],
            "by_distance": {name: score.figures() for name, score in self.rings.items()},
            "by_subset": by_subset,
        }

    def _sum(self, name: str, conditions: Sequence[str]) -> OccupancyScore:
        total = OccupancyScore()
        for condition in conditions:
            if (name, condition) in self.scores:
                total.join(self.scores[name, condition])
        return total


def score_drive(
    result: DriveScores,
    simulation: Simulation,
    condition: str,
    make: Callable[[], Pipeline],
    true_masks: bool,
    max_range: float = MAX_RANGE_M,
) -> Iterator[int]:
    """Score one drive, all sets of sensors side by side; yields each frame's number when it is done.

    make: gives a fresh pipeline. true_masks: hand over the simulator's pixel classes as masks, for a
    pipeline without a segmenter.
    """
    pipelines = {name: make() for name in (*SUBSETS, *LIARS)}
    for index in range(FIRST_FRAME, len(simulation)):
        observation = simulation.observe(index)
        frame = simulation[index]  # deskewed
        answer = cell_truth(observation.truth)
        for name, pipeline in pipelines.items():
            part, masks = _seen_by(name, frame, observation, true_masks)
            if masks is not None:
                pipeline.segmenter = _Told(masks)
            grid = pipeline.process(part).occupancy
            assert grid is not None
            rings = result.rings if name == FULL and condition in SEEN else None
            score_grid(grid, answer, max_range, [result.scores[name, condition]], rings)
            mapper = pipeline.occupancy
            # An echo is believed from the second frame on.
            if isinstance(mapper, EvidentialMapper) and mapper.contradictions:
                largest = max(mapper.contradictions.values())
                result.contradictions[name, condition].append(largest)
        yield index


def cell_truth(truth: FrameTruth) -> Truth:
    """What the cells of 0.2 m around middles x and y (N,) in base_link are.

    Occupied when something stands in any of four places of it, free when all four are seen to be,
    undecided otherwise and where there is a kerb: whether that is an obstacle depends on the wheel.
    """
    grid, kerb = truth.occupancy, truth.semantic_grid == KERB
    rows, columns = grid.free.shape
    state = np.full((rows, columns), UNDECIDED, np.int8)
    state[grid.free > 0] = FREE
    state[kerb] = UNDECIDED
    state[grid.occupied > 0] = OCCUPIED

    def answer(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.integer]:
        parts = []
        for dx in (-0.05, 0.05):
            for dy in (-0.05, 0.05):
                j = np.floor((x + dx - grid.origin[0]) / grid.resolution).astype(np.int64)
                i = np.floor((y + dy - grid.origin[1]) / grid.resolution).astype(np.int64)
                inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns)
                found = np.full(len(x), UNDECIDED, np.int8)
                found[inside] = state[i[inside], j[inside]]
                parts.append(found)
        places = np.stack(parts)
        result = np.full(len(x), UNDECIDED, np.int8)
        result[(places == FREE).all(axis=0)] = FREE
        result[(places == OCCUPIED).any(axis=0)] = OCCUPIED
        return result

    return answer


@dataclass(frozen=True)
class _Told:
    """A segmenter that was told what to say."""

    masks: Mapping[str, SegmentationMask]

    def segment(self, frame: SensorFrame) -> Mapping[str, SegmentationMask]:
        return self.masks


def _seen_by(
    name: str, frame: SensorFrame, observation: Observation, true_masks: bool
) -> tuple[SensorFrame, Mapping[str, SegmentationMask] | None]:
    """The frame as a set of sensors has it, and the masks to hand over (None: the pipeline's own)."""
    part = frame.only(SUBSETS.get(name, SUBSETS[FULL]))
    if name == "ultrasonic stuck":
        part = replace(part, ultrasonics=_stuck(part))
    if name == "camera mask all free":
        return part, {
            sensor: SegmentationMask(
                sensor, image.stamp_ns, np.zeros(image.pixels.shape[:2], np.uint8), ("road",)
            )
            for sensor, image in part.cameras.items()
        }
    if not true_masks:
        return part, None
    names = (*part.cameras, *part.thermals)
    masks = {
        n: SegmentationMask(n, frame.stamp_ns, view.semantics, SEMANTIC_NAMES)
        for n, view in observation.truth.views.items()
        if n in names
    }
    return part, masks


def _stuck(frame: SensorFrame) -> dict[str, Any]:
    """The ultrasonics, the first of those that look ahead saying the same for ever."""
    readings = dict(frame.ultrasonics)
    if readings:
        ahead = max(readings, key=lambda n: (frame.base_from_sensor[n][0, 0], n))
        readings[ahead] = replace(readings[ahead], range_m=STUCK_AT)
    return readings


def simulate(
    seed: int, condition: Sequence[str], rig: Rig, frames: int, max_range: float
) -> Simulation:
    """The drive that a seed means: scenarios in turn, from FIRST_FRAME on."""
    scenario = SCENARIOS[seed % len(SCENARIOS)]
    layout = GridLayout(float(np.ceil(max_range)) + 1.0, FINER_M)
    return Simulation(scenario, rig, seed, FIRST_FRAME + frames, tuple(condition), grid=layout)
