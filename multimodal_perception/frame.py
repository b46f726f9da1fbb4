"""The nouns: what a sensor gave, what one moment holds, and what was perceived.

Frozen dataclasses over numpy arrays. Stamps are integer nanoseconds of the message clock. Frames of
reference follow REP 103 and REP 105: x forward, y left, z up; optical frames z forward, x right,
y down.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel

# The classes of the whole package; a label outside them is UNKNOWN.
CLASS_NAMES = ("unknown", "car", "van", "truck", "bus", "pedestrian", "cyclist", "cone", "barrier")
UNKNOWN = 0


class Modality(str, Enum):
    """The kinds of sensor."""

    LIDAR = "lidar"
    CAMERA = "camera"
    THERMAL = "thermal"
    ULTRASONIC = "ultrasonic"


@dataclass(frozen=True)
class LidarSweep:
    """One turn (or one message) of a LiDAR, in the sensor's own frame.

    points: (N, 4) float32, x y z intensity, metres; every row finite, intensity in the driver's unit.
    time_offsets: (N,) float32, seconds to add to the stamp for each point, or None.
    rings: (N,) uint16, beam number, or None.
    """

    sensor: str
    stamp_ns: int
    frame_id: str
    points: NDArray[np.float32]
    time_offsets: NDArray[np.float32] | None = None
    rings: NDArray[np.uint16] | None = None

    def __post_init__(self) -> None:
        _require(self.points.ndim == 2 and self.points.shape[1] == 4, "points must be (N, 4)")
        _require(self.points.dtype == np.float32, "points must be float32")
        for name in ("time_offsets", "rings"):
            values = getattr(self, name)
            _require(values is None or values.shape == (len(self.points),), f"{name} must be (N,)")


@dataclass(frozen=True)
class CameraImage:
    """One visible image.

    pixels: (H, W, 3) uint8 in the order `encoding` names, or (H, W) uint8 when it is mono8. It may
    be a read-only view of a message.
    """

    sensor: str
    stamp_ns: int
    frame_id: str
    pixels: NDArray[np.uint8]
    encoding: Literal["rgb8", "bgr8", "mono8"] = "rgb8"

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.encoding == "mono8":
            _require(len(shape) == 2, "mono8 pixels must be (H, W)")
        else:
            _require(len(shape) == 3 and shape[2] == 3, f"{self.encoding} pixels must be (H, W, 3)")
        _require(self.pixels.dtype == np.uint8, "pixels must be uint8")

    def rgb(self) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) uint8, red first; a view where the encoding allows."""
        if self.encoding == "rgb8":
            return self.pixels
        if self.encoding == "bgr8":
            return self.pixels[..., ::-1]
        return np.repeat(self.pixels[..., None], 3, axis=2)


@dataclass(frozen=True)
class ThermalImage:
    """One thermal image.

    pixels: (H, W) uint8 (after the camera's own gain control) or uint16 (radiometric counts).
    kelvin: scale and offset that turn counts into kelvin, where the camera is radiometric.
    """

    sensor: str
    stamp_ns: int
    frame_id: str
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    kelvin: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _require(self.pixels.ndim == 2, "pixels must be (H, W)")
        _require(self.pixels.dtype in (np.uint8, np.uint16), "pixels must be uint8 or uint16")


@dataclass(frozen=True)
class UltrasonicReading:
    """One range of an ultrasonic sensor, as sensor_msgs/Range and REP 117 define it.

    range_m: metres; +inf nothing within max_range, -inf nearer than min_range, NaN: none.
    field_of_view: full cone angle, radians.
    """

    sensor: str
    stamp_ns: int
    frame_id: str
    range_m: float
    min_range: float
    max_range: float
    field_of_view: float


Reading = LidarSweep | CameraImage | ThermalImage | UltrasonicReading


@dataclass(frozen=True)
class Boxes3D:
    """N oriented boxes in one frame of reference.

    boxes: (N, 7) float32, x y z length width height yaw, metres and radians; x y z is the middle.
    scores: (N,) float32 in [0, 1]. labels: (N,) int64, index into class_names.
    velocities: (N, 2) float32, metres a second, or None. track_ids: (N,) int64 or None.
    num_points: (N,) int64, LiDAR points inside, or None. visibility: (N,) float32 in [0, 1], share
    that is in sight, or None. covariances: (N, 6, 6) float32 of x y z and turns about x y z, as
    geometry_msgs/PoseWithCovariance orders them, metres and radians squared, or None where not known.
    """

    stamp_ns: int
    frame_id: str
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] = CLASS_NAMES
    velocities: NDArray[np.float32] | None = None
    track_ids: NDArray[np.int64] | None = None
    num_points: NDArray[np.int64] | None = None
    visibility: NDArray[np.float32] | None = None
    covariances: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        _require(self.boxes.shape == (n, 7), "boxes must be (N, 7)")
        _require(
            self.scores.shape == (n,) and self.labels.shape == (n,), "one score, one label a box"
        )
        for name in ("velocities", "track_ids", "num_points", "visibility", "covariances"):
            values = getattr(self, name)
            _require(values is None or len(values) == n, f"{name} must have one row a box")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls, stamp_ns: int, frame_id: str) -> Boxes3D:
        """No boxes."""
        none = np.zeros(0)
        return cls(
            stamp_ns,
            frame_id,
            np.zeros((0, 7), np.float32),
            none.astype(np.float32),
            none.astype(np.int64),
        )

    def select(self, index: Any) -> Boxes3D:
        """The boxes that a mask (N,) or indices choose, in that order."""
        optional = (
            self.velocities,
            self.track_ids,
            self.num_points,
            self.visibility,
            self.covariances,
        )
        return Boxes3D(
            self.stamp_ns,
            self.frame_id,
            self.boxes[index],
            self.scores[index],
            self.labels[index],
            self.class_names,
            *(None if values is None else values[index] for values in optional),
        )

    def transformed(self, target_from_source: NDArray[np.float64], frame_id: str) -> Boxes3D:
        """The same boxes in another frame; only the heading of the rotation turns their yaw."""
        boxes = self.boxes.copy()
        boxes[:, :3] = poses.transform_points(target_from_source, self.boxes[:, :3])
        turn = poses.yaw_of(target_from_source)
        boxes[:, 6] = poses.wrap_angle(self.boxes[:, 6] + turn)
        velocities = self.velocities
        if velocities is not None:
            c, s = np.cos(turn), np.sin(turn)
            velocities = velocities @ np.array([[c, s], [-s, c]], velocities.dtype)
        covariances = self.covariances
        if covariances is not None:
            both = np.kron(np.eye(2), target_from_source[:3, :3])
            covariances = (both @ covariances @ both.T).astype(np.float32)
        return Boxes3D(
            self.stamp_ns,
            frame_id,
            boxes,
            self.scores,
            self.labels,
            self.class_names,
            velocities,
            self.track_ids,
            self.num_points,
            self.visibility,
            covariances,
        )


class OwnVehicle(NamedTuple):
    """Where the vehicle itself stands: a rectangle in base_link, metres."""

    rear: float
    front: float
    right: float
    left: float

    def holds(self, xy: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which of the points (N, 2 or more), x and y in base_link first, lie over or in it."""
        x, y = xy[:, 0], xy[:, 1]
        return (x > self.rear) & (x < self.front) & (y > self.right) & (y < self.left)


@dataclass(frozen=True)
class SensorFrame:
    """What the sensors of one vehicle say about one moment, with the calibration that goes with it.

    A sensor that said nothing is absent from the mappings and present in `expected`.

    base_from_sensor: pose (4, 4) by sensor. For cameras and thermal it is the optical frame's.
    intrinsics: camera model by camera or thermal sensor.
    reference_from_base: pose (4, 4) by sensor, from base_link at the reading's stamp to that at the
    frame's; absent where the motion is unknown (then taken as none).
    odom_from_base: pose (4, 4) at the frame's stamp, or None without odometry.
    own_vehicle: returns from there are of the vehicle itself; None where that is unknown.
    """

    stamp_ns: int
    base_frame: str = "base_link"
    lidars: Mapping[str, LidarSweep] = field(default_factory=dict)
    cameras: Mapping[str, CameraImage] = field(default_factory=dict)
    thermals: Mapping[str, ThermalImage] = field(default_factory=dict)
    ultrasonics: Mapping[str, UltrasonicReading] = field(default_factory=dict)
    base_from_sensor: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    intrinsics: Mapping[str, CameraModel] = field(default_factory=dict)
    reference_from_base: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    odom_from_base: NDArray[np.float64] | None = None
    expected: frozenset[str] = frozenset()
    labels: Boxes3D | None = None
    own_vehicle: OwnVehicle | None = None

    @property
    def readings(self) -> dict[str, Reading]:
        """All readings by sensor."""
        return {**self.lidars, **self.cameras, **self.thermals, **self.ultrasonics}

    @property
    def present(self) -> frozenset[str]:
        """Names of the sensors that have a reading here."""
        return frozenset(self.readings)

    @property
    def missing(self) -> frozenset[str]:
        """Names of the expected sensors that have none."""
        return self.expected - self.present

    def only(self, modalities: Collection[Modality]) -> SensorFrame:
        """The frame without the readings of all other kinds of sensor, which are missing then."""
        return replace(
            self,
            lidars=self.lidars if Modality.LIDAR in modalities else {},
            cameras=self.cameras if Modality.CAMERA in modalities else {},
            thermals=self.thermals if Modality.THERMAL in modalities else {},
            ultrasonics=self.ultrasonics if Modality.ULTRASONIC in modalities else {},
        )

    def reference_from_sensor(self, sensor: str) -> NDArray[np.float64]:
        """Pose (4, 4) from a sensor at its reading's stamp to base_link at the frame's stamp.

        Raises KeyError when the sensor has no extrinsics.
        """
        pose = self.base_from_sensor[sensor]
        motion = self.reference_from_base.get(sensor)
        return pose if motion is None else motion @ pose

    def points_in_base(self) -> NDArray[np.float32]:
        """All LiDAR points (N, 4) float32, x y z intensity, in base_link at the frame's stamp."""
        clouds = []
        for name, sweep in self.lidars.items():
            cloud = np.empty_like(sweep.points)
            cloud[:, :3] = poses.transform_points(
                self.reference_from_sensor(name), sweep.points[:, :3]
            )
            cloud[:, 3] = sweep.points[:, 3]
            clouds.append(cloud)
        return np.concatenate(clouds) if clouds else np.zeros((0, 4), np.float32)


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)
