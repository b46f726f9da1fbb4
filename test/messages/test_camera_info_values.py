"""Values of CameraInfo: distortion models, rotations, implausible intrinsics."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sensor_msgs.msg import RegionOfInterest

from multimodal_perception.geometry import poses
from multimodal_perception.messages.camera_info import ACCEPTED, calibration_from_message
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.rig import Rig
from multimodal_perception.sensor_calibration import Intrinsics
from multimodal_perception.synchronization.intake import MessageIntake
from test.messages.camera_infos import (
    EYE,
    K,
    P,
    expected_pixels,
    info,
    intake_frame,
    pixels_of,
    rig,
)


def test_zero_rotation_is_the_identity_with_a_notice() -> None:
    rectified = rig("/cam/image_rect")
    frame, intake = intake_frame(rectified, info(r=[0.0] * 9))
    assert_allclose(pixels_of(frame), expected_pixels(rectified, P), atol=1e-6)
    assert any("R of the CameraInfo is zero" in n for n in intake.pop_notices())


@pytest.mark.parametrize(
    "changes",
    [
        {"r": [2.0 * v for v in EYE]},
        {"r": [1.0] * 9},
        {"r": [math.nan, *EYE[1:]]},
        {"r": [-1.0, *EYE[1:]]},
        {"p": [math.nan, *P[1:]]},
        {"p": [-520.0, *P[1:]]},
        {"p": [*P[:11], 0.5]},
        {"p": [*P[:8], 0.0, 0.0, 2.0, 0.0]},
        {"roi": RegionOfInterest(x_offset=400, width=400, height=480)},
    ],
)
def test_invalid_rectification_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MessageError) as caught:
        calibration_from_message(info(**changes), True)
    assert caught.value.reason == "bad_camera_info"


def test_rounded_rotation_is_corrected() -> None:
    rotation = poses.from_xyz_rpy((0, 0, 0), (0.02, -0.01, 0.03))[:3, :3]
    message = info(r=[float(v) for v in rotation.round(4).reshape(-1)])
    pose = calibration_from_message(message, True).camera_from_optical
    assert pose is not None
    assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert_allclose(pose[:3, :3], rotation, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "d", "model", "count"),
    [
        ("equidistant", [0.1, 0.02, 0.0, 0.01, 0.0], "equidistant", 4),
        ("equidistant", [0.1, 0.02, 0.0, 0.01, *[0.0] * 4], "equidistant", 4),
        ("fisheye", [0.1, 0.0, 0.0, 0.0], "equidistant", 4),
        ("Kannala Brandt", [0.1, 0.0, 0.0, 0.0, 0.0], "equidistant", 4),
        ("plumb_bob", [-0.3, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "plumb_bob", 4),
        ("plumb_bob", [-0.3, 0.1, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0], "plumb_bob", 5),
        ("Plumb Bob", [-0.3, 0.1, 0.0, 0.0], "plumb_bob", 4),
        ("radtan", [-0.3, 0.1, 0.0, 0.0], "plumb_bob", 4),
        ("brown-conrady", [-0.3, 0.1, 0.0, 0.0, 0.01], "plumb_bob", 5),
        ("rational_polynomial", [0.1] * 8 + [0.0] * 6, "rational_polynomial", 14),
        ("rational_polynomial", [0.1] * 8 + [0.0] * 3, "rational_polynomial", 8),
        ("thin_prism", [0.1] * 12, "rational_polynomial", 12),
        ("plumb_bob", [0.0] * 14, "pinhole", 0),
        ("", [0.0] * 5, "pinhole", 0),
        ("None", [], "pinhole", 0),
        ("Inverse Brown Conrady", [0.0] * 5, "pinhole", 0),
    ],
)
def test_distortion_models_and_trailing_zeros(
    name: str, d: list[float], model: str, count: int
) -> None:
    camera = calibration_from_message(info(distortion_model=name, d=d)).model
    assert (camera.model, camera.coefficients.size) == (model, count)
    assert_allclose(camera.coefficients, d[:count])


@pytest.mark.parametrize(
    ("name", "d"),
    [
        ("equidistant", [0.1] * 5),
        ("plumb_bob", [0.1] * 8),
        ("Inverse Brown Conrady", [0.1] * 5),
        ("mei", [0.1] * 5),
        ("omnidirectional", [0.0] * 5),
        ("ftheta", [0.1] * 6),
    ],
)
def test_other_distortion_is_refused_with_its_name(name: str, d: list[float]) -> None:
    frame, intake = intake_frame(rig("/cam/image_raw"), info(distortion_model=name, d=d))
    assert not frame.cameras and intake.drop_counts("camera")["bad_camera_info"] == 1
    assert any(name in n or "coefficients" in n for n in intake.pop_notices())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"k": [600.0, 0.0, 700.0, *K[3:]]}, "outside the image"),
        ({"k": [600.0, 0.0, -5.0, *K[3:]]}, "outside the image"),
        ({"k": [*K[:5], 20.0, *K[6:]]}, "far from the centre"),
        ({"k": [600.0, 0.0, 320.0, 0.0, 300.0, *K[5:]]}, "focal lengths"),
        ({"k": [0.004, 0.0, 320.0, 0.0, 0.004, *K[5:]]}, "field of view"),
        ({"k": [90_000.0, 0.0, 320.0, 0.0, 90_000.0, *K[5:]]}, "field of view"),
        (
            {"distortion_model": "equidistant", "d": [0.0] * 4, "k": [90.0, *K[1:4], 90.0, *K[5:]]},
            "field of view",
        ),
    ],
)
def test_implausible_intrinsics_give_a_notice(changes: dict[str, Any], text: str) -> None:
    frame, intake = intake_frame(rig("/cam/image_raw"), info(**changes))
    assert frame.cameras
    assert any("implausible" in n and text in n for n in intake.pop_notices())


def test_implausible_intrinsics_of_the_rig_file_give_a_notice() -> None:
    sensor = replace(
        rig("/cam/image_raw").sensors["camera"],
        intrinsics=Intrinsics(640, 480, 600.0, 600.0, 900.0, 240.0),
    )
    notices = MessageIntake(Rig("test", {"camera": sensor})).pop_notices()
    assert any("outside the image" in n and "rig file" in n for n in notices)


def test_usual_intrinsics_give_no_notice() -> None:
    _, intake = intake_frame(rig("/cam/image_raw"), info())
    assert not [n for n in intake.pop_notices() if n.startswith("camera")]


def test_accepted_conventions_are_listed() -> None:
    assert all(entry.values and entry.interpretation and entry.otherwise for entry in ACCEPTED)
    assert any("equidistant" in entry.what for entry in ACCEPTED)
