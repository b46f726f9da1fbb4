"""A trained detector as model folders: ONNX of static shapes, weights and card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multimodal_perception.networks.detector_config import CLASSES, DetectorConfig
from multimodal_perception.networks.fusion_detector import ProposalNetwork, RefinementNetwork
from multimodal_perception.networks.local_fusion import GRID, OUTLINE, POINTS, POSITION, PROPOSAL
from multimodal_perception.preprocess.detector_inputs import CELL_PIXELS
from multimodal_perception.preprocess.pillars import BIN, BINS, CHANNELS, LOW
from multimodal_perception.preprocess.projection import RAY_PLACES
from multimodal_perception.runtime.card import ModelCard, TensorSpec, Training, write_card
from multimodal_perception.runtime.onnx_export import export_onnx
from multimodal_perception.training.checkpoint import load_weights, save_weights

LICENCE = "Apache-2.0"
PROPOSAL_OUTPUTS = ("scores", "labels", "boxes", "bev", "camera_atlas", "infrared_atlas")


def export_detector(
    config: DetectorConfig,
    proposals: Path,
    refinement: Path | None,
    out: Path,
    training: Training,
    figures: Mapping[str, Any] | None = None,
) -> list[ModelCard]:
    """Write out (the proposal network) and, beside it, <out>_refinement. Returns their cards.

    proposals, refinement: weights (.safetensors) as the training wrote them.
    """
    network = {"network": _plain(config)}
    first = ProposalNetwork(config).eval()
    load_weights(first, proposals)
    beside = out.with_name(f"{out.name}_refinement")
    settings = network if refinement is None else {**network, "refinement": beside.name}
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
    cards = [write_model(out, card, first, proposal_examples(config), PROPOSAL_OUTPUTS)]
    if refinement is not None:
        second = RefinementNetwork(config).eval()
        load_weights(second, refinement)
        examples = refinement_examples(config)
        card = dataclasses.replace(
            card,
            name=beside.name,
            architecture="detector_refinement",
            settings=network,
            inputs=_specs(examples),
            figures={},
        )
        cards.append(write_model(beside, card, second, examples, ("confidences", "refined")))
    return cards


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
        "cameras": torch.zeros(c.cameras, *c.camera_size, 3, dtype=torch.uint8),
        "camera_places": places,
        "camera_seen": seen,
        "infrareds": torch.zeros(c.infrareds, *c.infrared_size, dtype=torch.uint8),
        "infrared_places": places.clone(),
        "infrared_seen": seen.clone(),
    }
    if c.exchange:
        for kind, count, (height, width) in (
            ("camera", c.cameras, c.camera_size),
            ("infrared", c.infrareds, c.infrared_size),
        ):
            cells = count * (height // CELL_PIXELS) * (width // CELL_PIXELS)
            examples[f"{kind}_rays"] = torch.full((1, cells, RAY_PLACES, 2), 2.0)
    return examples


def refinement_examples(config: DetectorConfig) -> dict[str, Tensor]:
    """Inputs of the refinement, of the right shapes."""
    c, rois = config, config.refined
    half = c.pillars.size // 2
    (ch, cw), (ih, iw) = c.camera_size, c.infrared_size
    return {
        "bev": torch.zeros(1, c.neck_channels, half, half),
        "camera_atlas": torch.zeros(
            1, c.channels, c.cameras * (ch // CELL_PIXELS), cw // CELL_PIXELS
        ),
        "infrared_atlas": torch.zeros(
            1, c.channels, c.infrareds * (ih // CELL_PIXELS), iw // CELL_PIXELS
        ),
        "boxes": torch.ones(1, rois, 7),
        "told": torch.zeros(1, rois, len(CLASSES) + PROPOSAL),
        "roi_bev": torch.zeros(1, rois, GRID**2, 2),
        "roi_grid": torch.zeros(1, rois, POINTS, POSITION),
        "roi_camera": torch.zeros(1, rois, POINTS, 2),
        "roi_camera_seen": torch.zeros(1, rois, POINTS),
        "roi_infrared": torch.zeros(1, rois, POINTS, 2),
        "roi_infrared_seen": torch.zeros(1, rois, POINTS),
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
