"""The fraction of near objects in images that are found."""

from __future__ import annotations

import math

import numpy as np

from multimodal_perception.evaluation.class_sets import CLASS_SETS
from multimodal_perception.evaluation.image_recall import ImageRecall
from multimodal_perception.frame import CLASS_NAMES, Boxes3D

PROTOCOL = CLASS_SETS["six"].protocol()


def boxes(rows: list[tuple[float, float, str, float]]) -> Boxes3D:
    """Boxes of x, y, class and score."""
    array = np.ones((len(rows), 7), np.float32)
    for k, row in enumerate(rows):
        array[k, :2] = row[:2]
    labels = np.array([CLASS_NAMES.index(row[2]) for row in rows], np.int64)
    return Boxes3D(0, "base_link", array, np.array([r[3] for r in rows], np.float32), labels)


def test_only_near_objects_in_images_count() -> None:
    truth = boxes(
        [
            (5, 0, "car", 1),
            (10, 5, "pedestrian", 1),
            (31, 0, "car", 1),
            (8, -9, "car", 1),
            (3, 3, "cone", 1),
        ]
    )
    shown = np.array([True, True, True, False, True])
    found = boxes(
        [
            (5.0, 1.9, "truck", 0.5),  # near the car, of another class
            (10.0, 5.5, "pedestrian", 0.2),  # below the score
            (8.0, -9.0, "car", 0.9),  # on a label that no image shows: no false box
            (20.0, 0.0, "car", 0.9),  # false
            (25.0, 9.0, "car", 0.9),  # false, in no image
        ]
    )
    recall = ImageRecall(0.3)
    recall.add(found, np.array([True, True, True, True, False]), truth, shown, PROTOCOL)
    metrics = recall.metrics()
    assert metrics["labels"] == 2 and metrics["recall"] == 0.5 and metrics["recall_of_class"] == 0.0
    assert metrics["false_boxes_per_frame"] == 1.0
    assert metrics["by_class"]["car"] == {"recall": 1.0, "labels": 1}
    assert metrics["by_class"]["pedestrian"]["recall"] == 0.0


def test_no_labels_give_nan() -> None:
    metrics = ImageRecall(0.3).metrics()
    assert math.isnan(metrics["recall"]) and math.isnan(metrics["false_boxes_per_frame"])
