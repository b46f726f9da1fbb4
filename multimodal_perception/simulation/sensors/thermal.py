"""Simulated long-wave thermal cameras: radiometric 16-bit counts, or 8 bits after gain control."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import build
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.kernels import njit
from multimodal_perception.rig import Sensor
from multimodal_perception.simulation.sensors.camera import ImageTruth, image_truth, pixel_rays
from multimodal_perception.simulation.sensors.conditions import Conditions
from multimodal_perception.simulation.sensors.shading import (
    FACADE,
    GRASS,
    LEAVES,
    face_normal,
    hash_noise,
    value_noise,
    window_part,
)
from multimodal_perception.simulation.world.materials import MATERIAL_TABLE, MaterialProperty
from multimodal_perception.simulation.world.scene import Scene, rays_from_pose

EMISSIVITY = int(MaterialProperty.EMISSIVITY)
TEMPERATURE_OFFSET = int(MaterialProperty.TEMPERATURE_OFFSET)
SOLAR_HEATING = int(MaterialProperty.SOLAR_HEATING)
ENGINE_HEATING = int(MaterialProperty.ENGINE_HEATING)
TEXTURE = int(MaterialProperty.TEXTURE)
# Scale and offset from counts to kelvin of a sensor without `counts_to_kelvin` in the rig.
DEFAULT_KELVIN = (0.01, 0.0)


@dataclass(frozen=True)
class ThermalSimulationConfig:
    """Parameters of a simulated thermal camera, in the sensor's `simulation` entry of the rig file.

    Attributes:
        netd: Noise-equivalent temperature difference, the standard deviation of the temporal noise of a
            pixel. Increase it for uncooled or older cameras.
        fixed_pattern_noise: Standard deviation of the constant error of each pixel and, independently,
            of each column. Increase it for cameras without shutter correction.
        blur: Standard deviation of the Gaussian lens blur in the image. Increase it for lower-quality
            optics.
        output: Format of the images: radiometric (16-bit counts, see the sensor's counts_to_kelvin) or
            agc8 (8 bits after automatic gain control). Set it to what your camera publishes.
        noise: Whether temporal and fixed-pattern noise are added. Disable it for noise-free reference
            images.
    """

    netd: float = field(default=0.05, metadata={"min": 0.0, "max": 10.0, "unit": "K"})
    fixed_pattern_noise: float = field(
        default=0.04, metadata={"min": 0.0, "max": 10.0, "unit": "K"}
    )
    blur: float = field(default=0.6, metadata={"min": 0.0, "max": 10.0, "unit": "px"})
    output: Literal["radiometric", "agc8"] = "radiometric"
    noise: bool = True


class SimulatedThermal:
    """One thermal camera of a rig."""

    def __init__(self, sensor: Sensor, model: CameraModel) -> None:
        self.name = sensor.name
        self.model = model
        self.config = build(
            ThermalSimulationConfig, sensor.simulation, f"sensor {sensor.name} simulation"
        )
        self.kelvin = sensor.counts_to_kelvin or DEFAULT_KELVIN
        self.directions, self.inside = pixel_rays(model)
        # Seeded by the sensor's name: the fixed pattern is the same in all images of a sensor.
        rng = np.random.default_rng([ord(c) for c in sensor.name])
        shape = model.height, model.width
        pattern = rng.standard_normal(shape) + rng.standard_normal((1, model.width))
        self._fixed_pattern = (self.config.fixed_pattern_noise * pattern).astype(np.float32)

    def render(
        self,
        scene: Scene,
        pose: NDArray[np.float64],
        conditions: Conditions,
        indoor: bool,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], ImageTruth]:
        """Render an image (H, W), uint16 counts or uint8 after gain control, and its ground truth.

        pose: the camera's pose (4, 4) in the scene's frame.
        """
        rays = rays_from_pose(pose, self.directions)
        hits = scene.cast_rays(rays)
        shape = self.model.height, self.model.width
        kelvin = np.empty(len(rays), np.float32)
        triangles = scene.triangles
        solar_heating = 0.0 if indoor else solar_heating_factor(conditions)
        clear_sky = 0.0 if indoor else clear_sky_fraction(conditions)
        # The extinction of fog at 10 um is about half of that of visible light (Beier and Gemperlein
        # 2004).
        extinction = 0.0 if indoor else 0.5 * conditions.extinction
        _apparent_temperature(
            rays, hits.distance, hits.triangle, triangles.corners, triangles.materials,
            triangles.object_index, triangles.ground, scene.objects, MATERIAL_TABLE,
            np.array(conditions.sun_direction), solar_heating, clear_sky,
            conditions.air_temperature, extinction, float(scene.origin[0]), kelvin,
        )  # fmt: skip
        kelvin[~self.inside] = conditions.air_temperature
        image = kelvin.reshape(shape)
        c = self.config
        if c.blur > 0:
            image = cv2.GaussianBlur(image, (0, 0), c.blur)
        if c.noise:
            image = image + self._fixed_pattern + c.netd * rng.standard_normal(shape, np.float32)
        truth = image_truth(
            scene, hits.distance, hits.triangle, self.directions, self.inside, shape
        )
        if c.output == "agc8":
            return automatic_gain_control(image), truth
        scale, offset = self.kelvin
        return np.clip(np.rint((image - offset) / scale), 0, 65535).astype(np.uint16), truth


def automatic_gain_control(kelvin: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A camera's 8-bit output (H, W): the 1st to the 99.5th percentile of the image, at least 1 K."""
    low, high = np.percentile(kelvin, (1.0, 99.5))
    fraction = (kelvin - low) / max(float(high - low), 1.0)
    return np.asarray(255 * np.clip(fraction, 0, 1) + 0.5, np.float64).astype(np.uint8)


def solar_heating_factor(conditions: Conditions) -> float:
    """Strength of solar heating, 0 to 1, from the sun's elevation and the clouds."""
    if conditions.sun_elevation <= 0:
        return 0.0
    air_mass = 1.0 / np.sin(np.radians(max(conditions.sun_elevation, 3.0)))
    return float(0.7**air_mass / 0.7 * clear_sky_fraction(conditions))


def clear_sky_fraction(conditions: Conditions) -> float:
    """Fraction of the sky that is covered neither by rain clouds nor by fog."""
    fraction = float(np.exp(-conditions.rain / 3.0))
    if conditions.fog_visibility > 0:
        fraction *= 1.0 - min(1.0, 300.0 / conditions.fog_visibility)
    return fraction


@njit(nogil=True)
def _sky_kelvin(up, air_temperature, clear_sky):  # type: ignore[no-untyped-def]
    """Apparent temperature of the sky: close to the air's at the horizon, 46 K colder at the zenith.

    up: z of the viewing direction. clear_sky: fraction of the sky without clouds.
    """
    return air_temperature - clear_sky * (6.0 + 40.0 * max(up, 0.0) ** 0.5)


@njit(nogil=True)
def _apparent_temperature(  # type: ignore[no-untyped-def]
    rays, distance, triangle, corners, materials, object_index, ground, objects, table, sun_direction,
    solar_heating, clear_sky, air_temperature, extinction, origin_x, kelvin,
):  # fmt: skip
    """Apparent temperature of each ray in kelvin, written to kelvin (N,).

    It follows from the emitted and the reflected radiance (Stefan-Boltzmann law); attenuation by
    the air moves it towards the air temperature. sun_direction: unit vector to the sun. extinction:
    of the air at 10 um, 1/m. origin_x: x of the scene's origin in odom.
    """
    normal = np.zeros(3)
    for i in range(len(rays)):
        j = triangle[i]
        if j < 0:
            kelvin[i] = _sky_kelvin(rays[i, 5], air_temperature, clear_sky)
            continue
        r = distance[i]
        x = rays[i, 0] + r * rays[i, 3] + origin_x
        y, z = rays[i, 1] + r * rays[i, 4], rays[i, 2] + r * rays[i, 5]
        face_normal(corners[j], normal)
        signed_cosine = normal[0] * rays[i, 3] + normal[1] * rays[i, 4] + normal[2] * rays[i, 5]
        sign = -1.0 if signed_cosine > 0 else 1.0
        facing = sign * (
            normal[0] * sun_direction[0]
            + normal[1] * sun_direction[1]
            + normal[2] * sun_direction[2]
        )
        row = table[materials[j]]
        texture = int(row[TEXTURE])
        # Stone and asphalt store heat, so the sides in shade are warm too.
        sun_warming = solar_heating * (0.45 + 0.55 * max(facing, 0.0))
        stored_heat = 0.15 * row[SOLAR_HEATING] * clear_sky if solar_heating == 0.0 else 0.0
        offset = row[TEMPERATURE_OFFSET] + row[SOLAR_HEATING] * sun_warming + stored_heat
        offset += row[ENGINE_HEATING] * objects[object_index[j], 6]
        emissivity = row[EMISSIVITY]
        if texture in (GRASS, LEAVES):
            offset += 1.6 * (value_noise(x * 1.5, y * 1.5 + z) - 0.5)
            offset += 1.0 * (hash_noise(x * 9, y * 9, z * 9) - 0.5)
        else:
            offset += 1.0 * (value_noise(x * 0.5 + z, y * 0.5 - z) - 0.5)
        if texture == FACADE and abs(normal[2]) < 0.5:
            along = x if abs(normal[1]) > abs(normal[0]) else y
            part = window_part(along, z - ground[j])
            if part == 2:
                offset, emissivity = 0.4 * offset, 0.86
            elif part == 1:
                offset += 1.5
        up = rays[i, 5] - 2.0 * signed_cosine * normal[2]
        reflected_temperature = air_temperature
        if up > 0.0:
            reflected_temperature = _sky_kelvin(up, air_temperature, clear_sky)
        # The emissivity is lower at grazing angles (Sparrow and Cess, fig. 2-8).
        emissivity *= 1.0 - 0.5 * (1.0 - min(abs(signed_cosine), 1.0)) ** 5
        radiance = (
            emissivity * (air_temperature + offset) ** 4
            + (1.0 - emissivity) * reflected_temperature**4
        )
        apparent = radiance**0.25
        kelvin[i] = air_temperature + (apparent - air_temperature) * np.exp(-extinction * r)
