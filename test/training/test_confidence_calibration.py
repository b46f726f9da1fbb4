"""The calibration of the confidences of a shipped network, and the key of the recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from multimodal_perception.configuration import ConfigurationError, UserError, build
from multimodal_perception.resources import share_path
from multimodal_perception.rig import load_rig
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.temperatures import read_temperatures
from multimodal_perception.training import confidence_calibration
from multimodal_perception.training.confidence_calibration import calibrate_model
from multimodal_perception.training.recipe.configuration import Recipe, load_recipe
from multimodal_perception.training.recipe.plan import Plan
from test.training.recipe.tiny_recipes import write_recipe

DRIVES = {"seeds": ["3"], "frames": 2}


def progress(total: int) -> tqdm[Any]:
    return tqdm(total=total, disable=True)


def test_temperatures_are_written_into_the_card_of_a_segmentation_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multimodal_perception.evaluation import segmentation_drives

    for module in (segmentation_drives, confidence_calibration):
        monkeypatch.setattr(module, "CONDITIONS", {"day": ()})
    monkeypatch.setattr(confidence_calibration, "IMAGES", ("visible",))
    folder = tmp_path / "segmentation"
    shutil.copytree(share_path("config", "models", "segmentation"), folder)
    rig, result = (
        load_rig(share_path("config", "rigs", "simulation.yaml")),
        tmp_path / "result.json",
    )
    card = calibrate_model(folder, rig, [90, 93], 1, progress, result)
    content = json.loads(result.read_text())
    assert content["seeds"] == [90, 93] and set(content["temperatures"]) == set(card.classes)
    assert all(t > 0 for t in content["temperatures"].values())
    used = {name: t for name, t in content["temperatures"].items() if t != 1.0}
    stored = load_card(folder)
    assert stored.settings.get("temperatures", {}) == used and stored.onnx == card.onnx
    if used:
        temperatures = read_temperatures(stored)
        assert temperatures is not None and temperatures.min() > 0


def test_networks_without_confidences_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "near_field"
    shutil.copytree(share_path("config", "models", "near_field"), folder)
    rig = load_rig(share_path("config", "rigs", "simulation.yaml"))
    with pytest.raises(UserError, match="confidences can be calibrated for"):
        calibrate_model(folder, rig, [90], 1, progress, tmp_path / "result.json")


def test_thresholds_select_the_same_boxes_after_scaling() -> None:
    scaled = confidence_calibration._scaled_thresholds({"car": 0.3, "person": 0.4}, {"car": 2.0})
    odds = (0.3 / 0.7) ** 0.5
    assert scaled == {"car": pytest.approx(odds / (1 + odds), abs=1e-4), "person": 0.4}


def test_recipe_calibrates_after_the_export_and_before_the_evaluation(tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path,
        "segmentation",
        DRIVES,
        {},
        calibration=["90..93"],
        evaluation={"drives": "segmentation --seeds 10005..10005 --model {model}"},
    )
    names = [s.name for s in Plan(load_recipe(path), tmp_path / "out", lambda words: None).steps()]
    assert names[-4:] == ["export", "calibrate", "evaluate/drives", "card"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": ["3"]}, "calibration: seed 3 is used for the training"),
        ({"calibration": ["x"]}, "expected N or A..B"),
        ({"calibration": ["90"], "network": "image_fusion"}, "allowed for segmentation and"),
    ],
)
def test_unusable_drives_for_the_calibration_are_errors(
    changes: dict[str, Any], message: str
) -> None:
    recipe = {
        "name": "m",
        "network": "segmentation",
        "data": {"drives": DRIVES},
        "stages": {"network": {"config": "stage.yaml", "data": "drives"}},
        **changes,
    }
    with pytest.raises(ConfigurationError, match=message):
        build(Recipe, recipe, "recipe.yaml")
