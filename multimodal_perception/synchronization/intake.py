"""Convert the messages of a rig's topics to SensorFrames, for the live node and for bags.

It imports no ROS package: the decoders accept any object with the attributes of the messages. The caller
passes the current time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from multimodal_perception.frame import Modality, Reading, SensorFrame
from multimodal_perception.geometry.transform_tree import TransformError, TransformTree
from multimodal_perception.messages.camera_info import calibration_from_message
from multimodal_perception.messages.decoders import stamp_ns_of, ultrasonic_from_message
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import image_from_message
from multimodal_perception.messages.odometry import add_odometry, pose_from_geometry
from multimodal_perception.messages.pointcloud import PointCloudOptions, sweep_from_message
from multimodal_perception.messages.thermal import thermal_from_message
from multimodal_perception.notices import Notices
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


class MessageIntake:
    """Decodes and synchronises the messages of a rig's topics and assembles them into frames.

    topics: message type by topic, including /tf, /tf_static, CameraInfo and odometry.
    drops: number of messages by (sensor or topic, reason) that were invalid or of which a part could
    not be used. log: notices about assumptions, and counts of values without a measurement.
    """

    def __init__(
        self,
        rig: Rig,
        deadline_s: float = 0.05,
        policy: Policy = "deadline",
        frame_rate_hz: float | None = None,
    ) -> None:
        """For deadline_s, policy and frame_rate_hz and for errors see make_synchronizer."""
        self.rig = rig
        self.transforms = TransformTree()
        self.synchronizer: AnySynchronizer = make_synchronizer(
            rig.sensors.values(), policy, deadline_s, frame_rate_hz
        )
        self.assembler = FrameAssembler(rig, self.transforms)
        self.drops: Counter[tuple[str, str]] = Counter()
        self.log = DecodingLog(self.assembler.notices, losses=self.drops)
        self._undecodable: set[str] = set()
        self._clock_jumps = 0
        self.topics: dict[str, str] = {STATIC_TOPIC: TF_TYPE, MOVING_TOPIC: TF_TYPE}
        self._handlers: dict[str, Handler] = {
            STATIC_TOPIC: lambda msg, _: self._on_transforms(msg, True),
            MOVING_TOPIC: lambda msg, _: self._on_transforms(msg, False),
        }
        # Messages that arrived together are processed in the order of `topics`: CameraInfo precedes the
        # image that needs it.
        for topic, sensors in sensors_by_info_topic(rig).items():
            self._add_topic(topic, "sensor_msgs/msg/CameraInfo", self._info_handler(sensors))
        for sensor in rig.sensors.values():
            self._add_topic(sensor.topic, sensor.message, self._sensor_handler(sensor))
        if rig.odometry_topic is not None:
            self._add_topic(rig.odometry_topic, "nav_msgs/msg/Odometry", self._on_odometry)

    def receive(self, topic: str, msg: Any, now_ns: int) -> list[SensorFrame]:
        """Process one message; return the frames that it completes. Invalid messages are counted.

        Raises KeyError for a topic that is not in `topics`.
        """
        return self._handlers[topic](msg, now_ns)

    def advance(self, now_ns: int) -> list[SensorFrame]:
        """Advance the time; return the frames whose deadline has passed."""
        return self._frames(self.synchronizer.advance(now_ns))

    def flush(self, now_ns: int) -> list[SensorFrame]:
        """Return all pending frames, for example at the end of a recording."""
        return self._frames(self.synchronizer.flush(now_ns))

    def pop_notices(self) -> list[str]:
        """Return new messages for the user, each of which occurs once, and clear them."""
        return self.log.notices.pop()

    def drop_counts(self, sensor: str) -> dict[str, int]:
        """Return the number of dropped messages and readings of one sensor by reason."""
        counts: Counter[str] = Counter(sensor_counts(self.drops, sensor))
        counts.update(sensor_counts(self.assembler.drops, sensor))
        counts.update(self.synchronizer.statistics[sensor].drops)
        return dict(counts)

    def details(self, subject: str) -> dict[str, str]:
        """Return the assumptions about a sensor (or the odometry) and its counts, for diagnostics."""
        counts = {
            f"information.{reason}": str(count)
            for (name, reason), count in self.log.information.items()
            if name == subject and count
        }
        notices = self.log.notices.texts(subject)
        return counts | {f"notice.{i}": text for i, text in enumerate(notices, 1)}

    def statistics(self) -> dict[str, SensorStatistics]:
        """Return the statistics of each sensor's readings."""
        return self.synchronizer.statistics

    def _add_topic(self, topic: str, message: str, handler: Handler) -> None:
        self.topics[topic] = message
        self._handlers[topic] = handler

    def _sensor_handler(self, sensor: Sensor) -> Handler:
        def handle(msg: Any, now_ns: int) -> list[SensorFrame]:
            try:
                stamp_ns = stamp_ns_of(msg)
                interval_s = self.synchronizer.statistics[sensor.name].interval_s
                reading = decode_reading(msg, sensor, stamp_ns, self.log, interval_s)
            except MessageError as error:
                self.drops[sensor.name, error.reason] += 1
                self.assembler.unusable_streaks[sensor.name] += 1
                self._undecodable.add(sensor.name)
                return self.advance(now_ns)
            self._undecodable.discard(sensor.name)
            return self._frames(self.synchronizer.add(sensor.name, stamp_ns, reading, now_ns))

        return handle

    def _frames(self, sets: list[ReadingSet]) -> list[SensorFrame]:
        if self.synchronizer.clock_jumps != self._clock_jumps:
            self._clock_jumps = self.synchronizer.clock_jumps
            self.transforms.clear_dynamic()
            self.assembler.odometry_source.clear()
        return [self._with_dropped(self.assembler.assemble(s)) for s in sets]

    def _with_dropped(self, frame: SensorFrame) -> SensorFrame:
        """Mark the missing sensors whose last message could not be decoded as dropped."""
        undecodable = self._undecodable & frame.missing
        return replace(frame, dropped=frame.dropped | undecodable) if undecodable else frame

    def _info_handler(self, sensors: Sequence[Sensor]) -> Handler:
        def handle(msg: Any, now_ns: int) -> list[SensorFrame]:
            for sensor in sensors:
                set_calibration(self.assembler, msg, sensor, self.drops)
            return []

        return handle

    def _on_transforms(self, msg: Any, static: bool) -> list[SensorFrame]:
        add_transforms(self.transforms, msg, static, self.drops, self.log.notices)
        return []

    def _on_odometry(self, msg: Any, now_ns: int) -> list[SensorFrame]:
        try:
            add_odometry(self.assembler.odometry_source, msg)
        except (MessageError, TransformError) as error:
            self.drops[str(self.rig.odometry_topic), error.reason] += 1
        return []


def sensors_by_info_topic(rig: Rig) -> dict[str, list[Sensor]]:
    """Return the image sensors of each CameraInfo topic; several sensors may share a topic."""
    sensors: dict[str, list[Sensor]] = {}
    for sensor in rig.sensors.values():
        if sensor.camera_info_topic is not None:
            sensors.setdefault(sensor.camera_info_topic, []).append(sensor)
    return sensors


def set_calibration(
    assembler: FrameAssembler, msg: Any, sensor: Sensor, drops: Counter[tuple[str, str]]
) -> None:
    """Use a CameraInfo for the images of a sensor; an invalid one is counted in `drops`."""
    try:
        calibration = calibration_from_message(
            msg, sensor.images_are_rectified, sensor.apply_baseline
        )
    except MessageError as error:
        drops[sensor.name, error.reason] += 1
        assembler.notices.add(sensor.name, f"CameraInfo is not used: {error.detail}")
        return
    assembler.calibrations[sensor.name] = calibration
    for notice in calibration.notices:
        assembler.notices.add(sensor.name, notice)


def add_transforms(
    tree: TransformTree,
    msg: Any,
    static: bool,
    drops: Counter[tuple[str, str]],
    notices: Notices | None = None,
) -> None:
    """Add a TFMessage to a tree; invalid transforms are counted in `drops`.

    A frame whose parent changes has two publishers: this is counted as parent_changed, with a notice.
    """
    topic = STATIC_TOPIC if static else MOVING_TOPIC
    for transform in msg.transforms:
        try:
            known = tree.parent(transform.child_frame_id)
            parent, child = transform.header.frame_id, transform.child_frame_id
            pose = pose_from_geometry(transform.transform.translation, transform.transform.rotation)
            tree.set(parent, child, stamp_ns_of(transform), pose, static)
        except (MessageError, TransformError) as error:
            drops[topic, error.reason] += 1
            continue
        if known is not None and known != tree.parent(child):
            drops[topic, "parent_changed"] += 1
            if notices is not None:
                parents = " and ".join(sorted((known, str(tree.parent(child)))))
                notices.add(topic, f"{child} has two parents, {parents}: two publishers")


def decode_reading(
    msg: Any,
    sensor: Sensor,
    stamp_ns: int,
    log: DecodingLog | None = None,
    interval_s: float = 0.0,
) -> Reading:
    """Decode a message of a sensor to a reading. Raises MessageError.

    log: receives the notices about assumptions, and the counts of parts that are not used. interval_s:
    measured interval of the messages, 0 if unknown.
    """
    log = log or DecodingLog()
    if sensor.modality is Modality.LIDAR:
        options = PointCloudOptions.from_sensor(sensor, interval_s)
        return sweep_from_message(msg, sensor.name, stamp_ns, options, log)
    if sensor.modality is Modality.CAMERA:
        return image_from_message(msg, sensor.name, stamp_ns, sensor.topic, log.notices)
    if sensor.modality is Modality.THERMAL:
        return thermal_from_message(
            msg,
            sensor.name,
            stamp_ns,
            sensor.counts_to_kelvin,
            sensor.temperature_unit,
            sensor.invalid_counts,
            sensor.topic,
            log,
        )
    return ultrasonic_from_message(
        msg,
        sensor.name,
        stamp_ns,
        log,
        metres_per_unit=sensor.metres_per_unit,
        no_echo_ranges=sensor.no_echo_ranges,
    )
