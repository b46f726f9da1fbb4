"""Training of the near-field network: learning, resumption, calibration, metrics and export."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln

from multimodal_perception.cli.main import main
from multimodal_perception.configuration import UserError
from multimodal_perception.frame import VehicleFootprint
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.runtime.card import Training, load_card
from multimodal_perception.runtime.open_model import open_single_engine
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.training.loop import Loop, LoopConfig
from multimodal_perception.training.near_field.export import export_near_field, load_near_field
from multimodal_perception.training.near_field.samples import (
    Samples,
    concatenate_samples,
    load_samples,
)
from multimodal_perception.training.near_field.scoring import (
    EVIDENCE_FACTORS,
    TARGET_CALIBRATION_ERROR,
    calibrate_evidence,
    cell_metrics,
    masses,
    near_cells,
    score,
    score_by_modality,
)
from multimodal_perception.training.near_field.train import (
    AugmentedSamples,
    NearFieldTraining,
    build_network,
    cell_loss,
    train,
)

# Of the rig near_field.
FOOTPRINT = VehicleFootprint(-2.25, 2.25, -0.9, 0.9)


def config(**loop: Any) -> NearFieldTraining:
    return NearFieldTraining(
        loop=LoopConfig(batch_size=2, workers=0, save_every=1, ema_decay=0.9, **loop)
    )


def samples(count: int = 4) -> Samples:
    generator = torch.Generator().manual_seed(3)
    labels = torch.zeros(count, 72, 72, dtype=torch.uint8)
    ultrasonic_grid = torch.zeros(count, 5, 72, 72)
    for i in range(count):
        row = 6 + 4 * i
        labels[i, row : row + 4], labels[i, 60:] = 2, 255
        ultrasonic_grid[i, 1, row : row + 4] = 0.7  # an echo at each wall
    return Samples(
        torch.randn(count, 4, 24, 28, 48, generator=generator).half(),
        torch.randn(count, 4, 40, 14, 24, generator=generator).half(),
        torch.full((4, 2, 72, 72, 2), -2.0),
        ultrasonic_grid.half(),
        labels,
        labels == 2,
        np.arange(count) % 2 == 0,
        ["parking_lot"] * count,
        FOOTPRINT,
    )


def test_training_learns_walls_from_echoes(tmp_path: Path) -> None:
    network, data = build_network(), samples(2)
    before = {n: p.clone() for n, p in network.backbone.named_parameters()}
    first = score(network, data)
    train(network, data, config(steps=80, learning_rate=0.005), tmp_path)
    figures = score(network, data)
    assert figures["all"]["iou_hard"] > first["all"]["iou_hard"] + 0.1
    assert set(figures) == {"all", "day", "night"} and 0 <= figures["all"]["ece"] <= 1
    assert all(torch.equal(before[n], p) for n, p in network.backbone.named_parameters())


def test_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options = samples(2), config(steps=2, seed=5)
    uninterrupted = train(build_network(seed=1), data, options, tmp_path / "a")
    with monkeypatch.context() as patch:
        advance = Loop._advance

        def interrupt(loop: Loop, *args: object) -> object:
            if loop.step == 1:
                raise KeyboardInterrupt
            return advance(loop, *args)  # type: ignore[arg-type]

        patch.setattr(Loop, "_advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(build_network(seed=1), data, options, tmp_path / "b")
    resumed = train(build_network(seed=9), data, options, tmp_path / "b")
    for name, value in uninterrupted.state_dict().items():
        assert torch.allclose(value.float(), resumed.state_dict()[name].float(), atol=1e-6), name


def test_sensor_dropout_depends_on_seed_epoch_and_index_only() -> None:
    data = AugmentedSamples(samples(4), config(seed=3))
    again = AugmentedSamples(samples(4), config(seed=3))
    again[3]
    for name, value in data[1].items():
        assert torch.equal(value, again[1][name]), name
    fisheye_only = AugmentedSamples(samples(4), NearFieldTraining(fisheye_only=True))
    assert not any(fisheye_only[i]["has_ultrasonic"] for i in range(4))


def test_calibration_increases_evidence_and_keeps_predictions() -> None:
    network, data = build_network(), samples(2)
    with torch.no_grad():
        for layer in (network.head,):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor([8.0, -9, -9, -9, -9, -9]))
    data.labels[data.labels == 2] = 0  # all cells are free: more evidence is better calibrated
    data.hard[:] = False
    before = score(network, data)["all"]
    factor = calibrate_evidence(network, data)
    assert factor == network.settings.evidence_scale > 1
    after = score(network, data)["all"]
    assert after["ece"] <= TARGET_CALIBRATION_ERROR < before["ece"]
    assert after["iou_free"] == before["iou_free"] == 1
    network.settings = replace(
        network.settings, evidence_scale=EVIDENCE_FACTORS[EVIDENCE_FACTORS.index(factor) - 1]
    )
    assert (
        score(network, data)["all"]["ece"] > TARGET_CALIBRATION_ERROR
    )  # the factor is the smallest sufficient one
    assert np.isnan(after["iou_hard"])


def test_masses_and_metrics_match_values_computed_by_hand() -> None:
    evidence = torch.tensor([6.0, 0.0, 2.0, 0.0, 0.0, 0.0]).reshape(1, 6, 1, 1)
    free, occupied = masses(evidence)[0, :, 0, 0].tolist()
    assert (free, occupied) == pytest.approx((6 / 14, 2 / 14))
    labels = np.array([[[0, 0, 2, 3, 255]]], np.uint8)
    free = np.array([[[0.9, 0.1, 0.1, 0.8, 0.1]]])
    figures = cell_metrics(free, 0.9 - free, labels, labels == 3, FOOTPRINT)
    assert figures["iou_occupied"] == pytest.approx(1 / 3)
    assert (
        figures["false_free"] == 0.5 and figures["recall_wall"] == 1 and figures["recall_pole"] == 0
    )
    assert np.isnan(figures["recall_person"])


def test_hard_obstacles_are_scored_near_the_vehicle_with_surrounding_free_cells() -> None:
    labels, occupied = np.zeros((1, 72, 72), np.uint8), np.zeros((1, 72, 72))
    labels[0, 30:32, 60] = 3  # two cells of a post, 4.9 m ahead
    labels[0, 60, 36] = 4  # a car's cell
    labels[0, 0, 0] = 3  # a post in the corner, further than 5 m away
    occupied[0, 30, 60] = occupied[0, 30, 62] = occupied[0, 60, 50] = occupied[0, 0, 0] = 0.9
    figures = cell_metrics(0.5 - 0.5 * occupied, occupied, labels, labels == 3, FOOTPRINT)
    # One of two cells is detected, and one free cell within 1 m is predicted occupied.
    assert figures["recall_hard"] == 0.5 and figures["iou_hard"] == pytest.approx(1 / 3)
    near = near_cells((72, 72), FOOTPRINT)
    assert near[36, 70] and not near[0, 0] and near[36 + 29, 36] and not near[36 + 30, 36]


def test_distance_from_the_vehicle_is_measured_from_its_displaced_footprint() -> None:
    small = VehicleFootprint(-0.2, 1.0, -0.3, 0.3)  # base_link at the rear axle
    near = near_cells((72, 72), small)
    x = (np.arange(72) + 0.5 - 36) * 0.2
    expected = (x >= -5.2) & (x <= 6.0)
    assert np.array_equal(near[36], expected) and not np.array_equal(near[36], near[36, ::-1])
    # Without a footprint, the distance is that from base_link.
    centre = np.hypot(x[None], x[:, None]) <= 5.0
    assert np.array_equal(near_cells((72, 72), None), centre)
    # A post 5.5 m in front of base_link is near a vehicle whose front is at 1 m.
    labels = np.zeros((1, 72, 72), np.uint8)
    labels[0, 36, 63] = 3
    occupied = np.where(labels == 3, 0.9, 0.0)
    for footprint, recall in ((small, 1.0), (None, np.nan)):
        figures = cell_metrics(0.5 - 0.5 * occupied, occupied, labels, labels == 3, footprint)
        assert figures["recall_hard"] == pytest.approx(recall, nan_ok=True)


def test_exported_model_computes_the_same_evidence_as_the_network(tmp_path: Path) -> None:
    training = Training("train near-field", 0, 0.1, "cpu")
    written = export_near_field(build_network(), tmp_path, training, {"night": 0.5})
    card = load_card(tmp_path)
    assert card == written and card.training == training and card.figures == {"night": 0.5}
    assert b".py" not in (tmp_path / "model.onnx").read_bytes()  # no paths of the exporting machine
    example = {n: np.full(t.shape, 0.5, np.float32) for n, t in card.inputs.items()}
    evidence = [
        open_single_engine(engine, card, RuntimeConfig(threads=1)).run(example)["evidence"]
        for engine in ("onnxruntime", "torch")
    ]
    np.testing.assert_allclose(evidence[0], evidence[1], atol=2e-4, rtol=1e-3)
    by_modality = score_by_modality(load_near_field(card), samples(2))
    assert set(by_modality) == {"both", "fisheyes", "ultrasonics"}


def test_options_out_of_range_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "near-field", "--data", str(tmp_path), "--out", str(tmp_path)]
    assert main([*arguments, "--drives", "0"]) == 2
    assert "--drives" in capsys.readouterr().err
    assert main([*arguments, "--workers", "0"]) == 2
    assert main(["train", "near-field", "--data", "/proc/shards", "--out", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())


def test_unreadable_shard_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"not a shard")
    rig = load_rig(resolve_rig_path("near_field"))
    with pytest.raises(UserError, match=r"x\.npz"):
        list(load_samples([tmp_path / "x.npz"], rig, build_network()))
    with pytest.raises(UserError, match="no near-field shards"):
        concatenate_samples([])


def test_loss_matches_the_paper_and_ignores_unlabelled_cells() -> None:
    evidence = torch.tensor([3.0, 0.5, 0.0]).reshape(1, 3, 1, 1).repeat(1, 1, 1, 2)
    labels = torch.tensor([[[0, 255]]])
    alpha = evidence[0, :, 0, 0].numpy() + 1
    cross_entropy = digamma(alpha.sum()) - digamma(alpha[0])
    wrong = [1.0, 1.5, 1.0]  # the true class's evidence removed
    total = sum(wrong)
    kl = gammaln(total) - gammaln(3) - sum(gammaln(a) for a in wrong)
    kl += sum((a - 1) * (digamma(a) - digamma(total)) for a in wrong)
    loss = cell_loss(evidence, labels, torch.ones(1, 1, 2), 0.3)
    assert float(loss) == pytest.approx(cross_entropy + 0.3 * kl, rel=1e-5)
    weighted = cell_loss(evidence, torch.tensor([[[0, 1]]]), torch.tensor([[[1.0, 3.0]]]), 0.0)
    other = digamma(alpha.sum()) - digamma(alpha[1])
    assert float(weighted) == pytest.approx((cross_entropy + 3 * other) / 4, rel=1e-5)
    unlabelled = cell_loss(evidence, torch.full((1, 1, 2), 255), torch.ones(1, 1, 2), 1.0)
    assert float(unlabelled) == 0 and math.isfinite(float(unlabelled))
