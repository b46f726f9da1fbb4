"""Trails of tracked objects: positions relative to the vehicle now, and when they start again."""

from __future__ import annotations

import numpy as np

from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry import poses
from multimodal_perception.visualization.track_trails import TrackTrails

PERIOD_NS = 100_000_000


def car_at(index: int, x: float, track_id: int = 7) -> Boxes3D:
    boxes = np.array([[x, 2.0, 0.8, 4.0, 1.8, 1.6, 0.0]], np.float32)
    ids = np.array([track_id], np.int64)
    return Boxes3D(
        index * PERIOD_NS,
        "base_link",
        boxes,
        np.ones(1, np.float32),
        np.ones(1, np.int64),
        track_ids=ids,
    )


def test_the_trail_of_a_parked_car_is_one_point_while_the_vehicle_moves() -> None:
    trails = TrackTrails()
    for i in range(5):
        latest = trails.update(car_at(i, 20.0 - i), poses.from_xyz_rpy((float(i), 0.0, 0.0)))
    assert [t.track_id for t in latest] == [7]
    np.testing.assert_allclose(latest[0].positions, np.tile([16.0, 2.0, 0.8], (5, 1)), atol=1e-5)


def test_the_trail_of_a_moving_car_ends_at_its_box_also_when_the_vehicle_turns() -> None:
    trails = TrackTrails()
    trails.update(car_at(0, 10.0), np.eye(4))
    # The vehicle has turned left by 90 degrees on the spot; the first position is now on its right.
    turned = poses.from_xyz_rpy((0.0, 0.0, 0.0), (0.0, 0.0, np.pi / 2))
    (trail,) = trails.update(car_at(1, 15.0), turned)
    np.testing.assert_allclose(trail.positions[-1], [15.0, 2.0, 0.8], atol=1e-5)
    np.testing.assert_allclose(trail.positions[0], [2.0, -10.0, 0.8], atol=1e-5)


def test_positions_older_than_the_length_are_forgotten() -> None:
    trails = TrackTrails(length_s=1.0)
    for i in range(40):
        (trail,) = trails.update(car_at(i, float(i)), None)
    np.testing.assert_allclose(trail.positions[:, 0], np.arange(29, 40))


def test_trails_start_again_when_odometry_appears_or_the_recording_is_repeated() -> None:
    trails = TrackTrails()
    trails.update(car_at(1, 1.0), None)
    assert len(trails.update(car_at(2, 2.0), np.eye(4))[0].positions) == 1
    assert len(trails.update(car_at(3, 3.0), np.eye(4))[0].positions) == 2
    assert len(trails.update(car_at(0, 0.0), np.eye(4))[0].positions) == 1


def test_boxes_without_track_have_no_trail() -> None:
    assert TrackTrails().update(car_at(0, 1.0, track_id=-1), None) == []
