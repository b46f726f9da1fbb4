"""Evaluation of image detectors on real images with 2D boxes, projected 3D boxes, or pixel labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.detection.images.imported import ARCHITECTURE, ImportedDetector
from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
from multimodal_perception.evaluation.average_precision import ImageDetections, ImageGroundTruth
from multimodal_perception.evaluation.image_box_errors import box_errors, draw_box_errors
from multimodal_perception.evaluation.image_detection_metrics import ImageDetectionScore
from multimodal_perception.evaluation.labelled_boxes import (
    BOX_CLASSES,
    BoxLimits,
    CocoImages,
    FrameImages,
    ImageWithBoxes,
)
from multimodal_perception.evaluation.person_regions import PERSON_CLASSES, PersonRegionScore
from multimodal_perception.evaluation.segmentation_images import LabelledImage, read_images
from multimodal_perception.evaluation.single_image import single_image_frame
from multimodal_perception.evaluation.worst_pictures import WorstPictures
from multimodal_perception.perception import Boxes2D
from multimodal_perception.runtime.card import load_card

# Score threshold of the detector for AP and the precision-recall curve.
CURVE_MIN_SCORE = 0.02
# Classes that imported networks distinguish, to those of BOX_CLASSES.
OWN_CLASSES = {
    **dict.fromkeys(("car", "van", "truck", "bus", "trailer"), "vehicle"),
    "pedestrian": "person",
    "motorcyclist": "cyclist",
}
Detector = ImportedDetector | RgbThermalDetector
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


def open_detector(model: str, min_score: float, tiles: tuple[int, int]) -> Detector:
    """Open a shipped or imported image detector by the name or folder of its model.

    tiles: columns and rows besides the whole image. Raises UserError.
    """
    card = load_card(model)
    try:
        config = ImageDetectorConfig(model=model, min_score=min_score, tiles=tiles)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    if card.architecture == ARCHITECTURE:
        return ImportedDetector(config, card=card)
    return RgbThermalDetector(config, card=card)


@dataclass
class DetectedImages:
    """Labels and detections of images, as indices into BOX_CLASSES, from which all figures follow.

    images: camera, labels and detections. skipped: images without labels. min_scores: score threshold
    in operation of each class of BOX_CLASSES.
    """

    min_scores: list[float]
    images: list[tuple[str, ImageGroundTruth, ImageDetections]] = field(default_factory=list)
    skipped: int = 0

    def merge(self, other: DetectedImages) -> None:
        """Add the images of another data set."""
        self.images += other.images
        self.skipped += other.skipped

    def summary(
        self, min_score: float, required_precision: float = 0.7, min_height: float = 25.0
    ) -> dict[str, Any]:
        """Metrics by class of all images, and by camera if there are several.

        min_score, required_precision, min_height: see ImageDetectionScore.
        """

        def new_score() -> ImageDetectionScore:
            return ImageDetectionScore(
                BOX_CLASSES, min_score, required_precision, min_height, self.min_scores
            )

        total = new_score()
        by_camera: dict[str, ImageDetectionScore] = {}
        for camera, truth, found in self.images:
            for score in (total, by_camera.setdefault(camera, new_score())):
                score.add(truth, found)
        result = {**total.summary(), "skipped_images": self.skipped}
        if len(by_camera) > 1:
            result["cameras"] = {name: score.summary() for name, score in by_camera.items()}
        return result


def detect_boxes(
    detector: Detector,
    images: Iterable[ImageWithBoxes | None],
    min_score: float,
    on_image: Callable[[], Any] = lambda: None,
    worst: WorstPictures | None = None,
) -> DetectedImages:
    """Run a detector on images.

    detector: with a score threshold of at most CURVE_MIN_SCORE. min_score: in operation. worst: gets the
    pictures of the images with the most missed and false boxes.
    """
    result = DetectedImages(box_class_thresholds(detector, min_score))
    for number, image in enumerate(images, 1):
        if image is None:
            result.skipped += 1
        else:
            found = to_box_classes(detector.detect(image.frame).get(image.camera))
            result.images.append((image.camera, image.truth, found))
            if worst is not None and worst.count:
                _add_picture(worst, number, image, found, result.min_scores)
        on_image()
    return result


def _add_picture(
    worst: WorstPictures,
    number: int,
    image: ImageWithBoxes,
    found: ImageDetections,
    min_scores: Sequence[float],
) -> None:
    """Add an image to the worst ones. number: of the image in the data set, from 1."""
    pixels = image.frame.cameras[image.camera].rgb()
    errors = box_errors(image.truth, found, min_scores)
    counts = f"{len(errors.missed[0])} missed, {len(errors.false[0])} false"
    text = f"image {number}, {image.camera}: {counts}"
    worst.add(errors.count, text, lambda: draw_box_errors(pixels, errors, BOX_CLASSES))


def score_person_regions(
    detector: Detector,
    dataset: str,
    images: Sequence[LabelledImage],
    min_score: float,
    min_height: float,
    on_image: Callable[[], Any] = lambda: None,
) -> PersonRegionScore:
    """Coverage of the labelled person regions by person boxes of at least min_score.

    The detector's card may have another threshold for persons, see person_threshold.
    """
    score = PersonRegionScore(min_height)
    thresholds = detector.score_thresholds.at(min_score)
    for _, pixels, labels in read_images(dataset, images):
        boxes = next(iter(detector.detect(single_image_frame(pixels)).values()), None)
        if boxes is not None:
            boxes = select_boxes(boxes, boxes.scores >= thresholds[boxes.labels])
        score.add(labels, boxes)
        on_image()
    return score


def person_threshold(detector: Detector, min_score: float) -> float:
    """Score threshold of people, which ScoreThresholds of the detector's card may change."""
    thresholds = detector.score_thresholds.at(min_score)
    people = [
        t for n, t in zip(detector.class_names, thresholds, strict=True) if n in PERSON_CLASSES
    ]
    return float(min(people, default=min_score))


def box_class_thresholds(detector: Detector, min_score: float) -> list[float]:
    """Score thresholds of BOX_CLASSES: the lowest one of the detector's classes that belong to each."""
    lowest = dict.fromkeys(BOX_CLASSES, 1.0)
    thresholds = detector.score_thresholds.at(min_score)
    for name, threshold in zip(detector.class_names, thresholds, strict=True):
        box_class = OWN_CLASSES.get(name, name)
        if box_class in lowest:
            lowest[box_class] = min(lowest[box_class], float(threshold))
    return list(lowest.values())


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
