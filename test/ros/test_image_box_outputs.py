"""Boxes in images over DDS: a camera and a thermal camera in, a node in its own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from multimodal_perception.evaluation.image_detection_drives import image_truth
from multimodal_perception.geometry.image_boxes import iou
from multimodal_perception.messages import decoders
from multimodal_perception.pipeline import PipelineConfig
from multimodal_perception.rig import Rig
from multimodal_perception.ros.image_box_outputs import image_box_topics
from multimodal_perception.simulation.simulation import Observation

TOPIC = "perception/boxes2d/camera_front"
OBJECTS = "perception/objects"


def test_there_are_topics_only_where_a_detector_runs(image_rig: Rig) -> None:
    assert image_box_topics(image_rig, PipelineConfig()) == {}
    topics = image_box_topics(image_rig, PipelineConfig(image_detector="rgbir"))
    assert list(topics) == [TOPIC, "perception/boxes2d/thermal_front"]


def test_boxes_carry_the_image_stamp_and_stand_on_the_ground_without_lidar(
    talk: Callable[..., Any], seen: Observation
) -> None:
    kinds = {
        TOPIC: "vision_msgs/msg/Detection2DArray",
        OBJECTS: "vision_msgs/msg/Detection3DArray",
    }
    vehicle = talk({"pipeline.image_detector": "rgbir"}, kinds)
    got = vehicle.got
    sent = vehicle.answered(
        seen.frame, lambda: got[TOPIC] and any(m.detections for m in got[OBJECTS])
    )
    message = got[TOPIC][0]
    assert decoders.stamp_ns_of(message) in sent
    assert message.header.frame_id == "camera_front_optical" and message.detections
    boxes = np.array([_corners(d.bbox) for d in message.detections])
    truth, _ = image_truth(seen.truth.views["camera_front"], ("vehicle", "person", "cyclist"))
    sure = [d.results[0].hypothesis.score > 0.6 for d in message.detections]
    assert any(sure) and iou(boxes[sure], truth.boxes).max(axis=1).mean() > 0.5
    names = {d.results[0].hypothesis.class_id for d in message.detections}
    assert names <= {"vehicle", "person", "cyclist"}
    placed = next(m for m in got[OBJECTS] if m.detections).detections[0]
    covariance = np.array(placed.results[0].pose.covariance).reshape(6, 6)
    assert covariance[0, 0] > 0.1 and placed.header.frame_id == "base_link"


def _corners(box: Any) -> list[float]:
    x, y = box.center.position.x, box.center.position.y
    return [x - box.size_x / 2, y - box.size_y / 2, x + box.size_x / 2, y + box.size_y / 2]
