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
from multimodal_perception.geometry.camera_calibration import (
    CameraCalibration,
    implausible_intrinsics,
)
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.transform_tree import TransformError, TransformTree
from multimodal_perception.notices import Notices
from multimodal_perception.pointcloud.deskew import deskew, has_duration
from multimodal_perception.rig import Rig
from multimodal_perception.synchronization.odometry import Odometry
from multimodal_perception.synchronization.reading_set import ReadingSet
from multimodal_perception.synchronization.sensor_frames import SensorFrames, to_sensor_frame

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
    image_size (another aspect ratio than the intrinsics), no_returns, and not_deskewed for sweeps that
    are used without deskewing. unusable_streaks: number of readings of each sensor that were left out
    since the last one that was used. notices: assumptions, for the user.
    """

    def __init__(
        self,
        rig: Rig,
        transforms: TransformTree,
        notices: Notices | None = None,
        uses_odometry_topic: bool | None = None,
    ) -> None:
        """uses_odometry_topic: see Odometry. notices: to which the notices are added."""
        self._rig = rig
        self._transforms = transforms
        self.calibrations: dict[str, CameraCalibration] = {
            name: CameraCalibration(sensor.intrinsics.camera_model(), "rig file")
            for name, sensor in rig.sensors.items()
            if sensor.intrinsics is not None
        }
        self.drops: Counter[tuple[str, str]] = Counter()
        self.notices = Notices() if notices is None else notices
        for name, calibration in self.calibrations.items():
            for text in implausible_intrinsics(calibration.model):
                self.notices.add(name, f"{text} (rig file)")
        self.odometry_source = Odometry(rig, transforms, self.notices, uses_odometry_topic)
        self._frames = SensorFrames(rig, transforms, self.odometry_source, self.notices)
        self.unusable_streaks: Counter[str] = Counter()

    def assemble(self, readings: ReadingSet) -> SensorFrame:
        """Build the frame of one set. A reading without calibration is left out and counted."""
        fields: dict[str, dict[str, object]] = {field: {} for field, _ in FIELDS.values()}
        extrinsics: dict[str, NDArray[np.float64]] = {}
        motions: dict[str, NDArray[np.float64]] = {}
        models: dict[str, CameraModel] = {}
        rectifications: dict[str, NDArray[np.float64]] = {}
        odom_from_base = self.odometry(readings.stamp_ns)
        self.odometry_source.record_frame(odom_from_base is not None)
        if odom_from_base is None:
            frames = f"{self._rig.odom_frame} to {self._rig.base_frame}"
            self.notices.add(
                "odometry", f"no odometry ({frames}): the ego motion between readings is ignored"
            )
        self.odometry_source.check_sources(readings.stamp_ns)
        dropped: set[str] = set()
        for name, (stamp_ns, reading) in readings.readings.items():
            dropped.add(name)
            sensor = self._rig.sensors[name]
            try:
                source = self._frames.resolve(sensor, reading.frame_id, stamp_ns)
            except TransformError as error:
                self.drops[name, f"no_transform_{error.reason}"] += 1
                continue
            extrinsics[name] = source.base_from_sensor
            if reading.stamp_ns != stamp_ns:  # corrected by the sensor's time_offset_s
                reading = replace(reading, stamp_ns=stamp_ns)
            if isinstance(reading, (CameraImage, ThermalImage)):
                model = self._intrinsics(name, reading)
                if model is None:
                    continue
                models[name] = model
                calibration = self.calibrations[name]
                extrinsics[name] = calibration.base_from_camera(extrinsics[name])
                if calibration.camera_from_optical is not None:
                    rectifications[name] = calibration.camera_from_optical
            if isinstance(reading, LidarSweep):
                sweep = to_sensor_frame(reading, source, sensor.min_range)
                if sweep is None:
                    self.drops[name, "no_returns"] += 1
                    continue
                reading = self._deskewed(sweep, odom_from_base, extrinsics[name])
            motion = self._motion(odom_from_base, stamp_ns, readings.stamp_ns)
            if motion is not None:
                motions[name] = motion
            fields[FIELDS[sensor.modality][0]][name] = reading
            dropped.remove(name)
            self.unusable_streaks[name] = 0
        self.unusable_streaks.update(dropped)
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
            camera_from_optical=rectifications,
            dropped=frozenset(dropped),
            **fields,  # type: ignore[arg-type]
        )

    def _deskewed(
        self,
        sweep: LidarSweep,
        odom_from_base: NDArray[np.float64] | None,
        base_from_sensor: NDArray[np.float64],
    ) -> LidarSweep:
        """Return the deskewed sweep, or the same one if it has no times or the motion is unknown."""
        if odom_from_base is None or sweep.time_offsets is None:
            return sweep
        result = deskew(sweep, self.odometry, base_from_sensor)
        if result is sweep and has_duration(sweep):
            self.drops[sweep.sensor, "not_deskewed"] += 1
            self.notices.add(
                sweep.sensor, "the odometry does not cover the duration of the sweep: not deskewed"
            )
        return result

    def _intrinsics(self, name: str, image: CameraImage | ThermalImage) -> CameraModel | None:
        calibration = self.calibrations.get(name)
        if calibration is None:
            self.drops[name, "no_camera_info"] += 1
            return None
        height, width = image.pixels.shape[:2]
        model, assumption = calibration.fitted(width, height)
        if assumption:
            self.notices.add(name, assumption)
        if calibration.frame_id.lstrip("/") not in ("", image.frame_id.lstrip("/")):
            self.notices.add(
                name,
                f"the CameraInfo has frame_id {calibration.frame_id!r}, the images have "
                f"{image.frame_id!r}: the frame of the images is used",
            )
        if model is None:
            self.drops[name, "image_size"] += 1
        return model

    def odometry(self, stamp_ns: int) -> NDArray[np.float64] | None:
        """Return odom_from_base (4, 4) at a stamp, or None if it is unknown."""
        return self.odometry_source.pose(stamp_ns)

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
