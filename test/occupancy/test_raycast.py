"""Ray-cast occupancy in synthetic scenes with a known result."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.occupancy.cells import GridGeometry, cell_at
from multimodal_perception.occupancy.raycast import RaycastConfig, RayCaster, RaycastMapper
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pointcloud.ground_segmentation import segment_ground


def frame_of(points: np.ndarray, height: float = 1.7) -> SensorFrame:
    cloud = np.zeros((len(points), 4), np.float32)
    cloud[:, :3] = points
    cloud[:, 2] -= height
    return SensorFrame(
        0,
        lidars={"lidar": LidarSweep("lidar", 0, "lidar", cloud)},
        base_from_sensor={"lidar": poses.from_xyz_rpy((0.0, 0.0, height))},
    )


def grid_of(points: np.ndarray) -> OccupancyGrid:
    frame = frame_of(points)
    return RaycastMapper().update(frame, segment_ground(frame))


def at(grid: OccupancyGrid, x: float, y: float) -> tuple[float, float]:
    column = int((x - grid.origin[0]) / grid.resolution)
    row = int((y - grid.origin[1]) / grid.resolution)
    return float(grid.free[row, column]), float(grid.occupied[row, column])


def flat_ground(radius: float = 25.0, gap: tuple[float, float] | None = None) -> np.ndarray:
    r, a = np.meshgrid(
        np.arange(3.0, radius, 0.2), np.linspace(-np.pi, np.pi, 1800, endpoint=False)
    )
    r, a = r.ravel(), a.ravel()
    if gap is not None:
        shadow = (np.abs(a) < gap[1]) & (r > gap[0])
        r, a = r[~shadow], a[~shadow]
    return np.column_stack([r * np.cos(a), r * np.sin(a), np.zeros_like(r)])


def wall(x: float, half_width: float, top: float = 1.6) -> np.ndarray:
    y, z = np.meshgrid(np.arange(-half_width, half_width, 0.05), np.arange(0.1, top, 0.1))
    return np.column_stack([np.full(y.size, x), y.ravel(), z.ravel()])


def test_flat_ground_is_free_up_to_the_last_return() -> None:
    grid = grid_of(flat_ground())
    for x, y in ((10, 0), (-10, 3), (0, -20), (15, 15)):
        free, occupied = at(grid, x, y)
        assert free > 0.8 and occupied == 0
    assert at(grid, 35, 0) == (0, 0)
    assert grid.unknown()[0, 0] == 1.0


def test_wall_is_occupied_with_free_space_before_and_unknown_behind() -> None:
    points = np.concatenate([flat_ground(gap=(10.0, 0.3)), wall(10.0, 3.0)])
    grid = grid_of(points)
    assert at(grid, 10.05, 0.0)[1] > 0.9
    assert at(grid, 9.0, 0.0)[0] > 0.8
    free, occupied = at(grid, 14.0, 0.0)
    assert free == 0 and occupied == 0


def test_thin_pole_is_occupied_despite_passing_rays() -> None:
    z = np.arange(0.3, 1.6, 0.05)
    pole = np.column_stack([np.full(z.size, 12.1), np.full(z.size, 0.1), z])
    free, occupied = at(grid_of(np.concatenate([flat_ground(), pole])), 12.1, 0.1)
    assert occupied > 0.9 and free < 0.1


def test_bridge_is_no_obstacle() -> None:
    x, y = (v.ravel() for v in np.meshgrid(np.arange(10, 12, 0.1), np.arange(-2, 2, 0.1)))
    bridge = np.column_stack([x, y, np.full(x.size, 4.0)])
    free, occupied = at(grid_of(np.concatenate([flat_ground(), bridge])), 11.0, 0.0)
    assert occupied == 0 and free > 0.8


def test_frame_without_points_is_unknown() -> None:
    frame = SensorFrame(0)
    grid = RaycastMapper().update(frame, segment_ground(frame))
    assert (grid.unknown() == 1).all()


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 2000), st.floats(0.1, 1000))
def test_masses_are_valid_for_any_points(seed: int, count: int, spread: float) -> None:
    points = np.random.default_rng(seed).normal(0, spread, (count, 3))
    grid = grid_of(points)
    for layer in (grid.free, grid.occupied, grid.unknown()):
        assert np.isfinite(layer).all()
        assert layer.min() >= -1e-6 and layer.max() <= 1 + 1e-6


def test_two_lidars_are_combined() -> None:
    right, left = flat_ground(), flat_ground()
    right, left = right[right[:, 1] < 0], left[left[:, 1] >= 0]
    first, second = frame_of(right), frame_of(left)
    both = SensorFrame(
        0,
        lidars={"a": first.lidars["lidar"], "b": second.lidars["lidar"]},
        base_from_sensor=dict.fromkeys("ab", first.base_from_sensor["lidar"]),
    )
    grid = RaycastMapper().update(both, segment_ground(both))
    assert at(grid, 10, 5)[0] > 0.8 and at(grid, 10, -5)[0] > 0.8


@pytest.mark.parametrize(
    "values", [{"obstacle_heights": (1.0, 0.5)}, {"half_extent": 200.0, "resolution": 0.05}]
)
def test_invalid_configuration_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        RaycastConfig(**values)  # type: ignore[arg-type]


def test_slope_is_free_and_not_occupied() -> None:
    points = flat_ground()
    points[:, 2] = 0.1 * points[:, 0]
    grid = grid_of(points)
    for x, y in ((10, 0), (-10, 3), (0, -15), (12, 12)):
        free, occupied = at(grid, x, y)
        assert free > 0.7 and occupied == 0


def test_ground_below_a_car_is_not_free() -> None:
    # The side of a car 0.3 m above the road, with returns from the road below and behind it.
    y, z = (v.ravel() for v in np.meshgrid(np.arange(-0.9, 0.9, 0.03), np.arange(0.3, 1.5, 0.1)))
    side = np.column_stack([np.full(y.size, 10.0), y, z])
    free, occupied = at(grid_of(np.concatenate([flat_ground(), side])), 11.0, 0.0)
    assert free == 0 and occupied == 0
    # Beside the car the same ground is free.
    assert at(grid_of(np.concatenate([flat_ground(), side])), 11.0, 2.0)[0] > 0.8


def test_low_wall_occludes_only_the_ground_close_behind_it() -> None:
    points = flat_ground()
    # Rays over a wall of 0.4 m at 8 m meet the ground from 8 * 1.7 / 1.3 = 10.46 m on.
    ahead, r = np.abs(points[:, 1]) < 0.3 * points[:, 0], np.hypot(points[:, 0], points[:, 1])
    points = points[~(ahead & (r > 8.0) & (r < 10.6))]
    grid = grid_of(np.concatenate([points, wall(8.0, 2.4, 0.41)]))
    assert at(grid, 8.1, 0.0)[1] > 0.5
    # At 8.7 m they pass 1.7 - 1.3 * 8.7 / 8 = 0.29 m above the ground.
    assert at(grid, 8.7, 0.0)[0] == pytest.approx(0.95 * (1 - (0.29 / 0.5) ** 2), abs=0.15)
    assert at(grid, 12.0, 0.0)[0] > 0.8


@pytest.mark.parametrize("bins", [1800, 3600])
def test_bins_different_from_the_columns_leave_no_gaps(bins: int) -> None:
    frame = frame_of(flat_ground())
    config = RaycastConfig(azimuth_bins=bins)
    grid = RaycastMapper(config).update(frame, segment_ground(frame))
    size = grid.free.shape[0]
    centre = (np.arange(size) + 0.5) * grid.resolution - 40
    radius = np.hypot(*np.meshgrid(centre, centre))
    # A column on the edge of two bins may fall into either one; only such cells may be unknown.
    assert (grid.free[(radius > 4) & (radius < 20)] > 0.5).mean() > 0.995


@settings(max_examples=15)
@given(st.floats(-3.1, 3.1), st.floats(-2, 2), st.floats(-2, 2))
def test_rotated_cells_give_the_same_result(yaw: float, x: float, y: float) -> None:
    points = np.concatenate([flat_ground(gap=(10.0, 0.3)), wall(10.0, 3.0)])
    frame = frame_of(points)
    cloud, caster = segment_ground(frame), RayCaster(RaycastConfig(half_extent=16.0))
    size = caster.config.size
    c, s = float(np.cos(yaw)), float(np.sin(yaw))
    corner = np.array([[c, -s], [s, c]]) @ (-16.0, -16.0) + (x, y)
    cells = GridGeometry(size, 0.2, c, s, float(corner[0]), float(corner[1]))
    free, occupied = caster.cast(cloud, cells)
    for at_x, at_y, is_free, is_hit in ((8, 0, True, False), (10.02, 0, False, True)):
        row, column = cell_at(cells, float(at_x), float(at_y))
        block = slice(row - 1, row + 2), slice(column - 1, column + 2)
        assert (free[block].max() > 0.5) == is_free or is_hit
        assert (occupied[block].max() > 0.5) == is_hit
    row, column = cell_at(cells, 13.0, 0.0)
    assert free[row, column] == 0 and occupied[row, column] == 0


def test_reliability_scales_the_masses_of_a_lidar() -> None:
    frame = frame_of(flat_ground())
    cloud, caster = segment_ground(frame), RayCaster(RaycastConfig())
    cells = GridGeometry.around_base(400, 0.2)
    full = caster.cast(cloud, cells)[0].copy()
    half = caster.cast(cloud, cells, np.array([0.5]))[0].copy()
    np.testing.assert_allclose(half, 0.5 * full, atol=1e-6)
    assert not caster.cast(cloud, cells, np.array([0.0]))[0].any()
