from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from multimodal_perception.cli.main import main
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.evaluation.segmentation_images import (
    CAMVID_CLASSES,
    CAMVID_COLOURS,
    CITYSCAPES_CLASSES,
    list_images,
    read_labels,
    score_images,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES


class FakeSegmenter:
    """Predicts the same class everywhere; None gives no mask."""

    def __init__(self, name: str | None, names: tuple[str, ...] = SEGMENTATION_CLASSES) -> None:
        self._name, self._names = name, names
        self.counts: dict[str, int] = {}

    def segment(self, frame: SensorFrame) -> dict[str, SegmentationMask]:
        if self._name is None:
            return {}
        shape = next(iter(frame.cameras.values())).pixels.shape[:2]
        labels = np.full(shape, self._names.index(self._name), np.uint8)
        return {"camera": SegmentationMask("camera", 0, labels, self._names)}


def write(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def write_camvid(root: Path, labels: Any, name: str = "a") -> None:
    write(root / "images" / f"{name}.png", np.zeros((*labels.shape[:2], 3), np.uint8))
    write(root / "labels" / f"{name}.png", labels)


def test_iou_of_camvid_in_closed_form(tmp_path: Path) -> None:
    labels = np.full((4, 10), 3, np.uint8)  # road
    labels[0] = 9  # pedestrian
    labels[1] = 11  # unlabelled: not counted
    write_camvid(tmp_path, labels)
    images = list_images("camvid", tmp_path)
    result = score_images(FakeSegmenter("road"), "camvid", images).summary()
    assert result["iou"]["road"] == pytest.approx(20 / 30) and result["iou"]["person"] == 0.0
    assert result["miou"] == pytest.approx(1 / 3) and result["accuracy"] == pytest.approx(2 / 3)
    assert np.isnan(result["iou"]["sky"]) and sum(map(sum, result["confusion"])) == 30
    # Classes of another network count as "other", and so does an image without a mask.
    other = score_images(FakeSegmenter("tram", ("tram", "road")), "camvid", images).summary()
    missing = score_images(FakeSegmenter(None), "camvid", images).summary()
    assert other["iou"] == pytest.approx(missing["iou"], nan_ok=True)
    assert missing["images_without_mask"] == 1 and missing["miou"] == 0.0
    reordered = FakeSegmenter("road", ("person", "road"))
    assert score_images(reordered, "camvid", images).summary()["miou"] == pytest.approx(1 / 3)


def test_numbers_and_colours_of_camvid_mean_the_same(tmp_path: Path) -> None:
    assert [name for name, _ in CAMVID_CLASSES][9] == "pedestrian" and len(CAMVID_COLOURS) == 32
    colours = {"sky": (128, 128, 128), "road": (128, 64, 128), "pedestrian": (64, 64, 0)}
    for number, (name, ours) in enumerate(CAMVID_CLASSES):
        if name in colours:
            r, g, b = colours[name]
            write(tmp_path / "c.png", np.full((2, 3, 3), (b, g, r), np.uint8))
            write(tmp_path / "n.png", np.full((2, 3), number, np.uint8))
            by_colour = read_labels("camvid", tmp_path / "c.png")
            assert (by_colour == SEGMENTATION_CLASSES.index(ours)).all()
            np.testing.assert_array_equal(by_colour, read_labels("camvid", tmp_path / "n.png"))
    write(tmp_path / "c.png", np.zeros((2, 3, 3), np.uint8))  # void
    assert (read_labels("camvid", tmp_path / "c.png") == IGNORED).all()


def test_all_layouts_of_camvid_are_found(tmp_path: Path) -> None:
    image, labels = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8)
    for split in ("train", "val", "test"):
        write(tmp_path / "segnet" / split / "1.png", image)
        write(tmp_path / "segnet" / f"{split}annot" / "1.png", labels)
    write(tmp_path / "original" / "701_StillsRaw_full" / "x.png", image)
    write(tmp_path / "original" / "LabeledApproved_full" / "x_L.png", image)
    found = list_images("camvid", tmp_path / "segnet")
    assert {p.image.parent.name for p in found} == {"train", "val"}  # test only if it is named
    assert len(list_images("camvid", tmp_path / "segnet", "test")) == 1
    assert [p.name for p in list_images("camvid", tmp_path / "original")] == ["x"]
    with pytest.raises(DatasetError, match="of the split val"):
        list_images("camvid", tmp_path / "original", "val")


def test_labels_of_cityscapes(tmp_path: Path) -> None:
    image = np.zeros((2, 40, 3), np.uint8)
    labels = np.tile(np.arange(40, dtype=np.uint8) % 34, (2, 1))
    city = "zurich"
    stem = f"{city}_000000_000019"
    write(tmp_path / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png", image)
    path = tmp_path / "gtFine" / "val" / city / f"{stem}_gtFine_labelIds.png"
    write(path, labels)
    (found,) = list_images("cityscapes", tmp_path)
    assert found.label == path and found.name == stem
    result = read_labels("cityscapes", path)[0]
    for number in range(34):
        name = CITYSCAPES_CLASSES.get(number)
        expected = IGNORED if name is None else SEGMENTATION_CLASSES.index(name)
        assert result[number] == expected, number
    assert result[24] == SEGMENTATION_CLASSES.index("person")
    assert result[25] == SEGMENTATION_CLASSES.index("cyclist")


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        list_images("camvid", tmp_path / "none")
    with pytest.raises(DatasetError, match="images/"):
        list_images("camvid", tmp_path)
    write(tmp_path / "n.png", np.full((2, 2), 77, np.uint8))
    with pytest.raises(DatasetError, match=r"n\.png: label number 77; allowed: 0 to 11"):
        read_labels("camvid", tmp_path / "n.png")
    write(tmp_path / "n.png", np.full((2, 2), 7, np.uint16))
    with pytest.raises(DatasetError, match="uint16"):
        read_labels("cityscapes", tmp_path / "n.png")
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    write(tmp_path / "n.png", noise)
    with pytest.raises(DatasetError, match="colours; not a label image"):
        read_labels("camvid", tmp_path / "n.png")
    write_camvid(tmp_path / "sizes", np.zeros((4, 5), np.uint8))
    write(tmp_path / "sizes" / "labels" / "a.png", np.zeros((4, 6), np.uint8))
    images = list_images("camvid", tmp_path / "sizes")
    with pytest.raises(DatasetError, match=r"6x4 pixels, but a\.png has 5x4"):
        score_images(FakeSegmenter("road"), "camvid", images)


def test_the_commands_evaluate_real_images(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json
    import shutil

    root = tmp_path / "camvid"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
        for path in sorted((shared_data / "camvid" / folder).glob("*.png"))[:2]:
            shutil.copy(path, root / folder)
    json_file = tmp_path / "s.json"
    common = ["--dataset", "camvid", "--root", str(root), "--json", str(json_file)]
    assert main(["evaluate", "segmentation", *common]) == 0
    result = json.loads(json_file.read_text())["rows"]["segmentation"]
    assert result["images"] == 2 and result["iou"]["road"] > 0.5
    assert "mIoU" in capsys.readouterr().out
    assert main(["evaluate", "image-detector", *common, "--min-height", "20"]) == 0
    result = json.loads(json_file.read_text())["rows"]["image_detector"]
    assert result["images"] == 2 and result["min_height"] == 20
    frame = ["--dataset", "nuscenes", "--root", str(shared_data / "nuscenes_frame")]
    arguments = [*frame, "--cameras", "cam_front", "--json", str(json_file)]
    assert main(["evaluate", "image-detector", *arguments]) == 0
    result = json.loads(json_file.read_text())["rows"]["image_detector"]
    assert result["classes"]["vehicle"]["labels"] > 0
    assert "vehicle" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmentation", "--dataset", "camvid"], "needs --root"),
        (["image-detector", "--dataset", "coco", "--root", "x", "--min-score", "2"], "--min-score"),
        (["image-detector", "--dataset", "kitti", "--root", "x", "--tiles", "0", "2"], "--tiles"),
        (["image-detector", "--dataset", "pandaset", "--root", "/nowhere"], "PandaSet"),
    ],
)
def test_wrong_options_are_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main(["evaluate", *arguments]) == 2
    except SystemExit as error:  # argparse
        assert error.code == 2
    assert message in capsys.readouterr().err
