"""A small network and rendered samples for the tests of the BEV fusion detector's training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_perception.detection.bev_fusion.network_config import BevFusionNetworkConfig
from multimodal_perception.detection.bev_fusion.pillars import PillarConfig
from multimodal_perception.simulation.rigs import open_rig
from multimodal_perception.training.bev_fusion.configuration import BevFusionTraining, Stage
from multimodal_perception.training.bev_fusion.drives import Rendering
from multimodal_perception.training.bev_fusion.sample_files import sample_paths
from multimodal_perception.training.loop import LoopConfig

TINY = BevFusionNetworkConfig(
    pillars=PillarConfig(half_extent=25.6, cell=0.8, max_pillars=1500),
    past_sweeps=2,
    camera_size=(48, 80),
    thermal_size=(48, 64),
    channels=8,
    range_bins=8,
    widths=(8, 8, 8),
    depths=(0, 0, 0),
    neck_channels=8,
    proposals=32,
    refined_proposals=8,
    roi_channels=16,
)
# A drive of the basic profile with the fixed rig: two cameras, a thermal camera and a LiDAR.
SEED, FRAMES = 35, 3


def rendering(frames: int = FRAMES, lidar: bool = True) -> Rendering:
    return Rendering(open_rig("simulation"), frames, 8, TINY, lidar)


def configured(stage: Stage, steps: int = 2, **changes: Any) -> BevFusionTraining:
    loop = LoopConfig(steps=steps, batch_size=2, workers=0, save_every=1, precision="fp32")
    config = BevFusionTraining(stage, TINY, loop=loop, pretrained=False, rois_per_frame=8)
    return dataclasses.replace(config, **changes)


def sample_arrays(folder: Path, number: int = 0) -> dict[str, np.ndarray]:
    with np.load(sample_paths(folder)[number]) as content:
        return {name: content[name] for name in content.files}
