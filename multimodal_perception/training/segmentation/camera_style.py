"""Random changes of the look of camera images, which rendered images have too little of.

Every change keeps the geometry, so that labels stay valid: colour statistics of real images (Reinhard et
al. 2001), tone curve, white balance, saturation, blur, noise and JPEG compression.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def match_colours(image: Image, reference: Image, strength: float) -> Image:
    """The image (H, W, 3) with the mean and standard deviation of the reference in each Lab channel.

    strength: 0 returns the image, 1 the complete match.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    target = cv2.cvtColor(reference, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    mean, deviation = lab.mean(axis=(0, 1)), lab.std(axis=(0, 1)) + 1.0
    # The contrast is changed by a factor of two at most.
    gain = np.clip((target.std(axis=0) + 1.0) / deviation, 0.5, 2.0)
    matched = (lab - mean) * gain + target.mean(axis=0)
    mixed = np.clip(lab + strength * (matched - lab), 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(mixed, cv2.COLOR_LAB2RGB), np.uint8)


def vary_camera(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """A random camera's image (H, W, 3) of the same scene. strength: 0 to 1."""
    image = _tone_curve(image, strength, rng)
    if rng.random() < 0.5 * strength:
        image = _saturation(image, float(np.exp(rng.uniform(-0.7, 0.4) * strength)))
    if rng.random() < 0.4 * strength:
        sigma = float(rng.uniform(0.3, 1.2))
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    elif rng.random() < 0.3 * strength:
        blurred = cv2.GaussianBlur(image, (0, 0), 1.0)
        image = np.asarray(cv2.addWeighted(image, 1.6, blurred, -0.6, 0), np.uint8)
    if rng.random() < 0.5 * strength:
        noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(1.0, 8.0)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.4 * strength:
        quality = int(rng.integers(25, 90))
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return image


def _tone_curve(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Random monotonic curve, gain of each channel (white balance) and haze."""
    x = np.linspace(0.0, 1.0, 256, dtype=np.float32)
    knots = np.linspace(0.0, 1.0, 5)
    steps = np.exp(rng.normal(0.0, 0.5 * strength, len(knots) - 1))
    curve = np.interp(x, knots, np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum())
    low, high = rng.uniform(0.0, 0.15) * strength, 1.0 - rng.uniform(0.0, 0.15) * strength
    gains = np.exp(rng.normal(0.0, 0.12 * strength, 3))
    table = np.clip((low + (high - low) * curve)[:, None] * gains * 255.0, 0, 255)
    return np.asarray(cv2.LUT(image, table.astype(np.uint8)[None]), np.uint8)


def _saturation(image: Image, factor: float) -> Image:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(image, factor, grey, 1.0 - factor, 0), np.uint8)
