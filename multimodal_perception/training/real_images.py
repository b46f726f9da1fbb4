"""Labelled images of real cameras as training data of the segmentation and of the image detector.

A folder contains for each image NAME.jpg, NAME.labels.png with indices into SEGMENTATION_CLASSES (255:
unknown), and NAME.boxes.json with the 2D boxes. training/image_labelling.py writes such folders with
networks as teachers; labels of your own can be stored in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES

IMAGE, LABELS, BOXES = ".jpg", ".labels.png", ".boxes.json"


@dataclass(frozen=True)
class RealImage:
    """A labelled image of a camera.

    pixels: (H, W, 3) uint8 RGB. labels: (H, W) uint8, index into SEGMENTATION_CLASSES or IGNORED.
    boxes: (K, 4) float32 left, top, right, bottom, pixels. classes: (K,) index into the classes of the
    image detector, -1 for regions that are neither objects nor background.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]


def write_image(folder: Path, image: RealImage, quality: int = 95) -> None:
    """Write one image with its labels. The image file is written last, when the others are complete."""
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{image.name}{LABELS}"), image.labels)
    boxes = {
        "boxes": np.round(image.boxes, 1).tolist(),
        "classes": image.classes.tolist(),
    }
    (folder / f"{image.name}{BOXES}").write_text(json.dumps(boxes), encoding="utf-8")
    bgr = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(folder / f"{image.name}{IMAGE}"), bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])


def read_images(folder: Path, box_classes: Sequence[str]) -> list[RealImage]:
    """All images of a folder, sorted by name. Raises UserError for a file that cannot be used.

    box_classes: classes of the image detector.
    """
    paths = sorted(folder.glob(f"*{IMAGE}"))
    if not paths:
        raise UserError(f"{folder}: no labelled images NAME{IMAGE} with NAME{LABELS}")
    return [_read_image(path, len(box_classes)) for path in paths]


def _read_image(path: Path, box_classes: int) -> RealImage:
    name = path.name.removesuffix(IMAGE)
    pixels = _read(path, cv2.IMREAD_COLOR)
    label_path = path.with_name(f"{name}{LABELS}")
    labels = _read(label_path, cv2.IMREAD_UNCHANGED)
    if labels.dtype != np.uint8 or labels.shape != pixels.shape[:2]:
        raise UserError(
            f"{label_path}: {labels.dtype} {labels.shape}; expected uint8 {pixels.shape[:2]}"
        )
    wrong = labels[(labels >= len(SEGMENTATION_CLASSES)) & (labels != IGNORED)]
    if wrong.size:
        raise UserError(
            f"{label_path}: label {int(wrong.flat[0])}; allowed: 0 to {len(SEGMENTATION_CLASSES) - 1} "
            f"and {IGNORED}"
        )
    boxes, classes = _read_boxes(path.with_name(f"{name}{BOXES}"), box_classes)
    return RealImage(name, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), labels, boxes, classes)


def _read(path: Path, mode: int) -> NDArray[Any]:
    pixels = cv2.imread(str(path), mode)
    if pixels is None:
        raise UserError(f"{path}: missing, or not an image")
    return pixels


def _read_boxes(path: Path, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        boxes = np.array(content["boxes"], np.float32).reshape(-1, 4)
        classes = np.array(content["classes"], np.int64).reshape(-1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    if len(boxes) != len(classes) or (classes >= count).any() or (classes < -1).any():
        raise UserError(f"{path}: expected one class of -1 to {count - 1} for each box")
    return boxes, classes
