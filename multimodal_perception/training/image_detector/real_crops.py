"""Crops of labelled real images with their boxes, for the training of the image detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.image_boxes import areas
from multimodal_perception.networks.rgb_thermal_detection import CLASSES
from multimodal_perception.training.real_images import RealImage
from multimodal_perception.training.segmentation.camera_style import vary_camera
from multimodal_perception.training.segmentation.dataset import PADDING, View

# Range of the scale from a crop that shows the whole width to the network input.
SCALES = (1.0, 3.2)
# Fraction of the crops around a person or cyclist, if the image has any.
RARE_FRACTION = 0.5
# An object of which less is inside the crop is ignored.
MIN_VISIBLE_FRACTION = 0.4
MIN_HEIGHT = 5.0


@dataclass(frozen=True)
class LabelledCrop:
    """A view with boxes (K, 4) in pixels, classes (K,), and a mask (K,) of those that are objects."""

    view: View
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    valid: NDArray[np.bool_]


def real_crops(
    image: RealImage,
    size: tuple[int, int],
    count: int,
    camera_variation: float,
    rng: np.random.Generator,
) -> Iterator[LabelledCrop]:
    """The whole image and `count` random crops. size: rows and columns of the network input."""
    height, width = image.labels.shape
    whole = min(size[1] / width, size[0] / height)
    yield _crop(image, np.array([[whole, 0.0, 0.0], [0.0, whole, 0.0]]), size)
    rare = np.flatnonzero(
        np.isin(image.classes, [CLASSES.index("person"), CLASSES.index("cyclist")])
    )
    for _ in range(count):
        factor = whole * float(np.exp(rng.uniform(*np.log(SCALES))))
        centre = rng.uniform((0.0, 0.25 * height), (width, 0.85 * height))
        if len(rare) and rng.random() < RARE_FRACTION:
            box = image.boxes[rng.choice(rare)]
            centre = (box[:2] + box[2:]) / 2 + rng.uniform(-0.3, 0.3, 2) * np.array(
                size[::-1]
            ) / factor
        offset = np.array(size[::-1]) / 2 - factor * centre
        # The crop does not extend beyond the image where the image is larger.
        margin = np.array(size[::-1]) - factor * np.array([width, height])
        offset = np.clip(offset, np.minimum(margin, 0.0), np.maximum(margin, 0.0))
        matrix = np.array([[factor, 0.0, offset[0]], [0.0, factor, offset[1]]])
        if rng.random() < 0.5:
            matrix[0] = -matrix[0]
            matrix[0, 2] += size[1]
        crop = _crop(image, matrix, size)
        assert crop.view.visible is not None
        visible = vary_camera(crop.view.visible, camera_variation, rng)
        view = View(visible, crop.view.thermal, crop.view.thermal_mask, crop.view.labels)
        yield LabelledCrop(view, crop.boxes, crop.classes, crop.valid)


def _crop(image: RealImage, matrix: NDArray[np.float64], size: tuple[int, int]) -> LabelledCrop:
    """The image after an affine map without rotation, with its boxes."""
    columns_rows = size[1], size[0]
    reduced = abs(matrix[0, 0]) < 0.8
    pixels = image.pixels
    if reduced:  # warpAffine does not average over pixels
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.4 / abs(matrix[0, 0])), np.uint8)
    visible = cv2.warpAffine(pixels, matrix, columns_rows, flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(
        np.zeros(image.labels.shape, np.uint8),
        matrix,
        columns_rows,
        flags=cv2.INTER_NEAREST,
        borderValue=PADDING,
    )
    blank = np.zeros(size, np.float16)
    boxes = image.boxes.astype(np.float64)
    x = np.sort(boxes[:, [0, 2]] * matrix[0, 0] + matrix[0, 2], axis=1)
    y = boxes[:, [1, 3]] * matrix[1, 1] + matrix[1, 2]
    full = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1).astype(np.float32)
    clipped = np.clip(full, 0.0, np.array(columns_rows * 2, np.float32))
    visible_fraction = areas(clipped) / np.maximum(areas(full), 1e-6)
    kept = areas(clipped) > 1.0
    valid = (
        (image.classes >= 0)
        & (visible_fraction >= MIN_VISIBLE_FRACTION)
        & (clipped[:, 3] - clipped[:, 1] >= MIN_HEIGHT)
    )
    view = View(np.asarray(visible, np.uint8), blank, np.zeros(size, np.uint8), inside)
    return LabelledCrop(view, clipped[kept], np.maximum(image.classes[kept], 0), valid[kept])


def crops_of_images(
    images: Sequence[RealImage],
    size: tuple[int, int],
    count: int,
    camera_variation: float,
    seed: int,
) -> Iterator[tuple[str, LabelledCrop]]:
    """Names and crops of all images; those of an image depend on the seed and its number only."""
    for number, image in enumerate(images):
        rng = np.random.default_rng((seed, 1_000_003, number))
        for k, crop in enumerate(real_crops(image, size, count, camera_variation, rng)):
            yield f"real_{image.name}_{k:03d}", crop
