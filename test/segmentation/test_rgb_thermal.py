"""The shipped network in its stage: any subset of images, and images that show nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.segmentation import Confusion
from multimodal_perception.frame import SensorFrame
from multimodal_perception.images.rgb_thermal_inputs import RgbxConfig, frame_inputs
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.segmentation.classes import labels_from_semantics
from multimodal_perception.segmentation.rgb_thermal import RgbxSegmenter, upsample_labels
from multimodal_perception.simulation.simulation import Observation
from test.image_pair import CAMERA, THERMAL, resized, with_camera, with_thermal


@pytest.fixture(scope="module")
def frame(night_street: Observation) -> SensorFrame:
    return night_street.frame


@pytest.fixture
def segmenter() -> RgbxSegmenter:
    return RgbxSegmenter(runtime=RuntimeConfig(order=("onnxruntime",), device="cpu"))


def score(labels: np.ndarray, semantics: np.ndarray, segmenter: RgbxSegmenter) -> dict[str, float]:
    confusion = Confusion(segmenter.class_names)
    confusion.add(labels_from_semantics(semantics), labels)
    return confusion.summary()["iou"]


@pytest.mark.parametrize("images", ["both", "visible", "thermal"])
def test_a_night_street_is_told_apart_with_any_images(
    images: str, night_street: Observation, segmenter: RgbxSegmenter
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


def test_a_silent_camera_can_be_segmented_in_its_view(
    night_street: Observation, segmenter: RgbxSegmenter
) -> None:
    labels = segmenter.segment_view(replace(night_street.frame, cameras={}), CAMERA)
    assert labels is not None
    assert score(labels, night_street.truth.views[CAMERA].semantics, segmenter)["road"] > 0.7


@pytest.mark.parametrize("value", [0, 255])
def test_a_black_or_saturated_image_counts_as_missing(
    value: int, frame: SensorFrame, segmenter: RgbxSegmenter
) -> None:
    alone = segmenter.segment_view(replace(frame, cameras={}), CAMERA)
    blank = np.full((360, 640, 3), value, np.uint8)
    masks = segmenter.segment(with_camera(frame, blank))
    np.testing.assert_array_equal(masks[CAMERA].labels, alone)
    assert segmenter.counts[f"{CAMERA}.blank"] == 1
    without = segmenter.segment(replace(frame, thermals={}))[CAMERA].labels
    cold = with_thermal(frame, np.full((256, 320), value * 257, np.uint16))
    np.testing.assert_array_equal(segmenter.segment(cold)[CAMERA].labels, without)


def test_nothing_to_see_gives_no_mask(frame: SensorFrame, segmenter: RgbxSegmenter) -> None:
    blind = with_camera(replace(frame, thermals={}), np.zeros((360, 640, 3), np.uint8))
    assert not segmenter.segment(blind)
    assert segmenter.counts[f"{CAMERA}.nothing_to_see"] == 1
    assert not segmenter.segment(SensorFrame(0))


def test_eight_bits_of_thermal_say_nearly_what_sixteen_do(
    frame: SensorFrame, segmenter: RgbxSegmenter
) -> None:
    counts = frame.thermals[THERMAL].pixels.astype(np.float32)
    low, high = np.percentile(counts, (0.5, 99.5))
    eight = np.clip((counts - low) * 255 / (high - low), 0, 255).astype(np.uint8)
    a = segmenter.segment(frame)[CAMERA].labels
    b = RgbxSegmenter(engine=segmenter.engine).segment(with_thermal(frame, eight))[CAMERA].labels
    assert (a == b).mean() > 0.95


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (320, 240), (97, 1)])
def test_images_of_any_size_give_masks_of_that_size(
    width: int, height: int, frame: SensorFrame, segmenter: RgbxSegmenter
) -> None:
    other = resized(frame, width, height)
    assert segmenter.segment(other)[CAMERA].labels.shape == (height, width)


def test_images_without_a_place_are_not_segmented(
    frame: SensorFrame, segmenter: RgbxSegmenter
) -> None:
    lost = replace(frame, base_from_sensor={}, intrinsics={})
    assert not segmenter.segment(lost)
    only_thermal_lost = replace(frame, base_from_sensor={CAMERA: frame.base_from_sensor[CAMERA]})
    expected = segmenter.segment(replace(frame, thermals={}))[CAMERA].labels
    np.testing.assert_array_equal(segmenter.segment(only_thermal_lost)[CAMERA].labels, expected)


def test_named_sensors_are_segmented_and_unknown_ones_left_out(
    frame: SensorFrame, segmenter: RgbxSegmenter
) -> None:
    config = RgbxConfig(cameras=(THERMAL, CAMERA, "none_such"))
    masks = RgbxSegmenter(config, engine=segmenter.engine).segment(frame)
    assert list(masks) == [THERMAL, CAMERA]


def test_an_engine_that_fails_is_counted_and_the_frame_goes_on(
    frame: SensorFrame, segmenter: RgbxSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arrays: object) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(segmenter.engine, "run", fail)
    assert not segmenter.segment(frame)
    assert segmenter.counts[f"{CAMERA}.engine"] == 1


def test_a_card_of_another_kind_is_refused(segmenter: RgbxSegmenter) -> None:
    card = dataclasses.replace(load_card("segmentation"), classes=())
    with pytest.raises(UserError, match="not a network for visible"):
        RgbxSegmenter(engine=segmenter.engine, card=card)


@pytest.mark.parametrize("value", [0.0, 1.0, True, "half"])
def test_a_card_with_an_impossible_thermal_quartile_is_refused(
    value: object, segmenter: RgbxSegmenter
) -> None:
    card = load_card("segmentation")
    card = dataclasses.replace(card, settings={**card.settings, "thermal_quartile": value})
    with pytest.raises(UserError, match=r"thermal_quartile: allowed: above 0, below 1"):
        RgbxSegmenter(engine=segmenter.engine, card=card)


def test_calibration_inputs_are_what_the_card_says(frame: SensorFrame) -> None:
    card = load_card("segmentation")
    make = frame_inputs(card)
    assert {n: a.shape for n, a in make(frame).items()} == {
        n: t.shape for n, t in card.inputs.items()
    }
    with pytest.raises(UserError, match="no image"):
        make(SensorFrame(0))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(2, 9), st.integers(1, 5))
def test_upsampling_is_the_argmax_of_bilinear_logits(
    seed: int, rows: int, columns: int, scale: int
) -> None:
    logits = np.random.default_rng(seed).standard_normal((rows, columns, 4)).astype(np.float32)
    labels = np.empty((rows * scale, columns * scale), np.uint8)
    upsample_labels(logits, 1.0 / scale, labels)
    large = cv2.resize(logits, (columns * scale, rows * scale), interpolation=cv2.INTER_LINEAR)
    top = np.sort(large, axis=2)
    clear = top[..., -1] - top[..., -2] > 1e-3
    np.testing.assert_array_equal(labels[clear], large.argmax(2)[clear])
