"""A small detector with random weights, exported to ONNX."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from multimodal_perception.detection.bev_fusion.network_config import BevFusionNetworkConfig
from multimodal_perception.networks.bev_fusion import BevFusionNetwork
from multimodal_perception.networks.bev_fusion_images import ImageEncoder
from multimodal_perception.networks.bev_fusion_refinement import BevFusionRefinement
from multimodal_perception.training.bev_fusion.export import export_bev_fusion
from test.detection.bev_fusion.small_images import SMALL


def randomise(network: nn.Module) -> None:
    """Random weights that depend on the parameters' names only, so that golden outputs are stable."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            fan_in = max(parameter[0].numel(), 1) if parameter.dim() > 1 else 1
            values = rng.normal(0, np.sqrt(1.6 / fan_in), tuple(parameter.shape))
            if parameter.dim() <= 1:
                values = 0.1 * values + (name.endswith(("weight", "scale")))
            parameter.copy_(torch.from_numpy(np.asarray(values, np.float32)))


def random_networks(
    config: BevFusionNetworkConfig = SMALL,
) -> tuple[BevFusionNetwork, dict[str, ImageEncoder], BevFusionRefinement]:
    """Networks in which every input has an effect, with distinct scores."""
    stage1, refinement = BevFusionNetwork(config), BevFusionRefinement(config)
    encoders = {
        modality: ImageEncoder(config, channels, pretrained=False)
        for modality, channels in (("camera", 3), ("thermal", 1))
    }
    for network in (stage1, refinement, *encoders.values()):
        randomise(network)
        network.eval()
    with torch.no_grad():
        stage1.head.code.weight *= 0.3
        refinement.residual.weight *= 0.1
    return stage1, encoders, refinement


def write_models(folder: Path, config: BevFusionNetworkConfig = SMALL) -> Path:
    """Write the model folders of a random detector; returns that of the first stage."""
    stage1, encoders, refinement = random_networks(config)
    export_bev_fusion(config, stage1, encoders, refinement, folder / "small")
    return folder / "small"
