"""Bags with given messages, for tests of the bag reader."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import Writer

from multimodal_perception.datasets.bag_writer import RosbagsTypes, TopicWriter
from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders

TYPES = RosbagsTypes()
CLOUD, IMAGE = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Image"
INFO, TF = "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage"
START_NS = 1_700_000_000_000_000_000
Entry = tuple[int, str, str, Any]  # record time in ns after START_NS, topic, type, message


def write_messages(
    path: Path, entries: Iterable[Entry], latched: Iterable[str] = ("/tf_static",)
) -> Path:
    with Writer(path, version=9) as writer:
        topics = TopicWriter(writer, TYPES.store, tuple(latched))
        for record_ns, topic, name, message in sorted(entries, key=lambda e: e[0]):
            data = TYPES.store.serialize_cdr(message, name)
            topics.write(topic, name, START_NS + record_ns, data)
    return path


def cloud(ns: int, frame: str, count: int = 20, names: tuple[str, ...] = ("intensity",)) -> Any:
    rows = np.zeros(count, [(n, "<f4") for n in ("x", "y", "z", *names)])
    rows["x"] = 5.0 + np.arange(count)
    return encoders.points_to_message(TYPES, rows, START_NS + ns, frame)


def transform(parent: str, child: str, x: float, ns: int = 0, **more: tuple[str, float]) -> Any:
    pairs = {child: (parent, x), **more}
    return TYPES.new(
        TF,
        transforms=[
            encoders.transform_to_message(
                TYPES, poses.from_xyz_rpy((at, 0.0, 0.0)), above, name, START_NS + ns
            )
            for name, (above, at) in pairs.items()
        ],
    )


def image(ns: int, frame: str, encoding: str, values: Any) -> Any:
    values = np.ascontiguousarray(values)
    return TYPES.new(
        IMAGE,
        header=encoders.make_header(TYPES, START_NS + ns, frame),
        height=values.shape[0],
        width=values.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=values.nbytes // values.shape[0],
        data=values.reshape(-1).view(np.uint8),
    )
