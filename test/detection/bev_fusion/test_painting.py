"""Group scores from masks and boxes, and painted points."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.bev_fusion.network_config import PAINT_CHANNELS, PAINT_GROUPS
from multimodal_perception.detection.bev_fusion.painting import (
    PaintedImage,
    class_group_weights,
    group_scores,
    paint_grid,
    paint_points,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.perception import Boxes2D, SegmentationMask
from multimodal_perception.stages import ImageResults
from test.detection.bev_fusion.small_images import camera_model, camera_pose

SIZE = (192, 128)  # width and height of the original image
NAMES = ("road", "vehicle", "person")
PEDESTRIAN, SMALL_VEHICLE, LARGE_VEHICLE, BACKGROUND = (
    PAINT_GROUPS.index(g) for g in ("pedestrian", "small_vehicle", "large_vehicle", "background")
)


def mask(names: tuple[str, ...] = NAMES, logits: bool = False) -> SegmentationMask:
    """The left half shows class 2, the rest class 0."""
    labels = np.zeros(SIZE[::-1], np.uint8)
    labels[:, : SIZE[0] // 2] = 2
    scores = None
    if logits:
        scores = np.full((8, 12, len(names)), -20.0, np.float32)
        scores[:, :6, 2] = scores[:, 6:, 0] = 0.0
    return SegmentationMask("front", 0, labels, names, scores)


def boxes(*rows: tuple[float, ...], names: tuple[str, ...] = ("car", "pedestrian")) -> Boxes2D:
    """rows: x1, y1, x2, y2, score, label."""
    array = np.array(rows, np.float32).reshape(-1, 6)
    return Boxes2D("front", 0, array[:, :4], array[:, 4], array[:, 5].astype(np.int64), names, SIZE)


def test_classes_of_common_networks_have_a_group() -> None:
    weights = class_group_weights(["Car", "traffic cone", "person", "motorcycle", "bus", "sky"])
    groups = [PAINT_GROUPS[k] for k in weights.argmax(axis=1)]
    assert groups == [
        "small_vehicle", "obstacle", "pedestrian", "rider", "large_vehicle", "background",
    ]  # fmt: skip
    np.testing.assert_allclose(class_group_weights(["vehicle", "x"]).sum(axis=1), 1.0)


@pytest.mark.parametrize("logits", [False, True])
def test_masks_become_group_scores(logits: bool) -> None:
    scores = group_scores(ImageResults(segmentations={"front": mask(logits=logits)}), "front", SIZE)
    assert scores is not None
    half = scores.shape[1] // 2
    assert scores[:, :half, PEDESTRIAN].min() == pytest.approx(1.0, abs=1e-3)
    assert scores[:, half:, BACKGROUND].min() == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(scores.sum(axis=2), 1.0, atol=1e-5)


def test_ignored_pixels_are_background() -> None:
    labels = np.full(SIZE[::-1], 255, np.uint8)
    results = ImageResults(segmentations={"front": SegmentationMask("front", 0, labels, NAMES)})
    scores = group_scores(results, "front", SIZE)
    assert scores is not None and (scores[..., BACKGROUND] == 1.0).all()


def test_boxes_are_rectangles_with_their_score() -> None:
    found = boxes((0, 0, 96, 64, 0.8, 0), (150, 100, 150.2, 100.2, 0.6, 1))
    scores = group_scores(ImageResults({"front": found}), "front", SIZE)
    assert scores is not None and scores.shape[:2] == SIZE[::-1]
    np.testing.assert_allclose(scores[10, 10, [SMALL_VEHICLE, BACKGROUND]], (0.8, 0.2), atol=1e-6)
    assert scores[100, 50, BACKGROUND] == 1.0
    assert (scores[..., PEDESTRIAN] > 0).sum() == 1  # smaller than a cell: still one cell
    np.testing.assert_allclose(scores.sum(axis=2), 1.0, atol=1e-5)


def test_overlapping_boxes_stay_a_distribution() -> None:
    found = boxes((0, 0, 96, 64, 0.9, 0), (0, 0, 96, 64, 0.9, 1), (np.nan, 0, 9, 9, 0.9, 0))
    scores = group_scores(ImageResults({"front": found}), "front", SIZE)
    assert scores is not None
    np.testing.assert_allclose(
        scores[10, 10, [SMALL_VEHICLE, PEDESTRIAN, BACKGROUND]], (0.5, 0.5, 0), atol=1e-6
    )


def test_boxes_add_the_groups_that_the_mask_does_not_have() -> None:
    results = ImageResults(
        {
            "front": boxes(
                (100, 0, 192, 128, 0.7, 0), (100, 0, 192, 128, 0.9, 1), names=("bus", "person")
            )
        },
        {"front": mask(("road", "car", "person"))},
    )
    scores = group_scores(results, "front", SIZE)
    assert scores is not None
    right = scores[20, -3]
    assert right[LARGE_VEHICLE] == pytest.approx(0.7) and right[PEDESTRIAN] == 0.0
    assert scores[20, 3, PEDESTRIAN] == 1.0


def test_networks_without_a_class_of_a_group_do_not_paint() -> None:
    lanes = ImageResults(segmentations={"front": mask(("background", "drivable", "lane"))})
    assert group_scores(lanes, "front", SIZE) is None
    assert group_scores(ImageResults(), "front", SIZE) is None
    signs = ImageResults({"front": boxes((0, 0, 9, 9, 1, 0), names=("sign", "light"))})
    assert group_scores(signs, "front", SIZE) is None


def test_points_get_the_scores_at_their_pixel() -> None:
    scores = np.zeros((8, 12, len(PAINT_GROUPS)), np.float32)
    scores[..., BACKGROUND] = 1.0
    scores[3, 9] = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    view = ImageView(camera_model(), camera_pose())
    ray = camera_model().unproject([[(9 + 0.5) * 8 - 0.5, (3 + 0.5) * 8 - 0.5]])
    point = poses.transform_points(view.base_from_optical, 7.0 * ray)
    behind = np.array([[-5.0, 0.0, 1.0]])
    points = np.concatenate([point, behind, point])
    painted = paint_points(points, np.array([1.0, 1.0, 0.0]), [PaintedImage(view, scores)])
    assert painted.shape == (3, PAINT_CHANNELS)
    np.testing.assert_array_equal(painted[0], (0, 0, 0, 1, 0, 0, 1))
    assert not painted[1:].any()  # not visible; on the ground


def test_points_that_two_images_show_get_the_mean() -> None:
    view = ImageView(camera_model(), camera_pose())
    maps = np.zeros((2, 8, 12, len(PAINT_GROUPS)), np.float32)
    maps[0, ..., PEDESTRIAN] = maps[1, ..., BACKGROUND] = 1.0
    painted = paint_points(
        np.array([[6.0, 0.0, 1.0]]), np.ones(1), [PaintedImage(view, m) for m in maps]
    )
    np.testing.assert_allclose(painted[0], (0, 0, 0, 0.5, 0, 0.5, 1), atol=1e-6)
    assert not paint_points(np.ones((2, 3)), np.ones(2), []).any()


def test_grid_covers_the_scaled_image_only() -> None:
    scores = np.zeros((16, 24, len(PAINT_GROUPS)), np.float32)
    scores[:, :12, PEDESTRIAN] = scores[:, 12:, BACKGROUND] = 1.0
    model = CameraModel.pinhole(64, 64, 30)
    grid = paint_grid(scores, (model.width, model.height), (64, 96))
    assert grid.shape == (8, 12, PAINT_CHANNELS)
    assert (grid[:, :8, -1] == 1.0).all() and not grid[:, 8:].any()
    np.testing.assert_allclose(grid[:, 0, PEDESTRIAN], 1.0)
    np.testing.assert_allclose(grid[:, 7, BACKGROUND], 1.0)
