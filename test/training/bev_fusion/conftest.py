"""Rendered samples and trained stages that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the samples of one drive. Tests must not write other samples into it."""
    from multimodal_perception.training.bev_fusion.drives import render_drives
    from test.training.bev_fusion.tiny import FRAMES, SEED, rendering

    folder = tmp_path_factory.mktemp("bev_fusion_samples")
    assert render_drives([SEED], rendering(), folder) == FRAMES
    return folder


@pytest.fixture(scope="session")
def trained(tiny_samples: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The weights of all stages by name, each trained for a few steps from the earlier ones."""
    from multimodal_perception.training.bev_fusion.stages import train_stage
    from test.training.bev_fusion.tiny import configured

    out = tmp_path_factory.mktemp("bev_fusion_stages")
    weights: dict[str, Path] = {}
    files = {
        "image_encoder": "camera_encoder.safetensors",
        "lidar": "stage1.safetensors",
        "fusion": "stage1.safetensors",
        "refinement": "stage2.safetensors",
        "calibration": "calibration.json",
    }
    for stage, file in files.items():
        start = [path for name, path in weights.items() if name != "lidar" or stage == "fusion"]
        train_stage(configured(stage), tiny_samples, out / stage, start)  # type: ignore[arg-type]
        weights[stage] = out / stage / file
    return weights
