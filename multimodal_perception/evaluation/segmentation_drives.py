"""Evaluation of segmentation networks on simulated drives, with each set of their input images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.confidence import ConfidenceScore
from multimodal_perception.evaluation.segmentation import ConfusionMatrix, add_confidence
from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.images.rgb_thermal_inputs import RgbThermalSegmenterConfig
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.classes import labels_from_semantics
from multimodal_perception.segmentation.monte_carlo import monte_carlo_engine
from multimodal_perception.segmentation.rgb_thermal import RgbThermalSegmenter
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.simulation import Observation, Simulation

CONDITIONS: dict[str, tuple[str, ...]] = {
    "day": (),
    "night": ("night",),
    "unlit": ("night", "unlit"),
    "fog": ("fog=60",),
}
SCENARIOS = ("urban_street", "intersection", "parking_lot", "highway", "warehouse")
FRAME_INTERVAL = 20
FIRST_FRAME = 5
# Input images of networks with a single stream, by the card setting `fusion`.
SINGLE_STREAM_INPUTS = {"visible": ("visible",), "thermal": ("thermal",)}


@dataclass(frozen=True)
class Averaging:
    """A way to average probabilities: Monte Carlo dropout, mirrored images, or further networks.

    passes, dropout: of Monte Carlo dropout, see monte_carlo_engine; without it 0 passes. mirrored,
    ensemble: see RgbThermalSegmenterConfig.
    """

    passes: int = 0
    dropout: float = 0.0
    mirrored: bool = False
    ensemble: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name in rows; empty without averaging."""
        words = [f"dropout {self.dropout:g} x {self.passes}" if self.passes else ""]
        words += ["mirrored" if self.mirrored else ""]
        words += [f"ensemble of {1 + len(self.ensemble)}" if self.ensemble else ""]
        return ", ".join(w for w in words if w)

    def open_segmenter(self, card: ModelCard) -> RgbThermalSegmenter:
        """The segmenter of a card. Raises UserError."""
        config = RgbThermalSegmenterConfig(mirrored=self.mirrored, ensemble=self.ensemble)
        engine = monte_carlo_engine(card, self.passes, self.dropout) if self.passes else None
        return RgbThermalSegmenter(config, RuntimeConfig(), engine=engine, card=card)


def score_drives(
    cards: Sequence[ModelCard],
    rig: Rig,
    seeds: Sequence[int],
    frames: int,
    progress: Callable[[int], Any],
    profile: Profile = "basic",
    on_image: Callable[[str, str, Any, Any, Any], None] | None = None,
    averaging: Sequence[Averaging] = (),
) -> dict[str, Any]:
    """Metrics by network, input images and condition.

    averaging: adds rows of the first network, and image_ms, the mean time of an image by row. on_image:
    called with the row, the condition, the frame, and true and predicted labels (H, W).

    A row is for example "cmx, both", or the path of the card for a second network of that name. All
    pixels of the first camera's view are evaluated, including those outside the thermal camera's field
    of view. Raises UserError for a rig without a camera or a thermal camera, or an incompatible card.
    """
    rig = camera_thermal_rig(rig)
    camera = next(iter(rig.sensors_of(Modality.CAMERA)))
    rows: dict[str, tuple[RgbThermalSegmenter, str]] = {}
    variants = [(card, Averaging()) for card in cards] + [(cards[0], a) for a in averaging]
    for card, average in variants:
        segmenter = average.open_segmenter(card)
        fusion = str(card.settings.get("fusion", "cmx"))
        inputs = SINGLE_STREAM_INPUTS.get(fusion, ("both", "visible", "thermal"))
        name = fusion if f"{fusion}, {inputs[0]}" not in rows else card.source
        name = f"{fusion}, {average.title}" if average.title else name
        rows |= {f"{name}, {images}": (segmenter, images) for images in inputs}
    classes = cards[0].classes
    scores = {row: {c: ConfusionMatrix(classes) for c in CONDITIONS} for row in rows}
    seconds = dict.fromkeys(rows, 0.0)
    confidences = {row: {c: ConfidenceScore(classes) for c in CONDITIONS} for row in rows}
    with progress(len(seeds) * len(CONDITIONS) * frames) as bar:
        for condition, observation in simulate_observations(rig, seeds, frames, profile):
            truth = labels_from_semantics(observation.truth.views[camera].semantics)
            for row, (segmenter, images) in rows.items():
                part = select_images(observation.frame, images)
                start = time.perf_counter()
                mask = segmenter.segment_view_mask(part, camera)
                seconds[row] += time.perf_counter() - start
                if mask is None:  # no output counts as the last class everywhere
                    labels = np.full_like(truth, len(classes) - 1)
                else:
                    labels = mask.labels
                    add_confidence(confidences[row][condition], truth, mask)
                scores[row][condition].add(truth, labels)
                if on_image is not None:
                    on_image(row, condition, part, truth, labels)
            bar.update()
    count = len(seeds) * len(CONDITIONS) * frames
    times = {row: 1e3 * s / count for row, s in seconds.items()}
    return {
        **({"image_ms": times} if averaging else {}),
        "frames": len(seeds) * len(CONDITIONS) * frames,
        "conditions": {name: list(words) for name, words in CONDITIONS.items()},
        "rows": {
            row: {
                c: {**s.summary(), "confidence": confidences[row][c].summary()}
                for c, s in by.items()
            }
            for row, by in scores.items()
        },
    }


def camera_thermal_rig(rig: Rig) -> Rig:
    """The rig with only its first camera and first thermal camera, to save simulation time."""
    kept = {}
    for modality in (Modality.CAMERA, Modality.THERMAL):
        sensors = rig.sensors_of(modality)
        if not sensors:
            raise UserError(
                f"rig {rig.name}: the evaluation needs a sensor of modality {modality.value}"
            )
        name = next(iter(sensors))
        kept[name] = sensors[name]
    return replace(rig, sensors=kept)


def simulate_observations(
    rig: Rig, seeds: Sequence[int], frames: int, profile: Profile = "basic"
) -> Iterator[tuple[str, Observation]]:
    """Simulate `frames` frames for each seed and condition. Yields condition and observation."""
    count = FIRST_FRAME + frames * FRAME_INTERVAL
    for seed in seeds:
        scenario = SCENARIOS[seed % len(SCENARIOS)]
        for condition, words in CONDITIONS.items():
            simulation = Simulation(scenario, rig, seed, count, words, profile=profile)
            for i in range(frames):
                yield condition, simulation.observe(FIRST_FRAME + i * FRAME_INTERVAL)


def select_images(frame: SensorFrame, images: str) -> SensorFrame:
    """The frame with "both" images, or with only the "visible" or "thermal" images."""
    if images == "visible":
        return replace(frame, thermals={})
    return replace(frame, cameras={}) if images == "thermal" else frame
