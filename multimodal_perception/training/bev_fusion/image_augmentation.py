"""Random changes of rendered images, so that networks trained on them generalise to real images."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageAugmentationConfig:
    """Random changes of the training images of the image networks.

    Attributes:
        mirror: Probability of mirroring an image. Set it to 0 for networks that must read text or
            distinguish left- from right-hand traffic.
        exposure: Strength of the changes of gain, gamma, offset and colour balance. Increase it for
            cameras with strongly varying exposure.
        saturation: Largest relative change of the saturation. Increase it for cameras with other
            colours than the rendered ones.
        grey: Fraction of the camera images without colours. Increase it for monochrome cameras.
        night: Fraction of the camera images that are made dark, noisy and blurred. Increase it for
            vehicles that mostly drive at night.
        blur: Fraction of the images that are blurred or sharpened. Increase it for soft lenses.
        noise: Largest standard deviation of additional noise, in grey levels. Increase it for cameras
            with small pixels.
        cutout: Largest number of rectangles of random colour in an image. Increase it when objects are
            missed behind dirt and other obstacles.
    """

    mirror: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    exposure: float = field(default=0.4, metadata={"min": 0.0, "max": 1.0})
    saturation: float = field(default=0.6, metadata={"min": 0.0, "max": 1.0})
    grey: float = field(default=0.08, metadata={"min": 0.0, "max": 1.0})
    night: float = field(default=0.12, metadata={"min": 0.0, "max": 1.0})
    blur: float = field(default=0.35, metadata={"min": 0.0, "max": 1.0})
    noise: float = field(default=8.0, metadata={"min": 0.0, "max": 64.0})
    cutout: int = field(default=2, metadata={"min": 0, "max": 32})


def augment_image(image: Image, config: ImageAugmentationConfig, rng: np.random.Generator) -> Image:
    """A changed camera image (H, W, 3) or thermal image (H, W); its geometry stays the same."""
    if image.ndim == 3:
        image = _vary_colours(image, config, rng)
    image = _vary_exposure(image, config.exposure, rng)
    if image.ndim == 3 and rng.random() < config.night:
        image = _darken(image, rng)
    if rng.random() < config.blur:
        image = _blur_or_sharpen(image, rng)
    deviation = rng.uniform(0.0, config.noise) * rng.random()
    if deviation > 0.5:
        noise = deviation * rng.standard_normal(image.shape, np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    image = image.copy()
    for _ in range(int(rng.integers(config.cutout + 1))):
        size = rng.uniform(0.03, 0.2, 2) * image.shape[:2]
        top, left = (int(v) for v in rng.uniform(0, 1, 2) * image.shape[:2])
        colour = rng.integers(0, 256, image.shape[2:])
        image[top : top + int(size[0]), left : left + int(size[1])] = colour
    return image


def _vary_colours(image: Image, config: ImageAugmentationConfig, rng: np.random.Generator) -> Image:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    if rng.random() < config.grey:
        return np.repeat(grey, 3, axis=2)
    factor = np.float32(1.0 + rng.uniform(-config.saturation, config.saturation))
    mixed = grey + factor * (image.astype(np.float32) - grey)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _vary_exposure(image: Image, amount: float, rng: np.random.Generator) -> Image:
    channels = image.shape[2] if image.ndim == 3 else 1
    gain = np.exp(rng.uniform(-amount, amount)) * np.exp(rng.normal(0, 0.15 * amount, channels))
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    curve = gain * levels ** np.exp(rng.uniform(-amount, amount))
    table = np.clip(255 * (curve + rng.uniform(-0.12, 0.12) * amount), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), np.uint8)


def _darken(image: Image, rng: np.random.Generator) -> Image:
    """An image as at an unlit night: motion blur along the rows, dark, noisy."""
    signal = cv2.blur(image, (int(rng.integers(1, 6)), 1)).astype(np.float32)
    signal *= np.exp(rng.uniform(np.log(0.12), np.log(0.7)))
    noise = rng.uniform(1.0, 8.0) * rng.standard_normal(image.shape, np.float32)
    return np.asarray(np.clip(signal + noise, 0, 255), np.uint8)


def _blur_or_sharpen(image: Image, rng: np.random.Generator) -> Image:
    sigma = rng.uniform(0.4, 1.6)
    blurred = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < 0.6:
        return np.asarray(blurred, np.uint8)
    amount = rng.uniform(0.3, 1.2)
    return np.asarray(cv2.addWeighted(image, 1.0 + amount, blurred, -amount, 0.0), np.uint8)
