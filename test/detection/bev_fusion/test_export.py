"""Exported networks: equal to torch, run by every engine, with stable outputs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.frame import SensorFrame
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.architectures import resolve
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.engine import Arrays
from multimodal_perception.runtime.open_model import open_single_engine
from multimodal_perception.runtime.settings import EngineName, RuntimeConfig
from multimodal_perception.runtime.tensorrt import ANY_GPU, Library, Target, build_plan
from test.detection.bev_fusion.small_frames import YAWS, only, rig_frame

FOLDERS = ("small", "small_camera", "small_thermal", "small_refinement")
CONFIG = RuntimeConfig(device="cpu", threads=1)
# Boxes of golden_outputs.
GOLDEN = Path(__file__).with_name("golden.npz")


def recorded_inputs(folder: Path, frame: SensorFrame) -> Arrays:
    card = load_card(folder)
    arrays: Arrays = resolve(card, "frame_inputs")(card)(frame)
    return arrays


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", FOLDERS)
def test_engines_agree_with_torch(small_model: Path, name: str, engine: EngineName) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    folder = small_model.with_name(name)
    card = load_card(folder)
    for frame in (rig_frame(), only(rig_frame(1), *YAWS, "thermal")):
        arrays = recorded_inputs(folder, frame)
        expected = open_single_engine("torch", card, CONFIG).run(arrays)
        actual = open_single_engine(engine, card, CONFIG).run(arrays)
        for key, values in expected.items():
            scale = np.maximum(np.abs(values), 1.0)
            assert np.max(np.abs(actual[key] - values) / scale) < 1e-3, key


@pytest.mark.parametrize("capability", [(8, 6), (8, 9), (12, 0)], ids=lambda c: f"sm{c[0]}{c[1]}")
@pytest.mark.parametrize("name", FOLDERS)
def test_tensorrt_rtx_builds_every_network(
    small_model: Path, name: str, capability: tuple[int, int]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    card = load_card(small_model.with_name(name))
    target = Target(ANY_GPU, capability)
    plan = build_plan(Library("tensorrt_rtx"), card.read_file("onnx"), card, CONFIG, target)
    assert len(plan) > 10_000


def test_batches_give_the_outputs_of_single_frames() -> None:
    from multimodal_perception.detection.bev_fusion.network_config import stage1_inputs
    from test.detection.bev_fusion.small_images import SMALL
    from test.detection.bev_fusion.small_models import random_networks

    network, _, _ = random_networks()
    rng = torch.Generator().manual_seed(0)
    frames = []
    for _ in range(2):
        inputs = {
            name: torch.randn(shape, generator=rng)
            for name, (shape, _) in stage1_inputs(SMALL).items()
        }
        cells = torch.randperm(SMALL.pillars.size**2, generator=rng)
        inputs["pillar_cells"] = cells[None, : SMALL.pillars.max_pillars]
        frames.append(inputs)
    with torch.inference_mode():
        single = [network.bev_outputs(frame) for frame in frames]
        batch = network.bev_outputs({k: torch.cat([f[k] for f in frames]) for k in frames[0]})
    for name in ("bev_features", "heatmap", "code"):
        joint = torch.cat([getattr(s, name) for s in single])
        torch.testing.assert_close(getattr(batch, name), joint, atol=1e-4, rtol=1e-4)


def test_untrained_image_parts_leave_a_lidar_network_unchanged() -> None:
    from multimodal_perception.detection.bev_fusion.network_config import stage1_inputs
    from multimodal_perception.networks.bev_fusion import BevFusionNetwork
    from multimodal_perception.training.bev_fusion.export import example_tensors
    from test.detection.bev_fusion.small_images import SMALL

    torch.manual_seed(0)
    network = BevFusionNetwork(SMALL).eval()
    inputs = example_tensors(stage1_inputs(SMALL), SMALL)
    images = {k: torch.randn(v.shape) for k, v in inputs.items() if "image" in k}
    assert len(images) == 2
    points = {k: v for k, v in inputs.items() if k not in images}
    with torch.inference_mode():
        for first, second in zip(
            network.bev_outputs(points), network.bev_outputs(points | images), strict=True
        ):
            torch.testing.assert_close(first, second)


def test_inputs_of_second_level_networks_come_from_whole_frames(small_model: Path) -> None:
    arrays = recorded_inputs(small_model, rig_frame())
    assert arrays["pillars"].any() and arrays["image_bev"].any() and arrays["pillar_images"].any()
    refinement = small_model.with_name("small_refinement")
    assert recorded_inputs(refinement, rig_frame())["roi_images"].any()
    with pytest.raises(UserError, match="does not run"):
        recorded_inputs(small_model, only(rig_frame(), "ultrasonic"))
    with pytest.raises(UserError, match="no thermal image"):
        recorded_inputs(small_model.with_name("small_thermal"), only(rig_frame(), *YAWS))


def test_outputs_are_the_stored_ones(small_model: Path) -> None:
    """The whole path from the sensors to the boxes; weights depend on the parameters' names only.

    After an intended change, run this test with UPDATE_GOLDEN=1 in the environment.
    """
    outputs = golden_outputs(small_model)
    if os.environ.get("UPDATE_GOLDEN"):
        names = ("boxes", "scores", "labels", "velocities")
        rows = enumerate(outputs)
        arrays = {f"{k}.{n}": v for k, o in rows for n, v in zip(names, o, strict=True)}
        np.savez_compressed(GOLDEN, allow_pickle=False, **arrays)
    stored = np.load(GOLDEN, allow_pickle=False)
    for k, (boxes, scores, labels, velocities) in enumerate(outputs):
        np.testing.assert_allclose(scores, stored[f"{k}.scores"], atol=2e-3)
        np.testing.assert_array_equal(labels, stored[f"{k}.labels"])
        np.testing.assert_allclose(boxes, stored[f"{k}.boxes"], atol=5e-3)
        np.testing.assert_allclose(velocities, stored[f"{k}.velocities"], atol=5e-3)


def golden_outputs(model: Path) -> list[tuple[np.ndarray, ...]]:
    """Boxes, scores, labels and velocities of three frames of a drive, the last without LiDAR."""
    config = FusionConfig(str(model), min_score=0.0, geometric_check=False)
    detector = BevFusionDetector(config, RuntimeConfig(order=("onnxruntime",), device="cpu"))
    outputs = []
    for frame in (rig_frame(0, 5.0), rig_frame(1, 5.0), only(rig_frame(2, 5.0), *YAWS, "thermal")):
        b = detector.detect(frame, segment_ground(frame))
        assert b.velocities is not None
        outputs.append((b.boxes, b.scores, b.labels, b.velocities))
    return outputs


def test_engines_are_compared_on_whole_frames(small_model: Path) -> None:
    from multimodal_perception.evaluation.agreement import compare_engines

    agreement = compare_engines(str(small_model), ("onnxruntime", "torch"), [rig_frame()])
    assert agreement.within_tolerance
    assert agreement.max_differences.keys() >= {
        "features",
        "ranges",
        "scores",
        "refined_velocities",
    }
