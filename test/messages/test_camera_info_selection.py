"""Which image a CameraInfo describes: raw or rectified, binned, cropped or resized."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from multimodal_perception.frame import CameraImage, Modality, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.image_topics import is_depth_topic, rectified_by_topic
from multimodal_perception.messages import encoders
from multimodal_perception.messages.camera_info import calibration_from_message
from multimodal_perception.messages.frame_messages import frame_messages, static_transforms
from multimodal_perception.rig import Rig, Sensor, dump_rig, parse_rig
from multimodal_perception.sensor_calibration import Intrinsics
from multimodal_perception.synchronization.intake import STATIC_TOPIC, MessageIntake
from test.messages.camera_infos import (
    POINTS,
    SECOND,
    TYPES,
    D,
    K,
    P,
    expected_pixels,
    info,
    intake_frame,
    pixels_of,
    rig,
)


def test_rectified_topic_uses_p_without_distortion() -> None:
    rectified = rig("/cam/image_rect")
    frame, intake = intake_frame(rectified, info())
    assert_allclose(pixels_of(frame), expected_pixels(rectified, P), atol=1e-6)
    assert frame.intrinsics["camera"].model == "pinhole"
    assert any("P[:, :3]" in notice for notice in intake.pop_notices())
    raw = rig("/cam/image_raw")
    with_k, _ = intake_frame(raw, info())
    model = CameraModel(640, 480, np.reshape(K, (3, 3)), "plumb_bob", np.array(D))
    in_camera = poses.transform_points(
        poses.inverse(raw.sensors["camera"].base_from_sensor()), POINTS
    )
    assert_allclose(pixels_of(with_k), model.project(in_camera)[0], atol=1e-9)
    assert np.abs(pixels_of(frame) - pixels_of(with_k)).max() > 10


@settings(max_examples=100, deadline=None)
@given(
    st.floats(200, 900),
    st.floats(0.8, 1.25),
    st.floats(280, 360),
    st.floats(200, 280),
    st.floats(-0.6, 0.6),
    st.floats(-0.3, 0.3),
    st.tuples(*[st.floats(-0.1, 0.1)] * 3),
)
def test_rectified_pixels_equal_p_times_rotated_point(
    fx: float, ratio: float, cx: float, cy: float, baseline: float, vertical: float, rpy: Any
) -> None:
    fy = fx * ratio
    p = [fx, 0, cx, -fx * baseline, 0, fy, cy, -fy * vertical, 0, 0, 1, 0]
    rotation = poses.from_xyz_rpy((0, 0, 0), rpy)[:3, :3]
    rectified = rig("/cam/image_rect_color")
    frame, _ = intake_frame(rectified, info(p=[float(v) for v in p], r=list(rotation.reshape(-1))))
    expected = expected_pixels(rectified, p, rotation)
    got = pixels_of(frame)
    usable = np.isfinite(got).all(axis=1)
    assert usable.any()
    assert_allclose(got[usable], expected[usable], atol=1e-5)


def test_stereo_baseline_displaces_the_optical_centre() -> None:
    right = [*P[:3], -520.0 * 0.12, *P[4:]]
    frame, intake = intake_frame(rig("/right/image_rect"), info(p=right))
    left, _ = intake_frame(rig("/left/image_rect"), info())
    offset = poses.inverse(left.base_from_sensor["camera"]) @ frame.base_from_sensor["camera"]
    assert_allclose(offset[:3, 3], (0.12, 0, 0), atol=1e-12)
    assert any("displaced by (0.12, 0) m" in n for n in intake.pop_notices())
    own, intake = intake_frame(rig("/right/image_rect", apply_baseline=False), info(p=right))
    assert_allclose(own.base_from_sensor["camera"], left.base_from_sensor["camera"])
    assert any("fourth column of P is ignored" in n for n in intake.pop_notices())


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("/cam/image_rect", True),
        ("/cam/image_rect/compressed", True),
        ("/cam/image_rect_color", True),
        ("/cam/image_rect_color/compressed", True),
        ("/stereo/left/image_rect_mono", True),
        ("/camera/infra1/image_rect_raw", True),
        ("/zed/zed_node/rgb/color/rect/image", True),
        ("/zed/zed_node/left/image_rect_gray/ffmpeg", True),
        ("/cam/image_undistorted", True),
        ("/cam/rectified/image", True),
        ("/cam/image_raw", False),
        ("/rect/cam/image_raw", False),
        ("/zed/left_raw/image_raw_color", False),
        ("/cam/image_not_rect", False),
        ("/cam/unrectified/image", False),
        ("/cam/image", None),
        ("/direct/rectangle/image_color", None),
    ],
)
def test_topic_shows_rectified_images(topic: str, expected: bool | None) -> None:
    assert rectified_by_topic(topic) is expected
    assert rig(topic).sensors["camera"].images_are_rectified is expected


def test_topic_of_camera_info_is_used_if_the_image_topic_states_nothing() -> None:
    sensor = replace(rig("/cam/image").sensors["camera"], camera_info_topic="/cam/rect/camera_info")
    assert sensor.images_are_rectified
    assert not replace(sensor, rectified=False).images_are_rectified
    assert replace(rig("/cam/image_raw").sensors["camera"], rectified=True).images_are_rectified


def test_depth_topics() -> None:
    for name in ("/camera/depth/image_rect_raw", "/aligned_depth_to_color/image_raw", "cam_depth"):
        assert is_depth_topic(name)
    for name in ("/thermal/image_raw/compressedDepth", "/indepth/image", "", "camera_optical"):
        assert not is_depth_topic(name)


def test_rig_keys_are_read_and_written() -> None:
    for value in (True, False, "auto"):
        text = dump_rig(rig("/cam/image", rectified=value))
        assert parse_rig(yaml.safe_load(text), "text").sensors["camera"].rectified == value
    with pytest.raises(ValueError, match="rectified"):
        Sensor("l", Modality.LIDAR, "/l", "l", rectified=True)


def test_zero_k_with_valid_p_is_usable() -> None:
    plain = rig("/cam/image")
    frame, intake = intake_frame(plain, info(k=[0.0] * 9, d=[]))
    assert_allclose(pixels_of(frame), expected_pixels(plain, P), atol=1e-6)
    assert any("K of the CameraInfo is zero" in n for n in intake.pop_notices())
    rectified = rig("/cam/image_rect")
    frame, _ = intake_frame(rectified, info(k=[0.0] * 9))
    assert_allclose(pixels_of(frame), expected_pixels(rectified, P), atol=1e-6)


def test_zero_k_with_distortion_is_refused_with_reason() -> None:
    frame, intake = intake_frame(rig("/cam/image"), info(k=[0.0] * 9))
    assert not frame.cameras
    assert intake.drop_counts("camera") == {"bad_camera_info": 1, "no_camera_info": 1}
    assert any("CameraInfo is not used: K is zero" in n for n in intake.pop_notices())


def test_zero_p_is_usable_for_raw_images() -> None:
    frame, intake = intake_frame(rig("/cam/image_raw"), info(p=[0.0] * 12, r=[0.0] * 9))
    assert frame.intrinsics["camera"].model == "plumb_bob"
    assert not [n for n in intake.pop_notices() if n.startswith("camera")]


def test_zero_p_of_rectified_images_uses_k_with_a_notice() -> None:
    frame, intake = intake_frame(rig("/cam/image_rect"), info(p=[0.0] * 12))
    assert_allclose(frame.intrinsics["camera"].matrix.reshape(-1), K)
    assert frame.intrinsics["camera"].model == "pinhole"
    assert any("P of the CameraInfo is zero" in n for n in intake.pop_notices())


@settings(max_examples=60)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(300, 1400), st.integers(300, 1100))
def test_binning_rounds_the_size_down(bx: int, by: int, width: int, height: int) -> None:
    message = info(width=width, height=height, binning_x=bx, binning_y=by)
    for rectified in (False, True):
        model = calibration_from_message(message, rectified).model
        assert (model.width, model.height) == (width // bx, height // by)
        matrix = np.reshape(P, (3, 4))[:, :3] if rectified else np.reshape(K, (3, 3))
        # The centre of binned pixel u is that of the full pixels u * bx to u * bx + bx - 1.
        assert_allclose(model.matrix[0, 2], (matrix[0, 2] + 0.5) / bx - 0.5)
        assert_allclose(model.matrix[1, 1], matrix[1, 1] / by)


def test_odd_width_with_binning_accepts_the_published_size() -> None:
    message = info(width=1027, height=771, binning_x=2, binning_y=2)
    frame, _ = intake_frame(rig("/cam/image_raw"), message, 513, 385)
    assert frame.intrinsics["camera"].width == 513


def test_region_of_interest_of_rectified_images() -> None:
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=300, height=200, do_rectify=True)
    rectified = rig("/cam/image_rect")
    frame, _ = intake_frame(rectified, info(roi=roi), 300, 200)
    offset = np.array([100, 40])
    assert_allclose(pixels_of(frame) + offset, expected_pixels(rectified, P), atol=1e-6)


def test_full_image_with_region_of_interest_uses_the_full_intrinsics() -> None:
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=300, height=200)
    frame, intake = intake_frame(rig("/cam/image_raw"), info(roi=roi, binning_x=2, binning_y=2))
    assert_allclose(frame.intrinsics["camera"].matrix.reshape(-1), K)
    assert any("are ignored" in n for n in intake.pop_notices())


@settings(max_examples=40)
@given(st.sampled_from([(1, 2), (2, 1), (1, 4), (3, 2), (5, 8)]), st.booleans())
def test_resized_images_scale_the_intrinsics(ratio: tuple[int, int], rectified: bool) -> None:
    width, height = 640 * ratio[0] // ratio[1], 480 * ratio[0] // ratio[1]
    frame, intake = intake_frame(
        rig("/cam/image_rect" if rectified else "/cam/image_raw"), info(), width, height
    )
    model, factor = frame.intrinsics["camera"], width / 640
    focal, centre = (P[0], P[2]) if rectified else (K[0], K[2])
    assert (model.width, model.height) == (width, height)
    assert_allclose(model.matrix[0, 0], focal * factor)
    assert_allclose(model.matrix[0, 2], (centre + 0.5) * factor - 0.5)
    assert any("taken as resized" in n for n in intake.pop_notices())


@pytest.mark.parametrize("size", [(641, 480), (640, 479), (480, 640), (1280, 720)])
def test_other_aspect_ratio_is_dropped_and_counted(size: tuple[int, int]) -> None:
    frame, intake = intake_frame(rig("/cam/image_raw"), info(), *size)
    assert not frame.cameras
    assert intake.drop_counts("camera") == {"image_size": 1}
    assert any("another aspect ratio" in n for n in intake.pop_notices())


def test_resized_images_scale_the_intrinsics_of_the_rig_file() -> None:
    sensor = replace(
        rig("/cam/image_raw").sensors["camera"],
        camera_info_topic=None,
        intrinsics=Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5),
    )
    intake = MessageIntake(Rig("test", {"camera": sensor}))
    image = CameraImage("", SECOND, "camera", np.zeros((240, 320, 3), np.uint8))
    frames = intake.receive("/cam/image_raw", encoders.image_to_message(TYPES, image), SECOND)
    frame = (frames + intake.flush(2 * SECOND))[0]
    assert_allclose(
        frame.intrinsics["camera"].matrix, [[300, 0, 159.5], [0, 300, 119.5], [0, 0, 1]]
    )
    assert any("rig file for 640x480" in n for n in intake.pop_notices())


def test_other_frame_of_the_camera_info_gives_a_notice() -> None:
    frame, intake = intake_frame(rig("/cam/image_raw"), info(header=Header(frame_id="left")))
    assert frame.cameras
    assert any("frame_id 'left', the images have 'camera'" in n for n in intake.pop_notices())


@pytest.mark.parametrize("extrinsics", [True, False])
@pytest.mark.parametrize(
    ("topic", "changes"), [("/cam/image_rect", {}), ("/cam/image", {"k": [0.0] * 9, "d": []})]
)
def test_published_frame_keeps_rotation_and_baseline(
    extrinsics: bool, topic: str, changes: dict[str, Any]
) -> None:
    rotation = poses.from_xyz_rpy((0, 0, 0), (0.02, -0.01, 0.03))[:3, :3]
    message = info(p=[*P[:3], -62.4, *P[4:]], r=list(rotation.reshape(-1)), **changes)
    source = rig(topic)
    frame, _ = intake_frame(source, message)
    target = source
    if not extrinsics:
        target = Rig("test", {"camera": replace(source.sensors["camera"], extrinsics=None)})
    intake = MessageIntake(target)
    intake.receive(STATIC_TOPIC, static_transforms(frame, TYPES), 0)
    frames = []
    for name, _, content in frame_messages(frame, source, TYPES):
        frames += intake.receive(name, content, SECOND)
    again = (frames + intake.flush(2 * SECOND))[0]
    assert_allclose(pixels_of(again), pixels_of(frame), atol=1e-6)


def test_raw_and_rectified_images_of_one_camera_share_the_camera_info() -> None:
    raw = replace(rig("/cam/image_raw").sensors["camera"], name="raw")
    both = Rig("test", {"camera": rig("/cam/image_rect").sensors["camera"], "raw": raw})
    rotation = poses.from_xyz_rpy((0, 0, 0), (0.02, -0.01, 0.03))[:3, :3]

    def play(messages: list[tuple[str, Any]]) -> SensorFrame:
        intake = MessageIntake(both)
        frames = [f for topic, msg in messages for f in intake.receive(topic, msg, SECOND)]
        return (frames + intake.flush(2 * SECOND))[0]

    image = CameraImage("", SECOND, "camera", np.zeros((480, 640, 3), np.uint8))
    message = encoders.image_to_message(TYPES, image)
    first = play(
        [
            ("/cam/camera_info", info(r=list(rotation.reshape(-1)))),
            ("/cam/image_rect", message),
            ("/cam/image_raw", message),
        ]
    )
    assert first.intrinsics["raw"].model == "plumb_bob"
    again = play([(t, m) for t, _, m in frame_messages(first, both, TYPES)])
    for name in ("camera", "raw"):
        assert_allclose(again.intrinsics[name].matrix, first.intrinsics[name].matrix)
        assert_allclose(again.intrinsics[name].coefficients, first.intrinsics[name].coefficients)
        assert_allclose(again.base_from_sensor[name], first.base_from_sensor[name], atol=1e-12)
