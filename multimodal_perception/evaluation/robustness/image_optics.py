"""Faults of light, lens and compression of images: darkness, glare, blur, dirt, drops and compression.

Images are float32 arrays (H, W, channels) in [0, 1]; the functions return new arrays of the same shape.
Constants of ImageNet-C (Hendrycks and Dietterich 2019) are for images of 224 pixels; lengths are scaled
to the size of the image.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.sensors.camera import CameraSimulationConfig, add_lens_dirt

Image = NDArray[np.float32]
IMAGENET_SIZE = 224
GAMMA = 2.2
# Colour of the sun's stray light.
SUN_COLOUR = np.array([1.0, 0.96, 0.86], np.float32)
MAX_DROPS = 200


def length_scale(image: Image) -> float:
    """Factor from lengths in ImageNet-C's images to those in an image."""
    return min(image.shape[:2]) / IMAGENET_SIZE


def low_light(image: Image, factor: float, rng: Any) -> Image:
    """A scene with `factor` of the light, without more gain: darker and with more noise.

    Shot noise and read noise are those of the simulated cameras (EMVA 1288).
    """
    camera = CameraSimulationConfig()
    electrons = image**GAMMA * factor * camera.full_well
    noise = rng.standard_normal(image.shape, np.float32)
    measured = electrons + noise * np.sqrt(electrons + camera.read_noise**2)
    light = np.clip(measured / camera.full_well, 0.0, 1.0)
    return np.asarray(light ** (1.0 / GAMMA), np.float32)


def motion_blur(image: Image, deviation: float, degrees: float) -> Image:
    """Blur along a line on one side of the pixel, with Gaussian weights, as in ImageNet-C.

    deviation: of the Gaussian, in pixels of ImageNet-C's images. degrees: direction in the image.
    """
    deviation = max(deviation * length_scale(image), 0.2)
    length = 3.0 * deviation
    half = int(np.ceil(length))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    direction = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    steps = np.linspace(0.0, length, 4 * half + 1)
    weights = np.exp(-0.5 * (steps / deviation) ** 2)
    rows = np.rint(half + steps * direction[1]).astype(int)
    columns = np.rint(half + steps * direction[0]).astype(int)
    np.add.at(kernel, (rows, columns), weights)
    blurred = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float32).reshape(image.shape)


def lens_dirt(image: Image, fraction: float, sensor: str) -> Image:
    """Dirt on `fraction` of the lens at constant positions: the dirt of the simulator."""
    colour = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    dirty = np.clip(add_lens_dirt(colour, fraction, sensor), 0.0, 1.0)
    return dirty[..., : image.shape[2]]


def water_drops(image: Image, count: int, rng: Any) -> Image:
    """Drops on the lens that show a blurred image upside down, as in the simulator.

    rng: constant for a sensor, so that drops stay where they are and a higher count adds drops.
    """
    height, width = image.shape[:2]
    centres = rng.random((MAX_DROPS, 2)) * (width, height)
    radii = width * rng.uniform(0.008, 0.035, MAX_DROPS)
    mask = np.zeros((height, width), np.float32)
    for centre, radius in zip(centres[:count], radii, strict=False):
        position = int(centre[0]), int(centre[1])
        cv2.circle(mask, position, max(round(radius), 1), 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.5)[..., None]
    upside_down = np.ascontiguousarray(image[::-1, ::-1])
    refracted = cv2.GaussianBlur(upside_down, (0, 0), width / 70).reshape(image.shape)
    return np.asarray(image + mask * (refracted - image), np.float32)


def sun_glare(image: Image, strength: float, rng: Any) -> Image:
    """The sun in the upper half of the image with the stray light of the lens.

    At the distance d from the sun, in widths of the image, the stray light is
    strength * (0.02 / (d^2 + 0.01) + 0.1), where 1 is the highest pixel value. It
    decreases with the square of the angle (CIE general disability glare equation, Vos 2003). rng:
    constant for a sensor.
    """
    height, width = image.shape[:2]
    centre = width * rng.uniform(0.25, 0.75), height * rng.uniform(0.1, 0.4)
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = np.hypot(u - centre[0], v - centre[1]) / width
    veil = strength * (0.02 / (distance**2 + 0.01) + 0.1)
    colour = SUN_COLOUR if image.shape[2] == 3 else np.float32(1.0)
    return np.clip(image + veil[..., None].astype(np.float32) * colour, 0.0, 1.0)


def compress_jpeg(image: Image, quality: int) -> Image:
    """JPEG compression with a quality from 1 to 100."""
    pixels = np.rint(255.0 * image).astype(np.uint8)
    shown = pixels[..., ::-1] if pixels.shape[2] == 3 else pixels
    encoded = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    flag = cv2.IMREAD_COLOR if pixels.shape[2] == 3 else cv2.IMREAD_GRAYSCALE
    decoded = cv2.imdecode(encoded, flag)
    assert decoded is not None
    decoded = decoded[..., ::-1] if pixels.shape[2] == 3 else decoded[..., None]
    return np.asarray(decoded, np.float32) / 255.0
