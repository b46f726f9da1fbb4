"""Missed and false 2D boxes of an image, and their picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.evaluation.average_precision import (
    ImageDetections,
    ImageGroundTruth,
    match_boxes,
)
from multimodal_perception.geometry.image_boxes import iou
from multimodal_perception.visualization.canvas import write_text
from multimodal_perception.visualization.error_view import CORRECT, FALSE, MISSED

LEGEND = (
    "red: missed, orange: false, green: correct; boxes with at least the detector's score threshold"
)
# Width of a picture, pixels.
WIDTH = 900


@dataclass(frozen=True)
class BoxErrors:
    """Boxes (N, 4) in pixels with class indices (N,): labels without a box, false and correct boxes."""

    missed: tuple[NDArray[np.float32], NDArray[np.int64]]
    false: tuple[NDArray[np.float32], NDArray[np.int64]]
    correct: tuple[NDArray[np.float32], NDArray[np.int64]]

    @property
    def count(self) -> int:
        """Number of missed labels and false boxes."""
        return len(self.missed[0]) + len(self.false[0])


def box_errors(
    truth: ImageGroundTruth,
    detections: ImageDetections,
    min_scores: Sequence[float] | NDArray[np.floating],
) -> BoxErrors:
    """Errors at IoU 0.5 of the boxes whose score is at least that of their class.

    min_scores: (classes,) minimum score of each class.
    """
    kept = detections.scores >= np.asarray(min_scores, np.float64)[detections.labels]
    boxes, scores = detections.boxes[kept], detections.scores[kept]
    labels = detections.labels[kept]
    right, ignored = np.zeros(len(boxes), np.bool_), np.zeros(len(boxes), np.bool_)
    found = np.zeros(len(truth.boxes), np.bool_)
    for k in range(len(min_scores)):
        rows = np.flatnonzero(labels == k)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        own = np.flatnonzero(truth.labels == k)
        matched, skipped = match_boxes(boxes[rows], truth.boxes[own], truth.evaluated[own])
        right[rows], ignored[rows] = matched[0], skipped[0]
        # Each matched box belongs to the label with the highest IoU that no other box was matched to.
        for row in rows[matched[0]]:
            overlap = iou(truth.boxes[own], boxes[row : row + 1])[:, 0]
            overlap[found[own] | ~truth.evaluated[own]] = -1.0
            found[own[overlap.argmax()]] = True
    missed = truth.evaluated & ~found
    false = ~right & ~ignored
    return BoxErrors(
        (truth.boxes[missed], truth.labels[missed]),
        (boxes[false], labels[false]),
        (boxes[right], labels[right]),
    )


def draw_box_errors(
    rgb: NDArray[np.uint8], errors: BoxErrors, classes: Sequence[str]
) -> NDArray[np.uint8]:
    """RGB image (h, WIDTH, 3) uint8 with the boxes in the colours of LEGEND. rgb: (H, W, 3)."""
    scale = WIDTH / rgb.shape[1]
    size = WIDTH, max(round(rgb.shape[0] * scale), 1)
    image = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    for (boxes, labels), colour in (
        (errors.correct, CORRECT),
        (errors.false, FALSE),
        (errors.missed, MISSED),
    ):
        for box, label in zip(boxes, labels, strict=True):
            left, top, right, bottom = (round(float(v) * scale) for v in box)
            cv2.rectangle(image, (left, top), (right, bottom), colour, 2)
            write_text(image, classes[label], (left, max(top - 4, 10)), colour, 0.38)
    return image
