"""The shipped image detector in its stage: any subset of images, and images that show nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.images.rgb_thermal import RgbirConfig, RgbirDetector
from multimodal_perception.evaluation.image_detection_drives import image_truth
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.image_boxes import iou
from multimodal_perception.perception import Boxes2D
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.simulation.simulation import Observation
from test.image_pair import CAMERA, THERMAL, resized, with_camera, with_thermal


@pytest.fixture(scope="module")
def frame(night_street: Observation) -> SensorFrame:
    return night_street.frame


@pytest.fixture
def detector() -> RgbirDetector:
    return RgbirDetector(runtime=RuntimeConfig(order=("onnxruntime",), device="cpu"))


def same(a: Boxes2D, b: Boxes2D) -> bool:
    return np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores)


@pytest.mark.parametrize("images", ["both", "visible", "thermal"])
def test_the_large_cars_of_a_night_street_are_found_with_any_images(
    images: str, night_street: Observation, detector: RgbirDetector
) -> None:
    frame, name = night_street.frame, CAMERA
    if images == "visible":
        frame = replace(frame, thermals={})
    if images == "thermal":  # in its own view, under its own name
        frame, name = replace(frame, cameras={}), THERMAL
    found = detector.detect(frame)
    assert list(found) == [name] and found[name].stamp_ns == frame.stamp_ns
    truth, _ = image_truth(night_street.truth.views[name], detector.class_names)
    large = truth.boxes[(truth.labels == 0) & (truth.boxes[:, 3] - truth.boxes[:, 1] > 40)]
    boxes = found[name].boxes[found[name].labels == 0]
    assert len(large) and (iou(large, boxes).max(axis=1) > 0.5).mean() >= 0.5
    assert (np.diff(found[name].scores) <= 0).all() and found[name].scores.min() >= 0.3
    model = frame.intrinsics[name]
    assert (boxes >= 0).all() and (boxes[:, 2:] <= (model.width, model.height)).all()


@pytest.mark.parametrize("value", [0, 255])
def test_a_black_or_saturated_image_counts_as_missing(
    value: int, frame: SensorFrame, detector: RgbirDetector
) -> None:
    alone = detector.detect_view(replace(frame, cameras={}), CAMERA)
    blank = np.full((360, 640, 3), value, np.uint8)
    assert alone is not None
    assert same(detector.detect(with_camera(frame, blank))[CAMERA], alone)
    assert detector.counts[f"{CAMERA}.blank"] == 1
    without = detector.detect(replace(frame, thermals={}))[CAMERA]
    cold = with_thermal(frame, np.full((256, 320), value * 257, np.uint16))
    assert same(detector.detect(cold)[CAMERA], without)


def test_nothing_to_see_gives_no_boxes(frame: SensorFrame, detector: RgbirDetector) -> None:
    blind = with_camera(replace(frame, thermals={}), np.zeros((360, 640, 3), np.uint8))
    assert not detector.detect(blind)
    assert detector.counts[f"{CAMERA}.nothing_to_see"] == 1
    assert not detector.detect(SensorFrame(0))
    assert not detector.detect(replace(frame, base_from_sensor={}, intrinsics={}))


def test_a_frozen_image_gives_the_same_boxes_at_its_own_stamp(
    frame: SensorFrame, detector: RgbirDetector
) -> None:
    first = detector.detect(frame)[CAMERA]
    later = replace(frame, stamp_ns=frame.stamp_ns + 10**8)
    again = detector.detect(later)[CAMERA]
    # Its thermal contrast follows time, which stands still in both: nothing moves.
    assert again.stamp_ns == first.stamp_ns
    assert len(again) == len(first)


def test_eight_bits_of_thermal_say_nearly_what_sixteen_do(
    frame: SensorFrame, detector: RgbirDetector
) -> None:
    counts = frame.thermals[THERMAL].pixels.astype(np.float32)
    low, high = np.percentile(counts, (0.5, 99.5))
    eight = np.clip((counts - low) * 255 / (high - low), 0, 255).astype(np.uint8)
    a = detector.detect(frame)[CAMERA]
    b = RgbirDetector(engine=detector.engine).detect(with_thermal(frame, eight))[CAMERA]
    sure = a.boxes[a.scores > 0.5]
    assert len(sure) and (iou(sure, b.boxes).max(axis=1) > 0.8).mean() > 0.7


def test_thermal_bytes_in_the_wrong_order_do_not_blind_the_camera(
    frame: SensorFrame, detector: RgbirDetector
) -> None:
    swapped = with_thermal(frame, frame.thermals[THERMAL].pixels.byteswap())
    found = RgbirDetector(engine=detector.engine).detect(swapped)[CAMERA]
    alone = detector.detect(replace(frame, thermals={}))[CAMERA]
    sure = alone.boxes[alone.scores > 0.5]
    assert len(sure) and (iou(sure, found.boxes).max(axis=1) > 0.5).mean() >= 0.5


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (320, 240), (97, 2)])
def test_images_of_any_size_are_looked_at_in_that_size(
    width: int, height: int, frame: SensorFrame, detector: RgbirDetector
) -> None:
    other = resized(frame, width, height)
    found = detector.detect(other)[CAMERA]
    assert found.size == (width, height)
    if width == 1280:
        first = detector.detect(frame)[CAMERA]
        sure = first.boxes[first.scores > 0.5]
        assert (iou(2 * sure, found.boxes).max(axis=1) > 0.7).mean() > 0.7


def test_named_sensors_are_looked_at_and_unknown_ones_left_out(
    frame: SensorFrame, detector: RgbirDetector
) -> None:
    config = RgbirConfig(cameras=(THERMAL, CAMERA, "none_such"))
    assert list(RgbirDetector(config, engine=detector.engine).detect(frame)) == [THERMAL, CAMERA]


def test_an_engine_that_fails_is_counted_and_the_frame_goes_on(
    frame: SensorFrame, detector: RgbirDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arrays: object) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(detector.engine, "run", fail)
    assert not detector.detect(frame)
    assert detector.counts[f"{CAMERA}.engine"] == 1


def test_a_card_of_another_kind_is_refused(detector: RgbirDetector) -> None:
    with pytest.raises(UserError, match="not a detector of visible"):
        RgbirDetector(engine=detector.engine, card=load_card("segmentation"))
    nameless = dataclasses.replace(load_card("image_detector"), classes=())
    with pytest.raises(UserError, match="not a detector of visible"):
        RgbirDetector(engine=detector.engine, card=nameless)


def test_boxes_of_one_class_suppress_each_other_and_of_two_do_not(detector: RgbirDetector) -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10]], np.float32)
    scores = np.array([[0.9, 0, 0], [0.8, 0, 0], [0, 0.7, 0.1]], np.float32)
    _, best, labels = detector.decode(scores, boxes)
    assert labels.tolist() == [0, 1] and best.tolist() == pytest.approx([0.9, 0.7])
