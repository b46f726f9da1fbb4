from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_perception.evaluation.labelled_boxes import BoxLimits, projected_truth
from multimodal_perception.evaluation.projected_boxes import project_labels
from multimodal_perception.frame import (
    CLASS_NAMES,
    Boxes3D,
    CameraImage,
    LidarSweep,
    SensorFrame,
)
from multimodal_perception.geometry.cameras import CameraModel

FOCAL, WIDTH, HEIGHT = 400.0, 640, 360
MODEL = CameraModel.pinhole(WIDTH, HEIGHT, FOCAL)
CX, CY = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
CAR = (20.0, 0.0, 0.0, 4.0, 2.0, 1.6, 0.0)


def surface_points(box: Any, n: int = 40, seed: int = 0) -> NDArray[np.float64]:
    """Points on the rear face of a box with yaw 0, which a sensor at the origin measures."""
    x, y, z, length, width, height, _ = box
    rng = np.random.default_rng(seed)
    points = rng.uniform((0, -0.45, -0.45), (0, 0.45, 0.45), (n, 3)) * (0, width, height)
    offset = np.array([x - length / 2 + 0.05, y, z])
    return np.asarray(points + offset)


def frame(
    boxes: list[Any], names: list[str], points: NDArray[np.float64], model: CameraModel = MODEL
) -> SensorFrame:
    """A camera and a LiDAR at the origin that look along x."""
    cloud = np.column_stack([points, np.full(len(points), 10.0)]).astype(np.float32)
    labels = Boxes3D(
        0,
        "base_link",
        np.array(boxes, np.float32).reshape(-1, 7),
        np.ones(len(boxes), np.float32),
        np.array([CLASS_NAMES.index(n) for n in names], np.int64),
    )
    pixels = np.zeros((model.height, model.width, 3), np.uint8)
    return SensorFrame(
        0,
        lidars={"lidar": LidarSweep("lidar", 0, "lidar", cloud)},
        cameras={"camera": CameraImage("camera", 0, "camera_optical", pixels)},
        base_from_sensor={"lidar": np.eye(4), "camera": FORWARD},
        intrinsics={"camera": model},
        labels=labels,
    )


def test_the_box_is_the_rear_face_in_closed_form() -> None:
    projected = project_labels(frame([CAR], ["car"], surface_points(CAR)), "camera")
    # The rear face is 18 m away, 2 m wide and 1.6 m high, the largest part of the projected box.
    half_width, half_height = FOCAL * 1.0 / 18.0, FOCAL * 0.8 / 18.0
    expected = (
        CX + 0.5 - half_width,
        CY + 0.5 - half_height,
        CX + 0.5 + half_width,
        CY + 0.5 + half_height,
    )
    np.testing.assert_allclose(projected.boxes[0], expected, atol=1e-3)
    assert projected.visible_points[0] == projected.points[0] == 40
    assert projected.truncation[0] == pytest.approx(0.0, abs=1e-6)
    assert projected.distance[0] == pytest.approx(20.0)


def test_boxes_behind_beside_and_around_the_camera() -> None:
    behind, beside = (-20.0, 0, 0, 4, 2, 1.6, 0), (5.0, 60.0, 0, 4, 2, 1.6, 0)
    crossing = (0.0, 2.0, 0.0, 6.0, 1.0, 1.6, 0.0)  # from 3 m behind to 3 m in front
    points = np.zeros((0, 3))
    projected = project_labels(frame([behind, beside, crossing], ["car"] * 3, points), "camera")
    assert projected.index.tolist() == [2]
    left, top, right, bottom = projected.boxes[0]
    assert left == 0.0 and 0.0 <= top < bottom <= HEIGHT
    # Its inner front edge is at x = 3, y = 1.5.
    assert right == pytest.approx(CX + 0.5 - FOCAL * 1.5 / 3.0, abs=0.5)
    assert projected.truncation[0] > 0.5


def test_points_behind_another_object_are_not_visible() -> None:
    far, van = (30.0, 0.0, 0.0, 4.0, 2.0, 1.6, 0.0), (10.0, 0.0, 0.0, 5.0, 2.4, 2.4, 0.0)
    points = np.concatenate([surface_points(far, 50), surface_points(van, 30, 1)])
    both = project_labels(frame([far, van], ["car", "van"], points), "camera")
    assert both.points.tolist() == [50, 30] and both.visible_points.tolist() == [0, 30]
    # Half hidden: the van covers the image left of the centre.
    aside = (10.0, 1.2, 0.0, 5.0, 2.4, 2.4, 0.0)
    points = np.concatenate([surface_points(far, 400), surface_points(aside, 30, 1)])
    half = project_labels(frame([far, aside], ["car", "van"], points), "camera")
    # The van, 10 % narrower than its label, hides what is left of y = 0.27: 35 % of the face.
    assert half.points[0] == 400 and half.visible_points[0] == pytest.approx(260, abs=30)


def test_points_behind_an_unlabelled_wall_are_not_visible() -> None:
    """A camera above the LiDAR, which cannot look over the wall that the LiDAR looks over."""
    far = (30.0, 0.0, 0.0, 4.0, 2.0, 1.6, 0.0)
    y, z = np.meshgrid(np.linspace(-1.5, 1.5, 200), np.linspace(-1.5, 1.5, 200))
    wall = np.column_stack([np.full(y.size, 12.0), y.ravel(), z.ravel()])
    projected = project_labels(frame([far], ["car"], surface_points(far, 50)), "camera")
    assert projected.visible_points[0] == 50
    points = np.concatenate([surface_points(far, 50), wall])
    hidden = project_labels(frame([far], ["car"], points), "camera")
    assert hidden.points[0] == 50 and hidden.visible_points[0] == 0


def test_labels_are_evaluated_by_height_points_and_class() -> None:
    near, low = CAR, (90.0, 5.0, 0.0, 4.0, 2.0, 1.6, 0.0)  # 7 pixels high
    sparse = (15.0, -6.0, 0.0, 4.0, 2.0, 1.6, 0.0)
    sign = (12.0, 5.0, 0.0, 0.2, 1.0, 2.0, 0.0)
    cone = (12.0, -3.0, 0.0, 0.4, 0.4, 1.0, 0.0)
    rider = (14.0, 6.5, 0.0, 1.8, 0.6, 1.7, 0.0)
    points = [surface_points(b, n) for b, n in ((near, 40), (low, 40), (sparse, 9), (rider, 20))]
    names = ["bus", "car", "car", "unknown", "cone", "motorcyclist"]
    boxes = [near, low, sparse, sign, cone, rider]
    truth = projected_truth(frame(boxes, names, np.concatenate(points)), "camera", BoxLimits())
    rows = list(zip(truth.labels.tolist(), truth.evaluated.tolist(), strict=True))
    # The bus and the rider count; the sign is ignored for all three classes; the cone has no label.
    assert rows == [
        (0, True),
        (0, False),
        (0, False),
        *((k, False) for k in range(3)),
        (2, True),
    ]
    fewer = projected_truth(
        frame(boxes, names, np.concatenate(points)), "camera", BoxLimits(5.0, 9)
    )
    assert fewer.evaluated[:3].all()


def test_fisheye_images_and_the_motion_between_sweep_and_exposure() -> None:
    fisheye = CameraModel(
        640, 640, np.array([[200.0, 0, 320], [0, 200, 320], [0, 0, 1]]), "equidistant", np.zeros(4)
    )
    side = (0.0, 6.0, 0.0, 4.0, 2.0, 1.6, 0.0)  # 90 degrees to the left
    projected = project_labels(frame([side], ["car"], np.zeros((0, 3)), fisheye), "camera")
    left, _, right, _ = projected.boxes[0]
    # Equidistant: r = f * angle. The front inner corners are the ones nearest to the image centre; the
    # rear ones are beyond the image border.
    radius = np.hypot(5.0, 0.8)
    angle = np.arctan2(radius, 2.0)
    assert right == pytest.approx(320.5 - 200 * angle * 5.0 / radius, abs=0.01)
    assert left == 0.0
    moved = np.eye(4)
    moved[0, 3] = -2.0  # the image was taken 2 m further back
    base = frame([CAR], ["car"], surface_points(CAR))
    later = project_labels(replace(base, reference_from_base={"camera": moved}), "camera")
    assert later.boxes[0, 2] == pytest.approx(CX + 0.5 + FOCAL / 20.0, abs=1e-3)


def test_frames_without_labels_are_an_error() -> None:
    base = frame([], [], np.zeros((0, 3)))
    assert len(project_labels(base, "camera").index) == 0
    with pytest.raises(ValueError, match="no labels"):
        project_labels(replace(base, labels=None), "camera")
