"""Tracking: velocities against closed forms, unique ids, and invalid time and odometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.track_filter import MOTION_MODELS
from multimodal_perception.tracking import NO_TRACK, Tracker, TrackingConfig

STEP_NS = 100_000_000
IDENTITY = np.eye(4)


def boxes_at(xy, names="car", scores=None, frame_id="base_link", **more) -> Boxes3D:  # type: ignore[no-untyped-def]
    n = len(xy)
    boxes = np.zeros((n, 7), np.float32)
    boxes[:, :2] = np.reshape(xy, (n, 2))
    boxes[:, 3:6] = 4.0, 1.8, 1.5
    names = [names] * n if isinstance(names, str) else names
    labels = np.array([CLASS_NAMES.index(name) for name in names], np.int64)
    values = np.array([0.9] * n if scores is None else scores, np.float32)
    return Boxes3D(0, frame_id, boxes, values, labels, **more)


def update(tracker: Tracker, step: float, boxes: Boxes3D, pose=IDENTITY) -> Boxes3D:  # type: ignore[no-untyped-def]
    return tracker.update(boxes, SensorFrame(round(step * STEP_NS), odom_from_base=pose))


def ids(boxes: Boxes3D) -> list[int]:
    assert boxes.track_ids is not None
    return boxes.track_ids.tolist()


def velocities_of(boxes: Boxes3D) -> np.ndarray:
    assert boxes.velocities is not None
    return boxes.velocities


@pytest.mark.parametrize("name", list(MOTION_MODELS))
def test_velocity_of_an_object_of_constant_velocity_is_estimated(name: str) -> None:
    # Each class at a plausible speed.
    vx, vy = MOTION_MODELS[name].speed_std * 0.8, -MOTION_MODELS[name].speed_std * 0.4
    tracker, tracked = Tracker(), []
    for k in range(30):
        tracked.append(update(tracker, k, boxes_at([(5 + vx * k / 10, 3 + vy * k / 10)], name)))
    assert {i for boxes in tracked for i in ids(boxes)} == {1}
    assert np.isnan(velocities_of(tracked[0])).all(), "the velocity is unknown after one detection"
    np.testing.assert_allclose(
        velocities_of(tracked[-1]), [[vx, vy]], atol=0.06 * MOTION_MODELS[name].speed_std
    )


def test_velocity_after_two_frames_matches_the_kalman_filter() -> None:
    config = TrackingConfig(max_velocity_std=50.0)
    tracker, car = Tracker(config), MOTION_MODELS["car"]
    update(tracker, 0, boxes_at([(10, 0)]))
    tracked = velocities_of(update(tracker, 1, boxes_at([(11, 0)])))
    r, v, q, t = car.position_std**2, car.speed_std**2, car.acceleration_std**2, 0.1
    position, mixed = r + t**2 * v + q * t**4 / 4, t * v + q * t**3 / 2
    assert tracked[0, 0] == pytest.approx(mixed / (position + r), rel=1e-5)
    assert tracked[0, 1] == pytest.approx(0.0, abs=1e-6)


def test_velocities_are_over_ground_while_the_vehicle_turns() -> None:
    tracker, tracked = Tracker(), boxes_at([])
    for k in range(40):
        t = k / 10
        # 8 m/s along a circle of 10 m radius.
        yaw = 0.8 * t
        position = (10 * np.sin(yaw), 10 - 10 * np.cos(yaw), 0.0)
        pose = poses.from_xyz_rpy(position, (0.0, 0.0, yaw))
        objects = np.array([(20.0, 5.0, 0.0), (5.0 + 6.0 * t, -15.0, 0.0)])
        local = poses.transform_points(poses.inverse(pose), objects)
        tracked = update(tracker, k, boxes_at(local[:, :2]), pose)
    assert ids(tracked) == [1, 2]
    assert np.abs(velocities_of(tracked)[0]).max() < 0.02
    over_ground = velocities_of(tracked)[1] @ pose[:2, :2].T
    np.testing.assert_allclose(over_ground, (6.0, 0.0), atol=0.1)


def test_without_odometry_there_are_ids_and_only_stationary_sensors_give_velocities() -> None:
    for stationary in (False, True):
        tracker = Tracker(TrackingConfig(stationary=stationary))
        for k in range(10):
            tracked = update(tracker, k, boxes_at([(20 - 0.5 * k, 0)]), None)
            assert ids(tracked) == [1]
        if stationary:
            np.testing.assert_allclose(velocities_of(tracked), [(-5.0, 0.0)], atol=0.1)
        else:
            assert tracked.velocities is None


def test_jump_of_a_centre_keeps_the_id_and_hardly_changes_the_velocity() -> None:
    tracker = Tracker()
    for k in range(20):
        # The far end of a parked car becomes visible: its centre moves by 1.8 m.
        tracked = update(tracker, k, boxes_at([(10.0 if k < 12 else 11.8, 0)]))
        assert ids(tracked) == [1]
        if k > 5:
            assert np.abs(velocities_of(tracked)).max() < 2.0  # the jump corresponds to 18 m/s


def test_id_is_kept_for_the_coast_time_without_detections() -> None:
    def after(gap: int) -> list[int]:
        tracker = Tracker(TrackingConfig(max_coast_s=1.0))
        for k in range(10):
            update(tracker, k, boxes_at([(k * 0.8, 0)]))
        for k in range(10, 10 + gap):
            assert ids(update(tracker, k, boxes_at([]))) == []
        k = 10 + gap
        return ids(update(tracker, k, boxes_at([(k * 0.8, 0)])))

    assert after(5) == [1] and after(9) == [1]
    assert after(10) == [2]


def test_track_with_one_detection_is_deleted_early() -> None:
    tracker = Tracker()
    update(tracker, 0, boxes_at([(10, 0)]))
    for k in range(1, 5):
        update(tracker, k, boxes_at([]))
    assert len(tracker) == 0


def test_frames_at_2_hz_are_tracked() -> None:
    tracker = Tracker()
    for k in range(6):  # the rate of nuScenes keyframes
        tracked = update(tracker, 5 * k, boxes_at([(5 + 4.0 * k, 0)]))
    assert ids(tracked) == [1]
    np.testing.assert_allclose(velocities_of(tracked), [(8.0, 0.0)], atol=0.2)


def test_tracks_change_class_only_within_their_group() -> None:
    tracker = Tracker()
    update(tracker, 0, boxes_at([(10, 0), (20, 0)], ["car", "pedestrian"]))
    tracked = update(tracker, 1, boxes_at([(10, 0), (20, 0)], ["van", "car"]))
    assert ids(tracked) == [1, 3]
    assert ids(update(tracker, 2, boxes_at([(20, 0.1)], "unknown"))) in ([2], [3])


def test_box_with_the_higher_score_is_assigned_first() -> None:
    tracker = Tracker()
    update(tracker, 0, boxes_at([(10, 0)]))
    tracked = update(tracker, 1, boxes_at([(10.1, 0), (10.4, 0)], scores=[0.4, 0.8]))
    assert ids(tracked) == [2, 1]


def test_repeated_frame_gives_the_same_result() -> None:
    once, often = Tracker(), Tracker()
    for k in range(8):
        boxes = boxes_at([(10 + 0.9 * k, 0), (10 + 0.2 * k, 4)])
        expected = update(once, k, boxes)
        for _ in range(4):
            tracked = update(often, k, boxes)
            assert ids(tracked) == ids(expected)
            np.testing.assert_array_equal(velocities_of(tracked), velocities_of(expected))


def test_stamps_that_go_back_restart_tracking_with_new_ids() -> None:
    tracker, runs = Tracker(), []
    for _ in range(2):  # a bag that loops
        runs.append([update(tracker, k, boxes_at([(10 + k, 0)])) for k in range(5)])
    assert {i for b in runs[0] for i in ids(b)} == {1}
    assert {i for b in runs[1] for i in ids(b)} == {2}
    assert np.isnan(velocities_of(runs[1][0])).all()
    np.testing.assert_array_equal(velocities_of(runs[0][4]), velocities_of(runs[1][4]))
    assert tracker.counts == {"time_back": 1}


def test_tracking_restarts_when_odometry_jumps_appears_or_disappears() -> None:
    tracker, car = Tracker(), boxes_at([(10, 0)])
    for k in range(5):
        update(tracker, k, car)
    far = poses.from_xyz_rpy((500.0, 0.0, 0.0))
    tracked = update(tracker, 5, car, far)
    assert ids(tracked) == [2] and np.isnan(velocities_of(tracked)).all()
    # One frame without a pose, and no earlier motion to extrapolate: the frame is skipped.
    missing = update(tracker, 6, car, None)
    assert missing.track_ids is None and missing.velocities is None
    assert ids(update(tracker, 7, car, far)) == [2]
    # Odometry is lost for long, then returns.
    tracked = update(tracker, 20, car, None)
    assert ids(tracked) == [3] and tracked.velocities is None
    assert ids(update(tracker, 21, car, None)) == [3]
    assert ids(update(tracker, 22, car, far)) == [4]
    assert tracker.counts == {"odometry_jump": 1, "no_pose": 2, "odometry_found": 1}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_invalid_pose_is_not_used(value: float) -> None:
    tracker, car = Tracker(), boxes_at([(10, 0)])
    update(tracker, 0, car)
    broken = IDENTITY.copy()
    broken[0, 3] = value
    assert update(tracker, 1, car, broken).velocities is None
    assert ids(update(tracker, 2, car)) == [1]
    assert tracker.counts == {"bad_pose": 1}


def test_motion_is_extrapolated_while_odometry_is_late() -> None:
    tracker = Tracker()
    for k in range(20):
        # 10 m/s through a bend; odometry is late in some frames.
        pose = poses.from_xyz_rpy((k, 0.05 * k**2 / 2, 0.0), (0.0, 0.0, 0.05 * k))
        local = poses.transform_points(poses.inverse(pose), np.array([[25.0, 4.0, 0.0]]))
        tracked = update(tracker, k, boxes_at(local[:, :2]), None if k in (8, 13, 14) else pose)
        assert ids(tracked) == [1]
        if k > 5:
            assert np.abs(velocities_of(tracked)).max() < 1.5
    assert tracker.counts == {"no_pose": 3}
    np.testing.assert_allclose(velocities_of(tracked), 0.0, atol=0.3)
    assert update(tracker, 24, boxes_at([(9, 0)]), None).track_ids is None, "the delay is too long"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_invalid_box_gets_no_track_and_does_not_affect_others(value: float) -> None:
    tracker = Tracker()
    for k in range(5):
        tracked = update(tracker, k, boxes_at([(value, 0), (10, 0)]))
        assert ids(tracked) == [NO_TRACK, 1]
        assert np.isnan(velocities_of(tracked)[0]).all()
    np.testing.assert_allclose(velocities_of(tracked)[1], 0.0, atol=1e-6)
    assert ids(update(tracker, 5, boxes_at([(10, 0)], scores=[value]))) == [NO_TRACK]
    assert tracker.counts == {"bad_box": 6}


def test_boxes_in_another_frame_are_not_changed() -> None:
    tracker = Tracker()
    tracked = update(tracker, 0, boxes_at([(10, 0)], frame_id="map"))
    assert tracked.track_ids is None and tracker.counts == {"wrong_frame": 1}


def test_velocity_is_not_reported_for_uncertain_positions() -> None:
    uncertain = np.tile(np.diag([25.0, 25.0, 1, 1, 1, 1]).astype(np.float32), (1, 1, 1))
    for covariances, is_reported in ((None, True), (uncertain, False)):
        tracker = Tracker()
        for k in range(6):
            boxes = boxes_at([(10 + k, 0)], covariances=covariances)
            last = velocities_of(update(tracker, k, boxes))
        assert np.isfinite(last).all() == is_reported


def test_number_of_tracks_is_bounded() -> None:
    tracker = Tracker(TrackingConfig(max_tracks=20, max_coast_s=10.0))
    rng = np.random.default_rng(0)
    for k in range(50):
        tracked = update(tracker, k // 2, boxes_at(rng.uniform(-50, 50, (60, 2))))
        assert len(tracker) <= 20
        assert sum(i != NO_TRACK for i in ids(tracked)) == 20
    assert tracker.counts == {"too_many": 50 * 40}


drives = st.lists(
    st.tuples(
        st.integers(-3, 12),  # frames forward or back
        st.sampled_from(["stationary", "drive", "jump", "none"]),
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
def test_invariants_hold_for_random_drives(drive, stationary: bool) -> None:  # type: ignore[no-untyped-def]
    tracker = Tracker(TrackingConfig(max_tracks=10, stationary=stationary))
    step, x, known = 0, 0.0, set[int]()
    for move, odometry, objects in drive:
        step += move
        x += {"drive": 0.5, "jump": 900.0}.get(odometry, 0.0)
        pose = None if odometry == "none" else poses.from_xyz_rpy((x, 0.0, 0.0), (0, 0, x))
        boxes = boxes_at([o[:2] for o in objects], [o[2] for o in objects], [o[3] for o in objects])
        counts = dict(tracker.counts)
        tracked = tracker.update(boxes, SensorFrame(step * STEP_NS, odom_from_base=pose))
        np.testing.assert_array_equal(tracked.boxes, boxes.boxes)
        assert len(tracker) <= 10
        if tracked.velocities is not None:
            known_of = np.isfinite(tracked.velocities)
            assert (known_of.all(axis=1) == known_of.any(axis=1)).all()
        if tracked.track_ids is None:
            assert pose is None
            continue
        given_ids = [i for i in tracked.track_ids.tolist() if i != NO_TRACK]
        assert len(set(given_ids)) == len(given_ids), "ids are unique within a frame"
        new_ids = set(given_ids) - known
        assert not known or not new_ids or min(new_ids) > max(known), "ids are never used again"
        resets = ("time_back", "odometry_jump", "odometry_found")
        if any(tracker.counts[r] != counts.get(r, 0) for r in resets):
            assert not known & set(given_ids)
        known |= new_ids


def test_tracking_can_be_disabled_and_its_values_are_checked() -> None:
    off = build(PipelineConfig, {"tracking": {"enabled": False}, "occupancy": "none"}, "test")
    assert build_pipeline(off).tracker is None
    assert build_pipeline(replace(off, tracking=TrackingConfig())).tracker is not None
    with pytest.raises(ConfigurationError, match=r"tracking\.max_coast_s"):
        build(PipelineConfig, {"tracking": {"max_coast_s": -1.0}}, "test")


def with_velocities(boxes: Boxes3D, velocity, std: float) -> Boxes3D:  # type: ignore[no-untyped-def]
    """The boxes with one measured velocity in base_link and its standard deviation."""
    velocities = np.tile(np.array(velocity, np.float32), (len(boxes), 1))
    covariances = np.tile(np.eye(2, dtype=np.float32) * std**2, (len(boxes), 1, 1))
    return replace(boxes, velocities=velocities, velocity_covariances=covariances)


def test_measured_velocity_is_reported_from_the_first_detection() -> None:
    turned = poses.from_xyz_rpy((3.0, 1.0, 0.0), (0.0, 0.0, 0.7))
    measured = with_velocities(boxes_at([(10, 0)]), (6.0, -1.0), 0.3)
    tracked = update(Tracker(), 0, measured, turned)
    np.testing.assert_allclose(velocities_of(tracked), [[6.0, -1.0]], atol=0.05)
    assert tracked.velocity_covariances is not None
    variance = tracked.velocity_covariances[0, 0, 0]
    assert 0.3**2 < variance < 4 * 0.3**2 + 1e-6
    np.testing.assert_allclose(tracked.velocity_covariances[0], variance * np.eye(2), atol=1e-6)


def test_measured_velocity_and_positions_agree_on_moving_objects() -> None:
    """With measured velocities the estimate is better than from positions, and stays consistent."""
    rng = np.random.default_rng(0)
    errors = {True: [], False: []}  # type: ignore[var-annotated]
    for measured in errors:
        tracker = Tracker()
        for k in range(30):
            boxes = boxes_at([(5 + 0.8 * k + rng.normal(0, 0.15), rng.normal(0, 0.15))])
            if measured:
                velocity = (8 + rng.normal(0, 0.4), rng.normal(0, 0.4))
                boxes = with_velocities(boxes, velocity, 0.4)
            tracked = update(tracker, k, boxes)
            if k > 3:
                errors[measured].append(np.linalg.norm(velocities_of(tracked)[0] - (8, 0)))
    assert np.nanmean(errors[True]) < 0.7 * np.nanmean(errors[False])


def test_uncertain_invalid_and_missing_velocities_have_no_effect() -> None:
    plain, other = Tracker(), Tracker()
    for k in range(6):
        boxes = boxes_at([(5 + k, 0), (20, 5)])
        expected = update(plain, k, boxes)
        measured = with_velocities(boxes, (np.nan, 3.0) if k % 2 else (40.0, 3.0), 1.0)
        invalid = np.array(measured.velocity_covariances)
        invalid[:] = np.nan if k % 2 == 0 else 1.0
        tracked = update(other, k, replace(measured, velocity_covariances=invalid))
        np.testing.assert_array_equal(velocities_of(tracked), velocities_of(expected))
    uncertain = with_velocities(boxes_at([(5, 0)]), (6.0, 0.0), 30.0)
    assert np.isnan(velocities_of(update(Tracker(), 0, uncertain))).all()


def test_wrong_measured_velocity_is_an_outlier() -> None:
    tracker = Tracker()
    for k in range(20):
        update(tracker, k, with_velocities(boxes_at([(5 + 0.5 * k, 0)]), (5.0, 0.0), 0.3))
    wrong = with_velocities(boxes_at([(15, 0)]), (-20.0, 0.0), 0.3)
    tracked = update(tracker, 20, wrong)
    assert velocities_of(tracked)[0, 0] > 2.0 and ids(tracked) == [1]


def test_measured_velocities_are_not_used_without_odometry() -> None:
    measured = with_velocities(boxes_at([(10, 0)]), (6.0, 0.0), 0.3)
    tracked = update(Tracker(), 0, measured, None)
    assert tracked.velocities is None and tracked.velocity_covariances is None
    stationary = update(Tracker(TrackingConfig(stationary=True)), 0, measured, None)
    np.testing.assert_allclose(velocities_of(stationary), [[6.0, 0.0]], atol=0.05)
