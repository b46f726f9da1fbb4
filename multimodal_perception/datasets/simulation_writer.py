"""Writes simulated drives to disk: as rosbag2 (MCAP) with ground truth, or as shards for training.

Frames are simulated by worker processes and written in order, so that the output does not depend on the
number of workers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from multimodal_perception.datasets.bag_append import (
    SIMULATION_DIGEST_KEY,
    append_bag,
    count_frames,
)
from multimodal_perception.datasets.bag_writer import RosbagsTypes, TopicWriter
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.ground_truth_messages import odometry_message, truth_messages
from multimodal_perception.extras import import_package
from multimodal_perception.files import FileError, atomic_write
from multimodal_perception.frame import Modality
from multimodal_perception.messages import encoders
from multimodal_perception.messages.frame_messages import TF_STATIC, TRUTH, frame_messages
from multimodal_perception.npz_reader import read_npz
from multimodal_perception.processes import WorkerPool, initialise_worker
from multimodal_perception.rig import Rig, dump_rig
from multimodal_perception.simulation.profile import Profile
from multimodal_perception.simulation.sensors.conditions import Fault
from multimodal_perception.simulation.simulation import Simulation, SimulationError
from multimodal_perception.simulation.world import scene
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES
from multimodal_perception.simulation.world.scenarios import Scenario

if TYPE_CHECKING:
    from rosbags.rosbag2 import Writer

T = TypeVar("T")
DEFAULT_ODOMETRY = "/odom"
SHARD_RECORD = "dataset.json"
# Folder inside a bag in which its next file is written.
PARTIAL_BAG = ".part"
# A killed run loses at most the frames of one file.
FRAMES_PER_FILE = 50
# Disk space that is kept free, so that a bag can be closed with its last chunk and its index.
RESERVE_BYTES = 16 << 20
# Poses on /tf per frame, enough to deskew a sweep by interpolation.
POSES_PER_FRAME = 5
Encoded = list[tuple[str, str, int, bytes]]  # topic, type, recording time in ns, CDR data


@dataclass(frozen=True)
class SimulationPlan:
    """Arguments of a Simulation, which can be sent to worker processes."""

    scenario: Scenario
    rig: Rig
    seed: int = 0
    frames: int = 100
    conditions: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = field(default=())
    profile: Profile = "basic"
    sensor_rates: bool = False

    def simulation(self) -> Simulation:
        """Create the simulation. Raises SimulationError."""
        return Simulation(
            self.scenario,
            self.rig,
            self.seed,
            self.frames,
            self.conditions,
            self.faults,
            profile=self.profile,
            sensor_rates=self.sensor_rates,
        )


def describe_plan(plan: SimulationPlan) -> dict[str, Any]:
    """Everything that defines the content of a bag or shard folder, except the number of frames."""
    return {
        "scenario": plan.scenario.name,
        "rig": plan.rig.name,
        "seed": plan.seed,
        "profile": plan.profile,
        "conditions": list(plan.conditions),
        "faults": [repr(f) for f in plan.faults],
        "classes": list(SEMANTIC_NAMES),
        "definition": repr(plan.scenario),
        "sensors": dump_rig(plan.rig),
        **({"sensor_rates": True} if plan.sensor_rates else {}),
    }


def write_simulation(
    plan: SimulationPlan,
    out: Path,
    workers: int = 1,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> int:
    """Write a bag folder or resume an interrupted one; returns the number of frames in it.

    The bag has a file for every FRAMES_PER_FILE frames. If it is interrupted (KeyboardInterrupt, which
    is passed on) or the disk is full, the bag is valid up to there, and the same call resumes it in
    another file of the same folder. A killed run (SIGKILL, loss of power) loses the frames of the last
    file only. Raises DatasetError if `out` contains anything else or cannot be written.
    """
    plan.simulation()  # raises errors before anything is written
    # A digest rather than the text, because YAML libraries wrap long lines differently.
    digest = hashlib.sha256(json.dumps(describe_plan(plan)).encode()).hexdigest()
    count = 0
    if out.exists() and not _is_unfinished(out):
        count = count_frames(out, digest, _odometry_topic(plan.rig))
    if count >= plan.frames:
        return count
    try:
        out.mkdir(parents=True, exist_ok=True)
        indices = range(count, plan.frames)
        with closing(generate_frames(plan, encode_frame, indices, workers)) as frames:
            encoded = zip(progress(indices), frames, strict=True)
            while count < plan.frames:
                end = min(count - count % FRAMES_PER_FILE + FRAMES_PER_FILE, plan.frames)
                count = _write_part(out, digest, encoded, count, end)
        return count
    except OSError as error:
        raise DatasetError(f"{out}: {error.strerror or error}") from error


def _is_unfinished(out: Path) -> bool:
    """Whether a folder contains only what a run leaves that was killed in its first file."""
    return out.is_dir() and {f.name for f in out.iterdir()} <= {PARTIAL_BAG}


def _write_part(
    out: Path, digest: str, encoded: Iterator[tuple[int, Encoded]], count: int, end: int
) -> int:
    """Write the frames `count` to `end` as another file of the bag; returns the number of frames in it.

    If it is interrupted, the frames up to there become a file of the bag.
    """
    part = out / PARTIAL_BAG
    shutil.rmtree(part, ignore_errors=True)
    interruption: BaseException | None = None
    rosbag2 = import_package("rosbags.rosbag2")
    with rosbag2.Writer(part, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        writer.set_custom_data(SIMULATION_DIGEST_KEY, digest)
        try:
            for number in _write_frames(writer, itertools.islice(encoded, end - count), count):
                count = number
        except BaseException as error:  # raised again once the writer has closed the bag
            interruption = error
    append_bag(out, part)
    if interruption is not None:
        raise interruption
    return count


def _write_frames(
    writer: Writer, encoded: Iterable[tuple[int, Encoded]], count: int
) -> Iterator[int]:
    """Write frames to the bag; yields the number of frames after each one. count: frames before."""
    topics = TopicWriter(writer, _types().store, (TF_STATIC, f"{TRUTH}/classes"))
    for _, messages in encoded:
        required_bytes = RESERVE_BYTES + sum(len(data) for *_, data in messages)
        if shutil.disk_usage(writer.path).free < required_bytes:
            raise DatasetError(
                f"{writer.path.parent}: the disk is full; the bag contains {count} frames"
            )
        for message in messages:
            topics.write(*message)
        count += 1
        yield count


def write_shards(
    plan: SimulationPlan,
    out: Path,
    workers: int = 1,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> int:
    """Write one compressed .npz file per frame, rig.yaml and dataset.json.

    Existing frames are kept, so that an interrupted run can be resumed. Returns the number of frames
    written by this call. Raises DatasetError if the folder contains another simulation or cannot be
    written.
    """
    plan.simulation()
    description = describe_plan(plan)
    try:
        out.mkdir(parents=True, exist_ok=True)
        record = out / SHARD_RECORD
        if record.exists():
            _check_record(record, description)
        elif any(out.iterdir()):
            raise DatasetError(f"{out}: not empty, and not a folder of simulated shards")
        record.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        (out / "rig.yaml").write_text(dump_rig(plan.rig), encoding="utf-8")
        missing = [i for i in range(plan.frames) if not shard_path(out, i).exists()]
        with closing(generate_frames(plan, shard_arrays, missing, workers)) as frames:
            for index, arrays in zip(progress(missing), frames, strict=True):
                with atomic_write(shard_path(out, index)) as file:
                    np.savez_compressed(file, allow_pickle=False, **arrays)
    except (OSError, json.JSONDecodeError) as error:
        raise DatasetError(f"{out}: {error}") from error
    return len(missing)


def _check_record(record: Path, description: dict[str, Any]) -> None:
    """Raise DatasetError if a folder of shards belongs to another simulation."""
    if json.loads(record.read_text(encoding="utf-8")) != description:
        raise DatasetError(f"{record.parent}: contains another simulation")


def shard_path(folder: Path, index: int) -> Path:
    """Path of one frame in a shard folder."""
    return folder / f"{index:06d}.npz"


def read_shard(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of one frame by name. Raises DatasetError."""
    try:
        return read_npz(path)
    except FileError as error:
        raise DatasetError(str(error)) from error


def generate_frames(
    plan: SimulationPlan,
    convert: Callable[[Simulation, int], T],
    indices: Iterable[int],
    workers: int,
) -> Generator[T, None, None]:
    """Yield convert(simulation, i) of each index in order, computed by worker processes.

    With one worker they are computed in this process.
    """
    if workers <= 1:
        simulation = plan.simulation()
        return (convert(simulation, i) for i in indices)
    return _generate_in_processes(plan, convert, iter(indices), workers)


def _generate_in_processes(
    plan: SimulationPlan,
    convert: Callable[[Simulation, int], T],
    indices: Iterator[int],
    workers: int,
) -> Generator[T, None, None]:
    """generate_frames with worker processes."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    pending: deque[Future[T]] = deque()
    try:
        with WorkerPool(workers, _initialise_worker, (plan, threads)) as pool:
            # A few frames ahead keep all workers busy with little memory.
            for index in itertools.islice(indices, workers + 1):
                pending.append(pool.submit(_convert_frame, convert, index))
            while pending:
                result = pending.popleft().result()
                for index in itertools.islice(indices, 1):
                    pending.append(pool.submit(_convert_frame, convert, index))
                yield result
    except BrokenProcessPool as error:
        raise SimulationError(
            "a worker process was terminated (out of memory?): use fewer --workers"
        ) from error


_simulation: Simulation | None = None


def _initialise_worker(plan: SimulationPlan, threads: int) -> None:
    global _simulation
    initialise_worker()
    scene.RAYCAST_THREADS = threads
    _simulation = plan.simulation()


def _convert_frame(convert: Callable[[Simulation, int], T], index: int) -> T:
    assert _simulation is not None
    return convert(_simulation, index)


def encode_frame(simulation: Simulation, index: int) -> Encoded:
    """All messages of one frame, serialized to CDR."""
    observation = simulation.observe(index)
    types = _types()
    stamp_ns = simulation.stamp_ns(index)
    # A reading is recorded at the time of the frame, or at its own time if that is later.
    late_ns = {
        simulation.rig.sensors[n].topic: max(observation.frame.readings[n].stamp_ns, stamp_ns)
        for n in observation.frame.reference_from_base
    }
    messages = itertools.chain(
        _static_messages(simulation, types) if index == 0 else (),
        _odometry_messages(simulation, index, types),
        (
            (t, n, late_ns.get(t, stamp_ns), m)
            for t, n, m in frame_messages(observation.frame, simulation.rig, types)
        ),
        ((t, n, stamp_ns, m) for t, n, m in truth_messages(observation, simulation.rig, types)),
    )
    return [
        (topic, name, ns, bytes(types.store.serialize_cdr(message, name)))
        for topic, name, ns, message in messages
    ]


@cache
def _types() -> RosbagsTypes:
    """The message classes; loading them takes longer than simulating a frame."""
    return RosbagsTypes()


def _static_messages(
    simulation: Simulation, types: RosbagsTypes
) -> Iterator[tuple[str, str, int, Any]]:
    """/tf_static of all sensors, including those with an outage, and the names of the classes."""
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
    """/tf from half a frame before to half a frame after the stamp, and the frame's odometry."""
    rig = simulation.rig
    stamp_ns = simulation.stamp_ns(index)
    step = round(1e9 / simulation.rate_hz / POSES_PER_FRAME)
    first = 1 if index == 0 else 0
    last = 1 if index == len(simulation) - 1 else 0
    name = "tf2_msgs/msg/TFMessage"
    for k in range(-(POSES_PER_FRAME // 2) - first, POSES_PER_FRAME // 2 + 1 + last):
        ns = stamp_ns + k * step
        pose = simulation.odometry(ns)
        moved = encoders.transform_to_message(types, pose, rig.odom_frame, rig.base_frame, ns)
        yield "/tf", name, ns, types.new(name, transforms=[moved])
    topic = _odometry_topic(rig)
    yield topic, "nav_msgs/msg/Odometry", stamp_ns, odometry_message(simulation, stamp_ns, types)


def _odometry_topic(rig: Rig) -> str:
    return rig.odometry_topic or DEFAULT_ODOMETRY


def shard_arrays(simulation: Simulation, index: int) -> dict[str, np.ndarray]:
    """One frame as arrays named "SENSOR.CONTENT"; names of ground truth start with "truth."."""
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
    names = list(simulation.rig.sensors_of(Modality.ULTRASONIC))
    if names:
        ranges = [frame.ultrasonics[n].range_m if n in frame.ultrasonics else np.nan for n in names]
        arrays["ultrasonics"] = np.array(ranges, np.float32)
    # Of sensors that measured at another time than the frame's.
    for name, motion in frame.reference_from_base.items():
        arrays[f"{name}.stamp_ns"] = np.array(frame.readings[name].stamp_ns)
        arrays[f"{name}.reference_from_base"] = motion
    return arrays
