"""The mapper: sources fused while the vehicle drives, and what lies or fails among them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.frame import Boxes3D, LidarSweep, SensorFrame, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.occupancy.evidence import GridConfig
from multimodal_perception.occupancy.evidential import EvidentialConfig, EvidentialMapper
from multimodal_perception.occupancy.raycast import RaycastConfig
from multimodal_perception.perception import Level, OccupancyGrid, SegmentationMask, SensorHealth
from multimodal_perception.pointcloud.ground_segmentation import ground_cloud
from multimodal_perception.rig import OPTICAL

HEIGHT = 1.7
PERIOD = NANOSECONDS // 10
SMALL = RaycastConfig(extent=20.0)


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
    seen = t < 40
    points = np.zeros((int(seen.sum()), 4), np.float32)
    points[:, :3] = ray[seen] * t[seen, None]
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
    return mapper.update(frame, ground_cloud(frame), **more)  # type: ignore[arg-type]


def at(layer: np.ndarray, grid: OccupancyGrid, x: float, y: float) -> float:
    column = int(np.floor((x - grid.origin[0]) / grid.resolution))
    row = int(np.floor((y - grid.origin[1]) / grid.resolution))
    return float(layer[row, column])


def around(layer: np.ndarray, grid: OccupancyGrid, x: float, y: float) -> float:
    """The most in the 3 x 3 cells about a point."""
    r = grid.resolution
    return max(at(layer, grid, x + i * r, y + j * r) for i in (-1, 0, 1) for j in (-1, 0, 1))


@pytest.mark.parametrize("out", ["base", "odom"])
def test_a_post_stays_where_it_is_while_the_vehicle_turns(out: str) -> None:
    mapper = EvidentialMapper(EvidentialConfig(frame=out), SMALL)
    post = np.array([9.0, 3.0, 0.0, 1.0])
    for k in range(12):
        odom = poses.from_xyz_rpy((0.37 * k, 0.05 * k, 0), (0, 0, 0.07 * k))
        here = (poses.inverse(odom) @ post)[:2]
        # Half of the frames do not see the post.
        grid = step(mapper, frame_of(scan([tuple(here)] if k % 2 == 0 else []), k, odom))
        x, y = here if out == "base" else post[:2]
        assert grid.frame_id == ("base_link" if out == "base" else "odom")
        if k % 2 == 0:
            assert around(grid.occupied, grid, x, y) > 0.5
        total = grid.free + grid.occupied + grid.conflict + grid.unknown()
        np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert mapper.counts.total() == 0


def test_evidence_outlives_the_sweep_that_gave_it_and_then_fades() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    still = np.eye(4)
    grid = step(mapper, frame_of(scan(walls=[8.0]), 0, still))
    before = around(grid.occupied, grid, 8.05, 0.0)
    seen = at(grid.free, grid, 5.0, 0.0)
    assert before > 0.9 and seen > 0.5
    grid = step(mapper, frame_of(None, 30, still))
    assert around(grid.occupied, grid, 8.05, 0.0) == pytest.approx(before / 2, abs=0.02)
    assert at(grid.free, grid, 5.0, 0.0) == pytest.approx(seen / 2, abs=0.02)
    grid = step(mapper, frame_of(None, 600, still))
    assert grid.unknown().min() > 0.99


def test_without_odometry_a_grid_holds_its_frame_alone() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    step(mapper, frame_of(scan(walls=[8.0])))
    assert (step(mapper, frame_of(None, 1)).unknown() == 1).all()


def test_the_grid_given_out_does_not_change_later() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    grid = step(mapper, frame_of(scan(walls=[8.0]), 0, np.eye(4)))
    kept = grid.occupied.copy(), grid.free.copy(), grid.conflict.copy()  # type: ignore[union-attr]
    step(mapper, frame_of(scan(walls=[5.0]), 1, np.eye(4)))
    for now, then in zip((grid.occupied, grid.free, grid.conflict), kept, strict=True):
        np.testing.assert_array_equal(now, then)


def test_what_leaves_is_in_conflict_and_cleared_within_frames() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    for k in range(5):
        step(mapper, frame_of(scan([(6.0, 0.0)]), k, np.eye(4)))
    grid = step(mapper, frame_of(scan(), 5, np.eye(4)))
    assert around(grid.conflict, grid, 6.0, 0.0) > 0.3
    for k in range(6, 9):
        grid = step(mapper, frame_of(scan(), k, np.eye(4)))
    assert at(grid.free, grid, 6.0, 0.0) > 0.6 and around(grid.occupied, grid, 6.0, 0.0) < 0.1


def test_free_evidence_hidden_by_something_new_is_forgotten() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    for k in range(3):
        grid = step(mapper, frame_of(scan(), k, np.eye(4)))
    assert at(grid.free, grid, 9.0, 0.0) > 0.5
    grid = step(mapper, frame_of(scan(walls=[8.0]), 3, np.eye(4)))
    # Right behind the new wall a car's body may be; far behind it the memory holds.
    assert at(grid.free, grid, 9.0, 0.0) == 0
    assert at(grid.free, grid, 13.0, 0.0) > 0.4


def test_a_stuck_ultrasonic_shows_as_conflict_and_frees_nothing_more() -> None:
    pose = poses.from_xyz_rpy((1.0, 0.0, 0.4))
    mapper, honest = EvidentialMapper(raycast=SMALL), EvidentialMapper(raycast=SMALL)
    for k in range(4):
        stuck = UltrasonicReading("us", k * PERIOD, "us", 3.0, 0.2, 5.0, 1.0)
        mounts = {"us": pose}
        frame = frame_of(scan(), k, np.eye(4), ultrasonics={"us": stuck}, mounts=mounts)
        grid = step(mapper, frame)
        plain = step(honest, frame_of(scan(), k, np.eye(4)))
    assert around(plain.conflict, plain, 4.0, 0.0) == 0
    assert around(grid.conflict, grid, 4.0, 0.0) > 0.2
    assert mapper.counts == {"ultrasonic.unconfirmed": 1}


def test_a_mask_that_calls_a_wall_drivable_shows_as_conflict() -> None:
    camera = CameraModel.pinhole(640, 400, 400.0)
    mounts = {"camera": poses.from_xyz_rpy((0, 0, 1.5), (0, 0.1, 0)) @ OPTICAL}
    mask = SegmentationMask("camera", 0, np.ones((400, 640), np.uint8), ("other", "road"))
    frame = frame_of(scan(walls=[6.0]), mounts=mounts, intrinsics={"camera": camera})
    plain = step(EvidentialMapper(raycast=SMALL), frame)
    grid = step(EvidentialMapper(raycast=SMALL), frame, masks={"camera": mask})
    assert around(plain.conflict, plain, 6.05, 0.1) == 0
    assert around(grid.conflict, grid, 6.05, 0.1) > 0.2
    assert around(grid.occupied, grid, 6.05, 0.1) > around(grid.free, grid, 6.05, 0.1) - 0.2


def test_a_thermal_mask_serves_at_night_without_lidar() -> None:
    camera = CameraModel.pinhole(640, 400, 400.0)
    mounts = {"thermal": poses.from_xyz_rpy((0, 0, 1.5), (0, 0.1, 0)) @ OPTICAL}
    mask = SegmentationMask("thermal", 0, np.ones((400, 640), np.uint8), ("other", "road"))
    frame = frame_of(None, mounts=mounts, intrinsics={"thermal": camera})
    grid = step(EvidentialMapper(raycast=SMALL), frame, masks={"thermal": mask})
    assert at(grid.free, grid, 5.0, 0.1) > 0.2 and grid.occupied.max() == 0


@pytest.mark.parametrize(
    ("level", "share"), [(Level.OK, 1.0), (Level.WARN, 0.8), (Level.ERROR, 0.4), (Level.STALE, 0.0)]
)
def test_health_discounts_a_sensor(level: Level, share: float) -> None:
    frame = frame_of(scan())
    full = step(EvidentialMapper(raycast=SMALL), frame)
    health = {"lidar": SensorHealth("lidar", level, "")}
    grid = step(EvidentialMapper(raycast=SMALL), frame, health=health)
    expected = share * at(full.free, full, 5.0, 0.1)
    assert at(grid.free, grid, 5.0, 0.1) == pytest.approx(expected, abs=1e-5)


def test_trust_in_an_image_weighs_its_sensor_s_masses() -> None:
    frame = frame_of(scan())
    full = step(EvidentialMapper(raycast=SMALL), frame)
    health = {"lidar": SensorHealth("lidar", Level.OK, "", trust=0.5)}
    grid = step(EvidentialMapper(raycast=SMALL), frame, health=health)
    expected = 0.5 * at(full.free, full, 5.0, 0.1)
    assert at(grid.free, grid, 5.0, 0.1) == pytest.approx(expected, abs=1e-5)


def test_boxes_fill_what_the_lidar_does_not_see_and_clear_their_trail() -> None:
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
    # Without velocities nobody knows that it moves.
    assert at(trailing.occupied, trailing, -5.0, 5.0) > 0.6


def test_a_learned_near_field_is_one_more_source() -> None:
    free, occupied = (np.zeros((20, 20), np.float32) for _ in range(2))
    occupied[15, 18], free[2, 2] = 0.9, 0.9
    near = OccupancyGrid(0, "base_link", 0.5, (-5.0, -5.0), free, occupied)
    mapper = EvidentialMapper(raycast=SMALL)
    grid = step(mapper, frame_of(None), near_field=near)
    assert at(grid.occupied, grid, 4.25, 2.75) == pytest.approx(0.72)
    assert at(grid.free, grid, -3.75, -3.75) == pytest.approx(0.72)
    step(mapper, frame_of(None, 1), near_field=dataclasses.replace(near, frame_id="odom"))
    assert mapper.counts == {"near_field.wrong_frame": 1}


def test_a_bag_that_starts_again_starts_a_fresh_grid() -> None:
    mapper = EvidentialMapper(raycast=SMALL)
    step(mapper, frame_of(scan(walls=[8.0]), 50, np.eye(4)))
    grid = step(mapper, frame_of(None, 0, np.eye(4)))
    assert (grid.unknown() == 1).all()
    assert mapper.counts == {"grid.time_back": 1}


def test_cells_too_fine_for_memory_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4000 x 4000 cells; allowed 2000"):
        RaycastConfig(extent=100.0, resolution=0.05)
    with pytest.raises(ConfigurationError, match=r"0\.05 to 2"):
        build(RaycastConfig, {"resolution": 0.001}, "test")


def test_the_configuration_reads_from_yaml_values() -> None:
    values = {"grid": {"rule": "dempster"}, "masks": {"drivable": ["road"]}, "frame": "odom"}
    config = build(EvidentialConfig, values, "test")
    assert config.grid == GridConfig(rule="dempster") and config.masks.drivable == ("road",)
    with pytest.raises(ConfigurationError, match="yager"):
        build(EvidentialConfig, {"grid": {"rule": "bayes"}}, "test")


def test_a_stuck_ultrasonic_is_conflict_on_its_arc_and_is_named_after_a_second() -> None:
    """One says 3 m for ever where the LiDAR looks through; another hears the wall that is there."""
    mapper, points = EvidentialMapper(raycast=SMALL), scan(walls=[6.0])
    mounts = {
        "stuck": poses.from_xyz_rpy((2.0, 1.0, 0.5)),
        "honest": poses.from_xyz_rpy((2.0, -1.0, 0.5)),
    }
    for k in range(13):
        stamp = k * PERIOD
        heard = {"stuck": 3.0, "honest": 4.0}
        readings = {n: UltrasonicReading(n, stamp, n, r, 0.15, 5.0, 1.0) for n, r in heard.items()}
        frame = frame_of(points, k, np.eye(4), ultrasonics=readings, mounts=mounts)
        grid = step(mapper, frame)
        if k == 5:
            assert not mapper.contradicted
    assert mapper.contradicted == {"stuck"}
    assert mapper.contradictions["stuck"] > 0.8 and mapper.contradictions["honest"] < 0.3
    assert grid.conflict is not None
    assert around(grid.conflict, grid, 5.0, 1.0) > 0.2
    assert around(grid.conflict, grid, 3.5, -1.0) < 0.02
