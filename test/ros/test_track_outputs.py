"""Tracks as points: a reader of point clouds gets every value back."""

from __future__ import annotations

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField

from multimodal_perception.frame import CLASS_NAMES, Boxes3D
from multimodal_perception.messages.decoders import stamp_ns_of
from multimodal_perception.messages.message_types import RclpyTypes
from multimodal_perception.ros.track_outputs import tracks_message

KINDS = {
    PointField.UINT8: "u1",
    PointField.UINT32: "<u4",
    PointField.FLOAT32: "<f4",
}


def read(msg: PointCloud2) -> np.ndarray:
    """As any reader of point clouds: by the fields' own offsets and types."""
    dtype = np.dtype(
        {
            "names": [f.name for f in msg.fields],
            "formats": [KINDS[f.datatype] for f in msg.fields],
            "offsets": [f.offset for f in msg.fields],
            "itemsize": msg.point_step,
        }
    )
    assert msg.row_step == msg.width * msg.point_step == len(msg.data)
    return np.frombuffer(bytes(msg.data), dtype)


def tracked(ids: object, velocities: object) -> Boxes3D:
    boxes = np.arange(21, dtype=np.float32).reshape(3, 7)
    scores = np.array([0.9, 0.5, 0.25], np.float32)
    labels = np.array([1, 5, 6])
    told = None if velocities is None else np.array(velocities, np.float32)
    track_ids = None if ids is None else np.array(ids, np.int64)
    return Boxes3D(
        3_000_000_007, "base_link", boxes, scores, labels, velocities=told, track_ids=track_ids
    )


def test_every_tracked_box_is_a_point_with_all_its_values() -> None:
    boxes = tracked([7, -1, 2**31], [(1.5, -2), (9, 9), (np.nan, np.nan)])
    msg = tracks_message(RclpyTypes(), boxes)
    msg = deserialize_message(serialize_message(msg), PointCloud2)
    assert msg.header.frame_id == "base_link" and stamp_ns_of(msg) == 3_000_000_007
    first, last = read(msg)
    assert not msg.is_dense and msg.height == 1
    assert (first["x"], first["y"], first["z"], first["yaw"]) == (0, 1, 2, 6)
    assert (first["vx"], first["vy"], first["id"]) == (1.5, -2, 7)
    assert CLASS_NAMES[first["class"]] == "car" and CLASS_NAMES[last["class"]] == "cyclist"
    assert np.isnan(last["vx"]) and np.isnan(last["vy"]) and last["id"] == 2**31
    assert last["score"] == 0.25


def test_without_velocities_or_tracks() -> None:
    msg = tracks_message(RclpyTypes(), tracked([1, 2, 3], None))
    assert np.isnan(read(msg)["vx"]).all() and not msg.is_dense
    for boxes in (tracked(None, None), Boxes3D.empty(0, "base_link")):
        msg = tracks_message(RclpyTypes(), boxes)
        assert msg.width == 0 and msg.is_dense and not len(msg.data)
