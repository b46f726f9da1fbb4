"""CameraInfo decoding: distortion models, region of interest, binning and invalid values."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from multimodal_perception.messages.camera_info import camera_model_from_message
from multimodal_perception.messages.errors import MessageError


def reason_of(decoder, msg, *arguments):
    with pytest.raises(MessageError) as caught:
        decoder(msg, *arguments)
    return caught.value.reason


def make_camera_info(**changes):
    values = {
        "header": Header(frame_id="front_optical"),
        "width": 640,
        "height": 480,
        "distortion_model": "plumb_bob",
        "d": [-0.2, 0.05, 0.001, -0.001, 0.0],
        "k": [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0],
    }
    return CameraInfo(**{**values, **changes})


def test_camera_info_gives_the_camera_model():
    model = camera_model_from_message(make_camera_info())
    assert (model.width, model.height, model.model) == (640, 480, "plumb_bob")
    np.testing.assert_array_equal(model.matrix, [[500, 0, 320], [0, 510, 240], [0, 0, 1]])
    np.testing.assert_array_equal(model.coefficients, [-0.2, 0.05, 0.001, -0.001, 0.0])


@pytest.mark.parametrize(
    ("name", "d", "expected"),
    [
        ("plumb_bob", [0.0] * 5, "pinhole"),
        ("", [], "pinhole"),
        ("none", [], "pinhole"),
        ("rational_polynomial", [0.1] * 8, "rational_polynomial"),
        ("rational_polynomial", [0.0] * 8, "pinhole"),
        ("equidistant", [0.0] * 4, "equidistant"),
        ("fisheye", [0.01] * 4, "equidistant"),
    ],
)
def test_ros_distortion_model_names(name, d, expected):
    assert camera_model_from_message(make_camera_info(distortion_model=name, d=d)).model == expected


POINTS = np.random.default_rng(0).uniform((-1, -1, 3), (1, 1, 9), (50, 3))


def test_region_of_interest_shifts_the_principal_point():
    roi = RegionOfInterest(x_offset=100, y_offset=50, width=300, height=200)
    full = camera_model_from_message(make_camera_info())
    part = camera_model_from_message(make_camera_info(roi=roi))
    assert (part.width, part.height) == (300, 200)
    np.testing.assert_allclose(part.project(POINTS)[0] + (100, 50), full.project(POINTS)[0])


def test_binning_scales_the_camera_model():
    full = camera_model_from_message(make_camera_info())
    binned = camera_model_from_message(make_camera_info(binning_x=2, binning_y=4))
    assert (binned.width, binned.height) == (320, 120)
    # Binned pixel (0, 0) combines columns 0 to 1 and rows 0 to 3: its centre is (0.5, 1.5).
    expected = full.project(POINTS)[0]
    np.testing.assert_allclose(binned.project(POINTS)[0] * (2, 4) + (0.5, 1.5), expected)


@pytest.mark.parametrize("binning", [0, 1])
def test_binning_of_0_and_1_changes_nothing(binning):
    msg = make_camera_info(binning_x=binning, binning_y=binning)
    np.testing.assert_array_equal(
        camera_model_from_message(msg).matrix, camera_model_from_message(make_camera_info()).matrix
    )


K = [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"k": [0.0] * 9},
        {"k": [-500.0, *K[1:]]},
        {"k": [*K[:4], 0.0, *K[5:]]},
        {"k": [math.nan, *K[1:]]},
        {"k": [*K[:2], math.inf, *K[3:]]},
        {"k": [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]},
        {"k": [*K[:6], 5.0, 6.0, 7.0]},
        {"k": [*K[:8], 0.0]},
        {"width": 0},
        {"height": 0},
        {"d": [0.1]},
        {"d": [0.1] * 8},
        {"d": [math.nan] * 5},
        {"d": [math.inf, 0.0, 0.0, 0.0, 0.0]},
        {"distortion_model": "equidistant", "d": []},
        {"distortion_model": "equidistant", "d": [0.1] * 5},
        {"distortion_model": "rational_polynomial", "d": [0.1] * 5},
        {"distortion_model": "", "d": [0.1] * 5},
        {"distortion_model": "wide", "d": [0.1] * 5},
        {"binning_x": 2**32 - 1},
    ],
)
def test_invalid_camera_info_raises_error(changes):
    assert reason_of(camera_model_from_message, make_camera_info(**changes)) == "bad_camera_info"


def test_uncalibrated_camera_raises_error():
    assert reason_of(camera_model_from_message, CameraInfo()) == "bad_camera_info"


def test_camera_info_with_short_matrix_raises_error():
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    msg = SimpleNamespace(
        width=np.uint32(640),
        height=np.uint32(480),
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array(K),
        roi=roi,
        binning_x=np.uint32(0),
        binning_y=np.uint32(0),
    )
    assert camera_model_from_message(msg).width == 640
    msg.k = np.ones(8)
    assert reason_of(camera_model_from_message, msg) == "bad_camera_info"


def outcome(decoder, *arguments):
    try:
        decoder(*arguments)
    except MessageError:
        return "refused"
    return "decoded"


def test_mutated_camera_infos_raise_only_message_errors():
    rng = random.Random(4)
    numbers = (0.0, 1.0, -1.0, 1e-300, 1e300, math.nan, math.inf, 0.5, 640.0)
    sizes = (0, 1, 2, 3, 640, 2**31, 2**32 - 1)
    models = ("", "none", "plumb_bob", "rational_polynomial", "equidistant", "fisheye", "é")
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(100_000):
        msg = make_camera_info()
        for _ in range(rng.randint(1, 2)):
            name = rng.choice(("k", "d", "model", "size", "roi", "binning"))
            if name == "k":
                msg.k[rng.randrange(9)] = rng.choice(numbers)
            elif name == "d":
                msg.d = [rng.choice(numbers) for _ in range(rng.choice((0, 1, 4, 5, 8, 12, 14)))]
            elif name == "model":
                msg.distortion_model = rng.choice(models)
            elif name == "size":
                setattr(msg, rng.choice(("width", "height")), rng.choice(sizes))
            elif name == "roi":
                field = rng.choice(("width", "height", "x_offset", "y_offset"))
                setattr(msg.roi, field, rng.choice(sizes))
            else:
                setattr(msg, rng.choice(("binning_x", "binning_y")), rng.choice(sizes))
        outcomes[outcome(camera_model_from_message, msg)] += 1
    assert min(outcomes.values()) > 200
