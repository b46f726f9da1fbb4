"""Tracks: velocities in closed form, ids that are never shared, and time and odometry gone wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.pipeline import PipelineConfig, build_pipeline
from multimodal_perception.tracking import MOTIONS, NO_TRACK, Tracker, TrackingConfig

STEP_NS = 100_000_000
STILL = np.eye(4)


def boxes_at(xy, names="car", scores=None, frame_id="base_link", **more) -> Boxes3D:  # type: ignore[no-untyped-def]
    n = len(xy)
    boxes = np.zeros((n, 7), np.float32)
    boxes[:, :2] = np.reshape(xy, (n, 2))
    boxes[:, 3:6] = 4.0, 1.8, 1.5
    names = [names] * n if isinstance(names, str) else names
    labels = np.array([CLASS_NAMES.index(k) for k in names], np.int64)
    values = np.array([0.9] * n if scores is None else scores, np.float32)
    return Boxes3D(0, frame_id, boxes, values, labels, **more)


def seen(tracker: Tracker, step: float, boxes: Boxes3D, pose=STILL) -> Boxes3D:  # type: ignore[no-untyped-def]
    return tracker.update(boxes, SensorFrame(round(step * STEP_NS), odom_from_base=pose))


def ids(boxes: Boxes3D) -> list[int]:
    assert boxes.track_ids is not None
    return boxes.track_ids.tolist()


def speeds(boxes: Boxes3D) -> np.ndarray:
    assert boxes.velocities is not None
    return boxes.velocities


@pytest.mark.parametrize("name", list(MOTIONS))
def test_an_object_of_constant_velocity_gets_it(name: str) -> None:
    # Each kind at a speed that it can have, from where it is first seen.
    vx, vy = MOTIONS[name].speed * 0.8, -MOTIONS[name].speed * 0.4
    tracker, told = Tracker(), []
    for k in range(30):
        told.append(seen(tracker, k, boxes_at([(5 + vx * k / 10, 3 + vy * k / 10)], name)))
    assert {i for boxes in told for i in ids(boxes)} == {1}
    assert np.isnan(speeds(told[0])).all(), "seen once: nobody knows"
    np.testing.assert_allclose(speeds(told[-1]), [[vx, vy]], atol=0.06 * MOTIONS[name].speed)


def test_two_looks_give_kalmans_closed_form() -> None:
    config = TrackingConfig(most_uncertainty=50.0)
    tracker, car = Tracker(config), MOTIONS["car"]
    seen(tracker, 0, boxes_at([(10, 0)]))
    told = speeds(seen(tracker, 1, boxes_at([(11, 0)])))
    r, v, q, t = car.noise**2, car.speed**2, car.acceleration**2, 0.1
    place, mixed = r + t**2 * v + q * t**4 / 4, t * v + q * t**3 / 2
    assert told[0, 0] == pytest.approx(mixed / (place + r), rel=1e-5)
    assert told[0, 1] == pytest.approx(0.0, abs=1e-6)


def test_from_a_turning_vehicle_what_stands_has_no_velocity_and_what_moves_its_own() -> None:
    tracker, told = Tracker(), boxes_at([])
    for k in range(40):
        t = k / 10
        # 8 m/s along a circle of 10 m radius.
        turn = 0.8 * t
        where = (10 * np.sin(turn), 10 - 10 * np.cos(turn), 0.0)
        pose = poses.from_xyz_rpy(where, (0.0, 0.0, turn))
        places = np.array([(20.0, 5.0, 0.0), (5.0 + 6.0 * t, -15.0, 0.0)])
        there = poses.transform_points(poses.inverse(pose), places)
        told = seen(tracker, k, boxes_at(there[:, :2]), pose)
    assert ids(told) == [1, 2]
    assert np.abs(speeds(told)[0]).max() < 0.02
    over_ground = speeds(told)[1] @ pose[:2, :2].T
    np.testing.assert_allclose(over_ground, (6.0, 0.0), atol=0.1)


def test_without_odometry_objects_keep_their_ids_and_have_no_velocity() -> None:
    for standing in (False, True):
        tracker = Tracker(TrackingConfig(standing=standing))
        for k in range(10):
            told = seen(tracker, k, boxes_at([(20 - 0.5 * k, 0)]), None)
            assert ids(told) == [1]
        if standing:
            np.testing.assert_allclose(speeds(told), [(-5.0, 0.0)], atol=0.1)
        else:
            assert told.velocities is None


def test_a_centre_that_jumps_is_the_same_object_and_hardly_moves() -> None:
    tracker = Tracker()
    for k in range(20):
        # The far end of a parked car comes into sight: its middle is 1.8 m further.
        told = seen(tracker, k, boxes_at([(10.0 if k < 12 else 11.8, 0)]))
        assert ids(told) == [1]
        if k > 5:
            assert np.abs(speeds(told)).max() < 2.0  # of 18 m/s that the jump looks like


def test_an_object_out_of_sight_for_a_moment_is_the_same_and_later_another() -> None:
    def after(gap: int) -> list[int]:
        tracker = Tracker(TrackingConfig(coast=1.0))
        for k in range(10):
            seen(tracker, k, boxes_at([(k * 0.8, 0)]))
        for k in range(10, 10 + gap):
            assert ids(seen(tracker, k, boxes_at([]))) == []
        k = 10 + gap
        return ids(seen(tracker, k, boxes_at([(k * 0.8, 0)])))

    assert after(5) == [1] and after(9) == [1]
    assert after(10) == [2]


def test_one_that_was_seen_once_is_not_waited_for_long() -> None:
    tracker = Tracker()
    seen(tracker, 0, boxes_at([(10, 0)]))
    for k in range(1, 5):
        seen(tracker, k, boxes_at([]))
    assert len(tracker) == 0


def test_frames_half_a_second_apart_are_tracked() -> None:
    tracker = Tracker()
    for k in range(6):  # nuScenes' samples
        told = seen(tracker, 5 * k, boxes_at([(5 + 4.0 * k, 0)]))
    assert ids(told) == [1]
    np.testing.assert_allclose(speeds(told), [(8.0, 0.0)], atol=0.2)


def test_kinds_are_not_mixed_and_classes_of_a_kind_are() -> None:
    tracker = Tracker()
    seen(tracker, 0, boxes_at([(10, 0), (20, 0)], ["car", "pedestrian"]))
    told = seen(tracker, 1, boxes_at([(10, 0), (20, 0)], ["van", "car"]))
    assert ids(told) == [1, 3]
    assert ids(seen(tracker, 2, boxes_at([(20, 0.1)], "unknown"))) in ([2], [3])


def test_the_better_score_has_the_choice() -> None:
    tracker = Tracker()
    seen(tracker, 0, boxes_at([(10, 0)]))
    told = seen(tracker, 1, boxes_at([(10.1, 0), (10.4, 0)], scores=[0.4, 0.8]))
    assert ids(told) == [2, 1]


def test_the_same_frame_again_is_answered_the_same() -> None:
    once, often = Tracker(), Tracker()
    for k in range(8):
        boxes = boxes_at([(10 + 0.9 * k, 0), (10 + 0.2 * k, 4)])
        expected = seen(once, k, boxes)
        for _ in range(4):
            told = seen(often, k, boxes)
            assert ids(told) == ids(expected)
            np.testing.assert_array_equal(speeds(told), speeds(expected))


def test_time_that_goes_back_starts_anew_with_other_ids() -> None:
    tracker, runs = Tracker(), []
    for _ in range(2):  # a bag that loops
        runs.append([seen(tracker, k, boxes_at([(10 + k, 0)])) for k in range(5)])
    assert {i for b in runs[0] for i in ids(b)} == {1}
    assert {i for b in runs[1] for i in ids(b)} == {2}
    assert np.isnan(speeds(runs[1][0])).all()
    np.testing.assert_array_equal(speeds(runs[0][4]), speeds(runs[1][4]))
    assert tracker.counts == {"time_back": 1}


def test_odometry_that_jumps_comes_and_goes() -> None:
    tracker, car = Tracker(), boxes_at([(10, 0)])
    for k in range(5):
        seen(tracker, k, car)
    far = poses.from_xyz_rpy((500.0, 0.0, 0.0))
    told = seen(tracker, 5, car, far)
    assert ids(told) == [2] and np.isnan(speeds(told)).all()
    # One frame without a pose, of a motion that was never seen: nobody knows where the tracks are.
    missing = seen(tracker, 6, car, None)
    assert missing.track_ids is None and missing.velocities is None
    assert ids(seen(tracker, 7, car, far)) == [2]
    # For good: in base_link, and back.
    told = seen(tracker, 20, car, None)
    assert ids(told) == [3] and told.velocities is None
    assert ids(seen(tracker, 21, car, None)) == [3]
    assert ids(seen(tracker, 22, car, far)) == [4]
    assert tracker.counts == {"odometry_jump": 1, "no_pose": 2, "odometry_found": 1}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pose_that_is_none_is_not_used(value: float) -> None:
    tracker, car = Tracker(), boxes_at([(10, 0)])
    seen(tracker, 0, car)
    broken = STILL.copy()
    broken[0, 3] = value
    assert seen(tracker, 1, car, broken).velocities is None
    assert ids(seen(tracker, 2, car)) == [1]
    assert tracker.counts == {"bad_pose": 1}


def test_odometry_that_is_late_is_carried_on() -> None:
    tracker = Tracker()
    for k in range(20):
        # 10 m/s through a bend; /tf is behind in some frames.
        pose = poses.from_xyz_rpy((k, 0.05 * k**2 / 2, 0.0), (0.0, 0.0, 0.05 * k))
        there = poses.transform_points(poses.inverse(pose), np.array([[25.0, 4.0, 0.0]]))
        told = seen(tracker, k, boxes_at(there[:, :2]), None if k in (8, 13, 14) else pose)
        assert ids(told) == [1]
        if k > 5:
            assert np.abs(speeds(told)).max() < 1.5
    assert tracker.counts == {"no_pose": 3}
    np.testing.assert_allclose(speeds(told), 0.0, atol=0.3)
    assert seen(tracker, 24, boxes_at([(9, 0)]), None).track_ids is None, "late for too long"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_box_that_is_none_has_no_track_and_harms_no_other(value: float) -> None:
    tracker = Tracker()
    for k in range(5):
        told = seen(tracker, k, boxes_at([(value, 0), (10, 0)]))
        assert ids(told) == [NO_TRACK, 1]
        assert np.isnan(speeds(told)[0]).all()
    np.testing.assert_allclose(speeds(told)[1], 0.0, atol=1e-6)
    assert ids(seen(tracker, 5, boxes_at([(10, 0)], scores=[value]))) == [NO_TRACK]
    assert tracker.counts == {"bad_box": 6}


def test_boxes_of_another_frame_of_reference_are_left_alone() -> None:
    tracker = Tracker()
    told = seen(tracker, 0, boxes_at([(10, 0)], frame_id="map"))
    assert told.track_ids is None and tracker.counts == {"wrong_frame": 1}


def test_a_place_that_is_known_badly_tells_little_of_the_velocity() -> None:
    rough = np.tile(np.diag([25.0, 25.0, 1, 1, 1, 1]).astype(np.float32), (1, 1, 1))
    for covariances, told in ((None, True), (rough, False)):
        tracker = Tracker()
        for k in range(6):
            boxes = boxes_at([(10 + k, 0)], covariances=covariances)
            last = speeds(seen(tracker, k, boxes))
        assert np.isfinite(last).all() == told


def test_tracks_are_bounded_whatever_comes() -> None:
    tracker = Tracker(TrackingConfig(most_tracks=20, coast=10.0))
    rng = np.random.default_rng(0)
    for k in range(50):
        told = seen(tracker, k // 2, boxes_at(rng.uniform(-50, 50, (60, 2))))
        assert len(tracker) <= 20
        assert sum(i != NO_TRACK for i in ids(told)) == 20
    assert tracker.counts == {"too_many": 50 * 40}


drives = st.lists(
    st.tuples(
        st.integers(-3, 12),  # frames on, or back
        st.sampled_from(["still", "drive", "jump", "none"]),
        st.lists(
            st.tuples(
                st.floats(-60, 60, width=32),
                st.floats(-60, 60, width=32),
                st.sampled_from(CLASS_NAMES),
                st.floats(0, 1, width=32),
            ),
            max_size=8,
        ),
    ),
    max_size=12,
)


@settings(max_examples=120)
@given(drives, st.booleans())
def test_what_always_holds(drive, standing: bool) -> None:  # type: ignore[no-untyped-def]
    tracker = Tracker(TrackingConfig(most_tracks=10, standing=standing))
    step, x, known = 0, 0.0, set[int]()
    for move, odometry, found in drive:
        step += move
        x += {"drive": 0.5, "jump": 900.0}.get(odometry, 0.0)
        pose = None if odometry == "none" else poses.from_xyz_rpy((x, 0.0, 0.0), (0, 0, x))
        boxes = boxes_at([f[:2] for f in found], [f[2] for f in found], [f[3] for f in found])
        counts = dict(tracker.counts)
        told = tracker.update(boxes, SensorFrame(step * STEP_NS, odom_from_base=pose))
        np.testing.assert_array_equal(told.boxes, boxes.boxes)
        assert len(tracker) <= 10
        if told.velocities is not None:
            known_of = np.isfinite(told.velocities)
            assert (known_of.all(axis=1) == known_of.any(axis=1)).all()
        if told.track_ids is None:
            assert pose is None
            continue
        given_ids = [i for i in told.track_ids.tolist() if i != NO_TRACK]
        assert len(set(given_ids)) == len(given_ids), "an id is of one object at a time"
        fresh = set(given_ids) - known
        assert not known or not fresh or min(fresh) > max(known), "no id is given again"
        resets = ("time_back", "odometry_jump", "odometry_found")
        if any(tracker.counts[r] != counts.get(r, 0) for r in resets):
            assert not known & set(given_ids)
        known |= fresh


def test_a_disabled_tracker_is_none_and_values_are_checked() -> None:
    off = build(PipelineConfig, {"tracking": {"enabled": False}, "occupancy": "none"}, "test")
    assert build_pipeline(off).tracker is None
    assert build_pipeline(replace(off, tracking=TrackingConfig())).tracker is not None
    with pytest.raises(ConfigurationError, match=r"tracking\.coast"):
        build(PipelineConfig, {"tracking": {"coast": -1.0}}, "test")
