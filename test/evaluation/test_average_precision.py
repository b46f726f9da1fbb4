from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.evaluation.average_precision import (
    AveragePrecision,
    ImageBoxes,
    ImageTruth,
    interpolated,
)


def truth(boxes: list[list[float]], counts: bool | list[bool] = True) -> ImageTruth:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    told = np.broadcast_to(np.asarray(counts, np.bool_), len(rows))
    return ImageTruth(rows, np.zeros(len(rows), np.int64), told)


def found(boxes: list[list[float]], scores: list[float]) -> ImageBoxes:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    return ImageBoxes(rows, np.array(scores, np.float32), np.zeros(len(rows), np.int64))


def score(*images: tuple[ImageTruth, ImageBoxes]) -> dict[str, float]:
    gathered = AveragePrecision(("car", "person"))
    for one in images:
        gathered.add(*one)
    return gathered.summary()["car"]


CAR = [0.0, 0.0, 100.0, 100.0]
FAR = [200.0, 0.0, 300.0, 100.0]


def test_a_right_answer_and_none() -> None:
    assert score((truth([CAR]), found([CAR], [0.3])))["ap"] == 1.0
    assert score((truth([CAR]), found([], [])))["ap"] == 0.0
    assert np.isnan(score((truth([]), found([CAR], [0.3])))["ap"])


def test_each_threshold_counts_a_tenth() -> None:
    # Overlap 0.72: right at 0.50, 0.55, ... 0.70.
    near = [0.0, 0.0, 72.0, 100.0]
    result = score((truth([CAR]), found([near], [0.9])))
    assert result["ap50"] == 1.0 and result["ap75"] == 0.0
    assert result["ap"] == pytest.approx(0.5)


def test_one_label_is_found_once_and_a_sure_mistake_costs_more_than_an_unsure_one() -> None:
    twice = score((truth([CAR, FAR]), found([CAR, CAR, FAR], [0.9, 0.8, 0.7])))
    # Precision 1 up to recall 0.5 (51 recalls), then 2/3 (50 recalls).
    assert twice["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert score((truth([CAR]), found([CAR, FAR], [0.9, 0.8])))["ap50"] == 1.0
    assert score((truth([CAR]), found([CAR, FAR], [0.8, 0.9])))["ap50"] == pytest.approx(0.5)


def test_order_goes_over_all_images() -> None:
    first = (truth([CAR]), found([CAR], [0.5]))
    second = (truth([]), found([FAR], [0.9]))
    assert score(first, second)["ap50"] == pytest.approx(0.5)


def test_what_does_not_count_counts_neither_way() -> None:
    inside = [10.0, 10.0, 40.0, 40.0]  # wholly in the label that does not count
    labels = truth([CAR, FAR], [False, True])
    result = score((labels, found([inside, CAR, FAR], [0.9, 0.8, 0.7])))
    assert result["ap"] == 1.0 and result["labels"] == 1
    # A label that counts is taken first, however much more another one overlaps.
    shifted = [5.0, 0.0, 105.0, 100.0]
    both = truth([CAR, shifted], [True, False])
    assert score((both, found([shifted], [0.9])))["ap50"] == 1.0


def test_classes_are_apart_and_their_mean_is_of_those_with_labels() -> None:
    gathered = AveragePrecision(("car", "person", "cyclist"))
    rows = np.array([CAR, FAR], np.float32)
    gathered.add(
        ImageTruth(rows, np.array([0, 1]), np.ones(2, np.bool_)),
        ImageBoxes(rows, np.ones(2, np.float32), np.array([0, 2])),
    )
    result = gathered.summary()
    assert result["car"]["ap"] == 1.0 and result["person"]["ap"] == 0.0
    assert result["all"]["ap"] == 0.5 and result["all"]["labels"] == 2
    assert np.isnan(result["cyclist"]["ap"])


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 80))
def test_precision_at_recalls_is_what_its_definition_says(right: list[bool], labels: int) -> None:
    right = right[: labels + 40]
    hits = np.cumsum(right) if right else np.zeros(0)
    if right and hits[-1] > labels:
        labels = int(hits[-1])
    expected = []
    for recall in np.linspace(0, 1, 101):
        reached = [hits[k] / (k + 1) for k in range(len(right)) if hits[k] / labels >= recall]
        expected.append(max(reached, default=0.0))
    assert interpolated(np.array(right, np.bool_), labels) == pytest.approx(np.mean(expected))
