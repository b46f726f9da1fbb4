from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.evaluation.average_precision import ImageDetections, ImageGroundTruth
from multimodal_perception.evaluation.image_detection_metrics import (
    CURVE_RECALLS,
    ImageDetectionScore,
    nested_boxes,
)

CLASSES = ("vehicle", "person")


def truth(rows: list[tuple[float, float, float, float, int, bool]]) -> ImageGroundTruth:
    return ImageGroundTruth(
        np.array([r[:4] for r in rows], np.float32).reshape(-1, 4),
        np.array([r[4] for r in rows], np.int64),
        np.array([r[5] for r in rows], np.bool_),
    )


def found(rows: list[tuple[float, float, float, float, float, int]]) -> ImageDetections:
    return ImageDetections(
        np.array([r[:4] for r in rows], np.float32).reshape(-1, 4),
        np.array([r[4] for r in rows], np.float32),
        np.array([r[5] for r in rows], np.int64),
    )


def random_images(seed: int, count: int) -> list[tuple[ImageGroundTruth, ImageDetections]]:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        labels = rng.uniform(0, 200, (6, 4))
        labels[:, 2:] = labels[:, :2] + rng.uniform(10, 80, (6, 2))
        boxes = np.concatenate([labels + rng.normal(0, 6, (6, 4)), rng.uniform(0, 90, (4, 4))])
        boxes[6:, 2:] += boxes[6:, :2]
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        images.append(
            (
                ImageGroundTruth(
                    labels.astype(np.float32), rng.integers(0, 2, 6), rng.random(6) > 0.25
                ),
                ImageDetections(
                    boxes.astype(np.float32),
                    rng.random(10).astype(np.float32),
                    rng.integers(0, 2, 10),
                ),
            )
        )
    return images


def coco_evaluation(images: list[tuple[ImageGroundTruth, ImageDetections]]) -> Any:
    """pycocotools' evaluation; labels that are not evaluated are crowd regions."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for i, (labels, boxes) in enumerate(images, 1):
        for box, k, evaluated in zip(labels.boxes, labels.labels, labels.evaluated, strict=True):
            x1, y1, x2, y2 = (float(v) for v in box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": int(k) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(not evaluated),
                }
            )
        for box, score, k in zip(boxes.boxes, boxes.scores, boxes.labels, strict=True):
            x1, y1, x2, y2 = (float(v) for v in box)
            results.append(
                {
                    "image_id": i,
                    "category_id": int(k) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO()
        data.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(len(images))],
            "categories": [{"id": k + 1, "name": n} for k, n in enumerate(CLASSES)],
            "annotations": annotations,
        }
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"]  # (IoU, recall, class, area, detections)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_and_curve_are_those_of_pycocotools(seed: int) -> None:
    images = random_images(seed, 12)
    precision = coco_evaluation(images)[:, :, :, 0, -1]
    score = ImageDetectionScore(CLASSES, 0.5)
    for labels, boxes in images:
        score.add(labels, boxes)
    summary = score.summary()
    for k, name in enumerate(CLASSES):
        result = summary["classes"][name]
        assert result["ap"] == pytest.approx(precision[:, :, k].mean(), abs=1e-6)
        assert result["ap50"] == pytest.approx(precision[0, :, k].mean(), abs=1e-6)
        curve = precision[0, :: 100 // (len(CURVE_RECALLS) - 1), k]
        np.testing.assert_allclose(result["precision_curve"], curve, atol=1e-6)
    assert summary["ap"] == pytest.approx(precision.mean(), abs=1e-6)


def test_figures_in_operation_use_the_threshold_of_each_class() -> None:
    labels = truth([(0, 0, 10, 30, 0, True), (50, 0, 60, 30, 1, True)])
    boxes = found([(0, 0, 10, 30, 0.28, 0), (50, 0, 60, 30, 0.28, 1)])
    score = ImageDetectionScore(CLASSES[:2], 0.3, min_scores=(0.3, 0.25))
    score.add(labels, boxes)
    first, second = score.summary()["classes"].values()
    assert (first["boxes"], first["recall"], first["ap50"]) == (0, 0.0, pytest.approx(1.0))
    assert (second["boxes"], second["recall"], second["min_score"]) == (1, 1.0, 0.25)


def test_recall_at_a_precision_in_closed_form() -> None:
    labels = truth([(0, 0, 10, 30, 0, True), (50, 0, 60, 30, 0, True), (90, 0, 99, 30, 0, True)])
    boxes = found(
        [
            (0, 0, 10, 30, 0.9, 0),
            (200, 0, 210, 30, 0.8, 0),
            (50, 0, 60, 30, 0.7, 0),
            (90, 0, 99, 30, 0.6, 0),
            (300, 0, 310, 30, 0.5, 0),
        ]
    )
    # Precision by score: 1, 1/2, 2/3, 3/4, 3/5; recall 1/3, 1/3, 2/3, 1, 1.
    for required, recall, threshold in ((0.7, 1.0, 0.6), (0.8, 1 / 3, 0.9), (0.6, 1.0, 0.6)):
        score = ImageDetectionScore(CLASSES, 0.65, required)
        score.add(labels, boxes)
        result = score.summary()["classes"]["vehicle"]
        assert result["recall_at_precision"] == pytest.approx(recall)
        assert result["score_at_precision"] == pytest.approx(threshold)
        assert result["recall"] == pytest.approx(2 / 3)
        assert result["precision"] == pytest.approx(2 / 3) and result["boxes"] == 3
    other = score.summary()["classes"]["person"]
    assert other["labels"] == 0 and math.isnan(other["recall_at_precision"])
    assert math.isnan(other["ap"])


def test_boxes_on_ignored_labels_and_small_boxes_are_neither_right_nor_wrong() -> None:
    labels = truth([(0, 0, 10, 30, 0, True), (50, 0, 100, 100, 0, False)])
    boxes = found(
        [
            (0, 0, 10, 30, 0.5, 0),
            (55, 5, 75, 45, 0.9, 0),  # inside the ignored region
            (300, 0, 310, 20, 0.9, 0),  # lower than 25 pixels
            (400, 0, 410, 30, 0.4, 0),
        ]
    )
    score = ImageDetectionScore(CLASSES, 0.45, min_height=25.0)
    score.add(labels, boxes)
    result = score.summary()["classes"]["vehicle"]
    assert result["precision"] == 1.0 and result["recall"] == 1.0 and result["labels"] == 1
    assert score.precision_recall(0).precision.tolist() == [1.0, 0.5]


def test_nested_boxes_on_one_object_are_counted_and_those_on_two_objects_are_not() -> None:
    labels = truth([(0, 0, 100, 100, 0, True), (60, 60, 90, 90, 0, True)])
    near, far, repeat = (0, 0, 100, 100), (60, 60, 90, 90), (2, 2, 80, 98)
    rows = [(*near, 0.9, 0), (*far, 0.8, 0), (*repeat, 0.7, 0), (*near, 0.6, 1)]
    boxes = found(rows)
    nested = nested_boxes(boxes.boxes, boxes.scores, boxes.labels, labels)
    # The far car is inside the near one's box; the person's box is of another class.
    assert nested.tolist() == [False, False, True, False]
    # Without any label, nested boxes are on the same unlabelled object.
    alone = nested_boxes(boxes.boxes, boxes.scores, boxes.labels, truth([]))
    assert alone.tolist() == [False, True, True, False]
    score = ImageDetectionScore(CLASSES, 0.65)
    score.add(labels, boxes)
    summary = score.summary()
    assert summary["nested_share"] == pytest.approx(1 / 3)
    assert summary["classes"]["vehicle"]["nested_boxes"] == 1


@given(st.integers(0, 2**32 - 1))
def test_figures_do_not_depend_on_the_order_of_images_and_boxes(seed: int) -> None:
    images = random_images(seed, 3)
    rng = np.random.default_rng(seed)
    results = []
    for order in (range(3), rng.permutation(3)):
        score = ImageDetectionScore(CLASSES, 0.3)
        for i in order:
            labels, boxes = images[i]
            shuffled = rng.permutation(len(boxes.scores))
            mixed = ImageDetections(
                boxes.boxes[shuffled], boxes.scores[shuffled], boxes.labels[shuffled]
            )
            score.add(labels, mixed)
        results.append(score.summary())
    np.testing.assert_equal(results[0], results[1])


def test_no_images_give_no_figures() -> None:
    summary = ImageDetectionScore(CLASSES, 0.3).summary()
    assert summary["images"] == 0 and math.isnan(summary["nested_share"])
    assert math.isnan(summary["ap"])
