"""One box for each object: nested boxes, classes, and objects in front of others."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.detection.images.riders import combine_riders
from multimodal_perception.detection.images.suppression import MAX_DETECTIONS, suppress
from multimodal_perception.geometry.image_boxes import areas, intersections
from multimodal_perception.images.object_kinds import kind_of

NAMES = ("car", "truck", "person", "cyclist", "vehicle")


def kept(boxes: list[list[float]], scores: list[float], names: list[str]) -> list[int]:
    labels = np.array([NAMES.index(n) for n in names])
    found = suppress(np.array(boxes, np.float32), np.array(scores), labels, NAMES, 0.5, 0.8)
    return found.tolist()


def test_nested_boxes_of_one_object_are_one_box_whatever_their_class() -> None:
    whole, part, inner = [0, 0, 100, 60], [2, 4, 60, 58], [30, 20, 60, 50]
    assert kept([whole, part, inner], [0.9, 0.8, 0.7], ["car", "truck", "car"]) == [0]
    assert kept([whole, part], [0.6, 0.9], ["car", "truck"]) == [1]
    assert kept([[0, 0, 20, 60], [0, 0, 21, 62]], [0.5, 0.6], ["person", "cyclist"]) == [1]


def test_person_in_front_of_a_vehicle_is_kept_but_not_the_same_box_twice() -> None:
    car, person = [0, 0, 100, 60], [40, 10, 55, 58]
    assert kept([car, person], [0.9, 0.6], ["car", "person"]) == [0, 1]
    assert kept([person, [40, 10, 56, 59]], [0.9, 0.6], ["person", "car"]) == [0]


def test_neighbours_in_a_crowd_are_kept() -> None:
    rows = [[20 * k, 0, 20 * k + 26, 60] for k in range(6)]
    assert sorted(kept(rows, [0.5] * 6, ["person"] * 6)) == list(range(6))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 300))
def test_no_kept_box_is_nested_and_every_dropped_one_has_a_reason(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 300, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 120, (count, 2))], axis=1).astype(np.float32)
    scores, labels = rng.uniform(0, 1, count), rng.integers(0, len(NAMES), count)
    chosen = suppress(boxes, scores, labels, NAMES, 0.5, 0.8)
    assert (np.diff(scores[chosen]) <= 0).all() and len(chosen) <= MAX_DETECTIONS
    kinds = np.array([kind_of(NAMES[k]) for k in labels])
    common = intersections(boxes, boxes)
    smaller = np.minimum(areas(boxes)[:, None], areas(boxes)[None])
    nested = (common > 0.8 * smaller) & (kinds[:, None] == kinds[None])
    np.fill_diagonal(nested, False)
    assert not nested[np.ix_(chosen, chosen)].any()
    for i in set(range(count)) - set(chosen.tolist()) if len(chosen) < MAX_DETECTIONS else ():
        better = [k for k in chosen if scores[k] >= scores[i]]
        union = areas(boxes)[i] + areas(boxes)[better] - common[i, better]
        overlap = common[i, better] / union
        limit = np.where(kinds[better] == kinds[i], 0.5, 0.7)
        assert (nested[i, better] | (overlap > limit)).any()


def test_person_on_a_bicycle_becomes_one_cyclist() -> None:
    names = ("person", "cyclist", "car")
    boxes = np.array([[12, 0, 30, 60], [0, 40, 45, 80], [100, 0, 118, 60], [200, 0, 300, 80],
                      [20, 20, 40, 80]], np.float32)  # fmt: skip
    scores = np.array([0.9, 0.5, 0.8, 0.7, 0.6], np.float32)
    labels = np.array([0, 1, 0, 2, 0])
    # The last person stands beside the bicycle: on the ground, not above it.
    found, values, kinds = combine_riders(boxes, scores, labels, names)
    assert kinds.tolist() == [1, 0, 2, 0]
    np.testing.assert_allclose(found[0], [0, 0, 45, 80])
    np.testing.assert_allclose(values, [0.9, 0.8, 0.7, 0.6])
    empty = combine_riders(boxes[:0], scores[:0], labels[:0], names)
    assert not len(empty[0])
