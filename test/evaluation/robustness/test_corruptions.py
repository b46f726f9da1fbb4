"""Corruptions: severity, determinism, untouched sensors, and what each definition means."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.robustness import frame_faults, image_weather, lidar_faults
from multimodal_perception.evaluation.robustness.catalogue import CORRUPTIONS, corrupt
from multimodal_perception.evaluation.robustness.corruption import (
    SEVERITIES,
    FrameSource,
    NotApplicableError,
)
from multimodal_perception.evaluation.robustness.frame_faults import rotation_about
from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.simulation.sensors.conditions import Conditions
from test.evaluation.robustness.frames import PERIOD_NS, SPEED, street_frame, street_source

SENSOR_OF = {
    Modality.LIDAR: "lidar",
    Modality.CAMERA: "camera",
    Modality.THERMAL: "thermal",
    Modality.ULTRASONIC: "middle",
}
CASES = [(c.name, SENSOR_OF[m]) for c in CORRUPTIONS.values() for m in c.modalities]
# A seed with which also the random faults of the sensor occur at some severity.
SOURCE = street_source(seed=5)


def change(clean: SensorFrame, changed: SensorFrame, sensor: str) -> float:
    """How much a sensor's reading, calibration and motion differ; 1e6 for a missing reading."""
    before, after = clean.readings[sensor], changed.readings.get(sensor)
    if after is None:
        return 1e6
    total = abs(after.stamp_ns - before.stamp_ns) * 1e-9
    for mapping in ("base_from_sensor", "reference_from_base"):
        poses_of = [getattr(f, mapping).get(sensor, np.eye(4)) for f in (clean, changed)]
        total += float(np.abs(poses_of[1] - poses_of[0]).sum())
    if sensor == "lidar":
        a, b = clean.lidars[sensor].points, changed.lidars[sensor].points
        same = np.isin(a[:, 0], b[:, 0]).sum()  # points that are where they were
        total += float(len(a) - same)
        if len(a) == len(b):
            total += float(np.linalg.norm(a[:, :3] - b[:, :3], axis=1).sum())
    elif sensor == "middle":
        total += min(abs(after.range_m - before.range_m), 100.0)
    else:
        total += float(np.abs(after.pixels.astype(float) - before.pixels).mean())
    return total


@pytest.mark.parametrize(("name", "sensor"), CASES)
def test_severities_are_ordered_deterministic_and_leave_other_sensors_untouched(
    name: str, sensor: str
) -> None:
    frame = SOURCE.frame
    changes = []
    for severity in SEVERITIES:
        corrupted = corrupt(SOURCE, name, [sensor], severity)
        again = corrupt(street_source(seed=5), name, [sensor], severity)
        assert change(corrupted, again, sensor) == 0.0 if sensor in corrupted.present else True
        for other, reading in frame.readings.items():
            if other != sensor:
                assert corrupted.readings[other] is reading
        for other in frame.present - {sensor}:
            assert corrupted.base_from_sensor[other] is frame.base_from_sensor[other]
            assert other not in corrupted.reference_from_base
        assert corrupted.labels is frame.labels and corrupted.expected == frame.expected
        changes.append(change(frame, corrupted, sensor))
    if name in ("frozen", "delayed") or (name, sensor) == ("snow", "camera"):
        # The content of another frame, and ImageNet-C's snow, are not strictly ordered.
        assert min(changes) > 0.0
        return
    assert changes == sorted(changes) and changes[-1] > 0.0


@pytest.mark.parametrize("name", ["lens_dirt", "rain", "point_drop", "crosstalk"])
def test_another_seed_gives_another_corruption(name: str) -> None:
    sensor = SENSOR_OF[CORRUPTIONS[name].modalities[0]]
    first, second = (corrupt(street_source(seed=s), name, [sensor], 4) for s in (5, 12))
    # The simulator's dirt is fixed by the name of the sensor, and so is a certain cross-talk.
    differs = change(first, second, sensor) > 0.0
    assert differs == (name != "lens_dirt")


def test_extrinsic_errors_have_the_stated_size() -> None:
    for severity, degrees, centimetres in ((1, 0.1, 1.0), (5, 2.0, 20.0)):
        for sensor in ("lidar", "camera", "thermal", "left"):
            pose = SOURCE.frame.base_from_sensor[sensor]
            turned = corrupt(SOURCE, "extrinsic_rotation", [sensor], severity)
            error = poses.inverse(pose) @ turned.base_from_sensor[sensor]
            angle = np.degrees(np.arccos((np.trace(error[:3, :3]) - 1.0) / 2.0))
            assert angle == pytest.approx(degrees, rel=1e-6) and np.allclose(error[:3, 3], 0.0)
            moved = corrupt(SOURCE, "extrinsic_translation", [sensor], severity)
            shift = moved.base_from_sensor[sensor][:3, 3] - pose[:3, 3]
            assert np.linalg.norm(shift) == pytest.approx(0.01 * centimetres)


@given(st.integers(0, 2**32 - 1), st.floats(-3.0, 3.0))
@settings(max_examples=30)
def test_rotations_about_any_axis_are_rigid_and_have_their_angle(seed: int, angle: float) -> None:
    axis = np.random.default_rng(seed).normal(size=3)
    pose = rotation_about(axis / np.linalg.norm(axis), angle)
    assert poses.is_rigid(pose, 1e-9)
    assert np.trace(pose[:3, :3]) == pytest.approx(1.0 + 2.0 * np.cos(angle))


def test_a_time_offset_moves_the_reading_by_the_way_of_the_vehicle() -> None:
    late = corrupt(SOURCE, "time_offset", ["lidar"], 5)
    assert late.lidars["lidar"].stamp_ns == SOURCE.frame.stamp_ns + 200_000_000
    assert late.reference_from_base["lidar"][:3, 3] == pytest.approx([0.2 * SPEED, 0.0, 0.0])
    assert late.lidars["lidar"].points is SOURCE.frame.lidars["lidar"].points
    without = FrameSource(replace(SOURCE.frame, odom_from_base=None), SOURCE.earlier)
    with pytest.raises(NotApplicableError, match="odometry"):
        corrupt(without, "time_offset", ["lidar"], 1)


def test_a_frozen_sensor_repeats_one_reading_and_a_delayed_one_lags() -> None:
    for index, age in ((20, 0), (25, 5)):
        source = street_source(index, age=age)
        frozen = corrupt(source, "frozen", ["camera"], 2).cameras["camera"]
        assert frozen.stamp_ns == index * PERIOD_NS
        assert np.array_equal(frozen.pixels, street_frame(18).cameras["camera"].pixels)
    delayed = corrupt(SOURCE, "delayed", ["lidar"], 3)
    assert delayed.lidars["lidar"].stamp_ns == 17 * PERIOD_NS
    assert np.array_equal(delayed.lidars["lidar"].points, street_frame(17).lidars["lidar"].points)
    # The vehicle has moved on by 3 m since then.
    assert delayed.reference_from_base["lidar"][:3, 3] == pytest.approx([-0.3 * SPEED, 0.0, 0.0])


@pytest.mark.parametrize("name", ["frozen", "delayed", "time_offset"])
def test_old_data_needs_consecutive_frames(name: str) -> None:
    with pytest.raises(NotApplicableError, match="no earlier frames"):
        corrupt(FrameSource(SOURCE.frame), name, ["lidar"], 1)
    unrelated = FrameSource(SOURCE.frame, lambda k: replace(street_frame(), stamp_ns=-(10**12)))
    with pytest.raises(NotApplicableError, match="not consecutive"):
        corrupt(unrelated, name, ["lidar"], 1)


def test_the_patch_needs_a_simulation() -> None:
    with pytest.raises(NotApplicableError, match="simulated"):
        corrupt(FrameSource(SOURCE.frame), "adversarial_patch", ["camera"], 1)


def test_missing_sensors_are_removed_always_at_the_highest_severity() -> None:
    frames = [street_source(i) for i in range(10, 60)]
    rates = [
        np.mean(["lidar" not in corrupt(s, "missing", ["lidar"], k).lidars for s in frames])
        for k in SEVERITIES
    ]
    assert rates == sorted(rates) and rates[-1] == 1.0 and 0.05 <= rates[0] <= 0.35
    both = corrupt(SOURCE, "missing", ["lidar", "camera"], 5)
    assert both.missing == {"lidar", "camera"}


def test_points_and_rings_are_lost_in_the_stated_number() -> None:
    sweep = SOURCE.frame.lidars["lidar"]
    dropped = corrupt(SOURCE, "point_drop", ["lidar"], 3).lidars["lidar"]
    assert len(dropped.points) == pytest.approx(0.4 * len(sweep.points), rel=0.1)
    assert len(dropped.rings) == len(dropped.points)  # type: ignore[arg-type]
    for severity, left in ((1, 14), (3, 8), (5, 2)):
        rings = corrupt(SOURCE, "ring_drop", ["lidar"], severity).lidars["lidar"].rings
        assert len(np.unique(rings)) == left  # type: ignore[arg-type]
    unnumbered = FrameSource(
        replace(SOURCE.frame, lidars={"lidar": replace(sweep, rings=None)}), SOURCE.earlier
    )
    half = corrupt(unnumbered, "ring_drop", ["lidar"], 3).lidars["lidar"]
    assert len(half.points) == pytest.approx(0.5 * len(sweep.points), rel=0.1)


def test_range_noise_moves_points_along_their_rays() -> None:
    clean = SOURCE.frame.lidars["lidar"].points[:, :3].astype(float)
    noisy = corrupt(SOURCE, "range_noise", ["lidar"], 3).lidars["lidar"].points[:, :3]
    assert np.allclose(np.cross(clean, noisy), 0.0, atol=1e-3)
    errors = np.linalg.norm(noisy, axis=1) - np.linalg.norm(clean, axis=1)
    assert errors.std() == pytest.approx(0.1, rel=0.1) and abs(errors.mean()) < 0.02


def test_fog_attenuates_pulses_twice_on_their_way_and_adds_near_returns() -> None:
    clean = SOURCE.frame.lidars["lidar"]
    foggy = corrupt(SOURCE, "fog", ["lidar"], 5).lidars["lidar"]
    kept = np.isin(foggy.points[:, 0], clean.points[:, 0])
    index = {x: i for i, x in enumerate(clean.points[:, 0].tolist())}
    before = clean.points[[index[x] for x in foggy.points[kept, 0].tolist()]]
    ranges = np.linalg.norm(before[:, :3], axis=1)
    expected = before[:, 3] * np.exp(-2.0 * 0.06 * ranges)
    assert foggy.points[kept, 3] == pytest.approx(expected, rel=1e-4)
    scattered = np.linalg.norm(foggy.points[~kept, :3], axis=1)
    assert len(scattered) > 50 and scattered.max() < lidar_faults.SCATTER_RANGE
    assert len(foggy.points) < len(clean.points)


def test_rain_has_the_extinction_of_the_simulator() -> None:
    for rate in (5.0, 60.0):
        expected = Conditions(rain=rate).extinction - Conditions().extinction
        assert lidar_faults.rain_extinction(rate) == pytest.approx(expected)


def test_haze_mixes_scene_and_air_by_distance() -> None:
    image = np.full((2, 2, 1), 0.2, np.float32)
    distance = np.array([[0.0, 10.0], [50.0, 1e9]], np.float32)
    hazy = image_weather.haze(image, distance, 0.05, 0.9)[..., 0]
    t = np.exp(-0.05 * distance)
    assert hazy == pytest.approx(0.2 * t + 0.9 * (1.0 - t), abs=1e-6)


def test_the_distance_of_pixels_is_that_of_flat_ground() -> None:
    distance = image_weather.ground_distance(SOURCE.frame, "camera")
    assert distance.shape == (72, 96)
    assert (distance[:30] == image_weather.FAR).all()  # above the horizon
    # The ray of row 66 in the middle points down by 30.5 pixels of 60.
    assert distance[66, 48] == pytest.approx(1.5 * np.hypot(1.0, 60.0 / 30.5), rel=0.05)
    unknown = replace(SOURCE.frame, intrinsics={})
    assert (image_weather.ground_distance(unknown, "camera") == image_weather.FAR).all()


def test_jpeg_is_that_of_the_encoder() -> None:
    image = SOURCE.frame.cameras["camera"].pixels
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 7])[1]
    expected = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]  # type: ignore[index]
    assert np.array_equal(corrupt(SOURCE, "jpeg", ["camera"], 5).cameras["camera"].pixels, expected)


@pytest.mark.parametrize("encoding", ["bgr8", "mono8"])
def test_every_encoding_is_corrupted_alike(encoding: str) -> None:
    rgb = SOURCE.frame.cameras["camera"]
    grey = cv2.cvtColor(rgb.pixels, cv2.COLOR_RGB2GRAY)
    pixels = np.ascontiguousarray(rgb.pixels[..., ::-1]) if encoding == "bgr8" else grey
    image = replace(rgb, pixels=pixels, encoding=encoding)  # type: ignore[arg-type]
    source = replace(SOURCE, frame=replace(SOURCE.frame, cameras={"camera": image}))
    changed = corrupt(source, "sun_glare", ["camera"], 3).cameras["camera"]
    reference = corrupt(SOURCE, "sun_glare", ["camera"], 3).cameras["camera"]
    assert changed.encoding == encoding and changed.pixels.shape == pixels.shape
    if encoding == "bgr8":
        assert np.array_equal(changed.rgb(), reference.pixels)


def test_thermal_drift_is_in_kelvin_and_uncalibrated_images_have_a_scale() -> None:
    for severity, kelvin in ((1, 0.5), (5, 8.0)):
        drifted = corrupt(SOURCE, "thermal_drift", ["thermal"], severity).thermals["thermal"]
        clean = SOURCE.frame.thermals["thermal"]
        counts = drifted.pixels.astype(int) - clean.pixels
        assert abs(counts).max() == pytest.approx(100 * kelvin, abs=1) and counts.min() >= 0
    image = replace(clean, pixels=(clean.pixels - 28_700).clip(0, 255).astype(np.uint8))
    image = replace(image, counts_to_kelvin=None)
    source = replace(SOURCE, frame=replace(SOURCE.frame, thermals={"thermal": image}))
    drifted = corrupt(source, "thermal_drift", ["thermal"], 2).thermals["thermal"]
    low, high = np.percentile(image.pixels, (1, 99))
    largest = abs(drifted.pixels.astype(int) - image.pixels).max()
    assert largest == pytest.approx((high - low) / 30.0, abs=1)


def test_ultrasonic_ghosts_are_twice_as_far_and_crosstalk_is_nearer() -> None:
    ghosts = corrupt(SOURCE, "ghosts", ["left", "middle", "right"], 5).ultrasonics
    for name, expected in (("left", {1.0, 2.0}), ("middle", {2.0, 4.0}), ("right", {np.inf})):
        assert ghosts[name].range_m in expected
    assert any(
        ghosts[n].range_m == 2 * SOURCE.frame.ultrasonics[n].range_m for n in ("left", "middle")
    )
    crosstalk = corrupt(SOURCE, "crosstalk", ["right"], 5).ultrasonics["right"]
    assert 0.5 <= crosstalk.range_m <= 3.0
    near = replace(SOURCE.frame.ultrasonics["left"], range_m=0.16)
    source = replace(SOURCE, frame=replace(SOURCE.frame, ultrasonics={"left": near}))
    for severity in SEVERITIES:
        noisy = corrupt(source, "range_noise", ["left"], severity).ultrasonics["left"].range_m
        assert noisy == -np.inf or 0.15 <= noisy <= 5.0


def test_fog_of_thermal_images_moves_them_towards_the_temperature_of_the_air() -> None:
    clean = SOURCE.frame.thermals["thermal"].pixels.astype(float)
    foggy = corrupt(SOURCE, "fog", ["thermal"], 5).thermals["thermal"].pixels.astype(float)
    assert foggy.std() < clean.std() and np.median(foggy) == pytest.approx(np.median(clean), abs=60)
    assert (np.abs(foggy - np.median(clean)) <= np.abs(clean - np.median(clean)) + 1).all()


@pytest.mark.parametrize(
    ("name", "sensors", "severity", "message"),
    [
        ("hail", ["lidar"], 1, "corruption: allowed: missing, frozen"),
        ("fog", ["lidar"], 0, "severity: allowed: 1, 2, 3, 4, 5; got 0"),
        ("fog", ["lidar"], 6, "severity: allowed: 1, 2, 3, 4, 5; got 6"),
        ("fog", ["radar"], 1, "sensor: allowed: camera, left, lidar"),
        ("jpeg", ["lidar"], 1, "jpeg: lidar is of modality lidar; allowed: camera"),
        ("ghosts", ["thermal"], 1, "allowed: ultrasonic"),
    ],
)
def test_what_does_not_exist_is_an_error_with_the_allowed_values(
    name: str, sensors: list[str], severity: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        corrupt(SOURCE, name, sensors, severity)


def test_a_sensor_without_a_reading_or_points_stays_as_it_is() -> None:
    empty = replace(SOURCE.frame.lidars["lidar"], points=np.zeros((0, 4), np.float32), rings=None)
    source = replace(SOURCE, frame=replace(SOURCE.frame, lidars={"lidar": empty}))
    for name in ("point_drop", "ring_drop", "range_noise", "fog", "rain", "snow"):
        assert not len(corrupt(source, name, ["lidar"], 5).lidars["lidar"].points)
    missing = replace(SOURCE, frame=SOURCE.frame.without_sensors({"camera"}))
    assert corrupt(missing, "fog", ["camera"], 3) is missing.frame
    uncalibrated = replace(SOURCE, frame=replace(SOURCE.frame, base_from_sensor={}))
    with pytest.raises(NotApplicableError, match="no extrinsics"):
        frame_faults.rotate(uncalibrated.frame, "lidar", 1.0, uncalibrated)
