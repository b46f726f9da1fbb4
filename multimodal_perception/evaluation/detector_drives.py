"""Detectors side by side on simulated drives: every one sees the same frames, by day and by night."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.simulation_writer import SimulationPlan
from multimodal_perception.evaluation.breakdown import breakdown, counting
from multimodal_perception.evaluation.detections import percentiles, seen_by
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.pipeline import Detector, ImageDetector, Pipeline
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.world.scenarios import load_scenario

# Scenarios in turn, one a seed.
SCENARIOS = ("urban_street", "intersection", "highway", "parking_lot")
CONDITIONS: dict[str, tuple[str, ...]] = {"day": (), "night": ("night",)}
# An ultrasonic hears that something is there, not what.
SEEING = (Modality.LIDAR, Modality.CAMERA, Modality.THERMAL)
WORDS = {
    Modality.LIDAR: "lidar",
    Modality.CAMERA: "cameras",
    Modality.THERMAL: "thermal",
    Modality.ULTRASONIC: "ultrasonic",
}


@dataclass(frozen=True)
class Drive:
    """One simulated drive: where, when and which frames of it are looked at, `every` apart."""

    scenario: str
    condition: str
    seed: int
    frames: int
    every: int

    @property
    def indices(self) -> range:
        """Of its frames in the simulation."""
        return range(self.every, self.every * (self.frames + 1), self.every)

    @property
    def tags(self) -> dict[str, str]:
        """What its figures are told apart by."""
        return {"condition": self.condition, "scenario": self.scenario}

    def plan(self, rig: Rig) -> SimulationPlan:
        """The simulation that it is part of."""
        return SimulationPlan(
            load_scenario(self.scenario),
            rig,
            self.seed,
            self.every * (self.frames + 1),
            CONDITIONS[self.condition],
        )


def drives(
    seeds: Iterable[int], frames: int, every: int, conditions: Iterable[str] = tuple(CONDITIONS)
) -> list[Drive]:
    """The drives that seeds mean: the scenarios in turn, each in every one of the conditions."""
    return [
        Drive(SCENARIOS[seed % len(SCENARIOS)], condition, seed, frames, every)
        for seed in seeds
        for condition in conditions
    ]


def driven(chosen: Iterable[Drive], rig: Rig) -> Iterator[tuple[Drive, SensorFrame]]:
    """The frames of drives, simulated one after another, sweeps deskewed, labels with visibility."""
    for drive in chosen:
        simulation = drive.plan(rig).simulation()
        for index in drive.indices:
            yield drive, simulation[index]


@dataclass(frozen=True)
class Contestant:
    """A detector and the kinds of sensors that it is given.

    image_detector: whose boxes are placed on the ground where there is no LiDAR, as the node does it.
    """

    detector: Detector
    modalities: tuple[Modality, ...] = tuple(Modality)
    image_detector: ImageDetector | None = None


def compare(
    frames: Iterable[tuple[Drive, SensorFrame]],
    contestants: Mapping[str, Contestant],
    protocol: NuScenesProtocol | None = None,
) -> dict[str, dict[str, Any]]:
    """breakdown's figures of each contestant, by condition, scenario and view too, and its latency_ms.

    by_view: of labels and boxes by the images that have their middle, see `views`.
    latency_ms: p50 and p95 of the pipeline without occupancy, milliseconds, here and in by_condition.
    Frames are looked at once and not kept. Raises ValueError for a frame without labels.
    """
    pipelines = {
        n: (Pipeline(c.detector, image_detector=c.image_detector), c.modalities)
        for n, c in contestants.items()
    }
    scored: dict[str, list[ScoredFrame]] = {name: [] for name in contestants}
    viewed: dict[str, dict[str, list[ScoredFrame]]] = {n: defaultdict(list) for n in contestants}
    times: dict[str, dict[str, list[float]]] = {n: defaultdict(list) for n in contestants}
    for drive, frame in frames:
        if frame.labels is None:
            raise ValueError("the frame has no labels")
        truth = frame.labels.select(counting(frame.labels))
        wanted = views(truth, frame)
        for name, (pipeline, modalities) in pipelines.items():
            part = frame.only(modalities)
            if not scored[name]:  # kernels of the stages that only a real frame reaches
                pipeline.process(part)
            told = pipeline.process(part)
            scored[name].append(ScoredFrame(told.boxes, truth, tags=drive.tags))
            found = views(told.boxes, frame)
            for view in {*wanted, *found}:
                parts = told.boxes.select(found == view), truth.select(wanted == view)
                viewed[name][view].append(ScoredFrame(*parts))
            times[name][drive.condition].append(told.stage_ms["total"])
    return {
        name: _figures(scored[name], viewed[name], times[name], protocol) for name in contestants
    }


def views(boxes: Boxes3D, frame: SensorFrame) -> NDArray[np.str_]:
    """Which kinds of a frame's images have the middle of each box (N,): "cameras+thermal", "none"."""
    kinds = {Modality.CAMERA: frame.cameras, Modality.THERMAL: frame.thermals}
    seen = {WORDS[kind]: seen_by(boxes, frame, sensors) for kind, sensors in kinds.items()}
    return np.array(
        ["+".join(n for n, mask in seen.items() if mask[i]) or "none" for i in range(len(boxes))],
        np.str_,
    )


def _figures(
    frames: Sequence[ScoredFrame],
    viewed: Mapping[str, Sequence[ScoredFrame]],
    times: Mapping[str, Sequence[float]],
    protocol: NuScenesProtocol | None,
) -> dict[str, Any]:
    figures = breakdown(frames, protocol)
    figures["by_view"] = {view: breakdown(viewed[view], protocol) for view in sorted(viewed)}
    figures["latency_ms"] = percentiles(itertools.chain(*times.values()))
    for condition, values in times.items():
        figures["by_condition"][condition]["latency_ms"] = percentiles(values)
    return figures


def seeing_subsets(rig: Rig) -> dict[str, tuple[Modality, ...]]:
    """All sets of a rig's kinds of sensors that can see, by name ("lidar+cameras"), largest first.

    Empty for a rig that cannot see.
    """
    kinds = [m for m in WORDS if rig.of(m)]
    found: dict[str, tuple[Modality, ...]] = {}
    for size in range(len(kinds), 0, -1):
        for subset in itertools.combinations(kinds, size):
            if any(m in SEEING for m in subset):
                found["+".join(WORDS[m] for m in subset)] = subset
    return found
