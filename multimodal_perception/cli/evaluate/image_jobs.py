"""One data set of images in `evaluate segmentation` and `evaluate image-detector`, as a worker's job.

The results contain counts and boxes, not figures, so that the figures of several data sets are those of
all their images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.evaluation.image_detection_images import (
    CURVE_MIN_SCORE,
    DetectedImages,
    detect_boxes,
    open_detector,
    open_images,
    person_threshold,
    score_person_regions,
)
from multimodal_perception.evaluation.labelled_boxes import BoxLimits
from multimodal_perception.evaluation.person_regions import PersonRegionScore
from multimodal_perception.evaluation.segmentation_images import (
    SEGMENTATION_DATASETS,
    SegmentationImagesScore,
    list_images,
    open_segmenter,
    score_images,
)
from multimodal_perception.evaluation.worst_pictures import WorstPictures, draw_mask_errors
from multimodal_perception.segmentation.classes import IGNORED

# Called with the number of images before the first one; returns the function to call after each.
Progress = Callable[[int], Callable[[], Any]]


def no_progress(total: int) -> Callable[[], Any]:
    return lambda: None


@dataclass(frozen=True)
class SegmentationImagesJob:
    """root, dataset, split: as for list_images. models: as for open_segmenter. pictures: number of the
    worst images of the first model that are drawn."""

    root: str
    dataset: str
    split: str | None
    models: tuple[str, ...]
    pictures: int = 0


@dataclass
class SegmentationImagesResult:
    """Scores and times of the segmenter (milliseconds) by model, and the worst images."""

    scores: dict[str, SegmentationImagesScore]
    times_ms: dict[str, list[float]]
    worst: WorstPictures

    def merge(self, other: SegmentationImagesResult) -> None:
        for model, score in other.scores.items():
            self.scores[model].merge(score)
            self.times_ms[model] += other.times_ms[model]
        self.worst.merge(other.worst)


def run_segmentation_job(
    job: SegmentationImagesJob, progress: Progress = no_progress
) -> SegmentationImagesResult:
    """Evaluate the models on one data set. Raises UserError."""
    images = list_images(job.dataset, Path(job.root), job.split)
    worst = WorstPictures(job.pictures)
    times_ms: dict[str, list[float]] = {name: [] for name in job.models}

    def add(model: str, image: str, pixels: Any, truth: Any, labels: Any, time_ms: float) -> None:
        times_ms[model].append(time_ms)
        counted = truth != IGNORED
        if worst.count and model == job.models[0] and counted.any():
            error = float(np.mean((truth != labels)[counted]))
            text = f"{image}: {100 * error:.1f} % of the pixels wrong"
            worst.add(error, text, lambda: draw_mask_errors(pixels[..., ::-1], truth, labels))

    update = progress(len(images) * len(job.models))
    scores = {
        name: score_images(open_segmenter(name), job.dataset, images, update, partial(add, name))
        for name in job.models
    }
    return SegmentationImagesResult(scores, times_ms, worst)


@dataclass(frozen=True)
class DetectionImagesJob:
    """root, dataset, split, cameras: as for open_images. variants: row of the table, model
    and tiles. min_score: score threshold of the figures that are not a curve. min_height, min_points: of
    evaluated labels, see BoxLimits. pictures: number of the worst images of the first row that are
    drawn, of data sets with boxes."""

    root: str
    dataset: str
    split: str | None
    cameras: tuple[str, ...]
    variants: tuple[tuple[str, str, tuple[int, int]], ...]
    min_score: float
    min_height: float
    min_points: int
    pictures: int = 0


@dataclass
class DetectionImagesResult:
    """By row: boxes, or for data sets with pixel labels the person regions and the score threshold."""

    boxes: dict[str, DetectedImages] = field(default_factory=dict)
    regions: dict[str, PersonRegionScore] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    worst: WorstPictures = field(default_factory=lambda: WorstPictures(0))

    def merge(self, other: DetectionImagesResult) -> None:
        self.worst.merge(other.worst)
        for row, boxes in other.boxes.items():
            self.boxes[row].merge(boxes)
        for row, regions in other.regions.items():
            self.regions[row].merge(regions)


def run_detection_job(
    job: DetectionImagesJob, progress: Progress = no_progress
) -> DetectionImagesResult:
    """Evaluate the models on one data set. Raises UserError."""
    root, result = Path(job.root), DetectionImagesResult(worst=WorstPictures(job.pictures))
    if job.dataset in SEGMENTATION_DATASETS:
        labelled = list_images(job.dataset, root, job.split)
        update = progress(len(labelled) * len(job.variants))
        for row, model, tiles in job.variants:
            detector = open_detector(model, job.min_score, tiles)
            result.regions[row] = score_person_regions(
                detector, job.dataset, labelled, job.min_score, job.min_height, update
            )
            result.thresholds[row] = person_threshold(detector, job.min_score)
        return result
    limits = BoxLimits(job.min_height, job.min_points)
    images = open_images(job.dataset, root, limits, job.cameras, job.split)
    update = progress(len(images) * len(job.variants))
    for row, model, tiles in job.variants:
        detector = open_detector(model, min(job.min_score, CURVE_MIN_SCORE), tiles)
        worst = result.worst if row == job.variants[0][0] else WorstPictures(0)
        result.boxes[row] = detect_boxes(detector, images, job.min_score, update, worst)
    return result


def has_images(dataset: str, split: str | None, path: Path) -> bool:
    """Whether a folder is a data set of this format, and not a folder that contains several of them."""
    if dataset == "coco":
        return (path / "annotations").is_dir()
    if dataset not in SEGMENTATION_DATASETS:
        from multimodal_perception.datasets.open_dataset import detect_format

        try:
            detect_format(path)
        except DatasetError:
            return False
        return True
    try:
        list_images(dataset, path, split)
    except DatasetError:
        return False
    return True
