"""Export of a trained detector to model folders: ONNX with static shapes, weights and card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.pillars import (
    HEIGHT_BIN,
    HEIGHT_BINS,
    MIN_HEIGHT,
    PILLAR_CHANNELS,
)
from multimodal_perception.detection.bev_fusion.roi_features import (
    GRID,
    PROFILE_FEATURES,
)
from multimodal_perception.detection.fusion.image_projection import RAY_SAMPLES
from multimodal_perception.detection.fusion.network_config import (
    CLASSES,
    IMAGE_MODALITIES,
    DetectorConfig,
)
from multimodal_perception.detection.fusion.network_inputs import FEATURE_STRIDE
from multimodal_perception.networks.dynamic_aggregation import (
    GRID_POINT_FEATURES,
    GRID_POINTS,
)
from multimodal_perception.networks.fusion_detector import (
    ProposalNetwork,
    RefinementNetwork,
    build_image,
)
from multimodal_perception.networks.fusion_image_network import ImageNetwork
from multimodal_perception.networks.refinement_head import PROPOSAL_FEATURES
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training
from multimodal_perception.training.checkpoint import load_weights
from multimodal_perception.training.model_export import (
    tensor_spec,
    write_model,
)

LICENCE = "Apache-2.0"
PROPOSAL_OUTPUTS = ("scores", "labels", "boxes", "bev_features")
PROPOSAL_TASK = (
    "Proposes 3D boxes from LiDAR, camera, thermal and ultrasonic data (first stage of the fusion "
    "detector)."
)
LIDAR_ONLY_TASK = "Proposes 3D boxes from LiDAR data only, as a baseline of the fusion detector."
# Tasks of the other parts of a detector, by the ending of the folder's name.
PART_TASKS = {
    "camera": "Computes the feature map of a camera image for the fusion detector.",
    "thermal": "Computes the feature map of a thermal image for the fusion detector.",
    "without_lidar": "Proposes 3D boxes in frames without LiDAR data (first stage of the fusion "
    "detector).",
    "refinement": "Refines the boxes and class confidences of the fusion detector's proposals (second "
    "stage).",
}


def export_detector(
    config: DetectorConfig,
    proposals: Path,
    refinement: Path | None,
    out: Path,
    training: Training | None,
    figures: Mapping[str, Any] | None = None,
    without_lidar: Path | None = None,
) -> list[ModelCard]:
    """Write the model folders of a trained detector and return their cards, that of `out` first.

    out: folder of the proposal network. Beside it are written, where they exist, <out>_camera and
    <out>_thermal (image networks), <out>_without_lidar and <out>_refinement. proposals, refinement,
    without_lidar: weights (.safetensors) that the training wrote; without_lidar is a second proposal
    network for frames without LiDAR. Raises UserError when it has other image networks than the first
    one.
    """
    network = ProposalNetwork(config, pretrained=False)
    load_weights(network, proposals)
    proposal_network, image_networks = split_image_networks(network)
    folders = {name: out.with_name(f"{out.name}_{name}") for name in image_networks}
    settings: dict[str, Any] = {"network": _plain(config)}
    if folders:
        settings["images"] = {name: folder.name for name, folder in folders.items()}
    for name, weights in (("without_lidar", without_lidar), ("refinement", refinement)):
        if weights is not None:
            folders[name] = out.with_name(f"{out.name}_{name}")
            settings[name] = folders[name].name
    card = _proposal_card(config, out.name, settings, training, figures)
    examples = proposal_examples(config)
    cards = [write_model(out, card, proposal_network, examples, PROPOSAL_OUTPUTS)]
    if without_lidar is not None:
        second = _load_second_network(config, without_lidar, proposals, image_networks)
        cards.append(
            _write_part(
                "without_lidar", folders["without_lidar"], card, second, examples, PROPOSAL_OUTPUTS
            )
        )
    for name, part in image_networks.items():
        values = {
            "architecture": "detector_image",
            "settings": {"network": _plain(config), "image": name},
            "range": (),
            "classes": (),
        }
        inputs = image_examples(config, name)
        cards.append(_write_part(name, folders[name], card, part, inputs, ("features",), **values))
    if refinement is not None:
        refinement_network = RefinementNetwork(config).eval()
        load_weights(refinement_network, refinement)
        cards.append(
            _write_part(
                "refinement",
                folders["refinement"],
                card,
                refinement_network,
                refinement_examples(config),
                ("confidences", "refined_boxes"),
                architecture="detector_refinement",
            )
        )
    return cards


def _load_second_network(
    config: DetectorConfig,
    weights: Path,
    proposals: Path,
    image_networks: Mapping[str, ImageNetwork],
) -> ProposalNetwork:
    """The proposal network for frames without LiDAR. Raises UserError for other image networks."""
    network = ProposalNetwork(config, pretrained=False)
    load_weights(network, weights)
    second, others = split_image_networks(network)
    if not all(same_weights(others[name], part) for name, part in image_networks.items()):
        raise UserError(f"{weights}: has other image networks than {proposals}")
    return second


def _write_part(
    name: str,
    folder: Path,
    card: ModelCard,
    part: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    **values: Any,
) -> ModelCard:
    """Write another network of the detector.

    name: key of PART_TASKS. values: fields of its card that differ from `card`.
    """
    settings = {"network": card.settings["network"]}
    values = {
        "task": PART_TASKS[name],
        "settings": settings,
        "inputs": _specs(inputs),
        "figures": {},
        **values,
    }
    part_card = dataclasses.replace(card, name=folder.name, **values)
    return write_model(folder, part_card, part, inputs, outputs)


def _proposal_card(
    config: DetectorConfig,
    name: str,
    settings: dict[str, Any],
    training: Training | None,
    figures: Mapping[str, Any] | None,
) -> ModelCard:
    half_extent = config.pillars.half_extent
    return ModelCard(
        name,
        "detector_proposals",
        _specs(proposal_examples(config)),
        {"scores": TensorSpec((1, config.proposals))},  # write_model replaces the outputs
        LICENCE,
        PROPOSAL_TASK if config.global_fusion else LIDAR_ONLY_TASK,
        settings,
        classes=CLASSES,
        range=(
            -half_extent,
            -half_extent,
            MIN_HEIGHT,
            half_extent,
            half_extent,
            MIN_HEIGHT + HEIGHT_BIN * HEIGHT_BINS,
        ),
        training=training,
        figures=dict(figures or {}),
    )


def split_image_networks(
    network: ProposalNetwork,
) -> tuple[ProposalNetwork, dict[str, ImageNetwork]]:
    """Split a trained network into the networks that are exported: the proposal network without image
    backbones and necks, and the image networks by modality."""
    without_images = ProposalNetwork(network.config, image_backbones=False, necks=False)
    own = without_images.state_dict()
    without_images.load_state_dict({k: v for k, v in network.state_dict().items() if k in own})
    images = {}
    for modality in IMAGE_MODALITIES if network.config.global_fusion else ():
        part = build_image({"network": _plain(network.config), "image": modality})
        part.trunk = getattr(network, f"{modality}_trunk")
        part.neck = getattr(network, f"{modality}_neck")
        images[modality] = part.eval()
    return without_images.eval(), images


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks of the same architecture have the same weights."""
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def proposal_examples(config: DetectorConfig) -> dict[str, Tensor]:
    """Inputs of the proposal network with the shapes of its configuration."""
    c, count = config, config.pillars.max_pillars
    examples = {
        "pillars": torch.zeros(1, count, PILLAR_CHANNELS),
        # Every pillar has another cell; unused rows have the cell index size**2.
        "pillar_cells": torch.arange(count)[None].clamp(max=c.pillars.size**2),
        "ultrasonic_grid": torch.zeros(1, 2, c.pillars.size, c.pillars.size),
    }
    if not c.global_fusion:
        return examples
    for modality, maps in _empty_feature_maps(config).items():
        examples[f"{modality}_feature_map"] = maps
        examples[f"{modality}_uv"] = torch.zeros(1, count, 2)
        examples[f"{modality}_valid"] = torch.zeros(1, count)
    if c.bev_to_image_attention:
        for modality, images, (height, width) in (
            ("camera", c.cameras, c.camera_size),
            ("thermal", c.thermal_cameras, c.thermal_size),
        ):
            cells = images * (height // FEATURE_STRIDE) * (width // FEATURE_STRIDE)
            examples[f"{modality}_rays"] = torch.full((1, cells, RAY_SAMPLES, 2), 2.0)
    return examples


def image_examples(config: DetectorConfig, modality: str) -> dict[str, Tensor]:
    """Inputs of an image network with the shapes of its configuration."""
    shape = (1, *config.camera_size, 3) if modality == "camera" else (1, *config.thermal_size)
    return {"pixels": torch.zeros(shape, dtype=torch.uint8)}


def _empty_feature_maps(config: DetectorConfig) -> dict[str, Tensor]:
    """Stacked feature maps of zeros by modality."""
    c = config
    sizes = (c.cameras, *c.camera_size), (c.thermal_cameras, *c.thermal_size)
    return {
        modality: torch.zeros(
            1, c.channels, count * (height // FEATURE_STRIDE), width // FEATURE_STRIDE
        )
        for modality, (count, height, width) in zip(IMAGE_MODALITIES, sizes, strict=True)
    }


def refinement_examples(config: DetectorConfig) -> dict[str, Tensor]:
    """Inputs of the refinement network with the shapes of its configuration."""
    c, rois = config, config.refined_proposals
    half = c.pillars.size // 2
    return {
        "bev_features": torch.zeros(1, c.neck_channels, half, half),
        **{
            f"{modality}_feature_map": maps
            for modality, maps in _empty_feature_maps(config).items()
        },
        "boxes": torch.ones(1, rois, 7),
        "proposal_features": torch.zeros(1, rois, len(CLASSES) + PROPOSAL_FEATURES),
        "roi_bev": torch.zeros(1, rois, GRID**2, 2),
        "roi_grid": torch.zeros(1, rois, GRID_POINTS, GRID_POINT_FEATURES),
        "roi_camera_uv": torch.zeros(1, rois, GRID_POINTS, 2),
        "roi_camera_valid": torch.zeros(1, rois, GRID_POINTS),
        "roi_thermal_uv": torch.zeros(1, rois, GRID_POINTS, 2),
        "roi_thermal_valid": torch.zeros(1, rois, GRID_POINTS),
        "roi_profile": torch.zeros(1, rois, PROFILE_FEATURES),
    }


def _specs(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    return {name: tensor_spec(tensor) for name, tensor in tensors.items()}


def _plain(config: DetectorConfig) -> dict[str, Any]:
    """The configuration as values that YAML can represent."""
    return {
        k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()
    }
