"""Reader of rosbag2 recordings (sqlite3 and MCAP), with the same decoding as the ROS node.

Opening a bag reads it once and synchronises the messages by their stamps. The messages of a frame are
decoded when the frame is accessed. Without a rig file the rig is that stored in the bag, or it is
inferred from the topics.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multimodal_perception.datasets.bag_files import dataset_errors, open_reader
from multimodal_perception.datasets.bag_labels import BagLabels
from multimodal_perception.datasets.bag_rig import ODOMETRY_TYPE, rig_of_bag
from multimodal_perception.datasets.bag_topics import INFO_TYPE
from multimodal_perception.datasets.bag_transforms import (
    TF_TYPES,
    BagTransforms,
    transform_topics,
)
from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.geometry.transform_tree import TransformError
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.odometry import add_odometry
from multimodal_perception.notices import Notices
from multimodal_perception.rig import MESSAGE_TYPES, Rig, Sensor
from multimodal_perception.synchronization.frame_assembler import FrameAssembler
from multimodal_perception.synchronization.intake import (
    decode_reading,
    sensors_by_info_topic,
    set_calibration,
)
from multimodal_perception.synchronization.reading_set import ReadingSet
from multimodal_perception.synchronization.synchronizer import Synchronizer

if TYPE_CHECKING:
    from rosbags.interfaces import Connection


@dataclass(frozen=True)
class _MessageReference:
    """Position of a message in the bag: its topic and record time, and the stamp in its header."""

    topic: str
    record_ns: int
    stamp_ns: int


@dataclass(frozen=True)
class _SynchronizedSet:
    """Synchronised readings, and the record time of the last one."""

    readings: ReadingSet
    record_ns: int


class BagDataset(Dataset):
    """The frames of one bag folder, .db3 file or .mcap file.

    drops: number of unusable messages by (sensor or topic, reason). log: notices about assumptions,
    and counts of values without a measurement. Both are complete once all frames have been read.
    """

    def __init__(self, path: str | Path, rig: Rig | None = None, deadline_s: float = 0.05) -> None:
        """Open a bag. Raises DatasetError if it cannot be read or contains no sensor topic.

        deadline_s: how long the synchronizer waits for the readings of a frame, seconds.
        """
        self.path = Path(path)
        self.name = f"bag {self.path.name}"
        self.drops: Counter[tuple[str, str]] = Counter()
        self.log = DecodingLog(losses=self.drops)
        self._reader = open_reader(self.path)
        types = {c.topic: c.msgtype for c in self._reader.connections}
        with dataset_errors(self.path):
            if rig is None:
                rig = rig_of_bag(self.path, self._reader, self.log.notices)
        self.rig = with_recorded_types(rig, types, self.log.notices)
        self._transforms = BagTransforms(self.drops, self.log.notices)
        self._odometry: list[Any] = []
        self._camera_infos: dict[str, list[tuple[int, Any]]] = {}
        self._labels = BagLabels(types, self.drops)
        self._sets: list[_SynchronizedSet] = []
        self._assembler: FrameAssembler | None = None
        self._info_in_use: dict[str, int] = {}
        with dataset_errors(self.path):
            self._index(deadline_s)
        if not self._sets:
            topics = ", ".join(s.topic for s in self.rig.sensors.values())
            raise DatasetError(f"{self.path}: no usable message on the rig's topics {topics}")

    def __len__(self) -> int:
        return len(self._sets)

    @property
    def notes(self) -> list[str]:
        """What was assumed about the topics and messages that have been read so far."""
        return self.log.notices.all()

    def __getitem__(self, index: int) -> SensorFrame:
        """Decode one frame. Messages that cannot be decoded are counted. Raises IndexError."""
        selected = self._sets[range(len(self))[index]]
        readings = {}
        for name, (stamp_ns, reference) in selected.readings.readings.items():
            try:
                message = self._read_message(reference)
                reading = decode_reading(
                    message, self.rig.sensors[name], reference.stamp_ns, self.log
                )
            except MessageError as error:
                self.drops[name, error.reason] += 1
                continue
            readings[name] = stamp_ns, reading
        missing = frozenset(self.rig.sensors) - readings.keys()
        decoded = ReadingSet(selected.readings.stamp_ns, readings, missing)
        assembler = self._calibrated_assembler(selected.record_ns)
        frame = assembler.assemble(decoded)
        dropped = frame.dropped | (selected.readings.readings.keys() - readings.keys())
        labels = self._labels.labels_for(frame, assembler.odometry)
        return replace(frame, labels=labels, dropped=dropped)

    def close(self) -> None:
        """Close the files of the bag."""
        self._reader.close()

    def _index(self, deadline_s: float) -> None:
        types = {c.topic: c.msgtype for c in self._reader.connections}
        sensors = {s.topic: s for s in self.rig.sensors.values()}
        info_sensors = sensors_by_info_topic(self.rig)
        static_topic, moving_topic = transform_topics(types, self.log.notices)
        expected: dict[str, tuple[str, ...]] = {
            **{topic: (sensor.message,) for topic, sensor in sensors.items()},
            **dict.fromkeys(info_sensors, (INFO_TYPE,)),
            **dict.fromkeys((static_topic, moving_topic), TF_TYPES),
            **dict.fromkeys(self._labels.topics, ()),
        }
        if self.rig.odometry_topic is not None:
            expected[self.rig.odometry_topic] = (ODOMETRY_TYPE,)
        synchronizer = Synchronizer(self.rig.sensors.values(), deadline_s)
        last_ns = 0
        for connection, record_ns, raw in self._reader.messages():
            topic, last_ns = connection.topic, record_ns
            allowed = expected.get(topic)
            if allowed is None:
                continue
            subject = sensors[topic].name if topic in sensors else topic
            if allowed and connection.msgtype not in allowed:
                self.drops[subject, "wrong_type"] += 1
                self.log.notices.add(subject, f"{topic} has {connection.msgtype}: not used")
            elif topic in sensors:
                reference = self._message_reference(subject, topic, record_ns, raw)
                if reference is not None:
                    stamp_ns = reference.stamp_ns
                    self._add_sets(synchronizer.add(subject, stamp_ns, reference, record_ns))
            else:
                message = self._deserialize(connection, raw)
                if message is None:
                    continue
                if topic == static_topic:
                    self._transforms.add_static(record_ns, message)
                elif topic == moving_topic:
                    self._transforms.add_moving(message)
                elif topic == self.rig.odometry_topic:
                    self._odometry.append(message)
                elif topic in self._labels.topics:
                    self._labels.add(topic, record_ns, message)
                else:
                    for sensor in info_sensors[topic]:
                        infos = self._camera_infos.setdefault(sensor.name, [])
                        infos.append((record_ns, message))
        self._add_sets(synchronizer.flush(last_ns))
        for name, statistics in synchronizer.statistics.items():
            for reason, count in statistics.drops.items():
                self.drops[name, reason] += count

    def _add_sets(self, sets: list[ReadingSet]) -> None:
        for readings in sets:
            record_ns = max(reference.record_ns for _, reference in readings.readings.values())
            self._sets.append(_SynchronizedSet(readings, record_ns))

    def _message_reference(
        self, sensor: str, topic: str, record_ns: int, raw: Any
    ) -> _MessageReference | None:
        """Read the stamp from the raw CDR message; None and one counted drop if it is invalid.

        The stamp is the first field of every sensor message: bytes 4 to 11, after the
        4-byte CDR header.
        """
        message = bytes(raw[:12])
        order = "little" if len(message) > 1 and message[1] & 1 else "big"
        seconds = int.from_bytes(message[4:8], order, signed=True)  # type: ignore[arg-type]
        nanoseconds = int.from_bytes(message[8:12], order)  # type: ignore[arg-type]
        if len(message) < 12 or seconds < 0 or nanoseconds >= NANOSECONDS_PER_SECOND:
            self.drops[sensor, "bad_stamp"] += 1
            return None
        return _MessageReference(topic, record_ns, seconds * NANOSECONDS_PER_SECOND + nanoseconds)

    def _calibrated_assembler(self, record_ns: int) -> FrameAssembler:
        """The assembler, with the calibration that applies at a record time.

        That is the last one recorded until then, or the first one if all were recorded later.
        """
        tree = self._transforms.tree(record_ns)
        if self._assembler is None:
            # A bag without the odometry topic may still have the transform on /tf.
            uses_topic = bool(self._odometry)
            self._assembler = FrameAssembler(self.rig, tree, self.log.notices, uses_topic)
            self._assembler.drops = self.drops
            for message in self._odometry:
                try:
                    add_odometry(self._assembler.odometry_source, message)
                except (MessageError, TransformError) as error:
                    self.drops[str(self.rig.odometry_topic), error.reason] += 1
        for name, infos in self._camera_infos.items():
            selected = max(bisect_right(infos, record_ns, key=lambda i: i[0]) - 1, 0)
            if self._info_in_use.get(name) != selected:
                self._info_in_use[name] = selected
                sensor = self.rig.sensors[name]
                set_calibration(self._assembler, infos[selected][1], sensor, self.drops)
        return self._assembler

    def _read_message(self, reference: _MessageReference) -> Any:
        """The message with the reference's stamp, else the last one of the same record time.

        Raises MessageError("undecodable"), or DatasetError if the file cannot be read.
        """
        connections = [c for c in self._reader.connections if c.topic == reference.topic]
        start, stop = reference.record_ns, reference.record_ns + 1
        message = None
        with dataset_errors(self.path):
            found = list(self._reader.messages(connections, start, stop))
        for connection, _, raw in found:
            try:
                message = self._reader.deserialize(raw, connection.msgtype)
            except Exception:  # a malformed message can raise any exception in the parser
                continue
            if stamp_ns_of(message) == reference.stamp_ns:
                break
        if message is None:
            raise MessageError("undecodable", "the data does not have the layout of its type")
        return message

    def _deserialize(self, connection: Connection, raw: Any) -> Any:
        try:
            return self._reader.deserialize(raw, connection.msgtype)
        except Exception:  # a malformed message can raise any exception in the parser
            self.drops[connection.topic, "undecodable"] += 1
            return None


def with_recorded_types(rig: Rig, types: dict[str, str], notices: Notices) -> Rig:
    """The rig with the topics and message types of a bag, where they are unambiguous.

    types: message type by topic of the bag. A type that the rig does not state is used if it fits the
    modality, with a notice; a topic name without its leading slash is completed.
    """
    sensors: dict[str, Sensor] = {}
    for name, sensor in rig.sensors.items():
        absolute = "/" + sensor.topic.lstrip("/")
        topic = sensor.topic if sensor.topic in types or absolute not in types else absolute
        info = sensor.camera_info_topic
        if info is not None and info not in types and "/" + info.lstrip("/") in types:
            info = "/" + info.lstrip("/")
        message = types.get(topic, sensor.message)
        if message != sensor.message and message in MESSAGE_TYPES[sensor.modality]:
            notices.add(
                name, f"{topic} has {message}, the rig has {sensor.message}: {message} is used"
            )
        else:
            message = sensor.message
        sensors[name] = replace(sensor, topic=topic, camera_info_topic=info, message=message)
    return replace(rig, sensors=sensors)
