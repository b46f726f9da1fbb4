"""Writer of frames as a rosbag2 bag: sensor topics, /tf_static and labels."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.extras import import_package
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.messages import encoders
from multimodal_perception.messages.frame_messages import (
    NUM_POINTS_TOPIC,
    TF,
    TF_STATIC,
    VELOCITY_TOPIC,
    VISIBILITY_TOPIC,
    frame_messages,
    static_transforms,
)
from multimodal_perception.resources import share_path
from multimodal_perception.rig import MESSAGE_TYPES, Rig, dump_rig

if TYPE_CHECKING:
    from rosbags.interfaces import Qos
    from rosbags.rosbag2 import Writer
    from rosbags.typesys.store import Typestore

Storage = Literal["sqlite3", "mcap"]
# Key of the custom data in metadata.yaml with the rig as YAML text.
RIG_KEY = "multimodal_perception_rig"
TF_TYPE = "tf2_msgs/msg/TFMessage"
_FOREVER = 9223372036, 854775807  # seconds and nanoseconds


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


class StoredRig:
    """The rig that describes a bag written from decoded frames.

    Extrinsics are left out, because the bag has those of every frame on /tf_static. What decoding has
    already applied (units, time offsets, types) is reset.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._counts_to_kelvin: dict[str, tuple[float, float]] = {}

    def add(self, frame: SensorFrame) -> SensorFrame:
        """Use the scale of the thermal images of a frame; return the same frame."""
        for name, image in frame.thermals.items():
            if image.counts_to_kelvin is not None:
                self._counts_to_kelvin[name] = image.counts_to_kelvin
        return frame

    def text(self) -> str:
        """The rig as YAML text."""
        sensors = {}
        for name, sensor in self._rig.sensors.items():
            has_info = sensor.camera_info_topic is not None
            sensors[name] = dataclasses.replace(
                sensor,
                message=MESSAGE_TYPES[sensor.modality][0],
                extrinsics=None,
                intrinsics=None if has_info else sensor.intrinsics,
                counts_to_kelvin=self._counts_to_kelvin.get(name, sensor.counts_to_kelvin),
                time_offset_s=0.0,
                metres_per_unit=1.0,
                no_echo_ranges=(),
                temperature_unit="auto",
                point_time_origin="auto",
            )
        return dump_rig(dataclasses.replace(self._rig, sensors=sensors, odometry_topic=None))


def typestore() -> Typestore:
    """A type store with the standard messages of ROS 2 and vision_msgs."""
    typesys = import_package("rosbags.typesys")
    store: Typestore = typesys.get_typestore(typesys.Stores.ROS2_KILTED)
    definitions: dict[str, Any] = {}
    for path in sorted(share_path("underlay", "vision_msgs", "msg").glob("*.msg")):
        text, name = path.read_text(), f"vision_msgs/msg/{path.stem}"
        definitions.update(typesys.get_types_from_msg(text, name))
    store.register({k: v for k, v in definitions.items() if k not in store.types})
    return store


def write_bag(
    frames: Iterable[SensorFrame], rig: Rig, out: str | Path, storage: Storage = "sqlite3"
) -> dict[str, int]:
    """Write frames as a bag folder and return the number of messages by topic.

    Each message is recorded at the stamp of its frame. The extrinsics are written to /tf_static
    whenever they change, the odometry to /tf, the labels to /ground_truth/objects as
    vision_msgs/Detection3DArray, with their numbers of points, velocities and visibility on topics of
    their own. The rig is stored in metadata.yaml, so that the bag is read like the frames.

    Raises DatasetError if `out` exists or cannot be written, or if two sensors of a frame have the same
    frame_id but different poses. The folder exists only when the bag is complete.
    """
    out = Path(out)
    if out.exists():
        raise DatasetError(f"{out}: already exists; give a new folder")
    rosbag2 = import_package("rosbags.rosbag2")
    plugins = rosbag2.StoragePlugin
    plugin = plugins.MCAP if storage == "mcap" else plugins.SQLITE3
    counts: dict[str, int] = {}
    types = RosbagsTypes()
    # The bag gets its name when it is complete. A killed run leaves a hidden folder; the next run
    # removes it.
    unfinished = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with rosbag2.Writer(unfinished / out.name, version=9, storage_plugin=plugin) as writer:
            topics = TopicWriter(writer, types.store)
            stored = StoredRig(rig)
            for topic, name, msg, stamp_ns in _all_messages(map(stored.add, frames), rig, types):
                topics.write(topic, name, stamp_ns, types.store.serialize_cdr(msg, name))
                counts[topic] = counts.get(topic, 0) + 1
            writer.set_custom_data(RIG_KEY, stored.text())
        (unfinished / out.name).rename(out)
    except OSError as error:
        raise DatasetError(f"{out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return counts


def _all_messages(
    frames: Iterable[SensorFrame], rig: Rig, types: RosbagsTypes
) -> Iterator[tuple[str, str, Any, int]]:
    written: dict[str, NDArray[np.float64]] = {}  # extrinsics last written, by sensor
    for frame in frames:
        poses = frame.base_from_sensor
        if any(n not in written or not np.array_equal(written[n], poses[n]) for n in poses):
            written.update(poses)
            try:
                transforms = static_transforms(frame, types)
            except UserError as error:
                raise DatasetError(str(error)) from error
            yield TF_STATIC, TF_TYPE, transforms, frame.stamp_ns
        if frame.odom_from_base is not None:
            yield TF, TF_TYPE, _odometry(frame, types), frame.stamp_ns
        if frame.labels is not None:
            for topic, name, message in _label_properties(frame.labels, types):
                yield topic, name, message, frame.stamp_ns
        for topic, name, message in frame_messages(frame, rig, types):
            yield topic, name, message, frame.stamp_ns


def _odometry(frame: SensorFrame, types: RosbagsTypes) -> Any:
    """TFMessage with the pose of the vehicle at the stamps of the frame and of all its readings."""
    assert frame.odom_from_base is not None
    poses_by_stamp = {
        reading.stamp_ns: frame.odom_from_base @ frame.reference_from_base.get(name, np.eye(4))
        for name, reading in frame.readings.items()
    }
    poses_by_stamp[frame.stamp_ns] = frame.odom_from_base
    transforms = [
        encoders.transform_to_message(types, pose, frame.odom_frame, frame.base_frame, stamp_ns)
        for stamp_ns, pose in sorted(poses_by_stamp.items())
    ]
    return types.new(TF_TYPE, transforms=transforms)


def _label_properties(labels: Boxes3D, types: RosbagsTypes) -> Iterator[tuple[str, str, Any]]:
    """Yield (topic, type, message) of what a Detection3DArray has no field for."""
    layout = types.new("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    for topic, values, dtype, name in (
        (NUM_POINTS_TOPIC, labels.num_points, np.int32, "std_msgs/msg/Int32MultiArray"),
        (VELOCITY_TOPIC, labels.velocities, np.float32, "std_msgs/msg/Float32MultiArray"),
        (VISIBILITY_TOPIC, labels.visibility, np.float32, "std_msgs/msg/Float32MultiArray"),
    ):
        if values is not None:
            data = types.values(values.astype(dtype).reshape(-1))
            yield topic, name, types.new(name, layout=layout, data=data)


def _qos(latched: bool) -> Qos:
    types = import_package("rosbags.interfaces")
    durability, forever = types.QosDurability, types.QosTime(*_FOREVER)
    profile: Qos = types.Qos(
        types.QosHistory.KEEP_LAST,
        1 if latched else 10,
        types.QosReliability.RELIABLE,
        durability.TRANSIENT_LOCAL if latched else durability.VOLATILE,
        forever,
        forever,
        types.QosLiveliness.AUTOMATIC,
        forever,
        False,
    )
    return profile
