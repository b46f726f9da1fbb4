"""Convert the messages of a rig's topics to SensorFrames, for the live node and for bags.

It imports no ROS package: the decoders accept any object with the attributes of the messages. The caller
passes the current time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from multimodal_perception.frame import Modality, Reading, SensorFrame
from multimodal_perception.geometry.transform_tree import TransformError, TransformTree
from multimodal_perception.messages.camera_info import calibration_from_message
from multimodal_perception.messages.decoders import stamp_ns_of, ultrasonic_from_message
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import image_from_message, is_known_encoding
from multimodal_perception.messages.odometry import add_odometry
from multimodal_perception.messages.pointcloud import PointCloudOptions, sweep_from_message
from multimodal_perception.messages.thermal import thermal_from_message
from multimodal_perception.perception import StageStatus
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.synchronization.frame_assembler import FrameAssembler, sensor_counts
from multimodal_perception.synchronization.message_filters_policies import (
    AnySynchronizer,
    Policy,
    make_synchronizer,
)
from multimodal_perception.synchronization.reading_set import ReadingSet
from multimodal_perception.synchronization.sensor_clocks import MAX_LEAD_S
from multimodal_perception.synchronization.sensor_queue import SensorStatistics
from multimodal_perception.synchronization.transform_intake import (
    MAX_ODOMETRY_LEAD_NS,
    MOVING_TOPIC,
    STATIC_TOPIC,
    PoseStampCheck,
    TransformIntake,
)

TF_TYPE = "tf2_msgs/msg/TFMessage"
Handler = Callable[[Any, int], list[SensorFrame]]
ImageConverter = Callable[[Any], Any]


class DeferredFrame(NamedTuple):
    """A closed set of readings. stamp_ns: of the frame. assemble: makes the frame, at most once."""

    stamp_ns: int
    assemble: Callable[[], SensorFrame]


class MessageIntake:
    """Decodes and synchronises the messages of a rig's topics and assembles them into frames.

    topics: message type by topic, including /tf, /tf_static, CameraInfo and odometry.
    drops: number of messages by (sensor or topic, reason) that were invalid or of which a part could
    not be used. deferred: if true, receive, advance and flush return DeferredFrames instead of frames,
    so that a frame that will not be used need not be assembled. log: notices about assumptions, and
    counts of values without a measurement.
    """

    def __init__(
        self,
        rig: Rig,
        deadline_s: float = 0.05,
        policy: Policy = "deadline",
        frame_rate_hz: float | None = None,
        max_lead_s: float = MAX_LEAD_S,
        convert_image: ImageConverter | None = None,
    ) -> None:
        """convert_image: see decode_reading. Other arguments and errors: see make_synchronizer."""
        self.rig = rig
        self.transforms = TransformTree()
        self.synchronizer: AnySynchronizer = make_synchronizer(
            rig.sensors.values(), policy, deadline_s, frame_rate_hz, max_lead_s
        )
        self.assembler = FrameAssembler(rig, self.transforms)
        self.drops: Counter[tuple[str, str]] = Counter()
        self.log = DecodingLog(self.assembler.notices, losses=self.drops)
        self._convert_image = convert_image
        self._odometry = self.assembler.odometry_source
        self._stamps = PoseStampCheck(self.synchronizer.clock, self.transforms, self._odometry)
        self._transform_intake = TransformIntake(
            rig, self.transforms, self._odometry, self._stamps, self.drops, self.log.notices
        )
        self.deferred = False
        self._undecodable: set[str] = set()
        self._clock_jumps = 0
        self.topics: dict[str, str] = {STATIC_TOPIC: TF_TYPE, MOVING_TOPIC: TF_TYPE}
        self._handlers: dict[str, Handler] = {
            STATIC_TOPIC: lambda msg, now_ns: self._on_transforms(msg, True, now_ns),
            MOVING_TOPIC: lambda msg, now_ns: self._on_transforms(msg, False, now_ns),
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

    def count_lost(self, topic: str, count: int) -> None:
        """Count messages of a sensor's topic that were sent and not received."""
        for sensor in self.rig.sensors.values():
            if sensor.topic == topic:
                self.drops[sensor.name, "lost_by_dds"] += count

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
        if subject in self.rig.sensors:
            # Each received reading is used, dropped or pending.
            statistics = self.synchronizer.statistics[subject]
            counts["received"], counts["used"] = str(statistics.received), str(statistics.used)
            counts["pending"] = str(self.synchronizer.pending()[subject])
        notices = self.log.notices.texts(subject)
        return counts | {f"notice.{i}": text for i, text in enumerate(notices, 1)}

    def odometry_status(self, now_ns: int) -> StageStatus:
        """Return the state of the odometry for diagnostics."""
        return self._odometry.status(self._stamps.sensor_time_ns(now_ns))

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
                reading = decode_reading(
                    msg, sensor, stamp_ns, self.log, interval_s, self._convert_image
                )
            except MessageError as error:
                self.drops[sensor.name, error.reason] += 1
                self.assembler.unusable_streaks[sensor.name] += 1
                self._undecodable.add(sensor.name)
                return self.advance(now_ns)
            self._undecodable.discard(sensor.name)
            sets = self.synchronizer.add(sensor.name, stamp_ns, reading, now_ns)
            self._stamps.update(now_ns)
            return self._frames(sets)

        return handle

    def _frames(self, sets: list[ReadingSet]) -> list[SensorFrame]:
        if self.synchronizer.clock_jumps != self._clock_jumps:
            self._clock_jumps = self.synchronizer.clock_jumps
            self.transforms.clear_dynamic()
            self._odometry.clear()
        if self.deferred:
            # With the sensors that are undecodable now, not when the frame is assembled.
            return [
                DeferredFrame(s.stamp_ns, partial(self._assembled, s, self._undecodable.copy()))  # type: ignore[misc]
                for s in sets
            ]
        return [self._assembled(s, self._undecodable) for s in sets]

    def _assembled(self, readings: ReadingSet, undecodable: set[str]) -> SensorFrame:
        """The frame of a set; missing sensors whose last message is undecodable count as dropped."""
        frame = self.assembler.assemble(readings)
        undecodable = undecodable & frame.missing
        return replace(frame, dropped=frame.dropped | undecodable) if undecodable else frame

    def _info_handler(self, sensors: Sequence[Sensor]) -> Handler:
        def handle(msg: Any, now_ns: int) -> list[SensorFrame]:
            for sensor in sensors:
                set_calibration(self.assembler, msg, sensor, self.drops)
            return []

        return handle

    def _on_transforms(self, msg: Any, static: bool, now_ns: int) -> list[SensorFrame]:
        self._transform_intake.add(msg, static, now_ns)
        return []

    def _on_odometry(self, msg: Any, now_ns: int) -> list[SensorFrame]:
        try:
            stamp_ns = stamp_ns_of(msg)
            reason = self._stamps.reason(stamp_ns, now_ns, MAX_ODOMETRY_LEAD_NS)
            if reason is not None:
                raise MessageError(reason, "the stamp differs from the clock of the sensors")
            add_odometry(self._odometry, msg)
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


def decode_reading(
    msg: Any,
    sensor: Sensor,
    stamp_ns: int,
    log: DecodingLog | None = None,
    interval_s: float = 0.0,
    convert_image: ImageConverter | None = None,
) -> Reading:
    """Decode a message of a sensor to a reading. Raises MessageError.

    log: receives the notices about assumptions, and the counts of parts that are not used. interval_s:
    measured interval of the messages, 0 if unknown. convert_image: converts an Image of an encoding that
    this package does not decode to one of an encoding that it does.
    """
    log = log or DecodingLog()
    if (
        convert_image is not None
        and sensor.modality in (Modality.CAMERA, Modality.THERMAL)
        and not is_known_encoding(msg)
    ):
        encoding = str(msg.encoding)[:40]
        msg = convert_image(msg)
        log.notices.add(sensor.name, f"{encoding} images are converted to {msg.encoding}")
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
