"""Patches on the lens of a camera that drives over a textured ground."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from multimodal_perception.frame import CameraImage, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.image_quality import ImageQualityConfig, ImageQualityMonitor
from multimodal_perception.perception import ImageQuality
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL

WIDTH, HEIGHT = 160, 100
MODEL = CameraModel.pinhole(WIDTH, HEIGHT, 100.0)
STEP_M, STEPS = 0.7, 50

Image = np.ndarray


def texture() -> Image:
    """Grey levels (400, 400) of the ground, 0.1 m per pixel, with lane markings along x."""
    noise = np.random.default_rng(0).normal(0, 1, (400, 400)).astype(np.float32)
    grey = 110 + 120 * cv2.GaussianBlur(noise, (0, 0), 2.0) + 30 * noise
    grey[150:153] = 250.0
    return np.clip(grey, 0, 255)


TEXTURE = texture()


def road(travelled: float, pose: np.ndarray) -> Image:
    """Image (H, W) float of the ground seen from a pose, after the vehicle has driven some metres."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    rays = MODEL.unproject(np.column_stack([u.ravel(), v.ravel()]).astype(np.float64))
    ahead = rays @ pose[:3, :3].T
    distance = pose[2, 3] / np.maximum(-ahead[:, 2], 1e-6)
    x = (distance * ahead[:, 0] + travelled) * 10
    y = distance * ahead[:, 1] * 10
    grey = TEXTURE[y.astype(np.int64) % 400, x.astype(np.int64) % 400]
    sky = 200.0 + 30 * np.sin(0.1 * u.ravel())
    return np.where(ahead[:, 2] < -0.02, grey, sky).reshape(HEIGHT, WIDTH)


def with_spots(image: Image, dark: float = 40.0) -> Image:
    """Out-of-focus spots on the lens."""
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    for centre in ((40, 75), (120, 70)):
        cv2.circle(mask, centre, 7, 0.9, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 2.0)
    return image + mask * (dark - image)


def with_bonnet(image: Image) -> Image:
    """The vehicle's own body at the lower border."""
    image = image.copy()
    image[85:, 20:140] = 30.0
    return image


def drive(
    change: Callable[[Image], Image],
    yaw: float = 0.0,
    step_m: float = STEP_M,
    config: ImageQualityConfig | None = None,
    gain: float = 1.0,
) -> ImageQuality:
    """The last quality of a drive. yaw: of the camera, radians."""
    monitor = ImageQualityMonitor(config)
    pose = poses.from_xyz_rpy((1.0, 0.0, 1.4), (0.0, 0.0, yaw)) @ BODY_FROM_OPTICAL
    rng = np.random.default_rng(1)
    for k in range(STEPS):
        grey = gain * change(road(k * step_m, pose)) + rng.normal(0, 2, (HEIGHT, WIDTH))
        pixels = np.clip(grey, 0, 255).astype(np.uint8)
        frame = SensorFrame(
            k * 100_000_000,
            cameras={"camera": CameraImage("camera", k * 100_000_000, "", pixels, "mono8")},
            intrinsics={"camera": MODEL},
            base_from_sensor={"camera": pose},
            odom_from_base=poses.from_xyz_rpy((k * step_m, 0.0, 0.0)),
        )
        (quality,) = monitor.assess(frame).values()
    return quality


@pytest.mark.parametrize("yaw", [0.0, 1.5708, 3.1416], ids=["front", "side", "rear"])
def test_spots_on_the_lens_are_reported_and_a_clean_lens_is_not(yaw: float) -> None:
    clean, dirty = drive(lambda image: image, yaw), drive(with_spots, yaw)
    assert clean.cues["lens"] == 1.0 and clean.problems == ()
    assert 0.9 < dirty.cues["lens"] < 0.995
    assert len(dirty.problems) == 1 and dirty.problems[0].startswith("dirt, drops or other patches")


def test_spots_are_reported_at_night_too() -> None:
    assert drive(lambda image: image, gain=0.2).problems == ()
    assert drive(lambda image: with_spots(image, 0.0), gain=0.2).problems


def test_own_vehicle_and_large_plain_surfaces_are_not_reported() -> None:
    assert drive(with_bonnet).problems == ()
    assert drive(lambda image: np.full_like(image, 120.0)).problems == ()


def test_standing_or_unlocated_vehicle_and_disabled_check_report_nothing() -> None:
    assert "lens" not in drive(with_spots, step_m=0.0).cues
    off = ImageQualityConfig(lens_distance=0.0)
    assert "lens" not in drive(with_spots, config=off).cues


def test_image_that_differs_only_by_noise_while_driving_is_frozen() -> None:
    frozen = road(0.0, poses.from_xyz_rpy((1.0, 0.0, 1.4)) @ BODY_FROM_OPTICAL)
    found = drive(lambda image: frozen)
    assert found.cues["not_frozen"] == 0.0
    assert found.problems == ("frozen: the image has not changed for 4.9 s",)
    assert drive(lambda image: frozen, step_m=0.0).cues["not_frozen"] == 1.0
    assert drive(lambda image: image).cues["not_frozen"] == 1.0
