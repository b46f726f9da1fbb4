"""Scenarios of the profile realistic: roads, lanes, traffic and street life that a seed draws.

The environment, the conditions and the faults of a scenario stay as they are. The distributions cover
what recordings of cities show: streets with one to three lanes in each direction, queues, buses and
lorries beside and behind the vehicle, pickups, trailers, riders between vehicles, car parks, road works,
hills and bends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from multimodal_perception.simulation.world.road import RoadShape
from multimodal_perception.simulation.world.scenarios import EgoMotion, Lane, Scenario

# Relative frequencies of vehicles in traffic and of parked vehicles: about one truck (most are pickups)
# to nine cars, between PandaSet's street scenes (1 to 12) and nuScenes (1 to 6); drives vary them.
TRAFFIC = {
    "saloon": 0.42, "suv": 0.30, "large_van": 0.07, "pickup": 0.052, "box_lorry": 0.02,
    "truck": 0.01, "semi": 0.01, "bus": 0.013, "coach": 0.005, "minibus": 0.006,
    "motorcyclist": 0.03, "cyclist": 0.012, "car_trailer": 0.004, "van_trailer": 0.003,
    "pickup_trailer": 0.005, "car_caravan": 0.003,
}  # fmt: skip
PARKED = {
    "saloon": 0.50, "suv": 0.33, "large_van": 0.065, "pickup": 0.058, "box_lorry": 0.01,
    "minibus": 0.004, "small_trailer": 0.011, "caravan": 0.005, "semitrailer": 0.002,
}  # fmt: skip
MOTORWAY = {
    "saloon": 0.40, "suv": 0.27, "large_van": 0.11, "pickup": 0.07, "coach": 0.02, "motorcyclist": 0.03,
    "box_lorry": 0.04, "car_caravan": 0.015, "car_trailer": 0.01, "semi": 0.035,
}  # fmt: skip
HEAVY = {
    "semi": 0.42, "box_lorry": 0.16, "truck": 0.10, "coach": 0.07, "bus": 0.05, "large_van": 0.08,
    "saloon": 0.07, "suv": 0.05,
}  # fmt: skip
LARGE_KINDS = ("box_lorry", "truck", "semi", "bus", "coach", "minibus", "large_van", "pickup")
# Fraction of the streets in which large vehicles are frequent in the lanes beside the ego vehicle.
HEAVY_TRAFFIC_RATIO = 0.2
BIKE_LANE = 0.95  # width of the strip between the lanes and the parked vehicles, metres
PARKING_STRIP = 2.3
# In queues the ego vehicle may move by this amplitude within its lane, so that it keeps its distance.
QUEUE_AMPLITUDE = 0.3


def realistic_scenario(scenario: Scenario, seed: int) -> Scenario:
    """The scenario with random roads, lanes, traffic and street life; equal seeds give equal results.

    A road shape that the scenario defines is kept.
    """
    rng = np.random.default_rng((41, seed))
    if scenario.environment in ("street", "intersection"):
        scenario = _street(scenario, rng)
    elif scenario.environment == "highway":
        scenario = _highway(scenario, rng)
    elif scenario.environment == "parking":
        scenario = _parking(scenario, rng)
    else:  # a hall: level, and its traffic is part of its layout
        return replace(scenario, street_life=0.4)
    conditions = scenario.conditions
    if conditions.foliage_penetration == 0.0:
        conditions = replace(conditions, foliage_penetration=float(rng.uniform(0.05, 0.4)))
    if not conditions.night:
        conditions = replace(
            conditions,
            sun_elevation=float(rng.uniform(8.0, 62.0)),
            sun_azimuth=float(rng.uniform(-180.0, 180.0)),
            air_temperature=float(rng.uniform(274.0, 303.0)),
        )
    return replace(scenario, conditions=conditions)


def mixed(
    frequencies: Mapping[str, float], rng: np.random.Generator, spread: float
) -> dict[str, float]:
    """The frequencies, each multiplied by a log-normal factor with this standard deviation."""
    return {k: float(v * math.exp(rng.normal(0.0, spread))) for k, v in frequencies.items()}


def random_road(
    rng: np.random.Generator, min_radius: float, max_slope: float, cross_slope: float
) -> RoadShape:
    """A random road; min_radius in metres, 0.3 of the roads are almost straight and level."""
    bend = rng.uniform(0.1, 1.0) if rng.random() < 0.7 else 0.0
    hill = rng.uniform(0.1, 1.0) if rng.random() < 0.75 else 0.0
    lengths = float(rng.uniform(320.0, 800.0)), float(rng.uniform(200.0, 330.0))
    heights = float(rng.uniform(350.0, 900.0)), float(rng.uniform(170.0, 300.0))
    share = rng.uniform(0.2, 0.8, 2)
    # The curvature and the slope of both oscillations add up to the limits at most.
    curvatures = bend / min_radius * np.array([share[0], 1.0 - share[0]])
    slopes = hill * max_slope * np.array([share[1], 1.0 - share[1]])
    headings = [float(c * n / (2 * math.pi)) for c, n in zip(curvatures, lengths, strict=True)]
    total = sum(headings)
    if total > 0.9:
        headings = [0.9 * h / total for h in headings]
    return RoadShape(
        (headings[0], headings[1]),
        lengths,
        tuple(float(g * n / (2 * math.pi)) for g, n in zip(slopes, heights, strict=True)),  # type: ignore[arg-type]
        heights,
        float(rng.uniform(0.0, cross_slope)),
        float(rng.uniform(0.0, 2 * math.pi)),
    )


def _street(scenario: Scenario, rng: np.random.Generator) -> Scenario:
    """A street or intersection with one to three lanes in each direction."""
    count = int(rng.choice([1, 2, 3], p=[0.45, 0.38, 0.17]))
    lane_width = float(rng.uniform(3.0, 3.7))
    state = str(rng.choice(["queue", "dense", "flowing"], p=[0.27, 0.3, 0.43]))
    speed = float(
        {
            "queue": rng.uniform(0.2, 3.0),
            "dense": rng.uniform(3.0, 9.0),
            "flowing": rng.uniform(5.0, 14.0),
        }[state]
    )
    own = int(rng.integers(count))
    traffic = mixed(TRAFFIC, rng, 0.5)
    large = {k: v * (5.0 if k in LARGE_KINDS else 1.0) for k, v in traffic.items()}
    has_heavy_lane = rng.random() < HEAVY_TRAFFIC_RATIO
    lanes = []
    for k in range(count):
        y = -(k + 0.5) * lane_width
        frequencies = large if k != own and has_heavy_lane else traffic
        lanes.append(_lane(rng, y, speed, state, frequencies, k == own))
    other = str(rng.choice(["queue", "dense", "flowing"], p=[0.25, 0.35, 0.4]))
    other_speed = float(rng.uniform(0.3, 3.0) if other == "queue" else rng.uniform(4.0, 14.0))
    for k in range(count):
        y = (k + 0.5) * lane_width
        lanes.append(_lane(rng, y, -other_speed, other, traffic, False))
    edge = count * lane_width
    lanes += _riders_and_walkers(rng, count, lane_width, state)
    half_width = edge + BIKE_LANE + PARKING_STRIP
    lanes += _pavement(rng, half_width)
    marks = tuple(s * k * lane_width for s in (-1, 1) for k in range(1, count))
    return replace(
        scenario,
        half_width=half_width,
        ego=EgoMotion(
            lanes[own].y,
            speed,
            float(rng.uniform(0.0, 0.25)),
            QUEUE_AMPLITUDE if state == "queue" else float(rng.uniform(0.2, 1.0)),
        ),
        lanes=tuple(lanes),
        lane_marks=marks,
        parking_occupancy=float(rng.choice([rng.uniform(0.0, 0.3), rng.uniform(0.4, 0.95)])),
        tree_density=float(rng.uniform(0.1, 0.9)),
        pedestrian_density=float(rng.uniform(0.0, 0.6)),
        furniture_density=float(rng.uniform(0.05, 0.4)),
        garden_ratio=float(rng.uniform(0.15, 0.7)),
        clutter_density=float(rng.uniform(0.1, 0.6)),
        storeys=(int(rng.integers(1, 4)), int(rng.integers(4, 9))),
        street_life=float(rng.uniform(0.2, 1.0)),
        parked_frequencies=mixed(PARKED, rng, 0.5),
        turning_vehicles=int(rng.integers(1, 5)),
        road=scenario.road or random_road(rng, 95.0, 0.075, 0.045),
    )


def _lane(
    rng: np.random.Generator,
    y: float,
    speed: float,
    state: str,
    frequencies: Mapping[str, float],
    is_own: bool,
) -> Lane:
    """A lane of vehicles. Vehicles in the lane of the ego vehicle have its mean speed."""
    vehicles = {k: v for k, v in frequencies.items() if k != "cyclist" or abs(speed) < 7.0}
    if state == "queue":
        factor = 1.0 if is_own or rng.random() < 0.6 else float(rng.uniform(0.3, 2.0))
        gap = float(rng.uniform(1.6, 3.5))
        return Lane(y, speed * factor, 8.0, dict(vehicles), gap=gap)
    factor = 1.0 if is_own else float(rng.uniform(0.75, 1.3))
    gap = float(rng.uniform(5.0, 11.0) if state == "dense" else rng.uniform(11.0, 32.0))
    return Lane(y, speed * factor, 8.0, dict(vehicles), gap=gap)


def _riders_and_walkers(
    rng: np.random.Generator, count: int, lane_width: float, state: str
) -> list[Lane]:
    """Cyclists at the edge of the carriageway, motorcyclists between queues, people on the road."""
    lanes = []
    edge = count * lane_width + BIKE_LANE / 2 - 0.05
    for s in (-1, 1):
        if rng.random() < 0.6:
            speed = -s * float(rng.uniform(2.5, 6.0))
            riders = {"cyclist": 0.75, "motorcyclist": 0.12, "pedestrian": 0.13}
            lanes.append(Lane(s * edge, speed, float(rng.uniform(14.0, 80.0)), riders))
        if rng.random() < 0.35:  # people walk along the parked vehicles, against the traffic
            speed = s * float(rng.uniform(0.8, 1.5))
            lanes.append(Lane(s * edge, speed, float(rng.uniform(25.0, 70.0)), {"pedestrian": 1.0}))
    if state == "queue" and count > 1 and rng.random() < 0.7:
        speed = float(rng.uniform(2.0, 6.0))
        riders = {"motorcyclist": 0.6, "cyclist": 0.4}
        lanes.append(Lane(-lane_width, speed, float(rng.uniform(18.0, 45.0)), riders))
    return lanes


def _pavement(rng: np.random.Generator, half_width: float) -> list[Lane]:
    """People and a few cyclists on both pavements."""
    lanes = []
    for s in (-1, 1):
        for offset in (1.35, 1.95):
            speed = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.7, 1.6))
            frequencies = {"pedestrian": 0.94, "cyclist": 0.06}
            spacing = float(np.exp(rng.uniform(np.log(9.0), np.log(120.0))))
            lanes.append(Lane(s * (half_width + offset), speed, spacing, frequencies, 0.12))
    return lanes


def _highway(scenario: Scenario, rng: np.random.Generator) -> Scenario:
    """A motorway with other vehicles and, in a fifth of the drives, a traffic jam."""
    jam = rng.random() < 0.2
    speed = (
        float(rng.uniform(0.5, 4.0)) if jam else scenario.ego.speed * float(rng.uniform(0.75, 1.05))
    )
    light, heavy = mixed(MOTORWAY, rng, 0.4), mixed(HEAVY, rng, 0.4)
    lanes = []
    for lane in scenario.lanes:
        is_own = abs(lane.y - scenario.ego.y) < 1.5
        frequencies = heavy if "truck" in lane.class_frequencies else light
        if jam and lane.speed > 0:
            factor = 1.0 if is_own else float(rng.uniform(0.8, 1.2))
            lanes.append(
                Lane(lane.y, speed * factor, 8.0, frequencies, gap=float(rng.uniform(1.8, 4.0)))
            )
            continue
        lane_speed = speed if is_own else lane.speed * float(rng.uniform(0.85, 1.1))
        gap = float(rng.uniform(14.0, 45.0))
        lanes.append(Lane(lane.y, lane_speed, 8.0, frequencies, gap=gap))
    amplitude = QUEUE_AMPLITUDE if jam else 1.2
    return replace(
        scenario,
        ego=replace(scenario.ego, speed=speed, longitudinal_amplitude=amplitude),
        lanes=tuple(lanes),
        clutter_density=float(rng.uniform(0.1, 0.7)),
        tree_density=float(rng.uniform(0.2, 0.9)),
        street_life=float(rng.uniform(0.1, 0.8)),
        road=scenario.road or random_road(rng, 420.0, 0.05, 0.03),
    )


def _parking(scenario: Scenario, rng: np.random.Generator) -> Scenario:
    """A parking lot with all kinds of parked vehicles on a slight slope."""
    lanes = [
        replace(lane, class_frequencies=mixed(TRAFFIC, rng, 0.4), spacing=lane.spacing * 0.8)
        if "car" in lane.class_frequencies
        else replace(lane, spacing=lane.spacing * float(rng.uniform(0.4, 1.2)))
        for lane in scenario.lanes
    ]
    small = {k: v for k, v in PARKED.items() if k not in ("semitrailer", "box_lorry")}
    shape = scenario.road or random_road(rng, 1200.0, 0.035, 0.03)
    return replace(
        scenario,
        lanes=tuple(lanes),
        parking_occupancy=float(rng.uniform(0.35, 0.95)),
        pedestrian_density=float(rng.uniform(0.3, 1.0)),
        tree_density=float(rng.uniform(0.2, 0.9)),
        clutter_density=float(rng.uniform(0.1, 0.8)),
        street_life=float(rng.uniform(0.2, 1.0)),
        parked_frequencies=mixed(small, rng, 0.5),
        road=shape,
    )
