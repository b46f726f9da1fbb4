"""The exchange between images and BEV: who looks at whom, and that it is off unless asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.detection.fusion.detector import FusionConfig, FusionDetector
from multimodal_perception.detection.fusion.image_projection import (
    RAY_PLACES,
    ImageView,
    atlas_rays,
)
from multimodal_perception.detection.fusion.network_config import DetectorConfig
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.networks.deep_interaction import (
    ImageExchange,
    LocalAttention,
    RayAttention,
)
from multimodal_perception.networks.fusion_detector import ProposalNetwork
from multimodal_perception.pointcloud.ground_segmentation import ground_cloud
from multimodal_perception.rig import OPTICAL
from multimodal_perception.runtime.card import Training
from multimodal_perception.runtime.open_model import open_one
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.training.detector.export import export_detector, proposal_examples
from multimodal_perception.training.detector.train import train_proposals
from test.networks.detectors import SMALL, with_images
from test.training.detector.test_train import configured, frame_of
from test.training.detector.test_train import samples as samples

EXCHANGE = dataclasses.replace(SMALL, exchange=True)


def even(attention: RayAttention | LocalAttention) -> None:
    """Equal weights for all that may be looked at; values are what comes in."""
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        for name in ("key_value", "query_key_value"):
            layer = getattr(attention, name, None)
            if layer is not None:
                channels = layer.in_channels
                layer.weight[-channels:, :, 0, 0] = torch.eye(channels)


def test_a_cell_takes_the_mean_of_the_pillars_along_its_ray() -> None:
    attention = RayAttention(2)
    even(attention)
    canvas = torch.arange(32.0).reshape(1, 2, 4, 4)
    filled = torch.zeros(1, 1, 4, 4)
    filled[0, 0, 1, 2] = filled[0, 0, 3, 0] = 1.0
    # Two pillars, an empty cell and one off the canvas; then a ray that meets nothing.
    rays = torch.tensor(
        [[[0.25, -0.25], [-0.75, 0.75], [0.75, 0.75], [2.0, 2.0]], [[2.0, 0.0]] * 4]
    )
    out = attention(torch.randn(1, 2, 2), canvas, filled, rays[None])
    expected = (canvas[0, :, 1, 2] + canvas[0, :, 3, 0]) / 2
    torch.testing.assert_close(out[0, 0], expected)
    assert not out[0, 1].any()


def test_a_cell_takes_the_mean_of_those_about_it() -> None:
    attention = LocalAttention(1)
    even(attention)
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    out = attention(image)
    torch.testing.assert_close(out[0, 0, 1, 1], image[0, 0, :, :3].mean())
    torch.testing.assert_close(out[0, 0, 0, 0], image[0, 0, :2, :2].mean())  # nothing beyond


def test_images_do_not_mix_and_the_exchange_begins_at_nothing() -> None:
    torch.manual_seed(0)
    exchange = ImageExchange(8)
    atlas, canvas = torch.randn(2, 8, 6, 5), torch.randn(2, 8, 16, 16)
    filled, rays = torch.ones(2, 1, 16, 16), torch.rand(2, 30, 4, 2) * 2 - 1
    assert torch.equal(exchange(atlas, canvas, filled, rays, 2), atlas)
    torch.nn.init.normal_(exchange.outer[-1].weight)  # type: ignore[arg-type]
    before = exchange(atlas, canvas, filled, rays, 2)
    assert before.shape == atlas.shape and not torch.allclose(before, atlas)
    lower = atlas.clone()
    lower[:, :, 3:] += 1.0
    after = exchange(lower, canvas, filled, rays, 2)
    torch.testing.assert_close(after[:, :, :3], before[:, :, :3])
    assert not torch.allclose(after[:, :, 3:] - 1.0, before[:, :, 3:])


@pytest.mark.parametrize("model", ["pinhole", "equidistant"])
def test_places_along_a_ray_are_seen_by_its_cell(model: str) -> None:
    pose = poses.from_xyz_rpy((0.4, -0.3, 1.5), (0.0, 0.1, 0.7)) @ OPTICAL
    camera = CameraModel(
        96, 56, np.array([[60.0, 0, 47.5], [0, 60, 27.5], [0, 0, 1]]), model,  # type: ignore[arg-type]
        np.zeros(4 if model == "equidistant" else 0),
    )  # fmt: skip
    motion = poses.from_xyz_rpy((0, 0, 0.1), (0, 0, 0.5)) @ np.diag([1.0, -1.0, 1.0, 1.0])
    views = [None, ImageView(camera, pose)]
    places = atlas_rays(views, (64, 96), 8, 80.0, (-0.8, 4.0), motion)
    assert places.shape == (2 * 8 * 12, RAY_PLACES, 2) and places.dtype == np.float32
    cells = places.reshape(2, 8, 12, RAY_PLACES, 2)
    assert (cells[0] == 2.0).all()  # a missing image
    assert (cells[1, 7] == 2.0).all()  # below the image, which is 56 pixels high
    kept = np.argwhere((np.abs(cells[1]) <= 1).all(axis=-1))
    assert len(kept) > 100
    for row, column, k in kept:
        # The ray's height there is not told: of the points above and below, one lies in the cell.
        x, y = cells[1, row, column, k] * 80.0
        line = np.column_stack([np.full(200, x), np.full(200, y), np.linspace(-0.7, 4.1, 200)])
        pixels, seen = camera.project(
            poses.transform_points(poses.inverse(pose) @ np.linalg.inv(motion), line)
        )
        off = np.abs(pixels[seen] - (8 * column + 3.5, 8 * row + 3.5)).max(axis=1)
        assert off.min() < 1.5
    # Looking down, a ray ends at the ground.
    lowest = np.abs(cells[1, 6]).max(axis=-1) <= 1
    assert 0 < lowest.sum() < lowest.size / 2


def test_it_is_off_and_needs_images() -> None:
    assert not DetectorConfig().exchange
    names = ProposalNetwork(SMALL, pretrained=False).state_dict()
    assert not [n for n in names if "exchange" in n]
    assert "camera_rays" not in proposal_examples(SMALL)
    more = set(ProposalNetwork(EXCHANGE, pretrained=False).state_dict()) - set(names)
    assert more and all("_exchange." in n for n in more)
    with pytest.raises(ConfigurationError, match="exchange needs global_fusion"):
        build(DetectorConfig, {"exchange": True, "global_fusion": False}, "t.yaml")


def test_a_network_without_it_goes_on_with_it() -> None:
    torch.manual_seed(0)
    plain = with_images(ProposalNetwork(SMALL, pretrained=False))
    more = with_images(ProposalNetwork(EXCHANGE, pretrained=False))
    more.load_state_dict(plain.state_dict(), strict=False)
    inputs = proposal_examples(EXCHANGE)
    inputs["pillars"] = torch.randn(inputs["pillars"].shape)
    inputs["camera_seen"][:] = 1.0
    for kind in ("camera", "thermal"):
        inputs[f"{kind}_rays"] = torch.rand(inputs[f"{kind}_rays"].shape) - 0.5
    bare = [v for n, v in inputs.items() if "rays" not in n]
    with torch.inference_mode():
        for a, b in zip(plain(*bare), more(*inputs.values()), strict=True):
            assert torch.equal(a, b)
        torch.nn.init.normal_(more.camera_exchange.outer[-1].weight)  # type: ignore[arg-type]
        assert not torch.equal(more(*inputs.values())[3], plain(*bare)[3])


def test_from_training_to_boxes_and_tensorrt(samples: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(configured("proposals", 2), network=EXCHANGE)
    trained = train_proposals(config, samples, tmp_path / "p")
    assert trained.camera_exchange.outer[-1].weight.any()  # it has learnt something
    weights = tmp_path / "p" / "proposals.safetensors"
    training = Training("train detector", 0, 0.0, "test")
    card, *_ = export_detector(EXCHANGE, weights, None, tmp_path / "small", training)
    assert card.inputs["camera_rays"].shape == (1, 2 * 16 * 24, RAY_PLACES, 2)
    runtime = RuntimeConfig(order=("onnxruntime",), threads=1)
    detector = FusionDetector(FusionConfig(str(tmp_path / "small"), min_score=0.0), runtime)
    frame = frame_of(9)
    boxes = detector.detect(frame, ground_cloud(frame))
    assert len(boxes) and detector.counts["geometric_instead"] == 0
    rng = np.random.default_rng(0)
    inputs = {
        n: rng.integers(0, 255, s.shape).astype(s.dtype)
        if s.dtype != "float32"
        else rng.uniform(-1, 1, s.shape).astype(np.float32)
        for n, s in card.inputs.items()
    }
    inputs["cells"] = rng.permutation(SMALL.pillars.size**2)[None, : SMALL.pillars.most]
    a = open_one("onnxruntime", card, runtime).run(inputs)
    b = open_one("torch", card, RuntimeConfig(device="cpu", threads=1)).run(inputs)
    for name in ("scores", "boxes", "bev"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4)
    pytest.importorskip("tensorrt_rtx")
    from multimodal_perception.runtime.tensorrt import ANY_GPU, Library, Target, build_plan

    library = Library("tensorrt_rtx")
    target = Target(ANY_GPU, (8, 9))
    plan = build_plan(library, card.read_file("onnx"), card, RuntimeConfig(), target)
    assert len(plan) > 10_000
