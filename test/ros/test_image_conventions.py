"""Image conventions on /diagnostics, over DDS: notices of assumptions, levels of unusable images."""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from multimodal_perception.frame import Modality
from multimodal_perception.perception import Level
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.sensor_calibration import Extrinsics, Intrinsics

pytestmark = pytest.mark.live

SHAPE = (48, 64)
EXTRINSICS = Extrinsics((1.0, 0.0, 1.5))
INTRINSICS = Intrinsics(SHAPE[1], SHAPE[0], 60.0, 60.0, 31.5, 23.5)
CELSIUS = np.add.outer(np.linspace(-8, 12, SHAPE[0]), np.linspace(0, 20, SHAPE[1]))
COUNTS = ((CELSIUS + 273.15) / 0.01).astype(np.uint16)
K = [60.0, 0.0, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0]
P = [50.0, 0.0, 33.0, -5.0, 0.0, 50.0, 23.5, 0.0, 0.0, 0.0, 1.0, 0.0]


def thermal(name: str, **more: Any) -> Sensor:
    more = {"intrinsics": INTRINSICS, "extrinsics": EXTRINSICS, **more}
    topic = more.pop("topic", f"/{name}/image")
    return Sensor(name, Modality.THERMAL, topic, name, required=False, **more)


def camera(name: str, **more: Any) -> Sensor:
    more = {"intrinsics": INTRINSICS, "extrinsics": EXTRINSICS, **more}
    topic = more.pop("topic", f"/{name}/image")
    return Sensor(name, Modality.CAMERA, topic, name, required=False, **more)


SENSORS = (
    thermal("celsius"),
    thermal("unclear"),
    thermal("sentinel", counts_to_kelvin=(0.01, 0.0)),
    thermal("eight_bits", counts_to_kelvin=(0.01, 0.0)),
    thermal("blank"),
    camera("depth", topic="/depth/image_rect_raw"),
    camera(
        "rectified",
        topic="/rectified/image_rect",
        intrinsics=None,
        camera_info_topic="/rectified/camera_info",
    ),
    camera("resized"),
    camera("other_size"),
    camera("uncalibrated", intrinsics=None, camera_info_topic="/uncalibrated/camera_info"),
)
RIG = Rig("images", {s.name: s for s in SENSORS})
# Text of a notice by sensor.
NOTICES = (
    ("celsius", "32FC1 pixels are taken as celsius"),
    ("sentinel", "pixels of value 0 are taken as no measurement"),
    ("eight_bits", "8-bit images, but counts_to_kelvin"),
    ("rectified", "P[:, :3] of the CameraInfo is used without D"),
    ("resized", "taken as resized"),
)
# Reason of a drop by sensor.
DROPS = (
    ("unclear", "ambiguous_temperature_unit"),
    ("blank", "no_measurement"),
    ("depth", "not_a_picture"),
    ("other_size", "image_size"),
    ("uncalibrated", "bad_camera_info"),
    ("uncalibrated", "no_camera_info"),
)
Statuses = dict[str, tuple[int, str, dict[str, str]]]


def images() -> dict[str, tuple[np.ndarray, str]]:
    """Pixels and encoding by sensor."""
    unclear = np.full(SHAPE, 29_000, np.float32)
    sentinel = COUNTS.copy()
    sentinel[:4] = 0
    ramp = np.tile(np.arange(SHAPE[1], dtype=np.uint8), (SHAPE[0], 1))
    return {
        "celsius": (CELSIUS.astype(np.float32), "32FC1"),
        "unclear": (unclear, "32FC1"),
        "sentinel": (sentinel, "mono16"),
        "eight_bits": (ramp, "mono8"),
        "blank": (np.zeros(SHAPE, np.uint16), "mono16"),
        "depth": (np.full(SHAPE, 1500, np.uint16), "16UC1"),
        "rectified": (ramp, "mono8"),
        "resized": (ramp[:24, :32], "mono8"),
        "other_size": (ramp[:, :60], "mono8"),
        "uncalibrated": (ramp, "mono8"),
    }


def latest(received: list[Any]) -> Statuses:
    """The last level, message and values by name."""
    result: Statuses = {}
    for message in received:
        for entry in message.status:
            values = {v.key: v.value for v in entry.values}
            name = entry.name.rpartition(": ")[2]
            result[name] = entry.level[0], entry.message, values
    return result


def is_complete(status: Statuses) -> bool:
    """Whether each image has had its effect."""
    if not {s.name for s in SENSORS} <= status.keys():
        return False
    return (
        all(text in notices(status, sensor) for sensor, text in NOTICES)
        and all(
            f"dropped.{reason}" in status[s][2] and reason in status[s][1] for s, reason in DROPS
        )
        and "information.no_measurement" in status["sentinel"][2]
    )


@pytest.fixture(scope="module")
def status() -> Iterator[Statuses]:
    """The last level, message and values of each sensor while all of them publish.

    Images are sent until each had its effect, or for LIMIT_S: the tests then report which had none.
    """
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import Header

    from multimodal_perception.messages import encoders, message_types
    from multimodal_perception.ros.node_process import perception_process
    from multimodal_perception.ros.qos import OUTPUT_QOS, SENSOR_QOS
    from test.ros.conftest import LIMIT_S, SETTINGS, START_S, wait_for

    types = message_types.RclpyTypes()
    with ExitStack() as stack:
        settings = {
            **SETTINGS,
            "pipeline.detector": "geometric",
            "diagnostics_period_s": "0.3",
            "deadline_s": "0.1",
        }
        stack.enter_context(perception_process(RIG, settings=settings))
        rclpy.init()
        stack.callback(rclpy.shutdown)
        node = rclpy.create_node("cameras")
        stack.callback(node.destroy_node)
        publishers = {s.name: node.create_publisher(Image, s.topic, SENSOR_QOS) for s in SENSORS}
        infos = {
            s.name: node.create_publisher(CameraInfo, str(s.camera_info_topic), OUTPUT_QOS)
            for s in SENSORS
            if s.camera_info_topic is not None
        }
        received: list[Any] = []
        array_type = message_types.message_class("diagnostic_msgs/msg/DiagnosticArray")
        node.create_subscription(array_type, "/diagnostics", received.append, OUTPUT_QOS)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        stack.callback(executor.shutdown)
        threading.Thread(target=executor.spin, daemon=True).start()
        wait_for(
            lambda: all(
                p.get_subscription_count() for p in (*publishers.values(), *infos.values())
            ),
            START_S,
            "node",
        )

        def send() -> None:
            stamp = encoders.make_time(types, int(node.get_clock().now().nanoseconds))
            for name, publisher in infos.items():
                calibration = CameraInfo(
                    header=Header(stamp=stamp, frame_id=name), width=64, height=48, p=P
                )
                if name == "rectified":
                    calibration.k, calibration.distortion_model = K, "plumb_bob"
                    calibration.d = [-0.3, 0.1, 0.0, 0.0, 0.0]
                    calibration.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
                else:
                    calibration.k, calibration.distortion_model = K, "omnidirectional"
                    calibration.d = [0.1] * 5
                publisher.publish(calibration)
            for name, (pixels, encoding) in images().items():
                data = np.ascontiguousarray(pixels)
                publishers[name].publish(
                    Image(
                        header=Header(stamp=stamp, frame_id=name),
                        height=pixels.shape[0],
                        width=pixels.shape[1],
                        encoding=encoding,
                        step=data.nbytes // pixels.shape[0],
                        data=array.array("B", data.tobytes()),
                    )
                )

        end = time.monotonic() + LIMIT_S
        while not is_complete(latest(received)) and time.monotonic() < end:
            send()
            time.sleep(0.1)
        yield latest(received)


def notices(status: Statuses, sensor: str) -> str:
    return "; ".join(v for k, v in status[sensor][2].items() if k.startswith("notice"))


@pytest.mark.parametrize(("sensor", "text"), NOTICES)
def test_assumption_is_a_notice_of_the_sensor(status: Statuses, sensor: str, text: str) -> None:
    assert text in notices(status, sensor)
    assert not [k for k in status[sensor][2] if k.startswith("dropped")]
    assert status[sensor][0] in (Level.OK.value, Level.WARN.value)


@pytest.mark.parametrize(("sensor", "reason"), DROPS)
def test_unusable_images_are_a_warning_with_the_reason(
    status: Statuses, sensor: str, reason: str
) -> None:
    level, message, values = status[sensor]
    assert int(values[f"dropped.{reason}"]) > 0
    assert level in (Level.WARN.value, Level.ERROR.value)
    assert reason in message


def test_refused_camera_info_states_the_reason(status: Statuses) -> None:
    assert "distortion model 'omnidirectional'" in notices(status, "uncalibrated")


def test_pixels_without_measurement_are_counted_as_information(status: Statuses) -> None:
    assert int(status["sentinel"][2]["information.no_measurement"]) >= 4 * SHAPE[1]
