"""Reader of rosbag2 recordings (sqlite3 and MCAP), with the same decoding as the ROS node.

Opening a bag reads it once and synchronises the messages by their stamps. The messages of a frame are
decoded when the frame is accessed. Without a rig file the rig is inferred from the topics.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.bag_labels import BagLabels
from multimodal_perception.datasets.bag_writer import typestore
from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.geometry.transform_tree import TransformTree
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.intake import (
    MOVING_TOPIC,
    STATIC_TOPIC,
    add_transforms,
    decode_reading,
    set_calibration,
)
from multimodal_perception.rig import MESSAGE_TYPES, Rig, Sensor
from multimodal_perception.synchronization.frame_assembler import FrameAssembler
from multimodal_perception.synchronization.synchronizer import ReadingSet, Synchronizer

INFO_TYPE = "sensor_msgs/msg/CameraInfo"


@dataclass(frozen=True)
class _MessageReference:
    """Position of a message in the bag: its topic and record time, and the stamp in its header."""

    topic: str
    record_ns: int
    stamp_ns: int


@dataclass(frozen=True)
class _SynchronizedSet:
    """Synchronised readings, and the record time at which the synchroniser emitted them."""

    readings: ReadingSet
    emitted_ns: int


class BagDataset(Dataset):
    """The frames of one bag folder, .db3 file or .mcap file.

    drops: number of unusable messages by (sensor or topic, reason). log: notices about assumptions,
    and counts of values without a measurement. Both are complete once all frames have been read.
    """

    def __init__(self, path: str | Path, rig: Rig | None = None, deadline_s: float = 0.05) -> None:
        """Open a bag. Raises DatasetError if it cannot be read or contains no sensor topic.

        deadline_s: how long the synchroniser waits for the readings of a frame, seconds.
        """
        self.path = Path(path)
        self.name = f"bag {self.path.name}"
        self.drops: Counter[tuple[str, str]] = Counter()
        self.log = DecodingLog(losses=self.drops)
        with dataset_errors(self.path):
            self._reader = open_reader(self.path)
        types = {c.topic: c.msgtype for c in self._reader.connections}
        self.rig = self._infer_rig(types) if rig is None else rig
        self._static_transforms: list[tuple[int, Any]] = []
        self._moving_transforms: list[Any] = []
        self._camera_infos: dict[str, list[tuple[int, Any]]] = {}
        self._labels = BagLabels(types, self.drops)
        self._sets: list[_SynchronizedSet] = []
        self._cached_assembler: tuple[int, FrameAssembler] | None = None
        with dataset_errors(self.path):
            self._index(deadline_s)
        if not self._sets:
            topics = ", ".join(s.topic for s in self.rig.sensors.values())
            raise DatasetError(f"{self.path}: no usable message on the rig's topics {topics}")

    def __len__(self) -> int:
        return len(self._sets)

    def __getitem__(self, index: int) -> SensorFrame:
        """Decode one frame. Raises DatasetError if its messages cannot be read, IndexError."""
        selected = self._sets[range(len(self))[index]]
        readings = {}
        for name, (stamp_ns, reference) in selected.readings.readings.items():
            with dataset_errors(self.path):
                message = self._read_message(reference)
            try:
                reading = decode_reading(
                    message, self.rig.sensors[name], reference.stamp_ns, self.log
                )
            except MessageError as error:
                self.drops[name, error.reason] += 1
                continue
            readings[name] = stamp_ns, reading
        missing = frozenset(self.rig.sensors) - readings.keys()
        decoded = ReadingSet(selected.readings.stamp_ns, readings, missing)
        assembler = self._assembler(selected.emitted_ns)
        frame = assembler.assemble(decoded)
        return replace(frame, labels=self._labels.labels_for(frame, assembler.odometry))

    def close(self) -> None:
        """Close the files of the bag."""
        self._reader.close()

    def _index(self, deadline_s: float) -> None:
        sensor_of_topic = {s.topic: s.name for s in self.rig.sensors.values()}
        sensor_of_info_topic = {s.camera_info_topic: s.name for s in self.rig.sensors.values()}
        synchronizer = Synchronizer(self.rig.sensors.values(), deadline_s)
        last_ns = 0
        for connection, record_ns, raw in self._reader.messages():
            topic, last_ns = connection.topic, record_ns
            if topic in sensor_of_topic:
                reference = self._message_reference(connection, record_ns, raw)
                if reference is not None:
                    name = sensor_of_topic[topic]
                    sets = synchronizer.add(name, reference.stamp_ns, reference, record_ns)
                    self._sets += [_SynchronizedSet(s, record_ns) for s in sets]
            elif topic in (STATIC_TOPIC, MOVING_TOPIC, *sensor_of_info_topic, *self._labels.topics):
                message = self._deserialize(connection, raw)
                if message is not None:
                    self._store(topic, sensor_of_info_topic.get(topic), record_ns, message)
        self._sets += [_SynchronizedSet(s, last_ns) for s in synchronizer.flush(last_ns)]
        for name, statistics in synchronizer.statistics.items():
            for reason, count in statistics.drops.items():
                self.drops[name, reason] += count

    def _message_reference(
        self, connection: Connection, record_ns: int, raw: Any
    ) -> _MessageReference | None:
        """Read the stamp from the raw CDR message; None and one counted drop if it is invalid.

        The stamp is the first field of every sensor message: CDR bytes 4 to 12.
        """
        message = bytes(raw[:12])
        order = "little" if len(message) > 1 and message[1] & 1 else "big"
        seconds = int.from_bytes(message[4:8], order, signed=True)  # type: ignore[arg-type]
        nanoseconds = int.from_bytes(message[8:12], order)  # type: ignore[arg-type]
        if len(message) < 12 or seconds < 0 or nanoseconds >= NANOSECONDS:
            self.drops[connection.topic, "bad_stamp"] += 1
            return None
        return _MessageReference(connection.topic, record_ns, seconds * NANOSECONDS + nanoseconds)

    def _store(self, topic: str, sensor: str | None, record_ns: int, message: Any) -> None:
        if topic == STATIC_TOPIC:
            self._static_transforms.append((record_ns, message))
        elif topic == MOVING_TOPIC:
            self._moving_transforms.append(message)
        elif topic in self._labels.topics:
            self._labels.add(topic, record_ns, message)
        elif sensor is not None:
            self._camera_infos.setdefault(sensor, []).append((record_ns, message))

    def _assembler(self, time_ns: int) -> FrameAssembler:
        """An assembler with the calibration that was recorded up to a time.

        It is cached and rebuilt only if another calibration message has been recorded since.
        """
        count = bisect_right(self._static_transforms, time_ns, key=lambda s: s[0])
        for infos in self._camera_infos.values():
            count += bisect_right(infos, time_ns, key=lambda s: s[0])
        if self._cached_assembler is not None and self._cached_assembler[0] == count:
            return self._cached_assembler[1]
        tree = TransformTree(keep_s=1e6, max_stamps=1_000_000)
        for record_ns, message in self._static_transforms:
            if record_ns <= time_ns:
                add_transforms(tree, message, True, self.drops)
        for message in self._moving_transforms:
            add_transforms(tree, message, False, self.drops)
        assembler = FrameAssembler(self.rig, tree)
        assembler.drops = self.drops
        assembler.notices = self.log.notices
        for sensor, infos in self._camera_infos.items():
            # If no camera info precedes the frame, use the first one that follows it.
            usable = [i for i in infos if i[0] <= time_ns] or infos[:1]
            set_calibration(assembler, usable[-1][1], self.rig.sensors[sensor], self.drops)
        self._cached_assembler = count, assembler
        return assembler

    def _read_message(self, reference: _MessageReference) -> Any:
        """The message with the reference's stamp, else the last one of the same record time."""
        connections = [c for c in self._reader.connections if c.topic == reference.topic]
        start, stop = reference.record_ns, reference.record_ns + 1
        message = None
        for connection, _, raw in self._reader.messages(connections, start, stop):
            message = self._reader.deserialize(raw, connection.msgtype)
            if stamp_ns_of(message) == reference.stamp_ns:
                break
        return message

    def _deserialize(self, connection: Connection, raw: Any) -> Any:
        try:
            return self._reader.deserialize(raw, connection.msgtype)
        except Exception:  # a malformed message can raise any exception in the parser
            self.drops[connection.topic, "undecodable"] += 1
            return None

    def _infer_rig(self, types: dict[str, str]) -> Rig:
        """A rig from the types and names of the topics; the extrinsics come from /tf_static."""
        sensors: dict[str, Sensor] = {}
        for topic, message in sorted(types.items()):
            modality = _infer_modality(topic, message)
            if modality is None:
                continue
            info = None
            if modality in (Modality.CAMERA, Modality.THERMAL):
                info = _info_topic(topic, types)
                if info is None:
                    continue
            name = _sensor_name(topic, sensors)
            sensors[name] = Sensor(
                name, modality, topic, "", message=message, camera_info_topic=info
            )
        if not sensors:
            topics = ", ".join(types) or "none"
            raise DatasetError(f"{self.path}: no sensor topic; the bag's topics: {topics}")
        return Rig(self.path.stem, sensors)


@contextmanager
def dataset_errors(path: Path) -> Iterator[None]:
    """Convert any exception of the parser into a DatasetError that names the bag."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path}: not a readable rosbag2 ({reason})") from error


def open_reader(path: Path) -> AnyReader:
    """An open reader with the vision_msgs types. Raises DatasetError if the bag does not exist."""
    if not path.exists():
        raise DatasetError(f"{path}: no such bag")
    reader = AnyReader([path], default_typestore=typestore())
    reader.open()
    return reader


def _infer_modality(topic: str, message: str) -> Modality | None:
    if message in MESSAGE_TYPES[Modality.LIDAR]:
        return Modality.LIDAR
    if message in MESSAGE_TYPES[Modality.ULTRASONIC]:
        return Modality.ULTRASONIC
    if message in MESSAGE_TYPES[Modality.CAMERA]:
        words = ("thermal", "infrared", "lwir", "flir")
        return Modality.THERMAL if any(w in topic.lower() for w in words) else Modality.CAMERA
    return None


def _info_topic(topic: str, types: dict[str, str]) -> str | None:
    """The camera_info topic next to the image, or one level up for image transports."""
    folder = topic
    for _ in range(2):
        folder = folder.rsplit("/", 1)[0]
        if types.get(f"{folder}/camera_info") == INFO_TYPE:
            return f"{folder}/camera_info"
    return None


def _sensor_name(topic: str, taken: dict[str, Sensor]) -> str:
    """A sensor name from a topic, unique among the sensors that already have a name."""
    words = [w for w in topic.strip("/").split("/") if w]
    endings = ("points", "image", "image_raw", "compressed", "range", "image_rect", "image_color")
    while len(words) > 1 and words[-1] in endings:
        words.pop()
    name = "".join(c if c.isalnum() else "_" for c in "_".join(words)) or "sensor"
    if not name.isidentifier():
        name = f"sensor_{name}"
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate
