"""Frames of simulated near-field drives in memory: image features, ultrasonic grids and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import (
    CameraImage,
    Modality,
    SensorFrame,
    UltrasonicReading,
    VehicleFootprint,
)
from multimodal_perception.near_field.network_inputs import NearFieldInputs
from multimodal_perception.networks.near_field import NearField
from multimodal_perception.npz_reader import CONTENT_ERRORS, read_npz
from multimodal_perception.rig import Rig
from multimodal_perception.simulation.sensors.ultrasonic import DEFAULT_LIMITS

STEP_NS = 100_000_000


@dataclass
class Samples:
    """N training frames: image features of the frozen backbone, ultrasonic grids and labels.

    fine: (N, 4, 24, 28, 48) and coarse: (N, 4, 40, 14, 24) float16, image features of 4 cameras.
    sample_uv: (4, 2, 72, 72, 2), image positions of the cells at 2 heights. ultrasonic_grid: (N, 5,
    72, 72) float16. labels: (N, 72, 72) uint8. hard: (N, 72, 72) bool, cells of HARD_CLASSES.
    night: (N,) bool. scenario: N names. vehicle_footprint: of the rig, None if it has none.
    """

    fine: Tensor
    coarse: Tensor
    sample_uv: Tensor
    ultrasonic_grid: Tensor
    labels: Tensor
    hard: Tensor
    night: NDArray[np.bool_]
    scenario: list[str]
    vehicle_footprint: VehicleFootprint | None

    def __len__(self) -> int:
        return len(self.labels)


def load_samples(shards: Sequence[Path], rig: Rig, network: NearField) -> Iterator[Samples]:
    """Samples of each shard. Raises UserError for a file that is not a near-field shard."""
    for path in shards:
        try:
            content = read_npz(path)
            frames = list(_frames(content, rig))
            labels, hard = content["labels"], content["hard"]
        except CONTENT_ERRORS as error:
            raise UserError(f"{path}: not a near-field shard: {error}") from error
        inputs = NearFieldInputs()
        fine, coarse, ultrasonic_grid, sample_uv = [], [], [], None
        for frame in frames:
            if not frame.cameras:
                inputs.ultrasonic_grid(frame)  # adds the echoes to the history
                continue
            arrays = inputs.build(frame)
            assert arrays is not None
            with torch.inference_mode():
                features = network.backbone(torch.from_numpy(arrays["images"][0]))
            fine.append(features[0].half())
            coarse.append(features[1].half())
            ultrasonic_grid.append(torch.from_numpy(arrays["ultrasonic_grid"][0]).half())
            sample_uv = torch.from_numpy(arrays["sample_uv"][0])
        assert sample_uv is not None
        night = np.full(len(labels), bool(content["night"]))
        scenario = [str(content["scenario"])] * len(labels)
        stacked = (torch.stack(fine), torch.stack(coarse), sample_uv, torch.stack(ultrasonic_grid))
        yield Samples(
            *stacked,
            torch.from_numpy(labels),
            torch.from_numpy(hard),
            night,
            scenario,
            rig.vehicle_footprint,
        )


def concatenate_samples(parts: Sequence[Samples]) -> Samples:
    """Concatenate samples of the same rig. Raises UserError if there are none."""
    if not parts:
        raise UserError("no near-field shards: simulate some first")
    tensors = {
        n: torch.cat([getattr(p, n) for p in parts]) for n in ("fine", "coarse", "ultrasonic_grid")
    }
    return Samples(
        tensors["fine"],
        tensors["coarse"],
        parts[0].sample_uv,
        tensors["ultrasonic_grid"],
        torch.cat([p.labels for p in parts]),
        torch.cat([p.hard for p in parts]),
        np.concatenate([p.night for p in parts]),
        [name for p in parts for name in p.scenario],
        parts[0].vehicle_footprint,
    )


def _frames(content: dict[str, NDArray], rig: Rig) -> Iterator[SensorFrame]:
    """The steps of a shard as frames; frames without images contain ultrasonic readings only."""
    ultrasonics = list(rig.sensors_of(Modality.ULTRASONIC).values())
    cameras = list(rig.sensors_of(Modality.CAMERA).values())
    image_index = {int(step): k for k, step in enumerate(content["frames"])}
    poses = {s.name: p for s in (*ultrasonics, *cameras) if (p := s.base_from_sensor()) is not None}
    models = {c.name: c.intrinsics.camera_model() for c in cameras if c.intrinsics is not None}
    for step, (ranges, pose) in enumerate(
        zip(content["ranges"], content["odom_from_base"], strict=True)
    ):
        stamp = step * STEP_NS
        readings = {}
        for sensor, range_m in zip(ultrasonics, ranges, strict=True):
            limits = sensor.limits or DEFAULT_LIMITS
            readings[sensor.name] = UltrasonicReading(
                sensor.name,
                stamp,
                sensor.frame_id,
                float(range_m),
                limits.min_range,
                limits.max_range,
                limits.field_of_view,
            )
        images = {}
        if step in image_index:
            for camera, pixels in zip(cameras, content["images"][image_index[step]], strict=True):
                images[camera.name] = CameraImage(camera.name, stamp, camera.frame_id, pixels)
        yield SensorFrame(
            stamp,
            rig.base_frame,
            cameras=images,
            ultrasonics=readings,
            base_from_sensor=poses,
            intrinsics=models,
            odom_from_base=pose,
        )
