"""What the calibration would be if the drift that was found is taken out; for a person to accept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.calibration_monitor.monitor import Drift
from multimodal_perception.calibration_monitor.sensor_pairs import Pair, turned
from multimodal_perception.geometry import poses
from multimodal_perception.perception import Level
from multimodal_perception.rig import Extrinsics, Rig

Poses = Mapping[str, NDArray[np.float64]]


def corrected_poses(drifts: Mapping[Pair, Drift], base_from_sensor: Poses) -> dict[str, NDArray]:
    """New poses (4, 4) of the image sensors that a correction moves; LiDARs stay.

    A camera is turned by what its surest LiDAR says, where that is a warning. A thermal camera
    follows its camera, and is turned against it likewise. Which one of two sensors has moved no pair
    can tell: if all cameras have to be turned alike, look at the LiDAR.
    """
    result: dict[str, NDArray] = {}
    for drift in sorted(drifts.values(), key=lambda d: d.sureness):
        if drift.pair.kind == "camera-lidar" and drift.level is not Level.OK:
            sensor = drift.pair.sensor
            result[sensor] = turned(base_from_sensor[sensor], drift.turn)
    for drift in drifts.values():
        pair = drift.pair
        if pair.kind != "thermal-camera":
            continue
        known = base_from_sensor[pair.reference]
        moved = result.get(pair.reference, known) @ poses.inverse(known)
        turn = drift.turn if drift.level is not Level.OK else np.zeros(3)
        if turn.any() or pair.reference in result:
            result[pair.sensor] = moved @ turned(base_from_sensor[pair.sensor], turn)
    return result


def corrected_rig(rig: Rig, base_from_sensor: Poses) -> Rig:
    """The rig with other extrinsics for the sensors that are given."""
    sensors = dict(rig.sensors)
    for name, pose in base_from_sensor.items():
        sensor = rig.sensors[name]
        optical = sensor.extrinsics is not None and sensor.extrinsics.optical
        entry = Extrinsics.of(pose, sensor.modality, optical)
        sensors[name] = replace(sensor, extrinsics=entry)
    return replace(rig, sensors=sensors)
