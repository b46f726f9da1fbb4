"""Frames that the segmentation network learns from, rendered by the simulator.

A drive gives few frames, far apart, and every drive has another rig: the thermal camera's place and
lens and the camera's height and pitch vary, so that the network does not learn one calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame, ThermalImage
from multimodal_perception.images.thermal_normalization import ThermalNormaliser
from multimodal_perception.images.view_warp import lidar_image, warp_between
from multimodal_perception.rig import Extrinsics, Intrinsics, Rig, load_rig, rig_path
from multimodal_perception.segmentation.classes import labels_from_semantics
from multimodal_perception.simulation.sensors.camera import View as TrueView
from multimodal_perception.simulation.world.scenarios import Lane, Scenario, load_scenario

CAMERA, THERMAL, LIDAR = "camera_front", "thermal_front", "lidar"
SCENARIOS = ("urban_street", "intersection", "urban_street", "parking_lot", "highway", "warehouse")
FRAMES_A_DRIVE = 10
SECONDS_BETWEEN = 3.0
# How many times as often as the scenario says a mover is a cyclist.
MORE_CYCLISTS = 5.0
# Where people and cyclists go near the vehicle beside those of the scenario, by its kind: y in metres.
NEAR_LANES = {"street": (-3.5, 3.5), "intersection": (-3.5, 3.5), "parking": (-2.0, 2.0)}
# Share of the nights in which no lamp is on but the vehicle's own.
UNLIT_NIGHTS = 0.6
# Evaluation has the seeds from here on.
FIRST_EVALUATION_SEED = 10_000

Shard = dict[str, NDArray]


def drive_conditions(rng: np.random.Generator) -> tuple[str, ...]:
    """Weather and light of one drive: day, night, fog and rain alone and together."""
    words: list[str] = []
    light = rng.random()
    if light < 0.45:
        words.append("night")
    elif light < 0.6:
        words.append("low_sun")
    weather = rng.random()
    if weather < 0.28:
        words.append(f"fog={rng.uniform(30, 250):.0f}")
    elif weather < 0.45:
        words.append(f"rain={rng.uniform(3, 40):.0f}")
    if "night" in words and rng.random() < UNLIT_NIGHTS:
        words.append("unlit")
    return tuple(words)


def drive_scenario(name: str) -> Scenario:
    """A scenario with more cyclists, and with people and cyclists near: else too few to learn from."""
    scenario = load_scenario(name)

    def busier(lane: Lane) -> Lane:
        shares = {k: w * (MORE_CYCLISTS if k == "cyclist" else 1.0) for k, w in lane.shares.items()}
        return replace(lane, shares=shares)

    near = tuple(
        Lane(y, speed, 16.0, {"cyclist": 0.6, "pedestrian": 0.4})
        for y, speed in zip(NEAR_LANES.get(scenario.kind, ()), (3.5, -3.5), strict=False)
    )
    return replace(scenario, lanes=(*map(busier, scenario.lanes), *near))


def drive_rig(rng: np.random.Generator, lidar: bool = False) -> Rig:
    """The simulation rig's front camera and thermal camera, moved and with other lenses."""
    rig = load_rig(rig_path("simulation"))
    height, pitch = rng.uniform(1.2, 2.0), rng.uniform(-0.03, 0.06)
    focal = rng.uniform(330.0, 520.0)
    camera = replace(
        rig.sensors[CAMERA],
        extrinsics=Extrinsics((0.5, 0.0, height), (0.0, pitch, 0.0)),
        intrinsics=Intrinsics(640, 360, focal, focal, 319.5, 179.5),
    )
    side = rng.uniform(-0.4, 0.4)
    turn = tuple(rng.uniform(-0.03, 0.03, 3))
    focal = rng.uniform(230.0, 420.0)
    thermal = replace(
        rig.sensors[THERMAL],
        extrinsics=Extrinsics(
            (0.5, side, height + rng.uniform(-0.3, 0.3)), (turn[0], pitch + turn[1], turn[2])
        ),
        intrinsics=Intrinsics(320, 256, focal, focal, 159.5, 127.5),
        simulation={"netd": float(rng.uniform(0.03, 0.12))},
    )
    sensors = {CAMERA: camera, THERMAL: thermal}
    if lidar:
        sensors[LIDAR] = rig.sensors[LIDAR]
    return replace(rig, sensors=sensors)


def render_drive(seed: int, lidar: bool = False) -> list[Shard]:
    """The frames of one drive. See shard_arrays."""
    from multimodal_perception.simulation.simulation import Simulation

    rng = np.random.default_rng((seed, 5))
    scenario = drive_scenario(SCENARIOS[seed % len(SCENARIOS)])
    step = round(SECONDS_BETWEEN * 10)
    simulation = Simulation(
        scenario, drive_rig(rng, lidar), seed, FRAMES_A_DRIVE * step, drive_conditions(rng)
    )
    shards = []
    for index in range(int(rng.integers(step)), len(simulation), step):
        observation = simulation.observe(index)
        views = observation.truth.views
        shards.append(shard_arrays(observation.frame, views[CAMERA], views[THERMAL]))
    return shards


def shard_arrays(frame: SensorFrame, camera: TrueView, thermal: TrueView) -> Shard:
    """What is learnt from one frame, in the camera's view and in the thermal camera's own.

    visible (H, W, 3) uint8; thermal (H, W) float16 in [0, 1] where thermal_seen (H, W) bool, warped
    into the camera's view; labels (H, W) uint8; instances (H, W) int32, track ids, 0 for scenery;
    own_thermal (h, w) float16, own_labels and own_instances (h, w); with a LiDAR also lidar (H, W)
    float16 and lidar_seen.
    """
    image = frame.thermals[THERMAL]
    model, pose = frame.intrinsics[CAMERA], frame.base_from_sensor[CAMERA]
    own = normalised(image)
    warp = warp_between(model, pose, frame.intrinsics[THERMAL], frame.base_from_sensor[THERMAL])
    arrays: Shard = {
        "visible": frame.cameras[CAMERA].rgb(),
        "thermal": warp.apply(own).astype(np.float16),
        "thermal_seen": warp.seen,
        "labels": labels_from_semantics(camera.semantics),
        "instances": camera.instances,
        "own_thermal": own.astype(np.float16),
        "own_labels": labels_from_semantics(thermal.semantics),
        "own_instances": thermal.instances,
    }
    if frame.lidars:
        inverse, seen = lidar_image(frame, model, pose)
        arrays["lidar"], arrays["lidar_seen"] = inverse.astype(np.float16), seen
    return arrays


def normalised(image: ThermalImage) -> NDArray[np.float32]:
    """A thermal image alone, (H, W) float32 in [0, 1], as the first of a sequence is."""
    return ThermalNormaliser().normalise(image.pixels, image.stamp_ns)


def render_drives(
    folder: Path,
    drives: int,
    workers: int = 1,
    lidar: bool = False,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[Path]:
    """Write one .npz a drive for the seeds 0 to drives - 1; those that are there are kept.

    Raises UserError when there are too many or the folder cannot be written.
    """
    if not 1 <= drives <= FIRST_EVALUATION_SEED:
        raise UserError(f"--drives: allowed: 1 to {FIRST_EVALUATION_SEED}; got {drives}")
    kind = "lidar" if lidar else "thermal"
    paths = [folder / f"{kind}_{seed:04d}.npz" for seed in range(drives)]
    missing = [seed for seed in range(drives) if not paths[seed].exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for seed, shards in zip(progress(missing), _made(missing, lidar, workers), strict=True):
            stacked = {name: np.stack([s[name] for s in shards]) for name in shards[0]}
            partial = folder / f".{seed:04d}.npz"
            np.savez_compressed(partial, allow_pickle=False, **stacked)
            partial.replace(paths[seed])
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error
    return paths


def _made(seeds: list[int], lidar: bool, workers: int) -> Iterator[list[Shard]]:
    if workers <= 1:
        yield from (render_drive(seed, lidar) for seed in seeds)
        return
    # Forked threads of Embree would never run again.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(render_drive, seeds, [lidar] * len(seeds))
