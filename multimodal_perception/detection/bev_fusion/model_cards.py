"""Model cards of the BEV fusion detector: which networks belong together, and whether they fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError, build
from multimodal_perception.detection.bev_fusion.network_config import (
    CLASSES,
    IMAGE_MODALITIES,
    RAY_CHANNELS,
    BevFusionNetworkConfig,
    stage1_inputs,
)
from multimodal_perception.detection.bev_fusion.network_inputs import stage2_inputs
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.runtime.card import ModelCard, load_card

STAGE1, IMAGE, REFINEMENT = "bev_fusion", "bev_fusion_image", "bev_fusion_refinement"
# Settings of the image networks' outputs, which must be those of the networks that use them.
IMAGE_SETTINGS = (
    "camera_size", "thermal_size", "channels", "range_bins", "min_range", "max_range",
)  # fmt: skip
# Settings that only concern the refinement network; its card may differ from the detector's in them.
REFINEMENT_SETTINGS = (
    "refined_proposals", "roi_channels", "local_fusion", "dynamic_aggregation",
)  # fmt: skip
# Settings of the training alone.
TRAINING_SETTINGS = ("segment_classes",)


@dataclasses.dataclass(frozen=True)
class DetectorCards:
    """The cards of a detector and their common configuration.

    images: by modality; empty if the networks use no images. refinement: None without second stage.
    classes: (K,) index into CLASS_NAMES of each class. calibration: (K, 2), slope and offset of the
    logit of the score of each class.
    """

    stage1: ModelCard
    images: Mapping[str, ModelCard]
    refinement: ModelCard | None
    network: BevFusionNetworkConfig
    classes: NDArray[np.int64]
    calibration: NDArray[np.float64]


def read_detector_cards(model: str, refinement: str = "card") -> DetectorCards:
    """Read and check the cards of a detector.

    model: name or path of the first stage's card. refinement: see FusionConfig.refinement. Raises
    UserError that names the card and the key for cards that are missing or do not fit.
    """
    card = load_card(model)
    _check_architecture(card, STAGE1)
    network = read_network_config(card)
    _check_tensors(card, stage1_inputs(network), "inputs")
    if card.classes != CLASSES:
        raise UserError(f"{card.source}: classes: must be {', '.join(CLASSES)}, in this order")
    images = _image_cards(card, network)
    second = find_refinement_card(card, refinement)
    if second is not None:
        network = _merge_refinement(card, second, network)
    return DetectorCards(
        card, images, second, network, class_indices(card), score_calibration(card)
    )


def read_network_config(card: ModelCard) -> BevFusionNetworkConfig:
    """Configuration of a card's network. Raises UserError."""
    settings = card.settings.get("network", {})
    return build(BevFusionNetworkConfig, settings, card.source, "settings.network")


def score_calibration(card: ModelCard) -> NDArray[np.float64]:
    """Slope and offset (K, 2) of the logit of each class's score, from settings.score_calibration.

    Platt scaling (Platt 1999; with offset 0, temperature scaling of Guo et al. 2017): the calibrated
    score is sigmoid(slope * logit(score) + offset). Classes that the card does not list have slope 1 and
    offset 0. Raises UserError.
    """
    values = card.settings.get("score_calibration", {})
    key = f"{card.source}: settings.score_calibration"
    if not isinstance(values, Mapping):
        raise UserError(f"{key}: expected a mapping from class to [slope, offset]")
    result = np.tile([1.0, 0.0], (len(card.classes), 1))
    for name, pair in values.items():
        if name not in card.classes:
            raise UserError(f"{key}: {name!r}: allowed: {', '.join(card.classes)}")
        try:
            row = np.array(pair, np.float64)
        except (TypeError, ValueError):
            row = np.zeros(0)
        if row.shape != (2,) or not np.isfinite(row).all() or row[0] <= 0:
            raise UserError(f"{key}.{name}: expected [slope, offset] with a positive slope")
        result[card.classes.index(name)] = row
    return result


def _image_cards(card: ModelCard, network: BevFusionNetworkConfig) -> dict[str, ModelCard]:
    """Cards of the image networks by modality; a detector may have none or only one of them."""
    names = card.linked_models("images")
    unknown = sorted(set(names) - set(IMAGE_MODALITIES))
    if unknown:
        raise UserError(
            f"{card.source}: settings.images: {unknown[0]!r}: allowed: {', '.join(IMAGE_MODALITIES)}"
        )
    cards = {}
    for modality, name in names.items():
        image = card.sibling_card(name)
        _check_architecture(image, IMAGE)
        if image.settings.get("image") != modality:
            raise UserError(
                f"{image.source}: settings.image: {image.settings.get('image')!r}; "
                f"{card.source} expects {modality!r}"
            )
        _check_same(image, read_network_config(image), card, network, IMAGE_SETTINGS)
        height, width = network.image_size(modality)
        channels = (3,) if modality == "camera" else ()
        shapes = {
            "pixels": ((1, height, width, *channels), "uint8"),
            "ray_features": ((1, RAY_CHANNELS, height // 8, width // 8), "float32"),
        }
        _check_tensors(image, shapes, "inputs")
        shapes = {
            "features": ((1, height // 4, width // 4, network.channels), "float32"),
            "ranges": ((1, height // 8, width // 8, network.range_bins), "float32"),
        }
        _check_tensors(image, shapes, "outputs")
        cards[modality] = image
    return cards


def _merge_refinement(
    card: ModelCard, second: ModelCard, network: BevFusionNetworkConfig
) -> BevFusionNetworkConfig:
    """The detector's configuration with the refinement network's own settings."""
    _check_architecture(second, REFINEMENT)
    other = read_network_config(second)
    ignored = (*REFINEMENT_SETTINGS, *TRAINING_SETTINGS)
    names = [f.name for f in dataclasses.fields(network) if f.name not in ignored]
    _check_same(second, other, card, network, names)
    if second.classes != card.classes:
        raise UserError(f"{second.source}: classes: differ from those of {card.source}")
    own = {name: getattr(other, name) for name in REFINEMENT_SETTINGS}
    merged = dataclasses.replace(network, **own)
    _check_tensors(second, stage2_inputs(merged, len(card.classes)), "inputs")
    return merged


def _check_architecture(card: ModelCard, architecture: str) -> None:
    if card.architecture != architecture:
        raise UserError(
            f"{card.source}: architecture: {card.architecture!r}; expected {architecture!r}"
        )


def _check_same(
    card: ModelCard,
    network: BevFusionNetworkConfig,
    other_card: ModelCard,
    other: BevFusionNetworkConfig,
    names: tuple[str, ...] | list[str],
) -> None:
    for name in names:
        value, expected = getattr(network, name), getattr(other, name)
        if value != expected:
            raise UserError(
                f"{card.source}: settings.network.{name}: {value}, but {expected} in "
                f"{other_card.source}"
            )


def _check_tensors(
    card: ModelCard, expected: Mapping[str, tuple[tuple[int, ...], str]], kind: str
) -> None:
    """Check names, shapes and types of a card's inputs or outputs against its settings."""
    tensors = card.inputs if kind == "inputs" else card.outputs
    if set(tensors) != set(expected):
        raise UserError(
            f"{card.source}: {kind}: {', '.join(tensors)}; settings.network needs "
            f"{', '.join(expected)}"
        )
    for name, (shape, dtype) in expected.items():
        spec = tensors[name]
        if (spec.shape, spec.dtype) != (shape, dtype):
            raise UserError(
                f"{card.source}: {kind}.{name}: {list(spec.shape)} {spec.dtype}; settings.network "
                f"needs {list(shape)} {dtype}"
            )


def find_refinement_card(card: ModelCard, refinement: str) -> ModelCard | None:
    """Card of the refinement network, see FusionConfig.refinement; None without refinement."""
    if refinement == "none":
        return None
    if refinement != "card":
        return load_card(refinement)
    name = str(card.settings.get("refinement", ""))
    return card.sibling_card(name) if name else None


def class_indices(card: ModelCard) -> NDArray[np.int64]:
    """Index into CLASS_NAMES of each of a card's classes. Raises UserError for unknown classes."""
    unknown = set(card.classes) - set(CLASS_NAMES)
    if unknown or not card.classes:
        raise UserError(
            f"{card.source}: classes: must name at least one of {', '.join(CLASS_NAMES)}"
        )
    return np.array([CLASS_NAMES.index(name) for name in card.classes], np.int64)
