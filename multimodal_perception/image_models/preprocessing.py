"""From an image to the input of an imported network, and from its pixels back to those of the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import build
from multimodal_perception.runtime.card import ModelCard, TensorSpec

Layout = Literal["NCHW", "NHWC"]
# Of the values 0 to 1 of ImageNet's images, RGB.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network.

    layout: order of the input's axes. resize: `letterbox` keeps the aspect ratio and fills the rest with
    the value `fill`; `stretch` does not. position: of the image in a letterbox. order: of the channels.
    scale: factor on the values 0 to 255. mean, std: subtracted after scaling, then divided by.
    """

    layout: Layout = "NCHW"
    resize: Literal["letterbox", "stretch"] = "letterbox"
    position: Literal["top_left", "centre"] = "centre"
    fill: int = 114
    order: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        values = np.array([self.scale, *self.mean, *self.std])
        if not np.isfinite(values).all() or self.scale == 0 or 0 in self.std:
            raise ValueError("scale and std must be finite and not 0, mean must be finite")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill: allowed: 0 to 255; got {self.fill}")

    def settings(self) -> dict[str, Any]:
        """Values for the model card."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


@dataclass(frozen=True)
class Placement:
    """Position of an image in a network's input.

    scale_x, scale_y: pixels of the input per pixel of the image. left, top: of the image in the input.
    width, height: of the image in the input, pixels.
    """

    scale_x: float
    scale_y: float
    left: int
    top: int
    width: int
    height: int

    def boxes_in_image(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Boxes (N, 4) x1 y1 x2 y2 from pixels of the input to pixels of the image."""
        offset = np.array([self.left, self.top] * 2, np.float32)
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        return np.asarray((boxes - offset) / scale, np.float32)


def read_preprocessing(card: ModelCard) -> Preprocessing:
    """The preprocessing in a card's settings. Raises UserError with the key of a wrong value."""
    values = card.settings.get("preprocessing", {})
    if not isinstance(values, Mapping):
        values = {"preprocessing": values}
    return build(Preprocessing, values, f"{card.source}: settings", "preprocessing")


def image_size(spec: TensorSpec, layout: Layout) -> tuple[int, int]:
    """Height and width of the image in an input."""
    rows, columns = (2, 3) if layout == "NCHW" else (1, 2)
    return spec.shape[rows], spec.shape[columns]


def place(
    width: int, height: int, size: tuple[int, int], preprocessing: Preprocessing
) -> Placement:
    """Placement of an image of width x height pixels in an input of size (height, width)."""
    rows, columns = size
    if preprocessing.resize == "stretch":
        return Placement(columns / width, rows / height, 0, 0, columns, rows)
    scale = min(columns / width, rows / height)
    fitted = max(round(width * scale), 1), max(round(height * scale), 1)
    left = top = 0
    if preprocessing.position == "centre":
        left, top = (columns - fitted[0]) // 2, (rows - fitted[1]) // 2
    return Placement(fitted[0] / width, fitted[1] / height, left, top, *fitted)


def prepare_image(
    rgb: NDArray[np.uint8], spec: TensorSpec, preprocessing: Preprocessing
) -> tuple[NDArray[Any], Placement]:
    """The input (1, ...) of a network for an image (H, W, 3) in RGB order, and the image's placement."""
    p = preprocessing
    size = image_size(spec, p.layout)
    placement = place(rgb.shape[1], rgb.shape[0], size, p)
    interpolation = cv2.INTER_AREA if placement.scale_x < 1 else cv2.INTER_LINEAR
    # Reversed channels (a BGR image as an RGB view) are reordered after the resize, on fewer pixels.
    reversed_channels = rgb.strides[2] < 0
    pixels = rgb[..., ::-1] if reversed_channels else rgb
    small = cv2.resize(
        np.ascontiguousarray(pixels),
        (placement.width, placement.height),
        interpolation=interpolation,
    )
    if (p.order == "BGR") != reversed_channels:
        small = small[..., ::-1]
    canvas = np.full((*size, 3), p.fill, np.uint8)
    rows = slice(placement.top, placement.top + placement.height)
    canvas[rows, placement.left : placement.left + placement.width] = small
    if spec.dtype == "uint8":
        values: NDArray[Any] = canvas
    else:
        scale = np.float32(p.scale) / np.array(p.std, np.float32)
        offset = np.array(p.mean, np.float32) / np.array(p.std, np.float32)
        values = (canvas * scale - offset).astype(spec.dtype)
    if p.layout == "NCHW":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[None]), placement
