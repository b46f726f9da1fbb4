"""A small fusion detector for tests."""

from __future__ import annotations

import torch

from multimodal_perception.detection.bev_fusion.pillars import PillarConfig
from multimodal_perception.detection.fusion.network_config import DetectorConfig
from multimodal_perception.networks.fusion_detector import ProposalNetwork

SMALL = DetectorConfig(
    pillars=PillarConfig(half_extent=12.8, cell=0.4, max_pillars=600),
    cameras=2,
    thermal_cameras=1,
    camera_size=(64, 96),
    thermal_size=(64, 80),
    channels=16,
    widths=(16, 16, 16),
    depths=(0, 0, 0),
    neck_channels=16,
    proposals=16,
    refined_proposals=8,
)


def with_images(network: ProposalNetwork) -> ProposalNetwork:
    """The network in eval mode with image features enabled, whose initial scale is zero."""
    for fusion in (network.camera_fusion, network.thermal_fusion):
        torch.nn.init.ones_(fusion.scale)
    return network.eval()
