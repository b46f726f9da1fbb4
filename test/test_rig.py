"""Rig files: shipped rigs, the meaning of each key, and errors."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from multimodal_perception.configuration import ConfigurationError, parse_yaml
from multimodal_perception.frame import Modality
from multimodal_perception.geometry import poses
from multimodal_perception.resources import share_path
from multimodal_perception.rig import load_rig, parse_rig
from multimodal_perception.sensor_calibration import BODY_FROM_OPTICAL, Extrinsics

TEXT = """
name: truck
footprint: [8.0, 2.5]
sensors:
  roof:
    modality: lidar
    topic: /roof/points
    frame_id: roof
    rate_hz: 20
    extrinsics: {xyz: [1.0, 0.0, 3.0], rpy: [0.0, 0.1, 0.0]}
  front:
    modality: camera
    topic: /front/image
    frame_id: front_optical
    message: sensor_msgs/msg/CompressedImage
    extrinsics: {xyz: [2.0, 0.0, 2.0]}
    intrinsics: {width: 640, height: 480, fx: 500, fy: 510, cx: 320, cy: 240}
  thermal:
    modality: thermal
    topic: /thermal/image
    frame_id: thermal_optical
    camera_info_topic: /thermal/camera_info
    counts_to_kelvin: [0.01, 0.0]
  rear:
    modality: ultrasonic
    topic: /rear/range
    frame_id: rear
    required: false
    limits: {min_range: 0.2, max_range: 5.0, field_of_view: 0.5}
"""
VALUES = parse_yaml(TEXT, "truck.yaml")


def changed(path, value):
    """VALUES with the value at a dotted path replaced, or removed where it is `...`."""
    values = copy.deepcopy(VALUES)
    *folders, last = path.split(".")
    target = values
    for folder in folders:
        target = target[folder]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return values


def test_vehicle_footprint_uses_its_offset():
    ahead = parse_rig({**VALUES, "footprint": [4.0, 2.0], "footprint_offset_x": 1.5}, "truck.yaml")
    assert ahead.vehicle_footprint == (-0.5, 3.5, -1.0, 1.0)
    points = np.array(
        [[3.4, 0.9], [-0.4, -0.9], [3.6, 0.0], [0.0, 1.1], [-0.6, 0.0], [np.nan, 0.0]]
    )
    assert ahead.vehicle_footprint.contains(points).tolist() == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    without_footprint = {name: value for name, value in VALUES.items() if name != "footprint"}
    assert parse_rig(without_footprint, "truck.yaml").vehicle_footprint is None


def error_of(path, value):
    with pytest.raises(ConfigurationError) as caught:
        parse_rig(changed(path, value), "truck.yaml")
    return str(caught.value)


def test_rig_has_the_values_of_its_file(tmp_path):
    path = tmp_path / "truck.yaml"
    path.write_text(TEXT)
    rig = load_rig(path)
    assert (rig.name, rig.footprint, rig.path) == ("truck", (8.0, 2.5), path)
    assert (rig.base_frame, rig.odom_frame, rig.odometry_topic) == ("base_link", "odom", None)
    assert rig.ground_z == 0.0
    other = parse_rig({**VALUES, "odom_frame": "map", "ground_z": -0.3}, "truck.yaml")
    assert (other.odom_frame, other.ground_z) == ("map", -0.3)
    assert list(rig.sensors) == ["roof", "front", "thermal", "rear"]
    assert list(rig.sensors_of(Modality.CAMERA)) == ["front"]
    assert list(rig.sensors_of(Modality.ULTRASONIC)) == ["rear"]
    roof, front = rig.sensors["roof"], rig.sensors["front"]
    assert (roof.name, roof.topic, roof.rate_hz, roof.required) == (
        "roof",
        "/roof/points",
        20.0,
        True,
    )
    assert front.message == "sensor_msgs/msg/CompressedImage"
    assert rig.sensors["thermal"].counts_to_kelvin == (0.01, 0.0)
    assert rig.sensors["rear"].limits.max_range == 5.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roof", "sensor_msgs/msg/PointCloud2"),
        ("thermal", "sensor_msgs/msg/Image"),
        ("rear", "sensor_msgs/msg/Range"),
    ],
)
def test_default_message_type_of_each_modality(name, message):
    assert parse_rig(VALUES, "f").sensors[name].message == message


def test_intrinsics_give_a_camera_model():
    camera = parse_rig(VALUES, "f").sensors["front"].intrinsics.camera_model()
    assert (camera.width, camera.height, camera.model) == (640, 480, "pinhole")
    np.testing.assert_array_equal(camera.matrix, [[500, 0, 320], [0, 510, 240], [0, 0, 1]])


def test_lidar_extrinsics_are_those_of_its_body():
    pose = parse_rig(VALUES, "f").sensors["roof"].base_from_sensor()
    np.testing.assert_array_equal(pose, poses.from_xyz_rpy((1, 0, 3), (0, 0.1, 0)))


def test_forward_facing_camera_has_z_forward_x_right_y_down():
    pose = parse_rig(VALUES, "f").sensors["front"].base_from_sensor()
    forward, right, down = pose[:3, 2], pose[:3, 0], pose[:3, 1]
    np.testing.assert_allclose(forward, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(right, [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(down, [0, 0, -1], atol=1e-12)
    np.testing.assert_array_equal(pose[:3, 3], [2, 0, 2])


@pytest.mark.parametrize("modality", [Modality.CAMERA, Modality.THERMAL])
def test_camera_yaw_rotates_the_optical_axis(modality):
    pose = Extrinsics((0, 0, 1), (0, 0, math.pi / 2)).matrix(modality)
    np.testing.assert_allclose(pose[:3, :3] @ [0, 0, 1], [0, 1, 0], atol=1e-12)


def test_optical_extrinsics_are_used_unchanged():
    rpy = (-math.pi / 2, 0, -math.pi / 2)
    np.testing.assert_allclose(
        Extrinsics((1, 2, 3), rpy, optical=True).matrix(Modality.CAMERA),
        Extrinsics((1, 2, 3)).matrix(Modality.CAMERA),
        atol=1e-12,
    )
    assert not np.allclose(BODY_FROM_OPTICAL, np.eye(4))


def test_missing_extrinsics_give_none():
    assert parse_rig(VALUES, "f").sensors["thermal"].base_from_sensor() is None


@pytest.mark.parametrize(
    ("path", "value", "hints"),
    [
        (
            "nmae",
            "x",
            (
                "truck.yaml: nmae: unknown key",
                "base_frame, footprint, footprint_offset_x, ground_z",
            ),
        ),
        ("name", ..., ("truck.yaml: name: missing",)),
        ("sensors", ..., ("truck.yaml: sensors: missing",)),
        ("sensors", {}, ("truck.yaml: sensors: a rig needs at least one",)),
        ("sensors", [], ("truck.yaml: sensors: expected a mapping",)),
        ("sensors.roof", None, ("truck.yaml: sensors.roof: expected a mapping",)),
        ("sensors.roof", [], ("truck.yaml: sensors.roof: expected a mapping",)),
        ("sensors.roof.topc", "/x", ("sensors.roof.topc: unknown key", "topic")),
        ("sensors.roof.topic", ..., ("sensors.roof.topic: missing",)),
        ("sensors.roof.topic", "", ("sensors.roof: topic: '' is not the name of a ROS topic",)),
        ("sensors.roof.topic", 5, ("sensors.roof.topic: expected str",)),
        ("sensors.roof.topic", "/rear/range", ("sensors.rear.topic", "already used by roof")),
        ("sensors.roof.frame_id", ..., ("sensors.roof.frame_id: missing",)),
        ("sensors.roof.modality", "radar", ("sensors.roof.modality: allowed: lidar, camera",)),
        ("sensors.roof.rate_hz", 0, ("sensors.roof.rate_hz: allowed: 0.01 to 1000.0 Hz",)),
        ("sensors.roof.rate_hz", "fast", ("sensors.roof.rate_hz: expected float",)),
        ("sensors.roof.tolerance_s", -1, ("sensors.roof.tolerance_s: allowed: 0.0 to 10.0 s",)),
        (
            "sensors.roof.message",
            "sensor_msgs/msg/Image",
            ("allowed: sensor_msgs/msg/PointCloud2",),
        ),
        ("sensors.roof.extrinsics.xyz", [1, 2], ("extrinsics.xyz: expected 3 values, got 2",)),
        ("sensors.roof.extrinsics.xyz", [1, 2, math.nan], ("extrinsics.xyz[2]: must be finite",)),
        ("sensors.roof.extrinsics.xyz", ..., ("extrinsics.xyz: missing",)),
        (
            "sensors.roof.intrinsics",
            VALUES["sensors"]["front"]["intrinsics"],
            ("allowed for a lidar",),
        ),
        ("sensors.roof.camera_info_topic", "/info", ("are not allowed for a lidar",)),
        ("sensors.roof.limits", VALUES["sensors"]["rear"]["limits"], ("allowed for a lidar",)),
        ("sensors.front.intrinsics", ..., ("needs intrinsics or a camera_info_topic",)),
        ("sensors.front.intrinsics.fx", 0, ("sensors.front.intrinsics: focal lengths",)),
        ("sensors.front.intrinsics.fx", "wide", ("intrinsics.fx: expected float",)),
        ("sensors.front.intrinsics.width", 0, ("intrinsics.width: allowed: 1 to 20000",)),
        ("sensors.front.intrinsics.width", 640.0, ("intrinsics.width: expected int",)),
        ("sensors.front.intrinsics.model", "fisheye", ("allowed: pinhole, plumb_bob",)),
        ("sensors.front.intrinsics.coefficients", [0.1], ("pinhole takes 0 coefficients",)),
        ("sensors.thermal.counts_to_kelvin", [0.01], ("counts_to_kelvin: expected 2 values",)),
        ("sensors.rear.limits.min_range", 5.0, ("min_range must be below max_range",)),
        ("sensors.rear.limits.field_of_view", 4.0, ("field_of_view: allowed", "rad")),
        ("footprint", [1.0], ("footprint: expected 2 values",)),
        ("footprint", 4.0, ("footprint: expected a list",)),
        ("footprint", [4.0, 0.0], ("footprint: allowed: lengths over 0",)),
        ("footprint_offset_x", 51.0, ("footprint_offset_x: allowed",)),
        ("ground_z", 11.0, ("ground_z: allowed: -10.0 to 10.0 m",)),
    ],
)
def test_invalid_rig_raises_error_with_file_and_key(path, value, hints):
    message = error_of(path, value)
    assert message.startswith("truck.yaml: ")
    for hint in hints:
        assert hint in message


@pytest.mark.parametrize("name", ["with space", "a/b", "", "1st", "a-b", "../x"])
def test_invalid_sensor_name_raises_error(name):
    values = changed("sensors", {name: VALUES["sensors"]["roof"]})
    with pytest.raises(ConfigurationError, match="letters, digits and _"):
        parse_rig(values, "truck.yaml")


def test_sensor_name_is_the_key_of_its_entry():
    try:
        rig = parse_rig(changed("sensors.roof.name", "other"), "truck.yaml")
    except ConfigurationError as error:
        assert "sensors.roof.name" in str(error)
    else:
        assert all(sensor.name == key for key, sensor in rig.sensors.items())


@pytest.mark.parametrize("values", [None, [], "rig", 3])
def test_rig_file_without_mapping_raises_error(values):
    with pytest.raises(ConfigurationError, match=r"^truck\.yaml: expected a mapping"):
        parse_rig(values, "truck.yaml")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "expected a mapping, got NoneType"),
        (TEXT + "name: again\n", "key 'name' appears twice"),
        (TEXT.replace("  rear:", "  roof:"), "key 'roof' appears twice"),
        ("a: &a {x: 1}\nb: *a", "aliases are not allowed"),
        (TEXT.replace("[8.0, 2.5]", "[8.0, 2.5"), "truck.yaml"),
    ],
)
def test_invalid_yaml_raises_error_with_file_name(tmp_path, text, hint):
    path = tmp_path / "truck.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_rig(path)
    assert str(caught.value).startswith(f"{path}: ") and hint in str(caught.value)


def test_missing_file_raises_error_with_file_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.yaml: No such file"):
        load_rig(tmp_path / "none.yaml")


RIGS = sorted(share_path("config", "rigs").glob("*.yaml"))


@pytest.mark.parametrize("path", RIGS, ids=[p.stem for p in RIGS])
def test_shipped_rigs_load(path):
    rig = load_rig(path)
    assert rig.name and rig.sensors
    for sensor in rig.sensors.values():
        pose = sensor.base_from_sensor()
        assert pose is None or poses.is_rigid(pose, 1e-9)


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("optical", [False, True])
def test_extrinsics_from_matrix_round_trip(modality: Modality, optical: bool) -> None:
    pose = poses.from_xyz_rpy((0.4, -1.2, 1.5), (0.3, -0.2, 2.9))
    entry = Extrinsics.from_matrix(pose, modality, optical)
    assert entry.optical is optical
    np.testing.assert_allclose(entry.matrix(modality), pose, atol=2e-6)
