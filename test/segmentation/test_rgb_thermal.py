"""The segmentation stage with the shipped network: subsets of images, blank images, settings."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.segmentation import ConfusionMatrix
from multimodal_perception.frame import SensorFrame
from multimodal_perception.images.rgb_thermal_inputs import RgbThermalSegmenterConfig, frame_inputs
from multimodal_perception.runtime.card import TensorSpec, load_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.classes import labels_from_semantics
from multimodal_perception.segmentation.rgb_thermal import (
    RgbThermalSegmenter,
    argmax_of_upsampled_logits,
)
from multimodal_perception.simulation.simulation import Observation
from test.image_pair import CAMERA, THERMAL, resized, with_camera, with_thermal


@pytest.fixture(scope="module")
def frame(night_street: Observation) -> SensorFrame:
    return night_street.frame


@pytest.fixture
def segmenter() -> RgbThermalSegmenter:
    return RgbThermalSegmenter(runtime=RuntimeConfig(order=("onnxruntime",), device="cpu"))


def score(
    labels: np.ndarray, semantics: np.ndarray, segmenter: RgbThermalSegmenter
) -> dict[str, float]:
    confusion = ConfusionMatrix(segmenter.class_names)
    confusion.add(labels_from_semantics(semantics), labels)
    return confusion.summary()["iou"]


@pytest.mark.parametrize("images", ["both", "visible", "thermal"])
def test_night_street_is_segmented_from_any_subset_of_images(
    images: str, night_street: Observation, segmenter: RgbThermalSegmenter
) -> None:
    frame, name = night_street.frame, CAMERA
    if images == "visible":
        frame = replace(frame, thermals={})
    if images == "thermal":  # in its own view, under its own name
        frame, name = replace(frame, cameras={}), THERMAL
    masks = segmenter.segment(frame)
    assert list(masks) == [name]
    iou = score(masks[name].labels, night_street.truth.views[name].semantics, segmenter)
    assert masks[name].stamp_ns == frame.stamp_ns
    assert iou["road"] > 0.85 and iou["vehicle"] > 0.6 and iou["sky"] > 0.8


def test_view_of_a_missing_camera_is_segmented_from_the_thermal_image(
    night_street: Observation, segmenter: RgbThermalSegmenter
) -> None:
    labels = segmenter.segment_view(replace(night_street.frame, cameras={}), CAMERA)
    assert labels is not None
    assert score(labels, night_street.truth.views[CAMERA].semantics, segmenter)["road"] > 0.7


@pytest.mark.parametrize("value", [0, 255])
def test_black_or_saturated_image_counts_as_missing(
    value: int, frame: SensorFrame, segmenter: RgbThermalSegmenter
) -> None:
    thermal_only = segmenter.segment_view(replace(frame, cameras={}), CAMERA)
    blank = np.full((360, 640, 3), value, np.uint8)
    masks = segmenter.segment(with_camera(frame, blank))
    np.testing.assert_array_equal(masks[CAMERA].labels, thermal_only)
    assert segmenter.counts[f"{CAMERA}.blank"] == 1
    without = segmenter.segment(replace(frame, thermals={}))[CAMERA].labels
    cold = with_thermal(frame, np.full((256, 320), value * 257, np.uint16))
    np.testing.assert_array_equal(segmenter.segment(cold)[CAMERA].labels, without)


def test_frame_without_usable_image_gives_no_mask(
    frame: SensorFrame, segmenter: RgbThermalSegmenter
) -> None:
    black = with_camera(replace(frame, thermals={}), np.zeros((360, 640, 3), np.uint8))
    assert not segmenter.segment(black)
    assert segmenter.counts[f"{CAMERA}.no_usable_image"] == 1
    assert not segmenter.segment(SensorFrame(0))


def test_eight_bit_thermal_images_give_nearly_the_same_labels(
    frame: SensorFrame, segmenter: RgbThermalSegmenter
) -> None:
    counts = frame.thermals[THERMAL].pixels.astype(np.float32)
    low, high = np.percentile(counts, (0.5, 99.5))
    eight = np.clip((counts - low) * 255 / (high - low), 0, 255).astype(np.uint8)
    a = segmenter.segment(frame)[CAMERA].labels
    other = RgbThermalSegmenter(engine=segmenter.engine)
    b = other.segment(with_thermal(frame, eight))[CAMERA].labels
    assert (a == b).mean() > 0.95


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (320, 240), (97, 1)])
def test_masks_have_the_size_of_the_image(
    width: int, height: int, frame: SensorFrame, segmenter: RgbThermalSegmenter
) -> None:
    other = resized(frame, width, height)
    assert segmenter.segment(other)[CAMERA].labels.shape == (height, width)


def test_images_without_calibration_are_not_segmented(
    frame: SensorFrame, segmenter: RgbThermalSegmenter
) -> None:
    uncalibrated = replace(frame, base_from_sensor={}, intrinsics={})
    assert not segmenter.segment(uncalibrated)
    thermal_uncalibrated = replace(frame, base_from_sensor={CAMERA: frame.base_from_sensor[CAMERA]})
    expected = segmenter.segment(replace(frame, thermals={}))[CAMERA].labels
    np.testing.assert_array_equal(segmenter.segment(thermal_uncalibrated)[CAMERA].labels, expected)


def test_configured_sensors_are_segmented_and_unknown_ones_ignored(
    frame: SensorFrame, segmenter: RgbThermalSegmenter
) -> None:
    config = RgbThermalSegmenterConfig(cameras=(THERMAL, CAMERA, "none_such"))
    masks = RgbThermalSegmenter(config, engine=segmenter.engine).segment(frame)
    assert list(masks) == [THERMAL, CAMERA]


def test_engine_failure_is_counted_and_gives_no_mask(
    frame: SensorFrame, segmenter: RgbThermalSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arrays: object) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(segmenter.engine, "run", fail)
    assert not segmenter.segment(frame)
    assert segmenter.counts[f"{CAMERA}.engine"] == 1


def test_card_of_another_network_is_refused(segmenter: RgbThermalSegmenter) -> None:
    card = dataclasses.replace(load_card("segmentation"), classes=())
    with pytest.raises(UserError, match="not a segmentation network"):
        RgbThermalSegmenter(engine=segmenter.engine, card=card)


@pytest.mark.parametrize("value", [0.0, 1.0, True, "half"])
def test_card_with_an_invalid_thermal_quartile_is_refused(
    value: object, segmenter: RgbThermalSegmenter
) -> None:
    card = load_card("segmentation")
    card = dataclasses.replace(card, settings={**card.settings, "thermal_quartile": value})
    with pytest.raises(UserError, match=r"thermal_quartile: allowed: above 0, below 1"):
        RgbThermalSegmenter(engine=segmenter.engine, card=card)


@pytest.mark.parametrize(("trained", "configured"), [("thermal", "lidar"), ("lidar", "thermal")])
def test_second_input_that_contradicts_the_card_is_refused(
    trained: str, configured: str, segmenter: RgbThermalSegmenter
) -> None:
    card = load_card("segmentation")
    card = dataclasses.replace(card, settings={**card.settings, "second_input": trained})
    config = RgbThermalSegmenterConfig(second_input=configured)  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        RgbThermalSegmenter(config, engine=segmenter.engine, card=card)
    message = str(error.value)
    assert message.startswith(f"pipeline.rgb_thermal_segmenter.second_input: '{configured}'")
    assert card.source in message and message.endswith(f"allowed: {trained}, none")


def test_second_input_none_uses_the_visible_image_only(
    frame: SensorFrame, segmenter: RgbThermalSegmenter
) -> None:
    config = RgbThermalSegmenterConfig(second_input="none")
    labels = RgbThermalSegmenter(config, engine=segmenter.engine).segment(frame)[CAMERA].labels
    expected = segmenter.segment(replace(frame, thermals={}))[CAMERA].labels
    np.testing.assert_array_equal(labels, expected)


def test_network_trained_with_lidar_gets_no_thermal_image(
    frame: SensorFrame, segmenter: RgbThermalSegmenter
) -> None:
    card = load_card("segmentation")
    card = dataclasses.replace(card, settings={**card.settings, "second_input": "lidar"})
    config = RgbThermalSegmenterConfig(second_input="lidar", cameras=(CAMERA, THERMAL))
    with_lidar = RgbThermalSegmenter(config, engine=segmenter.engine, card=card)
    assert list(with_lidar.segment(frame)) == [CAMERA]
    assert not with_lidar.segment(replace(frame, cameras={}))


def test_card_with_an_unknown_second_input_is_refused(segmenter: RgbThermalSegmenter) -> None:
    card = load_card("segmentation")
    card = dataclasses.replace(card, settings={**card.settings, "second_input": "radar"})
    with pytest.raises(UserError, match="allowed: thermal, lidar; got 'radar'"):
        RgbThermalSegmenter(engine=segmenter.engine, card=card)


def test_card_with_wrong_input_shapes_is_refused(segmenter: RgbThermalSegmenter) -> None:
    card = load_card("segmentation")
    inputs = {**card.inputs, "thermal": TensorSpec((1, 3, 256, 448))}
    with pytest.raises(UserError, match=r"inputs.thermal.shape: must be \[1, 1, 256, 448\]"):
        RgbThermalSegmenter(engine=segmenter.engine, card=dataclasses.replace(card, inputs=inputs))


def test_calibration_inputs_have_the_shapes_of_the_card(frame: SensorFrame) -> None:
    card = load_card("segmentation")
    build = frame_inputs(card)
    assert {n: a.shape for n, a in build(frame).items()} == {
        n: t.shape for n, t in card.inputs.items()
    }
    with pytest.raises(UserError, match="no image"):
        build(SensorFrame(0))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(2, 9), st.integers(1, 5))
def test_upsampling_is_the_argmax_of_bilinear_logits(
    seed: int, rows: int, columns: int, scale: int
) -> None:
    logits = np.random.default_rng(seed).standard_normal((rows, columns, 4)).astype(np.float32)
    labels = np.empty((rows * scale, columns * scale), np.uint8)
    argmax_of_upsampled_logits(logits, 1.0 / scale, labels)
    large = cv2.resize(logits, (columns * scale, rows * scale), interpolation=cv2.INTER_LINEAR)
    top = np.sort(large, axis=2)
    clear = top[..., -1] - top[..., -2] > 1e-3
    np.testing.assert_array_equal(labels[clear], large.argmax(2)[clear])
