"""Opinions of each sensor about the boxes of the BEV fusion detector, by a separate network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.box_evidence import GROUPS, MODALITIES, BoxEvidence
from multimodal_perception.configuration import UserError, build
from multimodal_perception.detection.bev_fusion.model_cards import DetectorCards
from multimodal_perception.detection.bev_fusion.opinion_features import (
    SLOTS,
    OpinionFeatures,
    OpinionNetworkConfig,
    Scene,
    compute_features,
    opinion_inputs,
)
from multimodal_perception.frame import Boxes3D
from multimodal_perception.opinions import Opinions, from_evidence, vacuous
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig

ARCHITECTURE = "sensor_opinions"
# Weight of the opinions of a modality that the card does not list. Dempster's rule assumes independent
# sources, but all opinions are about the same, possibly wrong box.
DEFAULT_RELIABILITY = 0.9


class BoxAssessor(Protocol):
    """Assesses boxes with the features of each sensor, such as SensorOpinions."""

    def assess(self, boxes: Boxes3D, scene: Scene) -> BoxEvidence | None:
        """Opinions about the boxes of a frame, in base_link; None if the assessor computes none.

        Raises EngineError if no engine can run the network or its outputs are not finite.
        """
        ...


class SensorOpinions:
    """Assesses boxes with the features of each sensor; see opinion_features."""

    def __init__(
        self, card: ModelCard, cards: DetectorCards, runtime: RuntimeConfig | None = None
    ) -> None:
        """card: of the network. cards: of the detector. Raises UserError for cards that do not fit."""
        self.boxes = _check_card(card, cards)
        self.reliability = _reliability(card)
        self.network: Any = open_model(card, runtime)
        self._config = cards.network

    def assess(self, boxes: Boxes3D, scene: Scene) -> BoxEvidence:
        """The opinions of all sensors of a frame about its boxes (in base_link). Raises EngineError."""
        features = compute_features(boxes.boxes, scene, self._config)
        return evidence_of(features, self._run(features), scene, self.reliability)

    def _run(self, features: OpinionFeatures) -> NDArray[np.float32]:
        """Evidence (N, len(SLOTS), K) >= 0; the network takes a fixed number of boxes.

        Raises EngineError for values that are not finite.
        """
        count = len(features.sources)
        parts = [np.zeros((0, len(SLOTS), len(GROUPS)), np.float32)]
        for first in range(0, count, self.boxes):
            inputs = {}
            for modality, values in features.values.items():
                part = values[first : first + self.boxes]
                padded = np.zeros((1, self.boxes, *part.shape[1:]), np.float32)
                padded[0, : len(part)] = part
                inputs[modality] = padded
            outputs = self.network.run({name: inputs[name] for name in self.network.inputs})
            parts.append(outputs["evidence"][0, : count - first])
        evidence = np.concatenate(parts)
        if not np.isfinite(evidence).all():
            raise EngineError("the network of the opinions has outputs that are not finite")
        # The softplus of an inference engine can be negative by its rounding.
        return np.maximum(evidence, 0.0)


def open_opinions(
    name: str, cards: DetectorCards, runtime: RuntimeConfig | None = None
) -> SensorOpinions | None:
    """The network of FusionConfig.opinions for a detector; None without one. Raises UserError."""
    if name == "none":
        return None
    if name != "card":
        return SensorOpinions(load_card(name), cards, runtime)
    linked = str(cards.stage1.settings.get("opinions", ""))
    return SensorOpinions(cards.stage1.sibling_card(linked), cards, runtime) if linked else None


def evidence_of(
    features: OpinionFeatures,
    evidence: NDArray[np.floating],
    scene: Scene,
    reliability: Mapping[str, float],
) -> BoxEvidence:
    """Opinions by source from the network's evidence (N, len(SLOTS), K).

    Sources without a reading in the frame have no opinion; sources that do not observe a box have a
    vacuous one. reliability: by modality.
    """
    modalities = {name: image.modality for name, image in scene.images.items()}
    modalities |= {"lidar": "lidar"} if scene.frame.lidars else {}
    modalities |= {"ultrasonic": "ultrasonic"} if scene.frame.ultrasonics else {}
    opinions = {}
    for number, name in enumerate(features.names):
        if name in modalities:
            opinions[name] = _source_opinions(features.sources == number, evidence)
    ordered = sorted(opinions, key=lambda n: MODALITIES.index(modalities[n]))
    return BoxEvidence.combined(
        {name: opinions[name] for name in ordered},
        modalities,
        {name: reliability[modalities[name]] for name in ordered},
        len(features.sources),
    )


def _source_opinions(slots: NDArray[np.bool_], evidence: NDArray[np.floating]) -> Opinions:
    """Opinions of a source. slots: (N, len(SLOTS)), slots of the source; at most one for each box."""
    rows = slots.any(axis=1)
    given = from_evidence(evidence[rows, slots.argmax(axis=1)[rows]])
    empty = vacuous(len(slots), len(GROUPS))
    belief, uncertainty = empty.belief.copy(), empty.uncertainty.copy()
    belief[rows], uncertainty[rows] = given.belief, given.uncertainty
    return Opinions(belief, uncertainty)


def image_network_hashes(cards: DetectorCards) -> dict[str, list[str]]:
    """SHA-256 of the files of a detector's image networks by modality."""
    return {
        modality: [file.sha256 for file in (card.weights, card.onnx) if file is not None]
        for modality, card in cards.images.items()
    }


def _check_card(card: ModelCard, cards: DetectorCards) -> int:
    """Number of boxes that the network takes. Raises UserError."""
    if card.architecture != ARCHITECTURE:
        raise UserError(
            f"{card.source}: architecture: {card.architecture!r}; expected {ARCHITECTURE!r}"
        )
    if card.classes != GROUPS:
        raise UserError(f"{card.source}: classes: must be {', '.join(GROUPS)}, in this order")
    settings = card.settings.get("network", {})
    network = build(OpinionNetworkConfig, settings, card.source, "settings.network")
    if network.image_channels != cards.network.channels:
        raise UserError(
            f"{card.source}: settings.network.image_channels: {network.image_channels}, but the image "
            f"networks of {cards.stage1.source} have {cards.network.channels}"
        )
    shape = card.inputs["lidar"].shape if "lidar" in card.inputs else ()
    boxes = shape[1] if len(shape) == 4 else 1
    expected = opinion_inputs(network, boxes)
    if {n: t.shape for n, t in card.inputs.items()} != expected:
        wanted = ", ".join(f"{n} {list(s)}" for n, s in expected.items())
        raise UserError(f"{card.source}: inputs: settings.network needs {wanted}")
    output = card.outputs.get("evidence")
    if output is None or output.shape != (1, boxes, len(SLOTS), len(GROUPS)):
        shape = (1, boxes, len(SLOTS), len(GROUPS))
        raise UserError(f"{card.source}: outputs: expected evidence {list(shape)}")
    trained = card.settings.get("image_networks", {})
    if not isinstance(trained, Mapping):
        raise UserError(f"{card.source}: settings.image_networks: expected hashes by modality")
    for modality, hashes in image_network_hashes(cards).items():
        if not set(hashes) & set(trained.get(modality, ())):
            raise UserError(
                f"{card.source}: settings.image_networks.{modality}: was trained with another network "
                f"than {cards.images[modality].source}; train it again with "
                "`multimodal-perception train recipe sensor_opinions`"
            )
    return boxes


def _reliability(card: ModelCard) -> dict[str, float]:
    """Weight of each modality's opinions, from settings.reliability. Raises UserError."""
    values = card.settings.get("reliability", {})
    key = f"{card.source}: settings.reliability"
    if not isinstance(values, Mapping):
        raise UserError(f"{key}: expected a mapping from modality to a number from 0 to 1")
    result = dict.fromkeys(MODALITIES, DEFAULT_RELIABILITY)
    for modality, value in values.items():
        if modality not in MODALITIES:
            raise UserError(f"{key}: {modality!r}: allowed: {', '.join(MODALITIES)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise UserError(f"{key}.{modality}: expected a number from 0 to 1; got {value!r}")
        result[modality] = float(value)
    return result
