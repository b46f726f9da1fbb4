"""Images resized to the input size of a network, with the matching camera model."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.cameras import CameraModel


def fit_image(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale an image (H, W[, 3]) to fit into size (height, width), keeping its aspect ratio.

    The remaining rows at the bottom or columns at the right are zero.
    """
    height, width = size
    scale = fit_scale(pixels.shape[:2], size)
    # Reversed channels (a BGR image as an RGB view) are reordered after the resize, on fewer pixels.
    reversed_channels = pixels.ndim == 3 and pixels.strides[2] < 0
    pixels = pixels[..., ::-1] if reversed_channels else pixels
    fitted = round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)
    if fitted != pixels.shape[:2]:
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(np.ascontiguousarray(pixels), fitted[::-1], interpolation=interpolation)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if reversed_channels else pixels
    if fitted == (height, width):
        return np.ascontiguousarray(pixels)
    result = np.zeros((height, width, *pixels.shape[2:]), np.uint8)
    result[: fitted[0], : fitted[1]] = pixels
    return result


def fit_scale(shape: tuple[int, ...], size: tuple[int, int]) -> float:
    """Factor that scales an image (H, W) to fit into size (height, width)."""
    return min(size[0] / shape[0], size[1] / shape[1])


def fitted_model(model: CameraModel, size: tuple[int, int]) -> CameraModel:
    """The camera model of the image content after fit_image, without the zero padding."""
    scale = fit_scale((model.height, model.width), size)
    width, height = round(model.width * scale), round(model.height * scale)
    return model.scaled(width / model.width, height / model.height)
