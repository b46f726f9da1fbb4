"""Simulated drives to train on: what place and weather each seed means, and its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.simulation_writer import SimulationPlan, made
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.simulation.world.scenarios import Scenario, load_scenario
from multimodal_perception.training.detector.samples import (
    Arrays,
    sample_of,
    segment_table,
    write_sample,
)

# Seeds from here on are kept for evaluation.
FIRST_EVALUATION_SEED = 10_000
PLACES = (("urban_street", 0.42), ("intersection", 0.33), ("highway", 0.13), ("parking_lot", 0.12))
WEATHERS = (
    ((), 0.45),
    (("night",), 0.33),
    (("low_sun",), 0.06),
    (("fog",), 0.08),
    (("rain",), 0.08),
)
# Share of the drives whose traffic is mixed, and how often each class then comes in a lane of vehicles:
# a network that saw lorries and buses as seldom as the streets have them would know few of them.
MIXED = 0.6
MIX = {"car": 0.34, "van": 0.16, "truck": 0.22, "bus": 0.22, "cyclist": 0.06}
# Of these seeds nearly half of the mixed traffic rides bicycles.
CYCLING_SEEDS = range(700, 800)
CYCLING_MIX = {"car": 0.2, "van": 0.1, "truck": 0.12, "bus": 0.13, "cyclist": 0.45}
# And of these most is lorries and buses, in all drives, whose lengths are hard to tell from behind.
HEAVY_SEEDS = range(1100, 1400)
HEAVY_MIX = {"car": 0.16, "van": 0.08, "truck": 0.28, "bus": 0.44, "cyclist": 0.04}
# In these people walk on the carriageway and ride on the pavement as well, or a network takes the place
# for the person: it had called real people who walked on the carriageway cyclists.
MINGLED_SEEDS = range(1400, 2000)
MINGLED_MIX = {
    "car": 0.3,
    "van": 0.1,
    "truck": 0.06,
    "bus": 0.06,
    "pedestrian": 0.3,
    "cyclist": 0.18,
}
MINGLED_PAVEMENT = {"pedestrian": 0.6, "cyclist": 0.4}
# And in these of them what is no one stands anywhere too, gardens are open, and leaves let pulses in.
CLUTTERED_SEEDS = range(1600, 2000)


@dataclass(frozen=True)
class Drive:
    """One simulated drive: scenario by name, conditions on top of its own, and whose traffic it has."""

    seed: int
    scenario: str
    conditions: tuple[str, ...]
    mixed: bool = False

    def place(self) -> Scenario:
        """The scenario with the drive's traffic."""
        scenario = load_scenario(self.scenario)
        if self.seed in MINGLED_SEEDS:
            return _mingled(scenario, self.seed)
        if not self.mixed:
            return scenario
        shares = CYCLING_MIX if self.seed in CYCLING_SEEDS else MIX
        shares = HEAVY_MIX if self.seed in HEAVY_SEEDS else shares
        lanes = [replace(v, shares=shares) if "car" in v.shares else v for v in scenario.lanes]
        return replace(scenario, lanes=tuple(lanes))


def _mingled(scenario: Scenario, seed: int) -> Scenario:
    """All kinds in all lanes, these a little beside where they are."""
    rng = np.random.default_rng((9, seed))
    lanes = [
        replace(
            lane,
            y=lane.y + rng.uniform(-0.5, 0.5),
            shares=MINGLED_MIX if "car" in lane.shares else MINGLED_PAVEMENT,
        )
        for lane in scenario.lanes
    ]
    scenario = replace(scenario, lanes=tuple(lanes))
    if seed not in CLUTTERED_SEEDS:
        return scenario
    return replace(
        scenario,
        clutter=rng.uniform(0.3, 0.9),
        gardens=rng.uniform(0.1, 0.9),
        parked=scenario.parked * rng.uniform(0.4, 1.0),
        conditions=replace(scenario.conditions, foliage=rng.uniform(0.05, 0.35)),
    )


def drive_of(seed: int) -> Drive:
    """The drive that a seed means, whoever asks."""
    rng = np.random.default_rng((7, seed))
    place = rng.choice(len(PLACES), p=[w for _, w in PLACES])
    weather = rng.choice(len(WEATHERS), p=[w for _, w in WEATHERS])
    mixed = bool(rng.random() < MIXED) or seed in HEAVY_SEEDS
    return Drive(seed, PLACES[place][0], WEATHERS[weather][0], mixed)


def write_drive(
    drive: Drive,
    rig: Rig,
    frames: int,
    every: int,
    folder: Path,
    workers: int = 1,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> int:
    """Write `frames` samples, `every` sweeps apart, but for those that are there. Returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    indices = [k * every for k in range(frames) if not _path(folder, drive, k * every).exists()]
    plan = SimulationPlan(drive.place(), rig, drive.seed, frames * every, drive.conditions)
    for index, arrays in zip(
        progress(indices), made(plan, simulated_sample, indices, workers), strict=True
    ):
        write_sample(_path(folder, drive, index), arrays)
    return len(indices)


def _path(folder: Path, drive: Drive, index: int) -> Path:
    return folder / f"{drive.seed:06d}_{index:05d}.npz"


def simulated_sample(simulation: Simulation, index: int) -> Arrays:
    """The sample of one frame of a simulation, its images' classes with it."""
    frame = simulation[index]
    truth = simulation.truth(index)
    table = segment_table(SEMANTIC_NAMES)
    semantics: dict[str, NDArray[np.uint8]] = {
        name: table[view.semantics] for name, view in truth.views.items()
    }
    told = {
        "scenario": simulation.scenario.name,
        "seed": simulation.seed,
        "frame": index,
        "night": simulation.conditions.night,
        "fog": simulation.conditions.fog_visibility,
        "rain": simulation.conditions.rain,
    }
    return sample_of(frame, told, truth.visibility, semantics)
