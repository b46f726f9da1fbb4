"""Labelled real images: files, labels of the teachers, and the training on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.networks.rgb_thermal_detection import CLASSES
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.training.image_detector.real_crops import crops_of_images, real_crops
from multimodal_perception.training.image_labelling import (
    BoxTeacher,
    ScoredBoxes,
    SegmentationTeacher,
    _riders,
    overlap_matrix,
)
from multimodal_perception.training.real_images import RealImage, read_images, write_image

VEHICLE, PERSON, CYCLIST = (CLASSES.index(n) for n in ("vehicle", "person", "cyclist"))
SIZE = (288, 512)


def image(name: str = "street") -> RealImage:
    """A grey image with a green vehicle and a red person, and an ignored region."""
    pixels = np.full((300, 600, 3), 90, np.uint8)
    labels = np.zeros((300, 600), np.uint8)
    boxes = np.array([[100, 120, 260, 220], [400, 100, 440, 220], [500, 150, 540, 170]], np.float32)
    for (x1, y1, x2, y2), colour, label in zip(
        boxes.astype(int)[:2], ((0, 255, 0), (255, 0, 0)), (2, 3), strict=True
    ):
        pixels[y1:y2, x1:x2] = colour
        labels[y1:y2, x1:x2] = label
    labels[150:170, 500:540] = IGNORED
    return RealImage(name, pixels, labels, boxes, np.array([VEHICLE, PERSON, -1]))


def test_written_images_are_read_with_equal_labels_and_boxes(tmp_path: Path) -> None:
    write_image(tmp_path, image("b"))
    write_image(tmp_path, image("a"))
    first, second = read_images(tmp_path, CLASSES)
    assert (first.name, second.name) == ("a", "b")
    expected = image()
    np.testing.assert_array_equal(first.labels, expected.labels)
    np.testing.assert_array_equal(first.boxes, expected.boxes)
    np.testing.assert_array_equal(first.classes, expected.classes)
    assert np.abs(first.pixels.astype(int) - expected.pixels).mean() < 3  # JPEG


def change_labels(folder: Path) -> None:
    cv2.imwrite(str(folder / "a.labels.png"), np.full((300, 600), 77, np.uint8))


def shrink_labels(folder: Path) -> None:
    cv2.imwrite(str(folder / "a.labels.png"), np.zeros((30, 60), np.uint8))


def remove_labels(folder: Path) -> None:
    (folder / "a.labels.png").unlink()


def add_class(folder: Path) -> None:
    (folder / "a.boxes.json").write_text(json.dumps({"boxes": [[0, 0, 5, 5]], "classes": [9]}))


def cut_boxes(folder: Path) -> None:
    (folder / "a.boxes.json").write_text('{"boxes": [[0, 0')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_labels, "a.labels.png: label 77; allowed: 0 to 9 and 255"),
        (shrink_labels, r"a.labels.png: uint8 \(30, 60\); expected uint8 \(300, 600\)"),
        (remove_labels, "a.labels.png: missing"),
        (add_class, "a.boxes.json: expected one class of -1 to 2"),
        (cut_boxes, "a.boxes.json: "),
    ],
)
def test_damaged_files_are_reported_with_their_name(
    tmp_path: Path, damage: Any, message: str
) -> None:
    write_image(tmp_path, image("a"))
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        read_images(tmp_path, CLASSES)


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no labelled images"):
        read_images(tmp_path, CLASSES)


def test_boxes_of_crops_enclose_the_pixels_of_their_objects() -> None:
    """The colours of the objects are pure, so that their extent in each crop can be measured."""
    rng = np.random.default_rng(3)
    checked = 0
    for crop in real_crops(image(), SIZE, 12, 0.0, rng):
        assert crop.view.visible is not None
        assert crop.view.visible.shape == (*SIZE, 3)
        for box, label, valid in zip(crop.boxes, crop.classes, crop.valid, strict=True):
            if not valid:
                continue
            channel = 1 if label == VEHICLE else 0
            others = [c for c in range(3) if c != channel]
            pixels = crop.view.visible.astype(int)
            object_ = (pixels[..., channel] > 150) & (pixels[..., others].max(axis=-1) < 80)
            rows, columns = np.nonzero(object_)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box, extent, atol=3.0)
            checked += 1
    assert checked >= 12


def test_ignored_regions_are_never_valid_and_crops_are_reproducible() -> None:
    first = [c for _, c in crops_of_images([image()], SIZE, 4, 0.7, seed=1)]
    second = [c for _, c in crops_of_images([image()], SIZE, 4, 0.7, seed=1)]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.view.visible, b.view.visible)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        assert a.valid.sum() <= 2


def test_a_rider_and_the_two_wheeler_are_one_cyclist() -> None:
    boxes = np.array([[10, 10, 50, 100], [5, 60, 60, 110], [300, 10, 340, 110]], np.float32)
    found = _riders(
        ScoredBoxes(boxes, np.array([0.5, 0.8, 0.9], np.float32), np.array([PERSON, -2, PERSON]))
    )
    np.testing.assert_array_equal(found.classes, [CYCLIST, PERSON])
    np.testing.assert_array_equal(found.boxes[0], [5, 10, 60, 110])


def test_overlap_of_known_boxes() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[5, 0, 15, 10], [20, 0, 30, 10], [-10, -10, 30, 30]], np.float32)
    iou, inside = overlap_matrix(a, b)
    np.testing.assert_allclose(iou[0], [1 / 3, 0.0, 100 / 1600])
    np.testing.assert_allclose(inside[0], [0.5, 0.0, 1.0])


class Threshold(torch.nn.Module):
    """Scores of Cityscapes' 19 classes: cars (13) where the image is red, else road (0)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red = 20.0 * (x[:, :1] - x[:, 1:2])
        scores = [torch.zeros_like(red) for _ in range(19)]
        scores[13], scores[0] = red, 5.0 - red
        return torch.cat(scores, 1) - 0.0 * x.mean()


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from multimodal_perception.runtime.onnx_export import export_onnx

    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    export_onnx(Threshold(), {"image": torch.rand(1, 3, 64, 128)}, ("scores",), path)
    return path


def test_teacher_labels_have_our_classes_and_the_size_of_the_image(segmenter: Path) -> None:
    pixels = np.full((100, 200, 3), 128, np.uint8)
    pixels[:, 100:] = (255, 0, 0)
    labels = SegmentationTeacher([segmenter, segmenter]).label(pixels)
    assert labels.shape == (100, 200)
    assert (labels[:, :90] == SEGMENTATION_CLASSES.index("road")).all()
    assert (labels[:, 110:] == SEGMENTATION_CLASSES.index("vehicle")).all()


def test_a_network_with_other_outputs_is_refused_as_teacher(
    segmenter: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"expected \(1, cells, 85\)"):
        BoxTeacher(segmenter)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(UserError, match=r"broken\.onnx"):
        SegmentationTeacher([broken])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--images", "photos", "--frame-indices", "0"], "error: --frame-indices needs --root\n"),
        (["--root", "synthetic", "--frame-indices", "-1"], "error: --frame-indices: allowed: "),
    ],
)
def test_label_images_refuses_frame_indices_that_cannot_be_used(
    options: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = ["--segmenter", "segmenter.onnx", "--detector", "detector.onnx"]
    assert main(["train", "label-images", *options, *networks, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(error)


YOLOX = Path(__file__).parents[3] / "shared" / "data" / "yolox" / "yolox_nano.onnx"


@pytest.mark.skipif(not YOLOX.exists(), reason="needs ../shared/data/yolox")
def test_label_images_labels_a_folder_and_keeps_finished_images(
    segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "one.png"), np.full((120, 200, 3), 128, np.uint8))
    out = tmp_path / "labelled"
    arguments = ["train", "label-images", "--images", str(images), "--segmenter", str(segmenter)]
    arguments += ["--detector", str(YOLOX), "--out", str(out), "--threads", "1"]
    assert main(arguments) == 0
    written = (out / "one.labels.png").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (out / "one.labels.png").stat().st_mtime_ns == written
    (only,) = read_images(out, CLASSES)
    assert only.labels.shape == (120, 200)
    assert "1 labelled images" in capsys.readouterr().out
