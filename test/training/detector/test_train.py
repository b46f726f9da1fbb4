"""Training of the detector from samples to models that the detector runs; exact resumption."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.fusion.detector import FusionDetector
from multimodal_perception.pipeline_builder import PipelineConfig, open_detector
from multimodal_perception.pointcloud.ground_segmentation import segment_ground
from multimodal_perception.runtime.card import Training, load_card
from multimodal_perception.runtime.open_model import open_single_engine
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.training.bev_fusion.sample_files import sample_paths
from multimodal_perception.training.checkpoint import read_streams, read_weights, write_weights
from multimodal_perception.training.detector.dataset import (
    store_features,
)
from multimodal_perception.training.detector.export import export_detector
from multimodal_perception.training.detector.train import (
    load_image_backbones,
    train_proposals,
    train_refinement,
)
from multimodal_perception.training.loop import Loop
from test.networks.detectors import SMALL
from test.training.detector.tiny_samples import configured, frame_of
from test.training.detector.tiny_samples import samples as samples
from test.training.event_files import read_scalars


def test_trained_networks_run_in_the_detector(samples: Path, tmp_path: Path) -> None:
    first = train_proposals(configured("proposals", 4), samples, tmp_path / "p")
    assert len(read_scalars(tmp_path / "p", "loss/heat")) == 4
    weights = tmp_path / "p" / "proposals.safetensors"
    train_refinement(configured("refinement", 2), samples, tmp_path / "r", weights)
    cards = export_detector(
        SMALL,
        weights,
        tmp_path / "r" / "refinement.safetensors",
        tmp_path / "small",
        Training("train detector", 0, 0.0, "test"),
    )
    names = ["small", "small_camera", "small_thermal", "small_refinement"]
    assert [c.name for c in cards] == names
    assert len({c.task for c in cards}) == 4  # each part has a description of its own
    # For frames without LiDAR there can be another proposal network with the same image networks.
    other = read_weights(weights)
    other["head.heatmap.bias"] = other["head.heatmap.bias"] + 2.0
    write_weights(other, tmp_path / "without_lidar.safetensors")
    training, out = Training("train detector", 0, 0.0, "test"), tmp_path / "both"
    export_detector(
        SMALL, weights, None, out, training, without_lidar=tmp_path / "without_lidar.safetensors"
    )
    both = FusionDetector(
        FusionConfig(str(out), min_score=0.0), RuntimeConfig(order=("onnxruntime",))
    )
    without_lidar = dataclasses.replace(frame_of(9), lidars={})
    plain = open_detector(
        f"{tmp_path / 'small'}+none", PipelineConfig(fusion=FusionConfig(min_score=0.0))
    )
    with_bias, without_bias = (
        d.detect(without_lidar, segment_ground(without_lidar)) for d in (both, plain)
    )
    assert len(with_bias) and with_bias.scores.max() > without_bias.scores.max()
    other["camera_neck.fine.bias"] = other["camera_neck.fine.bias"] + 1.0
    write_weights(other, tmp_path / "without_lidar.safetensors")
    with pytest.raises(UserError, match="other image networks than"):
        export_detector(
            SMALL,
            weights,
            None,
            out,
            training,
            without_lidar=tmp_path / "without_lidar.safetensors",
        )
    # The model folders together contain all weights.
    trained, exported = read_weights(weights), read_weights(tmp_path / "small")
    assert set(trained) == set(exported)
    assert all(torch.equal(trained[n], exported[n]) for n in trained)
    detector = FusionDetector(
        FusionConfig(str(tmp_path / "small"), min_score=0.0), RuntimeConfig(order=("onnxruntime",))
    )
    frame = frame_of(9)
    boxes = detector.detect(frame, segment_ground(frame))
    assert len(boxes) and np.isfinite(boxes.boxes).all()
    assert (np.diff(boxes.scores) <= 1e-6).all() and detector.counts["fallback_geometric"] == 0
    for part in ({"cameras": {}}, {"thermals": {}}, {"lidars": {}}):
        fewer = dataclasses.replace(frame, **part)
        assert np.isfinite(detector.detect(fewer, segment_ground(fewer)).scores).all()
    no_sensors = dataclasses.replace(frame, lidars={}, cameras={}, thermals={})
    assert not len(detector.detect(no_sensors, segment_ground(no_sensors)))
    assert detector.counts["no_exteroceptive_data"] == 1
    first_stage = open_detector(f"{tmp_path / 'small'}+none")
    assert isinstance(first_stage, FusionDetector)
    assert not np.array_equal(first_stage.detect(frame, segment_ground(frame)).scores, boxes.scores)
    with pytest.raises(UserError, match=r"settings\.network"):
        open_detector(f"{tmp_path / 'small'}+detector_refinement")
    # ONNX Runtime and torch give the same results.
    card = load_card(tmp_path / "small")
    rng = np.random.default_rng(0)
    inputs = {
        n: rng.integers(0, 255, s.shape).astype(s.dtype)
        if s.dtype != "float32"
        else rng.uniform(-1, 1, s.shape).astype(np.float32)
        for n, s in card.inputs.items()
    }
    inputs["pillar_cells"] = rng.permutation(SMALL.pillars.size**2)[
        None, : SMALL.pillars.max_pillars
    ]
    inputs["camera_valid"][:], inputs["thermal_valid"][:] = 1.0, 1.0
    a = open_single_engine("onnxruntime", card, RuntimeConfig()).run(inputs)
    b = open_single_engine("torch", card, RuntimeConfig(device="cpu")).run(inputs)
    for name in ("scores", "boxes", "bev_features"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4)
    assert isinstance(first, torch.nn.Module)


def test_frozen_modules_are_not_changed_and_the_others_are_trained(
    samples: Path, tmp_path: Path
) -> None:
    train_proposals(configured("proposals", 1), samples, tmp_path / "a")
    train_proposals(configured("lidar", 1), samples, tmp_path / "b")
    starts = [tmp_path / k / "proposals.safetensors" for k in "ab"]
    frozen = ("encoder", "backbone", "neck", "head", "camera_neck")
    config = dataclasses.replace(configured("proposals", 3), frozen_modules=frozen)
    train_proposals(config, samples, tmp_path / "p", starts)
    images, lidar = (read_weights(s) for s in starts)
    trained = read_weights(tmp_path / "p" / "proposals.safetensors")
    for name, value in trained.items():
        part = name.split(".")[0]
        # The last initial weights count, and the batch statistics of frozen modules do not change.
        before = lidar.get(name, images[name])
        if part in frozen or "trunk" in part:
            assert torch.equal(value, before), name
        elif name == "camera_fusion.scale":
            assert not torch.equal(value, before)
    assert not torch.equal(images["head.heatmap.weight"], lidar["head.heatmap.weight"])


def test_an_unknown_frozen_module_is_refused(samples: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(configured("proposals", 1), frozen_modules=("tail",))
    with pytest.raises(UserError, match="frozen_modules: ProposalNetwork has no module 'tail'"):
        train_proposals(config, samples, tmp_path / "p")


def test_image_backbones_of_a_segmentation_network_are_exported_with_the_detector(
    samples: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(configured("proposals", 1), image_backbones="segmentation")
    train_proposals(config, samples, tmp_path / "p")
    weights = tmp_path / "p" / "proposals.safetensors"
    trained, streams = read_weights(weights), read_streams("segmentation")
    for modality, stream in zip(("camera", "thermal"), streams, strict=True):
        own = [k for k in trained if k.startswith(f"{modality}_trunk.")]
        assert own
        for name in own:
            torch.testing.assert_close(
                trained[name], stream[name.removeprefix(f"{modality}_trunk.")]
            )
    # The refinement computes the features of these backbones again where others are stored.
    store_features(sample_paths(samples), *load_image_backbones("imagenet"))
    train_refinement(configured("refinement", 1), samples, tmp_path / "r", weights)
    assert store_features(sample_paths(samples), *load_image_backbones("segmentation")) == 0
    training = Training("train detector", 0, 0.0, "test")
    card, *_ = export_detector(SMALL, weights, None, tmp_path / "small", training)
    assert torch.equal(
        read_weights(card.path)["camera_trunk.stem.0.weight"], trained["camera_trunk.stem.0.weight"]
    )
    # Another detector can have the same image backbones.
    assert store_features(sample_paths(samples), *load_image_backbones(str(card.path))) == 0
    with pytest.raises(UserError, match="does not contain two EfficientNet-Lite0 backbones"):
        load_image_backbones("image_fusion")


def test_a_resumed_training_equals_an_uninterrupted_one(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("proposals", 4)
    uninterrupted = train_proposals(config, samples, tmp_path / "a")
    with monkeypatch.context() as patch:
        advance = Loop._advance

        def interrupt(self: Loop, *args: Any) -> Any:
            if self.step == 3:  # the last checkpoint is that of step 2
                raise KeyboardInterrupt
            return advance(self, *args)

        patch.setattr(Loop, "_advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_proposals(config, samples, tmp_path / "b")
    resumed = train_proposals(config, samples, tmp_path / "b")
    for a, b in zip(
        uninterrupted.state_dict().values(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
    assert read_scalars(tmp_path / "a", "loss/total") == read_scalars(tmp_path / "b", "loss/total")


def test_a_refinement_training_is_repeatable(samples: Path, tmp_path: Path) -> None:
    train_proposals(configured("proposals", 1), samples, tmp_path / "p")
    weights = tmp_path / "p" / "proposals.safetensors"
    config = configured("refinement", 2)
    runs = [train_refinement(config, samples, tmp_path / k, weights) for k in "ab"]
    for a, b in zip(*(run.state_dict().values() for run in runs), strict=True):
        assert torch.equal(a, b)


def test_a_batch_larger_than_the_data_set_is_refused(samples: Path, tmp_path: Path) -> None:
    config = configured("proposals", 2)
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, batch_size=50))
    with pytest.raises(UserError, match="fewer than a batch"):
        train_proposals(config, samples, tmp_path / "p")
