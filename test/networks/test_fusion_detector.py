"""The networks of the fusion detector: masks of missing data, exact sampling, and box coding."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.roi_features import PROFILE_FEATURES
from multimodal_perception.detection.fusion.network_config import IMAGE_MODALITIES
from multimodal_perception.networks.bev_backbone import FeaturePyramid
from multimodal_perception.networks.box_residuals import (
    END_BINS,
    apply_residuals,
    end_shifts,
)
from multimodal_perception.networks.deformable import DeformableAttention
from multimodal_perception.networks.fusion_backbone import (
    BevBackbone,
    RCNetPyramid,
)
from multimodal_perception.networks.fusion_detector import (
    ProposalNetwork,
    RefinementNetwork,
    build_image,
    build_proposals,
)
from multimodal_perception.networks.global_fusion import GlobalFusion
from multimodal_perception.training.detector.export import (
    image_examples,
    proposal_examples,
    refinement_examples,
    split_image_networks,
)
from test.networks.detectors import SMALL, with_images


@pytest.fixture(scope="module")
def network() -> ProposalNetwork:
    torch.manual_seed(0)
    return with_images(ProposalNetwork(SMALL, pretrained=False))


def random_inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    inputs = proposal_examples(SMALL)
    count = SMALL.pillars.max_pillars
    inputs["pillars"] = torch.randn(inputs["pillars"].shape)
    inputs["pillar_cells"] = torch.randperm(SMALL.pillars.size**2)[None, :count]
    for modality in ("camera", "thermal"):
        inputs[f"{modality}_feature_map"] = torch.randn(inputs[f"{modality}_feature_map"].shape)
        inputs[f"{modality}_uv"] = torch.rand(1, count, 2) * 2 - 1
    return inputs


def test_backbone_is_equal_in_training_and_inference_form() -> None:
    torch.manual_seed(0)
    backbone = BevBackbone(6, (8, 8, 8), (1, 1, 1)).eval()
    norm = backbone.stages[0][0][1]
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean):
            values.normal_()
        norm.running_var.uniform_(0.1, 3.0)
    canvas, extra = torch.randn(2, 4, 16, 16), torch.randn(2, 2, 16, 16)
    expected = backbone.stages[0](torch.cat([canvas, extra], 1))
    np.testing.assert_allclose(backbone(canvas, extra)[0].detach(), expected.detach(), atol=1e-5)


def test_image_features_of_invisible_pillars_have_no_effect(network: ProposalNetwork) -> None:
    inputs = random_inputs()
    with torch.inference_mode():
        first = network(*inputs.values())
        inputs["camera_feature_map"] += 1.0
        inputs["thermal_feature_map"] += 1.0
        second = network(*inputs.values())
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)
        inputs["camera_valid"][:, :300] = 1.0
        visible = network(*inputs.values())
    assert not torch.equal(visible[3], second[3])


def test_global_fusion_keeps_invisible_pillars_unchanged() -> None:
    torch.manual_seed(0)
    fusion = GlobalFusion(16, 8).eval()
    pillars, visible = torch.randn(1, 5, 16), torch.tensor([[1.0, 0, 1, 0, 0]])
    image, sample_uv = torch.randn(1, 8, 8, 6), torch.zeros(1, 5, 2)
    # Initially the output is the input, but gradients are not zero.
    initial = fusion(pillars, image, sample_uv, visible, 1)
    assert torch.equal(initial, pillars)
    initial.sum().backward()
    assert fusion.scale.grad is not None and fusion.scale.grad.abs().max() > 0
    with torch.no_grad():
        fusion.scale.fill_(1.0)
    out = fusion(pillars, image, sample_uv, visible, 1)
    assert torch.equal(out[:, [1, 3, 4]], pillars[:, [1, 3, 4]])
    assert not torch.equal(out[:, [0, 2]], pillars[:, [0, 2]])


def test_deformable_attention_samples_only_the_image_of_the_reference_position() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(4, 1, 4)
    with torch.no_grad():
        attention.value.weight.fill_(1.0)
        attention.value.bias.zero_()
        attention.offsets.bias.zero_()
        attention.out.weight.copy_(torch.eye(4))
        attention.out.bias.zero_()
    feature_map = torch.zeros(1, 1, 8, 5)
    feature_map[:, :, :4] = 2.0  # the first of two images; the second is zero
    sample_uv = torch.tensor([[[0.0, -0.5], [0.0, 0.5]]])
    out = attention(torch.randn(1, 2, 4), feature_map, sample_uv, 2)
    np.testing.assert_allclose(out[0, 0].detach(), 2.0, atol=1e-5)
    np.testing.assert_allclose(out[0, 1].detach(), 0.0, atol=1e-5)
    with torch.no_grad():
        attention.offsets.bias.fill_(100.0)  # far outside
    outside = attention(torch.randn(1, 2, 4), feature_map, sample_uv, 2)
    assert torch.isfinite(outside).all()


def test_deformable_attention_matches_equation_2() -> None:
    torch.manual_seed(0)
    heads, points, images = 2, 3, 2
    attention = DeformableAttention(5, 3, 4, heads, points).eval()
    with torch.no_grad():
        for layer in (attention.offsets, attention.weights):
            layer.weight.normal_(std=0.5)
    query, feature_map = torch.randn(2, 7, 5), torch.randn(2, 3, 8, 6)
    sample_uv = torch.rand(2, 7, 2) * 2 - 1
    out = attention(query, feature_map, sample_uv, images)
    value = attention.value(feature_map)
    offsets = attention.offsets(query).reshape(2, 7, heads, points, 2)
    weights = attention.weights(query).reshape(2, 7, heads, points).softmax(-1)
    for b, q in ((0, 0), (0, 6), (1, 3)):
        top = -1.0 if sample_uv[b, q, 1] < 0 else 0.0  # upper edge of its image
        heads_out = []
        for h in range(heads):
            position = sample_uv[b, q] + offsets[b, q, h] * torch.tensor([2 / 6, 2 / 8])
            position[:, 1] = position[:, 1].clamp(top, top + 1.0)
            head = value[b : b + 1, 2 * h : 2 * h + 2]
            sampled = torch.nn.functional.grid_sample(
                head, position[None, None], align_corners=False
            )
            heads_out.append((sampled[0, :, 0] * weights[b, q, h]).sum(-1))
        expected = attention.out(torch.cat(heads_out))
        np.testing.assert_allclose(out[b, q].detach(), expected.detach(), atol=1e-5)


@pytest.mark.parametrize(("local", "dynamic"), [(False, False), (True, False), (True, True)])
def test_untrained_refinement_keeps_the_proposals(local: bool, dynamic: bool) -> None:
    config = dataclasses.replace(SMALL, local_fusion=local, dynamic_aggregation=dynamic)
    network = RefinementNetwork(config).eval()
    inputs = refinement_examples(config)
    inputs["bev_features"] = torch.randn(inputs["bev_features"].shape)
    confidences, boxes = network(*inputs.values())
    assert confidences.shape == (1, 8, 6) and boxes.shape == (1, 8, 7)
    assert torch.isfinite(confidences).all()  # also for proposals without points
    np.testing.assert_allclose(boxes.detach(), 1.0, atol=0.1)


def test_added_refinement_modules_have_no_initial_effect() -> None:
    torch.manual_seed(0)
    inputs = refinement_examples(SMALL)
    for name in ("bev_features", "proposal_features", "roi_grid", "roi_profile"):
        inputs[name] = torch.randn(inputs[name].shape)
    local = RefinementNetwork(dataclasses.replace(SMALL, dynamic_aggregation=False)).eval()
    # As after training.
    torch.nn.init.normal_(local.head.residual.weight, std=0.1)
    full = RefinementNetwork(SMALL).eval()
    full.load_state_dict(local.state_dict(), strict=False)
    with torch.no_grad():
        for a, b in zip(local(*inputs.values()), full(*inputs.values()), strict=True):
            assert torch.equal(a, b)
        torch.nn.init.ones_(full.head.dynamic_aggregation.norms[1].weight)  # type: ignore[union-attr, arg-type]
        assert not torch.equal(full(*inputs.values())[1], local(*inputs.values())[1])
    # The correction of large vehicles depends on the first outputs.
    head = local.head
    torch.nn.init.normal_(head.large_vehicle_head[-1].weight)  # type: ignore[arg-type]
    logits, residuals = torch.zeros(1, 8, 6), torch.zeros(1, 8, 8)
    features = inputs["proposal_features"], inputs["roi_profile"]
    first, second = (
        head.refine_dimensions(*features, logits, residuals + k).residuals_without_end_shift
        for k in (0, 1)
    )
    assert not torch.equal(first, second - 1)


def features_of(length: float, towards: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Proposal features and profile of one proposal."""
    features, profile = torch.zeros(1, 1, 17), torch.zeros(1, 1, PROFILE_FEATURES)
    features[..., 6] = math.log(length)
    profile[..., 0] = towards
    return features, profile


@pytest.mark.parametrize("towards", [1.0, -1.0])
def test_likelier_far_end_is_chosen_and_near_end_is_kept(towards: float) -> None:
    head = RefinementNetwork(SMALL).head
    shifts = end_shifts(torch.zeros(1))
    bias = head.large_vehicle_head[-1].bias
    assert isinstance(bias, torch.Tensor)
    with torch.no_grad():  # two likely shifts: 0 m, and 3 m with a higher probability
        bias[-END_BINS:] = -20.0
        bias[-END_BINS:][shifts == 0.0] = 3.0
        bias[-END_BINS:][shifts == 3.0] = 5.0
    outputs = torch.zeros(1, 1, 6), torch.zeros(1, 1, 8)
    box = torch.tensor([[[20.0, 1.0, 1.5, 9.0, 2.5, 3.0, 0.0]]])
    refined = head.refine_dimensions(*features_of(9.0, towards), *outputs)
    result = apply_residuals(box, refined.residuals)[0, 0].detach().numpy()
    # The end towards the sensor, in front or behind, is not moved.
    x = 20.0 - towards * 1.5
    np.testing.assert_allclose(result, [x, 1.0, 1.5, 12.0, 2.5, 3.0, 0.0], atol=0.02)
    # Cars and people stay unchanged.
    for length in (4.5, 0.5):
        refined = head.refine_dimensions(*features_of(length, towards), *outputs)
        assert torch.equal(refined.residuals, torch.zeros(1, 1, 8))


@pytest.mark.parametrize("pyramid", [FeaturePyramid, RCNetPyramid])
def test_necks_fuse_three_scales_at_the_finest(pyramid: type) -> None:
    neck = pyramid((8, 12, 16), 8).eval()
    features = [torch.randn(1, 8, 16, 16), torch.randn(1, 12, 8, 8), torch.randn(1, 16, 4, 4)]
    out = neck(features)
    assert out.shape == (1, 8, 16, 16)
    features[2] = features[2] + 1.0
    assert not torch.equal(out, neck(features))  # the coarsest scale matters


def test_network_without_global_fusion_has_no_image_inputs() -> None:
    config = dataclasses.replace(SMALL, global_fusion=False)
    network = build_proposals({"network": {"global_fusion": False}})
    assert not any("camera" in name for name, _ in network.named_parameters())
    lidar_only = ProposalNetwork(config).eval()
    assert list(proposal_examples(config)) == ["pillars", "pillar_cells", "ultrasonic_grid"]
    assert len(lidar_only(*proposal_examples(config).values())) == 4


@pytest.mark.parametrize("modality", IMAGE_MODALITIES)
def test_exported_parts_match_the_trained_network(modality: str, network: ProposalNetwork) -> None:
    first, images = split_image_networks(network)
    (pixels,) = image_examples(SMALL, modality).values()
    pixels = torch.randint(0, 255, pixels.shape, dtype=torch.uint8)
    neck, backbone = getattr(network, f"{modality}_neck"), getattr(network, f"{modality}_trunk")
    with torch.inference_mode():
        features = images[modality](pixels)
        assert torch.equal(features, neck(*backbone(pixels)))
        inputs = random_inputs()
        inputs[f"{modality}_valid"][:] = 1.0
        for a, b in zip(first(*inputs.values()), network(*inputs.values()), strict=True):
            assert torch.equal(a, b)
    assert features.shape[:2] == (1, SMALL.channels)
    assert not any(
        n.startswith((f"{modality}_trunk", f"{modality}_neck")) for n in first.state_dict()
    )


def test_unknown_image_modality_raises() -> None:
    with pytest.raises(UserError, match=r"settings\.image: allowed: camera, thermal"):
        build_image({"image": "radar"})
