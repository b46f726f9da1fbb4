from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.detection.images.score_thresholds import ScoreThresholds
from multimodal_perception.evaluation.image_detection_images import (
    detect_boxes,
    open_images,
    score_person_regions,
)
from multimodal_perception.evaluation.labelled_boxes import (
    BOX_CLASSES,
    BoxLimits,
    CocoImages,
    kitti_truth,
)
from multimodal_perception.evaluation.person_regions import person_regions
from multimodal_perception.evaluation.segmentation_images import LabelledImage
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Boxes2D
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES

NAMES = ("person", "vehicle")


class FakeDetector:
    """Returns given boxes (x1, y1, x2, y2, score, class) in the image of every frame."""

    counts: dict[str, int]

    def __init__(self, rows: list[tuple[float, float, float, float, float, int]]) -> None:
        self._rows = np.array(rows, np.float32).reshape(-1, 6)
        self.counts = {}
        self.class_names = NAMES
        card: Any = SimpleNamespace(settings={}, source="card.yaml")
        self.score_thresholds = ScoreThresholds(card, NAMES)

    def detect(self, frame: SensorFrame) -> dict[str, Boxes2D]:
        (name, image) = next(iter(frame.cameras.items()))
        rows = self._rows
        size = image.pixels.shape[1], image.pixels.shape[0]
        labels = rows[:, 5].astype(np.int64)
        return {name: Boxes2D(name, 0, rows[:, :4], rows[:, 4], labels, NAMES, size)}


def write_coco(root: Path, annotations: list[dict[str, Any]], images: int = 2) -> Path:
    (root / "val").mkdir(parents=True)
    (root / "annotations").mkdir()
    names = {1: "person", 3: "car", 2: "bicycle", 17: "cat"}
    entries = []
    for i in range(images):
        cv2.imwrite(str(root / "val" / f"{i}.png"), np.zeros((100, 200, 3), np.uint8))
        entries.append({"id": i, "file_name": f"{i}.png"})
    content = {
        "images": entries,
        "categories": [{"id": k, "name": n} for k, n in names.items()],
        "annotations": annotations,
    }
    path = root / "annotations" / "instances_val.json"
    path.write_text(json.dumps(content))
    return path


def annotation(image: int, category: int, bbox: Any, **values: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": bbox, **values}


def test_coco_labels_have_the_classes_of_the_detectors(tmp_path: Path) -> None:
    write_coco(
        tmp_path,
        [
            annotation(0, 3, [10, 20, 30, 40]),
            annotation(0, 1, [100, 20, 20, 60]),
            annotation(0, 1, [0, 0, 200, 90], iscrowd=1),
            annotation(0, 1, [150, 0, 5, 10]),  # too low
            annotation(0, 2, [100, 50, 20, 30]),
            annotation(0, 17, [5, 5, 50, 50]),
        ],
    )
    images = [i for i in CocoImages(tmp_path, BoxLimits()) if i is not None]
    assert len(images) == 2 and not len(images[1].truth.boxes)
    truth = images[0].truth
    rows = [(BOX_CLASSES[k], bool(e)) for k, e in zip(truth.labels, truth.evaluated, strict=True)]
    assert rows == [
        ("vehicle", True),
        ("person", True),
        ("person", False),
        ("person", False),
        ("cyclist", False),
    ]
    assert truth.boxes[0].tolist() == [10, 20, 40, 60]


def test_a_perfect_detector_has_ap_1_on_coco_images(tmp_path: Path) -> None:
    write_coco(tmp_path, [annotation(i, 3, [10, 20, 30, 40]) for i in range(2)])
    images = open_images("coco", tmp_path, BoxLimits(), (), None)
    detector = FakeDetector([(10, 20, 40, 60, 0.9, 1), (100, 20, 140, 60, 0.1, 1)])
    updates: list[int] = []
    result = detect_boxes(detector, images, 0.3, lambda: updates.append(1)).summary(0.3)
    vehicle = result["classes"]["vehicle"]
    assert vehicle["ap"] == pytest.approx(1.0) and vehicle["precision"] == 1.0
    assert vehicle["labels"] == 2 and len(updates) == 2 and "cameras" not in result


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not an annotation file"),
        ("{", "not JSON"),
        ('{"images": [], "categories": [], "annotations": []}', "no images"),
        (
            '{"images": [{"id": 0, "file_name": "a"}], "categories": [{"id": 1, "name": "car"}], '
            '"annotations": [{"image_id": 0, "category_id": 1, "bbox": [0, 0, -1, 5]}]}',
            "bbox",
        ),
        (
            '{"images": [{"id": 0, "file_name": "a"}], "categories": [], "annotations": '
            '[{"image_id": 0, "category_id": 1, "bbox": [0, 0, 1, 5]}]}',
            "KeyError",
        ),
    ],
)
def test_damaged_annotation_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = write_coco(tmp_path, [])
    path.write_text(content)
    with pytest.raises(DatasetError, match=message) as error:
        CocoImages(tmp_path, BoxLimits())
    assert path.name in str(error.value)


def test_images_outside_of_the_folder_and_ambiguous_splits_are_refused(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "coco", [])
    (tmp_path / "secret.png").write_bytes(b"x")
    for name in ("../../secret.png", "/etc/hostname", "missing.png"):
        path.write_text(
            json.dumps(
                {
                    "images": [{"id": 0, "file_name": name}],
                    "categories": [],
                    "annotations": [],
                }
            )
        )
        with pytest.raises(DatasetError, match="no image"):
            list(CocoImages(tmp_path / "coco", BoxLimits()))
    (path.parent / "instances_train.json").write_text(path.read_text())
    with pytest.raises(DatasetError, match=r"found instances_train\.json, instances_val\.json"):
        CocoImages(tmp_path / "coco", BoxLimits())
    assert len(CocoImages(tmp_path / "coco", BoxLimits(), "val")) == 1
    assert len(CocoImages(path, BoxLimits())) == 1


def test_kitti_labels_use_the_hard_level() -> None:
    types = ("Car", "Car", "Car", "Pedestrian", "Person_sitting", "DontCare", "Cyclist")
    boxes = np.tile([0.0, 0.0, 50.0, 60.0], (7, 1))
    boxes[6, 3] = 20.0  # too low
    truncation = np.array([0.0, 0.6, 0.0, 0.5, 0.0, -1.0, 0.0])
    occlusion = np.array([2, 0, 3, 0, 0, -1, 0])
    truth = kitti_truth(types, boxes, truncation, occlusion, BoxLimits())
    rows = [(BOX_CLASSES[k], bool(e)) for k, e in zip(truth.labels, truth.evaluated, strict=True)]
    assert rows == [
        ("vehicle", True),
        ("vehicle", False),
        ("vehicle", False),
        ("person", True),
        ("person", False),
        *((name, False) for name in BOX_CLASSES),
        ("cyclist", False),
    ]


def test_all_cameras_of_real_frames_are_evaluated(shared_data: Path) -> None:
    images = open_images("nuscenes", shared_data / "nuscenes_frame", BoxLimits(), (), None)
    detector = FakeDetector([(10, 20, 40, 60, 0.9, 1)])
    result = detect_boxes(detector, images, 0.3).summary(0.3)
    assert len(result["cameras"]) == 6 and result["images"] == 6
    total = sum(c["classes"]["vehicle"]["labels"] for c in result["cameras"].values())
    assert result["classes"]["vehicle"]["labels"] == total > 0
    one = open_images("nuscenes", shared_data / "nuscenes_frame", BoxLimits(), ("cam_front",), None)
    assert detect_boxes(detector, one, 0.3).summary(0.3)["images"] == 1
    with pytest.raises(DatasetError, match="no camera x"):
        open_images("nuscenes", shared_data / "nuscenes_frame", BoxLimits(), ("x",), None)


def test_projected_cuboids_of_pandaset_are_labels(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    from test.pandaset_folder import cuboid, world_from_lidar, write_sequence

    pose = world_from_lidar(0)
    rng = np.random.default_rng(1)
    # The rear of a car 10 m in front of the LiDAR, in its frame: x right, y forward.
    in_lidar = rng.uniform((-0.9, 10.05, -1.8), (0.9, 10.1, -0.6), (30, 3))
    points = in_lidar @ pose[:3, :3].T + pose[:3, 3]
    rows = np.column_stack([points, np.tile([9.0, 1.6e9, 0.0], (30, 1))])
    centre = pose[:3, :3] @ (0.0, 12.0, -1.2) + pose[:3, 3]
    write_sequence(tmp_path, [rows], [[cuboid("a", "Car", centre, (2.0, 4.0, 1.6), 0.3)]])
    (image,) = open_images("pandaset", tmp_path, BoxLimits(), (), None)
    assert image is not None and image.camera == "front_camera"
    assert image.truth.evaluated.tolist() == [True] and image.truth.labels.tolist() == [0]
    left, top, right, bottom = image.truth.boxes[0]
    # The camera is 0.5 m in front of the LiDAR and was 0.25 m further back at the exposure.
    near, far = 10.0 - 0.5 + 0.25, 14.0 - 0.5 + 0.25
    assert right - left == pytest.approx(300.0 * 2.0 / near, rel=1e-3)
    # It is 0.2 m lower than the LiDAR. The roof at -0.4 m ends at the far edge, the floor is at -2 m.
    assert bottom - top == pytest.approx(300.0 * (1.8 / near - 0.2 / far), rel=1e-3)


def label_image() -> np.ndarray[Any, Any]:
    labels = np.full((120, 200), SEGMENTATION_CLASSES.index("road"), np.uint8)
    person = SEGMENTATION_CLASSES.index("person")
    labels[10:60, 20:40] = person  # 50 pixels high
    labels[10:49, 100:120] = person  # 39 pixels high
    return labels


def test_person_regions_are_connected_and_high_enough() -> None:
    labels = label_image()
    assert person_regions(labels).tolist() == [[20, 10, 40, 60]]
    assert len(person_regions(labels, 20)) == 2
    labels[59:61, 38:41] = SEGMENTATION_CLASSES.index("person")  # touches at a corner
    assert person_regions(labels).tolist() == [[20, 10, 41, 61]]


def test_coverage_of_person_regions(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((120, 200, 3), np.uint8))
    camvid = np.full((120, 200), 3, np.uint8)
    camvid[label_image() == SEGMENTATION_CLASSES.index("person")] = 9
    cv2.imwrite(str(tmp_path / "label.png"), camvid)
    images = [LabelledImage("a", tmp_path / "image.png", tmp_path / "label.png")]
    cases = [
        ((20, 10, 40, 60, 0.9, 0), 1.0, 1.0),  # the region itself
        ((20, 10, 40, 31, 0.9, 0), 1.0, 1.0),  # IoU 0.42
        ((20, 10, 40, 29, 0.9, 0), 0.0, 1.0),  # IoU 0.38
        ((20, 10, 40, 60, 0.2, 0), 0.0, float("nan")),  # below the score threshold
        ((20, 10, 40, 60, 0.9, 1), 0.0, float("nan")),  # a vehicle
        ((150, 70, 190, 110, 0.9, 0), 0.0, 0.0),  # on the road
    ]
    for row, coverage, supported in cases:
        result = score_person_regions(FakeDetector([row]), "camvid", images, 0.3, 40).summary()
        assert result["coverage"] == coverage and result["regions"] == 1, row
        np.testing.assert_equal(result["supported_share"], supported)
