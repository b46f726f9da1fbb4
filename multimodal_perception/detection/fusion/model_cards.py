"""Model cards of the fusion detector: which networks belong together, and whether they fit."""

from __future__ import annotations

import dataclasses

from multimodal_perception.configuration import UserError, build
from multimodal_perception.detection.fusion.network_config import IMAGE_MODALITIES, DetectorConfig
from multimodal_perception.runtime.card import ModelCard

IMAGE, PROPOSALS, REFINEMENT = "detector_image", "detector_proposals", "detector_refinement"
# Settings that only concern the refinement network; its card may differ from the detector's in them.
REFINEMENT_SETTINGS = (
    "refined_proposals",
    "roi_channels",
    "sampling_points",
    "local_fusion",
    "dynamic_aggregation",
)


def read_network_config(card: ModelCard, architecture: str) -> DetectorConfig:
    """Configuration of a card's network. Raises UserError for a card of another architecture."""
    if card.architecture != architecture:
        raise UserError(
            f"{card.source}: architecture: {card.architecture!r}; expected {architecture!r}"
        )
    return build(DetectorConfig, card.settings.get("network", {}), card.source, "settings.network")


def find_image_cards(card: ModelCard, network: DetectorConfig) -> dict[str, ModelCard]:
    """Cards of the image networks that a proposal network needs, by modality.

    Raises UserError where a card is missing or has other settings than the proposal network's.
    """
    if not network.global_fusion:
        return {}
    names = card.linked_models("images")
    if sorted(names) != sorted(IMAGE_MODALITIES):
        raise UserError(
            f"{card.source}: settings.images: must name a model for each of "
            f"{', '.join(IMAGE_MODALITIES)}"
        )
    cards = {modality: card.sibling_card(name) for modality, name in names.items()}
    for modality, image_card in cards.items():
        if read_network_config(image_card, IMAGE) != network:
            raise UserError(
                f"{image_card.source}: settings.network: differs from that of {card.source}"
            )
        if image_card.settings.get("image") != modality:
            raise UserError(
                f"{image_card.source}: settings.image: {image_card.settings.get('image')!r}; "
                f"{card.source} expects {modality!r}"
            )
    return cards


def find_without_lidar_card(card: ModelCard, network: DetectorConfig) -> ModelCard | None:
    """Card of the proposal network for frames without LiDAR points; None if there is none.

    Raises UserError where it has other settings or classes than the proposal network.
    """
    name = str(card.settings.get("without_lidar", ""))
    if not name:
        return None
    other = card.sibling_card(name)
    if read_network_config(other, PROPOSALS) != network or other.classes != card.classes:
        raise UserError(
            f"{other.source}: settings.network or classes: differ from those of {card.source}"
        )
    return other


def merge_network_configs(
    detector: DetectorConfig,
    refinement: DetectorConfig,
    refinement_card: ModelCard,
    card: ModelCard,
) -> DetectorConfig:
    """The detector's configuration with the refinement network's own settings.

    Raises UserError where the two cards contradict each other in other settings or in their classes.
    """
    own = {name: getattr(refinement, name) for name in REFINEMENT_SETTINGS}
    merged = dataclasses.replace(detector, **own)
    if merged != refinement or refinement_card.classes != card.classes:
        raise UserError(
            f"{refinement_card.source}: settings.network or classes: differ from those of "
            f"{card.source}"
        )
    return merged
