"""Messages of tracks and fused images, and the topics of a rig and configuration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField

from multimodal_perception.frame import CLASS_NAMES, Boxes3D, CameraImage, Modality
from multimodal_perception.messages import decoders
from multimodal_perception.messages.message_types import RclpyTypes
from multimodal_perception.pipeline_builder import PipelineConfig
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.ros.outputs import (
    fused_image_messages,
    fused_image_topics,
    label_info_topics,
    optional_topics,
    tracks_message,
)
from multimodal_perception.stages import Output

RIG = load_rig(resolve_rig_path("simulation"))
NUMPY_TYPES = {
    PointField.UINT8: "u1",
    PointField.UINT32: "<u4",
    PointField.FLOAT32: "<f4",
}


def read_points(msg: PointCloud2) -> np.ndarray:
    """The points as a structured array, by the offsets and types of the message's fields."""
    dtype = np.dtype(
        {
            "names": [f.name for f in msg.fields],
            "formats": [NUMPY_TYPES[f.datatype] for f in msg.fields],
            "offsets": [f.offset for f in msg.fields],
            "itemsize": msg.point_step,
        }
    )
    assert msg.row_step == msg.width * msg.point_step == len(msg.data)
    return np.frombuffer(bytes(msg.data), dtype)


def tracked_boxes(ids: object, velocities: object) -> Boxes3D:
    return Boxes3D(
        3_000_000_007,
        "base_link",
        np.arange(21, dtype=np.float32).reshape(3, 7),
        np.array([0.9, 0.5, 0.25], np.float32),
        np.array([1, 5, 6]),
        velocities=None if velocities is None else np.array(velocities, np.float32),
        track_ids=None if ids is None else np.array(ids, np.int64),
    )


def test_every_tracked_box_is_a_point_with_all_its_values() -> None:
    boxes = tracked_boxes([7, -1, 2**31], [(1.5, -2), (9, 9), (np.nan, np.nan)])
    msg = tracks_message(RclpyTypes(), boxes)
    msg = deserialize_message(serialize_message(msg), PointCloud2)
    assert msg.header.frame_id == "base_link" and decoders.stamp_ns_of(msg) == 3_000_000_007
    first, last = read_points(msg)
    assert not msg.is_dense and msg.height == 1
    assert (first["x"], first["y"], first["z"], first["yaw"]) == (0, 1, 2, 6)
    assert (first["vx"], first["vy"], first["id"]) == (1.5, -2, 7)
    assert CLASS_NAMES[first["class"]] == "car" and CLASS_NAMES[last["class"]] == "cyclist"
    assert np.isnan(last["vx"]) and np.isnan(last["vy"]) and last["id"] == 2**31
    assert last["score"] == 0.25
    assert np.isnan(first["vx_variance"])


def test_variances_of_velocities_are_published() -> None:
    covariances = np.zeros((3, 2, 2), np.float32)
    covariances[0] = [[0.25, 0.1], [0.1, 4.0]]
    covariances[2] = np.nan
    boxes = replace(
        tracked_boxes([7, -1, 8], [(1, 2), (9, 9), (3, 4)]), velocity_covariances=covariances
    )
    msg = tracks_message(RclpyTypes(), boxes)
    first, last = read_points(deserialize_message(serialize_message(msg), PointCloud2))
    assert (first["vx_variance"], first["vy_variance"]) == (0.25, 4.0)
    assert np.isnan(last["vx_variance"]) and np.isnan(last["vy_variance"]) and last["vx"] == 3


def test_tracks_without_velocities_have_nan_and_boxes_without_tracks_are_left_out() -> None:
    msg = tracks_message(RclpyTypes(), tracked_boxes([1, 2, 3], None))
    assert np.isnan(read_points(msg)["vx"]).all() and not msg.is_dense
    for boxes in (tracked_boxes(None, None), Boxes3D.empty(0, "base_link")):
        msg = tracks_message(RclpyTypes(), boxes)
        assert msg.width == 0 and msg.is_dense and not len(msg.data)


def test_each_camera_has_a_fused_topic_if_there_is_a_thermal_camera() -> None:
    topics = fused_image_topics(RIG)
    assert set(topics) == {f"perception/fused/{name}" for name in RIG.sensors_of(Modality.CAMERA)}
    cameras = {n: RIG.sensors[n] for n in RIG.sensors_of(Modality.CAMERA)}
    assert not fused_image_topics(replace(RIG, sensors=cameras))


def test_a_fused_image_has_the_frame_id_of_a_silent_camera() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = CameraImage("camera_front", 7, "", pixels, "rgb8")
    fused = {"camera_front": image}
    assert not list(fused_image_messages(RclpyTypes(), RIG, fused, lambda topic: False))
    subscribed = {"perception/fused/camera_front"}
    (topic, msg), *others = fused_image_messages(
        RclpyTypes(), RIG, fused, lambda topic: topic in subscribed
    )
    assert topic == "perception/fused/camera_front" and not others
    assert msg.header.frame_id == RIG.sensors["camera_front"].frame_id
    assert (msg.encoding, msg.height, msg.width, decoders.stamp_ns_of(msg)) == ("rgb8", 2, 4, 7)
    assert bytes(msg.data) == pixels.tobytes()


def test_optional_topics_exist_only_for_configured_stages() -> None:
    assert optional_topics(RIG, PipelineConfig()) == {}
    topics = optional_topics(RIG, PipelineConfig(image_detector="rgb_thermal"))
    assert list(topics) == [Output.IMAGE_BOXES]
    names = [*RIG.sensors_of(Modality.CAMERA), *RIG.sensors_of(Modality.THERMAL)]
    boxes = [f"perception/boxes2d/{name}" for name in names]
    pictures = [f"{b}/image{end}" for b in boxes for end in ("", "/compressed")]
    assert set(topics[Output.IMAGE_BOXES]) == {*boxes, *pictures}
    infos = label_info_topics(RIG, PipelineConfig(image_detector="rgb_thermal"))
    described = {"perception/objects", "perception/occupancy/semantic", *boxes}
    assert set(infos) == {f"{topic}/label_info" for topic in described}
