"""Build a SensorFrame from a set of readings, adding intrinsics, extrinsics and ego motion."""

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
from multimodal_perception.geometry.camera_calibration import CameraCalibration
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.transform_tree import TransformError, TransformTree
from multimodal_perception.notices import Notices
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
    """Adds calibration and ego motion to reading sets.

    Extrinsics come from /tf and /tf_static if the rig file has none. With odometry, the frame contains
    the ego motion from each reading's stamp to the reference time, and sweeps with per-point times are
    deskewed.

    calibrations: calibration of each camera and thermal camera, from the rig file until a CameraInfo
    arrives. drops: number of readings left out by (sensor, reason): no_transform_..., no_camera_info,
    image_size (another aspect ratio than the intrinsics). notices: assumptions, for the user.
    """

    def __init__(self, rig: Rig, transforms: TransformTree) -> None:
        self._rig = rig
        self._transforms = transforms
        self.calibrations: dict[str, CameraCalibration] = {
            name: CameraCalibration(sensor.intrinsics.camera_model(), "rig file")
            for name, sensor in rig.sensors.items()
            if sensor.intrinsics is not None
        }
        self.drops: Counter[tuple[str, str]] = Counter()
        self.notices = Notices()

    def assemble(self, readings: ReadingSet) -> SensorFrame:
        """Build the frame of one set. A reading without calibration is left out and counted."""
        fields: dict[str, dict[str, object]] = {field: {} for field, _ in FIELDS.values()}
        extrinsics: dict[str, NDArray[np.float64]] = {}
        motions: dict[str, NDArray[np.float64]] = {}
        models: dict[str, CameraModel] = {}
        odom_from_base = self.odometry(readings.stamp_ns)
        if odom_from_base is None:
            frames = f"{self._rig.odom_frame} to {self._rig.base_frame}"
            self.notices.add(
                "odometry", f"no odometry ({frames}): the ego motion between readings is ignored"
            )
        for name, (stamp_ns, reading) in readings.readings.items():
            try:
                extrinsics[name] = self._extrinsics(name, reading.frame_id, stamp_ns)
            except TransformError as error:
                self.drops[name, f"no_transform_{error.reason}"] += 1
                continue
            if reading.stamp_ns != stamp_ns:  # corrected by the sensor's time_offset_s
                reading = replace(reading, stamp_ns=stamp_ns)
            if isinstance(reading, (CameraImage, ThermalImage)):
                model = self._intrinsics(name, reading)
                if model is None:
                    continue
                models[name] = model
                extrinsics[name] = self.calibrations[name].base_from_camera(extrinsics[name])
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
            vehicle_footprint=self._rig.vehicle_footprint,
            odom_frame=self._rig.odom_frame,
            ground_z=self._rig.ground_z,
            **fields,  # type: ignore[arg-type]
        )

    def _extrinsics(self, name: str, frame_id: str, stamp_ns: int) -> NDArray[np.float64]:
        pose = self._rig.sensors[name].base_from_sensor()
        if pose is not None:
            return pose
        frame_id = frame_id or self._rig.sensors[name].frame_id
        return self._transforms.lookup(self._rig.base_frame, frame_id, stamp_ns)

    def _intrinsics(self, name: str, image: CameraImage | ThermalImage) -> CameraModel | None:
        calibration = self.calibrations.get(name)
        if calibration is None:
            self.drops[name, "no_camera_info"] += 1
            return None
        height, width = image.pixels.shape[:2]
        model, assumption = calibration.fitted(width, height)
        if assumption:
            self.notices.add(name, assumption)
        if model is None:
            self.drops[name, "image_size"] += 1
        return model

    def odometry(self, stamp_ns: int) -> NDArray[np.float64] | None:
        """Return odom_from_base (4, 4) at a stamp, or None if it is unknown."""
        try:
            return self._transforms.lookup(self._rig.odom_frame, self._rig.base_frame, stamp_ns)
        except TransformError:
            return None

    def _motion(
        self, odom_from_base: NDArray[np.float64] | None, stamp_ns: int, reference_ns: int
    ) -> NDArray[np.float64] | None:
        if odom_from_base is None or stamp_ns == reference_ns:
            return None
        odom_from_base_then = self.odometry(stamp_ns)
        if odom_from_base_then is None:
            return None
        return poses.inverse(odom_from_base) @ odom_from_base_then


def sensor_counts(drops: Mapping[tuple[str, str], int], sensor: str) -> dict[str, int]:
    """Return the drop counts of one sensor by reason."""
    return {reason: n for (name, reason), n in drops.items() if name == sensor}
