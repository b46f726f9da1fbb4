"""Fits the temperatures of a segmentation network or an image detector and writes them into its card.

The drives have seeds that the network was not trained on. Half of the drives are used to check whether
the temperature of a class is an improvement (see temperature_scaling).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
from multimodal_perception.detection.images.score_thresholds import DEFAULT_MIN_SCORE
from multimodal_perception.detection.images.score_thresholds import KEY as MIN_SCORES
from multimodal_perception.evaluation.average_precision import CocoAveragePrecision, ImageDetections
from multimodal_perception.evaluation.image_detection_drives import MIN_SCORE, image_truth
from multimodal_perception.evaluation.segmentation_drives import (
    CONDITIONS,
    camera_thermal_rig,
    select_images,
    simulate_observations,
)
from multimodal_perception.images.rgb_thermal_inputs import RgbThermalSegmenterConfig
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard, load_card, write_card
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.runtime.temperatures import SETTING, scaled_scores
from multimodal_perception.segmentation.classes import IGNORED, labels_from_semantics
from multimodal_perception.segmentation.confidence import sampled_logits
from multimodal_perception.segmentation.rgb_thermal import RgbThermalSegmenter
from multimodal_perception.simulation.simulation import Observation
from multimodal_perception.training.recipe.steps import write_atomically
from multimodal_perception.training.temperature_scaling import (
    fit_score_temperatures,
    fit_softmax_temperatures,
)

# Every PIXEL_STEP-th pixel of each row and column is used for the fit.
PIXEL_STEP = 12
IMAGES = ("both", "visible", "thermal")
Progress = Callable[[int], Any]


def calibrate_model(
    folder: Path, rig: Rig, seeds: Sequence[int], frames: int, progress: Progress, result: Path
) -> ModelCard:
    """Fit the temperatures of the model in a folder and write its card and `result` (JSON).

    frames: of each drive and condition. Temperatures that the card already has are not used. Raises
    UserError for a model of another kind.
    """
    card = load_card(folder)
    settings = {key: value for key, value in card.settings.items() if key != SETTING}
    card = dataclasses.replace(card, settings=settings)
    functions = {
        "rgb_thermal_segmentation": _segmentation_temperatures,
        "rgb_thermal_detection": _detector_temperatures,
    }
    if card.architecture not in functions:
        raise UserError(
            f"{card.source}: confidences can be calibrated for {', '.join(functions)}; "
            f"got {card.architecture}"
        )
    observations = _observations(rig, seeds, frames, progress)
    fitted = functions[card.architecture](card, rig, observations)
    temperatures = {n: round(float(t), 4) for n, t in zip(card.classes, fitted, strict=True)}
    used = {name: t for name, t in temperatures.items() if t != 1.0}
    if used:
        settings[SETTING] = used
        if card.architecture == "rgb_thermal_detection":
            old = dict.fromkeys(used, DEFAULT_MIN_SCORE) | settings.get(MIN_SCORES, {})
            settings[MIN_SCORES] = _scaled_thresholds(old, used)
    card = write_card(folder, dataclasses.replace(card, settings=settings))
    content = {"seeds": list(seeds), "frames": frames, "temperatures": temperatures}
    write_atomically(result, json.dumps(content, indent=1))
    return card


def _observations(
    rig: Rig, seeds: Sequence[int], frames: int, progress: Progress
) -> Iterator[tuple[int, Observation]]:
    """The number of the drive and the observation, for each frame."""
    with progress(len(seeds) * len(CONDITIONS) * frames) as bar:
        for number, seed in enumerate(seeds):
            for _, observation in simulate_observations(camera_thermal_rig(rig), [seed], frames):
                yield number, observation
                bar.update()


def _segmentation_temperatures(
    card: ModelCard, rig: Rig, observations: Iterator[tuple[int, Observation]]
) -> NDArray[np.float64]:
    segmenter = RgbThermalSegmenter(RgbThermalSegmenterConfig(), RuntimeConfig(), card=card)
    logits, truths, groups = [], [], []
    for number, observation in observations:
        camera = next(iter(observation.frame.cameras))
        truth = labels_from_semantics(observation.truth.views[camera].semantics)
        truth = truth[::PIXEL_STEP, ::PIXEL_STEP].ravel()
        known = truth != IGNORED
        for images in IMAGES:
            mask = segmenter.segment_view_mask(select_images(observation.frame, images), camera)
            sampled = None if mask is None else sampled_logits(mask, PIXEL_STEP)
            if sampled is not None:
                logits.append(sampled.reshape(-1, len(card.classes))[known])
                truths.append(truth[known])
                groups.append(np.full(int(known.sum()), number))
    if not logits:
        raise UserError(f"{card.source}: the network has no output on any of the drives")
    return fit_softmax_temperatures(*map(np.concatenate, (logits, truths, groups)))


def _detector_temperatures(
    card: ModelCard, rig: Rig, observations: Iterator[tuple[int, Observation]]
) -> NDArray[np.float64]:
    detector = RgbThermalDetector(
        ImageDetectorConfig(min_score=MIN_SCORE), RuntimeConfig(), card=card
    )
    columns: list[tuple[NDArray[Any], ...]] = []
    for number, observation in observations:
        camera = next(iter(observation.frame.cameras))
        truth, _ = image_truth(observation.truth.views[camera], card.classes)
        for images in ("both", "visible"):
            found = detector.detect_view(select_images(observation.frame, images), camera)
            if found is None:
                continue
            matched = CocoAveragePrecision(card.classes)
            matched.add(truth, ImageDetections(found.boxes, found.scores, found.labels))
            for k in range(len(card.classes)):
                scores, right, _ = matched.matches(k)
                size = len(scores)
                columns.append((scores, np.full(size, k), right, np.full(size, number)))
    if not columns:
        raise UserError(f"{card.source}: the network has no output on any of the drives")
    scores, labels, right, group = (np.concatenate(c) for c in zip(*columns, strict=True))
    return fit_score_temperatures(scores, labels, right, len(card.classes), group)


def _scaled_thresholds(
    thresholds: dict[str, float], temperatures: dict[str, float]
) -> dict[str, float]:
    """The score thresholds of a card after temperature scaling, which select the same boxes."""
    return {
        name: round(
            float(
                scaled_scores(
                    np.array([value]), np.array([0]), np.array([temperatures.get(name, 1.0)])
                )[0]
            ),
            4,
        )
        for name, value in thresholds.items()
    }
