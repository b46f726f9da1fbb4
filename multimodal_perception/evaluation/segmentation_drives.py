"""Segmentation scored on simulated drives: each network with the images that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.segmentation import Confusion
from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.images.rgb_thermal_inputs import RgbxConfig
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.classes import labels_from_semantics
from multimodal_perception.segmentation.rgb_thermal import RgbxSegmenter
from multimodal_perception.simulation.simulation import Observation, Simulation

CONDITIONS: dict[str, tuple[str, ...]] = {
    "day": (),
    "night": ("night",),
    "unlit": ("night", "unlit"),
    "fog": ("fog=60",),
}
SCENARIOS = ("urban_street", "intersection", "parking_lot", "highway", "warehouse")
FRAMES_BETWEEN = 20
FIRST_FRAME = 5
# Which images a network of one stream takes.
ALONE = {"visible": ("visible",), "other": ("thermal",)}


def score_drives(
    cards: Sequence[ModelCard],
    rig: Rig,
    seeds: Sequence[int],
    frames: int,
    progress: Callable[[int], Any],
) -> dict[str, Any]:
    """Scores by network and images ("cmx, both"; the card's path for another cmx) and condition.

    All are scored in the first camera's view, whole, also where the thermal camera does not see it.
    Raises UserError for a rig without a camera and a thermal camera, or a card that does not fit.
    """
    rig = cut_rig(rig)
    camera = next(iter(rig.of(Modality.CAMERA)))
    rows: dict[str, tuple[RgbxSegmenter, str]] = {}
    for card in cards:
        segmenter = RgbxSegmenter(RgbxConfig(), RuntimeConfig(), card=card)
        fusion = str(card.settings.get("fusion", "cmx"))
        kinds = ALONE.get(fusion, ("both", "visible", "thermal"))
        name = fusion if f"{fusion}, {kinds[0]}" not in rows else card.source
        rows |= {f"{name}, {images}": (segmenter, images) for images in kinds}
    classes = cards[0].classes
    scores = {row: {c: Confusion(classes) for c in CONDITIONS} for row in rows}
    with progress(len(seeds) * len(CONDITIONS) * frames) as bar:
        for condition, seen in observed(rig, seeds, frames):
            truth = labels_from_semantics(seen.truth.views[camera].semantics)
            for row, (segmenter, images) in rows.items():
                labels = segmenter.segment_view(with_images(seen.frame, images), camera)
                if labels is None:  # nothing was seen: all of it is wrong
                    labels = np.full_like(truth, len(classes) - 1)
                scores[row][condition].add(truth, labels)
            bar.update()
    return {
        "frames": len(seeds) * len(CONDITIONS) * frames,
        "conditions": {name: list(words) for name, words in CONDITIONS.items()},
        "rows": {row: {c: s.summary() for c, s in by.items()} for row, by in scores.items()},
    }


def cut_rig(rig: Rig) -> Rig:
    """The rig with its first camera and first thermal camera alone: all else costs time."""
    kept = {}
    for modality in (Modality.CAMERA, Modality.THERMAL):
        sensors = rig.of(modality)
        if not sensors:
            raise UserError(f"rig {rig.name}: segmentation needs a sensor of kind {modality.value}")
        name = next(iter(sensors))
        kept[name] = sensors[name]
    return replace(rig, sensors=kept)


def observed(rig: Rig, seeds: Sequence[int], frames: int) -> Iterator[tuple[str, Observation]]:
    """Condition and what is seen, of `frames` frames of each seed's drive by each condition."""
    count = FIRST_FRAME + frames * FRAMES_BETWEEN
    for seed in seeds:
        scenario = SCENARIOS[seed % len(SCENARIOS)]
        for condition, words in CONDITIONS.items():
            simulation = Simulation(scenario, rig, seed, count, words)
            for i in range(frames):
                yield condition, simulation.observe(FIRST_FRAME + i * FRAMES_BETWEEN)


def with_images(frame: SensorFrame, images: str) -> SensorFrame:
    """The frame with both, visible or thermal images alone."""
    if images == "visible":
        return replace(frame, thermals={})
    return replace(frame, cameras={}) if images == "thermal" else frame
