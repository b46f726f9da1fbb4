"""cv_bridge decodes images of encodings that this package does not know; otherwise both agree."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_perception.frame import ThermalImage
from multimodal_perception.messages.encodings import ENCODINGS
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import MEASUREMENT_ENCODINGS, image_from_message
from multimodal_perception.rig import Rig, parse_rig
from multimodal_perception.ros.image_conversion import convert, image_converter
from multimodal_perception.synchronization.intake import MessageIntake

STAMP_NS = 5_000_000_000
# Encodings that cv_bridge names differently or does not have.
NOT_IN_CV_BRIDGE = {"uyvy", "yuyv", "yuv422_yuy2"}
COLOUR_NAMES = {1: "mono", 3: "bgr", 4: "bgra"}


def image(encoding: str, data: NDArray[Any], channels: int = 1) -> SimpleNamespace:
    """A sensor_msgs/Image of an array (H, W * channels)."""
    height, columns = data.shape
    stamp = SimpleNamespace(sec=5, nanosec=0)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp, frame_id="camera"),
        height=height,
        width=columns // channels,
        encoding=encoding,
        is_bigendian=0,
        step=data.strides[0],
        data=data.reshape(-1).view(np.uint8),
    )


class Bridge:
    """The results of cv_bridge.CvBridge for some encodings; a two-channel image is refused."""

    def imgmsg_to_cv2(self, msg: Any, desired_encoding: str) -> NDArray[Any]:
        data = np.asarray(msg.data)
        if msg.encoding == "nv24" and desired_encoding == "bgr8":
            return np.stack([data.reshape(msg.height, msg.width)] * 3, axis=-1)
        if desired_encoding != "passthrough":
            raise TypeError(f"[{msg.encoding}] is not a color format. but [bgr8] is")
        if msg.encoding == "8U":
            return data.reshape(msg.height, msg.width)
        if msg.encoding == "16U":
            return data.view("<u2").reshape(msg.height, msg.width, 1)
        if msg.encoding == "8UC2":
            return data.reshape(msg.height, msg.width, 2)
        raise TypeError(f"Unrecognized image encoding [{msg.encoding}]")


def rig(modality: str) -> Rig:
    intrinsics = {"width": 8, "height": 6, "fx": 8.0, "fy": 8.0, "cx": 3.5, "cy": 2.5}
    sensor = {
        "modality": modality,
        "topic": "image",
        "frame_id": "camera",
        "rate_hz": 10.0,
        "extrinsics": {"xyz": [0.0, 0.0, 1.0]},
        "intrinsics": intrinsics,
    }
    content = {"name": "one", "base_frame": "base_link", "odom_frame": "odom"}
    return parse_rig({**content, "footprint": [1.0, 1.0], "sensors": {"camera": sensor}}, "rig")


def receive(msg: Any, modality: str, convert_image: Any) -> tuple[Any, MessageIntake]:
    """The reading of an image that a sensor receives, or None; and the intake."""
    intake = MessageIntake(rig(modality), convert_image=convert_image)
    (topic,) = [s.topic for s in intake.rig.sensors.values()]
    frames = [*intake.receive(topic, msg, STAMP_NS), *intake.flush(STAMP_NS)]
    readings = [f.readings["camera"] for f in frames if "camera" in f.readings]
    return (readings[0] if readings else None), intake


def by_bridge(msg: Any) -> Any:
    return convert(msg, Bridge())


@pytest.mark.parametrize("encoding", ["8U", "nv24"])
def test_unknown_encodings_are_converted_for_cameras(encoding: str) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    reading, intake = receive(image(encoding, pixels), "camera", by_bridge)
    assert np.array_equal(reading.rgb()[..., 1], pixels)
    assert any("converted" in text for text in intake.pop_notices())


def test_the_counts_of_thermal_images_are_kept() -> None:
    counts = (29_000 + np.arange(48)).astype("<u2").reshape(6, 8)
    reading, _ = receive(image("16U", counts), "thermal", by_bridge)
    assert isinstance(reading, ThermalImage)
    assert np.array_equal(reading.pixels, counts)


@pytest.mark.parametrize("convert_image", [None, by_bridge])
@pytest.mark.parametrize("encoding", ["8UC2", "no_such_encoding"])
def test_what_cannot_be_converted_is_counted(encoding: str, convert_image: Any) -> None:
    pixels = np.zeros((6, 16), np.uint8)
    reading, intake = receive(image(encoding, pixels, 2), "camera", convert_image)
    assert reading is None
    assert intake.drop_counts("camera") == {"unknown_encoding": 1}


def test_known_encodings_are_not_passed_to_cv_bridge() -> None:
    def refuse(msg: Any) -> Any:
        raise AssertionError("called")

    pixels = np.zeros((6, 8), np.uint8)
    reading, _ = receive(image("mono8", pixels), "camera", refuse)
    assert reading is not None


def test_the_error_names_the_encoding_and_the_reason() -> None:
    with pytest.raises(MessageError, match="'nope'; cv_bridge: Unrecognized image encoding"):
        convert(image("nope", np.zeros((6, 8), np.uint8)), Bridge())


def test_without_cv_bridge_there_is_no_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    assert image_converter() is None


def test_a_cv_bridge_of_another_numpy_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("_ARRAY_API not found")

    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=fail))
    assert image_converter() is None
    assert "_ARRAY_API not found" in caplog.text


def test_the_node_uses_an_installed_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=Bridge))
    converter = image_converter()
    assert converter is not None
    assert converter(image("8U", np.zeros((6, 8), np.uint8))).encoding == "8UC1"


def test_pixels_equal_those_of_cv_bridge() -> None:
    reason = "cv_bridge has no wheel; it is installed with a ROS distribution"
    bridge = pytest.importorskip("cv_bridge", reason=reason).CvBridge()
    random = np.random.default_rng(0)
    for encoding, (code, channels) in ENCODINGS.items():
        if encoding in (*MEASUREMENT_ENCODINGS, *NOT_IN_CV_BRIDGE):
            continue
        dtype = np.dtype(code)
        high = np.iinfo(dtype).max
        pixels = random.integers(0, high, (48, 64 * channels), dtype, endpoint=True)
        msg = image(encoding, pixels, channels)
        ours = image_from_message(msg, "camera", STAMP_NS).rgb()
        if "C" in encoding:  # cv_bridge does not convert types without colours; 8UC3 is bgr8
            msg.encoding = COLOUR_NAMES[channels] + str(8 * dtype.itemsize)
        theirs = bridge.imgmsg_to_cv2(msg, "rgb8")
        assert np.array_equal(ours, theirs), encoding
