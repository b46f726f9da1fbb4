"""Comparison of detectors on the same frames of simulated drives, by day and by night."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.simulation_writer import SimulationPlan
from multimodal_perception.evaluation.breakdown import (
    breakdown,
    observable_labels,
    with_point_counts,
)
from multimodal_perception.evaluation.detections import centres_in_images
from multimodal_perception.evaluation.image_recall import ImageRecall
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.latency import latency_percentiles
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.scenarios import load_scenario
from multimodal_perception.stages import Detector, ImageDetector, UsesPastSweeps
from multimodal_perception.tracking import TrackingConfig

# The seed selects the scenario: SCENARIOS[seed % 4].
SCENARIOS = ("urban_street", "intersection", "highway", "parking_lot")
CONDITIONS: dict[str, tuple[str, ...]] = {"day": (), "night": ("night",)}
# Sweeps before each evaluated frame that a detector with past sweeps receives.
PAST_SWEEPS = 5
# Modalities from which objects can be classified. Ultrasonic ranges only show that there is one.
CLASSIFYING_MODALITIES = (Modality.LIDAR, Modality.CAMERA, Modality.THERMAL)
MODALITY_NAMES = {
    Modality.LIDAR: "lidar",
    Modality.CAMERA: "cameras",
    Modality.THERMAL: "thermal",
    Modality.ULTRASONIC: "ultrasonic",
}


@dataclass(frozen=True)
class EvaluationDrive:
    """One simulated drive, of which `frames` frames are evaluated, one in every `interval` sweeps.

    seed_set: name of the range of seeds that the drive belongs to; empty for a single one.
    """

    scenario: str
    condition: str
    seed: int
    frames: int
    interval: int
    profile: Profile = "basic"
    seed_set: str = ""

    @property
    def indices(self) -> range:
        """Indices of the evaluated frames in the simulation."""
        return range(self.interval, self.interval * (self.frames + 1), self.interval)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the frames, by which the metrics are broken down."""
        tags = {"condition": self.condition, "scenario": self.scenario}
        return tags | {"seeds": self.seed_set} if self.seed_set else tags

    def plan(self, rig: Rig) -> SimulationPlan:
        """The plan of the simulation."""
        return SimulationPlan(
            load_scenario(self.scenario),
            rig,
            self.seed,
            self.interval * (self.frames + 1),
            CONDITIONS[self.condition],
            profile=self.profile,
        )


def plan_drives(
    seeds: Iterable[int],
    frames: int,
    interval: int,
    conditions: Iterable[str] = tuple(CONDITIONS),
    profile: Profile = "basic",
) -> list[EvaluationDrive]:
    """One drive for each seed and condition. The seed also selects the scenario."""
    return [
        EvaluationDrive(
            SCENARIOS[seed % len(SCENARIOS)], condition, seed, frames, interval, profile
        )
        for seed in seeds
        for condition in conditions
    ]


def simulate_frames(
    drives: Iterable[EvaluationDrive], rig: Rig
) -> Iterator[tuple[EvaluationDrive, SensorFrame]]:
    """Simulate the evaluated frames of drives, with deskewed sweeps and labels with visibility."""
    for drive in drives:
        simulation = drive.plan(rig).simulation()
        for index in drive.indices:
            yield drive, simulation[index]


@dataclass
class PastSweeps:
    """Simulates the LiDAR sweeps before the evaluated frames of drives, without other sensors."""

    rig: Rig
    _simulation: tuple[EvaluationDrive, Simulation] | None = None

    def __call__(self, drive: EvaluationDrive, frame: SensorFrame) -> list[SensorFrame]:
        """The PAST_SWEEPS frames before a frame of the drive, the earliest first."""
        lidars = self.rig.sensors_of(Modality.LIDAR)
        if not lidars:
            return []
        if self._simulation is None or self._simulation[0] != drive:
            rig = replace(self.rig, sensors=lidars)
            self._simulation = drive, drive.plan(rig).simulation()
        simulation = self._simulation[1]
        index = next(i for i in drive.indices if simulation.stamp_ns(i) == frame.stamp_ns)
        return [simulation[i] for i in range(max(index - PAST_SWEEPS, 0), index)]


@dataclass(frozen=True)
class DetectorSetup:
    """A detector and the sensors that it receives.

    modalities: others are missing. image_detector: its 2D boxes are projected onto the ground in frames
    without LiDAR, as in the node. sensors_off: names of sensors that are missing.
    """

    detector: Detector
    modalities: tuple[Modality, ...] = tuple(Modality)
    image_detector: ImageDetector | None = None
    sensors_off: frozenset[str] = frozenset()

    def select(self, frame: SensorFrame) -> SensorFrame:
        """The frame with only the sensors that the detector receives."""
        part = frame.select_modalities(self.modalities)
        if not self.sensors_off:
            return part
        off = self.sensors_off
        return replace(
            part,
            lidars={k: v for k, v in part.lidars.items() if k not in off},
            cameras={k: v for k, v in part.cameras.items() if k not in off},
            thermals={k: v for k, v in part.thermals.items() if k not in off},
            ultrasonics={k: v for k, v in part.ultrasonics.items() if k not in off},
        )


@dataclass
class _Results:
    """The results of one setup. by_part: frames by name of a grouping and of the group."""

    recall: ImageRecall
    scored: list[ScoredFrame] = field(default_factory=list)
    by_part: dict[str, dict[str, list[ScoredFrame]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def compare_detectors(
    frames: Iterable[tuple[EvaluationDrive, SensorFrame]],
    setups: Mapping[str, DetectorSetup],
    protocol: NuScenesProtocol | None = None,
    *,
    past_sweeps: Callable[[EvaluationDrive, SensorFrame], Sequence[SensorFrame]] | None = None,
    class_sets: Mapping[str, NuScenesProtocol] | None = None,
    sectors: Mapping[str, Sequence[str]] | None = None,
    recall_min_score: float | None = None,
    pipeline: PipelineConfig | None = None,
) -> dict[str, dict[str, Any]]:
    """The metrics of `breakdown` for each setup, extended by the keys below.

    by_condition, by_scenario: by tags of the drives. by_view: metrics of the labels and boxes grouped by
    `camera_coverage`, the image modalities that show their centre. by_sector: grouped by the first of
    `sectors` (name to names of cameras) with a camera that shows their centre, "none" for the others.
    images_within_30m: see ImageRecall, with the boxes from `recall_min_score`, by default the score from
    which the fusion detector reports boxes. class_sets: breakdown with further protocols, by name.
    latency_ms: p50 and p95 of the pipeline without tracking and occupancy, milliseconds, in total and in
    by_condition.

    past_sweeps: returns the frames before an evaluated one, for detectors that use past sweeps.
    pipeline: configuration of the other stages, such as a segmenter that paints points. The frames are
    iterated once and not stored. Raises ValueError for a frame without labels.
    """
    protocol = protocol or NuScenesProtocol()
    # Only the detections are evaluated, so tracking and occupancy are off.
    config = replace(
        pipeline or PipelineConfig(), occupancy="none", tracking=TrackingConfig(enabled=False)
    )
    if recall_min_score is None:
        recall_min_score = config.fusion.min_score
    pipelines = {name: _build(config, setup) for name, setup in setups.items()}
    results = {name: _Results(ImageRecall(recall_min_score)) for name in setups}
    for drive, frame in frames:
        if frame.labels is None:
            raise ValueError("the frame has no labels")
        truth = frame.labels.select(observable_labels(frame.labels))
        groups = _groups(frame, sectors)
        truth_groups = {name: group(truth) for name, group in groups.items()}
        past: Sequence[SensorFrame] | None = None
        for name, stages in pipelines.items():
            setup, result = setups[name], results[name]
            part = setup.select(frame)
            if isinstance(setup.detector, UsesPastSweeps):
                if past is None:
                    past = past_sweeps(drive, frame) if past_sweeps is not None else ()
                _replace_past_sweeps(setup, setup.detector, stages, past)
            if not result.scored:  # compile the kernels of stages that only run on real frames
                stages.process(part)
                if isinstance(setup.detector, UsesPastSweeps):
                    _replace_past_sweeps(setup, setup.detector, stages, past or ())
            processed = stages.process(part)
            boxes = with_point_counts(processed.boxes, frame)
            result.scored.append(ScoredFrame(boxes, truth, tags=drive.tags))
            box_groups = {name: group(boxes) for name, group in groups.items()}
            for group, labels in truth_groups.items():
                found = box_groups[group]
                for key in {*labels, *found}:
                    result.by_part[group][key].append(
                        ScoredFrame(boxes.select(found == key), truth.select(labels == key))
                    )
            shown = (m["by_view"] != "none" for m in (box_groups, truth_groups))
            result.recall.add(boxes, next(shown), truth, next(shown), protocol)
            result.times[drive.condition].append(processed.stage_ms["total"])
    return {name: _metrics(result, protocol, class_sets or {}) for name, result in results.items()}


def _build(config: PipelineConfig, setup: DetectorSetup) -> Pipeline:
    stages: dict[str, Any] = {"detector": setup.detector}
    if setup.image_detector is not None or config.image_detector == "none":
        stages["image_detector"] = setup.image_detector
    return build_pipeline(config, **stages)


def _replace_past_sweeps(
    setup: DetectorSetup,
    detector: UsesPastSweeps,
    pipeline: Pipeline,
    past: Sequence[SensorFrame],
) -> None:
    """Replace the past sweeps of a detector by those of the frames `past`."""
    detector.clear_past_sweeps()
    for frame in past:
        part = setup.select(frame)
        if part.lidars:
            detector.add_past_sweep(part, pipeline.point_cloud(part))


def _groups(
    frame: SensorFrame, sectors: Mapping[str, Sequence[str]] | None
) -> dict[str, Callable[[Boxes3D], NDArray[np.str_]]]:
    """Functions that return the group (N,) of each box, by the key of the grouping in the result."""
    groups = {"by_view": lambda boxes: camera_coverage(boxes, frame)}
    if sectors is not None:
        groups["by_sector"] = lambda boxes: camera_sectors(boxes, frame, sectors)
    return groups


def camera_coverage(boxes: Boxes3D, frame: SensorFrame) -> NDArray[np.str_]:
    """The image modalities (N,) that show the centre of each box, such as "cameras+thermal".

    "none" if the centre is in no image of the frame.
    """
    sensors = {Modality.CAMERA: frame.cameras, Modality.THERMAL: frame.thermals}
    visible = {
        MODALITY_NAMES[modality]: centres_in_images(boxes, frame, names)
        for modality, names in sensors.items()
    }
    return np.array(
        [
            "+".join(name for name, mask in visible.items() if mask[i]) or "none"
            for i in range(len(boxes))
        ],
        np.str_,
    )


def camera_sectors(
    boxes: Boxes3D, frame: SensorFrame, sectors: Mapping[str, Sequence[str]]
) -> NDArray[np.str_]:
    """The first sector (N,) with a camera that shows the centre of each box; "none" without one.

    sectors: name to the names of cameras and thermal cameras.
    """
    result = np.full(len(boxes), "none", dtype=object)
    for name, cameras in reversed(list(sectors.items())):
        present = [n for n in cameras if n in frame.cameras or n in frame.thermals]
        result[centres_in_images(boxes, frame, present)] = name
    return result.astype(np.str_)


def _metrics(
    result: _Results, protocol: NuScenesProtocol, class_sets: Mapping[str, NuScenesProtocol]
) -> dict[str, Any]:
    metrics = breakdown(result.scored, protocol)
    for group, parts in result.by_part.items():
        metrics[group] = {key: breakdown(parts[key], protocol) for key in sorted(parts)}
    metrics["images_within_30m"] = result.recall.metrics()
    metrics["class_sets"] = {
        name: breakdown(result.scored, other) for name, other in class_sets.items()
    }
    metrics["latency_ms"] = latency_percentiles(itertools.chain(*result.times.values()))
    for condition, values in result.times.items():
        metrics["by_condition"][condition]["latency_ms"] = latency_percentiles(values)
    return metrics


def modality_subsets(rig: Rig) -> dict[str, tuple[Modality, ...]]:
    """All subsets of a rig's modalities that can classify objects, by name, largest first.

    A name is for example "lidar+cameras". The result is empty for a rig with only ultrasonic sensors.
    """
    modalities = [m for m in MODALITY_NAMES if rig.sensors_of(m)]
    subsets: dict[str, tuple[Modality, ...]] = {}
    for size in range(len(modalities), 0, -1):
        for subset in itertools.combinations(modalities, size):
            if any(m in CLASSIFYING_MODALITIES for m in subset):
                subsets["+".join(MODALITY_NAMES[m] for m in subset)] = subset
    return subsets
