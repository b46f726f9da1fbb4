"""Conversion of detections for the KITTI metrics, compared with known values and real labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.datasets.kitti import DONT_CARE, KittiDataset
from multimodal_perception.evaluation.kitti_frames import kitti_frame, project_boxes
from multimodal_perception.evaluation.kitti_metrics import image_overlap, kitti_metrics
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL


def test_projected_boxes_have_known_image_boxes() -> None:
    camera = CameraModel.pinhole(200, 100, 100.0)
    boxes = np.array(
        [
            [12, 0, 0, 4, 2, 1, 0],  # its front face, at 10 m: 2 m wide, 1 m high
            [10, 0, 0, 20.0001, 2, 1, 0],  # contains the camera
            [-10, 0, 0, 4, 2, 1, 0],  # behind the camera
            [12, 40, 0, 4, 2, 1, 0],  # outside the field of view
        ],
        float,
    )
    image_boxes, visible = project_boxes(boxes, camera, poses.inverse(BODY_FROM_OPTICAL))
    assert image_boxes[0] == pytest.approx([89.5, 44.5, 109.5, 54.5])
    assert image_boxes[1] == pytest.approx([0, 0, 199, 99])
    assert visible.tolist() == [True, True, False, False]
    image_boxes, visible = project_boxes(np.zeros((0, 7)), camera, poses.inverse(BODY_FROM_OPTICAL))
    assert image_boxes.shape == (0, 4) and visible.shape == (0,)


def test_projected_labels_match_the_labelled_image_boxes(shared_data: Path) -> None:
    dataset = KittiDataset(shared_data / "kitti" / "training")
    overlaps = []
    for index, frame in enumerate(dataset):
        labels = dataset.annotations(index)
        assert labels is not None and frame.labels is not None
        types = [t for t in labels.types if t != DONT_CARE]
        assert len(frame.labels) == len(types)
        result = kitti_frame(frame, frame.labels, labels)
        kept = np.array([t != DONT_CARE for t in labels.types])
        if len(result.detections.types) == len(types):
            overlap = image_overlap(result.detections.image_boxes, labels.image_boxes[kept])
            overlaps += np.diag(overlap).tolist()
    assert len(overlaps) >= 9 and np.median(overlaps) > 0.85


def test_labels_as_detections_reach_the_highest_possible_ap(shared_data: Path) -> None:
    dataset = KittiDataset(shared_data / "kitti" / "training")
    frames = []
    for index, frame in enumerate(dataset):
        labels = dataset.annotations(index)
        assert labels is not None and frame.labels is not None
        frames.append(kitti_frame(frame, frame.labels, labels))
    result = kitti_metrics(frames)
    cars = result["labels"]["Car"]
    assert cars["easy"] <= cars["moderate"] <= cars["hard"] and cars["hard"] > 0
    # With n labels, n of the 41 recalls are reached; the first one is not part of AP R40.
    for level in ("easy", "moderate", "hard"):
        assert result["3d"]["Car"][level] == pytest.approx(100 * (cars[level] - 1) / 40)


def test_image_is_required_and_other_classes_are_left_out(shared_data: Path) -> None:
    dataset = KittiDataset(shared_data / "kitti" / "training")
    frame, labels = dataset[0], dataset.annotations(0)
    assert labels is not None and frame.labels is not None
    cone = np.array([CLASS_NAMES.index("cone")], np.int64)
    one = frame.labels.select([0])
    other = Boxes3D(0, "base_link", one.boxes, one.scores, cone)
    assert kitti_frame(frame, other, labels).detections.types == ()
    with pytest.raises(ValueError, match="no image"):
        kitti_frame(SensorFrame(0), other, labels)
