from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.geometry.image_boxes import (
    areas,
    iou,
    non_maximum_suppression,
    tight_boxes,
)


def boxes(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 50, (count, 2))
    return np.hstack([low, low + rng.uniform(1, 40, (count, 2))]).astype(np.float32)


def test_boxes_hold_an_instance_and_no_more() -> None:
    image = np.zeros((20, 30), np.int32)
    image[3:7, 5:9] = 8192
    image[5, 20] = 8192  # behind a pole: still the same one
    image[0, 0] = 3
    numbers, found, counts = tight_boxes(image)
    assert numbers.tolist() == [3, 8192] and counts.tolist() == [1, 17]
    assert found.tolist() == [[0, 0, 1, 1], [5, 3, 21, 7]]
    nothing = tight_boxes(np.zeros((4, 4), np.uint8))
    assert [len(part) for part in nothing] == [0, 0, 0] and nothing[1].shape == (0, 4)


def test_overlap_of_known_boxes() -> None:
    a = np.array([[0, 0, 4, 4]], np.float32)
    b = np.array([[2, 0, 6, 4], [4, 0, 8, 4], [0, 0, 4, 4], [3, 3, 3, 9]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[1 / 3, 0, 1, 0]])


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0.1, 0.9))
def test_what_is_kept_overlaps_little_and_what_is_dropped_much(
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


def test_no_more_are_kept_than_asked_for() -> None:
    rows = np.array([[10 * i, 0, 10 * i + 5, 5] for i in range(9)], np.float32)
    assert non_maximum_suppression(rows, np.arange(9.0), 0.5, most=3).tolist() == [8, 7, 6]
    assert non_maximum_suppression(rows[:0], np.zeros(0), 0.5).tolist() == []
