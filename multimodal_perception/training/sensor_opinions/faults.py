"""Sensor faults of training frames, so that the opinions of faulty sensors become uncertain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from multimodal_perception.evaluation.robustness.catalogue import corrupt
from multimodal_perception.evaluation.robustness.corruption import (
    FrameSource,
    NotApplicableError,
    with_reading,
)
from multimodal_perception.evaluation.robustness.frame_faults import rotate
from multimodal_perception.frame import Modality, SensorFrame

MISSING, FROZEN, ROTATED = "missing", "frozen", "extrinsic_rotation"
GENERAL = (MISSING, FROZEN, ROTATED)
# Corruptions of the catalogue of the robustness report, by modality.
CORRUPTIONS = {
    Modality.LIDAR: ("point_drop", "range_noise", "fog"),
    Modality.CAMERA: ("motion_blur", "low_light", "fog", "lens_dirt"),
    Modality.THERMAL: ("motion_blur", "thermal_drift", "flat_field_failure"),
    Modality.ULTRASONIC: ("ghosts", "crosstalk"),
}
# Range of the rotation errors, degrees, and of the severities of the catalogue's corruptions.
ROTATION_DEG, SEVERITIES = (1.0, 4.0), (2, 5)
# A fault concerns all sensors of a modality in this fraction of the cases, otherwise one of them.
ALL_SENSORS = 0.3


@dataclass(frozen=True)
class FaultyFrame:
    """A frame with a fault of `sensors`; none for a frame without fault. name: of the fault."""

    frame: SensorFrame
    sensors: frozenset[str] = frozenset()
    name: str = ""


def draw_fault(
    frame: SensorFrame, earlier: SensorFrame | None, seed: int, rng: np.random.Generator
) -> FaultyFrame:
    """A frame with a random fault of one of its modalities.

    earlier: an earlier frame of the drive, for frozen sensors; None without one. seed: of the fault. A
    fault that the frame cannot have leaves it unchanged.
    """
    groups = {
        Modality.LIDAR: frame.lidars,
        Modality.CAMERA: frame.cameras,
        Modality.THERMAL: frame.thermals,
        Modality.ULTRASONIC: frame.ultrasonics,
    }
    present = [m for m, readings in groups.items() if readings]
    if not present:
        return FaultyFrame(frame)
    modality = present[int(rng.integers(len(present)))]
    names = sorted(groups[modality])
    if rng.random() >= ALL_SENSORS:
        names = [names[int(rng.integers(len(names)))]]
    kinds = [*GENERAL, *CORRUPTIONS[modality]]
    if earlier is None:
        kinds.remove(FROZEN)
    kind = kinds[int(rng.integers(len(kinds)))]
    source = FrameSource(frame, seed=seed)
    if kind == MISSING:
        return FaultyFrame(frame.without_sensors(set(names)), frozenset(names), kind)
    result = frame
    try:
        if kind == FROZEN:
            assert earlier is not None
            for name in names:
                result = _freeze(result, name, earlier)
        elif kind == ROTATED:
            angle = float(rng.uniform(*ROTATION_DEG))
            for name in names:
                result = rotate(result, name, angle, source)
        else:
            severity = int(rng.integers(SEVERITIES[0], SEVERITIES[1] + 1))
            result = corrupt(source, kind, names, severity)
    except NotApplicableError:
        return FaultyFrame(frame)
    return FaultyFrame(result, frozenset(names), kind)


def _freeze(frame: SensorFrame, sensor: str, earlier: SensorFrame) -> SensorFrame:
    """The measurement of an earlier frame with the present stamp."""
    old = earlier.readings.get(sensor)
    if old is None:
        return frame.without_sensors({sensor})
    return with_reading(frame, replace(old, stamp_ns=frame.readings[sensor].stamp_ns))
