from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.evaluation.average_precision import (
    CocoAveragePrecision,
    ImageDetections,
    ImageGroundTruth,
    interpolated_precision,
)


def truth(boxes: list[list[float]], evaluated: bool | list[bool] = True) -> ImageGroundTruth:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    mask = np.broadcast_to(np.asarray(evaluated, np.bool_), len(rows))
    return ImageGroundTruth(rows, np.zeros(len(rows), np.int64), mask)


def detections(boxes: list[list[float]], scores: list[float]) -> ImageDetections:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    return ImageDetections(rows, np.array(scores, np.float32), np.zeros(len(rows), np.int64))


def score(*images: tuple[ImageGroundTruth, ImageDetections]) -> dict[str, float]:
    metric = CocoAveragePrecision(("car", "person"))
    for image in images:
        metric.add(*image)
    return metric.summary()["car"]


CAR = [0.0, 0.0, 100.0, 100.0]
FAR = [200.0, 0.0, 300.0, 100.0]


def test_correct_box_gives_ap_1_and_no_box_gives_ap_0() -> None:
    assert score((truth([CAR]), detections([CAR], [0.3])))["ap"] == 1.0
    assert score((truth([CAR]), detections([], [])))["ap"] == 0.0
    assert np.isnan(score((truth([]), detections([CAR], [0.3])))["ap"])


def test_ap_is_the_mean_over_ten_iou_thresholds() -> None:
    # IoU 0.72: a true positive at the thresholds 0.50, 0.55, ... 0.70.
    near = [0.0, 0.0, 72.0, 100.0]
    result = score((truth([CAR]), detections([near], [0.9])))
    assert result["ap50"] == 1.0 and result["ap75"] == 0.0
    assert result["ap"] == pytest.approx(0.5)


def test_duplicates_and_false_positives_with_high_scores_lower_ap() -> None:
    duplicate = score((truth([CAR, FAR]), detections([CAR, CAR, FAR], [0.9, 0.8, 0.7])))
    # Precision 1 up to recall 0.5 (51 recalls), then 2/3 (50 recalls).
    assert duplicate["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert score((truth([CAR]), detections([CAR, FAR], [0.9, 0.8])))["ap50"] == 1.0
    assert score((truth([CAR]), detections([CAR, FAR], [0.8, 0.9])))["ap50"] == pytest.approx(0.5)


def test_scores_are_ordered_over_all_images() -> None:
    first = (truth([CAR]), detections([CAR], [0.5]))
    second = (truth([]), detections([FAR], [0.9]))
    assert score(first, second)["ap50"] == pytest.approx(0.5)


def test_boxes_on_ignored_labels_are_neither_true_nor_false_positives() -> None:
    inside = [10.0, 10.0, 40.0, 40.0]  # completely inside the ignored label
    labels = truth([CAR, FAR], [False, True])
    result = score((labels, detections([inside, CAR, FAR], [0.9, 0.8, 0.7])))
    assert result["ap"] == 1.0 and result["labels"] == 1
    # An evaluated label takes precedence over an ignored one of higher overlap.
    shifted = [5.0, 0.0, 105.0, 100.0]
    both = truth([CAR, shifted], [True, False])
    assert score((both, detections([shifted], [0.9])))["ap50"] == 1.0


def test_mean_ap_is_over_the_classes_with_labels() -> None:
    metric = CocoAveragePrecision(("car", "person", "cyclist"))
    rows = np.array([CAR, FAR], np.float32)
    metric.add(
        ImageGroundTruth(rows, np.array([0, 1]), np.ones(2, np.bool_)),
        ImageDetections(rows, np.ones(2, np.float32), np.array([0, 2])),
    )
    result = metric.summary()
    assert result["car"]["ap"] == 1.0 and result["person"]["ap"] == 0.0
    assert result["all"]["ap"] == 0.5 and result["all"]["labels"] == 2
    assert np.isnan(result["cyclist"]["ap"])


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 80))
def test_interpolated_precision_equals_its_definition(
    true_positive: list[bool], labels: int
) -> None:
    true_positive = true_positive[: labels + 40]
    n = len(true_positive)
    hits = np.cumsum(true_positive) if n else np.zeros(0)
    if n and hits[-1] > labels:
        labels = int(hits[-1])
    expected = []
    for recall in np.linspace(0, 1, 101):
        precisions = [hits[k] / (k + 1) for k in range(n) if hits[k] / labels >= recall]
        expected.append(max(precisions, default=0.0))
    result = interpolated_precision(np.array(true_positive, np.bool_), labels)
    assert result == pytest.approx(np.mean(expected))
