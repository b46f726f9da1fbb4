"""Topics and messages of fused images; over DDS they are tried beside the masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from multimodal_perception.frame import CameraImage, Modality
from multimodal_perception.messages import decoders, message_types
from multimodal_perception.rig import load_rig, rig_path
from multimodal_perception.ros.fused_outputs import fused_messages, fused_topics

RIG = load_rig(rig_path("simulation"))


def test_each_camera_has_a_topic_where_there_is_a_thermal_camera() -> None:
    topics = fused_topics(RIG)
    assert set(topics) == {f"perception/fused/{name}" for name in RIG.of(Modality.CAMERA)}
    cameras = {n: RIG.sensors[n] for n in RIG.of(Modality.CAMERA)}
    assert not fused_topics(replace(RIG, sensors=cameras))


def test_a_message_has_the_camera_frame_though_the_camera_was_silent() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = CameraImage("camera_front", 7, "", pixels, "rgb8")
    (topic, msg), *others = fused_messages(message_types.RclpyTypes(), RIG, {"camera_front": image})
    assert topic == "perception/fused/camera_front" and not others
    assert msg.header.frame_id == RIG.sensors["camera_front"].frame_id
    assert (msg.encoding, msg.height, msg.width, decoders.stamp_ns_of(msg)) == ("rgb8", 2, 4, 7)
    assert bytes(msg.data) == pixels.tobytes()
