"""Cuboids of PandaSet: from a table of its own columns to labels in the classes of this package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses

# Numbers of the LiDARs in the columns `d` and `cuboids.sensor_id`; -1 for cuboids of both.
MAIN_LIDAR, FRONT_LIDAR, BOTH_LIDARS = 0, 1, -1
# Class names of PandaSet to those of this package. The other names are read as "unknown".
CLASSES = {
    "Car": "car",
    "Pickup Truck": "truck",  # as in nuScenes and in the simulator
    "Medium-sized Truck": "truck",
    "Semi-truck": "truck",
    "Towed Object": "trailer",
    "Other Vehicle - Construction Vehicle": "truck",
    "Bus": "bus",
    "Train": "bus",
    "Trolley": "bus",
    "Tram / Subway": "bus",
    "Pedestrian": "pedestrian",
    "Pedestrian with Object": "pedestrian",
    "Cones": "cone",
    "Pylons": "cone",
    "Road Barriers": "barrier",
    "Temporary Construction Barriers": "barrier",
}
# Two-wheelers: with a rider this class, without a rider "unknown".
RIDER_CLASSES = {
    "Bicycle": "cyclist",
    "Motorcycle": "motorcyclist",
    "Motorized Scooter": "motorcyclist",
    "Personal Mobility Device": "cyclist",
    "Other Vehicle - Pedicab": "cyclist",
}
WITHOUT_RIDER = "Without Rider"
# An emergency vehicle is a truck from this length, else a car, metres.
EMERGENCY_TRUCK_LENGTH = 6.0
NUMERIC_COLUMNS = (
    "yaw",
    "position.x",
    "position.y",
    "position.z",
    "dimensions.x",
    "dimensions.y",
    "dimensions.z",
)
MAX_DIMENSION = 200.0


@dataclass(frozen=True)
class Cuboids:
    """Labelled objects of one frame, in the world frame.

    boxes: (N, 7) float64 x, y, z, length, width, height, yaw; yaw is the direction of the length.
    labels: PandaSet's class names. class_names: of this package. uuids: of the objects; an object with a
    cuboid in each LiDAR has the uuid of the one in the main LiDAR. stationary: (N,) whether the object
    stands still in the whole sequence. camera_used: (N,) number of the camera with which the position
    was checked, -1 if none. sensor_ids: (N,) MAIN_LIDAR, FRONT_LIDAR or BOTH_LIDARS. attributes: values
    of the columns `attributes.*` by their name without the prefix, None where they are not set.
    """

    boxes: NDArray[np.float64]
    labels: tuple[str, ...]
    class_names: tuple[str, ...]
    uuids: tuple[str, ...]
    stationary: NDArray[np.bool_]
    camera_used: NDArray[np.int64]
    sensor_ids: NDArray[np.int64]
    attributes: Mapping[str, tuple[str | None, ...]]

    def __len__(self) -> int:
        return len(self.boxes)

    def track_ids(self) -> NDArray[np.int64]:
        """Ids (N,) that are the same in all frames: a hash of the uuid with 53 bits."""
        return np.array([track_id(u) for u in self.uuids], np.int64)


def track_id(uuid: str) -> int:
    """A positive integer below 2**53 (exact in JSON and in float64) from a uuid."""
    digest = hashlib.blake2b(uuid.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 11


def cuboids_from_table(columns: Mapping[str, NDArray[Any]]) -> Cuboids:
    """Cuboids of the columns of one file; siblings of both LiDARs are one object.

    In the area of both LiDARs, a moving object has a cuboid for each of them, because they measure it at
    different times (`cuboids.sensor_id`, `cuboids.sibling_id`). The cuboid of the main LiDAR is kept.
    Raises ValueError for missing columns and impossible values.
    """
    missing = [n for n in ("uuid", "label", *NUMERIC_COLUMNS) if n not in columns]
    if missing:
        raise ValueError(f"missing columns: {', '.join(missing)}")
    values = np.stack([_numbers(columns[n], n) for n in NUMERIC_COLUMNS], axis=1)
    n = len(values)
    yaw, position, size = values[:, 0], values[:, 1:4], values[:, 4:7]
    if n and (size.min() <= 0.0 or size.max() > MAX_DIMENSION):
        raise ValueError(f"dimensions: allowed: above 0, at most {MAX_DIMENSION:g} m")
    # PandaSet's yaw is 0 for a length along the y axis; dimensions are width, length, height.
    boxes = np.column_stack(
        [position, size[:, [1, 0, 2]], poses.wrap_angle(yaw + np.pi / 2)]
    ).reshape(n, 7)
    uuids, labels = _texts(columns["uuid"], "uuid"), _texts(columns["label"], "label")
    sensor_ids = _integers(columns, "cuboids.sensor_id", n, BOTH_LIDARS)
    if n and not np.isin(sensor_ids, (BOTH_LIDARS, MAIN_LIDAR, FRONT_LIDAR)).all():
        raise ValueError("cuboids.sensor_id: allowed: -1, 0, 1")
    siblings = _optional_texts(columns, "cuboids.sibling_id", n)
    stationary = np.zeros(n, np.bool_)
    if "stationary" in columns:
        stationary = np.array([bool(v) for v in columns["stationary"]], np.bool_)
    attributes = {
        name.removeprefix("attributes."): _optional_texts(columns, name, n)
        for name in columns
        if name.startswith("attributes.")
    }
    riders = attributes.get("rider_status", (None,) * n)
    names = tuple(
        class_name(label, rider, float(length))
        for label, rider, length in zip(labels, riders, boxes[:, 3], strict=True)
    )
    kept, objects = _without_siblings(uuids, siblings, sensor_ids)
    return Cuboids(
        boxes[kept],
        tuple(labels[k] for k in kept),
        tuple(names[k] for k in kept),
        tuple(objects[k] for k in kept),
        stationary[kept],
        _integers(columns, "camera_used", n, -1)[kept],
        sensor_ids[kept],
        {name: tuple(v[k] for k in kept) for name, v in attributes.items()},
    )


def class_name(label: str, rider: str | None, length: float) -> str:
    """Class of this package for a class of PandaSet. rider: attribute rider_status. length: metres."""
    if label in RIDER_CLASSES:
        return "unknown" if rider == WITHOUT_RIDER else RIDER_CLASSES[label]
    if label == "Emergency Vehicle":
        return "truck" if length >= EMERGENCY_TRUCK_LENGTH else "car"
    return CLASSES.get(label, "unknown")


def _without_siblings(
    uuids: Sequence[str], siblings: Sequence[str | None], sensor_ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[str]]:
    """Numbers of the kept cuboids, and the uuid of the object of every cuboid."""
    of_main = {u for u, s in zip(uuids, sensor_ids, strict=True) if s == MAIN_LIDAR}
    kept, objects = [], []
    for k, (uuid, sibling, sensor) in enumerate(zip(uuids, siblings, sensor_ids, strict=True)):
        repeated = sensor == FRONT_LIDAR and sibling in of_main
        objects.append(sibling if sensor == FRONT_LIDAR and sibling else uuid)
        if not repeated:
            kept.append(k)
    return np.array(kept, np.int64), objects


def _numbers(column: NDArray[Any], name: str) -> NDArray[np.float64]:
    """A column of finite numbers (N,); some files have them as texts."""
    try:
        values = np.array([float(v) for v in column.tolist()], np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers") from error
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: expected finite numbers")
    return values


def _integers(
    columns: Mapping[str, NDArray[Any]], name: str, n: int, default: int
) -> NDArray[np.int64]:
    """A column of integers (N,), the default where it is absent or not set."""
    if name not in columns:
        return np.full(n, default, np.int64)
    values = []
    for value in columns[name].tolist():
        absent = value is None or value == "" or value != value
        try:
            values.append(default if absent else int(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{name}: expected integers") from error
    return np.array(values, np.int64)


def _texts(column: NDArray[Any], name: str) -> tuple[str, ...]:
    values = column.tolist()
    if not all(isinstance(v, str) for v in values):
        raise ValueError(f"{name}: expected texts")
    return tuple(values)


def _optional_texts(
    columns: Mapping[str, NDArray[Any]], name: str, n: int
) -> tuple[str | None, ...]:
    """A column of texts; None where it is absent, empty or not set (NaN)."""
    if name not in columns:
        return (None,) * n
    return tuple(v if isinstance(v, str) and v else None for v in columns[name].tolist())
