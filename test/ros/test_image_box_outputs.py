"""Boxes in images over DDS: a camera and a thermal camera in, a node in its own process."""

from __future__ import annotations

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
from vision_msgs.msg import Detection2DArray, Detection3DArray

from multimodal_perception.evaluation.image_detection_drives import image_truth
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.image_boxes import iou
from multimodal_perception.pipeline import PipelineConfig
from multimodal_perception.rig import Rig, dump_rig, load_rig, rig_path
from multimodal_perception.ros import messages
from multimodal_perception.ros.image_box_outputs import image_box_topics
from multimodal_perception.ros.node import SENSOR_QOS
from multimodal_perception.simulation.simulation import Observation, Simulation

TYPES = messages.RclpyTypes()
SENSORS = ("camera_front", "thermal_front")
TOPIC = "perception/boxes2d/camera_front"


@pytest.fixture(scope="module")
def rig() -> Rig:
    rig = load_rig(rig_path("simulation"))
    return replace(rig, sensors={n: rig.sensors[n] for n in SENSORS})


@pytest.fixture(scope="module")
def seen(rig: Rig) -> Observation:
    return Simulation("urban_street", rig, 10_778, 30).observe(20)


def test_there_are_topics_only_where_a_detector_runs(rig: Rig) -> None:
    assert image_box_topics(rig, PipelineConfig()) == {}
    topics = image_box_topics(rig, PipelineConfig(image_detector="rgbir"))
    assert list(topics) == [TOPIC, "perception/boxes2d/thermal_front"]


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
        "pipeline.image_detector:=rgbir",
        "pipeline.trust.frozen_s:=0.0",  # one frame is sent again and again
        "pipeline.runtime.device:=cpu",
        "pipeline.runtime.order:=[onnxruntime]",
    ):
        command += ["-p", value]
    running = subprocess.Popen(command, env=dict(os.environ))
    rclpy.init()
    node = Node("vehicle")
    got: dict[str, list[Any]] = {TOPIC: [], "perception/objects": []}
    node.create_subscription(Detection2DArray, f"/{TOPIC}", got[TOPIC].append, 5)
    objects = got["perception/objects"]
    node.create_subscription(Detection3DArray, "/perception/objects", objects.append, 5)
    senders = {n: node.create_publisher(Image, rig.sensors[n].topic, SENSOR_QOS) for n in SENSORS}
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = threading.Thread(target=executor.spin, daemon=True)
    spinner.start()
    _wait(lambda: all(s.get_subscription_count() for s in senders.values()), 100.0)

    def send(frame: SensorFrame) -> int:
        stamp_ns = int(node.get_clock().now().nanoseconds)
        for name in SENSORS:
            message = messages.image_to_message(TYPES, frame.readings[name])
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


def test_boxes_carry_the_image_stamp_and_stand_on_the_ground_without_lidar(
    answers: tuple[Any, dict[str, list[Any]]], seen: Observation
) -> None:
    send, got = answers
    sent = []
    for _ in range(40):  # best effort may lose the first ones
        sent.append(send(seen.frame))
        time.sleep(1.0)
        if got[TOPIC] and any(m.detections for m in got["perception/objects"]):
            break
    message = got[TOPIC][0]
    assert messages.stamp_ns_of(message) in sent
    assert message.header.frame_id == "camera_front_optical" and message.detections
    boxes = np.array([_corners(d.bbox) for d in message.detections])
    truth, _ = image_truth(seen.truth.views["camera_front"], ("vehicle", "person", "cyclist"))
    sure = [d.results[0].hypothesis.score > 0.6 for d in message.detections]
    assert any(sure) and iou(boxes[sure], truth.boxes).max(axis=1).mean() > 0.5
    names = {d.results[0].hypothesis.class_id for d in message.detections}
    assert names <= {"vehicle", "person", "cyclist"}
    placed = next(m for m in got["perception/objects"] if m.detections).detections[0]
    covariance = np.array(placed.results[0].pose.covariance).reshape(6, 6)
    assert covariance[0, 0] > 0.1 and placed.header.frame_id == "base_link"


def _corners(box: Any) -> list[float]:
    x, y = box.center.position.x, box.center.position.y
    return [x - box.size_x / 2, y - box.size_y / 2, x + box.size_x / 2, y + box.size_y / 2]
