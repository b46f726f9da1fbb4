"""KITTI's frames for its metrics: rectangles by hand, and against KITTI's own labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.datasets.kitti import DONT_CARE, Kitti
from multimodal_perception.evaluation.kitti_frames import image_boxes, kitti_frame
from multimodal_perception.evaluation.kitti_metrics import image_overlap, kitti_metrics
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.rig import OPTICAL


def test_rectangles_by_hand() -> None:
    camera = CameraModel.pinhole(200, 100, 100.0)
    boxes = np.array(
        [
            [12, 0, 0, 4, 2, 1, 0],  # its front face, at 10 m: 2 m wide, 1 m high
            [10, 0, 0, 20.0001, 2, 1, 0],  # the camera is in it
            [-10, 0, 0, 4, 2, 1, 0],  # behind
            [12, 40, 0, 4, 2, 1, 0],  # beside
        ],
        float,
    )
    rectangles, seen = image_boxes(boxes, camera, poses.inverse(OPTICAL))
    assert rectangles[0] == pytest.approx([89.5, 44.5, 109.5, 54.5])
    assert rectangles[1] == pytest.approx([0, 0, 199, 99])
    assert seen.tolist() == [True, True, False, False]
    none, empty = image_boxes(np.zeros((0, 7)), camera, poses.inverse(OPTICAL))
    assert none.shape == (0, 4) and empty.shape == (0,)


def test_projected_labels_are_where_kitti_drew_them(shared_data: Path) -> None:
    dataset = Kitti(shared_data / "kitti" / "training")
    overlaps = []
    for index, frame in enumerate(dataset):
        told = dataset.annotations(index)
        assert told is not None and frame.labels is not None
        told_types = [t for t in told.types if t != DONT_CARE]
        assert len(frame.labels) == len(told_types)
        result = kitti_frame(frame, frame.labels, told)
        kept = np.array([t != DONT_CARE for t in told.types])
        if len(result.found.types) == len(told_types):
            common = image_overlap(result.found.image_boxes, told.image_boxes[kept])
            overlaps += np.diag(common).tolist()
    assert len(overlaps) >= 9 and np.median(overlaps) > 0.85


def test_labels_found_as_they_are_are_all_right(shared_data: Path) -> None:
    dataset = Kitti(shared_data / "kitti" / "training")
    frames = []
    for index, frame in enumerate(dataset):
        told = dataset.annotations(index)
        assert told is not None and frame.labels is not None
        frames.append(kitti_frame(frame, frame.labels, told))
    result = kitti_metrics(frames)
    cars = result["labels"]["Car"]
    assert cars["easy"] <= cars["moderate"] <= cars["hard"] and cars["hard"] > 0
    # n labels reach n of the 41 recalls, the first of which is not counted.
    for level in ("easy", "moderate", "hard"):
        assert result["3d"]["Car"][level] == pytest.approx(100 * (cars[level] - 1) / 40)


def test_an_image_is_needed_and_other_classes_are_left_out(shared_data: Path) -> None:
    dataset = Kitti(shared_data / "kitti" / "training")
    frame, told = dataset[0], dataset.annotations(0)
    assert told is not None and frame.labels is not None
    cone = np.array([CLASS_NAMES.index("cone")], np.int64)
    one = frame.labels.select([0])
    other = Boxes3D(0, "base_link", one.boxes, one.scores, cone)
    assert kitti_frame(frame, other, told).found.types == ()
    with pytest.raises(ValueError, match="no image"):
        kitti_frame(SensorFrame(0), other, told)
