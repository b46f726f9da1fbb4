"""Renders the training frames of the segmentation network with the simulator.

Each drive gives a few frames several seconds apart and has its own rig: extrinsics and focal
lengths of both cameras vary, so that the network does not depend on one calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.files import atomic_write
from multimodal_perception.frame import SensorFrame, ThermalImage
from multimodal_perception.images.thermal_normalization import ThermalNormaliser
from multimodal_perception.images.view_warp import render_inverse_depth, warp_between
from multimodal_perception.processes import WorkerPool
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.segmentation.classes import labels_from_semantics
from multimodal_perception.sensor_calibration import Extrinsics, Intrinsics
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.sensors.camera import ImageTruth
from multimodal_perception.simulation.world.scenarios import Lane, Scenario, load_scenario

CAMERA, THERMAL, LIDAR = "camera_front", "thermal_front", "lidar"
SCENARIOS = ("urban_street", "intersection", "urban_street", "parking_lot", "highway", "warehouse")
FRAMES_PER_DRIVE = 10
FRAME_INTERVAL_S = 3.0
# The scenario's frequency of cyclists is multiplied by this factor.
CYCLIST_FREQUENCY_FACTOR = 5.0
# Lateral positions (y, metres) of additional lanes of pedestrians and cyclists near the vehicle, by
# environment.
NEAR_LANES = {"street": (-3.5, 3.5), "intersection": (-3.5, 3.5), "parking": (-2.0, 2.0)}
# Fraction of the nights without any lights except those of the ego vehicle.
UNLIT_NIGHT_FRACTION = 0.6
# Seeds from this one on are reserved for evaluation.
FIRST_EVALUATION_SEED = 10_000

Shard = dict[str, NDArray]


def drive_conditions(rng: np.random.Generator) -> tuple[str, ...]:
    """Random weather and light of one drive; night or sun glare can be combined with fog or rain."""
    conditions: list[str] = []
    light = rng.random()
    if light < 0.45:
        conditions.append("night")
    elif light < 0.6:
        conditions.append("sun_glare")
    weather = rng.random()
    if weather < 0.28:
        conditions.append(f"fog={rng.uniform(30, 250):.0f}")
    elif weather < 0.45:
        conditions.append(f"rain={rng.uniform(3, 40):.0f}")
    if "night" in conditions and rng.random() < UNLIT_NIGHT_FRACTION:
        conditions.append("unlit")
    return tuple(conditions)


def drive_scenario(name: str) -> Scenario:
    """A scenario with more cyclists, and with pedestrians and cyclists near the vehicle.

    The unchanged scenarios contain too few of them for training.
    """
    scenario = load_scenario(name)

    def with_more_cyclists(lane: Lane) -> Lane:
        class_frequencies = {
            k: w * (CYCLIST_FREQUENCY_FACTOR if k == "cyclist" else 1.0)
            for k, w in lane.class_frequencies.items()
        }
        return replace(lane, class_frequencies=class_frequencies)

    near = tuple(
        Lane(y, speed, 16.0, {"cyclist": 0.6, "pedestrian": 0.4})
        for y, speed in zip(NEAR_LANES.get(scenario.environment, ()), (3.5, -3.5), strict=False)
    )
    return replace(scenario, lanes=(*map(with_more_cyclists, scenario.lanes), *near))


def drive_rig(rng: np.random.Generator, lidar: bool = False) -> Rig:
    """The front camera and thermal camera of the simulation rig with random extrinsics and focal
    lengths.

    lidar: also include the LiDAR.
    """
    rig = load_rig(resolve_rig_path("simulation"))
    height, pitch = rng.uniform(1.2, 2.0), rng.uniform(-0.03, 0.06)
    focal = rng.uniform(330.0, 520.0)
    camera = replace(
        rig.sensors[CAMERA],
        extrinsics=Extrinsics((0.5, 0.0, height), (0.0, pitch, 0.0)),
        intrinsics=Intrinsics(640, 360, focal, focal, 319.5, 179.5),
    )
    lateral = rng.uniform(-0.4, 0.4)
    rotation = tuple(rng.uniform(-0.03, 0.03, 3))
    focal = rng.uniform(230.0, 420.0)
    thermal = replace(
        rig.sensors[THERMAL],
        extrinsics=Extrinsics(
            (0.5, lateral, height + rng.uniform(-0.3, 0.3)),
            (rotation[0], pitch + rotation[1], rotation[2]),
        ),
        intrinsics=Intrinsics(320, 256, focal, focal, 159.5, 127.5),
        simulation={"netd": float(rng.uniform(0.03, 0.12))},
    )
    sensors = {CAMERA: camera, THERMAL: thermal}
    if lidar:
        sensors[LIDAR] = rig.sensors[LIDAR]
    return replace(rig, sensors=sensors)


def render_drive(
    seed: int,
    lidar: bool = False,
    frames: int = FRAMES_PER_DRIVE,
    profile: Profile = "basic",
) -> list[Shard]:
    """Arrays of the frames of one drive; see shard_arrays."""
    from multimodal_perception.simulation.simulation import Simulation

    rng = np.random.default_rng((seed, 5))
    scenario = drive_scenario(SCENARIOS[seed % len(SCENARIOS)])
    step = round(FRAME_INTERVAL_S * 10)
    simulation = Simulation(
        scenario,
        drive_rig(rng, lidar),
        seed,
        frames * step,
        drive_conditions(rng),
        profile=profile,
    )
    shards = []
    for index in range(int(rng.integers(step)), len(simulation), step):
        observation = simulation.observe(index)
        views = observation.truth.views
        shards.append(shard_arrays(observation.frame, views[CAMERA], views[THERMAL]))
    return shards


def shard_arrays(frame: SensorFrame, camera: ImageTruth, thermal: ImageTruth) -> Shard:
    """Training arrays of one frame, in the view of the camera and in the view of the thermal camera.

    In the view of the camera: visible (H, W, 3) uint8; thermal (H, W) float16 in [0, 1], warped, valid
    where thermal_valid (H, W) bool; labels (H, W) uint8; instances (H, W) int32, track ids, 0 for
    scenery; with a LiDAR also lidar (H, W) float16, inverse depth, and lidar_valid (H, W) bool.
    In the view of the thermal camera: own_thermal (h, w) float16, own_labels and own_instances (h, w).
    """
    image = frame.thermals[THERMAL]
    model, pose = frame.intrinsics[CAMERA], frame.base_from_sensor[CAMERA]
    normalised = normalise_thermal(image)
    warp = warp_between(model, pose, frame.intrinsics[THERMAL], frame.base_from_sensor[THERMAL])
    arrays: Shard = {
        "visible": frame.cameras[CAMERA].rgb(),
        "thermal": warp.apply(normalised).astype(np.float16),
        "thermal_valid": warp.valid,
        "labels": labels_from_semantics(camera.semantics),
        "instances": camera.instances,
        "own_thermal": normalised.astype(np.float16),
        "own_labels": labels_from_semantics(thermal.semantics),
        "own_instances": thermal.instances,
    }
    if frame.lidars:
        inverse_depth, visible = render_inverse_depth(frame, model, pose)
        arrays["lidar"], arrays["lidar_valid"] = inverse_depth.astype(np.float16), visible
    return arrays


def normalise_thermal(image: ThermalImage) -> NDArray[np.float32]:
    """A thermal image (H, W) float32 in [0, 1], normalised like the first image of a sequence."""
    return ThermalNormaliser().normalise(image.pixels, image.stamp_ns)


def render_drives(
    folder: Path,
    seeds: Sequence[int],
    workers: int = 1,
    lidar: bool = False,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    frames: int = FRAMES_PER_DRIVE,
    profile: Profile = "basic",
) -> list[Path]:
    """Write one .npz file per drive. Existing files are kept.

    lidar: also write LiDAR depth images. frames: in each drive. Returns the paths. Raises UserError for
    seeds that are reserved for evaluation or if the folder cannot be written.
    """
    if not seeds or not 0 <= min(seeds) <= max(seeds) < FIRST_EVALUATION_SEED:
        raise UserError(f"seeds of training drives: allowed: 0 to {FIRST_EVALUATION_SEED - 1}")
    prefix = "lidar" if lidar else "thermal"
    prefix += "" if profile == "basic" else f"_{profile}"
    paths = {seed: folder / f"{prefix}_{seed:04d}.npz" for seed in seeds}
    missing = [seed for seed, path in paths.items() if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for seed, shards in zip(
            progress(missing), _render_all(missing, lidar, workers, frames, profile), strict=True
        ):
            stacked = {name: np.stack([s[name] for s in shards]) for name in shards[0]}
            with atomic_write(paths[seed]) as file:
                np.savez_compressed(file, allow_pickle=False, **stacked)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error
    return list(paths.values())


def _render_all(
    seeds: list[int], lidar: bool, workers: int, frames: int, profile: Profile
) -> Iterator[list[Shard]]:
    if workers <= 1:
        yield from (render_drive(seed, lidar, frames, profile) for seed in seeds)
        return
    with WorkerPool(workers) as pool:
        count = len(seeds)
        yield from pool.map(
            render_drive, seeds, [lidar] * count, [frames] * count, [profile] * count
        )
