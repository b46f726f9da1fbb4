"""Ground segmentation: planes, slopes, kerbs, and objects on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.frame import LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.pointcloud.ground_segmentation import GroundConfig, segment_ground

UPRIGHT = poses.from_xyz_rpy((0, 0, 0))


def frame_of(*sweeps):
    """A frame of (points, base_from_sensor) pairs; points (N, 3)."""
    lidars, extrinsics = {}, {}
    for i, (points, pose) in enumerate(sweeps):
        values = np.column_stack([points, np.full(len(points), i)]).astype(np.float32)
        lidars[f"lidar{i}"] = LidarSweep(f"lidar{i}", 0, f"lidar{i}", values)
        extrinsics[f"lidar{i}"] = pose
    return SensorFrame(0, lidars=lidars, base_from_sensor=extrinsics)


def scatter(seed=0, n=40_000, nearest=2.0, farthest=50.0):
    """Random x (N,) and y (N,) all around the vehicle."""
    rng = np.random.default_rng(seed)
    r, angle = rng.uniform(nearest, farthest, n), rng.uniform(-np.pi, np.pi, n)
    return r * np.cos(angle), r * np.sin(angle)


def cloud_of(points, config=None):
    return segment_ground(frame_of((points, UPRIGHT)), config)


@pytest.mark.parametrize("z", [-0.1, 0.0, 0.15])
def test_plane_is_ground(z):
    x, y = scatter()
    cloud = cloud_of(np.column_stack([x, y, np.full(len(x), z)]))
    assert cloud.is_ground.all()
    # Up to the first return, the ground is interpolated from z = 0 below the vehicle.
    far = np.hypot(x, y) > 3
    np.testing.assert_allclose(cloud.height[far], 0, atol=1e-5)
    np.testing.assert_allclose(cloud.ground.at(x, y)[far], z, atol=1e-5)


@settings(max_examples=15)
@given(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1))
def test_slope_is_ground(a, b):
    x, y = scatter()
    cloud = cloud_of(np.column_stack([x, y, a * x + b * y]))
    # A bin of 0.5 m has one height, that of its lowest return; a sector is 1.7 m wide at 50 m.
    assert np.abs(cloud.height).max() < 0.3
    assert np.median(np.abs(cloud.height)) < 0.06
    assert cloud.is_ground.mean() > 0.999


@settings(max_examples=10)
@given(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1))
def test_post_on_a_slope_has_its_own_height_above_the_ground(a, b):
    x, y = scatter()
    post = np.column_stack([np.full(30, 12.0), np.full(30, 3.0), np.linspace(0.3, 1.8, 30)])
    post[:, 2] += a * 12.0 + b * 3.0
    cloud = cloud_of(np.vstack([np.column_stack([x, y, a * x + b * y]), post]))
    np.testing.assert_allclose(
        cloud.ground_relative_points[-30:, 2], np.linspace(0.3, 1.8, 30), atol=0.12
    )
    np.testing.assert_array_equal(
        cloud.ground_relative_points[:, [0, 1, 3]], cloud.points[:, [0, 1, 3]]
    )
    assert cloud.points[-30:, 2] == pytest.approx(post[:, 2], abs=1e-5)


@pytest.mark.parametrize("invalid", [np.nan, np.inf, -np.inf, 1e30])
def test_invalid_positions_get_the_ground_below_the_vehicle(invalid):
    x, y = scatter()
    ground = cloud_of(np.column_stack([x, y, 0.05 * x])).ground
    at = ground.at(np.array([invalid, 10.0, 0.0]), np.array([0.0, 0.0, invalid]))
    np.testing.assert_allclose(at, [0.0, 0.5, 0.0], atol=0.1)


def test_noisy_plane_is_ground():
    x, y = scatter()
    z = np.random.default_rng(1).normal(0, 0.02, len(x))
    cloud = cloud_of(np.column_stack([x, y, z]))
    assert cloud.is_ground.mean() > 0.999
    np.testing.assert_allclose(cloud.ground.at(x, y), 0, atol=0.12)


def rear_of_a_car(n=3000):
    """Returns of a car's rear 12 m ahead, from bumper to roof."""
    rng = np.random.default_rng(2)
    return np.column_stack([np.full(n, 12.0), rng.uniform(-0.9, 0.9, n), rng.uniform(0.35, 1.5, n)])


def road_with_shadow():
    x, y = scatter()
    shadow = (x > 11.8) & (np.abs(y) < 0.09 * x)
    return np.column_stack([x, y, np.zeros(len(x))])[~shadow]


def test_car_is_not_ground():
    road, car = road_with_shadow(), rear_of_a_car()
    cloud = cloud_of(np.vstack([road, car]))
    assert cloud.is_ground[: len(road)].all()
    assert not cloud.is_ground[len(road) :].any()
    np.testing.assert_allclose(cloud.height[len(road) :], car[:, 2], atol=0.05)


def test_kerb_and_pavement_are_ground():
    x, y = scatter(n=80_000)
    z = np.where(y > 4, 0.12, 0.0)
    cloud = cloud_of(np.column_stack([x, y, z]))
    assert cloud.is_ground.all()
    pavement = (y > 6) & (np.hypot(x, y) < 30)
    np.testing.assert_allclose(cloud.ground.at(x[pavement], y[pavement]).mean(), 0.12, atol=0.02)


def test_reflections_below_the_road_do_not_lower_the_ground():
    x, y = scatter()
    road = np.column_stack([x, y, np.zeros(len(x))])
    rng = np.random.default_rng(3)
    u, v = scatter(4, 2000, 8.0)
    below = np.column_stack([u, v, rng.uniform(-6, -2, 2000)])
    cloud = cloud_of(np.vstack([road, below]))
    np.testing.assert_allclose(cloud.height[: len(road)], 0, atol=1e-4)


def test_visible_upper_part_of_a_car_behind_another_is_not_ground():
    # Cars at 6 m occlude everything behind them except bonnets and windscreens from 16 m.
    x, y = scatter()
    road = np.column_stack([x, y, np.zeros(len(x))])[np.hypot(x, y) < 6]
    bearing = np.random.default_rng(7).uniform(-np.pi, np.pi, 20_000)
    distance = np.random.default_rng(8).uniform(16.0, 18.0, 20_000)
    z = np.where(distance < 17, 0.45 + 0.1 * (distance - 16), 0.55 + 0.7 * (distance - 17))
    cars = np.column_stack([distance * np.cos(bearing), distance * np.sin(bearing), z])
    cloud = cloud_of(np.vstack([road, cars]))
    assert not cloud.is_ground[len(road) :].any()
    np.testing.assert_allclose(cloud.height[len(road) :], z, atol=0.1)


def test_road_that_rises_behind_a_shadow_is_ground():
    x, y = scatter(farthest=40.0)
    r = np.hypot(x, y)
    z = np.where(r > 15, 0.04 * (r - 15), 0.0)
    visible = (r < 12) | (r > 19)
    cloud = cloud_of(np.column_stack([x, y, z])[visible])
    assert cloud.is_ground.mean() > 0.99


def test_wall_around_the_vehicle_is_not_ground():
    angle = np.random.default_rng(5).uniform(-np.pi, np.pi, 20_000)
    z = np.random.default_rng(6).uniform(0, 3, 20_000)
    x, y = scatter(farthest=20.0)
    road = np.column_stack([x, y, np.zeros(len(x))])
    wall = np.column_stack([20.2 * np.cos(angle), 20.2 * np.sin(angle), z])
    cloud = cloud_of(np.vstack([road, wall]))
    high = z > 0.5
    assert not cloud.is_ground[len(road) :][high].any()
    np.testing.assert_allclose(cloud.height[len(road) :][high], z[high], atol=0.15)


def test_points_are_transformed_to_base_link():
    x, y = scatter()
    road = np.column_stack([x, y, np.zeros(len(x))])
    sensor = poses.from_xyz_rpy((1.0, -0.5, 1.9), (0.05, -0.1, 2.0))
    local = poses.transform_points(poses.inverse(sensor), road)
    cloud = segment_ground(frame_of((local, sensor)))
    np.testing.assert_allclose(cloud.points[:, :3], road, atol=1e-4)
    assert cloud.is_ground.all()
    np.testing.assert_allclose(cloud.origins, [[1.0, -0.5, 1.9]])


def test_source_is_the_index_of_the_lidar():
    x, y = scatter(n=500)
    road = np.column_stack([x, y, np.zeros(500)])
    left, right = poses.from_xyz_rpy((0, 1, 2)), poses.from_xyz_rpy((0, -1, 2))
    frame = frame_of(
        (poses.transform_points(poses.inverse(left), road[:200]), left),
        (poses.transform_points(poses.inverse(right), road[200:]), right),
    )
    cloud = segment_ground(frame)
    np.testing.assert_array_equal(cloud.source, [0] * 200 + [1] * 300)
    np.testing.assert_array_equal(cloud.points[:, 3], cloud.source)
    np.testing.assert_allclose(cloud.origins, [[0, 1, 2], [0, -1, 2]])
    np.testing.assert_allclose(cloud.points[:, :3], road, atol=1e-5)


def test_points_out_of_range_are_dropped():
    points = np.array([[29.9, 0, 0], [30.1, 0, 0], [0, -40, 0], [22, 22, 0], [5, 5, 35], [1, 1, 0]])
    cloud = cloud_of(points, GroundConfig(max_range=30.0))
    np.testing.assert_allclose(cloud.points[:, :3], points[[0, 5]])
    arrays = (cloud.points, cloud.height, cloud.is_ground, cloud.source)
    assert {len(a) for a in arrays} == {2}


@pytest.mark.parametrize(
    "frame",
    [SensorFrame(0), frame_of((np.zeros((0, 3)), UPRIGHT)), frame_of(([[500, 0, 0]], UPRIGHT))],
)
def test_ground_is_flat_without_points(frame):
    cloud = segment_ground(frame)
    assert cloud.points.shape == (0, 4) and cloud.height.shape == (0,)
    assert len(cloud.origins) == len(frame.lidars)
    np.testing.assert_array_equal(cloud.ground.at(np.array([0.0, 9]), np.array([0.0, -70])), 0)


@settings(max_examples=15)
@given(st.integers(0, 179), st.integers(0, 100))
def test_rotation_by_sectors_does_not_change_heights(sectors, seed):
    # Points well inside cells, so that a rotation by sectors moves each one to the same bin.
    rng = np.random.default_rng(seed)
    sector, r = rng.integers(0, 180, 5000), rng.integers(4, 80, 5000) * 0.5 + 0.2
    z = rng.normal(0, 0.05, 5000) + rng.choice([0, 0, 0, 0.8], 5000)

    def heights(rotation):
        angle = (sector + rotation + 0.5) * 2 * np.pi / 180
        points = np.column_stack([r * np.cos(angle), r * np.sin(angle), z])
        return cloud_of(points).height

    np.testing.assert_allclose(heights(sectors), heights(0), atol=1e-3)


def test_result_is_deterministic_and_the_frame_is_not_modified():
    frame = frame_of((np.vstack([road_with_shadow(), rear_of_a_car()]), UPRIGHT))
    before = frame.lidars["lidar0"].points.copy()
    first, second = segment_ground(frame), segment_ground(frame)
    np.testing.assert_array_equal(first.height, second.height)
    np.testing.assert_array_equal(frame.lidars["lidar0"].points, before)


def test_ground_is_interpolated_between_and_extrapolated_beyond_returns():
    x, y = scatter(farthest=20.0)
    r = np.hypot(x, y)
    hole = (r > 9) & (r < 12)
    cloud = cloud_of(np.column_stack([x, y, 0.05 * r])[~hole])
    ground = cloud.ground.at(
        np.array([-3.0, 10.5, 0, 16.2, 60, 1e6]), np.array([0, 0, 7.7, 0, 0, 1])
    )
    np.testing.assert_allclose(ground, [0.15, 0.525, 0.385, 0.81, 1.0, 1.0], atol=0.03)


@pytest.mark.parametrize(
    "values",
    [
        {"sectors": 0},
        {"bin_length": 0.0},
        {"max_range": 1e9},
        {"height_tolerance": -1.0},
        {"max_hight": 0.2},
    ],
)
def test_invalid_configuration_is_refused(values):
    with pytest.raises(ConfigurationError, match=next(iter(values))):
        build(GroundConfig, values, "f")
