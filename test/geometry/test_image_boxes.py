"""2D boxes: tight boxes of instances, IoU and non-maximum suppression."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.geometry.image_boxes import (
    areas,
    boxes_from_instances,
    iou,
    non_maximum_suppression,
)


def boxes(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 50, (count, 2))
    return np.hstack([low, low + rng.uniform(1, 40, (count, 2))]).astype(np.float32)


def test_boxes_from_instances_are_tight() -> None:
    image = np.zeros((20, 30), np.int32)
    image[3:7, 5:9] = 8192
    image[5, 20] = 8192  # separated from the rest, as by a pole; same instance
    image[0, 0] = 3
    numbers, tight, counts = boxes_from_instances(image)
    assert numbers.tolist() == [3, 8192] and counts.tolist() == [1, 17]
    assert tight.tolist() == [[0, 0, 1, 1], [5, 3, 21, 7]]
    nothing = boxes_from_instances(np.zeros((4, 4), np.uint8))
    assert [len(part) for part in nothing] == [0, 0, 0] and nothing[1].shape == (0, 4)


def test_iou_of_known_boxes() -> None:
    a = np.array([[0, 0, 4, 4]], np.float32)
    b = np.array([[2, 0, 6, 4], [4, 0, 8, 4], [0, 0, 4, 4], [3, 3, 3, 9]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[1 / 3, 0, 1, 0]])


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0.1, 0.9))
def test_nms_keeps_best_boxes_and_drops_only_overlapping_ones(
    seed: int, count: int, threshold: float
) -> None:
    rows = boxes(seed, count)
    scores = np.random.default_rng(seed + 1).random(count)
    kept = non_maximum_suppression(rows, scores, threshold)
    assert (np.diff(scores[kept]) <= 0).all() and kept[0] == scores.argmax()
    overlap = iou(rows, rows)
    among = overlap[np.ix_(kept, kept)] - np.eye(len(kept))
    assert (among <= threshold + 1e-9).all()
    for i in set(range(count)) - set(kept.tolist()):
        assert (overlap[i, kept][scores[kept] >= scores[i]] > threshold).any()
    assert (areas(rows) > 0).all()


def test_nms_keeps_at_most_max_kept_boxes() -> None:
    rows = np.array([[10 * i, 0, 10 * i + 5, 5] for i in range(9)], np.float32)
    assert non_maximum_suppression(rows, np.arange(9.0), 0.5, max_kept=3).tolist() == [8, 7, 6]
    assert non_maximum_suppression(rows[:0], np.zeros(0), 0.5).tolist() == []
