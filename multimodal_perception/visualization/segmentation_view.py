"""Segmentation masks drawn over the image of their sensor."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.segmentation.classes import COLOURS, SEGMENTATION_CLASSES
from multimodal_perception.visualization.palette import Colour, class_colour

MASK_OPACITY = 0.5
_BY_NAME: dict[str, Colour] = {
    name: (int(r), int(g), int(b))
    for name, (r, g, b) in zip(SEGMENTATION_CLASSES, COLOURS, strict=True)
}


def draw_segmentation(frame: SensorFrame, mask: SegmentationMask) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) uint8: the sensor's image blended with the colours of its mask.

    If the frame has no image of the sensor, only the mask colours are drawn. Labels without a class name
    are black.
    """
    mask_colours = mask_palette(mask.class_names)[mask.labels]
    image = sensor_image(frame, mask.sensor)
    if image is None:
        return mask_colours
    if image.shape[:2] != mask.labels.shape:
        size = mask.labels.shape[1], mask.labels.shape[0]
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(
        cv2.addWeighted(image, 1.0 - MASK_OPACITY, mask_colours, MASK_OPACITY, 0.0), np.uint8
    )


def mask_palette(class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Colours (256, 3) uint8 RGB by label; black for labels without a class name."""
    colours = np.zeros((256, 3), np.uint8)
    for i, name in enumerate(class_names[:256]):
        colours[i] = name_colour(name)
    return colours


def name_colour(name: str) -> Colour:
    """The colour of a class of objects or of pixels; grey for other names."""
    return _BY_NAME.get(name) or class_colour(name)


def sensor_image(frame: SensorFrame, sensor: str) -> NDArray[np.uint8] | None:
    """RGB image (H, W, 3) uint8 of a camera or thermal camera; None if the frame has none of it."""
    if sensor in frame.cameras:
        return np.ascontiguousarray(frame.cameras[sensor].rgb())
    if sensor not in frame.thermals:
        return None
    pixels = frame.thermals[sensor].filled_pixels()
    low, high = np.percentile(pixels[::2, ::2], (1, 99))
    grey = np.clip((pixels.astype(np.float32) - low) * (255.0 / max(high - low, 1.0)), 0, 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
