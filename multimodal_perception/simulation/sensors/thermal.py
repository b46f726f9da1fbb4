"""Long-wave thermal cameras: radiometric counts or a picture after automatic gain control."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import build
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.thermal_normalization import gain_controlled
from multimodal_perception.rig import Sensor
from multimodal_perception.simulation.sensors.camera import View, pixel_rays, view_of
from multimodal_perception.simulation.sensors.conditions import Conditions
from multimodal_perception.simulation.sensors.shading import (
    FACADE,
    GRASS,
    LEAVES,
    face_normal,
    noise,
    smooth_noise,
    window_pane,
)
from multimodal_perception.simulation.world.materials import TABLE, Column
from multimodal_perception.simulation.world.scene import Scene, rays_from

EMISSIVITY, OFFSET = int(Column.EMISSIVITY), int(Column.OFFSET)
SOLAR, RUNNING, TEXTURE = int(Column.SOLAR), int(Column.RUNNING), int(Column.TEXTURE)
DEFAULT_KELVIN = (0.01, 0.0)


@dataclass(frozen=True)
class ThermalPhysics:
    """What a rig file may say of a thermal camera under `simulation`.

    netd: noise of one pixel, kelvin. fixed_pattern: of each pixel's own error, and of each column's,
    kelvin. blur: of the lens, pixels. output: 16-bit counts, or 8 bits after gain control.
    """

    netd: float = field(default=0.05, metadata={"min": 0.0, "max": 10.0, "unit": "K"})
    fixed_pattern: float = field(default=0.04, metadata={"min": 0.0, "max": 10.0, "unit": "K"})
    blur: float = field(default=0.6, metadata={"min": 0.0, "max": 10.0, "unit": "px"})
    output: Literal["radiometric", "agc8"] = "radiometric"
    noise: bool = True


class SimulatedThermal:
    """One thermal camera of a rig."""

    def __init__(self, sensor: Sensor, model: CameraModel) -> None:
        self.name = sensor.name
        self.model = model
        self.physics = build(ThermalPhysics, sensor.simulation, f"sensor {sensor.name} simulation")
        self.kelvin = sensor.kelvin or DEFAULT_KELVIN
        self.directions, self.inside = pixel_rays(model)
        own = np.random.default_rng([ord(c) for c in sensor.name])
        shape = model.height, model.width
        pattern = own.standard_normal(shape) + own.standard_normal((1, model.width))
        self._pattern = (self.physics.fixed_pattern * pattern).astype(np.float32)

    def take(
        self,
        scene: Scene,
        pose: NDArray[np.float64],
        conditions: Conditions,
        indoor: bool,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], View]:
        """An image (H, W) of counts from a pose (4, 4), and its truth."""
        rays = rays_from(pose, self.directions)
        hits = scene.cast(rays)
        shape = self.model.height, self.model.width
        kelvin = np.empty(len(rays), np.float32)
        soup = scene.soup
        sunny = 0.0 if indoor else solar_share(conditions)
        clear = 0.0 if indoor else clear_sky(conditions)
        # Fog droplets take about half as much at 10 um as of visible light (Beier and Gemperlein 2004).
        air = 0.0 if indoor else 0.5 * conditions.extinction
        _temperatures(rays, hits.distance, hits.triangle, soup.corners, soup.materials, soup.object_of,
                      scene.objects, TABLE, np.array(conditions.sun), sunny, clear,
                      conditions.air_kelvin, air, float(scene.origin[0]), kelvin)  # fmt: skip
        kelvin[~self.inside] = conditions.air_kelvin
        image = kelvin.reshape(shape)
        p = self.physics
        if p.blur > 0:
            image = cv2.GaussianBlur(image, (0, 0), p.blur)
        if p.noise:
            image = image + self._pattern + p.netd * rng.standard_normal(shape, np.float32)
        view = view_of(scene, hits.distance, hits.triangle, self.directions, self.inside, shape)
        if p.output == "agc8":
            return gain_controlled(image), view
        scale, offset = self.kelvin
        return np.clip(np.rint((image - offset) / scale), 0, 65535).astype(np.uint16), view


def solar_share(conditions: Conditions) -> float:
    """How strongly the sun has warmed what it shines on, 0 to 1."""
    if conditions.sun_elevation <= 0:
        return 0.0
    mass = 1.0 / np.sin(np.radians(max(conditions.sun_elevation, 3.0)))
    return float(0.7**mass / 0.7 * clear_sky(conditions))


def clear_sky(conditions: Conditions) -> float:
    """Share of the sky that neither rain clouds nor fog hide."""
    clear = float(np.exp(-conditions.rain / 3.0))
    if conditions.fog_visibility > 0:
        clear *= 1.0 - min(1.0, 300.0 / conditions.fog_visibility)
    return clear


@numba.njit(cache=True, nogil=True)
def _sky_kelvin(up, air, clear):  # type: ignore[no-untyped-def]
    """Apparent temperature of the sky: the air's at the horizon, some 45 K colder above when clear."""
    return air - clear * (6.0 + 40.0 * max(up, 0.0) ** 0.5)


@numba.njit(cache=True, nogil=True)
def _temperatures(  # type: ignore[no-untyped-def]
    rays, distance, triangle, corners, materials, object_of, objects, table, sun, sunny, clear,
    air_kelvin, extinction, origin_x, kelvin,
):  # fmt: skip
    """Apparent temperature of each ray: own radiance and what is mirrored, by Stefan and Boltzmann."""
    flat = np.zeros(3)
    for i in range(len(rays)):
        j = triangle[i]
        if j < 0:
            kelvin[i] = _sky_kelvin(rays[i, 5], air_kelvin, clear)
            continue
        r = distance[i]
        x = rays[i, 0] + r * rays[i, 3] + origin_x
        y, z = rays[i, 1] + r * rays[i, 4], rays[i, 2] + r * rays[i, 5]
        face_normal(corners[j], flat)
        against = flat[0] * rays[i, 3] + flat[1] * rays[i, 4] + flat[2] * rays[i, 5]
        sign = -1.0 if against > 0 else 1.0
        facing = sign * (flat[0] * sun[0] + flat[1] * sun[1] + flat[2] * sun[2])
        row = table[materials[j]]
        texture = int(row[TEXTURE])
        # Stone and asphalt keep the day's warmth on every side.
        warmed = sunny * (0.45 + 0.55 * max(facing, 0.0))
        stored = 0.15 * row[SOLAR] * clear if sunny == 0.0 else 0.0
        own = row[OFFSET] + row[SOLAR] * warmed + stored
        own += row[RUNNING] * objects[object_of[j], 6]
        emissivity = row[EMISSIVITY]
        if texture in (GRASS, LEAVES):
            own += 1.6 * (smooth_noise(x * 1.5, y * 1.5 + z) - 0.5)
            own += 1.0 * (noise(x * 9, y * 9, z * 9) - 0.5)
        else:
            own += 1.0 * (smooth_noise(x * 0.5 + z, y * 0.5 - z) - 0.5)
        if texture == FACADE and abs(flat[2]) < 0.5:
            along = x if abs(flat[1]) > abs(flat[0]) else y
            pane = window_pane(along, z)
            if pane == 2:
                own, emissivity = 0.4 * own, 0.86
            elif pane == 1:
                own += 1.5
        up = rays[i, 5] - 2.0 * against * flat[2]
        around = air_kelvin
        if up > 0.0:
            around = _sky_kelvin(up, air_kelvin, clear)
        # Less is emitted at grazing angles (Sparrow and Cess, fig. 2-8).
        emissivity *= 1.0 - 0.5 * (1.0 - min(abs(against), 1.0)) ** 5
        radiance = emissivity * (air_kelvin + own) ** 4 + (1.0 - emissivity) * around**4
        seen = radiance**0.25
        kelvin[i] = air_kelvin + (seen - air_kelvin) * np.exp(-extinction * r)
