"""Messages of a rig's topics to SensorFrames: the one way in, for the live node and for bags.

Imports no ROS: decoders take any object with the messages' attributes. The caller brings the clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from multimodal_perception.frame import Modality, Reading, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.transform_tree import TransformError, TransformTree
from multimodal_perception.messages.decoders import stamp_ns_of, ultrasonic_from_message
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import (
    camera_model_from_message,
    image_from_message,
    thermal_from_message,
)
from multimodal_perception.messages.pointcloud import sweep_from_message
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.synchronization.frame_assembler import FrameAssembler, sensor_counts
from multimodal_perception.synchronization.message_filters_policies import (
    AnySynchronizer,
    Policy,
    make_synchronizer,
)
from multimodal_perception.synchronization.sensor_queue import SensorStatistics
from multimodal_perception.synchronization.synchronizer import ReadingSet

TF_TYPE = "tf2_msgs/msg/TFMessage"
STATIC_TOPIC, MOVING_TOPIC = "/tf_static", "/tf"
Handler = Callable[[Any, int], list[SensorFrame]]


class Intake:
    """Decodes, synchronises and assembles what a rig's topics say; counts what it cannot use.

    drops: messages refused, by (sensor or topic, reason).
    """

    def __init__(
        self,
        rig: Rig,
        deadline_s: float = 0.05,
        policy: Policy = "deadline",
        frame_rate_hz: float | None = None,
    ) -> None:
        """See make_synchronizer for the last three. Raises ValueError as it does."""
        self.rig = rig
        self.transforms = TransformTree()
        self.synchronizer: AnySynchronizer = make_synchronizer(
            rig.sensors.values(), policy, deadline_s, frame_rate_hz
        )
        self.assembler = FrameAssembler(rig, self.transforms)
        self.drops: Counter[tuple[str, str]] = Counter()
        self._jumps = 0
        self.topics: dict[str, str] = {STATIC_TOPIC: TF_TYPE, MOVING_TOPIC: TF_TYPE}
        self._handlers: dict[str, Handler] = {
            STATIC_TOPIC: lambda msg, _: self._on_transforms(msg, True),
            MOVING_TOPIC: lambda msg, _: self._on_transforms(msg, False),
        }
        # Of what has arrived at once, topics are taken in this order: an image needs its own CameraInfo.
        for sensor in rig.sensors.values():
            if sensor.camera_info_topic is not None:
                topic = sensor.camera_info_topic
                self._listen(topic, "sensor_msgs/msg/CameraInfo", self._info_handler(sensor))
        for sensor in rig.sensors.values():
            self._listen(sensor.topic, sensor.message, self._sensor_handler(sensor))
        if rig.odometry_topic is not None:
            self._listen(rig.odometry_topic, "nav_msgs/msg/Odometry", self._on_odometry)

    def receive(self, topic: str, msg: Any, now_ns: int) -> list[SensorFrame]:
        """Take one message; returns the frames that it closes. A bad one is dropped and counted.

        Raises KeyError for a topic that is not in `topics`.
        """
        return self._handlers[topic](msg, now_ns)

    def advance(self, now_ns: int) -> list[SensorFrame]:
        """Let time pass; returns the frames whose deadline has come."""
        return self._frames(self.synchronizer.advance(now_ns))

    def flush(self, now_ns: int) -> list[SensorFrame]:
        """The frames still pending, as at the end of a recording."""
        return self._frames(self.synchronizer.flush(now_ns))

    def take_notices(self) -> list[str]:
        """What a person should be told, each once; empties the list."""
        notices, self.assembler.notices = self.assembler.notices, []
        return notices

    def drops_of(self, sensor: str) -> dict[str, int]:
        """All that was dropped of one sensor, by reason."""
        counts: Counter[str] = Counter(sensor_counts(self.drops, sensor))
        counts.update(sensor_counts(self.assembler.drops, sensor))
        counts.update(self.synchronizer.statistics[sensor].drops)
        return dict(counts)

    def statistics(self) -> dict[str, SensorStatistics]:
        """What became of each sensor's readings."""
        return self.synchronizer.statistics

    def _listen(self, topic: str, message: str, handler: Handler) -> None:
        self.topics[topic] = message
        self._handlers[topic] = handler

    def _sensor_handler(self, sensor: Sensor) -> Handler:
        def handle(msg: Any, now_ns: int) -> list[SensorFrame]:
            try:
                stamp_ns = stamp_ns_of(msg)
                reading = decode(msg, sensor, stamp_ns)
            except MessageError as error:
                self.drops[sensor.name, error.reason] += 1
                return self.advance(now_ns)
            return self._frames(self.synchronizer.add(sensor.name, stamp_ns, reading, now_ns))

        return handle

    def _frames(self, sets: list[ReadingSet]) -> list[SensorFrame]:
        if self.synchronizer.clock_jumps != self._jumps:
            self._jumps = self.synchronizer.clock_jumps
            self.transforms.clear_moving()
        return [self.assembler.assemble(s) for s in sets]

    def _info_handler(self, sensor: Sensor) -> Handler:
        def handle(msg: Any, now_ns: int) -> list[SensorFrame]:
            try:
                self.assembler.intrinsics[sensor.name] = camera_model_from_message(msg)
            except MessageError as error:
                self.drops[sensor.name, error.reason] += 1
            return []

        return handle

    def _on_transforms(self, msg: Any, static: bool) -> list[SensorFrame]:
        set_transforms(self.transforms, msg, static, self.drops)
        return []

    def _on_odometry(self, msg: Any, now_ns: int) -> list[SensorFrame]:
        try:
            pose = _pose(msg.pose.pose.position, msg.pose.pose.orientation)
            child = msg.child_frame_id or self.rig.base_frame
            self.transforms.set(self.rig.odom_frame, child, stamp_ns_of(msg), pose)
        except (MessageError, TransformError) as error:
            self.drops[str(self.rig.odometry_topic), error.reason] += 1
        return []


def set_transforms(
    tree: TransformTree, msg: Any, static: bool, drops: Counter[tuple[str, str]]
) -> None:
    """Put a TFMessage into a tree; transforms that cannot be are counted in `drops`."""
    for transform in msg.transforms:
        try:
            parent, child = transform.header.frame_id, transform.child_frame_id
            pose = _pose(transform.transform.translation, transform.transform.rotation)
            tree.set(parent, child, stamp_ns_of(transform), pose, static)
        except (MessageError, TransformError) as error:
            drops[STATIC_TOPIC if static else MOVING_TOPIC, error.reason] += 1


def decode(msg: Any, sensor: Sensor, stamp_ns: int) -> Reading:
    """One sensor's message to its reading. Raises MessageError."""
    if sensor.modality is Modality.LIDAR:
        return sweep_from_message(msg, sensor.name, stamp_ns)
    if sensor.modality is Modality.CAMERA:
        return image_from_message(msg, sensor.name, stamp_ns)
    if sensor.modality is Modality.THERMAL:
        return thermal_from_message(msg, sensor.name, stamp_ns, sensor.kelvin)
    return ultrasonic_from_message(msg, sensor.name, stamp_ns)


def _pose(translation: Any, rotation: Any) -> Any:
    try:
        xyz = translation.x, translation.y, translation.z
        return poses.from_quaternion(xyz, (rotation.x, rotation.y, rotation.z, rotation.w))
    except ValueError as error:
        raise MessageError("bad_transform", str(error)) from error
