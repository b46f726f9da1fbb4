"""A set of readings and what is known of the sensors' places, to one SensorFrame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import (
    CameraImage,
    LidarSweep,
    Modality,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.transform_tree import TransformError, TransformTree
from multimodal_perception.pointcloud.deskew import deskew
from multimodal_perception.rig import Rig
from multimodal_perception.synchronization.synchronizer import ReadingSet

FIELDS = {
    Modality.LIDAR: ("lidars", LidarSweep),
    Modality.CAMERA: ("cameras", CameraImage),
    Modality.THERMAL: ("thermals", ThermalImage),
    Modality.ULTRASONIC: ("ultrasonics", UltrasonicReading),
}


class FrameAssembler:
    """Adds calibration and motion to reading sets.

    Extrinsics come from /tf and /tf_static where the rig file gives none. drops: readings left out,
    by (sensor, reason): no_transform_..., no_camera_info, image_size (not the CameraInfo's).
    With odometry, every reading's motion to the reference time is told and sweeps with times are
    deskewed. notices: what a person should be told once.
    """

    def __init__(self, rig: Rig, transforms: TransformTree) -> None:
        self._rig = rig
        self._transforms = transforms
        self.intrinsics: dict[str, CameraModel] = {
            name: sensor.intrinsics.camera_model()
            for name, sensor in rig.sensors.items()
            if sensor.intrinsics is not None
        }
        self.drops: Counter[tuple[str, str]] = Counter()
        self.notices: list[str] = []
        self._told_of_odometry = False

    def assemble(self, readings: ReadingSet) -> SensorFrame:
        """The frame of one set; a reading that cannot be placed is left out and counted."""
        fields: dict[str, dict[str, object]] = {field: {} for field, _ in FIELDS.values()}
        extrinsics: dict[str, NDArray[np.float64]] = {}
        motions: dict[str, NDArray[np.float64]] = {}
        models: dict[str, CameraModel] = {}
        odom_from_base = self.odometry(readings.stamp_ns)
        if odom_from_base is None and not self._told_of_odometry:
            self._told_of_odometry = True
            frames = f"{self._rig.odom_frame} to {self._rig.base_frame}"
            self.notices.append(f"no odometry ({frames}): readings are used as if nothing moved")
        for name, (stamp_ns, reading) in readings.readings.items():
            try:
                extrinsics[name] = self._extrinsics(name, reading.frame_id, stamp_ns)
            except TransformError as error:
                self.drops[name, f"no_transform_{error.reason}"] += 1
                continue
            if reading.stamp_ns != stamp_ns:  # the sensor's known offset is taken off
                reading = replace(reading, stamp_ns=stamp_ns)
            if isinstance(reading, (CameraImage, ThermalImage)):
                model = self._intrinsics(name, reading)
                if model is None:
                    continue
                models[name] = model
            if isinstance(reading, LidarSweep) and odom_from_base is not None:
                reading = deskew(reading, self.odometry, extrinsics[name])
            motion = self._motion(odom_from_base, stamp_ns, readings.stamp_ns)
            if motion is not None:
                motions[name] = motion
            fields[FIELDS[self._rig.sensors[name].modality][0]][name] = reading
        return SensorFrame(
            readings.stamp_ns,
            self._rig.base_frame,
            base_from_sensor=extrinsics,
            intrinsics=models,
            reference_from_base=motions,
            odom_from_base=odom_from_base,
            expected=frozenset(self._rig.sensors),
            own_vehicle=self._rig.own_vehicle,
            **fields,  # type: ignore[arg-type]
        )

    def _extrinsics(self, name: str, frame_id: str, stamp_ns: int) -> NDArray[np.float64]:
        pose = self._rig.sensors[name].base_from_sensor()
        if pose is not None:
            return pose
        frame_id = frame_id or self._rig.sensors[name].frame_id
        return self._transforms.lookup(self._rig.base_frame, frame_id, stamp_ns)

    def _intrinsics(self, name: str, image: CameraImage | ThermalImage) -> CameraModel | None:
        model = self.intrinsics.get(name)
        if model is None:
            self.drops[name, "no_camera_info"] += 1
            return None
        if (model.height, model.width) != image.pixels.shape[:2]:
            self.drops[name, "image_size"] += 1
            return None
        return model

    def odometry(self, stamp_ns: int) -> NDArray[np.float64] | None:
        """odom_from_base (4, 4) at a stamp, None where it is not known."""
        try:
            return self._transforms.lookup(self._rig.odom_frame, self._rig.base_frame, stamp_ns)
        except TransformError:
            return None

    def _motion(
        self, odom_from_base: NDArray[np.float64] | None, stamp_ns: int, reference_ns: int
    ) -> NDArray[np.float64] | None:
        if odom_from_base is None or stamp_ns == reference_ns:
            return None
        then = self.odometry(stamp_ns)
        return None if then is None else poses.inverse(odom_from_base) @ then


def sensor_counts(drops: Mapping[tuple[str, str], int], sensor: str) -> dict[str, int]:
    """The counts of one sensor, by reason."""
    return {reason: n for (name, reason), n in drops.items() if name == sensor}
