"""Targets of `bench fuzz messages` and `frames`: mutated ROS messages and mutated frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from multimodal_perception.benchmarks.fuzzing.mutations import mutate_message
from multimodal_perception.datasets.bag_writer import RosbagsTypes
from multimodal_perception.frame import (
    CameraImage,
    LidarSweep,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.messages import encoders
from multimodal_perception.messages.frame_messages import frame_messages
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.resources import share_path
from multimodal_perception.rig import Rig, load_rig
from multimodal_perception.synchronization.intake import MOVING_TOPIC, STATIC_TOPIC, MessageIntake

PERIOD_NS = 100_000_000
FIRST_STAMP_NS = 1_700_000_000_000_000_000
POINTS = 400
IMAGE_SHAPE = (24, 32)
# Share of the messages that are mutated; the others keep frames complete.
MUTATED = 0.5


def fuzz_rig() -> Rig:
    """A rig with all four modalities and odometry on a topic."""
    rig = load_rig(share_path("config", "rigs", "simulation.yaml"))
    return dataclasses.replace(rig, odometry_topic=rig.odometry_topic or "/odom")


def make_frame(rig: Rig, index: int, rng: np.random.Generator) -> SensorFrame:
    """A frame with few points and small images for all sensors of a rig."""
    stamp_ns = FIRST_STAMP_NS + index * PERIOD_NS
    lidars: dict[str, LidarSweep] = {}
    cameras: dict[str, CameraImage] = {}
    thermals: dict[str, ThermalImage] = {}
    ultrasonics: dict[str, UltrasonicReading] = {}
    models: dict[str, CameraModel] = {}
    poses = {}
    matrix = np.array([[30.0, 0.0, 16.0], [0.0, 30.0, 12.0], [0.0, 0.0, 1.0]])
    for name, sensor in rig.sensors.items():
        pose = sensor.base_from_sensor()
        poses[name] = np.eye(4) if pose is None else pose
        if sensor.modality.value == "lidar":
            points = rng.uniform((-40, -40, -2, 0), (40, 40, 2, 1), (POINTS, 4)).astype(np.float32)
            lidars[name] = LidarSweep(name, stamp_ns, sensor.frame_id, points)
        elif sensor.modality.value == "camera":
            pixels = rng.integers(0, 256, (*IMAGE_SHAPE, 3)).astype(np.uint8)
            cameras[name] = CameraImage(name, stamp_ns, sensor.frame_id, pixels)
        elif sensor.modality.value == "thermal":
            counts = rng.integers(27000, 31000, IMAGE_SHAPE).astype(np.uint16)
            thermals[name] = ThermalImage(name, stamp_ns, sensor.frame_id, counts, (0.01, 0.0))
        else:
            ultrasonics[name] = UltrasonicReading(
                name, stamp_ns, sensor.frame_id, float(rng.uniform(0.3, 4.0)), 0.2, 5.0, 0.9
            )
        if name in cameras or name in thermals:
            models[name] = CameraModel(IMAGE_SHAPE[1], IMAGE_SHAPE[0], matrix)
    odometry = np.eye(4)
    odometry[0, 3] = 0.5 * index
    return SensorFrame(
        stamp_ns,
        rig.base_frame,
        lidars,
        cameras,
        thermals,
        ultrasonics,
        poses,
        models,
        odom_from_base=odometry,
        expected=frozenset(rig.sensors),
        vehicle_footprint=rig.vehicle_footprint,
    )


def valid_messages(rig: Rig, types: RosbagsTypes, frame: SensorFrame) -> list[tuple[str, Any]]:
    """(topic, message) of all sensors, CameraInfo, transforms and odometry of a frame."""
    messages = [
        (topic, message)
        for topic, _, message in frame_messages(frame, rig, types)
        if not topic.startswith("/ground_truth")
    ]
    transforms = [
        encoders.transform_to_message(
            types, pose, rig.base_frame, rig.sensors[name].frame_id, frame.stamp_ns
        )
        for name, pose in frame.base_from_sensor.items()
    ]
    tf = "tf2_msgs/msg/TFMessage"
    messages.append((STATIC_TOPIC, types.new(tf, transforms=transforms)))
    assert frame.odom_from_base is not None
    moving = encoders.transform_to_message(
        types, frame.odom_from_base, rig.odom_frame, rig.base_frame, frame.stamp_ns
    )
    messages.append((MOVING_TOPIC, types.new(tf, transforms=[moving])))
    return messages


def fuzz_messages(seed: int, count: int) -> Iterator[int]:
    """Feed `count` messages, half of them mutated, to the intake of a rig; yields the number fed.

    Raises whatever the intake raises, and AssertionError for a frame with non-finite points.
    """
    rng = np.random.default_rng(seed)
    rig = fuzz_rig()
    types = RosbagsTypes()
    intake = MessageIntake(rig)
    fed, index = 0, 0
    while fed < count:
        frame = make_frame(rig, index, rng)
        messages = valid_messages(rig, types, frame)
        now_ns = frame.stamp_ns + PERIOD_NS // 2
        for position in rng.permutation(len(messages)):
            topic, message = messages[position]
            if topic not in intake.topics:
                continue
            if rng.random() < MUTATED:
                message = mutate_message(message, rng)
            for result in intake.receive(topic, message, now_ns):
                _check_frame(result)
            fed += 1
        for result in intake.advance(now_ns + PERIOD_NS // 4):
            _check_frame(result)
        intake.pop_notices()
        index += 1
        yield fed


def _check_frame(frame: SensorFrame) -> None:
    for sweep in frame.lidars.values():
        assert np.isfinite(sweep.points).all(), f"{sweep.sensor}: non-finite points"
    if frame.odom_from_base is not None:
        assert np.isfinite(frame.odom_from_base).all(), "the odometry is not finite"


def fuzz_frames(seed: int, count: int) -> Iterator[int]:
    """Process `count` mutated frames with the pipeline without networks; yields their number.

    Raises whatever the pipeline raises, and AssertionError for results that are not finite.
    """
    rng = np.random.default_rng(seed)
    rig = fuzz_rig()
    pipeline = build_pipeline(PipelineConfig(detector="geometric"))
    index = 0
    for number in range(count):
        index += int(rng.integers(1, 4)) if rng.random() < 0.05 else 1
        frame = mutate_frame(make_frame(rig, index, rng), rng)
        perception = pipeline.process(frame)
        boxes = perception.boxes
        assert np.isfinite(boxes.boxes).all(), "a box is not finite"
        assert np.isfinite(boxes.scores).all(), "a score is not finite"
        if perception.occupancy is not None:
            assert np.isfinite(perception.occupancy.occupied).all(), "the grid is not finite"
        yield number + 1


def mutate_frame(frame: SensorFrame, rng: np.random.Generator) -> SensorFrame:
    """A frame with missing sensors, extreme but finite values, and unusual geometry.

    Sensors keep their extrinsics: the frame assembler drops readings without them.
    """
    changes: dict[str, Any] = {}
    for field in ("lidars", "cameras", "thermals", "ultrasonics"):
        readings = dict(getattr(frame, field))
        for name in list(readings):
            if rng.random() < 0.25:
                del readings[name]
        changes[field] = readings
    changes["lidars"] = {n: _mutate_sweep(s, rng) for n, s in changes["lidars"].items()}
    changes["cameras"] = {n: _mutate_image(i, rng) for n, i in changes["cameras"].items()}
    changes["thermals"] = {n: _mutate_image(i, rng) for n, i in changes["thermals"].items()}
    changes["ultrasonics"] = {
        n: dataclasses.replace(u, range_m=float(rng.choice((u.range_m, 0.0, 5.0, 1e6, np.inf))))
        for n, u in changes["ultrasonics"].items()
    }
    if rng.random() < 0.2:
        names = [n for n in frame.intrinsics if rng.random() < 0.5]
        changes["intrinsics"] = {n: frame.intrinsics[n] for n in names}
    if rng.random() < 0.1:
        odometry = np.eye(4)
        odometry[:3, 3] = rng.choice((-1e6, 0.0, 5.0, 1e5), 3)
        changes["odom_from_base"] = odometry if rng.random() < 0.7 else None
    return dataclasses.replace(frame, **changes)


def _mutate_sweep(sweep: LidarSweep, rng: np.random.Generator) -> LidarSweep:
    points = sweep.points.copy()
    choice = rng.integers(0, 8)
    if choice == 0:
        points = points[:0]
    elif choice == 1:
        points[:] = points[:1]
    elif choice == 2:
        points[:, :3] *= rng.choice((0.0, 1e-6, 1e4, 1e18))
    elif choice == 3:
        points[:, 2] = rng.choice((-1000.0, 0.0, 1000.0))
    elif choice == 4:
        points[:, 3] = rng.choice((-1.0, 0.0, 255.0, 1e30))
    elif choice == 5:
        points = np.repeat(points, 20, axis=0)
    return dataclasses.replace(sweep, points=points)


def _mutate_image(image: Any, rng: np.random.Generator) -> Any:
    choice = rng.integers(0, 5)
    pixels = image.pixels
    if choice == 0:
        pixels = np.zeros_like(pixels)
    elif choice == 1:
        pixels = np.full_like(pixels, np.iinfo(pixels.dtype).max)
    elif choice == 2:
        pixels = pixels[::-1].copy()
    return dataclasses.replace(image, pixels=pixels)
