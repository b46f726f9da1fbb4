"""Scenarios: one YAML file each, and the moving objects that a seed generates from them.

The world is a strip along x that is generated in blocks of 40 m from (seed, block number), so a drive
has no end. It is static except for moving objects, which follow lanes at constant speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError, build, load_yaml
from multimodal_perception.geometry import poses
from multimodal_perception.resources import share_path
from multimodal_perception.simulation.sensors.conditions import Conditions, Fault
from multimodal_perception.simulation.world.fleet import COMBINATIONS, KIND_CLASSES, kind_parts
from multimodal_perception.simulation.world.road import RoadShape
from multimodal_perception.simulation.world.scene_objects import object_mesh

Environment = Literal["street", "intersection", "highway", "parking", "warehouse"]


class ScenarioError(UserError):
    """An unknown scenario; the message lists the available ones."""


@dataclass(frozen=True)
class Lane:
    """Moving objects that follow each other along x.

    Attributes:
        y: Lateral position of the lane's centre in the scenario's frame; the left side is positive.
            Change it to move the traffic to another part of the carriageway or to the pavement.
        speed: Speed of all objects of the lane along x, with a negative sign for oncoming traffic.
            Increase its magnitude for faster traffic; zero is not allowed.
        spacing: Mean distance between consecutive objects of the lane. Decrease it for denser traffic.
        class_frequencies: Relative frequency of each object class in the lane; the values need not add
            up to 1. Change them to get another mix of car, van, truck, bus, pedestrian, cyclist,
            forklift, and the kinds and combinations of vehicles in fleet.py.
        z: Height of the ground on which the lane's objects move. Set it to the kerb height of 0.12 m
            for lanes on a pavement.
        gap: Mean gap between the bumpers of consecutive vehicles of a queue; 0 places the objects at
            `spacing` instead. Set it to about 2 m for a traffic jam with vehicles of any length.
    """

    y: float = field(metadata={"min": -60.0, "max": 60.0, "unit": "m"})
    speed: float = field(metadata={"min": -60.0, "max": 60.0, "unit": "m/s"})
    spacing: float = field(metadata={"min": 3.0, "max": 500.0, "unit": "m"})
    class_frequencies: dict[str, float] = field(default_factory=lambda: {"car": 1.0})
    z: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0, "unit": "m"})
    gap: float = field(default=0.0, metadata={"min": 0.0, "max": 50.0, "unit": "m"})

    def __post_init__(self) -> None:
        basic = ("car", "van", "truck", "bus", "pedestrian", "cyclist", "forklift")
        known = (*basic, *KIND_CLASSES, *COMBINATIONS)
        unknown = set(self.class_frequencies) - set(known)
        if unknown:
            raise ValueError(
                f"class_frequencies: unknown class {', '.join(sorted(unknown))}; "
                f"allowed: {', '.join(known)}"
            )
        if (
            not self.class_frequencies
            or min(self.class_frequencies.values()) < 0
            or sum(self.class_frequencies.values()) <= 0
        ):
            raise ValueError("class_frequencies must be at least 0, and one of them above 0")
        if self.speed == 0.0:
            raise ValueError("speed must not be zero")


@dataclass(frozen=True)
class EgoMotion:
    """Motion of the ego vehicle: straight along x with sinusoidal variations.

    Attributes:
        y: Mean lateral position of the vehicle in the scenario's frame. Change it to drive in another
            lane.
        speed: Mean speed along x. Increase it for faster drives; 0 keeps the vehicle at rest.
        lateral_amplitude: Amplitude of the lateral oscillation within the lane, which has a period of
            11 s. Increase it for stronger yaw motion; set it to 0 for a straight path.
        longitudinal_amplitude: Amplitude of the oscillation of the position along x, which has a period
            of 7 s. Increase it for stronger acceleration; the amplitude is limited so that the vehicle
            never reverses.
    """

    y: float = field(metadata={"min": -60.0, "max": 60.0, "unit": "m"})
    speed: float = field(metadata={"min": 0.0, "max": 60.0, "unit": "m/s"})
    lateral_amplitude: float = field(default=0.15, metadata={"min": 0.0, "max": 2.0, "unit": "m"})
    longitudinal_amplitude: float = field(
        default=0.8, metadata={"min": 0.0, "max": 2.0, "unit": "m"}
    )

    def pose_2d(self, seconds: float) -> NDArray[np.float64]:
        """Pose (3,) at a time in seconds: x and y in metres, yaw in radians."""
        # Typical periods of a driver's corrections of the lateral position and of the speed.
        lateral_rate, speed_rate = 2 * math.pi / 11.0, 2 * math.pi / 7.0  # rad/s
        lateral = self.lateral_amplitude if self.speed > 0 else 0.0
        longitudinal = min(self.longitudinal_amplitude, 0.5 * self.speed / speed_rate)
        x = self.speed * seconds + longitudinal * math.sin(speed_rate * seconds)
        y = self.y + lateral * math.sin(lateral_rate * seconds)
        dx = self.speed + longitudinal * speed_rate * math.cos(speed_rate * seconds)
        dy = lateral * lateral_rate * math.cos(lateral_rate * seconds)
        return np.array([x, y, math.atan2(dy, dx) if self.speed > 0 else 0.0])

    def odom_from_base(self, seconds: float) -> NDArray[np.float64]:
        """Pose (4, 4) at a time in seconds; the odom frame is the scenario's frame."""
        x, y, yaw = self.pose_2d(seconds)
        return poses.from_xyz_rpy((x, y, 0.0), (0.0, 0.0, yaw))


@dataclass(frozen=True)
class Scenario:
    """An environment with its traffic, weather, light and sensor faults.

    Attributes:
        name: Name of the scenario, used in output and file names. Change it when you derive a scenario
            from another one.
        environment: Layout of the generated world: street, intersection (a street with a crossing every
            120 m), highway, parking or warehouse. Set it to the type of site that the vehicle drives in.
        ego: Motion of the ego vehicle. Change it to drive in another lane or at another speed.
        half_width: Half the width of the carriageway or aisle. Increase it for wider roads, and move
            the lanes accordingly.
        lanes: Lanes of moving objects, at most 60. Add lanes or change their spacing for more traffic.
        parking_occupancy: Fraction of the parking spaces that are occupied. Increase it for more parked
            vehicles; in the warehouse it is the probability of a row of traffic cones per block.
        tree_density: Fraction of the tree positions at which a tree stands. Increase it for more
            vegetation and occlusion.
        pedestrian_density: Probability of standing pedestrians at each of their positions. Increase it
            for more people beside the lanes.
        furniture_density: Fraction of the positions on pavements with street furniture of a person's
            height. Increase it to test whether a detector confuses furniture with pedestrians.
        garden_ratio: Fraction of the building plots that are gardens. Increase it for more open space
            and vegetation behind the pavement.
        clutter_density: Fraction of the free positions beside the lanes and in gardens with clutter of
            random shape. Increase it for hard negatives in training and evaluation of detectors.
        storeys: Minimum and maximum number of storeys of the buildings, 1 to 40. Increase them for
            street canyons.
        indoor: Whether the scene is lit by ceiling lamps and has neither sky, weather nor sun. Set it
            for halls.
        conditions: Weather and light. Change them to render the scenario at night, in fog or in rain.
        faults: Sensor faults that are part of the scenario. Add some to test degraded operation.
        road: Curvature and slopes of the road; without it the road is straight and level. Set it to
            test a system on hills and in bends.
        lane_marks: Lateral positions of dashed lines in addition to those of the environment. Set them
            for roads with several lanes in each direction.
        street_life: Density of car parks, road works with cones and barriers, people between vehicles,
            parked motorcycles and low obstacles in streets. Increase it for more objects that are
            partly hidden or rare.
        parked_frequencies: Relative frequencies of the kinds of parked vehicles; empty for mostly cars.
            Set them to get another mix of parked vehicles, with the names of Lane.class_frequencies.
        turning_vehicles: Number of vehicles that turn or cross at each intersection in a cycle of about
            15 s. Increase it for more traffic across the vehicle's path.
    """

    name: str
    environment: Environment
    ego: EgoMotion
    half_width: float = field(default=6.0, metadata={"min": 1.5, "max": 30.0, "unit": "m"})
    lanes: tuple[Lane, ...] = ()
    parking_occupancy: float = field(default=0.7, metadata={"min": 0.0, "max": 1.0})
    tree_density: float = field(default=0.6, metadata={"min": 0.0, "max": 1.0})
    pedestrian_density: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    furniture_density: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    garden_ratio: float = field(default=0.16, metadata={"min": 0.0, "max": 1.0})
    clutter_density: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    storeys: tuple[int, int] = (2, 5)
    indoor: bool = False
    conditions: Conditions = field(default_factory=Conditions)
    faults: tuple[Fault, ...] = ()
    road: RoadShape | None = None
    lane_marks: tuple[float, ...] = ()
    street_life: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    parked_frequencies: dict[str, float] = field(default_factory=dict)
    turning_vehicles: int = field(default=0, metadata={"min": 0, "max": 12})

    def __post_init__(self) -> None:
        if not 1 <= self.storeys[0] <= self.storeys[1] <= 40:
            raise ValueError("storeys: expected the minimum and the maximum, both from 1 to 40")
        if len(self.lanes) > 60:
            raise ValueError("lanes: at most 60")
        if self.parked_frequencies and (
            min(self.parked_frequencies.values()) < 0 or sum(self.parked_frequencies.values()) <= 0
        ):
            raise ValueError("parked_frequencies must be at least 0, and one of them above 0")


def scenario_names() -> list[str]:
    """Names of the scenarios that are installed with the package."""
    return sorted(p.stem for p in share_path("config", "scenarios").glob("*.yaml"))


def load_scenario(name: str | Path) -> Scenario:
    """Load an installed scenario by its name, or a scenario file by its path.

    Raises ScenarioError for an unknown name, ConfigurationError for a file with invalid content.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in scenario_names():
            known = ", ".join(scenario_names())
            raise ScenarioError(
                f"scenario {str(name)!r}: unknown; allowed: {known}, or the path of a .yaml file"
            )
        path = share_path("config", "scenarios") / f"{name}.yaml"
    return build(Scenario, load_yaml(path), str(path))


@dataclass(frozen=True)
class MovingObject:
    """An object that follows a lane.

    variant: selects shape and size within the class. paint_colour, clothing_colour: linear RGB. start:
    x at time 0, metres. y: lateral position, metres.
    """

    object_class: str
    variant: int
    paint_colour: tuple[float, float, float]
    clothing_colour: tuple[float, float, float]
    start: float
    y: float


# Colours of new cars in Europe and their relative frequencies (BASF Color Report 2022): grey, white,
# black, blue, red, ...
PAINT_COLOURS = (
    ((0.36, 0.37, 0.39), 0.27),
    ((0.86, 0.86, 0.85), 0.25),
    ((0.03, 0.03, 0.035), 0.22),
    ((0.07, 0.13, 0.33), 0.10),
    ((0.55, 0.05, 0.05), 0.06),
    ((0.62, 0.63, 0.65), 0.06),
    ((0.10, 0.25, 0.14), 0.02),
    ((0.75, 0.55, 0.08), 0.02),
)
CLOTHING_COLOURS = (
    (0.12, 0.13, 0.16),
    (0.55, 0.10, 0.10),
    (0.15, 0.25, 0.50),
    (0.70, 0.68, 0.62),
    (0.25, 0.38, 0.22),
    (0.80, 0.62, 0.15),
)


def sample_paint_colour(rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw a car's colour, linear RGB, according to the frequencies of PAINT_COLOURS."""
    weights = np.array([w for _, w in PAINT_COLOURS])
    return PAINT_COLOURS[int(rng.choice(len(PAINT_COLOURS), p=weights / weights.sum()))][0]


def sample_clothing_colour(rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw a clothing colour, linear RGB."""
    return CLOTHING_COLOURS[int(rng.integers(len(CLOTHING_COLOURS)))]


@lru_cache(maxsize=4096)
def _moving_object(
    seed: int,
    number: int,
    k: int,
    lane_key: tuple[float, ...],
    class_frequencies: tuple[tuple[str, float], ...],
) -> MovingObject:
    """Object k of a lane; cached, because it is needed in every frame.

    number: of the lane. lane_key: y and spacing of the lane. class_frequencies: sorted pairs.
    """
    y, spacing = lane_key
    rng = np.random.default_rng((seed, 1, number, k + 1_000_000))
    weights = np.array([w for _, w in class_frequencies])
    index = int(rng.choice(len(class_frequencies), p=weights / weights.sum()))
    object_class = class_frequencies[index][0]
    is_narrow = object_class in ("pedestrian", "cyclist")
    start = k * spacing + spacing * rng.uniform(-0.22, 0.22)
    return MovingObject(
        object_class,
        int(rng.integers(0, 1000)),
        sample_paint_colour(rng),
        sample_clothing_colour(rng),
        start,
        y + rng.uniform(-0.35, 0.35) * (1.4 if is_narrow else 0.5),
    )


def moving_objects(
    scenario: Scenario, seed: int, seconds: float, low: float, high: float
) -> list[tuple[int, Lane, MovingObject, float]]:
    """Moving objects between x = low and high at a time: (track id, lane, object, x) each.

    The position of the ego vehicle in its own lane stays free.
    """
    result = []
    for number, lane in enumerate(scenario.lanes):
        moved = lane.speed * seconds
        first = math.floor((low - moved) / lane.spacing) - 1
        last = math.ceil((high - moved) / lane.spacing) + 1
        is_ego_lane = abs(lane.y - scenario.ego.y) < 1.5
        if lane.gap > 0.0:
            queued = queue_in_lane(lane, seed, number, is_ego_lane, seconds, low, high)
            result += [((number + 1) * 8192 + k % 8192, lane, item, x) for k, item, x in queued]
            continue
        for k in range(first, last + 1):
            class_frequencies = tuple(sorted(lane.class_frequencies.items()))
            item = _moving_object(seed, number, k, (lane.y, lane.spacing), class_frequencies)
            x = item.start + moved
            if not low <= x <= high or (is_ego_lane and k == 0):
                continue
            result.append(((number + 1) * 8192 + k % 8192, lane, item, x))
    return result


QUEUE_VEHICLES = 48  # vehicles of a queue, which is repeated along the road
EGO_LENGTH = 5.0  # of the space for the ego vehicle in its own queue, metres


def queue_in_lane(
    lane: Lane, seed: int, number: int, is_ego_lane: bool, seconds: float, low: float, high: float
) -> list[tuple[int, MovingObject, float]]:
    """Vehicles of a queue between x = low and high at a time: (index, object, x) each.

    number: of the lane. In the lane of the ego vehicle, its place in the first repetition stays free.
    """
    frequencies = tuple(sorted(lane.class_frequencies.items()))
    items, period = _queue(seed, number, lane.y, lane.gap, frequencies, is_ego_lane)
    moved = lane.speed * seconds
    result = []
    for repetition in range(
        math.floor((low - moved) / period) - 1, math.floor((high - moved) / period) + 2
    ):
        for k, item in enumerate(items):
            x = item.start + moved + repetition * period
            if low <= x <= high:
                result.append((repetition * QUEUE_VEHICLES + k, item, x))
    return result


@lru_cache(maxsize=64)
def _queue(
    seed: int,
    number: int,
    y: float,
    mean_gap: float,
    class_frequencies: tuple[tuple[str, float], ...],
    is_ego_lane: bool,
) -> tuple[tuple[MovingObject, ...], float]:
    """The vehicles of one repetition of a queue, and its length in metres."""
    rng = np.random.default_rng((seed, 9, number))
    weights = np.array([w for _, w in class_frequencies])
    items = []
    front = EGO_LENGTH / 2 if is_ego_lane else float(rng.uniform(-4.0, 4.0))
    for _ in range(QUEUE_VEHICLES):
        index = int(rng.choice(len(class_frequencies), p=weights / weights.sum()))
        kind, variant = class_frequencies[index][0], int(rng.integers(0, 1000))
        rear_end, front_end = combination_extent(kind, variant)
        # Most gaps are close to the mean, and some drivers keep a longer one.
        gap = mean_gap * float(np.clip(rng.gamma(4.0, 0.25), 0.45, 4.0))
        start = front + max(gap, 1.0) - rear_end
        front = start + front_end
        offset = float(np.clip(rng.normal(0.0, 0.16), -0.4, 0.4))
        items.append(
            MovingObject(
                kind,
                variant,
                sample_paint_colour(rng),
                sample_clothing_colour(rng),
                start,
                y + offset,
            )
        )
    period = front + max(mean_gap, 1.0) + (EGO_LENGTH / 2 if is_ego_lane else 0.0)
    return tuple(items), period


def combination_extent(kind: str, variant: int) -> tuple[float, float]:
    """x of the rear and of the front end of a vehicle with its trailer, from its centre, metres."""
    ends = []
    for part, part_variant, x in kind_parts(kind, variant):
        low, high = object_mesh(part, part_variant, 0).bounds()
        ends += [x + float(low[0]), x + float(high[0])]
    return min(ends), max(ends)
