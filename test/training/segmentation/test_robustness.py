"""Adversarial training, margins of the modalities, and context and objects in different images."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.networks.rgb_thermal_segmentation import RgbThermalSegmentation
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.training.loop import Losses
from multimodal_perception.training.segmentation.dataset import Batch
from multimodal_perception.training.segmentation.robustness import (
    BLOCK,
    THERMAL_LEVEL,
    VISIBLE_LEVEL,
    VISIBLE_RANGE,
    AdversarialConfig,
    MarginConfig,
    margin,
    margin_loss,
    split_context_and_objects,
    with_attacked_samples,
)
from multimodal_perception.training.segmentation.train import SegmentationTraining, batch_losses

CLASSES = len(SEGMENTATION_CLASSES)
ROAD, PERSON = SEGMENTATION_CLASSES.index("road"), SEGMENTATION_CLASSES.index("person")
WEIGHTS = torch.ones(CLASSES)


class LinearNetwork(nn.Module):
    """Logits of class 0: brightness of the visible and the thermal image with a weight for each."""

    def __init__(self, visible: float, thermal: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([visible, thermal]))

    def forward(self, visible: Tensor, thermal: Tensor, mask_a: Tensor, mask_b: Tensor) -> Tensor:
        images = visible.mean(1, keepdim=True) * mask_a, thermal * mask_b
        a, b = (F.avg_pool2d(x, 2) for x in images)
        first = self.weights[0] * a + self.weights[1] * b
        return torch.cat([first, torch.zeros_like(first).repeat(1, CLASSES - 1, 1, 1)], 1)


def batch_of(count: int = 2, side: int = 8, label: int = ROAD, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    return Batch(
        torch.rand(count, 3, side, side, generator=random) - 0.5,
        0.2 + 0.6 * torch.rand(count, 1, side, side, generator=random),
        torch.ones(count, 1, side, side),
        torch.ones(count, 1, side, side),
        torch.full((count, side, side), label),
    )


def attacked(network: nn.Module, batch: Batch, seed: int = 0, **values: Any) -> Batch:
    config = AdversarialConfig(**{"fraction": 1.0, **values})
    rng = np.random.default_rng(seed)
    return with_attacked_samples(network, batch, config, WEIGHTS, rng)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 3, 4])
@pytest.mark.parametrize(("label", "sign"), [(ROAD, -1.0), (PERSON, 1.0)])
def test_the_attack_moves_pixels_to_the_bound_against_the_label(
    label: int, sign: float, steps: int
) -> None:
    """The gradient of a linear network has the same sign everywhere: darker images for class 0."""
    batch = batch_of(label=label)
    result = attacked(LinearNetwork(1.0, -1.0), batch, epsilon=4.0, steps=steps)
    visible, thermal = result.visible - batch.visible, result.thermal - batch.thermal
    if steps == 1:  # a step of 1.25 times the bound from a random start
        assert (sign * visible).min() >= 0.25 * 4.0 * VISIBLE_LEVEL - 1e-6
        assert (sign * visible).max() == pytest.approx(4.0 * VISIBLE_LEVEL, abs=1e-6)
    else:
        torch.testing.assert_close(visible, torch.full_like(visible, sign * 4 * VISIBLE_LEVEL))
        torch.testing.assert_close(thermal, torch.full_like(thermal, -sign * 4 * THERMAL_LEVEL))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 64.0), st.integers(1, 4), st.integers(0, 2**16))
def test_attacked_pixels_stay_within_the_bound_and_the_range(
    epsilon: float, steps: int, seed: int
) -> None:
    batch = batch_of(seed=seed)
    result = attacked(LinearNetwork(2.0, 1.0), batch, seed, epsilon=epsilon, steps=steps)
    assert (result.visible - batch.visible).abs().max() <= epsilon * VISIBLE_LEVEL + 1e-6
    assert (result.thermal - batch.thermal).abs().max() <= epsilon * THERMAL_LEVEL + 1e-6
    assert result.visible.min() >= VISIBLE_RANGE[0] and result.visible.max() <= VISIBLE_RANGE[1]
    assert result.thermal.min() >= 0.0 and result.thermal.max() <= 1.0


def test_masked_pixels_and_samples_without_labels_do_not_follow_a_gradient() -> None:
    batch = batch_of(count=2)
    batch.thermal_mask[:, :, :4] = 0.0
    batch.visible_mask[0] = 0.0
    batch.labels[1] = IGNORED
    result = attacked(LinearNetwork(1.0, 1.0), batch, steps=3)
    assert torch.equal(result.thermal[:, :, :4], batch.thermal[:, :, :4])
    assert torch.equal(result.visible[0], batch.visible[0])
    change = result.visible[1] - batch.visible[1]  # only the random start
    assert change.isfinite().all() and change.min() < 0 < change.max()


def test_about_the_fraction_of_the_samples_is_attacked_and_the_choice_follows_the_generator() -> (
    None
):
    batch = batch_of(count=200, side=2)
    first = attacked(LinearNetwork(1.0, 1.0), batch, 5, fraction=0.3)
    changed = (first.visible != batch.visible).flatten(1).any(1)
    assert 40 <= int(changed.sum()) <= 80
    assert torch.equal(
        first.visible, attacked(LinearNetwork(1.0, 1.0), batch, 5, fraction=0.3).visible
    )
    other = attacked(LinearNetwork(1.0, 1.0), batch, 6, fraction=0.3)
    assert not torch.equal(first.visible, other.visible)


def test_depth_as_the_second_input_is_not_attacked() -> None:
    batch, rng = batch_of(), np.random.default_rng(0)
    config = AdversarialConfig(fraction=1.0)
    network: Any = LinearNetwork(1.0, 1.0)
    result = with_attacked_samples(network, batch, config, WEIGHTS, rng, attack_second=False)
    assert torch.equal(result.thermal, batch.thermal)
    assert not torch.equal(result.visible, batch.visible)


@pytest.fixture(scope="module")
def network() -> RgbThermalSegmentation:
    torch.manual_seed(0)
    return RgbThermalSegmentation(CLASSES)


def losses(
    network: RgbThermalSegmentation, config: SegmentationTraining, seed: int = 3
) -> tuple[Losses, np.random.Generator]:
    rng = np.random.default_rng(seed)
    batch = batch_of(side=64, label=PERSON)
    batch.labels[:, :, 32:] = ROAD
    return batch_losses(network.train(), batch, config, WEIGHTS, rng), rng


PLAIN = SegmentationTraining(
    crop_size=(64, 64),
    distillation=0.0,
    single_modality_fraction=0.5,
    train_batch_statistics=False,
)


def test_without_the_switches_losses_and_random_numbers_are_those_of_plain_training(
    network: RgbThermalSegmentation,
) -> None:
    off = dataclasses.replace(
        PLAIN,
        adversarial=AdversarialConfig(fraction=0.0, epsilon=9.0, steps=5),
        margins=MarginConfig(weight=0.0, target=7.0),
    )
    plain, rng = losses(network, PLAIN)
    switched_off, other = losses(network, off)
    assert plain.keys() == switched_off.keys() == {"labels", "overlap", "total"}
    assert all(torch.equal(plain[name], switched_off[name]) for name in plain)
    assert rng.bit_generator.state == other.bit_generator.state


def test_adversarial_training_has_a_higher_loss_and_keeps_the_batch_statistics(
    network: RgbThermalSegmentation,
) -> None:
    before = {n: v.clone() for n, v in network.state_dict().items()}
    config = dataclasses.replace(
        PLAIN, adversarial=AdversarialConfig(fraction=1.0, epsilon=16.0, steps=3)
    )
    clean, hard = losses(network, PLAIN)[0], losses(network, config)[0]
    assert hard["labels"] > clean["labels"]
    assert torch.equal(hard["labels"], losses(network, config)[0]["labels"])
    hard["total"].backward()
    assert network.decoder.classify.weight.grad.abs().sum() > 0
    network.zero_grad(set_to_none=True)
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())


def test_margin_is_the_logit_of_the_true_class_minus_the_log_sum_exp_of_the_others() -> None:
    logits = torch.tensor([3.0, 1.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 1, 3)
    labels = torch.tensor([[[0, 1, IGNORED]]])
    expected = torch.tensor([3.0 - (1.0 + np.log(2)), 1.0 - np.log(np.e + np.e**3)])
    torch.testing.assert_close(margin(logits, labels)[0, 0, :2], expected.float())


def test_the_margin_loss_trains_the_modality_with_the_smaller_margin_only() -> None:
    batch = batch_of(count=1)
    batch.visible.fill_(1.0)
    batch.thermal.fill_(1.0)
    batch.thermal_mask[:, :, :4] = 0.0
    network: Any = LinearNetwork(5.0, 1.0)
    loss = margin_loss(network, batch, 4.0, torch.device("cpu"))
    assert float(loss.detach()) == pytest.approx(4.0 - (1.0 - np.log(CLASSES - 1)), rel=1e-5)
    loss.backward()
    assert network.weights.grad.tolist() == pytest.approx([0.0, -1.0])
    assert float(margin_loss(network, batch, -2.0, torch.device("cpu")).detach()) == 0.0
    batch.visible_mask.zero_()
    assert float(margin_loss(network, batch, 4.0, torch.device("cpu"))) == 0.0


def test_context_and_objects_are_shown_by_different_images() -> None:
    batch = batch_of(count=40, side=2 * BLOCK)
    batch.labels[:, 3, 5] = PERSON  # in the first block
    batch.labels[0] = ROAD  # no objects
    batch.thermal_mask[1] = 0.0
    split = split_context_and_objects(batch, 1.0, np.random.default_rng(0))
    for index in (0, 1):
        assert torch.equal(split.visible_mask[index], batch.visible_mask[index])
        assert torch.equal(split.thermal_mask[index], batch.thermal_mask[index])
    torch.testing.assert_close(
        (split.visible_mask + split.thermal_mask)[2:], torch.ones(38, 1, 2 * BLOCK, 2 * BLOCK)
    )
    shows_objects = split.visible_mask[2:, 0, :BLOCK, :BLOCK].flatten(1).amin(1)
    elsewhere = split.visible_mask[2:, 0, BLOCK:].flatten(1).amax(1)
    assert torch.equal(shows_objects, 1.0 - elsewhere)
    assert 5 < int(shows_objects.sum()) < 33  # either image
    unchanged = split_context_and_objects(batch, 0.0, np.random.default_rng(0))
    assert torch.equal(unchanged.visible_mask, batch.visible_mask)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"adversarial": {"fraction": 1.5}}, r"adversarial\.fraction"),
        ({"adversarial": {"epsilon": -1}}, r"adversarial\.epsilon"),
        ({"adversarial": {"steps": 0}}, r"adversarial\.steps"),
        ({"adversarial": {"fraction": 0.5}}, "distillation: must be 0"),
        ({"context_object_fraction": 0.5}, "distillation: must be 0"),
        ({"margins": {"weight": -1}}, r"margins\.weight"),
        ({"margins": {"strength": 1}}, r"margins.*strength"),
        ({"margins": {"weight": 1.0}, "fusion": "visible"}, "fusion visible"),
    ],
)
def test_wrong_settings_are_errors_that_name_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(SegmentationTraining, values, "stage.yaml")


def test_the_shipped_recipe_trains_with_all_measures_and_evaluates_attacks() -> None:
    from multimodal_perception.cli.evaluate import robustness as command
    from multimodal_perception.resources import share_path
    from multimodal_perception.training.recipe.configuration import load_recipe

    path = share_path("config", "training", "segmentation", "robust.yaml")
    file = load_recipe(path, ["segmentation", "robustness"])
    config = file.configs["robust"]
    assert config.adversarial.fraction > 0 and config.adversarial.epsilon == 4.0
    assert config.margins.weight > 0 and config.context_object_fraction > 0
    assert config.train_first_layers and config.initial_model == "segmentation"
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = file.recipe.evaluation["attacks"].split()[1:]
    arguments = parser.parse_args(words)
    assert arguments.no_corruptions and arguments.segmenter == "{model}"
