"""Simulated ultrasonic range sensors: the nearest echo above a threshold among rays in a cone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import build
from multimodal_perception.frame import UltrasonicReading
from multimodal_perception.kernels import njit
from multimodal_perception.rig import Sensor
from multimodal_perception.sensor_calibration import RangeLimits
from multimodal_perception.simulation.sensors.shading import face_normal
from multimodal_perception.simulation.world.materials import MATERIAL_TABLE, MaterialProperty
from multimodal_perception.simulation.world.scene import Scene, rays_from_pose

ULTRASONIC_REFLECTION = int(MaterialProperty.ULTRASONIC_REFLECTION)
DEFAULT_LIMITS = RangeLimits(0.15, 5.0, 1.05)


@dataclass(frozen=True)
class UltrasonicSimulationConfig:
    """Parameters of a simulated ultrasonic sensor, in the sensor's `simulation` entry of the rig file.

    Attributes:
        rays: Number of rays in the sensor's cone; 4096 give the range of the nearest echo with an
            accuracy of 1 cm. Lower it to save time.
        resolution: Step to which ranges are rounded. Increase it for sensors with coarse output.
        echo_threshold: Minimum amplitude of an echo, relative to that of a wall at 1 m on the axis; with
            0.016 a sensor at a height of 0.5 m does not detect the road. Lower it for a more sensitive
            sensor.
        range_noise: Standard deviation of the random error of each reading. Increase it for noisier
            sensors.
        crosstalk_probability: Probability of a range that is caused by another sensor's pulse. Increase
            it for sensors that transmit at the same time.
        ghost_probability: Probability of a multipath echo at twice the range. Increase it for
            surroundings with many reflecting walls.
        noise: Whether range noise, crosstalk and multipath echoes are simulated. Disable it for
            noise-free reference data.
    """

    rays: int = field(default=4096, metadata={"min": 8, "max": 20000})
    resolution: float = field(default=0.01, metadata={"min": 1e-4, "max": 1.0, "unit": "m"})
    echo_threshold: float = field(default=0.016, metadata={"min": 0.0, "max": 1.0})
    range_noise: float = field(default=0.006, metadata={"min": 0.0, "max": 1.0, "unit": "m"})
    crosstalk_probability: float = field(default=0.002, metadata={"min": 0.0, "max": 1.0})
    ghost_probability: float = field(default=0.004, metadata={"min": 0.0, "max": 1.0})
    noise: bool = True


class SimulatedUltrasonic:
    """One ultrasonic sensor of a rig."""

    def __init__(self, sensor: Sensor) -> None:
        self.name = sensor.name
        self.frame_id = sensor.frame_id
        self.limits = sensor.limits or DEFAULT_LIMITS
        self.config = build(
            UltrasonicSimulationConfig, sensor.simulation, f"sensor {sensor.name} simulation"
        )
        self.directions, self.beam = cone_directions(self.config.rays, self.limits.field_of_view)

    def measure(
        self,
        nearest: float,
        other_ranges: Sequence[float],
        stamp_ns: int,
        rng: np.random.Generator,
    ) -> UltrasonicReading:
        """Simulate a measurement with noise, crosstalk and multipath echoes.

        nearest: true range of the nearest echo in metres, inf without one. other_ranges: those of the
        rig's other ultrasonic sensors, which cause crosstalk.
        """
        c, limits = self.config, self.limits
        draws = rng.random(3)
        measured = nearest + (c.range_noise * rng.standard_normal() if c.noise else 0.0)
        if c.noise and draws[0] < c.crosstalk_probability and len(other_ranges):
            other = min(other_ranges)
            if math.isfinite(other):
                measured = min(measured, 0.5 * (other + limits.max_range * draws[2]))
        elif c.noise and draws[1] < c.ghost_probability and math.isfinite(nearest):
            measured = 2.0 * nearest
        return self.to_reading(measured, stamp_ns)

    def to_reading(self, measured: float, stamp_ns: int) -> UltrasonicReading:
        """The reading of a measured range in metres, with the values inf and -inf of REP 117."""
        c, limits = self.config, self.limits
        if not measured <= limits.max_range:
            value = math.inf
        elif measured < limits.min_range:
            value = -math.inf
        else:
            value = round(measured / c.resolution) * c.resolution
        return UltrasonicReading(
            self.name,
            stamp_ns,
            self.frame_id,
            value,
            limits.min_range,
            limits.max_range,
            limits.field_of_view,
        )


def cone_directions(
    rays: int, field_of_view: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit rays (N, 3) evenly distributed in a cone about x (Vogel's spiral), and their gain (N,).

    field_of_view: opening angle of the cone, rad. The gain is 0.25 (-6 dB) at the rim of the cone, as
    the beam width is defined in data sheets.
    """
    k = np.arange(rays) + 0.5
    cosine = 1.0 - (1.0 - math.cos(field_of_view / 2)) * k / rays
    angle = math.pi * (1.0 + math.sqrt(5.0)) * k
    sine = np.sqrt(1.0 - cosine**2)
    directions = np.stack([cosine, sine * np.cos(angle), sine * np.sin(angle)], axis=1)
    gain = 0.25 ** ((np.arccos(np.clip(cosine, -1, 1)) / (field_of_view / 2)) ** 2)
    return directions.astype(np.float32), gain.astype(np.float32)


def nearest_echo_ranges(
    sensors: Sequence[SimulatedUltrasonic],
    scene: Scene,
    poses: Mapping[str, NDArray[np.float64]],
) -> dict[str, float]:
    """Range of each sensor's nearest echo in metres, inf without one.

    poses: the sensors' poses (4, 4) in the scene's frame.
    """
    if not sensors:
        return {}
    rays = np.concatenate([rays_from_pose(poses[s.name], s.directions) for s in sensors])
    hits = scene.cast_rays(rays)
    triangles = scene.triangles
    ranges, start = {}, 0
    for sensor in sensors:
        part = slice(start, start + len(sensor.directions))
        start = part.stop
        ranges[sensor.name] = float(
            _nearest_echo(
                rays[part], hits.distance[part], hits.triangle[part], sensor.beam, triangles.corners,
                triangles.materials, MATERIAL_TABLE, sensor.config.echo_threshold,
            )
        )  # fmt: skip
    return ranges


@njit(nogil=True)
def _nearest_echo(rays, distance, triangle, beam, corners, materials, table, echo_threshold):  # type: ignore[no-untyped-def]
    """Distance of the nearest hit whose echo has at least the threshold's amplitude.

    Ultrasound in air has a wavelength of about 8 mm, longer than the roughness of most surfaces, so that
    reflection is specular: the amplitude falls steeply with the angle of incidence (Kuc and Siegel 1987)
    and with the square of the distance.
    """
    normal = np.zeros(3)
    nearest = np.inf
    for i in range(len(rays)):
        j = triangle[i]
        if j < 0 or distance[i] >= nearest:
            continue
        face_normal(corners[j], normal)
        cosine = abs(normal[0] * rays[i, 3] + normal[1] * rays[i, 4] + normal[2] * rays[i, 5])
        amplitude = (
            table[materials[j], ULTRASONIC_REFLECTION]
            * beam[i]
            * cosine**4
            / max(distance[i], 0.1) ** 2
        )
        if amplitude >= echo_threshold:
            nearest = distance[i]
    return nearest
