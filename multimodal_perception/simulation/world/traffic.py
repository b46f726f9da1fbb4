"""Moving objects of the profile realistic: queues, towed trailers, and vehicles that turn at junctions.

All positions are in the strip, the straight form of the road (see road.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.world.block_builder import BLOCK_LENGTH
from multimodal_perception.simulation.world.blocks import INTERSECTION_PERIOD
from multimodal_perception.simulation.world.fleet import kind_parts
from multimodal_perception.simulation.world.scenarios import (
    Scenario,
    combination_extent,
    moving_objects,
    sample_clothing_colour,
    sample_paint_colour,
)
from multimodal_perception.simulation.world.street_blocks import is_side_free

TOWED_TRACK = 1 << 19  # added to the track id of the towing vehicle
TURNING_TRACK = 1 << 22  # track ids of turning vehicles start here
TURNING_KINDS = {
    "saloon": 0.36, "suv": 0.26, "large_van": 0.10, "pickup": 0.08, "box_lorry": 0.06,
    "minibus": 0.03, "motorcyclist": 0.06, "cyclist": 0.05,
}  # fmt: skip
CYCLE_S = 15.0  # time between two vehicles on the same path
SIDE_LANE = 1.9  # lateral position of the lanes of the crossing street, metres
APPROACH = 55.0  # length of the paths before and after a junction, metres
SAFETY_DISTANCE = 1.2  # minimum distance between a turning vehicle and all others, metres
CHECK_STEP_S = 0.4


@dataclass(frozen=True)
class MovingBody:
    """One moving object at one time: kind, pose in the strip (metres, radians), velocity in m/s.

    travelled: distance that it has moved, for the gait. The other fields are those of SceneObject.
    """

    kind: str
    variant: int
    x: float
    y: float
    z: float
    yaw: float
    velocity: tuple[float, float]
    travelled: float
    track: int
    paint_colour: tuple[float, float, float]
    clothing_colour: tuple[float, float, float]
    is_towed: bool = False


def moving_bodies(
    scenario: Scenario, seed: int, seconds: float, low: float, high: float
) -> list[MovingBody]:
    """All moving objects between x = low and high at a time, with trailers and turning vehicles."""
    bodies = []
    for track, lane, item, x in moving_objects(scenario, seed, seconds, low, high):
        direction = 1.0 if lane.speed > 0 else -1.0
        for k, (kind, variant, offset) in enumerate(kind_parts(item.object_class, item.variant)):
            bodies.append(
                MovingBody(
                    kind,
                    variant,
                    x + direction * offset,
                    item.y,
                    lane.z,
                    0.0 if direction > 0 else math.pi,
                    (lane.speed, 0.0),
                    x,
                    track + k * TOWED_TRACK,
                    item.paint_colour,
                    item.clothing_colour,
                    k > 0,
                )
            )
    if scenario.turning_vehicles and scenario.environment == "intersection":
        first, last = (math.floor(v / BLOCK_LENGTH) for v in (low, high - 1e-6))
        for number in range(first, last + 1):
            if number % INTERSECTION_PERIOD == 1:
                bodies += turning_bodies(scenario, seed, seconds, number)
    return bodies


class _Path(NamedTuple):
    """A path through a junction: points (N, 3) x, y, yaw at equal steps of 0.5 m."""

    points: NDArray[np.float64]

    def at(self, distance: float) -> NDArray[np.float64] | None:
        """x, y and yaw after a distance in metres; None beyond the ends."""
        k = distance / 0.5
        i = math.floor(k)
        if not 0 <= i < len(self.points) - 1:
            return None
        return self.points[i] + (k - i) * (self.points[i + 1] - self.points[i])


def turning_bodies(scenario: Scenario, seed: int, seconds: float, number: int) -> list[MovingBody]:
    """The vehicles that turn or cross at the intersection of block `number` at a time."""
    bodies = []
    for agent in range(scenario.turning_vehicles):
        cycle = math.floor((seconds + _offset(seed, number, agent)) / CYCLE_S)
        body = _turning_body(scenario, seed, seconds, number, agent)
        if body is not None and _is_clear(_Key(scenario), seed, number, agent, cycle):
            bodies.append(body)
    return bodies


class _Key:
    """A scenario as a key of a cache: scenarios contain dictionaries, which cannot be hashed."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario

    def __hash__(self) -> int:
        return hash((self.scenario.name, self.scenario.ego, self.scenario.half_width))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.scenario == other.scenario


def _offset(seed: int, number: int, agent: int) -> float:
    """Start of the first cycle of an agent before time 0, seconds."""
    return float(np.random.default_rng((seed, 6, number + 1_000_000, agent)).uniform(0.0, CYCLE_S))


def _turning_body(
    scenario: Scenario, seed: int, seconds: float, number: int, agent: int
) -> MovingBody | None:
    """The vehicle of an agent at a time, whether or not its way is clear."""
    time = seconds + _offset(seed, number, agent)
    cycle = math.floor(time / CYCLE_S)
    rng = np.random.default_rng((seed, 6, number + 1_000_000, agent, cycle + 1_000_000))
    kinds = list(TURNING_KINDS)
    weights = np.array(list(TURNING_KINDS.values()))
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    variant, speed = int(rng.integers(0, 1000)), float(rng.uniform(4.5, 8.0))
    path = _path(scenario, number, int(rng.integers(0, 1 << 30)))
    travelled = speed * (time - cycle * CYCLE_S)
    pose = path.at(travelled)
    if pose is None:
        return None
    x, y, yaw = (float(v) for v in pose)
    track = TURNING_TRACK + (number % 4096) * 512 + agent * 32 + cycle % 32
    paint, cloth = sample_paint_colour(rng), sample_clothing_colour(rng)
    velocity = speed * math.cos(yaw), speed * math.sin(yaw)
    return MovingBody(kind, variant, x, y, 0.0, yaw, velocity, travelled, track, paint, cloth)


def _path(scenario: Scenario, number: int, draw: int) -> _Path:
    """A path of block `number`: off the main road, onto it, or across it."""
    rng = np.random.default_rng(draw)
    centre = (number + 0.5) * BLOCK_LENGTH
    side = 1 if rng.random() < 0.5 else -1
    direction = 1 if rng.random() < 0.5 else -1  # of the travel along the main road
    lanes = [v for v in scenario.lanes if v.z == 0.0 and v.speed * direction > 0 and abs(v.y) > 1.0]
    y_main = lanes[int(rng.integers(len(lanes)))].y if lanes else -1.9 * direction
    main = np.array([direction, 0.0])
    out, into = np.array([0.0, side]), np.array([0.0, -side])
    # Right-hand traffic: away from the road on side +1 means x = centre + SIDE_LANE.
    x_out, x_in = centre + side * SIDE_LANE, centre - side * SIDE_LANE
    draw_kind = rng.random()
    if draw_kind < 0.5 or not is_side_free(number, side):
        corner = np.array([x_out, y_main])
        return _rounded(corner - APPROACH * main, corner, corner + APPROACH * out, rng)
    corner = np.array([x_in, y_main])
    if draw_kind < 0.8:
        return _rounded(corner - APPROACH * into, corner, corner + APPROACH * main, rng)
    return _rounded(corner - APPROACH * into, corner, corner + APPROACH * into, rng)


def _rounded(
    start: NDArray[np.float64],
    corner: NDArray[np.float64],
    end: NDArray[np.float64],
    rng: np.random.Generator,
) -> _Path:
    """Two straight lines with a quadratic curve between them at the corner, at steps of 0.5 m."""
    before, after = corner - start, end - corner
    radius = float(rng.uniform(6.0, 10.0))
    first = corner - radius * before / np.linalg.norm(before)
    last = corner + radius * after / np.linalg.norm(after)
    u = np.linspace(0.0, 1.0, 60)[:, None]
    curve = (1 - u) ** 2 * first + 2 * u * (1 - u) * corner + u**2 * last
    line = np.concatenate([start[None], curve, end[None]])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    steps = np.arange(0.0, length[-1], 0.5)
    xy = np.column_stack([np.interp(steps, length, line[:, k]) for k in (0, 1)])
    ahead = np.diff(xy, axis=0, append=2 * xy[-1:] - xy[-2:-1])
    return _Path(np.column_stack([xy, np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))]))


@lru_cache(maxsize=4096)
def _is_clear(key: _Key, seed: int, number: int, agent: int, cycle: int) -> bool:
    """Whether an agent keeps its distance from all other objects during its whole cycle.

    Otherwise it is left out. Agents with a lower number have priority.
    """
    scenario = key.scenario
    begin = cycle * CYCLE_S - _offset(seed, number, agent)
    centre = (number + 0.5) * BLOCK_LENGTH
    low, high = centre - APPROACH - 20.0, centre + APPROACH + 20.0
    for seconds in np.arange(begin + 0.01, begin + CYCLE_S, CHECK_STEP_S):
        body = _turning_body(scenario, seed, float(seconds), number, agent)
        if body is None:
            break
        others = _rectangles(scenario, seed, float(seconds), low, high)
        for earlier in range(agent):
            other = _turning_body(scenario, seed, float(seconds), number, earlier)
            other_cycle = math.floor((seconds + _offset(seed, number, earlier)) / CYCLE_S)
            if other is not None and _is_clear(key, seed, number, earlier, other_cycle):
                others.append((other.x, other.y, other.yaw, *_extent(other.kind, other.variant)))
        if _is_too_close(body, others):
            return False
    return True


def _extent(kind: str, variant: int) -> tuple[float, float, float]:
    """Rear end, front end and half width of a vehicle with its trailer, metres."""
    rear, front = combination_extent(kind, variant)
    half_width = 0.4 if kind in ("pedestrian", "cyclist", "motorcyclist") else 1.2
    return rear, front, half_width


def _rectangles(
    scenario: Scenario, seed: int, seconds: float, low: float, high: float
) -> list[tuple[float, ...]]:
    """x, y, yaw, rear end, front end and half width of the ego vehicle and the objects in lanes."""
    x, y, yaw = scenario.ego.pose_2d(seconds)
    result: list[tuple[float, ...]] = [(float(x), float(y), float(yaw), -2.8, 2.8, 1.1)]
    for _, lane, item, along in moving_objects(scenario, seed, seconds, low, high):
        direction = 0.0 if lane.speed > 0 else math.pi
        result.append((along, item.y, direction, *_extent(item.object_class, item.variant)))
    return result


def _is_too_close(body: MovingBody, others: list[tuple[float, ...]]) -> bool:
    """Whether a point of the body's centre line is in one of the enlarged rectangles."""
    rear, front, half_width = _extent(body.kind, body.variant)
    margin = half_width + SAFETY_DISTANCE
    along = np.linspace(rear, front, 4)
    px = body.x + along * math.cos(body.yaw)
    py = body.y + along * math.sin(body.yaw)
    for x, y, yaw, low, high, half in others:
        if abs(x - body.x) > 30.0 or abs(y - body.y) > 30.0:
            continue
        c, s = math.cos(yaw), math.sin(yaw)
        u = c * (px - x) + s * (py - y)
        v = c * (py - y) - s * (px - x)
        if np.any((u > low - margin) & (u < high + margin) & (np.abs(v) < half + margin - 0.6)):
            return True
    return False
