import numpy as np
import pytest

from multimodal_perception.evaluation.segmentation import ConfusionMatrix
from multimodal_perception.segmentation.classes import IGNORED


def test_metrics_of_a_known_image() -> None:
    confusion = ConfusionMatrix(("a", "b", "c"))
    truth = np.array([[0, 0, 1, 1], [1, IGNORED, 0, 0]], np.uint8)
    confusion.add(truth, np.array([[0, 1, 1, 1], [0, 2, 0, 0]], np.uint8))
    # a: 3 correct of 4 true and 4 predicted; b: 2 of 3 and 3; c: not in the truth.
    summary = confusion.summary()
    assert summary["iou"]["a"] == pytest.approx(3 / 5)
    assert summary["iou"]["b"] == pytest.approx(2 / 4)
    assert np.isnan(summary["iou"]["c"])
    assert summary["miou"] == pytest.approx((3 / 5 + 2 / 4) / 2)
    assert summary["accuracy"] == pytest.approx(5 / 7)


def test_counts_accumulate_and_empty_matrix_gives_nan() -> None:
    confusion = ConfusionMatrix(("a", "b"))
    assert np.isnan(confusion.mean_iou)
    for _ in range(2):
        confusion.add(np.array([[0, 1]]), np.array([[0, 0]]))
    assert confusion.counts.tolist() == [[2, 0], [2, 0]]


def test_different_shapes_and_unknown_labels_are_refused() -> None:
    confusion = ConfusionMatrix(("a", "b"))
    with pytest.raises(ValueError, match="shape of truth"):
        confusion.add(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="below 2"):
        confusion.add(np.zeros((1, 1)), np.full((1, 1), 2))
