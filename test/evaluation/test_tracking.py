"""CLEAR MOT in closed form: what is missed, false and switched, and what does not count."""

from __future__ import annotations

import math

import numpy as np
import pytest

from multimodal_perception.evaluation.nuscenes_metrics import ScoredFrame
from multimodal_perception.evaluation.tracking import TrackingScore, unknown_as_standing
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


def test_a_perfect_tracker_has_one() -> None:
    score = TrackingScore()
    for k in range(5):
        # Ids are the tracker's own; only that they stay counts.
        score.add(tracked((k, 0, 12), (20, k, 7)), tracked((k, 0, 1), (20, k, 2)))
    figures = score.figures()
    assert figures["mota"] == 1.0 and figures["motp_m"] == 0.0
    assert (figures["labels"], figures["objects"], figures["id_switches"]) == (10, 2, 0)


def test_misses_false_boxes_and_switches_in_closed_form() -> None:
    score, truth = TrackingScore(), tracked((10, 0, 1), (20, 0, 2))
    score.add(tracked((10, 0.5, 5), (20, 0, 6)), truth)
    score.add(tracked((10, 0.5, 5)), truth)  # one missed
    score.add(tracked((10, 0.5, 5), (20, 0, 8), (0, 30, 9)), truth)  # 6 is now 8; one is false
    score.add(tracked((10, 0.5, 5), (20, 0, 8)), truth)
    figures = score.figures()
    assert (figures["missed"], figures["false"], figures["id_switches"]) == (1, 1, 1)
    assert figures["id_switches_by_class"] == {"car": 1}
    assert figures["mota"] == pytest.approx(1 - 3 / 8)
    assert figures["motp_m"] == pytest.approx(4 * 0.5 / 7)


def test_a_label_keeps_its_track_while_another_box_is_nearer() -> None:
    score, truth = TrackingScore(), tracked((10, 0, 1))
    score.add(tracked((10, 0, 5)), truth)
    score.add(tracked((11.5, 0, 5), (10, 0, 6)), truth)
    figures = score.figures()
    assert figures["id_switches"] == 0 and figures["false"] == 1
    score.add(tracked((12.5, 0, 5), (10, 0, 6)), truth)  # no longer near
    assert score.figures()["id_switches"] == 1


def test_labels_that_do_not_count_make_boxes_neither_right_nor_wrong() -> None:
    for truth in (
        tracked((10, 0, 1), points=3),
        tracked((10, 0, 1), name="cone"),
        tracked((60, 0, 1)),
    ):
        score = TrackingScore(max_range=40.0)
        score.add(tracked((10, 0, 4) if truth.boxes[0, 0] < 40 else (60, 0, 4)), truth)
        figures = score.figures()
        assert (figures["labels"], figures["false"], figures["missed"]) == (0, 0, 0)
        assert math.isnan(figures["mota"]) and math.isnan(figures["motp_m"])


def test_nothing_found_nothing_there_and_no_ids() -> None:
    score, one = TrackingScore(), tracked((10, 0, 1))
    score.add(tracked(), one)
    assert score.figures()["mota"] == 0.0
    score.add(one, tracked())
    assert score.figures()["mota"] == -1.0
    # Boxes beyond the tracker's bound have no number, and are nobody's track.
    score.add(tracked((10, 0, -1)), one)
    assert score.figures()["missed"] == 1
    bare = Boxes3D(0, "base_link", one.boxes, one.scores, one.labels)
    for boxes, truth in ((bare, one), (one, bare)):
        with pytest.raises(ValueError, match="track_ids"):
            score.add(boxes, truth)


def with_velocities(values: object) -> ScoredFrame:
    car = tracked((10, 0, 1))
    velocities = None if values is None else np.array([values], np.float32)
    boxes = Boxes3D(0, "base_link", car.boxes, car.scores, car.labels, velocities=velocities)
    return ScoredFrame(boxes, car)


def test_who_is_not_known_to_move_is_taken_to_stand() -> None:
    nan = (np.nan, np.nan)
    told = unknown_as_standing(
        [with_velocities(nan), with_velocities((3, 4)), with_velocities(None)]
    )
    assert [f.predicted.velocities.tolist() for f in told] == [[[0, 0]], [[3, 4]], [[0, 0]]]  # type: ignore[union-attr]
    never = unknown_as_standing([with_velocities(nan), with_velocities(None)])
    assert [f.predicted.velocities for f in never] == [None, None]
