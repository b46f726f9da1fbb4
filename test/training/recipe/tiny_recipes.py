"""Recipes with small networks and two frames, one for each network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from test.training.test_recorded_data import TINY

NETWORK = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(TINY).items()}
LOOP = {"steps": 3, "batch_size": 2, "workers": 0, "save_every": 1, "precision": "fp32"}
DETECTOR_STAGES: dict[str, dict[str, Any]] = {
    "lidar": {"network": {**NETWORK, "global_fusion": False}, "loop": LOOP},
    "fusion": {"network": NETWORK, "loop": LOOP},
    "refinement": {"stage": "refinement", "network": NETWORK, "loop": LOOP},
}


def write_detector_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe with the stages lidar, fusion and refinement. changes: replaced keys of the recipe."""
    recipe: dict[str, Any] = {
        "name": "tiny",
        "network": "detector",
        "data": {"drives": {"seeds": ["3"], "frames": 2, "frame_interval": 5}},
        "stages": {
            "lidar": {"config": "lidar.yaml", "data": "drives"},
            "fusion": {"config": "fusion.yaml", "data": "drives", "initial_weights": ["lidar"]},
            "refinement": {
                "config": "refinement.yaml",
                "data": "drives",
                "proposals_from_stage": "fusion",
            },
        },
        "export": {"proposals": "fusion", "refinement": "refinement"},
        "notes": "For a test.",
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in DETECTOR_STAGES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
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
