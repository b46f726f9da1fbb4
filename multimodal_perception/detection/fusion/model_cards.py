"""Model cards of the fusion detector: which networks belong together, and their sizes."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError, build
from multimodal_perception.detection.fusion.network_config import IMAGE_KINDS, DetectorConfig
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.runtime.card import ModelCard, load_card

IMAGE, PROPOSALS, REFINEMENT = "detector_image", "detector_proposals", "detector_refinement"


def network_of(card: ModelCard, architecture: str) -> DetectorConfig:
    """Sizes of a card's network. Raises UserError for a card of another architecture."""
    if card.architecture != architecture:
        raise UserError(
            f"{card.source}: architecture: {card.architecture!r}; here {architecture!r} is needed"
        )
    return build(DetectorConfig, card.settings.get("network", {}), card.source, "settings.network")


def _refinement_of(card: ModelCard, named: str) -> ModelCard | None:
    """The card of the refinement that FusionConfig.refinement means."""
    if named == "none":
        return None
    if named != "card":
        return load_card(named)
    beside = str(card.settings.get("refinement", ""))
    if not beside:
        return None
    return card.beside(beside)


def _images_of(card: ModelCard, network: DetectorConfig) -> dict[str, ModelCard]:
    """The cards of the image networks that a proposal network needs, by kind. Raises UserError."""
    if not network.global_fusion:
        return {}
    named = card.named("images")
    if sorted(named) != sorted(IMAGE_KINDS):
        raise UserError(f"{card.source}: settings.images: needed: {', '.join(IMAGE_KINDS)}")
    cards = {kind: card.beside(name) for kind, name in named.items()}
    for kind, its in cards.items():
        if network_of(its, IMAGE) != network or its.settings.get("image") != kind:
            raise UserError(f"{its.source}: settings: not those of {card.source}")
    return cards


def _blind_of(card: ModelCard, network: DetectorConfig) -> ModelCard | None:
    """The card of the proposal network for frames without LiDAR points, if a card names one."""
    name = str(card.settings.get("blind", ""))
    if not name:
        return None
    blind = card.beside(name)
    if network_of(blind, PROPOSALS) != network or blind.classes != card.classes:
        raise UserError(f"{blind.source}: settings, classes: not those of {card.source}")
    return blind


def _joined(
    first: DetectorConfig, second: DetectorConfig, its: ModelCard, card: ModelCard
) -> DetectorConfig:
    """The sizes of both networks, the refinement's own switches from it."""
    own = ("refined", "roi_channels", "samples", "local_fusion", "dynamic_aggregation")
    joined = dataclasses.replace(first, **{name: getattr(second, name) for name in own})
    if joined != second:
        raise UserError(f"{its.source}: settings: not those of {card.source}")
    return joined


def _labels_of(card: ModelCard) -> NDArray[np.int64]:
    unknown = set(card.classes) - set(CLASS_NAMES)
    if unknown or not card.classes:
        raise UserError(f"{card.source}: classes: allowed: {', '.join(CLASS_NAMES)}")
    return np.array([CLASS_NAMES.index(c) for c in card.classes], np.int64)
