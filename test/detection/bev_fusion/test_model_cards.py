"""Model cards of the BEV fusion detector: those that do not fit are refused when it is configured."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.boxes import calibrated_scores
from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.detection.bev_fusion.model_cards import (
    read_detector_cards,
    score_calibration,
)
from multimodal_perception.frame import CLASS_NAMES, Modality
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.runtime.card import ModelCard, TensorSpec, load_card, write_card
from multimodal_perception.runtime.settings import RuntimeConfig
from test.detection.bev_fusion.small_images import SMALL

RUNTIME = RuntimeConfig(order=("onnxruntime",), device="cpu", threads=1)
FOLDERS = ("small", "small_camera", "small_thermal", "small_refinement")
Change = Callable[[ModelCard], ModelCard]


@pytest.fixture
def copied(small_model: Path, tmp_path: Path) -> Path:
    for name in FOLDERS:
        shutil.copytree(small_model.with_name(name), tmp_path / name)
    return tmp_path / "small"


def with_settings(**values: object) -> Change:
    return lambda card: dataclasses.replace(card, settings={**card.settings, **values})


def with_network(**values: object) -> Change:
    return lambda card: with_settings(network={**card.settings["network"], **values})(card)


def with_input(name: str, spec: TensorSpec) -> Change:
    return lambda card: dataclasses.replace(card, inputs={**card.inputs, name: spec})


def test_cards_belong_together(small_model: Path) -> None:
    cards = read_detector_cards(str(small_model))
    assert set(cards.images) == {"camera", "thermal"} and cards.refinement is not None
    assert cards.network == SMALL
    assert [CLASS_NAMES[k] for k in cards.classes] == list(cards.stage1.classes)
    assert read_detector_cards(str(small_model), "none").refinement is None


@pytest.mark.parametrize(
    ("folder", "change", "words"),
    [
        ("small", with_network(channels=16), r"inputs.pillar_images: .* needs"),
        ("small", with_network(colour=1), "settings.network: unknown key 'colour'|colour"),
        ("small", with_network(camera_size=[60, 96]), "multiples of 16"),
        ("small", with_input("rays", TensorSpec((1, 4))), "inputs: .*; settings.network needs"),
        (
            "small",
            lambda c: dataclasses.replace(c, classes=("car", "bus")),
            "classes: must be car, van",
        ),
        ("small", lambda c: dataclasses.replace(c, architecture="moe_fusion"), "architecture"),
        ("small", with_settings(images={"radar": "small_camera"}), "'radar': allowed: camera"),
        ("small", with_settings(images={"camera": "small_thermal"}), "settings.image: 'thermal'"),
        ("small", with_settings(images={"camera": "small_refinement"}), "architecture"),
        ("small", with_settings(images={"camera": "../small_camera"}), "name of a folder"),
        ("small", with_settings(images={"camera": "gone"}), "gone"),
        ("small", with_settings(images="small_camera"), "expected a mapping"),
        ("small", with_settings(refinement="small_camera"), "architecture"),
        ("small_camera", with_network(range_bins=10), "settings.network.range_bins: 10, but 12"),
        (
            "small_camera",
            lambda c: dataclasses.replace(
                c, outputs={**c.outputs, "ranges": TensorSpec((1, 8, 12, 48))}
            ),
            r"outputs.ranges: \[1, 8, 12, 48\]",
        ),
        ("small_refinement", with_network(neck_channels=24), "settings.network.neck_channels: 24"),
        ("small_refinement", with_network(refined_proposals=9), r"inputs.\w+: \[1, 8"),
        (
            "small_refinement",
            lambda c: dataclasses.replace(c, classes=c.classes[::-1]),
            "classes: differ",
        ),
        ("small", with_settings(score_calibration=[1, 2]), "expected a mapping"),
        ("small", with_settings(score_calibration={"plane": [1, 0]}), "'plane': allowed: car"),
        ("small", with_settings(score_calibration={"car": [-1, 0]}), "positive slope"),
        ("small", with_settings(score_calibration={"car": [1]}), "expected"),
        ("small", with_settings(score_calibration={"car": ["a", "b"]}), "expected"),
        ("small", with_settings(score_calibration={"car": [1, float("nan")]}), "expected"),
    ],
)
def test_cards_that_do_not_fit_are_refused(
    copied: Path, folder: str, change: Change, words: str
) -> None:
    path = copied.with_name(folder)
    write_card(path, change(load_card(path)))
    with pytest.raises(UserError, match=words) as error:
        read_detector_cards(str(copied))
    assert str(copied.parent) in str(error.value) and "\n" not in str(error.value)


def test_detectors_with_one_image_network_or_none(copied: Path) -> None:
    for images in ({"thermal": "small_thermal"}, {}):
        write_card(copied, with_settings(images=images)(load_card(copied)))
        detector = BevFusionDetector(FusionConfig(str(copied)), RUNTIME)
        assert set(detector.image_networks) == set(images)
        rig = load_rig(resolve_rig_path("car"))
        used = detector.sensor_use(rig).used
        assert not used & set(rig.sensors_of(Modality.CAMERA))
        assert used >= set(rig.sensors_of(Modality.LIDAR))


def test_sensors_beyond_the_limits_are_listed_with_the_parameter(small_model: Path) -> None:
    rig = load_rig(resolve_rig_path("car"))
    cameras = tuple(rig.sensors_of(Modality.CAMERA))
    assert len(cameras) > 1
    detector = BevFusionDetector(FusionConfig(str(small_model), max_cameras=1), RUNTIME)
    use = detector.sensor_use(rig)
    assert set(use.surplus) == set(cameras[1:])
    assert all("pipeline.fusion.max_cameras" in reason for reason in use.surplus.values())
    everything = BevFusionDetector(FusionConfig(str(small_model)), RUNTIME).sensor_use(rig)
    assert not everything.surplus and everything.used == frozenset(rig.sensors)


def test_pipeline_opens_the_detector_of_a_model_and_refuses_other_networks(
    small_model: Path,
) -> None:
    with pytest.raises(UserError, match="architecture: 'near_field'; expected 'bev_fusion'"):
        BevFusionDetector(FusionConfig("near_field"), RUNTIME)
    config = PipelineConfig(
        detector="fusion", fusion=FusionConfig(str(small_model)), runtime=RUNTIME, occupancy="none"
    )
    assert isinstance(build_pipeline(config).detector, BevFusionDetector)


def test_scores_are_calibrated_per_class(small_model: Path) -> None:
    card = with_settings(score_calibration={"car": [0.5, -1.0]})(load_card(small_model))
    calibration = score_calibration(card)
    scores = np.array([0.8, 0.8, 0.0, 1.0], np.float32)
    result = calibrated_scores(scores, np.array([0, 1, 0, 1]), calibration)
    assert result[0] == pytest.approx(1 / (1 + np.exp(-(0.5 * np.log(4) - 1))), abs=1e-5)
    assert result[1] == pytest.approx(0.8, abs=1e-5)
    assert 0 <= result[2] < 0.01 and 0.99 < result[3] <= 1
