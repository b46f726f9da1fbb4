"""Simulated drives for the training of detectors: scenario, traffic and weather of each seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.world.scenarios import Scenario, load_scenario

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
