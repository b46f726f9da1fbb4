"""The interaction of image and BEV features: masks, rays, and that it is off by default."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.fusion.detector import FusionDetector
from multimodal_perception.detection.fusion.image_projection import (
    RAY_SAMPLES,
    project_rays_to_bev,
)
from multimodal_perception.detection.fusion.network_config import DetectorConfig
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.networks.deep_interaction import (
    BevToImageAttention,
    LocalAttention,
    RayAttention,
)
from multimodal_perception.networks.fusion_detector import ProposalNetwork
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.card import Training
from multimodal_perception.runtime.open_model import open_single_engine
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL
from multimodal_perception.training.detector.export import export_detector, proposal_examples
from multimodal_perception.training.detector.train import train_proposals
from test.networks.detectors import SMALL, with_images
from test.training.detector.tiny_samples import configured, frame_of
from test.training.detector.tiny_samples import samples as samples

EXCHANGE = dataclasses.replace(SMALL, bev_to_image_attention=True)


def set_uniform(attention: RayAttention | LocalAttention) -> None:
    """Make all attention weights equal and the values equal to the inputs."""
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        for name in ("key_value", "query_key_value"):
            layer = getattr(attention, name, None)
            if layer is not None:
                channels = layer.in_channels
                layer.weight[-channels:, :, 0, 0] = torch.eye(channels)


def test_ray_attention_averages_the_pillars_along_the_ray() -> None:
    attention = RayAttention(2)
    set_uniform(attention)
    bev = torch.arange(32.0).reshape(1, 2, 4, 4)
    occupied = torch.zeros(1, 1, 4, 4)
    occupied[0, 0, 1, 2] = occupied[0, 0, 3, 0] = 1.0
    # Two pillars, an empty cell and a position outside the grid; then a ray entirely outside.
    rays = torch.tensor(
        [[[0.25, -0.25], [-0.75, 0.75], [0.75, 0.75], [2.0, 2.0]], [[2.0, 0.0]] * 4]
    )
    out = attention(torch.randn(1, 2, 2), bev, occupied, rays[None])
    expected = (bev[0, :, 1, 2] + bev[0, :, 3, 0]) / 2
    torch.testing.assert_close(out[0, 0], expected)
    assert not out[0, 1].any()


def test_local_attention_averages_the_neighbourhood() -> None:
    attention = LocalAttention(1)
    set_uniform(attention)
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    out = attention(image)
    torch.testing.assert_close(out[0, 0, 1, 1], image[0, 0, :, :3].mean())
    torch.testing.assert_close(out[0, 0, 0, 0], image[0, 0, :2, :2].mean())  # at the border


def test_exchange_keeps_images_separate_and_has_no_initial_effect() -> None:
    torch.manual_seed(0)
    attention = BevToImageAttention(8)
    feature_map, bev = torch.randn(2, 8, 6, 5), torch.randn(2, 8, 16, 16)
    occupied, rays = torch.ones(2, 1, 16, 16), torch.rand(2, 30, 4, 2) * 2 - 1
    assert torch.equal(attention(feature_map, bev, occupied, rays, 2), feature_map)
    torch.nn.init.normal_(attention.outer[-1].weight)  # type: ignore[arg-type]
    before = attention(feature_map, bev, occupied, rays, 2)
    assert before.shape == feature_map.shape and not torch.allclose(before, feature_map)
    lower = feature_map.clone()
    lower[:, :, 3:] += 1.0
    after = attention(lower, bev, occupied, rays, 2)
    torch.testing.assert_close(after[:, :, :3], before[:, :, :3])
    assert not torch.allclose(after[:, :, 3:] - 1.0, before[:, :, 3:])


@pytest.mark.parametrize("model", ["pinhole", "equidistant"])
def test_ray_positions_project_into_their_image_cell(model: str) -> None:
    pose = poses.from_xyz_rpy((0.4, -0.3, 1.5), (0.0, 0.1, 0.7)) @ BODY_FROM_OPTICAL
    camera = CameraModel(
        96, 56, np.array([[60.0, 0, 47.5], [0, 60, 27.5], [0, 0, 1]]), model,  # type: ignore[arg-type]
        np.zeros(4 if model == "equidistant" else 0),
    )  # fmt: skip
    motion = poses.from_xyz_rpy((0, 0, 0.1), (0, 0, 0.5)) @ np.diag([1.0, -1.0, 1.0, 1.0])
    views = [None, ImageView(camera, pose)]
    positions = project_rays_to_bev(views, (64, 96), 8, 80.0, (-0.8, 4.0), motion)
    assert positions.shape == (2 * 8 * 12, RAY_SAMPLES, 2) and positions.dtype == np.float32
    cells = positions.reshape(2, 8, 12, RAY_SAMPLES, 2)
    assert (cells[0] == 2.0).all()  # a missing image
    assert (cells[1, 7] == 2.0).all()  # below the image, which is 56 pixels high
    kept = np.argwhere((np.abs(cells[1]) <= 1).all(axis=-1))
    assert len(kept) > 100
    for row, column, k in kept:
        # The height on the ray is not returned: one of the points above or below lies in the cell.
        x, y = cells[1, row, column, k] * 80.0
        line = np.column_stack([np.full(200, x), np.full(200, y), np.linspace(-0.7, 4.1, 200)])
        pixels, visible = camera.project(
            poses.transform_points(poses.inverse(pose) @ np.linalg.inv(motion), line)
        )
        error = np.abs(pixels[visible] - (8 * column + 3.5, 8 * row + 3.5)).max(axis=1)
        assert error.min() < 1.5
    # Rays that point down end at the ground.
    lowest = np.abs(cells[1, 6]).max(axis=-1) <= 1
    assert 0 < lowest.sum() < lowest.size / 2


def test_exchange_is_off_by_default_and_needs_global_fusion() -> None:
    assert not DetectorConfig().bev_to_image_attention
    names = ProposalNetwork(SMALL, pretrained=False).state_dict()
    assert not [n for n in names if "camera_attention" in n or "thermal_attention" in n]
    assert "camera_rays" not in proposal_examples(SMALL)
    added = set(ProposalNetwork(EXCHANGE, pretrained=False).state_dict()) - set(names)
    assert added and all("_attention." in n for n in added)
    with pytest.raises(ConfigurationError, match="bev_to_image_attention needs global_fusion"):
        build(DetectorConfig, {"bev_to_image_attention": True, "global_fusion": False}, "t.yaml")


def test_adding_the_exchange_keeps_the_outputs() -> None:
    torch.manual_seed(0)
    without = with_images(ProposalNetwork(SMALL, pretrained=False))
    extended = with_images(ProposalNetwork(EXCHANGE, pretrained=False))
    extended.load_state_dict(without.state_dict(), strict=False)
    inputs = proposal_examples(EXCHANGE)
    inputs["pillars"] = torch.randn(inputs["pillars"].shape)
    inputs["camera_valid"][:] = 1.0
    for modality in ("camera", "thermal"):
        inputs[f"{modality}_rays"] = torch.rand(inputs[f"{modality}_rays"].shape) - 0.5
    without_rays = [v for n, v in inputs.items() if "rays" not in n]
    with torch.inference_mode():
        for a, b in zip(without(*without_rays), extended(*inputs.values()), strict=True):
            assert torch.equal(a, b)
        torch.nn.init.normal_(extended.camera_attention.outer[-1].weight)  # type: ignore[arg-type]
        assert not torch.equal(extended(*inputs.values())[3], without(*without_rays)[3])


def test_training_export_and_inference_with_attention(samples: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(configured("proposals", 2), network=EXCHANGE)
    trained = train_proposals(config, samples, tmp_path / "p")
    assert trained.camera_attention.outer[-1].weight.any()  # changed by training
    weights = tmp_path / "p" / "proposals.safetensors"
    training = Training("train detector", 0, 0.0, "test")
    card, *_ = export_detector(EXCHANGE, weights, None, tmp_path / "small", training)
    assert card.inputs["camera_rays"].shape == (1, 2 * 16 * 24, RAY_SAMPLES, 2)
    runtime = RuntimeConfig(order=("onnxruntime",), threads=1)
    detector = FusionDetector(FusionConfig(str(tmp_path / "small"), min_score=0.0), runtime)
    frame = frame_of(9)
    boxes = detector.detect(frame, segment_ground(frame))
    assert len(boxes) and detector.counts["fallback_geometric"] == 0
    rng = np.random.default_rng(0)
    inputs = {
        n: rng.integers(0, 255, s.shape).astype(s.dtype)
        if s.dtype != "float32"
        else rng.uniform(-1, 1, s.shape).astype(np.float32)
        for n, s in card.inputs.items()
    }
    inputs["pillar_cells"] = rng.permutation(SMALL.pillars.size**2)[
        None, : SMALL.pillars.max_pillars
    ]
    a = open_single_engine("onnxruntime", card, runtime).run(inputs)
    b = open_single_engine("torch", card, RuntimeConfig(device="cpu", threads=1)).run(inputs)
    for name in ("scores", "boxes", "bev_features"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4)
    pytest.importorskip("tensorrt_rtx")
    from multimodal_perception.runtime.tensorrt import ANY_GPU, Library, Target, build_plan

    library = Library("tensorrt_rtx")
    target = Target(ANY_GPU, (8, 9))
    plan = build_plan(library, card.read_file("onnx"), card, RuntimeConfig(), target)
    assert len(plan) > 10_000
