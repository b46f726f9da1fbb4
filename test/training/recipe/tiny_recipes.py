"""Recipes with small networks and two frames, one for each network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from multimodal_perception.training.bev_fusion.export import plain_config
from test.training.bev_fusion.tiny import SEED, TINY

LOOP = {"steps": 3, "batch_size": 2, "workers": 0, "save_every": 1, "precision": "fp32"}
# Earlier stages whose weights each stage of the detector needs.
DETECTOR_STAGES: dict[str, list[str]] = {
    "image_encoder": [],
    "lidar": [],
    "fusion": ["image_encoder", "lidar"],
    "refinement": ["image_encoder", "fusion"],
}


def detector_stage(stage: str) -> dict[str, Any]:
    """The configuration of a stage of the detector."""
    network = plain_config(TINY)
    return {
        "stage": stage, "network": network, "loop": LOOP, "pretrained": False, "rois_per_frame": 8,
    }  # fmt: skip


def write_detector_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe of the BEV fusion detector without calibration. changes: replaced keys."""
    recipe: dict[str, Any] = {
        "name": "tiny",
        "network": "bev_fusion",
        "data": {"drives": {"seeds": [str(SEED)], "frames": 2, "frame_interval": 5}},
        "stages": {
            name: {"config": f"{name}.yaml", "data": "drives", "initial_weights": needed}
            for name, needed in DETECTOR_STAGES.items()
        },
        "export": {"stage1": "fusion", "images": "image_encoder", "refinement": "refinement"},
        "notes": "For a test.",
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name in DETECTOR_STAGES:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(detector_stage(name)))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "recipe.yaml"


def write_recipe(
    folder: Path, network: str, data: dict[str, Any], config: dict[str, Any], **keys: Any
) -> Path:
    """A recipe with a single stage."""
    recipe = {
        "name": f"tiny_{network}",
        "network": network,
        "data": {"drives": data},
        "stages": {"network": {"config": "stage.yaml", "data": "drives"}},
        **keys,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.yaml").write_text(yaml.safe_dump(config))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "recipe.yaml"
