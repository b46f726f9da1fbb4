"""The stage on a simulated night street: both images, either alone, and images that are no good."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import cv2
import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.image_fusion.stage import ImageFuser, ImageFusionConfig, frame_inputs
from multimodal_perception.runtime.card import load_card
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


def test_the_fused_image_shows_what_each_of_both_shows(
    frame: SensorFrame, fuser: ImageFuser
) -> None:
    fused = fuser.fuse(frame)[CAMERA]
    own = frame.cameras[CAMERA]
    assert (fused.stamp_ns, fused.frame_id, fused.encoding) == (
        own.stamp_ns,
        own.frame_id,
        "rgb8",
    )
    assert fused.pixels.shape == own.pixels.shape
    arrays = fuser.inputs(frame, CAMERA)
    assert arrays is not None
    seen = luma(fused.pixels)
    for name in ("visible", "infrared"):
        source = arrays[name][0, 0]
        detail, kept = (i - cv2.GaussianBlur(i, (0, 0), 5) for i in (source, seen))
        assert np.corrcoef(detail.ravel(), kept.ravel())[0, 1] > 0.4, name


def test_a_missing_image_leaves_the_other(frame: SensorFrame, fuser: ImageFuser) -> None:
    fuser.fuse(frame)
    visible_alone = fuser.fuse(replace(frame, thermals={}))[CAMERA]
    np.testing.assert_array_equal(visible_alone.pixels, frame.cameras[CAMERA].rgb())
    # A silent camera's calibration is not in the frame either.
    silent = replace(
        frame,
        cameras={},
        intrinsics={THERMAL: frame.intrinsics[THERMAL]},
        base_from_sensor={THERMAL: frame.base_from_sensor[THERMAL]},
    )
    thermal_alone = fuser.fuse(silent)[CAMERA].pixels
    assert thermal_alone.shape == frame.cameras[CAMERA].pixels.shape
    assert thermal_alone.std() > 10 and (thermal_alone[..., 0] == thermal_alone[..., 2]).all()


@pytest.mark.parametrize("value", [0, 255])
def test_a_black_or_saturated_image_counts_as_missing(
    value: int, frame: SensorFrame, fuser: ImageFuser
) -> None:
    blank = with_camera(frame, np.full((360, 640, 3), value, np.uint8))
    fuser.fuse(frame)
    expected = fuser.fuse(replace(frame, cameras={}))[CAMERA].pixels
    np.testing.assert_array_equal(fuser.fuse(blank)[CAMERA].pixels, expected)
    cold = with_thermal(frame, np.full((256, 320), 257 * value, np.uint16))
    np.testing.assert_array_equal(fuser.fuse(cold)[CAMERA].pixels, frame.cameras[CAMERA].rgb())
    assert fuser.counts[f"{CAMERA}.blank"] == 1 and fuser.counts[f"{THERMAL}.blank"] == 1


def test_nothing_to_see_gives_nothing(frame: SensorFrame, fuser: ImageFuser) -> None:
    blind = with_camera(replace(frame, thermals={}), np.zeros((360, 640, 3), np.uint8))
    assert not fuser.fuse(blind)
    assert fuser.counts[f"{CAMERA}.nothing_to_see"] == 1
    assert not fuser.fuse(SensorFrame(0))
    assert not fuser.fuse(replace(frame, base_from_sensor={}, intrinsics={}))


def test_eight_bits_and_swapped_bytes_give_nearly_the_same_picture(
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
def test_images_of_any_size_are_fused_at_that_size(
    width: int, height: int, frame: SensorFrame, fuser: ImageFuser
) -> None:
    other = resized(frame, width, height)
    fused = fuser.fuse(other)[CAMERA]
    assert fused.pixels.shape == (height, width, 3)


def test_beyond_the_thermal_view_the_visible_image_stays(
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


def test_an_engine_that_fails_is_counted_and_the_visible_image_passed_on(
    frame: SensorFrame, fuser: ImageFuser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arrays: object) -> None:
        raise EngineError("out of memory")

    monkeypatch.setattr(fuser.engine, "run", fail)
    np.testing.assert_array_equal(fuser.fuse(frame)[CAMERA].pixels, frame.cameras[CAMERA].rgb())
    assert fuser.counts[f"{CAMERA}.engine"] == 1


def test_named_cameras_are_fused_and_unknown_ones_left_out(
    frame: SensorFrame, engine: Engine
) -> None:
    config = ImageFusionConfig("image_fusion", cameras=("none_such", CAMERA))
    assert list(ImageFuser(config, engine=engine).fuse(frame)) == [CAMERA]


def test_a_card_of_another_kind_is_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match="not a network that fuses"):
        ImageFuser(CONFIG, engine=engine, card=load_card("segmentation"))


def test_calibration_inputs_are_what_the_card_says(frame: SensorFrame) -> None:
    card = load_card("image_fusion")
    make = frame_inputs(card)
    assert {n: a.shape for n, a in make(frame).items()} == {
        n: t.shape for n, t in card.inputs.items()
    }
    with pytest.raises(UserError, match="no camera"):
        make(SensorFrame(0))
