"""Training of the image-fusion network: data, learning, resumption and adversarial training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from multimodal_perception.configuration import ConfigurationError, UserError, build
from multimodal_perception.networks.moe_fusion import MoEFusion
from multimodal_perception.training.image_fusion.losses import fusion_loss
from multimodal_perception.training.image_fusion.train import (
    CropDataset,
    ImageFusionTraining,
    Sample,
    collate,
    real_samples,
    simulated_samples,
    thermal_saliency,
    train_image_fusion,
)
from multimodal_perception.training.loop import Loop, LoopConfig

CONFIG = ImageFusionTraining(
    crop_size=32,
    simulated_fraction=0.0,
    loop=LoopConfig(
        steps=60, batch_size=2, learning_rate=2.5e-3, warmup=0.05, workers=0, ema_decay=0.9
    ),
)


def sample(seed: int = 0) -> Sample:
    """Texture in the visible image's left half, a warm block in the thermal one's right half."""
    rng = np.random.default_rng(seed)
    visible = np.full((48, 64), 90, np.uint8)
    visible[:, :32] = cv2.resize(rng.integers(0, 255, (12, 8), np.uint8), (32, 48))
    thermal = np.full((48, 64), 40, np.uint8)
    thermal[10:30, 40:55] = 220
    return Sample(visible, thermal, thermal_saliency(thermal))


def test_held_out_pairs_are_not_used_for_training(tmp_path: Path) -> None:
    for folder in ("visible", "infrared"):
        (tmp_path / folder).mkdir()
        for k in range(6):
            image = np.full((8, 10), 10 * k, np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{k}.png"), image)
    levels = [s.visible[0, 0] for s in real_samples(tmp_path)]
    assert levels == [10, 20, 30, 40]
    for k in range(1, 6):
        (tmp_path / "visible" / f"{k}.png").unlink()
    with pytest.raises(UserError, match="held out"):
        real_samples(tmp_path)


def test_pixels_warmer_than_their_surroundings_are_salient() -> None:
    salient = sample().foreground
    assert salient[10:30, 40:55].mean() > 100
    assert salient[:, :35].max() == 0


def test_folder_without_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shards"):
        simulated_samples([tmp_path])


def test_crops_keep_both_images_aligned() -> None:
    rng = np.random.default_rng(3)
    same = rng.integers(0, 255, (48, 64), np.uint8)
    crops = CropDataset([Sample(same, same, same)], [], CONFIG)
    visible, thermal, foreground = collate([crops[0], crops[1]])
    assert visible.shape == thermal.shape == foreground.shape == (2, 1, 32, 32)
    for pair in zip(visible, thermal, strict=True):
        # Brightness may change, the position may not: brighter pixels are brighter in both images.
        a, b = (p.flatten() for p in pair)
        assert np.corrcoef(a, b)[0, 1] > 0.9
    assert visible.min() >= 0 and visible.max() <= 1
    np.testing.assert_array_equal(crops[5], CropDataset([Sample(same, same, same)], [], CONFIG)[5])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_training_improves_the_fusion_of_a_pair(tmp_path: Path) -> None:
    one = sample()
    pair = [
        torch.from_numpy(i.astype(np.float32) / 255)[None, None]
        for i in (one.visible, one.thermal, one.foreground)
    ]

    def loss(network: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(fusion_loss(network(pair[0], pair[1]), *pair)[0])

    torch.manual_seed(CONFIG.loop.seed)
    before = loss(MoEFusion().eval())
    trained = train_image_fusion(CONFIG, [one], [], tmp_path)
    assert loss(trained) < 0.9 * before
    started = dataclasses.replace(CONFIG, loop=dataclasses.replace(CONFIG.loop, steps=1))
    weights = tmp_path / "image_fusion.safetensors"
    assert loss(train_image_fusion(started, [one], [], tmp_path / "b", weights)) < 0.95 * before


@pytest.mark.parametrize("attack", [0.0, 1.0])
def test_resumed_training_equals_an_uninterrupted_one(
    attack: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = LoopConfig(steps=4, batch_size=1, workers=0, save_every=1)
    config = ImageFusionTraining(crop_size=32, attack_fraction=attack, attack_steps=1, loop=loop)
    uninterrupted = train_image_fusion(config, [sample()], [], tmp_path / "a")
    with monkeypatch.context() as patch:
        advance = Loop._advance

        def interrupt(self: Loop, *args: Any) -> Any:
            if self.step == 2:
                raise KeyboardInterrupt
            return advance(self, *args)

        patch.setattr(Loop, "_advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_image_fusion(config, [sample()], [], tmp_path / "b")
    resumed = train_image_fusion(config, [sample()], [], tmp_path / "b")
    for name, value in uninterrupted.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_without_pairs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither real nor simulated"):
        train_image_fusion(CONFIG, [], [], tmp_path)


def test_settings_out_of_range_are_errors() -> None:
    with pytest.raises(ConfigurationError, match="attack_fraction"):
        build(ImageFusionTraining, {"attack_fraction": 1.5}, "file.yaml")
