"""rosbag2 recordings (sqlite3 and MCAP) as frames: the live node's intake, over recorded time.

Opening reads the bag once and synchronises by the stamps alone; a frame's messages are decoded when it
is asked for. Without a rig file one is made from the topics.
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
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.images import camera_model_from_message
from multimodal_perception.messages.intake import MOVING_TOPIC, STATIC_TOPIC, decode, set_transforms
from multimodal_perception.rig import MESSAGE_TYPES, Rig, Sensor
from multimodal_perception.synchronization.frame_assembler import FrameAssembler
from multimodal_perception.synchronization.synchronizer import ReadingSet, Synchronizer

INFO_TYPE = "sensor_msgs/msg/CameraInfo"


@dataclass(frozen=True)
class _Token:
    """Where a message lies in the bag."""

    topic: str
    record_ns: int
    stamp_ns: int


@dataclass(frozen=True)
class _Moment:
    readings: ReadingSet
    closed_ns: int


class Bag(Dataset):
    """The frames of one bag folder, .db3 or .mcap file.

    drops: messages that could not be used, by (sensor or topic, reason); complete once all frames
    were read.
    """

    def __init__(self, path: str | Path, rig: Rig | None = None, deadline_s: float = 0.05) -> None:
        """Open a bag. Raises DatasetError when it cannot be read or holds no sensor topic."""
        self.path = Path(path)
        self.name = f"bag {self.path.name}"
        self.drops: Counter[tuple[str, str]] = Counter()
        with readable(self.path):
            self._reader = open_reader(self.path)
        types = {c.topic: c.msgtype for c in self._reader.connections}
        self.rig = self._infer_rig(types) if rig is None else rig
        self._statics: list[tuple[int, Any]] = []
        self._moving: list[Any] = []
        self._infos: dict[str, list[tuple[int, Any]]] = {}
        self._labels = BagLabels(types, self.drops)
        self._moments: list[_Moment] = []
        self._calibrated: tuple[int, FrameAssembler] | None = None
        with readable(self.path):
            self._index(deadline_s)
        if not self._moments:
            wanted = ", ".join(s.topic for s in self.rig.sensors.values())
            raise DatasetError(f"{self.path}: no usable message on {wanted}")

    def __len__(self) -> int:
        return len(self._moments)

    def __getitem__(self, index: int) -> SensorFrame:
        """Decode one frame. Raises DatasetError when the bag is broken there, IndexError."""
        moment = self._moments[range(len(self))[index]]
        readings = {}
        for name, (stamp_ns, token) in moment.readings.readings.items():
            with readable(self.path):
                message = self._fetch(token)
            try:
                reading = decode(message, self.rig.sensors[name], token.stamp_ns)
            except MessageError as error:
                self.drops[name, error.reason] += 1
                continue
            readings[name] = stamp_ns, reading
        missing = frozenset(self.rig.sensors) - readings.keys()
        decoded = ReadingSet(moment.readings.stamp_ns, readings, missing)
        assembler = self._assembler(moment.closed_ns)
        frame = assembler.assemble(decoded)
        return replace(frame, labels=self._labels.of(frame, assembler.odometry))

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def _index(self, deadline_s: float) -> None:
        sensor_of = {s.topic: s.name for s in self.rig.sensors.values()}
        info_of = {s.camera_info_topic: s.name for s in self.rig.sensors.values()}
        synchronizer = Synchronizer(self.rig.sensors.values(), deadline_s)
        last_ns = 0
        for connection, record_ns, raw in self._reader.messages():
            topic, last_ns = connection.topic, record_ns
            if topic in sensor_of:
                token = self._token(connection, record_ns, raw)
                if token is not None:
                    name = sensor_of[topic]
                    sets = synchronizer.add(name, token.stamp_ns, token, record_ns)
                    self._moments += [_Moment(s, record_ns) for s in sets]
            elif topic in (STATIC_TOPIC, MOVING_TOPIC, *info_of, *self._labels.topics):
                message = self._deserialize(connection, raw)
                if message is not None:
                    self._remember(topic, info_of.get(topic), record_ns, message)
        self._moments += [_Moment(s, last_ns) for s in synchronizer.flush(last_ns)]
        for name, statistics in synchronizer.statistics.items():
            for reason, count in statistics.drops.items():
                self.drops[name, reason] += count

    def _token(self, connection: Connection, record_ns: int, raw: Any) -> _Token | None:
        """The stamp is the first field of every sensor message: CDR bytes 4 to 12."""
        message = bytes(raw[:12])
        order = "little" if len(message) > 1 and message[1] & 1 else "big"
        seconds = int.from_bytes(message[4:8], order, signed=True)  # type: ignore[arg-type]
        nanoseconds = int.from_bytes(message[8:12], order)  # type: ignore[arg-type]
        if len(message) < 12 or seconds < 0 or nanoseconds >= NANOSECONDS:
            self.drops[connection.topic, "bad_stamp"] += 1
            return None
        return _Token(connection.topic, record_ns, seconds * NANOSECONDS + nanoseconds)

    def _remember(self, topic: str, sensor: str | None, record_ns: int, message: Any) -> None:
        if topic == STATIC_TOPIC:
            self._statics.append((record_ns, message))
        elif topic == MOVING_TOPIC:
            self._moving.append(message)
        elif topic in self._labels.topics:
            self._labels.remember(topic, record_ns, message)
        elif sensor is not None:
            self._infos.setdefault(sensor, []).append((record_ns, message))

    def _assembler(self, closed_ns: int) -> FrameAssembler:
        """Calibration as it was known at one moment; kept until a later message changes it."""
        known = bisect_right(self._statics, closed_ns, key=lambda s: s[0])
        known += sum(bisect_right(i, closed_ns, key=lambda s: s[0]) for i in self._infos.values())
        if self._calibrated is not None and self._calibrated[0] == known:
            return self._calibrated[1]
        tree = TransformTree(keep_s=1e6, most_stamps=1_000_000)
        for record_ns, message in self._statics:
            if record_ns <= closed_ns:
                set_transforms(tree, message, True, self.drops)
        for message in self._moving:
            set_transforms(tree, message, False, self.drops)
        assembler = FrameAssembler(self.rig, tree)
        assembler.drops = self.drops
        for sensor, infos in self._infos.items():
            # One that comes only after the frame is better than none.
            usable = [i for i in infos if i[0] <= closed_ns] or infos[:1]
            try:
                assembler.intrinsics[sensor] = camera_model_from_message(usable[-1][1])
            except MessageError as error:
                self.drops[sensor, error.reason] += 1
        self._calibrated = known, assembler
        return assembler

    def _fetch(self, token: _Token) -> Any:
        connections = [c for c in self._reader.connections if c.topic == token.topic]
        start, stop = token.record_ns, token.record_ns + 1
        found = None
        for connection, _, raw in self._reader.messages(connections, start, stop):
            message = self._reader.deserialize(raw, connection.msgtype)
            found = message
            if stamp_ns_of(message) == token.stamp_ns:
                break
        return found

    def _deserialize(self, connection: Connection, raw: Any) -> Any:
        try:
            return self._reader.deserialize(raw, connection.msgtype)
        except Exception:  # whatever a broken message makes the parser raise
            self.drops[connection.topic, "undecodable"] += 1
            return None

    def _infer_rig(self, types: dict[str, str]) -> Rig:
        """Sensors from the topics' types and names; their places come from /tf_static."""
        sensors: dict[str, Sensor] = {}
        for topic, message in sorted(types.items()):
            modality = _modality(topic, message)
            if modality is None:
                continue
            info = None
            if modality in (Modality.CAMERA, Modality.THERMAL):
                info = _info_topic(topic, types)
                if info is None:
                    continue
            name = _identifier(topic, sensors)
            sensors[name] = Sensor(
                name, modality, topic, "", message=message, camera_info_topic=info
            )
        if not sensors:
            raise DatasetError(f"{self.path}: no sensor topic among {', '.join(types) or 'none'}")
        return Rig(self.path.stem, sensors)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns whatever a parser raises on an untrusted bag into a DatasetError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path}: not a readable rosbag2 ({reason})") from error


def open_reader(path: Path) -> AnyReader:
    """An open reader that knows vision_msgs. Raises DatasetError when there is no such bag."""
    if not path.exists():
        raise DatasetError(f"{path}: no such bag")
    reader = AnyReader([path], default_typestore=typestore())
    reader.open()
    return reader


def _modality(topic: str, message: str) -> Modality | None:
    if message in MESSAGE_TYPES[Modality.LIDAR]:
        return Modality.LIDAR
    if message in MESSAGE_TYPES[Modality.ULTRASONIC]:
        return Modality.ULTRASONIC
    if message in MESSAGE_TYPES[Modality.CAMERA]:
        words = ("thermal", "infrared", "lwir", "flir")
        return Modality.THERMAL if any(w in topic.lower() for w in words) else Modality.CAMERA
    return None


def _info_topic(topic: str, types: dict[str, str]) -> str | None:
    """camera_info beside the image, or one level up for image transports."""
    folder = topic
    for _ in range(2):
        folder = folder.rsplit("/", 1)[0]
        if types.get(f"{folder}/camera_info") == INFO_TYPE:
            return f"{folder}/camera_info"
    return None


def _identifier(topic: str, taken: dict[str, Sensor]) -> str:
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
