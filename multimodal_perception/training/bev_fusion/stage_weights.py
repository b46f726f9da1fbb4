"""The files that the stages write, and how a stage finds those of earlier stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.network_config import (
    IMAGE_MODALITIES,
    BevFusionNetworkConfig,
)
from multimodal_perception.networks.bev_fusion import BevFusionNetwork
from multimodal_perception.networks.bev_fusion_images import ImageEncoder
from multimodal_perception.training.checkpoint import load_weights

# File of the weights that each stage writes into its folder. image_encoder also writes those of the
# other modality beside it.
WEIGHTS = {
    "image_encoder": "camera_encoder.safetensors",
    "lidar": "stage1.safetensors",
    "fusion": "stage1.safetensors",
    "refinement": "stage2.safetensors",
    "calibration": "calibration.json",
}


def encoder_file(modality: str) -> str:
    """File name of the weights of an image network."""
    return f"{modality}_encoder.safetensors"


def find_weights(paths: Sequence[Path], stage: str) -> Path:
    """The last of the paths that a stage of this kind writes. Raises UserError."""
    found = [path for path in paths if path.name == WEIGHTS[stage]]
    if not found:
        raise UserError(f"the weights of a stage {stage} are required ({WEIGHTS[stage]})")
    return found[-1]


def load_encoders(config: BevFusionNetworkConfig, paths: Sequence[Path]) -> dict[str, ImageEncoder]:
    """The frozen image networks by modality, of the stage image_encoder. Raises UserError."""
    folder = find_weights(paths, "image_encoder").parent
    encoders = {}
    for modality in IMAGE_MODALITIES:
        channels = 3 if modality == "camera" else 1
        encoder = ImageEncoder(config, channels, pretrained=False)
        load_weights(encoder, folder / encoder_file(modality))
        encoders[modality] = encoder.eval().requires_grad_(False)
    return encoders


def load_stage1(config: BevFusionNetworkConfig, paths: Sequence[Path]) -> BevFusionNetwork:
    """The frozen first stage of the last stage lidar or fusion. Raises UserError."""
    network = BevFusionNetwork(config)
    load_weights(network, find_weights(paths, "fusion"))
    return network.eval().requires_grad_(False)
