"""Comparison of detectors on the same frames of simulated drives, by day and by night."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.simulation_writer import SimulationPlan
from multimodal_perception.evaluation.breakdown import breakdown, observable_labels
from multimodal_perception.evaluation.detections import centres_in_images
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.latency import latency_percentiles
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.world.scenarios import load_scenario
from multimodal_perception.stages import Detector, ImageDetector
from multimodal_perception.tracking import TrackingConfig

# The seed selects the scenario: SCENARIOS[seed % 4].
SCENARIOS = ("urban_street", "intersection", "highway", "parking_lot")
CONDITIONS: dict[str, tuple[str, ...]] = {"day": (), "night": ("night",)}
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
    """One simulated drive, of which `frames` frames are evaluated, one in every `interval` sweeps."""

    scenario: str
    condition: str
    seed: int
    frames: int
    interval: int

    @property
    def indices(self) -> range:
        """Indices of the evaluated frames in the simulation."""
        return range(self.interval, self.interval * (self.frames + 1), self.interval)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the frames, by which the metrics are broken down."""
        return {"condition": self.condition, "scenario": self.scenario}

    def plan(self, rig: Rig) -> SimulationPlan:
        """The plan of the simulation."""
        return SimulationPlan(
            load_scenario(self.scenario),
            rig,
            self.seed,
            self.interval * (self.frames + 1),
            CONDITIONS[self.condition],
        )


def plan_drives(
    seeds: Iterable[int], frames: int, interval: int, conditions: Iterable[str] = tuple(CONDITIONS)
) -> list[EvaluationDrive]:
    """One drive for each seed and condition. The seed also selects the scenario."""
    return [
        EvaluationDrive(SCENARIOS[seed % len(SCENARIOS)], condition, seed, frames, interval)
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


@dataclass(frozen=True)
class DetectorSetup:
    """A detector and the modalities that it receives.

    image_detector: its 2D boxes are projected onto the ground in frames without LiDAR, as in the node.
    """

    detector: Detector
    modalities: tuple[Modality, ...] = tuple(Modality)
    image_detector: ImageDetector | None = None


def compare_detectors(
    frames: Iterable[tuple[EvaluationDrive, SensorFrame]],
    setups: Mapping[str, DetectorSetup],
    protocol: NuScenesProtocol | None = None,
) -> dict[str, dict[str, Any]]:
    """The metrics of `breakdown` for each setup, with by_condition, by_scenario and by_view.

    by_view: metrics of the labels and boxes grouped by `camera_coverage`, the image modalities that
    show their centre. latency_ms: p50 and p95 of the pipeline without tracking and occupancy,
    milliseconds, in total and in by_condition. The frames are iterated once and not stored. Raises
    ValueError for a frame without labels.
    """
    # Only the detections are evaluated, so tracking and occupancy are off.
    config = PipelineConfig(occupancy="none", tracking=TrackingConfig(enabled=False))
    pipelines = {
        name: (
            build_pipeline(config, detector=setup.detector, image_detector=setup.image_detector),
            setup.modalities,
        )
        for name, setup in setups.items()
    }
    scored: dict[str, list[ScoredFrame]] = {name: [] for name in setups}
    by_view: dict[str, dict[str, list[ScoredFrame]]] = {n: defaultdict(list) for n in setups}
    times: dict[str, dict[str, list[float]]] = {n: defaultdict(list) for n in setups}
    for drive, frame in frames:
        if frame.labels is None:
            raise ValueError("the frame has no labels")
        truth = frame.labels.select(observable_labels(frame.labels))
        truth_view = camera_coverage(truth, frame)
        for name, (pipeline, modalities) in pipelines.items():
            part = frame.select_modalities(modalities)
            if not scored[name]:  # compile the kernels of stages that only run on real frames
                pipeline.process(part)
            result = pipeline.process(part)
            scored[name].append(ScoredFrame(result.boxes, truth, tags=drive.tags))
            box_view = camera_coverage(result.boxes, frame)
            for view in {*truth_view, *box_view}:
                by_view[name][view].append(
                    ScoredFrame(
                        result.boxes.select(box_view == view), truth.select(truth_view == view)
                    )
                )
            times[name][drive.condition].append(result.stage_ms["total"])
    return {name: _metrics(scored[name], by_view[name], times[name], protocol) for name in setups}


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


def _metrics(
    frames: Sequence[ScoredFrame],
    by_view: Mapping[str, Sequence[ScoredFrame]],
    times: Mapping[str, Sequence[float]],
    protocol: NuScenesProtocol | None,
) -> dict[str, Any]:
    metrics = breakdown(frames, protocol)
    metrics["by_view"] = {view: breakdown(by_view[view], protocol) for view in sorted(by_view)}
    metrics["latency_ms"] = latency_percentiles(itertools.chain(*times.values()))
    for condition, values in times.items():
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
