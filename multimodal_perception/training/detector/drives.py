"""Simulated drives for the training of the detector: scenario and weather of each seed, and samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from multimodal_perception.datasets.simulation_writer import SimulationPlan, generate_frames
from multimodal_perception.processes import WorkerPool, initialise_worker
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.random_rigs import random_rig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world import scene
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.simulation.world.scenarios import Scenario, load_scenario
from multimodal_perception.training.detector.samples import (
    Arrays,
    build_sample,
    segment_lookup_table,
    write_sample,
)

# Seeds from here on are reserved for evaluation.
FIRST_EVALUATION_SEED = 10_000
SCENARIO_PROBABILITIES = (
    ("urban_street", 0.42),
    ("intersection", 0.33),
    ("highway", 0.13),
    ("parking_lot", 0.12),
)
CONDITION_PROBABILITIES = (
    ((), 0.45),
    (("night",), 0.33),
    (("sun_glare",), 0.06),
    (("fog",), 0.08),
    (("rain",), 0.08),
)
# Fraction of the drives with mixed traffic, and the frequencies of the classes in its lanes: trucks,
# buses and cyclists are too rare in the traffic of the scenarios to be learnt.
MIXED_TRAFFIC_PROBABILITY = 0.6
MIXED_TRAFFIC = {"car": 0.34, "van": 0.16, "truck": 0.22, "bus": 0.22, "cyclist": 0.06}
# Drives with these seeds have many cyclists in their mixed traffic.
CYCLIST_SEEDS = range(700, 800)
CYCLIST_TRAFFIC = {"car": 0.2, "van": 0.1, "truck": 0.12, "bus": 0.13, "cyclist": 0.45}
# Drives with these seeds all have mixed traffic with many trucks and buses.
LARGE_VEHICLE_TRAFFIC_SEEDS = range(1100, 1400)
LARGE_VEHICLE_TRAFFIC = {"car": 0.16, "van": 0.08, "truck": 0.28, "bus": 0.44, "cyclist": 0.04}
# In drives with these seeds pedestrians also walk on the carriageway and cyclists also ride on the
# pavement, so that a network cannot distinguish the two by their location.
SHARED_ROAD_SEEDS = range(1400, 2000)
SHARED_ROAD_TRAFFIC = {
    "car": 0.3,
    "van": 0.1,
    "truck": 0.06,
    "bus": 0.06,
    "pedestrian": 0.3,
    "cyclist": 0.18,
}
SHARED_PAVEMENT_TRAFFIC = {"pedestrian": 0.6, "cyclist": 0.4}
# Of these, drives with the following seeds also have person-sized clutter anywhere, open gardens, and
# vegetation that the LiDAR penetrates, as hard negatives.
CLUTTER_SEEDS = range(1600, 2000)


@dataclass(frozen=True)
class DetectorTrainingDrive:
    """A simulated drive: name of the scenario, conditions in addition to its own, and traffic."""

    seed: int
    scenario: str
    conditions: tuple[str, ...]
    mixed_traffic: bool = False
    profile: Profile = "basic"

    def scenario_with_traffic(self) -> Scenario:
        """The scenario with the traffic of this drive."""
        scenario = load_scenario(self.scenario)
        if self.seed in SHARED_ROAD_SEEDS:
            return _with_shared_road(scenario, self.seed)
        if not self.mixed_traffic:
            return scenario
        class_frequencies = CYCLIST_TRAFFIC if self.seed in CYCLIST_SEEDS else MIXED_TRAFFIC
        class_frequencies = (
            LARGE_VEHICLE_TRAFFIC if self.seed in LARGE_VEHICLE_TRAFFIC_SEEDS else class_frequencies
        )
        lanes = [
            replace(v, class_frequencies=class_frequencies) if "car" in v.class_frequencies else v
            for v in scenario.lanes
        ]
        return replace(scenario, lanes=tuple(lanes))


def _with_shared_road(scenario: Scenario, seed: int) -> Scenario:
    """A scenario with all classes in all lanes, lanes that are shifted at random, and clutter."""
    rng = np.random.default_rng((9, seed))
    lanes = [
        replace(
            lane,
            y=lane.y + rng.uniform(-0.5, 0.5),
            class_frequencies=SHARED_ROAD_TRAFFIC
            if "car" in lane.class_frequencies
            else SHARED_PAVEMENT_TRAFFIC,
        )
        for lane in scenario.lanes
    ]
    scenario = replace(scenario, lanes=tuple(lanes))
    if seed not in CLUTTER_SEEDS:
        return scenario
    return replace(
        scenario,
        clutter_density=rng.uniform(0.3, 0.9),
        garden_ratio=rng.uniform(0.1, 0.9),
        parking_occupancy=scenario.parking_occupancy * rng.uniform(0.4, 1.0),
        conditions=replace(scenario.conditions, foliage_penetration=rng.uniform(0.05, 0.35)),
    )


def drive_for_seed(seed: int, profile: Profile = "basic") -> DetectorTrainingDrive:
    """The drive of a seed."""
    rng = np.random.default_rng((7, seed))
    scenario = rng.choice(len(SCENARIO_PROBABILITIES), p=[p for _, p in SCENARIO_PROBABILITIES])
    conditions = rng.choice(len(CONDITION_PROBABILITIES), p=[p for _, p in CONDITION_PROBABILITIES])
    mixed = bool(rng.random() < MIXED_TRAFFIC_PROBABILITY) or seed in LARGE_VEHICLE_TRAFFIC_SEEDS
    name = SCENARIO_PROBABILITIES[scenario][0]
    return DetectorTrainingDrive(seed, name, CONDITION_PROBABILITIES[conditions][0], mixed, profile)


def render_samples(
    seeds: Sequence[int],
    rig: Rig | None,
    frames: int,
    frame_interval: int,
    folder: Path,
    workers: int = 1,
    profile: Profile = "basic",
) -> int:
    """Write the samples of the drives of several seeds; existing samples are kept.

    rig: None for another random rig in each drive. frames: samples in each drive, `frame_interval`
    sweeps apart. workers: processes, each of which simulates a drive. Returns the number of samples
    written.
    """
    if workers == 1:
        bar = tqdm(seeds, "drives", unit="drive")
        return sum(
            write_drive(drive_for_seed(s, profile), rig, frames, frame_interval, folder)
            for s in bar
        )
    with WorkerPool(workers, _initialise_worker, (workers,)) as pool:
        tasks = [
            pool.submit(
                write_drive, drive_for_seed(s, profile), rig, frames, frame_interval, folder
            )
            for s in seeds
        ]
        bar = tqdm(as_completed(tasks), "drives", total=len(tasks), unit="drive")
        return sum(task.result() for task in bar)


def _initialise_worker(workers: int) -> None:
    initialise_worker()
    scene.RAYCAST_THREADS = max(1, (os.cpu_count() or 1) // workers)


def write_drive(
    drive: DetectorTrainingDrive,
    rig: Rig | None,
    frames: int,
    frame_interval: int,
    folder: Path,
    workers: int = 1,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> int:
    """Write `frames` samples of a drive, `frame_interval` sweeps apart; existing samples are kept.

    rig: None for the random rig of the drive's seed. workers: processes that simulate. Returns the
    number of samples written.
    """
    rig = random_rig(drive.seed) if rig is None else rig
    folder.mkdir(parents=True, exist_ok=True)
    indices = [
        k * frame_interval
        for k in range(frames)
        if not _path(folder, drive, k * frame_interval).exists()
    ]
    plan = SimulationPlan(
        drive.scenario_with_traffic(),
        rig,
        drive.seed,
        frames * frame_interval,
        drive.conditions,
        profile=drive.profile,
    )
    for index, arrays in zip(
        progress(indices), generate_frames(plan, simulated_sample, indices, workers), strict=True
    ):
        write_sample(_path(folder, drive, index), arrays)
    return len(indices)


def _path(folder: Path, drive: DetectorTrainingDrive, index: int) -> Path:
    return folder / f"{drive.seed:06d}_{index:05d}.npz"


def simulated_sample(simulation: Simulation, index: int) -> Arrays:
    """The sample of one frame of a simulation, with the semantic classes of its images."""
    frame = simulation[index]
    truth = simulation.truth(index)
    table = segment_lookup_table(SEMANTIC_NAMES)
    semantics: dict[str, NDArray[np.uint8]] = {
        name: table[view.semantics] for name, view in truth.views.items()
    }
    metadata = {
        "scenario": simulation.scenario.name,
        "seed": simulation.seed,
        "frame": index,
        "night": simulation.conditions.night,
        "fog": simulation.conditions.fog_visibility,
        "rain": simulation.conditions.rain,
    }
    return build_sample(frame, metadata, truth.visibility, semantics)
