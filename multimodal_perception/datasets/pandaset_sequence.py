"""One sequence of PandaSet, see pandaset for the layout and the frames."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.file_limits import read_colour_image, read_json
from multimodal_perception.datasets.nuscenes import dataset_errors
from multimodal_perception.datasets.pandas_pickle import read_frame
from multimodal_perception.datasets.pandaset_cuboids import (
    FRONT_LIDAR,
    MAIN_LIDAR,
    Cuboids,
    cuboids_from_table,
)
from multimodal_perception.datasets.pandaset_files import (
    MAX_COORDINATE,
    MAX_FRAMES,
    MAX_JSON_BYTES,
    SUFFIXES,
    RecordedCamera,
    frame_stem,
    match_rows,
    numbered_files,
    open_cameras,
    read_poses,
)
from multimodal_perception.frame import (
    CLASS_NAMES,
    Boxes3D,
    CameraImage,
    LidarSweep,
    Modality,
    SensorFrame,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import count_points_in_boxes
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.pointcloud.returns import find_returns
from multimodal_perception.rig import Rig, Sensor

LIDAR, FRONT = "lidar", "front_lidar"
LIDAR_NUMBERS = {LIDAR: MAIN_LIDAR, FRONT: FRONT_LIDAR}
# Height of the main LiDAR above the ground, metres: fitted to the ground of scene 002.
LIDAR_HEIGHT = 2.15
# Position of the front LiDAR relative to the main LiDAR, x forward, metres: from the devkit's
# docs/static_extrinsic_calibration.yaml.
FRONT_POSITION = (0.606, 0.0, -0.302)
FORWARD_CAMERA = "front_camera"
# The recording vehicle, a Chrysler Pacifica: length and width in metres, and its centre in base_link.
FOOTPRINT, FOOTPRINT_OFFSET_X = (5.2, 2.1), -0.6
POINT_COLUMNS = ("x", "y", "z", "i")
# A velocity is computed from cuboids in the neighbouring frames within this time, seconds.
MAX_VELOCITY_INTERVAL_S = 0.5


class PandaSetSequence:
    """One sequence. Files are read on access; poses, times and intrinsics when it is opened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files = numbered_files(root / "lidar", SUFFIXES)
        if len(self._files) > MAX_FRAMES:
            raise DatasetError(f"{root / 'lidar'}: more than {MAX_FRAMES} frames")
        world_from_lidar, stamps = read_poses(root / "lidar")
        rows = match_rows(self._files, len(stamps), root / "lidar")
        self._stamps_ns, world_from_lidar = stamps[rows], world_from_lidar[rows]
        self._rows = dict(zip(self._files, rows.tolist(), strict=True))
        self.cameras = open_cameras(root)
        self.base_from_lidar = _base_from_lidar(world_from_lidar, rows, self.cameras)
        lidar_from_base = poses.inverse(self.base_from_lidar)
        self._world_from_base = world_from_lidar @ lidar_from_base
        self._base_from_camera = {
            name: self._mean_extrinsics(camera) for name, camera in self.cameras.items()
        }
        front = poses.from_xyz_rpy(FRONT_POSITION)
        front[2, 3] += LIDAR_HEIGHT
        self._base_from_lidars = {LIDAR: self.base_from_lidar, FRONT: front}
        self._cuboid_files = self._optional_files("annotations/cuboids")
        self._class_files = self._optional_files("annotations/semseg")
        self._cached_cuboids: OrderedDict[int, Cuboids] = OrderedDict()

    def __len__(self) -> int:
        return len(self._files)

    @cached_property
    def class_names(self) -> Mapping[int, str]:
        """Names of the semantic classes of the points, by number. Raises DatasetError."""
        path = self.root / "annotations" / "semseg" / "classes.json"
        content = read_json(path, MAX_JSON_BYTES)
        with dataset_errors(f"{path}: expected an object from class number to name"):
            return {int(k): str(v) for k, v in content.items()}

    @cached_property
    def _gps(self) -> list[Any] | None:
        path = self.root / "meta" / "gps.json"
        if not path.exists():
            return None
        content = read_json(path, MAX_JSON_BYTES)
        if not isinstance(content, list):
            raise DatasetError(f"{path}: expected a list")
        return content

    def gps(self, k: int) -> Mapping[str, float] | None:
        """See PandaSetDataset.gps."""
        if self._gps is None:
            return None
        path = self.root / "meta" / "gps.json"
        with dataset_errors(f"{path}: entry {self._row(k)}"):
            return {str(name): float(v) for name, v in self._gps[self._row(k)].items()}

    def frame(self, k: int, rig: Rig) -> SensorFrame:
        """Frame k of the sequence. Raises DatasetError."""
        stamp_ns = int(self._stamps_ns[k])
        world_from_base = self._world_from_base[k]
        frame = SensorFrame(
            stamp_ns,
            lidars=self._sweeps(k),
            odom_from_base=world_from_base,
            expected=frozenset(rig.sensors),
            vehicle_footprint=rig.vehicle_footprint,
            odom_frame=rig.odom_frame,
            ground_z=rig.ground_z,
        )
        extrinsics = {name: self._base_from_lidars[name] for name in frame.lidars}
        frame = self._with_cameras(replace(frame, base_from_sensor=extrinsics), k)
        cuboids = self.cuboids(k)
        return frame if cuboids is None else replace(frame, labels=self._labels(k, cuboids, frame))

    def cuboids(self, k: int) -> Cuboids | None:
        """See PandaSetDataset.cuboids. Raises DatasetError."""
        path = self._cuboid_files.get(self._stem(k))
        if path is None:
            return None
        if k not in self._cached_cuboids:
            columns = read_frame(path)
            try:
                self._cached_cuboids[k] = cuboids_from_table(columns)
            except ValueError as error:
                raise DatasetError(f"{path}: {error}") from error
            if len(self._cached_cuboids) > 4:  # velocities need the neighbouring frames
                self._cached_cuboids.popitem(last=False)
        return self._cached_cuboids[k]

    def point_classes(self, k: int) -> dict[str, NDArray[np.int64]] | None:
        """See PandaSetDataset.point_classes. Raises DatasetError."""
        path = self._class_files.get(self._stem(k))
        if path is None:
            return None
        columns = read_frame(path)
        if "class" not in columns:
            raise DatasetError(f"{path}: missing column: class")
        try:
            classes = np.array([int(v) for v in columns["class"].tolist()], np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{path}: class: expected integers") from error
        points, numbers = self._points(k)
        if len(classes) != len(points):
            raise DatasetError(
                f"{path}: {len(classes)} rows; {self._files[k].name} has {len(points)} points"
            )
        result = {}
        for name, number in LIDAR_NUMBERS.items():
            of_lidar = numbers == number
            kept = self._in_sensor(k, name, points[of_lidar])[1]
            if kept.any():
                result[name] = classes[of_lidar][kept]
        return result

    def _row(self, k: int) -> int:
        """Row of frame k in the lists of the JSON files."""
        return int(self._rows[self._files[k]])

    def _stem(self, k: int) -> str:
        return frame_stem(self._files[k])

    def _optional_files(self, folder: str) -> dict[str, Path]:
        path = self.root / folder
        return {frame_stem(p): p for p in numbered_files(path, SUFFIXES)} if path.is_dir() else {}

    def _world_from_base_at(self, stamp_ns: int) -> NDArray[np.float64]:
        """Pose of the vehicle at a time; the nearest frame's one outside of the sequence."""
        stamps = self._stamps_ns
        after = int(np.searchsorted(stamps, stamp_ns))
        if after == 0 or after == len(stamps):
            return np.asarray(self._world_from_base[min(after, len(stamps) - 1)])
        first, last = int(stamps[after - 1]), int(stamps[after])
        fraction = (stamp_ns - first) / max(last - first, 1)
        return poses.interpolate(
            self._world_from_base[after - 1], self._world_from_base[after], fraction
        )

    def _mean_extrinsics(self, camera: RecordedCamera) -> NDArray[np.float64]:
        """Pose of a camera in base_link: the mean over its images within the sequence.

        The published poses are those of the images; with the interpolated pose of the vehicle at the
        same time they give the fixed extrinsics that a bag needs.
        """
        inside = (camera.stamps_ns >= self._stamps_ns[0]) & (
            camera.stamps_ns <= self._stamps_ns[-1]
        )
        index = np.flatnonzero(inside)
        if not len(index):  # one frame: its images were taken before the end of the sweep
            index = np.array([np.abs(camera.stamps_ns - self._stamps_ns[0]).argmin()])
        base_from_camera = np.array(
            [
                poses.inverse(self._world_from_base_at(int(camera.stamps_ns[j])))
                @ camera.world_from_camera[j]
                for j in index[:: max(len(index) // 50, 1)]
            ]
        )
        left, _, right = np.linalg.svd(base_from_camera[:, :3, :3].mean(axis=0))
        result = np.eye(4)
        result[:3, :3] = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
        result[:3, 3] = np.median(base_from_camera[:, :3, 3], axis=0)
        return result

    def _points(self, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Points (N, 4) x, y, z, intensity in the world frame, and numbers of their LiDARs (N,)."""
        path = self._files[k]
        columns = read_frame(path)
        missing = [name for name in POINT_COLUMNS if name not in columns]
        if missing:
            raise DatasetError(f"{path}: missing columns: {', '.join(missing)}")
        selected = [columns[name] for name in POINT_COLUMNS]
        if any(column.dtype == object for column in selected):
            raise DatasetError(f"{path}: {', '.join(POINT_COLUMNS)}: expected numbers")
        points = np.stack([c.astype(np.float64) for c in selected], axis=1)
        numbers = columns.get("d")
        if numbers is None:  # a file of the main LiDAR only
            return points, np.full(len(points), MAIN_LIDAR, np.int64)
        if numbers.dtype == object or not np.isin(numbers, (MAIN_LIDAR, FRONT_LIDAR)).all():
            raise DatasetError(f"{path}: d: allowed: 0 (360-degree LiDAR), 1 (front LiDAR)")
        return points, numbers.astype(np.int64)

    def _in_sensor(
        self, k: int, name: str, points: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Points (N, 4) float32 in the frame of a LiDAR, and the mask (N,) of valid returns."""
        near = np.abs(points) < MAX_COORDINATE  # false for NaN
        usable = np.asarray(near.all(axis=1), np.bool_)
        world_from_sensor = self._world_from_base[k] @ self._base_from_lidars[name]
        local = np.zeros((len(points), 4), np.float32)
        xyz = np.where(usable[:, None], points[:, :3], 0.0)
        local[:, :3] = poses.transform_points(poses.inverse(world_from_sensor), xyz)
        local[:, 3] = np.where(usable, points[:, 3], 0.0)
        limits = Sensor(name, Modality.LIDAR, name, name)  # those of the messages of a bag
        returns = find_returns(local, limits.min_range, limits.max_range).keep
        return local, usable & returns

    def _sweeps(self, k: int) -> dict[str, LidarSweep]:
        """The sweeps of both LiDARs.

        They have no time of each point, because the points are already corrected for the motion.
        """
        points, numbers = self._points(k)
        sweeps = {}
        for name, number in LIDAR_NUMBERS.items():
            local, kept = self._in_sensor(k, name, points[numbers == number])
            if kept.any():
                cloud = np.ascontiguousarray(local[kept])
                sweeps[name] = LidarSweep(name, int(self._stamps_ns[k]), name, cloud)
        if not sweeps:
            raise DatasetError(f"{self._files[k]}: no usable points")
        return sweeps

    def _with_cameras(self, frame: SensorFrame, k: int) -> SensorFrame:
        cameras, models, extrinsics, motions = {}, {}, dict(frame.base_from_sensor), {}
        base_from_world = poses.inverse(self._world_from_base[k])
        for name, camera in self.cameras.items():
            path = camera.folder / f"{self._stem(k)}.jpg"
            row = self._row(k)
            if not path.exists():
                continue
            if row >= len(camera.stamps_ns):
                raise DatasetError(
                    f"{camera.folder / 'poses.json'}: no entry {row} for {path.name}"
                )
            pixels = read_colour_image(path)
            height, width = pixels.shape[:2]
            stamp_ns, frame_id = int(camera.stamps_ns[row]), f"{name}_optical"
            cameras[name] = CameraImage(name, stamp_ns, frame_id, pixels, "bgr8")
            with dataset_errors(f"{camera.folder / 'intrinsics.json'}"):
                models[name] = CameraModel(width, height, camera.matrix)
            extrinsics[name] = self._base_from_camera[name]
            # Chosen so that reference_from_sensor is the published pose of this image.
            motions[name] = (
                base_from_world @ camera.world_from_camera[row] @ poses.inverse(extrinsics[name])
            )
        return replace(
            frame,
            cameras=cameras,
            intrinsics=models,
            base_from_sensor=extrinsics,
            reference_from_base=motions,
        )

    def _labels(self, k: int, cuboids: Cuboids, frame: SensorFrame) -> Boxes3D:
        n = len(cuboids)
        world = Boxes3D(
            frame.stamp_ns,
            "world",
            cuboids.boxes.astype(np.float32),
            np.ones(n, np.float32),
            np.array([CLASS_NAMES.index(c) for c in cuboids.class_names], np.int64),
            velocities=self._velocities(k, cuboids),
            track_ids=cuboids.track_ids(),
        )
        truth = world.transformed(poses.inverse(self._world_from_base[k]), frame.base_frame)
        # From float64: world coordinates of float32 have steps of up to 0.1 mm per km.
        boxes = truth.boxes.copy()
        boxes[:, :3] = poses.transform_points(
            poses.inverse(self._world_from_base[k]), cuboids.boxes[:, :3]
        )
        counts = count_points_in_boxes(frame.points_in_base(), boxes)
        return replace(truth, boxes=boxes, num_points=counts)

    def _velocities(self, k: int, cuboids: Cuboids) -> NDArray[np.float32]:
        """Velocities (N, 2) over ground in the world frame, m/s: 0 if stationary, NaN if unknown."""
        velocities = np.full((len(cuboids), 2), np.nan, np.float32)
        velocities[cuboids.stationary] = 0.0
        here = int(self._stamps_ns[k])
        (before, first), (after, last) = (self._centres(j, here) for j in (k - 1, k + 1))
        for i, uuid in enumerate(cuboids.uuids):
            start, t0 = (before[uuid], first) if uuid in before else (cuboids.boxes[i, :2], 0.0)
            end, t1 = (after[uuid], last) if uuid in after else (cuboids.boxes[i, :2], 0.0)
            if t1 > t0 and not cuboids.stationary[i]:
                velocities[i] = (end - start) / (t1 - t0)
        return velocities

    def _centres(self, k: int, stamp_ns: int) -> tuple[dict[str, NDArray[np.float64]], float]:
        """Positions (2,) of the objects of a frame by uuid, and its time after stamp_ns in seconds.

        Empty for a frame that does not exist, has no labels or is too far away in time.
        """
        cuboids = self.cuboids(k) if 0 <= k < len(self) else None
        if cuboids is None:
            return {}, 0.0
        seconds = (int(self._stamps_ns[k]) - stamp_ns) / NANOSECONDS_PER_SECOND
        if not 0.0 < abs(seconds) <= MAX_VELOCITY_INTERVAL_S:
            return {}, 0.0
        return dict(zip(cuboids.uuids, cuboids.boxes[:, :2], strict=True)), seconds


def _base_from_lidar(
    world_from_lidar: NDArray[np.float64],
    rows: NDArray[np.int64],
    cameras: Mapping[str, RecordedCamera],
) -> NDArray[np.float64]:
    """Pose (4, 4) of the main LiDAR in base_link: its forward axis and its height."""
    forward = np.array([0.0, 1.0])
    camera = cameras.get(FORWARD_CAMERA)
    if camera is not None and int(rows[0]) < len(camera.world_from_camera):
        view = (poses.inverse(world_from_lidar[0]) @ camera.world_from_camera[int(rows[0])])[:2, 2]
        axis = int(np.abs(view).argmax())
        forward = np.zeros(2)
        forward[axis] = np.sign(view[axis])
    yaw = -float(np.arctan2(forward[1], forward[0]))
    return poses.from_xyz_rpy((0.0, 0.0, LIDAR_HEIGHT), (0.0, 0.0, yaw))
