"""Masks on the ground: projection, distance, slopes, rejected masks."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.frame import LidarSweep, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.occupancy.cells import GridGeometry
from multimodal_perception.occupancy.masks import MaskConfig, MaskModel
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL

CELLS = GridGeometry.around_base(200, 0.25)
PINHOLE = CameraModel.pinhole(640, 400, 400.0)
FISHEYE = CameraModel(
    640,
    400,
    np.array([[200.0, 0, 319.5], [0, 200.0, 199.5], [0, 0, 1]]),
    "equidistant",
    np.array([0.02, -0.01, 0.0, 0.0]),
)
POSE = poses.from_xyz_rpy((0.0, 0.0, 1.5), (0.0, 0.1, 0.0)) @ BODY_FROM_OPTICAL
NAMES = ("other", "road")


def road_labels(camera: CameraModel, edge_y: float, slope: float = 0.0) -> np.ndarray:
    """Labels of an image of a road that ends at base_link's y = edge_y, on a plane z = slope x."""
    v, u = np.mgrid[0 : camera.height, 0 : camera.width]
    rays = camera.unproject(np.column_stack([u.ravel(), v.ravel()])) @ POSE[:3, :3].T
    # From (0, 0, 1.5) down to z = slope x.
    with np.errstate(divide="ignore", invalid="ignore"):
        t = 1.5 / (slope * rays[:, 0] - rays[:, 2])
        y = t * rays[:, 1]
    road = (t > 0) & np.isfinite(t) & (y < edge_y)
    return road.reshape(v.shape).astype(np.uint8)


def frame_of(camera: CameraModel, **sweeps: LidarSweep) -> SensorFrame:
    mounts = {"camera": POSE, **{name: np.eye(4) for name in sweeps}}
    return SensorFrame(0, lidars=sweeps, base_from_sensor=mounts, intrinsics={"camera": camera})


def at(layer: np.ndarray, x: float, y: float) -> float:
    return float(layer[int((y + 25) / 0.25), int((x + 25) / 0.25)])


@pytest.mark.parametrize("camera", [PINHOLE, FISHEYE])
def test_road_mask_is_projected_onto_the_ground(camera: CameraModel) -> None:
    mask = SegmentationMask("camera", 0, road_labels(camera, 1.0), NAMES)
    (free, occupied, _), *more = MaskModel().evidence(frame_of(camera), {"camera": mask}, CELLS)
    assert not more
    rows, columns = np.mgrid[0:200, 0:200]
    x, y = CELLS.centres(rows, columns)
    points = np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])
    _, visible = camera.project(poses.transform_points(poses.inverse(POSE), points))
    # Cells within half a pixel of the edge may have either value.
    visible = visible.reshape(x.shape) & (np.hypot(x, y) < 12)
    assert (free[visible & (y < 0.8)] > 0).all()
    assert (free[visible & (y > 1.2)] == 0).all()
    assert (free[~visible & (np.hypot(x, y) < 12)] == 0).all()
    assert not (occupied[visible & (y < 0.8)] > 0).any()


def test_mass_decreases_with_distance_in_closed_form() -> None:
    mask = SegmentationMask("camera", 0, np.ones((400, 640), np.uint8), NAMES)
    config = MaskConfig()
    (free, _, _), *_ = MaskModel(config).evidence(frame_of(PINHOLE), {"camera": mask}, CELLS)
    for x in (4.125, 8.125, 16.125):
        distance = np.hypot(x, 0.125)
        error = (distance**2 + 1.5**2) / 1.5 * np.radians(config.pitch_std_deg)
        expected = config.free_mass / (1 + (error / config.position_tolerance) ** 2)
        assert at(free, x, 0.125) == pytest.approx(expected, rel=1e-5)
    assert free[:, int((25 + config.max_range) / 0.25) + 1 :].max(initial=0) == 0


def test_end_of_the_road_gets_occupied_mass() -> None:
    labels = road_labels(PINHOLE, 100.0)
    # A wall across the road at x = 8 m: all pixels above its foot have another class.
    foot, _ = PINHOLE.project(poses.inverse(POSE)[:3, :3] @ (8.0, 0, -1.5))
    labels[: round(float(foot[0, 1]))] = 0
    mask = SegmentationMask("camera", 0, labels, NAMES)
    (free, occupied, _), *_ = MaskModel().evidence(frame_of(PINHOLE), {"camera": mask}, CELLS)
    assert at(free, 7.6, 0.1) > 0 and at(free, 8.6, 0.1) == 0
    assert max(at(occupied, x, 0.1) for x in (7.9, 8.1, 8.3)) > 0.05
    assert at(occupied, 10.0, 0.1) == 0 and at(occupied, 6.0, 0.1) == 0


def test_mask_on_a_slope_uses_the_ground_model() -> None:
    slope = 0.08
    x, y = (v.ravel() for v in np.meshgrid(np.arange(-25, 25, 0.2), np.arange(-25, 25, 0.2)))
    points = np.column_stack([x, y, slope * x, np.zeros(x.size)]).astype(np.float32)
    frame = frame_of(PINHOLE, lidar=LidarSweep("lidar", 0, "lidar", points))
    mask = SegmentationMask("camera", 0, road_labels(PINHOLE, 1.0, slope), NAMES)
    errors = []
    for cloud in (segment_ground(frame), None):
        (free, _, _), *_ = MaskModel().evidence(frame, {"camera": mask}, CELLS, cloud)
        column = int((15 + 25) / 0.25)
        edge = (np.flatnonzero(free[:, column] > 0).max() + 1) * 0.25 - 25
        errors.append(abs(edge - 1.0))
    # With flat ground the edge would be almost twice as far away.
    assert errors[0] <= 0.25 < 0.5 < errors[1]


def test_smaller_mask_gives_the_same_cells() -> None:
    large = road_labels(PINHOLE, 1.0)
    small = large[::2, ::2]
    results = [
        MaskModel().evidence(
            frame_of(PINHOLE), {"camera": SegmentationMask("camera", 0, m, NAMES)}, CELLS
        )[0][0]
        for m in (large, small)
    ]
    different = (results[0] > 0) != (results[1] > 0)
    assert different.sum() < 0.03 * (results[0] > 0).sum()


def test_reliability_scales_the_masses() -> None:
    mask = SegmentationMask("camera", 0, np.ones((400, 640), np.uint8), NAMES)
    full, half = (
        MaskModel().evidence(frame_of(PINHOLE), {"camera": mask}, CELLS, None, lambda _, r=r: r)[0][
            0
        ]
        for r in (1.0, 0.5)
    )
    np.testing.assert_allclose(half, 0.5 * full, rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "names", "reason"),
    [
        (np.zeros((0, 0), np.uint8), NAMES, "bad_mask"),
        (np.full((4, 4), 9, np.uint8), NAMES, "bad_mask"),
        (np.zeros((4, 4), np.uint8), ("sky",), "no_drivable_class"),
    ],
)
def test_invalid_masks_are_rejected_and_counted(
    labels: np.ndarray, names: tuple[str, ...], reason: str
) -> None:
    model = MaskModel()
    mask = SegmentationMask("camera", 0, labels, names)
    assert model.evidence(frame_of(PINHOLE), {"camera": mask}, CELLS) == []
    assert model.evidence(frame_of(PINHOLE), {"other": mask}, CELLS) == []
    assert model.counts == {reason: 1, "no_calibration": 1}
