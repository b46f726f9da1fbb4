"""Training of the sensors' opinions: faults, loss, features of drives, and the whole recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.box_evidence import GROUPS, NOTHING
from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.bev_fusion.opinion_features import (
    FIRST_SLOT,
    SLOTS,
    OpinionNetworkConfig,
)
from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.networks.sensor_opinions import SensorOpinions
from multimodal_perception.npz_reader import read_npz
from multimodal_perception.opinions import Opinions, combine, discount, from_evidence, vacuous
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.training.recipe.configuration import load_recipe
from multimodal_perception.training.recipe.plan import Plan
from multimodal_perception.training.recipe.steps import StepRunner, locked
from multimodal_perception.training.sensor_opinions.faults import draw_fault
from multimodal_perception.training.sensor_opinions.rendering import _true_groups
from multimodal_perception.training.sensor_opinions.train import (
    combine_evidence,
    opinion_losses,
    read_features,
)
from multimodal_perception.training.sensor_opinions.validation import validate
from test.detection.bev_fusion.small_frames import rig_frame
from test.detection.bev_fusion.small_models import write_models

CHANNELS, COUNT = 8, 64
# Drives of the basic profile with the fixed rig.
SEEDS = (35, 70)


@given(st.integers(0, 10_000), st.floats(0.1, 0.95), st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_combination_in_torch_equals_that_of_the_vehicle(
    seed: int, reliability: float, large: bool
) -> None:
    rng = np.random.default_rng(seed)
    evidence = rng.exponential(50.0 if large else 2.0, (4, len(SLOTS), len(GROUPS)))
    valid = rng.random((4, len(SLOTS))) < 0.6
    valid[:, 0] = True
    found = combine_evidence(torch.tensor(evidence), torch.tensor(valid), reliability)
    sources = []
    for slot in range(len(SLOTS)):
        opinion, empty = from_evidence(evidence[:, slot]), vacuous(4, len(GROUPS))
        rows = valid[:, slot]
        own = Opinions(
            np.where(rows[:, None], opinion.belief, empty.belief),
            np.where(rows, opinion.uncertainty, empty.uncertainty),
        )
        sources.append(discount(own, reliability))
    expected = combine(sources).opinions
    if (expected.uncertainty > 1e-3).all():
        np.testing.assert_allclose(found.numpy(), expected.evidence(), rtol=1e-6)


def features(rng: np.random.Generator, count: int = COUNT) -> dict[str, np.ndarray]:
    """Boxes whose LiDAR and camera features contain their group; thermal features are constant."""
    truth = rng.integers(0, len(GROUPS), count)
    network = SensorOpinions(OpinionNetworkConfig(CHANNELS, hidden=8))
    arrays: dict[str, np.ndarray] = {}
    for modality in FIRST_SLOT:
        slots = SLOTS.count(modality)
        width = len(getattr(network, f"mean_{modality}"))
        values = rng.normal(0, 0.1, (count, slots, width))
        if modality in ("lidar", "camera"):
            values[:, :, : len(GROUPS)] += 4.0 * np.eye(len(GROUPS))[truth][:, None]
        else:
            values[:] = 0.0
        arrays[modality] = values.astype(np.float16)
    valid = np.ones((count, len(SLOTS)), bool)
    valid[:, SLOTS.index("ultrasonic")] = False
    return {
        **arrays, "valid": valid, "faulty": np.zeros_like(valid), "truth": truth,
        "groups": rng.integers(0, len(GROUPS) - 1, count),
        "scores": rng.uniform(0.1, 1, count).astype(np.float32),
    }  # fmt: skip


def test_training_gives_opinions_that_depend_on_what_a_sensor_measures() -> None:
    rng = np.random.default_rng(0)
    arrays = features(rng, 256)
    torch.manual_seed(0)
    network = SensorOpinions(OpinionNetworkConfig(CHANNELS, hidden=16, dropout=0.0))
    batch = {
        n: torch.from_numpy(v.astype(np.float32) if v.dtype == np.float16 else v)
        for n, v in arrays.items()
    }
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for step in range(80):
        losses = opinion_losses(network, batch, 0.9, step / 80)
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
    assert losses["ultrasonic"] == 0.0  # no slot has an opinion
    fresh = features(np.random.default_rng(1), 128)
    network.eval()
    with torch.inference_mode():
        inputs = [torch.from_numpy(fresh[m].astype(np.float32))[None] for m in FIRST_SLOT]
        evidence = network(*inputs)[0].numpy()
    figures = validate(evidence, fresh, 0.9)
    assert figures["lidar"]["error_auroc"] > 0.95 and figures["combined"]["error_auroc"] > 0.95
    assert figures["lidar"]["mean_uncertainty"] < 0.5 < figures["thermal"]["mean_uncertainty"]
    assert figures["ultrasonic"]["boxes"] == 0 and figures["ultrasonic"]["ece"] is None
    assert json.dumps(figures)
    fresh["scores"][:] = np.nan
    assert validate(evidence, fresh, 0.9) == {}


def test_faults_concern_one_modality_and_leave_the_others() -> None:
    frame, earlier = rig_frame(1), rig_frame(0)
    names = set()
    for seed in range(60):
        faulty = draw_fault(frame, earlier, seed, np.random.default_rng(seed))
        names.add(faulty.name)
        kinds = {next(g for g in ("lidars", "cameras", "thermals", "ultrasonics")
                      if name in getattr(frame, g)) for name in faulty.sensors}  # fmt: skip
        assert len(kinds) == 1
        for name in frame.present - faulty.sensors:
            assert faulty.frame.readings[name] is frame.readings[name]
            np.testing.assert_array_equal(
                faulty.frame.base_from_sensor[name], frame.base_from_sensor[name]
            )
        if faulty.name == "missing":
            assert not faulty.sensors & faulty.frame.present
        if faulty.name == "frozen":
            for name in faulty.sensors:
                assert faulty.frame.readings[name].stamp_ns == frame.readings[name].stamp_ns
    assert {"missing", "frozen", "extrinsic_rotation"} < names
    again = [draw_fault(frame, earlier, 3, np.random.default_rng(3)) for _ in range(2)]
    assert again[0].name == again[1].name and again[0].sensors == again[1].sensors


def test_a_box_has_the_group_of_the_object_at_its_place() -> None:
    def boxes(names: list[str], x: list[float], length: float = 4.0) -> Boxes3D:
        values = np.zeros((len(x), 7), np.float32)
        values[:, 0], values[:, 3] = x, length
        labels = np.array([CLASS_NAMES.index(n) for n in names], np.int64)
        return Boxes3D(0, "base_link", values, np.ones(len(x), np.float32), labels)

    found = boxes(["car"] * 5, [0.5, 20.5, 2.5, 9.0, 40.5])
    truth = boxes(["van", "pedestrian", "unknown"], [0.0, 20.0, 40.0])
    expected = [0, GROUPS.index("pedestrian"), -1, NOTHING, -1]
    assert _true_groups(found, truth).tolist() == expected
    # 6 m from the centre of a long vehicle is within it.
    assert _true_groups(boxes(["car"], [6.0]), boxes(["bus"], [0.0], 12.0)).tolist() == [-1]
    assert _true_groups(found, boxes([], [])).tolist() == [NOTHING] * 5


def write_recipe(folder: Path, detector: Path, **changes: Any) -> Path:
    stage_settings = {
        "detector": str(detector),
        "hidden": 8,
        "min_score": 0.0,
        "false_boxes": 6,
        "validation_interval": 2,
        "loop": {"steps": 4, "batch_size": 4, "workers": 0, "save_every": 2, "precision": "fp32"},
    }
    recipe = {
        "name": "own_opinions",
        "network": "sensor_opinions",
        "data": {"d": {"seeds": [str(s) for s in SEEDS], "frames": 2, "frame_interval": 3}},
        "stages": {"opinions": {"data": "d", "settings": {**stage_settings, **changes}}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


def plan_of(recipe: Path, out: Path) -> Plan:
    return Plan(load_recipe(recipe), out, lambda words: None)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def test_the_recipe_gives_a_network_that_the_detector_uses(detector: Path, tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path / "recipe", detector), tmp_path / "out"
    steps = plan_of(recipe, out).steps()
    assert [s.name for s in steps] == ["render/d", "train/opinions", "export", "card"]
    with locked(out):
        for step in steps:
            StepRunner(out, steps).run(step)
    arrays = read_npz(out / "data" / "d" / f"{SEEDS[0]:06d}.npz")
    count = len(arrays["truth"])
    assert count and arrays["valid"].shape == (count, len(SLOTS))
    assert np.isnan(arrays["scores"]).any() and (arrays["truth"] == NOTHING).any()
    assert arrays["valid"][:, FIRST_SLOT["lidar"]].any()
    assert arrays["valid"][:, FIRST_SLOT["camera"]].any()
    training, validation = read_features(out / "data" / "d", 2)
    assert len(training["truth"]) == count and len(validation["truth"])
    model = out / "models" / "own_opinions"
    card = load_card(model)
    assert card.classes == GROUPS and card.figures["validation"]["boxes"]
    assert card.training is not None and "seeds 35, 70" in card.training.data
    runtime = RuntimeConfig(order=("onnxruntime",), device="cpu", threads=1)
    config = FusionConfig(str(detector), opinions=str(model), min_score=0.0)
    frame = rig_frame()
    boxes = BevFusionDetector(config, runtime).detect(frame, segment_ground(frame))
    assert boxes.evidence is not None and len(boxes.evidence) == len(boxes)
    # With the same recipe nothing is done again; another detector needs other features.
    assert all(StepRunner(out, steps).state(s) == "finished" for s in plan_of(recipe, out).steps())


def test_a_recipe_for_another_kind_of_detector_or_with_two_stages_is_an_error(
    tmp_path: Path, detector: Path
) -> None:
    recipe = write_recipe(tmp_path / "a", Path("near_field"))
    with pytest.raises(UserError, match=r"near_field.*architecture"):
        plan_of(recipe, tmp_path / "out").steps()
    recipe = write_recipe(tmp_path / "b", detector)
    content = json.loads(recipe.read_text())
    content["stages"]["second"] = content["stages"]["opinions"]
    recipe.write_text(json.dumps(content))
    with pytest.raises(UserError, match="stages: one stage is allowed"):
        load_recipe(recipe)
    recipe = write_recipe(tmp_path / "c", detector, hiden=3)
    with pytest.raises(UserError, match="hiden"):
        load_recipe(recipe)


def test_the_shipped_recipe_has_drives_of_its_own() -> None:
    own = load_recipe("sensor_opinions").recipe
    used = {
        seed for data in load_recipe("bev_fusion").recipe.data.values() for seed in data.seed_list()
    }
    assert not used & {s for data in own.data.values() for s in data.seed_list()}


def test_folders_without_boxes_are_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "000001.npz")
    with pytest.raises(UserError, match="no boxes"):
        read_features(tmp_path, 6)
