"""Evaluation of image detectors on real images with 2D boxes, projected 3D boxes, or pixel labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.average_precision import ImageDetections
from multimodal_perception.evaluation.image_detection_metrics import ImageDetectionScore
from multimodal_perception.evaluation.labelled_boxes import (
    BOX_CLASSES,
    BoxLimits,
    CocoImages,
    FrameImages,
    ImageWithBoxes,
)
from multimodal_perception.evaluation.person_regions import PersonRegionScore
from multimodal_perception.evaluation.segmentation_images import LabelledImage, read_images
from multimodal_perception.evaluation.single_image import single_image_frame
from multimodal_perception.perception import Boxes2D
from multimodal_perception.stages import ImageDetector

# Score threshold of the detector for AP and the precision-recall curve.
CURVE_MIN_SCORE = 0.02
# Classes that imported networks distinguish, to those of BOX_CLASSES.
OWN_CLASSES = {
    **dict.fromkeys(("car", "van", "truck", "bus", "trailer"), "vehicle"),
    "pedestrian": "person",
    "motorcyclist": "cyclist",
}
BOX_DATASETS = ("coco", "kitti", "nuscenes", "pandaset")
REGION_DATASETS = ("camvid", "cityscapes")


def open_images(
    dataset: str, root: Path, limits: BoxLimits, cameras: Sequence[str], split: str | None
) -> CocoImages | FrameImages:
    """Images with labelled boxes of a data set of BOX_DATASETS. Raises DatasetError."""
    from multimodal_perception.datasets.open_dataset import open_dataset

    if dataset == "coco":
        return CocoImages(root, limits, split)
    return FrameImages(open_dataset(root, dataset), limits, cameras)  # type: ignore[arg-type]


def open_detector(model: str, min_score: float, tiles: tuple[int, int]) -> ImageDetector:
    """Open a shipped or imported image detector by the name or folder of its model.

    tiles: columns and rows besides the whole image. Raises UserError.
    """
    from multimodal_perception.detection.images import imported
    from multimodal_perception.detection.images.config import ImageDetectorConfig
    from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
    from multimodal_perception.runtime.card import load_card

    card = load_card(model)
    try:
        config = ImageDetectorConfig(model=model, min_score=min_score, tiles=tiles)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    if card.architecture == imported.ARCHITECTURE:
        return imported.ImportedDetector(config, card=card)
    return RgbThermalDetector(config, card=card)


def score_boxes(
    detector: ImageDetector,
    images: Iterable[ImageWithBoxes | None],
    min_score: float,
    required_precision: float = 0.7,
    min_height: float = 25.0,
    on_image: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """Metrics by class of all images, and by camera if there are several.

    detector: with a score threshold of at most CURVE_MIN_SCORE. min_score, required_precision,
    min_height: see ImageDetectionScore.
    """

    def new_score() -> ImageDetectionScore:
        return ImageDetectionScore(BOX_CLASSES, min_score, required_precision, min_height)

    total, skipped = new_score(), 0
    by_camera: dict[str, ImageDetectionScore] = {}
    for image in images:
        if image is None:
            skipped += 1
        else:
            found = to_box_classes(detector.detect(image.frame).get(image.camera))
            for score in (total, by_camera.setdefault(image.camera, new_score())):
                score.add(image.truth, found)
        on_image()
    result = {**total.summary(), "skipped_images": skipped}
    if len(by_camera) > 1:
        result["cameras"] = {name: score.summary() for name, score in by_camera.items()}
    return result


def score_person_regions(
    detector: ImageDetector,
    dataset: str,
    images: Sequence[LabelledImage],
    min_score: float,
    min_height: float,
    on_image: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """Coverage of the labelled person regions by person boxes of at least min_score."""
    score = PersonRegionScore(min_height)
    for _, pixels, labels in read_images(dataset, images):
        boxes = next(iter(detector.detect(single_image_frame(pixels)).values()), None)
        score.add(labels, None if boxes is None else select_boxes(boxes, boxes.scores >= min_score))
        on_image()
    return {**score.summary(), "min_score": min_score}


def to_box_classes(boxes: Boxes2D | None) -> ImageDetections:
    """Detections with the indices of BOX_CLASSES; boxes of other classes are left out."""
    if boxes is None:
        return ImageDetections(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        )
    names = [OWN_CLASSES.get(n, n) for n in boxes.class_names]
    table = [BOX_CLASSES.index(n) if n in BOX_CLASSES else -1 for n in names]
    labels = np.array(table, np.int64)[boxes.labels]
    kept = labels >= 0
    return ImageDetections(boxes.boxes[kept], boxes.scores[kept], labels[kept])


def select_boxes(boxes: Boxes2D, index: Any) -> Boxes2D:
    """The boxes selected by a mask (N,)."""
    return Boxes2D(
        boxes.sensor,
        boxes.stamp_ns,
        boxes.boxes[index],
        boxes.scores[index],
        boxes.labels[index],
        boxes.class_names,
        boxes.size,
    )
