"""Encode readings and results as ROS messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import (
    Boxes3D,
    CameraImage,
    LidarSweep,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.perception import Boxes2D, OccupancyGrid

# numpy type codes to datatypes of sensor_msgs/PointField.
POINT_TYPES = {"u1": 2, "u2": 4, "u4": 6, "f4": 7}


def make_header(types: MessageTypes, stamp_ns: int, frame_id: str) -> Any:
    """Create a std_msgs/Header."""
    return types.new("std_msgs/msg/Header", stamp=make_time(types, stamp_ns), frame_id=frame_id)


def make_time(types: MessageTypes, stamp_ns: int) -> Any:
    """Create a builtin_interfaces/Time from nanoseconds."""
    seconds, nanoseconds = divmod(int(stamp_ns), NANOSECONDS_PER_SECOND)
    return types.new("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)


def boxes_to_message(types: MessageTypes, boxes: Boxes3D) -> Any:
    """Encode 3D boxes as Detection3DArray: class_id is the class name, id the track id if any."""
    head = make_header(types, boxes.stamp_ns, boxes.frame_id)
    tracks = [-1] * len(boxes) if boxes.track_ids is None else boxes.track_ids.tolist()
    detections = []
    for i in range(len(boxes)):
        pose = make_pose(types, boxes.boxes[i, :3], float(boxes.boxes[i, 6]))
        length, width, height = map(float, boxes.boxes[i, 3:6])
        size = types.new("geometry_msgs/msg/Vector3", x=length, y=width, z=height)
        hypothesis = types.new(
            "vision_msgs/msg/ObjectHypothesis",
            class_id=boxes.class_names[boxes.labels[i]],
            score=float(boxes.scores[i]),
        )
        # All zeros mean that the covariance is unknown.
        flat = np.zeros(36) if boxes.covariances is None else boxes.covariances[i].reshape(-1)
        covariance = types.values(flat.astype(np.float64))
        with_pose = types.new(
            "vision_msgs/msg/ObjectHypothesisWithPose",
            hypothesis=hypothesis,
            pose=types.new(
                "geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=covariance
            ),
        )
        detections.append(
            types.new(
                "vision_msgs/msg/Detection3D",
                header=head,
                results=[with_pose],
                bbox=types.new("vision_msgs/msg/BoundingBox3D", center=pose, size=size),
                id=str(tracks[i]) if tracks[i] >= 0 else "",
            )
        )
    return types.new("vision_msgs/msg/Detection3DArray", header=head, detections=detections)


def image_boxes_to_message(types: MessageTypes, boxes: Boxes2D, frame_id: str) -> Any:
    """Encode 2D boxes as Detection2DArray: centre and size in pixels, class_id is the class name."""
    head = make_header(types, boxes.stamp_ns, frame_id)
    unknown = types.new(
        "geometry_msgs/msg/PoseWithCovariance",
        pose=make_pose(types, (0.0, 0.0, 0.0), 0.0),
        covariance=types.values(np.zeros(36)),
    )
    detections = []
    for i in range(len(boxes)):
        x1, y1, x2, y2 = map(float, boxes.boxes[i])
        point = types.new("vision_msgs/msg/Point2D", x=(x1 + x2) / 2, y=(y1 + y2) / 2)
        hypothesis = types.new(
            "vision_msgs/msg/ObjectHypothesis",
            class_id=boxes.class_names[boxes.labels[i]],
            score=float(boxes.scores[i]),
        )
        box = types.new(
            "vision_msgs/msg/BoundingBox2D",
            center=types.new("vision_msgs/msg/Pose2D", position=point, theta=0.0),
            size_x=x2 - x1,
            size_y=y2 - y1,
        )
        result = types.new(
            "vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=unknown
        )
        detections.append(
            types.new("vision_msgs/msg/Detection2D", header=head, results=[result], bbox=box, id="")
        )
    return types.new("vision_msgs/msg/Detection2DArray", header=head, detections=detections)


def occupancy_to_message(types: MessageTypes, grid: OccupancyGrid, cells: NDArray[np.int8]) -> Any:
    """Encode a nav_msgs/OccupancyGrid with the geometry of `grid`.

    cells: values (rows, columns), -1 to 100; see occupancy.layers.
    """
    rows, columns = cells.shape
    info = types.new(
        "nav_msgs/msg/MapMetaData",
        map_load_time=make_time(types, grid.stamp_ns),
        resolution=float(grid.resolution),
        width=columns,
        height=rows,
        origin=make_pose(types, (*grid.origin, 0.0), 0.0),
    )
    head = make_header(types, grid.stamp_ns, grid.frame_id)
    data = types.values(cells.reshape(-1))
    return types.new("nav_msgs/msg/OccupancyGrid", header=head, info=info, data=data)


def occupancy_update_to_message(
    types: MessageTypes, grid: OccupancyGrid, cells: NDArray[np.int8], corner: tuple[int, int]
) -> Any:
    """Encode a map_msgs/OccupancyGridUpdate: new values of a rectangle of cells of a map.

    cells: (rows, columns), -1 to 100. corner: column and row of the first cell in the map.
    """
    rows, columns = cells.shape
    return types.new(
        "map_msgs/msg/OccupancyGridUpdate",
        header=make_header(types, grid.stamp_ns, grid.frame_id),
        x=corner[0],
        y=corner[1],
        width=columns,
        height=rows,
        data=types.values(cells.reshape(-1)),
    )


def sweep_to_message(types: MessageTypes, sweep: LidarSweep) -> Any:
    """Encode a sweep as PointCloud2 with x y z intensity float32, and ring and time if available."""
    layout = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")]
    if sweep.rings is not None:
        layout.append(("ring", "<u2"))
    if sweep.time_offsets is not None:
        layout.append(("time", "<f4"))
    if len(layout) == 4:
        rows = np.ascontiguousarray(sweep.points).view(np.dtype(layout)).reshape(-1)
    else:
        rows = np.zeros(len(sweep.points), np.dtype(layout))
        for i, axis in enumerate(("x", "y", "z", "intensity")):
            rows[axis] = sweep.points[:, i]
        if sweep.rings is not None:
            rows["ring"] = sweep.rings
        if sweep.time_offsets is not None:
            rows["time"] = sweep.time_offsets
    return points_to_message(types, rows, sweep.stamp_ns, sweep.frame_id)


def points_to_message(
    types: MessageTypes, rows: NDArray[np.void], stamp_ns: int, frame_id: str, dense: bool = True
) -> Any:
    """Encode a structured array (N,) as PointCloud2. dense: whether all values are finite."""
    dtype = rows.dtype
    fields = [
        types.new(
            "sensor_msgs/msg/PointField",
            name=name,
            offset=int(layout[1]),
            datatype=POINT_TYPES[layout[0].str[1:]],
            count=1,
        )
        for name, layout in (dtype.fields or {}).items()
    ]
    return types.new(
        "sensor_msgs/msg/PointCloud2",
        header=make_header(types, stamp_ns, frame_id),
        height=1,
        width=len(rows),
        fields=fields,
        is_bigendian=False,
        point_step=dtype.itemsize,
        row_step=dtype.itemsize * len(rows),
        data=types.values(rows.view(np.uint8).reshape(-1)),
        is_dense=dense,
    )


def image_to_message(types: MessageTypes, image: CameraImage | ThermalImage) -> Any:
    """Encode an image as sensor_msgs/Image without converting its pixels."""
    pixels = np.ascontiguousarray(image.pixels)
    if isinstance(image, CameraImage):
        encoding: str = image.encoding
    else:
        encoding = "mono8" if pixels.dtype == np.uint8 else "mono16"
    return types.new(
        "sensor_msgs/msg/Image",
        header=make_header(types, image.stamp_ns, image.frame_id),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.nbytes // pixels.shape[0],
        data=types.values(pixels.reshape(-1).view(np.uint8)),
    )


def camera_info_to_message(
    types: MessageTypes,
    camera: CameraModel,
    stamp_ns: int,
    frame_id: str,
    camera_from_optical: NDArray[np.float64] | None = None,
    rectified: bool = False,
) -> Any:
    """Encode a camera model as CameraInfo; pinhole becomes plumb_bob with zero distortion.

    camera_from_optical: pose (4, 4) of rectified images, see CameraCalibration; it is written to R and
    the fourth column of P. rectified: whether the name of the image topic marks the images as
    rectified; if it does not, K is zero, so that a decoder uses P and R.
    """
    model = "plumb_bob" if camera.model == "pinhole" else camera.model
    coefficients = np.zeros(5) if camera.model == "pinhole" else camera.coefficients
    projection = np.zeros((3, 4))
    projection[:, :3] = camera.matrix
    rotation, k = np.eye(3), camera.matrix
    if camera_from_optical is not None:
        rotation = camera_from_optical[:3, :3]
        projection[:, 3] = camera.matrix @ camera_from_optical[:3, 3]
        k = camera.matrix if rectified else np.zeros((3, 3))
    return types.new(
        "sensor_msgs/msg/CameraInfo",
        header=make_header(types, stamp_ns, frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model=model,
        d=types.values(coefficients),
        k=types.values(k.reshape(-1)),
        r=types.values(rotation.reshape(-1)),
        p=types.values(projection.reshape(-1)),
        binning_x=0,
        binning_y=0,
        roi=types.new(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=0,
            y_offset=0,
            height=0,
            width=0,
            do_rectify=False,
        ),
    )


def range_to_message(types: MessageTypes, reading: UltrasonicReading) -> Any:
    """Encode an ultrasonic reading as sensor_msgs/Range."""
    return types.new(
        "sensor_msgs/msg/Range",
        header=make_header(types, reading.stamp_ns, reading.frame_id),
        radiation_type=0,
        field_of_view=reading.field_of_view,
        min_range=reading.min_range,
        max_range=reading.max_range,
        range=reading.range_m,
        variance=0.0,
    )


def transform_to_message(
    types: MessageTypes, parent_from_child: NDArray[np.float64], parent: str, child: str, ns: int
) -> Any:
    """Encode a pose (4, 4) as geometry_msgs/TransformStamped."""
    (x, y, z), (qx, qy, qz, qw) = poses.to_quaternion(parent_from_child)
    return types.new(
        "geometry_msgs/msg/TransformStamped",
        header=make_header(types, ns, parent),
        child_frame_id=child,
        transform=types.new(
            "geometry_msgs/msg/Transform",
            translation=types.new("geometry_msgs/msg/Vector3", x=float(x), y=float(y), z=float(z)),
            rotation=types.new(
                "geometry_msgs/msg/Quaternion", x=float(qx), y=float(qy), z=float(qz), w=float(qw)
            ),
        ),
    )


def make_pose(types: MessageTypes, xyz: Any, yaw: float) -> Any:
    """Create a geometry_msgs/Pose from a position (3,) in metres and a rotation about z in radians."""
    x, y, z = map(float, xyz)
    half = yaw / 2
    return types.new(
        "geometry_msgs/msg/Pose",
        position=types.new("geometry_msgs/msg/Point", x=x, y=y, z=z),
        orientation=types.new(
            "geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=math.sin(half), w=math.cos(half)
        ),
    )
