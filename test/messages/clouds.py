"""Point clouds, ranges, odometry and transforms for the tests of the message intake."""

from __future__ import annotations

from typing import Any

import numpy as np

from multimodal_perception.datasets.bag_writer import RosbagsTypes
from multimodal_perception.frame import Modality, SensorFrame, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.sensor_calibration import Extrinsics
from multimodal_perception.synchronization.intake import MOVING_TOPIC, STATIC_TOPIC, MessageIntake
from test.messages.test_pointcloud import make_cloud

MS = 1_000_000
SECOND = 1000 * MS
START_NS = 1_700_000_000 * SECOND + 123_456_789
TYPES = RosbagsTypes()
# Position of the LiDAR on the vehicle.
MOUNTING = (1.0, 0.2, 1.8)


def lidar(**keys: Any) -> Sensor:
    keys = {"extrinsics": Extrinsics(MOUNTING), **keys}
    return Sensor("lidar", Modality.LIDAR, "/points", "lidar_top", **keys)


def rig(*sensors: Sensor, **keys: Any) -> Rig:
    sensors = sensors or (lidar(),)
    return Rig("vehicle", {s.name: s for s in sensors}, **keys)


def stamped(msg: Any, stamp_ns: int, frame_id: str | None = None) -> Any:
    """The message with another stamp and frame_id."""
    msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(stamp_ns, SECOND)
    if frame_id is not None:
        msg.header.frame_id = frame_id
    return msg


def cloud(xyz: Any, stamp_ns: int = START_NS, frame_id: str = "lidar_top", **fields: Any) -> Any:
    """A PointCloud2 of points (N, 3); fields: (type code, values) by name."""
    xyz = np.asarray(xyz, np.float64)
    columns = {axis: ("f4", xyz[:, i]) for i, axis in enumerate("xyz")}
    return stamped(make_cloud({**columns, **fields}), stamp_ns, frame_id)


def odometry(
    stamp_ns: int,
    x: float = 0.0,
    child: str = "base_link",
    frame_id: str = "odom",
    speed: float = 0.0,
    quaternion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0),
    variance: float = 0.0,
) -> Any:
    vector = TYPES.new("geometry_msgs/msg/Vector3", x=speed, y=0.0, z=0.0)
    zero = TYPES.new("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
    position = TYPES.new("geometry_msgs/msg/Point", x=x, y=0.0, z=0.0)
    orientation = TYPES.new(
        "geometry_msgs/msg/Quaternion", **dict(zip("xyzw", quaternion, strict=True))
    )
    covariance = np.zeros(36)
    covariance[[0, 7, 35]] = variance
    return TYPES.new(
        "nav_msgs/msg/Odometry",
        header=encoders.make_header(TYPES, stamp_ns, frame_id),
        child_frame_id=child,
        pose=TYPES.new(
            "geometry_msgs/msg/PoseWithCovariance",
            pose=TYPES.new("geometry_msgs/msg/Pose", position=position, orientation=orientation),
            covariance=TYPES.values(covariance),
        ),
        twist=TYPES.new(
            "geometry_msgs/msg/TwistWithCovariance",
            twist=TYPES.new("geometry_msgs/msg/Twist", linear=vector, angular=zero),
            covariance=TYPES.values(np.zeros(36)),
        ),
    )


def transform(
    parent: str, child: str, xyz: Any = (0, 0, 0), rpy: Any = (0, 0, 0), stamp_ns: int = START_NS
) -> Any:
    pose = poses.from_xyz_rpy(xyz, rpy)
    entry = encoders.transform_to_message(TYPES, pose, parent, child, stamp_ns)
    return TYPES.new("tf2_msgs/msg/TFMessage", transforms=[entry])


def ultrasonic_range(distance: float, low: float = 0.2, high: float = 4.0, **keys: Any) -> Any:
    frame_id = keys.pop("frame_id", "front")
    reading = UltrasonicReading("front", START_NS, frame_id, distance, low, high, 0.5)
    msg = encoders.range_to_message(TYPES, reading)
    for name, value in keys.items():
        setattr(msg, name, value)
    return msg


def one_frame(intake: MessageIntake, topic: str, msg: Any) -> SensorFrame:
    """Send one message and return the frame that contains it."""
    stamp_ns = msg.header.stamp.sec * SECOND + msg.header.stamp.nanosec
    frames = intake.receive(topic, msg, stamp_ns)
    frames += intake.flush(stamp_ns + SECOND)
    assert len(frames) == 1
    return frames[0]


def drive(intake: MessageIntake, topic: str = "", speed: float = 20.0, **keys: Any) -> None:
    """Two seconds of odometry around START_NS at constant speed; on /tf if no topic is given."""
    for i in range(-50, 51):
        stamp_ns = START_NS + i * 20 * MS
        x = speed * i * 0.02
        if topic:
            intake.receive(topic, odometry(stamp_ns, x, speed=speed, **keys), stamp_ns)
        else:
            msg = transform("odom", "base_link", (x, 0, 0), stamp_ns=stamp_ns)
            intake.receive(MOVING_TOPIC, msg, stamp_ns)


def static(intake: MessageIntake, *args: Any, **keys: Any) -> None:
    intake.receive(STATIC_TOPIC, transform(*args, **keys), START_NS)


def notices(intake: MessageIntake) -> str:
    """All notices so far except the one about missing odometry."""
    return "\n".join(n for n in intake.pop_notices() if "no odometry (" not in n)
