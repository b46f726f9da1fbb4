"""Extrinsics corrected by the estimated drift. The result is a proposal for a person to check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.calibration_monitor.monitor import Drift
from multimodal_perception.calibration_monitor.sensor_pairs import Pair, rotated_pose
from multimodal_perception.geometry import poses
from multimodal_perception.perception import Level
from multimodal_perception.rig import Rig
from multimodal_perception.sensor_calibration import Extrinsics

Poses = Mapping[str, NDArray[np.float64]]


def corrected_poses(drifts: Mapping[Pair, Drift], base_from_sensor: Poses) -> dict[str, NDArray]:
    """Corrected poses (4, 4) of the image sensors that drifted; LiDAR poses do not change.

    A camera with a drift warning is corrected by the drift against its most significant LiDAR. A thermal
    camera is moved together with its camera, and then rotated by its own drift if that is a warning. A
    pair does not show which of its two sensors has moved: if all cameras need the same correction, check
    the LiDAR.
    """
    result: dict[str, NDArray] = {}
    for drift in sorted(drifts.values(), key=lambda d: d.significance):
        if drift.pair.kind == "camera-lidar" and drift.level is not Level.OK:
            sensor = drift.pair.sensor
            moved = drift.pose_error if drift.is_moved else None
            translation = None if moved is None else moved.translation
            result[sensor] = rotated_pose(base_from_sensor[sensor], drift.rotation, translation)
    for drift in drifts.values():
        pair = drift.pair
        if pair.kind != "thermal-camera":
            continue
        known = base_from_sensor[pair.reference]
        change = result.get(pair.reference, known) @ poses.inverse(known)
        rotation = drift.rotation if drift.level is not Level.OK else np.zeros(3)
        if rotation.any() or pair.reference in result:
            result[pair.sensor] = change @ rotated_pose(base_from_sensor[pair.sensor], rotation)
    return result


def corrected_rig(
    rig: Rig, base_from_sensor: Poses, camera_from_optical: Poses | None = None
) -> Rig:
    """The rig with the extrinsics of the given sensors replaced.

    camera_from_optical: of cameras with rectified images, see SensorFrame; extrinsics describe the
    optical frame of the messages.
    """
    sensors = dict(rig.sensors)
    for name, pose in base_from_sensor.items():
        if camera_from_optical is not None and name in camera_from_optical:
            pose = pose @ camera_from_optical[name]
        sensor = rig.sensors[name]
        optical = sensor.extrinsics is not None and sensor.extrinsics.optical
        entry = Extrinsics.from_matrix(pose, sensor.modality, optical)
        sensors[name] = replace(sensor, extrinsics=entry)
    return replace(rig, sensors=sensors)
