"""Masks, their pictures and fused images over DDS: a camera and a thermal camera in, a node in its own
process.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image

from multimodal_perception.frame import SensorFrame
from multimodal_perception.rig import Rig, dump_rig, load_rig, rig_path
from multimodal_perception.ros import messages
from multimodal_perception.ros.fused_outputs import fused_topics
from multimodal_perception.ros.images import image_from_message
from multimodal_perception.ros.mask_outputs import mask_topics
from multimodal_perception.ros.qos import SENSOR_QOS
from multimodal_perception.segmentation.classes import labels_from_semantics
from multimodal_perception.simulation.simulation import Observation, Simulation

TYPES = messages.RclpyTypes()
SENSORS = ("camera_front", "thermal_front")


@pytest.fixture(scope="module")
def rig() -> Rig:
    rig = load_rig(rig_path("simulation"))
    return replace(rig, sensors={n: rig.sensors[n] for n in SENSORS})


@pytest.fixture(scope="module")
def seen(rig: Rig) -> Observation:
    return Simulation("urban_street", rig, 10_778, 30).observe(20)


@pytest.fixture
def answers(rig: Rig, tmp_path: Path) -> Iterator[tuple[Any, dict[str, list[Any]]]]:
    """A function that sends a frame, and what came back on each topic."""
    (tmp_path / "rig.yaml").write_text(dump_rig(rig))
    command = [sys.executable, "-m", "multimodal_perception.ros.node", "--ros-args"]
    for value in (
        "pipeline.occupancy:=none",
        f"rig:={tmp_path / 'rig.yaml'}",
        "autostart:=true",
        "deadline_s:=0.3",
    ):
        command += ["-p", value]
    command += ["-p", "pipeline.segmenter:=rgbx", "-p", "pipeline.runtime.device:=cpu"]
    command += ["-p", "pipeline.runtime.order:=[onnxruntime]"]
    command += ["-p", "pipeline.image_fusion.model:=image_fusion"]
    command += ["-p", "registration.period_s:=0.0"]  # a long look would go on when the node ends
    running = subprocess.Popen(command, env=dict(os.environ))
    rclpy.init()
    node = Node("vehicle")
    got: dict[str, list[Any]] = {}
    for name in {**mask_topics(rig), **fused_topics(rig)}:
        kept = got.setdefault(name, [])
        node.create_subscription(Image, f"/{name}", kept.append, 5)
    senders = {n: node.create_publisher(Image, rig.sensors[n].topic, SENSOR_QOS) for n in SENSORS}
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = threading.Thread(target=executor.spin, daemon=True)
    spinner.start()
    _wait(lambda: all(s.get_subscription_count() for s in senders.values()), 100.0)

    odd = itertools.cycle((0, 1, 2))

    def send(frame: SensorFrame) -> int:
        stamp_ns = int(node.get_clock().now().nanoseconds)
        for name in SENSORS:
            if name in frame.readings:
                # No two images of a sensor in a row are the same, or they would count as frozen.
                image = frame.readings[name]
                image = replace(image, pixels=image.pixels ^ next(odd))
                message = messages.image_to_message(TYPES, image)
                message.header.stamp = messages.time(TYPES, stamp_ns)
                senders[name].publish(message)
        return stamp_ns

    yield send, got
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    running.send_signal(signal.SIGINT)
    assert running.wait(15) == 0


def _wait(condition: Any, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.02)


def _answered(send: Any, condition: Any) -> list[int]:
    """Send each second until there is an answer: best effort may lose the first."""
    sent = []
    for _ in range(40):
        sent.append(send())
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            if condition():
                return sent
            time.sleep(0.02)
    raise AssertionError("no answer")


def test_masks_and_pictures_carry_the_stamp_frame_and_size_of_the_image(
    answers: tuple[Any, dict[str, list[Any]]], seen: Observation
) -> None:
    send, got = answers
    camera, colour = (
        got["perception/segmentation/camera_front"],
        got["perception/segmentation/camera_front/colour"],
    )
    fused = got["perception/fused/camera_front"]
    sent = _answered(lambda: send(seen.frame), lambda: camera and colour and fused)
    mask = camera[0]
    stamp_ns = messages.stamp_ns_of(mask)
    assert stamp_ns in sent and mask.encoding == "mono8"
    assert mask.header.frame_id == "camera_front_optical"
    labels = image_from_message(mask, "camera_front", stamp_ns).pixels
    truth = labels_from_semantics(seen.truth.views["camera_front"].semantics)
    assert labels.shape == truth.shape and (labels == truth).mean() > 0.8
    assert colour[0].encoding == "rgb8" and (colour[0].height, colour[0].width) == truth.shape
    assert np.array(colour[0].data).std() > 10
    picture = fused[0]
    assert messages.stamp_ns_of(picture) in sent and picture.encoding == "rgb8"
    assert picture.header.frame_id == "camera_front_optical"
    assert (picture.height, picture.width) == truth.shape
    own = seen.frame.cameras["camera_front"].rgb()
    pixels = image_from_message(picture, "camera_front", stamp_ns).rgb()
    assert 2 < np.abs(pixels.astype(int) - own).mean() < 100
    # The camera falls silent: the thermal camera speaks, of masks in its own view.
    silent = replace(seen.frame, cameras={})
    _answered(lambda: send(silent), lambda: got["perception/segmentation/thermal_front"])
    assert got["perception/segmentation/thermal_front"][0].height == 256

    def passed_on() -> bool:
        pixels = image_from_message(fused[-1], "camera_front", 0).rgb()
        return pixels.shape == own.shape and bool((pixels[..., 0] == pixels[..., 2]).all())

    _wait(passed_on, 20.0)
    assert fused[-1].header.frame_id == "camera_front_optical"
