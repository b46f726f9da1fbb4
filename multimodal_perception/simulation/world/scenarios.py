"""Scenarios: a small YAML file each, and what its seed makes of it on the way.

The world is a strip along x, made in blocks of 40 m from (seed, block), so a drive has no end. It is
still but for movers, which follow lanes at their own even speed.
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

Kind = Literal["street", "intersection", "highway", "parking", "warehouse"]


class ScenarioError(UserError):
    """A scenario that does not exist or cannot be; the message says which there are."""


@dataclass(frozen=True)
class Lane:
    """Movers one after another along x at y, speed negative for the way back.

    spacing: metres between them on average. shares: how often each class, weights.
    z: height of the ground there.
    """

    y: float = field(metadata={"min": -60.0, "max": 60.0, "unit": "m"})
    speed: float = field(metadata={"min": -60.0, "max": 60.0, "unit": "m/s"})
    spacing: float = field(metadata={"min": 3.0, "max": 500.0, "unit": "m"})
    shares: dict[str, float] = field(default_factory=lambda: {"car": 1.0})
    z: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0, "unit": "m"})

    def __post_init__(self) -> None:
        known = ("car", "van", "truck", "bus", "pedestrian", "cyclist", "forklift")
        wrong = set(self.shares) - set(known)
        if wrong:
            raise ValueError(f"shares: {', '.join(sorted(wrong))}; allowed: {', '.join(known)}")
        if not self.shares or min(self.shares.values()) < 0 or sum(self.shares.values()) <= 0:
            raise ValueError("shares must be weights, not all zero")
        if self.speed == 0.0:
            raise ValueError("speed must not be zero")


@dataclass(frozen=True)
class Ego:
    """How the vehicle goes: y and speed on average, weaving and surging a little about them."""

    y: float = field(metadata={"min": -60.0, "max": 60.0, "unit": "m"})
    speed: float = field(metadata={"min": 0.0, "max": 60.0, "unit": "m/s"})
    weave: float = field(default=0.15, metadata={"min": 0.0, "max": 2.0, "unit": "m"})
    surge: float = field(default=0.8, metadata={"min": 0.0, "max": 2.0, "unit": "m"})

    def place(self, seconds: float) -> NDArray[np.float64]:
        """x, y and yaw (3,) at a time: metres and radians."""
        # Periods of 11 and 7 s: a driver's corrections in the lane and of the speed.
        turn, pulse = 2 * math.pi / 11.0, 2 * math.pi / 7.0
        weave = self.weave if self.speed > 0 else 0.0
        surge = min(self.surge, 0.5 * self.speed / pulse)
        x = self.speed * seconds + surge * math.sin(pulse * seconds)
        y = self.y + weave * math.sin(turn * seconds)
        dx = self.speed + surge * pulse * math.cos(pulse * seconds)
        dy = weave * turn * math.cos(turn * seconds)
        return np.array([x, y, math.atan2(dy, dx) if self.speed > 0 else 0.0])

    def odom_from_base(self, seconds: float) -> NDArray[np.float64]:
        """Pose (4, 4) at a time; odom is the scenario's own frame."""
        x, y, yaw = self.place(seconds)
        return poses.from_xyz_rpy((x, y, 0.0), (0.0, 0.0, yaw))


@dataclass(frozen=True)
class Scenario:
    """One kind of place, who moves in it, and the weather.

    half_width: of the carriageway or aisle, metres. parked, trees, people, furniture: shares of the
    places that are taken. gardens: share of houses' places. clutter: share of free places, on the
    carriageway's sides and in gardens too, where something stands that is like nothing else.
    storeys: least and most. indoor: lamps above, no sky.
    """

    name: str
    kind: Kind
    ego: Ego
    half_width: float = field(default=6.0, metadata={"min": 1.5, "max": 30.0, "unit": "m"})
    lanes: tuple[Lane, ...] = ()
    parked: float = field(default=0.7, metadata={"min": 0.0, "max": 1.0})
    trees: float = field(default=0.6, metadata={"min": 0.0, "max": 1.0})
    people: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    furniture: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    gardens: float = field(default=0.16, metadata={"min": 0.0, "max": 1.0})
    clutter: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    storeys: tuple[int, int] = (2, 5)
    indoor: bool = False
    conditions: Conditions = field(default_factory=Conditions)
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.storeys[0] <= self.storeys[1] <= 40:
            raise ValueError("storeys: two numbers from 1 to 40, the least first")
        if len(self.lanes) > 60:
            raise ValueError("lanes: at most 60")


def scenario_names() -> list[str]:
    """Names of the scenarios that the package carries."""
    return sorted(p.stem for p in share_path("config", "scenarios").glob("*.yaml"))


def load_scenario(name: str | Path) -> Scenario:
    """A scenario by its name or by the path of its file.

    Raises ScenarioError for an unknown one, ConfigurationError for what a file cannot say.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in scenario_names():
            known = ", ".join(scenario_names())
            raise ScenarioError(f"scenario {str(name)!r}: unknown; there are {known}, or a .yaml")
        path = share_path("config", "scenarios") / f"{name}.yaml"
    return build(Scenario, load_yaml(path), str(path))


@dataclass(frozen=True)
class Mover:
    """Who goes in a lane: a class, which of its shapes, colours and where from."""

    kind: str
    variant: int
    paint: tuple[float, float, float]
    cloth: tuple[float, float, float]
    start: float
    y: float


# Shares of new cars' colours in Europe (BASF Color Report 2022): grey, white, black, blue, red, ...
PAINTS = (
    ((0.36, 0.37, 0.39), 0.27),
    ((0.86, 0.86, 0.85), 0.25),
    ((0.03, 0.03, 0.035), 0.22),
    ((0.07, 0.13, 0.33), 0.10),
    ((0.55, 0.05, 0.05), 0.06),
    ((0.62, 0.63, 0.65), 0.06),
    ((0.10, 0.25, 0.14), 0.02),
    ((0.75, 0.55, 0.08), 0.02),
)
CLOTHS = (
    (0.12, 0.13, 0.16),
    (0.55, 0.10, 0.10),
    (0.15, 0.25, 0.50),
    (0.70, 0.68, 0.62),
    (0.25, 0.38, 0.22),
    (0.80, 0.62, 0.15),
)


def draw_paint(rng: np.random.Generator) -> tuple[float, float, float]:
    """A car's colour, linear RGB."""
    weights = np.array([w for _, w in PAINTS])
    return PAINTS[int(rng.choice(len(PAINTS), p=weights / weights.sum()))][0]


@lru_cache(maxsize=4096)
def _mover(
    seed: int,
    number: int,
    k: int,
    lane_key: tuple[float, ...],
    shares: tuple[tuple[str, float], ...],
) -> Mover:
    y, spacing = lane_key
    rng = np.random.default_rng((seed, 1, number, k + 1_000_000))
    weights = np.array([w for _, w in shares])
    kind = shares[int(rng.choice(len(shares), p=weights / weights.sum()))][0]
    narrow = kind in ("pedestrian", "cyclist")
    start = k * spacing + spacing * rng.uniform(-0.22, 0.22)
    return Mover(
        kind,
        int(rng.integers(0, 1000)),
        draw_paint(rng),
        CLOTHS[int(rng.integers(len(CLOTHS)))],
        start,
        y + rng.uniform(-0.35, 0.35) * (1.4 if narrow else 0.5),
    )


def movers(
    scenario: Scenario, seed: int, seconds: float, low: float, high: float
) -> list[tuple[int, Lane, Mover, float]]:
    """Who is between x = low and high: (track id, lane, mover, x). The ego's own place is kept free."""
    found = []
    for number, lane in enumerate(scenario.lanes):
        moved = lane.speed * seconds
        first = math.floor((low - moved) / lane.spacing) - 1
        last = math.ceil((high - moved) / lane.spacing) + 1
        own = abs(lane.y - scenario.ego.y) < 1.5
        for k in range(first, last + 1):
            shares = tuple(sorted(lane.shares.items()))
            mover = _mover(seed, number, k, (lane.y, lane.spacing), shares)
            x = mover.start + moved
            if not low <= x <= high or (own and k == 0):
                continue
            found.append(((number + 1) * 8192 + k % 8192, lane, mover, x))
    return found
