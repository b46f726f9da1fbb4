"""A trained detector as model folders: ONNX of static shapes, weights and card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.image_projection import RAY_PLACES
from multimodal_perception.detection.fusion.network_config import (
    CLASSES,
    IMAGE_KINDS,
    DetectorConfig,
)
from multimodal_perception.detection.fusion.network_inputs import CELL_PIXELS
from multimodal_perception.detection.fusion.pillars import BIN, BINS, CHANNELS, LOW
from multimodal_perception.networks.fusion_detector import (
    ProposalNetwork,
    RefinementNetwork,
    build_image,
)
from multimodal_perception.networks.image_encoder import ImageNetwork
from multimodal_perception.networks.local_fusion import GRID, OUTLINE, POINTS, POSITION, PROPOSAL
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training, write_card
from multimodal_perception.runtime.onnx_export import export_onnx
from multimodal_perception.training.checkpoint import load_weights, save_weights

LICENCE = "Apache-2.0"
PROPOSAL_OUTPUTS = ("scores", "labels", "boxes", "bev")


def export_detector(
    config: DetectorConfig,
    proposals: Path,
    refinement: Path | None,
    out: Path,
    training: Training,
    figures: Mapping[str, Any] | None = None,
    blind: Path | None = None,
) -> list[ModelCard]:
    """Write out (the proposal network) and, beside it, <out>_camera and <out>_thermal (the image
    networks), <out>_blind and <out>_refinement, as far as there are such. Returns their cards, out's
    first. blind: weights of the proposal network for frames without LiDAR, on the same image networks;
    raises UserError for others.

    proposals, refinement: weights (.safetensors) as the training wrote them.
    """
    network = {"network": _plain(config)}
    whole = ProposalNetwork(config, pretrained=False)
    load_weights(whole, proposals)
    kinds = IMAGE_KINDS if config.global_fusion else ()
    images = {kind: out.with_name(f"{out.name}_{kind}") for kind in kinds}
    beside = out.with_name(f"{out.name}_refinement")
    settings: dict[str, Any] = dict(network)
    if images:
        settings["images"] = {kind: folder.name for kind, folder in images.items()}
    unseen = out.with_name(f"{out.name}_blind")
    if blind is not None:
        settings["blind"] = unseen.name
    if refinement is not None:
        settings["refinement"] = beside.name
    extent = config.pillars.extent
    card = ModelCard(
        out.name,
        "detector_proposals",
        _specs(proposal_examples(config)),
        {"scores": TensorSpec((1, config.proposals))},  # all outputs are told when it has run
        LICENCE,
        settings,
        classes=CLASSES,
        range=(-extent, -extent, LOW, extent, extent, LOW + BIN * BINS),
        training=training,
        figures=dict(figures or {}),
    )
    first, seen = parts_of(whole)
    cards = [write_model(out, card, first, proposal_examples(config), PROPOSAL_OUTPUTS)]
    if blind is not None:
        other = ProposalNetwork(config, pretrained=False)
        load_weights(other, blind)
        second, looks = parts_of(other)
        if not all(same_weights(looks[kind], seen[kind]) for kind in kinds):
            raise UserError(f"{blind}: other image networks than {proposals}'s")
        card_ = dataclasses.replace(card, name=unseen.name, settings=dict(network), figures={})
        cards.append(
            write_model(unseen, card_, second, proposal_examples(config), PROPOSAL_OUTPUTS)
        )
    for kind, folder in images.items():
        examples = image_examples(config, kind)
        its = dataclasses.replace(
            card,
            name=folder.name,
            architecture="detector_image",
            settings={**network, "image": kind},
            inputs=_specs(examples),
            range=(),
            classes=(),
            figures={},
        )
        cards.append(write_model(folder, its, seen[kind], examples, ("features",)))
    if refinement is not None:
        last = RefinementNetwork(config).eval()
        load_weights(last, refinement)
        examples = refinement_examples(config)
        card = dataclasses.replace(
            card,
            name=beside.name,
            architecture="detector_refinement",
            settings=network,
            inputs=_specs(examples),
            figures={},
        )
        cards.append(write_model(beside, card, last, examples, ("confidences", "refined")))
    return cards


def parts_of(whole: ProposalNetwork) -> tuple[ProposalNetwork, dict[str, ImageNetwork]]:
    """A trained network as it is run: the proposal network alone, and the image networks by kind."""
    first = ProposalNetwork(whole.config, trunks=False, necks=False)
    first.load_state_dict({k: v for k, v in whole.state_dict().items() if k in first.state_dict()})
    images = {}
    for kind in IMAGE_KINDS if whole.config.global_fusion else ():
        part = build_image({"network": _plain(whole.config), "image": kind})
        part.trunk = getattr(whole, f"{kind}_trunk")
        part.neck = getattr(whole, f"{kind}_neck")
        images[kind] = part.eval()
    return first.eval(), images


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks of one kind are the same."""
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def write_model(
    folder: Path,
    card: ModelCard,
    network: nn.Module,
    examples: Mapping[str, Tensor],
    outputs: tuple[str, ...],
) -> ModelCard:
    """Write model.onnx, model.safetensors and card.yaml of a network; examples: its inputs by name."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        results = network(*examples.values())
    results = (results,) if isinstance(results, Tensor) else results
    specs = {n: _spec(t) for n, t in zip(outputs, results, strict=True)}
    export_onnx(network, examples, outputs, folder / "model.onnx")
    save_weights(network, folder / "model.safetensors")
    card = dataclasses.replace(card, outputs=specs)
    return write_card(folder, card, "model.onnx", "model.safetensors")


def proposal_examples(config: DetectorConfig) -> dict[str, Tensor]:
    """Inputs of the proposal network, of the right shapes."""
    c, most = config, config.pillars.most
    places, seen = torch.zeros(1, most, 2), torch.zeros(1, most)
    examples = {
        "pillars": torch.zeros(1, most, CHANNELS),
        # Each row its own cell: what fills up goes to the one beyond the last.
        "cells": torch.arange(most)[None].clamp(max=c.pillars.size**2),
        "ultrasonic": torch.zeros(1, 2, c.pillars.size, c.pillars.size),
    }
    if not c.global_fusion:
        return examples
    for kind, atlas in _atlases(config).items():
        examples[f"{kind}_atlas"] = atlas
        examples[f"{kind}_places"] = places.clone()
        examples[f"{kind}_seen"] = seen.clone()
    if c.exchange:
        for kind, count, (height, width) in (
            ("camera", c.cameras, c.camera_size),
            ("thermal", c.thermals, c.thermal_size),
        ):
            cells = count * (height // CELL_PIXELS) * (width // CELL_PIXELS)
            examples[f"{kind}_rays"] = torch.full((1, cells, RAY_PLACES, 2), 2.0)
    return examples


def image_examples(config: DetectorConfig, kind: str) -> dict[str, Tensor]:
    """Inputs of an image network, of the right shapes."""
    shape = (1, *config.camera_size, 3) if kind == "camera" else (1, *config.thermal_size)
    return {"pixels": torch.zeros(shape, dtype=torch.uint8)}


def _atlases(config: DetectorConfig) -> dict[str, Tensor]:
    """Empty atlases by kind."""
    c = config
    sizes = (c.cameras, *c.camera_size), (c.thermals, *c.thermal_size)
    return {
        kind: torch.zeros(1, c.channels, count * (height // CELL_PIXELS), width // CELL_PIXELS)
        for kind, (count, height, width) in zip(IMAGE_KINDS, sizes, strict=True)
    }


def refinement_examples(config: DetectorConfig) -> dict[str, Tensor]:
    """Inputs of the refinement, of the right shapes."""
    c, rois = config, config.refined
    half = c.pillars.size // 2
    return {
        "bev": torch.zeros(1, c.neck_channels, half, half),
        **{f"{kind}_atlas": atlas for kind, atlas in _atlases(config).items()},
        "boxes": torch.ones(1, rois, 7),
        "told": torch.zeros(1, rois, len(CLASSES) + PROPOSAL),
        "roi_bev": torch.zeros(1, rois, GRID**2, 2),
        "roi_grid": torch.zeros(1, rois, POINTS, POSITION),
        "roi_camera": torch.zeros(1, rois, POINTS, 2),
        "roi_camera_seen": torch.zeros(1, rois, POINTS),
        "roi_thermal": torch.zeros(1, rois, POINTS, 2),
        "roi_thermal_seen": torch.zeros(1, rois, POINTS),
        "roi_outline": torch.zeros(1, rois, OUTLINE),
    }


def _specs(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    return {name: _spec(tensor) for name, tensor in tensors.items()}


def _spec(tensor: Tensor) -> TensorSpec:
    return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))  # type: ignore[arg-type]


def _plain(config: DetectorConfig) -> dict[str, Any]:
    """The configuration as YAML knows it."""
    return {
        k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()
    }
