"""All corruptions by name, and their application to the sensors of a frame."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.robustness import (
    frame_faults,
    image_faults,
    lidar_faults,
    ultrasonic_faults,
)
from multimodal_perception.evaluation.robustness.corruption import (
    SEVERITIES,
    Corruption,
    Fault,
    FrameSource,
    reading_modality,
)
from multimodal_perception.frame import Modality, SensorFrame

ALL = tuple(Modality)
CAMERA, THERMAL = (Modality.CAMERA,), (Modality.THERMAL,)
LIDAR, ULTRASONIC = (Modality.LIDAR,), (Modality.ULTRASONIC,)
IMAGES = (*CAMERA, *THERMAL)
IMAGENET_C = "ImageNet-C (Hendrycks and Dietterich 2019)"
MULTICORRUPT = "MultiCorrupt (Beemelmanns et al. 2024)"
ROBO3D = "Robo3D (Kong et al. 2023)"
# Of definitions without a publication.
OWN = "this package"


def _by_modality(lidar: Fault, images: Fault) -> Fault:
    """A corruption that LiDARs and images have in a different form."""

    def apply(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
        fault = lidar if sensor in frame.lidars else images
        return fault(frame, sensor, value, source)

    return apply


def _range_noise(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    ranging = lidar_faults if sensor in frame.lidars else ultrasonic_faults
    return ranging.add_range_noise(frame, sensor, value, source)


# Flakes per metre of a LiDAR's beam by severity. In images, snow of severity k is that of ImageNet-C.
SNOWFLAKES = (0.002, 0.005, 0.01, 0.02, 0.04)
FLAKES_TEXT = ", ".join(f"{n:g}" for n in SNOWFLAKES)


def _snow(frame: SensorFrame, sensor: str, value: float, source: FrameSource) -> SensorFrame:
    if sensor in frame.lidars:
        return lidar_faults.snow(frame, sensor, SNOWFLAKES[round(value) - 1], source)
    return image_faults.snow(frame, sensor, value, source)


_FOG = _by_modality(lidar_faults.fog, image_faults.fog)
_RAIN = _by_modality(lidar_faults.rain, image_faults.rain)
_ROWS = (
    Corruption("missing", ALL, "fraction of the frames", (0.2, 0.4, 0.6, 0.8, 1.0),
               f"{MULTICORRUPT}, missing camera", frame_faults.remove),
    Corruption("frozen", ALL, "frames", (1, 2, 3, 5, 10),
               f"{OWN}: the measurement of this number of frames before the first evaluated frame",
               frame_faults.freeze),
    Corruption("delayed", ALL, "frames", (1, 2, 3, 4, 5),
               f"{MULTICORRUPT}, temporal misalignment, with the correct stamp", frame_faults.delay),
    Corruption("extrinsic_rotation", ALL, "deg", (0.1, 0.25, 0.5, 1.0, 2.0),
               f"{MULTICORRUPT}, spatial misalignment", frame_faults.rotate),
    Corruption("extrinsic_translation", ALL, "cm", (1, 2, 5, 10, 20),
               f"{MULTICORRUPT}, spatial misalignment", frame_faults.translate),
    Corruption("time_offset", ALL, "ms", (10, 20, 50, 100, 200),
               f"{OWN}: a stamp that is late, with the motion of the vehicle", frame_faults.shift_stamp),
    Corruption("point_drop", LIDAR, "fraction of the points", (0.2, 0.4, 0.6, 0.8, 0.95),
               f"{MULTICORRUPT}, points reducing", lidar_faults.drop_points),
    Corruption("ring_drop", LIDAR, "fraction of the rings", (0.125, 0.25, 0.5, 0.75, 0.875),
               f"{MULTICORRUPT}, beams reducing; {ROBO3D}, beam missing", lidar_faults.drop_rings),
    Corruption("range_noise", (*LIDAR, *ULTRASONIC), "m", (0.02, 0.05, 0.1, 0.2, 0.4),
               f"{OWN}: normally distributed errors along the ray", _range_noise),
    Corruption("fog", (*LIDAR, *IMAGES), "1/m", (0.005, 0.01, 0.02, 0.03, 0.06),
               "Hahner et al. 2021 (LiDAR, attenuation coefficients); Koschmieder 1924 (images)", _FOG),
    Corruption("rain", (*LIDAR, *IMAGES), "mm/h", (5, 15, 30, 60, 100),
               "LISA (Kilic et al. 2021) with the extinction of Goodin et al. 2019; streaks after Garg "
               "and Nayar 2007", _RAIN),
    Corruption("snow", (*LIDAR, *CAMERA), "ImageNet-C severity", (1, 2, 3, 4, 5),
               f"{IMAGENET_C}; LiDAR, {OWN}: {FLAKES_TEXT} flakes per metre of the beam", _snow),
    Corruption("sun_glare", CAMERA, "factor of the stray light", (0.1, 0.2, 0.4, 0.7, 1.2),
               f"{OWN}: CIE glare equation (Vos 2003)", image_faults.sun_glare),
    Corruption("low_light", CAMERA, "fraction of the light", (0.5, 0.25, 0.1, 0.04, 0.015),
               f"{MULTICORRUPT}, darkness; noise after EMVA 1288", image_faults.low_light),
    Corruption("motion_blur", IMAGES, "px per 224 px of the shorter side", (3, 5, 8, 12, 15),
               f"{IMAGENET_C}, standard deviation of the blur", image_faults.motion_blur),
    Corruption("lens_dirt", IMAGES, "fraction of the lens", (0.05, 0.12, 0.2, 0.3, 0.45),
               f"{OWN}: the simulator's dirt", image_faults.lens_dirt),
    Corruption("water_drops", IMAGES, "drops", (8, 20, 40, 80, 150),
               f"{OWN}: the simulator's drops", image_faults.water_drops),
    Corruption("jpeg", CAMERA, "quality", (25, 18, 15, 10, 7), IMAGENET_C,
               image_faults.compress_jpeg),
    Corruption("thermal_drift", THERMAL, "K", (0.5, 1.0, 2.0, 4.0, 8.0),
               f"{OWN}: drift without flat-field correction", image_faults.thermal_drift),
    Corruption("flat_field_failure", THERMAL, "K", (0.1, 0.25, 0.5, 1.0, 2.0),
               f"{OWN}: the simulator's fixed-pattern noise", image_faults.flat_field_failure),
    Corruption("ghosts", ULTRASONIC, "probability", (0.1, 0.2, 0.4, 0.6, 0.9),
               f"{OWN}: the simulator's multipath echoes", ultrasonic_faults.add_ghost),
    Corruption("crosstalk", ULTRASONIC, "probability", (0.1, 0.2, 0.4, 0.6, 0.9),
               f"{OWN}: the simulator's cross-talk", ultrasonic_faults.add_crosstalk),
    Corruption("adversarial_patch", CAMERA, "m", (0.2, 0.4, 0.6, 0.8, 1.2),
               "Thys et al. 2019, with the simulator's random pattern", image_faults.show_patch),
)  # fmt: skip
CORRUPTIONS: dict[str, Corruption] = {row.name: row for row in _ROWS}


def check_names(option: str, values: Collection[str], allowed: Sequence[str]) -> None:
    """Raise UserError with the allowed values for a value that is not one of them."""
    for value in values:
        if value not in allowed:
            raise UserError(f"{option}: allowed: {', '.join(allowed)}; got {value!r}")


def check_severities(option: str, values: Collection[int]) -> None:
    """Raise UserError for a severity that does not exist."""
    for value in values:
        if value not in SEVERITIES:
            allowed = ", ".join(str(s) for s in SEVERITIES)
            raise UserError(f"{option}: allowed: {allowed}; got {value}")


def corrupt(source: FrameSource, name: str, sensors: Collection[str], severity: int) -> SensorFrame:
    """The frame with a corruption of some of its sensors.

    Sensors without a reading in the frame are left out; the readings of all others stay the same
    objects. Raises UserError for a corruption, severity or sensor that does not exist, and for a sensor
    that cannot have the corruption; NotApplicableError if the data does not have what it needs.
    """
    check_names("corruption", [name], tuple(CORRUPTIONS))
    check_severities("severity", [severity])
    check_names("sensor", sensors, sorted(source.frame.expected | source.frame.present))
    corruption = CORRUPTIONS[name]
    frame = source.frame
    for sensor in sorted(sensors):
        reading = frame.readings.get(sensor)
        if reading is None:
            continue
        modality = reading_modality(reading)
        if modality not in corruption.modalities:
            allowed = ", ".join(m.value for m in corruption.modalities)
            raise UserError(f"{name}: {sensor} is of modality {modality.value}; allowed: {allowed}")
        frame = corruption.apply(frame, sensor, corruption.value(severity), source)
    return frame
