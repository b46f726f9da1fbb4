"""Training of the image fusion: what is read, that it learns, resumes and withstands attacks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from multimodal_perception.configuration import ConfigurationError, UserError
from multimodal_perception.training import checkpoint
from multimodal_perception.training.image_fusion.losses import fusion_loss
from multimodal_perception.training.image_fusion.train import (
    CropSource,
    FusionTraining,
    Sample,
    Trainer,
    checked,
    real_samples,
    simulated_samples,
    thermal_saliency,
)

CONFIG = FusionTraining(steps=40, batch=2, crop=32, simulated=0.0)


def sample(seed: int = 0) -> Sample:
    """Texture in the visible image's left half, a warm block in the thermal one's right half."""
    rng = np.random.default_rng(seed)
    visible = np.full((48, 64), 90, np.uint8)
    visible[:, :32] = cv2.resize(rng.integers(0, 255, (12, 8), np.uint8), (32, 48))
    thermal = np.full((48, 64), 40, np.uint8)
    thermal[10:30, 40:55] = 220
    return Sample(visible, thermal, thermal_saliency(thermal))


def test_training_pairs_are_not_those_kept_for_testing(tmp_path: Path) -> None:
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


def test_what_is_warmer_than_around_it_is_salient() -> None:
    salient = sample().foreground
    assert salient[10:30, 40:55].mean() > 100
    assert salient[:, :35].max() == 0


def test_folders_without_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shards"):
        simulated_samples([tmp_path])


def test_crops_keep_both_images_aligned() -> None:
    rng = np.random.default_rng(3)
    same = rng.integers(0, 255, (48, 64), np.uint8)
    source = CropSource([Sample(same, same, same)], [], CONFIG)
    visible, thermal, foreground = source.batch(rng)
    assert visible.shape == thermal.shape == foreground.shape == (2, 1, 32, 32)
    for pair in zip(visible, thermal, strict=True):
        # Brightness may change, never the place: what is brighter in one is in the other.
        a, b = (p.flatten() for p in pair)
        assert np.corrcoef(a, b)[0, 1] > 0.9
    assert visible.min() >= 0 and visible.max() <= 1


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_pair_is_fused_better_after_training_than_before() -> None:
    trainer = Trainer(CONFIG, [sample()], [])
    one = sample()
    pair = [
        torch.from_numpy(i.astype(np.float32) / 255)[None, None]
        for i in (one.visible, one.thermal, one.foreground)
    ]

    def loss() -> float:
        with torch.no_grad():
            return float(fusion_loss(trainer.averaged(pair[0], pair[1]), *pair)[0])

    before = loss()
    for _ in range(25):
        trainer.step()
    assert loss() < 0.9 * before


@pytest.mark.parametrize("attack", [0.0, 1.0])
def test_a_resumed_training_goes_on_exactly(attack: float, tmp_path: Path) -> None:
    config = FusionTraining(steps=4, batch=1, crop=32, attack=attack, attack_steps=1)
    whole = Trainer(config, [sample()], [])
    losses = [whole.step() for _ in range(4)]
    first = Trainer(config, [sample()], [])
    assert [first.step() for _ in range(2)] == losses[:2]
    path = tmp_path / "checkpoint.pt"
    parts = {"network": first.state, "optimiser": first.optimiser}
    checkpoint.save(path, parts, first.steps_done)
    resumed = Trainer(config, [sample()], [])
    parts = {"network": resumed.state, "optimiser": resumed.optimiser}
    resumed.steps_done = checkpoint.resume(path, parts)
    assert [resumed.step() for _ in range(2)] == losses[2:]


def test_a_rate_that_diverges_is_told() -> None:
    trainer = Trainer(CONFIG, [sample()], [])
    next(iter(trainer.network.parameters())).data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        trainer.step()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="attack"):
        checked({"attack": 1.5})
