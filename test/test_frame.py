"""Core data types: validation, selection and change of the coordinate frame."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import (
    CLASS_NAMES,
    UNKNOWN,
    Boxes3D,
    CameraImage,
    LidarSweep,
    Modality,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import corners
from multimodal_perception.geometry.stamps import stamp_to_ns
from multimodal_perception.perception import Boxes2D, OccupancyGrid


def make_boxes(n, seed=0, **optional):
    rng = np.random.default_rng(seed)
    boxes = np.column_stack(
        [rng.uniform(-40, 40, (n, 3)), rng.uniform(0.5, 9, (n, 3)), rng.uniform(-3, 3, n)]
    )
    scores = rng.uniform(0, 1, n).astype(np.float32)
    return Boxes3D(
        5, "base_link", boxes.astype(np.float32), scores, rng.integers(0, 9, n), **optional
    )


def make_sweep(points, name="lidar"):
    return LidarSweep(name, 5, name, np.asarray(points, np.float32))


def test_first_class_is_unknown_and_class_names_are_unique():
    assert CLASS_NAMES[UNKNOWN] == "unknown"
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES)


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((3, 3), np.float32),
        np.zeros((3, 5), np.float32),
        np.zeros(4, np.float32),
        np.zeros((3, 4), np.float64),
        np.zeros((1, 3, 4), np.float32),
    ],
)
def test_sweep_requires_four_float32_columns(points):
    with pytest.raises(ValueError, match="points must be"):
        LidarSweep("lidar", 0, "lidar", points)


@pytest.mark.parametrize("name", ["time_offsets", "rings"])
@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1)])
def test_sweep_requires_one_time_and_ring_per_point(name, shape):
    with pytest.raises(ValueError, match=name):
        LidarSweep("lidar", 0, "lidar", np.zeros((3, 4), np.float32), **{name: np.zeros(shape)})


@pytest.mark.parametrize(
    ("encoding", "shape", "dtype"),
    [
        ("rgb8", (4, 5), np.uint8),
        ("bgr8", (4, 5, 4), np.uint8),
        ("mono8", (4, 5, 3), np.uint8),
        ("mono8", (4, 5, 1), np.uint8),
        ("rgb8", (4, 5, 3), np.float32),
        ("mono8", (4, 5), np.uint16),
    ],
)
def test_camera_image_requires_pixels_that_match_the_encoding(encoding, shape, dtype):
    with pytest.raises(ValueError, match="pixels must be"):
        CameraImage("front", 0, "f", np.zeros(shape, dtype), encoding)


@pytest.mark.parametrize(("shape", "dtype"), [((4, 5, 1), np.uint8), ((4, 5), np.float32)])
def test_thermal_image_requires_one_channel_of_uint8_or_uint16(shape, dtype):
    with pytest.raises(ValueError, match="pixels must be"):
        ThermalImage("ir", 0, "f", np.zeros(shape, dtype))


def test_rgb_returns_red_first_for_every_encoding():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    rgb = CameraImage("front", 0, "f", pixels, "rgb8").rgb()
    np.testing.assert_array_equal(rgb, pixels)
    from_bgr = CameraImage("front", 0, "f", pixels[..., ::-1], "bgr8").rgb()
    np.testing.assert_array_equal(from_bgr, pixels)
    assert np.shares_memory(rgb, pixels) and np.shares_memory(from_bgr, pixels)
    grey = CameraImage("front", 0, "f", pixels[..., 0], "mono8").rgb()
    np.testing.assert_array_equal(grey, pixels[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": np.zeros((2, 6), np.float32)},
        {"boxes": np.zeros(14, np.float32)},
        {"scores": np.zeros(3, np.float32)},
        {"scores": np.zeros((2, 1), np.float32)},
        {"labels": np.zeros(1, np.int64)},
        {"velocities": np.zeros((3, 2), np.float32)},
        {"track_ids": np.zeros(1, np.int64)},
        {"num_points": np.zeros(0, np.int64)},
    ],
)
def test_boxes_require_one_row_per_box_in_every_array(changes):
    with pytest.raises(ValueError, match=r"must (be|have)"):
        dataclasses.replace(make_boxes(2), **changes)


def test_empty_boxes():
    boxes = Boxes3D.empty(7, "map")
    assert (len(boxes), boxes.stamp_ns, boxes.frame_id) == (0, 7, "map")
    assert boxes.boxes.shape == (0, 7)
    assert boxes.labels.dtype == np.int64 and boxes.scores.dtype == np.float32
    assert len(boxes.transformed(poses.from_xyz_rpy((1, 2, 3)), "odom")) == 0


@pytest.mark.parametrize(
    "index", [np.array([2, 0]), np.array([True, False, True, False]), np.zeros(0, np.int64)]
)
def test_select_keeps_all_arrays_of_the_boxes(index):
    boxes = make_boxes(
        4,
        velocities=np.arange(8, dtype=np.float32).reshape(4, 2),
        track_ids=np.arange(4) + 10,
        num_points=np.arange(4) + 20,
    )
    chosen = boxes.select(index)
    assert (chosen.stamp_ns, chosen.frame_id) == (5, "base_link")
    for name in ("boxes", "scores", "labels", "velocities", "track_ids", "num_points"):
        np.testing.assert_array_equal(getattr(chosen, name), getattr(boxes, name)[index])
    assert make_boxes(4).select(index).velocities is None


coordinate = st.floats(-50, 50)


@settings(max_examples=60)
@given(coordinate, coordinate, coordinate, st.floats(-7, 7), st.integers(0, 1000))
def test_transformed_boxes_have_transformed_corners_and_velocities(x, y, z, yaw, seed):
    pose = poses.from_xyz_rpy((x, y, z), (0, 0, yaw))
    boxes = make_boxes(3, seed, velocities=np.array([[1, 0], [0, 2], [3, 4]], np.float32))
    moved = boxes.transformed(pose, "odom")
    assert (moved.frame_id, moved.stamp_ns) == ("odom", 5)
    expected = poses.transform_points(pose, corners(boxes.boxes))
    np.testing.assert_allclose(corners(moved.boxes), expected, atol=1e-4)
    velocities = np.column_stack([boxes.velocities, np.zeros(3)]) @ pose[:3, :3].T
    np.testing.assert_allclose(moved.velocities, velocities[:, :2], atol=1e-5)
    assert (np.abs(moved.boxes[:, 6]) <= np.pi + 1e-6).all()


def test_covariances_are_rotated_and_selected_with_their_boxes():
    covariance = np.diag([4.0, 1.0, 0.5, 0.1, 0.2, 0.3]).astype(np.float32)
    covariances = np.stack([covariance, 2 * covariance])
    boxes = make_boxes(2, covariances=covariances)
    rotated = boxes.transformed(poses.from_xyz_rpy((5, 6, 7), (0, 0, np.pi / 2)), "odom")
    expected = np.diag([1.0, 4.0, 0.5, 0.2, 0.1, 0.3])
    np.testing.assert_allclose(rotated.covariances[1], 2 * expected, atol=1e-5)
    np.testing.assert_array_equal(boxes.select([1]).covariances, covariances[1:])
    with pytest.raises(ValueError, match="covariances"):
        make_boxes(2, covariances=covariances[:1])


def test_transformed_does_not_change_the_original_boxes():
    boxes = make_boxes(3)
    before = boxes.boxes.copy()
    back = boxes.transformed(poses.from_xyz_rpy((1, 2, 3), (0, 0, 1)), "odom")
    assert not np.allclose(back.boxes, before)
    np.testing.assert_array_equal(boxes.boxes, before)


def test_boxes_2d_require_four_coordinates_and_one_score_per_box():
    rows = np.array([[0, 0, 1, 1], [2, 3, 9, 9]], np.float32)
    score, label = np.ones(2, np.float32), np.zeros(2, np.int64)
    assert len(Boxes2D("front", 0, rows, score, label, ("car",), (640, 360))) == 2
    with pytest.raises(ValueError, match="boxes"):
        Boxes2D("front", 0, rows[:, :3], score, label, ("car",), (640, 360))
    with pytest.raises(ValueError, match="score"):
        Boxes2D("front", 0, rows, score[:1], label, ("car",), (640, 360))


def test_unknown_mass_and_pignistic_probability():
    free = np.array([[0.0, 1.0, 0.0, 0.25]], np.float32)
    occupied = np.array([[0.0, 0.0, 1.0, 0.5]], np.float32)
    grid = OccupancyGrid(0, "map", 0.5, (0.0, 0.0), free, occupied)
    np.testing.assert_allclose(grid.unknown(), [[1, 0, 0, 0.25]])
    np.testing.assert_allclose(grid.probability(), [[0.5, 0, 1, 0.625]])
    conflict = np.array([[0.5, 0, 0, 0.25]], np.float32)
    np.testing.assert_allclose(
        dataclasses.replace(grid, conflict=conflict).unknown(), [[0.5, 0, 0, 0]]
    )


@pytest.mark.parametrize("resolution", [0.0, -1.0, float("nan")])
def test_grid_requires_a_positive_resolution(resolution):
    layer = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="resolution"):
        OccupancyGrid(0, "map", resolution, (0.0, 0.0), layer, layer)


def test_grid_requires_layers_of_equal_shape():
    layer = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="same shape"):
        OccupancyGrid(0, "map", 1.0, (0.0, 0.0), layer, layer[:1])


def test_points_of_all_lidars_are_merged_in_base_link():
    left = poses.from_xyz_rpy((0, 1, 2), (0, 0, np.pi / 2))
    frame = SensorFrame(
        5,
        lidars={
            "roof": make_sweep([[1, 0, 0, 9]], "roof"),
            "left": make_sweep([[1, 0, 0, 8], [0, 0, 5, 7]], "left"),
        },
        base_from_sensor={"roof": poses.from_xyz_rpy((0, 0, 3)), "left": left},
    )
    points = frame.points_in_base()
    assert points.dtype == np.float32
    np.testing.assert_allclose(points, [[1, 0, 3, 9], [0, 2, 2, 8], [0, 1, 7, 7]], atol=1e-6)


def test_ego_motion_is_applied_after_the_extrinsics():
    # The vehicle drove 2 m and rotated left between the reading and the frame.
    motion = poses.from_xyz_rpy((2, 0, 0), (0, 0, np.pi / 2))
    frame = SensorFrame(
        5,
        lidars={"roof": make_sweep([[1, 0, 0, 0]], "roof")},
        base_from_sensor={"roof": poses.from_xyz_rpy((0, 0, 3))},
        reference_from_base={"roof": motion},
    )
    np.testing.assert_allclose(frame.points_in_base(), [[2, 1, 3, 0]], atol=1e-6)


def test_frame_without_lidar_has_no_points():
    assert SensorFrame(5).points_in_base().shape == (0, 4)


def test_missing_extrinsics_raise_key_error():
    frame = SensorFrame(5, lidars={"roof": make_sweep([[1, 0, 0, 0]], "roof")})
    with pytest.raises(KeyError, match="roof"):
        frame.points_in_base()


def test_frame_lists_present_and_missing_sensors():
    reading = UltrasonicReading("rear", 5, "rear", 1.0, 0.2, 5.0, 0.5)
    frame = SensorFrame(
        5,
        lidars={"roof": make_sweep([[1, 0, 0, 0]], "roof")},
        ultrasonics={"rear": reading},
        expected=frozenset({"roof", "front", "rear", "thermal"}),
    )
    assert frame.present == {"roof", "rear"}
    assert frame.missing == {"front", "thermal"}
    without_ultrasonic = frame.select_modalities({Modality.LIDAR, Modality.CAMERA})
    assert without_ultrasonic.present == {"roof"} and without_ultrasonic.missing == {
        "front",
        "rear",
        "thermal",
    }
    assert frame.select_modalities(()).present == frozenset() and frame.present == {"roof", "rear"}


def test_modality_values():
    assert [m.value for m in Modality] == ["lidar", "camera", "thermal", "ultrasonic"]
    assert Modality("lidar") is Modality.LIDAR


@given(st.integers(0, 2**31 - 1), st.integers(0, 10**9 - 1))
def test_stamp_to_ns_returns_nanoseconds(seconds, nanoseconds):
    assert divmod(stamp_to_ns(seconds, nanoseconds), 10**9) == (seconds, nanoseconds)


def boxes_with(count: int, **optional: object) -> Boxes3D:
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(count, 7)).astype(np.float32)
    scores, labels = np.ones(count, np.float32), np.ones(count, np.int64)
    return Boxes3D(0, "base_link", rows, scores, labels, **optional)  # type: ignore[arg-type]


def test_concatenated_boxes_keep_optional_values_and_mark_unknown_ones() -> None:
    covariances = np.tile(np.eye(2, dtype=np.float32), (2, 1, 1))
    first = boxes_with(
        2,
        velocities=np.ones((2, 2), np.float32),
        covariances=np.ones((2, 6, 6), np.float32),
        velocity_covariances=covariances,
    )
    second = boxes_with(3, track_ids=np.arange(3))
    both = Boxes3D.concatenate([first, second])
    np.testing.assert_array_equal(both.boxes, np.concatenate([first.boxes, second.boxes]))
    assert both.velocities is not None and both.covariances is not None
    assert (both.velocities[:2] == 1).all() and np.isnan(both.velocities[2:]).all()
    assert (both.covariances[:2] == 1).all() and not both.covariances[2:].any()
    assert both.velocity_covariances is not None
    assert np.isnan(both.velocity_covariances[2:]).all()
    assert both.track_ids is not None and both.track_ids.tolist() == [-1, -1, 0, 1, 2]
    assert both.num_points is None and both.visibility is None
    selected = both.select([4, 0])
    assert selected.velocity_covariances is not None
    np.testing.assert_array_equal(selected.velocity_covariances[1], np.eye(2))
    with pytest.raises(ValueError, match="class names"):
        Boxes3D.concatenate([first, dataclasses.replace(second, class_names=("a", "b"))])


def test_velocity_covariances_turn_with_the_boxes() -> None:
    covariances = np.array([[[4.0, 0.0], [0.0, 1.0]]], np.float32)
    velocities = np.array([[3.0, 0.0]], np.float32)
    boxes = boxes_with(1, velocities=velocities, velocity_covariances=covariances)
    turned = boxes.transformed(poses.from_xyz_rpy((1, 2, 3), (0, 0, np.pi / 2)), "other")
    np.testing.assert_allclose(turned.velocities, [[0.0, 3.0]], atol=1e-6)
    np.testing.assert_allclose(turned.velocity_covariances, [[[1.0, 0.0], [0.0, 4.0]]], atol=1e-6)
