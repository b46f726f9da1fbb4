"""Weather, light and sensor faults, from a scenario's YAML file or the command line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from multimodal_perception.configuration import ConfigurationError, UserError, build

FaultType = Literal["outage", "time_offset", "extrinsic_error", "ring_loss", "ultrasonic_spoofing"]


@dataclass(frozen=True)
class Conditions:
    """Light, weather and other environmental conditions.

    Attributes:
        sun_elevation: Elevation of the sun above the horizon; below -1 degree it is night. Lower it for
            glare and long shadows.
        sun_azimuth: Azimuth of the sun in the odom frame, from x (forward) towards the left. Set it to
            about 0 to make the sun shine into the front cameras.
        lamp_brightness: Brightness of street lamps, hall lamps and windows as a fraction of normal; the
            vehicle's headlights are not affected. Set it to 0 for unlit roads and halls.
        air_temperature: Temperature of the air, which thermal images depend on. Raise it to reduce the
            thermal contrast of people.
        fog_visibility: Meteorological visibility in fog, or 0 without fog. Lower it (to 5 m at least)
            for denser fog.
        rain: Rain rate. Increase it for more attenuation of light and LiDAR pulses, and for more drops
            on the camera lenses.
        lens_dirt: Fraction of each camera's lens that is covered by dirt. Increase it to test
            detection with a dirty lens.
        adversarial_patch: Side length of a printed pattern on all objects with a bounding box, visible
            only to cameras, in the manner of physical attacks on detectors (Thys et al. 2019); 0 means
            no patch. Set it to test robustness; the pattern is random and not optimised against any
            network.
        foliage_penetration: Mean distance that LiDAR pulses travel into foliage before they are
            reflected; 0 makes the outer surface of foliage opaque. Set it to about 0.2 for realistic
            returns from trees and shrubs.
    """

    sun_elevation: float = field(default=42.0, metadata={"min": -90.0, "max": 90.0, "unit": "deg"})
    sun_azimuth: float = field(default=125.0, metadata={"min": -360, "max": 360, "unit": "deg"})
    lamp_brightness: float = field(default=1.0, metadata={"min": 0.0, "max": 1.0})
    air_temperature: float = field(
        default=288.0, metadata={"min": 220.0, "max": 330.0, "unit": "K"}
    )
    fog_visibility: float = field(default=0.0, metadata={"min": 0.0, "max": 20000, "unit": "m"})
    rain: float = field(default=0.0, metadata={"min": 0.0, "max": 150.0, "unit": "mm/h"})
    lens_dirt: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    adversarial_patch: float = field(default=0.0, metadata={"min": 0.0, "max": 3.0, "unit": "m"})
    foliage_penetration: float = field(default=0.0, metadata={"min": 0.0, "max": 2.0, "unit": "m"})

    def __post_init__(self) -> None:
        if 0.0 < self.fog_visibility < 5.0:
            raise ValueError("fog_visibility: allowed: 0 (no fog) or at least 5 m")

    @property
    def night(self) -> bool:
        """Whether headlights and street lamps are the only light."""
        return self.sun_elevation < -1.0

    @property
    def sun_direction(self) -> tuple[float, float, float]:
        """Unit vector towards the sun in the odom frame (x forward, y left, z up)."""
        e, a = math.radians(self.sun_elevation), math.radians(self.sun_azimuth)
        return math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)

    @property
    def extinction(self) -> float:
        """Extinction coefficient of light in the air, 1/m.

        Fog after Koschmieder (1924) with a contrast of 0.05 at the visibility, plus rain and 1/2500 m
        for clear air.
        """
        fog = 3.0 / self.fog_visibility if self.fog_visibility > 0 else 0.0
        # Attenuation of a 905 nm beam by rain: Filgueira et al. (2017) and Goodin et al. (2019), eq. 4.
        rain = 0.0012 * self.rain**0.6
        return fog + rain + 1.0 / 2500.0


CONDITION_HELP = (
    "night, unlit, sun_glare, fog[=METRES], rain[=MM_PER_H], lens_dirt[=FRACTION], "
    "adversarial_patch[=METRES], foliage_penetration[=METRES]"
)
# Modifiers with a number: the attribute that they set, and the value without a number.
_NUMERIC_CONDITIONS = {
    "fog": ("fog_visibility", 60.0),
    "rain": ("rain", 15.0),
    "lens_dirt": ("lens_dirt", 0.12),
    "adversarial_patch": ("adversarial_patch", 0.8),
    "foliage_penetration": ("foliage_penetration", 0.2),
}


def apply_conditions(conditions: Conditions, modifiers: Iterable[str]) -> Conditions:
    """Conditions changed by modifiers such as "night" or "fog=80" (see CONDITION_HELP).

    Raises UserError for an unknown modifier or a value out of range.
    """
    for modifier in modifiers:
        name, _, text = modifier.partition("=")
        try:
            value = float(text) if text else None
        except ValueError:
            raise UserError(f"condition {modifier!r}: {text!r} is not a number") from None
        changes: dict[str, float]
        if name == "night" and value is None:
            changes = {"sun_elevation": -30.0, "air_temperature": conditions.air_temperature - 8.0}
        elif name == "unlit" and value is None:
            changes = {
                "sun_elevation": -30.0,
                "air_temperature": conditions.air_temperature - 8.0,
                "lamp_brightness": 0,
            }
        elif name == "sun_glare" and value is None:
            changes = {"sun_elevation": 6.0, "sun_azimuth": 8.0}
        elif name in _NUMERIC_CONDITIONS:
            attribute, default = _NUMERIC_CONDITIONS[name]
            changes = {attribute: default if value is None else value}
        else:
            raise UserError(f"condition {modifier!r}: unknown; allowed: {CONDITION_HELP}")
        values = {**dataclasses.asdict(conditions), **changes}
        conditions = build(Conditions, values, f"condition {modifier}")
    return conditions


@dataclass(frozen=True)
class Fault:
    """A fault of one sensor during a time interval.

    Attributes:
        type: outage (no data), time_offset (stamps `value` seconds late), extrinsic_error (the true pose
            differs by `xyz` and `rpy` from the rig's extrinsics), ring_loss (the fraction `value` of a
            LiDAR's rings has no returns) or ultrasonic_spoofing (an ultrasonic sensor measures `value`
            metres). Set it to the fault to be tested.
        sensor: Name of the sensor in the rig. Set it to the sensor that has the fault.
        start: Time at which the fault begins, counted from the start of the drive. Increase it to get
            some frames without the fault first.
        stop: Time at which the fault ends, counted from the start of the drive. Lower it to test the
            recovery after the fault.
        value: Strength of a time_offset (seconds), ring_loss (fraction) or ultrasonic_spoofing (metres);
            the other types ignore it. Increase it for a stronger fault.
        xyz: Translation of the sensor by an extrinsic_error, in the sensor's frame. Set it to the size
            of the mounting error to be tested.
        rpy: Rotation of the sensor by an extrinsic_error: roll, pitch and yaw in the sensor's frame. Set
            it to the size of the mounting error to be tested.
    """

    type: FaultType
    sensor: str
    start: float = field(default=0.0, metadata={"min": 0.0, "unit": "s"})
    stop: float = field(default=1e9, metadata={"min": 0.0, "unit": "s"})
    value: float = 0.0
    xyz: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), metadata={"unit": "m"})
    rpy: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0), metadata={"unit": "rad"})

    def __post_init__(self) -> None:
        if not self.start < self.stop:
            raise ValueError("stop must be later than start")
        if self.type == "ring_loss" and not 0.0 < self.value <= 1.0:
            raise ValueError(
                f"ring_loss: value is a fraction of the rings; allowed: above 0, at most 1; "
                f"got {self.value}"
            )
        if self.type == "ultrasonic_spoofing" and not self.value > 0.0:
            raise ValueError(
                f"ultrasonic_spoofing: value is a range in metres; allowed: above 0; got {self.value}"
            )
        if self.type == "time_offset" and not abs(self.value) <= 10.0:
            raise ValueError(
                f"time_offset: value is in seconds; allowed: -10 to 10; got {self.value}"
            )

    def active(self, seconds: float) -> bool:
        """Whether the fault is present at a time in seconds."""
        return self.start <= seconds < self.stop


FAULT_HELP = (
    "TYPE:SENSOR[:START:STOP[:VALUE]] or extrinsic_error:SENSOR:START:STOP:X:Y:Z:ROLL:PITCH:YAW, "
    f"TYPE one of {', '.join(get_args(FaultType))}; START and STOP in seconds from the start of the "
    "drive, VALUE in seconds (time_offset), as a fraction of the rings (ring_loss) or in metres "
    "(ultrasonic_spoofing), X Y Z in metres, ROLL PITCH YAW in radians"
)


def parse_fault(text: str) -> Fault:
    """Parse a fault such as "outage:camera_front:1:2" or "extrinsic_error:lidar:0:9:0:0:0:0:0:0.02".

    Raises UserError for text that does not follow FAULT_HELP.
    """
    fault_type, *rest = text.split(":")
    if not rest:
        raise UserError(f"fault {text!r}: expected {FAULT_HELP}")
    values: dict[str, object] = {"type": fault_type, "sensor": rest[0]}
    try:
        numbers = [float(n) for n in rest[1:]]
    except ValueError:
        raise UserError(f"fault {text!r}: expected {FAULT_HELP}") from None
    values.update(zip(("start", "stop"), numbers, strict=False))
    parameters = numbers[2:]
    if len(parameters) == 6:
        values["xyz"], values["rpy"] = parameters[:3], parameters[3:]
    elif len(parameters) == 1:
        values["value"] = parameters[0]
    elif parameters:
        raise UserError(f"fault {text!r}: expected {FAULT_HELP}")
    return build(Fault, values, f"fault {text}")


# Fault types that only one sensor modality can have.
REQUIRED_MODALITY = {"ring_loss": "lidar", "ultrasonic_spoofing": "ultrasonic"}


def check_faults(faults: Sequence[Fault], modalities: dict[str, str]) -> None:
    """Check that the rig has the faulty sensors, with a suitable modality.

    modalities: modality of each sensor of the rig. Raises ConfigurationError.
    """
    for fault in faults:
        if fault.sensor not in modalities:
            known = ", ".join(modalities)
            raise ConfigurationError(
                f"fault {fault.type}: the rig has no sensor {fault.sensor!r}; allowed: {known}"
            )
        required = REQUIRED_MODALITY.get(fault.type)
        if required is not None and modalities[fault.sensor] != required:
            raise ConfigurationError(
                f"fault {fault.type}: sensor {fault.sensor} is of modality "
                f"{modalities[fault.sensor]}; allowed: {required}"
            )
