"""The networks of the fusion detector: masks of missing data, exact sampling, and box coding."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.network_config import IMAGE_MODALITIES
from multimodal_perception.detection.fusion.roi_features import PROFILE_FEATURES
from multimodal_perception.networks.bev_backbone import BevBackbone, FeaturePyramid, RCNetPyramid
from multimodal_perception.networks.centre_head import BOX_CODE_SIZE, decode_boxes, select_peaks
from multimodal_perception.networks.deformable import DeformableAttention
from multimodal_perception.networks.fusion_detector import (
    PEAK_RATIOS,
    ProposalNetwork,
    RefinementNetwork,
    build_image,
    build_proposals,
)
from multimodal_perception.networks.global_fusion import GlobalFusion
from multimodal_perception.networks.pillars import scatter_to_canvas
from multimodal_perception.networks.refinement_head import (
    END_BINS,
    apply_residuals,
    end_shifts,
)
from multimodal_perception.training.detector.export import (
    image_examples,
    proposal_examples,
    refinement_examples,
    split_image_networks,
)
from multimodal_perception.training.detector.targets_and_losses import (
    centre_targets,
    residual_target,
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


def test_scatter_writes_pillars_to_their_cells_and_drops_padding() -> None:
    pillars = torch.arange(6.0).reshape(1, 3, 2) + 1
    canvas = scatter_to_canvas(pillars, torch.tensor([[5, 0, 16]]), 4)
    assert canvas.shape == (1, 2, 4, 4)
    assert canvas[0, :, 1, 1].tolist() == [1, 2] and canvas[0, :, 0, 0].tolist() == [3, 4]
    assert float(canvas.sum()) == 10.0
    # The frames of a batch are independent.
    both = scatter_to_canvas(
        torch.cat([pillars, -pillars]), torch.tensor([[5, 0, 16], [16, 16, 2]]), 4
    )
    assert torch.equal(both[:1], canvas)
    assert both[1, :, 0, 2].tolist() == [-5, -6] and float(both[1].sum()) == -11.0


def test_scatter_propagates_gradients() -> None:
    pillars = torch.randn(1, 3, 2, requires_grad=True)
    scatter_to_canvas(pillars, torch.tensor([[5, 0, 16]]), 4).sum().backward()
    assert pillars.grad is not None
    assert pillars.grad.tolist() == [[[1, 1], [1, 1], [0, 0]]]


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


def test_decoding_inverts_the_targets() -> None:
    boxes = np.array(
        [[3.3, -7.1, 0.9, 4.2, 1.8, 1.5, 2.5], [-10.0, 5.5, 0.8, 0.6, 0.7, 1.7, -1.0]], np.float32
    )
    heat, cells, codes, weights = centre_targets(boxes, np.array([0, 4]), 6, 32, 0.8, 12.8)
    assert weights.sum() == 2 and (heat.max(axis=(1, 2))[[0, 4]] == 1.0).all()
    logits = torch.full((1, 6, 32, 32), -9.0) + 14.0 * torch.from_numpy(heat)[None]
    dense = torch.zeros(1, BOX_CODE_SIZE, 32 * 32)
    for k in range(2):
        dense[0, :, cells[k]] = torch.from_numpy(codes[k])
    scores, labels, peaks, codes_at_peaks = select_peaks(
        logits, dense.reshape(1, BOX_CODE_SIZE, 32, 32), 2, PEAK_RATIOS
    )
    decoded = decode_boxes(peaks, codes_at_peaks, 32, 0.8, 12.8)[0].numpy()
    order = np.argsort(labels[0].numpy())
    np.testing.assert_allclose(decoded[order], boxes, atol=1e-4)
    assert (scores > 0.9).all() and labels[0, order].tolist() == [0, 4]


def test_adjacent_people_are_two_peaks_and_adjacent_cars_one() -> None:
    # Two people and two cars in neighbouring cells, which is impossible for cars.
    centres = np.array([[0.1, 0.1], [0.9, 0.1], [-8.0, 3.0], [-7.1, 3.0]])
    sizes = np.array([[0.6, 0.6, 1.7], [0.6, 0.6, 1.7], [4.2, 1.8, 1.5], [4.2, 1.8, 1.5]])
    boxes = np.column_stack([centres, np.ones(4), sizes, np.zeros(4)]).astype(np.float32)
    heat, *_ = centre_targets(boxes, np.array([4, 4, 0, 0]), 6, 32, 0.8, 12.8)
    heat[:, :, :] = np.clip(heat, 1e-4, 0.9)
    heat[4][heat[4] > 0.89] = [0.9, 0.6]  # one of them has a lower score
    heat[0][heat[0] > 0.89] = [0.9, 0.6]
    logits = torch.logit(torch.from_numpy(heat))[None]
    scores, labels, cells, _ = select_peaks(
        logits, torch.zeros(1, BOX_CODE_SIZE, 32, 32), 6, PEAK_RATIOS
    )
    confident = scores[0] > 0.3
    assert sorted(labels[0, confident].tolist()) == [0, 4, 4]
    people = cells[0, confident & (labels[0] == 4)]
    assert abs(int(people[0]) - int(people[1])) == 1
    # The cells around the peaks are not peaks.
    assert not ((scores[0] > 0.01) & ~confident).any()


@pytest.mark.parametrize("yaw", [0.0, 1.2, 1.5707, -2.9])
def test_uncertain_front_keeps_the_axis(yaw: float) -> None:
    # The output of a network that is sure of the axis, but not of which end is the front.
    codes = torch.zeros(1, BOX_CODE_SIZE)
    codes[0, 6], codes[0, 7] = 0.05 * np.cos(yaw), -0.05 * np.sin(yaw)  # perpendicular to the axis
    codes[0, 8], codes[0, 9] = 0.9 * np.sin(2 * yaw), 0.9 * np.cos(2 * yaw)
    decoded = decode_boxes(torch.zeros(1, dtype=torch.int64), codes, 32, 0.8, 12.8)[0, 6].item()
    assert abs(np.sin(decoded - yaw)) < 1e-5


def test_residual_targets_move_proposals_to_their_boxes() -> None:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0.5, 4.0, (20, 7)).astype(np.float32)
    proposals = boxes + rng.normal(0, 0.1, boxes.shape).astype(np.float32)
    residuals = residual_target(torch.from_numpy(proposals), torch.from_numpy(boxes))
    refined = apply_residuals(torch.from_numpy(proposals), residuals).numpy()
    np.testing.assert_allclose(refined, boxes, atol=1e-4)


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
