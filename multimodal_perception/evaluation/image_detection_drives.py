"""Boxes in images scored on simulated drives, by images, and those that are placed on the ground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.images.ground_projection import (
    PRIORS,
    WITHIN,
    PlacingConfig,
    frame_boxes,
)
from multimodal_perception.detection.images.rgb_thermal import RgbirConfig, RgbirDetector
from multimodal_perception.evaluation.average_precision import (
    AveragePrecision,
    ImageBoxes,
    ImageTruth,
)
from multimodal_perception.evaluation.segmentation_drives import (
    CONDITIONS,
    cut_rig,
    observed,
    with_images,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, Modality, SensorFrame
from multimodal_perception.geometry.image_boxes import tight_boxes
from multimodal_perception.images.view_warp import warp_between
from multimodal_perception.perception import Boxes2D
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES, labels_from_semantics
from multimodal_perception.simulation.sensors.camera import View

IMAGES = ("both", "visible", "thermal")
# Objects of fewer visible pixels or a lower box are not scored, nor is what is said of them.
LEAST_PIXELS, LEAST_HEIGHT = 24, 8.0
# With the thermal image alone an object counts where that camera sees this share of its box.
SEEN = 0.5
# Every answer above this counts in AP, however unsure.
LEAST_SCORE = 0.02
BANDS = ((0.0, 10.0), (10.0, 20.0), (20.0, 30.0))


def score_drives(
    card: ModelCard,
    rig: Rig,
    seeds: Sequence[int],
    frames: int,
    progress: Callable[[int], Any],
) -> dict[str, Any]:
    """AP by images, condition and class in the first camera's view, and what is placed right.

    Raises UserError for a rig without a camera and a thermal camera, or a card that does not fit.
    """
    rig = cut_rig(rig)
    camera = next(iter(rig.of(Modality.CAMERA)))
    threshold = RgbirConfig().min_score
    detector = RgbirDetector(RgbirConfig(min_score=LEAST_SCORE), RuntimeConfig(), card=card)
    classes = detector.class_names
    scores = {i: {c: AveragePrecision(classes) for c in CONDITIONS} for i in IMAGES}
    placed = {c: PlacedScore() for c in CONDITIONS}
    with progress(len(seeds) * len(CONDITIONS) * frames) as bar:
        for condition, observation in observed(rig, seeds, frames):
            frame, labels = observation.frame, observation.truth.boxes
            truth, tracks = image_truth(observation.truth.views[camera], classes)
            for images in IMAGES:
                seen = with_images(frame, images)
                found = detector.detect_view(seen, camera)
                told = truth if images != "thermal" else _seen_by_thermal(truth, frame, camera)
                if found is None:
                    found = Boxes2D(camera, frame.stamp_ns, *_NOTHING, classes, (1, 1))
                answers = ImageBoxes(found.boxes, found.scores, found.labels)
                scores[images][condition].add(told, answers)
                if images == "both":
                    sure = _select(found, found.scores >= threshold)
                    boxes = frame_boxes({camera: sure}, frame, PlacingConfig())
                    placed[condition].add(labels, tracks[truth.counts], boxes)
            bar.update()
    return {
        "frames": len(seeds) * len(CONDITIONS) * frames,
        "conditions": {name: list(words) for name, words in CONDITIONS.items()},
        "least": {"pixels": LEAST_PIXELS, "height": LEAST_HEIGHT},
        "rows": {i: {c: s.summary() for c, s in by.items()} for i, by in scores.items()},
        "placed": {c: s.summary() for c, s in placed.items()},
    }


_NOTHING = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)


def image_truth(view: View, classes: Sequence[str]) -> tuple[ImageTruth, NDArray[np.int64]]:
    """Boxes about the visible pixels of a view's objects of the classes, and their tracks."""
    labels = labels_from_semantics(view.semantics)
    table = np.full(256, -1, np.int64)
    for k, name in enumerate(classes):
        table[SEGMENTATION_CLASSES.index(name)] = k
    kinds = table[labels]
    tracks, boxes, pixels = tight_boxes(np.where(kinds >= 0, view.instances, 0))
    kind_of = np.array(
        [np.bincount(kinds[(view.instances == t) & (kinds >= 0)]).argmax() for t in tracks],
        np.int64,
    )
    counts = (pixels >= LEAST_PIXELS) & (boxes[:, 3] - boxes[:, 1] >= LEAST_HEIGHT)
    return ImageTruth(boxes, kind_of, counts), tracks


def _seen_by_thermal(truth: ImageTruth, frame: SensorFrame, camera: str) -> ImageTruth:
    """The same truth; what the first thermal camera does not see does not count."""
    thermal = next(iter(frame.thermals))
    warp = warp_between(
        frame.intrinsics[camera],
        frame.base_from_sensor[camera],
        frame.intrinsics[thermal],
        frame.base_from_sensor[thermal],
    )
    shares = [float(warp.seen[y1:y2, x1:x2].mean()) for x1, y1, x2, y2 in truth.boxes.astype(int)]
    return ImageTruth(
        truth.boxes, truth.labels, truth.counts & (np.array(shares) >= SEEN).astype(np.bool_)
    )


def _select(found: Boxes2D, index: NDArray[np.bool_]) -> Boxes2D:
    return Boxes2D(
        found.sensor,
        found.stamp_ns,
        found.boxes[index],
        found.scores[index],
        found.labels[index],
        found.class_names,
        found.size,
    )


class PlacedScore:
    """How many of the objects that an image shows within 30 m have a placed box within WITHIN."""

    def __init__(self) -> None:
        self._objects: list[tuple[str, float, bool]] = []  # class, distance, found
        self._boxes: list[tuple[float, bool]] = []  # score, right

    def add(self, labels: Boxes3D, tracks: NDArray[np.int64], placed: Boxes3D) -> None:
        """One frame. labels: of all objects; tracks: of those that the image shows."""
        assert labels.track_ids is not None
        shown = np.isin(labels.track_ids, tracks)
        groups = [_GROUP.get(CLASS_NAMES[k], "") for k in labels.labels]
        distances = np.hypot(labels.boxes[:, 0], labels.boxes[:, 1])
        free = np.array([bool(g) for g in groups], np.bool_)
        found = np.zeros(len(labels), np.bool_)
        for i in range(len(placed)):
            group = _GROUP[CLASS_NAMES[placed.labels[i]]]
            away = np.hypot(*(labels.boxes[:, :2] - placed.boxes[i, :2]).T)
            fits = free & (away <= WITHIN) & np.array([g == group for g in groups], np.bool_)
            right = bool(fits.any())
            if right:
                best = np.where(fits, away, np.inf).argmin()
                free[best], found[best] = False, True
            if np.hypot(*placed.boxes[i, :2]) <= BANDS[-1][1]:
                self._boxes.append((float(placed.scores[i]), right))
        for k in np.flatnonzero(shown & (distances <= BANDS[-1][1])):
            if groups[k]:
                self._objects.append((groups[k], float(distances[k]), bool(found[k])))

    def summary(self) -> dict[str, Any]:
        """Recall by class and distance; of the boxes the share that is right, and their mean score."""
        result: dict[str, Any] = {"all": _recall([f for *_, f in self._objects])}
        for name in sorted({g for g, *_ in self._objects}):
            result[name] = _recall([f for g, _, f in self._objects if g == name])
        for low, high in BANDS:
            inside = [f for _, d, f in self._objects if low <= d < high]
            result[f"{low:.0f}-{high:.0f} m"] = _recall(inside)
        right = [r for _, r in self._boxes]
        result["boxes"] = {
            "count": len(right),
            "right": float(np.mean(right)) if right else float("nan"),
            "mean_score": float(np.mean([s for s, _ in self._boxes])) if right else float("nan"),
        }
        return result


def _recall(found: list[bool]) -> dict[str, float]:
    return {"labels": len(found), "found": float(np.mean(found)) if found else float("nan")}


# The detector's class by the package's.
_GROUP = {prior.label: name for name, prior in PRIORS.items()}
_GROUP |= dict.fromkeys(("van", "truck", "bus"), "vehicle")
