"""Evaluation of the image detector on simulated drives: COCO AP, and recall of the projected boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.detection.images.ground_projection import SCORE_RADIUS
from multimodal_perception.detection.images.image_objects import ImageObjects
from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
from multimodal_perception.evaluation.average_precision import (
    CocoAveragePrecision,
    ImageDetections,
    ImageGroundTruth,
)
from multimodal_perception.evaluation.image_box_errors import box_errors, draw_box_errors
from multimodal_perception.evaluation.segmentation_drives import (
    CONDITIONS,
    camera_thermal_rig,
    select_images,
    simulate_observations,
)
from multimodal_perception.evaluation.worst_pictures import WorstPictures
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, Modality, SensorFrame
from multimodal_perception.geometry.image_boxes import boxes_from_instances
from multimodal_perception.images.view_warp import warp_between
from multimodal_perception.perception import Boxes2D
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES, labels_from_semantics
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.sensors.camera import ImageTruth

IMAGES = ("both", "visible", "thermal")
# Objects with fewer visible pixels or a lower 2D box (pixels) are ignored.
MIN_OBJECT_PIXELS, MIN_BOX_HEIGHT = 24, 8.0
# With only the thermal image, objects are ignored if the thermal camera covers less of their box.
MIN_THERMAL_COVERAGE = 0.5
# Score threshold of the detector for AP.
MIN_SCORE = 0.02
DISTANCE_BANDS_M = ((0.0, 10.0), (10.0, 20.0), (20.0, 30.0))


def score_drives(
    card: ModelCard,
    rig: Rig,
    seeds: Sequence[int],
    frames: int,
    progress: Callable[[int], Any],
    profile: Profile = "basic",
    worst: WorstPictures | None = None,
) -> dict[str, Any]:
    """AP by input images, condition and class in the first camera's view; ground projection metrics.

    worst: gets the pictures of the images with the most errors of the detector with both images.

    Raises UserError for a rig without a camera or a thermal camera, or an incompatible card.
    """
    rig = camera_thermal_rig(rig)
    camera = next(iter(rig.sensors_of(Modality.CAMERA)))
    detector = RgbThermalDetector(
        ImageDetectorConfig(min_score=MIN_SCORE), RuntimeConfig(), card=card
    )
    classes = detector.class_names
    thresholds = detector.score_thresholds.at(ImageDetectorConfig().min_score)
    scores = {i: {c: CocoAveragePrecision(classes) for c in CONDITIONS} for i in IMAGES}
    projected = {c: GroundProjectionScore() for c in CONDITIONS}
    with progress(len(seeds) * len(CONDITIONS) * frames) as bar:
        for condition, observation in simulate_observations(rig, seeds, frames, profile):
            frame, labels = observation.frame, observation.truth.boxes
            truth, tracks = image_truth(observation.truth.views[camera], classes)
            for images in IMAGES:
                detections = detector.detect_view(select_images(frame, images), camera)
                visible = truth
                if images == "thermal":
                    visible = _ignore_outside_thermal(truth, frame, camera)
                if detections is None:
                    detections = Boxes2D(camera, frame.stamp_ns, *_NO_BOXES, classes, (1, 1))
                scores[images][condition].add(
                    visible,
                    ImageDetections(detections.boxes, detections.scores, detections.labels),
                )
                if images == "both":
                    reported = detections.scores >= thresholds[detections.labels]
                    confident = _select(detections, reported)
                    boxes = ImageObjects()({camera: confident}, frame)
                    projected[condition].add(labels, tracks[truth.evaluated], boxes)
                    if worst is not None and worst.count:
                        found = ImageDetections(
                            detections.boxes, detections.scores, detections.labels
                        )
                        errors = box_errors(truth, found, thresholds)
                        pixels = frame.cameras[camera].rgb()
                        text = f"{condition}, {frame.stamp_ns} ns: {errors.count} errors"
                        worst.add(
                            errors.count, text, partial(draw_box_errors, pixels, errors, classes)
                        )
            bar.update()
    return {
        "frames": len(seeds) * len(CONDITIONS) * frames,
        "conditions": {name: list(words) for name, words in CONDITIONS.items()},
        "min_object": {"pixels": MIN_OBJECT_PIXELS, "box_height_px": MIN_BOX_HEIGHT},
        "rows": {i: {c: s.summary() for c, s in by.items()} for i, by in scores.items()},
        "confidence": {
            i: {c: s.confidence(thresholds) for c, s in by.items()} for i, by in scores.items()
        },
        "ground_projection": {c: s.summary() for c, s in projected.items()},
    }


_NO_BOXES = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)


def image_truth(
    view: ImageTruth, classes: Sequence[str]
) -> tuple[ImageGroundTruth, NDArray[np.int64]]:
    """Boxes around the visible pixels of the objects of the classes, and their track ids (K,)."""
    labels = labels_from_semantics(view.semantics)
    table = np.full(256, -1, np.int64)
    for k, name in enumerate(classes):
        table[SEGMENTATION_CLASSES.index(name)] = k
    class_map = table[labels]
    tracks, boxes, pixels = boxes_from_instances(np.where(class_map >= 0, view.instances, 0))
    classes_of_tracks = np.array(
        [np.bincount(class_map[(view.instances == t) & (class_map >= 0)]).argmax() for t in tracks],
        np.int64,
    )
    evaluated = (pixels >= MIN_OBJECT_PIXELS) & (boxes[:, 3] - boxes[:, 1] >= MIN_BOX_HEIGHT)
    return ImageGroundTruth(boxes, classes_of_tracks, evaluated), tracks


def _ignore_outside_thermal(
    truth: ImageGroundTruth, frame: SensorFrame, camera: str
) -> ImageGroundTruth:
    """The ground truth with objects outside the first thermal camera's field of view ignored."""
    thermal = next(iter(frame.thermals))
    warp = warp_between(
        frame.intrinsics[camera],
        frame.base_from_sensor[camera],
        frame.intrinsics[thermal],
        frame.base_from_sensor[thermal],
        frame.ground_z,
    )
    coverage = np.array(
        [float(warp.valid[y1:y2, x1:x2].mean()) for x1, y1, x2, y2 in truth.boxes.astype(int)]
    )
    covered = (coverage >= MIN_THERMAL_COVERAGE).astype(np.bool_)
    return ImageGroundTruth(truth.boxes, truth.labels, truth.evaluated & covered)


def _select(detections: Boxes2D, index: NDArray[np.bool_]) -> Boxes2D:
    return Boxes2D(
        detections.sensor,
        detections.stamp_ns,
        detections.boxes[index],
        detections.scores[index],
        detections.labels[index],
        detections.class_names,
        detections.size,
    )


class GroundProjectionScore:
    """Recall and precision of boxes projected from an image onto the ground, within 30 m.

    An object is detected if a projected box of its class lies within SCORE_RADIUS.
    """

    def __init__(self) -> None:
        self._objects: list[tuple[str, float, bool]] = []  # class, distance, detected
        self._boxes: list[tuple[float, bool]] = []  # score, matched

    def add(self, labels: Boxes3D, tracks: NDArray[np.int64], projected: Boxes3D) -> None:
        """Count one frame.

        labels: of all objects. tracks: track ids of the objects that are visible in the image.
        projected: boxes projected onto the ground.
        """
        assert labels.track_ids is not None
        visible = np.isin(labels.track_ids, tracks)
        groups = [_DETECTOR_CLASS.get(CLASS_NAMES[k], "") for k in labels.labels]
        distances = np.hypot(labels.boxes[:, 0], labels.boxes[:, 1])
        free = np.array([bool(g) for g in groups], np.bool_)
        detected = np.zeros(len(labels), np.bool_)
        max_distance = DISTANCE_BANDS_M[-1][1]
        for i in range(len(projected)):
            group = _DETECTOR_CLASS[CLASS_NAMES[projected.labels[i]]]
            error = np.hypot(*(labels.boxes[:, :2] - projected.boxes[i, :2]).T)
            same_group = np.array([g == group for g in groups], np.bool_)
            candidates = free & (error <= SCORE_RADIUS) & same_group
            matched = bool(candidates.any())
            if matched:
                nearest = np.where(candidates, error, np.inf).argmin()
                free[nearest], detected[nearest] = False, True
            if np.hypot(*projected.boxes[i, :2]) <= max_distance:
                self._boxes.append((float(projected.scores[i]), matched))
        for k in np.flatnonzero(visible & (distances <= max_distance)):
            if groups[k]:
                self._objects.append((groups[k], float(distances[k]), bool(detected[k])))

    def summary(self) -> dict[str, Any]:
        """Recall in total, by class and by distance; count, precision and mean score of the boxes."""
        result: dict[str, Any] = {"all": _recall([d for *_, d in self._objects])}
        for name in sorted({g for g, *_ in self._objects}):
            result[name] = _recall([d for g, _, d in self._objects if g == name])
        for low, high in DISTANCE_BANDS_M:
            in_band = [d for _, distance, d in self._objects if low <= distance < high]
            result[f"{low:.0f}-{high:.0f} m"] = _recall(in_band)
        matched, scores = [m for _, m in self._boxes], [s for s, _ in self._boxes]
        result["boxes"] = {
            "count": len(matched),
            "precision": float(np.mean(matched)) if matched else float("nan"),
            "mean_score": float(np.mean(scores)) if scores else float("nan"),
        }
        return result


def _recall(detected: list[bool]) -> dict[str, float]:
    recall = float(np.mean(detected)) if detected else float("nan")
    return {"labels": len(detected), "recall": recall}


# Class names of this package to the classes of the image detector.
_DETECTOR_CLASS = dict.fromkeys(("car", "van", "truck", "bus", "trailer"), "vehicle")
_DETECTOR_CLASS |= {"pedestrian": "person", "cyclist": "cyclist", "motorcyclist": "cyclist"}
