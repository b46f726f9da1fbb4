"""Reader of simulated training frames: a folder with one .npz file per frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.datasets.simulation_writer import read_shard
from multimodal_perception.frame import (
    Boxes3D,
    CameraImage,
    LidarSweep,
    Modality,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.rig import load_rig
from multimodal_perception.simulation.sensors.camera import ImageTruth
from multimodal_perception.simulation.sensors.lidar import SweepTruth
from multimodal_perception.simulation.sensors.thermal import DEFAULT_KELVIN
from multimodal_perception.simulation.sensors.ultrasonic import DEFAULT_LIMITS
from multimodal_perception.simulation.truth import FrameTruth, GridLayout


class ShardDataset(Dataset):
    """Frames and ground truth written by `simulate --format dataset`. The sweeps are deskewed."""

    def __init__(self, path: str | Path) -> None:
        """Open a folder. Raises DatasetError if it has no frames, UserError for an invalid rig."""
        self.path = Path(path)
        self.name = f"shards {self.path.name}"
        self.rig = load_rig(self.path / "rig.yaml")
        self._files = sorted(self.path.glob("[0-9]*.npz"))
        self._last: tuple[int, dict[str, NDArray]] | None = None
        if not self._files:
            raise DatasetError(f"{self.path}: no frames; expected files such as 000000.npz")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> SensorFrame:
        """Read one frame. Raises DatasetError if its file is invalid, IndexError."""
        index = range(len(self))[index]
        try:
            return self._frame(self._arrays(index))
        except (KeyError, ValueError, TypeError) as error:
            raise DatasetError(
                f"{self._files[index]}: does not fit the sensors of rig.yaml ({error})"
            ) from error

    def truth(self, index: int) -> FrameTruth:
        """The ground truth of one frame, without ultrasonic echoes. Raises like __getitem__."""
        index = range(len(self))[index]
        try:
            return self._truth(self._arrays(index))
        except (KeyError, ValueError, TypeError) as error:
            raise DatasetError(
                f"{self._files[index]}: the ground truth does not fit rig.yaml ({error})"
            ) from error

    def _arrays(self, index: int) -> dict[str, NDArray]:
        if self._last is None or self._last[0] != index:
            self._last = index, read_shard(self._files[index])
        return self._last[1]

    def _frame(self, arrays: dict[str, NDArray]) -> SensorFrame:
        stamp_ns = int(arrays["stamp_ns"])
        extrinsics, models, motions = {}, {}, {}
        lidars, cameras, thermals = {}, {}, {}
        for name, sensor in self.rig.sensors.items():
            key = f"{name}.{'points' if sensor.modality is Modality.LIDAR else 'pixels'}"
            if key not in arrays:
                continue
            values = arrays[key]
            own_ns = _stamp_ns(arrays, name)
            if sensor.modality is Modality.LIDAR:
                lidars[name] = LidarSweep(name, own_ns, sensor.frame_id, values)
            elif sensor.modality is Modality.CAMERA:
                cameras[name] = CameraImage(name, own_ns, sensor.frame_id, values)
            else:
                kelvin = (
                    sensor.counts_to_kelvin or DEFAULT_KELVIN if values.dtype == np.uint16 else None
                )
                thermals[name] = ThermalImage(name, own_ns, sensor.frame_id, values, kelvin)
            if sensor.intrinsics is not None:
                models[name] = sensor.intrinsics.camera_model()
        ultrasonics = self._ultrasonics(arrays)
        for name in (*lidars, *cameras, *thermals, *ultrasonics):
            pose = self.rig.sensors[name].base_from_sensor()
            if pose is not None:
                extrinsics[name] = pose
            if f"{name}.reference_from_base" in arrays:
                motions[name] = arrays[f"{name}.reference_from_base"]
        return SensorFrame(
            stamp_ns,
            self.rig.base_frame,
            lidars,
            cameras,
            thermals,
            ultrasonics,
            extrinsics,
            models,
            motions,
            odom_from_base=arrays["truth.odom_from_base"],
            expected=frozenset(self.rig.sensors),
            labels=self._boxes(arrays),
            vehicle_footprint=self.rig.vehicle_footprint,
            odom_frame=self.rig.odom_frame,
            ground_z=self.rig.ground_z,
        )

    def _ultrasonics(self, arrays: dict[str, NDArray]) -> dict[str, UltrasonicReading]:
        """Readings by sensor name. A sensor that published nothing is stored as NaN."""
        sensors = self.rig.sensors_of(Modality.ULTRASONIC)
        ranges = arrays["ultrasonics"] if sensors else np.zeros(0)
        readings = {}
        for (name, sensor), value in zip(sensors.items(), ranges, strict=True):
            limits = sensor.limits or DEFAULT_LIMITS
            if not np.isnan(value):
                readings[name] = UltrasonicReading(
                    name,
                    _stamp_ns(arrays, name),
                    sensor.frame_id,
                    float(value),
                    limits.min_range,
                    limits.max_range,
                    limits.field_of_view,
                )
        return readings

    def _boxes(self, arrays: dict[str, NDArray]) -> Boxes3D:
        boxes = arrays["truth.boxes"]
        return Boxes3D(
            int(arrays["stamp_ns"]),
            self.rig.base_frame,
            boxes,
            np.ones(len(boxes), np.float32),
            arrays["truth.labels"].astype(np.int64),
            velocities=arrays["truth.velocities"],
            track_ids=arrays["truth.track_ids"],
            num_points=arrays["truth.num_points"],
            visibility=arrays["truth.visibility"],
        )

    def _truth(self, arrays: dict[str, NDArray]) -> FrameTruth:
        stamp_ns, layout = int(arrays["stamp_ns"]), GridLayout()
        free, occupied = (arrays[f"truth.{n}"].astype(np.float32) for n in ("free", "occupied"))
        corner = -layout.cells * layout.resolution / 2
        views, points = {}, {}
        for name in self.rig.sensors:
            if f"truth.{name}.semantics" not in arrays:
                continue
            classes, tracks = (arrays[f"truth.{name}.{p}"] for p in ("semantics", "instances"))
            if f"truth.{name}.depth" in arrays:
                depth = arrays[f"truth.{name}.depth"].astype(np.float32)
                views[name] = ImageTruth(depth, classes, tracks)
            else:
                points[name] = SweepTruth(classes, tracks)
        return FrameTruth(
            stamp_ns,
            self._boxes(arrays),
            arrays["truth.visibility"],
            OccupancyGrid(
                stamp_ns, self.rig.base_frame, layout.resolution, (corner, corner), free, occupied
            ),
            arrays["truth.semantic_grid"],
            arrays["truth.odom_from_base"],
            views,
            points,
        )


def _stamp_ns(arrays: dict[str, NDArray], sensor: str) -> int:
    """Stamp of a sensor's reading: its own, or that of the frame."""
    return int(arrays.get(f"{sensor}.stamp_ns", arrays["stamp_ns"]))
