"""The image detector with the shipped model: missing, blank and unusual images; unsuitable cards."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images.config import ImageDetectorConfig
from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
from multimodal_perception.evaluation.image_detection_drives import image_truth
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.image_boxes import iou
from multimodal_perception.perception import Boxes2D, Level
from multimodal_perception.runtime.card import TensorSpec, load_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.simulation.simulation import Observation
from test.image_pair import CAMERA, THERMAL, resized, with_camera, with_thermal


@pytest.fixture(scope="module")
def frame(night_street: Observation) -> SensorFrame:
    return night_street.frame


@pytest.fixture
def detector() -> RgbThermalDetector:
    return RgbThermalDetector(runtime=RuntimeConfig(order=("onnxruntime",), device="cpu"))


def same(a: Boxes2D, b: Boxes2D) -> bool:
    return np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores)


@pytest.mark.parametrize("images", ["both", "visible", "thermal"])
def test_large_cars_at_night_are_detected_with_any_subset_of_images(
    images: str, night_street: Observation, detector: RgbThermalDetector
) -> None:
    frame, name = night_street.frame, CAMERA
    if images == "visible":
        frame = replace(frame, thermals={})
    if images == "thermal":  # in its own view, under its own name
        frame, name = replace(frame, cameras={}), THERMAL
    detections = detector.detect(frame)
    assert list(detections) == [name] and detections[name].stamp_ns == frame.stamp_ns
    truth, _ = image_truth(night_street.truth.views[name], detector.class_names)
    large = truth.boxes[(truth.labels == 0) & (truth.boxes[:, 3] - truth.boxes[:, 1] > 40)]
    boxes = detections[name].boxes[detections[name].labels == 0]
    assert len(large) and (iou(large, boxes).max(axis=1) > 0.5).mean() >= 0.5
    assert (np.diff(detections[name].scores) <= 0).all() and detections[name].scores.min() >= 0.25
    model = frame.intrinsics[name]
    assert (boxes >= 0).all() and (boxes[:, 2:] <= (model.width, model.height)).all()


@pytest.mark.parametrize("value", [0, 255])
def test_a_black_or_saturated_image_counts_as_missing(
    value: int, frame: SensorFrame, detector: RgbThermalDetector
) -> None:
    thermal_only = detector.detect_view(replace(frame, cameras={}), CAMERA)
    blank = np.full((360, 640, 3), value, np.uint8)
    assert thermal_only is not None
    assert same(detector.detect(with_camera(frame, blank))[CAMERA], thermal_only)
    assert detector.counts[f"{CAMERA}.blank"] == 1
    without = detector.detect(replace(frame, thermals={}))[CAMERA]
    blank_thermal = with_thermal(frame, np.full((256, 320), value * 257, np.uint16))
    assert same(detector.detect(blank_thermal)[CAMERA], without)


def test_persons_have_the_threshold_of_the_card(
    frame: SensorFrame, detector: RgbThermalDetector
) -> None:
    scores = np.full((1, 6, 3), 0.01, np.float32)
    for cell, (label, score) in enumerate(
        ((0, 0.29), (0, 0.31), (1, 0.24), (1, 0.26), (2, 0.29), (2, 0.31))
    ):
        scores[0, cell, label] = score
    outputs = {"scores": scores, "boxes": np.ones((1, 6, 4), np.float32)}
    detector.config = ImageDetectorConfig()
    found = detector.decode_outputs(outputs, frame, CAMERA)[1]
    np.testing.assert_allclose(found, (0.31, 0.26, 0.31))
    detector.config = ImageDetectorConfig(min_score=0.28)  # all thresholds change in proportion
    found = detector.decode_outputs(outputs, frame, CAMERA)[1]
    np.testing.assert_allclose(found, (0.29, 0.31, 0.24, 0.26, 0.29, 0.31))


def test_no_usable_image_gives_no_boxes(frame: SensorFrame, detector: RgbThermalDetector) -> None:
    unusable = with_camera(replace(frame, thermals={}), np.zeros((360, 640, 3), np.uint8))
    assert not detector.detect(unusable)
    assert detector.counts[f"{CAMERA}.no_usable_image"] == 1
    assert not detector.detect(SensorFrame(0))
    assert not detector.detect(replace(frame, base_from_sensor={}, intrinsics={}))


def test_frozen_image_gives_the_same_boxes_at_its_own_stamp(
    frame: SensorFrame, detector: RgbThermalDetector
) -> None:
    first = detector.detect(frame)[CAMERA]
    later = replace(frame, stamp_ns=frame.stamp_ns + 10**8)
    again = detector.detect(later)[CAMERA]
    # The contrast normalisation depends on the image's stamp, which has not changed.
    assert again.stamp_ns == first.stamp_ns
    assert len(again) == len(first)


def test_8_bit_thermal_images_give_similar_boxes_as_16_bit_ones(
    frame: SensorFrame, detector: RgbThermalDetector
) -> None:
    counts = frame.thermals[THERMAL].pixels.astype(np.float32)
    low, high = np.percentile(counts, (0.5, 99.5))
    eight = np.clip((counts - low) * 255 / (high - low), 0, 255).astype(np.uint8)
    a = detector.detect(frame)[CAMERA]
    b = RgbThermalDetector(engine=detector.engine).detect(with_thermal(frame, eight))[CAMERA]
    confident = a.boxes[a.scores > 0.5]
    assert len(confident) and (iou(confident, b.boxes).max(axis=1) > 0.8).mean() > 0.7


def test_wrong_byte_order_of_thermal_images_does_not_affect_the_camera(
    frame: SensorFrame, detector: RgbThermalDetector
) -> None:
    swapped = with_thermal(frame, frame.thermals[THERMAL].pixels.byteswap())
    found = RgbThermalDetector(engine=detector.engine).detect(swapped)[CAMERA]
    visible_only = detector.detect(replace(frame, thermals={}))[CAMERA]
    confident = visible_only.boxes[visible_only.scores > 0.5]
    assert len(confident) and (iou(confident, found.boxes).max(axis=1) > 0.5).mean() >= 0.5


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (320, 240), (97, 2)])
def test_boxes_are_in_pixels_of_the_image_whatever_its_size(
    width: int, height: int, frame: SensorFrame, detector: RgbThermalDetector
) -> None:
    other = resized(frame, width, height)
    found = detector.detect(other)[CAMERA]
    assert found.size == (width, height)
    if width == 1280:
        first = detector.detect(frame)[CAMERA]
        confident = first.boxes[first.scores > 0.5]
        assert (iou(2 * confident, found.boxes).max(axis=1) > 0.7).mean() > 0.7


def test_configured_sensors_are_processed_and_unknown_ones_ignored(
    frame: SensorFrame, detector: RgbThermalDetector
) -> None:
    config = ImageDetectorConfig(cameras=(THERMAL, CAMERA, "none_such"))
    assert list(RgbThermalDetector(config, engine=detector.engine).detect(frame)) == [
        THERMAL,
        CAMERA,
    ]


def test_engine_failure_is_counted_and_gives_no_boxes(
    frame: SensorFrame, detector: RgbThermalDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arrays: object) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(detector.engine, "run", fail)
    assert not detector.detect(frame)
    assert detector.counts[f"{CAMERA}.engine"] == 1


def test_unsuitable_cards_are_refused(detector: RgbThermalDetector) -> None:
    with pytest.raises(UserError, match="not a detector of visible"):
        RgbThermalDetector(engine=detector.engine, card=load_card("segmentation"))
    card = load_card("image_detector")
    boxes = card.outputs["boxes"]
    larger = {**card.inputs, "thermal": TensorSpec((1, 1, 256, 320))}
    for change, message in (
        ({"classes": ()}, "outputs.scores.shape"),
        ({"classes": card.classes[:2]}, "outputs.scores.shape.*for 2 classes"),
        ({"outputs": {**card.outputs, "boxes": TensorSpec((1, 9, 4))}}, "outputs.scores.shape"),
        ({"outputs": {"scores": boxes}}, "outputs scores, boxes"),
        ({"inputs": larger}, "inputs.thermal.shape"),
        (
            {"settings": {**card.settings, "second_input": "lidar"}},
            "settings.second_input: 'lidar'",
        ),
    ):
        with pytest.raises(UserError, match=message):
            RgbThermalDetector(engine=detector.engine, card=dataclasses.replace(card, **change))


def test_status_reports_the_engine(detector: RgbThermalDetector) -> None:
    (status,) = detector.status
    assert status.name == "image_detector" and status.level == Level.OK
    assert status.values["engine"] == "onnxruntime"
