"""The fusion detector's networks: masks mean absence, places are exact, codes go both ways."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.network_config import IMAGE_KINDS
from multimodal_perception.networks.bev_backbone import BevBackbone, FeaturePyramid, ReversePyramid
from multimodal_perception.networks.centre_head import CODE, best_centres, boxes_of
from multimodal_perception.networks.deformable import DeformableAttention
from multimodal_perception.networks.fusion_detector import (
    PEAKS,
    ProposalNetwork,
    RefinementNetwork,
    build_image,
    build_proposals,
)
from multimodal_perception.networks.global_fusion import GlobalFusion
from multimodal_perception.networks.local_fusion import (
    ENDS,
    OUTLINE,
    end_places,
    refined_boxes,
)
from multimodal_perception.networks.pillars import scatter_to_canvas
from multimodal_perception.training.detector.export import (
    image_examples,
    parts_of,
    proposal_examples,
    refinement_examples,
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
    most = SMALL.pillars.most
    inputs["pillars"] = torch.randn(inputs["pillars"].shape)
    inputs["cells"] = torch.randperm(SMALL.pillars.size**2)[None, :most]
    for kind in ("camera", "thermal"):
        inputs[f"{kind}_atlas"] = torch.randn(inputs[f"{kind}_atlas"].shape)
        inputs[f"{kind}_places"] = torch.rand(1, most, 2) * 2 - 1
    return inputs


def test_scatter_puts_each_pillar_in_its_cell_and_fillers_nowhere() -> None:
    pillars = torch.arange(6.0).reshape(1, 3, 2) + 1
    canvas = scatter_to_canvas(pillars, torch.tensor([[5, 0, 16]]), 4)
    assert canvas.shape == (1, 2, 4, 4)
    assert canvas[0, :, 1, 1].tolist() == [1, 2] and canvas[0, :, 0, 0].tolist() == [3, 4]
    assert float(canvas.sum()) == 10.0
    # Each frame of a batch has its own.
    both = scatter_to_canvas(
        torch.cat([pillars, -pillars]), torch.tensor([[5, 0, 16], [16, 16, 2]]), 4
    )
    assert torch.equal(both[:1], canvas)
    assert both[1, :, 0, 2].tolist() == [-5, -6] and float(both[1].sum()) == -11.0


def test_scattered_pillars_learn() -> None:
    pillars = torch.randn(1, 3, 2, requires_grad=True)
    scatter_to_canvas(pillars, torch.tensor([[5, 0, 16]]), 4).sum().backward()
    assert pillars.grad is not None
    assert pillars.grad.tolist() == [[[1, 1], [1, 1], [0, 0]]]


def test_backbone_runs_as_it_was_trained() -> None:
    torch.manual_seed(0)
    backbone = BevBackbone(6, (8, 8, 8), (1, 1, 1)).eval()
    norm = backbone.stages[0][0][1]
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean):
            values.normal_()
        norm.running_var.uniform_(0.1, 3.0)
    canvas, beside = torch.randn(2, 4, 16, 16), torch.randn(2, 2, 16, 16)
    whole = backbone.stages[0](torch.cat([canvas, beside], 1))
    np.testing.assert_allclose(backbone(canvas, beside)[0].detach(), whole.detach(), atol=1e-5)


def test_images_that_nothing_sees_change_nothing(network: ProposalNetwork) -> None:
    inputs = random_inputs()
    with torch.inference_mode():
        dark = network(*inputs.values())
        inputs["camera_atlas"] += 1.0
        inputs["thermal_atlas"] += 1.0
        bright = network(*inputs.values())
        for a, b in zip(dark, bright, strict=True):
            assert torch.equal(a, b)
        inputs["camera_seen"][:, :300] = 1.0
        seen = network(*inputs.values())
    assert not torch.equal(seen[3], bright[3])


def test_global_fusion_leaves_unseen_pillars_untouched() -> None:
    torch.manual_seed(0)
    fusion = GlobalFusion(16, 8).eval()
    pillars, seen = torch.randn(1, 5, 16), torch.tensor([[1.0, 0, 1, 0, 0]])
    image, places = torch.randn(1, 8, 8, 6), torch.zeros(1, 5, 2)
    # It begins as a network without images, and learns from there.
    begun = fusion(pillars, image, places, seen, 1)
    assert torch.equal(begun, pillars)
    begun.sum().backward()
    assert fusion.scale.grad is not None and fusion.scale.grad.abs().max() > 0
    with torch.no_grad():
        fusion.scale.fill_(1.0)
    out = fusion(pillars, image, places, seen, 1)
    assert torch.equal(out[:, [1, 3, 4]], pillars[:, [1, 3, 4]])
    assert not torch.equal(out[:, [0, 2]], pillars[:, [0, 2]])


def test_deformable_attention_reads_the_place_and_never_the_next_image() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(4, 1, 4)
    with torch.no_grad():
        attention.value.weight.fill_(1.0)
        attention.value.bias.zero_()
        attention.offsets.bias.zero_()
        attention.out.weight.copy_(torch.eye(4))
        attention.out.bias.zero_()
    atlas = torch.zeros(1, 1, 8, 5)
    atlas[:, :, :4] = 2.0  # the first of two images; the second is dark
    places = torch.tensor([[[0.0, -0.5], [0.0, 0.5]]])
    out = attention(torch.randn(1, 2, 4), atlas, places, 2)
    np.testing.assert_allclose(out[0, 0].detach(), 2.0, atol=1e-5)
    np.testing.assert_allclose(out[0, 1].detach(), 0.0, atol=1e-5)
    with torch.no_grad():
        attention.offsets.bias.fill_(100.0)  # far down and right
    down = attention(torch.randn(1, 2, 4), atlas, places, 2)
    assert torch.isfinite(down).all()


def test_deformable_attention_is_its_equation() -> None:
    torch.manual_seed(0)
    heads, points, images = 2, 3, 2
    attention = DeformableAttention(5, 3, 4, heads, points).eval()
    with torch.no_grad():
        for layer in (attention.offsets, attention.weights):
            layer.weight.normal_(std=0.5)
    query, atlas = torch.randn(2, 7, 5), torch.randn(2, 3, 8, 6)
    places = torch.rand(2, 7, 2) * 2 - 1
    out = attention(query, atlas, places, images)
    value = attention.value(atlas)
    offsets = attention.offsets(query).reshape(2, 7, heads, points, 2)
    weights = attention.weights(query).reshape(2, 7, heads, points).softmax(-1)
    for b, q in ((0, 0), (0, 6), (1, 3)):
        top = -1.0 if places[b, q, 1] < 0 else 0.0  # of its image of the two
        seen = []
        for h in range(heads):
            at = places[b, q] + offsets[b, q, h] * torch.tensor([2 / 6, 2 / 8])
            at[:, 1] = at[:, 1].clamp(top, top + 1.0)
            own = value[b : b + 1, 2 * h : 2 * h + 2]
            found = torch.nn.functional.grid_sample(own, at[None, None], align_corners=False)
            seen.append((found[0, :, 0] * weights[b, q, h]).sum(-1))
        expected = attention.out(torch.cat(seen))
        np.testing.assert_allclose(out[b, q].detach(), expected.detach(), atol=1e-5)


def test_targets_and_decoding_go_both_ways() -> None:
    boxes = np.array(
        [[3.3, -7.1, 0.9, 4.2, 1.8, 1.5, 2.5], [-10.0, 5.5, 0.8, 0.6, 0.7, 1.7, -1.0]], np.float32
    )
    heat, cells, codes, weights = centre_targets(boxes, np.array([0, 4]), 6, 32, 0.8, 12.8)
    assert weights.sum() == 2 and (heat.max(axis=(1, 2))[[0, 4]] == 1.0).all()
    logits = torch.full((1, 6, 32, 32), -9.0) + 14.0 * torch.from_numpy(heat)[None]
    dense = torch.zeros(1, CODE, 32 * 32)
    for k in range(2):
        dense[0, :, cells[k]] = torch.from_numpy(codes[k])
    scores, labels, at, found = best_centres(logits, dense.reshape(1, CODE, 32, 32), 2, PEAKS)
    decoded = boxes_of(at, found, 32, 0.8, 12.8)[0].numpy()
    order = np.argsort(labels[0].numpy())
    np.testing.assert_allclose(decoded[order], boxes, atol=1e-4)
    assert (scores > 0.9).all() and labels[0, order].tolist() == [0, 4]


def test_people_side_by_side_are_two_and_a_car_is_one() -> None:
    # Two people and two cars whose centres lie in neighbouring cells; two cars cannot stand so.
    places = np.array([[0.1, 0.1], [0.9, 0.1], [-8.0, 3.0], [-7.1, 3.0]])
    sizes = np.array([[0.6, 0.6, 1.7], [0.6, 0.6, 1.7], [4.2, 1.8, 1.5], [4.2, 1.8, 1.5]])
    boxes = np.column_stack([places, np.ones(4), sizes, np.zeros(4)]).astype(np.float32)
    heat, *_ = centre_targets(boxes, np.array([4, 4, 0, 0]), 6, 32, 0.8, 12.8)
    heat[:, :, :] = np.clip(heat, 1e-4, 0.9)
    heat[4][heat[4] > 0.89] = [0.9, 0.6]  # one of them is seen less well
    heat[0][heat[0] > 0.89] = [0.9, 0.6]
    logits = torch.logit(torch.from_numpy(heat))[None]
    scores, labels, cells, _ = best_centres(logits, torch.zeros(1, CODE, 32, 32), 6, PEAKS)
    sure = scores[0] > 0.3
    assert sorted(labels[0, sure].tolist()) == [0, 4, 4]
    people = cells[0, sure & (labels[0] == 4)]
    assert abs(int(people[0]) - int(people[1])) == 1
    # The shoulders of either are no peaks.
    assert not ((scores[0] > 0.01) & ~sure).any()


@pytest.mark.parametrize("yaw", [0.0, 1.2, 1.5707, -2.9])
def test_a_doubtful_front_leaves_the_axis_as_it_is(yaw: float) -> None:
    # What a network says that has seen the shape, but as often one end in front as the other.
    codes = torch.zeros(1, CODE)
    codes[0, 6], codes[0, 7] = 0.05 * np.cos(yaw), -0.05 * np.sin(yaw)  # across the axis
    codes[0, 8], codes[0, 9] = 0.9 * np.sin(2 * yaw), 0.9 * np.cos(2 * yaw)
    found = boxes_of(torch.zeros(1, dtype=torch.int64), codes, 32, 0.8, 12.8)[0, 6].item()
    assert abs(np.sin(found - yaw)) < 1e-5


def test_residuals_bring_proposals_onto_their_boxes() -> None:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0.5, 4.0, (20, 7)).astype(np.float32)
    proposals = boxes + rng.normal(0, 0.1, boxes.shape).astype(np.float32)
    said = residual_target(torch.from_numpy(proposals), torch.from_numpy(boxes))
    refined = refined_boxes(torch.from_numpy(proposals), said).numpy()
    np.testing.assert_allclose(refined, boxes, atol=1e-4)


@pytest.mark.parametrize(("local", "dynamic"), [(False, False), (True, False), (True, True)])
def test_refinement_starts_from_the_proposals(local: bool, dynamic: bool) -> None:
    config = dataclasses.replace(SMALL, local_fusion=local, dynamic_aggregation=dynamic)
    network = RefinementNetwork(config).eval()
    inputs = refinement_examples(config)
    inputs["bev"] = torch.randn(inputs["bev"].shape)
    confidences, boxes = network(*inputs.values())
    assert confidences.shape == (1, 8, 6) and boxes.shape == (1, 8, 7)
    assert torch.isfinite(confidences).all()  # also where no cell holds anything
    np.testing.assert_allclose(boxes.detach(), 1.0, atol=0.1)


def test_what_is_added_to_the_refinement_begins_at_nothing() -> None:
    torch.manual_seed(0)
    inputs = refinement_examples(SMALL)
    for name in ("bev", "told", "roi_grid", "roi_outline"):
        inputs[name] = torch.randn(inputs[name].shape)
    local = RefinementNetwork(dataclasses.replace(SMALL, dynamic_aggregation=False)).eval()
    # It may have been trained for long.
    torch.nn.init.normal_(local.head.residual.weight, std=0.1)
    whole = RefinementNetwork(SMALL).eval()
    whole.load_state_dict(local.state_dict(), strict=False)
    with torch.no_grad():
        for a, b in zip(local(*inputs.values()), whole(*inputs.values()), strict=True):
            assert torch.equal(a, b)
        torch.nn.init.ones_(whole.head.dynamic.norms[1].weight)  # type: ignore[union-attr, arg-type]
        assert not torch.equal(whole(*inputs.values())[1], local(*inputs.values())[1])
    # What metres tell depends on what has been said.
    head = local.head
    torch.nn.init.normal_(head.outline[-1].weight)  # type: ignore[arg-type]
    said = torch.zeros(1, 8, 6), torch.zeros(1, 8, 8)
    told = inputs["told"], inputs["roi_outline"]
    first, second = (head.measured(*told, said[0], said[1] + k).nearer for k in (0, 1))
    assert not torch.equal(first, second - 1)


def told_of(length: float, towards: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What is told of one proposal, and its outline."""
    told, outlines = torch.zeros(1, 1, 17), torch.zeros(1, 1, OUTLINE)
    told[..., 6] = math.log(length)
    outlines[..., 0] = towards
    return told, outlines


@pytest.mark.parametrize("towards", [1.0, -1.0])
def test_of_two_likely_far_ends_one_is_chosen_and_the_near_end_stays(towards: float) -> None:
    head = RefinementNetwork(SMALL).head
    places = end_places(torch.zeros(1))
    bias = head.outline[-1].bias
    assert isinstance(bias, torch.Tensor)
    with torch.no_grad():  # as far as it was, or 3 m farther; the latter likelier
        bias[-ENDS:] = -20.0
        bias[-ENDS:][places == 0.0] = 3.0
        bias[-ENDS:][places == 3.0] = 5.0
    said = torch.zeros(1, 1, 6), torch.zeros(1, 1, 8)
    box = torch.tensor([[[20.0, 1.0, 1.5, 9.0, 2.5, 3.0, 0.0]]])
    refined = head.measured(*told_of(9.0, towards), *said)
    found = refined_boxes(box, refined.residuals)[0, 0].detach().numpy()
    # The sensor is ahead of it or behind: the end there is where it was.
    x = 20.0 - towards * 1.5
    np.testing.assert_allclose(found, [x, 1.0, 1.5, 12.0, 2.5, 3.0, 0.0], atol=0.02)
    # Cars and people keep both.
    for length in (4.5, 0.5):
        refined = head.measured(*told_of(length, towards), *said)
        assert torch.equal(refined.residuals, torch.zeros(1, 1, 8))


@pytest.mark.parametrize("pyramid", [FeaturePyramid, ReversePyramid])
def test_necks_bring_three_scales_to_the_finest(pyramid: type) -> None:
    neck = pyramid((8, 12, 16), 8).eval()
    features = [torch.randn(1, 8, 16, 16), torch.randn(1, 12, 8, 8), torch.randn(1, 16, 4, 4)]
    out = neck(features)
    assert out.shape == (1, 8, 16, 16)
    features[2] = features[2] + 1.0
    assert not torch.equal(out, neck(features))  # the coarsest has a say


def test_a_network_without_images_takes_none() -> None:
    config = dataclasses.replace(SMALL, global_fusion=False)
    network = build_proposals({"network": {"global_fusion": False}})
    assert not any("camera" in name for name, _ in network.named_parameters())
    alone = ProposalNetwork(config).eval()
    assert list(proposal_examples(config)) == ["pillars", "cells", "ultrasonic"]
    assert len(alone(*proposal_examples(config).values())) == 4


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_parts_say_what_the_whole_was_trained_to(kind: str, network: ProposalNetwork) -> None:
    first, images = parts_of(network)
    (pixels,) = image_examples(SMALL, kind).values()
    pixels = torch.randint(0, 255, pixels.shape, dtype=torch.uint8)
    neck, trunk = getattr(network, f"{kind}_neck"), getattr(network, f"{kind}_trunk")
    with torch.inference_mode():
        features = images[kind](pixels)
        assert torch.equal(features, neck(*trunk(pixels)))
        inputs = random_inputs()
        inputs[f"{kind}_seen"][:] = 1.0
        for a, b in zip(first(*inputs.values()), network(*inputs.values()), strict=True):
            assert torch.equal(a, b)
    assert features.shape[:2] == (1, SMALL.channels)
    assert not any(n.startswith((f"{kind}_trunk", f"{kind}_neck")) for n in first.state_dict())


def test_an_image_network_is_of_a_known_kind() -> None:
    with pytest.raises(UserError, match=r"settings\.image: allowed: camera, thermal"):
        build_image({"image": "radar"})
