"""Simulated drives to disk: a rosbag2 (MCAP) with all that is true, or shards for training.

Frames are made by worker processes and written in order, so the file does not depend on their number.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from multimodal_perception.datasets.bag_append import SIMULATION, add_part, frames_in
from multimodal_perception.datasets.bag_writer import RosbagsTypes, TopicWriter
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.ground_truth_messages import odometry_message, truth_messages
from multimodal_perception.frame import Modality
from multimodal_perception.messages import encoders
from multimodal_perception.messages.frame_messages import TF_STATIC, TRUTH, frame_messages
from multimodal_perception.processes import begin_worker
from multimodal_perception.rig import Rig, dump_rig
from multimodal_perception.simulation.sensors.conditions import Fault
from multimodal_perception.simulation.simulation import Simulation, SimulationError
from multimodal_perception.simulation.world import scene
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.simulation.world.scenarios import Scenario

T = TypeVar("T")
DEFAULT_ODOMETRY = "/odom"
SHARD_RECORD = "dataset.json"
# A bag's next file is made in this folder within.
PART = ".part"
# Kept free on the disk, so that a bag can be ended with its index: an unwritten chunk and more.
RESERVE_BYTES = 16 << 20
# /tf comes so often between two frames that a sweep can be deskewed by it.
POSES_A_FRAME = 5
Encoded = list[tuple[str, str, int, bytes]]  # topic, type, recorded at, CDR


@dataclass(frozen=True)
class SimulationPlan:
    """What a Simulation is made of, to be sent to a worker."""

    scenario: Scenario
    rig: Rig
    seed: int = 0
    frames: int = 100
    conditions: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = field(default=())

    def simulation(self) -> Simulation:
        """The simulation. Raises SimulationError."""
        return Simulation(
            self.scenario, self.rig, self.seed, self.frames, self.conditions, self.faults
        )


def description(plan: SimulationPlan) -> dict[str, Any]:
    """What a bag or a folder of shards is of, but for the number of frames."""
    return {
        "scenario": plan.scenario.name,
        "rig": plan.rig.name,
        "seed": plan.seed,
        "conditions": list(plan.conditions),
        "faults": [repr(f) for f in plan.faults],
        "classes": list(SEMANTIC_NAMES),
        "definition": repr(plan.scenario),
        "sensors": dump_rig(plan.rig),
    }


def write_simulation(
    plan: SimulationPlan,
    out: Path,
    workers: int = 1,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> int:
    """Write a bag folder, or go on with an interrupted one; returns the number of frames in it.

    What was written when it is interrupted (KeyboardInterrupt, passed on) or the disk is full is a
    valid bag, and the same call goes on with it in another file of the same folder. Raises
    DatasetError when `out` is anything else or cannot be written.
    """
    plan.simulation()  # complains before anything is written
    # A digest, for YAML folds long lines as each library pleases.
    told = hashlib.sha256(json.dumps(description(plan)).encode()).hexdigest()
    begun = out.exists()
    count = frames_in(out, told, _odometry_topic(plan.rig)) if begun else 0
    if count >= plan.frames:
        return count
    target = out / PART if begun else out
    try:
        if begun:
            shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        stopped: BaseException | None = None
        with Writer(target, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            writer.set_custom_data(SIMULATION, told)
            try:
                count = _fill(writer, plan, range(count, plan.frames), workers, progress)
            except BaseException as error:  # left in order, the writer ends the bag as it should
                stopped = error
        if begun:
            add_part(out, target)
        if stopped is not None:
            raise stopped
        return count
    except OSError as error:
        raise DatasetError(f"{out}: {error.strerror or error}") from error


def _fill(
    writer: Writer,
    plan: SimulationPlan,
    indices: range,
    workers: int,
    progress: Callable[[Sequence[int]], Iterable[int]],
) -> int:
    topics = TopicWriter(writer, _types().store, (TF_STATIC, f"{TRUTH}/classes"))
    count = indices.start
    with closing(made(plan, encoded_frame, indices, workers)) as frames:
        for _, encoded in zip(progress(indices), frames, strict=True):
            need = RESERVE_BYTES + sum(len(data) for *_, data in encoded)
            if shutil.disk_usage(writer.path).free < need:
                raise DatasetError(f"{writer.path}: the disk is full; the bag holds {count} frames")
            for message in encoded:
                topics.write(*message)
            count += 1
    return count


def write_shards(
    plan: SimulationPlan,
    out: Path,
    workers: int = 1,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> int:
    """Write one compressed .npz a frame, with rig.yaml and dataset.json; returns how many were made.

    Frames that are there already are kept, so an interrupted run goes on where it stopped. Raises
    DatasetError when the folder holds another simulation or cannot be written.
    """
    plan.simulation()
    told = description(plan)
    try:
        out.mkdir(parents=True, exist_ok=True)
        record = out / SHARD_RECORD
        if record.exists():
            _check_record(record, told)
        elif any(out.iterdir()):
            raise DatasetError(f"{out}: not empty, and no simulation")
        record.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        (out / "rig.yaml").write_text(dump_rig(plan.rig), encoding="utf-8")
        missing = [i for i in range(plan.frames) if not shard_path(out, i).exists()]
        with closing(made(plan, shard_arrays, missing, workers)) as frames:
            for index, arrays in zip(progress(missing), frames, strict=True):
                partial = out / f".{index:06d}.npz"
                np.savez_compressed(partial, allow_pickle=False, **arrays)
                partial.replace(shard_path(out, index))
    except (OSError, json.JSONDecodeError) as error:
        raise DatasetError(f"{out}: {error}") from error
    return len(missing)


def _check_record(record: Path, told: dict[str, Any]) -> None:
    """Raises DatasetError when a folder of shards is of another simulation."""
    known = json.loads(record.read_text(encoding="utf-8"))
    # Folders of the first format do not say all.
    if not isinstance(known, dict) or known != {k: told[k] for k in told if k in known}:
        raise DatasetError(f"{record.parent}: holds another simulation")


def shard_path(folder: Path, index: int) -> Path:
    """Where a frame of a shard folder lies."""
    return folder / f"{index:06d}.npz"


def read_shard(path: Path) -> dict[str, np.ndarray]:
    """Arrays of one frame by name. Raises DatasetError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: {error}") from error


def made(
    plan: SimulationPlan,
    form: Callable[[Simulation, int], T],
    indices: Iterable[int],
    workers: int,
) -> Generator[T, None, None]:
    """form(simulation, i) of each index in order, made by processes; with one worker, here."""
    if workers <= 1:
        simulation = plan.simulation()
        return (form(simulation, i) for i in indices)
    return _made_by_processes(plan, form, iter(indices), workers)


def _made_by_processes(
    plan: SimulationPlan, form: Callable[[Simulation, int], T], indices: Iterator[int], workers: int
) -> Generator[T, None, None]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Forked threads of Embree would never run again.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _prepare, (plan, threads))
    pending: deque[Future[T]] = deque()
    try:
        # A few frames ahead: enough to keep all at work, little memory.
        for index in itertools.islice(indices, workers + 1):
            pending.append(pool.submit(_make, form, index))
        while pending:
            result = pending.popleft().result()
            for index in itertools.islice(indices, 1):
                pending.append(pool.submit(_make, form, index))
            yield result
    except BrokenProcessPool as error:
        raise SimulationError("a worker died (too little memory?): try fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_simulation: Simulation | None = None


def _prepare(plan: SimulationPlan, threads: int) -> None:
    global _simulation
    begin_worker()
    scene.THREADS = threads
    _simulation = plan.simulation()


def _make(form: Callable[[Simulation, int], T], index: int) -> T:
    assert _simulation is not None
    return form(_simulation, index)


def encoded_frame(simulation: Simulation, index: int) -> Encoded:
    """All messages of one frame, encoded."""
    observation = simulation.observe(index)
    types = _types()
    stamp_ns = simulation.stamp_ns(index)
    listed = itertools.chain(
        _still_messages(simulation, types) if index == 0 else (),
        _odometry_messages(simulation, index, types),
        (
            (t, n, stamp_ns, m)
            for t, n, m in frame_messages(observation.frame, simulation.rig, types)
        ),
        ((t, n, stamp_ns, m) for t, n, m in truth_messages(observation, simulation.rig, types)),
    )
    return [
        (topic, name, ns, bytes(types.store.serialize_cdr(message, name)))
        for topic, name, ns, message in listed
    ]


@cache
def _types() -> RosbagsTypes:
    """The message classes, read once: that takes longer than a frame."""
    return RosbagsTypes()


def _still_messages(
    simulation: Simulation, types: RosbagsTypes
) -> Iterator[tuple[str, str, int, Any]]:
    """/tf_static of all sensors, dead ones too, and what the class numbers mean."""
    rig, stamp_ns = simulation.rig, simulation.stamp_ns(0)
    transforms = []
    for sensor in rig.sensors.values():
        pose = sensor.base_from_sensor()
        assert pose is not None
        transforms.append(
            encoders.transform_to_message(types, pose, rig.base_frame, sensor.frame_id, stamp_ns)
        )
    name = "tf2_msgs/msg/TFMessage"
    yield TF_STATIC, name, stamp_ns, types.new(name, transforms=transforms)
    names = types.new("std_msgs/msg/String", data=",".join(SEMANTIC_NAMES))
    yield f"{TRUTH}/classes", "std_msgs/msg/String", stamp_ns, names


def _odometry_messages(
    simulation: Simulation, index: int, types: RosbagsTypes
) -> Iterator[tuple[str, str, int, Any]]:
    """/tf from half a frame before to half a frame after, and the odometry of the frame."""
    rig = simulation.rig
    stamp_ns = simulation.stamp_ns(index)
    step = round(1e9 / simulation.rate_hz / POSES_A_FRAME)
    first = 1 if index == 0 else 0
    last = 1 if index == len(simulation) - 1 else 0
    name = "tf2_msgs/msg/TFMessage"
    for k in range(-(POSES_A_FRAME // 2) - first, POSES_A_FRAME // 2 + 1 + last):
        ns = stamp_ns + k * step
        pose = simulation.odometry(ns)
        moved = encoders.transform_to_message(types, pose, rig.odom_frame, rig.base_frame, ns)
        yield "/tf", name, ns, types.new(name, transforms=[moved])
    topic = _odometry_topic(rig)
    yield topic, "nav_msgs/msg/Odometry", stamp_ns, odometry_message(simulation, stamp_ns, types)


def _odometry_topic(rig: Rig) -> str:
    return rig.odometry_topic or DEFAULT_ODOMETRY


def shard_arrays(simulation: Simulation, index: int) -> dict[str, np.ndarray]:
    """One frame as arrays, named sensor.what; truth begins with "truth."."""
    observation = simulation.observe(index)
    frame, truth = observation.frame, observation.truth
    arrays: dict[str, np.ndarray] = {
        "stamp_ns": np.array(frame.stamp_ns),
        "truth.odom_from_base": truth.odom_from_base,
        "truth.boxes": truth.boxes.boxes,
        "truth.labels": truth.boxes.labels.astype(np.uint8),
        "truth.visibility": truth.visibility,
        "truth.free": truth.occupancy.free.astype(np.bool_),
        "truth.occupied": truth.occupancy.occupied.astype(np.bool_),
        "truth.semantic_grid": truth.semantic_grid,
    }
    for part in ("velocities", "track_ids", "num_points"):
        arrays[f"truth.{part}"] = getattr(truth.boxes, part)
    for name, sweep in simulation[index].lidars.items():
        arrays[f"{name}.points"] = sweep.points.astype(np.float32)
        arrays[f"truth.{name}.semantics"] = truth.points[name].semantics
        arrays[f"truth.{name}.instances"] = truth.points[name].instances
    for images in (frame.cameras, frame.thermals):
        for name, image in images.items():
            arrays[f"{name}.pixels"] = image.pixels
            view = truth.views[name]
            arrays[f"truth.{name}.semantics"] = view.semantics
            arrays[f"truth.{name}.instances"] = view.instances
            arrays[f"truth.{name}.depth"] = view.depth.astype(np.float16)
    names = list(simulation.rig.of(Modality.ULTRASONIC))
    if names:
        said = [frame.ultrasonics[n].range_m if n in frame.ultrasonics else np.nan for n in names]
        arrays["ultrasonics"] = np.array(said, np.float32)
    return arrays
