"""Simulated cameras for visible light: pinhole and fisheye, by day and by night."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import build
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.kernels import njit
from multimodal_perception.rig import Sensor
from multimodal_perception.simulation.sensors.appearance import CameraLook
from multimodal_perception.simulation.sensors.conditions import Conditions
from multimodal_perception.simulation.sensors.motion_blur import apply_motion_blur, pixel_motion
from multimodal_perception.simulation.sensors.shading import shade, shadow_rays
from multimodal_perception.simulation.world.materials import MATERIAL_TABLE, SKY_CLASS
from multimodal_perception.simulation.world.scene import Scene, rays_from_pose

# Light in a hall without lamps. With the default noise of CameraSimulationConfig a white wall then has a
# signal-to-noise ratio of 4 to 5, like a pixel of an f/2 fisheye with 3 um pixels, 33 ms exposure and
# 2.5 electrons of read noise at 0.1 lx, binned by a factor of 40.
UNLIT_HALL = 0.015
# Distance in metres beyond which shadows, then one or two pixels wide, are not computed.
SHADOW_RANGE = 110.0


@dataclass(frozen=True)
class CameraSimulationConfig:
    """Parameters of a simulated camera, in the sensor's `simulation` entry of the rig file.

    Attributes:
        full_well: Charge of a white pixel, whose square root is the shot noise (EMVA 1288). Increase it
            for a sensor with less shot noise.
        read_noise: Standard deviation of the read noise. Increase it for noisier images in the dark.
        vignetting: Fraction of light lost in the image corners. Increase it for wide-angle lenses with
            dark corners.
        blur: Standard deviation of the Gaussian lens blur in the image. Increase it for lower-quality
            optics.
        exposure_compensation: Exposure relative to the automatic one, in stops. Increase it for brighter
            images, lower it for darker ones.
        shutter_time_s: Exposure time by day, which causes motion blur; it is four times as long at night
            and indoors. Increase it for more motion blur; 0 disables motion blur.
        noise: Whether shot noise and read noise are added. Disable it for noise-free reference images.
    """

    full_well: float = field(default=9000.0, metadata={"min": 100.0, "max": 1e6, "unit": "e-"})
    read_noise: float = field(default=14.0, metadata={"min": 0.0, "max": 1e4, "unit": "e-"})
    vignetting: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})
    blur: float = field(default=0.45, metadata={"min": 0.0, "max": 10.0, "unit": "px"})
    exposure_compensation: float = field(
        default=0.0, metadata={"min": -6.0, "max": 6.0, "unit": "EV"}
    )
    shutter_time_s: float = field(default=0.002, metadata={"min": 0.0, "max": 0.1, "unit": "s"})
    noise: bool = True


@dataclass(frozen=True)
class ImageTruth:
    """Ground truth of each pixel of a camera or thermal camera.

    depth: (H, W) float32, metres along z of the optical frame, inf for sky and outside of a fisheye's
    image circle; negative where a fisheye's rays point backwards. semantics: (H, W) uint8, index into
    SEMANTIC_NAMES. instances: (H, W) int32, track ids, 0 for scenery. ranges: (H, W) float32, Euclidean
    distance from the optical centre in metres, inf where depth is; None if it was not stored.
    """

    depth: NDArray[np.float32]
    semantics: NDArray[np.uint8]
    instances: NDArray[np.int32]
    ranges: NDArray[np.float32] | None = None


class SimulatedCamera:
    """One camera of a rig."""

    def __init__(
        self,
        sensor: Sensor,
        model: CameraModel,
        materials: NDArray[np.float32] = MATERIAL_TABLE,
        look: CameraLook | None = None,
    ) -> None:
        """materials: table like MATERIAL_TABLE. look: image processing after the exposure."""
        self.name = sensor.name
        self._materials, self._look = materials, look
        self.model = model
        self.config = build(
            CameraSimulationConfig, sensor.simulation, f"sensor {sensor.name} simulation"
        )
        self.directions, self.inside = pixel_rays(model)
        v, u = np.mgrid[0 : model.height, 0 : model.width]
        radius = np.hypot(u / model.width - 0.5, v / model.height - 0.5) / np.hypot(0.5, 0.5)
        self._vignetting = (1.0 - self.config.vignetting * radius**2).astype(np.float32)[..., None]

    def render(
        self,
        scene: Scene,
        pose: NDArray[np.float64],
        ego: NDArray[np.float64],
        conditions: Conditions,
        indoor: bool,
        rng: np.random.Generator,
        pose_after: Callable[[float], NDArray[np.float64]] | None = None,
    ) -> tuple[NDArray[np.uint8], ImageTruth]:
        """Render an image (H, W, 3) uint8 RGB and its ground truth.

        pose: the camera's pose (4, 4) in the scene's frame. ego: pose (4, 4) of base_link, which the
        headlights are attached to. pose_after: the camera's pose at a time in seconds from the centre
        of the exposure; without it there is no motion blur.
        """
        rays = rays_from_pose(pose, self.directions)
        hits = scene.cast_rays(rays)
        sun_direction = np.array(conditions.sun_direction, np.float32)
        sunlight, zenith, horizon = daylight(conditions, indoor)
        lit = np.ones(len(rays), np.bool_)
        if indoor:
            sun_direction = np.array([0.25, 0.1, 0.963], np.float32)
        elif sunlight.max() > 0.01:
            to_sun = np.empty_like(rays)
            triangles = scene.triangles
            count, index = shadow_rays(
                rays,
                hits.distance,
                hits.triangle,
                triangles.corners,
                sun_direction,
                SHADOW_RANGE,
                to_sun,
            )
            lit[index] = ~scene.is_occluded(to_sun[:count])
        light = np.empty((len(rays), 3), np.float32)
        triangles = scene.triangles
        shade(
            rays, hits.distance, hits.triangle, hits.uv, triangles.corners, triangles.normals,
            triangles.materials, triangles.object_index, triangles.ground, scene.objects,
            self._materials, lit, sun_direction, sunlight, zenith, horizon, scene.lamps,
            _headlights(ego, conditions, indoor),
            float(scene.origin[0]), conditions.extinction * (0.0 if indoor else 1.0),
            scene.box_index, scene.boxes, conditions.adversarial_patch, light,
        )  # fmt: skip
        light[~self.inside] = 0.0
        shape = self.model.height, self.model.width
        radiance = light.reshape(*shape, 3)
        shutter_time_s = self.config.shutter_time_s * (4.0 if conditions.night or indoor else 1.0)
        if pose_after is not None and shutter_time_s > 0.0:
            ends = pose_after(-shutter_time_s / 2), pose_after(shutter_time_s / 2)
            flow = pixel_motion(
                self.model, scene, hits, self.directions, pose, ends, shutter_time_s
            )
            radiance = apply_motion_blur(radiance, flow)
        pixels = self._expose_image(radiance, conditions, indoor, rng)
        if self._look is not None:
            pixels = self._look.apply(pixels, rng)
        return pixels, image_truth(
            scene, hits.distance, hits.triangle, self.directions, self.inside, shape
        )

    def _expose_image(
        self,
        light: NDArray[np.float32],
        conditions: Conditions,
        indoor: bool,
        rng: np.random.Generator,
    ) -> NDArray[np.uint8]:
        """Apply optics, auto exposure, noise and tone curve to light (H, W, 3); returns the image."""
        c = self.config
        if c.blur > 0:
            light = np.asarray(cv2.GaussianBlur(light, (0, 0), c.blur), np.float32)
        if conditions.rain > 0 and not indoor:
            light = _add_raindrops(light, conditions.rain, rng)
        if conditions.lens_dirt > 0:
            light = add_lens_dirt(light, conditions.lens_dirt, self.name)
        light *= self._vignetting
        gain = np.float32(auto_exposure_gain(light) * 2.0**c.exposure_compensation)
        light *= gain
        # The gain amplifies the noise too, so night images are noisy.
        full_well = np.float32(c.full_well / max(float(gain), 1e-3))
        shape = light.shape if c.noise else (0, 0, 0)
        noise = rng.standard_normal(shape, np.float32)
        pixels = np.empty(light.shape, np.uint8)
        read_noise = np.float32(c.read_noise / full_well)
        _apply_noise_and_tone_curve(light, noise, full_well, read_noise, _TONE_CURVE, pixels)
        return pixels


def _tone_curve() -> NDArray[np.uint8]:
    """Pixel values (4096,) uint8 for light from 0 to 8, in equal steps of its square root.

    Filmic tone mapping (Hable 2010, fit by Narkowicz 2015), then a gamma of 2.2, close to sRGB.
    """
    light = 8.0 * (np.arange(4096) / 4095) ** 2
    curve = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    return (255 * np.clip(curve, 0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)


_TONE_CURVE = _tone_curve()


@njit(nogil=True)
def _apply_noise_and_tone_curve(light, noise, full_well, read, curve, pixels):  # type: ignore[no-untyped-def]
    """Add shot and read noise and apply the tone curve; writes into pixels (H, W, 3) uint8.

    noise: standard normal values of the shape of light, or an empty array for no noise. full_well:
    electrons at light 1. read: read noise relative to light 1.
    """
    flat, noise_values, out = light.reshape(-1), noise.reshape(-1), pixels.reshape(-1)
    for i in range(len(flat)):
        value = flat[i]
        if len(noise_values) > 0:
            value += noise_values[i] * np.sqrt(
                max(value, np.float32(0.0)) / full_well + read * read
            )
        fraction = np.sqrt(min(max(value, np.float32(0.0)), np.float32(8.0)) / 8.0)
        out[i] = curve[int(fraction * 4095.0 + 0.5)]


def pixel_rays(model: CameraModel) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Unit rays (H * W, 3) float32 of the pixels in the optical frame, and a mask (H * W,).

    The mask is false for pixels outside of a fisheye's image circle; their rays point along z.
    """
    v, u = np.mgrid[0 : model.height, 0 : model.width]
    rays = model.unproject(np.column_stack([u.ravel(), v.ravel()]))
    inside: NDArray[np.bool_] = np.asarray(np.isfinite(rays).all(axis=1), np.bool_)
    rays[~inside] = (0.0, 0.0, 1.0)
    return rays.astype(np.float32), inside


def image_truth(
    scene: Scene,
    distance: NDArray[np.float32],
    triangle: NDArray[np.int32],
    directions: NDArray[np.float32],
    inside: NDArray[np.bool_],
    shape: tuple[int, int],
) -> ImageTruth:
    """Ground truth of an image from the hits of its rays.

    distance, triangle, directions, inside: of each pixel (H * W, ...), see RayHits and pixel_rays.
    shape: (H, W).
    """
    object_index = scene.triangles.object_index[np.maximum(triangle, 0)]
    is_hit = (triangle >= 0) & inside
    semantics = np.where(is_hit, scene.semantics[object_index], np.uint8(SKY_CLASS))
    semantics[~inside] = 0
    instances = np.where(is_hit, scene.tracks[object_index], np.int32(0))
    depth = np.where(is_hit, distance * directions[:, 2], np.float32(np.inf))
    ranges = np.where(is_hit, distance, np.float32(np.inf))
    return ImageTruth(
        depth.reshape(shape),
        semantics.reshape(shape),
        instances.reshape(shape),
        ranges.reshape(shape),
    )


def daylight(
    conditions: Conditions, indoor: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Light of the sun, the zenith and the horizon, linear RGB (3,) float32 each.

    The sun's colour follows from the air mass with Rayleigh optical depths of 0.05, 0.10 and 0.24 for
    red, green and blue (Bucholtz 1995, slightly increased for haze).
    """
    if indoor:
        lamp_level = conditions.lamp_brightness
        sun, ceiling, wall = np.array([0.5, 0.5, 0.48]), np.full(3, 0.5), np.full(3, 0.4)
        dark = np.float32((1.0 - lamp_level) * UNLIT_HALL)
        return (
            (lamp_level * sun).astype(np.float32),
            (lamp_level * ceiling).astype(np.float32) + dark,
            (lamp_level * wall).astype(np.float32) + dark,
        )
    if conditions.night:
        sky = np.array([0.0030, 0.0038, 0.0060], np.float32)
        return np.zeros(3, np.float32), sky, np.array([0.008, 0.008, 0.010], np.float32)
    elevation = max(conditions.sun_elevation, 0.5)
    air_mass = 1.0 / (np.sin(np.radians(elevation)) + 0.15 * (elevation + 3.9) ** -1.25)
    sun = 1.35 * np.exp(-np.array([0.05, 0.10, 0.24]) * air_mass)
    overcast = 1.0 - np.exp(-conditions.rain / 3.0)
    if conditions.fog_visibility > 0:
        overcast = max(overcast, min(1.0, 300.0 / conditions.fog_visibility))
    strength = 0.45 + 0.55 * min(1.0, conditions.sun_elevation / 25.0)
    zenith = np.array([0.20, 0.33, 0.60]) * strength
    horizon = np.array([0.62, 0.70, 0.80]) * strength
    grey = np.full(3, 0.50) * strength
    zenith += overcast * (grey - zenith)
    horizon += overcast * (1.15 * grey - horizon)
    sun *= 1.0 - 0.97 * overcast
    return sun.astype(np.float32), zenith.astype(np.float32), horizon.astype(np.float32)


def auto_exposure_gain(light: NDArray[np.float32]) -> float:
    """Gain that maps the geometric mean of the lower two thirds of the image to grey, 0.3 to 14."""
    rows = light[light.shape[0] // 3 :: 4, ::4].mean(axis=-1)
    mean = float(np.exp(np.mean(np.log(rows + 1e-3))))
    return float(np.clip(0.19 / max(mean, 1e-4), 0.3, 14.0))


def _headlights(
    ego: NDArray[np.float64], conditions: Conditions, indoor: bool
) -> NDArray[np.float32]:
    """Headlights (8,) float32 for shading.shade: position, direction, strength, lamp brightness."""
    position = ego[:3, 3] + ego[:3, :3] @ (1.8, 0.0, 0.68)
    dark = conditions.night and not indoor
    strength = (14.0, 2.0 * conditions.lamp_brightness) if dark else (0.0, 0.0)
    return np.array([*position, *ego[:3, 0], *strength], np.float32)


def _add_raindrops(
    light: NDArray[np.float32], rain: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add raindrops on the lens: round spots that show a blurred, upside-down image."""
    height, width = light.shape[:2]
    refracted = cv2.GaussianBlur(light[::-1, ::-1], (0, 0), 9.0)
    mask = np.zeros((height, width), np.float32)
    for _ in range(int(rng.poisson(min(3.0 * rain**0.5, 60.0)))):
        centre = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(mask, centre, int(rng.integers(2, max(3, width // 60))), 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.5)[..., None]
    return np.asarray(light + mask * (refracted - light), np.float32)


def add_lens_dirt(light: NDArray[np.float32], fraction: float, name: str) -> NDArray[np.float32]:
    """Add out-of-focus dirt spots at fixed positions until the fraction of the image is covered.

    name: the sensor's name, which seeds the positions.
    """
    height, width = light.shape[:2]
    rng = np.random.default_rng([ord(c) for c in name])
    mask = np.zeros((height, width), np.float32)
    for _ in range(400):
        if mask.mean() >= fraction:
            break
        centre = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(mask, centre, int(rng.integers(2, max(4, width // 14))), 1.0, -1)
    mask = 0.88 * cv2.GaussianBlur(mask, (0, 0), 4.0)[..., None]
    dirt_colour = light.mean() * np.array([0.30, 0.26, 0.20], np.float32)
    return np.asarray(light + mask * (dirt_colour - light), np.float32)
