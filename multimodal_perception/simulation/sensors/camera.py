"""Cameras for visible light: pinhole and fisheye, by day and by night."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import build
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.rig import Sensor
from multimodal_perception.simulation.sensors.conditions import Conditions
from multimodal_perception.simulation.sensors.motion_blur import image_motion, smeared
from multimodal_perception.simulation.sensors.shading import shade, shadow_rays
from multimodal_perception.simulation.world.materials import SKY, TABLE
from multimodal_perception.simulation.world.scene import Scene, rays_from

# Light of a hall without lamps: with the noise of CameraPhysics a white wall is then four to five times
# its noise, as a pixel of an f/2 fisheye with 3 um pixels, 33 ms and a read noise of 2.5 electrons is at
# 0.1 lx, binned to a fortieth.
UNLIT_HALL = 0.015
# Shadows further away are a pixel or two.
SHADOW_RANGE = 110.0


@dataclass(frozen=True)
class CameraPhysics:
    """What a rig file may say of a camera under `simulation`.

    full_well: electrons of a white pixel; their square root is the shot noise (EMVA 1288). read_noise:
    electrons. vignetting: loss of light in the corners, share. blur: of the lens, pixels. exposure:
    stops beyond the automatic one. shutter: seconds that it is open by day; in the dark four times as
    long.
    """

    full_well: float = field(default=9000.0, metadata={"min": 100.0, "max": 1e6})
    read_noise: float = field(default=14.0, metadata={"min": 0.0, "max": 1e4})
    vignetting: float = field(default=0.25, metadata={"min": 0.0, "max": 1.0})
    blur: float = field(default=0.45, metadata={"min": 0.0, "max": 10.0, "unit": "px"})
    exposure: float = field(default=0.0, metadata={"min": -6.0, "max": 6.0})
    shutter: float = field(default=0.002, metadata={"min": 0.0, "max": 0.1, "unit": "s"})
    noise: bool = True


@dataclass(frozen=True)
class View:
    """What the pixels of a camera see, before its optics and electronics.

    depth: (H, W) float32, metres along z of the optical frame, inf for sky and where a fisheye has no
    image. semantics: (H, W) uint8. instances: (H, W) int32, track ids, 0 for scenery.
    """

    depth: NDArray[np.float32]
    semantics: NDArray[np.uint8]
    instances: NDArray[np.int32]


class SimulatedCamera:
    """One camera of a rig."""

    def __init__(self, sensor: Sensor, model: CameraModel) -> None:
        self.name = sensor.name
        self.model = model
        self.physics = build(CameraPhysics, sensor.simulation, f"sensor {sensor.name} simulation")
        self.directions, self.inside = pixel_rays(model)
        v, u = np.mgrid[0 : model.height, 0 : model.width]
        off = np.hypot(u / model.width - 0.5, v / model.height - 0.5) / np.hypot(0.5, 0.5)
        self._falloff = (1.0 - self.physics.vignetting * off**2).astype(np.float32)[..., None]

    def take(
        self,
        scene: Scene,
        pose: NDArray[np.float64],
        ego: NDArray[np.float64],
        conditions: Conditions,
        indoor: bool,
        rng: np.random.Generator,
        pose_after: Callable[[float], NDArray[np.float64]] | None = None,
    ) -> tuple[NDArray[np.uint8], View]:
        """An image (H, W, 3) uint8 RGB from a pose (4, 4), and its truth; ego: base's pose (4, 4).

        pose_after: pose at seconds from the middle of the exposure; without it nothing blurs.
        """
        rays = rays_from(pose, self.directions)
        hits = scene.cast(rays)
        sun = np.array(conditions.sun, np.float32)
        sunlight, zenith, horizon = daylight(conditions, indoor)
        lit = np.ones(len(rays), np.bool_)
        if indoor:
            sun = np.array([0.25, 0.1, 0.963], np.float32)
        elif sunlight.max() > 0.01:
            to_sun = np.empty_like(rays)
            soup = scene.soup
            count, index = shadow_rays(
                rays, hits.distance, hits.triangle, soup.corners, sun, SHADOW_RANGE, to_sun
            )
            lit[index] = ~scene.hidden(to_sun[:count])
        light = np.empty((len(rays), 3), np.float32)
        soup = scene.soup
        shade(
            rays, hits.distance, hits.triangle, hits.uv, soup.corners, soup.normals, soup.materials,
            soup.object_of, scene.objects, TABLE, lit, sun, sunlight, zenith, horizon, scene.lamps,
            _head_lamps(ego, conditions, indoor), float(scene.origin[0]),
            conditions.extinction * (0.0 if indoor else 1.0), scene.box_of, scene.boxes,
            conditions.patch, light,
        )  # fmt: skip
        light[~self.inside] = 0.0
        shape = self.model.height, self.model.width
        picture = light.reshape(*shape, 3)
        shutter = self.physics.shutter * (4.0 if conditions.night or indoor else 1.0)
        if pose_after is not None and shutter > 0.0:
            ends = pose_after(-shutter / 2), pose_after(shutter / 2)
            flow = image_motion(self.model, scene, hits, self.directions, pose, ends, shutter)
            picture = smeared(picture, flow)
        pixels = self._develop(picture, conditions, indoor, rng)
        return pixels, view_of(
            scene, hits.distance, hits.triangle, self.directions, self.inside, shape
        )

    def _develop(
        self,
        light: NDArray[np.float32],
        conditions: Conditions,
        indoor: bool,
        rng: np.random.Generator,
    ) -> NDArray[np.uint8]:
        """Optics, exposure, noise and the tone curve: light (H, W, 3) to an image."""
        p = self.physics
        if p.blur > 0:
            light = np.asarray(cv2.GaussianBlur(light, (0, 0), p.blur), np.float32)
        if conditions.rain > 0 and not indoor:
            light = _drops(light, conditions.rain, rng)
        if conditions.dirt > 0:
            light = _dirt(light, conditions.dirt, self.name)
        light *= self._falloff
        gain = np.float32(exposure(light) * 2.0**p.exposure)
        light *= gain
        # Gain multiplies the noise too: a picture by night is grainy.
        well = np.float32(p.full_well / max(float(gain), 1e-3))
        shape = light.shape if p.noise else (0, 0, 0)
        chance = rng.standard_normal(shape, np.float32)
        pixels = np.empty(light.shape, np.uint8)
        _expose(light, chance, well, np.float32(p.read_noise / well), _CURVE, pixels)
        return pixels


def _tone_curve() -> NDArray[np.uint8]:
    """Pixel values of light from 0 to 8 in 4096 equal steps of its square root.

    A filmic shoulder (Hable 2010 as Narkowicz 2015 fits it), then the power of sRGB nearly.
    """
    light = 8.0 * (np.arange(4096) / 4095) ** 2
    curve = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    return (255 * np.clip(curve, 0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)


_CURVE = _tone_curve()


@numba.njit(cache=True, nogil=True)
def _expose(light, chance, well, read, curve, pixels):  # type: ignore[no-untyped-def]
    """Shot and read noise where `chance` holds normal numbers, then the tone curve."""
    flat, numbers, out = light.reshape(-1), chance.reshape(-1), pixels.reshape(-1)
    for i in range(len(flat)):
        value = flat[i]
        if len(numbers) > 0:
            value += numbers[i] * np.sqrt(max(value, np.float32(0.0)) / well + read * read)
        share = np.sqrt(min(max(value, np.float32(0.0)), np.float32(8.0)) / 8.0)
        out[i] = curve[int(share * 4095.0 + 0.5)]


def pixel_rays(model: CameraModel) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Unit rays (H * W, 3) of the pixels in the optical frame, and which pixels have one."""
    v, u = np.mgrid[0 : model.height, 0 : model.width]
    rays = model.unproject(np.column_stack([u.ravel(), v.ravel()]))
    inside: NDArray[np.bool_] = np.asarray(np.isfinite(rays).all(axis=1), np.bool_)
    rays[~inside] = (0.0, 0.0, 1.0)
    return rays.astype(np.float32), inside


def view_of(
    scene: Scene,
    distance: NDArray[np.float32],
    triangle: NDArray[np.int32],
    directions: NDArray[np.float32],
    inside: NDArray[np.bool_],
    shape: tuple[int, int],
) -> View:
    """The truth of an image from what its rays hit."""
    owner = scene.soup.object_of[np.maximum(triangle, 0)]
    seen = (triangle >= 0) & inside
    semantics = np.where(seen, scene.semantics[owner], np.uint8(SKY))
    semantics[~inside] = 0
    instances = np.where(seen, scene.tracks[owner], np.int32(0))
    depth = np.where(seen, distance * directions[:, 2], np.float32(np.inf))
    return View(depth.reshape(shape), semantics.reshape(shape), instances.reshape(shape))


def daylight(
    conditions: Conditions, indoor: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Light of the sun, the zenith and the horizon, linear RGB (3,) each.

    The sun's colour by air mass: Rayleigh optical depths 0.05, 0.10, 0.24 for red, green and blue
    (Bucholtz 1995) with a little haze.
    """
    if indoor:
        on = conditions.lamps
        sun, ceiling, wall = np.array([0.5, 0.5, 0.48]), np.full(3, 0.5), np.full(3, 0.4)
        dark = np.float32((1.0 - on) * UNLIT_HALL)
        return (
            (on * sun).astype(np.float32),
            (on * ceiling).astype(np.float32) + dark,
            (on * wall).astype(np.float32) + dark,
        )
    if conditions.night:
        sky = np.array([0.0030, 0.0038, 0.0060], np.float32)
        return np.zeros(3, np.float32), sky, np.array([0.008, 0.008, 0.010], np.float32)
    height = max(conditions.sun_elevation, 0.5)
    mass = 1.0 / (np.sin(np.radians(height)) + 0.15 * (height + 3.9) ** -1.25)
    sun = 1.35 * np.exp(-np.array([0.05, 0.10, 0.24]) * mass)
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


def exposure(light: NDArray[np.float32]) -> float:
    """Gain that brings the mean light of the lower two thirds to a middle grey, within limits."""
    rows = light[light.shape[0] // 3 :: 4, ::4].mean(axis=-1)
    mean = float(np.exp(np.mean(np.log(rows + 1e-3))))
    return float(np.clip(0.19 / max(mean, 1e-4), 0.3, 14.0))


def _head_lamps(
    ego: NDArray[np.float64], conditions: Conditions, indoor: bool
) -> NDArray[np.float32]:
    place = ego[:3, 3] + ego[:3, :3] @ (1.8, 0.0, 0.68)
    dark = conditions.night and not indoor
    strength = (14.0, 2.0 * conditions.lamps) if dark else (0.0, 0.0)
    return np.array([*place, *ego[:3, 0], *strength], np.float32)


def _drops(
    light: NDArray[np.float32], rain: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Drops on the lens: round patches that show a wide, blurred, upside-down view."""
    height, width = light.shape[:2]
    wide = cv2.GaussianBlur(light[::-1, ::-1], (0, 0), 9.0)
    mask = np.zeros((height, width), np.float32)
    for _ in range(int(rng.poisson(min(3.0 * rain**0.5, 60.0)))):
        at = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(mask, at, int(rng.integers(2, max(3, width // 60))), 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.5)[..., None]
    return np.asarray(light + mask * (wide - light), np.float32)


def _dirt(light: NDArray[np.float32], share: float, name: str) -> NDArray[np.float32]:
    """Spots that stay where they are on the lens, out of focus, until `share` of it is covered."""
    height, width = light.shape[:2]
    rng = np.random.default_rng([ord(c) for c in name])
    mask = np.zeros((height, width), np.float32)
    for _ in range(400):
        if mask.mean() >= share:
            break
        at = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(mask, at, int(rng.integers(2, max(4, width // 14))), 1.0, -1)
    mask = 0.88 * cv2.GaussianBlur(mask, (0, 0), 4.0)[..., None]
    mud = light.mean() * np.array([0.30, 0.26, 0.20], np.float32)
    return np.asarray(light + mask * (mud - light), np.float32)
