"""Training of the near field: it learns, goes on where it was interrupted, and scores by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.rig import load_rig, rig_path
from multimodal_perception.runtime.card import Training, load_card
from multimodal_perception.runtime.open_model import open_one
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.training.loop import Loop
from multimodal_perception.training.near_field.export import export_near_field
from multimodal_perception.training.near_field.train import (
    CONTENT,
    FACTORS,
    Augmented,
    Samples,
    TrainingOptions,
    calibrate,
    figures_of,
    joined,
    load_samples,
    masses,
    near_cells,
    new_network,
    score,
    train,
)


def samples(count: int = 4) -> Samples:
    generator = torch.Generator().manual_seed(3)
    labels = torch.zeros(count, 72, 72, dtype=torch.uint8)
    sound = torch.zeros(count, 5, 72, 72)
    for i in range(count):
        row = 6 + 4 * i
        labels[i, row : row + 4], labels[i, 60:] = 2, 255
        sound[i, 1, row : row + 4] = 0.7  # an echo wherever there is a wall
    return Samples(
        torch.randn(count, 4, 24, 28, 48, generator=generator).half(),
        torch.randn(count, 4, 40, 14, 24, generator=generator).half(),
        torch.full((4, 2, 72, 72, 2), -2.0),
        sound.half(),
        labels,
        labels == 2,
        np.arange(count) % 2 == 0,
        ["parking_lot"] * count,
    )


def test_it_learns_that_echoes_are_walls(tmp_path: Path) -> None:
    network, data = new_network(), samples(2)
    before = {n: p.clone() for n, p in network.features.named_parameters()}
    first = score(network, data)
    train(network, data, TrainingOptions(epochs=36, batch=2, rate=0.02), tmp_path)
    figures = score(network, data)
    assert figures["all"]["iou_hard"] > first["all"]["iou_hard"] + 0.1
    assert set(figures) == {"all", "day", "night"} and 0 <= figures["all"]["ece"] <= 1
    assert all(torch.equal(before[n], p) for n, p in network.features.named_parameters())


def test_training_that_was_interrupted_ends_at_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options = samples(2), TrainingOptions(epochs=2, batch=2, seed=5)
    whole = train(new_network(seed=1), data, options, tmp_path / "whole")
    with monkeypatch.context() as patch:
        advance = Loop._advance

        def once(loop: Loop, *args: object) -> object:
            if loop.step == 1:
                raise KeyboardInterrupt
            return advance(loop, *args)  # type: ignore[arg-type]

        patch.setattr(Loop, "_advance", once)
        with pytest.raises(KeyboardInterrupt):
            train(new_network(seed=1), data, options, tmp_path / "broken")
    resumed = train(new_network(seed=9), data, options, tmp_path / "broken")
    for name, value in whole.state_dict().items():
        assert torch.allclose(value.float(), resumed.state_dict()[name].float(), atol=1e-6), name


def test_absent_sensors_are_drawn_alike_whoever_asks() -> None:
    data = Augmented(samples(4), TrainingOptions(seed=3))
    again = Augmented(samples(4), TrainingOptions(seed=3))
    again[3]
    for name, value in data[1].items():
        assert torch.equal(value, again[1][name]), name
    deaf = Augmented(samples(4), TrainingOptions(fisheye_only=True))
    assert not any(deaf[i]["sounding"] for i in range(4))


def test_calibration_makes_sure_answers_surer_and_leaves_the_calls() -> None:
    network, data = new_network(), samples(2)
    with torch.no_grad():
        for layer in (network.head,):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor([8.0, -9, -9, -9, -9, -9]))
    data.labels[data.labels == 2] = 0  # free everywhere: the surest answer is the best calibrated
    data.hard[:] = False
    before = score(network, data)["all"]
    factor = calibrate(network, data)
    assert factor == network.settings.evidence > 1
    after = score(network, data)["all"]
    assert after["ece"] <= CONTENT < before["ece"]
    assert after["iou_free"] == before["iou_free"] == 1
    network.settings = replace(network.settings, evidence=FACTORS[FACTORS.index(factor) - 1])
    assert score(network, data)["all"]["ece"] > CONTENT  # no more than it takes
    assert np.isnan(after["iou_hard"])


def test_masses_and_figures_are_those_counted_by_hand() -> None:
    evidence = torch.tensor([6.0, 0.0, 2.0, 0.0, 0.0, 0.0]).reshape(1, 6, 1, 1)
    free, occupied = masses(evidence)[0, :, 0, 0].tolist()
    assert (free, occupied) == pytest.approx((6 / 14, 2 / 14))
    labels = np.array([[[0, 0, 2, 3, 255]]], np.uint8)
    free = np.array([[[0.9, 0.1, 0.1, 0.8, 0.1]]])
    figures = figures_of(free, 0.9 - free, labels, labels == 3)
    assert figures["iou_occupied"] == pytest.approx(1 / 3)
    assert (
        figures["false_free"] == 0.5 and figures["recall_wall"] == 1 and figures["recall_pole"] == 0
    )
    assert np.isnan(figures["recall_person"])


def test_hard_things_count_near_the_vehicle_and_with_the_free_cells_beside_them_alone() -> None:
    labels, called = np.zeros((1, 72, 72), np.uint8), np.zeros((1, 72, 72))
    labels[0, 30:32, 60] = 3  # two cells of a post, 4.9 m ahead
    labels[0, 60, 36] = 4  # a car's cell
    labels[0, 0, 0] = 3  # a post in the corner, further than 5 m away
    called[0, 30, 60] = called[0, 30, 62] = called[0, 60, 50] = called[0, 0, 0] = 0.9
    figures = figures_of(0.5 - 0.5 * called, called, labels, labels == 3)
    # One of two is found, and one free cell of those 1 m around is called occupied.
    assert figures["recall_hard"] == 0.5 and figures["iou_hard"] == pytest.approx(1 / 3)
    near = near_cells((72, 72))
    assert near[36, 70] and not near[0, 0] and near[36 + 29, 36] and not near[36 + 30, 36]


def test_what_is_exported_answers_as_the_network_does(tmp_path: Path) -> None:
    made = Training("train near-field", 0, 0.1, "cpu")
    written = export_near_field(new_network(), tmp_path, made, {"night": 0.5})
    card = load_card(tmp_path)
    assert card == written and card.training == made and card.figures == {"night": 0.5}
    example = {n: np.full(t.shape, 0.5, np.float32) for n, t in card.inputs.items()}
    answers = [
        open_one(engine, card, RuntimeConfig(threads=1)).run(example)["evidence"]
        for engine in ("onnxruntime", "torch")
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=2e-4, rtol=1e-3)


def test_numbers_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "near-field", "--data", str(tmp_path), "--out", str(tmp_path)]
    assert main([*arguments, "--drives", "0"]) == 2
    assert "--drives" in capsys.readouterr().err
    assert main([*arguments, "--held-out", "99999"]) == 2
    assert main(["train", "near-field", "--data", "/proc/shards", "--out", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"not a shard")
    rig = load_rig(rig_path("near_field"))
    with pytest.raises(UserError, match=r"x\.npz"):
        list(load_samples([tmp_path / "x.npz"], rig, new_network()))
    with pytest.raises(UserError, match="no near-field shards"):
        joined([])
