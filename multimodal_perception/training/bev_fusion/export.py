"""Export of a trained BEV fusion detector to model folders: ONNX, weights and cards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multimodal_perception.detection.bev_fusion.model_cards import IMAGE, REFINEMENT, STAGE1
from multimodal_perception.detection.bev_fusion.network_config import (
    CLASSES,
    BevFusionNetworkConfig,
    stage1_inputs,
)
from multimodal_perception.detection.bev_fusion.network_inputs import stage2_inputs
from multimodal_perception.detection.bev_fusion.pillars import (
    HEIGHT_BIN,
    HEIGHT_BINS,
    MIN_HEIGHT,
)
from multimodal_perception.networks.bev_fusion import STAGE1_OUTPUTS, BevFusionNetwork
from multimodal_perception.networks.bev_fusion_images import ImageEncoder, example_inputs
from multimodal_perception.networks.bev_fusion_refinement import (
    STAGE2_OUTPUTS,
    BevFusionRefinement,
)
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training
from multimodal_perception.training.checkpoint import load_weights
from multimodal_perception.training.model_export import write_model

LICENCE = "Apache-2.0"
IMAGE_OUTPUTS = ("features", "ranges")
TASKS = {
    "": "Proposes 3D boxes from any number of camera and thermal images, LiDAR sweeps and ultrasonic "
    "ranges (first stage of the BEV fusion detector).",
    "camera": "Computes the features and the range distribution of a camera image for the BEV fusion "
    "detector.",
    "thermal": "Computes the features and the range distribution of a thermal image for the BEV fusion "
    "detector.",
    "refinement": "Refines the boxes, velocities and class confidences of the BEV fusion detector "
    "(second stage).",
}


def export_bev_fusion(
    config: BevFusionNetworkConfig,
    stage1: BevFusionNetwork | Path,
    images: Mapping[str, ImageEncoder | Path],
    refinement: BevFusionRefinement | Path | None,
    out: Path,
    training: Training | None = None,
    figures: Mapping[str, Any] | None = None,
    score_calibration: Mapping[str, Sequence[float]] | None = None,
) -> list[ModelCard]:
    """Write the model folders of a trained detector and return their cards, that of `out` first.

    stage1, images (by modality), refinement: networks, or the paths of their weights (.safetensors).
    out: folder of the first stage; beside it are written <out>_camera, <out>_thermal and
    <out>_refinement, where they exist. score_calibration: [slope, offset] by class (see
    model_cards.score_calibration). Raises UserError if weights do not fit or a folder cannot be written.
    """
    folders = {role: out.with_name(f"{out.name}_{role}") for role in images}
    settings: dict[str, Any] = {"network": plain_config(config)}
    if folders:
        settings["images"] = {role: folder.name for role, folder in folders.items()}
    if refinement is not None:
        folders["refinement"] = out.with_name(f"{out.name}_refinement")
        settings["refinement"] = folders["refinement"].name
    if score_calibration:
        settings["score_calibration"] = {
            k: list(map(float, v)) for k, v in score_calibration.items()
        }
    half_extent, top = config.pillars.half_extent, MIN_HEIGHT + HEIGHT_BIN * HEIGHT_BINS
    examples = example_tensors(stage1_inputs(config), config)
    card = ModelCard(
        out.name,
        STAGE1,
        _specs(examples),
        {"scores": TensorSpec((1, config.proposals))},  # write_model replaces the outputs
        LICENCE,
        TASKS[""],
        settings,
        classes=CLASSES,
        range=(-half_extent, -half_extent, MIN_HEIGHT, half_extent, half_extent, top),
        training=training,
        figures=dict(figures or {}),
    )
    network = _loaded(stage1, BevFusionNetwork(config))
    cards = [write_model(out, card, network, examples, STAGE1_OUTPUTS)]
    part = dataclasses.replace(card, figures={}, settings={"network": settings["network"]})
    for modality, encoder in images.items():
        examples = example_inputs(config, modality)
        image_card = dataclasses.replace(
            part,
            name=folders[modality].name,
            architecture=IMAGE,
            task=TASKS[modality],
            settings={**part.settings, "image": modality},
            inputs=_specs(examples),
            classes=(),
            range=(),
        )
        channels = 3 if modality == "camera" else 1
        trained = _loaded(encoder, ImageEncoder(config, channels, pretrained=False))
        cards.append(write_model(folders[modality], image_card, trained, examples, IMAGE_OUTPUTS))
    if refinement is not None:
        examples = example_tensors(stage2_inputs(config, len(CLASSES)), config)
        second = dataclasses.replace(
            part,
            name=folders["refinement"].name,
            architecture=REFINEMENT,
            task=TASKS["refinement"],
            inputs=_specs(examples),
        )
        refiner = _loaded(refinement, BevFusionRefinement(config))
        cards.append(write_model(folders["refinement"], second, refiner, examples, STAGE2_OUTPUTS))
    return cards


def example_tensors(
    inputs: Mapping[str, tuple[tuple[int, ...], str]], config: BevFusionNetworkConfig
) -> dict[str, Tensor]:
    """Inputs of a network with the shapes of stage1_inputs or stage2_inputs; zeros and valid cells."""
    tensors = {n: torch.zeros(shape, dtype=getattr(torch, t)) for n, (shape, t) in inputs.items()}
    if "pillar_cells" in tensors:  # every pillar has another cell, or the unused one
        count = tensors["pillar_cells"].shape[1]
        tensors["pillar_cells"] = torch.arange(count)[None].clamp(max=config.pillars.size**2)
    if "boxes" in tensors:
        tensors["boxes"] = torch.ones_like(tensors["boxes"])
    return tensors


def plain_config(config: BevFusionNetworkConfig) -> dict[str, Any]:
    """The configuration as values that YAML can represent."""
    values = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _loaded(network_or_weights: Any, empty: nn.Module) -> nn.Module:
    if isinstance(network_or_weights, nn.Module):
        return network_or_weights.eval()
    load_weights(empty, network_or_weights)
    return empty.eval()


def _specs(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(tuple(t.shape), str(t.dtype).removeprefix("torch."))  # type: ignore[arg-type]
        for name, t in tensors.items()
    }
