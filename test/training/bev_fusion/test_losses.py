"""Losses of the image networks, of the first stage, and of the teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multimodal_perception.detection.bev_fusion.network_config import VARIANCES
from multimodal_perception.networks.bev_fusion import CODE_SIZE, LOG_VARIANCE, VELOCITY, BevOutputs
from multimodal_perception.training.bev_fusion.losses import (
    box_errors,
    distillation_losses,
    range_loss,
    stage1_losses,
    variance_loss,
    visible_cells,
)
from multimodal_perception.training.bev_fusion.targets import FrameObjects, stage1_targets
from multimodal_perception.training.bev_fusion.train_refinement import target_scores
from test.training.bev_fusion.tiny import TINY


def batch_of(velocity: tuple[float, float] = (3.0, -1.0)) -> dict[str, torch.Tensor]:
    """Targets of a frame with one car."""
    box = np.array([[4.0, 2.0, 1.0, 4.0, 2.0, 1.5, 0.4]], np.float32)
    objects = FrameObjects(
        box, np.array([0]), np.array([velocity], np.float32), box[:0], np.array([], np.int64)
    )
    targets = stage1_targets(objects, TINY, 1.0)
    return {n: torch.from_numpy(v)[None] for n, v in targets.items()} | {
        "frame_weight": torch.ones(1)
    }


def perfect(batch: dict[str, torch.Tensor]) -> BevOutputs:
    """Outputs that agree with the targets."""
    size = TINY.lift_size
    heat = torch.where(batch["heat"] > 0.999, 12.0, -12.0)
    code = torch.zeros(1, CODE_SIZE, size, size)
    cell = int(batch["centres"][0, 0])
    code[0, :10, cell // size, cell % size] = batch["codes"][0, 0]
    code[0, VELOCITY, cell // size, cell % size] = batch["velocities"][0, 0]
    return BevOutputs(torch.zeros(1, 8, size, size), heat, code)


def test_perfect_outputs_have_no_loss_but_that_of_the_variance() -> None:
    batch = batch_of()
    losses = stage1_losses(perfect(batch), batch, TINY.lift_cell)
    for name in ("heat", "box", "velocity"):
        assert float(losses[name]) == pytest.approx(0.0, abs=1e-3)
    wrong = perfect(batch)
    wrong.code[:, VELOCITY] += 2.0
    worse = stage1_losses(wrong, batch, TINY.lift_cell)
    # Two components, twice the weight for a moving object.
    assert float(worse["velocity"]) == pytest.approx(8.0) and float(worse["box"]) < 1e-6
    standing = batch_of((0.0, 0.0))
    wrong = perfect(standing)
    wrong.code[:, VELOCITY] += 2.0
    assert float(stage1_losses(wrong, standing, 1.6)["velocity"]) == pytest.approx(4.0)


def test_errors_are_in_the_units_of_the_variances() -> None:
    codes = torch.zeros(1, 1, CODE_SIZE)
    target = torch.zeros(1, 1, 10)
    codes[..., :10] = torch.tensor([0.5, 0.0, 1.0, 0.2, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    yaw = 0.3 + np.pi  # a wrong front is no error of the axis
    target[..., 6:] = torch.tensor([np.sin(yaw), np.cos(yaw), np.sin(2 * yaw), np.cos(2 * yaw)])
    codes[..., VELOCITY] = torch.tensor([1.0, 2.0])
    error = box_errors(codes, target, torch.zeros(1, 1, 2), 0.8)[0, 0]
    assert error.tolist() == pytest.approx([0.4, 0, 1.0, 0.2, 0, 0, -0.3, 1, 2], abs=1e-6)


def test_the_variance_that_minimises_the_loss_is_that_of_the_errors() -> None:
    torch.manual_seed(0)
    deviation = torch.logspace(-1, 0.7, VARIANCES)
    errors = torch.randn(4000, VARIANCES) * deviation
    log_variance = torch.zeros(VARIANCES, requires_grad=True)
    optimizer = torch.optim.Adam([log_variance], 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss = variance_loss(log_variance.expand_as(errors), errors, torch.ones_like(errors))
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(log_variance.detach(), 2 * deviation.log(), atol=0.1)
    far = torch.full((1, VARIANCES), 50.0, requires_grad=True)
    variance_loss(far, errors[:1], torch.ones(1, VARIANCES)).backward()
    assert (far.grad > 0).all(), "values outside of the limits return"


def test_the_teacher_draws_its_frames_only() -> None:
    torch.manual_seed(0)
    size = TINY.lift_size
    student = BevOutputs(
        torch.randn(3, 8, size, size, requires_grad=True),
        torch.randn(3, 10, size, size, requires_grad=True),
        torch.zeros(3, CODE_SIZE, size, size),
    )
    teacher = BevOutputs(*(t[[1]].detach() * 0.5 + 1.0 for t in student))
    losses = distillation_losses(student, teacher, torch.tensor([1]))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    for tensor in student[:2]:
        assert tensor.grad is not None and tensor.grad[1].any()
        assert not tensor.grad[0].any() and not tensor.grad[2].any()
    same = BevOutputs(*(t[[1]].detach() for t in student))
    assert all(
        float(v) == 0.0 for v in distillation_losses(student, same, torch.tensor([1])).values()
    )


def test_the_teacher_counts_only_where_an_image_shows_the_cell() -> None:
    size = TINY.lift_size
    lifted = torch.zeros(1, size * size, TINY.lift_channels)
    lifted[0, 5, TINY.modality_channels - 1] = 1.0  # a camera shows cell 5, a thermal camera cell 7
    lifted[0, 7, 2 * TINY.modality_channels - 1] = 1.0
    visible = visible_cells(lifted, TINY)
    assert visible.flatten().nonzero()[:, 0].tolist() == [5, 7]
    student = BevOutputs(
        torch.zeros(1, 8, size, size),
        torch.zeros(1, 10, size, size, requires_grad=True),
        torch.zeros(1, CODE_SIZE, size, size),
    )
    teacher = student._replace(heatmap=torch.full((1, 10, size, size), 3.0))
    distillation_losses(student, teacher, torch.tensor([0]), visible)["heat_teacher"].backward()
    assert student.heatmap.grad is not None
    assert student.heatmap.grad.flatten(2).any(1)[0].nonzero()[:, 0].tolist() == [5, 7]


def test_neighbouring_ranges_have_a_smaller_loss_than_distant_ones() -> None:
    bins = torch.full((1, 2, 2), 3)
    bins[0, 0, 0] = -1  # unknown
    losses = []
    for k in (3, 4, 6):
        logits = torch.zeros(1, 8, 2, 2)
        logits[:, k] = 4.0
        losses.append(float(range_loss(logits, bins)))
    assert losses[0] < losses[1] < losses[2]
    logits = torch.zeros(1, 8, 2, 2, requires_grad=True)
    range_loss(logits, bins).backward()
    assert not logits.grad[0, :, 0, 0].any() and logits.grad[0, :, 1, 1].any()


def test_target_scores_of_boxes_with_and_without_overlap() -> None:
    label = np.array([[10, 0, 1, 4, 2, 1.5, 0]], np.float32)
    boxes = np.repeat(label, 4, 0)
    boxes[:, 1] += [0.0, 2.1, 3.0, 9.0]
    scores = target_scores(boxes, label, np.array([3]))
    # The others are duplicates that non-maximum suppression does not remove.
    assert scores[:, 3].tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0])
    assert not np.delete(scores, 3, axis=1).any()
    scores = target_scores(boxes[:0:-1], label, np.array([3]))
    assert scores[:, 3].tolist() == pytest.approx([0.0, 0.0, 0.2375])
    # Boxes that overlap with their label have both scores; the IoU of the second one is 0.6.
    boxes[1, 1] = 0.5
    scores = target_scores(boxes[:2], label, np.array([3]))
    assert scores[:, 3].tolist() == pytest.approx([1.0, 0.5 * 0.7 + 0.5])
    # Each label has its own nearest box.
    labels = np.concatenate([label, label + np.eye(1, 7, 0, dtype=np.float32) * 20])
    found = labels + np.eye(1, 7, 1, dtype=np.float32) * 2.5
    assert target_scores(found, labels, np.array([3, 7])).max(axis=1).tolist() == [0.1875] * 2
    assert not target_scores(boxes, label[:0], np.array([], np.int64)).any()


def test_log_variances_are_the_last_channels() -> None:
    assert LOG_VARIANCE.stop == CODE_SIZE and LOG_VARIANCE.stop - LOG_VARIANCE.start == VARIANCES
