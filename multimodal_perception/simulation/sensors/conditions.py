"""Weather, light and faults: modifiers that can be put together, from YAML or the command line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from multimodal_perception.configuration import ConfigurationError, UserError, build

FaultKind = Literal["dead", "time_offset", "extrinsic_error", "ring_loss", "spoofed_echo"]


@dataclass(frozen=True)
class Conditions:
    """Light and weather.

    sun_elevation, sun_azimuth: degrees, azimuth from x (forward) to the left; below 0 it is night.
    lamps: share of the light of street lamps, hall lamps and windows; the vehicle has its own.
    air_kelvin: temperature of the air. fog_visibility: meteorological visibility in metres, 0 clear.
    rain: mm/h. dirt: share of each camera's lens that dirt covers. patch: side in metres of a loud
    print on all that has a box, that only cameras see, as physical attacks on detectors wear (Thys et
    al. 2019); it is aimed at no network in particular. foliage: metres that a LiDAR's pulse goes into
    leaves on average before it comes back, 0 for leaves as closed as walls.
    """

    sun_elevation: float = field(default=42.0, metadata={"min": -90.0, "max": 90.0, "unit": "deg"})
    sun_azimuth: float = field(default=125.0, metadata={"min": -360, "max": 360, "unit": "deg"})
    lamps: float = field(default=1.0, metadata={"min": 0.0, "max": 1.0})
    air_kelvin: float = field(default=288.0, metadata={"min": 220.0, "max": 330.0, "unit": "K"})
    fog_visibility: float = field(default=0.0, metadata={"min": 0.0, "max": 20000, "unit": "m"})
    rain: float = field(default=0.0, metadata={"min": 0.0, "max": 150.0, "unit": "mm/h"})
    dirt: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    patch: float = field(default=0.0, metadata={"min": 0.0, "max": 3.0, "unit": "m"})
    foliage: float = field(default=0.0, metadata={"min": 0.0, "max": 2.0, "unit": "m"})

    def __post_init__(self) -> None:
        if 0.0 < self.fog_visibility < 5.0:
            raise ValueError("fog_visibility: 0 (clear) or at least 5 m")

    @property
    def night(self) -> bool:
        """Whether head lamps and street lamps are the light."""
        return self.sun_elevation < -1.0

    @property
    def sun(self) -> tuple[float, float, float]:
        """Unit vector to the sun, x forward, y left, z up, in the odom frame."""
        e, a = math.radians(self.sun_elevation), math.radians(self.sun_azimuth)
        return math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)

    @property
    def extinction(self) -> float:
        """Of light in the air, 1/m: Koschmieder (1924), contrast 0.05 at the visibility, and rain."""
        fog = 3.0 / self.fog_visibility if self.fog_visibility > 0 else 0.0
        # Rain of R mm/h takes 0.01 R^0.6 /m from a 905 nm beam over 100 m at 50 mm/h some 10 dB:
        # Filgueira et al. (2017) and Goodin et al. (2019), eq. 4.
        rain = 0.0012 * self.rain**0.6
        return fog + rain + 1.0 / 2500.0


CONDITION_HELP = (
    "night, unlit, low_sun, fog[=METRES], rain[=MM_H], dirt[=SHARE], patch[=METRES], "
    "foliage[=METRES]"
)


def apply_conditions(conditions: Conditions, words: Iterable[str]) -> Conditions:
    """Conditions with modifiers such as "night" or "fog=80" put on. Raises UserError."""
    for word in words:
        name, _, text = word.partition("=")
        try:
            value = float(text) if text else None
        except ValueError:
            raise UserError(f"condition {word!r}: {text!r} is not a number") from None
        changes: dict[str, float]
        if name == "night" and value is None:
            changes = {"sun_elevation": -30.0, "air_kelvin": conditions.air_kelvin - 8.0}
        elif name == "unlit" and value is None:
            changes = {
                "sun_elevation": -30.0,
                "air_kelvin": conditions.air_kelvin - 8.0,
                "lamps": 0,
            }
        elif name == "low_sun" and value is None:
            changes = {"sun_elevation": 6.0, "sun_azimuth": 8.0}
        elif name == "fog":
            changes = {"fog_visibility": 60.0 if value is None else value}
        elif name == "rain":
            changes = {"rain": 15.0 if value is None else value}
        elif name == "dirt":
            changes = {"dirt": 0.12 if value is None else value}
        elif name == "patch":
            changes = {"patch": 0.8 if value is None else value}
        elif name == "foliage":
            changes = {"foliage": 0.2 if value is None else value}
        else:
            raise UserError(f"condition {word!r}: unknown; allowed: {CONDITION_HELP}")
        values = {**dataclasses.asdict(conditions), **changes}
        conditions = build(Conditions, values, f"condition {word}")
    return conditions


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one sensor between two times, seconds from the start.

    dead: no readings. time_offset: stamps `value` seconds late. extrinsic_error: it sits `xyz` metres
    and `rpy` radians from where the rig says. ring_loss: share `value` of a LiDAR's rings is silent.
    spoofed_echo: an ultrasonic hears `value` metres.
    """

    kind: FaultKind
    sensor: str
    start: float = field(default=0.0, metadata={"min": 0.0, "unit": "s"})
    stop: float = field(default=1e9, metadata={"min": 0.0, "unit": "s"})
    value: float = 0.0
    xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rpy: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not self.start < self.stop:
            raise ValueError("stop must be later than start")
        if self.kind == "ring_loss" and not 0.0 < self.value <= 1.0:
            raise ValueError("ring_loss: value is the share of the rings, above 0 and at most 1")
        if self.kind == "spoofed_echo" and not self.value > 0.0:
            raise ValueError("spoofed_echo: value is its range in metres, above 0")
        if self.kind == "time_offset" and not abs(self.value) <= 10.0:
            raise ValueError("time_offset: value in seconds, -10 to 10")

    def active(self, seconds: float) -> bool:
        """Whether it is there at a time."""
        return self.start <= seconds < self.stop


FAULT_HELP = "KIND:SENSOR[:START:STOP[:VALUE...]], values: one, or x y z roll pitch yaw"


def parse_fault(text: str) -> Fault:
    """A fault such as "dead:camera_front:1:2" or "extrinsic_error:lidar:0:9:0:0:0:0:0:0.02"."""
    kind, *rest = text.split(":")
    if not rest:
        raise UserError(f"fault {text!r}: expected {FAULT_HELP}")
    values: dict[str, object] = {"kind": kind, "sensor": rest[0]}
    try:
        numbers = [float(n) for n in rest[1:]]
    except ValueError:
        raise UserError(f"fault {text!r}: expected {FAULT_HELP}") from None
    values.update(zip(("start", "stop"), numbers, strict=False))
    last = numbers[2:]
    if len(last) == 6:
        values["xyz"], values["rpy"] = last[:3], last[3:]
    elif len(last) == 1:
        values["value"] = last[0]
    elif last:
        raise UserError(f"fault {text!r}: expected {FAULT_HELP}")
    return build(Fault, values, f"fault {text}")


# What a kind of fault can happen to.
FITS = {"ring_loss": "lidar", "spoofed_echo": "ultrasonic"}


def check_faults(faults: Sequence[Fault], modalities: dict[str, str]) -> None:
    """Raise ConfigurationError for a sensor that is not in the rig, or of another kind."""
    for fault in faults:
        if fault.sensor not in modalities:
            known = ", ".join(modalities)
            raise ConfigurationError(
                f"fault {fault.kind}: no sensor {fault.sensor!r} among {known}"
            )
        wanted = FITS.get(fault.kind)
        if wanted is not None and modalities[fault.sensor] != wanted:
            raise ConfigurationError(f"fault {fault.kind}: {fault.sensor} is no {wanted}")
