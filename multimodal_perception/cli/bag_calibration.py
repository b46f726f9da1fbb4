"""How the images of a bag are calibrated, for `rig check --bag`, with the code of the bag reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from multimodal_perception.frame import CameraImage, Modality, ThermalImage
from multimodal_perception.geometry.transform_tree import TransformTree
from multimodal_perception.messages.decoding_log import DecodingLog
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.synchronization.frame_assembler import FrameAssembler
from multimodal_perception.synchronization.intake import set_calibration

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader


class BagCalibration:
    """Calibration of the cameras of a bag by the first CameraInfo of each.

    log: notices of the decoders and of the calibration.
    """

    def __init__(self, rig: Rig, reader: AnyReader, transforms: TransformTree) -> None:
        self._assembler = FrameAssembler(rig, transforms)
        self._invalid: dict[str, tuple[str, ...]] = {}
        self.log = DecodingLog(self._assembler.notices)
        for sensor in rig.sensors.values():
            message = _first_message(reader, sensor.camera_info_topic)
            if message is not None:
                invalid: Counter[tuple[str, str]] = Counter()
                set_calibration(self._assembler, message, sensor, invalid)
                if invalid:
                    self._invalid[sensor.name] = self._assembler.notices.texts(sensor.name)

    def differences(self, sensor: Sensor, reading: Any) -> Iterator[str]:
        """Reasons for which an image cannot be used with its calibration."""
        if not isinstance(reading, (CameraImage, ThermalImage)):
            return
        yield from self._invalid.get(sensor.name, ())
        calibration = self._assembler.calibrations.get(sensor.name)
        if calibration is None:
            return
        height, width = reading.pixels.shape[:2]
        model, assumption = calibration.fitted(width, height)
        if model is None:
            yield assumption
        elif assumption:
            self.log.notices.add(sensor.name, assumption)

    def notes(self, sensor: Sensor) -> Iterator[str]:
        """The matrix that is used for the images of a sensor, and the notices about the sensor."""
        calibration = self._assembler.calibrations.get(sensor.name)
        if sensor.modality in (Modality.CAMERA, Modality.THERMAL) and calibration is not None:
            model = calibration.model
            focal = ", ".join(f"{v:.2f}" for v in (model.matrix[0, 0], model.matrix[1, 1]))
            centre = ", ".join(f"{v:.2f}" for v in model.matrix[:2, 2])
            yield (
                f"intrinsics: {calibration.source}, {model.model}, {model.width}x{model.height}, "
                f"focal lengths ({focal}), principal point ({centre}) px"
            )
        invalid = self._invalid.get(sensor.name, ())
        yield from (t for t in self.log.notices.texts(sensor.name) if t not in invalid)


def _first_message(reader: AnyReader, topic: str | None) -> Any:
    connections = [c for c in reader.connections if c.topic == topic]
    if not connections:
        return None
    for connection, _, raw in reader.messages(connections):
        return reader.deserialize(raw, connection.msgtype)
    return None
