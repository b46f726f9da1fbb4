"""Evidential mapper: fusion of sources while the vehicle drives, wrong and missing sources."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.frame import Boxes3D, LidarSweep, SensorFrame, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.occupancy.evidence import GridConfig
from multimodal_perception.occupancy.evidential import EvidentialConfig, EvidentialMapper
from multimodal_perception.occupancy.raycast import RaycastConfig
from multimodal_perception.perception import Level, OccupancyGrid, SegmentationMask, SensorHealth
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL

HEIGHT = 1.7
PERIOD = NANOSECONDS_PER_SECOND // 10
SMALL = RaycastConfig(half_extent=20.0)


def scan(posts: list[tuple[float, float]] = (), walls: list[float] = ()) -> np.ndarray:  # type: ignore[assignment]
    """Points (N, 4) in the LiDAR's frame: flat ground with shadows, posts, walls x = w before it."""
    azimuth = np.linspace(-np.pi, np.pi, 1800, endpoint=False)
    elevation = np.radians(np.linspace(-25.0, 0.5, 48))
    a, e = (v.ravel() for v in np.meshgrid(azimuth, elevation))
    ray = np.column_stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    with np.errstate(divide="ignore"):
        t = np.where(ray[:, 2] < 0, -HEIGHT / ray[:, 2], np.inf)
    for x, y in posts:
        along = ray[:, 0] * x + ray[:, 1] * y
        flat = np.hypot(ray[:, 0], ray[:, 1])
        beside = np.abs(ray[:, 0] * y - ray[:, 1] * x) / flat
        hit = (along > 0) & (beside < 0.15)
        t = np.where(hit, np.minimum(t, np.hypot(x, y) / flat), t)
    for wall in walls:
        with np.errstate(divide="ignore"):
            hit = np.where(ray[:, 0] > 0, wall / ray[:, 0], np.inf)
        hit[np.abs(hit * ray[:, 1]) > 4.0] = np.inf
        t = np.minimum(t, hit)
    in_range = t < 40
    points = np.zeros((int(in_range.sum()), 4), np.float32)
    points[:, :3] = ray[in_range] * t[in_range, None]
    return points


def frame_of(
    points: np.ndarray | None, k: int = 0, odom: np.ndarray | None = None, **more: object
) -> SensorFrame:
    stamp = k * PERIOD
    mounts = {"lidar": poses.from_xyz_rpy((0, 0, HEIGHT))}
    mounts.update(more.pop("mounts", {}))  # type: ignore[call-overload]
    lidars = {} if points is None else {"lidar": LidarSweep("lidar", stamp, "lidar", points)}
    return SensorFrame(stamp, lidars=lidars, base_from_sensor=mounts, odom_from_base=odom, **more)  # type: ignore[arg-type]


def step(mapper: EvidentialMapper, frame: SensorFrame, **more: object) -> OccupancyGrid:
    return mapper.update(frame, segment_ground(frame), **more)  # type: ignore[arg-type]


def at(layer: np.ndarray, grid: OccupancyGrid, x: float, y: float) -> float:
    column = int(np.floor((x - grid.origin[0]) / grid.resolution))
    row = int(np.floor((y - grid.origin[1]) / grid.resolution))
    return float(layer[row, column])


def around(layer: np.ndarray, grid: OccupancyGrid, x: float, y: float) -> float:
    """The maximum of the 3 x 3 cells around a point."""
    r = grid.resolution
    return max(at(layer, grid, x + i * r, y + j * r) for i in (-1, 0, 1) for j in (-1, 0, 1))


@pytest.mark.parametrize("out", ["base", "odom"])
def test_post_keeps_its_position_while_the_vehicle_turns(out: str) -> None:
    mapper = EvidentialMapper(EvidentialConfig(frame=out), SMALL)
    post = np.array([9.0, 3.0, 0.0, 1.0])
    for k in range(12):
        odom = poses.from_xyz_rpy((0.37 * k, 0.05 * k, 0), (0, 0, 0.07 * k))
        here = (poses.inverse(odom) @ post)[:2]
        # Half of the sweeps do not contain the post.
        grid = step(mapper, frame_of(scan([tuple(here)] if k % 2 == 0 else []), k, odom))
        x, y = here if out == "base" else post[:2]
        assert grid.frame_id == ("base_link" if out == "base" else "odom")
        if k % 2 == 0:
            assert around(grid.occupied, grid, x, y) > 0.5
        total = grid.free + grid.occupied + grid.conflict + grid.unknown()
        np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert mapper.counts.total() == 0


def test_evidence_is_kept_after_its_sweep_and_decays() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    still = np.eye(4)
    grid = step(mapper, frame_of(scan(walls=[8.0]), 0, still))
    before = around(grid.occupied, grid, 8.05, 0.0)
    free = at(grid.free, grid, 5.0, 0.0)
    assert before > 0.9 and free > 0.5
    grid = step(mapper, frame_of(None, 30, still))
    assert around(grid.occupied, grid, 8.05, 0.0) == pytest.approx(before / 2, abs=0.02)
    assert at(grid.free, grid, 5.0, 0.0) == pytest.approx(free / 2, abs=0.02)
    grid = step(mapper, frame_of(None, 600, still))
    assert grid.unknown().min() > 0.99


def test_odom_grid_is_in_the_odom_frame_of_the_rig() -> None:
    mapper = EvidentialMapper(EvidentialConfig(frame="odom"), SMALL)
    frame = frame_of(scan(), 0, np.eye(4), odom_frame="map")
    assert step(mapper, frame).frame_id == "map"


def test_without_odometry_the_grid_has_the_present_frame_only() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    step(mapper, frame_of(scan(walls=[8.0])))
    assert (step(mapper, frame_of(None, 1)).unknown() == 1).all()


def test_returned_grid_does_not_change_later() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    grid = step(mapper, frame_of(scan(walls=[8.0]), 0, np.eye(4)))
    kept = grid.occupied.copy(), grid.free.copy(), grid.conflict.copy()  # type: ignore[union-attr]
    step(mapper, frame_of(scan(walls=[5.0]), 1, np.eye(4)))
    for now, then in zip((grid.occupied, grid.free, grid.conflict), kept, strict=True):
        np.testing.assert_array_equal(now, then)


def test_object_that_leaves_is_cleared_within_frames() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    for k in range(5):
        step(mapper, frame_of(scan([(6.0, 0.0)]), k, np.eye(4)))
    grid = step(mapper, frame_of(scan(), 5, np.eye(4)))
    assert around(grid.conflict, grid, 6.0, 0.0) > 0.3
    for k in range(6, 9):
        grid = step(mapper, frame_of(scan(), k, np.eye(4)))
    assert at(grid.free, grid, 6.0, 0.0) > 0.6 and around(grid.occupied, grid, 6.0, 0.0) < 0.1


def test_free_evidence_behind_a_new_obstacle_is_cleared() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    for k in range(3):
        grid = step(mapper, frame_of(scan(), k, np.eye(4)))
    assert at(grid.free, grid, 9.0, 0.0) > 0.5
    grid = step(mapper, frame_of(scan(walls=[8.0]), 3, np.eye(4)))
    # Directly behind the new return the object may continue; far behind it the evidence is kept.
    assert at(grid.free, grid, 9.0, 0.0) == 0
    assert at(grid.free, grid, 13.0, 0.0) > 0.4


def test_stuck_ultrasonic_range_causes_conflict() -> None:
    pose = poses.from_xyz_rpy((1.0, 0.0, 0.4))
    mapper, correct = EvidentialMapper(raycast=SMALL), EvidentialMapper(raycast=SMALL)
    for k in range(4):
        stuck = UltrasonicReading("us", k * PERIOD, "us", 3.0, 0.2, 5.0, 1.0)
        mounts = {"us": pose}
        frame = frame_of(scan(), k, np.eye(4), ultrasonics={"us": stuck}, mounts=mounts)
        grid = step(mapper, frame)
        plain = step(correct, frame_of(scan(), k, np.eye(4)))
    assert around(plain.conflict, plain, 4.0, 0.0) == 0
    assert around(grid.conflict, grid, 4.0, 0.0) > 0.2
    assert mapper.counts == {"ultrasonic.unconfirmed": 1}


def test_wrong_drivable_mask_causes_conflict() -> None:
    camera = CameraModel.pinhole(640, 400, 400.0)
    mounts = {"camera": poses.from_xyz_rpy((0, 0, 1.5), (0, 0.1, 0)) @ BODY_FROM_OPTICAL}
    mask = SegmentationMask("camera", 0, np.ones((400, 640), np.uint8), ("other", "road"))
    frame = frame_of(scan(walls=[6.0]), mounts=mounts, intrinsics={"camera": camera})
    plain = step(EvidentialMapper(raycast=SMALL), frame)
    grid = step(EvidentialMapper(raycast=SMALL), frame, masks={"camera": mask})
    assert around(plain.conflict, plain, 6.05, 0.1) == 0
    assert around(grid.conflict, grid, 6.05, 0.1) > 0.2
    assert around(grid.occupied, grid, 6.05, 0.1) > around(grid.free, grid, 6.05, 0.1) - 0.2


def test_thermal_mask_gives_free_space_without_lidar() -> None:
    camera = CameraModel.pinhole(640, 400, 400.0)
    mounts = {"thermal": poses.from_xyz_rpy((0, 0, 1.5), (0, 0.1, 0)) @ BODY_FROM_OPTICAL}
    mask = SegmentationMask("thermal", 0, np.ones((400, 640), np.uint8), ("other", "road"))
    frame = frame_of(None, mounts=mounts, intrinsics={"thermal": camera})
    grid = step(EvidentialMapper(raycast=SMALL), frame, masks={"thermal": mask})
    assert at(grid.free, grid, 5.0, 0.1) > 0.2 and grid.occupied.max() == 0


@pytest.mark.parametrize(
    ("level", "factor"),
    [(Level.OK, 1.0), (Level.WARN, 0.8), (Level.ERROR, 0.4), (Level.STALE, 0.0)],
)
def test_health_lowers_the_masses_of_a_sensor(level: Level, factor: float) -> None:
    frame = frame_of(scan())
    full = step(EvidentialMapper(raycast=SMALL), frame)
    health = {"lidar": SensorHealth("lidar", level, "")}
    grid = step(EvidentialMapper(raycast=SMALL), frame, health=health)
    expected = factor * at(full.free, full, 5.0, 0.1)
    assert at(grid.free, grid, 5.0, 0.1) == pytest.approx(expected, abs=1e-5)


def test_image_quality_lowers_the_masses_of_a_sensor() -> None:
    frame = frame_of(scan())
    full = step(EvidentialMapper(raycast=SMALL), frame)
    health = {"lidar": SensorHealth("lidar", Level.OK, "", image_quality=0.5)}
    grid = step(EvidentialMapper(raycast=SMALL), frame, health=health)
    expected = 0.5 * at(full.free, full, 5.0, 0.1)
    assert at(grid.free, grid, 5.0, 0.1) == pytest.approx(expected, abs=1e-5)


def test_boxes_are_occupied_and_clear_their_trail() -> None:
    def boxes(x: float) -> Boxes3D:
        row = np.array([[x, 5.0, 0.8, 4.0, 1.8, 1.6, 0.0]], np.float32)
        one = np.ones(1)
        velocity = np.array([[10.0, 0.0]], np.float32)
        return Boxes3D(
            0, "base_link", row, one.astype(np.float32), one.astype(np.int64), velocities=velocity
        )

    mapper = EvidentialMapper(raycast=SMALL)
    for k in range(8):
        grid = step(mapper, frame_of(None, k, np.eye(4)), boxes=boxes(-5.0 + k))
    assert at(grid.occupied, grid, 2.0, 5.0) > 0.4
    assert at(grid.occupied, grid, -5.0, 5.0) < 0.25
    slow = EvidentialMapper(raycast=SMALL)
    for k in range(8):
        parked = dataclasses.replace(boxes(-5.0 + k), velocities=None)
        trailing = step(slow, frame_of(None, k, np.eye(4)), boxes=parked)
    # Without velocities the boxes are not treated as moving.
    assert at(trailing.occupied, trailing, -5.0, 5.0) > 0.6


def test_near_field_grid_is_fused() -> None:
    free, occupied = (np.zeros((20, 20), np.float32) for _ in range(2))
    occupied[15, 18], free[2, 2] = 0.9, 0.9
    near = OccupancyGrid(0, "base_link", 0.5, (-5.0, -5.0), free, occupied)
    mapper = EvidentialMapper(raycast=SMALL)
    grid = step(mapper, frame_of(None), near_field=near)
    assert at(grid.occupied, grid, 4.25, 2.75) == pytest.approx(0.72)
    assert at(grid.free, grid, -3.75, -3.75) == pytest.approx(0.72)
    step(mapper, frame_of(None, 1), near_field=dataclasses.replace(near, frame_id="odom"))
    assert mapper.counts == {"near_field.wrong_frame": 1}


def test_restarted_bag_clears_the_grid() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    step(mapper, frame_of(scan(walls=[8.0]), 50, np.eye(4)))
    grid = step(mapper, frame_of(None, 0, np.eye(4)))
    assert (grid.unknown() == 1).all()
    assert mapper.counts == {"grid.time_back": 1}


def test_too_many_cells_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4000 x 4000 cells; allowed: 2000"):
        RaycastConfig(half_extent=100.0, resolution=0.05)
    with pytest.raises(ConfigurationError, match=r"0\.05 to 2"):
        build(RaycastConfig, {"resolution": 0.001}, "test")


def test_configuration_is_read_from_yaml_values() -> None:
    values = {
        "grid": {"rule": "dempster"},
        "masks": {"drivable_classes": ["road"]},
        "frame": "odom",
    }
    config = build(EvidentialConfig, values, "test")
    assert config.grid == GridConfig(rule="dempster") and config.masks.drivable_classes == ("road",)
    with pytest.raises(ConfigurationError, match="yager"):
        build(EvidentialConfig, {"grid": {"rule": "bayes"}}, "test")


def test_stuck_ultrasonic_sensor_is_reported_after_a_second() -> None:
    """One sensor always reports 3 m in free space; another one measures the wall correctly."""
    mapper, points = EvidentialMapper(raycast=SMALL), scan(walls=[6.0])
    mounts = {
        "stuck": poses.from_xyz_rpy((2.0, 1.0, 0.5)),
        "correct": poses.from_xyz_rpy((2.0, -1.0, 0.5)),
    }
    for k in range(13):
        stamp = k * PERIOD
        ranges = {"stuck": 3.0, "correct": 4.0}
        readings = {n: UltrasonicReading(n, stamp, n, r, 0.15, 5.0, 1.0) for n, r in ranges.items()}
        frame = frame_of(points, k, np.eye(4), ultrasonics=readings, mounts=mounts)
        grid = step(mapper, frame)
        if k == 5:
            assert not mapper.contradicted
    assert mapper.contradicted == {"stuck"}
    assert mapper.contradictions["stuck"] > 0.8 and mapper.contradictions["correct"] < 0.3
    assert grid.conflict is not None
    assert around(grid.conflict, grid, 5.0, 1.0) > 0.2
    assert around(grid.conflict, grid, 3.5, -1.0) < 0.02
