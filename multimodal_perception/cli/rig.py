"""A rig file checked, drawn, and held against a recording."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.bag import open_reader, readable
from multimodal_perception.frame import Modality
from multimodal_perception.geometry.transform_tree import TransformError, TransformTree
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.frame_messages import TRUTH
from multimodal_perception.messages.intake import MOVING_TOPIC, STATIC_TOPIC, decode, set_transforms
from multimodal_perception.rig import MESSAGE_TYPES, Rig, Sensor, load_rig, rig_path
from multimodal_perception.synchronization.sensor_health import HealthConfig
from multimodal_perception.visualization.rig_view import coverage, draw_rig
from multimodal_perception.visualization.sheet import save_png

# Of a sensor's messages so many are decoded: what is wrong is wrong from the start.
MOST_DECODED = 5
# Transforms, which may come late, are read for so many messages.
MOST_TRANSFORMS = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=("check",))
    parser.add_argument("file", help="rig file, or the name of a shipped rig")
    parser.add_argument("--bag", type=Path, help="recording that should fit it")
    parser.add_argument("--out", type=Path, help="picture; default: out/rig_NAME.png")
    parser.add_argument("--extent", type=float, help="metres to each side in the picture")


def run(args: argparse.Namespace) -> int:
    if args.extent is not None and not 1.0 <= args.extent <= 200.0:
        raise UserError("--extent must be 1 to 200 m")
    rig = load_rig(rig_path(args.file))
    print(f"rig {rig.name}: {len(rig.sensors)} sensors")
    for kind in Modality:
        share = coverage(rig, kind)
        if rig.of(kind):
            seen = "view unknown" if share is None else f"{100 * share:.0f} % of all directions"
            print(f"  {len(rig.of(kind)):2d} {kind.value:10s} {seen}")
    for note in notes(rig):
        print(f"note: {note}")
    out = args.out or Path("out") / f"rig_{rig.name}.png"
    length = max(rig.footprint or (0.0,))
    save_png(out, draw_rig(rig, args.extent or (6.0 if length < 2.0 else 15.0)))
    print(f"drawn: {out}")
    if args.bag is None:
        return 0
    faults = list(compare(rig, args.bag))
    for fault in faults:
        print(f"bag: {fault}")
    print(f"{args.bag}: {len(faults)} differences" if faults else f"{args.bag}: fits")
    return 1 if faults else 0


def notes(rig: Rig) -> Iterator[str]:
    """What a file leaves open, which is no fault."""
    for name, sensor in rig.sensors.items():
        if sensor.extrinsics is None:
            yield f"{name}: place comes from /tf ({rig.base_frame} to {sensor.frame_id})"
        if sensor.modality is Modality.ULTRASONIC and sensor.limits is None:
            yield f"{name}: no limits, its view is not drawn"
        if sensor.tolerance_s < 0.5 / sensor.rate_hz and not sensor.reuse_s:
            yield (
                f"{name}: at {sensor.rate_hz:g} Hz a reading may be {0.5 / sensor.rate_hz:.3f} s from "
                f"a frame, tolerance_s is {sensor.tolerance_s:g}: some frames will lack it"
            )


def compare(rig: Rig, path: Path) -> Iterator[str]:
    """What of a recording does not fit a rig. Raises UserError when it cannot be read."""
    with readable(path), closing(open_reader(path)) as reader:
        yield from _compare(rig, reader)


def _compare(rig: Rig, reader: AnyReader) -> Iterator[str]:
    types = {c.topic: c.msgtype for c in reader.connections}
    counts: dict[str, int] = {}
    for connection in reader.connections:
        counts[connection.topic] = counts.get(connection.topic, 0) + connection.msgcount
    seconds = reader.duration / 1e9
    transforms, limits = _transforms(reader), HealthConfig()
    for name, sensor in rig.sensors.items():
        if not counts.get(sensor.topic):
            yield f"{name}: nothing on {sensor.topic}"
            continue
        if types[sensor.topic] != sensor.message:
            yield f"{name}: {sensor.topic} is {types[sensor.topic]}, the file says {sensor.message}"
            continue
        rate_hz = (counts[sensor.topic] - 1) / seconds if seconds > 0 else 0.0
        if (
            counts[sensor.topic] >= 10
            and not limits.slow <= rate_hz / sensor.rate_hz <= limits.fast
        ):
            yield f"{name}: {rate_hz:.1f} Hz on {sensor.topic}, the file says {sensor.rate_hz:g} Hz"
        info = sensor.camera_info_topic
        if info is not None and not counts.get(info):
            has = "no intrinsics" if sensor.intrinsics is None else "the file's intrinsics serve"
            yield f"{name}: nothing on {info} ({has})"
        yield from _look_into(sensor, reader, transforms, rig.base_frame)
    known = {s.topic for s in rig.sensors.values()}
    kinds = {message for allowed in MESSAGE_TYPES.values() for message in allowed}
    for topic in sorted(types.keys() - known):
        if types[topic] in kinds and not topic.startswith(f"{TRUTH}/"):
            yield f"{topic} ({types[topic]}) is no sensor of the file"
    if rig.odometry_topic is not None and not counts.get(rig.odometry_topic):
        yield f"no odometry on {rig.odometry_topic}"


def _look_into(
    sensor: Sensor, reader: AnyReader, transforms: TransformTree, base_frame: str
) -> Iterator[str]:
    """What the first messages of a sensor say against the file, each complaint once."""
    complaints: dict[str, None] = {}
    connections = [c for c in reader.connections if c.topic == sensor.topic]
    for i, (connection, _, raw) in enumerate(reader.messages(connections)):
        if i >= MOST_DECODED:
            break
        message = reader.deserialize(raw, connection.msgtype)
        try:
            reading = decode(message, sensor, stamp_ns_of(message))
        except MessageError as error:
            complaints[f"cannot be used: {error}"] = None
            continue
        if sensor.frame_id and reading.frame_id.lstrip("/") != sensor.frame_id.lstrip("/"):
            complaints[f"frame_id {reading.frame_id!r}, the file says {sensor.frame_id!r}"] = None
        for complaint in _contradictions(sensor, reading):
            complaints[complaint] = None
        if sensor.extrinsics is None:
            try:
                transforms.lookup(base_frame, reading.frame_id, reading.stamp_ns)
            except TransformError as error:
                complaints[f"no place in the file and none in /tf ({error})"] = None
    for complaint in complaints:
        yield f"{sensor.name}: {complaint}"


def _contradictions(sensor: Sensor, reading: Any) -> Iterator[str]:
    if sensor.intrinsics is not None:
        said = sensor.intrinsics.width, sensor.intrinsics.height
        height, width = reading.pixels.shape[:2]
        if (width, height) != said:
            yield f"images of {width}x{height}, the file says {said[0]}x{said[1]}"
    if sensor.limits is not None:
        for key in ("min_range", "max_range", "field_of_view"):
            seen, said = getattr(reading, key), getattr(sensor.limits, key)
            if abs(seen - said) > 0.05 * max(said, 0.1):
                yield f"{key} {seen:.3g}, the file says {said:.3g}"


def _transforms(reader: AnyReader) -> TransformTree:
    tree, unusable = TransformTree(keep_s=1e6), Counter[tuple[str, str]]()
    for topic in (STATIC_TOPIC, MOVING_TOPIC):
        connections = [c for c in reader.connections if c.topic == topic]
        if not connections:
            continue
        for i, (connection, _, raw) in enumerate(reader.messages(connections)):
            if i >= MOST_TRANSFORMS:
                break
            message = reader.deserialize(raw, connection.msgtype)
            set_transforms(tree, message, topic == STATIC_TOPIC, unusable)
    return tree
