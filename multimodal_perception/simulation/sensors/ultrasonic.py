"""Ultrasonic range sensors: a bundle of rays in the cone, the nearest echo that is loud enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import build
from multimodal_perception.frame import UltrasonicReading
from multimodal_perception.rig import RangeLimits, Sensor
from multimodal_perception.simulation.sensors.shading import face_normal
from multimodal_perception.simulation.world.materials import TABLE, Column
from multimodal_perception.simulation.world.scene import Scene, rays_from

ECHO = int(Column.ECHO)
DEFAULT_LIMITS = RangeLimits(0.15, 5.0, 1.05)


@dataclass(frozen=True)
class UltrasonicPhysics:
    """What a rig file may say of an ultrasonic under `simulation`.

    rays: in the cone; 4096 find the nearest echo to 1 cm. resolution: metres. threshold: of an echo, in
    parts of that of a wall 1 m away straight ahead; 0.016 leaves out the road under a bumper 0.5 m up.
    noise_m: standard deviation of the range. crosstalk, ghost: chances of a reading that comes from
    another sensor's pulse or went a longer way.
    """

    rays: int = field(default=4096, metadata={"min": 8, "max": 20000})
    resolution: float = field(default=0.01, metadata={"min": 1e-4, "max": 1.0, "unit": "m"})
    threshold: float = field(default=0.016, metadata={"min": 0.0, "max": 1.0})
    noise_m: float = field(default=0.006, metadata={"min": 0.0, "max": 1.0, "unit": "m"})
    crosstalk: float = field(default=0.002, metadata={"min": 0.0, "max": 1.0})
    ghost: float = field(default=0.004, metadata={"min": 0.0, "max": 1.0})
    noise: bool = True


class SimulatedUltrasonic:
    """One ultrasonic of a rig."""

    def __init__(self, sensor: Sensor) -> None:
        self.name = sensor.name
        self.frame_id = sensor.frame_id
        self.limits = sensor.limits or DEFAULT_LIMITS
        self.physics = build(
            UltrasonicPhysics, sensor.simulation, f"sensor {sensor.name} simulation"
        )
        self.directions, self.beam = cone(self.physics.rays, self.limits.field_of_view)

    def reading(
        self,
        nearest: float,
        heard_by_others: Sequence[float],
        stamp_ns: int,
        rng: np.random.Generator,
    ) -> UltrasonicReading:
        """What it says of the nearest echo, metres, inf for none."""
        p, limits = self.physics, self.limits
        chance = rng.random(3)
        measured = nearest + (p.noise_m * rng.standard_normal() if p.noise else 0.0)
        if p.noise and chance[0] < p.crosstalk and len(heard_by_others):
            other = min(heard_by_others)
            if math.isfinite(other):
                measured = min(measured, 0.5 * (other + limits.max_range * chance[2]))
        elif p.noise and chance[1] < p.ghost and math.isfinite(nearest):
            measured = 2.0 * nearest
        return self.reported(measured, stamp_ns)

    def reported(self, measured: float, stamp_ns: int) -> UltrasonicReading:
        """What it says of a measured range, metres, by REP 117."""
        p, limits = self.physics, self.limits
        if not measured <= limits.max_range:
            value = math.inf
        elif measured < limits.min_range:
            value = -math.inf
        else:
            value = round(measured / p.resolution) * p.resolution
        return UltrasonicReading(
            self.name,
            stamp_ns,
            self.frame_id,
            value,
            limits.min_range,
            limits.max_range,
            limits.field_of_view,
        )


def cone(rays: int, field_of_view: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit rays (N, 3) about x, even over the cone (Vogel's spiral), and the beam's gain (N,).

    The gain falls to a quarter (-6 dB) at the cone's rim, as data sheets state a beam's width.
    """
    k = np.arange(rays) + 0.5
    cosine = 1.0 - (1.0 - math.cos(field_of_view / 2)) * k / rays
    turn = math.pi * (1.0 + math.sqrt(5.0)) * k
    sine = np.sqrt(1.0 - cosine**2)
    directions = np.stack([cosine, sine * np.cos(turn), sine * np.sin(turn)], axis=1)
    gain = 0.25 ** ((np.arccos(np.clip(cosine, -1, 1)) / (field_of_view / 2)) ** 2)
    return directions.astype(np.float32), gain.astype(np.float32)


def nearest_echoes(
    sensors: Sequence[SimulatedUltrasonic],
    scene: Scene,
    places: Mapping[str, NDArray[np.float64]],
) -> dict[str, float]:
    """Distance of the nearest echo of each sensor, inf for none; places: poses (4, 4) in the scene."""
    if not sensors:
        return {}
    rays = np.concatenate([rays_from(places[s.name], s.directions) for s in sensors])
    hits = scene.cast(rays)
    soup = scene.soup
    answer, start = {}, 0
    for sensor in sensors:
        part = slice(start, start + len(sensor.directions))
        start = part.stop
        answer[sensor.name] = float(
            _nearest(rays[part], hits.distance[part], hits.triangle[part], sensor.beam, soup.corners,
                     soup.materials, TABLE, sensor.physics.threshold)
        )  # fmt: skip
    return answer


@numba.njit(cache=True, nogil=True)
def _nearest(rays, distance, triangle, beam, corners, materials, table, threshold):  # type: ignore[no-untyped-def]
    """Nearest hit whose echo is loud enough.

    Ultrasound in air has waves of 8 mm, longer than most roughness: walls mirror it, and the echo falls
    steeply with incidence (Kuc and Siegel 1987), and with the square of the distance.
    """
    flat = np.zeros(3)
    best = np.inf
    for i in range(len(rays)):
        j = triangle[i]
        if j < 0 or distance[i] >= best:
            continue
        face_normal(corners[j], flat)
        cosine = abs(flat[0] * rays[i, 3] + flat[1] * rays[i, 4] + flat[2] * rays[i, 5])
        loud = table[materials[j], ECHO] * beam[i] * cosine**4 / max(distance[i], 0.1) ** 2
        if loud >= threshold:
            best = distance[i]
    return best
