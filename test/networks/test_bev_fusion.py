"""Networks of the BEV fusion detector: masks of missing data, decoding, switches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from multimodal_perception.detection.bev_fusion.network_config import (
    CLASSES,
    VARIANCES,
    BevFusionNetworkConfig,
    stage1_inputs,
)
from multimodal_perception.detection.bev_fusion.network_inputs import (
    LOG_VARIANCE_SCALE,
    stage2_inputs,
)
from multimodal_perception.networks.bev_fusion import (
    CODE_SIZE,
    LOG_VARIANCE,
    STAGE1_OUTPUTS,
    VELOCITY,
    BevExchange,
    BevFusionNetwork,
    PillarImageFusion,
    metric_variances,
)
from multimodal_perception.networks.bev_fusion_images import ImageEncoder, example_inputs
from multimodal_perception.networks.bev_fusion_refinement import (
    BevFusionRefinement,
    SampledLocalFusion,
)
from multimodal_perception.runtime.onnx_export import export_onnx
from multimodal_perception.training.bev_fusion.export import example_tensors
from test.detection.bev_fusion.small_images import SMALL
from test.detection.bev_fusion.small_models import randomise


def random_tensors(shapes: dict, config: BevFusionNetworkConfig) -> dict[str, torch.Tensor]:
    tensors = example_tensors(shapes, config)
    rng = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(t.shape, generator=rng) if t.dtype == torch.float32 else t
        for name, t in tensors.items()
    }


def refinement_tensors(config: BevFusionNetworkConfig = SMALL) -> dict[str, torch.Tensor]:
    inputs = random_tensors(stage2_inputs(config, len(CLASSES)), config)
    inputs["boxes"] = inputs["boxes"].abs() + 1.0
    inputs["roi_bev"] = inputs["roi_bev"].clamp(-1, 1)
    return inputs


def test_head_values_become_boxes_velocities_and_variances() -> None:
    network = BevFusionNetwork(SMALL).eval()
    size = SMALL.lift_size
    heatmap = torch.full((1, len(CLASSES), size, size), -9.0)
    heatmap[0, 2, 5, 20] = 2.0
    code = torch.zeros(1, CODE_SIZE, size, size)
    code[0, :3, 5, 20] = torch.tensor([0.25, 0.75, 1.1])
    code[0, 3:6, 5, 20] = torch.log(torch.tensor([8.0, 2.5, 3.0]))
    code[0, [7, 9], 5, 20] = 1.0  # cosine of the yaw and of twice the yaw
    code[0, VELOCITY, 5, 20] = torch.tensor([4.0, -2.0])
    code[0, LOG_VARIANCE, 5, 20] = torch.arange(VARIANCES) / 4 - 1
    found = network.decode(heatmap, code)
    half, cell = SMALL.pillars.half_extent, SMALL.lift_cell
    expected = [20.25 * cell - half, 5.75 * cell - half, 1.1, 8.0, 2.5, 3.0, 0.0]
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor(expected), atol=1e-4, rtol=1e-4)
    assert int(found.labels[0, 0]) == 2
    assert float(found.scores[0, 0]) == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-5)
    assert found.velocities[0, 0].tolist() == [4.0, -2.0]
    variances = metric_variances(found.log_variances, found.boxes)[0, 0]
    logs = np.arange(VARIANCES) / 4 - 1
    scale = np.array([1, 1, 1, 8.0**2, 2.5**2, 3.0**2, 1, 1, 1])
    np.testing.assert_allclose(variances.numpy(), np.exp(logs) * scale, rtol=1e-4)


def test_pillars_that_no_image_shows_stay_unchanged() -> None:
    fusion = PillarImageFusion(8, 10).eval()
    randomise(fusion)
    pillars, images = torch.randn(1, 4, 8), torch.randn(1, 4, 20)
    images[..., 9] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    images[..., 19] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    fused = fusion(pillars, images)
    changed = (fused != pillars).any(-1)[0].tolist()
    assert changed == [False, True, True, True]


def test_grid_points_that_no_image_shows_keep_their_features() -> None:
    fusion = SampledLocalFusion(16, 10).eval()
    randomise(fusion)
    grid, images = torch.randn(2, 5, 7), torch.randn(2, 5, 20)
    images[..., [9, 19]] = 0.0
    other = images.clone()
    other[..., :9] = 7.0
    torch.testing.assert_close(fusion(grid, images), fusion(grid, other))
    other[:, 2, 9] = 1.0
    changed = (fusion(grid, images) != fusion(grid, other)).any(-1)
    assert changed.any(0).tolist() == [False, False, True, False, False]


def test_untrained_refinement_keeps_the_proposals() -> None:
    torch.manual_seed(0)
    network, inputs = BevFusionRefinement(SMALL).eval(), refinement_tensors()
    scores = torch.zeros(1, inputs["boxes"].shape[1], len(CLASSES))
    labels = torch.arange(scores.shape[1]) % len(CLASSES)
    values = torch.linspace(0.1, 0.9, len(labels))
    scores[0, torch.arange(len(labels)), labels] = values
    inputs["proposal_features"][..., : len(CLASSES)] = scores
    outputs = network.refine(inputs)
    confidences = outputs.logits.sigmoid()[0]
    assert confidences.argmax(-1).tolist() == labels.tolist()
    torch.testing.assert_close(confidences.amax(-1), values, atol=0.02, rtol=0.0)
    assert float(outputs.residuals.detach().abs().max()) < 0.05
    first = inputs["proposal_features"][..., -VARIANCES:] * LOG_VARIANCE_SCALE
    torch.testing.assert_close(outputs.velocities, inputs["velocities"], atol=0.1, rtol=0.0)
    torch.testing.assert_close(outputs.log_variances, first.clamp(-8.0, 6.0), atol=0.2, rtol=0.0)


@pytest.mark.parametrize("missing", ["points", "images", "both"])
def test_refinement_works_without_points_or_images(missing: str) -> None:
    torch.manual_seed(0)
    network, inputs = BevFusionRefinement(SMALL).eval(), refinement_tensors()
    if missing in ("points", "both"):
        inputs["roi_grid"][..., 3] = float(np.log10(0.5))
        inputs["roi_profile"] = torch.zeros_like(inputs["roi_profile"])
    if missing in ("images", "both"):
        inputs["roi_images"] = torch.zeros_like(inputs["roi_images"])
    for values in network(*(inputs[name] for name in network.inputs)):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize(
    ("switch", "absent"),
    [
        ({"lift": False}, "image_bev"),
        ({"pillar_images": False}, "pillar_images"),
        ({"local_fusion": False}, "roi_images"),
        ({"dynamic_aggregation": False}, ""),
        ({"painting": False}, ""),
        ({"past_sweeps": 0}, ""),
        ({"bev_exchange": True}, ""),
    ],
)
def test_switches_change_inputs_and_run(switch: dict, absent: str) -> None:
    config = dataclasses.replace(SMALL, **switch)
    first, second = BevFusionNetwork(config).eval(), BevFusionRefinement(config).eval()
    inputs = random_tensors(stage1_inputs(config), config)
    with torch.inference_mode():
        outputs = first(*inputs.values())
        refined = second(*refinement_tensors(config).values())
    assert absent not in inputs and absent not in second.inputs
    assert len(outputs) == len(STAGE1_OUTPUTS) and outputs[2].shape == (1, 16, 7)
    assert refined[1].shape == (1, 8, 7)


def test_contradicting_switches_are_refused() -> None:
    for values in (
        {"bev_exchange": True, "lift": False},
        {"camera_size": (100, 96)},
        {"lift_heights": ()},
        {"lift_heights": (2.0, 1.0)},
        {"min_range": 70.0},
    ):
        with pytest.raises(ValueError, match=r"needs lift|multiples|lift_heights|min_range"):
            dataclasses.replace(SMALL, **values)  # type: ignore[arg-type]


def test_exchange_is_attention_to_the_neighbourhood(tmp_path: Path) -> None:
    exchange = BevExchange(8).eval()
    lidar, images = torch.randn(1, 8, 6, 7), torch.randn(1, 8, 6, 7)
    for before, after in zip((lidar, images), exchange(lidar, images), strict=True):
        torch.testing.assert_close(before, after)  # the scales start at zero
    randomise(exchange)
    with torch.no_grad():
        exchange.scale.fill_(1.0)
        moved = images.clone()
        moved[..., 2, 3] += 5.0
        difference = (exchange(lidar, moved)[0] - exchange(lidar, images)[0]).abs().sum(1)[0]
        assert sorted({(int(i), int(j)) for i, j in difference.nonzero()}) == [
            (i, j) for i in (1, 2, 3) for j in (2, 3, 4)
        ]
        expected = exchange(lidar, images)
    export_onnx(exchange, {"a": lidar, "b": images}, ("c", "d"), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]
    )
    outputs = session.run(None, {"a": lidar.numpy(), "b": images.numpy()})
    for tensor, values in zip(expected, outputs, strict=True):
        np.testing.assert_allclose(tensor.numpy(), values, atol=1e-4)


def test_range_distribution_depends_on_the_rays() -> None:
    encoder = ImageEncoder(SMALL, 3, pretrained=False).eval()
    randomise(encoder)
    inputs = example_inputs(SMALL, "camera")
    with torch.inference_mode():
        features, ranges = encoder(**inputs)
        inputs["ray_features"] = torch.ones_like(inputs["ray_features"])
        other = encoder(**inputs)[1]
    assert features.shape == (1, 16, 24, SMALL.channels)
    assert ranges.shape == (1, 8, 12, SMALL.range_bins)
    torch.testing.assert_close(ranges.sum(-1), torch.ones(1, 8, 12))
    assert (ranges - other).abs().max() > 1e-3


def test_range_bins_are_logarithmic_and_open() -> None:
    edges = SMALL.range_edges
    assert SMALL.range_bin(np.array([0.0, 1.5, 1e9, np.inf])).tolist() == [0, 0, 11, 11]
    middle = np.sqrt(edges[:-1] * edges[1:])
    assert SMALL.range_bin(middle).tolist() == list(range(SMALL.range_bins - 1))
    np.testing.assert_allclose(np.diff(np.log(edges)), np.diff(np.log(edges))[0], rtol=1e-4)
