"""Masks, fused images and 2D boxes over DDS: a camera and a thermal camera in, a node in its process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_perception.evaluation.image_detection_drives import image_truth
from multimodal_perception.geometry.image_boxes import iou
from multimodal_perception.messages import decoders
from multimodal_perception.messages.images import image_from_message
from multimodal_perception.rig import Rig
from multimodal_perception.ros.compressed_images import COMPRESSED_TYPE
from multimodal_perception.ros.outputs import (
    OBJECTS_TOPIC,
    TIMING_TOPIC,
    fused_image_topics,
    segmentation_topics,
)
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES, labels_from_semantics
from multimodal_perception.simulation.simulation import Observation

pytestmark = pytest.mark.live

MASK, COLOUR = "perception/segmentation/camera_front", "perception/segmentation/camera_front/colour"
THERMAL_MASK = "perception/segmentation/thermal_front"
FUSED = "perception/fused/camera_front"
IMAGE_BOXES = "perception/boxes2d/camera_front"


def test_masks_and_fused_images_have_the_stamp_frame_and_size_of_the_image(
    start_node: Callable[..., Any], image_rig: Rig, observation: Observation
) -> None:
    settings = {"pipeline.segmenter": "rgb_thermal", "pipeline.image_fusion.model": "image_fusion"}
    topics = {**segmentation_topics(image_rig), **fused_image_topics(image_rig)}
    compressed = {f"{t}/compressed": COMPRESSED_TYPE for t in (MASK, COLOUR, FUSED)}
    info = {f"{MASK}/label_info": "vision_msgs/msg/LabelInfo"}
    client = start_node(settings, {**topics, **compressed, **info})
    masks, colour_images, fused = (client.received[t] for t in (MASK, COLOUR, FUSED))
    frame, truth_views = observation.frame, observation.truth.views
    sent = client.send_until(frame, lambda: masks and colour_images and fused)
    stamp_ns = decoders.stamp_ns_of(masks[0])
    assert stamp_ns in sent and masks[0].encoding == "mono8"
    assert masks[0].header.frame_id == "camera_front_optical"
    labels = image_from_message(masks[0], "camera_front", stamp_ns).pixels
    truth = labels_from_semantics(truth_views["camera_front"].semantics)
    assert labels.shape == truth.shape and (labels == truth).mean() > 0.8
    assert colour_images[0].encoding == "rgb8"
    assert (colour_images[0].height, colour_images[0].width) == truth.shape
    assert np.array(colour_images[0].data).std() > 10
    assert decoders.stamp_ns_of(fused[0]) in sent and fused[0].encoding == "rgb8"
    assert fused[0].header.frame_id == "camera_front_optical"
    assert (fused[0].height, fused[0].width) == truth.shape
    original = frame.cameras["camera_front"].rgb()
    pixels = image_from_message(fused[0], "camera_front", stamp_ns).rgb()
    assert 2 < np.abs(pixels.astype(int) - original).mean() < 100
    # Masks are compressed without loss; pictures look the same. The labels name the masks' values.
    client.send_until(frame, lambda: all(client.received[t] for t in (*compressed, *info)))
    formats = "mono8; png compressed ", *("rgb8; jpeg compressed bgr8",) * 2
    for topic, raw, text in zip(compressed, (labels, None, pixels), formats, strict=True):
        message = client.received[topic][0]
        assert message.format == text
        assert message.header.frame_id == "camera_front_optical"
        decoded = decode_compressed(message)
        if raw is labels:
            assert (decoded == raw).mean() > 0.99  # of another run of the network
        elif raw is not None:
            assert np.abs(decoded[..., ::-1].astype(int) - raw).mean() < 8
    names = {c.class_id: c.class_name for c in client.received[next(iter(info))][0].class_map}
    assert {names[v] for v in np.unique(labels).tolist()} <= set(SEGMENTATION_CLASSES)
    # Without the camera, masks are in the thermal camera's view, and the fused image is thermal only.
    thermal_only = replace(frame, cameras={})
    client.send_until(thermal_only, lambda: client.received[THERMAL_MASK])
    assert client.received[THERMAL_MASK][0].height == 256

    def fused_is_grey() -> bool:
        pixels = image_from_message(fused[-1], "camera_front", 0).rgb()
        return pixels.shape == original.shape and bool((pixels[..., 0] == pixels[..., 2]).all())

    client.send_until(thermal_only, fused_is_grey)
    assert fused[-1].header.frame_id == "camera_front_optical"


def test_images_are_fused_and_segmented_only_with_subscribers(
    start_node: Callable[..., Any], observation: Observation
) -> None:
    settings = {
        "pipeline.segmenter": "rgb_thermal",
        "pipeline.image_fusion.model": "image_fusion",
        "pipeline.image_detector": "rgb_thermal",
    }
    client = start_node(settings, {TIMING_TOPIC: "diagnostic_msgs/msg/DiagnosticArray"})
    timing = client.received[TIMING_TOPIC]

    def stages() -> set[str]:
        return {v.key for v in timing[-1].status[0].values} if timing else set()

    client.send_until(observation.frame, lambda: len(timing) >= 2)
    assert "total" in stages() and not {"fuse_images", "segment"} & stages()
    client.subscribe(FUSED, "sensor_msgs/msg/Image")
    client.send_until(observation.frame, lambda: client.received[FUSED])
    # The image can arrive before the timing message of its frame.
    client.send_until(observation.frame, lambda: "fuse_images" in stages())
    assert "segment" not in stages()
    client.subscribe(MASK, "sensor_msgs/msg/Image")
    client.send_until(observation.frame, lambda: client.received[MASK])
    client.send_until(observation.frame, lambda: "segment" in stages())
    # Without LiDAR the detector in images runs always: 3D boxes are projected from its boxes.
    assert "image_detect" in stages()


def test_2d_boxes_have_the_image_stamp_and_are_projected_onto_the_ground_without_lidar(
    start_node: Callable[..., Any], observation: Observation
) -> None:
    topics = {
        IMAGE_BOXES: "vision_msgs/msg/Detection2DArray",
        OBJECTS_TOPIC: "vision_msgs/msg/Detection3DArray",
        f"{IMAGE_BOXES}/image": "sensor_msgs/msg/Image",
        f"{IMAGE_BOXES}/image/compressed": COMPRESSED_TYPE,
        f"{IMAGE_BOXES}/label_info": "vision_msgs/msg/LabelInfo",
    }
    client = start_node({"pipeline.image_detector": "rgb_thermal"}, topics)
    image_boxes, objects = client.received[IMAGE_BOXES], client.received[OBJECTS_TOPIC]
    sent = client.send_until(
        observation.frame, lambda: image_boxes and any(m.detections for m in objects)
    )
    message = image_boxes[0]
    assert decoders.stamp_ns_of(message) in sent
    assert message.header.frame_id == "camera_front_optical" and message.detections
    boxes = np.array([_corners(d.bbox) for d in message.detections])
    view = observation.truth.views["camera_front"]
    truth, _ = image_truth(view, ("vehicle", "person", "cyclist"))
    confident = [d.results[0].hypothesis.score > 0.6 for d in message.detections]
    assert any(confident) and iou(boxes[confident], truth.boxes).max(axis=1).mean() > 0.5
    names = {d.results[0].hypothesis.class_id for d in message.detections}
    assert names <= {"vehicle", "person", "cyclist"}
    client.send_until(observation.frame, lambda: all(client.received.values()))
    picture = image_from_message(client.received[f"{IMAGE_BOXES}/image"][0], "", 0).rgb()
    original = observation.frame.cameras["camera_front"].rgb()
    changed = (picture != original).any(axis=2)
    x1, y1, x2, _ = boxes[0].round().astype(int)
    assert 0.001 < changed.mean() < 0.5
    assert changed[max(y1, 0) : y1 + 2, max(x1, 0) + 1 : x2 - 1].mean() > 0.9  # upper edge of a box
    compressed = decode_compressed(client.received[f"{IMAGE_BOXES}/image/compressed"][0])
    assert compressed.shape == picture.shape
    info = client.received[f"{IMAGE_BOXES}/label_info"][0]
    assert names <= {c.class_name for c in info.class_map} and info.threshold > 0
    projected = next(m for m in objects if m.detections).detections[0]
    covariance = np.array(projected.results[0].pose.covariance).reshape(6, 6)
    assert covariance[0, 0] > 0.1 and projected.header.frame_id == "base_link"


def decode_compressed(message: Any) -> NDArray[np.uint8]:
    """The picture of a CompressedImage as OpenCV decodes it (BGR or grey)."""
    picture = cv2.imdecode(np.frombuffer(bytes(message.data), np.uint8), cv2.IMREAD_UNCHANGED)
    return np.asarray(picture, np.uint8)


def _corners(box: Any) -> list[float]:
    x, y = box.center.position.x, box.center.position.y
    return [x - box.size_x / 2, y - box.size_y / 2, x + box.size_x / 2, y + box.size_y / 2]
