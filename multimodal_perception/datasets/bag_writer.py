"""Writer of frames as a rosbag2: sensor topics, /tf_static and labels."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.messages.frame_messages import (
    TF_STATIC,
    frame_messages,
    static_transforms,
)
from multimodal_perception.resources import share_path
from multimodal_perception.rig import Rig

Storage = Literal["sqlite3", "mcap"]
_FOREVER = QosTime(9223372036, 854775807)


class RosbagsTypes:
    """The message classes of the rosbags library; implements message_types.MessageTypes."""

    def __init__(self) -> None:
        self.store = typestore()

    def new(self, name: str, /, **fields: Any) -> Any:
        return self.store.types[name](**fields)

    def values(self, data: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(data)


class TopicWriter:
    """Writes encoded messages to an open bag. A topic is added with its first message.

    latched: topics with transient-local durability, which a player also sends to late subscribers.
    """

    def __init__(
        self, writer: Writer, store: Typestore, latched: Collection[str] = (TF_STATIC,)
    ) -> None:
        self._writer = writer
        self._store = store
        self._latched = latched
        self._connections: dict[str, Any] = {}

    def write(self, topic: str, name: str, recorded_ns: int, data: bytes | memoryview) -> None:
        """Write one CDR-encoded message of type `name`."""
        if topic not in self._connections:
            qos = [_qos(latched=topic in self._latched)]
            self._connections[topic] = self._writer.add_connection(
                topic, name, typestore=self._store, offered_qos_profiles=qos
            )
        self._writer.write(self._connections[topic], recorded_ns, data)


def typestore() -> Typestore:
    """A type store with the standard messages of ROS 2 and vision_msgs."""
    store = get_typestore(Stores.ROS2_KILTED)
    definitions: dict[str, Any] = {}
    for path in sorted(share_path("underlay", "vision_msgs", "msg").glob("*.msg")):
        definitions.update(get_types_from_msg(path.read_text(), f"vision_msgs/msg/{path.stem}"))
    store.register({k: v for k, v in definitions.items() if k not in store.types})
    return store


def write_bag(
    frames: Iterable[SensorFrame], rig: Rig, out: str | Path, storage: Storage = "sqlite3"
) -> dict[str, int]:
    """Write frames as a bag folder and return the number of messages by topic.

    Each message is recorded at the stamp of its frame. The extrinsics are written to /tf_static
    whenever they change, the labels to /ground_truth/objects as vision_msgs/Detection3DArray.

    Raises DatasetError if `out` exists or cannot be written. An unfinished bag is removed.
    """
    out = Path(out)
    if out.exists():
        raise DatasetError(f"{out}: already exists; give a new folder")
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    counts: dict[str, int] = {}
    types = RosbagsTypes()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with Writer(out, version=9, storage_plugin=plugin) as writer:
            topics = TopicWriter(writer, types.store)
            for topic, name, msg, stamp_ns in _all_messages(frames, rig, types):
                topics.write(topic, name, stamp_ns, types.store.serialize_cdr(msg, name))
                counts[topic] = counts.get(topic, 0) + 1
    except BaseException as error:
        shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, OSError):
            raise DatasetError(f"{out}: {error.strerror or error}") from error
        raise
    return counts


def _all_messages(
    frames: Iterable[SensorFrame], rig: Rig, types: RosbagsTypes
) -> Iterator[tuple[str, str, Any, int]]:
    written: dict[str, NDArray[np.float64]] = {}  # extrinsics last written, by sensor
    for frame in frames:
        poses = frame.base_from_sensor
        if any(n not in written or not np.array_equal(written[n], poses[n]) for n in poses):
            written.update(poses)
            name = "tf2_msgs/msg/TFMessage"
            yield TF_STATIC, name, static_transforms(frame, types), frame.stamp_ns
        for topic, name, message in frame_messages(frame, rig, types):
            yield topic, name, message, frame.stamp_ns


def _qos(latched: bool) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 10,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )
