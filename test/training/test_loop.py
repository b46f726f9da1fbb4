"""The training loop: learning rates, moving average, resumption, figures and errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from multimodal_perception.configuration import UserError
from multimodal_perception.training.checkpoint import read_hours
from multimodal_perception.training.loop import EpochSampler, Loop, LoopConfig, Losses
from test.training.event_files import read_scalars

CONFIG = LoopConfig(steps=7, batch_size=2, workers=0, save_every=2, precision="fp32")


class Numbers(Dataset[Tensor]):
    """Random numbers that depend on the epoch and the index."""

    epoch = 0

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng((self.epoch, index)).normal(size=3)).float()


def compute_losses(network: nn.Module, batch: Tensor, rng: np.random.Generator) -> Losses:
    """A loss with both kinds of randomness of a step."""
    noise = torch.randn(batch.shape) + float(rng.normal())
    return {"total": (network(batch) - noise.mean()).square().mean()}


def train(out: Path, config: LoopConfig = CONFIG, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1))
    return Loop(network, Numbers(), default_collate, config, out).run(compute_losses, **options)


def interrupt_at(step: int, patch: pytest.MonkeyPatch) -> None:
    advance = Loop._advance

    def interrupt(self: Loop, *args: Any) -> Any:
        if self.step == step:
            raise KeyboardInterrupt
        return advance(self, *args)

    patch.setattr(Loop, "_advance", interrupt)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 1000])
def test_the_learning_rate_rises_and_falls_for_any_number_of_steps(
    steps: int, tmp_path: Path
) -> None:
    config = LoopConfig(steps=steps, batch_size=1)
    loop = Loop(nn.Linear(1, 1), [0, 1], list, config, tmp_path)  # type: ignore[arg-type]
    rates = []
    for _ in range(steps):
        rates += loop.schedule.get_last_lr()
        loop.optimizer.step()
        loop.schedule.step()
    assert np.isfinite(rates).all() and 0 < max(rates) <= config.learning_rate * 1.000001
    assert loop.schedule.get_last_lr()[0] <= config.learning_rate / 10


def test_parameter_groups_have_their_own_learning_rates(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    groups = [
        {"params": network[0].parameters(), "lr": 1e-4},
        {"params": network[1].parameters(), "lr": 1e-3},
    ]
    loop = Loop(network, Numbers(), default_collate, CONFIG, tmp_path, parameter_groups=groups)
    rates = np.array([loop.schedule.get_last_lr()])
    np.testing.assert_allclose(rates[:, 1] / rates[:, 0], 10.0)


@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_resumed_training_equals_an_uninterrupted_one(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = train(tmp_path / "a")
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "b")
    resumed = train(tmp_path / "b")
    for name, value in uninterrupted.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    losses = read_scalars(tmp_path / "a", "loss/total")
    assert len(losses) == CONFIG.steps
    assert losses == read_scalars(tmp_path / "b", "loss/total")
    assert 0 < read_hours(tmp_path / "b") < 1


def test_a_finished_training_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(tmp_path)
    interrupt_at(0, monkeypatch)  # any step would raise
    again = train(tmp_path)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    other = dataclasses.replace(CONFIG, learning_rate=0.1)
    with pytest.raises(UserError, match=r"checkpoint\.pt.*learning_rate was 0\.002, is 0\.1"):
        train(tmp_path, other)
    train(tmp_path, dataclasses.replace(CONFIG, save_every=5))  # does not change the result


def test_the_result_is_an_exponential_moving_average(tmp_path: Path) -> None:
    live = train(tmp_path / "a", dataclasses.replace(CONFIG, ema_decay=0.0))
    averaged = train(tmp_path / "b", dataclasses.replace(CONFIG, ema_decay=0.999))
    state = torch.load(tmp_path / "b" / "checkpoint.pt", weights_only=True)
    for name, value in live.state_dict().items():
        torch.testing.assert_close(value, state["network"][name])
        assert torch.equal(averaged.state_dict()[name], state["ema"][f"module.{name}"])
    assert not torch.equal(live.state_dict()["0.weight"], averaged.state_dict()["0.weight"])


def test_validation_is_logged_at_every_checkpoint(tmp_path: Path) -> None:
    def validate(network: nn.Module) -> dict[str, float]:
        assert not network.training
        return {"score": 0.5}

    train(tmp_path, validate=validate)
    assert read_scalars(tmp_path, "validation/score") == [0.5] * 4  # after 2, 4, 6 and 7 steps


def test_a_loss_that_stays_infinite_stops_the_training(tmp_path: Path) -> None:
    def infinite(network: nn.Module, batch: Tensor, rng: np.random.Generator) -> Losses:
        return {"total": network(batch).sum() * float("inf")}

    network = nn.Linear(3, 1)
    loop = Loop(
        network, Numbers(), default_collate, dataclasses.replace(CONFIG, steps=100), tmp_path
    )
    before = network.weight.clone()
    with pytest.raises(UserError, match="not finite in 25 steps in a row; reduce learning_rate"):
        loop.run(infinite)
    assert torch.equal(network.weight, before)
    skipped = read_scalars(tmp_path, "skipped_steps_in_a_row")
    assert skipped == list(range(1, len(skipped) + 1)) and len(skipped) > 0


def test_ranks_share_the_samples_of_an_epoch() -> None:
    parts = [EpochSampler(7, seed=3, rank=rank, world_size=2) for rank in range(2)]
    indices = [list(part) for part in parts]
    assert len(indices[0]) == len(indices[1]) == 3 and not set(indices[0]) & set(indices[1])
    parts[0].start = 2
    assert list(parts[0]) == indices[0][2:] and len(parts[0]) == 1
    parts[0].start, parts[0].epoch = 0, 1
    assert list(parts[0]) != indices[0]
