"""Checks a rig file, draws the fields of view, and compares it with a recording."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multimodal_perception.cli.bag_calibration import BagCalibration
from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.bag_files import dataset_errors, open_reader
from multimodal_perception.datasets.bag_rig import classify_bag
from multimodal_perception.datasets.bag_transforms import (
    TF_TYPES,
    BagTransforms,
    transform_topics,
)
from multimodal_perception.frame import Modality
from multimodal_perception.geometry.transform_tree import TransformError, TransformTree
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.notices import Notices
from multimodal_perception.rig import Rig, Sensor, load_rig, resolve_rig_path
from multimodal_perception.rig_topics import TOPIC_NAME, shared_frame_notes
from multimodal_perception.ros.foxglove_layout import write_foxglove_layout
from multimodal_perception.ros.rviz_profile import write_rviz_profile
from multimodal_perception.synchronization.intake import MOVING_TOPIC, STATIC_TOPIC, decode_reading
from multimodal_perception.synchronization.sensor_health import HealthConfig
from multimodal_perception.visualization.rig_view import coverage, draw_rig
from multimodal_perception.visualization.sheet import save_png

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

# Number of messages per sensor that are decoded. Wrong settings show in the first ones.
MAX_DECODED = 5
# Number of messages per transform topic that are read, because a transform may be published late.
MAX_TRANSFORM_MESSAGES = 2000
TF_TOPICS = (STATIC_TOPIC, MOVING_TOPIC)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="rig file, or the name of a shipped rig")
    parser.add_argument("--bag", type=Path, help="rosbag2 to compare with the rig")
    parser.add_argument("--out", type=Path, help="image file to write (default: out/rig_NAME.png)")
    parser.add_argument(
        "--extent",
        type=float,
        help="distance from base_link to each edge of the image in metres (default: 6 without a "
        "footprint or with one shorter than 2 m, otherwise 15)",
    )
    parser.add_argument(
        "--rviz",
        type=Path,
        metavar="FILE",
        help="RViz profile to write: the sensors of the rig and all outputs of the node",
    )
    parser.add_argument(
        "--foxglove",
        type=Path,
        metavar="FILE",
        help="Foxglove layout to write: the same as images, 3D scene, stage times and diagnostics",
    )
    parser.add_argument(
        "--namespace",
        help="namespace of the node and of relative topics such as /robot_1, for --rviz and --foxglove; "
        "without it, topics of the node in the RViz profile are relative to the namespace of RViz",
    )


def run(args: argparse.Namespace) -> int:
    if args.extent is not None and not 1.0 <= args.extent <= 200.0:
        raise UserError(f"--extent: allowed: 1 to 200 m; got {args.extent:g}")
    namespace = args.namespace or "/"
    if not TOPIC_NAME.fullmatch(namespace) and namespace != "/":
        raise UserError(f"--namespace: {namespace[:60]!r} is not a namespace such as /robot_1")
    rig = load_rig(resolve_rig_path(args.file), namespace)
    print(f"rig {rig.name}: {len(rig.sensors)} sensors")
    for modality in Modality:
        covered = coverage(rig, modality)
        if rig.sensors_of(modality):
            text = "field of view not configured"
            if covered is not None:
                text = f"covers {100 * covered:.0f} % of 360 deg"
            print(f"  {len(rig.sensors_of(modality)):2d} {modality.value:10s} {text}")
    for note in notes(rig):
        print(f"note: {note}")
    out = args.out or Path("out") / f"rig_{rig.name}.png"
    length = max(rig.footprint or (0.0,))
    save_png(out, draw_rig(rig, args.extent or (6.0 if length < 2.0 else 15.0)))
    print(f"image: {out}")
    _write_viewer_files(rig, args)
    if args.bag is None:
        return 0
    bag_notes: list[str] = []
    differences = list(compare(rig, args.bag, bag_notes))
    for note in bag_notes:
        print(f"bag: note: {note}")
    for difference in differences:
        print(f"bag: {difference}")
    print(f"{args.bag}: {len(differences) or 'no'} differences from the rig")
    return 1 if differences else 0


def _write_viewer_files(rig: Rig, args: argparse.Namespace) -> None:
    """Write the RViz profile and the Foxglove layout where the arguments name files."""
    if args.rviz is not None:
        write_rviz_profile(rig, args.rviz, args.namespace)
        print(f"RViz profile: {args.rviz}")
    if args.foxglove is not None:
        write_foxglove_layout(rig, args.foxglove, args.namespace or "/")
        print(f"Foxglove layout: {args.foxglove}")


def notes(rig: Rig) -> Iterator[str]:
    """Settings that the rig file does not define or that are unusual. They are allowed."""
    yield from shared_frame_notes(rig)
    for name, sensor in rig.sensors.items():
        if sensor.extrinsics is None:
            yield f"{name}: extrinsics come from /tf ({rig.base_frame} to {sensor.frame_id})"
        if sensor.modality is Modality.ULTRASONIC and sensor.limits is None:
            yield f"{name}: no limits, so its field of view is not drawn"
        if sensor.tolerance_s < 0.5 / sensor.rate_hz and not sensor.reuse_s:
            yield (
                f"{name}: at {sensor.rate_hz:g} Hz the nearest reading may be "
                f"{0.5 / sensor.rate_hz:.3f} s from the frame, but tolerance_s is "
                f"{sensor.tolerance_s:g}: the sensor will be missing in some frames"
            )


def compare(rig: Rig, path: Path, bag_notes: list[str] | None = None) -> Iterator[str]:
    """Differences between a recording and a rig. Raises UserError if the recording cannot be read.

    bag_notes: receives the intrinsics that are used for images, and assumptions about the messages.
    """
    with dataset_errors(path), closing(open_reader(path)) as reader:
        yield from _compare(rig, reader, [] if bag_notes is None else bag_notes)


def _compare(rig: Rig, reader: AnyReader, bag_notes: list[str]) -> Iterator[str]:
    types = {c.topic: c.msgtype for c in reader.connections}
    counts: dict[str, int] = {}
    for connection in reader.connections:
        counts[connection.topic] = counts.get(connection.topic, 0) + connection.msgcount
    seconds = reader.duration / 1e9
    limits, notices = HealthConfig(), Notices()
    transforms = _transforms(reader, notices)
    calibration = BagCalibration(rig, reader, transforms)
    for name, sensor in rig.sensors.items():
        if not counts.get(sensor.topic):
            yield f"{name}: no messages on {sensor.topic}"
            continue
        if types[sensor.topic] != sensor.message:
            yield f"{name}: {sensor.topic} is {types[sensor.topic]}, the rig file has {sensor.message}"
            continue
        rate_hz = (counts[sensor.topic] - 1) / seconds if seconds > 0 else 0.0
        if (
            counts[sensor.topic] >= 10
            and not limits.min_rate_ratio <= rate_hz / sensor.rate_hz <= limits.max_rate_ratio
        ):
            yield f"{name}: {rate_hz:.1f} Hz on {sensor.topic}, the rig file has {sensor.rate_hz:g} Hz"
        info = sensor.camera_info_topic
        if info is not None and not counts.get(info):
            source = (
                "no intrinsics are available"
                if sensor.intrinsics is None
                else "the rig file's intrinsics are used"
            )
            yield f"{name}: no messages on {info} ({source})"
        yield from _compare_messages(sensor, reader, transforms, rig.base_frame, calibration)
        bag_notes += [f"{name}: {note}" for note in calibration.notes(sensor)]
    rig_topics = {s.topic for s in rig.sensors.values()}
    for topic, taken in classify_bag(reader, base_frame=rig.base_frame)[1].items():
        if topic in rig_topics:
            continue
        if taken.modality is None and not taken.is_uncalibrated:
            bag_notes.append(f"{topic} ({types[topic]}) is not used: {taken.reason}")
        else:
            yield f"{topic} ({types[topic]}) belongs to no sensor of the rig file"
    bag_notes += [f"{topic}: {t}" for topic in TF_TOPICS for t in notices.texts(topic)]
    if rig.odometry_topic is not None and not counts.get(rig.odometry_topic):
        yield f"no odometry on {rig.odometry_topic}"


def _compare_messages(
    sensor: Sensor,
    reader: AnyReader,
    transforms: TransformTree,
    base_frame: str,
    calibration: BagCalibration,
) -> Iterator[str]:
    """Differences between the first messages of a sensor and the rig file, each reported once."""
    differences: dict[str, None] = {}
    connections = [c for c in reader.connections if c.topic == sensor.topic]
    for i, (connection, _, raw) in enumerate(reader.messages(connections)):
        if i >= MAX_DECODED:
            break
        message = reader.deserialize(raw, connection.msgtype)
        try:
            reading = decode_reading(message, sensor, stamp_ns_of(message), calibration.log)
        except MessageError as error:
            differences[f"cannot be used: {error}"] = None
            continue
        if sensor.frame_id and reading.frame_id.lstrip("/") != sensor.frame_id.lstrip("/"):
            differences[f"frame_id {reading.frame_id!r}, the rig file has {sensor.frame_id!r}"] = (
                None
            )
        for difference in _compare_reading(sensor, reading):
            differences[difference] = None
        for difference in calibration.differences(sensor, reading):
            differences[difference] = None
        if sensor.extrinsics is None:
            try:
                transforms.lookup(base_frame, reading.frame_id, reading.stamp_ns)
            except TransformError as error:
                differences[f"no extrinsics in the rig file and none in /tf ({error})"] = None
    for difference in differences:
        yield f"{sensor.name}: {difference}"


def _compare_reading(sensor: Sensor, reading: Any) -> Iterator[str]:
    if sensor.intrinsics is not None:
        expected = sensor.intrinsics.width, sensor.intrinsics.height
        height, width = reading.pixels.shape[:2]
        if (width, height) != expected:
            yield f"images of {width}x{height}, the rig file has {expected[0]}x{expected[1]}"
    if sensor.limits is not None:
        for key in ("min_range", "max_range", "field_of_view"):
            received, expected = getattr(reading, key), getattr(sensor.limits, key)
            if abs(received - expected) > 0.05 * max(expected, 0.1):
                yield f"{key} {received:.3g}, the rig file has {expected:.3g}"


def _transforms(reader: AnyReader, notices: Notices) -> TransformTree:
    """The transforms at the start of a bag; static ones may be recorded later."""
    types = {c.topic: c.msgtype for c in reader.connections}
    transforms = BagTransforms(Counter(), notices)
    static_topic, moving_topic = transform_topics(types, notices)
    for topic in (static_topic, moving_topic):
        connections = [c for c in reader.connections if c.topic == topic and c.msgtype in TF_TYPES]
        if not connections:
            continue
        for i, (connection, record_ns, raw) in enumerate(reader.messages(connections)):
            if i >= MAX_TRANSFORM_MESSAGES:
                break
            message = reader.deserialize(raw, connection.msgtype)
            if topic == static_topic:
                transforms.add_static(record_ns, message)
            else:
                transforms.add_moving(message)
    return transforms.tree(reader.start_time if reader.message_count else 0)
