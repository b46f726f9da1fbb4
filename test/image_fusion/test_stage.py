"""The image fusion stage on a simulated night street: both images, one of them, rejected images."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import cv2
import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.image_fusion.stage import (
    ImageFuser,
    ImageFusionConfig,
    frame_inputs,
    replace_luma,
)
from multimodal_perception.runtime.card import TensorSpec, load_card
from multimodal_perception.runtime.engine import Engine, EngineError
from multimodal_perception.runtime.open_model import open_engine
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.simulation.simulation import Observation
from test.image_pair import CAMERA, THERMAL, resized, with_camera, with_thermal

CONFIG = ImageFusionConfig("image_fusion")


@pytest.fixture(scope="module")
def frame(night_street: Observation) -> SensorFrame:
    return night_street.frame


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine(
        load_card("image_fusion"), RuntimeConfig(order=("onnxruntime",), device="cpu")
    )


@pytest.fixture
def fuser(engine: Engine) -> ImageFuser:
    return ImageFuser(CONFIG, engine=engine)


def luma(pixels: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)


def test_fused_image_contains_detail_of_both_images(frame: SensorFrame, fuser: ImageFuser) -> None:
    fused = fuser.fuse(frame)[CAMERA]
    own = frame.cameras[CAMERA]
    assert (fused.stamp_ns, fused.frame_id, fused.encoding) == (
        own.stamp_ns,
        own.frame_id,
        "rgb8",
    )
    assert fused.pixels.shape == own.pixels.shape
    arrays = fuser.build_inputs(frame, CAMERA)
    assert arrays is not None
    result = luma(fused.pixels)
    for name in ("visible", "thermal"):
        source = arrays[name][0, 0]
        detail, kept = (i - cv2.GaussianBlur(i, (0, 0), 5) for i in (source, result))
        # Detail of only one image gives a correlation of about 0 with the other one.
        assert np.corrcoef(detail.ravel(), kept.ravel())[0, 1] > 0.3, name


def test_missing_image_gives_the_other_image(frame: SensorFrame, fuser: ImageFuser) -> None:
    fuser.fuse(frame)
    visible_only = fuser.fuse(replace(frame, thermals={}))[CAMERA]
    np.testing.assert_array_equal(visible_only.pixels, frame.cameras[CAMERA].rgb())
    # The calibration of a camera without image is not in the frame either.
    without_camera = replace(
        frame,
        cameras={},
        intrinsics={THERMAL: frame.intrinsics[THERMAL]},
        base_from_sensor={THERMAL: frame.base_from_sensor[THERMAL]},
    )
    thermal_only = fuser.fuse(without_camera)[CAMERA].pixels
    assert thermal_only.shape == frame.cameras[CAMERA].pixels.shape
    assert thermal_only.std() > 10 and (thermal_only[..., 0] == thermal_only[..., 2]).all()


@pytest.mark.parametrize("value", [0, 255])
def test_black_or_saturated_image_counts_as_missing(
    value: int, frame: SensorFrame, fuser: ImageFuser
) -> None:
    blank = with_camera(frame, np.full((360, 640, 3), value, np.uint8))
    fuser.fuse(frame)
    expected = fuser.fuse(replace(frame, cameras={}))[CAMERA].pixels
    np.testing.assert_array_equal(fuser.fuse(blank)[CAMERA].pixels, expected)
    cold = with_thermal(frame, np.full((256, 320), 257 * value, np.uint16))
    np.testing.assert_array_equal(fuser.fuse(cold)[CAMERA].pixels, frame.cameras[CAMERA].rgb())
    assert fuser.counts[f"{CAMERA}.blank"] == 1 and fuser.counts[f"{THERMAL}.blank"] == 1


def test_frame_without_usable_image_gives_no_result(frame: SensorFrame, fuser: ImageFuser) -> None:
    black = with_camera(replace(frame, thermals={}), np.zeros((360, 640, 3), np.uint8))
    assert not fuser.fuse(black)
    assert fuser.counts[f"{CAMERA}.no_usable_image"] == 1
    assert not fuser.fuse(SensorFrame(0))
    assert not fuser.fuse(replace(frame, base_from_sensor={}, intrinsics={}))


def test_eight_bit_and_byte_swapped_thermal_images_give_nearly_the_same_result(
    frame: SensorFrame, engine: Engine
) -> None:
    counts = frame.thermals[THERMAL].pixels
    low, high = np.percentile(counts, (0.2, 99.8))
    eight = np.clip((counts - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    expected = ImageFuser(CONFIG, engine=engine).fuse(frame)[CAMERA].pixels.astype(int)
    for pixels in (eight, counts.byteswap()):
        other = ImageFuser(CONFIG, engine=engine).fuse(with_thermal(frame, pixels))[CAMERA]
        assert np.abs(other.pixels - expected).mean() < 4


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (321, 241), (97, 1)])
def test_fused_image_has_the_size_of_the_camera_image(
    width: int, height: int, frame: SensorFrame, fuser: ImageFuser
) -> None:
    other = resized(frame, width, height)
    fused = fuser.fuse(other)[CAMERA]
    assert fused.pixels.shape == (height, width, 3)


def test_visible_image_is_unchanged_outside_the_thermal_view(
    frame: SensorFrame, fuser: ImageFuser
) -> None:
    narrow = frame.intrinsics[THERMAL].scaled(1.0, 1.0)
    focal = narrow.matrix.copy()
    focal[0, 0] *= 3
    focal[1, 1] *= 3
    narrow = dataclasses.replace(narrow, matrix=focal)
    half = replace(frame, intrinsics={**frame.intrinsics, THERMAL: narrow})
    before = frame.cameras[CAMERA].rgb().astype(int)
    after = fuser.fuse(half)[CAMERA].pixels.astype(int)
    assert np.abs(after - before)[:, :60].max() <= 3
    assert np.abs(after - before)[150:210, 290:350].mean() > 3


def test_engine_failure_is_counted_and_gives_the_visible_image(
    frame: SensorFrame, fuser: ImageFuser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arrays: object) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(fuser.engine, "run", fail)
    np.testing.assert_array_equal(fuser.fuse(frame)[CAMERA].pixels, frame.cameras[CAMERA].rgb())
    assert fuser.counts[f"{CAMERA}.engine"] == 1


def test_configured_cameras_are_fused_and_unknown_ones_ignored(
    frame: SensorFrame, engine: Engine
) -> None:
    config = ImageFusionConfig("image_fusion", cameras=("none_such", CAMERA))
    assert list(ImageFuser(config, engine=engine).fuse(frame)) == [CAMERA]


def test_card_of_another_network_is_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match="not an image fusion network"):
        ImageFuser(CONFIG, engine=engine, card=load_card("segmentation"))


def test_card_with_different_input_shapes_is_refused(engine: Engine) -> None:
    card = load_card("image_fusion")
    inputs = {**card.inputs, "thermal": TensorSpec((1, 1, 180, 320))}
    with pytest.raises(UserError, match=r"thermal: shape: must be .* got \[1, 1, 180, 320\]"):
        ImageFuser(CONFIG, engine=engine, card=dataclasses.replace(card, inputs=inputs))


def test_replaced_luma_keeps_the_chroma() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(100, 150, (8, 9, 3), np.uint8)
    brightness = rng.uniform(0.3, 0.7, (8, 9)).astype(np.float32)
    before = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).astype(int)
    after = cv2.cvtColor(replace_luma(rgb, brightness), cv2.COLOR_RGB2YCrCb).astype(int)
    assert np.abs(after[..., 0] - 255 * brightness).max() <= 2
    assert np.abs(after[..., 1:] - before[..., 1:]).max() <= 2


def test_luma_outside_the_range_is_black_or_white() -> None:
    grey = np.full((1, 2, 3), 128, np.uint8)
    clipped = replace_luma(grey, np.array([[-0.5, 1.5]], np.float32))
    assert clipped[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_calibration_inputs_have_the_shapes_of_the_card(frame: SensorFrame) -> None:
    card = load_card("image_fusion")
    build = frame_inputs(card)
    assert {n: a.shape for n, a in build(frame).items()} == {
        n: t.shape for n, t in card.inputs.items()
    }
    with pytest.raises(UserError, match="no camera"):
        build(SensorFrame(0))
