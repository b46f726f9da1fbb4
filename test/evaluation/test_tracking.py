"""CLEAR MOT metrics with known results: misses, false positives, id switches, ignored labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from multimodal_perception.evaluation.nuscenes_metrics import ScoredFrame
from multimodal_perception.evaluation.tracking import TrackingScore, missing_velocities_as_zero
from multimodal_perception.frame import CLASS_NAMES, Boxes3D


def tracked(*rows: tuple[float, float, int], name: str = "car", points: int = 50) -> Boxes3D:
    n = len(rows)
    boxes = np.zeros((n, 7), np.float32)
    boxes[:, :2] = np.reshape([r[:2] for r in rows], (n, 2))
    boxes[:, 3:6] = 4.0, 1.8, 1.5
    return Boxes3D(
        0,
        "base_link",
        boxes,
        np.full(n, 0.9, np.float32),
        np.full(n, CLASS_NAMES.index(name), np.int64),
        track_ids=np.array([r[2] for r in rows], np.int64),
        num_points=np.full(n, points, np.int64),
    )


def test_perfect_tracks_give_mota_1() -> None:
    score = TrackingScore()
    for k in range(5):
        # The predicted ids differ from the true ids; they only have to be constant.
        score.add(tracked((k, 0, 12), (20, k, 7)), tracked((k, 0, 1), (20, k, 2)))
    metrics = score.metrics()
    assert metrics["mota"] == 1.0 and metrics["motp_m"] == 0.0
    assert (metrics["labels"], metrics["objects"], metrics["id_switches"]) == (10, 2, 0)


def test_misses_false_positives_and_id_switches_are_counted() -> None:
    score, truth = TrackingScore(), tracked((10, 0, 1), (20, 0, 2))
    score.add(tracked((10, 0.5, 5), (20, 0, 6)), truth)
    score.add(tracked((10, 0.5, 5)), truth)  # one miss
    # The track id changes from 6 to 8; the third box is a false positive.
    score.add(tracked((10, 0.5, 5), (20, 0, 8), (0, 30, 9)), truth)
    score.add(tracked((10, 0.5, 5), (20, 0, 8)), truth)
    metrics = score.metrics()
    assert (metrics["misses"], metrics["false_positives"], metrics["id_switches"]) == (1, 1, 1)
    assert metrics["id_switches_by_class"] == {"car": 1}
    assert metrics["mota"] == pytest.approx(1 - 3 / 8)
    assert metrics["motp_m"] == pytest.approx(4 * 0.5 / 7)


def test_label_keeps_its_track_although_another_box_is_nearer() -> None:
    score, truth = TrackingScore(), tracked((10, 0, 1))
    score.add(tracked((10, 0, 5)), truth)
    score.add(tracked((11.5, 0, 5), (10, 0, 6)), truth)
    metrics = score.metrics()
    assert metrics["id_switches"] == 0 and metrics["false_positives"] == 1
    score.add(tracked((12.5, 0, 5), (10, 0, 6)), truth)  # beyond the matching distance
    assert score.metrics()["id_switches"] == 1


def test_boxes_on_ignored_labels_are_not_counted() -> None:
    for truth in (
        tracked((10, 0, 1), points=3),
        tracked((10, 0, 1), name="cone"),
        tracked((60, 0, 1)),
    ):
        score = TrackingScore(max_range=40.0)
        score.add(tracked((10, 0, 4) if truth.boxes[0, 0] < 40 else (60, 0, 4)), truth)
        metrics = score.metrics()
        counts = (metrics["labels"], metrics["false_positives"], metrics["misses"])
        assert counts == (0, 0, 0)
        assert math.isnan(metrics["mota"]) and math.isnan(metrics["motp_m"])


def test_empty_frames_and_missing_track_ids() -> None:
    score, one = TrackingScore(), tracked((10, 0, 1))
    score.add(tracked(), one)
    assert score.metrics()["mota"] == 0.0
    score.add(one, tracked())
    assert score.metrics()["mota"] == -1.0
    # Boxes that exceed the tracker's maximum number of tracks have the id -1.
    score.add(tracked((10, 0, -1)), one)
    assert score.metrics()["misses"] == 1
    without_ids = Boxes3D(0, "base_link", one.boxes, one.scores, one.labels)
    for boxes, truth in ((without_ids, one), (one, without_ids)):
        with pytest.raises(ValueError, match="track_ids"):
            score.add(boxes, truth)


def with_velocities(values: object) -> ScoredFrame:
    car = tracked((10, 0, 1))
    velocities = None if values is None else np.array([values], np.float32)
    boxes = Boxes3D(0, "base_link", car.boxes, car.scores, car.labels, velocities=velocities)
    return ScoredFrame(boxes, car)


def test_missing_velocities_become_zero_if_any_box_has_one() -> None:
    nan = (np.nan, np.nan)
    filled = missing_velocities_as_zero(
        [with_velocities(nan), with_velocities((3, 4)), with_velocities(None)]
    )
    assert [f.predicted.velocities.tolist() for f in filled] == [[[0, 0]], [[3, 4]], [[0, 0]]]  # type: ignore[union-attr]
    unfilled = missing_velocities_as_zero([with_velocities(nan), with_velocities(None)])
    assert [f.predicted.velocities for f in unfilled] == [None, None]
