"""The report of 2D boxes: their confidence, and the pictures of missed and false boxes."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.evaluation.average_precision import ImageDetections, ImageGroundTruth
from multimodal_perception.evaluation.html_report import render
from multimodal_perception.evaluation.image_box_errors import (
    WIDTH,
    box_errors,
    draw_box_errors,
)
from multimodal_perception.evaluation.image_detection_metrics import ImageDetectionScore
from multimodal_perception.evaluation.image_detection_report import (
    flat_rows,
    image_detection_report,
)
from multimodal_perception.visualization.error_view import CORRECT, FALSE, MISSED

CLASSES = ("vehicle", "person", "cyclist")
CAR, NEAR_CAR = [10, 10, 50, 40], [12, 10, 52, 40]


def truth(rows: list[tuple[list[float], int, bool]]) -> ImageGroundTruth:
    """Labels of box, class and whether they are evaluated."""
    boxes = np.array([b for b, *_ in rows], np.float32).reshape(-1, 4)
    labels = np.array([k for _, k, _ in rows], np.int64)
    return ImageGroundTruth(boxes, labels, np.array([e for *_, e in rows], np.bool_))


def found(rows: list[tuple[list[float], float, int]]) -> ImageDetections:
    """Detections of box, score and class."""
    boxes = np.array([b for b, *_ in rows], np.float32).reshape(-1, 4)
    scores = np.array([s for _, s, _ in rows], np.float32)
    return ImageDetections(boxes, scores, np.array([k for *_, k in rows], np.int64))


LABELS = truth([(CAR, 0, True), ([60, 10, 70, 40], 1, True), ([80, 10, 99, 40], 0, False)])


def test_errors_are_missed_labels_and_boxes_without_a_label() -> None:
    detections = found(
        [
            (NEAR_CAR, 0.9, 0),
            (CAR, 0.4, 0),  # the label is taken by the box of the higher score
            ([60, 10, 70, 40], 0.8, 2),  # wrong class
            ([80, 10, 99, 40], 0.7, 0),  # on an ignored label
            ([0, 0, 5, 5], 0.2, 0),  # below the threshold
        ]
    )
    errors = box_errors(LABELS, detections, [0.3, 0.3, 0.3])
    assert errors.correct[0].tolist() == [NEAR_CAR]
    assert errors.false[1].tolist() == [0, 2] and errors.false[0][0].tolist() == CAR
    assert errors.missed[0].tolist() == [[60, 10, 70, 40]] and errors.missed[1].tolist() == [1]
    assert errors.count == 3
    assert box_errors(LABELS, found([]), [0.3] * 3).count == 2
    assert box_errors(truth([]), detections, [0.3] * 3).count == 4


def test_a_box_matches_one_of_two_overlapping_labels() -> None:
    two = truth([(CAR, 0, True), (NEAR_CAR, 0, True)])
    errors = box_errors(two, found([(NEAR_CAR, 0.9, 0)]), [0.3] * 3)
    assert errors.missed[0].tolist() == [CAR]


def test_the_picture_shows_every_box_in_its_colour() -> None:
    errors = box_errors(LABELS, found([(CAR, 0.9, 0), ([0, 0, 9, 5], 0.9, 1)]), [0.3] * 3)
    picture = draw_box_errors(np.zeros((45, 100, 3), np.uint8), errors, CLASSES)
    assert picture.shape == (round(45 * WIDTH / 100), WIDTH, 3)
    for colour in (CORRECT, FALSE, MISSED):
        assert (picture == np.array(colour)).all(-1).sum() > 100


@pytest.fixture
def summary() -> dict[str, object]:
    """Scores 0.8 and 0.6 of right boxes, 0.6 of a wrong one."""
    score = ImageDetectionScore(CLASSES, 0.3)
    boxes = [(CAR, 0.8, 0), ([60, 10, 70, 40], 0.6, 1), ([0, 50, 9, 60], 0.6, 1)]
    score.add(LABELS, found(boxes))
    return score.summary()


def test_the_page_has_the_confidence_of_the_boxes(summary: dict[str, object]) -> None:
    """ECE: (|0.8 - 1| + |1.2 - 1|) / 3. Brier: (0.04 + 0.16 + 0.36) / 3. AUROC: (1 + 0.5) / 2."""
    result = {"dataset": "coco", "rows": {"model": summary}}
    page = render(image_detection_report("Boxes", result, [], "options: {}", result))
    assert "Reliability of the scores" in page and "Precision and recall at IoU 0.5, model" in page
    for figure in ("0.133", "0.187", "0.750"):
        assert page.count(f">{figure}<") >= 2, figure  # this result and the other one
    assert "other: model" in page and "Confidence of the boxes" in page


def test_results_of_simulated_drives_have_a_row_for_images_and_condition() -> None:
    figures = {"ap": 0.5, "ap50": 0.7, "ap75": 0.4, "labels": 3}
    result = {
        "rows": {"both": {"day": {"vehicle": figures, "all": figures}}},
        "confidence": {"both": {"day": {"results": 4, "ece": 0.1}}},
    }
    rows = flat_rows(result)
    assert list(rows) == ["both, day"] and list(rows["both, day"]["classes"]) == ["vehicle"]
    assert rows["both, day"]["ap50"] == 0.7 and rows["both, day"]["confidence"]["ece"] == 0.1


def test_person_regions_have_a_table_of_their_own() -> None:
    region = {"images": 2, "coverage": 0.25, "supported_share": float("nan"), "min_score": 0.3}
    page = render(image_detection_report("People", {"rows": {"model": region}}, [], ""))
    assert "covered person regions" in page and ">25.0<" in page and "AP50" not in page
