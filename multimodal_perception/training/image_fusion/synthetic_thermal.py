"""Image pairs for the training of the image fusion from labelled real images without a thermal image.

The thermal image is synthesised from the labels: each class has a random temperature, people and riders
are among the warmest, with texture of the visible image and the blur of a thermal camera. So that the
fusion does not depend on the content, other pairs are an image and its negative with another tone curve,
and two different images. The pixel statistics of the visible image are those of real cameras.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.networks.rgb_thermal_detection import CLASSES
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.training.image_fusion.samples import Sample
from multimodal_perception.training.real_images import read_images

# Range of the grey level of each class in the synthesised thermal image, 0 to 255.
GREY_LEVELS = {
    "road": (70, 170),
    "sidewalk": (70, 170),
    "vehicle": (90, 230),
    "person": (200, 255),
    "cyclist": (180, 255),
    "building": (60, 180),
    "vegetation": (40, 140),
    "pole": (50, 180),
    "sky": (0, 60),
    "other": (50, 180),
}
FOREGROUND = ("vehicle", "person", "cyclist")
# Thermal images that are synthesised for each visible image; a negative and another image are added.
VARIANTS = 3
WIDTH = 640


def labelled_samples(folder: Path, seed: int = 0) -> list[Sample]:
    """Samples of all images of a folder, see training/real_images.py. Raises UserError."""
    samples = []
    images = read_images(folder, CLASSES)
    for number, image in enumerate(images):
        size = WIDTH, round(image.labels.shape[0] * WIDTH / image.labels.shape[1])
        grey = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        labels = np.asarray(
            cv2.resize(image.labels, size, interpolation=cv2.INTER_NEAREST), np.uint8
        )
        names = [SEGMENTATION_CLASSES.index(name) for name in FOREGROUND]
        foreground = np.isin(labels, names).astype(np.uint8) * 255
        for variant in range(VARIANTS):
            rng = np.random.default_rng((seed, number, variant))
            samples.append(Sample(grey, synthesise_thermal(grey, labels, rng), foreground))
        rng = np.random.default_rng((seed, number, VARIANTS))
        samples.append(Sample(grey, _negative(grey, rng), np.zeros_like(foreground)))
        other = cv2.cvtColor(images[int(rng.integers(len(images)))].pixels, cv2.COLOR_RGB2GRAY)
        other = np.asarray(cv2.resize(other[:, ::-1], size, interpolation=cv2.INTER_AREA), np.uint8)
        samples.append(Sample(grey, other, np.zeros_like(foreground)))
    return samples


def _negative(grey: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The negative of an image (H, W) with a random gamma and slight blur."""
    values = (1.0 - grey.astype(np.float32) / 255.0) ** float(np.exp(rng.uniform(-0.7, 0.7)))
    blurred = cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.5, 1.5)))
    return np.asarray(255.0 * blurred, np.uint8)


def synthesise_thermal(
    grey: NDArray[np.uint8], labels: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A thermal image (H, W) uint8 of a scene, from a visible image (H, W) and its labels (H, W)."""
    levels = np.full(256, 110.0, np.float32)
    for number, name in enumerate(SEGMENTATION_CLASSES):
        levels[number] = rng.uniform(*GREY_LEVELS[name])
    levels[IGNORED] = rng.uniform(60, 160)
    image = levels[labels]
    values = grey.astype(np.float32)
    smooth = cv2.GaussianBlur(values, (0, 0), 6.0)
    texture = cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.6, 1.5))) - smooth
    image += rng.uniform(-1.2, 1.2) * texture  # cold or warm paint, joints and shadows
    # Gradients of temperature within the classes.
    coarse = rng.standard_normal((6, 8)).astype(np.float32) * 15.0
    image += cv2.resize(coarse, (grey.shape[1], grey.shape[0]), interpolation=cv2.INTER_CUBIC)
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.6, 1.8)))
    image += rng.standard_normal(grey.shape, np.float32) * rng.uniform(0.5, 3.0)
    return np.clip(image, 0, 255).astype(np.uint8)
