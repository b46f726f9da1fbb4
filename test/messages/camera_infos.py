"""CameraInfo messages, a rig with one camera, and the frames that follow from both."""

from __future__ import annotations

from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from multimodal_perception.datasets.bag_writer import RosbagsTypes
from multimodal_perception.frame import CameraImage, Modality, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.sensor_calibration import Extrinsics
from multimodal_perception.synchronization.intake import MessageIntake

TYPES = RosbagsTypes()
SECOND = 1_000_000_000
K = [600.0, 0.0, 320.0, 0.0, 600.0, 240.0, 0.0, 0.0, 1.0]
P = [520.0, 0.0, 330.0, 0.0, 0.0, 525.0, 238.0, 0.0, 0.0, 0.0, 1.0, 0.0]
D = [-0.3, 0.1, 0.001, -0.001, 0.0]
EYE = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
POINTS = np.random.default_rng(0).uniform((5, -2, 0.5), (20, 2, 3), (60, 3))


def info(**changes: Any) -> CameraInfo:
    values = {"header": Header(frame_id="camera"), "width": 640, "height": 480}
    values |= {"distortion_model": "plumb_bob", "d": D, "k": K, "r": EYE, "p": P}
    return CameraInfo(**{**values, **changes})


def rig(topic: str, **more: Any) -> Rig:
    sensor = Sensor(
        "camera",
        Modality.CAMERA,
        topic,
        "camera",
        Extrinsics((1.2, 0.3, 1.5), (0.0, 0.05, 0.1)),
        camera_info_topic="/cam/camera_info",
        **more,
    )
    return Rig("test", {"camera": sensor})


def intake_frame(
    rig: Rig, message: CameraInfo, width: int = 640, height: int = 480
) -> tuple[SensorFrame, MessageIntake]:
    intake = MessageIntake(rig)
    intake.receive("/cam/camera_info", message, 0)
    image = CameraImage("", SECOND, "camera", np.zeros((height, width, 3), np.uint8))
    topic = rig.sensors["camera"].topic
    frames = intake.receive(topic, encoders.image_to_message(TYPES, image), SECOND)
    return (frames + intake.flush(2 * SECOND))[0], intake


def pixels_of(frame: SensorFrame, points: np.ndarray = POINTS) -> np.ndarray:
    in_camera = poses.transform_points(poses.inverse(frame.base_from_sensor["camera"]), points)
    return frame.intrinsics["camera"].project(in_camera)[0]


def expected_pixels(
    rig: Rig, p: Any, rotation: Any = EYE, points: np.ndarray = POINTS
) -> np.ndarray:
    """P [R X; 1] for points in the optical frame of the rig file, as sensor_msgs defines."""
    base_from_optical = rig.sensors["camera"].base_from_sensor()
    x = (
        poses.transform_points(poses.inverse(base_from_optical), points)
        @ np.reshape(rotation, (3, 3)).T
    )
    uvw = np.column_stack([x, np.ones(len(x))]) @ np.reshape(p, (3, 4)).T
    return uvw[:, :2] / uvw[:, 2:]
