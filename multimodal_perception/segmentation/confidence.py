"""Confidence of the labels of a segmentation mask."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.perception import SegmentationMask
from multimodal_perception.runtime.temperatures import softmax_confidence


def label_confidence(mask: SegmentationMask, step: int = 1) -> NDArray[np.float32] | None:
    """Probability of the label of every `step`-th pixel in both directions, (h, w) float32.

    It belongs to `mask.labels[::step, ::step]` and uses the temperatures of the mask. None if the mask
    has no logits.
    """
    logits = sampled_logits(mask, step)
    if logits is None:
        return None
    labels = mask.labels[::step, ::step]
    flat = logits.reshape(-1, logits.shape[2])
    return softmax_confidence(flat, labels.ravel(), mask.temperatures).reshape(labels.shape)


def sampled_logits(mask: SegmentationMask, step: int = 1) -> NDArray[np.float32] | None:
    """Logits (h, w, classes) float32 of every `step`-th pixel in both directions, interpolated."""
    if mask.logits is None:
        return None
    height, width = mask.labels.shape
    rows, columns, _ = mask.logits.shape
    y = (np.arange(0, height, step, dtype=np.float32) + 0.5) * (rows / height) - 0.5
    x = (np.arange(0, width, step, dtype=np.float32) + 0.5) * (columns / width) - 0.5
    map_x, map_y = np.meshgrid(x, y)
    parts = [
        cv2.remap(
            np.ascontiguousarray(mask.logits[..., k]),
            map_x.astype(np.float32),
            map_y.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for k in range(mask.logits.shape[2])
    ]
    return np.asarray(np.stack(parts, axis=-1), np.float32)
