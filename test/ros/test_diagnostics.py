"""A sensor's status: health, and the trust in its image."""

from __future__ import annotations

import pytest

from multimodal_perception.frame import ImageTrust, Level, SensorHealth
from multimodal_perception.ros.diagnostics import sensor_status
from multimodal_perception.ros.messages import RclpyTypes


def status(level: Level, trust: ImageTrust | None) -> tuple[int, str, dict[str, str]]:
    health = SensorHealth("camera", level, "ok" if level is Level.OK else "9.0 Hz")
    told = sensor_status(RclpyTypes(), "/perception", health, {}, trust, 0.5)
    return told.level[0], told.message, {v.key: v.value for v in told.values}


def test_a_trusted_image_changes_no_level_and_is_told() -> None:
    level, message, values = status(Level.OK, ImageTrust(0.9, {"sharpness": 0.9, "motion": 1.0}))
    assert (level, message) == (Level.OK.value, "ok")
    assert values["trust"] == "0.900" and values["trust.motion"] == "1.000"


def test_an_image_that_is_not_trusted_is_a_warning_that_names_why() -> None:
    level, message, _ = status(Level.OK, ImageTrust(0.0, {"sharpness": 1.0, "motion": 0.0}))
    assert level == Level.WARN.value and message == "image trusted 0.00: motion"
    level, message, _ = status(Level.WARN, ImageTrust(0.1, {"sharpness": 0.1}))
    assert level == Level.WARN.value and message == "9.0 Hz; image trusted 0.10: sharpness"


@pytest.mark.parametrize("level", [Level.ERROR, Level.STALE])
def test_it_hides_nothing_worse(level: Level) -> None:
    told = status(level, ImageTrust(0.0, {"motion": 0.0}))
    assert told[0] == level.value and told[1] == "9.0 Hz"


def test_sensors_without_images_have_no_trust() -> None:
    assert not any(key.startswith("trust") for key in status(Level.OK, None)[2])
