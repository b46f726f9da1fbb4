"""Images of any camera in the size that a network takes, with the camera model that then holds."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.cameras import CameraModel


def fit_image(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image (H, W[, 3]) scaled to fit into size (height, width), its shape kept; below or to the
    right of it zeros."""
    height, width = size
    scale = fit_scale(pixels.shape[:2], size)
    # Channels that come in reverse, as a view, are turned round when there are fewer pixels.
    turned = pixels.ndim == 3 and pixels.strides[2] < 0
    pixels = pixels[..., ::-1] if turned else pixels
    fitted = round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)
    if fitted != pixels.shape[:2]:
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(np.ascontiguousarray(pixels), fitted[::-1], interpolation=how)
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if turned else pixels
    if fitted == (height, width):
        return np.ascontiguousarray(pixels)
    result = np.zeros((height, width, *pixels.shape[2:]), np.uint8)
    result[: fitted[0], : fitted[1]] = pixels
    return result


def fit_scale(shape: tuple[int, ...], size: tuple[int, int]) -> float:
    """Factor by which an image (H, W) is scaled to fit into size (height, width)."""
    return min(size[0] / shape[0], size[1] / shape[1])


def fitted_model(model: CameraModel, size: tuple[int, int]) -> CameraModel:
    """The camera model of the fitted image (the part that holds pixels)."""
    scale = fit_scale((model.height, model.width), size)
    width, height = round(model.width * scale), round(model.height * scale)
    return model.scaled(width / model.width, height / model.height)
