"""Recordings of frames and results for the Rerun viewer (.rrd)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.perception import Perception
from multimodal_perception.visualization.palette import GROUND_TRUTH, Colour, class_colour


def write_recording(path: Path, results: Iterable[tuple[SensorFrame, Perception]]) -> int:
    """Write frames with their boxes, labels and occupancy grids. Returns the number of frames.

    Raises UserError if rerun-sdk is not installed or the file cannot be written.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise UserError("a .rrd recording needs rerun-sdk: pip install rerun-sdk") from error
    stream = rr.RecordingStream("multimodal_perception")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream.save(str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: {error}") from error
    stream.log("base_link", rr.ViewCoordinates.FLU, static=True)
    count = 0
    for frame, perception in results:
        stream.set_time("stamp", timestamp=np.datetime64(frame.stamp_ns, "ns"))
        _log_sensors(rr, stream, frame)
        _log_boxes(rr, stream, "base_link/objects", perception.boxes, None)
        if frame.labels is not None:
            _log_boxes(rr, stream, "base_link/labels", frame.labels, GROUND_TRUTH)
        if perception.occupancy is not None:
            percent = np.rint(100 * perception.occupancy.probability()).astype(np.uint8)
            # x (forward) points up and y (left) points left, as in the PNG images.
            stream.log("occupancy", rr.Image(np.ascontiguousarray(percent.T[::-1, ::-1]) * 2))
        count += 1
    stream.flush()
    return count


def _log_sensors(rr, stream, frame: SensorFrame) -> None:  # type: ignore[no-untyped-def]
    points = frame.points_in_base()
    height_ratio = np.clip(points[:, 2] / 3.0, 0.0, 1.0)[:, None]
    colours = (90 + height_ratio * (255 - 90) * np.array([1.0, 0.8, 0.5])).astype(np.uint8)
    stream.log("base_link/points", rr.Points3D(points[:, :3], colors=colours, radii=0.02))
    for name, image in frame.cameras.items():
        pose = frame.reference_from_sensor(name)
        translation, quaternion = poses.to_quaternion(pose)
        entity = f"base_link/{name}"
        rotation = rr.Quaternion(xyzw=quaternion)
        stream.log(entity, rr.Transform3D(translation=translation, rotation=rotation))
        model = frame.intrinsics[name]
        pinhole = rr.Pinhole(image_from_camera=model.matrix, width=model.width, height=model.height)
        stream.log(entity, pinhole)
        stream.log(entity, rr.Image(np.ascontiguousarray(image.rgb())).compress(jpeg_quality=85))


def _log_boxes(rr, stream, entity: str, boxes: Boxes3D, colour: Colour | None) -> None:  # type: ignore[no-untyped-def]
    names = [boxes.class_names[label] for label in boxes.labels]
    half_yaw = boxes.boxes[:, 6] / 2
    zero = np.zeros_like(half_yaw)
    quaternions = np.column_stack([zero, zero, np.sin(half_yaw), np.cos(half_yaw)])
    stream.log(
        entity,
        rr.Boxes3D(
            centers=boxes.boxes[:, :3],
            sizes=boxes.boxes[:, 3:6],
            quaternions=quaternions,
            labels=[f"{n} {s:.2f}" for n, s in zip(names, boxes.scores, strict=True)],
            colors=[class_colour(n) if colour is None else colour for n in names],
        ),
    )
